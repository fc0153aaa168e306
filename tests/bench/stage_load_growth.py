"""From a folder of more and more shards to the first batch, and the loader's memory over more and more clips."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench.figures import Figure, run_stage
from tests.bench.processes import watch
from tests.factories.many_shards import make_shards

EPOCH = Path(__file__).parent / "epoch.py"
#: What is timed, in order. The first two happen once a training; the last hashes the shards of the first batch, too.
STEPS = ("open folder", "load clips", "start of an epoch")


def measure(shards: int, clips: int, each: int, rounds: int) -> list[Figure]:
    """1 %, 10 % and all of `shards`, of `each` clips; epochs of a quarter of `clips` clips, and of all."""
    figures: list[Figure] = []
    for count in (shards // 100, shards // 10, shards):
        figures += _starts(count, each, rounds)
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), shards=clips // each, clips_each=each)
        for count in (clips // 4, clips):
            peak = watch([EPOCH, folder, "--clips", str(count)]).peak_mb
            figures.append(Figure(name="loader's process, peak", value=peak, unit="MB", at=count, of="clips"))
    return figures


def _starts(shards: int, each: int, rounds: int) -> list[Figure]:
    """Seconds of each step, each round in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), shards=shards, clips_each=each)
        told = [json.loads(watch([EPOCH, folder]).output) for _ in range(rounds)]
    return [_figure(step, shards, [run[step] for run in told]) for step in STEPS]


def _figure(step: str, shards: int, seconds: Sequence[float]) -> Figure:
    most = 1.0 if step == STEPS[-1] else None
    return Figure(name=step, value=median(seconds), unit="s", at=shards, of="shards", most=most)


if __name__ == "__main__":
    run_stage(measure, __doc__, shards=1000, clips=10_000, each=50, rounds=3)
