"""From shards' bytes to the encoder's input: images, augmentation, mixup."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manifests.index import Statistics
from manifests.schema import FEATURE_ROWS, Clip, Sample, decode_faces, decode_filmstrip, encode_faces
from tests.factories.shards import make_sample
from train.data.loader import Batch
from train.data.transforms import (
    Augmentation,
    ClipTransform,
    ModelInput,
    NormalizationStats,
    TransformError,
    augment_faces,
    augment_spectrograms,
    clip_draws,
    downsample,
    mix,
    mixup_lambdas,
    spectrogram_images,
    split_filmstrips,
)
from train.fusion import STRATEGIES

torch.set_num_threads(1)

KEYS = ("a", "b", "c", "d")
NOTHING = Augmentation(crop_scale=1.0, flip=0.0, colour=0.0, time_mask=0.0, frequency_mask=0.0, gain_db=0.0, mixup=0.0)
#: Alone of its kind: a chosen change at its strongest, nothing else.
FLIPPED, CROPPED, RECOLOURED = (
    replace(NOTHING, flip=1.0),
    replace(NOTHING, crop_scale=0.8),
    replace(NOTHING, colour=0.5),
)


@cache
def sample(key: str, feature: str) -> Sample:
    return make_sample(Clip(clip_id=key, speaker="s", emotion="joy"), (feature,))


def batch(name: str, keys: tuple[str, ...] = KEYS, feature: str = "mfcc") -> Batch:
    """What the loader gives for a strategy; each clip's content depends on its id alone."""
    strategy, rows = STRATEGIES[name], FEATURE_ROWS[feature]
    samples = [sample(key, feature) for key in keys]
    strips = [sample.faces.transpose(1, 0, 2, 3).reshape(224, 3584, 3) for sample in samples]
    windows = [sample.spectrograms[f"{feature}_{strategy.windows}"] for sample in samples if strategy.windows]
    filmstrips = np.array(strips if strategy.faces else [s[:, :0] for s in strips], np.uint8)
    spectrograms = np.array(windows, np.float16).reshape(
        len(keys), strategy.windows, rows if strategy.windows else 0, 224
    )
    return Batch(
        keys=keys,
        speakers=("s",) * len(keys),
        filmstrips=torch.from_numpy(filmstrips.reshape(len(keys), 224, 3584 if strategy.faces else 0, 3)),
        spectrograms=torch.from_numpy(spectrograms),
        labels=torch.arange(len(keys)) % 3,
    )


def transform(
    name: str, feature: str = "mfcc", augmentation: Augmentation | None = None, seed: int = 0
) -> ClipTransform:
    rows = FEATURE_ROWS[feature]
    return ClipTransform(
        strategy=STRATEGIES[name],
        classes=3,
        feature=feature,
        normalization=NormalizationStats(mean=(-40.0,) * rows, std=(20.0,) * rows),
        augmentation=augmentation or Augmentation(),
        seed=seed,
    )


def faces(clips: int = 2, steps: int = 16) -> Tensor:
    return torch.rand(clips, steps, 3, 224, 224, generator=torch.Generator().manual_seed(5))


def test_a_filmstrip_is_cut_as_the_contract_says() -> None:
    crops = sample("x", "mfcc").faces
    data = encode_faces(crops)
    strips = torch.from_numpy(decode_filmstrip(data).copy())[None]
    expected = torch.from_numpy(decode_faces(data).copy()).permute(0, 3, 1, 2)[None]
    assert torch.equal(split_filmstrips(strips, 16), expected)
    assert torch.equal(split_filmstrips(strips, 8), expected[:, [0, 2, 4, 6, 8, 10, 12, 14]])


def test_statistics_are_those_of_all_values_of_a_row() -> None:
    rng = np.random.default_rng(0)
    windows = [rng.normal(-40, 20, (16, 13, 224)).astype(np.float16) for _ in range(3)]
    windows[0][:, 4] = windows[1][:, 4] = windows[2][:, 4] = np.float16(-120.5)  # a row that never varies
    found = NormalizationStats.of(Statistics.of(windows[0]) + Statistics.of(windows[1]) + Statistics.of(windows[2]))
    values = np.stack(windows).astype(np.float64)
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 1, 3)))
    np.testing.assert_allclose(np.delete(found.std, 4), np.delete(values.std(axis=(0, 1, 3)), 4), rtol=1e-6)
    assert found.std[4] == 1.0


def test_low_frequencies_are_at_the_bottom() -> None:
    rows = torch.arange(13.0)[:, None].expand(1, 8, 13, 224)
    picture = spectrogram_images(rows)[0, 0, 0]
    assert picture[0, 0] == 12
    assert picture[-1, 0] == 0
    assert (picture.diff(dim=0) <= 0).all()


