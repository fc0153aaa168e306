"""Text for messages: counts, long lists, and untrusted names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

#: Characters of a value that a message shows, such as of a hash or of a path.
_LONGEST_VALUE = 200


def pluralize(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def escape_unprintable(text: str) -> str:
    """Escape control characters, line breaks and other unprintable characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape_lines(text: str) -> str:
    """Text for a terminal: like `escape_unprintable`, but line breaks are kept."""
    return "\n".join(map(escape_unprintable, text.split("\n")))


def one_line(text: str) -> str:
    """Text from a file, on one line and safe to show on a terminal or in Markdown source."""
    return escape_unprintable(" ".join(text.split()))


def shorten_list(names: Iterable[str], most: int = 5) -> str:
    """`a, b, c and 4 more`: the first names of a long list."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def config_diff(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Differences between two nested configurations, one per line: `config.align: frame -> clip`.

    Values are compared as JSON; of two lists only the items that differ are named, and of a long value its hash.
    """
    lines: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += config_diff(old, new, f"{prefix}{key}.")
        elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            lines.append(f"{prefix}{key}: {_describe_change(old, new)}")
    return lines


def _describe_change(old: Any, new: Any) -> str:
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) + len(new) > 6:
        removed, added = ([str(item) for item in a if item not in b] for a, b in ((old, new), (new, old)))
        if removed or added:
            removed, added = ([*map(_shorten_value, items)] for items in (removed, added))
            return ", ".join([*(f"{item} removed" for item in removed), *(f"{item} added" for item in added)])
    return f"{_shorten_value(old)} -> {_shorten_value(new)}"


def _shorten_value(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
