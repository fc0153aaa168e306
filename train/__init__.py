"""The trainer: shards of aligned faces and spectrograms -> fused videos -> an emotion classifier and its scores.

Imports the package `manifests`, never the builder. `ShardDataset` reads shards in a training loop of one's own,
`Predictor` is a trained classifier; both are imported when they are first used, because torch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from manifests.errors import describe_missing

#: What the package offers -> the module that has it.
_EXPORTS = {"Predictor": "train.predict", "ShardDataset": "train.data.shard_dataset"}

__all__ = ["Predictor", "ShardDataset"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_EXPORTS[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(describe_missing(error, "train"), name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
