"""CPU time and peak memory of a process and its children. Linux."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Interval of polling. The kernel keeps the peak itself, so only growth after the last poll is missed.
_POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Resources that a process used from start to end."""

    cpu_seconds: float
    """Of the process and of every child that it waited for."""
    peak_mb: float
    """Peak resident memory of the process."""
    child_peak_mb: float
    """Highest peak resident memory of a single child."""
    output: str
    """Its standard output."""


def run_measured(arguments: Sequence[str | Path]) -> Usage:
    """Run this Python with `arguments` to its end. Raises CalledProcessError, after copying its stderr, if it fails."""
    command = [sys.executable, *map(str, arguments)]
    before, peak = _children_cpu_seconds(), 0.0
    children: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=output, stderr=errors) as process:
            while process.poll() is None:
                peak = max(peak, peak_mb(process.pid))
                for child in _children(process.pid):
                    # A child seen for the first time may not have called exec yet and still share its parent's memory.
                    children[child] = max(children[child], peak_mb(child)) if child in children else 0.0
                time.sleep(_POLL_SECONDS)
        for stream in (errors, output):
            stream.seek(0)
        if process.returncode:
            sys.stderr.write(errors.read())
            raise subprocess.CalledProcessError(process.returncode, command)
        spent = _children_cpu_seconds() - before
        return Usage(
            cpu_seconds=spent, peak_mb=peak, child_peak_mb=max(children.values(), default=0.0), output=output.read()
        )


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_mb(pid: int) -> float:
    """Peak resident memory so far; 0 for a process that has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 / 1e6 if found else 0.0
    return 0.0


def _children(pid: int) -> Iterator[int]:
    for threads_children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, threads_children.read_text().split())
