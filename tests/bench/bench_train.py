"""What training costs on a device, beside transformers' VideoMAE in the same run: python tests/bench/bench_train.py.

Two kinds of work: `fine-tune`, whole steps of the training loop (copy to the device, augmentation, fusion, forward,
backward, clipping, AdamW), and `features`, what a frozen encoder does. Both models are given the same videos by the
same code, so that only the encoders differ. MFU is the share of the rate at which the device multiplies large matrices,
measured in the same run; recomputed passes do not count as work. After them the input alone: from stored clips on the
device to the encoder's input, with the augmentation of some recipes and without any.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from manifests.files import atomic_write
from manifests.schema import COLUMNS, FRAMES
from train import cost
from train.checkpoint import Checkpoints
from train.classification import Classification, autocast
from train.config import ConfigError, TrainConfig, device_for
from train.data.batches import PairBatch
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.transforms import ClipTransform, NormalizationStats
from train.distributed import Ranks
from train.fusion import STRATEGIES, strategy_named
from train.metric_logger import MetricLogger
from train.models.videomae import ENCODERS, Classifier, EncoderConfig
from train.optim import make_optimizer
from train.recipes import RECIPES, Recipe
from train.trainer import Trainer

CLASSES = 6
ROWS = 13
MODELS = ("ours", "transformers")
#: Passes' worth of work a clip.
PASSES = {"fine-tune": cost.TRAINING_PASSES, "features": 1}
#: Clips a second to be reached with ViT-L on one H200 (its roofline: 130 and 440).
AIMS = {"fine-tune": 110, "features": 380}
_WARM_UP = 3
_LEAST_STEPS = 3
_INPUT_ROUNDS = 3


#: Recipes whose augmentation is measured; "" for none.
AUGMENTED = ("", "finetune", "finetune-hicmae")


@dataclass(frozen=True, kw_only=True)
class Way:
    """One thing that is measured."""

    work: str
    """A key of `PASSES`."""
    model: str
    """One of `MODELS`."""
    compiled: bool
    batch: int
    """Clips a step."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured of a way."""

    way: Way
    clips_per_second: float | None
    """None where the device's memory does not hold the batch."""
    mfu: float | None
    """Share of the device's rate."""
    memory_gb: float | None
    """Most that was held at once; None on a CPU."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; exit status 2 if nothing can be measured."""
    asked = _parser().parse_args(arguments)
    try:
        device = device_for(asked.device)
        models = available_models(asked.models)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    encoder = ENCODERS[asked.encoder or ("large" if device.type == "cuda" else "tiny")]
    rate = cost.measure_flops(device)
    sys.stdout.write(_heading(device, encoder, rate))
    figures = []
    ways = itertools.product(asked.work, asked.batch, asked.compile, models)
    for work, batch, compiled, model in ways:
        way = Way(work=work, model=model, compiled=compiled == "on", batch=batch)
        figures.append(measured(way, encoder, asked.strategy, device, rate, asked.seconds))
        sys.stdout.write(_line(figures[-1]))
        sys.stdout.flush()
    sys.stdout.write(summary(figures))
    inputs = input_rates(encoder, asked.strategy, device, asked.batch[0], asked.seconds)
    for name, found in inputs.items():
        sys.stdout.write(f"input of {asked.batch[0]} clips, {name or 'no'} augmentation: {found:.1f} clips/s\n")
    if asked.json:
        record = {"device": device_name(device), "rate": rate, "torch": torch.__version__, "encoder": asdict(encoder)}
        record |= {"figures": [asdict(figure) for figure in figures], "input": inputs}
        atomic_write(asked.json, (json.dumps(record, indent=1) + "\n").encode())
    return 0


