"""RandAugment (arXiv:1909.13719) for the faces of clips, as timm's `rand-m7-n4-mstd0.5-inc1`, on 8-bit tensors.

For each clip n of 15 operations are drawn, with replacement, each is applied with probability 0.5, and its strength is
drawn from a normal distribution. All faces of a clip get the same operations at the same strength; what an operation
measures, such as a histogram, it measures in each face, as timm's does for the frames of a video.

The numbers are Pillow's: pixels are rounded as it rounds them, so that all operations but the geometric ones give equal
bytes. Geometric ones are bilinear, filled with 128; timm draws their interpolation or takes the bicubic one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from train.data.augment import Augmentation, ClipDraws

LEVEL_MAX = 10.0
_APPLIED = 0.5
_FILL = 128
#: Pillow's weights of red, green and blue in luma, in 65,536ths.
_LUMA = (19595, 38470, 7471)


class Strength(NamedTuple):
    """How strongly an operation is applied to each of b clips, on the CPU."""

    levels: npt.NDArray[np.float64]
    """[b] 0 to 10."""
    signs: npt.NDArray[np.float64]
    """[b] -1 or 1: direction of a shift, rotation or enhancement."""

    @property
    def signed(self) -> npt.NDArray[np.float64]:
        """[b] -10 to 10."""
        return self.signs * self.levels


#: Faces uint8 [b, F, 3, H, W] -> the same, changed.
Operation = Callable[[Tensor, Strength], Tensor]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is drawn for B clips, in n layers."""

    operations: npt.NDArray[np.int64]
    """[B, n] index into `OPERATIONS`; -1 for one that is not applied."""
    levels: npt.NDArray[np.float64]
    """[B, n] strength, 0 to 10."""
    signs: npt.NDArray[np.float64]
    """[B, n] -1 or 1: direction of a shift, rotation or enhancement."""

    @classmethod
    def drawn(cls, settings: Augmentation, draws: ClipDraws) -> Plan:
        """A plan of the clips' own random numbers."""
        layers, drawn = settings.rand_augment_operations, []
        for generator in draws.generators("rand_augment"):
            drawn.append([*generator.random((3, layers)), generator.standard_normal(layers)])
        table = np.array(drawn, dtype=np.float64).reshape(-1, 4, layers)
        choice, applied, sign, level = (table[:, row] for row in range(4))
        levels = settings.rand_augment_magnitude + settings.rand_augment_magnitude_std * level
        operations = (choice * len(OPERATIONS)).astype(np.int64)
        return cls(
            operations=np.where(applied < _APPLIED, operations, -1),
            levels=levels.clip(0, LEVEL_MAX),
            signs=np.where(sign < 0.5, -1.0, 1.0),
        )


def rand_augment(faces: Tensor, plan: Plan) -> Tensor:
    """Apply a plan: uint8 [B, F, 3, H, W], changed and returned. An operation costs only the clips that it is for."""
    functions = tuple(OPERATIONS.values())
    for layer in range(plan.operations.shape[1]):
        chosen = plan.operations[:, layer]
        for number in sorted(set(chosen.tolist()) - {-1}):
            clips = np.flatnonzero(chosen == number)
            places = torch.from_numpy(clips).to(faces.device)
            strength = Strength(plan.levels[clips, layer], plan.signs[clips, layer])
            faces[places] = functions[number](faces[places], strength)
    return faces


def _auto_contrast(faces: Tensor, _: Strength) -> Tensor:
    """Stretch each channel of each face to 0..255."""
    low, high = (extreme((-2, -1)).double()[..., None] for extreme in (faces.amin, faces.amax))
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # `255 /` would round twice
    values = torch.arange(256, device=faces.device, dtype=torch.float64)
    stretched = (values * scale - low * scale).clamp(0, 255)
    return _look_up(faces, torch.where(high > low, stretched, values))


def _equalize(faces: Tensor, _: Strength) -> Tensor:
    """Give each channel of each face a flat histogram."""
    pixels = faces.flatten(-2).long()
    counts = torch.zeros(*pixels.shape[:-1], 256, dtype=torch.int64, device=faces.device)
    counts.scatter_add_(-1, pixels, torch.ones_like(pixels))
    last = pixels.amax(-1, keepdim=True)
    step = (pixels.shape[-1] - counts.gather(-1, last)) // 255
    before = counts.cumsum(-1) - counts
    flat = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return _look_up(faces, torch.where(step > 0, flat, torch.arange(256, device=faces.device)))


def _invert(faces: Tensor, _: Strength) -> Tensor:
    return 255 - faces


def _posterize(faces: Tensor, strength: Strength) -> Tensor:
    """Keep 4 to 0 bits, the fewer the stronger."""
    bits = 4 - (strength.levels / LEVEL_MAX * 4).astype(np.int64)
    return faces & _column(256 - 2 ** (8 - bits), faces).to(torch.uint8)


def _solarize(faces: Tensor, strength: Strength) -> Tensor:
    """Invert bright pixels: those from 256 down to 0, the stronger the more."""
    threshold = 256 - (strength.levels / LEVEL_MAX * 256).astype(np.int64)
    return torch.where(faces.short() < _column(threshold, faces), faces, 255 - faces)


def _solarize_add(faces: Tensor, strength: Strength) -> Tensor:
    """Add up to 110 to dark pixels."""
    added = _column((strength.levels / LEVEL_MAX * 110).astype(np.int64), faces)
    return torch.where(faces < 128, (faces.short() + added).clamp(max=255).to(torch.uint8), faces)


