"""Features of a frozen encoder: computed once for each clip, cached, and a linear probe trains on them in seconds.

A file has the features of one shard's clips. Its name is a hash of everything they depend on, so that any change
leads to another file: the shard's bytes, which of its clips have a class, strategy, kind of spectrogram (`feature`),
normalization, the encoder's weights and settings, and the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from manifests.files import BusyError, atomic_write, exclusive_lock, remove_leftovers, shared_lock
from train.classification import run_inference
from train.data.clip_table import ClipTable
from train.data.fold_data import FoldData
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.transforms import ClipTransform
from train.data.windows import WHOLE_CLIPS, Windows
from train.distributed import Ranks
from train.models.videomae import Classifier
from train.models.weights import fingerprint

VERSION = 2
BATCH_SIZE = 16


def cached_embeddings(
    model: Classifier,
    data: FoldData,
    clips: ClipTable,
    transform: ClipTransform,
    *,
    windows: Windows = WHOLE_CLIPS,
    cache: Path,
    ranks: Ranks,
    workers: int = 2,
    batch_size: int = BATCH_SIZE,
    on_shard: Callable[[str], None] = lambda _: None,
) -> Tensor:
    """float32 [clips, D] mean tokens of some clips of a fold, in their order, on the CPU.

    Those that are missing in the folder `cache` are computed and stored; `on_shard` is called for each such shard.
    """
    with suppress(BusyError), exclusive_lock(cache, ""):  # trainings that share the cache write under a shared lock
        remove_leftovers(cache)
    encoder, parts, on_gpu = fingerprint(model.encoder), [], ranks.device.type == "cuda"
    sha256 = data.shard_hashes
    model.eval()
    for shard, name in enumerate(clips.shards):
        part = select_shard(clips, shard)
        if not len(part):
            continue
        key = {
            "version": VERSION,
            "shard": sha256[name],
            "clips": np.char.decode(part.keys).tolist(),
            "strategy": f"{transform.strategy.name} {transform.strategy.sha256}".strip(),
            "feature": transform.feature if transform.strategy.windows else None,
            "normalization": asdict(transform.normalization),
            "input_range": transform.input_range,
            "encoder": encoder,
            "arithmetic": "bfloat16" if on_gpu else "float32",
        }
        key |= {"windows": asdict(windows)} if windows != WHOLE_CLIPS else {}
        path = cache / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.safetensors"
        features = _read(path, (len(part), model.encoder.config.width))
        if features is None:
            on_shard(name)
            sampler = ClipSampler(clips=len(part), batch_size=batch_size, shuffle=False)
            options = {"workers": workers, "pin": on_gpu, "prefetcher": data.prefetcher}
            loader = Loader(part, sampler, face_px=transform.face_px, windows=windows, **options)
            features = run_inference(model.features, loader, transform, ranks)
            with shared_lock(cache, ""):
                atomic_write(path, safetensors.torch.save({"features": features}))
        parts.append(features)
    return torch.cat(parts)


def select_shard(clips: ClipTable, shard: int) -> ClipTable:
    """The clips of one of the shards."""
    selected = clips.shard == shard
    arrays = {name: getattr(clips, name)[selected] for name in ("shard", "keys", "labels", "byte_ranges", "missing")}
    return replace(clips, **arrays)


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Cached features, None without a complete file of them."""
    try:
        features = safetensors.torch.load_file(path).get("features")
    except (SafetensorError, OSError):
        return None
    return features if features is not None and features.shape == shape else None
