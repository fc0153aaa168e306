"""JSON that may come from a stranger -> frozen dataclasses: every key and type is checked against their annotations."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

_KIND_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_SCALARS = (str, int, float, bool)
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """Text from a stranger, in one line that does nothing to whatever shows it but be read."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class OneLineError(ValueError):
    """Its message may quote what a stranger wrote, and is shown on a terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class SchemaError(OneLineError):
    """A sample or a member breaks the contract; the message names it, what was found and expected."""


def typed(kind: Any, value: object, where: str) -> Any:
    """A value from JSON as `kind`: str, int, float, bool, Any, or `X | None`, tuple, Mapping or dataclass of such.

    Nothing is converted but lists to tuples and whole numbers to float; every number is finite. Raises SchemaError
    that begins with `where`, the value's place.
    """
    if kind in _SCALARS:
        return _typed_scalar(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (origin is UnionType and value is None):
        return value
    if origin is UnionType:
        return typed(inner[0], value, where)
    if origin is tuple:
        return _typed_tuple(inner, value, where)
    if origin is Mapping:
        items = _instance(dict, value, where)
        return {typed(str, key, where): typed(inner[1], item, f"{where}.{key[:80]}") for key, item in items.items()}
    return _typed_record(kind, value, where)


def _typed_tuple(inner: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    items = _instance(list, value, where)
    each = (inner[0],) * len(items) if inner[-1] is Ellipsis else inner
    if len(items) != len(each):
        raise SchemaError(f"{where}: found {len(items)} values, expected {len(each)}")
    return tuple(typed(kind, item, f"{where}[{at}]") for at, (kind, item) in enumerate(zip(each, items, strict=True)))


def _typed_record(record: Any, value: object, where: str) -> Any:
    items = _instance(dict, value, where)
    known = kinds(record)
    missing = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING} - items.keys()
    if missing or items.keys() - known:
        wrong = f"no {reprlib.repr(sorted(missing))}" if missing else reprlib.repr(sorted(items.keys() - known))
        raise SchemaError(f"{where}: found {wrong}, expected {', '.join(known)}")
    found = {name: typed(known[name], item, f"{where}.{name}") for name, item in items.items()}
    try:
        return record(**found)
    except ValueError as error:
        raise SchemaError(f"{where}: {error}") from error


def _typed_scalar(kind: type, value: object, where: str) -> Any:
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    _instance(kind, value, where)
    if isinstance(value, float) and not math.isfinite(value):
        raise SchemaError(f"{where}: found {value}, expected a finite number")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise SchemaError(f"{where}: found {reprlib.repr(value)}, expected text that UTF-8 can hold")
    return value


def _instance(kind: type, value: object, where: str) -> Any:
    if type(value) is not kind:
        raise SchemaError(f"{where}: found {reprlib.repr(value)}, expected {_KIND_NAMES[kind]}")
    return value


@cache
def kinds(record: type) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    return get_type_hints(record)