def test_resizing_is_bilinear_between_row_centres() -> None:
    rows = torch.randn(2, 16, 13, 224, generator=torch.Generator().manual_seed(0))
    centres = ((torch.arange(224) + 0.5) * 13 / 224 - 0.5).clamp(0, 12)
    below, share = centres.floor().long(), (centres - centres.floor())[:, None]
    upright = rows.flip(2)
    expected = upright[:, :, below] * (1 - share) + upright[:, :, (below + 1).clamp(max=12)] * share
    torch.testing.assert_close(spectrogram_images(rows)[:, :, 0], expected, atol=1e-5, rtol=1e-5)


def test_stft_rows_are_the_pictures_own() -> None:
    rows = torch.randn(1, 8, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spectrogram_images(rows)[:, :, 0], rows.flip(2))


def test_evaluation_input_is_on_the_encoders_scale() -> None:
    shown = transform("faces").evaluation_input(batch("faces"))
    unit = split_filmstrips(batch("faces").filmstrips, 16).transpose(1, 2).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1)
    torch.testing.assert_close(shown.inputs, (unit - mean) / std)
    torch.testing.assert_close(
        replace(transform("faces"), input_range="unit").evaluation_input(batch("faces")).inputs, unit
    )
    assert torch.equal(shown.targets, functional.one_hot(torch.tensor([0, 1, 2, 0]), 3).float())


def test_spectrograms_are_normalized_for_either_range() -> None:
    heard = transform("spectrograms", "stft")
    video = heard.evaluation_input(batch("spectrograms", feature="stft")).inputs
    assert video.mean().item() == pytest.approx(0.0, abs=0.01)
    assert video.std().item() == pytest.approx(1.0, abs=0.01)
    unit = replace(heard, input_range="unit").evaluation_input(batch("spectrograms", feature="stft")).inputs
    torch.testing.assert_close(unit, 0.449 + 0.226 * video)


def test_sfas_of_shards_adds_what_the_single_modalities_show() -> None:
    both, seen, heard = (
        transform(name).evaluation_input(batch(name)).inputs for name in ("sfas", "faces", "spectrograms")
    )
    torch.testing.assert_close(both, seen + heard)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_clip_depends_on_the_rest_of_its_batch(name: str) -> None:
    maker = transform(name, augmentation=replace(Augmentation(), mixup=0.0))
    together = maker.training_input(batch(name), epoch=3)
    for place, key in ((0, "a"), (3, "d")):
        alone = maker.training_input(batch(name, (key,)), epoch=3)
        assert torch.equal(together.inputs[place], alone.inputs[0])


@pytest.mark.parametrize("name", ["cfas", "rfas"])
def test_batches_of_whole_pairs_mix_alike(name: str) -> None:
    maker = transform(name, augmentation=Augmentation(mixup=1.0))
    together = maker.training_input(batch(name), epoch=3)
    for pair in (slice(0, 2), slice(2, 4)):
        alone = maker.training_input(replace(batch(name, KEYS[pair]), labels=batch(name).labels[pair]), epoch=3)
        assert torch.equal(together.inputs[pair], alone.inputs)
        assert torch.equal(together.targets[pair], alone.targets)
        assert (alone.targets.count_nonzero(dim=1) == 2).all()


