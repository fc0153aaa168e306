"""Checkpoints: a folder each, whole or not there, from which training goes on as if it had never stopped.

    checkpoints/<steps>/model.safetensors   weights that are trained
                        optimizer.pt        state of the optimizer, read with `weights_only=True`
                        state.json          `Progress`
    best-<epoch>.safetensors                weights of the epoch that is the best so far

No state of a random generator is kept, for there is none to keep: what is drawn belongs to (seed, epoch, step, rank)
or (seed, epoch, clip), never to what was drawn before.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim import Optimizer

from manifests.files import atomic_write
from manifests.records import SchemaError, from_json
from train.runs import EpochMetrics

CHECKPOINTS = "checkpoints"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
STATE_FILE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be gone on from; one line that names it."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training is."""

    epoch: int = 1
    """The one being trained, from 1; one more than there are when all are done."""
    step: int = 0
    """Steps done in it."""
    loss_sum: float = 0.0
    """Sum of its clips' losses so far, over all ranks."""
    best: EpochMetrics | None = None
    """The epoch to be tested, if it ended here."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    """Of the run."""

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress, name: str) -> None:
        """Write a checkpoint, then remove those before it. `name` sorts after theirs. Raises OSError."""
        home = self.folder / CHECKPOINTS
        part = home / f".{name}.{os.getpid()}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        atomic_write(part / MODEL_FILE, _weights(model))
        with (part / OPTIMIZER_FILE).open("wb") as file:
            torch.save(optimizer.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        atomic_write(part / STATE_FILE, (json.dumps(asdict(progress), indent=1) + "\n").encode())
        shutil.rmtree(home / name, ignore_errors=True)
        part.rename(home / name)
        self._tidy(name, progress)

    def restore(self, model: nn.Module, optimizer: Optimizer) -> Progress:
        """Load the latest checkpoint into model and optimizer; where there is none, leave them as they are.

        Raises CheckpointError for one that is damaged or of another model.
        """
        latest = self.latest()
        if latest is None:
            return Progress()
        load_trained(model, latest / MODEL_FILE)
        try:
            state = torch.load(latest / OPTIMIZER_FILE, map_location="cpu", weights_only=True)  # noqa: TID251 - runs no code
            optimizer.load_state_dict(state)
        except (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, LookupError) as error:
            raise _damaged(latest, error) from error
        return self.progress()

    def progress(self) -> Progress:
        """How far the latest checkpoint is. Raises CheckpointError for one that is damaged."""
        latest = self.latest()
        if latest is None:
            return Progress()
        try:
            progress: Progress = from_json(Progress, json.loads((latest / STATE_FILE).read_bytes()), str(latest))
        except (SchemaError, OSError, ValueError) as error:
            raise _damaged(latest, error) from error
        return progress

    def latest(self) -> Path | None:
        """The checkpoint to go on from, if any."""
        found = sorted(path for path in (self.folder / CHECKPOINTS).glob("[0-9]*") if path.is_dir())
        return found[-1] if found else None

    def save_best(self, model: nn.Module, epoch: int) -> None:
        """Keep the weights of an epoch; those of others go when a checkpoint knows of it. Raises OSError."""
        atomic_write(self.best(epoch), _weights(model))

    def best(self, epoch: int) -> Path:
        """Where the weights of an epoch are kept."""
        return self.folder / f"best-{epoch}.safetensors"

    def clear(self) -> None:
        """Remove all that is only needed to go on."""
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        for path in self.folder.glob("best-*.safetensors"):
            path.unlink()

    def _tidy(self, name: str, progress: Progress) -> None:
        for path in (self.folder / CHECKPOINTS).iterdir():
            if path.name != name:
                shutil.rmtree(path)
        kept = self.best(progress.best.epoch) if progress.best else None
        for path in self.folder.glob("best-*.safetensors"):
            if path != kept:
                path.unlink()


def load_trained(model: nn.Module, path: Path) -> None:
    """Load weights that `Checkpoints` wrote. Raises CheckpointError for those of another model, or damaged ones."""
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _weights(model: nn.Module) -> bytes:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(state, metadata={"format": "pt"})


def _damaged(path: Path, error: Exception) -> CheckpointError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return CheckpointError(f"{path}: found no checkpoint of this run ({first}); remove the run's folder to begin anew")
