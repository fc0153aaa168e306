"""Decoded clips of a step, whatever kind of shards they are from.

Shape suffixes: B clips, V windows in time of a clip, F faces, W spectrograms, S pixels a side of a face.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.schema import COLUMNS, FEATURE_ROWS, FRAMES
from manifests.several import clip_of
from manifests.timeline import Seconds
from train.data.spectrograms import spectrogram_windows


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipBatch:
    """What all batches have in common: fields of B clips each."""

    keys: tuple[str, ...]
    """B clip ids."""
    labels: Tensor
    """int64 [B] class indices."""
    repeats: tuple[int, ...] = ()
    """B numbers: how often the clip came before in the epoch; () where no clip comes twice."""

    @property
    def ids(self) -> tuple[str, ...]:
        """B clip ids, of several corpora with the corpus."""
        return self.keys

    @property
    def draw_keys(self) -> tuple[str, ...]:
        """What random numbers of each clip are drawn from: its id and, from its second time in an epoch on, which."""
        return draw_keys(self.ids, self.repeats)

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
class Batch(ClipBatch, ABC):
    """Clips that were read from shards of one kind. A modality that the strategy does not use is empty."""

    speakers: tuple[str, ...]
    """B speaker ids."""
    missing: tuple[int, ...] = ()
    """B codes of what each recording has no part of: 0, or one of `train.data.missing.WHOLLY`; () if all have both."""

    @property
    def ids(self) -> tuple[str, ...]:
        """As of every batch; `keys` are within their corpora."""
        return clip_ids(self.keys, self.speakers)

    @abstractmethod
    def faces(self, count: int, window: int = 0) -> Tensor:
        """uint8 [B, count, 3, S, S] RGB on the batch's device, a copy: of 16 instants of a window, or of 8."""

    @abstractmethod
    def rows(self, feature: str, window: int = 0) -> Tensor:
        """float32 [B, W, rows, 224] spectrograms of a window on the batch's device, dB-like; or [B, 0, 0, 224]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch(Batch):
    """Clips as pairs are stored, at 16 instants of the whole clip: every window is this one."""

    filmstrips: Tensor
    """uint8 [B, S, 16 S, 3] RGB, 16 faces side by side, S = 224 or less; or [B, S, 0, 3]."""
    spectrograms: Tensor
    """float16 [B, W, rows, 224], dB-like; or [B, 0, 0, 224]."""

    def faces(self, count: int, window: int = 0) -> Tensor:  # noqa: ARG002 - there is one
        """As of every batch."""
        return split_filmstrips(self.filmstrips, count).contiguous()

    def rows(self, feature: str, window: int = 0) -> Tensor:  # noqa: ARG002 - stored, of one window
        """As of every batch."""
        return self.spectrograms.float()


@dataclass(frozen=True, kw_only=True, eq=False)
class Sounds:
    """The sound of B clips, on the CPU, and which of it is looked at."""

    samples: tuple[npt.NDArray[np.int16], ...]
    """B arrays [n], mono at 16 kHz."""
    start_seconds: Seconds
    """[B] time of the first sample."""
    window_starts: Seconds
    """[B, V, W] time at which each spectrogram starts."""
    hops: Seconds
    """[B, V] seconds from one spectrogram column to the next."""

    def __getitem__(self, clips: slice) -> Sounds:
        return Sounds(**{field.name: getattr(self, field.name)[clips] for field in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceBatch(Batch):
    """Clips in V windows each: their frames, and the sound that spectrograms are computed from."""

    frames: Tensor
    """uint8 [B, V, F, S, S, 3] RGB."""
    sounds: Sounds

    def faces(self, count: int, window: int = 0) -> Tensor:
        """As of every batch. `count` is F."""
        assert count == self.frames.shape[2]
        return self.frames[:, window].permute(0, 1, 4, 2, 3).contiguous()

    def rows(self, feature: str, window: int = 0) -> Tensor:
        """As of every batch, computed on its device."""
        device, sounds = self.labels.device, self.sounds
        count = sounds.window_starts.shape[2]
        if not len(self) or not count:
            return torch.empty((len(self), count, FEATURE_ROWS[feature] if count else 0, COLUMNS), device=device)
        return spectrogram_windows(
            sounds.samples,
            sounds.start_seconds,
            sounds.window_starts[:, window],
            sounds.hops[:, window],
            feature,
            device,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedBatch(ClipBatch):
    """Clips whose features were computed before."""

    inputs: Tensor
    """[B, D]."""


def clip_ids(keys: Sequence[str], speakers: Sequence[str]) -> tuple[str, ...]:
    """Ids of clips of these speakers, of several corpora with the corpus."""
    return tuple(map(clip_of, speakers, keys))


def draw_keys(ids: Sequence[str], repeats: Sequence[int]) -> tuple[str, ...]:
    """As `ClipBatch.draw_keys`; `repeats` is empty where no clip comes twice."""
    if not repeats:
        return tuple(ids)
    return tuple(f"{key} {n}" if n else key for key, n in zip(ids, repeats, strict=True))


def split_filmstrips(filmstrips: Tensor, count: int) -> Tensor:
    """[B, S, 16 S, 3] -> [B, count, 3, S, S], every (16/count)-th face from the first on, without a copy."""
    side = filmstrips.shape[1]
    images = filmstrips.unflatten(2, (filmstrips.shape[2] // side, side)).permute(0, 2, 4, 1, 3)
    return images[:, :: FRAMES // count] if count else images[:, :0]
