"""Batches from shards -> model inputs, on the device: images, augmentation before fusion, mixup, fusion.

    filmstrips uint8 [B, 224, 3584, 3]     -> faces        [B, F, 3, 224, 224]
    spectrograms float16 [B, W, rows, 224] -> spectrograms [B, W, 1, 224, 224]

Every random number belongs to a clip: it is drawn only from (seed, epoch, clip id), so that workers, ranks and the
other clips of a batch do not change how a clip is augmented. Shape suffixes: B clips, F faces, W windows.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from manifests.errors import UserError
from manifests.index import Statistics
from manifests.schema import COLUMNS, CROP_PX, FRAMES
from train.data.loader import Batch, CachedBatch
from train.fusion import Pairs, Strategy
from train.models.videomae import InputRange

#: Windows overlap by half: window i begins 112 columns after window i-1, on the grid of 16 and on that of 8.
WINDOW_HOP_COLUMNS = COLUMNS // 2

#: How far 1 dB of gain raises a row: dB spectra by 1 dB, cepstra from coefficient 1 up not at all.
GAIN_RESPONSE: Mapping[str, float] = {"mfcc": 0.0, "logmel": 1.0, "stft": 1.0}

_LUMA = (0.299, 0.587, 0.114)
_DRAWN = (
    *("crop", "crop_x", "crop_y", "flip", "brightness", "contrast", "saturation"),
    *("time_length", "time_start", "frequency_length", "frequency_start", "gain"),
)


class TransformError(UserError):
    """Settings out of range, or a batch or an encoder that does not fit them."""


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
    "imagenet": PixelRange((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.0, 1.0),
    # Pixels are in 0..1; spectrograms get the mean and standard deviation of ImageNet's images.
    "unit": PixelRange((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.449, 0.226),
}


@dataclass(frozen=True, kw_only=True)
class NormalizationStats:
    """Mean and standard deviation of each row of a spectrogram over the training shards, in the feature's unit."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, sums: Statistics | None) -> NormalizationStats:
        """From sums over shards. A row that never varies keeps its scale, so that every number stays finite.

        Raises TransformError for sums of which no finite mean and deviation follow.
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


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Limits of augmentation, each modality on its own, before fusion; 0, and a crop_scale of 1, mean no change."""

    crop_scale: float = 0.8
    """Smallest side of the square cut out of a clip's faces, in sides of a face; drawn from here to 1."""
    flip: float = 0.5
    """Probability that a clip's faces are mirrored."""
    colour: float = 0.2
    """Brightness, contrast and saturation are each multiplied by a factor of [1 - c, 1 + c] for this c."""
    time_mask: float = 0.1
    """Maximum fraction of a clip's windows that is masked."""
    frequency_mask: float = 0.2
    """Maximum fraction of a spectrogram's rows that is masked."""
    gain_db: float = 6.0
    """Maximum change of the sound's level, up or down; MFCC 1..13 do not depend on it."""
    mixup: float = 0.2
    """Both parameters of the Beta distribution that mixing weights are drawn from."""

    def __post_init__(self) -> None:
        shares = (self.crop_scale, self.flip, self.colour, self.time_mask, self.frequency_mask)
        if max(shares) > 1 or min(*shares, self.gain_db, self.mixup) < 0 or self.crop_scale == 0:
            raise TransformError(f"found {self}, expected shares in 0..1, crop_scale above 0, no negative number")


class ModelInput(NamedTuple):
    """Inputs of the model, and its targets."""

    inputs: Tensor
    """[B, 3, T, H, W] float32 video, or [B, D] features."""
    targets: Tensor
    """[B, classes] float32, each row's sum 1: one class, or after mixup two."""


