"""Augmentation of clips, each modality on its own, before fusion; on the device, for a whole batch at once.

Every random number belongs to a clip: it is drawn from (seed, epoch, draw, purpose, clip id) on the CPU, so that
workers, ranks, devices, micro-batches and the other clips of a batch do not change how a clip is augmented, and so that
one kind of augmentation does not change what another one draws. Of several corpora, the corpus is part of the id.
Frames of a clip share one draw.

Boxes in faces are drawn in pixels of a crop of 224x224, and scaled for faces that are decoded to fewer. Shape suffixes:
B clips, F faces, W windows, S pixels a side of a face.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from manifests.errors import UserError
from manifests.schema import COLUMNS, CROP_PX

#: Windows overlap by half: window i begins 112 columns after window i-1, on the grid of 16 and on that of 8.
WINDOW_HOP_COLUMNS = COLUMNS // 2

#: Mean and standard deviation of the RGB pixels of ImageNet, in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Area of an erased box in that of a face, and its height to width: the defaults of timm's RandomErasing.
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)

_LUMA = (0.299, 0.587, 0.114)
#: Boxes that do not fit into the face are drawn again, so many times.
_TRIES = 10


class TransformError(UserError):
    """Settings out of range, or a batch or an encoder that does not fit them."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for a clip of a training batch. The defaults change nothing. Raises TransformError."""

    window_share: tuple[float, float] = (1.0, 1.0)
    """Least and greatest length of a random window in time, as shares of the longest one; of shards with every frame.
    With (1, 1) and whole clips nothing is random: the 16 instants are those that pairs are stored at."""
    crop_area: tuple[float, float] = (1.0, 1.0)
    """Least and most area of the box that is cut out of a clip's faces and resized, as a fraction of the face."""
    crop_aspect: tuple[float, float] = (1.0, 1.0)
    """Least and most width of that box divided by its height; drawn uniformly on a logarithmic scale."""
    shift: float = 0.0
    """Most that a clip's faces are moved along either axis, as a fraction of the face: by whole pixels, so that nothing
    is blurred. Edges are repeated."""
    flip: float = 0.0
    """Probability that a clip's faces are mirrored."""
    colour: float = 0.0
    """Brightness, contrast and saturation are each multiplied by a factor of [1 - c, 1 + c] for this c."""
    rand_augment_operations: int = 0
    """Operations of RandAugment that are drawn for a clip's faces, each of which is applied with probability 0.5."""
    rand_augment_magnitude: float = 7.0
    """Mean strength of an operation, from 0 to 10."""
    rand_augment_magnitude_std: float = 0.5
    """Standard deviation of the strength, which is cut to 0..10."""
    erase: float = 0.0
    """Probability that a box of a clip's faces is replaced by noise."""
    time_mask: float = 0.0
    """Maximum fraction of a clip's windows that is masked."""
    frequency_mask: float = 0.0
    """Maximum fraction of a spectrogram's rows that is masked."""
    gain_db: float = 0.0
    """Maximum change of the sound's level, up or down; MFCC 1..13 do not depend on it."""
    mixup: float = 0.0
    """Both parameters of the Beta distribution that mixing weights are drawn from; 0 for no mixup."""
    cutmix: float = 0.0
    """The same for CutMix, where a box of one clip is replaced by that of another; 0 for no CutMix."""
    mix_switch: float = 0.5
    """Probability of CutMix where a pair could get either."""
    mix_probability: float = 1.0
    """Probability that a pair of clips is mixed at all."""
    mix_spectrograms: bool = True
    """Whether spectrograms are mixed as faces are; otherwise each clip keeps its own under mixed labels."""
    modality_dropout: float = 0.0
    """Probability that either the sound or the faces of a clip, equally likely, are replaced by a constant."""

    def __post_init__(self) -> None:
        shares = ("shift", "flip", "colour", "erase", "time_mask", "frequency_mask", "mix_switch", "mix_probability")
        area, aspect, share = self.crop_area, self.crop_aspect, self.window_share
        rules = {
            "window_share": (0.1 <= share[0] <= share[1] <= 1, "two fractions from 0.1 to 1, the least first"),
            "crop_area": (0 < area[0] <= area[1] <= 1, "two fractions above 0, the least first"),
            "crop_aspect": (0.1 <= aspect[0] <= aspect[1] <= 10, "two ratios from 0.1 to 10, the least first"),
            "rand_augment_operations": (0 <= self.rand_augment_operations <= 15, "0 to 15"),
            "rand_augment_magnitude": (0 <= self.rand_augment_magnitude <= 10, "0 to 10"),
            "rand_augment_magnitude_std": (0 <= self.rand_augment_magnitude_std <= 10, "0 to 10"),
            "gain_db": (0 <= self.gain_db <= 60, "0 to 60"),
            "mixup": (0 <= self.mixup <= 100, "0 to 100"),
            "cutmix": (0 <= self.cutmix <= 100, "0 to 100"),
            "modality_dropout": (0 <= self.modality_dropout < 1, "0 to below 1"),
            **{name: (0 <= getattr(self, name) <= 1, "0 to 1") for name in shares},
        }
        for name, (satisfied, expected) in rules.items():
            if not satisfied:
                raise TransformError(f"{name}: found {getattr(self, name)}, expected {expected}")

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed in pairs, so that batches must have an even size."""
        return bool(self.mixup or self.cutmix) and self.mix_probability > 0

    @property
    def crops(self) -> bool:
        """Whether faces are cropped, stretched, moved or mirrored."""
        return (self.crop_area, self.crop_aspect) != ((1.0, 1.0), (1.0, 1.0)) or self.shift > 0 or self.flip > 0


#: No augmentation.
NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True, kw_only=True)
class ClipDraws:
    """Random numbers for B clips. Those of a clip depend on its id and the fields, never on the other clips."""

    keys: tuple[str, ...]
    """B clip ids, see `train.data.batches.ClipBatch.draw_keys`."""
    seed: int
    epoch: int
    draw: int = 0
    """Which draw of the clip in the epoch this is: one of `repeated_augmentation`."""

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """A generator for each clip that no other purpose uses."""
        prefix = f"{self.seed} {self.epoch} {self.draw} {purpose}"
        digests = (hashlib.sha256(f"{prefix} {key}".encode()).digest() for key in self.keys)
        return [np.random.default_rng(int.from_bytes(digest)) for digest in digests]

    def uniform(self, purpose: str, count: int) -> npt.NDArray[np.float32]:
        """[B, count] in [0, 1)."""
        drawn = [generator.random(count, dtype=np.float32) for generator in self.generators(purpose)]
        return np.array(drawn, dtype=np.float32).reshape(len(self.keys), count)


def uniform_noise(keys: tuple[str, ...], count: int, *, seed: int, epoch: int, draws: int = 1) -> Tensor:
    """[draws * B, count] float32 in [0, 1), on the CPU, for what a model drops: one row for each clip and draw of it.

    It takes the place of a generator on the device, whose numbers would depend on the batch and on the rank.
    """
    parts = [ClipDraws(keys=keys, seed=seed, epoch=epoch, draw=draw).uniform("model", count) for draw in range(draws)]
    return torch.from_numpy(np.concatenate(parts))


def crop_faces(faces: Tensor, settings: Augmentation, draws: ClipDraws) -> Tensor:
    """One box for all faces of a clip, by area and aspect, resized to the whole face and mirrored or not.

    [B, F, 3, S, S] -> the same shape. Boxes have whole pixels and are drawn as in Inception, torchvision and timm:
    again until one fits into the face, 10 times, then the whole face is taken. Then the box is moved, whether it still
    fits or not.
    """
    numbers = draws.uniform("crop", 2 * _TRIES + 5)
    areas, aspects, rest = np.split(numbers.astype(np.float64), [_TRIES, 2 * _TRIES], axis=1)
    boxes = _boxes(areas, aspects, settings.crop_area, settings.crop_aspect, CROP_PX)
    left_top = np.floor(rest[:, :2] * (CROP_PX + 1 - boxes))
    side = faces.shape[-1]
    most = int(settings.shift * side)
    left_top += (np.floor(rest[:, 3:] * (2 * most + 1)) - most) * (CROP_PX / side)
    mirrored = rest[:, 2] < settings.flip
    return resample(faces, torch.from_numpy(np.concatenate([left_top, boxes], axis=1)), torch.from_numpy(mirrored))


def resample(faces: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Cut a box out of all faces of a clip and resize it to the whole face, bilinear between the pixels of the box.

    Args:
        faces: [B, F, 3, S, S] float.
        boxes: [B, 4] left, top, width and height in pixels of a crop of 224x224, on any device.
        mirrored: [B] bool, whether the result is mirrored.
    """
    side = faces.shape[-1]
    places = boxes.to(faces.device, torch.float32) * (side / CROP_PX)
    left, top, width, height = places[:, :, None].unbind(1)  # [B, 1]
    centres = (torch.arange(side, device=faces.device) + 0.5) / side
    across = torch.where(mirrored.to(faces.device)[:, None], 1 - centres, centres)
    x = left + (across * width - 0.5).clamp(min=0).minimum(width - 1)
    y = top + (centres * height - 0.5).clamp(min=0).minimum(height - 1)
    grid_x, grid_y = ((2 * places + 1) / side - 1 for places in (x, y))
    shape = (len(faces), side, side)
    grid = torch.stack([grid_x[:, None, :].expand(shape), grid_y[:, :, None].expand(shape)], dim=-1)
    channels = faces.flatten(1, 2)  # faces of a clip share the grid
    return functional.grid_sample(channels, grid, padding_mode="border", align_corners=False).view_as(faces)


