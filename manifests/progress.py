"""Progress of long operations: a bar on a terminal, log lines otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from functools import cache
from typing import Any, Self, TextIO

from tqdm import tqdm

from manifests.console import OUTPUT_LOCK
from manifests.text import escape_lines

#: Seconds between plain lines.
EVERY_SECONDS = 15.0


def log_line(line: str, unless: threading.Event | None = None) -> None:
    """Print a line to stderr, above the progress bar if there is one; nothing once `unless` is set.

    A thread that stops when `unless` is set therefore prints nothing after the last line of an interrupted command.
    """
    with OUTPUT_LOCK:
        if unless is None or not unless.is_set():
            tqdm.write(escape_lines(line), file=sys.stderr)
            sys.stderr.flush()


@cache
def log_line_once(line: str) -> None:
    """Print a line to stderr, once per process."""
    log_line(line)


class ProgressBar:
    """Counts steps and their outcomes. Use as a context manager.

    With a total of 0, no progress is shown before `reach` sets one. The unit `B` is shown as MB.
    """

    def __init__(self, total: int, description: str, unit: str = "clip", stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total, self._description, self._unit = total, description, unit
        self._counts: Counter[str] = Counter()
        self._done, self._started, self._printed = 0, time.monotonic(), time.monotonic()
        self._first: tuple[int, float] | None = None  # steps done and time of the first step, which has the start-up
        self._bar = self._new_bar() if total else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._total:
            self._print_line(last=True)

    def step(self, outcome: str | None = None, by: int = 1) -> None:
        """Count one step of `by` units, and its `outcome`, which is shown."""
        self._done += by
        self._first = self._first or (self._done, time.monotonic())
        if outcome is not None:
            self._counts[outcome] += 1
        if self._bar is not None:
            self._bar.set_postfix(dict(sorted(self._counts.items())), refresh=False)
            self._bar.update(by)
        elif time.monotonic() - self._printed > EVERY_SECONDS:
            self._print_line()

    def reach(self, done: int, total: int) -> None:
        """Set both counts, for callers that count themselves."""
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
        unit, scaled = self._unit, self._unit == "B"
        return tqdm(total=self._total, desc=self._description, unit=unit, unit_scale=scaled, file=self._stream)

    def _print_line(self, *, last: bool = False) -> None:
        self._printed = time.monotonic()
        rate = self._done / max(self._printed - self._started, 1e-9)
        counts = "".join(f", {name} {count}" for name, count in sorted(self._counts.items()))
        left = ""
        done, since = self._first or (0, 0.0)
        if done < self._done < self._total and not last:
            seconds = (self._total - self._done) * (self._printed - since) / (self._done - done)
            left = f", {seconds:.0f} s left" if seconds < 120 else f", {seconds / 60:.0f} min left"
        line = f"{self._done}/{self._total}{counts} ({rate:.1f} a second{left})"
        if self._unit == "B":
            line = f"{self._done / 1e6:.1f}/{self._total / 1e6:.1f} MB{counts} ({rate / 1e6:.1f} MB a second{left})"
        self._stream.write(f"{self._description}: {line}\n")
        self._stream.flush()
