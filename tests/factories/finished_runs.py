"""Runs with made-up numbers, for tests of results and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train import runs
from train.data.missing import CONDITIONS, Missing
from train.runs import Run, RunProtocol, RunResult
from train.scoring import ExpectedClip, Predictions

CLASSES = ("happy", "angry", "calm", "sad")
FOLDS = {"1": ("S01", "S02"), "2": ("S03", "S04"), "3": ("S05", "S06")}


def protocol(**changes: object) -> RunProtocol:
    """Protocol of a demo run."""
    values = {
        "label_scheme": "demo-4",
        "classes": CLASSES,
        "fold_scheme": "demo-3fold",
        "folds": tuple(FOLDS),
        "selection": "UAR of validation speakers",
        "recipe": "finetune",
        "encoder": "tiny",
        "weights": None,
        "lineage": "random weights",
        "supervision": "random",
        "feature": "mfcc",
        "build": "timeline uniform, align frame",
        "precision": "float32",
        "settings": "0" * 64,
    }
    return RunProtocol(**{**values, **changes})


def run(**changes: object) -> Run:
    """Run of the demo's first fold with `cfas`."""
    values = {"dataset": "demo", "strategy": "cfas", "fold": "1", "seed": 0, "protocol": protocol(), "epoch": 3}
    values |= {"epochs": 5, "training_clips": 64}
    return Run(**{**values, **changes})


def predictions(
    speakers: Sequence[str], skill: float, seed: int = 0, classes: int = 4, clips_each: int = 16
) -> Predictions:
    """Clips of speakers in which the true class is the likeliest in about `skill` of all."""
    generator = np.random.default_rng(seed)
    names = [speaker for speaker in speakers for _ in range(clips_each)]
    labels = np.array([clip % classes for _ in speakers for clip in range(clips_each)], dtype=np.int64)
    logits = generator.normal(size=(len(names), classes))
    logits[np.arange(len(names)), labels] += np.where(generator.random(len(names)) < skill, 6.0, -3.0)
    odds = np.exp(logits)
    return Predictions(
        clips=tuple(f"{name}_{number:03}" for number, name in enumerate(names)),
        speakers=tuple(names),
        labels=labels,
        probabilities=(odds / odds.sum(axis=1, keepdims=True)).astype(np.float32),
    )


def expected_clips(found: Predictions) -> dict[str, ExpectedClip]:
    """The clips of a fold that has exactly those of the predictions."""
    clips = map(ExpectedClip, found.speakers, found.labels.tolist())
    return dict(zip(found.clips, clips, strict=True))


def missing(found: Predictions) -> dict[Missing, np.ndarray]:
    """Predictions that get worse, the more is missing: the first class for so many of the clips."""
    return {each: np.where(np.arange(len(found)) < each.share * len(found), 0, found.predicted) for each in CONDITIONS}


def finish(folder: Path, skill: float = 0.8, epochs: int = 5, **changes: object) -> RunResult:
    """A finished run in `folder`, with a log."""
    made = run(epochs=epochs, **changes)
    found = predictions(
        FOLDS[made.fold], skill, seed=int(made.fold) + 100 * made.seed, classes=len(made.protocol.classes)
    )
    result = runs.finish_run(folder, made, found, expected_clips(found), missing(found), len(found) + 1)
    home = runs.run_folder(folder, made.dataset, made.strategy, made.fold, made.seed)
    (home / runs.LOG_FILE).write_text("".join(json.dumps(line) + "\n" for line in log(epochs, int(made.fold))))
    return result


def log(epochs: int, seed: int = 0) -> list[dict[str, float]]:
    """Lines of a log: a step and the epoch's end, for each."""
    generator = np.random.default_rng(seed)
    lines: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        fit = 1 - np.exp(-4 * epoch / epochs)
        noise = generator.normal(scale=0.02, size=3)
        lines.append({"step": 10 * epoch, "loss": 1.4 - fit})
        lines.append(
            {
                "epoch": epoch,
                "train_loss": 1.4 - 1.2 * fit + noise[0],
                "validation_loss": 1.4 - 0.8 * fit + 0.2 * epoch / epochs + noise[1],
                "validation_uar": 0.25 + 0.6 * fit + noise[2],
                "learning_rate": 1e-3,
            }
        )
    return lines
