"""CPU time per clip of the builder, of its floor, and of a naive pipeline of the same libraries, in alternation."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from tests.bench import bench_build, naive  # bench_build first: it limits the threads of libraries imported later
from tests.bench.figures import Figure, run_stage

if TYPE_CHECKING:
    from builder.datasets.base import ClipSource


def measure(dataset: str, data: Path, clips: int, repeats: int) -> list[Figure]:
    """CPU milliseconds per clip: the mean over clips of each clip's best repeat."""
    from builder.datasets import scan_corpus

    scan = scan_corpus(dataset, data.absolute())
    with tempfile.TemporaryDirectory() as folder:

        def build_naively(source: ClipSource) -> object:
            return naive.build(source.video, source.sound, Path(folder))

        sequences = bench_build.measure_sequences(scan.sources[:clips], data.absolute(), repeats)
        watches = bench_build.measure(scan.sources[:clips], data.absolute(), repeats, {"naive": build_naively})
    spent, floor, inputs = _average(watches)
    all_frames, all_floor, all_inputs = _average(sequences)
    return [
        *(Figure(name=name, value=value, unit="ms CPU a clip") for name, value in spent.items()),
        Figure(name="floor", value=floor, unit="ms CPU a clip"),
        Figure(name="build / floor", value=spent["build"] / floor, unit=""),
        Figure(name="build / floor with inputs", value=spent["build"] / (floor + inputs), unit="", most=1.4),
        Figure(name="naive / build", value=spent["naive"] / spent["build"], unit="", least=1.0),
        *(Figure(name=f"sequences, {name}", value=value, unit="ms CPU a clip") for name, value in all_frames.items()),
        Figure(name="sequences, floor", value=all_floor, unit="ms CPU a clip"),
        Figure(name="sequences, build / floor", value=all_frames["build"] / all_floor, unit=""),
        Figure(
            name="sequences, build / floor with inputs",
            value=all_frames["build"] / (all_floor + all_inputs),
            unit="",
            most=1.3,
        ),
    ]


def _average(watches: Sequence[bench_build.Stopwatch]) -> tuple[dict[str, float], float, float]:
    """The mean time of each step over all clips, of the floor, and of its inputs."""
    spent = {name: mean(watch.best[name] for watch in watches) for name in watches[0].best}
    floor, inputs = (sum(spent[name] for name in spent if name.startswith(part)) for part in ("floor", "inputs"))
    return spent, floor, inputs


if __name__ == "__main__":
    run_stage(measure, __doc__, dataset="demo", data=Path("data/demo"), clips=4, repeats=5)
