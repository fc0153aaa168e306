"""How far long work has come: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from functools import cache
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

#: Seconds between plain lines.
EVERY_SECONDS = 15.0


def log_line(line: str) -> None:
    """A line on stderr, above a bar that is there."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


@cache
def log_line_once(line: str) -> None:
    """A line on stderr that a process says the first time only."""
    log_line(line)


class ProgressBar:
    """Counts steps towards a total, and what became of them. Use as a context manager.

    A total of 0 means that it is told later, by `reach`; work that never tells one says nothing. A unit of `B` is
    bytes, shown as MB.
    """

    def __init__(self, total: int, what: str, unit: str = "clip", stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total, self._what, self._unit = total, what, unit
        self._counts: Counter[str] = Counter()
        self._done, self._started, self._spoke = 0, time.monotonic(), time.monotonic()
        self._bar = self._new_bar() if total else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._total:
            self._say(last=True)

    def step(self, outcome: str | None = None, by: int = 1) -> None:
        """One step done, of `by` units; `outcome` is counted and shown."""
        self._done += by
        if outcome is not None:
            self._counts[outcome] += 1
        if self._bar is not None:
            self._bar.set_postfix(dict(sorted(self._counts.items())), refresh=False)
            self._bar.update(by)
        elif time.monotonic() - self._spoke > EVERY_SECONDS:
            self._say()

    def reach(self, done: int, total: int) -> None:
        """Set both counts, for work that tells its own."""
        self._total = total
        if self._bar is None:
            self._bar = self._new_bar()
        if self._bar is not None:
            self._bar.total = total
        for _ in range(done - self._done):
            self.step()

    def _new_bar(self) -> Any:
        if not self._stream.isatty():
            return None
        scale = self._unit == "B"
        return tqdm(total=self._total, desc=self._what, unit=self._unit, unit_scale=scale, file=self._stream)

    def _say(self, *, last: bool = False) -> None:
        self._spoke = time.monotonic()
        rate = self._done / max(self._spoke - self._started, 1e-9)
        counts = "".join(f", {name} {count}" for name, count in sorted(self._counts.items()))
        going_on = 0 < self._done < self._total and not last
        left = f", {_duration((self._total - self._done) / rate)} left" if going_on else ""
        told = f"{self._done}/{self._total}{counts} ({rate:.1f} a second{left})"
        if self._unit == "B":
            told = f"{self._done / 1e6:.1f}/{self._total / 1e6:.1f} MB{counts} ({rate / 1e6:.1f} MB a second{left})"
        self._stream.write(f"{self._what}: {told}\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
