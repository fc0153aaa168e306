"""Fusion strategies: what the paper says about frames (III.B) and about tokens (IV.C)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from train.fusion import STRATEGIES, FusionError, FusionInput, Strategy, clip_order, strategy_named

torch.set_num_threads(1)

KEYS = ("1001_DFA_ANG_XX", "01-01-01-01-01-01-02")
TOKENS = 1568


def pairs(strategy: Strategy, keys: tuple[str, ...] = KEYS) -> FusionInput:
    """Faces above 0 and spectrograms below, so that every pixel shows its modality."""
    generator = torch.Generator().manual_seed(1)
    faces = torch.rand(len(keys), strategy.faces, 3, 224, 224, generator=generator) + 1
    spectrograms = -torch.rand(len(keys), strategy.windows, 1, 224, 224, generator=generator) - 1
    return FusionInput(faces=faces, spectrograms=spectrograms, keys=keys)


def numbered(strategy: Strategy, keys: tuple[str, ...] = KEYS) -> FusionInput:
    """Face i is i everywhere, spectrogram i is 100 + i."""
    faces = torch.arange(strategy.faces).float().view(1, -1, 1, 1, 1).expand(len(keys), -1, 3, 224, 224)
    spectrograms = 100 + torch.arange(strategy.windows).float().view(1, -1, 1, 1, 1).expand(len(keys), -1, 1, 224, 224)
    return FusionInput(faces=faces, spectrograms=spectrograms, keys=keys)


def tokens(video: Tensor) -> Tensor:
    """[B, 3, 16, 224, 224] -> [B, 1568, 3, 2, 16, 16], in the order of a convolution of 2x16x16."""
    cut = video.unflatten(4, (14, 16)).unflatten(3, (14, 16)).unflatten(2, (8, 2))
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)


def steps(name: str, clip: int = 0) -> list[float]:
    """Which image each of the 16 steps shows, by its number."""
    strategy = STRATEGIES[name]
    return strategy(numbered(strategy))[clip, 0, :, 0, 0].tolist()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_gives_the_encoders_input(name: str) -> None:
    strategy = STRATEGIES[name]
    video = strategy(pairs(strategy))
    assert video.shape == (2, 3, 16, 224, 224)
    assert tokens(video).shape[1] == TOKENS


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_empty_batch_gives_an_empty_video(name: str) -> None:
    strategy = STRATEGIES[name]
    assert strategy(pairs(strategy, keys=())).shape == (0, 3, 16, 224, 224)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("sfas", "faces")])
def test_spectrograms_have_three_equal_channels(name: str) -> None:
    strategy = STRATEGIES[name]
    red, green, blue = strategy(pairs(strategy)).unbind(1)
    heard = red < 0
    assert heard.any()
    assert torch.equal(red[heard], green[heard])
    assert torch.equal(red[heard], blue[heard])


@pytest.mark.parametrize(("name", "first", "last"), [("ffls", 1, -1), ("fslf", -1, 1)])
def test_ffls_and_fslf_are_784_tokens_of_one_modality_then_784_of_the_other(name: str, first: int, last: int) -> None:
    strategy = STRATEGIES[name]
    signs = tokens(strategy(pairs(strategy))).sign()
    assert (signs[:, :784] == first).all()
    assert (signs[:, 784:] == last).all()


def test_every_ofos_tubelet_holds_a_face_then_a_spectrogram() -> None:
    strategy = STRATEGIES["ofos"]
    signs = tokens(strategy(pairs(strategy))).sign()
    assert (signs[:, :, :, 0] == 1).all()
    assert (signs[:, :, :, 1] == -1).all()


def test_cfas_changes_modality_every_98_tokens() -> None:
    strategy = STRATEGIES["cfas"]
    signs = tokens(strategy(pairs(strategy))).sign().unflatten(1, (16, 98))
    assert (signs[:, 0::2] == 1).all()
    assert (signs[:, 1::2] == -1).all()


def test_cfas_halves_heights_as_bilinear_resizing_does() -> None:
    strategy = STRATEGIES["cfas"]
    given_pairs = pairs(strategy)
    video = strategy(given_pairs)
    for half, images in ((video[..., :112, :], given_pairs.faces), (video[..., 112:, :], given_pairs.rgb_spectrograms)):
        expected = functional.interpolate(images.flatten(0, 1), (112, 224), mode="bilinear", align_corners=False)
        torch.testing.assert_close(half, expected.unflatten(0, (2, 16)).transpose(1, 2))


def test_sequences_are_the_papers() -> None:
    eight = [float(i) for i in range(8)]
    heard = [100 + i for i in eight]
    assert steps("ffls") == eight + heard  # eq. (3)
    assert steps("fslf") == heard + eight  # eq. (4)
    assert steps("ofos") == [i for pair in zip(eight, heard, strict=True) for i in pair]  # eq. (5)
    assert steps("sfas") == [i + 100 + i for i in range(16)]  # eq. (2)
    assert steps("faces") == list(range(16))
    assert steps("spectrograms") == [100 + i for i in range(16)]


def test_sfas_adds_in_float_so_that_no_sum_wraps_around() -> None:
    strategy = STRATEGIES["sfas"]
    bright = torch.full((1, 16, 3, 224, 224), 200 / 255)
    video = strategy(FusionInput(faces=bright, spectrograms=bright, keys=("a",)))
    assert (video == 400 / 255).all()


def test_rfas_shows_the_images_of_ffls_in_the_clips_order() -> None:
    in_order = steps("ffls")
    for clip, key in enumerate(KEYS):
        assert steps("rfas", clip) == [in_order[place] for place in clip_order(key)]
    assert steps("rfas", 0) != steps("rfas", 1)


def test_rfas_order_never_changes() -> None:
    assert clip_order("1001_DFA_ANG_XX") == (9, 11, 3, 15, 8, 5, 4, 2, 12, 0, 1, 6, 13, 14, 10, 7)
    assert clip_order("01-01-01-01-01-01-02") == (15, 1, 4, 6, 9, 3, 12, 13, 5, 7, 0, 11, 14, 2, 8, 10)


@given(st.text())
def test_rfas_order_is_a_permutation(key: str) -> None:
    assert sorted(clip_order(key)) == list(range(16))


def test_rfas_does_not_depend_on_the_rest_of_the_batch() -> None:
    strategy = STRATEGIES["rfas"]
    both = pairs(strategy)
    alone = FusionInput(faces=both.faces[1:], spectrograms=both.spectrograms[1:], keys=both.keys[1:])
    assert torch.equal(strategy(both)[1:], strategy(alone))


def test_single_modalities_are_given_nothing_of_the_other() -> None:
    assert (STRATEGIES["faces"].windows, STRATEGIES["spectrograms"].faces) == (0, 0)
    for name, sign in (("faces", 1), ("spectrograms", -1)):
        strategy = STRATEGIES[name]
        assert (strategy(pairs(strategy)).sign() == sign).all()


def test_other_input_than_declared_is_refused() -> None:
    strategy = STRATEGIES["ffls"]
    with pytest.raises(FusionError, match=r"ffls: found faces .*16, 3.*expected float \(2, 8, 3, 224, 224\)"):
        strategy(pairs(STRATEGIES["cfas"]))
    images = torch.zeros(2, 8, 3, 224, 224, dtype=torch.uint8)
    with pytest.raises(FusionError, match=r"found faces torch\.uint8"):
        strategy(FusionInput(faces=images, spectrograms=images, keys=KEYS))


def test_an_unknown_strategy_is_refused_in_one_line_that_lists_the_valid_ones() -> None:
    assert strategy_named("cfas") is STRATEGIES["cfas"]
    with pytest.raises(
        FusionError,
        match=r"cfsa.*cfas, sfas, .*, spectrograms, vq-mae-v, vq-mae-a, vq-mae-av$",
    ):
        strategy_named("cfsa")
