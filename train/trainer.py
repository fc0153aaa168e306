"""Training: the loop.

The loss of a step is averaged over its clips on all ranks and in all micro-batches (by their number, also where clips
have weights), and every random number depends on (seed, epoch, clip), those of stochastic depth and dropout too.
Therefore neither ranks nor micro-batches change what is learned, but for the order in which floats are added, and a
resumed training equals one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from manifests.errors import UserError
from train.checkpoint import Checkpoints, TrainState
from train.config import TrainConfig
from train.data.batches import ClipBatch
from train.data.loader import CachedLoader, Loader
from train.distributed import Ranks
from train.metric_logger import MetricLogger
from train.optim import clip_grad_norm, lr_at, set_lr
from train.runs import EpochMetrics

_STOPPED = "stopped after a checkpoint; run the same command to resume"
#: Optimizer steps between lines of the log.
LOG_STEPS = 20


class TrainingError(UserError):
    """Training cannot continue."""


class Stopped(KeyboardInterrupt):
    """Training received a signal to stop and saved a checkpoint."""


class Objective(Protocol):
    """What a training is for: how a batch becomes the model's input, its loss, and how well the model does."""

    @property
    def selects_epoch(self) -> bool:
        """Whether the best epoch is selected by validation; then `validate` gives the fields of `EpochMetrics`."""

    def loss(self, model: Callable[..., Any], batch: ClipBatch, epoch: int) -> Tensor:
        """Sum of the losses of a batch's clips, [], with a gradient also where there are none."""

    def validate(
        self, model: nn.Module, loader: Loader | CachedLoader, ranks: Ranks, micro_batches: int
    ) -> dict[str, float]:
        """`validation_loss`, a mean over the clips of a loader, and other numbers for the log."""

    def describe(self, scores: dict[str, float]) -> str:
        """The same in a few words."""


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains a model and, if its objective is to select an epoch, keeps the best one by validation."""

    model: nn.Module
    """On the device. Checkpoints have its weights."""
    compiled_model: Callable[..., Any]
    """The model as training calls it: itself, compiled, or wrapped for several ranks."""
    objective: Objective
    optimizer: Optimizer
    config: TrainConfig
    train_loader: Loader | CachedLoader
    val_loader: Loader | CachedLoader | None
    """None trains all epochs and keeps the last."""
    ranks: Ranks
    checkpoints: Checkpoints
    logger: MetricLogger
    should_stop: Callable[[], bool] = lambda: False
    """Whether to stop after the current step."""
    state: TrainState = field(default_factory=TrainState)
    validating: bool = False
    """Whether a validation is in progress, which a signal interrupts."""

    @property
    def epochs(self) -> int:
        """Epochs to train: the recipe's, which is in epochs."""
        assert self.config.recipe.epochs is not None
        return self.config.recipe.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(self.train_loader.sampler)

    @property
    def validation_epochs(self) -> int:
        """Epochs between validations."""
        return max(-(-self.config.recipe.validation_steps // self.steps_per_epoch), 1)

    @property
    def steps_done(self) -> int:
        """Optimizer steps done in all epochs so far."""
        return (self.state.epoch - 1) * self.steps_per_epoch + self.state.step

    def fit(self) -> TrainState:
        """Train all epochs, or the remaining ones; the best one's weights are at `checkpoints.best_path(epoch)`.

        Raises Stopped after a signal to stop, TrainingError for a loss that is not finite, CheckpointError, OSError.
        """
        self.state = self.checkpoints.restore(self.model, self.optimizer)
        while self.state.epoch <= self.epochs:
            began, first = time.monotonic(), self.state.step
            self.train_epoch()
            seconds = time.monotonic() - began
            trained = 1 - first / self.steps_per_epoch  # a resumed epoch trains less
            clips = self.train_loader.sampler.clips_per_epoch * trained
            self.end_epoch(seconds, clips / max(seconds, 1e-9))
        return self.state

    def train_epoch(self) -> None:
        """Take the remaining steps of the epoch."""
        self.model.train()
        epoch, first = self.state.epoch, self.state.step
        self.logger.start_epoch(f"epoch {epoch}/{self.epochs}", self.steps_per_epoch, first)
        loss_sum = torch.tensor(self.state.loss_sum if self.ranks.is_main else 0.0, dtype=torch.float64)
        loss_sum = loss_sum.to(self.ranks.device)
        for step, batch in enumerate(self.train_loader.epoch(epoch, first), first):
            loss_sum += self.train_step(epoch, step, batch)
            self.logger.advance()
            stop, last = self.ranks.any(self.should_stop()), step + 1 == self.steps_per_epoch
            due = ((epoch - 1) * self.steps_per_epoch + step + 1) % self.config.save_steps == 0
            if stop or last or due:
                total = float(self.ranks.sum(loss_sum.clone()))
                _check_loss(total, f"epoch {epoch}")
                self.state = replace(self.state, step=step + 1, loss_sum=total)
            if stop or (due and not last):
                self.save()
            if stop:
                raise Stopped(_STOPPED)

    def train_step(self, epoch: int, step: int, batch: ClipBatch) -> Tensor:
        """One step of the optimizer, `step` counted from the epoch's first; the sum of this rank's losses, [].

        A batch is cut into micro-batches, each of which takes the transform, forward and backward.
        """
        sampler = self.train_loader.sampler
        clips = sampler.step_size(step)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        parts = batch.split(sampler.micro_batch_size(self.config.micro_batches))
        for number, part in enumerate(parts, 1):
            if self.config.has_own_encoder:  # what it draws is then the same after a resume
                torch.manual_seed(_seed(self.config.seed, epoch, step, number, self.ranks.rank))
            # Ranks exchange gradients after the last micro-batch only.
            wrapped = isinstance(self.compiled_model, DistributedDataParallel)
            with self.compiled_model.no_sync() if wrapped and number < len(parts) else nullcontext():
                loss = self.objective.loss(self.compiled_model, part.to(self.ranks.device), epoch)
                # Gradients are averaged over ranks, therefore times their number.
                (loss * (self.ranks.world_size / clips)).backward()
            loss_sum += loss.detach()
        norm = clip_grad_norm(self.model.parameters(), self.config.recipe.max_grad_norm)
        steps = (epoch - 1) * len(sampler) + step
        lr = lr_at(steps, len(sampler), self.config.recipe)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if (steps + 1) % LOG_STEPS == 0:
            values = {"step": steps + 1, "learning_rate": lr, "gradient_norm": float(norm)}
            self.logger.write({**values, "rank_loss": float(loss_sum) / max(len(batch), 1)}, steps + 1)
        return loss_sum

    def validate(self) -> dict[str, float]:
        """What the objective measures on the validation side. Raises Stopped, after a checkpoint, if interrupted."""
        assert self.val_loader is not None
        self.validating = True
        try:
            return self.objective.validate(self.model, self.val_loader, self.ranks, self.config.micro_batches)
        except KeyboardInterrupt as error:
            if self.ranks.is_main and self.state != self.checkpoints.load_state():
                self.checkpoints.save(self.model, self.optimizer, self.state, self.steps_done)
            raise Stopped(_STOPPED) from error
        finally:
            self.validating = False

    def end_epoch(self, seconds: float, clips_per_second: float) -> None:
        """Validate if it is due, keep the weights if they are the best so far, or the last, log, and save a checkpoint.

        Raises TrainingError for a loss that is not finite, before anything is written.
        """
        epoch, best, last = self.state.epoch, self.state.best, self.state.epoch == self.epochs
        clips = self.train_loader.sampler.clips_per_epoch
        values: dict[str, Any] = {"epoch": epoch, "train_loss": self.state.loss_sum / clips}
        message = f"epoch {epoch}/{self.epochs}: loss {values['train_loss']:.3f}"
        if epoch % self.validation_epochs and not last:
            self.state = TrainState(epoch=epoch + 1, best=best, kept=self.state.kept)
            if self.steps_done % self.config.save_steps == 0:
                self.save()
            return
        keep = last
        if self.val_loader is not None:
            scores = self.validate()
            _check_loss(scores["validation_loss"], f"epoch {epoch}, validation")
            values |= scores
            message += f", validation {self.objective.describe(scores)}"
            if self.objective.selects_epoch:
                current = EpochMetrics(**{field.name: values[field.name] for field in fields(EpochMetrics)})
                keep = is_better(current, best)
                best = current if keep else best
        if keep and self.ranks.is_main:
            self.checkpoints.save_best(self.model, epoch)
        self.logger.write({**values, "clips_per_second": clips_per_second}, self.steps_done)
        best_so_far = ", best so far" if keep and best else ""
        self.logger.end_epoch(f"{message}, {seconds:.1f} s{best_so_far}")
        self.state = TrainState(epoch=epoch + 1, best=best, kept=epoch if keep else self.state.kept)
        self.save()

    def interrupt(self) -> None:
        """Called from the handler of a signal to stop. Raises KeyboardInterrupt where nothing would be lost."""
        if self.validating:
            raise KeyboardInterrupt

    def save(self) -> None:
        """Write a checkpoint of the current state."""
        if self.ranks.is_main:
            self.checkpoints.save(self.model, self.optimizer, self.state, self.steps_done)
        self.ranks.barrier()


def is_better(epoch: EpochMetrics, best: EpochMetrics | None) -> bool:
    """Whether an epoch is better than the best one before it: by UAR of validation speakers, then by loss."""
    return best is None or (epoch.validation_uar, -epoch.validation_loss) > (best.validation_uar, -best.validation_loss)


def _seed(*numbers: int) -> int:
    """A seed of torch from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _check_loss(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{where}: found loss {loss}, expected a finite number; start over with a lower learning rate"
        )
