"""Untrusted JSON -> frozen dataclasses: every key and type is checked against the annotations."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache, partial
from itertools import repeat
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from manifests.errors import UserError

_KIND_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
#: Counts, sizes and offsets fit into 53 bits: their sums and ratios are finite, and every JSON reader is exact.
_MOST = 1 << 53
_SURROGATE = re.compile("[\ud800-\udfff]")


class SchemaError(UserError):
    """A sample, a member or a JSON value is invalid; the message names it, what was found and expected."""


def from_json(kind: Any, value: object, where: str) -> Any:
    """Convert a JSON value to `kind`: str, int, float, bool, Any, or `X | None`, tuple, Mapping or dataclass of these.

    Only lists are converted to tuples, and integers to float; numbers must be finite. Raises SchemaError
    that begins with `where`, the file or location of the value, and names the path within it.
    """
    try:
        return _reader(kind)(value)
    except ValidationError as error:
        raise SchemaError(f"{where}{error.place}: {error}") from error.__cause__


@cache
def field_types(record: type) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    return get_type_hints(record)


#: Converts a JSON value to some kind, or raises ValidationError.
_Reader = Callable[[Any], Any]


class ValidationError(Exception):
    """An invalid value; `place` is its path, which is built from the inside outwards."""

    place = ""


# An index has millions of values, and most of them are valid: the reader of a kind is composed once, and the path
# of a value is computed only if it is invalid.


@cache
def _reader(kind: Any) -> _Reader:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if origin is UnionType:
        reader = _reader(inner[0])
        return lambda value: None if value is None else reader(value)
    if origin is tuple and inner[-1] is Ellipsis:
        readers = repeat(_reader(inner[0]))
        return lambda value: _read_items(readers, _instance(list, value))
    if origin is tuple:
        return _tuple_reader(tuple(map(_reader, inner)))
    if origin is Mapping:
        return _mapping_reader(_reader(inner[1]))
    return _record_reader(kind)


def _tuple_reader(readers: tuple[_Reader, ...]) -> _Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if len(_instance(list, value)) != len(readers):
            raise ValidationError(f"found {len(value)} values, expected {len(readers)}")
        return _read_items(readers, value)

    return read


def _mapping_reader(reader: _Reader) -> _Reader:
    def read(value: Any) -> dict[str, Any]:
        for key in _instance(dict, value):
            _read_str(key)
        return _read_values(repeat(reader), value)

    return read


def _record_reader(record: Any) -> _Reader:
    readers = {name: _reader(kind) for name, kind in field_types(record).items()}
    required = {f.name for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}

    def read(value: Any) -> Any:
        names = _instance(dict, value).keys()
        if not required <= names <= readers.keys():
            missing = sorted(required - names)
            wrong = f"no {reprlib.repr(missing)}" if missing else reprlib.repr(sorted(names - readers.keys()))
            raise ValidationError(f"found {wrong}, expected {', '.join(readers)}")
        found = _read_values(map(readers.__getitem__, names), value)
        try:
            return record(**found)
        except ValueError as error:
            raise ValidationError(str(error)) from error

    return read


def _read_items(readers: Iterable[_Reader], items: list[Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    try:
        for reader, item in zip(readers, items, strict=False):
            found.append(reader(item))
    except ValidationError as error:
        error.place = f"[{len(found)}]{error.place}"
        raise
    return tuple(found)


def _read_values(readers: Iterable[_Reader], items: dict[str, Any]) -> dict[str, Any]:
    found, key = {}, ""
    try:
        for reader, (key, item) in zip(readers, items.items(), strict=False):
            found[key] = reader(item)
    except ValidationError as error:
        error.place = f".{key[:80]}{error.place}"
        raise
    return found


def _read_str(value: Any) -> str:
    text: str = _instance(str, value)
    if not text.isascii() and _SURROGATE.search(text):
        raise ValidationError(f"found {reprlib.repr(text)}, expected text that UTF-8 can hold")
    return text


def _read_int(value: Any) -> int:
    number: int = _instance(int, value)
    if abs(number) > _MOST:
        raise ValidationError(f"found {reprlib.repr(number)}, expected at most {_MOST}")
    return number


def _read_float(value: Any) -> float:
    if type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if not math.isfinite(_instance(float, value)):
        raise ValidationError(f"found {value}, expected a finite number")
    return float(value)


def _instance(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValidationError(f"found {reprlib.repr(value)}, expected {_KIND_NAMES[kind]}")
    return value


_SCALARS: Mapping[Any, _Reader] = {
    Any: lambda value: value,
    str: _read_str,
    int: _read_int,
    float: _read_float,
    bool: partial(_instance, bool),
}
