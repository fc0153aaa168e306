"""What the loop is fed: each step's share of a rank in pieces, and a piece as what a model is given.

Shape suffixes: B clips of a piece, C classes, D width of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from train.imaging import Imaging, mix, mixup_weights
from train.loader import Batch, Loader, Schedule
from train.recipes import UNCHANGED

Piece = TypeVar("Piece")


class FeedError(ValueError):
    """Input that cannot be made for an encoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What a model is given, and what is to be learnt from it."""

    inputs: Tensor
    """[B, 3, T, H, W] video, or [B, D] features."""
    targets: Tensor
    """[B, C] float32, each row's sum 1."""


class Feed(Protocol[Piece]):
    """Clips of one side of a fold, again every epoch."""

    @property
    def schedule(self) -> Schedule:
        """Which clips come when."""

    @property
    def labels(self) -> Tensor:
        """int64 [clips] classes, in the order of a schedule that does not shuffle."""

    def steps(self, epoch: int, first: int = 0) -> Iterator[Sequence[Piece]]:
        """This rank's pieces of each step from `first` on; at least one, perhaps empty."""

    def examples(self, piece: Piece, epoch: int) -> Examples:
        """A piece as input, on the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFeed:
    """Fused videos; augmented for training, as they are for evaluation."""

    loader: Loader
    imaging: Imaging
    size: tuple[int, int, int]
    """Input of the encoder: T, H, W."""
    device: torch.device
    pieces: int = 1
    """Micro-batches a step."""
    training: bool = False

    @property
    def schedule(self) -> Schedule:
        """The loader's."""
        return self.loader.schedule

    @property
    def labels(self) -> Tensor:
        """int64 [clips]."""
        return torch.from_numpy(self.loader.clips.labels)

    def steps(self, epoch: int, first: int = 0) -> Iterator[Sequence[Batch]]:
        """Decoded batches, cut into pieces of an even size, for mixup's pairs."""
        size = -(-self.schedule.batch_size // self.pieces)
        size += size % 2
        for batch in self.loader.epoch(epoch, first):
            yield [batch.piece(slice(at, at + size)) for at in range(0, max(len(batch), 1), size)]

    def examples(self, piece: Batch, epoch: int) -> Examples:
        """[B, 3, T, H, W] and targets."""
        batch = piece.to(self.device)
        augmented = self.training and self.imaging.augmentation != UNCHANGED
        fused = self.imaging.training_input(batch, epoch) if augmented else self.imaging.evaluation_input(batch)
        return Examples(inputs=pooled(fused.video, self.size), targets=fused.targets)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldFeed:
    """Inputs that were made once and are kept on the device: a frozen encoder's features, or a small corpus's videos.

    All fusion but `rfas` is linear, so that mixing what is fused is mixing both modalities before fusion.
    """

    inputs: Tensor
    """[clips, D] or [clips, 3, T, H, W]."""
    labels: Tensor
    """int64 [clips]."""
    keys: tuple[str, ...]
    """Clip ids."""
    classes: int
    schedule: Schedule
    mixup: float = 0.0
    """Of `Augmentation`."""

    def steps(self, epoch: int, first: int = 0) -> Iterator[Sequence[Tensor]]:
        """Places of each step's clips, in one piece."""
        order = torch.from_numpy(self.schedule.order(epoch))
        for step in range(first, len(self.schedule)):
            yield [order[self.schedule.share(step)]]

    def examples(self, piece: Tensor, epoch: int) -> Examples:
        """Inputs and targets of the clips at some places."""
        places = piece.to(self.inputs.device)
        inputs = self.inputs[places]
        targets = functional.one_hot(self.labels[piece], self.classes).float().to(inputs.device)
        if self.mixup:
            keys = [self.keys[place] for place in piece.tolist()]
            weights = mixup_weights(keys, self.mixup, self.schedule.seed, epoch, inputs.device)
            inputs, targets = mix(inputs, weights), mix(targets, weights)
        return Examples(inputs=inputs, targets=targets)


def pooled(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[B, 3, 16, 224, 224] -> [B, 3, *size]: for an encoder of small input, each pixel the mean of those it covers.

    Raises FeedError unless the size goes into the video's.
    """
    found = tuple(video.shape[2:])
    if found == size:
        return video
    if any(have % want for have, want in zip(found, size, strict=True)):
        raise FeedError(f"encoder: found input {size}, expected one that goes into {found}")
    steps = tuple(have // want for have, want in zip(found, size, strict=True))
    return functional.avg_pool3d(video, steps)
