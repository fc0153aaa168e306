"""Batches from shards -> model inputs, on the device: images, augmentation before fusion, mixing, fusion.

    faces of a batch uint8 [B, F, 3, S, S]              -> faces        float [B, F, 3, S, S]
    spectrograms of a batch float32 [B, W, rows, 224]   -> spectrograms float [B, W, 1, S, S]

What is drawn for a clip depends on nothing else in its batch but, where clips are mixed, its neighbour: see
`train.data.augment`. Shape suffixes: B clips, F faces, W windows, S pixels a side of a picture: 224, or fewer for an
encoder of smaller input.
"""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from manifests.index import SpectrogramSums
from manifests.schema import CROP_PX, FACE_PX, FRAMES
from train.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    ClipDraws,
    Mixing,
    TransformError,
    augment_spectrograms,
    crop_faces,
    dropped_modalities,
    erase_faces,
    jitter_colour,
    resample,
)
from train.data.batches import Batch, CachedBatch
from train.data.missing import Absent, Missing
from train.data.rand_augment import Plan, rand_augment
from train.fusion import FusionInput, Strategy
from train.models.videomae import InputRange

#: How far 1 dB of gain raises a row: dB spectra by 1 dB, cepstra from coefficient 1 up not at all.
GAIN_RESPONSE: Mapping[str, float] = {"mfcc": 0.0, "logmel": 1.0, "stft": 1.0}


@dataclass(frozen=True)
class PixelRange:
    """How an encoder's input was scaled when it was trained."""

    mean: tuple[float, float, float]
    """Subtracted from RGB in 0..1."""
    std: tuple[float, float, float]
    """RGB is divided by it."""
    spectrogram_mean: float
    """Mean of spectrograms on this scale."""
    spectrogram_std: float


