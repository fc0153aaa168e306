"""From shards' bytes to the encoder's input: images, augmentation, mixing, and what a clip's result depends on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manifests.index import SpectrogramSums
from manifests.schema import FEATURE_ROWS, Clip, Sample, decode_faces, decode_filmstrip, encode_faces
from tests.factories.shards import make_sample
from train.data.augment import (
    IMAGENET_MEAN,
    Augmentation,
    ClipDraws,
    Mixing,
    TransformError,
    augment_spectrograms,
    dropped_modalities,
    erase_faces,
)
from train.data.batches import CachedBatch, PairBatch, split_filmstrips
from train.data.missing import FACES, SOUND, Missing
from train.data.transforms import (
    CachedTransform,
    ClipTransform,
    ModelInput,
    NormalizationStats,
    View,
    downsample,
    evaluation_views,
    spectrogram_images,
)
from train.fusion import STRATEGIES
from train.recipes import RECIPES

torch.set_num_threads(1)

KEYS = ("a", "b", "c", "d")
NOTHING = Augmentation()
#: Everything on, each modality on its own.
EVERYTHING = replace(RECIPES["finetune"].augmentation, colour=0.2, erase=1.0, modality_dropout=0.5)
#: The same without what lets a clip depend on another.
UNMIXED = replace(EVERYTHING, mixup=0.0, cutmix=0.0)


@cache
def sample(key: str, feature: str) -> Sample:
    return make_sample(Clip(clip_id=key, speaker="s", emotion="joy"), (feature,))


def batch(name: str, keys: tuple[str, ...] = KEYS, feature: str = "mfcc") -> PairBatch:
    """What the loader gives for a strategy; each clip's content depends on its id alone."""
    strategy, rows = STRATEGIES[name], FEATURE_ROWS[feature]
    samples = [sample(key, feature) for key in keys]
    strips = [sample.faces.transpose(1, 0, 2, 3).reshape(224, 3584, 3) for sample in samples]
    windows = [sample.spectrograms[f"{feature}_{strategy.windows}"] for sample in samples if strategy.windows]
    filmstrips = np.array(strips if strategy.faces else [s[:, :0] for s in strips], np.uint8)
    spectrograms = np.array(windows, np.float16).reshape(
        len(keys), strategy.windows, rows if strategy.windows else 0, 224
    )
    return PairBatch(
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
        augmentation=augmentation or UNMIXED,
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
    found = NormalizationStats.of(
        SpectrogramSums.of(windows[0]) + SpectrogramSums.of(windows[1]) + SpectrogramSums.of(windows[2])
    )
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
    maker = transform(name)
    together = maker.training_input(batch(name), epoch=3)
    others = maker.training_input(batch(name, ("d", "a", "b")), epoch=3)
    assert torch.equal(together.inputs[3], others.inputs[0])
    for place, key in ((0, "a"), (3, "d")):
        alone = maker.training_input(batch(name, (key,)), epoch=3)
        assert torch.equal(together.inputs[place], alone.inputs[0])


@pytest.mark.parametrize("name", ["cfas", "rfas"])
@pytest.mark.parametrize("mixed", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_batches_of_whole_pairs_mix_alike(name: str, mixed: dict[str, float]) -> None:
    maker = transform(name, augmentation=replace(UNMIXED, **mixed))
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
    assert torch.equal(trained.inputs, evaluated.inputs)
    assert torch.equal(trained.targets, evaluated.targets)


@pytest.mark.parametrize("name", STRATEGIES)
def test_empty_batches_pass(name: str) -> None:
    for made in (transform(name).training_input(batch(name, ()), 0), transform(name).evaluation_input(batch(name, ()))):
        assert isinstance(made, ModelInput)
        assert made.inputs.shape == (0, 3, 16, 224, 224)
        assert made.targets.shape == (0, 3)


@pytest.mark.parametrize("windows", [16, 8])
def test_covered_time_is_one_stretch_of_the_clip_in_whatever_window(windows: int) -> None:
    keys = tuple(map(str, range(30)))
    ones = torch.ones(len(keys), windows, 13, 224)
    draws = ClipDraws(keys=keys, seed=0, epoch=0)
    masked = augment_spectrograms(ones, replace(NOTHING, time_mask=0.1), draws, torch.zeros(13, 1))
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
    draws = ClipDraws(keys=keys, seed=0, epoch=0)
    masked = augment_spectrograms(ones, replace(NOTHING, frequency_mask=0.2), draws, torch.zeros(128, 1))
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
        gains = torch.from_numpy(ClipDraws(keys=keys[:2], seed=0, epoch=0).uniform("spectrogram", 5)[:, 0])
        expected = (6.0 * (2 * gains - 1) / 20.0 if moves else torch.zeros(2)).view(2, 1, 1, 1, 1)
        torch.testing.assert_close(change, expected.expand_as(change), atol=1e-5, rtol=0)


def contrasting_pair() -> PairBatch:
    """White faces with loud sound of class 0, and black ones with quiet sound of class 2."""
    white, black = torch.full((224, 3584, 3), 255, dtype=torch.uint8), torch.zeros((224, 3584, 3), dtype=torch.uint8)
    loud, quiet = torch.full((16, 13, 224), -20.0).half(), torch.full((16, 13, 224), -60.0).half()
    return PairBatch(
        keys=("a", "b"),
        speakers=("s", "t"),
        filmstrips=torch.stack([white, black]),
        spectrograms=torch.stack([loud, quiet]),
        labels=torch.tensor([0, 2]),
    )


def test_mixup_has_one_weight_for_both_modalities_and_the_labels() -> None:
    pair = contrasting_pair()
    maker = replace(transform("cfas", augmentation=replace(NOTHING, mixup=1.0)), input_range="unit")
    mixed = maker.training_input(pair, 0)
    weight = mixed.targets[0, 0].item()
    assert 0.05 < weight < 0.95
    torch.testing.assert_close(mixed.targets, torch.tensor([[weight, 0, 1 - weight], [1 - weight, 0, weight]]))
    torch.testing.assert_close(mixed.inputs[0, :, :, 50], torch.full((3, 16, 224), weight))
    heard = 0.449 + 0.226 * (2 * weight - 1)
    torch.testing.assert_close(mixed.inputs[0, :, :, 200], torch.full((3, 16, 224), heard))


def test_cutmix_keeps_the_share_of_the_labels_in_both_modalities() -> None:
    """White faces and loud sound beside black ones and quiet: what is seen of a clip is the weight of its label."""
    given = contrasting_pair()
    for seed in range(8):
        for name, windows in (("faces", 16), ("spectrograms", 16), ("cfas", 16)):
            maker = transform(name, augmentation=replace(NOTHING, cutmix=1.0), seed=seed)
            maker = replace(maker, input_range="unit")
            strategy = STRATEGIES[name]
            pair = replace(
                given,
                filmstrips=given.filmstrips if strategy.faces else given.filmstrips[:, :, :0],
                spectrograms=given.spectrograms if strategy.windows else given.spectrograms[:, :0, :0],
            )
            mixed = maker.training_input(pair, 0)
            weight = mixed.targets[0, 0].item()
            torch.testing.assert_close(mixed.targets[1], torch.tensor([1 - weight, 0, weight]))
            if name == "faces":
                assert mixed.inputs[0].mean().item() == pytest.approx(weight, abs=1e-5)
                frames = mixed.inputs[0].transpose(0, 1)
                assert torch.equal(frames, frames[:1].expand_as(frames))  # one box for all frames
                assert torch.equal(mixed.inputs[0] + mixed.inputs[1], torch.ones_like(mixed.inputs[0]))
            elif name == "spectrograms":
                loud = (mixed.inputs[0, 0] > 0.449).float()  # [16 windows, 224, 224]
                assert torch.equal(loud, loud[:, :1].expand_as(loud))  # all frequencies
                line = torch.cat([loud[0, 0, :112], *(loud[window, 0, 112:] for window in range(windows))])
                assert line.mean().item() == pytest.approx(weight, abs=1.5 / len(line))
                for window in range(windows):
                    assert torch.equal(loud[window, 0], line[window * 112 :][:224])
            else:
                face = transform("faces", augmentation=replace(NOTHING, cutmix=1.0), seed=seed)
                alone = face.training_input(replace(pair, spectrograms=pair.spectrograms[:, :0, :0]), 0)
                assert torch.equal(alone.targets, mixed.targets)


def test_mixing_weights_are_drawn_from_beta_and_the_odd_last_clip_stays_as_it_is() -> None:
    draws = ClipDraws(keys=tuple(map(str, range(4001))), seed=0, epoch=0)
    mixing = Mixing.drawn(replace(NOTHING, mixup=0.2), draws)
    assert mixing.weights[4000] == 1
    pairs = mixing.weights[:4000].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert pairs.mean() == pytest.approx(0.5, abs=0.03)
    assert pairs[:, 0].var() == pytest.approx(0.25 / 1.4, abs=0.02)  # of Beta(0.2, 0.2)
    assert not mixing.cut.any()
    both = Mixing.drawn(replace(NOTHING, mixup=0.8, cutmix=1.0), draws)
    assert both.cut.mean() == pytest.approx(0.5, abs=0.03)
    some = Mixing.drawn(replace(NOTHING, mixup=0.8, cutmix=1.0, mix_switch=0.1, mix_probability=0.4), draws)
    assert (some.weights == 1).mean() == pytest.approx(0.6, abs=0.03)
    assert some.cut.mean() == pytest.approx(0.04, abs=0.01)
    three = Mixing(
        weights=np.array([0.75, 0.75, 1.0], np.float32), boxes=np.zeros((3, 4), int), starts=np.zeros(3, np.float32)
    )
    assert three.blend(torch.tensor([[1.0], [2.0], [5.0]])).flatten().tolist() == [1.25, 1.75, 5.0]


def test_cutmix_boxes_are_those_of_its_paper() -> None:
    """Side sqrt(1 - weight), centre anywhere, cut off at the border; the weight is of what is left."""
    mixing = Mixing.drawn(replace(NOTHING, cutmix=1.0), ClipDraws(keys=tuple(map(str, range(4000))), seed=0, epoch=0))
    left, top, right, bottom = mixing.boxes[mixing.cut].T
    areas = (right - left) * (bottom - top) / 224**2
    np.testing.assert_allclose(mixing.weights[mixing.cut], 1 - areas, atol=1e-6)
    whole = (left > 0) & (top > 0) & (right < 224) & (bottom < 224)
    assert ((right - left) == (bottom - top))[whole].all()
    assert min(left.min(), top.min()) == 0
    assert max(right.max(), bottom.max()) == 224


def test_sound_stays_unmixed_if_asked_for() -> None:
    given = contrasting_pair()
    settings = replace(NOTHING, mixup=0.8, mix_spectrograms=False)
    maker = transform("cfas", augmentation=settings)
    mixed, plain = maker.training_input(given, 0), maker.evaluation_input(given)
    assert torch.equal(mixed.inputs[:, :, :, 112:], plain.inputs[:, :, :, 112:])
    assert not torch.allclose(mixed.inputs[:, :, :, :112], plain.inputs[:, :, :, :112], atol=0.05)
    assert 0 < mixed.targets[0, 0] < 1


@pytest.mark.parametrize("input_range", ["imagenet", "unit"])
def test_modality_dropout_shows_what_an_evaluation_without_the_modality_shows(input_range: str) -> None:
    keys = tuple(map(str, range(6)))
    settings = replace(NOTHING, modality_dropout=0.7)
    for name in ("cfas", "rfas"):
        maker = replace(transform(name, augmentation=settings), input_range=input_range)
        given = batch(name, keys)
        dropped = dropped_modalities(settings, ClipDraws(keys=keys, seed=0, epoch=2))
        assert {*dropped.tolist()} == {0, 1, 2}
        trained = maker.training_input(given, 2).inputs
        for code, missing in enumerate((None, Missing(SOUND, 1.0), Missing(FACES, 1.0))):
            evaluated = maker.evaluation_input(given, missing=missing).inputs
            assert torch.equal(trained[dropped == code], evaluated[dropped == code])
    both = replace(transform("cfas"), input_range=input_range)
    silent, faceless = (
        both.evaluation_input(batch("cfas"), missing=Missing(modality, 1.0)).inputs for modality in (SOUND, FACES)
    )
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1) if input_range == "unit" else torch.zeros(3, 1, 1, 1)
    torch.testing.assert_close(faceless[0, :, :, :112], mean.expand(3, 16, 112, 224))
    sound = torch.tensor(0.449 if input_range == "unit" else 0.0).expand(3, 16, 112, 224)
    torch.testing.assert_close(silent[0, :, :, 112:], sound)
    single = transform("faces", augmentation=replace(NOTHING, modality_dropout=0.99))
    given = batch("faces", keys)
    assert torch.equal(single.training_input(given, 0).inputs, single.evaluation_input(given).inputs)


def test_dropped_modalities_are_as_likely_as_said() -> None:
    draws = ClipDraws(keys=tuple(map(str, range(4000))), seed=0, epoch=0)
    dropped = dropped_modalities(replace(NOTHING, modality_dropout=0.3), draws)
    assert np.bincount(dropped) / 4000 == pytest.approx([0.7, 0.15, 0.15], abs=0.02)
    assert not dropped_modalities(NOTHING, draws).any()


def test_each_draw_of_a_clip_is_augmented_in_its_own_way() -> None:
    """And the first is what a single one would be."""
    given = batch("cfas")
    twice = replace(transform("cfas"), repeats=2)
    drawn, first = twice.training_input(given, 1), transform("cfas").training_input(given, 1)
    assert drawn.inputs.shape[0] == drawn.targets.shape[0] == 8
    assert torch.equal(drawn.inputs[:4], first.inputs)
    assert torch.equal(drawn.targets, first.targets.repeat(2, 1))
    assert not torch.allclose(drawn.inputs[:4], drawn.inputs[4:], atol=0.1)
    mixed = replace(transform("cfas", augmentation=replace(UNMIXED, mixup=1.0)), repeats=2).training_input(given, 1)
    assert (mixed.targets.count_nonzero(dim=1) == 2).all()  # of different clips, never of two draws of one
    assert not torch.equal(mixed.targets[:4], mixed.targets[4:])


def test_views_are_those_of_a_test() -> None:
    assert evaluation_views(flip=False, crops=1, side=1) == (View(),)
    assert evaluation_views(flip=True, crops=1, side=1) == (View(), View(mirrored=True))
    assert evaluation_views(flip=False, crops=1, side=0.75) == (View(left=0.125, top=0.125, side=0.75),)
    ten = evaluation_views(flip=True, crops=5, side=0.875)
    assert len(set(ten)) == 10
    assert {(view.left, view.top) for view in ten} == {
        *((0.0625, 0.0625), (0.0, 0.0), (0.0, 0.125), (0.125, 0.0), (0.125, 0.125))
    }
    maker, given = transform("faces"), batch("faces")
    plain = maker.evaluation_input(given).inputs
    torch.testing.assert_close(
        maker.evaluation_input(given, View(mirrored=True)).inputs, plain.flip(-1), atol=1e-4, rtol=0
    )
    corner = maker.evaluation_input(given, View(left=0.125, top=0.0, side=0.875)).inputs
    wanted = functional.interpolate(plain[:, :, :, :196, 28:].flatten(1, 2), (224, 224), mode="bilinear")
    torch.testing.assert_close(corner, wanted.view_as(corner), atol=1e-3, rtol=0)


def test_features_stay_what_they_are() -> None:
    labels = torch.tensor([2, 0])
    stored = CachedBatch(keys=KEYS[:2], labels=labels, inputs=torch.randn(2, 5))
    plain = CachedTransform(classes=3)
    for found in (plain.training_input(stored, 4), plain.evaluation_input(stored)):
        assert torch.equal(found.inputs, stored.inputs)
        assert torch.equal(found.targets, torch.eye(3)[labels])
    with pytest.raises(TransformError, match="expected complete clips, seen as they are"):
        plain.evaluation_input(stored, View(mirrored=True))
    with pytest.raises(TransformError, match="expected complete clips, seen as they are"):
        plain.evaluation_input(stored, missing=Missing(SOUND, 1.0))


def test_a_batch_of_another_feature_is_refused() -> None:
    with pytest.raises(TransformError, match=r"cfas: found windows x rows \(16, 128\), expected \(16, 13\)"):
        transform("cfas").evaluation_input(batch("cfas", feature="logmel"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_small_faces_give_the_mean_of_what_whole_ones_give(name: str) -> None:
    """Augmented or not, from faces of 56 pixels a side, each the mean of 4x4."""
    ramp = np.linspace(0, 255, 224)
    pictures = np.stack([ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], (ramp[:, None] + ramp) / 2], axis=-1)
    whole = batch(name)
    if whole.filmstrips.numel():
        strip = torch.from_numpy(np.tile(pictures, (1, 16, 1)).round().astype(np.uint8))
        whole = replace(whole, filmstrips=strip.expand(len(KEYS), -1, -1, -1).contiguous())
    pooled = whole.filmstrips.float().unflatten(1, (56, 4)).unflatten(3, (whole.filmstrips.shape[2] // 4, 4))
    small = replace(whole, filmstrips=pooled.mean(dim=(2, 4)).round().to(torch.uint8))
    smooth = replace(NOTHING, crop_area=(0.4, 0.9), crop_aspect=(0.8, 1.2), flip=0.5, colour=0.3, mixup=0.8)
    maker = replace(transform(name, augmentation=smooth), input_size=(16, 56, 56))
    assert maker.face_px == 56
    found, wanted = maker.evaluation_input(small).inputs, maker.evaluation_input(whole).inputs
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)  # a rounded pixel is half of 1/255 off, in deviations
    found, wanted = maker.training_input(small, 3), maker.training_input(whole, 3)
    torch.testing.assert_close(found.inputs, wanted.inputs, atol=0.05, rtol=0)
    assert torch.equal(found.targets, wanted.targets)


@pytest.mark.parametrize(("side", "decoded"), [(224, 224), (112, 112), (28, 28), (32, 224), (160, 224)])
def test_faces_are_decoded_to_the_encoders_size_where_a_decoder_can(side: int, decoded: int) -> None:
    assert replace(transform("cfas"), input_size=(16, side, side)).face_px == decoded


def test_boxes_of_small_faces_are_those_of_whole_ones() -> None:
    """An erased box, and a box of CutMix, cover the same part of a face."""
    keys, white, small = tuple(map(str, range(6))), torch.ones(6, 1, 3, 224, 224), torch.ones(6, 1, 3, 56, 56)
    draws = ClipDraws(keys=keys, seed=0, epoch=1)
    shares = [
        (erase_faces(faces.clone(), EVERYTHING, draws) != 1).float().mean((1, 2, 3, 4)) for faces in (white, small)
    ]
    torch.testing.assert_close(*shares, atol=0.03, rtol=0)
    assert shares[0].min() > 0.01
    mixing = Mixing.drawn(replace(NOTHING, cutmix=1.0), draws)
    marked = torch.arange(6.0)[:, None, None, None, None]
    cut = [(mixing.mix_faces(faces * marked) != marked).float().mean((1, 2, 3, 4)) for faces in (white, small)]
    torch.testing.assert_close(*cut, atol=0.03, rtol=0)
    torch.testing.assert_close(cut[0], 1 - torch.from_numpy(mixing.weights))


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
    sums = SpectrogramSums(count=count, total=(total,) * 13, squares=(1.0,) * 13)
    with pytest.raises(TransformError, match=f"statistics of the shards: {complaint}.*; build the shards again"):
        NormalizationStats.of(sums)
