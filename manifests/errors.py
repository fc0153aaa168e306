"""The base class of errors that a user can fix; any other exception is a bug."""

from __future__ import annotations

from manifests.text import escape_unprintable


class UserError(ValueError):
    """One line: where, what was found, what was expected, what to do.

    It may quote an untrusted file, so unprintable characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escape_unprintable(message))
