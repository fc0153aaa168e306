"""Command line of the trainer: python -m train [train|sweep|report|predict|export]."""

from __future__ import annotations

import sys

from train.cli import run

if __name__ == "__main__":
    sys.exit(run())
