"""A decoder may begin with attention within the instant; nothing else of a model changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from train.data.masks import TokenLayout
from train.fusion import STRATEGIES
from train.models.instants import attend_within_instants
from train.models.mae import MaskedAutoencoder, decoder_for
from train.models.videomae import ENCODERS
from train.models.vq_mae_av import MODELS, Attention, VqMae


def own_instant(query: Tensor, key: Tensor, heads: int, positions: Tensor, instants: Tensor) -> Tensor:
    """[heads] mean share of a token's attention that its own instant has, where tokens are positions alone."""
    tokens = functional.layer_norm(positions, positions.shape[1:])
    queries, keys = (functional.linear(tokens, each).unflatten(1, (heads, -1)).transpose(0, 1) for each in (query, key))
    shares = (queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5).softmax(-1)
    return (shares * (instants[:, None] == instants)).sum(-1).mean(1)


@pytest.mark.parametrize("encoder", ["tiny", "small", "base"])
@pytest.mark.parametrize("strategy", ["cfas", "ffls"])
def test_each_head_attends_to_the_instant_whatever_modality_shows_it(strategy: str, encoder: str) -> None:
    config = ENCODERS[encoder]
    model = MaskedAutoencoder(config, replace(decoder_for(config), depth=2))
    instants = torch.from_numpy(TokenLayout.of(STRATEGIES[strategy], config).instants.ravel())
    before, chance = copy.deepcopy(model.state_dict()), 1 / len(instants.unique())
    positions = model.decoder_positions[0]

    def shares(block: int) -> Tensor:
        attention = model.decoder.blocks[block].attn
        query, key, _ = attention.qkv.weight.chunk(3)
        return own_instant(query, key, attention.heads, positions, instants)

    assert (shares(0) < 2 * chance).all()
    model.begin_within_instants(instants)
    for block in range(2):
        assert (shares(block) > 0.8).all()
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {"encoder_to_decoder.weight", *(f"decoder.blocks.{i}.attn.qkv.weight" for i in range(2))}
    values = slice(2 * positions.shape[1], None)
    for name in changed - {"encoder_to_decoder.weight"}:
        assert torch.equal(model.state_dict()[name][values], before[name][values])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_stay_finite_whatever_the_strategy(strategy: str) -> None:
    config = ENCODERS["tiny"]
    model = MaskedAutoencoder(config, decoder_for(config))
    instants = torch.from_numpy(TokenLayout.of(STRATEGIES[strategy], config).instants.ravel())
    before = copy.deepcopy(model.state_dict())
    model.begin_within_instants(instants)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    unchanged = all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert unchanged == (strategy == "rfas"), "whose tokens have no instant of their own"


def test_a_head_that_is_narrower_than_instants_are_many_still_prefers_its_own() -> None:
    torch.manual_seed(0)
    positions, instants = torch.randn(64, 32), torch.arange(64) // 4
    query, key = torch.randn(32, 32) / 6, torch.randn(32, 32) / 6
    attend_within_instants(query, key, 4, positions, instants)
    assert (own_instant(query, key, 4, positions, instants) > 3 / 16).all()


@pytest.mark.parametrize("fusion", ["saf", "caf"])
def test_a_decoder_of_codes_relates_sound_and_faces_of_an_instant(fusion: str) -> None:
    torch.manual_seed(0)
    config = replace(MODELS["tiny"], decoder_fusion=fusion)
    model = VqMae(config)
    before = copy.deepcopy(model.state_dict())
    model.begin_within_instants()
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {
        *(f"encoder.norms.{name}.weight" for name in model.encoder.norms),
        *(
            f"decoder.fused.{name}.{part}.weight"
            for name, module in model.decoder.fused.named_modules()
            if isinstance(module, Attention)
            for part in ("query", "key_value")
        ),
    }
    places, shapes = model.decoder.places, config.shapes
    positions = torch.cat([(places.positions[name] + places.modalities[name])[0] for name in shapes])
    instants = torch.cat([torch.arange(each.tokens) // (each.tokens // 5) for each in shapes.values()])
    for module in model.decoder.fused.modules():
        if isinstance(module, Attention):
            key, _ = module.key_value.weight.chunk(2)
            assert (own_instant(module.query.weight, key, module.heads, positions, instants) > 0.5).all(), "of 0.2"
    alone = VqMae(config, generative=False)
    before = copy.deepcopy(alone.state_dict())
    alone.begin_within_instants()
    assert all(torch.equal(each, before[name]) for name, each in alone.state_dict().items())
