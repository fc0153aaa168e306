"""Folders of VQ-MAE-AVs: pre-trained models, and classifiers that began with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.files import atomic_write
from manifests.records import SchemaError, from_json
from train.lineage import METADATA_KEY, Lineage, parse_lineage
from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_io import (
    MODEL_CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointFile,
    dump_weights,
    first_line,
    read_checkpoint,
)
from train.models.vq_mae_av import VqMae, VqMaeConfig
from train.models.vq_mae_heads import HEADS, EmotionClassifier
from train.models.weights import FORMAT, fingerprint, fingerprint_of

#: In the configuration of every model of this kind.
FAMILY = "vq-mae-av"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class VqMaeWeights:
    """Weights of a pre-trained model or of a classifier."""

    config: VqMaeConfig
    state: Mapping[str, Tensor]
    """As the file has them: `encoder.`, and `decoder.` and `pools.` or `head.`."""
    head: str
    """One of `HEADS`; "" for a pre-trained model."""
    classes: tuple[str, ...]
    licence: str
    lineage: Lineage
    details: Mapping[str, Any]
    """Provenance; JSON values."""
    tokenizer: str
    """SHA-256 of the tokenizers whose codes it was trained on."""
    sha256: str
    """`fingerprint` of the model that was saved."""
    source: str


def save_vq_mae(
    model: VqMae | EmotionClassifier,
    folder: Path,
    *,
    licence: str,
    lineage: Lineage,
    tokenizer: str,
    details: Mapping[str, Any],
    classes: Sequence[str] = (),
) -> None:
    """Write `model.safetensors` and, last, `config.json`, for `load_vq_mae`. Raises OSError."""
    settings = {
        "format": FORMAT,
        "family": FAMILY,
        "version": VERSION,
        "model": asdict(model.encoder.config),
        "head": model.head_name if isinstance(model, EmotionClassifier) else "",
        "classes": list(classes),
        "tokenizer": tokenizer,
        "licence": licence,
        "details": dict(details),
        "sha256": fingerprint(model),
    }
    atomic_write(folder / WEIGHTS_FILE, dump_weights(model, lineage))
    atomic_write(folder / MODEL_CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())


def load_vq_mae(source: str | Path) -> VqMaeWeights:
    """Weights of a folder, of a run or of an export. Raises WeightsError for anything else, or if they were changed."""
    return convert_vq_mae(read_checkpoint(source))


def convert_vq_mae(found: CheckpointFile) -> VqMaeWeights:
    """The same of a checkpoint that was read."""
    settings = found.settings
    if not is_vq_mae(settings):
        raise WeightsError(
            f"{found.where}: found other weights, expected a VQ-MAE-AV; begin with one of make pretrain MODEL=vq-mae-av"
        )
    try:
        if settings.get("version") != VERSION:
            raise ValueError(f"version: found {settings.get('version')!r}, expected {VERSION}")
        config = from_json(VqMaeConfig, settings.get("model"), "model")
        lineage = parse_lineage(found.metadata.get(METADATA_KEY, ""), "lineage")
        classes = from_json(tuple[str, ...], settings.get("classes"), "classes")
        tokenizer = from_json(str, settings.get("tokenizer"), "tokenizer")
    except (SchemaError, ValueError, RecursionError) as error:
        raise WeightsError(f"{found.where}: its {MODEL_CONFIG_FILE}: {first_line(error)}; get it again") from error
    if broken := [name for name, tensor in found.state.items() if not tensor.isfinite().all()]:
        raise WeightsError(f"{found.where}: found NaN or infinity in {broken[0]}, expected finite numbers")
    if settings.get("sha256") != fingerprint_of(config, found.state):
        raise WeightsError(f"{found.where}: found other weights than {MODEL_CONFIG_FILE} describes; get both again")
    details = settings.get("details")
    return VqMaeWeights(
        config=config,
        state=found.state,
        head=str(settings.get("head") or ""),
        classes=classes,
        licence=str(settings.get("licence")),
        lineage=lineage,
        details=details if isinstance(details, dict) else {},
        tokenizer=tokenizer,
        sha256=settings["sha256"],
        source=found.where,
    )


def is_vq_mae(settings: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a VQ-MAE-AV."""
    return settings.get("format") == FORMAT and settings.get("family") == FAMILY


def initialize_classifier(model: EmotionClassifier, weights: VqMaeWeights) -> str:
    """Copy encoder and pools into a classifier that is to be trained; what was copied, in words.

    Pools, of a contrastive pre-training, begin those of the head `attention`; the last layer is always new. Raises
    WeightsError for an encoder of another shape.
    """
    model.encoder.load_state_dict(_part(weights, "encoder.", model.encoder.state_dict()))
    pools = {name: tensor for name, tensor in weights.state.items() if name.startswith(("pools.", "head.pools."))}
    if model.head_name != "attention" or not pools:
        return "encoder"
    prefix = "pools." if any(name.startswith("pools.") for name in pools) else "head.pools."
    model.head.pools.load_state_dict(_part(weights, prefix, model.head.pools.state_dict()))
    return "encoder and pools"


def initialize_pretraining(model: VqMae, weights: VqMaeWeights) -> str:
    """Copy all that a pre-trained model has into one that is to be trained; in words. Raises WeightsError."""
    copied = []
    for name, part in (("encoder", model.encoder), ("decoder", model.decoder), ("pools", model.pools)):
        if part is not None and any(key.startswith(f"{name}.") for key in weights.state):
            part.load_state_dict(_part(weights, f"{name}.", part.state_dict()))
            copied.append(name)
    return " and ".join(copied)


def load_emotion_classifier(source: str | Path) -> tuple[EmotionClassifier, VqMaeWeights]:
    """A classifier in evaluation mode. Raises WeightsError for anything else, or if it was changed."""
    weights = load_vq_mae(source)
    if weights.head not in HEADS or not weights.classes:
        raise WeightsError(f"{weights.source}: found no classifier, expected a run of make train MODEL=vq-mae-av")
    with torch.random.fork_rng(devices=()):  # initial weights, which are replaced
        model = EmotionClassifier(weights.config, len(weights.classes), weights.head)
    model.load_state_dict(_part(weights, "", model.state_dict()))
    return model.eval(), weights


def _part(weights: VqMaeWeights, prefix: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose names begin with a prefix, without it. Raises WeightsError unless they are the expected ones."""
    found = {name.removeprefix(prefix): each for name, each in weights.state.items() if name.startswith(prefix)}
    for name in sorted(found.keys() | expected.keys()):
        shapes = [tuple(state[name].shape) if name in state else "none" for state in (found, expected)]
        if shapes[0] != shapes[1]:
            raise WeightsError(f"{weights.source}: {prefix}{name}: found {shapes[0]}, expected {shapes[1]}")
    return {name: tensor.float() for name, tensor in found.items()}
