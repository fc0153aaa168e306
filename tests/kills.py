"""Kill processes at random moments."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from random import Random

import pytest

KILLS = 200

#: A test that kills at each call that changes the disk takes each `step`-th of them; `make test-slow` takes all.
KILL_STEPS = pytest.mark.parametrize(
    "step", [pytest.param(7, id="every 7th call"), pytest.param(1, id="every call", marks=pytest.mark.slow)]
)


def forked(work: Callable[[], object]) -> Callable[[], BaseProcess]:
    """A function that creates a forked process which runs `work`."""
    return lambda: get_context("fork").Process(target=work)


def killed_at_random(
    make: Callable[[], BaseProcess], on_kill: Callable[[], object], on_end: Callable[[], object], kills: int = KILLS
) -> int:
    """Start a process and kill it at a random moment until it was killed `kills` times; return how often it finished.

    `on_kill` checks the files that a killed process leaves; `on_end` checks those of a finished one and removes them.
    """
    source, ends, start = Random(0), 1, time.monotonic()
    assert not _killed(make(), None)
    longest_seconds = time.monotonic() - start
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
    """Run a process and send SIGKILL after `seconds`; False if it had finished by then."""
    process.start()
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    process.join()
    status = process.exitcode
    process.close()
    assert status in (0, -signal.SIGKILL), "the process failed"
    return status != 0
