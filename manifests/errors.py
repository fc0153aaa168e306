"""The base of every error that a user can mend; any other exception is a fault of the program."""

from __future__ import annotations

from manifests.text import escape_unprintable


class UserError(ValueError):
    """One line: where, what was found, what was expected, what to do.

    It may quote a file that comes from somebody else, so unprintable characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escape_unprintable(message))
