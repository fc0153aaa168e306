"""CPU time per clip and memory of builds of growing size, with one worker and with two.

Each measurement is a whole build by the command line. The CPU time per clip is that of the clips beyond those of the
smallest build, so that start-up does not count. The parent process is also measured with ten thousand clips, built by
a fake without face models.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import cycle, islice
from pathlib import Path

from builder.datasets import scan_corpus
from manifests.index import load_dataset
from tests.bench.figures import Figure, run_stage
from tests.bench.processes import Usage, run_measured

FAKE_BUILD = ("-m", "tests.fakes.build_command")
SMALLEST, CLIPS_A_SPEAKER, RECORDINGS = 4, 80, 8
#: What the fake builder reads in a recording: a sample of 16 kB.
ORDER = b"big 100"


def measure(data: Path, clips: int, synthetic: int) -> list[Figure]:
    """Builds of up to `clips` clips of the demo corpus in `data`, and of `synthetic` clips with the fake builder."""
    recordings = [source.video for source in scan_corpus("demo", data.absolute()).sources[:RECORDINGS]]
    figures = []
    for workers in (1, 2):
        start = _build(["-m", "builder"], recordings, SMALLEST, workers)
        for count in (clips // 3, clips):
            figures += _figures(_build(["-m", "builder"], recordings, count, workers), start, count, workers)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as recording:
        recording.write(ORDER)
        recording.flush()
        for count in (synthetic // 4, synthetic):
            parent = _build([*FAKE_BUILD], [Path(recording.name)], count, workers=1).peak_mb
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


def _build(program: list[str], recordings: list[Path], clips: int, workers: int) -> Usage:
    """Build a corpus that repeats these recordings under other names."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "shards")
        write_corpus(data, recordings, clips)
        where = ["--dataset", "folder", "--data", str(data), "--out", str(out)]
        usage = run_measured([*program, "shards", *where, "--workers", str(workers)])
        found = sum(shard.samples for shard in load_dataset(out).shards)
        assert found == clips, f"found {found} clips built, expected {clips}"
        return usage


def write_corpus(root: Path, recordings: list[Path], clips: int, clips_a_speaker: int = CLIPS_A_SPEAKER) -> None:
    """Write a `folder` corpus of `clips` clips that repeats these recordings."""
    root.mkdir()
    lines = ["clip,speaker,emotion"]
    for i, recording in enumerate(islice(cycle(recordings), clips)):
        name = f"{i:06d}{recording.suffix}"
        shutil.copyfile(recording, root / name)
        lines.append(f"{name},S{i // clips_a_speaker:04d},{('joy', 'fear')[i % 2]}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    run_stage(measure, __doc__, data=Path("data/demo"), clips=240, synthetic=10_000)
