"""The training loop.

Each step's loss is the sum over its clips divided by their number, over all ranks and micro-batches, so that neither
their number nor a last, smaller step changes what is learnt. Every random number belongs to (seed, epoch, step, rank)
or to a clip, so that a training which was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from train import metrics
from train.checkpoint import Checkpoints, Progress
from train.feeds import Feed
from train.journal import Journal
from train.optim import clip_gradient, rate_at, set_rate
from train.ranks import Ranks
from train.recipes import Recipe
from train.runs import EpochMetrics

#: Optimizer steps between lines of the log.
LOG_STEPS = 20


class TrainingError(ValueError):
    """Training cannot go on; one line that says why and what to do."""


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and all it has learnt is saved."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """All that the loop works with."""

    model: nn.Module
    """Input of the feeds -> logits [B, C]; on the device."""
    optimizer: Optimizer
    recipe: Recipe
    training: Feed[Any]
    validation: Feed[Any]
    ranks: Ranks
    checkpoints: Checkpoints
    journal: Journal
    seed: int
    save_steps: int
    run: Callable[[Tensor], Tensor]
    """The model as it is called: itself, compiled, or wrapped for several ranks."""
    stop: Callable[[], bool] = lambda: False
    """Whether training should stop after the step in hand."""


def fit(job: Training) -> Progress:
    """Train all epochs, or the rest of them; the best one's weights are in `checkpoints.best(epoch)`.

    Raises Stopped when asked to stop, TrainingError for a loss that is no number, CheckpointError, OSError.
    """
    progress = job.checkpoints.restore(job.model, job.optimizer)
    while progress.epoch <= job.recipe.epochs:
        began = time.monotonic()
        progress = _train_epoch(job, progress)
        progress = _close_epoch(job, progress, time.monotonic() - began)
    return progress


def _train_epoch(job: Training, progress: Progress) -> Progress:
    """All steps of an epoch that are left."""
    job.model.train()
    schedule, first = job.training.schedule, progress.step
    job.journal.begin(f"epoch {progress.epoch}/{job.recipe.epochs}", len(schedule), first)
    loss_sum = torch.tensor(progress.loss_sum if job.ranks.first else 0.0, dtype=torch.float64)
    loss_sum = loss_sum.to(job.ranks.device)
    for step, pieces in enumerate(job.training.steps(progress.epoch, first), first):
        loss_sum += take_step(job, progress.epoch, step, pieces)
        job.journal.step()
        stop, last = job.ranks.any(job.stop()), step + 1 == len(schedule)
        if stop or last or (step + 1) % job.save_steps == 0:
            progress = replace(progress, step=step + 1, loss_sum=_finite(job, loss_sum, progress.epoch))
        if stop or (not last and (step + 1) % job.save_steps == 0):
            _save(job, progress)
        if stop:
            raise Stopped
    return progress


def take_step(job: Training, epoch: int, step: int, pieces: Any) -> Tensor:
    """One step of the optimizer; the sum of this rank's losses, [] on the device."""
    schedule, done = job.training.schedule, _steps_before(job, epoch) + step
    torch.manual_seed(_draw(job.seed, epoch, step, job.ranks.rank))
    total = torch.zeros((), dtype=torch.float64, device=job.ranks.device)
    for number, piece in enumerate(pieces):
        with _alone(job, last=number + 1 == len(pieces)):
            loss = _loss(job, piece, epoch)
            (loss * (job.ranks.count / schedule.clips_in(step))).backward()  # ranks are averaged, so times their number
        total += loss.detach()
    norm = clip_gradient(job.model.parameters(), job.recipe.clip_norm)
    rate = rate_at(done, len(schedule), job.recipe)
    set_rate(job.optimizer, rate)
    job.optimizer.step()
    job.optimizer.zero_grad(set_to_none=True)
    if (done + 1) % LOG_STEPS == 0:
        shown = {"step": done + 1, "learning_rate": rate, "gradient_norm": float(norm)}
        job.journal.write({**shown, "rank_loss": float(total) / max(sum(map(len, pieces)), 1)}, done + 1)
    return total


