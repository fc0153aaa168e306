"""Checkpoints: a folder each, complete or absent, from which training resumes as if it had never stopped.

    checkpoints/<steps>-<epoch>/model.safetensors   weights that are trained
                                optimizer.pt        state of the optimizer, read with `weights_only=True`
                                state.json          `TrainState`
    best-<epoch>.safetensors                        weights of the best epoch so far

No generator state is saved: random numbers depend on (seed, epoch, step, rank) or (seed, epoch, clip), not on earlier
ones.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim import Optimizer

from manifests.errors import UserError
from manifests.files import atomic_write, path_in_errors, sync_folder
from manifests.records import SchemaError, from_json
from train.lineage import RANDOM, Lineage
from train.models.checkpoint_io import WEIGHTS_FILE, dump_weights, first_line
from train.models.checkpoint_scan import check_checkpoint
from train.runs import EpochMetrics

CHECKPOINTS = "checkpoints"
OPTIMIZER_FILE = "optimizer.pt"
STATE_FILE = "state.json"


class CheckpointError(UserError):
    """A checkpoint cannot be loaded; the message names it."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Progress of a training run."""

    epoch: int = 1
    """The epoch in progress, from 1; one more than the number of epochs when all are done."""
    step: int = 0
    """Steps done in it."""
    loss_sum: float = 0.0
    """Sum of its clips' losses so far, over all ranks."""
    best: EpochMetrics | None = None
    """The best epoch so far, if there is a validation."""
    kept: int = 0
    """Epoch whose weights are kept to be tested, 0 for none so far: the best one, or the last."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    """Folder of the run."""
    lineage: Lineage = RANDOM
    """Written into each file of weights."""

    @property
    def started(self) -> bool:
        """Whether a step was trained, of which something was kept."""
        return self._latest() is not None or any(self.folder.glob("best-*.safetensors"))

    def save(self, model: nn.Module, optimizer: Optimizer, state: TrainState, step: int) -> None:
        """Write a checkpoint after `step` optimizer steps in all, then remove older ones. Raises OSError."""
        parent, name = self.folder / CHECKPOINTS, f"{step:09}-{state.epoch:05}"
        part = parent / f".{name}.{os.getpid()}.part"
        self.remove_partial()
        part.mkdir(parents=True)
        try:
            atomic_write(part / WEIGHTS_FILE, dump_weights(model, self.lineage))
            with closing(_Output(part / OPTIMIZER_FILE)) as output:
                try:
                    torch.save(optimizer.state_dict(), output)
                except RuntimeError as error:
                    raise (output.error or error) from error
            atomic_write(part / STATE_FILE, (json.dumps(asdict(state), indent=1) + "\n").encode())
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)  # of a full disk it would take the rest
            raise
        part.rename(parent / name)
        sync_folder(parent)
        for path in parent.iterdir():
            if path.name != name:
                shutil.rmtree(path)
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.best_path(state.kept):
                path.unlink()

    def restore(self, model: nn.Module, optimizer: Optimizer) -> TrainState:
        """Load the latest checkpoint into model and optimizer; without one, leave them as they are.

        Raises CheckpointError for one that is damaged or of another model.
        """
        latest = self._latest()
        if latest is not None:
            load_trained(model, latest / WEIGHTS_FILE)
            try:
                check_checkpoint(latest / OPTIMIZER_FILE)
                state = torch.load(latest / OPTIMIZER_FILE, map_location="cpu", weights_only=True)  # noqa: TID251 - runs no code
                optimizer.load_state_dict(state)
            except (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, LookupError) as error:
                raise _damaged(latest, error) from error
        return self.load_state()

    def load_state(self) -> TrainState:
        """State of the latest checkpoint. Raises CheckpointError for one that is damaged."""
        latest = self._latest()
        if latest is None:
            return TrainState()
        try:
            return from_json(TrainState, json.loads((latest / STATE_FILE).read_bytes()), str(latest))
        except (SchemaError, OSError, ValueError, RecursionError) as error:
            raise _damaged(latest, error) from error

    def save_best(self, model: nn.Module, epoch: int) -> None:
        """Keep the weights of an epoch; the next checkpoint removes those of other epochs. Raises OSError."""
        atomic_write(self.best_path(epoch), dump_weights(model, self.lineage))

    def best_path(self, epoch: int) -> Path:
        """Where the weights of an epoch are kept."""
        return self.folder / f"best-{epoch}.safetensors"

    def remove_partial(self) -> None:
        """Remove what a killed process left of a checkpoint."""
        for path in (self.folder / CHECKPOINTS).glob(".*.part"):
            shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Remove everything that is only needed to resume."""
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        for path in self.folder.glob("best-*.safetensors"):
            path.unlink()

    def _latest(self) -> Path | None:
        """The checkpoint to resume from, if any."""
        return max((path for path in (self.folder / CHECKPOINTS).glob("[0-9]*") if path.is_dir()), default=None)


class _Output:
    """A file for torch.save, which keeps the error of a failed write: torch replaces it by one without a reason."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`. Raises OSError naming the file, as do the other methods."""
        try:
            with path_in_errors(self._path):
                return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Hand everything to the system."""
        with path_in_errors(self._path):
            self._file.flush()

    def close(self) -> None:
        """Write everything to the disk."""
        with path_in_errors(self._path), self._file:
            if not self.error:
                self._file.flush()
                os.fsync(self._file.fileno())


def load_trained(model: nn.Module, path: Path) -> None:
    """Load weights that `Checkpoints` wrote. Raises CheckpointError for those of another model, or damaged ones."""
    try:
        state = safetensors.torch.load_file(path)
        if broken := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
            raise CheckpointError(f"NaN or infinity in {broken[0]}")
        model.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError, CheckpointError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = first_line(error)
    return CheckpointError(f"{path}: not a checkpoint of this run ({reason}); remove the run's folder to start over")
