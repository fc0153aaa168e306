"""Command line of the trainer: python -m train [train|sweep|report|predict|embeddings|export|recipes]."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.console import exit_on_interrupt, fail, run_program
from manifests.errors import describe_missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, see `manifests.console`."""
    try:
        with exit_on_interrupt():
            from train.cli import run
    except ModuleNotFoundError as error:
        return fail(describe_missing(error, "train"))
    return run(arguments)


if __name__ == "__main__":
    run_program(main)
