"""Weights of an encoder from every checkpoint format, loaded strictly; saving and loading of trained classifiers.

Published formats and their licences are in checkpoint_formats.toml; this project's own is `model.safetensors` with
`config.json`, which has the licence.

Strictly means: each key of a checkpoint is used, or known to be unused here (decoder, mask token), or an error; and
each weight of the encoder must be present, in its shape. MAE-DFER and HiCMAE are other architectures and refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifests.files import atomic_write
from manifests.records import SchemaError
from train.lineage import METADATA_KEY, Lineage, Supervision, parse_lineage
from train.models.checkpoint_formats import (
    PUBLISHED,
    CheckpointFormat,
    WeightsError,
    canonical_state,
    detect_format,
    quote_keys,
)
from train.models.checkpoint_io import (
    MODEL_CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointFile,
    dump_weights,
    first_line,
    read_checkpoint,
)
from train.models.own_encoder import OwnEncoder, rebuild_encoder, recorded_config
from train.models.videomae import ARCHITECTURE, Classifier, Encoder, EncoderConfig, resize_positions
from train.models.vq_mae_heads import EmotionClassifier

FORMAT = "multimae-der"
VERSION = 2

#: Attention heads, which do not follow from shapes of weights: width -> heads of the published ViT-S, -B, -L and -H.
_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}
#: Patch grid of every published position table: 16x224x224 in tubelets of 2x16x16.
_PUBLISHED_GRID = (8, 14, 14)
#: A key of weights that only masked pre-training has.
_DECODER = re.compile("decoder|mask_token|enc_dec_proj")
#: Most numbers of a position table, whose size is taken from an untrusted configuration.
_MAX_POSITIONS = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's weights, and those of the classifier on top, if any, under canonical names."""

    config: EncoderConfig
    """The encoder they fit, with the LayerNorm eps, position table and input range they were trained with."""
    encoder: Mapping[str, Tensor]
    """State dict of `Encoder(config)`, float32."""
    head: Mapping[str, Tensor]
    """`fc_norm.weight`, `fc_norm.bias`, `head.weight` [C, D] and `head.bias` [C], as far as the checkpoint has them."""
    format: str
    licence: str
    lineage: Lineage
    source: str
    ignored: tuple[str, ...]
    """Keys of the checkpoint that are not used here."""


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A classifier as `save_classifier` wrote it."""

    model: Classifier | EmotionClassifier
    """In evaluation mode."""
    classes: tuple[str, ...]
    """Names of the logits, in their order."""
    licence: str
    lineage: Lineage
    """Every training it descends from, its own included."""
    details: Mapping[str, Any]
    """Provenance of the training run; JSON values."""


def load_weights(source: str | Path, *encoders: EncoderConfig) -> Weights:
    """Read a checkpoint: a file, a folder, or the id of a model on the Hugging Face hub.

    `encoders` are those that may be used; the first one of the checkpoint's architecture is. It may have another input
    size (a stored position table is resized) and a final norm. Without any the checkpoint decides. Either way the
    LayerNorm eps, the kind of position table and the input range are the checkpoint's.

    Raises WeightsError for anything that is not such a checkpoint or does not fit.
    """
    return convert_weights(read_checkpoint(source), *encoders)


def convert_weights(checkpoint: CheckpointFile, *encoders: EncoderConfig) -> Weights:
    """The same of a checkpoint that was read."""
    if (recorded := recorded_config(checkpoint.settings, checkpoint.where)) is not None:
        raise WeightsError(
            f"{checkpoint.where}: found weights of the encoder {recorded.path}, expected those of a built-in one; load "
            f"them in its own {recorded.path.partition(':')[2]}()"
        )
    return _convert(checkpoint, encoders)


def initialize_from(model: Classifier, weights: Weights) -> None:
    """Copy an encoder's weights into a classifier that is to be trained, and those of its LayerNorm, if any.

    The last layer stays as it is, because the checkpoint's was trained on other classes. Raises WeightsError unless the
    classifier has `weights.config`.
    """
    if model.encoder.config != weights.config:
        raise WeightsError(f"{weights.source}: found {weights.config}, expected {model.encoder.config}")
    model.encoder.load_state_dict(dict(weights.encoder))
    norm = {name.removeprefix("fc_norm."): value for name, value in weights.head.items() if name.startswith("fc_norm.")}
    if norm:
        model.fc_norm.load_state_dict(norm)


def save_classifier(
    model: Classifier,
    folder: Path,
    *,
    classes: Sequence[str],
    licence: str,
    lineage: Lineage,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write a classifier as `model.safetensors` and `config.json`, which `load_classifier` and `load_weights` read.

    `licence` is that of the initial weights, which extends to these; `lineage` includes this training. Each file is
    complete or absent, and the configuration, which is written last, has the hash of the weights. Raises WeightsError
    unless each logit has one class name.
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
    atomic_write(folder / WEIGHTS_FILE, dump_weights(model, lineage))
    atomic_write(folder / MODEL_CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())


def load_classifier(folder: str | Path, encoder: str | None = None) -> TrainedClassifier:
    """Classifier of an exported folder or a hub id; `encoder` is the import path of its encoder, if that is one's own.

    Raises WeightsError for anything else, or if it was changed; OwnCodeError for code that cannot be used.
    """
    source = read_checkpoint(folder)
    if (recorded := recorded_config(source.settings, source.where)) is not None:
        return _load_own(source, rebuild_encoder(recorded, encoder, source.where))
    if encoder is not None:
        raise WeightsError(f"{source.where}: found a built-in encoder, expected no --encoder {encoder}")
    weights = _convert(source)
    if weights.format != FORMAT:
        raise WeightsError(f"{weights.source}: found {weights.format}, expected a classifier that was trained here")
    classes, details = source.settings.get("classes"), source.settings.get("details")
    if not isinstance(classes, list) or len(weights.head) != 4 or len(weights.head["head.bias"]) != len(classes):
        raise WeightsError(f"{weights.source}: found no head with a name for each class; export the run again")
    model = Classifier(weights.config, len(classes))
    initialize_from(model, weights)
    model.load_state_dict(dict(weights.head), strict=False)
    if source.settings.get("sha256") != fingerprint(model):
        raise WeightsError(
            f"{weights.source}: found other weights than {MODEL_CONFIG_FILE} describes; export the run again"
        )
    return TrainedClassifier(
        model=model.eval(),
        classes=tuple(map(str, classes)),
        licence=weights.licence,
        lineage=weights.lineage,
        details=details if isinstance(details, dict) else {},
    )


def _load_own(source: CheckpointFile, encoder: OwnEncoder) -> TrainedClassifier:
    """A classifier with an encoder of the user's own."""
    where, classes, details = source.where, source.settings.get("classes"), source.settings.get("details")
    if not isinstance(classes, list) or source.settings.get("version") != VERSION:
        raise WeightsError(f"{where}: found no classes, or another version than {VERSION}; train or export it again")
    model = Classifier(encoder.config, len(classes), encoder=encoder)
    try:
        model.load_state_dict(dict(source.state))
    except RuntimeError as error:
        raise WeightsError(
            f"{where}: found other weights than {encoder.config.path} has ({first_line(error)})"
        ) from error
    if source.settings.get("sha256") != fingerprint(model):
        raise WeightsError(f"{where}: found other weights than {MODEL_CONFIG_FILE} describes; export the run again")
    return TrainedClassifier(
        model=model.eval(),
        classes=tuple(map(str, classes)),
        licence=str(source.settings.get("licence")),
        lineage=_read_lineage(source, None, supervised=True, self_supervised=False),
        details=details if isinstance(details, dict) else {},
    )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights and its encoder's configuration: encoders with the same one compute the same."""
    return fingerprint_of(getattr(model, "encoder", model).config, model.state_dict())


