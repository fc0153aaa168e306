"""What a training is started with: frozen, checked where it is made, saved with the run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from manifests.records import SchemaError, from_json
from train.data import Check
from train.fusion import strategy_named
from train.models.videomae import ENCODERS
from train.recipes import Recipe
from train.runs import Protocol

#: The corpus that trains in a minute on a CPU, and what it takes by default: encoder and recipe.
DEMO = "demo"
DEMO_DEFAULT = "tiny"
ENCODER_DEFAULT = "large"
SELECTION = "UAR of validation speakers"

COMPILE = ("auto", "on", "off")


class ConfigError(ValueError):
    """Settings that cannot be used; one line that says what was found and what is valid."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a training is started with. Raises ConfigError, FusionError or RecipeError for what cannot be."""

    shards: str
    """Folder of shards: a path or an address."""
    strategy: str
    fold: str
    fold_scheme: str | None = None
    """None for the corpus's default."""
    label_scheme: str | None = None
    """None for the corpus's default."""
    feature: str = "mfcc"
    encoder: str
    """A name in `ENCODERS`."""
    weights: str | None = None
    """File, folder or hub id that the encoder starts from; None for random weights."""
    recipe: Recipe
    seed: int = 0
    runs: str = "runs"
    """Folder of all runs."""
    workers: int = 2
    """Threads that decode; any number gives the same result."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else a device as torch names it."""
    accumulate: int = 1
    """Micro-batches that a rank's share of a step is cut into."""
    save_steps: int = 500
    """Optimizer steps between checkpoints; one is also saved after each epoch."""
    check: str = "hashes"
    """Whether local shards are hashed before they are used."""
    compile: str = "auto"
    """Whether the model is compiled; `auto` does on a GPU."""

    def __post_init__(self) -> None:
        strategy_named(self.strategy)
        if self.encoder not in ENCODERS:
            raise ConfigError(f"unknown encoder {self.encoder!r}; valid are {', '.join(ENCODERS)}")
        for name, least in (("seed", 0), ("workers", 0), ("accumulate", 1), ("save_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least {least}")
        for name, valid in (("check", get_args(Check)), ("compile", COMPILE)):
            if getattr(self, name) not in valid:
                raise ConfigError(f"{name}: found {getattr(self, name)!r}; valid are {', '.join(valid)}")
        if self.recipe.frozen and self.weights is None:
            raise ConfigError(
                f"recipe {self.recipe.name}: found no weights, expected --weights: a frozen encoder must know something"
            )

    @property
    def home(self) -> Path:
        """Folder of all runs."""
        return Path(self.runs)

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which `from_json` makes the same again."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_json(cls, value: object, where: str) -> TrainConfig:
        """Raises ConfigError, beginning with `where`, for anything but a configuration."""
        try:
            config: TrainConfig = from_json(cls, value, where)
        except SchemaError as error:
            raise ConfigError(str(error)) from error
        return config


def settings_hash(config: TrainConfig, start_sha256: str, data_sha256: str) -> str:
    """SHA-256 of all that may change a score, but for strategy and fold: recipe, seed, weights at the start, shards."""
    told = {"seed": config.seed, "recipe": asdict(config.recipe), "start": start_sha256, "data": data_sha256}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def protocol(
    config: TrainConfig,
    *,
    classes: tuple[str, ...],
    label_scheme: str,
    fold_scheme: str,
    folds: tuple[str, ...],
    start_sha256: str,
    data_sha256: str,
) -> Protocol:
    """What the run's scores must be read with."""
    return Protocol(
        label_scheme=label_scheme,
        classes=classes,
        fold_scheme=fold_scheme,
        folds=folds,
        selection=SELECTION,
        recipe=config.recipe.name,
        encoder=config.encoder,
        weights=config.weights,
        feature=config.feature,
        settings=settings_hash(config, start_sha256, data_sha256),
    )


def device_for(name: str, local_rank: int = 0) -> torch.device:
    """The device that `--device` names, of this rank. Raises ConfigError for one that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: found {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: found {name!r}, but this machine has no GPU that torch can use; expected cpu")
    return torch.device("cuda", local_rank) if device.type == "cuda" and device.index is None else device
