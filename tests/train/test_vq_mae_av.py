"""VQ-MAE-AV: its numbers of parameters, what may influence what, and its losses against plain ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from train.data.augment import ClipDraws
from train.data.token_masks import TokenMasks, TokenMaskSettings, draw_fixed_masks, draw_masks
from train.models.vq_mae_av import (
    AUDIO,
    MODELS,
    VISUAL,
    Attention,
    AttentionPool,
    Block,
    CodeShape,
    CrossBlock,
    VqMae,
    VqMaeConfig,
    join_tubes,
    split_tubes,
)
from train.models.vq_mae_heads import HEADS, EmotionClassifier
from train.models.vq_mae_losses import HiddenCodes, asymmetric_loss, nt_xent

PAPER = MODELS["vq-mae-av"]
TINY = VqMaeConfig(
    depth=2,
    decoder_depth=1,
    width=16,
    audio=CodeShape(grid=(20, 8), tube=(10, 4), codes=11, code_width=2),
    visual=CodeShape(grid=(10, 8, 8), tube=(5, 4, 4), codes=13, code_width=2),
)
FUSIONS = [("saf", "saf"), ("caf", "saf"), ("saf", "caf"), ("caf", "caf")]
VARIANTS = [
    *({"encoder_fusion": encoder, "decoder_fusion": decoder} for encoder, decoder in FUSIONS),
    {"audio": None},
    {"visual": None},
]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def codes_of(config: VqMaeConfig, clips: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(shape.codes, (clips, *shape.grid), generator=generator)
        for name, shape in config.shapes.items()
    }


def masks_of(config: VqMaeConfig, clips: int, **settings: Any) -> TokenMasks:
    tokens = {name: shape.tokens for name, shape in config.shapes.items()}
    draws = ClipDraws(keys=tuple(map(str, range(clips))), seed=0, epoch=1)
    return draw_masks(TokenMaskSettings(**settings), tokens, draws)


@pytest.mark.parametrize(
    ("depth", "encoder", "decoder", "count"),
    [
        (6, "saf", "saf", 8_561_600),
        (12, "saf", "saf", 13_492_160),
        (16, "saf", "saf", 16_779_200),
        (20, "saf", "saf", 20_066_240),
        (12, "caf", "saf", 24_998_080),
        (12, "saf", "caf", 18_423_360),
        (12, "caf", "caf", 29_929_280),
    ],
)
def test_parameters_are_those_of_the_paper(depth: int, encoder: Any, decoder: Any, count: int) -> None:
    config = replace(PAPER, depth=depth, encoder_fusion=encoder, decoder_fusion=decoder)
    with torch.device("meta"):
        model = VqMae(config)
    assert parameters(model) - parameters(model.pools) == count
    assert parameters(VqMae(config, contrastive=False)) == count


def test_parameters_of_parts() -> None:
    with torch.device("meta"):
        assert parameters(Block(PAPER)) == 821_760
        assert parameters(CrossBlock(PAPER)) == 822_080
        assert parameters(AttentionPool(PAPER)) == 822_400
        encoder = parameters(VqMae(PAPER, generative=False, contrastive=False))
        heads = {head: parameters(EmotionClassifier(PAPER, 8, head)) - encoder for head in HEADS}
    linear = 640 * 8 + 8
    assert heads == {"mean": linear, "attention": linear + 2 * 822_400, "query2emo": 3_863_296 + 23_048}
    reference = nn.Transformer(320, 4, 1, 1, 2048, batch_first=True, device="meta")
    assert parameters(reference) == 3_863_296
    assert [shape.tokens for shape in PAPER.shapes.values()] == [160, 360]
    assert {shape.token_width for shape in PAPER.shapes.values()} == {320}


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("objective", ["generative", "contrastive", "both"])
def test_gradients_reach_every_parameter(changes: dict[str, Any], objective: str) -> None:
    config = replace(TINY, **changes)
    torch.manual_seed(0)
    model = VqMae(config, generative=objective != "contrastive", contrastive=objective != "generative")
    codes, masks = codes_of(config, 6), masks_of(config, 6)
    found = model(codes, *masks, config.slots)
    loss = torch.zeros(())
    for name, logits in found.logits.items():
        tube = config.shapes[name].tube
        loss = (
            loss
            + HiddenCodes.of(codes[name], masks.visible[name], masks.decoded[name], tube).cross_entropy(logits).sum()
        )
    if len(found.pooled) == 2:
        pair = tuple(functional.normalize(each, dim=1) for each in found.pooled.values())
        loss = loss + nt_xent(pair, pair, 0).sum()
    else:
        loss = loss + sum(each.square().sum() for each in found.pooled.values())
    loss.backward()
    assert {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()} == set()


def test_separate_global_tokens_see_one_modality() -> None:
    torch.manual_seed(1)
    model = VqMae(TINY, separate=True)
    codes, masks = codes_of(TINY, 4), masks_of(TINY, 4)
    before, other = model(codes, *masks, TINY.slots), codes_of(TINY, 4, seed=1)
    after = model({AUDIO: codes[AUDIO], VISUAL: other[VISUAL]}, *masks, TINY.slots)
    assert torch.equal(after.pooled[AUDIO], before.pooled[AUDIO])
    assert not torch.allclose(after.pooled[VISUAL], before.pooled[VISUAL], atol=1e-4)
    sum(each.sum() for each in (*after.logits.values(), *after.pooled.values())).backward()
    assert all(each.grad is not None for each in model.parameters())


def test_a_decoder_begins_with_distances_to_the_codebook() -> None:
    model = VqMae(TINY)
    codebooks = {name: torch.randn(shape.codes, shape.code_width) for name, shape in TINY.shapes.items()}
    model.decoder.load_codebooks(codebooks)
    head, centred = model.decoder.heads[AUDIO], codebooks[AUDIO] - codebooks[AUDIO].mean(0)
    assert torch.equal(head(centred).argmax(1), torch.arange(TINY.audio.codes))
    distances = ((centred[3] - centred).square() / centred.var(0)).sum(1)
    torch.testing.assert_close(head(centred[3]).softmax(0), (-distances).softmax(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("changes", VARIANTS)
def test_gradients_reach_every_parameter_of_a_classifier(changes: dict[str, Any], head: str) -> None:
    config = replace(TINY, **changes)
    torch.manual_seed(0)
    model = EmotionClassifier(config, 3, head)
    targets = functional.one_hot(torch.arange(6) % 3, 3).float()
    asymmetric_loss(model((codes_of(config, 6), None)), targets, 0.1).backward()
    assert {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()} == set()


@pytest.mark.parametrize("slots", [TINY.slots, None])
@pytest.mark.parametrize("changes", VARIANTS)
def test_hidden_tokens_influence_nothing(changes: dict[str, Any], slots: int | None) -> None:
    """Neither tokens of the encoder, nor global tokens, nor logits; visible ones influence all."""
    config = replace(TINY, **changes)
    torch.manual_seed(1)
    model = VqMae(config)
    codes, masks = codes_of(config, 5), masks_of(config, 5)
    before = model(codes, *masks, slots)
    other = codes_of(config, 5, seed=1)
    for name, shape in config.shapes.items():
        shown = masks.visible[name][..., None].expand(-1, -1, shape.codes_per_token)
        mixed = torch.where(shown, split_tubes(codes[name], shape.tube), split_tubes(other[name], shape.tube))
        other[name] = join_tubes(mixed, shape)
        assert not torch.equal(other[name], codes[name])
    encoded = [model.encoder(each, masks.visible, slots) for each in (codes, other)]
    after = model(other, *masks, slots)
    for name in config.shapes:
        assert torch.equal(encoded[0][name], encoded[1][name])
        assert torch.equal(before.pooled[name], after.pooled[name])
        assert torch.equal(before.logits[name], after.logits[name])
    changed = model(codes_of(config, 5, seed=1), *masks, slots)
    assert not torch.allclose(changed.logits[name], before.logits[name], atol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS)
def test_slots_change_no_result(changes: dict[str, Any]) -> None:
    config = replace(TINY, **changes)
    torch.manual_seed(1)
    model = VqMae(config)
    codes, masks = codes_of(config, 5), masks_of(config, 5)
    static, whole = (model(codes, *masks, slots) for slots in (config.slots, None))
    for name in config.shapes:
        torch.testing.assert_close(static.logits[name], whole.logits[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(static.pooled[name], whole.pooled[name], rtol=1e-4, atol=1e-5)
    alone = {name: each[2:3] for name, each in codes.items()}  # neither do other clips
    part = TokenMasks(*({name: each[2:3] for name, each in each.items()} for each in masks))
    one = model(alone, *part, config.slots)
    torch.testing.assert_close(one.logits[name], static.logits[name][2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fusion", ["saf", "caf"])
def test_a_clip_may_lack_a_modality(fusion: Any, head: str) -> None:
    config = replace(TINY, encoder_fusion=fusion)
    torch.manual_seed(1)
    model = EmotionClassifier(config, 3, head)
    codes = codes_of(config, 4)
    tokens = {name: shape.tokens for name, shape in config.shapes.items()}
    complete, silent = (
        draw_fixed_masks({AUDIO: share, VISUAL: 0.0}, tokens, ClipDraws(keys=tuple("abcd"), seed=0, epoch=0)).visible
        for share in (0.0, 1.0)
    )
    torch.testing.assert_close(model((codes, complete)), model((codes, None)), rtol=1e-4, atol=1e-5)
    logits = model((codes, silent))
    assert torch.isfinite(logits).all()
    assert torch.equal(model(({**codes, AUDIO: codes[AUDIO].flip(0)}, silent)), logits)
    logits.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4, bias=True), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    queries, keys = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    present = torch.rand(3, 7) < 0.6
    present[:, 0] = True
    expected, _ = theirs(queries, keys, keys, key_padding_mask=~present)
    torch.testing.assert_close(ours(queries, keys, present), expected, rtol=1e-5, atol=1e-5)


def test_query2emo_is_a_transformer_of_torch() -> None:
    torch.manual_seed(0)
    head = EmotionClassifier(TINY, 3, "query2emo").head
    width = TINY.width
    theirs = nn.Transformer(width, TINY.heads, 1, 1, 2048, dropout=0.0, batch_first=True)
    (encoder,), (decoder,) = theirs.encoder.layers, theirs.decoder.layers

    def copy(attention: nn.MultiheadAttention, ours: Attention) -> None:
        attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        attention.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        attention.out_proj.load_state_dict(ours.proj.state_dict())

    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        copy(encoder.self_attn, head.encode)
        copy(decoder.self_attn, head.queries)
        copy(decoder.multihead_attn, head.decode)
        for layer, mlp in ((encoder, head.encode_mlp), (decoder, head.decode_mlp)):
            layer.linear1.load_state_dict(mlp[0].state_dict())
            layer.linear2.load_state_dict(mlp[2].state_dict())
        theirs_norms = (encoder.norm1, encoder.norm2, theirs.encoder.norm)
        theirs_norms += (decoder.norm1, decoder.norm2, decoder.norm3, theirs.decoder.norm)
        for norm, ours in zip(theirs_norms, (*head.encode_norms, *head.decode_norms), strict=True):
            norm.load_state_dict(ours.state_dict())
    tokens = {AUDIO: torch.randn(4, 5, width), VISUAL: torch.randn(4, 7, width)}
    expected = head.linear(theirs(torch.cat([*tokens.values()], 1), head.labels.expand(4, -1, -1)).flatten(1))
    torch.testing.assert_close(head(tokens), expected, rtol=1e-4, atol=1e-5)


def test_nt_xent_is_that_of_simclr_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    audio, visual = (functional.normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    views = torch.cat([audio, visual])
    losses = []
    for place in range(10):
        exponents = {other: float(views[place] @ views[other]) / 0.5 for other in range(10) if other != place}
        losses.append(torch.tensor([*exponents.values()]).logsumexp(0) - exponents[(place + 5) % 10])
    expected = torch.stack(losses).view(2, 5).mean(0)
    torch.testing.assert_close(nt_xent((audio, visual), (audio, visual), 0), expected)
    parts = [nt_xent((audio[at], visual[at]), (audio, visual), at.start) for at in (slice(0, 3), slice(3, 5))]
    torch.testing.assert_close(torch.cat(parts), expected)
    padded = tuple(torch.cat([each, torch.zeros(2, 8)]) for each in (audio, visual))
    torch.testing.assert_close(nt_xent((audio, visual), padded, 0), expected)
    assert nt_xent((audio[:0], visual[:0]), (audio, visual), 0).shape == (0,)


def test_asymmetric_loss_by_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(6, 4, generator=generator), torch.arange(6) % 4
    targets, probabilities = functional.one_hot(labels, 4).float(), logits.softmax(1)
    torch.testing.assert_close(
        asymmetric_loss(logits, targets), functional.cross_entropy(logits, labels, reduction="sum")
    )
    expected = 0.0
    for row, label in enumerate(labels.tolist()):
        for place, probability in enumerate(probabilities[row].tolist()):
            share = 0.1 / 4 + (0.9 if place == label else 0)
            weight = 1.0 if place == label else probability**4
            expected -= share * weight * float(torch.tensor(probability).log())
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0.1), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    extreme = torch.tensor([[100.0, -100.0]], requires_grad=True)
    asymmetric_loss(extreme, torch.tensor([[1.0, 0.0]]), 0.1).backward()
    assert torch.isfinite(extreme.grad).all()


def test_tubes_are_blocks_of_codes() -> None:
    codes = torch.arange(2 * 10 * 8 * 8).view(2, 10, 8, 8)
    tokens = split_tubes(codes, (5, 4, 4))
    assert tokens.shape == (2, 8, 80)
    assert torch.equal(tokens[1, -1], codes[1, 5:, 4:, 4:].flatten())
    assert torch.equal(tokens[0, 1], codes[0, :5, :4, 4:].flatten())
    assert torch.equal(join_tubes(tokens, TINY.shapes[VISUAL]), codes)


def test_hidden_codes_are_averaged_by_clip() -> None:
    shape = TINY.shapes[AUDIO]
    codes, masks = codes_of(TINY, 3)[AUDIO], masks_of(TINY, 3)
    visible, decoded = masks.visible[AUDIO], masks.decoded[AUDIO]
    visible[2] = True
    hidden = HiddenCodes.of(codes, visible, decoded, shape.tube)
    logits = torch.randn(3, shape.tokens, shape.codes_per_token, shape.codes)
    tokens = split_tubes(codes, shape.tube)
    for clip in range(2):
        rows = ~visible[clip]
        expected = functional.cross_entropy(logits[clip][rows].flatten(0, 1), tokens[clip][rows].flatten())
        torch.testing.assert_close(hidden.cross_entropy(logits)[clip], expected)
        assert hidden.counts[clip] == rows.sum() * shape.codes_per_token
        right = (logits.argmax(-1)[clip][rows] == tokens[clip][rows]).sum()
        assert hidden.correct(logits.argmax(-1))[clip] == right
    assert (hidden.cross_entropy(logits)[2], hidden.counts[2]) == (0, 0)


def test_codes_may_be_narrow_integers_and_batches_empty() -> None:
    model = VqMae(TINY)
    codes, masks = codes_of(TINY, 2), masks_of(TINY, 2)
    narrow = {AUDIO: codes[AUDIO].to(torch.uint8), VISUAL: codes[VISUAL].to(torch.uint16)}
    assert torch.equal(model(narrow, *masks).logits[VISUAL], model(codes, *masks).logits[VISUAL])
    found = model(codes_of(TINY, 0), *masks_of(TINY, 0), TINY.slots)
    (found.logits[AUDIO].sum() + found.pooled[VISUAL].sum()).backward()
    assert all(each.grad is not None for each in model.encoder.parameters() if each.requires_grad)


def test_a_model_begins_with_the_codebooks() -> None:
    model = VqMae(TINY)
    codebooks = {name: torch.randn(shape.codes, shape.code_width) for name, shape in TINY.shapes.items()}
    model.encoder.load_codebooks(codebooks)
    assert all(torch.equal(model.encoder.codebooks[name].weight, each) for name, each in codebooks.items())
    with pytest.raises(ValueError, match=r"audio codebook: found \(3, 2\), expected \(11, 2\)"):
        model.encoder.load_codebooks({**codebooks, AUDIO: torch.zeros(3, 2)})


@pytest.mark.parametrize(
    "changes",
    [
        *({"depth": 0}, {"width": 322}, {"encoder_fusion": "mbt"}),
        *({"audio": None, "visual": None}, {"audio": None, "decoder_fusion": "caf"}),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model: found"):
        replace(PAPER, **changes)
    with pytest.raises(ValueError, match="whole tubes"):
        CodeShape(grid=(100, 64), tube=(3, 4), codes=256, code_width=8)
