"""Clips -> batches: each clip exactly once an epoch over all ranks, in an order that (seed, epoch) alone decides.

Decoding runs in threads. The JPEG decoder lets go of Python's lock, so threads decode side by side, straight into the
batch; worker processes would have to write every picture into fresh shared memory, which costs about what decoding it
does. The order of clips and what becomes of them know nothing of threads, so any number of them gives equal batches.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.schema import (
    COLUMNS,
    CROP_PX,
    FRAMES,
    SchemaError,
    decode_filmstrip,
    decode_spectrogram,
    spectrogram_shape,
)
from train.data import FACES, Clips, DataError
from train.supply import Supply

#: Batches decoded ahead of the one in use.
AHEAD = 2
#: Shards kept open; those beyond are opened for each read, lest the system's limit on open files be hit.
KEPT_OPEN = 512

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Clips as they lie in the shards. Of a modality that was not asked for there are no faces, no windows."""

    keys: tuple[str, ...]
    """B clip ids."""
    speakers: tuple[str, ...]
    """B subject ids."""
    filmstrips: Tensor
    """uint8 [B, 224, 3584, 3] RGB, 16 faces side by side; or [B, 224, 0, 3]."""
    spectrograms: Tensor
    """float16 [B, windows, rows, 224], dB-like; or [B, 0, 0, 224]."""
    labels: Tensor
    """int64 [B] class indices."""

    def __len__(self) -> int:
        return len(self.keys)

    def piece(self, clips: slice) -> Batch:
        """Some of its clips, without a copy."""
        return Batch(
            keys=self.keys[clips],
            speakers=self.speakers[clips],
            filmstrips=self.filmstrips[clips],
            spectrograms=self.spectrograms[clips],
            labels=self.labels[clips],
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; from pinned memory the copy does not keep the caller waiting."""
        filmstrips, spectrograms, labels = (
            tensor.to(device, non_blocking=True) for tensor in (self.filmstrips, self.spectrograms, self.labels)
        )
        return Batch(
            keys=self.keys, speakers=self.speakers, filmstrips=filmstrips, spectrograms=spectrograms, labels=labels
        )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which clips a rank sees at which step; pure arithmetic.

    A step's clips are the next `ranks * batch_size` of the epoch's order, in one piece a rank, so that one process with
    the product as its batch size takes the same steps. The last step has what is left, shared out in pieces as equal
    as can be: a rank may get a smaller batch there, or an empty one, but takes part in it. The mean over a step's clips
    is the sum over ranks of each rank's summed loss divided by `clips_in(step)`.
    """

    clips: int
    """Clips in an epoch, over all ranks."""
    batch_size: int
    """Most clips a rank sees in a step."""
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if min(self.clips, self.batch_size) < 1 or self.seed < 0 or not 0 <= self.rank < self.ranks:
            raise DataError(f"found {self}, expected clips and batch size from 1, seed from 0, rank below ranks")

    def __len__(self) -> int:
        """Steps in an epoch, the same for every rank."""
        return -(-self.clips // self._step_clips)

    @property
    def _step_clips(self) -> int:
        return self.batch_size * self.ranks

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """[clips] the epoch's permutation, the same for every rank."""
        if not self.shuffle:
            return np.arange(self.clips)
        return np.random.default_rng((self.seed, epoch)).permutation(self.clips)

    def clips_in(self, step: int) -> int:
        """Clips that all ranks together see in a step."""
        return min(self._step_clips, self.clips - step * self._step_clips)

    def share(self, step: int) -> slice:
        """This rank's places in the epoch's order. Pieces are even where the batch size is, for mixup's pairs."""
        first, count = step * self._step_clips, self.clips_in(step)
        piece = -(-count // self.ranks)
        piece += piece % 2 if self.batch_size % 2 == 0 else 0
        start, stop = (first + min(count, piece * rank) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)


class Loader:
    """Decoded batches of a schedule."""

    def __init__(
        self, clips: Clips, schedule: Schedule, *, workers: int = 2, pin: bool = False, supply: Supply | None = None
    ) -> None:
        """Decode with `workers` threads, ahead of use, or with none, when asked; into pinned memory with `pin`.

        A shard is read once `supply` has made it ready; without one all are.
        """
        if schedule.clips != len(clips) or workers < 0:
            raise DataError(
                f"found {schedule.clips} clips scheduled, {workers} workers; expected {len(clips)}, 0 or more"
            )
        self.clips = clips
        self.schedule = schedule
        self._workers = workers
        self._supply = supply or Supply((), lambda *_: None)
        self._shards = _Shards([clips.folder / name for name in clips.shards])
        self._buffers = {suffix: _Buffers(schedule.batch_size, suffix, pin) for suffix in clips.members}

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.schedule)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from step `first` on; steps before it are not decoded.

        Raises DataError naming the shard for bytes that are not what its index promises; StoreError for one that
        cannot be fetched.
        """
        order = self.schedule.order(epoch)
        shares = [order[self.schedule.share(step)] for step in range(first, len(self))]
        if shares and not self._supply.complete:
            self._supply.first(self._shards_of(np.concatenate(shares)))
        return self._ahead(shares) if self._workers else map(self._read, shares)

    def _shards_of(self, clips: Ints) -> list[str]:
        """Names of the shards that hold some clips, in the order in which they are needed."""
        shards, places = np.unique(self.clips.shard[clips], return_index=True)
        return [self.clips.shards[shard] for shard in shards[np.argsort(places)]]

    def _ahead(self, shares: Iterable[Ints]) -> Iterator[Batch]:
        """Batches in order, each decoded by all threads together, a few before they are asked for.

        While a batch's shards are on their way, those decoded before it are given out.
        """
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        try:
            for clips in shares:
                if not self._supply.complete:
                    shards = self._shards_of(clips)
                    while waiting and not self._supply.has(shards):
                        yield _finished(*waiting.popleft())
                    self._supply.wait(shards)
                batch, arrays = self._empty(clips)
                parts = (range(first, len(clips), self._workers) for first in range(self._workers))
                waiting.append((batch, [pool.submit(self._fill, arrays, clips, part) for part in parts]))
                if len(waiting) > AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, clips: Ints) -> Batch:
        if not self._supply.complete:
            self._supply.wait(self._shards_of(clips))
        batch, arrays = self._empty(clips)
        self._fill(arrays, clips, range(len(clips)))
        return batch

    def _empty(self, clips: Ints) -> tuple[Batch, Mapping[str, npt.NDArray[Any]]]:
        """A batch to be filled, and the arrays to fill: member suffix -> [B, ...], in the batch's own memory."""
        tensors = {suffix: buffers.take(len(clips)) for suffix, buffers in self._buffers.items()}
        arrays = {suffix: tensor.numpy() for suffix, tensor in tensors.items()}
        filmstrips = tensors.pop(FACES, torch.empty((len(clips), CROP_PX, 0, 3), dtype=torch.uint8))
        nothing = torch.empty((len(clips), 0, 0, COLUMNS), dtype=torch.float16)
        batch = Batch(
            keys=tuple(key.decode() for key in self.clips.keys[clips]),
            speakers=tuple(self.clips.speakers[shard] for shard in self.clips.shard[clips]),
            filmstrips=filmstrips,
            spectrograms=next(iter(tensors.values()), nothing),
            labels=torch.from_numpy(self.clips.labels[clips]),
        )
        return batch, arrays

    def _fill(self, arrays: Mapping[str, npt.NDArray[Any]], clips: Ints, rows: Iterable[int]) -> None:
        for row in rows:
            for member, suffix in enumerate(self.clips.members):
                arrays[suffix][row] = self._decoded(int(clips[row]), member)

    def _decoded(self, clip: int, member: int) -> npt.NDArray[Any]:
        """One member of one clip; DataError names its shard if it is not as promised."""
        shard, suffix = int(self.clips.shard[clip]), self.clips.members[member]
        offset, size = self.clips.places[clip, member].tolist()
        try:
            data = self._shards.read(shard, offset, size)
            if len(data) != size:
                raise SchemaError(f"{suffix}: found {len(data)} bytes, expected {size}")
            return decode_filmstrip(data) if suffix == FACES else decode_spectrogram(data, suffix.removesuffix(".npy"))
        except (SchemaError, OSError) as error:
            path, key = self.clips.folder / self.clips.shards[shard], self.clips.keys[clip].decode()
            raise DataError(f"{path}: damaged at clip {key}: {error}; build or fetch it again") from error


class _Shards:
    """Tars, opened when first read and by any thread."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a tar, fewer where it ends. Raises OSError."""
        descriptor = self._kept(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        with self._paths[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def _kept(self, shard: int) -> int | None:
        with self._lock:
            if shard not in self._open and len(self._open) < KEPT_OPEN:
                self._open[shard] = os.open(self._paths[shard], os.O_RDONLY)
            return self._open.get(shard)


class _Buffers:
    """Memory for one member of a batch, used again once nothing refers to it: fresh pages cost a third of decoding."""

    def __init__(self, batch_size: int, suffix: str, pin: bool) -> None:
        faces = suffix == FACES
        self._clip = (CROP_PX, FRAMES * CROP_PX, 3) if faces else spectrogram_shape(suffix.removesuffix(".npy"))
        self._dtype = torch.uint8 if faces else torch.float16
        self._whole = (batch_size, *self._clip)
        self._pin = pin
        self._free: list[Tensor] = []

    def take(self, clips: int) -> Tensor:
        """[clips, ...] uninitialised. torch recycles pinned memory itself."""
        if self._pin:
            return torch.empty((clips, *self._clip), dtype=self._dtype, pin_memory=True)
        whole = self._free.pop() if self._free else torch.empty(self._whole, dtype=self._dtype)
        borrowed = whole.numpy()[:clips]
        weakref.finalize(borrowed, self._free.append, whole)  # when the last tensor made of it is gone
        return torch.from_numpy(borrowed)


def _finished(batch: Batch, parts: Sequence[Future[None]]) -> Batch:
    for part in parts:
        part.result()
    return batch


def _close(descriptors: Mapping[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
