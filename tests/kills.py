"""Work that is killed at moments that chance chooses."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from random import Random

KILLS = 200


def forked(work: Callable[[], object]) -> Callable[[], BaseProcess]:
    """What makes a process of work, with all that is in memory here."""
    return lambda: get_context("fork").Process(target=work)


def killed_at_random(
    make: Callable[[], BaseProcess], on_kill: Callable[[], object], on_end: Callable[[], object], kills: int = KILLS
) -> int:
    """Start a process and kill it, again and again; how often it came to its end between so many kills.

    `on_kill` looks at what is there; `on_end` does too, and makes room for a new beginning.
    """
    source, ends, begun = Random(0), 1, time.monotonic()
    assert not _killed(make(), None)
    longest_seconds = time.monotonic() - begun
    on_end()
    while kills:
        if _killed(make(), source.uniform(0, longest_seconds)):
            kills -= 1
            on_kill()
        else:
            ends += 1
            on_end()
    return ends


def _killed(process: BaseProcess, seconds: float | None) -> bool:
    """Run a process that gets SIGKILL after so many seconds; False if it had ended by then."""
    process.start()
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    process.join()
    status = process.exitcode
    process.close()
    assert status in (0, -signal.SIGKILL), "it failed"
    return status != 0
