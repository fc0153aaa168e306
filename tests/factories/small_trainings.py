"""A training small enough for tests: a transformer of two blocks, on videos of 4x16x16 pixels, or on any other feed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from train.checkpoint import Checkpoints
from train.feeds import HeldFeed
from train.journal import Journal
from train.loader import Schedule
from train.loop import Training, fit
from train.models.videomae import Classifier, EncoderConfig
from train.optim import make_optimizer, parameter_groups
from train.ranks import Ranks, joined
from train.recipes import Recipe

ENCODER = EncoderConfig(width=16, depth=2, heads=2, mlp=32, patch=(2, 8, 8), input=(4, 16, 16))
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
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "drop_path": 0.5,
    }
    return Recipe(**{**values, **changes})


def feed(clips: int, *, batch: int, ranks: Ranks = ALONE, seed: int = 0, shuffle: bool = True) -> HeldFeed:
    """Clips of noise whose class shows in their brightness."""
    generator = torch.Generator().manual_seed(clips)
    labels = torch.arange(clips) % CLASSES
    noise = torch.randn(clips, 3, 4, 16, 16, generator=generator)
    schedule = Schedule(
        clips=clips, batch_size=batch // ranks.count, seed=seed, shuffle=shuffle, rank=ranks.rank, ranks=ranks.count
    )
    return HeldFeed(
        inputs=noise + labels.view(-1, 1, 1, 1, 1),
        labels=labels,
        keys=tuple(f"clip-{place}" for place in range(clips)),
        classes=CLASSES,
        schedule=schedule,
    )


def training(
    folder: Path, *, ranks: Ranks = ALONE, stop_after: int | None = None, seed: int = 0, **changes: Any
) -> Training:
    """A training in a folder that is asked to stop after some steps."""
    torch.manual_seed(seed)
    told = recipe(**{name: value for name, value in changes.items() if name not in ("save_steps", "validation")})
    model = Classifier(ENCODER, CLASSES, drop_rate=told.drop_path)
    folder.mkdir(parents=True, exist_ok=True)
    return Training(
        model=model,
        optimizer=make_optimizer(model, ENCODER.depth, told),
        recipe=told,
        training=feed(CLIPS, batch=told.batch, ranks=ranks, seed=seed),
        validation=changes.get("validation", feed(7, batch=told.batch, ranks=ranks, shuffle=False)),
        ranks=ranks,
        checkpoints=Checkpoints(folder=folder),
        journal=Journal(folder if ranks.first else None, lambda line: None),
        seed=seed,
        save_steps=changes.get("save_steps", 100),
        run=DistributedDataParallel(model) if ranks.count > 1 else model,
        stop=counted(stop_after),
    )


def counted(stop_after: int | None) -> Callable[[], bool]:
    """Says to stop when asked that many times."""
    asked = iter(range(1, 1 << 30))
    return lambda: next(asked) == stop_after


def plain(folder: Path, ranks: Ranks = ALONE) -> Training:
    """A training whose steps are as long as the gradient, which AdamW's are not: a wrong scale shows."""
    job = training(folder, ranks=ranks, drop_path=0.0, clip_norm=None, learning_rate=0.1)
    return replace(job, optimizer=SGD(parameter_groups(job.model.named_parameters(), ENCODER.depth, job.recipe)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu") as ours:
        fit(plain(Path(sys.argv[1]), ours))
