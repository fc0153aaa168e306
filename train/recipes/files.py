"""Recipe files: read and checked, those of the project and those of users alike; values replaced; written back.

A recipe file is TOML: the fields of `Recipe`, a table `augmentation` of those of `Augmentation` and, for masked
pre-training, a table `pretraining` of those of `Pretraining`; for tokenizers, `tokenizers` of those of `Tokenizing`;
for a VQ-MAE-AV, `vq_mae` of those of `VqMae` and, for its pre-training, `token_pretraining` of those of
`TokenPretraining`. What is left out has the default, and a file without `name` is named as the file is. Files are read
as untrusted input.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from manifests.files import read_limited
from manifests.records import SchemaError, from_json
from manifests.text import escape_unprintable
from train.data.augment import Augmentation
from train.recipes.recipe import CHOICES, Pretraining, Recipe, RecipeError, Tokenizing, TokenPretraining, VqMae

SUFFIX = ".toml"
MAX_BYTES = 1 << 16
#: Tables of a file.
_Table = type[Augmentation] | type[Pretraining] | type[Tokenizing] | type[VqMae] | type[TokenPretraining]
_TABLES: Mapping[str, _Table] = {
    "augmentation": Augmentation,
    "pretraining": Pretraining,
    "tokenizers": Tokenizing,
    "vq_mae": VqMae,
    "token_pretraining": TokenPretraining,
}
#: Fields with a list of texts, for which `--set` also takes a single one.
_LISTS = {field.name for field in fields(Recipe) if field.type == "tuple[str, ...]"}
#: Fields that replace each other, and warm-up, which is given in the same unit.
_LENGTHS = {"epochs": "steps", "steps": "epochs"}
_WARMUPS = {"warmup_epochs": "warmup_steps", "warmup_steps": "warmup_epochs"}


def recipe_named(name: str) -> Recipe:
    """Recipe of that name, or of a file. Raises RecipeError, listing the valid names, for an unknown one; OSError."""
    if name.endswith(SUFFIX) or "/" in name:
        return load_recipe(Path(name))
    if name not in RECIPES:
        raise RecipeError(f"unknown recipe {name!r}; valid are {', '.join(RECIPES)}, or a file {name}{SUFFIX}")
    return RECIPES[name]


def load_recipe(path: Path) -> Recipe:
    """Recipe of a file.

    Raises RecipeError, in one line with the file and the field, for anything that is not a recipe; OSError for a file
    that is missing, too large or not a regular one.
    """
    try:
        values = tomllib.loads(read_limited(path, MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not TOML: {escape_unprintable(str(error))[:200]}") from error
    return _parse({"name": path.stem, **values}, str(path))


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """A recipe with fields replaced: each setting is `NAME=VALUE`, as in its file, or `TABLE.NAME=VALUE`.

    A value is TOML, or text without quotes, also for a list of one text, or `none` to leave the field out. A new length
    replaces the old one, whichever of `epochs` and `steps` either is given in, and warm-up keeps its share unless it is
    set, too. Raises RecipeError.
    """
    values = _to_values(recipe)
    changed: dict[str, Any] = {}
    for setting in settings:
        name, found, text = setting.partition("=")
        name = name.strip()
        if not found:
            raise RecipeError(f"--set: found {setting[:80]!r}, expected NAME=VALUE")
        table, _, field = name.rpartition(".")
        target = _table_of(name, recipe.name, values)
        value = _list_text(name, _parse_value(text.strip()))
        if value is None:
            target.pop(field, None)
            _check_names([field], _TABLES[table] if table else Recipe, f"--set {name[:80]}")
        else:
            target[field] = value
        changed[name] = value
    if lengths := [name for name in _LENGTHS if changed.get(name) is not None]:
        if len(lengths) == 1:
            values.pop(_LENGTHS[lengths[0]], None)
        if not changed.keys() & _WARMUPS.keys():
            _scale_warmup(values, recipe, lengths[0])
    for name in changed.keys() & _WARMUPS.keys():
        if _WARMUPS[name] not in changed:
            values.pop(_WARMUPS[name], None)
    return _parse(values, "--set")


def _table_of(name: str, recipe: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values of the table that a field is in, or those of the file."""
    table = name.rpartition(".")[0]
    if table not in ("", *_TABLES) or name in _TABLES:
        expected = ", ".join(["NAME", *(f"{each}.NAME" for each in _TABLES)])
        raise RecipeError(f"--set {name[:80]}: found no such field, expected one of {expected}")
    if table and table not in values:
        raise RecipeError(f"--set {name[:80]}: recipe {recipe} has no {table}, expected one that has")
    found: dict[str, Any] = values[table] if table else values
    return found