PIXEL_RANGES: Mapping[InputRange, PixelRange] = {
    # Pixels are normalized, so a normalized spectrogram is on the scale already.
    "imagenet": PixelRange(IMAGENET_MEAN, IMAGENET_STD, 0.0, 1.0),
    # Pixels are in 0..1; spectrograms get the mean and standard deviation of ImageNet's images.
    "unit": PixelRange((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.449, 0.226),
}


@dataclass(frozen=True, kw_only=True)
class NormalizationStats:
    """Mean and standard deviation of each row of a spectrogram over the training shards, in the feature's unit."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, sums: SpectrogramSums | None) -> NormalizationStats:
        """From sums over shards. A row that never varies keeps its scale, so that every number stays finite.

        Raises TransformError for sums that give no finite mean or deviation.
        """
        if sums is None:
            return cls()
        if not 0 < sums.count < 1 << 53 or len(sums.total) != len(sums.squares):
            raise TransformError(
                f"statistics of the shards: found a count of {reprlib.repr(sums.count)}; build the shards again"
            )
        with np.errstate(all="ignore"):
            mean = np.array(sums.total) / sums.count
            std = np.sqrt(np.maximum(np.array(sums.squares) / sums.count - mean**2, 0))
        largest = np.finfo(np.float16).max  # of the values that the sums are of
        if not (np.abs(mean) <= largest).all() or not (std <= largest).all():
            raise TransformError("statistics of the shards: found sums out of range; build the shards again")
        std[std < 1e-3] = 1.0
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


class ModelInput(NamedTuple):
    """Inputs of the model, and its targets."""

    inputs: Tensor
    """[B, 3, T, H, W] float32 video, or [B, D] features."""
    targets: Tensor
    """[B, classes] float32, each row's sum 1: one class, or after mixup two."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One way of looking at a test clip; the probabilities of several are averaged.

    A view is what an evaluation chooses where a training draws.
    """

    mirrored: bool = False
    left: float = 0.0
    """Left edge of a square in the face, in sides of a face."""
    top: float = 0.0
    side: float = 1.0
    window: int = 0
    """Which of the batch's windows in time."""

    @property
    def whole_faces(self) -> bool:
        """Whether faces are seen as they are."""
        return replace(self, window=0) == View()


def evaluation_views(*, flip: bool, crops: int, side: float, windows: int = 1) -> tuple[View, ...]:
    """A centred square, or five, also in the corners, of `side` sides of a face; each also mirrored if `flip`.

    So many views are there of each of the windows in time.
    """
    rest = 1 - side
    corners = itertools.product((0.0, rest), repeat=2) if crops > 1 else ()
    squares = [View(left=left, top=top, side=side) for left, top in ((rest / 2, rest / 2), *corners)]
    mirrors = (False, True)[: 1 + flip]
    return tuple(
        replace(view, mirrored=mirrored, window=window)
        for window in range(windows)
        for mirrored in mirrors
        for view in squares
    )


@dataclass(frozen=True, kw_only=True)
class ClipTransform:
    """A batch from shards -> video of the encoder's input size, on the batch's device; for training and evaluation."""

    strategy: Strategy
    classes: int
    """0 for clips without labels, whose targets are empty."""
    feature: str = "mfcc"
    normalization: NormalizationStats = NormalizationStats()
    """Of `<feature>_<windows>` over the training shards; empty where the strategy has no windows."""
    input_range: InputRange = "imagenet"
    """Of the encoder's configuration."""
    input_size: tuple[int, int, int] = (FRAMES, CROP_PX, CROP_PX)
    """T, H, W of the encoder's configuration."""
    augmentation: Augmentation | None = None
    """None: training input is made as evaluation input is."""
    repeats: int = 1
    """Draws of each clip in a training batch: repeated augmentation."""
    seed: int = 0

    @property
    def face_px(self) -> int:
        """Side of the faces that batches should have: the encoder's, where a JPEG decoder can reduce faces to it."""
        side = self.input_size[1]
        return side if side in FACE_PX else CROP_PX

    def evaluation_input(self, batch: Batch, view: View | None = None, missing: Missing | None = None) -> ModelInput:
        """A batch without augmentation, complete or with a part of a modality missing."""
        return self._in_chunks(batch, lambda clips: self._evaluate(clips, view or View(), missing))

    def training_input(self, batch: Batch, epoch: int) -> ModelInput:
        """A batch augmented by (seed, epoch, draw, clip id), then mixed: first one draw of each clip, then the next.

        Each draw sees its window of the batch.
        """
        settings = self.augmentation
        if settings is None:
            draws = [self.evaluation_input(batch, View(window=draw)) for draw in range(self.repeats)]
        else:
            draws = [
                self._in_chunks(batch, lambda clips, draw=draw: self._augment(clips, settings, epoch, draw))
                for draw in range(self.repeats)
            ]
        return draws[0] if len(draws) == 1 else ModelInput(*map(torch.cat, zip(*draws, strict=True)))

    def _in_chunks(self, batch: Batch, make: Callable[[Batch], ModelInput]) -> ModelInput:
        """On a CPU two clips at a time, which are mixed, else all at once; clips do not depend on other pairs.

        On a CPU fresh memory costs more than the arithmetic, and what two clips needed is used again for the next two.
        """
        device = batch.labels.device
        video = torch.empty((len(batch), 3, *self.input_size), device=device)
        targets = torch.empty((len(batch), self.classes), device=device)
        size = 2 if device.type == "cpu" else max(len(batch), 1)
        for start in range(0, len(batch), size):
            clips = slice(start, start + size)
            video[clips], targets[clips] = make(batch[clips])
        return ModelInput(video, targets)

    def _evaluate(self, batch: Batch, view: View, missing: Missing | None) -> ModelInput:
        faces, rows, targets = self._faces(batch, view.window), self._rows(batch, view.window), self._targets(batch)
        faces = faces.float().div_(255)
        if not view.whole_faces and faces.numel():
            box = torch.tensor([view.left, view.top, view.side, view.side]) * CROP_PX
            faces = resample(faces, box.expand(len(batch), 4), torch.full((len(batch),), view.mirrored))
        absent = missing.absent(batch.keys, faces.shape[1], rows.shape[1]) if missing else None
        return self._fuse(batch, faces, rows, targets, absent)

    def _faces(self, batch: Batch, window: int) -> Tensor:
        """uint8 [B, F, 3, S, S], a copy."""
        return fit_faces(batch.faces(self.strategy.faces, window), self.face_px)

    def _rows(self, batch: Batch, window: int) -> Tensor:
        """Normalized spectrograms float32 [B, W, rows, 224]."""
        rows = batch.rows(self.feature, window)
        if self.strategy.windows:
            found, expected = rows.shape[1:3], (self.strategy.windows, len(self.normalization.mean))
            if found != expected:
                raise TransformError(f"{self.strategy.name}: found windows x rows {tuple(found)}, expected {expected}")
            rows = (rows - _column(self.normalization.mean, rows)) / _column(self.normalization.std, rows)
        return rows

    def _targets(self, batch: Batch) -> Tensor:
        if not self.classes:
            return torch.zeros(len(batch), 0, device=batch.labels.device)
        return functional.one_hot(batch.labels, self.classes).float()

    def _augment(self, batch: Batch, settings: Augmentation, epoch: int, draw: int) -> ModelInput:
        """In the order of VideoMAE's `kinetics.py`: RandAugment, crop and flip, erasing, mixing."""
        draws = ClipDraws(keys=batch.draw_keys, seed=self.seed, epoch=epoch, draw=draw)
        faces, rows, targets = self._faces(batch, draw), self._rows(batch, draw), self._targets(batch)
        if settings.rand_augment_operations and faces.numel():
            faces = rand_augment(faces, Plan.drawn(settings, draws))
        faces = faces.float().div_(255)
        if faces.numel():
            faces = crop_faces(faces, settings, draws) if settings.crops else faces
            faces = jitter_colour(faces, settings, draws) if settings.colour else faces
            faces = erase_faces(faces, settings, draws) if settings.erase else faces
        if rows.numel():
            gain_per_db = GAIN_RESPONSE[self.feature] / _column(self.normalization.std, rows)
            rows = augment_spectrograms(rows, settings, draws, gain_per_db)
        if settings.mixes:
            faces, rows = hide(faces, rows, _not_recorded(batch, faces, rows))  # a neighbour gets nothing of it
            mixing = Mixing.drawn(settings, draws)
            faces, targets = mixing.mix_faces(faces), mixing.blend(targets)
            # Of a strategy without faces the sound is all there is to mix.
            mixed = settings.mix_spectrograms or not faces.numel()
            rows = mixing.mix_spectrograms(rows) if mixed and rows.numel() else rows
        absent = None
        if self.strategy.faces and self.strategy.windows:  # without its only modality a model learns nothing
            dropped = dropped_modalities(settings, draws)
            if any(batch.missing):  # nor from nothing at all
                dropped = np.where(np.array(batch.missing) == 0, dropped, 0)
            absent = Absent.wholly(dropped.tolist(), faces.shape[1], rows.shape[1])
        return self._fuse(batch, faces, rows, targets, absent)

    def _fuse(
        self, batch: Batch, faces: Tensor, rows: Tensor, targets: Tensor, absent: Absent | None = None
    ) -> ModelInput:
        """Both modalities on the encoder's scale, without what is absent or not in the recording, then as one video."""
        recorded = _not_recorded(batch, faces, rows)
        absent = recorded if absent is None else absent if recorded is None else absent | recorded
        pixels = PIXEL_RANGES[self.input_range]
        mean, std = (torch.tensor(rgb, device=faces.device)[:, None, None] for rgb in (pixels.mean, pixels.std))
        faces, rows = hide(faces, rows, absent)
        images = spectrogram_images(rows, faces.shape[-1]) * pixels.spectrogram_std + pixels.spectrogram_mean
        pairs = FusionInput(faces=faces.sub_(mean).div_(std), spectrograms=images, keys=batch.keys)
        return ModelInput(downsample(self.strategy(pairs), self.input_size), targets)


def hide(faces: Tensor, rows: Tensor, absent: Absent | None) -> tuple[Tensor, Tensor]:
    """Faces in 0..1 [B, F, 3, S, S] and normalized spectrograms [B, W, rows, 224] with means for what is absent."""
    if absent is not None and absent.sound.any():
        halves = torch.from_numpy(absent.window_halves).to(rows.device)[:, :, None, :, None]
        rows = rows.unflatten(-1, (2, -1)).masked_fill(halves, 0.0).flatten(-2)
    if absent is not None and absent.faces.any():
        hidden = torch.from_numpy(absent.faces).to(faces.device)[..., None, None, None]
        faces = torch.where(hidden, faces.new_tensor(IMAGENET_MEAN)[:, None, None], faces)
    return faces, rows


def _not_recorded(batch: Batch, faces: Tensor, rows: Tensor) -> Absent | None:
    """What the recordings of a batch have nothing of."""
    return Absent.wholly(batch.missing, faces.shape[1], rows.shape[1]) if any(batch.missing) else None


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """[rows, 1] float32."""
    return torch.tensor(numbers, dtype=torch.float32, device=like.device)[:, None]


@dataclass(frozen=True, kw_only=True)
class CachedTransform:
    """The same for features that were computed before, which nothing can augment."""

    classes: int

    def evaluation_input(
        self, batch: CachedBatch, view: View | None = None, missing: Missing | None = None
    ) -> ModelInput:
        """A batch as it is. Raises TransformError for a view or a condition that was not computed."""
        if view not in (None, View()) or missing is not None:
            raise TransformError(f"cached features: found {view}, {missing}; expected complete clips, seen as they are")
        return ModelInput(batch.inputs, functional.one_hot(batch.labels, self.classes).float())

    def training_input(self, batch: CachedBatch, epoch: int) -> ModelInput:  # noqa: ARG002 - as ClipTransform
        """The same in every epoch."""
        return self.evaluation_input(batch)


def downsample(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    """[B, 3, 16, 224, 224] -> [B, 3, *size]: for an encoder of small input, each pixel the mean of those it covers.

    Raises TransformError unless the size divides the video's.
    """
    found = tuple(video.shape[2:])
    if found == size:
        return video
    if any(have % want for have, want in zip(found, size, strict=True)):
        raise TransformError(f"encoder: found input {size}, expected one that divides {found}")
    return functional.avg_pool3d(video, tuple(have // want for have, want in zip(found, size, strict=True)))


def fit_faces(faces: Tensor, side_px: int) -> Tensor:
    """uint8 [B, F, 3, S, S] -> [B, F, 3, side_px, side_px], bilinear with antialiasing, rounded.

    Faces whose side is a multiple stay as they are: `downsample` takes means of the pictures that they become.
    """
    if not faces.numel() or faces.shape[-1] % side_px == 0:
        return faces
    size = (side_px, side_px)
    resized = functional.interpolate(faces.flatten(0, 1).float(), size, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).byte().unflatten(0, faces.shape[:2])


def spectrogram_images(rows: Tensor, side: int = CROP_PX) -> Tensor:
    """[B, W, rows, 224] -> [B, W, 1, side, side], low frequencies at the bottom.

    224x224, bilinear between row centres, without antialiasing (heights only grow, so there is nothing to filter);
    of a smaller side, which divides 224, each pixel is the mean of those it covers.
    """
    if not rows.numel():
        return rows.new_empty(*rows.shape[:2], 1, side, side)
    covered = CROP_PX // side
    upright = rows.flip(-2)
    if covered == 1:
        return functional.interpolate(upright, size=(CROP_PX, side), mode="bilinear", align_corners=False).unsqueeze(2)
    # Both steps are linear: one small matrix in place of pictures that are 16 or more times as large as the result.
    columns = upright.unflatten(-1, (side, covered)).mean(-1)
    return (_row_weights(rows.shape[-2], side).to(rows.device) @ columns).unsqueeze(2)


@lru_cache(maxsize=8)
def _row_weights(rows: int, side: int) -> Tensor:
    """[side, rows] how much of each row is in each row of a smaller image."""
    tall = functional.interpolate(torch.eye(rows)[None, None], size=(CROP_PX, rows), mode="bilinear")
    return functional.avg_pool2d(tall, (CROP_PX // side, 1))[0, 0]
