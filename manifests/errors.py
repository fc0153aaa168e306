"""The base class of errors that a user can fix; any other exception is a bug. Commands that messages name."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from manifests.text import escape_unprintable


class UserError(ValueError):
    """One line: where, what was found, what was expected, what to do.

    It may quote an untrusted file, so unprintable characters are escaped.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(escape_unprintable(message))
        self.details = tuple(map(escape_unprintable, details))
        """Lines that belong before the message: every problem of a file, where the message sums them up."""


def install_command(extra: str = "") -> str:
    """The command that installs an extra, of the installed project or else of a checkout."""
    from importlib.metadata import PackageNotFoundError, distribution  # takes a while

    try:
        name = distribution("multimae-der").metadata["Name"]
    except PackageNotFoundError:
        name = "."
    return f"pip install '{name}[{extra}]'" if extra else f"pip install {name}"


def interpreter() -> str:
    """This process's Python as a word of a command: relative to the working directory if it is below it."""
    python = Path(sys.executable or "python")  # empty where it is embedded in another program
    with suppress(ValueError, OSError):
        return shlex.quote(str(python.relative_to(Path.cwd())))
    return shlex.quote(str(python))


def module_command(*words: str) -> str:
    """The command line that runs one of the packages: `.venv/bin/python -m manifests fetch ...`."""
    return f"{interpreter()} -m {shlex.join(words)}"


def describe_missing(error: ModuleNotFoundError, extra: str = "") -> str:
    """One line about a package that is not installed, and the extra that has it."""
    return f"{(error.name or str(error)).partition('.')[0]} is not installed; {install_command(extra)}"
