"""CPU time per clip of the builder, of its floor, and of a naive pipeline of the same libraries, in alternation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean

from builder.datasets import scan_corpus
from builder.datasets.base import ClipSource
from tests.bench import bench_build, naive
from tests.bench.figures import Figure, run_stage


def measure(dataset: str, data: Path, clips: int, repeats: int) -> list[Figure]:
    """CPU milliseconds per clip: the mean over clips of each clip's best repeat."""
    scan = scan_corpus(dataset, data.absolute())
    with tempfile.TemporaryDirectory() as folder:

        def build_naively(source: ClipSource) -> object:
            return naive.build(source.video, source.sound, Path(folder))

        watches = bench_build.measure(scan.sources[:clips], data.absolute(), repeats, {"naive": build_naively})
    spent = {name: mean(watch.best[name] for watch in watches) for name in watches[0].best}
    floor = sum(value for name, value in spent.items() if name.startswith("floor"))
    return [
        *(Figure(name=name, value=value, unit="ms CPU a clip") for name, value in spent.items()),
        Figure(name="floor", value=floor, unit="ms CPU a clip"),
        Figure(name="build / floor", value=spent["build"] / floor, unit="", most=1.4),
        Figure(name="naive / build", value=spent["naive"] / spent["build"], unit="", least=1.0),
    ]


if __name__ == "__main__":
    run_stage(measure, __doc__, dataset="demo", data=Path("data/demo"), clips=4, repeats=5)
