"""The encoder against its published sizes, against the reference implementation, and what training asks of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train.models.videomae import (
    ENCODERS,
    Classifier,
    Encoder,
    EncoderConfig,
    Head,
    drop_path,
    join_patches,
    resize_positions,
    sinusoidal_positions,
    split_patches,
)

torch.set_num_threads(1)

LARGE = ENCODERS["large"]
SMALL = EncoderConfig(width=32, depth=3, heads=4, mlp=64, input=(4, 32, 48))


def _parameters(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def _video(config: EncoderConfig, clips: int = 2) -> Tensor:
    return torch.randn(clips, 3, *config.input, generator=torch.Generator().manual_seed(1))


def _randomised(module: nn.Module) -> nn.Module:
    """Every parameter random, the biases too, so that none can hide behind a zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
            parameter.normal_(0, scale, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module


# Sizes


def test_large_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert _parameters(Encoder(LARGE)) == 303_858_688
        assert _parameters(Classifier(LARGE, 7)) == 303_867_911
        assert _parameters(Classifier(LARGE, 400)) == 304_270_736


def test_a_linear_probe_trains_the_layernorm_and_the_last_layer() -> None:
    with torch.device("meta"):
        model = Classifier(LARGE, 7)
        model.freeze_encoder()
    assert _parameters(model, trained=True) == 9_223
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_with_stored_table_and_final_norm_it_has_the_size_marlin_publishes() -> None:
    with torch.device("meta"):
        state = Encoder(replace(LARGE, positions="stored", final_norm=True)).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 305_466_368  # "305.47M"


def test_patches_are_joined_as_they_were_split() -> None:
    video = _video(SMALL)
    patches = split_patches(video, SMALL.patch)
    assert patches.shape == (2, SMALL.tokens, 3, 2 * 16 * 16)
    assert torch.equal(join_patches(patches, SMALL.grid, SMALL.patch), video)


def test_large_sees_1568_tokens() -> None:
    assert LARGE.grid == (8, 14, 14)
    assert LARGE.tokens == 1568


@pytest.mark.parametrize("config", ENCODERS.values(), ids=ENCODERS)
def test_patches_keep_modalities_apart(config: EncoderConfig) -> None:
    """A tubelet is one face and one spectrogram in OFOS, and CFAS's border at half height is one of patches too."""
    frames, rows, columns = config.input
    assert (frames, rows) == (16, columns)
    assert config.patch[0] == 2
    assert 224 % rows == 0
    assert 112 % (config.patch[1] * 224 // rows) == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heads": 5}, "multiple of 2 x 5 heads"),
        ({"width": 0}, "at least 1"),
        ({"heads": 4.0}, "integer sizes"),
        ({"input": (4, 32)}, "in T, H, W"),
        ({"layer_norm_eps": 0.0}, "between 0 and 1"),
        ({"input": (3, 32, 48)}, "multiples of the patch"),
        ({"positions": "learned"}, "'learned', expected one of sinusoidal, stored"),
        ({"input_range": "bytes"}, "'bytes', expected one of imagenet, unit"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^encoder: found") as caught:
        replace(SMALL, **change)
    assert complaint in str(caught.value)


def test_a_video_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found \[B, 3, 4, 32, 32\], expected \[B, 3, 4, 32, 48\]"):
        Encoder(SMALL)(torch.zeros(1, 3, 4, 32, 32))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_drop_path_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="drop path rate"):
        Encoder(SMALL, drop_rate=rate)


# Positions


@given(tokens=st.integers(1, 40), half=st.integers(1, 12))
def test_sinusoidal_table_is_the_formula(tokens: int, half: int) -> None:
    width = 2 * half
    table = sinusoidal_positions(tokens, width)
    assert table.shape == (1, tokens, width)
    for position in {0, tokens // 2, tokens - 1}:
        for channel in range(width):
            angle = position / 10_000 ** (2 * (channel // 2) / width)
            wanted = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[0, position, channel].item() == pytest.approx(wanted, abs=1e-6)


def test_sinusoidal_table_is_there_on_every_device_and_in_no_state_dict() -> None:
    with torch.device("meta"):
        encoder = Encoder(SMALL)
    assert encoder.pos_embed.device.type == "cpu"
    assert encoder.pos_embed.shape == (1, SMALL.tokens, SMALL.width)
    assert "pos_embed" not in encoder.state_dict()
    assert "pos_embed" in Encoder(replace(SMALL, positions="stored")).state_dict()


@settings(deadline=None)
@given(found=st.tuples(*[st.integers(1, 4)] * 3), wanted=st.tuples(*[st.integers(1, 6)] * 3), value=st.floats(-2, 2))
def test_resizing_keeps_a_constant_table_constant(
    found: tuple[int, int, int], wanted: tuple[int, int, int], value: float
) -> None:
    resized = resize_positions(torch.full((1, math.prod(found), 4), value), found, wanted)
    assert torch.allclose(resized, torch.full((1, math.prod(wanted), 4), value))


def test_resizing_interpolates_along_each_axis_of_the_grid() -> None:
    rows = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 2, 4, 3).reshape(1, 24, 1)  # value = row, grid (2, 4, 3)
    halved = resize_positions(rows, (2, 4, 3), (2, 2, 3)).view(2, 2, 3)
    assert torch.allclose(halved, torch.tensor([0.5, 2.5]).view(1, 2, 1).expand(2, 2, 3))


def test_resizing_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(1, 24, 8)
    assert torch.equal(resize_positions(table, (2, 4, 3), (2, 4, 3)), table)


# Numbers


def test_patch_embedding_is_the_convolution_its_weights_belong_to() -> None:
    embed = _randomised(Encoder(SMALL).patch_embed)
    video = _video(SMALL)
    wanted = embed.proj(video).flatten(2).transpose(1, 2)
    assert torch.allclose(embed(video), wanted, atol=1e-5)


def _reference(config: EncoderConfig) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the reference encoder is in transformers")
    return _randomised(
        transformers.VideoMAEModel(
            transformers.VideoMAEConfig(
                image_size=list(config.input[1:]),
                num_frames=config.input[0],
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=config.mlp,
                layer_norm_eps=config.layer_norm_eps,
                use_mean_pooling=not config.final_norm,
            )
        ).eval()
    )


def _copied(reference: nn.Module, config: EncoderConfig) -> Encoder:
    """Our encoder with the reference's weights, name by name."""
    theirs = reference.state_dict()
    ours = {f"patch_embed.proj.{p}": theirs.pop(f"embeddings.patch_embeddings.projection.{p}") for p in _WB}
    for index in range(config.depth):
        layer, block = f"encoder.layer.{index}", f"blocks.{index}"
        attention = f"{layer}.attention.attention"
        parts = [theirs.pop(f"{attention}.{part}.weight") for part in ("query", "key", "value")]
        ours[f"{block}.attn.qkv.weight"] = torch.cat(parts)
        ours[f"{block}.attn.q_bias"] = theirs.pop(f"{attention}.query.bias")
        ours[f"{block}.attn.v_bias"] = theirs.pop(f"{attention}.value.bias")
        for our, their in _SAME.items():
            ours |= {f"{block}.{our}.{p}": theirs.pop(f"{layer}.{their}.{p}") for p in _WB}
    ours |= {f"norm.{p}": theirs.pop(f"layernorm.{p}") for p in _WB if config.final_norm}
    assert not theirs
    encoder = Encoder(config).eval()
    encoder.load_state_dict(ours)
    return encoder


_WB = ("weight", "bias")
_SAME = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, final_norm=True, layer_norm_eps=1e-12),
        replace(SMALL, depth=1, heads=1, mlp=40, layer_norm_eps=1e-2),
        replace(LARGE, depth=2),
    ],
    ids=["small", "final norm", "one head, eps that shows", "true width of large"],
)
def test_tokens_equal_those_of_the_reference_encoder(config: EncoderConfig) -> None:
    """Token by token: the reference's own classifier reads token 0 instead of the mean under some configurations."""
    reference = _reference(config)
    video = _video(config, clips=1)
    with torch.no_grad():
        wanted = reference(video.transpose(1, 2)).last_hidden_state
        found = _copied(reference, config)(video)
    assert found.shape == wanted.shape == (1, config.tokens, config.width)
    error = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert error.max().item() < 1e-5


def test_biases_of_query_and_value_matter() -> None:
    """Were they not used, the equality above would hold all the same for weights that lack them."""
    encoder = _randomised(Encoder(SMALL)).eval()
    video = _video(SMALL)
    before = encoder(video)
    for bias in (encoder.blocks[0].attn.q_bias, encoder.blocks[0].attn.v_bias):
        with torch.no_grad():
            bias.add_(0.5)
        after = encoder(video)
        assert not torch.allclose(before, after, atol=1e-3)
        before = after


def test_features_are_the_mean_token_and_logits_follow_from_them() -> None:
    model = _randomised(Classifier(SMALL, 5)).eval()
    video = _video(SMALL)
    features = model.features(video)
    assert features.shape == (2, SMALL.width)
    assert torch.allclose(features, model.encoder(video).mean(1), atol=1e-6)
    assert torch.equal(model(video), model.classify(features))
    assert model(video).shape == (2, 5)


def test_under_autocast_tokens_have_16_bits_and_features_32() -> None:
    model = _randomised(Classifier(SMALL, 5)).eval()
    video = _video(SMALL)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, features = model.encoder(video), model.features(video)
    assert (tokens.dtype, features.dtype) == (torch.bfloat16, torch.float32)
    wanted = model.features(video)
    assert (features - wanted).norm() / wanted.norm() < 0.03


# Training


def test_every_parameter_gets_a_gradient() -> None:
    model = _randomised(Classifier(replace(SMALL, final_norm=True), 5))
    model(_video(SMALL)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_new_classifier_prefers_no_class_much() -> None:
    torch.manual_seed(0)
    probabilities = Classifier(SMALL, 4)(_video(SMALL)).softmax(1)
    assert probabilities.max() < 0.5


@given(rate=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_drop_path_zeroes_whole_clips_and_scales_the_others(rate: float, seed: int) -> None:
    noise = torch.rand(16, generator=torch.Generator().manual_seed(seed))
    for clip, number in zip(drop_path(torch.ones(16, 3, 4), rate, noise), noise, strict=True):
        assert torch.allclose(clip, torch.full((3, 4), 1 / (1 - rate) if number >= rate else 0.0))


def test_drop_path_keeps_the_mean() -> None:
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert drop_path(torch.ones(20_000, 1, 1), 0.3, noise).mean().item() == pytest.approx(1, abs=0.02)


def test_drop_path_rises_linearly_from_zero() -> None:
    encoder = Encoder(replace(SMALL, depth=5), drop_rate=0.2)
    assert [block.drop_rate for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def _noise(model: Classifier, clips: int, seed: int = 3) -> Tensor:
    return torch.rand(clips, model.noise_per_clip, generator=torch.Generator().manual_seed(seed))


def test_nothing_is_dropped_without_noise() -> None:
    model, plain = (_randomised(Classifier(SMALL, 5, drop_rate=rate, head_dropout=rate)) for rate in (0.9, 0.0))
    video = _video(SMALL, clips=8)
    assert torch.equal(model.train()(video), plain(video))
    assert not torch.allclose(model(video, _noise(model, 8)), plain(video), atol=1e-2)


def test_each_branch_of_each_block_has_its_own_number() -> None:
    """Of a clip whose number for a branch is below its rate, that branch alone is left out."""
    model = _randomised(Classifier(SMALL, 5, drop_rate=0.5))
    assert model.noise_per_clip == 6
    video = _video(SMALL, clips=1)
    rates = [block.drop_rate for block in model.encoder.blocks for _ in range(2)]
    for branch in range(2, 6):  # the first block's rate is 0
        noise = torch.ones(1, 6)
        noise[0, branch] = rates[branch] / 2
        tokens = model.encoder.patch_embed(video) + model.encoder.pos_embed
        for number, block in enumerate(model.encoder.blocks):
            for place, (norm, part) in enumerate(((block.norm1, block.attn), (block.norm2, block.mlp))):
                scale = 0.0 if 2 * number + place == branch else 1 / (1 - block.drop_rate)
                tokens = tokens + scale * part(norm(tokens))
        torch.testing.assert_close(model.encoder(video, noise), tokens)


def test_dropout_of_the_head_zeroes_channels_of_its_input() -> None:
    model = _randomised(Classifier(SMALL, 5, head_dropout=0.25))
    assert model.noise_per_clip == 6 + SMALL.width
    features = model.features(_video(SMALL))
    noise = torch.rand(2, SMALL.width, generator=torch.Generator().manual_seed(0))
    kept = (noise >= 0.25) / 0.75
    torch.testing.assert_close(model.classify(features, noise), model.head(model.fc_norm(features) * kept))
    assert 0 < (noise < 0.25).sum() < noise.numel()


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_head_dropout_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="head dropout"):
        Classifier(SMALL, 5, head_dropout=rate)


def test_the_head_starts_as_small_as_is_set() -> None:
    """From the same random numbers, and with zero biases, whatever the scale."""
    heads = []
    for scale in (1.0, 1e-3):
        torch.manual_seed(0)
        heads.append(Classifier(replace(SMALL, width=128, depth=1), 50, head_init_scale=scale).head)
    torch.testing.assert_close(heads[1].weight, heads[0].weight * 1e-3)
    assert heads[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not heads[1].bias.any()


def test_the_head_computes_in_float32_under_autocast() -> None:
    model = _randomised(Classifier(SMALL, 5)).eval()
    features = model.features(_video(SMALL))
    wanted = model.classify(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, probe = model.classify(features), Head(model.fc_norm, model.head)(features)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert torch.equal(probe, wanted)


def _loss_and_gradients(model: nn.Module, video: Tensor, noise: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    loss = model(video, noise).square().mean()
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def test_checkpointing_changes_no_number() -> None:
    """Stochastic depth included: what was dropped is dropped again when a block is recomputed."""
    plain = _randomised(Classifier(SMALL, 5, drop_rate=0.5))
    saving = _randomised(Classifier(SMALL, 5, drop_rate=0.5, gradient_checkpointing=True))
    video, noise = _video(SMALL, clips=4), _noise(plain, 4)
    (loss, gradients), (wanted_loss, wanted) = (_loss_and_gradients(model, video, noise) for model in (saving, plain))
    assert torch.equal(loss, wanted_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


def test_checkpointing_keeps_less() -> None:
    def kept(model: nn.Module) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(_video(SMALL))
        return sum(sizes) - _video(SMALL).numel()

    assert kept(Encoder(SMALL, gradient_checkpointing=True)) < kept(Encoder(SMALL)) / 3


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_compiles_as_one_graph(gradient_checkpointing: bool) -> None:
    model = _randomised(Classifier(replace(SMALL, depth=2), 5, gradient_checkpointing=gradient_checkpointing))
    video = _video(SMALL)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss, gradients = _loss_and_gradients(compiled, video)
    wanted_loss, wanted = _loss_and_gradients(model, video)
    assert torch.allclose(loss, wanted_loss)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, wanted, strict=True))


def test_stochastic_depth_compiles_as_one_graph() -> None:
    model = _randomised(Classifier(replace(SMALL, depth=2), 5, drop_rate=0.5, head_dropout=0.5))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    video = _video(SMALL, clips=4)
    for seed in (3, 4):  # the second time without compiling again
        with torch.compiler.set_stance("fail_on_recompile" if seed == 4 else "default"):
            loss, gradients = _loss_and_gradients(compiled, video, _noise(model, 4, seed))
        wanted_loss, wanted = _loss_and_gradients(model, video, _noise(model, 4, seed))
        assert torch.allclose(loss, wanted_loss)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, wanted, strict=True))
