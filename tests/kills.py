"""Work that is killed at moments that chance chooses."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from random import Random

KILLS = 200


def killed_at_random(
    work: Callable[[], object], on_kill: Callable[[], object], on_end: Callable[[], object], kills: int = KILLS
) -> int:
    """Do work in a process that gets SIGKILL, again and again; how often it came to its end between so many kills.

    `on_kill` looks at what is there; `on_end` does too, and makes room for a new beginning.
    """
    source, ends, begun = Random(0), 1, time.monotonic()
    assert not _killed(work, None)
    longest_seconds = time.monotonic() - begun
    on_end()
    while kills:
        if _killed(work, source.uniform(0, longest_seconds)):
            kills -= 1
            on_kill()
        else:
            ends += 1
            on_end()
    return ends


def _killed(work: Callable[[], object], seconds: float | None) -> bool:
    """Work in a forked process that is killed after so many seconds; False if it had ended by then."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "it failed"
    return status != 0
