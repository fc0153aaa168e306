"""Errors that a user can act on."""

from __future__ import annotations

from manifests.text import escape_unprintable


class UserError(ValueError):
    """Its message may quote what a stranger wrote, and is shown on a terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(escape_unprintable(message))
