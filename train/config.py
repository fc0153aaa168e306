"""Configuration of a training: frozen, checked where it is made, saved with the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

import torch

from manifests.errors import UserError
from train.data.augment import Augmentation
from train.data.shard_folder import Check
from train.fusion import TOKEN_STRATEGIES, strategy_named
from train.models.videomae import ENCODERS
from train.models.vq_mae_av import MODELS
from train.own_code import is_import_path
from train.recipes import Recipe

#: The corpus that trains in a minute on a CPU, and its default encoder and recipe.
DEMO = "demo"
DEMO_DEFAULT = "tiny"
ENCODER_DEFAULT = "large"
#: Strategy of a training of VQ-MAE-AV's tokenizers, which fuses nothing and has no encoder.
TOKENIZERS = "tokenizers"
#: How the tested epoch is chosen -> its words in reports. `validation`: the best one by UAR of validation speakers.
#: `refit`: trained again from the start, with the schedule in as many epochs, on training and validation speakers.
#: `last`: trained on both for all epochs of the recipe.
SELECTIONS: Mapping[str, str] = {
    "validation": "UAR of validation speakers",
    "refit": "UAR of validation speakers, then refit with them",
    "last": "none (last epoch)",
}

COMPILE = ("auto", "on", "off")

#: Fields of recipes that are younger than finished runs, whose hash and identity must stay valid: they are in neither
#: where they have the default.
_NEW_IN_RECIPES = (
    *("class_weights", "corpus_weights", "freeze", "loss", "pretraining", "sampling"),
    *("token_pretraining", "tokenizers", "vq_mae"),
    *("test_crop_side", "test_windows", "training_share", "window_seconds"),
)
#: The same of the augmentation.
_NEW_IN_AUGMENTATION = ("window_share", "shift")


class ConfigError(UserError):
    """Settings that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training. Raises ConfigError, FusionError or RecipeError for invalid ones."""

    shards: str | tuple[str, ...]
    """Folder of shards: a path or an address; or those of several corpora."""
    strategy: str
    """A name in `STRATEGIES` or `TOKEN_STRATEGIES`, or the import path of one's own; or TOKENIZERS."""
    fold: str
    tests: tuple[str, ...] = ()
    """Folders of shards of other corpora that are tested as a whole, in place of a fold."""
    fold_scheme: str | tuple[str, ...] | None = None
    """A name, or a table of one's own; None for the corpus's default. Of several corpora one for each."""
    label_scheme: str | None = None
    """A name, or a table of one's own; None for the corpus's default."""
    allow_shared_speakers: bool = False
    """Whether speakers may be on several sides of a fold of one's own."""
    feature: str = "mfcc"
    encoder: str | None
    """A name in `ENCODERS`, or in `MODELS` of tokens, or the import path of one's own; None for the one that fits the
    weights, or tokenizers."""
    weights: str | None = None
    """File, folder or hub id of the encoder's initial weights; None for random weights."""
    tokenizers: str | None = None
    """Folder of the tokenizers that made the codes, whose codebooks a VQ-MAE-AV begins with; None for random ones."""
    recipe: Recipe
    selection: str = "validation"
    """One of `SELECTIONS`."""
    seed: int = 0
    runs: str = "runs"
    """Folder of all runs."""
    workers: int = 2
    """Decoding threads; their number does not change the result."""
    device: str = "auto"
    """`auto` for a GPU if the machine has one; or a device as torch names it."""
    micro_batches: int = 1
    """Micro-batches that each rank divides its batch of a step into."""
    save_steps: int = 500
    """Optimizer steps between checkpoints; one is also saved after each epoch."""
    check: str = "hashes"
    """Whether local shards are hashed before they are used (`hashes`), or only their sizes checked (`sizes`)."""
    compile: str = "auto"
    """Whether the model is compiled; `auto` does on a GPU, unless the encoder is the user's own."""
    loggers: tuple[str, ...] = ()
    """Names in `train.loggers.LOGGERS` that numbers go to, beside log.jsonl; they change no result."""

    def __post_init__(self) -> None:
        if not is_import_path(self.strategy) and self.strategy != TOKENIZERS:
            strategy_named(self.strategy)
        self._check_encoder()
        for name, least in (("seed", 0), ("workers", 0), ("micro_batches", 1), ("save_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least {least}")
        for name, valid in (("check", get_args(Check)), ("compile", COMPILE), ("selection", SELECTIONS)):
            if getattr(self, name) not in valid:
                raise ConfigError(f"{name}: found {getattr(self, name)!r}; valid are {', '.join(valid)}")
        if self.recipe.freeze_encoder and self.weights is None and not self.has_own_encoder:
            raise ConfigError(
                f"recipe {self.recipe.name}: found no weights, expected --weights: a frozen encoder must be pre-trained"
            )

    def _check_encoder(self) -> None:
        """Raise ConfigError unless recipe, encoder and weights fit the strategy."""
        own, tokens = self.has_own_encoder, self.strategy in TOKEN_STRATEGIES
        if tokens != (self.recipe.vq_mae is not None):
            expected = "one with a table vq_mae" if tokens else f"MODEL= ({', '.join(TOKEN_STRATEGIES)})"
            raise ConfigError(f"recipe {self.recipe.name}: found strategy {self.strategy}, expected {expected}")
        known = MODELS if tokens else ENCODERS
        none_needed = self.encoder is None and (self.weights or self.strategy == TOKENIZERS)
        if self.encoder not in known and not none_needed and (tokens or not own):
            choices = ", ".join(known) + ("" if tokens else ", or mymodule:build")
            raise ConfigError(f"unknown encoder {self.encoder!r}; valid are {choices}")
        if self.tokenizers is not None and (not tokens or self.weights is not None):
            raise ConfigError("tokenizers: found a folder, expected none but for a VQ-MAE-AV with random weights")
        if own and self.weights is not None:
            raise ConfigError(f"weights: found {self.weights}, expected none: {self.encoder} loads its own")

    @property
    def locations(self) -> tuple[str, ...]:
        """Folders of shards to train on, at least one."""
        return (self.shards,) if isinstance(self.shards, str) else self.shards

    @property
    def has_own_encoder(self) -> bool:
        """Whether the encoder is code of the user's own."""
        return self.encoder is not None and is_import_path(self.encoder)

    @property
    def strategy_name(self) -> str:
        """Name in runs and reports: of one's own strategy that of its object, `fuse` of `mymodule:fuse`."""
        return self.strategy.rpartition(":")[2]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return json.loads(json.dumps(asdict(self)))


def recipe_identity(recipe: Recipe) -> dict[str, Any]:
    """Values of a recipe that two runs must have in common, without new fields that have their default."""
    values = _without_unset(recipe, _NEW_IN_RECIPES)
    values["augmentation"] = _without_unset(recipe.augmentation, _NEW_IN_AUGMENTATION)
    return values


def _without_unset(settings: Recipe | Augmentation, names: Sequence[str]) -> dict[str, Any]:
    """All values, but for those of some fields that have their default."""
    unset = {field.name for field in fields(settings) if getattr(settings, field.name) == field.default}
    return {name: value for name, value in asdict(settings).items() if name not in unset.intersection(names)}


def settings_hash(config: TrainConfig, initial_sha256: str, data_sha256: str, code: Mapping[str, str] = {}) -> str:
    """SHA-256 of what may change a score and has no name to compare: recipe values, initial weights, shards.

    Strategy, fold, seed, schemes, feature and names of recipe and encoder are not in it: `Run` and `RunProtocol` have
    them. `initial_sha256` is of the encoder's configuration with its pre-trained weights, if any, `data_sha256` of all
    shards of the folder, `code` is import path -> SHA-256 of what the user wrote.
    """
    settings = {"recipe": recipe_identity(config.recipe), "initial": initial_sha256, "data": data_sha256}
    settings |= {"code": dict(code)} if code else {}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def device_for(name: str, local_rank: int = 0) -> torch.device:
    """The device that `--device` names, for this rank. Raises ConfigError for one that is not available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: found {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: found {name!r}, but this machine has no GPU that torch can use; expected cpu")
    return torch.device("cuda", local_rank) if device.type == "cuda" and device.index is None else device