def test_seed_epoch_and_clip_decide_and_nothing_else() -> None:
    def video(seed: int, epoch: int) -> Tensor:
        return transform("ffls", seed=seed).training_input(batch("ffls", KEYS[:2]), epoch).inputs

    state = torch.get_rng_state()
    first = video(0, 0)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(first, video(0, 0))
    assert not torch.equal(first, video(0, 1))
    assert not torch.equal(first, video(1, 0))
    torch.set_rng_state(state)
    video(0, 0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_augmentation_is_evaluation(name: str) -> None:
    maker = transform(name, augmentation=NOTHING)
    given = batch(name, KEYS[:2])
    trained, evaluated = maker.training_input(given, 0), maker.evaluation_input(given)
    torch.testing.assert_close(trained.inputs, evaluated.inputs, atol=2e-4, rtol=0)
    assert torch.equal(trained.targets, evaluated.targets)


@pytest.mark.parametrize("name", STRATEGIES)
def test_empty_batches_pass(name: str) -> None:
    for made in (transform(name).training_input(batch(name, ()), 0), transform(name).evaluation_input(batch(name, ()))):
        assert isinstance(made, ModelInput)
        assert made.inputs.shape == (0, 3, 16, 224, 224)
        assert made.targets.shape == (0, 3)


def test_all_faces_of_a_clip_are_changed_alike_and_clips_differently() -> None:
    still = faces(1, 1).expand(2, 16, -1, -1, -1).contiguous()
    changed = augment_faces(still, Augmentation(), clip_draws(KEYS[:2], 0, 0))
    assert torch.equal(changed[:, :1].expand_as(changed), changed)
    assert not torch.allclose(changed[0], changed[1], atol=0.02)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_flipping_mirrors() -> None:
    torch.testing.assert_close(
        augment_faces(faces(), FLIPPED, clip_draws(KEYS[:2], 0, 0)), faces().flip(-1), atol=1e-4, rtol=0
    )


def test_a_crop_is_a_square_of_at_least_the_settings_side_inside_the_face() -> None:
    keys = tuple(map(str, range(40)))
    ramp = torch.linspace(0.5 / 224, 1 - 0.5 / 224, 224)  # the position in the face, from 0 to 1
    across, down = ramp.expand(224, 224), ramp[:, None].expand(224, 224)
    picture = torch.stack([across, down, torch.zeros(224, 224)]).expand(len(keys), 1, 3, 224, 224)
    cropped = augment_faces(picture, CROPPED, clip_draws(keys, 0, 0))
    widths = (cropped[:, 0, 0, 112, 223] - cropped[:, 0, 0, 112, 0]) * 224 / 223
    heights = (cropped[:, 0, 1, 223, 112] - cropped[:, 0, 1, 0, 112]) * 224 / 223
    torch.testing.assert_close(widths, heights, atol=2e-3, rtol=0)
    assert 0.8 - 2e-3 < widths.min() < 0.83
    assert 0.97 < widths.max() < 1 + 2e-3
    starts = cropped[:, 0, 0, 112, 0]
    assert starts.min() >= 0
    assert starts.max() > 0.05


def test_colour_changes_keep_grey_grey_and_are_those_that_were_drawn() -> None:
    grey = faces(2, 4)[:, :, :1].expand(-1, -1, 3, -1, -1) * 0.2 + 0.3
    draws = clip_draws(KEYS[:2], 0, 0)
    changed = augment_faces(grey.contiguous(), RECOLOURED, draws)
    torch.testing.assert_close(changed[:, :, 0], changed[:, :, 2], atol=1e-5, rtol=0)
    brightness, contrast = (1 + 0.5 * (2 * draws[name] - 1) for name in ("brightness", "contrast"))
    torch.testing.assert_close(changed.mean((1, 2, 3, 4)), grey.mean((1, 2, 3, 4)) * brightness, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        changed.std((1, 2, 3, 4)), grey.std((1, 2, 3, 4)) * brightness * contrast, atol=1e-4, rtol=0
    )


def test_saturation_moves_colours_from_or_towards_their_luma() -> None:
    red = torch.zeros(2, 1, 3, 224, 224)
    red[:, :, 0], red[:, :, 1:] = 0.6, 0.4
    draws = clip_draws(KEYS[:2], 0, 0) | {name: torch.full((2,), 0.5) for name in ("brightness", "contrast")}
    changed = augment_faces(red, RECOLOURED, draws)
    saturation = 1 + 0.5 * (2 * draws["saturation"] - 1)
    torch.testing.assert_close(changed[:, 0, 0, 0, 0] - changed[:, 0, 1, 0, 0], 0.2 * saturation, atol=1e-5, rtol=0)


@pytest.mark.parametrize("windows", [16, 8])
def test_covered_time_is_one_stretch_of_the_clip_in_whatever_window(windows: int) -> None:
    keys = tuple(map(str, range(30)))
    ones = torch.ones(len(keys), windows, 13, 224)
    masked = augment_spectrograms(ones, replace(NOTHING, time_mask=0.1), clip_draws(keys, 0, 0), torch.zeros(13, 1))
    covered = masked == 0
    assert torch.equal(covered, covered[:, :, :1].expand_as(covered))
    line = torch.zeros(len(keys), (windows + 1) * 112, dtype=torch.bool)
    for window in range(windows):
        line[:, window * 112 :][:, :224] |= covered[:, window, 0]
    for window in range(windows):
        assert torch.equal(line[:, window * 112 :][:, :224], covered[:, window, 0])
    lengths = line.sum(1)
    assert (line.diff(dim=1).sum(1) <= 2).all()  # one stretch has at most two ends
    assert 0.08 * line.shape[1] < lengths.max() <= 0.1 * line.shape[1] + 1
    assert lengths.min() < 0.02 * line.shape[1]


def test_covered_frequencies_are_the_same_in_every_window() -> None:
    keys = tuple(map(str, range(30)))
    ones = torch.ones(len(keys), 16, 128, 224)
    masked = augment_spectrograms(
        ones, replace(NOTHING, frequency_mask=0.2), clip_draws(keys, 0, 0), torch.zeros(128, 1)
    )
    covered = masked == 0
    assert torch.equal(covered, covered[:, :1, :, :1].expand_as(covered))
    lengths = covered[:, 0, :, 0].sum(1)
    assert (covered[:, 0, :, 0].diff(dim=1).sum(1) <= 2).all()
    assert 20 < lengths.max() <= 26
    assert lengths.min() < 3


def test_gain_lifts_every_row_of_a_db_spectrum_by_the_same_and_no_mfcc() -> None:
    louder = replace(NOTHING, gain_db=6.0)
    keys = tuple(map(str, range(40)))
    for feature, moves in (("mfcc", False), ("logmel", True)):
        maker, given = transform("spectrograms", feature, louder), batch("spectrograms", keys[:2], feature)
        change = maker.training_input(given, 0).inputs - maker.evaluation_input(given).inputs
        gains = clip_draws(keys[:2], 0, 0)["gain"]
        expected = (6.0 * (2 * gains - 1) / 20.0 if moves else torch.zeros(2)).view(2, 1, 1, 1, 1)
        torch.testing.assert_close(change, expected.expand_as(change), atol=1e-5, rtol=0)


def test_mixup_has_one_weight_for_both_modalities_and_the_labels() -> None:
    white, black = torch.full((224, 3584, 3), 255, dtype=torch.uint8), torch.zeros((224, 3584, 3), dtype=torch.uint8)
    loud, quiet = torch.full((16, 13, 224), -20.0).half(), torch.full((16, 13, 224), -60.0).half()
    pair = Batch(
        keys=("a", "b"),
        speakers=("s", "t"),
        filmstrips=torch.stack([white, black]),
        spectrograms=torch.stack([loud, quiet]),
        labels=torch.tensor([0, 2]),
    )
    maker = replace(transform("cfas", augmentation=replace(NOTHING, mixup=1.0)), input_range="unit")
    mixed = maker.training_input(pair, 0)
    weight = mixed.targets[0, 0].item()
    assert 0.05 < weight < 0.95
    torch.testing.assert_close(mixed.targets, torch.tensor([[weight, 0, 1 - weight], [1 - weight, 0, weight]]))
    torch.testing.assert_close(mixed.inputs[0, :, :, 50], torch.full((3, 16, 224), weight))
    heard = 0.449 + 0.226 * (2 * weight - 1)
    torch.testing.assert_close(mixed.inputs[0, :, :, 200], torch.full((3, 16, 224), heard))


def test_mixup_lambdas_are_drawn_from_beta_and_the_odd_last_clip_stays_as_it_is() -> None:
    weights = mixup_lambdas(tuple(map(str, range(4001))), 0.2, 0, 0)
    assert weights[4000] == 1
    pairs = weights[:4000].view(-1, 2)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
    assert pairs.mean().item() == pytest.approx(0.5, abs=0.03)
    assert pairs[:, 0].var().item() == pytest.approx(0.25 / 1.4, abs=0.02)  # of Beta(0.2, 0.2)
    images = torch.tensor([[1.0], [2.0], [5.0]])
    assert mix(images, torch.tensor([0.75, 0.75, 1.0])).flatten().tolist() == [1.25, 1.75, 5.0]


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"crop_scale": 0.0}, {"flip": 1.5}, {"mixup": -0.1}, {"gain_db": -1.0}):
        with pytest.raises(TransformError, match=r"expected shares in 0\.\.1"):
            replace(NOTHING, **wrong)


