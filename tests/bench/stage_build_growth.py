"""Builds of more and more clips, by one worker and by two: CPU a clip, memory of worker and parent.

Each is a whole build by the command line. CPU a clip is what the clips beyond those of the smallest build took, so
that starting counts for nothing. Ten thousand clips go through the parent with a stand-in for the face models.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import cycle, islice
from pathlib import Path

from builder.datasets import scan_corpus
from manifests.index import load_dataset
from tests.bench.figures import Figure, run_stage
from tests.bench.processes import Usage, watch

STAND_IN = ("-m", "tests.fakes.build_command")
SMALLEST, CLIPS_A_SPEAKER, RECORDINGS = 4, 80, 8
#: A stand-in's order for a sample of 16 kB.
ORDER = b"big 100"


def measure(data: Path, clips: int, synthetic: int) -> list[Figure]:
    """Builds of up to `clips` of the demo corpus in `data`, and of `synthetic` stand-ins."""
    recordings = [source.video for source in scan_corpus("demo", data.absolute()).sources[:RECORDINGS]]
    figures = []
    for workers in (1, 2):
        start = _built(["-m", "builder"], recordings, SMALLEST, workers)
        for count in (clips // 3, clips):
            figures += _figures(_built(["-m", "builder"], recordings, count, workers), start, count, workers)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as recording:
        recording.write(ORDER)
        recording.flush()
        for count in (synthetic // 4, synthetic):
            parent = _built([*STAND_IN], [Path(recording.name)], count, workers=1).peak_mb
            figures.append(Figure(name="build's parent alone, peak", value=parent, unit="MB", at=count, of="clips"))
    return figures


def _figures(usage: Usage, start: Usage, clips: int, workers: int) -> list[Figure]:
    spent = (usage.cpu_seconds - start.cpu_seconds) / (clips - SMALLEST)
    who = f"{workers} worker{'s' if workers > 1 else ''}"
    return [
        Figure(name=f"build by {who}", value=1000 * spent, unit="ms CPU a clip", at=clips, of="clips"),
        Figure(name=f"worker's peak, {who}", value=usage.child_peak_mb, unit="MB", at=clips, of="clips"),
        Figure(name=f"parent's peak, {who}", value=usage.peak_mb, unit="MB", at=clips, of="clips"),
    ]


def _built(program: list[str], recordings: list[Path], clips: int, workers: int) -> Usage:
    """Build a corpus of these recordings, again and again under other names."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "shards")
        corpus(data, recordings, clips)
        where = ["--dataset", "folder", "--data", str(data), "--out", str(out)]
        usage = watch([*program, "shards", *where, "--workers", str(workers)])
        found = sum(shard.samples for shard in load_dataset(out).shards)
        assert found == clips, f"found {found} clips built, expected {clips}"
        return usage


def corpus(root: Path, recordings: list[Path], clips: int, clips_a_speaker: int = CLIPS_A_SPEAKER) -> None:
    """A `folder` corpus of so many clips, which are these recordings again and again."""
    root.mkdir()
    lines = ["clip,speaker,emotion"]
    for i, recording in enumerate(islice(cycle(recordings), clips)):
        name = f"{i:06d}{recording.suffix}"
        shutil.copyfile(recording, root / name)
        lines.append(f"{name},S{i // clips_a_speaker:04d},{('joy', 'fear')[i % 2]}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    run_stage(measure, __doc__, data=Path("data/demo"), clips=240, synthetic=10_000)
