"""Weights of masked autoencoders: official ones and those of Hugging Face read, ours written, in both layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from manifests.files import atomic_write
from manifests.progress import log_line
from train.lineage import Lineage
from train.models.checkpoint_formats import WeightsError, detect_format, quote_keys, stack_projections
from train.models.checkpoint_io import MODEL_CONFIG_FILE, WEIGHTS_FILE, dump_weights, first_line, read_checkpoint
from train.models.mae import DecoderConfig, MaskedAutoencoder
from train.models.videomae import EncoderConfig
from train.models.weights import FORMAT, VERSION, Weights, convert_weights, fingerprint

#: Folder, beside a pre-trained model, of the same in Hugging Face's layout.
TRANSFORMERS = "transformers"

#: Channels of an attention head of the official decoders.
_HEAD_CHANNELS = 64
_PREFIXES = ("decoder.", "encoder_to_decoder.", "mask_token")
#: Parts of our keys -> of those of `transformers`, replaced in this order; query, key and value are apart there.
_TRANSFORMERS_KEYS = (
    (r"^encoder\.patch_embed\.proj", "videomae.embeddings.patch_embeddings.projection"),
    (r"^encoder\.blocks", "videomae.encoder.layer"),
    (r"^encoder\.norm", "videomae.layernorm"),
    (r"^decoder\.blocks", "decoder.decoder_layers"),
    (r"attn\.proj", "attention.output.dense"),
    (r"attn\.q_bias", "attention.attention.query.bias"),
    (r"attn\.v_bias", "attention.attention.value.bias"),
    (r"norm1", "layernorm_before"),
    (r"norm2", "layernorm_after"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
_PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """Weights to begin a pre-training with."""

    encoder: Weights
    decoder: Mapping[str, Tensor]
    """State dict of everything but the encoder under its names in `MaskedAutoencoder`; {} if the file has none."""
    decoder_config: DecoderConfig | None
    """Of that decoder."""


def load_pretrained(source: str | Path, *encoders: EncoderConfig) -> PretrainedWeights:
    """Read a checkpoint with or without a decoder; arguments and errors as of `load_weights`.

    The encoder's final norm is kept, if there is one.
    """
    checkpoint = read_checkpoint(source)
    keys = {key.removeprefix("videomae.").removeprefix("encoder.") for key in checkpoint.state}
    normed = bool(keys & {"norm.weight", "layernorm.weight"})
    weights = convert_weights(checkpoint, *(replace(each, final_norm=normed) for each in encoders))
    foreign = not {key.removeprefix("module.") for key in checkpoint.state} & {"mask_token"}  # MARLIN's, or none
    state = {} if foreign else _decoder_state(checkpoint.state, checkpoint.where)
    config = _decoder_config(state, checkpoint.settings, weights.config, checkpoint.where) if state else None
    return PretrainedWeights(encoder=weights, decoder=state, decoder_config=config)


def initialize_autoencoder(model: MaskedAutoencoder, weights: PretrainedWeights) -> str:
    """Copy weights into an autoencoder that is to be trained; what they are, in words.

    A decoder of another shape, or none, leaves that of the model as it is. Raises WeightsError for an encoder of
    another shape.
    """
    if replace(model.encoder.config, final_norm=False) != replace(weights.encoder.config, final_norm=False):
        raise WeightsError(f"{weights.encoder.source}: found {weights.encoder.config}, expected {model.encoder.config}")
    model.encoder.load_state_dict(dict(weights.encoder.encoder), strict=weights.encoder.config.final_norm)
    if weights.decoder_config is None or shape_of(weights.decoder_config) != shape_of(model.decoder.config):
        return "encoder; the decoder begins with random weights"
    expected = {name: t.shape for name, t in model.state_dict().items() if not name.startswith("encoder.")}
    if {name: tensor.shape for name, tensor in weights.decoder.items()} != expected:
        raise WeightsError(f"{weights.encoder.source}: found an incomplete decoder; get the file again")
    model.load_state_dict(dict(weights.decoder), strict=False)
    return "encoder and decoder"


def shape_of(config: DecoderConfig) -> tuple[int, int, int, int]:
    """What decoders must have in common for the weights of one to fit another."""
    return config.width, config.depth, config.heads, config.mlp


def save_autoencoder(
    model: MaskedAutoencoder, folder: Path, *, licence: str, lineage: Lineage, details: Mapping[str, Any]
) -> None:
    """Write `model.safetensors` and `config.json`, for `load_pretrained` and as WEIGHTS= of every strategy, and the
    same in Hugging Face's layout in a folder of its own, if it can be; else a line is logged that says why it is not.
    The configuration is written last."""
    try:
        state, config = to_transformers(model)
    except WeightsError as error:
        log_line(f"{folder / TRANSFORMERS}: not written: {error}")
    else:
        atomic_write(folder / TRANSFORMERS / WEIGHTS_FILE, dump_weights(state, lineage))
        atomic_write(folder / TRANSFORMERS / MODEL_CONFIG_FILE, _dump(config))
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "encoder": asdict(model.encoder.config),
        "decoder": asdict(model.decoder.config),
        "classes": [],
        "licence": licence,
        "details": dict(details),
        "sha256": fingerprint(model),
    }
    atomic_write(folder / WEIGHTS_FILE, dump_weights(model, lineage))
    atomic_write(folder / MODEL_CONFIG_FILE, _dump(settings))


def to_transformers(model: MaskedAutoencoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and configuration of `VideoMAEForPreTraining` of `transformers`.

    It computes the same but for the decoder's last norm, whose epsilon is 1e-5 there. Raises WeightsError for an
    encoder that it cannot be.
    """
    encoder, decoder = model.encoder.config, model.decoder.config
    frames, rows, columns = encoder.patch
    if rows != columns or encoder.input[1] != encoder.input[2]:
        raise WeightsError(f"transformers: found patches of {encoder.patch}, expected square ones")
    if (encoder.positions, encoder.input_range) != ("sinusoidal", "imagenet"):
        raise WeightsError(
            f"transformers: found positions {encoder.positions} and input_range {encoder.input_range}, expected "
            "sinusoidal and imagenet, the only ones that VideoMAEForPreTraining has"
        )
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        name = key
        for pattern, replacement in _TRANSFORMERS_KEYS:
            name = re.sub(pattern, replacement, name)
        if name.endswith("attn.qkv.weight"):
            stem = name.removesuffix("attn.qkv.weight")
            for part, weight in zip(_PROJECTIONS, tensor.chunk(3), strict=True):
                state[f"{stem}attention.attention.{part}.weight"] = weight
        else:
            state[name] = tensor
    return state, {
        "architectures": ["VideoMAEForPreTraining"],
        "model_type": "videomae",
        "image_size": encoder.input[1],
        "patch_size": rows,
        "num_frames": encoder.input[0],
        "tubelet_size": frames,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp,
        "layer_norm_eps": encoder.layer_norm_eps,
        "qkv_bias": True,
        "use_mean_pooling": False,
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp,
        "norm_pix_loss": True,
    }


