"""What training costs on a device, beside transformers' VideoMAE in the same run: python -m tests.bench.bench_train.

Two kinds of work: `fine-tune`, whole steps of the training loop (copy to the device, augmentation, fusion, forward,
backward, clipping, AdamW), and `features`, what a frozen encoder does. Both models are given the same videos by the
same code, so that only the encoders differ. MFU is the share of the rate at which the device multiplies large matrices,
measured in the same run; recomputed passes do not count as work.
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
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from manifests.files import atomic_write
from train import cost
from train.checkpoint import Checkpoints
from train.config import ConfigError, device_for
from train.feeds import VideoFeed
from train.fusion import SIDE_PX, STEPS, STRATEGIES, strategy_named
from train.imaging import Imaging, Standardisation
from train.journal import Journal
from train.loader import Batch, Loader, Schedule
from train.loop import Training, autocast, take_step
from train.models.videomae import ENCODERS, Classifier, EncoderConfig
from train.optim import make_optimizer
from train.ranks import Ranks
from train.recipes import RECIPES, Recipe

CLASSES = 6
ROWS = 13
MODELS = ("ours", "transformers")
#: Passes' worth of work a clip.
PASSES = {"fine-tune": cost.TRAINING_PASSES, "features": 1}
#: Clips a second to be reached with ViT-L on one H200 (its roofline: 130 and 440).
AIMS = {"fine-tune": 110, "features": 380}
_WARM_UP = 3
_LEAST_STEPS = 3


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
        models = _models(asked.models)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    encoder = ENCODERS[asked.encoder or ("large" if device.type == "cuda" else "tiny")]
    rate = cost.measured_rate(device)
    sys.stdout.write(_heading(device, encoder, rate))
    figures = []
    ways = itertools.product(asked.work, asked.batch, asked.compile, models)
    for work, batch, compiled, model in ways:
        way = Way(work=work, model=model, compiled=compiled == "on", batch=batch)
        figures.append(measured(way, encoder, asked.strategy, device, rate, asked.seconds))
        sys.stdout.write(_line(figures[-1]))
        sys.stdout.flush()
    sys.stdout.write(summary(figures))
    if asked.json:
        told = {"device": _device_name(device), "rate": rate, "torch": torch.__version__, "encoder": asdict(encoder)}
        atomic_write(
            asked.json, (json.dumps({**told, "figures": [asdict(f) for f in figures]}, indent=1) + "\n").encode()
        )
    return 0


def measured(
    way: Way, encoder: EncoderConfig, strategy: str, device: torch.device, rate: float, seconds: float
) -> Figure:
    """Repeat a way's step for some seconds, after a few to warm up, in memory that nothing else holds."""
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        clips_per_second = way.batch / _step_seconds(_step(way, encoder, strategy, device), device, seconds)
    except torch.OutOfMemoryError:
        clips_per_second = None
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    work = PASSES[way.work] * cost.forward_flop(encoder)
    mfu = clips_per_second * work / rate if clips_per_second else None
    return Figure(way=way, clips_per_second=clips_per_second, mfu=mfu, memory_gb=memory)


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


