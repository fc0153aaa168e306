"""Command line for folders of shards: python -m manifests {verify,share,fetch,withdraw} FOLDER ..."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.console import exit_on_interrupt, fail, run_command, run_program
from manifests.errors import describe_missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    try:
        with exit_on_interrupt():
            from manifests.cli import make_parser
    except ModuleNotFoundError as error:
        return fail(describe_missing(error))
    return run_command(make_parser(), arguments)


if __name__ == "__main__":
    run_program(main)