@dataclass(frozen=True, kw_only=True)
class ClipTransform:
    """A batch from shards -> video of the encoder's input size, on the batch's device; for training and evaluation."""

    strategy: Strategy
    classes: int
    feature: str = "mfcc"
    normalization: NormalizationStats = NormalizationStats()
    """Of `<feature>_<windows>` over the training shards; empty where the strategy has no windows."""
    input_range: InputRange = "imagenet"
    """Of the encoder's configuration."""
    input_size: tuple[int, int, int] = (FRAMES, CROP_PX, CROP_PX)
    """T, H, W of the encoder's configuration."""
    augmentation: Augmentation | None = None
    """None: training input is made as evaluation input is."""
    seed: int = 0

    def evaluation_input(self, batch: Batch) -> ModelInput:
        """A batch without augmentation."""
        return self._in_chunks(batch, lambda clips: self._fuse(clips, *self._decode(clips)))

    def training_input(self, batch: Batch, epoch: int) -> ModelInput:
        """A batch augmented by (seed, epoch, clip id), then mixed up."""
        if self.augmentation is None:
            return self.evaluation_input(batch)
        return self._in_chunks(batch, lambda clips: self._augment(clips, self.augmentation, epoch))

    def _in_chunks(self, batch: Batch, make: Callable[[Batch], ModelInput]) -> ModelInput:
        """On a CPU two clips at a time, mixup's pairs, else all at once; clips do not depend on other pairs.

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

    def _decode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Faces [B, F, 3, 224, 224] in 0..1, normalized spectrograms [B, W, rows, 224], targets [B, classes]."""
        faces = split_filmstrips(batch.filmstrips, self.strategy.faces).contiguous().float().div_(255)
        rows = batch.spectrograms.float()
        if self.strategy.windows:
            found, expected = rows.shape[1:3], (self.strategy.windows, len(self.normalization.mean))
            if found != expected:
                raise TransformError(f"{self.strategy.name}: found windows x rows {tuple(found)}, expected {expected}")
            rows = (rows - _column(self.normalization.mean, rows)) / _column(self.normalization.std, rows)
        return faces, rows, functional.one_hot(batch.labels, self.classes).float()

    def _augment(self, batch: Batch, settings: Augmentation, epoch: int) -> ModelInput:
        draws = clip_draws(batch.keys, self.seed, epoch, batch.labels.device)
        faces, rows, targets = self._decode(batch)
        gain_per_db = GAIN_RESPONSE[self.feature] / _column(self.normalization.std, rows)
        faces = augment_faces(faces, settings, draws)
        rows = augment_spectrograms(rows, settings, draws, gain_per_db)
        if settings.mixup:
            weights = mixup_lambdas(batch.keys, settings.mixup, self.seed, epoch, targets.device)
            faces, rows, targets = (mix(images, weights) for images in (faces, rows, targets))
        return self._fuse(batch, faces, rows, targets)

    def _fuse(self, batch: Batch, faces: Tensor, rows: Tensor, targets: Tensor) -> ModelInput:
        """Both modalities on the encoder's scale, then as one video."""
        pixels = PIXEL_RANGES[self.input_range]
        mean, std = (torch.tensor(rgb, device=faces.device)[:, None, None] for rgb in (pixels.mean, pixels.std))
        images = spectrogram_images(rows) * pixels.spectrogram_std + pixels.spectrogram_mean
        pairs = Pairs(faces=faces.sub_(mean).div_(std), spectrograms=images, keys=batch.keys)
        return ModelInput(downsample(self.strategy(pairs), self.input_size), targets)


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """[rows, 1] float32."""
    return torch.tensor(numbers, dtype=torch.float32, device=like.device)[:, None]


@dataclass(frozen=True, kw_only=True)
class CachedTransform:
    """The same for inputs that were computed before: only mixup is left.

    All fusion but `rfas` is linear, so that mixing fused videos is mixing both modalities before fusion.
    """

    classes: int
    mixup: float = 0.0
    """Of `Augmentation`."""
    seed: int = 0

    def evaluation_input(self, batch: CachedBatch) -> ModelInput:
        """A batch as it is."""
        return ModelInput(batch.inputs, functional.one_hot(batch.labels, self.classes).float())

    def training_input(self, batch: CachedBatch, epoch: int) -> ModelInput:
        """A batch after mixup, by (seed, epoch, clip id)."""
        inputs, targets = self.evaluation_input(batch)
        if self.mixup:
            weights = mixup_lambdas(batch.keys, self.mixup, self.seed, epoch, inputs.device)
            inputs, targets = mix(inputs, weights), mix(targets, weights)
        return ModelInput(inputs, targets)


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


