"""Text for people: counts, long lists, and names that come from files."""

from __future__ import annotations


def pluralize(count: int, what: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def escape_unprintable(text: str) -> str:
    """Text from a stranger, in one line that does nothing to whatever shows it but be read."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
