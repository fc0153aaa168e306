"""Weights for an encoder from every kind of checkpoint it comes in, loaded strictly; export of a trained classifier.

    what                                     as                                        licence of the published ones
    VideoMAE, pre-trained or fine-tuned      .pth (in `model` or `module`)             CC BY-NC 4.0
    the same from Hugging Face               folder, file or hub id                    CC BY-NC 4.0
    MARLIN (faces)                           .pt, encoder or full                      CC BY-NC 4.0
    what this project exports                model.safetensors and config.json         said in config.json

Strictly means: each key of a checkpoint is used, or known to be of no use here (decoder, mask token), or an error;
and each weight of the encoder must be there, in its shape. MAE-DFER and HiCMAE are other architectures and refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from manifests.files import atomic_write
from train.models.layouts import Layout, WeightsError, listed, recognise, translate
from train.models.sources import CONFIG_FILE, WEIGHTS_FILE, Source, read_source
from train.models.videomae import Classifier, Encoder, EncoderConfig, resize_positions

FORMAT = "multimae-der"
VERSION = 1

#: Attention heads, which no checkpoint's shapes tell: width -> heads of the published ViT-S, -B, -L and -H.
_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}
#: Patch grid of every published position table: 16x224x224 in tubelets of 2x16x16.
_PUBLISHED_GRID = (8, 14, 14)
#: What two encoders must have in common for the weights of one to fit the other.
_ARCHITECTURE = ("width", "depth", "heads", "mlp", "patch")
#: Most numbers of a position table: it is made as large as a stranger's configuration says.
_MAX_POSITIONS = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's weights, and those of the classifier on top where there is one, under canonical names."""

    config: EncoderConfig
    """The encoder they fit, with the LayerNorm eps, position table and input range they were trained with."""
    encoder: Mapping[str, Tensor]
    """State dict of `Encoder(config)`, float32."""
    head: Mapping[str, Tensor]
    """Of `fc_norm.weight`, `fc_norm.bias`, `head.weight` [C, D] and `head.bias` [C] those that the checkpoint has."""
    format: str
    licence: str
    source: str
    left: tuple[str, ...]
    """Keys of the checkpoint that are of no use here."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A classifier as `save_pretrained` wrote it."""

    model: Classifier
    """In evaluation mode."""
    classes: tuple[str, ...]
    """Names of the logits, in their order."""
    licence: str
    details: Mapping[str, Any]
    """What the training run noted; JSON values."""


def load_weights(source: str | Path, config: EncoderConfig | None = None) -> Weights:
    """Read a checkpoint: a file, a folder, or the id of a model on the Hugging Face hub.

    `config` is the encoder wanted. It must be of the checkpoint's architecture, but may take another input size (a
    stored position table is resized) and may want the final norm. Without it the checkpoint alone decides. Either
    way the LayerNorm eps, the kind of position table and the input range are the checkpoint's.

    Raises WeightsError for anything that is no such checkpoint or does not fit.
    """
    return _weights(read_source(source), config)


def start_from(model: Classifier, weights: Weights) -> None:
    """Copy an encoder's weights into a classifier that is to be trained, and the LayerNorm behind it if there is one.

    The last layer stays as it is: whatever the other one told apart, it was other classes. Raises WeightsError
    unless the classifier was made with `weights.config`.
    """
    if model.encoder.config != weights.config:
        raise WeightsError(f"{weights.source}: found {weights.config}, expected {model.encoder.config}")
    model.encoder.load_state_dict(dict(weights.encoder))
    norm = {name.removeprefix("fc_norm."): value for name, value in weights.head.items() if name.startswith("fc_norm.")}
    if norm:
        model.fc_norm.load_state_dict(norm)


def save_pretrained(
    model: Classifier, folder: Path, *, classes: Sequence[str], licence: str, details: Mapping[str, Any] | None = None
) -> None:
    """Write a classifier as `model.safetensors` and `config.json`, which `load_pretrained` and `load_weights` read.

    `licence` is that of the weights it was trained from, for it extends to these. Each file appears whole or not at
    all, and the configuration, which comes last, tells the weights it belongs to. Raises WeightsError where there
    is not one name for each logit.
    """
    if len(classes) != model.head.out_features:
        raise WeightsError(f"{folder}: found {len(classes)} class names, expected {model.head.out_features}")
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "encoder": asdict(model.encoder.config),
        "classes": list(classes),
        "licence": licence,
        "details": dict(details or {}),
        "sha256": fingerprint(model),
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    atomic_write(folder / WEIGHTS_FILE, safetensors.torch.save(state, metadata={"format": "pt"}))
    atomic_write(folder / CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())