def fingerprint_of(config: Any, state: Mapping[str, Tensor]) -> str:
    """The same of an encoder's configuration, a dataclass, and a model's state dict."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _convert(source: CheckpointFile, encoders: Sequence[EncoderConfig] = ()) -> Weights:
    """Weights under canonical names, checked against the encoder."""
    where = source.where
    known = detect_format(source.state, where)
    tensors, ignored = canonical_state(source.state, known, where)
    declared = _declared_config(source)
    config = _resolve_config(tensors, known, declared, encoders, where)
    if not config.final_norm:  # of pre-training
        norm = tuple(name for name in ("norm.weight", "norm.bias") if name in tensors)
        ignored += norm
        tensors = {name: tensor for name, tensor in tensors.items() if name not in norm}
    if "pos_embed" in tensors:
        grid = _PUBLISHED_GRID
        if "input" in declared:
            grid = _make_config({**asdict(config), "input": declared["input"]}, where).grid
        if tensors["pos_embed"].shape == (1, math.prod(grid), config.width):
            tensors["pos_embed"] = resize_positions(tensors["pos_embed"].float(), grid, config.grid)
    _check_shapes(tensors, config, where)
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(f"{where}: found NaN or infinity in {quote_keys(broken)}, expected finite float32 numbers")
    head = {name: tensor for name, tensor in tensors.items() if name.startswith(("fc_norm.", "head."))}
    own = source.settings.get("format") == FORMAT
    return Weights(
        config=config,
        encoder={name: tensor for name, tensor in tensors.items() if name not in head},
        head=head,
        format=FORMAT if own else known.name,
        licence=str(source.settings.get("licence")) if own else known.licence,
        lineage=_read_lineage(source, known, supervised=bool(head), self_supervised=any(map(_DECODER.search, ignored))),
        source=where,
        ignored=ignored,
    )


def _read_lineage(
    source: CheckpointFile, known: CheckpointFormat | None, *, supervised: bool, self_supervised: bool
) -> Lineage:
    """What weights descend from: as their file says, as published, or as far as their content shows."""
    text = source.metadata.get(METADATA_KEY)
    if text is not None:
        try:
            return parse_lineage(text, f"{source.where}: its lineage")
        except (SchemaError, ValueError, RecursionError) as error:
            raise WeightsError(f"{source.where}: found a lineage that cannot be read ({first_line(error)})") from error
    if source.settings.get("format") == FORMAT:
        raise WeightsError(f"{source.where}: found no lineage, which every training writes; train or export it again")
    for pattern, published in PUBLISHED.items():
        if re.fullmatch(pattern, source.where.rpartition("/")[0]):
            return published
    if known.lineage is not None:
        return known.lineage
    kind: Supervision = "supervised" if supervised else "self-supervised" if self_supervised else "unknown"
    words = "with unknown supervision" if kind == "unknown" else kind
    return Lineage(origin=f"{known.name}, {words} on unknown data", supervision=kind)


def _resolve_config(
    tensors: Mapping[str, Tensor],
    known: CheckpointFormat,
    declared: Mapping[str, Any],
    encoders: Sequence[EncoderConfig],
    where: str,
) -> EncoderConfig:
    """The encoder that the tensors, their configuration file and the caller agree on."""
    embed, mlp = tensors.get("patch_embed.proj.weight"), tensors.get("blocks.0.mlp.fc1.weight")
    if embed is None or embed.ndim != 5 or mlp is None or mlp.ndim != 2:
        raise WeightsError(f"{where}: found no patch embedding and MLP in their shapes, expected an encoder")
    width, depth = embed.shape[0], len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    measured = {"width": width, "depth": depth, "mlp": mlp.shape[0], "patch": tuple(embed.shape[2:])}
    if problem := _find_difference(measured, declared):
        raise WeightsError(f"{where}: {problem} as in {MODEL_CONFIG_FILE}; get both files again")
    fields = {"layer_norm_eps": known.layer_norm_eps, "input_range": known.input_range, **declared, **measured}
    if encoders:
        requested = _find_fitting(fields, encoders, where)
        fields |= {"heads": requested.heads, "input": requested.input, "final_norm": requested.final_norm}
    elif "heads" not in fields:
        if width not in _HEADS:
            raise WeightsError(f"{where}: found width {width}, expected one of {list(_HEADS)}, or a requested encoder")
        fields["heads"] = _HEADS[width]
    fields["positions"] = "stored" if "pos_embed" in tensors else "sinusoidal"
    return _make_config(fields, where)


def _declared_config(source: CheckpointFile) -> dict[str, Any]:
    """Fields of `EncoderConfig` from the configuration file: this project's, Hugging Face's, or none."""
    settings, where = source.settings, f"{source.where}: its {MODEL_CONFIG_FILE}"
    try:
        if settings.get("format") == FORMAT:
            if settings["version"] != VERSION:
                raise WeightsError(f"{where}: found version {settings['version']!r}, expected {VERSION}")
            return {name: tuple(v) if isinstance(v, list) else v for name, v in settings["encoder"].items()}
        if settings.get("model_type") != "videomae":
            return {}
        if settings.get("hidden_act", "gelu") != "gelu":
            raise WeightsError(f"{where}: found activation {settings['hidden_act']!r}, expected 'gelu'")
        return {
            "width": settings["hidden_size"],
            "depth": settings["num_hidden_layers"],
            "heads": settings["num_attention_heads"],
            "mlp": settings["intermediate_size"],
            "patch": (settings["tubelet_size"], *_pair(settings["patch_size"])),
            "input": (settings["num_frames"], *_pair(settings["image_size"])),
            "layer_norm_eps": settings["layer_norm_eps"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(f"{where}: found settings that cannot be used ({reason}); get the file again") from error


def _find_fitting(found: Mapping[str, Any], encoders: Sequence[EncoderConfig], where: str) -> EncoderConfig:
    """The first encoder of the same architecture. Raises WeightsError if there is none."""
    problems = [_find_difference(found, asdict(encoder)) for encoder in encoders]
    if None in problems:
        return encoders[problems.index(None)]
    if len(encoders) == 1:
        raise WeightsError(f"{where}: {problems[0]} as requested; request the encoder that fits")
    known = ", ".join(f"{encoder.width} x {encoder.depth}" for encoder in encoders)
    size = f"{found['width']} x {found['depth']}"
    raise WeightsError(f"{where}: found an encoder of other sizes (width x depth {size}), expected one of {known}")


def _find_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """The first field of an architecture that both have with different values."""
    for name in ARCHITECTURE:
        if name in found and name in expected and found[name] != expected[name]:
            return f"found {name} {found[name]}, expected {expected[name]}"
    return None


def _make_config(fields: Mapping[str, Any], where: str) -> EncoderConfig:
    try:
        config = EncoderConfig(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {error}") from error
    limit = _MAX_POSITIONS // config.width
    if config.tokens > limit:
        raise WeightsError(f"{where}: found input {config.input}, expected one of at most {limit} tokens")
    return config


def _check_shapes(tensors: Mapping[str, Tensor], config: EncoderConfig, where: str) -> None:
    """Raise WeightsError unless the tensors are the encoder's, all of them in their shapes, with or without a head."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Encoder(config).state_dict().items()}
    bias = tensors.get("head.bias")
    classes = bias.numel() if bias is not None else 0
    for layer, shape in (("fc_norm", (config.width,)), ("head", (classes, config.width))):
        if any(name.startswith(f"{layer}.") for name in tensors):
            expected |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    if missing := [name for name in expected if name not in tensors]:
        raise WeightsError(f"{where}: found no {quote_keys(missing)}, expected all {len(expected)}; get the file again")
    if extra := [name for name in tensors if name not in expected]:
        raise WeightsError(f"{where}: found {quote_keys(extra)}, expected the weights of {config.depth} blocks")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise WeightsError(f"{where}: {name}: found shape {tuple(tensors[name].shape)}, expected {shape}")


def _pair(size: Any) -> tuple[int, ...]:
    """Rows and columns, from one number for both or from two."""
    return (size, size) if isinstance(size, int) else tuple(size)
