"""Trained tokenizers as a folder: weights, configuration with their hash, lineage and a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifests.files import atomic_write
from manifests.records import SchemaError, from_json
from train.lineage import METADATA_KEY, Lineage, parse_lineage
from train.models.checkpoint_formats import WeightsError
from train.models.checkpoint_io import MODEL_CONFIG_FILE, WEIGHTS_FILE, dump_weights, first_line, read_checkpoint
from train.models.vqvae import (
    AudioTokenizer,
    AudioTokenizerConfig,
    Tokenizers,
    VisualTokenizer,
    VisualTokenizerConfig,
)

FORMAT = "multimae-der-tokenizers"
VERSION = 1
CARD_FILE = "README.md"
#: Buffers that only a training needs.
_OF_TRAINING = ("quantizer.sums", "quantizer.counts", "quantizer.steps", "num_batches_tracked", "fixed")


@dataclass(frozen=True, kw_only=True)
class TrainedTokenizers:
    """Tokenizers in evaluation mode, on the CPU, and what is known of them."""

    model: Tokenizers
    sha256: str
    """Of weights and configuration: tokenizers with the same one give the same codes."""
    licence: str
    lineage: Lineage
    details: Mapping[str, Any]


def save_tokenizers(
    model: Tokenizers, folder: Path, *, licence: str, lineage: Lineage, details: Mapping[str, Any], card: str
) -> None:
    """Write `model.safetensors`, `README.md` and, last, `config.json`, for `load_tokenizers`. Raises OSError."""
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "audio": asdict(model.audio.config),
        "visual": asdict(model.visual.config),
        "licence": licence,
        "details": dict(details),
        "sha256": fingerprint(model),
    }
    atomic_write(folder / WEIGHTS_FILE, dump_weights(frozen_state(model), lineage))
    atomic_write(folder / CARD_FILE, card.encode())
    atomic_write(folder / MODEL_CONFIG_FILE, (json.dumps(settings, indent=2) + "\n").encode())


def load_tokenizers(source: str | Path) -> TrainedTokenizers:
    """Tokenizers of a folder, or of the run that trained them. Raises WeightsError for anything else."""
    found = read_checkpoint(source)
    if found.settings.get("format") != FORMAT:
        raise WeightsError(
            f"{found.where}: found other weights, expected tokenizers; train some with make tokenizers DATASET="
        )
    try:
        if found.settings.get("version") != VERSION:
            raise ValueError(f"version: found {found.settings.get('version')!r}, expected {VERSION}")
        audio = from_json(AudioTokenizerConfig, found.settings.get("audio"), "audio")
        visual = from_json(VisualTokenizerConfig, found.settings.get("visual"), "visual")
        lineage = parse_lineage(found.metadata.get(METADATA_KEY, ""), "lineage")
        with torch.random.fork_rng(devices=()):  # initial weights, which are replaced
            model = Tokenizers(AudioTokenizer(audio), VisualTokenizer(visual))
        lacking, unknown = model.load_state_dict(dict(found.state), strict=False)
        if wrong := [*unknown, *(name for name in lacking if not name.endswith(_OF_TRAINING))]:
            raise ValueError(f"found other layers than configured, such as {wrong[0]}")
        if found.settings.get("sha256") != fingerprint(model):
            raise ValueError(f"found other weights than {MODEL_CONFIG_FILE} describes")
    except (SchemaError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{found.where}: {first_line(error)}; train the tokenizers again") from error
    details = found.settings.get("details")
    return TrainedTokenizers(
        model=model.eval(),
        sha256=found.settings["sha256"],
        licence=str(found.settings.get("licence", "not stated")),
        lineage=lineage,
        details=details if isinstance(details, dict) else {},
    )


def frozen_state(model: Tokenizers) -> dict[str, Tensor]:
    """State dict without what only a training needs."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_OF_TRAINING)}


def fingerprint(model: Tokenizers) -> str:
    """SHA-256 of configuration and weights."""
    configs = {"audio": asdict(model.audio.config), "visual": asdict(model.visual.config)}
    digest = hashlib.sha256(json.dumps(configs, sort_keys=True).encode())
    for name, tensor in sorted(frozen_state(model).items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