def split_filmstrips(filmstrips: Tensor, count: int) -> Tensor:
    """[B, 224, 3584, 3] -> [B, count, 3, 224, 224], every (16/count)-th face from the first on, without a copy."""
    images = filmstrips.unflatten(2, (filmstrips.shape[2] // CROP_PX, CROP_PX)).permute(0, 2, 4, 1, 3)
    return images[:, :: FRAMES // count] if count else images[:, :0]


def spectrogram_images(rows: Tensor) -> Tensor:
    """[B, W, rows, 224] -> [B, W, 1, 224, 224], low frequencies at the bottom.

    Bilinear between row centres, without antialiasing (heights only grow, so there is nothing to filter).
    """
    if not rows.numel():
        return rows.new_empty(*rows.shape[:2], 1, CROP_PX, CROP_PX)
    upright = rows.flip(-2)
    return functional.interpolate(upright, size=(CROP_PX, CROP_PX), mode="bilinear", align_corners=False).unsqueeze(2)


def clip_draws(keys: Sequence[str], seed: int, epoch: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Uniform numbers in [0, 1) for every choice that augmentation makes: name -> [B] float32.

    Drawn on the CPU, so that every device augments in the same way.
    """
    drawn = [_generator(key, seed, epoch).random(len(_DRAWN), dtype=np.float32) for key in keys]
    table = torch.from_numpy(np.array(drawn, dtype=np.float32).reshape(-1, len(_DRAWN))).to(device)
    return dict(zip(_DRAWN, table.unbind(dim=1), strict=True))


def augment_faces(faces: Tensor, settings: Augmentation, draws: Mapping[str, Tensor]) -> Tensor:
    """One crop, one mirroring and one change of colour for a whole clip: [B, F, 3, 224, 224] in 0..1, and so after."""
    return _jitter_colour(_crop(faces, settings, draws), settings, draws) if faces.numel() else faces


def augment_spectrograms(
    rows: Tensor, settings: Augmentation, draws: Mapping[str, Tensor], gain_per_db: Tensor
) -> Tensor:
    """Gain, then one interval of time and one of frequencies masked with the training mean, which is 0.

    The interval of time is the clip's: what is masked in one window is masked in all that overlap it.

    Args:
        rows: [B, W, rows, 224] normalized.
        settings: limits of what is drawn.
        draws: from `clip_draws`.
        gain_per_db: [rows, 1] how far a gain of 1 dB raises each row, in its standard deviations.
    """
    if not rows.numel():
        return rows
    gain_db = settings.gain_db * (2 * draws["gain"] - 1)
    _, windows, heights, widths = rows.shape
    starts = torch.arange(windows, device=rows.device)[:, None, None] * WINDOW_HOP_COLUMNS
    columns = starts + torch.arange(widths, device=rows.device)  # [W, 1, 224] of the whole clip
    clip_columns = (windows + 1) * WINDOW_HOP_COLUMNS
    time = _interval(columns, clip_columns, settings.time_mask, draws["time_length"], draws["time_start"])
    places = torch.arange(heights, device=rows.device)[None, :, None]
    share = settings.frequency_mask
    frequency = _interval(places, heights, share, draws["frequency_length"], draws["frequency_start"])
    return (rows + _per_clip(gain_db) * gain_per_db).masked_fill(time | frequency, 0.0)


def mixup_lambdas(
    keys: Sequence[str], alpha: float, seed: int, epoch: int, device: torch.device | str = "cpu"
) -> Tensor:
    """[B] float32 shares that clips keep of themselves when mixed: Beta(alpha, alpha), one of each two neighbours.

    Neighbours are clips 0 and 1, 2 and 3, ...; an odd last clip stays as it is. Batches of an even size per rank
    therefore mix the same clips whatever the number of ranks.
    """
    weights = np.ones(len(keys), dtype=np.float32)
    for first in range(0, len(keys) - 1, 2):
        weights[first : first + 2] = _generator(f"mixup {keys[first]}", seed, epoch).beta(alpha, alpha)
    return torch.from_numpy(weights).to(device)


def mix(images: Tensor, weights: Tensor) -> Tensor:
    """w x + (1 - w) x' with x' the neighbour of `mixup_lambdas`: [B, ...] and [B] -> [B, ...]."""
    places = torch.arange(len(images), device=images.device)
    neighbours = images[torch.clamp(places ^ 1, max=max(len(images) - 1, 0))]
    return torch.lerp(neighbours, images, weights.view(-1, *[1] * (images.dim() - 1)))


def _generator(key: str, seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {epoch} {key}".encode()).digest()))


def _crop(faces: Tensor, settings: Augmentation, draws: Mapping[str, Tensor]) -> Tensor:
    """A square of each clip, mirrored or not, resized to 224x224, bilinear; frames are treated as channels."""
    side = settings.crop_scale + (1 - settings.crop_scale) * draws["crop"]
    x, y = ((1 - side) * (2 * draws[name] - 1) for name in ("crop_x", "crop_y"))
    mirrored = torch.where(draws["flip"] < settings.flip, -1.0, 1.0)
    zero = torch.zeros_like(side)
    maps = torch.stack([torch.stack([side * mirrored, zero, x], -1), torch.stack([zero, side, y], -1)], dim=1)
    channels = faces.flatten(1, 2)
    grid = functional.affine_grid(maps, list(channels.shape), align_corners=False)
    return functional.grid_sample(channels, grid, padding_mode="border", align_corners=False).view_as(faces)


def _jitter_colour(faces: Tensor, settings: Augmentation, draws: Mapping[str, Tensor]) -> Tensor:
    """Saturation s, contrast c, brightness b: x -> b (c (s x + (1-s) luma) + (1-c) m), m the clip's mean luma."""
    saturation, contrast, brightness = (
        1 + settings.colour * (2 * draws[name] - 1) for name in ("saturation", "contrast", "brightness")
    )
    luma = faces.new_tensor(_LUMA)
    grey = faces.mean(dim=(1, 3, 4)) @ luma
    colours = saturation[:, None, None] * torch.eye(3, device=faces.device) + (1 - saturation)[:, None, None] * luma
    turned = (colours * (brightness * contrast)[:, None, None]).unsqueeze(1) @ faces.flatten(-2)
    return turned.add_(_per_clip(brightness * (1 - contrast) * grey)).clamp_(0, 1).view_as(faces)


def _interval(places: Tensor, end: int, most: float, length: Tensor, start: Tensor) -> Tensor:
    """Which places of 0..end-1 are in a clip's interval: of up to `most` of them, anywhere. [B, ...]."""
    size = _per_clip(end * most * length)
    first = (end - size) * _per_clip(start)
    return (places >= first) & (places < first + size)


def _per_clip(numbers: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return numbers[:, None, None, None]