def measured(
    way: Way, encoder: EncoderConfig, strategy: str, device: torch.device, rate: float, seconds: float
) -> Figure:
    """Repeat a way's step for some seconds, after a few to warm up, in memory that nothing else holds."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        clips_per_second = way.batch / step_seconds(_step(way, encoder, strategy, device), device, seconds)
    except torch.OutOfMemoryError:
        clips_per_second = None
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    work = PASSES[way.work] * cost.forward_flop(encoder)
    mfu = clips_per_second * work / rate if clips_per_second else None
    return Figure(way=way, clips_per_second=clips_per_second, mfu=mfu, memory_gb=memory)


def input_rates(
    encoder: EncoderConfig, strategy: str, device: torch.device, batch: int, seconds: float
) -> dict[str, float]:
    """Clips a second of input preparation, by name of the recipe whose augmentation is used, of `AUGMENTED`.

    They alternate, and the best round of each counts.
    """
    rates = dict.fromkeys(AUGMENTED, 0.0)
    given = make_batch(batch, make_transform(encoder, strategy, None), pin=False).to(device)
    for _, name in itertools.product(range(_INPUT_ROUNDS), AUGMENTED):
        transform = make_transform(encoder, strategy, RECIPES[name] if name else None)
        step = partial(_prepare, transform, given, itertools.count())
        rates[name] = max(rates[name], batch / step_seconds(step, device, seconds / _INPUT_ROUNDS))
    return rates


def _prepare(transform: ClipTransform, batch: PairBatch, epochs: Iterator[int]) -> object:
    return transform.training_input(batch, next(epochs))


def summary(figures: Sequence[Figure]) -> str:
    """For each kind of work the best of ours, beside the best of transformers and what is aimed at."""
    lines = []
    for work in PASSES:
        best = {model: max(_rates(figures, work, model), default=None) for model in MODELS}
        if best["ours"] is None:
            continue
        beside = f", {best['ours'] / best['transformers']:.2f} x transformers" if best["transformers"] else ""
        lines.append(f"best {work}: {best['ours']:.1f} clips/s{beside} (aim for ViT-L on one H200: {AIMS[work]})\n")
    return "".join(lines)


def _rates(figures: Sequence[Figure], work: str, model: str) -> Iterator[float]:
    return (
        figure.clips_per_second
        for figure in figures
        if figure.clips_per_second and (figure.way.work, figure.way.model) == (work, model)
    )


def step_seconds(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Mean time of a step. Steps are not waited for one by one: that is how training runs, too."""
    for _ in range(_WARM_UP):
        step()
    one = _timed(step, device, 1)
    steps = max(_LEAST_STEPS, math.ceil(seconds / one))
    return _timed(step, device, steps) / steps


def _timed(step: Callable[[], object], device: torch.device, steps: int) -> float:
    cost.synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    cost.synchronize(device)
    return time.perf_counter() - began


def _step(way: Way, encoder: EncoderConfig, strategy: str, device: torch.device) -> Callable[[], object]:
    """What is repeated: a step of the training loop, or the features of a batch."""
    recipe = RECIPES["finetune"].with_batch(way.batch)
    model = make_model(way.model, encoder, recipe).to(device)
    transform = make_transform(encoder, strategy, recipe)
    batch = make_batch(way.batch, transform, pin=device.type == "cuda")
    if way.work == "features":
        model.eval()
        features = torch.compile(model.features) if way.compiled else model.features
        return lambda: _compute_features(features, batch, transform, device)
    loader = cast(Loader, OneBatch(sampler=ClipSampler(clips=way.batch, batch_size=way.batch, shuffle=False)))
    trainer = Trainer(
        model=model,
        compiled_model=torch.compile(model) if way.compiled else model,
        optimizer=make_optimizer(model, encoder.depth, recipe),
        config=TrainConfig(shards="", strategy=strategy, fold="1", encoder="tiny", recipe=recipe),
        train_loader=loader,
        val_loader=loader,
        objective=Classification(
            transform=transform, recipe=recipe, seed=0, noise_per_clip=getattr(model, "noise_per_clip", 0)
        ),
        ranks=Ranks(device=device),
        checkpoints=Checkpoints(folder=Path()),
        logger=MetricLogger(None, sys.stderr.write),
    )
    model.train()
    return lambda: trainer.train_step(1, 0, batch)


@torch.inference_mode()
def _compute_features(
    features: Callable[[Tensor], Tensor], batch: PairBatch, transform: ClipTransform, device: torch.device
) -> Tensor:
    inputs, _ = transform.evaluation_input(batch.to(device))
    with autocast(device):
        return features(inputs)


