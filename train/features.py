"""Mean tokens of a frozen encoder: computed once for each clip, kept, and a linear probe trains on them in seconds.

A file holds the features of one shard's clips. Its name is a hash of all they depend on, so that whatever changes
makes another file: the shard's bytes, which of its clips have a class, strategy, feature, standardisation, the
encoder's weights and settings, and the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from manifests.files import atomic_write
from train.data import Clips
from train.feeds import VideoFeed
from train.imaging import Imaging
from train.loader import Loader, Schedule
from train.loop import predict
from train.models.videomae import Classifier
from train.models.weights import fingerprint
from train.ranks import Ranks
from train.supply import Supply

VERSION = 1
_BATCH = 16


def features(
    model: Classifier,
    clips: Clips,
    shard_sha256: Mapping[str, str],
    imaging: Imaging,
    *,
    cache: Path,
    ranks: Ranks,
    workers: int = 2,
    supply: Supply | None = None,
    on_shard: Callable[[str], None] | None = None,
) -> Tensor:
    """float32 [clips, D] mean tokens of clips, in their order, on the CPU.

    Those that are not in the folder `cache` are computed and kept there; `on_shard` hears of each shard that is.
    """
    encoder, parts = fingerprint(model.encoder), []
    for shard, name in enumerate(clips.shards):
        part = of_shard(clips, shard)
        if not len(part):
            continue
        path = cache / f"{_key(part, shard_sha256[name], encoder, imaging, ranks.device)}.safetensors"
        found = _read(path, (len(part), model.encoder.config.width))
        if found is None:
            if on_shard:
                on_shard(name)
            found = _extract(model, part, imaging, ranks, workers, supply)
            atomic_write(path, safetensors.torch.save({"features": found}))
        parts.append(found)
    return torch.cat(parts)


def of_shard(clips: Clips, shard: int) -> Clips:
    """The clips of one of the shards."""
    mine = clips.shard == shard
    return replace(
        clips, shard=clips.shard[mine], keys=clips.keys[mine], labels=clips.labels[mine], places=clips.places[mine]
    )


def _extract(
    model: Classifier, clips: Clips, imaging: Imaging, ranks: Ranks, workers: int, supply: Supply | None
) -> Tensor:
    schedule = Schedule(clips=len(clips), batch_size=_BATCH, shuffle=False)
    loader = Loader(clips, schedule, workers=workers, pin=ranks.device.type == "cuda", supply=supply)
    model.eval()
    size = model.encoder.config.input
    return predict(model.features, VideoFeed(loader=loader, imaging=imaging, size=size, device=ranks.device), ranks)


def _key(clips: Clips, shard_sha256: str, encoder: str, imaging: Imaging, device: torch.device) -> str:
    told = {
        "version": VERSION,
        "shard": shard_sha256,
        "clips": np.char.decode(clips.keys).tolist(),
        "strategy": imaging.strategy.name,
        "feature": imaging.feature if imaging.strategy.windows else None,
        "standardisation": asdict(imaging.standardisation),
        "input_range": imaging.input_range,
        "encoder": encoder,
        "arithmetic": "bfloat16" if device.type == "cuda" else "float32",
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Features that are kept, None where there are none, or no whole ones."""
    try:
        found = safetensors.torch.load_file(path).get("features")
    except (SafetensorError, OSError):
        return None
    return found if found is not None and found.shape == shape else None
