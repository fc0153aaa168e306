"""Recipes: the hyperparameters of a training. The recipes themselves are in `recipes.toml`."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from manifests.errors import UserError
from train.data.transforms import Augmentation

SCHEDULES = ("cosine", "constant")

#: No augmentation.
NO_AUGMENTATION = Augmentation(
    crop_scale=1.0, flip=0.0, colour=0.0, time_mask=0.0, frequency_mask=0.0, gain_db=0.0, mixup=0.0
)


class RecipeError(UserError):
    """An unknown recipe, or settings that contradict each other."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained. Raises RecipeError for settings out of range."""

    name: str
    epochs: int
    batch: int
    """Clips of an optimizer step, over all ranks and micro-batches."""
    learning_rate: float
    """Peak learning rate of the last layer; scaled with `batch`."""
    schedule: str = "cosine"
    """One of `SCHEDULES`: after warm-up the learning rate falls to 0 in half a cosine, or stays."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises linearly from 0."""
    layer_decay: float = 1.0
    """Factor between the learning rates of a block and of the one above it."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float | None = None
    """Maximum norm of a step's gradient; None for no limit."""
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    """Stochastic depth rate of the last block."""
    freeze_encoder: bool = False
    """Only LayerNorm and Linear are trained, on features that are computed once."""
    cache_inputs: bool = False
    """Model inputs are computed once and kept in memory: for small corpora, without augmentation but mixup."""
    gradient_checkpointing: bool = False
    """Activations are recomputed in the backward pass: a third more work for much less memory."""
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        unaugmented = replace(self.augmentation, mixup=0.0) == NO_AUGMENTATION
        rules = {
            "at least one epoch and one clip a step": self.epochs >= 1 and self.batch >= 1,
            "a learning rate above 0": 0 < self.learning_rate < math.inf,
            f"a schedule of {', '.join(SCHEDULES)}": self.schedule in SCHEDULES,
            "less warm-up than epochs": 0 <= self.warmup_epochs < self.epochs,
            "a layer decay above 0, up to 1": 0 < self.layer_decay <= 1,
            "no negative weight decay": self.weight_decay >= 0,
            "betas from 0 to below 1": all(0 <= beta < 1 for beta in self.betas),
            "a max_grad_norm above 0": self.max_grad_norm is None or self.max_grad_norm > 0,
            "rates from 0 to below 1": 0 <= self.label_smoothing < 1 and 0 <= self.drop_path < 1,
            "no augmentation with freeze_encoder": not self.freeze_encoder or self.augmentation == NO_AUGMENTATION,
            "no augmentation but mixup with cache_inputs": not self.cache_inputs or unaugmented,
            "an even batch, for mixup's pairs": not self.augmentation.mixup or self.batch % 2 == 0,
        }
        for expected, satisfied in rules.items():
            if not satisfied:
                raise RecipeError(f"recipe {self.name}: found {self}; expected {expected}")

    def with_batch(self, batch: int) -> Recipe:
        """The same for another batch size, the learning rate scaled with it."""
        return replace(self, batch=batch, learning_rate=self.learning_rate * batch / self.batch)


def _load_recipes(path: Path) -> dict[str, Recipe]:
    """Recipes of a TOML file; one without a table `augmentation` has none."""
    recipes = {}
    for name, settings in tomllib.loads(path.read_text("utf-8")).items():
        if "augmentation" in settings:
            settings["augmentation"] = Augmentation(**settings["augmentation"])
        recipes[name] = Recipe(name=name, **settings)
    return recipes


#: Name -> recipe.
RECIPES: Mapping[str, Recipe] = _load_recipes(Path(__file__).with_name("recipes.toml"))


def recipe_named(name: str) -> Recipe:
    """Recipe of that name. Raises RecipeError, listing the valid names, for an unknown one."""
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe {name!r}; valid are {', '.join(RECIPES)}")
    return RECIPES[name]


def dump_toml(recipe: Recipe) -> str:
    """A recipe as TOML, its augmentation as a table; values that are None are left out."""
    settings = asdict(recipe)
    augmentation = settings.pop("augmentation")
    # JSON's text, numbers, booleans and lists of them are TOML's.
    top, table = (
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)
        for values in (settings, augmentation)
    )
    return f"{top}\n[augmentation]\n{table}"
