"""A corpus of a million clips without its recordings: what planning, indexing, checking and opening a fold take.

python tests/prove/scale.py [--clips N ...]

Receipts are made up in the form that a build writes; tars are sparse files of the sizes that they promise. Each stage
runs in a process of its own, whose time and peak memory are told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from manifests import index
from manifests.index import Dataset, Receipt, Row, Statistics
from manifests.schema import FRAMES, member_names
from manifests.writing import mark_unfinished, write_index

#: VoxCeleb2 has 1,092,009 clips of 6,112 speakers.
CLIPS = 1_000_000
CLIPS_A_SHARD = 50
SHARDS_A_SPEAKER = 4
#: What each stage may take at a million clips.
MOST_SECONDS, MOST_BYTES = 60.0, 2e9
EMOTIONS = ("angry", "happy", "neutral", "sad")
_MEMBERS = dict(zip(member_names(("mfcc",)), (90_000, 16_000, 93_000, 47_000, 900), strict=True))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a stage took."""

    stage: str
    clips: int
    seconds: float
    """Of the wall clock; one process, no other work meant to be under way."""
    peak_bytes: int


def shards_of(clips: int) -> int:
    """Shards that so many clips are in."""
    return -(-clips // CLIPS_A_SHARD)


def make_receipts(folder: Path, clips: int) -> list[str]:
    """Receipts and sparse tars of so many clips; names of the shards in order."""
    (folder / index.RECEIPTS).mkdir(parents=True)
    (folder / index.FOLDS).mkdir()
    template = index.dump_receipt(_receipt("SPEAKER-000.tar", "SPEAKER")).decode()
    size = _receipt("SPEAKER-000.tar", "SPEAKER").bytes
    names = []
    for number in range(shards_of(clips)):
        speaker, part = f"id{number // SHARDS_A_SPEAKER:05d}", f"{number % SHARDS_A_SPEAKER:03d}"
        name = f"{speaker}-{part}.tar"
        text = template.replace("SPEAKER-000", f"{speaker}-{part}").replace("SPEAKER", speaker)
        text = text.replace("f" * 64, hashlib.sha256(name.encode()).hexdigest())
        (folder / index.receipt_name(name)).write_text(text)
        with (folder / name).open("wb") as tar:
            tar.truncate(size)
        names.append(name)
    return names


def described() -> Dataset:
    """All that is said of the made-up corpus but its shards."""
    config = {"dataset": "folder", "features": ["mfcc"], "timeline": "uniform", "align": "frame"}
    return Dataset(dataset="folder", complete=False, identity={"config": config, "versions": {}}, about={})


def _receipt(shard: str, speaker: str) -> Receipt:
    stem, members, rows, offset = shard.removesuffix(".tar"), {}, [], 0
    for number in range(CLIPS_A_SHARD):
        clip = f"{stem}-clip-{number:05d}"
        members[clip] = dict(_placed(offset))
        offset = max(start + size for start, size in members[clip].values())
        rows.append(_row(clip, speaker, shard, EMOTIONS[number % len(EMOTIONS)]))
    sums = Statistics(count=50 * 16 * 224, total=(1234.5678901234,) * 13, squares=(91234.5678901234,) * 13)
    return Receipt(
        shard=shard,
        speaker=speaker,
        plan="e" * 64,
        sha256="f" * 64,
        bytes=-(-offset // 10_240) * 10_240,
        members=members,
        rows=tuple(rows),
        statistics={f"mfcc_{grid}": sums for grid in (FRAMES, FRAMES // 2)},
    )


def _placed(offset: int) -> Iterator[tuple[str, tuple[int, int]]]:
    for suffix, size in _MEMBERS.items():
        yield suffix, (offset + 512, size)
        offset += 512 + -(-size // 512) * 512


def _row(clip: str, speaker: str, shard: str, emotion: str) -> Row:
    return Row(
        clip_id=clip,
        speaker=speaker,
        emotion=emotion,
        status="built",
        faces_found=16,
        source=f"dev/mp4/{speaker}/{clip}.mp4",
        sha256="a" * 64,
        shard=shard,
    )


# --- stages ----------------------------------------------------------------------------------------------------


def plan(folder: Path, clips: int) -> None:
    """Lay out shards of clips that were found."""
    from builder.datasets.base import ClipSource
    from builder.shards import plan_shards
    from manifests.schema import Clip

    per_speaker = CLIPS_A_SHARD * SHARDS_A_SPEAKER
    sources = []
    for number in range(clips):
        speaker = f"id{number // per_speaker:05d}"
        clip = Clip(clip_id=f"{speaker}-{number:07d}", speaker=speaker, emotion="happy")
        sources.append(ClipSource(clip=clip, video=Path(f"/recordings/{speaker}/{number:07d}.mp4")))
    shards = plan_shards(sources, Path("/recordings"), "0" * 64)
    assert sum(len(shard.sources) for shard in shards) == clips


def write(folder: Path, clips: int) -> None:
    """Write all that is said of the shards from their receipts."""
    names = sorted(path.name for path in folder.glob("*.tar"))
    mark_unfinished(folder, described())
    written = write_index(folder, described(), names)
    assert written.dataset.counts == {"built": shards_of(clips) * CLIPS_A_SHARD}
    assert written.dataset.fold_schemes


def verify(folder: Path, clips: int) -> None:
    """Quick: every file's size."""
    assert index.verify(folder) == []


def open_fold(folder: Path, clips: int) -> None:
    """All that happens between `make train` and the first clip that is read."""
    from train.config import TrainConfig
    from train.prepare import open_corpus
    from train.recipes import RECIPES

    scheme = index.load_dataset(folder).fold_schemes[0]
    fold = next(iter(json.loads((folder / index.FOLDS / f"{scheme}.json").read_bytes())["folds"]))
    config = TrainConfig(
        shards=str(folder), strategy="cfas", fold=fold, encoder="large", recipe=RECIPES["finetune"], check="sizes"
    )
    corpus = open_corpus(config)
    sides = [len(corpus.clips(side)) for side in ("train", "validation", "test")]
    assert sum(sides) == shards_of(clips) * CLIPS_A_SHARD


STAGES: dict[str, Callable[[Path, int], None]] = {
    "plan shards": plan,
    "write the index and folds": write,
    "verify, quick": verify,
    "open a fold for training": open_fold,
}


def measure(clips: int, stages: Sequence[str] = tuple(STAGES)) -> list[Figure]:
    """Each stage in a process of its own, on a corpus of so many clips."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        make_receipts(folder, clips)
        return [_measured(stage, folder, clips) for stage in stages]


def _measured(stage: str, folder: Path, clips: int) -> Figure:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_run, stage, folder, clips).result()


def _run(stage: str, folder: Path, clips: int) -> Figure:
    begun = time.monotonic()
    STAGES[stage](folder, clips)
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Figure(stage=stage, clips=clips, seconds=seconds, peak_bytes=peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; status 1 if a stage takes more than it may."""
    parser = argparse.ArgumentParser(prog="python tests/prove/scale.py", description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 100_000, CLIPS])
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    asked = parser.parse_args(arguments)
    figures = []
    for clips in asked.clips:
        for figure in measure(clips, asked.stage):
            figures.append(figure)
            took = f"{figure.seconds:7.1f} s {figure.peak_bytes / 1e6:7.0f} MB"
            sys.stdout.write(f"{figure.clips:>9,} clips  {figure.stage:<26} {took}\n")
            sys.stdout.flush()
    if asked.json:
        asked.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    return int(any(figure.seconds > MOST_SECONDS or figure.peak_bytes > MOST_BYTES for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
