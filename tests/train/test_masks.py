"""Masks of a masked autoencoder: static sizes, tubes, layouts of the strategies, and what they are drawn from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.augment import ClipDraws, TransformError
from train.data.masks import SHOWS_BOTH, SHOWS_FACES, SHOWS_SOUND, MaskSettings, TokenLayout
from train.fusion import STRATEGIES
from train.models.videomae import ENCODERS, EncoderConfig
from train.recipes import RECIPES

TINY = ENCODERS["tiny"]
#: VideoMAE's grid of 8 x 14 x 14, in few pixels.
FULL = EncoderConfig(width=8, depth=1, heads=1, mlp=8, patch=(2, 4, 4), input=(16, 56, 56))
LAYOUTS = {(name, side): TokenLayout.of(STRATEGIES[name], side) for name in STRATEGIES for side in (TINY, FULL)}
SHARES = st.floats(0.6, 0.95)


def draws(*keys: str, seed: int = 0, epoch: int = 1) -> ClipDraws:
    return ClipDraws(keys=keys, seed=seed, epoch=epoch)


def test_layouts_are_those_of_the_strategies() -> None:
    codes = {name: LAYOUTS[name, FULL].codes for name in STRATEGIES}
    assert (codes["cfas"][:, :7] == SHOWS_FACES).all()
    assert (codes["cfas"][:, 7:] == SHOWS_SOUND).all()
    assert (codes["ffls"][:4] == SHOWS_FACES).all()
    assert (codes["ffls"][4:] == SHOWS_SOUND).all()
    assert (codes["fslf"][:4] == SHOWS_SOUND).all()
    assert (codes["fslf"][4:] == SHOWS_FACES).all()
    for name in ("sfas", "ofos", "rfas"):
        assert (codes[name] == SHOWS_BOTH).all()
    assert (codes["faces"] == SHOWS_FACES).all()
    assert (codes["spectrograms"] == SHOWS_SOUND).all()


def test_instants_are_those_of_the_pictures_whatever_modality_they_are_of() -> None:
    def steps(name: str) -> list[int]:
        instants = LAYOUTS[name, FULL].instants
        assert (instants == instants[:, :1, :1]).all()
        return instants[:, 0, 0].tolist()

    for name in ("cfas", "sfas", "ofos", "faces", "spectrograms"):
        assert steps(name) == [*range(8)]
    for name in ("ffls", "fslf"):
        assert steps(name) == [*range(4), *range(4)]
    assert steps("rfas") == [0] * 8, "each clip has another order"


def test_videomae_hides_176_of_196_places() -> None:
    masks = LAYOUTS["faces", FULL].draw(MaskSettings(), draws("a", "b"))
    assert masks.visible.shape == (2, 8 * 20)
    assert masks.decoded.shape == (2, 8 * 176)
    places = masks.visible.reshape(2, 8, 20) % 196
    assert (places == places[:, :1]).all()  # the same at every time step
    assert not np.array_equal(masks.visible[0], masks.visible[1])


@pytest.mark.parametrize("name", ["cfas", "sfas", "ffls", "ofos", "spectrograms"])
def test_no_hidden_sound_is_in_the_visible_half_of_the_next_window(name: str) -> None:
    """Tubes of faces have one column, those of sound two."""
    layout = LAYOUTS[name, FULL]
    for seen in layout.draw(MaskSettings(), draws("a", "b")).visible.tolist():
        shown = np.zeros(layout.codes.shape, dtype=bool)
        shown.reshape(-1)[seen] = True
        sound = (layout.codes & SHOWS_SOUND) > 0
        columns = (shown & sound).any(axis=(0,))
        assert np.array_equal(columns[:, :7], columns[:, 7:])
        faces = (shown & (layout.codes == SHOWS_FACES)).any(axis=0)
        if faces.any():
            assert not np.array_equal(faces[:, :7], faces[:, 7:])


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(STRATEGIES)),
    st.sampled_from([TINY, FULL]),
    SHARES,
    SHARES,
    st.sampled_from([0.0, 0.5, 1.0]),
    st.floats(0.05, 1.0),
    st.integers(0, 1000),
)
def test_every_clip_has_its_tokens_once_and_as_many_as_any_other(
    name: str, encoder: EncoderConfig, faces: float, sound: float, hide: float, decoded: float, seed: int
) -> None:
    layout = LAYOUTS[name, encoder]
    given_ = MaskSettings(faces_ratio=faces, sound_ratio=sound, hide_modality=hide, decoded=decoded)
    visible, predicted = layout.sizes(given_)
    masks = layout.draw(given_, draws("a", "b", "c", seed=seed))
    assert masks.visible.shape == (3, visible)
    assert masks.decoded.shape == (3, predicted)
    for seen, hidden, modality in zip(
        masks.visible.tolist(), masks.decoded.tolist(), masks.hidden_modality, strict=True
    ):
        assert seen == sorted(set(seen))
        assert hidden == sorted(set(hidden))
        assert not set(seen) & set(hidden)
        assert min(seen + hidden) >= 0
        assert max(seen + hidden) < encoder.tokens
        codes = layout.codes.ravel()[seen]
        if layout.separable and modality:
            assert set(codes.tolist()) == {SHOWS_BOTH - modality}
        elif not modality:
            for code, tubes in layout.visible_tubes(given_).items():
                assert np.count_nonzero(codes == code) == tubes * layout.groups[code].shape[1]


@pytest.mark.parametrize("name", ["cfas", "ffls", "fslf", "ofos"])
def test_either_modality_is_hidden_about_equally_often(name: str) -> None:
    given_ = MaskSettings(hide_modality=0.5)
    found = LAYOUTS[name, TINY].draw(given_, draws(*map(str, range(2000)))).hidden_modality
    counts = np.bincount(found, minlength=3)
    deviation = 4 * math.sqrt(2000 / 4 * 3 / 4)
    assert abs(counts[0] - 1000) < deviation
    assert abs(counts[1] - 500) < deviation
    assert counts[1] + counts[2] == 2000 - counts[0]


@pytest.mark.parametrize("name", ["faces", "spectrograms"])
def test_the_only_modality_is_never_hidden(name: str) -> None:
    masks = LAYOUTS[name, TINY].draw(MaskSettings(hide_modality=1.0), draws("a", "b"))
    assert masks.hidden_modality == (0, 0)


def test_masks_belong_to_seed_epoch_and_clip() -> None:
    layout, given_ = LAYOUTS["cfas", FULL], MaskSettings(hide_modality=0.5, decoded=0.5)
    together = layout.draw(given_, draws("a", "b", "c"))
    alone = layout.draw(given_, draws("b"))
    assert together.visible[1].equal(alone.visible[0])
    assert together.decoded[1].equal(alone.decoded[0])
    assert together.hidden_modality[1] == alone.hidden_modality[0]
    for other in (draws("b", seed=1), draws("b", epoch=2), replace(draws("b"), draw=1)):
        assert not layout.draw(given_, other).visible.equal(alone.visible)
    for change in ({"decoded": 1.0}, {"decoded": 0.25}):  # what the decoder predicts changes nothing of what is seen
        assert layout.draw(replace(given_, **change), draws("b")).visible.equal(alone.visible)


def test_half_of_the_hidden_tokens_are_spread_over_all_cells_and_move_in_time() -> None:
    masks = LAYOUTS["faces", FULL].draw(MaskSettings(decoded=0.5), draws("a"))
    assert masks.decoded.shape == (1, 8 * 176 // 2)
    shown = np.zeros((8, 14, 14), dtype=bool)
    shown.reshape(-1)[masks.decoded[0]] = True
    hidden = np.ones((8, 14, 14), dtype=bool)
    hidden.reshape(-1)[masks.visible[0]] = False
    cells = shown.reshape(8, 7, 2, 7, 2).sum(axis=(2, 4))
    whole = hidden.reshape(8, 7, 2, 7, 2).all(axis=(2, 4))
    assert 1.8 < cells[whole].mean() < 2.2
    assert (np.abs(cells[whole] - 2) <= 1).mean() > 0.9
    assert not np.array_equal(shown[0], shown[1])


@pytest.mark.parametrize(
    ("name", "value"), [("faces_ratio", 1.0), ("sound_ratio", 0.0), ("hide_modality", 1.1), ("decoded", 0.0)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(TransformError, match=f"{name}: found"):
        MaskSettings(**{name: value})


def test_a_modality_cannot_be_hidden_if_the_other_has_too_few_tokens() -> None:
    given_ = MaskSettings(faces_ratio=0.3, sound_ratio=0.3, hide_modality=0.1)
    with pytest.raises(TransformError, match="found 96 visible tokens, expected at most the 64 of one modality"):
        LAYOUTS["cfas", TINY].sizes(given_)
    assert LAYOUTS["cfas", TINY].sizes(replace(given_, hide_modality=0.0))[0] == 96


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.pretraining])
def test_with_built_in_recipes_the_visible_tokens_are_whole_tubes(name: str) -> None:
    given_, encoder = RECIPES[name].pretraining, TINY if name == "pretrain-tiny" else FULL
    for strategy in STRATEGIES:
        layout = LAYOUTS[strategy, encoder]
        visible, _ = layout.sizes(given_)
        if layout.separable and given_.hide_modality:
            assert not any(visible % group.shape[1] for group in layout.groups.values()), strategy
