"""Time and memory of planning, indexing, folds, quick verify and opening a fold: python -m tests.bench.scale.

A synthetic corpus is written to a temporary folder, without any media: a table of empty recordings, receipts as a
build writes them, and sparse tars of the recorded size. 50 clips per shard and 167 per speaker, as in VoxCeleb2. Each
stage runs in its own process on one core; its peak memory is the peak of that process.

A second corpus is of sequences without labels. Its tars are hard links to one real shard of small black frames, so that
the loader can read it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests import folds, index, kinds, sequence
from manifests.index import Dataset, Receipt, Row, SpectrogramSums
from manifests.labels import NO_LABELS
from manifests.schema import FEATURE_ROWS, feature_members, member_names
from manifests.verify import verify as verify_folder
from tests.bench.processes import peak_mb
from tests.factories.samples import sequence_sample
from tests.factories.shards import SETTINGS

if TYPE_CHECKING:
    from train.data.fold_data import FoldData

SIZES = (10_000, 100_000, 1_000_000)
CLIPS_PER_SHARD = 50
#: Parts of each speaker, in turn: 20,000 shards of 6,000 speakers.
PARTS = (4, 3, 3)
EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
FEATURES = ("mfcc",)
MAX_SECONDS, MOST_BYTES = 60.0, 2 * 10**9
#: Of sequences: the corpus's clips, frames of each and their side, those that the loader reads, and those of a batch.
SEQUENCES, FRAMES, SIDE_PX, READ, BATCH = (100_000,), 200, 96, 6_000, 32
#: The most that memory may grow from a third of the clips that the loader reads to all of them; the times of frames,
#: which it keeps, are at most 64 MiB.
MOST_GROWN_BYTES = 2**26
_MEMBER_BYTES = {"jpg": 250_000, "npy": 100_480, "flac": 120_000, "json": 4_000}
_RECORDINGS = "recordings"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and memory of a stage."""

    stage: str
    clips: int
    seconds: float
    """Wall-clock time."""
    cpu_seconds: float
    """CPU time of one core, imports included."""
    peak_bytes: int
    grown_bytes: int | None = None
    """Of the loader: resident memory after its last clip, less that after a third of them."""

    @property
    def fits(self) -> bool:
        """Within a minute of one core and 2 GB, and the loader in memory that does not grow."""
        flat = (self.grown_bytes or 0) <= MOST_GROWN_BYTES
        return self.cpu_seconds <= MAX_SECONDS and self.peak_bytes <= MOST_BYTES and flat


def shard_names(clips: int) -> Iterator[tuple[str, str]]:
    """(shard, speaker) of a corpus, in a build's order."""
    left = clips // CLIPS_PER_SHARD
    for number in range(left):
        speaker, parts = f"id{number:05d}", min(PARTS[number % len(PARTS)], left)
        yield from ((f"{speaker}-{part:03d}.tar", speaker) for part in range(parts))
        left -= parts
        if not left:
            return


def make_folder(folder: Path, clips: int) -> None:
    """Write receipts, and sparse tars of the sizes recorded in them."""
    (folder / index.RECEIPTS).mkdir(parents=True)
    for name, speaker in shard_names(clips):
        receipt = _receipt(name, speaker)
        (folder / index.receipt_name(name)).write_bytes(index.dump_receipt(receipt))
        with (folder / name).open("wb") as tar:
            tar.truncate(receipt.bytes)


def make_sequences(folder: Path, clips: int) -> None:
    """Write shards of sequences without labels: receipts of their own, and tars that are links to one."""
    (folder / index.RECEIPTS).mkdir(parents=True)
    members = sequence.encode(_black_sequence())
    first: Receipt | None = None
    for name, speaker in shard_names(clips):
        if first is None:
            (folder / name).write_bytes(_tar_of(members, _keys(name)))
            places = index.member_byte_ranges(folder / name)
            size, digest = (folder / name).stat().st_size, index.file_sha256(folder / name)
            first = replace(_receipt(name, speaker), members=places, bytes=size, sha256=digest)
        else:
            (folder / name).hardlink_to(folder / first.shard)
        rows = tuple(replace(_row(key, name, speaker, ""), emotion=None) for key in _keys(name))
        named = dict(zip(_keys(name), first.members.values(), strict=True))
        receipt = replace(first, shard=name, speaker=speaker, members=named, rows=rows)
        (folder / index.receipt_name(name)).write_bytes(index.dump_receipt(receipt))


