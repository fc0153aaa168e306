"""Checkpoints of every format under their true key names, whole and damaged, and the export."""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train.lineage import RANDOM
from train.models.checkpoint_formats import FORMATS, canonical_state, detect_format
from train.models.videomae import Classifier, Encoder, EncoderConfig, sinusoidal_positions
from train.models.weights import (
    Weights,
    WeightsError,
    fingerprint,
    initialize_from,
    load_classifier,
    load_weights,
    save_classifier,
)

torch.set_num_threads(1)

State = dict[str, Tensor]

CONFIG = EncoderConfig(width=32, depth=2, heads=4, mlp=48, input=(4, 32, 48))
MARLIN = replace(CONFIG, input=(16, 224, 224))  # its table is as long as the published one
_WB = ("weight", "bias")


def _random(shapes: Mapping[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(block: str, width: int, mlp: int, fc1: str = "mlp.fc1", fc2: str = "mlp.fc2") -> dict[str, tuple[int, ...]]:
    """A block as the official code and MARLIN name it."""
    return {
        **_norm(f"{block}.norm1", width),
        f"{block}.attn.q_bias": (width,),
        f"{block}.attn.v_bias": (width,),
        f"{block}.attn.qkv.weight": (3 * width, width),
        **_linear(f"{block}.attn.proj", width, width),
        **_norm(f"{block}.norm2", width),
        **_linear(f"{block}.{fc1}", mlp, width),
        **_linear(f"{block}.{fc2}", width, mlp),
    }


def _encoder(c: EncoderConfig, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """An encoder as the official code names it."""
    shapes = {f"{prefix}patch_embed.proj.weight": (c.width, 3, *c.patch), f"{prefix}patch_embed.proj.bias": (c.width,)}
    for index in range(c.depth):
        shapes |= _block(f"{prefix}blocks.{index}", c.width, c.mlp)
    return shapes


def official_pretrained(c: EncoderConfig = CONFIG) -> State:
    """`PretrainVisionTransformer` of MCG-NJU/VideoMAE."""
    return _random(
        {
            "mask_token": (1, 1, 16),
            **_encoder(c, "encoder."),
            **_norm("encoder.norm", c.width),
            **_block("decoder.blocks.0", 16, 64),
            **_norm("decoder.norm", 16),
            **_linear("decoder.head", 1536, 16),
            "encoder_to_decoder.weight": (16, c.width),
        }
    )


def official_finetuned(c: EncoderConfig = CONFIG) -> State:
    """`VisionTransformer` of MCG-NJU/VideoMAE."""
    return _random({**_encoder(c), **_norm("fc_norm", c.width), **_linear("head", 400, c.width)})


def marlin(c: EncoderConfig = MARLIN, *, full: bool = False) -> State:
    """`Marlin` of ControlNet/MARLIN: `.encoder.pt`, or `.full.pt` with its decoder."""
    fc = {"fc1": "mlp.layers.0.linear", "fc2": "mlp.layers.1.linear"}
    shapes = {
        "encoder.patch_embedding.projection.weight": (c.width, 3, *c.patch),
        "encoder.patch_embedding.projection.bias": (c.width,),
        "encoder.pos_embedding.emb": (1, c.tokens, c.width),
        **_norm("encoder.norm", c.width),
    }
    for index in range(c.depth):
        shapes |= _block(f"encoder.blocks.{index}", c.width, c.mlp, **fc)
    if full:
        shapes |= {"decoder.mask_token": (1, 1, 16), "decoder.pos_embedding.emb": (1, c.tokens, 16)}
        shapes |= (
            _block("decoder.blocks.0", 16, 64, **fc) | _norm("decoder.norm", 16) | _linear("decoder.head", 1536, 16)
        )
        shapes |= {"enc_dec_proj.weight": (16, c.width)}
    return _random(shapes)


def hub(c: EncoderConfig = CONFIG, *, kind: str = "VideoMAEForVideoClassification", apart: bool = True) -> State:
    """Hugging Face's VideoMAE; `apart` spells the biases query.bias and value.bias, else q_bias and v_bias."""
    top = "" if kind == "VideoMAEModel" else "videomae."
    patches = f"{top}embeddings.patch_embeddings.projection"
    shapes = {f"{patches}.weight": (c.width, 3, *c.patch), f"{patches}.bias": (c.width,)}
    for index in range(c.depth):
        shapes |= _hub_block(f"{top}encoder.layer.{index}", c.width, c.mlp, apart)
    if kind == "VideoMAEForVideoClassification":
        shapes |= {**_norm("fc_norm", c.width), **_linear("classifier", 400, c.width)}
    else:
        shapes |= _norm(f"{top}layernorm", c.width)
    if kind == "VideoMAEForPreTraining":
        shapes |= {"encoder_to_decoder.weight": (16, c.width), "mask_token": (1, 1, 16), **_norm("decoder.norm", 16)}
        shapes |= _hub_block("decoder.decoder_layers.0", 16, 64, apart) | _linear("decoder.head", 1536, 16)
    return _random(shapes)


def _hub_block(layer: str, width: int, mlp: int, apart: bool) -> dict[str, tuple[int, ...]]:
    attention = f"{layer}.attention.attention"
    biases = ("query.bias", "value.bias") if apart else ("q_bias", "v_bias")
    return {
        **{f"{attention}.{bias}": (width,) for bias in biases},
        **{f"{attention}.{part}.weight": (width, width) for part in ("query", "key", "value")},
        **_linear(f"{layer}.attention.output.dense", width, width),
        **_linear(f"{layer}.intermediate.dense", mlp, width),
        **_linear(f"{layer}.output.dense", width, mlp),
        **_norm(f"{layer}.layernorm_before", width),
        **_norm(f"{layer}.layernorm_after", width),
    }


def hub_config(c: EncoderConfig = CONFIG, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": "videomae",
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp,
        "tubelet_size": c.patch[0],
        "patch_size": c.patch[1],
        "num_frames": c.input[0],
        "image_size": list(c.input[1:]),
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        **changes,
    }


def _saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _folder(path: Path, state: State, config: Mapping[str, Any], *, pickled: bool = False) -> Path:
    path.mkdir(parents=True)
    if pickled:
        torch.save(state, path / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    return path


def _complaint(source: str | Path, config: EncoderConfig | None = CONFIG) -> str:
    """The one line that says why weights cannot be used."""
    with pytest.raises(WeightsError) as caught:
        load_weights(source, *filter(None, [config]))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Every format


def _expect_official(weights: Weights, state: State, prefix: str) -> None:
    """Each weight of the encoder is the tensor of its own name; nothing else."""
    assert set(weights.encoder) == set(Encoder(weights.config).state_dict())
    for name, tensor in weights.encoder.items():
        assert torch.equal(tensor, state[f"{prefix}{name}"]), name


@pytest.mark.parametrize("wrapper", ["model", "module", None])
def test_official_pretrained(tmp_path: Path, wrapper: str | None) -> None:
    state = official_pretrained()
    path = _saved(tmp_path / "checkpoint-1599.pth", {wrapper: state, "epoch": 1599} if wrapper else state)
    weights = load_weights(path, CONFIG)
    _expect_official(weights, state, "encoder.")
    assert weights.config == CONFIG
    assert (weights.format, weights.licence, weights.source) == ("VideoMAE", "CC BY-NC 4.0", str(path))
    assert weights.head == {}
    assert {"mask_token", "decoder.norm.weight", "encoder_to_decoder.weight", "norm.weight"} <= set(weights.ignored)


def test_official_pretrained_with_its_final_norm(tmp_path: Path) -> None:
    state = official_pretrained()
    weights = load_weights(_saved(tmp_path / "vit.pth", {"model": state}), replace(CONFIG, final_norm=True))
    assert torch.equal(weights.encoder["norm.weight"], state["encoder.norm.weight"])
    Encoder(weights.config).load_state_dict(dict(weights.encoder))


def test_official_finetuned(tmp_path: Path) -> None:
    state = official_finetuned()
    weights = load_weights(_saved(tmp_path / "vit.pth", {"module": state}), CONFIG)
    _expect_official(weights, state, "")
    assert {name: tuple(tensor.shape) for name, tensor in weights.head.items()} == {
        "fc_norm.weight": (32,),
        "fc_norm.bias": (32,),
        "head.weight": (400, 32),
        "head.bias": (400,),
    }
    assert weights.ignored == ()


def test_official_with_what_training_leaves_beside_the_weights(tmp_path: Path) -> None:
    """Optimizer state and the command line's settings, an argparse.Namespace, as the official code saves them."""
    state = official_finetuned()
    optimizer = {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    args = argparse.Namespace(lr=1e-3, opt_betas=[0.9, 0.999], device="cuda", window_size=(8, 14, 14), resume=None)
    saved = {"model": state, "optimizer": optimizer, "epoch": 3, "scaler": {"scale": 65536.0}, "args": args}
    _expect_official(load_weights(_saved(tmp_path / "checkpoint-3.pth", saved), CONFIG), state, "")


def test_official_in_torchs_older_file_format(tmp_path: Path) -> None:
    state = official_finetuned()
    torch.save({"model": state}, tmp_path / "vit.pth", _use_new_zipfile_serialization=False)
    _expect_official(load_weights(tmp_path / "vit.pth", CONFIG), state, "")


@pytest.mark.parametrize("full", [False, True])
def test_marlin(tmp_path: Path, full: bool) -> None:
    state = marlin(full=full)
    weights = load_weights(_saved(tmp_path / "marlin_vit_large_ytf.encoder.pt", state), MARLIN)
    assert weights.config == replace(MARLIN, positions="stored", layer_norm_eps=1e-5, input_range="unit")
    assert weights.format == "MARLIN"
    found = dict(weights.encoder)
    assert torch.equal(found.pop("pos_embed"), state["encoder.pos_embedding.emb"])
    assert torch.equal(found.pop("patch_embed.proj.weight"), state["encoder.patch_embedding.projection.weight"])
    assert torch.equal(found.pop("blocks.1.mlp.fc2.bias"), state["encoder.blocks.1.mlp.layers.1.linear.bias"])
    assert torch.equal(found.pop("blocks.0.attn.qkv.weight"), state["encoder.blocks.0.attn.qkv.weight"])
    assert any(key.startswith("decoder.") for key in weights.ignored) == full
    Encoder(weights.config).load_state_dict(dict(weights.encoder))


def test_marlin_from_the_hub_and_from_lightning(tmp_path: Path) -> None:
    state = marlin()
    hub_state = {f"marlin.{key}": tensor for key, tensor in state.items()}
    lightning = {"state_dict": state | {"discriminator.layers.0.linear.weight": torch.zeros(4, 4)}, "epoch": 1}
    for path, content in ((tmp_path / "a.pt", hub_state), (tmp_path / "b.ckpt", lightning)):
        weights = load_weights(_saved(path, content), MARLIN)
        assert torch.equal(weights.encoder["blocks.0.norm1.bias"], state["encoder.blocks.0.norm1.bias"])


def test_a_stored_table_is_resized_and_a_computed_one_computed_again(tmp_path: Path) -> None:
    smaller = replace(MARLIN, input=(16, 112, 112))
    state = marlin()
    state["encoder.pos_embedding.emb"] = torch.full((1, 1568, 32), 0.25)
    weights = load_weights(_saved(tmp_path / "marlin.pt", state), smaller)
    assert torch.allclose(weights.encoder["pos_embed"], torch.full((1, 8 * 7 * 7, 32), 0.25))
    assert weights.config.input == (16, 112, 112)
    official = load_weights(_saved(tmp_path / "vit.pth", official_finetuned()), smaller)
    assert torch.equal(Encoder(official.config).pos_embed, sinusoidal_positions(8 * 7 * 7, 32))


def test_a_stored_table_of_another_length_is_an_error(tmp_path: Path) -> None:
    state = marlin()
    state["encoder.pos_embedding.emb"] = torch.zeros(1, 1569, 32)
    found = _complaint(_saved(tmp_path / "marlin.pt", state), MARLIN)
    assert "pos_embed: found shape (1, 1569, 32), expected (1, 1568, 32)" in found


@pytest.mark.parametrize("apart", [True, False], ids=["query.bias", "q_bias"])
@pytest.mark.parametrize("kind", ["VideoMAEForVideoClassification", "VideoMAEForPreTraining", "VideoMAEModel"])
@pytest.mark.parametrize("pickled", [True, False], ids=["bin", "safetensors"])
def test_hugging_face(tmp_path: Path, kind: str, apart: bool, pickled: bool) -> None:
    state = hub(kind=kind, apart=apart)
    weights = load_weights(_folder(tmp_path / "model", state, hub_config(), pickled=pickled))
    assert weights.config == replace(CONFIG, layer_norm_eps=1e-12)
    top = "" if kind == "VideoMAEModel" else "videomae."
    attention = f"{top}encoder.layer.1.attention.attention"
    stacked = torch.cat([state[f"{attention}.{part}.weight"] for part in ("query", "key", "value")])
    assert torch.equal(weights.encoder["blocks.1.attn.qkv.weight"], stacked)
    bias = state[f"{attention}.{'query.bias' if apart else 'q_bias'}"]
    assert torch.equal(weights.encoder["blocks.1.attn.q_bias"], bias)
    assert torch.equal(weights.encoder["blocks.1.mlp.fc2.weight"], state[f"{top}encoder.layer.1.output.dense.weight"])
    assert ("head.weight" in weights.head) == (kind == "VideoMAEForVideoClassification")
    Encoder(weights.config).load_state_dict(dict(weights.encoder))


@pytest.mark.parametrize("kind", ["VideoMAEForVideoClassification", "VideoMAEForPreTraining", "VideoMAEModel"], ids=str)
def test_what_transformers_saves_gives_what_transformers_computes(tmp_path: Path, kind: str) -> None:
    """Its own key names, and the tokens too."""
    transformers = pytest.importorskip("transformers", reason="the reference encoder is in transformers")
    sizes = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
    pooled = kind == "VideoMAEForVideoClassification"
    config = transformers.VideoMAEConfig(**hub_config(), **sizes, use_mean_pooling=pooled)
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "model")
    weights = load_weights(tmp_path / "model", replace(CONFIG, final_norm=not pooled))
    encoder = Encoder(weights.config).eval()
    encoder.load_state_dict(dict(weights.encoder))
    video = torch.randn(1, 3, *CONFIG.input)
    with torch.no_grad():
        wanted = getattr(model, "videomae", model)(video.transpose(1, 2)).last_hidden_state
        error = (encoder(video) - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert error.max() < 1e-5


def test_one_file_without_a_configuration_is_told_by_its_shapes(tmp_path: Path) -> None:
    config = EncoderConfig(width=384, depth=1, heads=6, mlp=32)
    safetensors.torch.save_file(hub(config), tmp_path / "small.safetensors")
    assert load_weights(tmp_path / "small.safetensors").config == config
    path = _saved(tmp_path / "narrow.pth", official_finetuned())
    assert "found width 32, expected one of [384, 768, 1024, 1280]" in _complaint(path, None)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {key: tensor.half() for key, tensor in official_finetuned().items()}
    weights = load_weights(_saved(tmp_path / "vit.pth", state), CONFIG)
    assert {tensor.dtype for tensor in (*weights.encoder.values(), *weights.head.values())} == {torch.float32}


# Not theirs, not whole


def test_mae_dfer_is_refused(tmp_path: Path) -> None:
    state = _random(
        {
            "lg_region_tokens": (8, 512),
            "patch_embed.proj.weight": (512, 3, 2, 16, 16),
            "patch_embed.proj.bias": (512,),
            **_norm("blocks.0.first_attn_norm0", 512),
            "blocks.0.first_attn.q_bias": (512,),
            "blocks.0.first_attn.q.weight": (512, 512),
            "blocks.0.first_attn.kv.weight": (1024, 512),
            **_norm("fc_norm", 512),
        }
    )
    for path, prefix in ((tmp_path / "finetuned.pth", ""), (tmp_path / "pretrained.pth", "encoder.")):
        named = {f"{prefix}{key}": tensor for key, tensor in state.items()}
        found = _complaint(_saved(path, {"model": named}), None)
        assert found.startswith(f"{path}: found MAE-DFER, whose blocks attend within regions")


def test_hicmae_is_refused(tmp_path: Path) -> None:
    state = _random(
        {
            "encoder.patch_embed.proj.weight": (512, 3, 2, 16, 16),
            "encoder_audio.patch_embed.proj.weight": (512, 1, 16, 16),
            "encoder_fusion.blocks.0.cross_attn.q.weight": (512, 512),
        }
    )
    assert "found HiCMAE, which has an encoder for each modality" in _complaint(_saved(tmp_path / "h.pth", state), None)


def test_some_other_model_is_refused(tmp_path: Path) -> None:
    found = _complaint(_saved(tmp_path / "resnet.pth", _random({"conv1.weight": (4, 3, 7, 7), "fc.bias": (4,)})))
    assert (
        "found keys 'conv1.weight', 'fc.bias', expected those of VideoMAE, VideoMAE from Hugging Face, MARLIN" in found
    )


@given(key=st.sampled_from(sorted(official_finetuned())))
def test_any_missing_key_is_an_error(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    state = official_finetuned()
    del state[key]
    found = _complaint(_saved(tmp_path_factory.mktemp("w") / "vit.pth", {"model": state}))
    assert key in found or "found no patch embedding and MLP" in found or "found keys" in found


@given(key=st.sampled_from(sorted(official_finetuned())))
def test_any_wrong_shape_is_an_error(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    state = official_finetuned()
    state[key] = torch.cat([state[key], state[key]])
    found = _complaint(_saved(tmp_path_factory.mktemp("w") / "vit.pth", {"model": state}))
    assert "expected" in found
    assert key.rpartition(".")[0] in found or "found width 64, expected 32" in found or "found mlp 96" in found


@given(key=st.sampled_from(sorted(official_finetuned())), more=st.sampled_from(["x", ".x", "0", ".weight"]))
def test_any_extra_key_is_an_error(key: str, more: str) -> None:
    state = {**official_finetuned(), f"{key}{more}": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        canonical_state(state, detect_format(state, "vit.pth"), "vit.pth")
    assert f"vit.pth: found unknown keys '{key}{more}'" in str(caught.value)


def test_every_key_is_used_or_named(tmp_path: Path) -> None:
    for state in (official_pretrained(), official_finetuned(), marlin(full=True), hub(kind="VideoMAEForPreTraining")):
        tensors, left = canonical_state(state, detect_format(state, "w"), "w")
        stacked = sum(name.endswith("attn.qkv.weight") for name in tensors) * (2 if "mask_token" in state else 0)
        is_hub = any("layernorm_before" in key for key in state)
        assert len(tensors) + (stacked if is_hub else 0) + len(left) == len(state)


def test_a_weight_under_two_names_is_an_error(tmp_path: Path) -> None:
    attention = "videomae.encoder.layer.0.attention.attention"
    state = hub(apart=True) | {f"{attention}.q_bias": torch.zeros(32)}
    found = _complaint(_folder(tmp_path / "model", state, hub_config()))
    assert "which is blocks.0.attn.q_bias, a second time; expected each weight once" in found


def test_blocks_beyond_the_encoder_are_an_error(tmp_path: Path) -> None:
    path = _saved(tmp_path / "vit.pth", official_finetuned(replace(CONFIG, depth=3)))
    assert "found depth 3, expected 2 as requested; request the encoder that fits" in _complaint(path)
    state = official_finetuned()
    path = _saved(tmp_path / "gap.pth", {key.replace("blocks.1.", "blocks.7."): value for key, value in state.items()})
    assert "found no 'blocks.1." in _complaint(path)


def test_another_encoder_than_chosen_is_named(tmp_path: Path) -> None:
    path = _folder(tmp_path / "model", hub(), hub_config())
    assert "found heads 4, expected 2 as requested" in _complaint(path, replace(CONFIG, heads=2))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_size": 64}, "found width 32, expected 64 as in config.json"),
        ({"hidden_act": "relu"}, "found activation 'relu', expected 'gelu'"),
        ({"num_attention_heads": "4"}, "integer sizes"),
        ({"image_size": 10**6}, "expected one of at most"),
        ({"image_size": None}, "found settings that cannot be used (TypeError"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = _folder(tmp_path / "model", hub(), hub_config(**change))
    assert complaint in _complaint(path, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("{", "found no JSON"), ("[]", "found list, expected a JSON object"), ('{"a": ' + "[" * 9000, "found no JSON")],
)
def test_a_damaged_configuration(tmp_path: Path, text: str, complaint: str) -> None:
    folder = _folder(tmp_path / "model", hub(), {})
    (folder / "config.json").write_text(text)
    assert complaint in _complaint(folder)


def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    state = official_finetuned() | {"patch_embed.proj.weight": torch.zeros(1).expand(10**6, 3, 2, 16, 16)}
    found = _complaint(_saved(tmp_path / "vit.pth", state))
    assert "patch_embed.proj.weight: found Tensor, expected dense floating-point tensors" in found


@pytest.mark.parametrize("value", [3, torch.zeros(2, dtype=torch.int64), {"weight": torch.zeros(2)}], ids=repr)
def test_a_state_dict_of_something_else_is_refused(tmp_path: Path, value: object) -> None:
    found = _complaint(_saved(tmp_path / "vit.pth", {"net": value}))
    assert "net: found" in found
    assert "at the top or in one of model, module, state_dict" in found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(10240), r"\(Cannot use ``weights_only=True`` with files saved in the legacy \.tar format\)"),
        (b"hello world" * 99, r"\(KeyError \d+\)"),
        (pickle.dumps({"a": 1}, protocol=4), "found unknown keys|not a checkpoint|found int"),
    ],
    ids=["an empty tar", "a text", "a pickle of another protocol"],
)
def test_the_words_of_torch_are_one_sentence_without_advice(tmp_path: Path, data: bytes, words: str) -> None:
    """Its advice is to read the file without a check."""
    (tmp_path / "vit.pt").write_bytes(data)
    found = _complaint(tmp_path / "vit.pt")
    assert re.search(words, found)
    assert "Re-run" not in found


def test_a_list_is_no_checkpoint(tmp_path: Path) -> None:
    assert "found list, expected a state dict" in _complaint(_saved(tmp_path / "vit.pth", [torch.zeros(1)]))


# Strangers' files


class _Bomb:
    """Runs a shell command when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


def test_the_bomb_below_is_live(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "hide", [lambda bomb: bomb, lambda bomb: argparse.Namespace(resume=bomb)], ids=["bare", "args"]
)
def test_a_pickle_that_runs_code_is_refused_and_does_not(
    tmp_path: Path, hide: Callable[[_Bomb], object], zipped: bool
) -> None:
    content = {"model": official_finetuned(), "args": hide(_Bomb(tmp_path / "canary"))}
    torch.save(content, tmp_path / "vit.pth", _use_new_zipfile_serialization=zipped)
    found = _complaint(tmp_path / "vit.pth")
    assert "vit.pth: refused because it refers to posix.system, which could run code" in found
    assert "save the state dict with safetensors.torch.save_file" in found
    assert not (tmp_path / "canary").exists()


def test_allowing_the_settings_makes_nothing_callable(tmp_path: Path) -> None:
    """A Namespace whose `__setstate__` is an attribute would have it called: it can only be what is callable anyway."""
    canary = tmp_path / "canary"
    code = (
        b"\x80\x02cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cposix\nsystem\nsb"
        + b"X"
        + len(f"touch '{canary}'").to_bytes(4, "little")
        + f"touch '{canary}'".encode()
        + b"b."
    )
    pickle.loads(code)
    assert canary.exists()  # so Python's own unpickler falls for it
    canary.unlink()
    (tmp_path / "vit.pth").write_bytes(code)
    _complaint(tmp_path / "vit.pth")
    assert not canary.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["vit.pth", "model.safetensors"])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(official_finetuned(), path)
    else:
        safetensors.torch.save_file(official_finetuned(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "get the file again" in _complaint(path)


@pytest.mark.parametrize("name", ["vit.pth", "model.safetensors"])
def test_a_pointer_instead_of_the_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1217000000\n")
    assert "get the file again" in _complaint(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    assert "found no such file, expected a checkpoint, a folder or a hub id" in _complaint(tmp_path / "absent.pth")
    assert "found none of model.safetensors, pytorch_model.bin" in _complaint(tmp_path)


# The hub, without a network


def _fake_hub(monkeypatch: pytest.MonkeyPatch, download: Callable[[str, str], str]) -> None:
    errors = ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
    module = ModuleType("huggingface_hub")
    module.hf_hub_download, module.errors = download, errors
    module.try_to_load_from_cache = lambda *_: None
    module.constants = SimpleNamespace(ENDPOINT="http://127.0.0.1:1", HF_HUB_OFFLINE=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


@pytest.mark.parametrize("pickled", [True, False])
def test_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bool) -> None:
    folder = _folder(tmp_path / "cache", hub(apart=False), hub_config(), pickled=pickled)

    def download(hub_id: str, name: str) -> str:
        assert hub_id == "MCG-NJU/videomae-large"
        if not (folder / name).exists():
            raise sys.modules["huggingface_hub.errors"].EntryNotFoundError(name)
        return str(folder / name)

    _fake_hub(monkeypatch, download)
    weights = load_weights("MCG-NJU/videomae-large")
    assert weights.source == f"MCG-NJU/videomae-large/{'pytorch_model.bin' if pickled else 'model.safetensors'}"
    assert weights.config.layer_norm_eps == 1e-12


def test_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(hub_id: str, name: str) -> str:
        raise ConnectionError("no route to host\nat all")

    _fake_hub(monkeypatch, download)
    found = _complaint("MCG-NJU/videomae-large")
    assert found.startswith("MCG-NJU/videomae-large: found no such file or folder, and on the hub no config.json")
    assert "(no route to host); check the name and the network" in found


def test_a_hub_that_cannot_be_reached_is_told_at_once_unless_it_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(hub_id: str, name: str) -> str:
        raise AssertionError("the library would retry for a minute")

    _fake_hub(monkeypatch, download)
    library = sys.modules["huggingface_hub"]
    library.constants.HF_HUB_OFFLINE = False
    assert _complaint("MCG-NJU/videomae-large") == (
        "MCG-NJU/videomae-large: found no such file or folder: 127.0.0.1:1 cannot be reached (Connection refused); "
        "check network and proxy, then run again, or set WEIGHTS=/path to a folder with these weights"
    )
    cache = _folder(tmp_path / "cache", hub(), hub_config(), pickled=True)
    files = {path.name: str(path) for path in cache.iterdir()}
    monkeypatch.setattr(library, "try_to_load_from_cache", lambda _, name: files.get(name))
    assert load_weights("MCG-NJU/videomae-large").source == "MCG-NJU/videomae-large/pytorch_model.bin"


def test_hub_id_without_the_hubs_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "for the hub, pip install '" in _complaint("MCG-NJU/videomae-large")


def test_files_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert load_weights(_saved(tmp_path / "vit.pth", official_finetuned()), CONFIG).format == "VideoMAE"


# Into a classifier, and out


def _classifier(config: EncoderConfig = CONFIG, classes: int = 3) -> Classifier:
    torch.manual_seed(5)
    model = Classifier(config, classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_training_starts_from_encoder_and_norm_but_not_from_another_head(tmp_path: Path) -> None:
    state = official_finetuned()
    state |= {"head.weight": torch.ones(3, 32), "head.bias": torch.ones(3)}
    weights = load_weights(_saved(tmp_path / "vit.pth", state), CONFIG)
    model = _classifier()
    head = model.head.weight.clone()
    initialize_from(model, weights)
    assert torch.equal(model.encoder.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])
    assert torch.equal(model.fc_norm.weight, state["fc_norm.weight"])
    assert torch.equal(model.head.weight, head)


def test_training_starts_without_a_norm_to_initialize_from(tmp_path: Path) -> None:
    weights = load_weights(_saved(tmp_path / "vit.pth", official_pretrained()), CONFIG)
    model = _classifier()
    norm = model.fc_norm.weight.clone()
    initialize_from(model, weights)
    assert torch.equal(model.fc_norm.weight, norm)
    assert torch.equal(model.encoder.blocks[0].norm1.bias, weights.encoder["blocks.0.norm1.bias"])


def test_a_classifier_made_for_other_weights_is_refused(tmp_path: Path) -> None:
    weights = load_weights(_saved(tmp_path / "marlin.pt", marlin()), MARLIN)
    with pytest.raises(WeightsError, match="positions='stored'"):
        initialize_from(Classifier(MARLIN, 3), weights)


@pytest.mark.parametrize(
    "config", [CONFIG, replace(CONFIG, positions="stored", layer_norm_eps=1e-5, input_range="unit", final_norm=True)]
)
def test_what_is_exported_reloads(tmp_path: Path, config: EncoderConfig) -> None:
    model = _classifier(config)
    classes = ("angry", "happy", "sad")
    details = {"strategy": "cfas", "fold": 3}
    save_classifier(
        model, tmp_path / "export", classes=classes, licence="CC BY-NC 4.0", lineage=RANDOM, details=details
    )
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["config.json", "model.safetensors"]
    found = load_classifier(tmp_path / "export")
    assert (found.classes, found.licence, found.details) == (classes, "CC BY-NC 4.0", details)
    assert found.model.encoder.config == config
    assert not found.model.training
    video = torch.randn(2, 3, *config.input)
    assert torch.equal(found.model(video), model(video))


def test_what_is_exported_can_be_trained_on(tmp_path: Path) -> None:
    model = _classifier()
    save_classifier(model, tmp_path / "export", classes=("a", "b", "c"), licence="MIT", lineage=RANDOM)
    weights = load_weights(tmp_path / "export", replace(CONFIG, input=(8, 32, 32)))
    assert (weights.format, weights.licence, weights.config.input) == ("multimae-der", "MIT", (8, 32, 32))
    assert torch.equal(weights.encoder["blocks.0.norm1.bias"], model.encoder.blocks[0].norm1.bias)


def test_an_exported_table_is_resized_from_its_own_grid(tmp_path: Path) -> None:
    config = replace(CONFIG, positions="stored")  # grid (2, 2, 3)
    save_classifier(_classifier(config), tmp_path / "export", classes=("a", "b", "c"), licence="MIT", lineage=RANDOM)
    weights = load_weights(tmp_path / "export", replace(CONFIG, input=(8, 32, 48)))
    assert weights.encoder["pos_embed"].shape == (1, 4 * 2 * 3, 32)


def test_an_export_needs_a_name_for_each_class(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="found 2 class names, expected 3"):
        save_classifier(_classifier(), tmp_path / "export", classes=("a", "b"), licence="MIT", lineage=RANDOM)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "expected a classifier that was trained here"),
        ({"version": 3}, "found version 3, expected 2"),
        ({"classes": ["a", "b"]}, "found no head with a name for each class"),
        ({"classes": None}, "found no head with a name for each class"),
        ({"encoder": None}, "found settings that cannot be used (AttributeError"),
        ({"encoder": {**asdict(CONFIG), "colour": "red"}}, "colour"),
        ({"encoder": {**asdict(CONFIG), "width": 64}}, "found width 32, expected 64 as in config.json"),
    ],
)
def test_a_changed_export_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    save_classifier(_classifier(), tmp_path / "export", classes=("a", "b", "c"), licence="MIT", lineage=RANDOM)
    path = tmp_path / "export" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError) as caught:
        load_classifier(tmp_path / "export")
    # Without its format it is a plain file whose width no published encoder has.
    wanted = (complaint, "found width 32") if "format" in change else (complaint,)
    assert any(text in str(caught.value) for text in wanted)
    assert "\n" not in str(caught.value)


def test_weights_of_another_export_are_noticed(tmp_path: Path) -> None:
    """As after a crash between the two files."""
    for name in ("a", "b"):
        model = _classifier()
        with torch.no_grad():
            model.head.bias.add_(name == "b")
        save_classifier(model, tmp_path / name, classes=("a", "b", "c"), licence="MIT", lineage=RANDOM)
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"found other weights than config\.json describes; export the run again"):
        load_classifier(tmp_path / "a")


def test_a_failed_export_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_classifier(_classifier(), tmp_path / "export", classes=("a", "b", "c"), licence="MIT", lineage=RANDOM)
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save_classifier(_classifier(classes=2), tmp_path / "export", classes=("a", "b"), licence="MIT", lineage=RANDOM)
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before


def test_the_fingerprint_is_of_weights_and_configuration() -> None:
    encoder = _classifier().encoder
    assert fingerprint(encoder) == fingerprint(_classifier().encoder)
    assert fingerprint(encoder) != fingerprint(_classifier(replace(CONFIG, layer_norm_eps=1e-5)).encoder)
    before = fingerprint(encoder)
    with torch.no_grad():
        encoder.blocks[1].attn.v_bias[3] += 1e-6
    assert fingerprint(encoder) != before


def test_formats_cannot_be_taken_for_one_another() -> None:
    for state, name in ((official_pretrained(), FORMATS[0]), (hub(), FORMATS[1]), (marlin(), FORMATS[2])):
        assert detect_format(state, "w") is name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300], ids=str)
@pytest.mark.parametrize("name", ["vit.pth", "vit.safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    """Also float64 beyond the range of float32."""
    state = official_finetuned()
    state["blocks.1.mlp.fc2.bias"] = torch.full((CONFIG.width,), value, dtype=torch.float64)
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    complaint = rf"{name}: found NaN or infinity in 'blocks\.1\.mlp\.fc2\.bias', expected finite float32 numbers"
    with pytest.raises(WeightsError, match=complaint):
        load_weights(path, CONFIG)


@pytest.mark.parametrize("address", ["https://me:secret@example.org/vit.pth", "hf://token-secret@owner/name"])
def test_a_secret_in_an_address_is_not_printed(address: str) -> None:
    with pytest.raises(WeightsError, match="found an address, expected a file, a folder or a hub id") as caught:
        load_weights(address)
    assert "secret" not in str(caught.value)
