"""Coupled masks of tokens: shares, static shapes, and what they depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.data.augment import ClipDraws, TransformError
from train.data.token_masks import TokenMasks, TokenMaskSettings, draw_fixed_masks, draw_masks

TOKENS = {"audio": 160, "visual": 360}


def draws(*keys: str, seed: int = 0, epoch: int = 1) -> ClipDraws:
    return ClipDraws(keys=keys, seed=seed, epoch=epoch)


def equal(first: TokenMasks, second: TokenMasks) -> bool:
    return all(torch.equal(one[name], two[name]) for one, two in zip(first, second, strict=True) for name in TOKENS)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(2, 400), st.integers(2, 400))
def test_shapes_are_static_and_visible_tokens_fit(seed: int, clips: int, audio: int, visual: int) -> None:
    tokens = {"audio": audio, "visual": visual}
    masks = draw_masks(TokenMaskSettings(), tokens, draws(*map(str, range(clips)), seed=seed))
    for name, count in tokens.items():
        assert masks.visible[name].shape == masks.decoded[name].shape == (clips, count)
        seen = masks.visible[name].sum(1)
        assert seen.min() >= 1 and seen.max() <= count - 1
        assert torch.equal(masks.decoded[name], torch.arange(count).expand(clips, -1))
    together = sum(mask.sum(1) for mask in masks.visible.values())
    assert int(together.max()) <= max(audio, visual)


def test_hidden_shares_are_uniform_and_sum_to_one() -> None:
    masks = draw_masks(TokenMaskSettings(), TOKENS, draws(*map(str, range(4000))))
    audio, visual = (1 - masks.visible[name].float().mean(1) for name in TOKENS)
    torch.testing.assert_close(audio + visual, torch.ones(4000), rtol=0, atol=1 / 160 + 1 / 360)
    counts = ((masks.visible["audio"].sum(1) - 1) // 16).bincount()  # 1 to 159 visible, all but one in tenths
    assert len(counts) == 10 and counts.min() > 330 and counts.max() < 470
    for name in TOKENS:  # each place as often as others
        often = masks.visible[name].float().mean(0)
        assert often.min() > 0.44 and often.max() < 0.56
    more = draw_masks(TokenMaskSettings(concentration=(9, 1)), TOKENS, draws(*map(str, range(1000))))
    assert 0.08 < float(more.visible["audio"].float().mean()) < 0.12


def test_a_mask_belongs_to_seed_epoch_and_clip() -> None:
    settings = TokenMaskSettings(decoded=0.25)
    both = draw_masks(settings, TOKENS, draws("anna_1", "eva_2"))
    alone = draw_masks(settings, TOKENS, draws("eva_2"))
    assert all(torch.equal(two[name][1:], one[name]) for two, one in zip(both, alone, strict=True) for name in TOKENS)
    for changed in (draws("anna_1", seed=1), draws("anna_1", epoch=2)):
        assert not equal(draw_masks(settings, TOKENS, changed), draw_masks(settings, TOKENS, draws("anna_1")))
    empty = draw_masks(settings, TOKENS, draws())
    assert {name: tuple(mask.shape) for name, mask in empty.visible.items()} == {"audio": (0, 160), "visual": (0, 360)}


def test_a_share_is_decoded_hidden_tokens_first() -> None:
    masks = draw_masks(TokenMaskSettings(decoded=0.25), TOKENS, draws(*map(str, range(50))))
    for name, count in TOKENS.items():
        assert masks.decoded[name].shape == (50, count // 4)
        hidden = ~masks.visible[name]
        chosen = hidden.gather(1, masks.decoded[name]).sum(1)
        assert torch.equal(chosen, hidden.sum(1).clamp(max=count // 4))
        assert (masks.decoded[name].diff(dim=1) > 0).all()


def test_fixed_shares() -> None:
    masks = draw_fixed_masks({"audio": 0.9, "visual": 1.0}, TOKENS, draws("a", "b", "c"))
    assert masks.visible["audio"].sum(1).tolist() == [16] * 3
    assert not masks.visible["visual"].any()
    assert masks.decoded["visual"].shape == (3, 360)


@pytest.mark.parametrize("changes", [{"concentration": (0.0, 1.0)}, {"decoded": 0.0}, {"decoded": 1.5}])
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TransformError, match=next(iter(changes))):
        TokenMaskSettings(**changes)