def load_pretrained(folder: str | Path) -> Pretrained:
    """Classifier of an exported folder or of a hub id. Raises WeightsError for anything else, or if it was changed."""
    source = read_source(folder)
    weights = _weights(source)
    if weights.format != FORMAT:
        raise WeightsError(f"{weights.source}: found {weights.format}, expected a classifier that was trained here")
    classes, details = source.settings.get("classes"), source.settings.get("details")
    if not isinstance(classes, list) or len(weights.head) != 4 or len(weights.head["head.bias"]) != len(classes):
        raise WeightsError(f"{weights.source}: found no head with a name for each class; export the run again")
    model = Classifier(weights.config, len(classes))
    start_from(model, weights)
    model.load_state_dict(dict(weights.head), strict=False)
    if source.settings.get("sha256") != fingerprint(model):
        raise WeightsError(f"{weights.source}: found other weights than {CONFIG_FILE} describes; export the run again")
    return Pretrained(
        model=model.eval(),
        classes=tuple(map(str, classes)),
        licence=weights.licence,
        details=details if isinstance(details, dict) else {},
    )


def fingerprint(model: Encoder | Classifier) -> str:
    """SHA-256 of a configuration and weights: where an encoder's is the same, so are its features of a clip."""
    config = model.encoder.config if isinstance(model, Classifier) else model.config
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _weights(found: Source, config: EncoderConfig | None = None) -> Weights:
    layout = recognise(found.state, found.where)
    tensors, left = translate(found.state, layout, found.where)
    declared = _declared(found)
    config = _agreed(tensors, layout, declared, config, found.where)
    left += _unwanted(tensors, config)
    tensors = _fitted(tensors, declared, config, found.where)
    _check(tensors, config, found.where)
    own = found.settings.get("format") == FORMAT
    return Weights(
        config=config,
        encoder={name: tensor.float() for name, tensor in tensors.items() if not _of_head(name)},
        head={name: tensor.float() for name, tensor in tensors.items() if _of_head(name)},
        format=FORMAT if own else layout.name,
        licence=str(found.settings.get("licence")) if own else layout.licence,
        source=found.where,
        left=left,
    )


def _agreed(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    declared: Mapping[str, Any],
    wanted: EncoderConfig | None,
    where: str,
) -> EncoderConfig:
    """The encoder that the tensors, the configuration beside them and the caller agree on."""
    measured = _measured(tensors, where)
    _compare(measured, declared, where, f"as {CONFIG_FILE} says; get both files again")
    fields = {"layer_norm_eps": layout.layer_norm_eps, "input_range": layout.input_range, **declared, **measured}
    if wanted is not None:
        _compare(fields, asdict(wanted), where, "as chosen; choose the encoder that fits")
        fields |= {"heads": wanted.heads, "input": wanted.input, "final_norm": wanted.final_norm}
    elif "heads" not in fields:
        fields["heads"] = _heads(measured["width"], where)
    fields["positions"] = "stored" if "pos_embed" in tensors else "sinusoidal"
    return _made(fields, where)


