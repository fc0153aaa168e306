"""What is decayed, how fast each layer learns, and how the rate goes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.factories.small_trainings import CLIPS, ENCODER, recipe
from train.models.videomae import Classifier, Encoder, Positions
from train.optim import clip_grad_norm, layer_index, lr_at, make_optimizer, parameter_groups, set_lr, sum_of_rates

MODEL = Classifier(ENCODER, 3)


def test_each_trained_parameter_is_in_one_group() -> None:
    groups = parameter_groups(MODEL.named_parameters(), ENCODER.depth, recipe())
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, MODEL.parameters()))


def test_biases_and_norms_are_not_decayed() -> None:
    names = {id(parameter): name for name, parameter in MODEL.named_parameters()}
    for group in parameter_groups(MODEL.named_parameters(), ENCODER.depth, recipe(weight_decay=0.05)):
        for parameter in group["params"]:
            name = names[id(parameter)]
            plain = name.endswith("bias") or "norm" in name
            assert group["weight_decay"] == (0.0 if plain else 0.05), name


@pytest.mark.parametrize("positions", ["sinusoidal", "stored"])
def test_positions_are_not_trained(positions: Positions) -> None:
    encoder = Encoder(replace(ENCODER, positions=positions))
    assert not any("pos" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.patch_embed.proj.weight", 0),
        ("encoder.blocks.0.norm1.weight", 1),
        ("encoder.blocks.11.mlp.fc1.weight", 12),
        ("encoder.norm.weight", 25),
        ("fc_norm.weight", 25),
        ("head.bias", 25),
        ("encoder.fused.cross.audio.attn.query.weight", 1),
        ("encoder.fused.cross.visual.norm.bias", 1),
        ("encoder.fused.blocks.audio.0.attn.query.weight", 1),
        ("encoder.fused.blocks.fused.3.mlp.0.weight", 4),
        ("encoder.norms.audio.weight", 25),
        ("decoder.fused.cross.audio.attn.query.weight", 25),
    ],
)
def test_layer_of_a_parameter(name: str, layer: int) -> None:
    assert layer_index(name, depth=24) == layer


def test_the_lower_the_layer_the_lower_its_rate() -> None:
    optimizer = make_optimizer(MODEL, ENCODER.depth, recipe(layer_decay=0.5))
    set_lr(optimizer, 0.8)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_frozen_parameters_are_left_out() -> None:
    model = Classifier(ENCODER, 3)
    model.freeze_encoder()
    optimizer = make_optimizer(model, ENCODER.depth, recipe())
    trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])
    assert trained == 2 * 16 + 3 * 16 + 3


def test_rate_warms_up_then_falls_to_zero() -> None:
    config = recipe(epochs=10, warmup_epochs=2, learning_rate=1.0)
    rates = [lr_at(step, 5, config) for step in range(50)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))


def test_rate_falls_to_its_minimum_after_a_warm_up_in_steps() -> None:
    config = recipe(epochs=None, steps=50, warmup_epochs=0, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.2)
    whole = config.for_clips(20)  # 5 steps of 4
    rates = [lr_at(step, 5, whole) for step in range(51)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[30] == pytest.approx(0.6)
    assert rates[50] == pytest.approx(0.2)
    assert min(rates[10:]) == rates[50]


def test_sum_of_rates_is_that_of_the_optimizers_groups() -> None:
    """Patch embedding, middle block and head of an encoder of two blocks, over all steps, added up step by step."""
    config = recipe(epochs=None, steps=20, warmup_epochs=0, warmup_steps=4, batch=4, layer_decay=0.5, drop_last=True)
    whole = config.for_clips(CLIPS)
    optimizer = make_optimizer(MODEL, ENCODER.depth, whole)
    names = {id(parameter): name for name, parameter in MODEL.named_parameters()}
    sums: dict[int, float] = {}
    for step in range(whole.epochs * 3):
        set_lr(optimizer, lr_at(step, 3, whole))
        for group in optimizer.param_groups:
            layer = layer_index(names[id(group["params"][0])], ENCODER.depth)
            if group["weight_decay"]:
                sums[layer] = sums.get(layer, 0.0) + group["lr"]
    assert sum_of_rates(CLIPS, ENCODER.depth, config) == pytest.approx((sums[0], sums[1], sums[3]))


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_constant_rate_is_constant_after_warmup(step: int, steps_per_epoch: int) -> None:
    config = recipe(schedule="constant", warmup_epochs=0, learning_rate=1e-2)
    assert lr_at(step, steps_per_epoch, config) == 1e-2


@given(st.integers(0, 400), st.integers(1, 20), st.floats(0, 4.9))
def test_rate_is_never_above_the_recipes(step: int, steps_per_epoch: int, warmup: float) -> None:
    config = recipe(epochs=5, warmup_epochs=warmup)
    assert 0 <= lr_at(step, steps_per_epoch, config) <= config.learning_rate


@pytest.mark.parametrize(("most", "after"), [(1.0, 1.0), (10.0, 5.0), (None, 5.0)])
def test_gradient_is_clipped_to_its_norm(most: float | None, after: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert float(clip_grad_norm([parameter], most)) == 5.0
    assert float(parameter.grad.norm()) == pytest.approx(after, rel=1e-5)
