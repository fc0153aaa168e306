"""Starts a command of the Makefile with its settings, which it takes from the environment: no shell reads them.

    python .make.py builder plan --data=DATA --all:ALL OUT ARGS

The words after the module are passed on, except for those that name a setting; one that is empty is left out.

    --data=DATA   an option with the value of a setting
    --all:ALL     an option without a value
    OUT           an argument
    ARGS          options and arguments

Settings that were given to make, listed in GIVEN, but that the command does not name are refused. Before anything is
set up, `--nearest NAME --of SETTINGS` explains an unknown setting, and `--list TARGET` lists what a target takes.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

#: Settings with several values, separated by spaces and quoted as for a shell: `CLIP="'a b.mp4' c.mp4"`.
WORDS = frozenset({"ARGS", "CLIP", "COLUMNS", "FOLD", "LOGGER", "OPTION", "SPEAKER", "SPLIT", "STRATEGY"})
#: Of these, options that are repeated for each value.
REPEATED = frozenset({"COLUMNS", "OPTION"})
#: Used by make itself.
OF_MAKE = frozenset({"PYTHON"})
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
    if name not in WORDS or (name == "CLIP" and Path(text).exists()):  # its name may have spaces and quotes
        return [text] if text else []
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name}: found {text!r}, expected values separated by spaces, each quote closed") from error


def settings_of(template: Sequence[str]) -> dict[str, str]:
    """Setting -> option of the command, or "" for an argument, in the order of the template."""
    found = filter(None, map(_SETTING.fullmatch, template))
    return {setting["name"].removeprefix("GIVEN_"): setting["option"] or "" for setting in found}


def check_used(target: str, given: Sequence[str], template: Sequence[str]) -> None:
    """Raise ValueError for a setting that the command would not read."""
    known = settings_of(template)
    for name in given:
        if name not in known and name not in OF_MAKE:
            raise ValueError(f"make {target}: {explain_unknown(name, known)}; make help TARGET={target} lists them")


def explain_unknown(name: str, known: Sequence[str]) -> str:
    """What is wrong with a setting, and the one that may have been meant."""
    nearest = difflib.get_close_matches(name, known, 1)
    return f"{name} is not a setting here{f', the nearest is {nearest[0]}' if nearest else ''}"


def template_of(target: str, makefile: str) -> list[str]:
    """Words of the command of a target, its variables put in; [] if it starts none of the project's commands."""
    variables = dict(re.findall(r"^([A-Z]+) *:?= *((?:.*\\\n)*.*)$", makefile, re.MULTILINE))
    recipe = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    words = recipe[1].partition("$(START)")[2] if recipe else ""
    for _ in range(3):
        words = re.sub(r"\$\(([A-Z]+)\)", lambda found: variables.get(found[1], ""), words)
    return re.sub(r"\$\(if|[$(),\\]", " ", words).split()


def main(arguments: Sequence[str]) -> int:
    """Start a command, which takes the place of this process, or explain settings; the exit status."""
    first, *words = arguments
    if first == "--nearest":
        sys.stdout.write(explain_unknown(words[0][:80], words[words.index("--of") + 1 :]))
    elif first == "--list":
        found = settings_of(template_of(words[0], Path("Makefile").read_text("utf-8")))
        lines = [f"{name:<24}{option or 'an argument'}" for name, option in sorted(found.items()) if name != "ARGS"]
        if "ARGS" in found:
            lines.append("ARGS=--help             explains these options, and lists further ones for ARGS=")
        sys.stdout.write("\n".join(lines or [f"make {words[0]} takes no settings"]) + "\n")
    else:
        check_used(os.environ.get("GOAL", ""), os.environ.get("GIVEN", "").split(), words)
        command = [sys.executable, "-m", first, *expand(words)]
        os.execv(command[0], command)  # noqa: S606 - no shell
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
