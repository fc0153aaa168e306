"""Recipes: the hyperparameters of a training. One is a TOML file here, or a file of one's own of the same form."""

from train.recipes.files import RECIPES, dump_toml, load_recipe, override, recipe_named
from train.recipes.recipe import (
    NO_AUGMENTATION,
    SCHEDULES,
    Pretraining,
    Recipe,
    RecipeError,
    Tokenizing,
    TokenPretraining,
    VqMae,
)

__all__ = [
    "NO_AUGMENTATION",
    "RECIPES",
    "SCHEDULES",
    "Pretraining",
    "Recipe",
    "RecipeError",
    "TokenPretraining",
    "Tokenizing",
    "VqMae",
    "dump_toml",
    "load_recipe",
    "override",
    "recipe_named",
]
