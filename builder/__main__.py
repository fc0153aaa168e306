"""Command line of the builder: python -m builder {shards,plan,report,corpus,features}."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

#: Commands that need no backend for recordings, so that they work where one cannot be loaded.
LIGHT = ("corpus", "features")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status, or 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    before = signal.signal(signal.SIGINT, _leave)
    try:
        # Loads every backend for all but the light commands: takes a second, and may fail.
        cli = importlib.import_module("builder.light" if given[:1] and given[0] in LIGHT else "builder.cli")
    except ImportError as error:
        return _failed(_what_lacks(error), 2)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return int(cli.run(given))
    except ModuleNotFoundError as error:  # some commands load what they need when they are run
        return _failed(_what_lacks(error), 2)
    except KeyboardInterrupt:
        return _failed("stopped; the same command goes on where this one was", 130)


def _what_lacks(error: ImportError) -> str:
    """What to do about a package that is not installed, or is and cannot be loaded."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return f"{error}; run make doctor"
    package = error.name.partition(".")[0]
    return f"{package} is not installed; pip install '.[builder]', then pip install --no-deps mediapipe"


def _leave(*_: object) -> NoReturn:
    """Ctrl-C while native modules load: most would make some other error of an exception."""
    _failed("stopped before anything was begun", 130)
    sys.stderr.flush()
    os._exit(130)


def _failed(message: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
