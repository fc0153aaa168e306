"""Ctrl-C handling while native modules are imported, and in threads and workers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from manifests.console import INTERRUPTED


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Exit immediately on Ctrl-C: most native modules turn a KeyboardInterrupt during import into other errors.

    Use it around imports only, before anything is written.
    """

    def exit_process(*_: object) -> NoReturn:
        sys.stderr.write("interrupted before anything was started\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, exit_process)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def block_interrupts() -> None:
    """Leave Ctrl-C to the main thread. Processes started by this thread inherit the blocked signal from the start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