def _black_sequence() -> sequence.SequenceSample:
    black = sequence.encode_frame(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8))
    sound = np.zeros(round(0.04 * FRAMES * 16_000), np.int16)
    present = (True,) * FRAMES
    return sequence_sample(
        count=FRAMES, side_px=SIDE_PX, jpegs=(black,) * FRAMES, audio=sound, face_found=present, flags=()
    )


def _tar_of(members: Mapping[str, bytes], keys: Iterator[str]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in keys:
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    return buffer.getvalue()


def make_table(folder: Path, clips: int) -> None:
    """Write `clips.csv` of a corpus and its recordings."""
    folder.mkdir()
    with (folder / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("clip", "speaker", "emotion"))
        for shard, speaker in shard_names(clips):
            table.writerows((f"{speaker}/{key}.mp4", speaker, _emotion(at)) for at, key in enumerate(_keys(shard)))
            _make_recordings(folder / speaker, _keys(shard))


def _make_recordings(folder: Path, keys: Iterator[str]) -> None:
    """Create hard links to one file without content, larger than a Git LFS pointer."""
    folder.mkdir(exist_ok=True)
    first = folder / f"{next(keys)}.mp4"
    with first.open("wb") as file:
        file.truncate(4096)
    for key in keys:
        (folder / f"{key}.mp4").hardlink_to(first)


def describe_dataset() -> Dataset:
    """The dataset's description without its shards."""
    config = {"dataset": "folder", "features": list(FEATURES), "align": "frame", "decoder": "pyav"}
    return Dataset(dataset="folder", complete=False, identity={"config": config}, about={"title": "Synthetic"})


def describe_sequences() -> Dataset:
    """The same of sequences, of a corpus without labels."""
    described = describe_dataset()
    config = {**SETTINGS, **described.identity["config"], "frames": "all", "size_px": SIDE_PX, "rate_hz": None}
    return replace(described, kind=kinds.SEQUENCES, identity={"config": config})


def plan(folder: Path, clips: int) -> None:
    """Scan the table and plan the shards, as `make plan` does."""
    from builder import run
    from builder.config import BuildConfig

    planned = run.plan_build(BuildConfig(dataset="folder"), folder.parent / _RECORDINGS)
    assert sum(len(shard.sources) for shard in planned.shards) == clips


def write_index(folder: Path, clips: int) -> None:
    """Read all receipts and write all index files."""
    from manifests.index_writer import write_index

    written = write_index(folder, describe_dataset(), [name for name, _ in shard_names(clips)])
    assert sum(written.dataset.counts.values()) == clips
    assert written.dataset.fold_schemes


def read_rows(folder: Path, clips: int) -> None:
    """Read clips.jsonl."""
    assert sum(1 for _ in index.load_rows(folder)) == clips


def make_folds(folder: Path, clips: int) -> None:
    """Compute the fold scheme again, assign shards to sides, and read the fold file."""
    dataset = index.load_dataset(folder)
    name = dataset.fold_schemes[0]
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    rows = (
        {"speaker": speaker, "emotion": _emotion(at)} for at in range(CLIPS_PER_SHARD) for speaker in speakers.values()
    )
    assigned = folds.assign(folds.fold_scheme(dataset.dataset, name, speakers.values()), speakers, rows)
    data = folds.dump_fold_file(assigned)
    assert folds.read_fold_file(data, speakers, name) == assigned
    assert data == (folder / index.FOLDS / f"{name}.json").read_bytes()


def verify(folder: Path, clips: int) -> None:
    """Verify the folder without hashes."""
    problems = verify_folder(folder)
    assert not problems, problems[0]


def open_fold(folder: Path, clips: int) -> None:
    """Do what training on a fold does before it reads the first shard, for all sides."""
    from train.data.fold_data import open_fold as open_fold_data

    fold = next(iter(_assignment(folder).folds))
    data = open_fold_data(folder, fold, strategy="cfas")
    assert sum(len(data.clips(side)) for side in folds.SIDES) == clips


def write_sequence_index(folder: Path, clips: int) -> None:
    """Read all receipts of sequences and write all index files."""
    from manifests.index_writer import write_index

    written = write_index(folder, describe_sequences(), [name for name, _ in shard_names(clips)])
    assert sum(written.dataset.counts.values()) == clips
    assert written.dataset.fold_schemes


def open_whole(folder: Path, clips: int) -> None:
    """Open all clips without their labels, as pre-training does."""
    from train.data.corpora import open_whole as open_whole_corpora
    from train.data.fold_data import open_fold as open_fold_data

    corpora = open_whole_corpora([folder])
    data = open_fold_data(corpora, corpora.folds[0], strategy="cfas", label_scheme=NO_LABELS, unlabelled=True)
    assert sum(len(data.clips(side)) for side in ("train", "validation")) == clips


def open_unlabelled_fold(folder: Path, clips: int) -> None:
    """Open all sides of a fold without their labels."""
    data = _open_unlabelled(folder)
    assert sum(len(data.clips(side)) for side in folds.SIDES) == clips


def _open_unlabelled(folder: Path) -> FoldData:
    from train.data.fold_data import open_fold as open_fold_data

    fold = next(iter(_assignment(folder).folds))
    return open_fold_data(folder, fold, strategy="cfas", label_scheme=NO_LABELS, unlabelled=True, check="sizes")


def read_batches(folder: Path, _clips: int) -> int:
    """Open a fold, read `READ` clips in an epoch's order, and return by how many bytes memory grew meanwhile."""
    from train.data.loader import Loader
    from train.data.sampler import ClipSampler

    clips = _open_unlabelled(folder).training
    loader = Loader(clips, ClipSampler(clips=len(clips), batch_size=BATCH))
    batches = chain.from_iterable(map(loader.epoch, count()))
    resident = []
    for part in (READ // 3, READ - READ // 3):
        for batch in islice(batches, part // BATCH):
            assert len(batch.keys) > 0
        resident.append(_resident_bytes())
    return resident[1] - resident[0]


def _resident_bytes() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


#: Stage -> its function. A stage may read the files of the stages before it.
STAGES: Mapping[str, Callable[[Path, int], int | None]] = {
    "plan": plan,
    "index": write_index,
    "rows": read_rows,
    "folds": make_folds,
    "verify": verify,
    "open": open_fold,
}
#: The same of sequences without labels.
SEQUENCE_STAGES: Mapping[str, Callable[[Path, int], int | None]] = {
    "sequences, index": write_sequence_index,
    "sequences, verify": verify,
    "sequences, whole": open_whole,
    "sequences, fold": open_unlabelled_fold,
    "sequences, loader": read_batches,
}


def measure(clips: int, stages: Sequence[str] = tuple(STAGES)) -> Iterator[Cost]:
    """Write a synthetic corpus and run the stages on it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        make_folder(folder, clips)
        make_table(folder.parent / _RECORDINGS, clips)
        for stage in stages:
            yield _run_in_process(stage, folder, clips)


def measure_sequences(clips: int) -> Iterator[Cost]:
    """Write a synthetic corpus of sequences without labels and run the stages on it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        make_sequences(folder, clips)
        for stage in SEQUENCE_STAGES:
            yield _run_in_process(stage, folder, clips)


def _run_in_process(stage: str, folder: Path, clips: int) -> Cost:
    command = [sys.executable, "-m", "tests.bench.scale", "--stage", stage, str(folder), "--clips", str(clips)]
    root = Path(__file__).parents[2]
    return Cost(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root).stdout))


def _run_stage(stage: str, folder: Path, clips: int) -> Cost:
    """Run a stage in this process, on one core."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    started = time.perf_counter()
    grown = {**STAGES, **SEQUENCE_STAGES}[stage](folder, clips)
    return Cost(
        stage=stage,
        clips=clips,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time(),
        peak_bytes=round(1e6 * peak_mb(os.getpid())),
        grown_bytes=grown,
    )


def _assignment(folder: Path) -> folds.FoldFile:
    dataset = index.load_dataset(folder)
    path = folder / index.FOLDS / f"{dataset.fold_schemes[0]}.json"
    return folds.read_fold_file(path.read_bytes(), {s.name: s.speaker for s in dataset.shards}, str(path))


def _keys(shard: str) -> Iterator[str]:
    return (f"{shard.removesuffix('.tar')}_{at:05d}" for at in range(CLIPS_PER_SHARD))


def _emotion(at: int) -> str:
    return EMOTIONS[at % CLIPS_PER_SHARD % len(EMOTIONS)]


def _receipt(shard: str, speaker: str) -> Receipt:
    members: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    for key in _keys(shard):
        members[key] = {}
        for suffix in member_names(FEATURES):
            size = _MEMBER_BYTES[suffix.rpartition(".")[2]]
            members[key][suffix] = (end + 512, size)
            end += 512 + -size % 512 + size
    return Receipt(
        shard=shard,
        speaker=speaker,
        plan="0" * 64,
        sha256=_sha256(shard),
        bytes=end + 1024,
        members=members,
        rows=tuple(_row(key, shard, speaker, _emotion(at)) for at, key in enumerate(members)),
        statistics={suffix.removesuffix(".npy"): _sums(suffix) for suffix in feature_members(FEATURES)},
    )


def _row(key: str, shard: str, speaker: str, emotion: str) -> Row:
    return Row(
        clip_id=key,
        speaker=speaker,
        emotion=emotion,
        status="built",
        faces_found=16,
        source=f"{speaker}/{key}.mp4",
        sha256=_sha256(key),
        shard=shard,
    )


def _sums(suffix: str) -> SpectrogramSums:
    rows = FEATURE_ROWS[suffix.partition("_")[0]]
    total = tuple(-40.0 * 179_200 / (row + 3) for row in range(rows))
    return SpectrogramSums(count=179_200, total=total, squares=tuple(value**2 / 7e4 for value in total))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a stage takes more than a minute of one core or more than 2 GB."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--clips", type=int, nargs="*", default=SIZES, metavar="N", help="sizes of the corpus")
    parser.add_argument("--sequences", type=int, nargs="*", default=SEQUENCES, metavar="N", help="sizes of that corpus")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help="run one stage and print its cost")
    args = parser.parse_args(arguments)
    if args.stage:
        sys.stdout.write(json.dumps(asdict(_run_stage(args.stage[0], Path(args.stage[1]), args.clips[0]))))
        return 0
    costs = []
    sys.stdout.write("    clips stage              seconds    cpu s  peak MB\n")
    for cost in chain(*map(measure, args.clips), *map(measure_sequences, args.sequences)):
        costs.append(cost)
        sys.stdout.write(_format_cost(cost) + "\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")
    return int(not all(cost.fits for cost in costs))


def _format_cost(cost: Cost) -> str:
    line = f"{cost.clips:9,} {cost.stage:17} {cost.seconds:8.1f} {cost.cpu_seconds:8.1f} {cost.peak_bytes / 1e6:8.0f}"
    if cost.grown_bytes is not None:
        line += f"  grown by {cost.grown_bytes / 1e6:.0f} MB"
    return (
        line
        if cost.fits
        else line
        + f"  more than {MAX_SECONDS:.0f} s, {MOST_BYTES / 1e6:.0f} MB, or {MOST_GROWN_BYTES / 1e6:.0f} MB of growth"
    )


if __name__ == "__main__":
    sys.exit(main())
