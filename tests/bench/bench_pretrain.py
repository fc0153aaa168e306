"""What masked pre-training costs on a device, beside transformers' VideoMAE in the same run.

Whole steps of the training loop: copy to the device, augmentation, masks, targets, forward, backward, clipping, AdamW.
Both models are given the same videos and masks; each computes its own targets. Theirs decodes all hidden tokens, so
that the ratio of both is printed only for recipes with decoded = 1. MFU is the share of the rate at which the device
multiplies large matrices, measured in the same run. Then where the time of ours goes: input (augmentation, masks,
targets), the encoder's and the decoder's forward pass, the rest (backward, optimizer); and, with SHARDS=, how many
clips the loader decodes a second with one core, so how many cores keep up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tests.bench.bench_train import (
    MODELS,
    OneBatch,
    available_models,
    device_name,
    make_batch,
    make_transform,
    step_seconds,
)
from tests.bench.figures import Figure, save
from train import cost
from train.checkpoint import Checkpoints
from train.classification import autocast
from train.config import ConfigError, TrainConfig, device_for
from train.data.augment import ClipDraws
from train.data.batches import Batch
from train.data.clip_table import load_all_clips, members_for
from train.data.loader import Loader
from train.data.masks import TokenLayout
from train.data.sampler import ClipSampler
from train.data.shard_folder import open_folder
from train.data.windows import RandomWindows
from train.distributed import Ranks
from train.fusion import STRATEGIES, strategy_named
from train.metric_logger import MetricLogger
from train.models.mae import DecoderConfig, MaskedAutoencoder, decoder_for
from train.models.mae_weights import to_transformers
from train.models.videomae import ENCODERS, EncoderConfig
from train.optim import make_optimizer
from train.pretraining.reconstruction import Reconstruction
from train.recipes import RECIPES, Recipe, override
from train.trainer import Trainer

#: Clips a second to be reached with ViT-L on one H200: all hidden tokens decoded by 12 blocks, and half of them by 4.
AIMS = {"pretrain-videomae": 380, "pretrain-fused": 800}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    recipe: Recipe
    strategy: str
    device: torch.device
    batch: int
    compiled: bool

    @property
    def objective(self) -> Reconstruction:
        """Of our model."""
        recipe = replace(self.recipe, augmentation=replace(self.recipe.augmentation, window_share=(1.0, 1.0)))
        assert recipe.pretraining
        return Reconstruction(
            transform=replace(make_transform(self.encoder, self.strategy, recipe), classes=0),
            layout=TokenLayout.of(strategy_named(self.strategy), self.encoder),
            masks=recipe.pretraining,
            patch=self.encoder.patch,
            motion=recipe.pretraining.motion,
        )

    @property
    def flop(self) -> float:
        """Of a clip's training step."""
        objective = self.objective
        visible, decoded = objective.layout.sizes(objective.masks)
        return cost.TRAINING_PASSES * cost.pretraining_flop(self.encoder, self.decoder, visible, decoded)


class _Theirs(nn.Module):
    """transformers' model of the same shape; it decodes all hidden tokens."""

    def __init__(self, ours: MaskedAutoencoder) -> None:
        super().__init__()
        import transformers  # a reference only

        _, settings = to_transformers(ours)
        config = transformers.VideoMAEConfig(**{name: v for name, v in settings.items() if name != "architectures"})
        config._attn_implementation = "sdpa"
        self.model = transformers.VideoMAEForPreTraining(config)
        self.encoder = self.model.videomae

    def forward(self, video: Tensor, visible: Tensor) -> Tensor:
        """Video and visible tokens -> sum of the clips' losses, []."""
        hidden = torch.ones(len(video), self.model.position_embeddings.shape[1], dtype=torch.bool, device=video.device)
        hidden[torch.arange(len(video), device=video.device)[:, None], visible] = False
        return cast(Tensor, self.model(video.transpose(1, 2), bool_masked_pos=hidden).loss) * len(video)


@dataclass(kw_only=True, eq=False)
class _TheirObjective:
    """Input and masks as ours, then their forward pass with targets and loss."""

    ours: Reconstruction
    selects_epoch: bool = False

    def loss(self, model: Callable[..., Tensor], batch: Batch, epoch: int) -> Tensor:
        """Sum of the clips' losses."""
        inputs = self.ours.transform.training_input(batch, epoch).inputs
        masks = self.ours.layout.draw(self.ours.masks, ClipDraws(keys=batch.draw_keys, seed=0, epoch=epoch))
        with autocast(inputs.device):
            return model(inputs, masks.visible.to(inputs.device))


def step_of(name: str, setting: Setting) -> Callable[[], object]:
    """A step of the training loop of one of `MODELS`."""
    ours = MaskedAutoencoder(setting.encoder, setting.decoder)
    model: nn.Module = (ours if name == "ours" else _Theirs(ours)).to(setting.device)
    objective: Any = setting.objective if name == "ours" else _TheirObjective(ours=setting.objective)
    sampler = ClipSampler(clips=setting.batch, batch_size=setting.batch, shuffle=False)
    trainer = Trainer(
        model=model,
        compiled_model=torch.compile(model) if setting.compiled else model,
        optimizer=make_optimizer(model, setting.encoder.depth, setting.recipe),
        config=TrainConfig(
            shards="",
            strategy=setting.strategy,
            fold="1",
            encoder="tiny",
            recipe=override(setting.recipe, ["epochs=9"]),  # also of one in steps, or with a longer warm-up
        ),
        train_loader=cast(Loader, OneBatch(sampler=sampler)),
        val_loader=None,
        objective=objective,
        ranks=Ranks(device=setting.device),
        checkpoints=Checkpoints(folder=Path()),
        logger=MetricLogger(None, sys.stderr.write),
    )
    batch = make_batch(setting.batch, setting.objective.transform, pin=setting.device.type == "cuda")
    model.train()
    return lambda: trainer.train_step(1, 0, batch)


