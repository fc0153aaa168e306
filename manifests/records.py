"""JSON that may come from a stranger -> frozen dataclasses: every key and type is checked against their annotations."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping, Set
from dataclasses import MISSING, fields
from functools import cache, partial
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


class _WrongError(Exception):
    """What is wrong with a value; the steps that lead to it are added on the way out, and cost nothing before."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.steps: list[str] = []


Reader = Callable[[Any], Any]


def typed(kind: Any, value: object, where: str) -> Any:
    """A value from JSON as `kind`: str, int, float, bool, Any, or `X | None`, tuple, Mapping or dataclass of such.

    Nothing is converted but lists to tuples and whole numbers to float; every number is finite. Raises SchemaError
    that begins with `where`, the value's place.
    """
    try:
        return _reader(kind)(value)
    except _WrongError as error:
        raise SchemaError(f"{where}{''.join(reversed(error.steps))}: {error}") from error.__cause__


@cache
def _reader(kind: Any) -> Reader:
    """What reads a kind; made once, since a folder holds millions of values."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if kind is str:
        return _read_text
    if kind is float:
        return _read_float
    if kind in _KIND_NAMES:
        return partial(_instance, kind)
    if origin is UnionType:
        return partial(_read_optional, _reader(inner[0]))
    if origin is tuple and inner[-1] is Ellipsis:
        return partial(_read_list, _reader(inner[0]))
    if origin is tuple:
        return partial(_read_tuple, tuple(map(_reader, inner)))
    if origin is Mapping:
        return partial(_read_mapping, _reader(inner[1]))
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return partial(_read_record, kind, {name: _reader(of) for name, of in kinds(kind).items()}, required)


def _read_text(value: Any) -> str:
    text: str = _instance(str, value)
    if not text.isascii() and _SURROGATE.search(text):
        raise _WrongError(f"found {reprlib.repr(text)}, expected text that UTF-8 can hold")
    return text


def _read_float(value: Any) -> float:
    if type(value) is int and abs(value) < 1 << 53:
        return float(value)
    number: float = _instance(float, value)
    if not math.isfinite(number):
        raise _WrongError(f"found {number}, expected a finite number")
    return number


def _read_optional(read: Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _read_list(read: Reader, value: Any) -> tuple[Any, ...]:
    found: list[Any] = []
    try:
        for item in _instance(list, value):
            found.append(read(item))
    except _WrongError as error:
        if type(value) is list:
            error.steps.append(f"[{len(found)}]")
        raise
    return tuple(found)


def _read_tuple(readers: tuple[Reader, ...], value: Any) -> tuple[Any, ...]:
    items = _instance(list, value)
    if len(items) != len(readers):
        raise _WrongError(f"found {len(items)} values, expected {len(readers)}")
    found: list[Any] = []
    try:
        for read, item in zip(readers, items, strict=True):
            found.append(read(item))
    except _WrongError as error:
        error.steps.append(f"[{len(found)}]")
        raise
    return tuple(found)


def _read_mapping(read: Reader, value: Any) -> dict[str, Any]:
    found = {}
    for key, item in _instance(dict, value).items():
        _read_text(key)
        try:
            found[key] = read(item)
        except _WrongError as error:
            error.steps.append(f".{key[:80]}")
            raise
    return found


def _read_record(record: Any, readers: Mapping[str, Reader], required: Set[str], value: Any) -> Any:
    items = _instance(dict, value)
    if not required <= items.keys() <= readers.keys():
        missing, unknown = required - items.keys(), items.keys() - readers.keys()
        wrong = f"no {reprlib.repr(sorted(missing))}" if missing else reprlib.repr(sorted(unknown))
        raise _WrongError(f"found {wrong}, expected {', '.join(readers)}")
    found = {}
    for name, item in items.items():
        try:
            found[name] = readers[name](item)
        except _WrongError as error:
            error.steps.append(f".{name}")
            raise
    try:
        return record(**found)
    except ValueError as error:
        raise _WrongError(str(error)) from error


def _instance(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise _WrongError(f"found {reprlib.repr(value)}, expected {_KIND_NAMES[kind]}")
    return value


@cache
def kinds(record: type) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    return get_type_hints(record)
