"""RandAugment, operation by operation, beside Pillow's, which timm's version for single images applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from train.data.augment import NO_AUGMENTATION, ClipDraws
from train.data.rand_augment import OPERATIONS, Plan, Strength, rand_augment

torch.set_num_threads(1)

NAMES = tuple(OPERATIONS)
SETTINGS = replace(NO_AUGMENTATION, rand_augment_operations=4, rand_augment_magnitude=7, rand_augment_magnitude_std=0.5)
GREY = (128, 128, 128)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def _solarize_add(image: Image.Image, level: float) -> Image.Image:
    added = int(level / 10 * 110)
    return image.point([min(255, i + added) if i < 128 else i for i in range(256)] * 3)


#: Image, level and sign -> image, as in timm's auto_augment.py.
REFERENCE: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "AutoContrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, sign: ImageOps.equalize(image),
    "Invert": lambda image, level, sign: ImageOps.invert(image),
    "Rotate": lambda image, level, sign: image.rotate(
        sign * level / 10 * 30, Image.Resampling.BILINEAR, fillcolor=GREY
    ),
    "PosterizeIncreasing": lambda image, level, sign: ImageOps.posterize(image, 4 - int(level / 10 * 4)),
    "SolarizeIncreasing": lambda image, level, sign: ImageOps.solarize(image, 256 - int(level / 10 * 256)),
    "SolarizeAdd": lambda image, level, sign: _solarize_add(image, level),
    "ColorIncreasing": lambda image, level, sign: ImageEnhance.Color(image).enhance(1 + sign * level / 10 * 0.9),
    "ContrastIncreasing": lambda image, level, sign: ImageEnhance.Contrast(image).enhance(1 + sign * level / 10 * 0.9),
    "BrightnessIncreasing": lambda image, level, sign: ImageEnhance.Brightness(image).enhance(
        1 + sign * level / 10 * 0.9
    ),
    "SharpnessIncreasing": lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(
        1 + sign * level / 10 * 0.9
    ),
    "ShearX": lambda image, level, sign: _affine(image, 1, sign * level / 10 * 0.3, 0, 0, 1, 0),
    "ShearY": lambda image, level, sign: _affine(image, 1, 0, 0, sign * level / 10 * 0.3, 1, 0),
    "TranslateXRel": lambda image, level, sign: _affine(image, 1, 0, sign * level / 10 * 0.45 * image.width, 0, 1, 0),
    "TranslateYRel": lambda image, level, sign: _affine(image, 1, 0, 0, 0, 1, sign * level / 10 * 0.45 * image.height),
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


def pictures(clips: int = 3, steps: int = 2) -> Tensor:
    """uint8 [clips, steps, 3, 224, 224]: smooth, of another range in each channel, with some noise."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(clips * steps, 3, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic").clamp(0, 1)
    ranges = torch.tensor([200.0, 150.0, 90.0]).view(3, 1, 1)
    noise = torch.randn(smooth.shape, generator=generator) * 3
    return (smooth * ranges + 20 + noise).clamp(0, 255).to(torch.uint8).view(clips, steps, 3, 224, 224)


def image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def test_operations_are_timms_in_its_order() -> None:
    assert tuple(REFERENCE) == NAMES
    assert len(NAMES) == 15


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_pillows(name: str) -> None:
    """Equal bytes; in the geometric operations but for rounding and for pixels at the edge."""
    given = pictures()
    levels, signs = np.array([7.0, 3.3, 9.9]), np.array([1.0, -1.0, -1.0])
    found = OPERATIONS[name](given.clone(), Strength(levels, signs))
    assert found.dtype == torch.uint8
    assert found.shape == given.shape
    for clip, (level, sign) in enumerate(zip(levels, signs, strict=True)):
        for step in range(given.shape[1]):
            wanted = np.asarray(REFERENCE[name](image(given[clip, step]), level, sign)).transpose(2, 0, 1)
            error = np.abs(found[clip, step].numpy().astype(int) - wanted.astype(int))
            if name in GEOMETRIC:
                assert np.mean(error > 0) < 0.03
            else:
                assert error.max() == 0, name


def test_constant_pictures_survive_what_measures_them() -> None:
    flat = torch.full((1, 1, 3, 224, 224), 77, dtype=torch.uint8)
    for name in ("AutoContrast", "Equalize", "ContrastIncreasing", "ColorIncreasing", "SharpnessIncreasing"):
        found = OPERATIONS[name](flat.clone(), Strength(np.array([7.0]), np.array([1.0])))
        assert torch.equal(found, flat), name


def test_plans_are_drawn_as_the_name_says() -> None:
    """m7: mean strength 7; mstd0.5: its deviation; n4: four layers, each of which is left out half of the time."""
    plan = Plan.drawn(SETTINGS, ClipDraws(keys=tuple(map(str, range(3000))), seed=0, epoch=0))
    assert plan.operations.shape == (3000, 4)
    assert (plan.operations < 0).mean() == pytest.approx(0.5, abs=0.02)
    counts = np.bincount(plan.operations[plan.operations >= 0], minlength=15)
    assert counts / counts.sum() == pytest.approx(np.full(15, 1 / 15), abs=0.012)
    assert plan.levels.mean() == pytest.approx(7, abs=0.02)
    assert plan.levels.std() == pytest.approx(0.5, abs=0.02)
    assert plan.signs.mean() == pytest.approx(0, abs=0.03)
    wild = Plan.drawn(
        replace(SETTINGS, rand_augment_magnitude_std=10.0), ClipDraws(keys=("a", "b", "c"), seed=0, epoch=0)
    )
    assert wild.levels.min() >= 0
    assert wild.levels.max() <= 10


def test_layers_are_applied_one_after_another_to_the_clips_that_drew_them() -> None:
    plan = Plan(
        operations=np.array([[2, NAMES.index("SolarizeAdd")], [-1, -1], [NAMES.index("PosterizeIncreasing"), 2]]),
        levels=np.full((3, 2), 7.0),
        signs=np.ones((3, 2)),
    )
    given = pictures()
    found = rand_augment(given.clone(), plan)
    first = _solarize_add(ImageOps.invert(image(given[0, 1])), 7.0)
    third = ImageOps.invert(ImageOps.posterize(image(given[2, 0]), 2))
    assert np.array_equal(found[0, 1].permute(1, 2, 0), np.asarray(first))
    assert torch.equal(found[1], given[1])
    assert np.array_equal(found[2, 0].permute(1, 2, 0), np.asarray(third))


def test_a_clip_is_changed_alike_in_any_batch_and_order() -> None:
    keys, given = tuple("abcdefgh"), pictures(8)
    together = rand_augment(given.clone(), Plan.drawn(SETTINGS, ClipDraws(keys=keys, seed=1, epoch=2)))
    turned = ClipDraws(keys=keys[::-1], seed=1, epoch=2)
    backwards = rand_augment(given.flip(0).contiguous(), Plan.drawn(SETTINGS, turned))
    assert torch.equal(together, backwards.flip(0))
    assert sum(not torch.equal(one, other) for one, other in zip(together, given, strict=True)) > 5
    alone = rand_augment(given[3:4].clone(), Plan.drawn(SETTINGS, ClipDraws(keys=("d",), seed=1, epoch=2)))
    assert torch.equal(alone[0], together[3])
