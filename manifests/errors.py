"""The base class of errors that a user can fix; any other exception is a bug."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.text import escape_unprintable


class UserError(ValueError):
    """One line: where, what was found, what was expected, what to do.

    It may quote an untrusted file, so unprintable characters are escaped.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(escape_unprintable(message))
        self.details = tuple(map(escape_unprintable, details))
        """Lines that belong before the message: every problem of a file, where the message sums them up."""
