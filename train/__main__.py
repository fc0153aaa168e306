"""Command line of the trainer: python -m train [train|sweep|report|predict|embeddings|export|recipes]."""

from __future__ import annotations

from manifests.console import exit_on_interrupt, run_program

if __name__ == "__main__":
    with exit_on_interrupt():
        from train.cli import run
    run_program(run)
