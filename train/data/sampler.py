"""Which clips each process sees at which step. Pure."""

from __future__ import annotations

from dataclasses import dataclass

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
        """[clips] permutation of the epoch, the same for every rank."""
        if not self.shuffle:
            return np.arange(self.clips)
        return np.random.default_rng((self.seed, epoch)).permutation(self.clips)

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

    def micro_batch_size(self, micro_batches: int) -> int:
        """Clips of each of `micro_batches` micro-batches, an even number for mixup's pairs."""
        size = -(-self.batch_size // micro_batches)
        return size + size % 2