def _measured(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """What the tensors' shapes tell of the encoder."""
    embed, mlp = tensors.get("patch_embed.proj.weight"), tensors.get("blocks.0.mlp.fc1.weight")
    if embed is None or embed.ndim != 5 or mlp is None or mlp.ndim != 2:
        raise WeightsError(f"{where}: found no patch embedding and MLP in their shapes, expected an encoder")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    return {"width": embed.shape[0], "depth": len(blocks), "mlp": mlp.shape[0], "patch": tuple(embed.shape[2:])}


def _declared(source: Source) -> dict[str, Any]:
    """Fields of `EncoderConfig` that the configuration states: this project's, Hugging Face's, or none."""
    settings, beside = source.settings, f"{source.where}: {CONFIG_FILE} beside it"
    try:
        if settings.get("format") == FORMAT:
            if settings["version"] != VERSION:
                raise WeightsError(f"{beside}: found version {settings['version']!r}, expected {VERSION}")
            return {name: tuple(v) if isinstance(v, list) else v for name, v in settings["encoder"].items()}
        if settings.get("model_type") == "videomae":
            return _declared_by_hub(settings, beside)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(f"{beside}: found settings that cannot be used ({reason}); get the file again") from error
    return {}


def _declared_by_hub(settings: Mapping[str, Any], beside: str) -> dict[str, Any]:
    """The same from a configuration of Hugging Face's VideoMAE."""
    if settings.get("hidden_act", "gelu") != "gelu":
        raise WeightsError(f"{beside}: found activation {settings['hidden_act']!r}, expected 'gelu'")
    return {
        "width": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "heads": settings["num_attention_heads"],
        "mlp": settings["intermediate_size"],
        "patch": (settings["tubelet_size"], *_pair(settings["patch_size"])),
        "input": (settings["num_frames"], *_pair(settings["image_size"])),
        "layer_norm_eps": settings["layer_norm_eps"],
    }


def _compare(found: Mapping[str, Any], expected: Mapping[str, Any], where: str, what_to_do: str) -> None:
    """Raise WeightsError where the two know of different architectures."""
    for name in _ARCHITECTURE:
        if name in found and name in expected and found[name] != expected[name]:
            raise WeightsError(f"{where}: found {name} {found[name]}, expected {expected[name]} {what_to_do}")


def _heads(width: int, where: str) -> int:
    if width not in _HEADS:
        raise WeightsError(f"{where}: found width {width}, expected one of {list(_HEADS)}, or an encoder to be chosen")
    return _HEADS[width]


def _made(fields: Mapping[str, Any], where: str) -> EncoderConfig:
    try:
        config = EncoderConfig(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {error}") from error
    limit = _MAX_POSITIONS // config.width
    if config.tokens > limit:
        raise WeightsError(f"{where}: found input {config.input}, expected one of at most {limit} tokens")
    return config


def _fitted(
    tensors: Mapping[str, Tensor], declared: Mapping[str, Any], config: EncoderConfig, where: str
) -> dict[str, Tensor]:
    """The tensors that an encoder and a classifier have use for, the position table on the encoder's grid."""
    fitted = {name: tensor for name, tensor in tensors.items() if name not in _unwanted(tensors, config)}
    if "pos_embed" in fitted:
        declares = "input" in declared
        grid = _made({**asdict(config), "input": declared["input"]}, where).grid if declares else _PUBLISHED_GRID
        if fitted["pos_embed"].shape == (1, math.prod(grid), config.width):
            fitted["pos_embed"] = resize_positions(fitted["pos_embed"].float(), grid, config.grid)
    return fitted


def _unwanted(tensors: Mapping[str, Tensor], config: EncoderConfig) -> tuple[str, ...]:
    """Pre-training's final norm, where the encoder is to have none."""
    return () if config.final_norm else tuple(name for name in ("norm.weight", "norm.bias") if name in tensors)


def _check(tensors: Mapping[str, Tensor], config: EncoderConfig, where: str) -> None:
    """Raise WeightsError unless the tensors are the encoder's, all of them in their shapes, with or without a head."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Encoder(config).state_dict().items()}
    bias = tensors.get("head.bias")
    classes = bias.numel() if bias is not None else 0
    for layer, shape in (("fc_norm", (config.width,)), ("head", (classes, config.width))):
        if any(name.startswith(f"{layer}.") for name in tensors):
            expected |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    if missing := [name for name in expected if name not in tensors]:
        raise WeightsError(f"{where}: found no {listed(missing)}, expected all {len(expected)}; get the file again")
    if extra := [name for name in tensors if name not in expected]:
        raise WeightsError(f"{where}: found {listed(extra)}, expected the weights of {config.depth} whole blocks")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise WeightsError(f"{where}: {name}: found shape {tuple(tensors[name].shape)}, expected {shape}")


def _of_head(name: str) -> bool:
    return name.startswith(("fc_norm.", "head."))


def _pair(size: Any) -> tuple[int, ...]:
    """Rows and columns, from one number for both or from two."""
    return (size, size) if isinstance(size, int) else tuple(size)
