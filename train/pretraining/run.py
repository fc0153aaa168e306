"""One pre-training, from its first step to a model that every strategy can begin with."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.files import atomic_write, exclusive_lock, remove_leftovers
from manifests.text import pluralize
from train.checkpoint import load_trained
from train.pretraining.base import MODEL, BasePretraining
from train.pretraining.page import read_epochs
from train.run_fold import fit


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A finished pre-training."""

    model: Path
    """Folder to begin other trainings with."""
    page: Path
    """What a person looks at."""
    epochs: int
    scores: dict[str, float]
    """`train_loss` of the last epoch and, with validation speakers, what was measured of these."""


def run_pretraining(setup: BasePretraining) -> Pretrained:
    """Pre-train, or what remains of it, save the model and write its page. A finished one is only read.

    Raises ConfigError for a run with other settings, LoggerError, BusyError while another process trains it, Stopped
    after a signal to stop, DataError or StoreError, and what the Trainer raises.
    """
    if setup.is_finished():
        if setup.ranks.is_main:
            setup.checkpoints.clear()  # left behind if the run was killed just after it finished
        return _describe(setup)
    lock = exclusive_lock(setup.folder, "RUNS=") if setup.ranks.is_main else nullcontext()
    with lock, setup.data.prefetcher:
        if setup.ranks.any(setup.is_finished()):  # by another process, before this one had the lock
            return _describe(setup)
        if setup.ranks.is_main:
            remove_leftovers(setup.folder)
            setup.checkpoints.remove_partial()
        setup.write_config()
        load_trained(setup.model, setup.checkpoints.best_path(fit(setup)))
        result = setup.result()  # with the other ranks
        if setup.ranks.is_main:
            setup.save_model(result)
            setup.write_page(result)
            atomic_write(setup.folder / setup.result_file, (json.dumps(result, indent=1) + "\n").encode())
            setup.checkpoints.clear()
        setup.ranks.barrier()
        return _describe(setup)


def _describe(setup: BasePretraining) -> Pretrained:
    last: dict[str, Any] = read_epochs(setup.folder)[-1]
    return Pretrained(
        model=setup.folder / MODEL,
        page=setup.folder / "report.html",
        epochs=setup.epochs,
        scores={name: value for name, value in last.items() if isinstance(value, float)},
    )


def describe_pretrained(found: Pretrained) -> str:
    """A finished pre-training in a line."""
    names = {"train_loss": "loss", "validation_loss": "validation loss"}
    losses = [f"{title} {found.scores[name]:.4f}" for name, title in names.items() if name in found.scores]
    return f"{pluralize(found.epochs, 'epoch')}, {', '.join(losses)}"