def split_of(setting: Setting, whole_seconds: float, seconds: float) -> dict[str, float]:
    """Seconds of a step of ours: input, encoder and decoder forward, and the rest of the whole step."""
    objective = setting.objective
    model = MaskedAutoencoder(setting.encoder, setting.decoder).to(setting.device)
    batch = make_batch(setting.batch, objective.transform, pin=False).to(setting.device)
    clips = objective.masked(batch, 1, training=True)
    encode = torch.compile(model.encoder) if setting.compiled else model.encoder

    def forward(call: Callable[[], object]) -> object:
        with autocast(setting.device):
            return call()

    given = (clips.inputs, clips.masks.visible, clips.masks.decoded)
    both = torch.compile(model) if setting.compiled else model
    measure = partial(step_seconds, device=setting.device, seconds=seconds)
    prepared = measure(lambda: objective.masked(batch, 1, training=True))
    encoded = measure(lambda: forward(lambda: encode(given[0], visible=given[1])))
    whole = measure(lambda: forward(lambda: both(*given)))
    parts = {"input": prepared, "encoder": encoded, "decoder": max(whole - encoded, 0.0)}
    return parts | {"backward and optimizer": max(whole_seconds - prepared - whole, 0.0)}


def loader_rate(shards: str, setting: Setting) -> float:
    """Clips a second that one thread decodes from shards."""
    folder, strategy = open_folder(shards), strategy_named(setting.strategy)
    clips, _ = load_all_clips(folder, members_for(folder.index, strategy, folder.index.features[0]))
    sampler = ClipSampler(clips=len(clips), batch_size=min(setting.batch, len(clips)))
    windows = RandomWindows(longest_seconds=setting.recipe.window_seconds, share=(0.75, 1.0))
    loader = Loader(clips, sampler, face_px=setting.objective.transform.face_px, windows=windows, workers=0)
    epochs = iter(range(1, 1 << 30))

    def one_epoch() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    return len(clips) / step_seconds(one_epoch, torch.device("cpu"), 2.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 2 if nothing can be measured."""
    asked = _parser().parse_args(arguments)
    try:
        device, models = device_for(asked.device), available_models(asked.models)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    large = device.type == "cuda"
    encoder = ENCODERS[asked.encoder or ("large" if large else "tiny")]
    recipe = RECIPES[asked.recipe or ("pretrain-videomae" if large else "pretrain-tiny")]
    assert recipe.pretraining
    setting = Setting(
        encoder=encoder,
        decoder=decoder_for(encoder, recipe.pretraining.decoder_depth),
        recipe=recipe,
        strategy=asked.strategy,
        device=device,
        batch=asked.batch or (128 if large else 16),
        compiled=large,
    )
    rate = cost.measure_flops(device)
    best = dict.fromkeys(models, 0.0)
    for _ in range(asked.rounds):
        for name in models:
            torch.compiler.reset()
            seconds = step_seconds(step_of(name, setting), device, asked.seconds)
            best[name] = max(best[name], setting.batch / seconds)
    figures = [Figure(name=f"pre-train, {name}", value=found, unit="clips / s") for name, found in best.items()]
    if len(best) == len(MODELS) and recipe.pretraining.decoded == 1:
        ratio = best["ours"] / best["transformers"]
        figures.append(Figure(name="pre-train, ours / transformers", value=ratio, unit="", least=1.0))
    figures.append(Figure(name="pre-train, MFU", value=best["ours"] * setting.flop / rate, unit=""))
    parts = split_of(setting, setting.batch / best["ours"], asked.seconds)
    whole = sum(parts.values())
    figures += [
        Figure(name=f"pre-train, share of {name}", value=seconds / whole, unit="") for name, seconds in parts.items()
    ]
    if asked.shards:
        decoded = loader_rate(asked.shards, setting)
        figures += [
            Figure(name="pre-train, loader", value=decoded, unit="clips / CPU s"),
            Figure(name="pre-train, cores that keep up", value=best["ours"] / decoded, unit="cores"),
        ]
    sys.stdout.write(f"{device_name(device)}, torch {torch.__version__}, {recipe.name}, {asked.strategy}, ")
    sys.stdout.write(f"batch {setting.batch}: {setting.flop / 1e12:.3g} TFLOP a clip\n")
    for figure in figures:
        sys.stdout.write(f"{figure.name:<42} {figure.value:10.4g} {figure.unit:<14} {figure.aim}\n")
    if device.type == "cuda" and recipe.name in AIMS:
        sys.stdout.write(f"aim for ViT-L on one H200: {AIMS[recipe.name]} clips/s\n")
    if asked.json:
        save(figures, asked.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench_pretrain.py", description=__doc__)
    parser.add_argument("--encoder", choices=ENCODERS, help="large; on a CPU tiny")
    pretraining = [name for name, recipe in RECIPES.items() if recipe.pretraining]
    parser.add_argument("--recipe", choices=pretraining, help="pretrain-videomae; on a CPU pretrain-tiny")
    parser.add_argument("--strategy", default="faces", choices=[*STRATEGIES], metavar="NAME")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="both, where transformers is installed")
    parser.add_argument("--batch", type=int, metavar="N", help="clips a step")
    parser.add_argument("--rounds", type=int, default=3, help="the models alternate, and the best round of each counts")
    parser.add_argument("--seconds", type=float, default=2.0, help="to measure each")
    parser.add_argument("--shards", help="folder of shards whose loader is measured, too")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