def _scale_warmup(values: dict[str, Any], recipe: Recipe, length: str) -> None:
    """Warm up for the same share of a new length, in its unit; what cannot be compared stays as it is."""
    before = recipe.epochs if recipe.steps is None else recipe.steps
    warmup = recipe.warmup_epochs if recipe.steps is None else recipe.warmup_steps
    new = values[length]
    if not before or not warmup or not isinstance(new, int):
        return
    share = warmup / before
    values.pop("warmup_steps", None)
    values.pop("warmup_epochs", None)
    values[f"warmup_{length}"] = share * new if length == "epochs" else round(share * new)


def dump_toml(recipe: Recipe) -> str:
    """A recipe as a file that `load_recipe` reads; values that are None are left out."""
    values = _to_values(recipe)
    tables = {name: values.pop(name) for name in _TABLES if name in values}
    parts = [_dump_values(values), *(f"[{name}]\n{_dump_values(table)}" for name, table in tables.items())]
    return "\n".join(parts)


def _dump_values(values: Mapping[str, Any]) -> str:
    """JSON's text, numbers, booleans and lists of them are TOML's."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _to_values(recipe: Recipe) -> dict[str, Any]:
    """What the file of a recipe would have, without None."""
    return _without_none(json.loads(json.dumps(asdict(recipe))))


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _parse_value(text: str) -> Any:
    """A TOML value, None for `none`, else the text itself."""
    if text == "none":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _list_text(name: str, value: Any) -> Any:
    """A single text for a field that is a list of texts, as such a list; another value as it is."""
    return [value] if name in _LISTS and isinstance(value, str) and not value.startswith("[") else value


def _parse(values: Mapping[str, Any], where: str) -> Recipe:
    """Raise RecipeError, beginning with `where`, for unknown fields, wrong types and values out of range."""
    _check_names(values, Recipe, where)
    for name, kind in _TABLES.items():
        if isinstance(table := values.get(name, {}), dict):
            _check_names(table, kind, f"{where}: {name}")
    if missing := [name for name in ("batch", "learning_rate") if name not in values]:
        raise RecipeError(f"{where}: found no {missing[0]}, expected one")
    for name, valid in CHOICES.items():
        if not isinstance(values.get(name, ""), str):
            found = json.dumps(values[name], default=str)[:80]
            raise RecipeError(f"{where}: {name}: found {found}, expected one of {', '.join(valid)}")
    try:
        return from_json(Recipe, dict(values), where)
    except SchemaError as error:
        raise RecipeError(f"{where}: {str(error).removeprefix(where).lstrip('.: ')}") from error


def _check_names(names: Iterable[str], kind: type[Recipe] | _Table, where: str) -> None:
    known = [field.name for field in fields(kind)]
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise RecipeError(f"{where}: found field {escape_unprintable(name)[:80]!r}; the nearest is {nearest[0]!r}")


def _load_all(folder: Path) -> dict[str, Recipe]:
    """The project's recipes, in the order in which they are shown."""
    names = sorted((path.stem for path in folder.glob(f"*{SUFFIX}")), key=lambda name: (name != "finetune", name))
    return {name: load_recipe(folder / f"{name}{SUFFIX}") for name in names}


#: Name -> recipe.
RECIPES: Mapping[str, Recipe] = _load_all(Path(__file__).parent)
