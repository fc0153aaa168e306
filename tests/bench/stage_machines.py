"""How much faster two workers of a Dask cluster build than one: by the clock, so that a busy machine measures less.

Each is a whole build by the command line; what counts is the time of the clips beyond those of a small build, so that
starting counts for nothing. The ways take turns, and the best round of each counts.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from builder.datasets import scan_corpus
from tests.bench.figures import Figure, run_stage
from tests.bench.processes import watch
from tests.bench.stage_build_growth import RECORDINGS, corpus

WORKERS = (1, 2)


def measure(data: Path, clips: int, rounds: int) -> list[Figure]:
    """Builds of half of `clips` and of all, of the demo corpus in `data`, by one worker and by two."""
    recordings = [source.video for source in scan_corpus("demo", data.absolute()).sources[:RECORDINGS]]
    seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(rounds):
        for workers, spent in seconds.items():
            small, large = (_built(recordings, count, workers) for count in (clips // 2, clips))
            spent.append((large - small) / (clips - clips // 2))
    one, two = (min(spent) for spent in seconds.values())
    return [
        Figure(name="one Dask worker", value=1000 * one, unit="ms a clip"),
        Figure(name="two Dask workers", value=1000 * two, unit="ms a clip"),
        Figure(name="efficiency of two", value=one / two / 2, unit="", least=0.85),
    ]


def _built(recordings: list[Path], clips: int, workers: int) -> float:
    """Seconds that a build takes."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "shards")
        corpus(data, recordings, clips, clips_a_speaker=len(recordings))
        where = ["--dataset", "folder", "--data", str(data), "--out", str(out)]
        begun = time.perf_counter()
        watch(["-m", "builder", "shards", *where, "--engine", "dask", "--workers", str(workers)])
        return time.perf_counter() - begun


if __name__ == "__main__":
    run_stage(measure, __doc__, data=Path("data/demo"), clips=128, rounds=2)