def _decoder_state(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights of all but the encoder under our names; {} without a decoder."""
    known = detect_format(state, where)
    found = {
        known.rename(key.replace("decoder.decoder_layers.", "decoder.blocks.")): tensor.float()
        for key, tensor in state.items()
        if key.startswith(_PREFIXES)
    }
    stack_projections(found)
    if broken := [name for name, tensor in found.items() if not tensor.isfinite().all()]:
        raise WeightsError(f"{where}: found NaN or infinity in {quote_keys(broken)}, expected finite numbers")
    return found


def _decoder_config(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], encoder: EncoderConfig, where: str
) -> DecoderConfig:
    """Shape of a decoder, from its weights and its configuration, if it has one."""
    token, mlp = state.get("mask_token"), state.get("decoder.blocks.0.mlp.fc1.weight")
    if token is None or token.ndim != 3 or mlp is None or mlp.ndim != 2:
        raise WeightsError(f"{where}: found no mask token and MLP in their shapes, expected a decoder")
    blocks = {match[1] for name in state if (match := re.match(r"decoder\.blocks\.(\d+)\.", name))}
    width = token.shape[-1]
    recorded = settings.get("decoder") if settings.get("format") == FORMAT else None
    heads = settings.get("decoder_num_attention_heads", max(width // _HEAD_CHANNELS, 1))
    fields = {"heads": heads, "layer_norm_eps": encoder.layer_norm_eps, "final_norm_eps": encoder.layer_norm_eps}
    if settings.get("model_type") == "videomae":
        fields["final_norm_eps"] = 1e-5
    if isinstance(recorded, dict):
        fields |= recorded
    try:
        return DecoderConfig(**{**fields, "width": width, "depth": len(blocks), "mlp": mlp.shape[0]})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {first_line(error)}") from error


def _dump(settings: Mapping[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()
