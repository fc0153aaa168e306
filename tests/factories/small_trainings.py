"""A training small enough for tests: a transformer of two blocks on videos of 4x16x16 pixels, kept in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from train.checkpoint import Checkpoints
from train.classification import Classification
from train.config import TrainConfig
from train.data.augment import Augmentation, ClipDraws, Mixing
from train.data.batches import CachedBatch
from train.data.loader import CachedLoader
from train.data.sampler import ClipSampler, balanced_class_weights
from train.data.transforms import CachedTransform, ModelInput
from train.distributed import Ranks, init_distributed
from train.metric_logger import MetricLogger
from train.models.videomae import Classifier, EncoderConfig
from train.optim import freeze_parameters, make_optimizer, parameter_groups
from train.recipes import Recipe
from train.trainer import Trainer

ENCODER = EncoderConfig(width=16, depth=2, heads=2, mlp=32, patch=(2, 8, 8), input=(4, 16, 16))
#: An encoder for the input that shards give.
SMALL = EncoderConfig(width=16, depth=1, heads=2, mlp=32, patch=(2, 28, 28), input=(16, 56, 56))
ALONE = Ranks(device=torch.device("cpu"))
CLASSES = 3
CLIPS = 13


def recipe(**changes: Any) -> Recipe:
    """Three epochs with everything on but augmentation."""
    values: dict[str, Any] = {
        "name": "small",
        "epochs": 3,
        "batch": 4,
        "learning_rate": 1e-2,
        "warmup_epochs": 1,
        "layer_decay": 0.8,
        "max_grad_norm": 1.0,
        "label_smoothing": 0.1,
        "drop_path": 0.5,
    }
    return Recipe(**{**values, **changes})


def loader(
    clips: int,
    *,
    batch: int,
    ranks: Ranks = ALONE,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    skewed: bool = False,
    balanced: bool = False,
) -> CachedLoader:
    """Clips of noise whose class shows in their brightness; of `skewed` classes the first has most, the last fewest."""
    generator = torch.Generator().manual_seed(clips)
    labels = torch.arange(clips) % CLASSES
    if skewed:
        labels = torch.tensor([0] * (clips - 4) + [1] * 3 + [2])
    noise = torch.randn(clips, 3, 4, 16, 16, generator=generator)
    sampler = ClipSampler(
        clips=clips,
        batch_size=batch // ranks.world_size,
        seed=seed,
        shuffle=shuffle,
        rank=ranks.rank,
        world_size=ranks.world_size,
        drop_last=drop_last,
        balanced_labels=labels.numpy() if balanced else None,
    )
    return CachedLoader(
        inputs=noise + labels.view(-1, 1, 1, 1, 1),
        labels=labels,
        keys=tuple(f"clip-{place}" for place in range(clips)),
        sampler=sampler,
    )


@dataclass(frozen=True, kw_only=True)
class MixingTransform(CachedTransform):
    """Mixes whole inputs by draws of their clips, as `ClipTransform` mixes faces and spectrograms."""

    augmentation: Augmentation
    seed: int

    def training_input(self, batch: CachedBatch, epoch: int) -> ModelInput:
        """Inputs and targets after mixup."""
        plain = self.evaluation_input(batch)
        if not self.augmentation.mixes:
            return plain
        mixing = Mixing.drawn(self.augmentation, ClipDraws(keys=batch.draw_keys, seed=self.seed, epoch=epoch))
        return ModelInput(*map(mixing.blend, plain))


def make_trainer(
    folder: Path,
    *,
    ranks: Ranks = ALONE,
    stop_after: int | None = None,
    seed: int = 0,
    save_steps: int = 100,
    micro_batches: int = 1,
    **changes: Any,
) -> Trainer:
    """A trainer of a run in a folder that stops after some steps; `changes` are of the recipe."""
    torch.manual_seed(seed)
    settings = recipe(**changes)
    options = {"recipe": settings, "seed": seed, "save_steps": save_steps, "micro_batches": micro_batches}
    config = TrainConfig(shards="", strategy="cfas", fold="1", encoder="tiny", **options)
    model = Classifier(ENCODER, CLASSES, drop_rate=settings.drop_path, head_dropout=settings.head_dropout)
    freeze_parameters(model, settings.freeze)
    weighted, balanced = settings.class_weights == "balanced", settings.sampling == "balanced"
    options = {"drop_last": settings.drop_last, "skewed": weighted or balanced, "balanced": balanced}
    train_loader = loader(CLIPS, batch=settings.batch, ranks=ranks, seed=seed, **options)
    weights = torch.from_numpy(balanced_class_weights(train_loader.labels.numpy(), CLASSES)) if weighted else None
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        model=model,
        compiled_model=DistributedDataParallel(model) if ranks.world_size > 1 else model,
        optimizer=make_optimizer(model, ENCODER.depth, settings),
        config=config,
        train_loader=train_loader,
        val_loader=loader(7, batch=settings.batch, ranks=ranks, shuffle=False),
        objective=Classification(
            transform=MixingTransform(classes=CLASSES, augmentation=settings.augmentation, seed=seed),
            recipe=settings,
            seed=seed,
            noise_per_clip=model.noise_per_clip,
            class_weights=weights,
        ),
        ranks=ranks,
        checkpoints=Checkpoints(folder=folder),
        logger=MetricLogger(folder if ranks.is_main else None, lambda line: None),
        should_stop=counted(stop_after),
    )


def counted(stop_after: int | None) -> Callable[[], bool]:
    """True the n-th time it is called."""
    calls = iter(range(1, 1 << 30))
    return lambda: next(calls) == stop_after


def plain(folder: Path, ranks: Ranks = ALONE, **changes: Any) -> Trainer:
    """A trainer whose steps are as long as the gradient, which AdamW's are not: a wrong scale shows.

    Clips are mixed, and much is dropped, so that a number drawn for another clip shows, too.
    """
    changes = {"augmentation": Augmentation(mixup=0.8), "drop_path": 0.5, "head_dropout": 0.3, **changes}
    trainer = make_trainer(folder, ranks=ranks, max_grad_norm=None, learning_rate=0.1, **changes)
    named = trainer.model.named_parameters()
    trainer.optimizer = SGD(parameter_groups(named, ENCODER.depth, trainer.config.recipe))
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    with init_distributed("cpu") as ours:
        plain(Path(sys.argv[1]), ours, **json.loads(sys.argv[2])).fit()
    running = [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
    sys.exit(f"threads of the process group outlive it: {running}" if running else 0)
