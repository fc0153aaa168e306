"""Command line of the builder: python -m builder {shards,plan,report,corpus,features}."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.console import exit_on_interrupt, fail, run_command, run_program
from manifests.errors import describe_missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status, see `manifests.console`."""
    try:
        with exit_on_interrupt():
            from builder.cli import make_parser
        return run_command(make_parser(), arguments)
    except ImportError as error:  # commands import the backends that they need when they run
        return fail(describe_import_error(error))


def describe_import_error(error: ImportError) -> str:
    """Describe, in one line, how to fix a package that is not installed or cannot be imported."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return f"{error}; run make doctor"
    return f"{describe_missing(error, 'builder')}, then pip install --no-deps mediapipe"


if __name__ == "__main__":
    run_program(main)
