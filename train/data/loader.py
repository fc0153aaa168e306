"""Decoded batches of clips, each clip exactly once an epoch over all ranks.

Decoding runs in threads: the JPEG decoder releases Python's lock, so threads decode in parallel, straight into the
batch; worker processes would have to write every image into fresh shared memory, which costs about as much as decoding
it. Only the sampler decides the order of clips, so any number of threads produces equal batches.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

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
from train.data import DataError
from train.data.clip_table import FACES, ClipTable
from train.data.prefetch import ShardPrefetcher
from train.data.sampler import ClipSampler, Indices

#: Batches decoded ahead of the one in use.
PREFETCH_BATCHES = 2
#: Shards kept open; others are opened for each read, so that the system's limit on open files is not reached.
MAX_OPEN_SHARDS = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipBatch:
    """What batches of both loaders have in common: fields of B clips each."""

    keys: tuple[str, ...]
    """B clip ids."""
    labels: Tensor
    """int64 [B] class indices."""
    repeats: tuple[int, ...] = ()
    """B numbers: how often the clip came before in the epoch; () where no clip comes twice."""

    @property
    def draw_keys(self) -> tuple[str, ...]:
        """What random numbers of each clip are drawn from: its id and, from its second time in an epoch on, which."""
        if not self.repeats:
            return self.keys
        return tuple(f"{key} {n}" if n else key for key, n in zip(self.keys, self.repeats, strict=True))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, clips: slice) -> Self:
        """Some of the clips, without a copy."""
        return replace(self, **{field.name: getattr(self, field.name)[clips] for field in fields(self)})

    def split(self, size: int) -> list[Self]:
        """Micro-batches of `size` clips, without a copy; at least one, which may be empty."""
        return [self[start : start + size] for start in range(0, max(len(self), 1), size)]

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device; from pinned memory the copy is asynchronous."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(ClipBatch):
    """Clips as they are stored in shards. A modality that the strategy does not use has no faces or no windows."""

    speakers: tuple[str, ...]
    """B speaker ids."""
    filmstrips: Tensor
    """uint8 [B, S, 16 S, 3] RGB, 16 faces side by side, S = 224 or less; or [B, S, 0, 3]."""
    spectrograms: Tensor
    """float16 [B, windows, rows, 224], dB-like; or [B, 0, 0, 224]."""
    missing: tuple[int, ...] = ()
    """B codes of what each recording has no part of: 0, or one of `train.data.missing.WHOLLY`; () if all have both."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedBatch(ClipBatch):
    """Clips whose features were computed before."""

    inputs: Tensor
    """[B, D]."""


@dataclass(frozen=True, eq=False)
class CachedLoader:
    """Batches of features of a frozen encoder, which were computed once and stay on the device."""

    inputs: Tensor
    """[clips, D]."""
    labels: Tensor
    """int64 [clips]."""
    keys: tuple[str, ...]
    """Clip ids."""
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
        workers: int = 2,
        pin: bool = False,
        prefetcher: ShardPrefetcher | None = None,
    ) -> None:
        """Decode ahead of use with `workers` threads, or on request with none; into pinned memory with `pin`.

        Faces are decoded to `face_px` pixels a side, one of FACE_PX. A shard is read once `prefetcher` has it ready;
        without one all are.
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
        self._reader = ClipReader(clips, face_px)
        self._face_px = face_px
        self._buffers = {suffix: _BufferPool(sampler.batch_size, suffix, face_px, pin) for suffix in clips.members}

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from `first_step` on; those before it are not decoded.

        Raises DataError naming the shard for bytes that do not match its index, and StoreError for one that cannot be
        downloaded.
        """
        batches = self.sampler.batches(epoch, first_step)
        if batches and not self._prefetcher.complete:
            self._prefetcher.prioritize(self._shard_names(np.concatenate(batches)))
        decoded = self._decode_ahead(batches) if self._workers else map(self._decode, batches)
        if self.sampler.balanced_labels is None:
            return decoded
        return map(_with_repeats, decoded, self.sampler.repeats(epoch, first_step))

    def _shard_names(self, clips: Indices) -> list[str]:
        """Names of the shards that contain these clips, in the order in which they are needed."""
        shards, places = np.unique(self.clips.shard[clips], return_index=True)
        return [self.clips.shards[shard] for shard in shards[np.argsort(places)]]

    def _decode_ahead(self, batches: Iterable[Indices]) -> Iterator[Batch]:
        """Batches in order, each decoded by all threads together, a few of them before they are requested.

        While the shards of a batch are not ready, batches that were decoded before it are handed out.
        """
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        try:
            for clips in batches:
                if not self._prefetcher.complete:
                    shards = self._shard_names(clips)
                    while waiting and not self._prefetcher.is_ready(shards):
                        yield _finish_batch(*waiting.popleft())
                    self._prefetcher.wait(shards)
                batch, arrays = self._allocate(clips)
                parts = (range(first, len(clips), self._workers) for first in range(self._workers))
                waiting.append((batch, [pool.submit(self._fill, arrays, clips, part) for part in parts]))
                if len(waiting) > PREFETCH_BATCHES:
                    yield _finish_batch(*waiting.popleft())
            while waiting:
                yield _finish_batch(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, clips: Indices) -> Batch:
        """One batch, decoded by the calling thread."""
        if not self._prefetcher.complete:
            self._prefetcher.wait(self._shard_names(clips))
        batch, arrays = self._allocate(clips)
        self._fill(arrays, clips, range(len(clips)))
        return batch

    def _allocate(self, clips: Indices) -> tuple[Batch, Mapping[str, npt.NDArray[Any]]]:
        """A batch without content, and the arrays to fill: member suffix -> [B, ...], in the batch's own memory."""
        tensors = {suffix: buffers.take(len(clips)) for suffix, buffers in self._buffers.items()}
        arrays = {suffix: tensor.numpy() for suffix, tensor in tensors.items()}
        filmstrips = tensors.pop(FACES, torch.empty((len(clips), self._face_px, 0, 3), dtype=torch.uint8))
        nothing = torch.empty((len(clips), 0, 0, COLUMNS), dtype=torch.float16)
        batch = Batch(
            keys=tuple(key.decode() for key in self.clips.keys[clips]),
            speakers=tuple(self.clips.speakers[shard] for shard in self.clips.shard[clips]),
            filmstrips=filmstrips,
            spectrograms=next(iter(tensors.values()), nothing),
            labels=torch.from_numpy(self.clips.labels[clips]),
            missing=tuple(self.clips.missing[clips].tolist()),
        )
        return batch, arrays

    def _fill(self, arrays: Mapping[str, npt.NDArray[Any]], clips: Indices, rows: Iterable[int]) -> None:
        for row in rows:
            for member, suffix in enumerate(self.clips.members):
                self._reader.decode(int(clips[row]), member, arrays[suffix][row])