def _rotate(faces: Tensor, strength: Strength) -> Tensor:
    """Rotate by up to 30 degrees about the centre, counter-clockwise for a positive sign."""
    angles = np.radians(strength.signed / LEVEL_MAX * 30)
    zero = np.zeros_like(angles)
    return _affine(faces, [np.cos(angles), -np.sin(angles), zero], [np.sin(angles), np.cos(angles), zero])


def _shear_x(faces: Tensor, strength: Strength) -> Tensor:
    """Row y takes its pixels from x + f y, for an f of up to 0.3."""
    factor, zero = strength.signed / LEVEL_MAX * 0.3, np.zeros_like(strength.levels)
    return _affine(faces, [zero + 1, factor, factor], [zero, zero + 1, zero])


def _shear_y(faces: Tensor, strength: Strength) -> Tensor:
    """Column x takes its pixels from y + f x, for an f of up to 0.3."""
    factor, zero = strength.signed / LEVEL_MAX * 0.3, np.zeros_like(strength.levels)
    return _affine(faces, [zero + 1, zero, zero], [factor, zero + 1, factor])


def _translate_x(faces: Tensor, strength: Strength) -> Tensor:
    """Shift by up to 0.45 of the width, to the left for a positive sign."""
    shift, zero = 2 * strength.signed / LEVEL_MAX * 0.45, np.zeros_like(strength.levels)
    return _affine(faces, [zero + 1, zero, shift], [zero, zero + 1, zero])


def _translate_y(faces: Tensor, strength: Strength) -> Tensor:
    """Shift by up to 0.45 of the height, upwards for a positive sign."""
    shift, zero = 2 * strength.signed / LEVEL_MAX * 0.45, np.zeros_like(strength.levels)
    return _affine(faces, [zero + 1, zero, zero], [zero, zero + 1, shift])


def _colour(faces: Tensor, strength: Strength) -> Tensor:
    return _enhance(_luma(faces).float(), faces, strength)


def _contrast(faces: Tensor, strength: Strength) -> Tensor:
    """Away from or towards the mean luma of each face."""
    mean = _luma(faces).double().mean((-2, -1), keepdim=True)
    return _enhance((mean + 0.5).floor().float(), faces, strength)


def _brightness(faces: Tensor, strength: Strength) -> Tensor:
    return _enhance(torch.zeros((), device=faces.device), faces, strength)


def _sharpness(faces: Tensor, strength: Strength) -> Tensor:
    """Away from or towards the faces after Pillow's filter SMOOTH, which leaves their border as it is."""
    pixels = faces.int()
    rows = pixels[..., :-2] + pixels[..., 1:-1] + pixels[..., 2:]
    around = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
    smooth = faces.float()
    smooth[..., 1:-1, 1:-1] = ((around + 4 * pixels[..., 1:-1, 1:-1]) * 2 + 13) // 26  # rounded 13ths
    return _enhance(smooth, faces, strength)


#: The operations by timm's names, in its order, with strengths that increase ("inc1").
OPERATIONS: Mapping[str, Operation] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "PosterizeIncreasing": _posterize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": _colour,
    "ContrastIncreasing": _contrast,
    "BrightnessIncreasing": _brightness,
    "SharpnessIncreasing": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
}


def _enhance(degenerate: Tensor, faces: Tensor, strength: Strength) -> Tensor:
    """Pillow's ImageEnhance by a factor of 0.1 to 1.9: of 1 the face, of 0 the degenerate one; decimals are cut off."""
    factor = _column(1 + strength.signed / LEVEL_MAX * 0.9, faces).float()
    return (degenerate + factor * (faces.float() - degenerate)).clamp_(0, 255).to(torch.uint8)


def _luma(faces: Tensor) -> Tensor:
    """int32 [b, F, 1, H, W], as Pillow converts RGB to L."""
    red, green, blue = faces.int().split(1, dim=2)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 0x8000) >> 16


def _look_up(faces: Tensor, table: Tensor) -> Tensor:
    """Replace pixels by a table [b, F, 3, 256] of each channel of each face."""
    return table.to(torch.uint8).gather(-1, faces.flatten(-2).long()).view_as(faces)


def _affine(faces: Tensor, x_row: list[npt.NDArray[np.float64]], y_row: list[npt.NDArray[np.float64]]) -> Tensor:
    """Each clip's own affine map from places in the result to places in the face, both in -1..1, [b] a coefficient."""
    maps = torch.from_numpy(np.stack([np.stack(x_row, -1), np.stack(y_row, -1)], axis=1)).float().to(faces.device)
    channels = faces.flatten(1, 2).float().sub_(_FILL)
    grid = functional.affine_grid(maps, list(channels.shape), align_corners=False)
    moved = functional.grid_sample(channels, grid, padding_mode="zeros", align_corners=False)
    return moved.add_(_FILL).clamp_(0, 255).to(torch.uint8).view_as(faces)


def _column(numbers: npt.NDArray[np.float64] | npt.NDArray[np.int64], faces: Tensor) -> Tensor:
    """[b] -> [b, 1, 1, 1, 1] on the faces' device, int16 for integers."""
    tensor = torch.from_numpy(numbers).to(faces.device)[:, None, None, None, None]
    return tensor if tensor.is_floating_point() else tensor.short()
