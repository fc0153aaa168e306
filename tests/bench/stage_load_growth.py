"""Time from opening a folder to the first batch for growing numbers of shards, and the loader's memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench.figures import Figure, run_stage
from tests.bench.processes import run_measured
from tests.factories.many_shards import make_shards

EPOCH = "tests.bench.epoch"
#: Timed steps, in order. The first two happen once per run; the last also hashes the shards of the first batch.
STEPS = ("open folder", "load clips", "start of an epoch")


def measure(shards: int, clips: int, each: int, rounds: int) -> list[Figure]:
    """Start with 1 %, 10 % and all of `shards` shards of `each` clips; read a quarter of `clips` clips, and all."""
    figures: list[Figure] = []
    for count in (shards // 100, shards // 10, shards):
        figures += _measure_start(count, each, rounds)
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), shards=clips // each, clips_each=each)
        for count in (clips // 4, clips):
            peak = run_measured(["-m", EPOCH, folder, "--clips", str(count)]).peak_mb
            figures.append(Figure(name="loader's process, peak", value=peak, unit="MB", at=count, of="clips"))
    return figures


def _measure_start(shards: int, each: int, rounds: int) -> list[Figure]:
    """Seconds of each step, with a new process for each round."""
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), shards=shards, clips_each=each)
        timings = [json.loads(run_measured(["-m", EPOCH, folder]).output) for _ in range(rounds)]
    return [_figure(step, shards, [timing[step] for timing in timings]) for step in STEPS]


def _figure(step: str, shards: int, seconds: Sequence[float]) -> Figure:
    most = 1.0 if step == STEPS[-1] else None
    return Figure(name=step, value=median(seconds), unit="s", at=shards, of="shards", most=most)


if __name__ == "__main__":
    run_stage(measure, __doc__, shards=1000, clips=10_000, each=50, rounds=3)