def _loss(job: Training, piece: Any, epoch: int) -> Tensor:
    """Sum of a piece's cross-entropies, []; of an empty piece 0, with a gradient all the same."""
    examples = job.training.examples(piece, epoch)
    with autocast(job.ranks.device):
        logits = job.run(examples.inputs)
    smoothing = job.recipe.label_smoothing
    return functional.cross_entropy(logits.float(), examples.targets, label_smoothing=smoothing, reduction="sum")


def _close_epoch(job: Training, progress: Progress, seconds: float) -> Progress:
    """Validate, choose, log and save; the progress of the next epoch's beginning."""
    logits, labels = predict(job.model, job.validation, job.ranks), job.validation.labels
    confusion = metrics.confusion_matrix(labels.numpy(), logits.argmax(1).numpy(), logits.shape[1])
    clips = job.training.schedule.clips
    ended = EpochMetrics(
        epoch=progress.epoch,
        train_loss=progress.loss_sum / clips,
        validation_loss=float(functional.cross_entropy(logits, labels)),
        validation_uar=float(metrics.uar(confusion)),
    )
    improved = better(ended, progress.best)
    if improved and job.ranks.first:
        job.checkpoints.save_best(job.model, ended.epoch)
    shown = {**vars(ended), "validation_war": float(metrics.war(confusion)), "clips_per_second": clips / seconds}
    job.journal.write(shown, _steps_before(job, progress.epoch + 1))
    job.journal.end(_told(ended, job.recipe.epochs, seconds, improved=improved))
    progress = Progress(epoch=progress.epoch + 1, best=ended if improved else progress.best)
    _save(job, progress)
    return progress


def better(one: EpochMetrics, other: EpochMetrics | None) -> bool:
    """Whether an epoch is to be chosen over an earlier one: by UAR of validation speakers, then by loss."""
    return other is None or (one.validation_uar, -one.validation_loss) > (other.validation_uar, -other.validation_loss)


@torch.inference_mode()
def predict(model: Callable[[Tensor], Tensor], feed: Feed[Any], ranks: Ranks) -> Tensor:
    """float32 [clips, C], or what else a model gives, of all of a feed's clips in their order, on the CPU of each rank.

    The feed must not shuffle. Leaves a module in evaluation mode.
    """
    if isinstance(model, nn.Module):
        model.eval()
    schedule, parts = feed.schedule, []
    for pieces in feed.steps(epoch=0):
        for piece in pieces:
            with autocast(ranks.device):
                parts.append(model(feed.examples(piece, epoch=0).inputs).float())
    places = np.concatenate([np.arange(schedule.clips)[schedule.share(step)] for step in range(len(schedule))])
    logits = torch.zeros(schedule.clips, *parts[0].shape[1:], device=ranks.device)
    logits[torch.from_numpy(places).to(ranks.device)] = torch.cat(parts)
    return ranks.sum(logits).cpu()


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where a GPU multiplies matrices; float32 on a CPU, where results are to be exact."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def _alone(job: Training, *, last: bool) -> AbstractContextManager[Any]:
    """Ranks exchange gradients after a step's last micro-batch only."""
    return job.run.no_sync() if isinstance(job.run, DistributedDataParallel) and not last else nullcontext()


def _save(job: Training, progress: Progress) -> None:
    if job.ranks.first:
        done = _steps_before(job, progress.epoch) + progress.step
        job.checkpoints.save(job.model, job.optimizer, progress, f"{done:09}")
    job.ranks.wait()


def _finite(job: Training, loss_sum: Tensor, epoch: int) -> float:
    """The sum over ranks, which must be a number."""
    total = float(job.ranks.sum(loss_sum.clone()))
    if not math.isfinite(total):
        raise TrainingError(
            f"epoch {epoch}: found loss {total}, expected a number; begin anew with a lower learning rate"
        )
    return total


def _steps_before(job: Training, epoch: int) -> int:
    """Optimizer steps before an epoch."""
    return (epoch - 1) * len(job.training.schedule)


def _draw(*numbers: int) -> int:
    """A seed that belongs to some numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8]) >> 1


def _told(ended: EpochMetrics, epochs: int, seconds: float, *, improved: bool) -> str:
    losses = f"loss {ended.train_loss:.3f}, validation {ended.validation_loss:.3f}"
    best = ", best so far" if improved else ""
    return f"epoch {ended.epoch}/{epochs}: {losses}, UAR {100 * ended.validation_uar:.2f} %, {seconds:.1f} s{best}"