def jitter_colour(faces: Tensor, settings: Augmentation, draws: ClipDraws) -> Tensor:
    """Saturation s, contrast c, brightness b: x -> b (c (s x + (1-s) luma) + (1-c) m), m the clip's mean luma.

    [B, F, 3, S, S] in 0..1, and so after.
    """
    drawn = torch.from_numpy(draws.uniform("colour", 3)).to(faces.device)
    brightness, contrast, saturation = (1 + settings.colour * (2 * drawn - 1)).unbind(1)
    luma = faces.new_tensor(_LUMA)
    grey = faces.mean(dim=(1, 3, 4)) @ luma
    colours = saturation[:, None, None] * torch.eye(3, device=faces.device) + (1 - saturation)[:, None, None] * luma
    turned = (colours * (brightness * contrast)[:, None, None]).unsqueeze(1) @ faces.flatten(-2)
    return turned.add_(_per_clip(brightness * (1 - contrast) * grey)).clamp_(0, 1).view_as(faces)


def erase_faces(faces: Tensor, settings: Augmentation, draws: ClipDraws) -> Tensor:
    """With probability `erase`, one box of a clip, the same in all its faces, becomes noise.

    [B, F, 3, S, S] in 0..1, changed and returned. Random erasing as timm's mode "pixel": standard normal noise for
    every pixel and face where pixels are normalized by ImageNet's mean and deviation; therefore noise times the
    deviation plus the mean here. It is not cut to 0..1.
    """
    numbers = draws.uniform("erase", 2 * _TRIES + 4).astype(np.float64)
    areas, aspects, rest = np.split(numbers, [_TRIES, 2 * _TRIES], axis=1)
    boxes = _boxes(areas, aspects, ERASED_AREA, ERASED_ASPECT, CROP_PX - 1)
    left_top = np.floor(rest[:, :2] * (CROP_PX + 1 - boxes)).astype(np.int64)
    mean, std = (faces.new_tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    for clip in np.flatnonzero(rest[:, 2] < settings.erase):
        edges = np.concatenate([left_top[clip], left_top[clip] + boxes[clip].astype(np.int64)]) * faces.shape[-1]
        left, top, right, bottom = (edges // CROP_PX).tolist()
        box = faces[clip, :, :, top:bottom, left:right]
        seed = int(rest[clip, 3] * 2**24)
        box.copy_(normal_noise(seed, tuple(box.shape), faces.device).mul_(std).add_(mean))
    return faces


def augment_spectrograms(rows: Tensor, settings: Augmentation, draws: ClipDraws, gain_per_db: Tensor) -> Tensor:
    """Gain, then one interval of time and one of frequencies masked with the training mean, which is 0.

    The interval of time is the clip's: what is masked in one window is masked in all that overlap it.

    Args:
        rows: [B, W, rows, 224] normalized.
        settings: limits of what is drawn.
        draws: random numbers of the clips.
        gain_per_db: [rows, 1] how far a gain of 1 dB raises each row, in its standard deviations.
    """
    drawn = torch.from_numpy(draws.uniform("spectrogram", 5)).to(rows.device)
    gain, time_length, time_start, frequency_length, frequency_start = drawn.unbind(1)
    columns, clip_columns = _clip_columns(rows)
    time = _interval(columns, clip_columns * settings.time_mask * time_length, time_start, clip_columns)
    heights = rows.shape[-2]
    places = torch.arange(heights, device=rows.device)[None, :, None]
    size = heights * settings.frequency_mask * frequency_length
    frequency = _interval(places, size, frequency_start, heights)
    gain_db = settings.gain_db * (2 * gain - 1)
    return (rows + _per_clip(gain_db) * gain_per_db).masked_fill(time | frequency, 0.0)


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the clips of a batch are mixed with their neighbours: clips 0 and 1, 2 and 3, ...

    Both clips of a pair have the same numbers, drawn from the id of the first; an odd last clip stays as it is.
    Batches of an even size per rank therefore mix the same clips whatever the number of ranks.

    Mixup blends both modalities by one weight, that of the labels. CutMix replaces a box of the faces, the same in all
    frames, and an interval of the clip's time in the spectrograms, of the same share as the box in the face. It takes
    time alone, with all its frequencies, because windows overlap: an interval on the clip's own time axis is the same
    sound in every window, whereas a box in each window's picture would cut the same sound here and keep it there; and
    because the rows of a spectrogram mean different things, which no shift of a box respects. In either modality the
    share that is kept is the labels' weight, whichever one the model relies on.
    """

    weights: npt.NDArray[np.float32]
    """[B] share of each clip, and of its label, that it keeps; after CutMix that of the box that fits into the face."""
    boxes: npt.NDArray[np.int64]
    """[B, 4] left, top, right and bottom of the box in a face of 224x224 pixels; all 0 for clips that are blended."""
    starts: npt.NDArray[np.float32]
    """[B] where the interval of time begins, as a fraction of what it leaves."""

    @classmethod
    def drawn(cls, settings: Augmentation, draws: ClipDraws) -> Mixing:
        """Weights from Beta(alpha, alpha), boxes centred anywhere in the face and cut at its border (CutMix, timm)."""
        count = len(draws.keys)
        weights, boxes = np.ones(count, np.float32), np.zeros((count, 4), np.int64)
        starts = np.zeros(count, np.float32)
        firsts = ClipDraws(keys=draws.keys[: count - 1 : 2], seed=draws.seed, epoch=draws.epoch, draw=draws.draw)
        for place, generator in zip(range(0, count - 1, 2), firsts.generators("mix"), strict=True):
            mixed, switch, x, y, start = generator.random(5)
            if mixed >= settings.mix_probability:
                continue
            cut = settings.cutmix > 0 and (settings.mixup == 0 or switch < settings.mix_switch)
            alpha = settings.cutmix if cut else settings.mixup
            weight, pair = generator.beta(alpha, alpha), slice(place, place + 2)
            if cut:
                half = int(CROP_PX * math.sqrt(1 - weight)) // 2
                centre_x, centre_y = int(x * CROP_PX), int(y * CROP_PX)
                low_x, low_y, high_x, high_y = (
                    min(max(edge, 0), CROP_PX)
                    for edge in (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
                )
                boxes[pair] = low_x, low_y, high_x, high_y
                weight = 1 - (high_x - low_x) * (high_y - low_y) / CROP_PX**2
            weights[pair], starts[pair] = weight, start
        return cls(weights=weights, boxes=boxes, starts=starts)

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """[B] whether a clip gets a box of its neighbour; others are blended."""
        return self.boxes[:, 2] > 0

    def blend(self, values: Tensor) -> Tensor:
        """w x + (1 - w) x' with x' the neighbour of x, for labels: [B, ...] -> [B, ...]."""
        return blend_neighbours(values, torch.from_numpy(self.weights).to(values.device))

    def mix_faces(self, faces: Tensor) -> Tensor:
        """[B, F, 3, S, S] -> the same, blended or with a box of the neighbour."""
        mixed = self._blend_others(faces)
        if not self.cut.any():
            return mixed
        left, top, right, bottom = torch.from_numpy(self.boxes).to(faces.device)[:, :, None].unbind(1)  # [B, 1]
        places = torch.arange(0, CROP_PX, CROP_PX // faces.shape[-1], device=faces.device)
        across, down = (places >= left) & (places < right), (places >= top) & (places < bottom)
        inside = across[:, None, :] & down[:, :, None]
        return torch.where(inside[:, None, None], faces[_neighbours(faces)], mixed)

    def mix_spectrograms(self, rows: Tensor) -> Tensor:
        """[B, W, rows, 224] -> the same, blended or with an interval of the neighbour's time."""
        mixed = self._blend_others(rows)
        if not self.cut.any():
            return mixed
        columns, clip_columns = _clip_columns(rows)
        share = torch.from_numpy((1 - self.weights) * self.cut).to(rows.device)
        inside = _interval(columns, clip_columns * share, torch.from_numpy(self.starts).to(rows.device), clip_columns)
        return torch.where(inside, rows[_neighbours(rows)], mixed)

    def _blend_others(self, values: Tensor) -> Tensor:
        """Only clips without a box are blended."""
        weights = np.where(self.cut, np.float32(1), self.weights)
        return values if (weights == 1).all() else blend_neighbours(values, torch.from_numpy(weights).to(values.device))


def blend_neighbours(values: Tensor, weights: Tensor) -> Tensor:
    """w x + (1 - w) x' with x' the neighbour: [B, ...] and [B] -> [B, ...]. A weight of 1 changes nothing."""
    return torch.lerp(values[_neighbours(values)], values, weights.view(-1, *[1] * (values.dim() - 1)))


def dropped_modalities(settings: Augmentation, draws: ClipDraws) -> npt.NDArray[np.int64]:
    """[B] what each clip misses: 0 nothing, 1 the sound, 2 the faces; either with half of `modality_dropout`."""
    drawn = draws.uniform("modality", 1)[:, 0]
    return np.where(drawn >= settings.modality_dropout, 0, 1 + (drawn < settings.modality_dropout / 2)).astype(np.int64)


def normal_noise(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal float32 of a counter-based generator: number i is a hash of (seed, i), the same on each device.

    The hash is `lowbias32` (a mixer of 32 bits by multiplications and shifts), the distribution's inverse makes it
    normal. Devices differ in the last bits of that inverse only.
    """
    places = torch.arange(math.prod(shape), device=device)
    bits = _hash32(_hash32(places) ^ seed)
    uniform = ((bits >> 9).float() + 0.5) / 2**23  # exact, and neither 0 nor 1
    return torch.special.ndtri(uniform).view(shape)


def _hash32(numbers: Tensor) -> Tensor:
    """int64 of 32 bits -> the same, mixed; products wrap around, which keeps their lower 32 bits."""
    mask = 0xFFFFFFFF
    numbers = numbers ^ (numbers >> 16)
    numbers = (numbers * 0x7FEB352D) & mask
    numbers = numbers ^ (numbers >> 15)
    numbers = (numbers * 0x846CA68B) & mask
    return numbers ^ (numbers >> 16)


def _boxes(
    areas: npt.NDArray[np.float64],
    aspects: npt.NDArray[np.float64],
    area_range: Sequence[float],
    aspect_range: Sequence[float],
    most: int,
) -> npt.NDArray[np.float64]:
    """[B, 2] whole width and height of the first of several drawn boxes that fits into `most` pixels; else of a face.

    `areas` and `aspects` are [B, tries] in 0..1, positions within the ranges.
    """
    (low, high), (narrow, wide) = area_range, np.log(aspect_range)
    area, aspect = (low + (high - low) * areas) * CROP_PX**2, np.exp(narrow + (wide - narrow) * aspects)
    sizes = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=-1)))
    fits = ((sizes >= 1) & (sizes <= most)).all(axis=-1)
    first = sizes[np.arange(len(sizes)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1)[:, None], first, float(CROP_PX))


def _clip_columns(rows: Tensor) -> tuple[Tensor, int]:
    """[W, 1, 224] the place of every column of every window on the clip's time axis, and the length of the axis."""
    windows, widths = rows.shape[1], rows.shape[-1]
    starts = torch.arange(windows, device=rows.device)[:, None, None] * WINDOW_HOP_COLUMNS
    return starts + torch.arange(widths, device=rows.device), (windows + 1) * WINDOW_HOP_COLUMNS


def _interval(places: Tensor, size: Tensor, start: Tensor, end: int) -> Tensor:
    """Which places of 0..end-1 are in a clip's interval of `size` places, [B], at `start` in 0..1 of what is left."""
    first = _per_clip((end - size) * start)
    return (places >= first) & (places < first + _per_clip(size))


def _neighbours(values: Tensor) -> Tensor:
    """[B] index of the other clip of each pair; of an odd last clip its own."""
    places = torch.arange(len(values), device=values.device)
    return torch.clamp(places ^ 1, max=max(len(values) - 1, 0))


def _per_clip(numbers: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return numbers[:, None, None, None]
