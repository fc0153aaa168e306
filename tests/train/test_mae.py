"""The masked autoencoder against `transformers`' VideoMAE, and what its parts promise."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from train.data.augment import IMAGENET_MEAN, IMAGENET_STD
from train.models.mae import (
    DECODERS,
    DecoderConfig,
    MaskedAutoencoder,
    decoder_for,
    hide_patches,
    paint,
    patch_targets,
    reconstruction_losses,
)
from train.models.videomae import ENCODERS, EncoderConfig, split_patches, take_tokens

#: Names of `transformers`' weights -> the official ones, which are ours.
RENAMES = (
    (r"^videomae\.embeddings\.patch_embeddings\.projection", "encoder.patch_embed.proj"),
    (r"^videomae\.encoder\.layer", "encoder.blocks"),
    (r"^videomae\.layernorm", "encoder.norm"),
    (r"^decoder\.decoder_layers", "decoder.blocks"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"attention\.attention\.query\.bias", "attn.q_bias"),
    (r"attention\.attention\.value\.bias", "attn.v_bias"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
)
SMALL = EncoderConfig(width=32, depth=2, heads=2, mlp=64, patch=(2, 8, 8), input=(4, 32, 32), layer_norm_eps=1e-12)
SMALL_DECODER = DecoderConfig(width=16, depth=3, heads=2, mlp=40, layer_norm_eps=1e-12, final_norm_eps=1e-5)


def reference() -> VideoMAEForPreTraining:
    """`transformers`' model of the same shape, with random weights, biases and norms."""
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=3,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=40,
        use_mean_pooling=False,
    )
    model = VideoMAEForPreTraining(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `transformers` -> ours."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    for query in [name for name in found if name.endswith("attention.attention.query.weight")]:
        parts = [found.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        found[query.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return found


def split_mask(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, N] with equally many in each row -> indices of visible and of hidden tokens."""
    return tuple(torch.stack([row.nonzero()[:, 0] for row in rows]) for rows in (~hidden, hidden))


def test_loss_and_gradients_are_those_of_transformers() -> None:
    theirs = reference()
    ours = MaskedAutoencoder(SMALL, SMALL_DECODER)
    state = converted(theirs.state_dict())
    ours.load_state_dict(state)
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(3, 3, 4, 32, 32, generator=generator)
    mean, std = (torch.tensor(rgb)[:, None, None, None] for rgb in (IMAGENET_MEAN, IMAGENET_STD))
    video = (pixels - mean) / std
    hidden = torch.stack([torch.randperm(32, generator=generator) < 24 for _ in range(3)])
    expected = theirs(video.transpose(1, 2), bool_masked_pos=hidden)
    visible, decoded = split_mask(hidden)
    predicted = ours(video, visible, decoded)
    torch.testing.assert_close(predicted, expected.logits, rtol=1e-5, atol=1e-5)
    losses = reconstruction_losses(predicted, patch_targets(pixels, SMALL.patch), decoded)
    torch.testing.assert_close(losses.mean(), expected.loss, rtol=1e-5, atol=0)
    losses.mean().backward()
    expected.loss.backward()
    gradients = converted({name: each.grad for name, each in theirs.named_parameters()})
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("encoder", "depth", "count"),
    [
        ("small", None, 24_029_376),
        ("base", None, 94_210_944),
        ("large", None, 342_996_992),
        ("large", 4, 317_782_016),
        ("huge", None, 692_487_296),
    ],
)
def test_parameters_are_those_of_the_official_models(encoder: str, depth: int | None, count: int) -> None:
    with torch.device("meta"):
        model = MaskedAutoencoder(ENCODERS[encoder], decoder_for(ENCODERS[encoder], depth))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_hidden_patches_are_not_seen() -> None:
    """A hidden patch may be anything; a visible one may not. What is predicted of a token depends on its place only."""
    model = MaskedAutoencoder(SMALL, SMALL_DECODER)
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(1, 3, 4, 32, 32, generator=generator)
    visible, decoded = torch.tensor([[0, 5, 17]]), torch.tensor([[1, 2, 30, 31]])
    before = model(video, visible, decoded)
    changed = video.clone()
    changed[:, :, :2, :8, 8:16] += 1  # patch 1
    assert torch.equal(model(changed, visible, decoded), before)
    changed[:, :, :2, :8, :8] += 1  # patch 0
    assert not torch.allclose(model(changed, visible, decoded), before)
    some = model(video, visible, decoded[:, [3, 0]])
    assert some.shape == (1, 2, 3 * 2 * 8 * 8)


def test_every_parameter_learns() -> None:
    model = MaskedAutoencoder(ENCODERS["tiny"], DECODERS["tiny"])
    video = torch.rand(2, 3, 16, 56, 56, generator=torch.Generator().manual_seed(1))
    order = torch.stack([torch.randperm(128, generator=torch.Generator().manual_seed(seed)) for seed in range(2)])
    visible, decoded = order[:, :13], order[:, 13:]
    targets = patch_targets(video, model.encoder.config.patch)
    reconstruction_losses(model(video, visible, decoded), targets, decoded).sum().backward()
    assert {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()} == set()


@given(st.integers(0, 2**32), st.booleans())
def test_targets_are_pixels_by_patch(seed: int, motion: bool) -> None:
    pixels = torch.rand(2, 3, 4, 32, 16, generator=torch.Generator().manual_seed(seed))
    raw = patch_targets(pixels, (2, 8, 8), normalized=False)
    assert raw.shape == (2, 2 * 4 * 2, 2 * 8 * 8 * 3)
    patch = pixels[1, :, 2:4, 24:32, 8:16]  # the last one
    assert torch.equal(raw[1, -1], patch.permute(1, 2, 3, 0).flatten())
    normal = patch_targets(pixels, (2, 8, 8), motion=motion)
    flat = patch.flatten(1)
    expected = (patch - flat.mean(1)[:, None, None, None]) / (flat.std(1)[:, None, None, None] + 1e-6)
    if motion:
        expected = torch.stack([expected[:, 0], expected[:, 1] - expected[:, 0]], dim=1)
    torch.testing.assert_close(normal[1, -1], expected.permute(1, 2, 3, 0).flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("motion", [False, True])
def test_a_perfect_prediction_paints_the_truth(motion: bool) -> None:
    pixels = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    order = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)])
    visible, decoded = order[:, :8], order[:, 8:20]  # the last 12 are neither
    targets = patch_targets(pixels, (2, 8, 8), motion=motion)
    exact = take_tokens(targets, decoded)
    torch.testing.assert_close(paint(pixels, exact, decoded, (2, 8, 8), motion=motion), pixels, rtol=1e-4, atol=1e-4)
    flat = paint(pixels, torch.zeros_like(exact), decoded, (2, 8, 8), motion=motion)
    patches, true = split_patches(flat, (2, 8, 8)), split_patches(pixels, (2, 8, 8))
    for clip in range(2):
        assert torch.equal(patches[clip, visible[clip]], true[clip, visible[clip]])
        mean = true[clip, decoded[clip]].mean(-1, keepdim=True).expand(-1, -1, 128)
        torch.testing.assert_close(patches[clip, decoded[clip]], mean)
    hidden = split_patches(hide_patches(pixels, visible, (2, 8, 8), value=2.0), (2, 8, 8))
    for clip in range(2):
        assert torch.equal(hidden[clip, visible[clip]], true[clip, visible[clip]])
        assert (hidden[clip, order[clip, 8:]] == 2).all()


def test_flat_patches_have_finite_targets_in_float32() -> None:
    pixels = torch.full((1, 3, 4, 32, 32), 0.3, dtype=torch.bfloat16)
    targets = patch_targets(pixels, (2, 8, 8))
    assert targets.dtype == torch.float32
    assert torch.isfinite(targets).all()


@pytest.mark.parametrize("changes", [{"width": 15}, {"depth": 0}, {"heads": 3}])
def test_a_decoder_that_contradicts_itself_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="decoder: found"):
        replace(SMALL_DECODER, **changes)
