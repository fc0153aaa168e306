"""Speed-up of two workers of a Dask cluster over one, in wall-clock time: a busy machine lowers it.

Each measurement is a whole build by the command line; the time of a smaller build is subtracted, so that start-up does
not count. The two settings alternate, and the best round of each counts.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from builder.datasets import scan_corpus
from tests.bench.figures import Figure, run_stage
from tests.bench.processes import run_measured
from tests.bench.stage_build_growth import RECORDINGS, write_corpus

WORKERS = (1, 2)


def measure(data: Path, clips: int, rounds: int) -> list[Figure]:
    """Build half of `clips` clips and all of them from the demo corpus in `data`, with one worker and with two."""
    recordings = [source.video for source in scan_corpus("demo", data.absolute()).sources[:RECORDINGS]]
    seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(rounds):
        for workers, spent in seconds.items():
            small, large = (_build_seconds(recordings, count, workers) for count in (clips // 2, clips))
            spent.append((large - small) / (clips - clips // 2))
    one, two = (min(spent) for spent in seconds.values())
    return [
        Figure(name="one Dask worker", value=1000 * one, unit="ms a clip"),
        Figure(name="two Dask workers", value=1000 * two, unit="ms a clip"),
        Figure(name="efficiency of two", value=one / two / 2, unit="", least=0.85),
    ]


def _build_seconds(recordings: list[Path], clips: int, workers: int) -> float:
    """Wall-clock seconds of a build."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "shards")
        write_corpus(data, recordings, clips, clips_a_speaker=len(recordings))
        where = ["--dataset", "folder", "--data", str(data), "--out", str(out)]
        start = time.perf_counter()
        run_measured(["-m", "builder", "shards", *where, "--engine", "dask", "--workers", str(workers)])
        return time.perf_counter() - start


if __name__ == "__main__":
    run_stage(measure, __doc__, data=Path("data/demo"), clips=128, rounds=2)
