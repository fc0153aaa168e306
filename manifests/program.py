"""The console command `multimae-der`: every command of the three packages under one name.

    multimae-der build --dataset crema-d --data ...
    multimae-der train --strategy cfas --fold 3

It is what `python -m builder`, `python -m manifests` and `python -m train` are, except that files in the current
folder, such as a `train.py`, are not taken for the packages. A package is only imported for its own commands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from manifests.console import fail, run_program, say

#: Package -> its commands, and what they are called there where that differs.
COMMANDS: Mapping[str, Mapping[str, str]] = {
    "builder": {"build": "shards", "plan": "plan", "corpus": "corpus", "features": "features", "page": "report"},
    "manifests": {"verify": "verify", "share": "share", "fetch": "fetch", "folds": "folds", "withdraw": "withdraw"},
    "train": {
        "train": "train",
        "sweep": "sweep",
        "results": "report",
        "predict": "predict",
        "embeddings": "embeddings",
        "export": "export",
        "recipes": "recipes",
    },
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status, see `manifests.console`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        say("usage: multimae-der COMMAND ...; multimae-der COMMAND --help describes one")
        for package, names in COMMANDS.items():
            say(f"  {package:<10}{', '.join(names)}")
        return 0
    for package, names in COMMANDS.items():
        if words[0] in names:
            command: Callable[[Sequence[str]], int] = import_module(f"{package}.__main__").main
            return command([names[words[0]], *words[1:]])
    known = ", ".join(name for names in COMMANDS.values() for name in names)
    return fail(f"unknown command {words[0][:80]!r}; valid are {known}")


def main() -> None:
    """Entry point of the installed command."""
    run_program(run)