def _step_seconds(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Mean time of a step. Steps are not waited for one by one: that is how training runs, too."""
    for _ in range(_WARM_UP):
        step()
    one = _timed(step, device, 1)
    steps = max(_LEAST_STEPS, math.ceil(seconds / one))
    return _timed(step, device, steps) / steps


def _timed(step: Callable[[], object], device: torch.device, steps: int) -> float:
    cost.synchronise(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    cost.synchronise(device)
    return time.perf_counter() - began


def _step(way: Way, encoder: EncoderConfig, strategy: str, device: torch.device) -> Callable[[], object]:
    """What is repeated: a step of the loop, or the features of a batch."""
    recipe = RECIPES["finetune"].with_batch(way.batch)
    model = _model(way.model, encoder, recipe).to(device)
    feed = _feed(way, encoder, strategy, recipe, device)
    (pieces,) = feed.steps(0)
    if way.work == "features":
        model.eval()
        return _features_step(torch.compile(model.features) if way.compiled else model.features, feed, pieces[0])
    job = Training(
        model=model,
        optimizer=make_optimizer(model, encoder.depth, recipe),
        recipe=recipe,
        training=feed,
        validation=feed,
        ranks=Ranks(device=device),
        checkpoints=Checkpoints(folder=Path()),
        journal=Journal(None, sys.stderr.write),
        seed=0,
        save_steps=1,
        run=torch.compile(model) if way.compiled else model,
    )
    model.train()
    return lambda: take_step(job, 1, 0, pieces)


def _features_step(features: Callable[[Tensor], Tensor], feed: VideoFeed, piece: Batch) -> Callable[[], object]:
    @torch.inference_mode()
    def step() -> Tensor:
        inputs = feed.examples(piece, 0).inputs
        with autocast(feed.device):
            return features(inputs)

    return step


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

    def forward(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> logits [B, C]."""
        return cast(Tensor, self.head(self.fc_norm(self.features(video))))


def _model(name: str, encoder: EncoderConfig, recipe: Recipe) -> Any:
    if name == "transformers":
        return _Reference(encoder)
    return Classifier(encoder, CLASSES, drop_rate=recipe.drop_path)


@dataclass(frozen=True, kw_only=True)
class _OneBatch:
    """A loader of one batch that is decoded already: what a loader costs is another bench's question."""

    schedule: Schedule
    batch: Batch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batch."""
        del epoch, first
        yield self.batch


def _feed(way: Way, encoder: EncoderConfig, strategy: str, recipe: Recipe, device: torch.device) -> VideoFeed:
    chosen = strategy_named(strategy)
    batch = _batch(way.batch, chosen.faces, chosen.windows, pin=device.type == "cuda")
    schedule = Schedule(clips=way.batch, batch_size=way.batch, shuffle=False)
    rows = ROWS if chosen.windows else 0
    return VideoFeed(
        loader=cast(Loader, _OneBatch(schedule=schedule, batch=batch)),
        imaging=Imaging(
            strategy=chosen,
            classes=CLASSES,
            standardisation=Standardisation(mean=(0.0,) * rows, std=(20.0,) * rows),
            input_range=encoder.input_range,
            augmentation=recipe.augmentation,
        ),
        size=encoder.input,
        device=device,
        training=way.work == "fine-tune",
    )


def _batch(clips: int, faces: int, windows: int, *, pin: bool) -> Batch:
    """Random pixels and spectrograms in the shapes of shards."""
    random = np.random.default_rng(0)
    width = STEPS * SIDE_PX if faces else 0
    filmstrips = torch.from_numpy(random.integers(0, 256, (clips, SIDE_PX, width, 3), dtype=np.uint8))
    shape = (clips, windows, ROWS if windows else 0, SIDE_PX if windows else 0)
    spectrograms = torch.from_numpy(random.normal(0, 20, shape).astype(np.float16))
    labels = torch.from_numpy(random.integers(0, CLASSES, clips))
    if pin:
        filmstrips, spectrograms, labels = filmstrips.pin_memory(), spectrograms.pin_memory(), labels.pin_memory()
    return Batch(
        keys=tuple(f"clip{number}" for number in range(clips)),
        speakers=("nobody",) * clips,
        filmstrips=filmstrips,
        spectrograms=spectrograms,
        labels=labels,
    )


def _models(wanted: Sequence[str]) -> Sequence[str]:
    """Those asked for, without transformers where it is absent and was not asked for by name."""
    here = importlib.util.find_spec("transformers") is not None
    if wanted and "transformers" in wanted and not here:
        raise ConfigError("transformers: not installed; pip install '.[test]', or --models ours")
    return wanted or [model for model in MODELS if here or model == "ours"]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def _heading(device: torch.device, encoder: EncoderConfig, rate: float) -> str:
    kind = "bfloat16" if device.type == "cuda" else "float32"
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return (
        f"{_device_name(device)}{threads}, torch {torch.__version__}, {kind}: multiplies matrices at "
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
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_train", description=__doc__)
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
