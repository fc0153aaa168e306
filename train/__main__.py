"""Command line of the trainer: python -m train [train|sweep|report|predict|export]."""

from __future__ import annotations

import os
import signal

from manifests.console import INTERRUPTED, run_program

if __name__ == "__main__":
    # Ctrl-C while torch is imported, which turns it into other errors, ends the process: nothing is begun yet.
    default = signal.getsignal(signal.SIGINT)
    if default is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from train.cli import run

    signal.signal(signal.SIGINT, default)
    run_program(run)