class _Reference(nn.Module):
    """transformers' VideoMAE under a head like ours."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        import transformers  # a reference only

        settings = transformers.VideoMAEConfig(
            image_size=list(config.input[1:]),
            patch_size=list(config.patch[1:]),
            tubelet_size=config.patch[0],
            num_frames=config.input[0],
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp,
            layer_norm_eps=config.layer_norm_eps,
            use_mean_pooling=True,
            attn_implementation="sdpa",
        )
        self.encoder = transformers.VideoMAEModel(settings)
        self.fc_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.width, CLASSES)

    def features(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> [B, D]."""
        return cast(Tensor, self.encoder(video.transpose(1, 2)).last_hidden_state.mean(1, dtype=torch.float32))

    @property
    def noise_per_clip(self) -> int:
        """None is used: transformers' encoder has no stochastic depth."""
        return 0

    def forward(self, video: Tensor, noise: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> logits [B, C]."""
        del noise
        return cast(Tensor, self.head(self.fc_norm(self.features(video))))


def make_model(name: str, encoder: EncoderConfig, recipe: Recipe) -> Any:
    """One of `MODELS`."""
    if name == "transformers":
        return _Reference(encoder)
    return Classifier(encoder, CLASSES, drop_rate=recipe.drop_path)


@dataclass(frozen=True, kw_only=True)
class OneBatch:
    """In place of a loader: what loading costs is measured by another bench."""

    sampler: ClipSampler


def make_transform(encoder: EncoderConfig, strategy: str, recipe: Recipe | None) -> ClipTransform:
    rows = ROWS if strategy_named(strategy).windows else 0
    return ClipTransform(
        strategy=strategy_named(strategy),
        classes=CLASSES,
        normalization=NormalizationStats(mean=(0.0,) * rows, std=(20.0,) * rows),
        input_range=encoder.input_range,
        input_size=encoder.input,
        augmentation=recipe.augmentation if recipe else None,
    )


def make_batch(clips: int, transform: ClipTransform, *, pin: bool) -> PairBatch:
    """Random pixels and spectrograms in the shapes in which shards are decoded for a transform."""
    random, windows, side = np.random.default_rng(0), transform.strategy.windows, transform.face_px
    width = FRAMES * side if transform.strategy.faces else 0
    filmstrips = torch.from_numpy(random.integers(0, 256, (clips, side, width, 3), dtype=np.uint8))
    shape = (clips, windows, ROWS if windows else 0, COLUMNS if windows else 0)
    spectrograms = torch.from_numpy(random.normal(0, 20, shape).astype(np.float16))
    labels = torch.from_numpy(random.integers(0, CLASSES, clips))
    if pin:
        filmstrips, spectrograms, labels = filmstrips.pin_memory(), spectrograms.pin_memory(), labels.pin_memory()
    return PairBatch(
        keys=tuple(f"clip{number}" for number in range(clips)),
        speakers=("nobody",) * clips,
        filmstrips=filmstrips,
        spectrograms=spectrograms,
        labels=labels,
    )


def available_models(wanted: Sequence[str]) -> Sequence[str]:
    """Those asked for, without transformers where it is absent and was not asked for by name."""
    here = importlib.util.find_spec("transformers") is not None
    if wanted and "transformers" in wanted and not here:
        raise ConfigError("transformers: not installed; pip install '.[test]', or --models ours")
    return wanted or [model for model in MODELS if here or model == "ours"]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def _heading(device: torch.device, encoder: EncoderConfig, rate: float) -> str:
    kind = "bfloat16" if device.type == "cuda" else "float32"
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return (
        f"{device_name(device)}{threads}, torch {torch.__version__}, {kind}: multiplies matrices at "
        f"{rate / 1e12:.3g} TFLOP/s; {cost.forward_flop(encoder) / 1e12:.3g} TFLOP a clip forward\n"
        f"{'work':<10} {'model':<13} {'compile':<8}{'batch':>5} {'clips/s':>9} {'MFU':>6} {'GB':>6}\n"
    )


def _line(figure: Figure) -> str:
    way = figure.way
    start = f"{way.work:<10} {way.model:<13} {'on' if way.compiled else 'off':<8}{way.batch:>5} "
    if figure.clips_per_second is None or figure.mfu is None:
        return f"{start}out of memory\n"
    memory = f"{figure.memory_gb:6.1f}" if figure.memory_gb is not None else f"{'-':>6}"
    return f"{start}{figure.clips_per_second:9.1f} {figure.mfu:6.2f} {memory}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_train.py", description=__doc__)
    parser.add_argument("--encoder", choices=ENCODERS, help="large; on a CPU tiny")
    parser.add_argument("--strategy", default="cfas", choices=[*STRATEGIES], metavar="NAME")
    parser.add_argument("--work", nargs="+", choices=[*PASSES], default=[*PASSES])
    parser.add_argument("--models", nargs="+", choices=MODELS, help="both, where transformers is installed")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 64, 128], metavar="N", help="clips a step")
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure each way")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
