"""Decoded batches of clips, each clip exactly once an epoch over all ranks.

Decoding runs in threads: the JPEG decoder releases Python's lock, so threads decode in parallel, straight into the
batch; worker processes would have to write every image into fresh shared memory, which costs about as much as decoding
it. Only the sampler decides the order of clips, so any number of threads produces equal batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifests.schema import CROP_PX
from train.data import DataError
from train.data.batches import Batch, CachedBatch
from train.data.clip_table import ClipTable
from train.data.kinds import READERS
from train.data.prefetch import ShardPrefetcher
from train.data.readers import PendingBatch
from train.data.sampler import ClipSampler, Indices
from train.data.windows import WHOLE_CLIPS, Windows

#: Batches decoded ahead of the one in use.
PREFETCH_BATCHES = 2


@dataclass(frozen=True, eq=False)
class CachedLoader:
    """Batches of features of a frozen encoder, which were computed once and stay on the device."""

    inputs: Tensor
    """[clips, D]."""
    labels: Tensor
    """int64 [clips]."""
    keys: tuple[str, ...]
    """Clip ids, of several corpora with the corpus."""
    sampler: ClipSampler

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[CachedBatch]:
        """Batches of an epoch from `first_step` on."""
        repeats = self.sampler.repeats(epoch, first_step)
        for indices, numbers in zip(self.sampler.batches(epoch, first_step), repeats, strict=True):
            clips = torch.from_numpy(indices)
            yield CachedBatch(
                keys=tuple(self.keys[clip] for clip in indices),
                labels=self.labels[clips],
                repeats=numbers,
                inputs=self.inputs[clips.to(self.inputs.device)],
            )


class Loader:
    """Batches that are read from shards and decoded."""

    def __init__(
        self,
        clips: ClipTable,
        sampler: ClipSampler,
        *,
        face_px: int = CROP_PX,
        windows: Windows = WHOLE_CLIPS,
        workers: int = 2,
        pin: bool = False,
        prefetcher: ShardPrefetcher | None = None,
    ) -> None:
        """Decode ahead of use with `workers` threads, or on request with none; into pinned memory with `pin`.

        Faces are decoded to `face_px` pixels a side, one of FACE_PX, or a few more where stored crops have another
        side. `windows` says which part of a clip is seen, where shards have every frame. A shard is read once
        `prefetcher` has it ready; without one all are.
        """
        if sampler.clips != len(clips) or workers < 0:
            raise DataError(
                f"found a sampler of {sampler.clips} clips, {workers} workers; expected {len(clips)}, 0 or more"
            )
        self.clips = clips
        self.sampler = sampler
        self.labels = torch.from_numpy(clips.labels)
        self._workers = workers
        self._prefetcher = prefetcher or ShardPrefetcher((), lambda *_: None)
        self._reader = READERS[clips.members.kind](
            clips, face_px=face_px, windows=windows, batch_size=sampler.batch_size, pin=pin
        )

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on; those before it are not decoded.

        Raises DataError naming the shard for bytes that do not match its index, and StoreError for one that cannot be
        downloaded.
        """
        batches = self.sampler.batches(epoch, first_step)
        if batches and not self._prefetcher.complete:
            self._prefetcher.prioritize(self._shard_names(np.concatenate(batches)))
        steps = zip(batches, self.sampler.repeats(epoch, first_step), strict=True)
        if self._workers:
            return self._decode_ahead(steps, epoch)
        return (self._decode(clips, repeats, epoch) for clips, repeats in steps)

    def _shard_names(self, clips: Indices) -> list[str]:
        """Names of the shards that contain these clips, in the order in which they are needed."""
        shards, places = np.unique(self.clips.shard[clips], return_index=True)
        return [self.clips.shards[shard] for shard in shards[np.argsort(places)]]

    def _decode_ahead(self, steps: Iterable[tuple[Indices, tuple[int, ...]]], epoch: int) -> Iterator[Batch]:
        """Batches in order, each decoded by all threads together, a few of them before they are requested.

        While the shards of a batch are not ready, batches that were decoded before it are handed out.
        """
        waiting: deque[tuple[PendingBatch, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        try:
            for clips, repeats in steps:
                if not self._prefetcher.complete:
                    shards = self._shard_names(clips)
                    while waiting and not self._prefetcher.is_ready(shards):
                        yield _finish_batch(*waiting.popleft())
                    self._prefetcher.wait(shards)
                batch = self._reader.start(clips, epoch, repeats)
                parts = (range(first, len(clips), self._workers) for first in range(self._workers))
                waiting.append((batch, [pool.submit(batch.fill, part) for part in parts]))
                if len(waiting) > PREFETCH_BATCHES:
                    yield _finish_batch(*waiting.popleft())
            while waiting:
                yield _finish_batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, clips: Indices, repeats: tuple[int, ...], epoch: int) -> Batch:
        """One batch, decoded by the calling thread."""
        if not self._prefetcher.complete:
            self._prefetcher.wait(self._shard_names(clips))
        batch = self._reader.start(clips, epoch, repeats)
        batch.fill(range(len(clips)))
        return batch.finish()


def _finish_batch(batch: PendingBatch, parts: Sequence[Future[None]]) -> Batch:
    """Wait until all parts of a batch are decoded. Raises the error of one that could not be."""
    for part in parts:
        part.result()
    return batch.finish()