class ClipReader:
    """Members of clips, read from their tars and decoded; any thread may read."""

    def __init__(self, clips: ClipTable, face_px: int = CROP_PX) -> None:
        self._clips = clips
        self._face_px = face_px
        self._shards = _ShardFiles([clips.folder / name for name in clips.shards])

    def decode(self, clip: int, member: int, out: npt.NDArray[Any]) -> None:
        """Decode member `clips.members[member]` of one clip into `out`, of its shape: see `member_shape`.

        Raises DataError naming the shard for bytes that do not match its index.
        """
        shard, suffix = int(self._clips.shard[clip]), self._clips.members[member]
        offset, size = self._clips.byte_ranges[clip, member].tolist()
        try:
            data = self._shards.read(shard, offset, size)
            if len(data) != size:
                raise SchemaError(f"{suffix}: found {len(data)} bytes, expected {size}")
            if suffix == FACES:
                decode_filmstrip(data, out, self._face_px)
            else:
                out[...] = decode_spectrogram(data, suffix.removesuffix(".npy"))
        except (SchemaError, OSError) as error:
            path, key = self._clips.folder / self._clips.shards[shard], self._clips.keys[clip].decode()
            raise DataError(f"{path}: damaged at clip {key}: {error}; build or fetch it again") from error


def member_shape(suffix: str, face_px: int = CROP_PX) -> tuple[int, ...]:
    """Shape of a decoded member: a filmstrip, uint8 [S, 16 S, 3], or spectrograms, float16 [windows, rows, 224]."""
    return (face_px, FRAMES * face_px, 3) if suffix == FACES else spectrogram_shape(suffix.removesuffix(".npy"))


class _ShardFiles:
    """Tars, opened when first read; any thread may read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._descriptors: dict[int, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._descriptors)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a tar, fewer at its end. Raises OSError."""
        with self._lock:
            if shard not in self._descriptors and len(self._descriptors) < MAX_OPEN_SHARDS:
                self._descriptors[shard] = os.open(self._paths[shard], os.O_RDONLY)
            descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        with self._paths[shard].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)


class _BufferPool:
    """Memory for one member of a batch, reused once nothing refers to it: fresh pages cost a third of decoding."""

    def __init__(self, batch_size: int, suffix: str, face_px: int, pin: bool) -> None:
        self._clip = member_shape(suffix, face_px)
        self._dtype = torch.uint8 if suffix == FACES else torch.float16
        self._batch_size = batch_size
        self._pin = pin
        self._free: list[Tensor] = []

    def take(self, clips: int) -> Tensor:
        """[clips, ...] uninitialised. torch recycles pinned memory itself."""
        if self._pin:
            return torch.empty((clips, *self._clip), dtype=self._dtype, pin_memory=True)
        whole = self._free.pop() if self._free else torch.empty((self._batch_size, *self._clip), dtype=self._dtype)
        borrowed = whole.numpy()[:clips]
        weakref.finalize(borrowed, self._free.append, whole)  # once the last tensor that uses it is freed
        return torch.from_numpy(borrowed)


def _finish_batch(batch: Batch, parts: Sequence[Future[None]]) -> Batch:
    """Wait until all parts of a batch are decoded. Raises the error of one that could not be."""
    for part in parts:
        part.result()
    return batch


def _with_repeats(batch: Batch, repeats: tuple[int, ...]) -> Batch:
    return replace(batch, repeats=repeats)


def _close_all(descriptors: Mapping[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