def test_a_batch_of_another_feature_is_refused() -> None:
    with pytest.raises(TransformError, match=r"cfas: found windows x rows \(16, 128\), expected \(16, 13\)"):
        transform("cfas").evaluation_input(batch("cfas", feature="logmel"))


def test_small_input_is_the_mean_of_the_pixels_it_covers() -> None:
    video = torch.arange(2 * 3 * 4 * 8 * 8, dtype=torch.float32).view(2, 3, 4, 8, 8)
    small = downsample(video, (4, 2, 2))
    assert small.shape == (2, 3, 4, 2, 2)
    torch.testing.assert_close(small[1, 2, 3, 1, 0], video[1, 2, 3, 4:8, 0:4].mean())
    assert downsample(video, (4, 8, 8)) is video


def test_input_that_does_not_divide_the_video_is_refused() -> None:
    with pytest.raises(TransformError, match="expected one that divides"):
        downsample(torch.zeros(1, 3, 4, 8, 8), (4, 3, 8))


@pytest.mark.parametrize(
    ("count", "total", "complaint"),
    [
        (10**400, 1.0, "found a count of 1000"),
        (0, 1.0, "found a count of 0"),
        (1, 1e308, "found sums out of range"),
        (-1, 1.0, "found a count of -1"),
    ],
    ids=["10^400", "0", "1e308", "-1"],
)
def test_statistics_of_which_no_number_follows_are_refused(count: int, total: float, complaint: str) -> None:
    sums = Statistics(count=count, total=(total,) * 13, squares=(1.0,) * 13)
    with pytest.raises(TransformError, match=f"statistics of the shards: {complaint}.*; build the shards again"):
        NormalizationStats.of(sums)
