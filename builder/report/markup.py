"""HTML in which every text is escaped unless it was made here: names in a shard folder may come from a stranger."""

from __future__ import annotations

import html
from collections.abc import Iterable

#: Elements without content, of HTML and of SVG.
_EMPTY = frozenset({"meta", "br", "rect", "line", "circle", "path", "image", "use"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Markup as it is; anything else as text."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(parts: Iterable[object], separator: str = "") -> Markup:
    """Parts side by side, each escaped unless it is markup."""
    return Markup(escaped(separator).join(escaped(part) for part in parts))


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """`<tag attributes>children</tag>`.

    `class_` gives the attribute class, `stroke_width` gives stroke-width; an attribute that is None is left out.
    """
    written = joined(
        Markup(f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY:
        return Markup(f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")
