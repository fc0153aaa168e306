"""Which clips each process sees at which step. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from train.data import DataError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """Distributed sampler whose order depends only on (seed, epoch).

    A step takes the next `world_size * batch_size` clips of the epoch's order, one contiguous part for each rank, so
    that a single process with the product as its batch size takes the same steps. The last step has the remaining
    clips, divided as evenly as possible: a rank may get a smaller batch, or an empty one, but takes part in the step.
    With `drop_last` there is no such step, and which clips an epoch leaves out depends on its order.
    With `balanced_labels` an epoch of the same length has each class equally often, to one clip: those of a small class
    come several times, each as often as any other of the class, to one time, and of a large class some are left out.
    The mean over a step's clips is the sum over ranks of each rank's summed loss, divided by `step_size(step)`.
    """

    clips: int
    """Clips in an epoch, over all ranks."""
    batch_size: int
    """Maximum number of clips that a rank sees in a step."""
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    """Whether the clips that do not fill a step are left out of an epoch."""
    balanced_labels: Indices | None = field(default=None, repr=False, compare=False)
    """[clips] class indices of the clips whose classes are balanced; None for each clip once."""
    class_shares: tuple[float, ...] = ()
    """How often each balanced class is drawn, relative to the others; () for equally often."""

    def __post_init__(self) -> None:
        if min(self.clips, self.batch_size) < 1 or self.seed < 0 or not 0 <= self.rank < self.world_size:
            raise DataError(f"found {self}, expected clips and batch size from 1, seed from 0, rank below world_size")
        if not len(self):
            raise DataError(
                f"found {self.clips} clips, expected at least the {self.batch_size * self.world_size} of a step: with "
                "drop_last smaller steps are left out; choose a smaller --batch"
            )

    def __len__(self) -> int:
        """Steps in an epoch, the same for every rank."""
        step = self.batch_size * self.world_size
        return self.clips // step if self.drop_last else -(-self.clips // step)

    @property
    def clips_per_epoch(self) -> int:
        """Clips that all ranks together see in an epoch."""
        return min(self.clips, len(self) * self.batch_size * self.world_size)

    def order(self, epoch: int) -> Indices:
        """[clips] clip indices of the epoch, the same for every rank: a permutation unless classes are balanced."""
        if not self.shuffle:
            return np.arange(self.clips)
        generator = np.random.default_rng((self.seed, epoch))
        if self.balanced_labels is None:
            return generator.permutation(self.clips)
        return _balanced_order(self.balanced_labels, generator, self.class_shares)

    def step_size(self, step: int) -> int:
        """Clips that all ranks together see in a step."""
        most = self.batch_size * self.world_size
        return min(most, self.clips - step * most)

    def rank_slice(self, step: int) -> slice:
        """This rank's part of the order. Parts are even where the batch size is, for mixup's pairs."""
        first, count = step * self.batch_size * self.world_size, self.step_size(step)
        part = -(-count // self.world_size)
        part += part % 2 if self.batch_size % 2 == 0 else 0
        start, stop = (first + min(count, part * rank) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def batches(self, epoch: int, first_step: int = 0) -> list[Indices]:
        """This rank's clip indices for each step of an epoch from `first_step` on."""
        order = self.order(epoch)
        return [order[self.rank_slice(step)] for step in range(first_step, len(self))]

    def repeats(self, epoch: int, first_step: int = 0) -> list[tuple[int, ...]]:
        """How often each clip of `batches` came before in the epoch, on any rank; empty where no clip comes twice."""
        steps = range(first_step, len(self))
        if self.balanced_labels is None:
            return [()] * len(steps)
        order = self.order(epoch)
        places = np.argsort(order, kind="stable")  # of the same clip one after another, in the order of the epoch
        _, first, counts = np.unique(order[places], return_index=True, return_counts=True)
        numbers = np.empty_like(order)
        numbers[places] = np.arange(len(order)) - np.repeat(first, counts)
        return [tuple(numbers[self.rank_slice(step)].tolist()) for step in steps]

    def micro_batch_size(self, micro_batches: int) -> int:
        """Clips of each of `micro_batches` micro-batches, an even number for mixup's pairs."""
        size = -(-self.batch_size // micro_batches)
        return size + size % 2


def balanced_class_weights(labels: Indices, classes: int) -> npt.NDArray[np.float32]:
    """[classes] inverse frequencies of classes, whose mean over the clips is 1; 0 for a class without clips. Pure."""
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0).astype(np.float32)


def _balanced_order(labels: Indices, generator: np.random.Generator, shares: tuple[float, ...] = ()) -> Indices:
    """[clips] clip indices in random order, of each class equally many, or its share, to one."""
    classes = np.unique(labels)
    weights = np.array([shares[label] for label in classes]) if shares else np.ones(len(classes))
    quotas = np.floor(len(labels) * weights / weights.sum() + 1e-9).astype(int)
    quotas[generator.permutation(len(classes))[: len(labels) - quotas.sum()]] += 1
    drawn = []
    for label, quota in zip(classes, quotas.tolist(), strict=True):
        clips = np.flatnonzero(labels == label)
        rounds = -(-quota // len(clips))
        drawn.append(
            np.concatenate([generator.permutation(clips) for _ in range(rounds)])[:quota] if quota else clips[:0]
        )
    return generator.permutation(np.concatenate(drawn))
