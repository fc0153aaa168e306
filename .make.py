"""Starts a command of the Makefile with its settings, which it takes from the environment: no shell reads them.

    python .make.py builder plan --data=DATA --all:ALL OUT ARGS

The words after the module are passed on, except for those that name a setting; one that is empty is left out.

    --data=DATA   an option with the value of a setting
    --all:ALL     an option without a value
    OUT           an argument
    ARGS          options and arguments
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

#: Settings with several values, separated by spaces and quoted as for a shell: `CLIP="'a b.mp4' c.mp4"`.
WORDS = frozenset({"ARGS", "CLIP", "FOLD", "OPTION", "SPEAKER", "SPLIT", "STRATEGY"})
#: Of these, options that are repeated for each value.
REPEATED = frozenset({"OPTION"})
_SETTING = re.compile(r"(?P<option>--[a-z-]+)?(?P<kind>[=:]|)(?P<name>[A-Z][A-Z_]*)")


def expand(template: Sequence[str]) -> list[str]:
    """The arguments of a command. Raises ValueError for a setting whose quotes are not closed."""
    arguments: list[str] = []
    for word in template:
        found = _SETTING.fullmatch(word)
        values = read_values(found["name"]) if found else []
        if not found:
            arguments.append(word)
        elif found["kind"] == ":":
            arguments += [found["option"]] if values else []
        elif found["option"] is None:
            arguments += [f"./{value}" if value.startswith("-") and word != "ARGS" else value for value in values]
        elif found["name"] in WORDS - REPEATED:
            arguments += [found["option"], *values] if values else []
        else:
            arguments += [f"{found['option']}={value}" for value in values]
    return arguments


def read_values(name: str) -> list[str]:
    """Values of a setting, none if it is empty. Raises ValueError for quotes that are not closed."""
    text = os.environ.get(name, "")
    if name not in WORDS or (name == "CLIP" and Path(text).is_file()):  # a file's name may have spaces and quotes
        return [text] if text else []
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name}: found {text!r}, expected values separated by spaces, each quote closed") from error


if __name__ == "__main__":
    module, *words = sys.argv[1:]
    try:
        command = [sys.executable, "-m", module, *expand(words)]
    except ValueError as problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
    os.execv(command[0], command)  # noqa: S606 - no shell
