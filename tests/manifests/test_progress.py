"""Plain lines where nobody watches, a bar where somebody does; the same counts on both."""

from __future__ import annotations

import io
import os
import pty
import re
from collections.abc import Iterator
from typing import TextIO

import pytest

from manifests import progress
from manifests.progress import EVERY_SECONDS, ProgressBar


class Clock:
    """Stands still unless moved."""

    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal:
    """A stream that is a terminal, and its watcher."""

    def __init__(self, stream: TextIO, watcher: int) -> None:
        self.stream, self._watcher = stream, watcher

    def shown(self) -> str:
        """Everything written so far; what comes last is a mark of the watcher's own."""
        self.stream.write("|END|")
        self.stream.flush()
        text = ""
        while not text.endswith("|END|"):
            text += os.read(self._watcher, 1 << 16).decode()
        return text.removesuffix("|END|")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    watcher, end = pty.openpty()
    with os.fdopen(end, "w") as stream:
        yield Terminal(stream, watcher)
    os.close(watcher)


def test_plain_lines_now_and_then_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressBar(60, "building demo", stream=stream) as progress:
        for i in range(60):
            clock.seconds += 2 * EVERY_SECONDS / 40
            progress.step("flagged" if i % 10 == 0 else "built")
    rate = 40 / (2 * EVERY_SECONDS)
    assert stream.getvalue().splitlines() == [
        f"building demo: 21/60, built 18, flagged 3 ({rate:.1f} a second, 29 s left)",
        f"building demo: 42/60, built 37, flagged 5 ({rate:.1f} a second, 14 s left)",
        f"building demo: 60/60, built 54, flagged 6 ({rate:.1f} a second)",
    ]


def test_plain_lines_say_how_long_it_will_take_without_the_start_up(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressBar(102, "building", stream=stream) as progress:
        for seconds in (600, 30):
            clock.seconds += seconds
            progress.step()
    assert stream.getvalue().splitlines()[:2] == [
        "building: 1/102 (0.0 a second)",
        "building: 2/102 (0.0 a second, 50 min left)",
    ]


def test_nothing_is_said_of_work_that_failed(clock: Clock) -> None:
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), ProgressBar(2, "building", stream=stream) as progress:
        progress.step(str(1 / 0))
    assert stream.getvalue() == ""


def test_nothing_is_said_where_there_was_nothing_to_do(terminal: Terminal) -> None:
    plain = io.StringIO()
    for each in (plain, terminal.stream):
        with ProgressBar(0, "generating the demo corpus", stream=each):
            pass
    assert (plain.getvalue(), terminal.shown()) == ("", "")


def test_work_that_tells_its_own_counts(clock: Clock) -> None:
    stream = io.StringIO()
    with ProgressBar(0, "making", stream=stream) as progress:
        progress.reach(3, 8)
        progress.reach(8, 8)
    assert stream.getvalue() == f"making: 8/8 ({8 / 1e-9:.1f} a second)\n"


def test_a_bar_on_a_terminal(terminal: Terminal) -> None:
    with ProgressBar(3, "building demo", stream=terminal.stream) as progress:
        for outcome in ("built", "dropped", "built"):
            progress.step(outcome)
    text = terminal.shown()
    assert re.search(r"building demo: +0%.* 0/3 ", text)
    assert re.search(r"building demo: 100%.* 3/3 .*built=2, dropped=1", text)
    assert text.endswith("\n")


def test_a_bar_that_learns_its_total(terminal: Terminal) -> None:
    with ProgressBar(0, "making", stream=terminal.stream) as progress:
        progress.reach(2, 5)
        progress.reach(5, 5)
    assert re.search(r"making: 100%.* 5/5 ", terminal.shown())


def test_a_bar_leaves_the_line_after_a_failure(terminal: Terminal) -> None:
    with pytest.raises(ZeroDivisionError), ProgressBar(3, "building", stream=terminal.stream) as progress:
        progress.step(str(1 / 0))
    assert terminal.shown().endswith("\n")
