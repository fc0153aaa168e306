"""Recipes: everything about a training that is not the data, as data.

`linear-probe` is what the paper's notebook ran, `finetune` what its text describes (IV.C), at a rate that does not
destroy the encoder; `tiny` learns the demo corpus from random weights on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from train.imaging import Augmentation

CURVES = ("cosine", "constant")

#: Changes nothing.
UNCHANGED = Augmentation(
    crop_scale=1.0, flip=0.0, colour=0.0, time_mask=0.0, frequency_mask=0.0, gain_db=0.0, mixup=0.0
)


class RecipeError(ValueError):
    """An unknown recipe, or settings that contradict each other."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is trained. Raises RecipeError for what cannot be."""

    name: str
    epochs: int
    batch: int
    """Clips an optimizer step, over all ranks and accumulated micro-batches."""
    learning_rate: float
    """Highest rate, of the last layer; belongs to `batch`."""
    curve: str = "cosine"
    """One of `CURVES`: after warm-up the rate goes down to 0 in half a cosine, or stays."""
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises linearly from 0."""
    layer_decay: float = 1.0
    """Factor between the rates of a block and of the one above it."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    """Largest norm of a step's gradient; None for any."""
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    """Rate of the last block."""
    frozen: bool = False
    """Only LayerNorm and Linear are trained, on features that are computed once."""
    held: bool = False
    """Inputs are made once and kept in memory: for small corpora, and no augmentation but mixup."""
    checkpointing: bool = False
    """Blocks are computed again in the backward pass: a third more work for much less memory."""
    augmentation: Augmentation = UNCHANGED

    def __post_init__(self) -> None:
        _check(self.epochs >= 1 and self.batch >= 1, self, "at least one epoch and one clip a step")
        _check(0 < self.learning_rate < math.inf, self, "a learning rate above 0")
        _check(self.curve in CURVES, self, f"a curve of {', '.join(CURVES)}")
        _check(0 <= self.warmup_epochs < self.epochs, self, "less warm-up than epochs")
        _check(0 < self.layer_decay <= 1, self, "a layer decay above 0, up to 1")
        _check(self.weight_decay >= 0, self, "no negative weight decay")
        _check(all(0 <= beta < 1 for beta in self.betas), self, "betas from 0 to below 1")
        _check(self.clip_norm is None or self.clip_norm > 0, self, "a clip norm above 0")
        _check(0 <= self.label_smoothing < 1 and 0 <= self.drop_path < 1, self, "rates from 0 to below 1")
        _check(not self.frozen or self.augmentation == UNCHANGED, self, "no augmentation of frozen features")
        unchanged = replace(self.augmentation, mixup=0.0) == UNCHANGED
        _check(not self.held or unchanged, self, "no augmentation of inputs that are held but mixup")
        _check(not self.augmentation.mixup or self.batch % 2 == 0, self, "an even batch, for mixup's pairs")

    def with_batch(self, batch: int) -> Recipe:
        """The same for another batch size, the rate scaled with it."""
        return replace(self, batch=batch, learning_rate=self.learning_rate * batch / self.batch)


def _check(fine: bool, recipe: Recipe, expected: str) -> None:
    if not fine:
        raise RecipeError(f"recipe {recipe.name}: found {recipe}; expected {expected}")


#: Name -> recipe.
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="linear-probe", epochs=100, batch=16, learning_rate=1e-2, curve="constant", frozen=True),
        Recipe(
            name="finetune",
            epochs=50,
            batch=64,
            learning_rate=1e-3 * 64 / 256,
            warmup_epochs=5,
            layer_decay=0.75,
            clip_norm=1.0,
            label_smoothing=0.1,
            drop_path=0.2,
            augmentation=Augmentation(),
        ),
        Recipe(
            name="tiny",
            epochs=24,
            batch=16,
            learning_rate=1e-3,
            warmup_epochs=2,
            clip_norm=1.0,
            label_smoothing=0.1,
            drop_path=0.1,
            held=True,
            augmentation=replace(UNCHANGED, mixup=0.4),
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """Recipe of that name. Raises RecipeError, listing the valid ones, where there is none."""
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe {name!r}; valid are {', '.join(RECIPES)}")
    return RECIPES[name]


def dump_toml(recipe: Recipe) -> str:
    """A recipe as TOML, its augmentation as a table; what is None is left out."""
    values = asdict(recipe)
    augmentation = values.pop("augmentation")
    return "\n".join([*_lines(values), "", "[augmentation]", *_lines(augmentation)]) + "\n"


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if value is not None:
            yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
