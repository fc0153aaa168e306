"""What augmentation does to pixels: compared with closed forms, and with torch's own resizing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from train.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_AUGMENTATION,
    Augmentation,
    ClipDraws,
    TransformError,
    crop_faces,
    erase_faces,
    jitter_colour,
    normal_noise,
    resample,
    uniform_noise,
)

torch.set_num_threads(1)

CROPPED = replace(NO_AUGMENTATION, crop_area=(0.3, 0.8), crop_aspect=(0.75, 1.3333))
RECOLOURED = replace(NO_AUGMENTATION, colour=0.5)


def draws(clips: int, **changes: int) -> ClipDraws:
    return ClipDraws(**{"keys": tuple(map(str, range(clips))), "seed": 0, "epoch": 0, **changes})


def faces(clips: int = 2, steps: int = 4) -> Tensor:
    return torch.rand(clips, steps, 3, 224, 224, generator=torch.Generator().manual_seed(5))


def ramps(clips: int) -> Tensor:
    """Red is the column, green the row of each pixel."""
    line = torch.arange(224.0)
    picture = torch.stack([line.expand(224, 224), line[:, None].expand(224, 224), torch.zeros(224, 224)])
    return picture.expand(clips, 1, 3, 224, 224).contiguous()


# Random numbers


def test_numbers_of_a_clip_depend_on_it_and_the_fields_alone() -> None:
    few, many = ClipDraws(keys=("b",), seed=1, epoch=2), ClipDraws(keys=("a", "b"), seed=1, epoch=2)
    assert (few.uniform("crop", 5)[0] == many.uniform("crop", 5)[1]).all()
    assert (few.uniform("crop", 9)[0, :5] == few.uniform("crop", 5)[0]).all()
    different = [replace(few, seed=2), replace(few, epoch=1), replace(few, draw=1), replace(few, keys=("c",))]
    tables = [few.uniform("crop", 5), few.uniform("erase", 5), *(other.uniform("crop", 5) for other in different)]
    assert len({table.tobytes() for table in tables}) == len(tables)
    assert ClipDraws(keys=(), seed=0, epoch=0).uniform("crop", 5).shape == (0, 5)


def test_noise_of_the_model_is_a_row_for_each_draw_of_each_clip() -> None:
    noise = uniform_noise(("a", "b"), 5, seed=0, epoch=1, draws=2)
    assert noise.shape == (4, 5)
    assert len({tuple(row) for row in noise.tolist()}) == 4
    assert torch.equal(noise[1], uniform_noise(("b",), 5, seed=0, epoch=1)[0])
    assert torch.equal(noise[3], uniform_noise(("b",), 5, seed=0, epoch=1, draws=2)[1])


def test_hashed_noise_is_standard_normal_and_independent() -> None:
    noise = normal_noise(7, (200_000,), torch.device("cpu")).double()
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01
    other = normal_noise(8, (200_000,), torch.device("cpu")).double()
    assert abs(torch.corrcoef(torch.stack([noise, other]))[0, 1]) < 0.01
    assert abs(torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1]) < 0.01
    assert torch.equal(normal_noise(7, (10,), torch.device("cpu")).double(), noise[:10])


# Crops


def test_a_resampled_box_is_what_torch_makes_of_the_cut_out_one() -> None:
    given = faces()
    boxes = torch.tensor([[13, 40, 101, 180], [0, 0, 224, 60]])
    found = resample(given, boxes, torch.tensor([False, True]))
    for clip, (left, top, width, height) in enumerate(boxes.tolist()):
        cut = given[clip, :, :, top : top + height, left : left + width]
        wanted = functional.interpolate(cut, (224, 224), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found[clip], wanted.flip(-1) if clip else wanted, atol=2e-4, rtol=0)


def test_the_whole_face_is_the_face() -> None:
    whole = torch.tensor([[0, 0, 224, 224]]).expand(2, 4)
    torch.testing.assert_close(resample(faces(), whole, torch.tensor([False, False])), faces(), atol=1e-4, rtol=0)


def test_crops_have_the_areas_and_aspects_that_are_set() -> None:
    """Columns of a ramp say where the box was: its first and last pixels, as resized by torch."""
    cropped = crop_faces(ramps(300), CROPPED, draws(300))[:, 0]
    low, high = cropped[:, 0, 112].amin(1), cropped[:, 0, 112].amax(1)
    top, bottom = cropped[:, 1, :, 112].amin(1), cropped[:, 1, :, 112].amax(1)
    width, height = high - low + 1, bottom - top + 1
    areas, aspects = width * height / 224**2, width / height
    assert 0.29 < areas.min() < 0.32
    assert 0.78 < areas.max() < 0.81
    assert areas.mean().item() == pytest.approx(0.55, abs=0.03)
    assert 0.74 < aspects.min() < 0.78
    assert 1.29 < aspects.max() < 1.35
    assert aspects.log().mean().item() == pytest.approx(0, abs=0.03)
    torch.testing.assert_close(width, width.round(), atol=1e-2, rtol=0)  # whole pixels
    assert (low.min(), top.min()) >= (0, 0)
    assert max(high.max(), bottom.max()) <= 223 + 1e-3


def test_a_box_that_never_fits_is_the_whole_face() -> None:
    wide = replace(NO_AUGMENTATION, crop_area=(1.0, 1.0), crop_aspect=(2.0, 2.0))
    torch.testing.assert_close(crop_faces(faces(), wide, draws(2)), faces(), atol=1e-4, rtol=0)


def test_flipping_mirrors_as_often_as_is_set() -> None:
    always = crop_faces(faces(), replace(NO_AUGMENTATION, flip=1.0), draws(2))
    torch.testing.assert_close(always, faces().flip(-1), atol=1e-4, rtol=0)
    some = crop_faces(ramps(400), replace(NO_AUGMENTATION, flip=0.3), draws(400))
    assert (some[:, 0, 0, 0, 0] > 100).float().mean().item() == pytest.approx(0.3, abs=0.06)


def test_a_shift_moves_whole_pixels_within_its_range_and_repeats_edges() -> None:
    """Red of a pixel is the column, green the row that it came from; two of 56 each way, alike often."""
    line = torch.arange(56.0)
    picture = torch.stack([line.expand(56, 56), line[:, None].expand(56, 56), torch.zeros(56, 56)])
    given = picture.expand(500, 1, 3, 56, 56).contiguous()
    moved = crop_faces(given, replace(NO_AUGMENTATION, shift=0.036), draws(500))[:, 0]
    across, down = moved[:, 0, 28, 28] - 28, moved[:, 1, 28, 28] - 28
    for found, columns_moved in ((moved[:, 0, 28], across), (moved[:, 1, :, 28], down)):
        wanted = (line + columns_moved.round()[:, None]).clamp(0, 55)
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
        counts = torch.bincount(columns_moved.round().long() + 2, minlength=5)
        assert len(counts) == 5
        assert stats.chisquare(counts).pvalue > 0.01
    assert abs(torch.corrcoef(torch.stack([across, down]))[0, 1]) < 0.15


def test_a_shift_of_less_than_a_pixel_and_one_of_none_leave_faces_alone() -> None:
    assert not NO_AUGMENTATION.crops
    assert replace(NO_AUGMENTATION, shift=0.01).crops
    small = torch.rand(2, 4, 3, 56, 56)
    torch.testing.assert_close(
        crop_faces(small, replace(NO_AUGMENTATION, shift=0.01), draws(2)), small, atol=1e-4, rtol=0
    )


def test_all_faces_of_a_clip_are_cropped_alike_and_clips_differently() -> None:
    still = faces(1, 1).expand(2, 4, -1, -1, -1).contiguous()
    changed = crop_faces(still, CROPPED, draws(2))
    assert torch.equal(changed[:, :1].expand_as(changed), changed)
    assert not torch.allclose(changed[0], changed[1], atol=0.02)


# Colour


def test_colour_changes_keep_grey_grey_and_are_those_that_were_drawn() -> None:
    grey = faces(2, 4)[:, :, :1].expand(-1, -1, 3, -1, -1) * 0.2 + 0.3
    changed = jitter_colour(grey.contiguous(), RECOLOURED, draws(2))
    torch.testing.assert_close(changed[:, :, 0], changed[:, :, 2], atol=1e-5, rtol=0)
    brightness, contrast, _ = (1 + 0.5 * (2 * torch.from_numpy(draws(2).uniform("colour", 3)) - 1)).unbind(1)
    torch.testing.assert_close(changed.mean((1, 2, 3, 4)), grey.mean((1, 2, 3, 4)) * brightness, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        changed.std((1, 2, 3, 4)), grey.std((1, 2, 3, 4)) * brightness * contrast, atol=1e-4, rtol=0
    )


def test_saturation_moves_colours_from_or_towards_their_luma() -> None:
    red = torch.zeros(2, 1, 3, 224, 224)
    red[:, :, 0], red[:, :, 1:] = 0.6, 0.4
    changed = jitter_colour(red, RECOLOURED, draws(2))
    brightness, contrast, saturation = (1 + 0.5 * (2 * torch.from_numpy(draws(2).uniform("colour", 3)) - 1)).unbind(1)
    difference = changed[:, 0, 0, 0, 0] - changed[:, 0, 1, 0, 0]
    torch.testing.assert_close(difference, 0.2 * saturation * contrast * brightness, atol=1e-5, rtol=0)


# Erasing


def test_one_box_of_all_faces_of_a_clip_is_erased_with_noise() -> None:
    """Area 0.02 to 1/3, sides in a ratio of 0.3 to 3.33, normal noise on the scale of normalized pixels."""
    clips = 60
    grey = torch.full((clips, 2, 3, 224, 224), 0.5)
    erased = erase_faces(grey.clone(), replace(NO_AUGMENTATION, erase=1.0), draws(clips))
    changed = (erased != 0.5).any(2)  # [B, F, H, W]
    assert torch.equal(changed[:, 0], changed[:, 1])
    areas, noise = [], []
    for clip in range(clips):
        rows, columns = changed[clip, 0].any(1).nonzero().flatten(), changed[clip, 0].any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert changed[clip, 0].sum() == height * width  # a full rectangle
        assert 0.29 < height / width < 3.5
        areas.append(height * width / 224**2)
        box = erased[clip, :, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        noise.append(box.transpose(0, 1).flatten(1))
    assert 0.019 < min(areas) < 0.06
    assert 0.27 < max(areas) < 0.34
    values = torch.cat(noise, 1)
    torch.testing.assert_close(values.mean(1), torch.tensor(IMAGENET_MEAN), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.std(1), torch.tensor(IMAGENET_STD), atol=1e-3, rtol=0)
    first, second = erased[0, 0][:, changed[0, 0]], erased[0, 1][:, changed[0, 0]]
    assert (first != second).float().mean() > 0.99  # each face has noise of its own


def test_erasing_happens_as_often_as_is_set() -> None:
    grey = torch.full((400, 1, 3, 224, 224), 0.5)
    erased = erase_faces(grey, replace(NO_AUGMENTATION, erase=0.25), draws(400))
    assert (erased != 0.5).flatten(1).any(1).float().mean().item() == pytest.approx(0.25, abs=0.06)


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        *({"crop_area": (0.0, 1.0)}, {"crop_area": (0.5, 0.4)}, {"crop_area": (0.5, 1.1)}, {"crop_aspect": (0.0, 1.0)}),
        *({"window_share": (0.0, 1.0)}, {"window_share": (0.9, 0.5)}, {"window_share": (0.5, 1.5)}),
        *({"flip": 1.5}, {"mixup": -0.1}, {"gain_db": -1.0}, {"gain_db": math.nan}, {"cutmix": math.inf}),
        *({"rand_augment_operations": 16}, {"rand_augment_magnitude": 11.0}, {"modality_dropout": 1.0}),
        {"shift": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TransformError, match=rf"^{next(iter(wrong))}: found .*, expected "):
        replace(NO_AUGMENTATION, **wrong)


def test_the_defaults_change_nothing() -> None:
    assert Augmentation() == NO_AUGMENTATION
    assert not NO_AUGMENTATION.mixes
    assert not NO_AUGMENTATION.crops
    assert np.array_equal(crop_faces(faces(), NO_AUGMENTATION, draws(2)).shape, faces().shape)
