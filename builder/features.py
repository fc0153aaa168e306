"""Other spectrograms for finished shards, made of the shards' own sound: no recording is needed.

The stored sound is the very 16 bit samples that a build makes its spectrograms of, and each sample's json has the
times to their last bit. So the tars that come out are byte for byte those of a build from the recordings with that
`FEATURE`, as long as numpy, scipy and librosa are of the versions that the shards' index names. Knows no decoder and
no face model.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from builder import threads
from builder.config import BuildConfig, differences, digest, versions
from builder.datasets.base import ClipSource
from builder.rows import BuiltClip
from builder.shards import ShardPlan, whole, write_shard
from builder.spectrograms import spectrograms
from builder.timeline import Timeline
from manifests import index
from manifests.files import FolderError, exclusive_lock, remove_leftovers
from manifests.index import Dataset, ManifestError, Receipt, Row, Statistics
from manifests.index_writer import mark_unfinished, write_index
from manifests.progress import ProgressBar
from manifests.records import from_json
from manifests.schema import (
    Clip,
    SchemaError,
    Timing,
    decode_audio,
    decode_metadata,
    decode_spectrogram,
    encode_spectrogram,
    feature_members,
    member_names,
)
from manifests.verify import verify

#: Packages whose version can change a bit of a spectrogram.
VERSIONED = ("librosa", "multimae-der", "numpy", "scipy")
#: Under this, the identity of shards says that their spectrograms were made of stored sound, which, and by what.
MADE_FROM = "spectrograms_from"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which shards get which spectrograms, and where the new shards go."""

    shards: Path
    """Folder of finished shards; only read."""
    out: Path
    features: tuple[str, ...]
    """What each sample is to have, in this order; those that it has already are kept as they are."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One shard to make; all that a worker is told."""

    shards: Path
    out: Path
    features: tuple[str, ...]
    plan: ShardPlan


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was made."""

    dataset: Dataset
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit what was made."""
    resumed: int
    """Shards that were finished already."""
    other_versions: tuple[str, ...]
    """`scipy: 1.17.0 -> 1.18.0` for packages that may make the new spectrograms differ in a last bit from a build's."""


def make_features(job: Job) -> Summary:
    """Write the shards of `job.shards` once more, with other spectrograms, and the index over them.

    Killed at any point, the same call goes on where it was, and ends with the same bytes. Raises ConfigError for an
    unknown feature, FolderError for a folder that cannot be used, ManifestError for shards that are damaged, OSError.
    """
    BuildConfig(dataset="any", features=job.features)  # refuses unknown features
    _refuse_overlap(job)
    source = _checked(job.shards)
    made_by = _identity(source, job)
    plans = _plans(job.shards, made_by)
    with exclusive_lock(job.out, "TO="):
        complete = _refuse_other(job.out, made_by)
        remove_leftovers(job.out)
        done = {plan.name for plan in plans if whole(job.out, plan)}
        todo = [plan for plan in plans if plan.name not in done]
        described = replace(source, identity=made_by)
        if todo or not complete:
            for name in (index.RECEIPTS, index.FOLDS):
                (job.out / name).mkdir(exist_ok=True)
            mark_unfinished(job.out, described)
        _make(job, todo)
        written = write_index(job.out, described, [plan.name for plan in plans])
    changed = differences(source.identity.get("versions", {}), made_by[MADE_FROM]["versions"])
    return Summary(
        dataset=written.dataset,
        skipped_schemes=written.skipped_schemes,
        resumed=len(done),
        other_versions=tuple(line for line in changed if line.partition(":")[0] in VERSIONED),
    )


def with_features(
    members: Mapping[str, bytes], features: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, Statistics]]:
    """A sample's members with these features in place of its own, in tar order, and the sums over each spectrogram.

    A feature that the sample has already stays as it is. Raises SchemaError for members that cannot be decoded.
    """
    lacking = [feature for feature in features if not members.keys() >= set(feature_members((feature,)))]
    known = {**members, **_computed(members, lacking)}
    chosen = {name: known[name] for name in member_names(tuple(features))}
    names = [name.removesuffix(".npy") for name in feature_members(tuple(features))]
    return chosen, {name: Statistics.of(decode_spectrogram(chosen[f"{name}.npy"], name)) for name in names}


def _computed(members: Mapping[str, bytes], features: Sequence[str]) -> dict[str, bytes]:
    """Spectrograms of the sample's sound at its times, encoded."""
    if not features:
        return {}
    timing = from_json(Timing, decode_metadata(members["json"])["timing"], "json.timing")
    timeline = Timeline(
        span_seconds=timing.span_seconds,
        instants_seconds=timing.instants_seconds,
        step_seconds=timing.step_seconds,
    )
    windows = spectrograms(decode_audio(members["audio.flac"]), timing.audio_start_seconds, timeline, features)
    return {f"{name}.npy": encode_spectrogram(each, name) for name, each in windows.items()}


def _refuse_overlap(job: Job) -> None:
    shards, out = job.shards.resolve(), job.out.resolve()
    if out.is_relative_to(shards) or shards.is_relative_to(out):
        raise FolderError(
            f"{job.out}: the new shards need a folder of their own, beside {job.shards}; choose it with TO="
        )


def _checked(folder: Path) -> Dataset:
    """The index of a folder, after every byte of it was checked."""
    dataset = index.load_dataset(folder)
    with ProgressBar(len(dataset.shards), f"checking {folder}", unit="shard") as progress:
        problems = verify(folder, full=True, on_file=lambda name: _count_tar(progress, name))
    if problems:
        raise ManifestError(
            f"{folder}: {problems[0]} ({len(problems)} bad in all, make verify names them); restore it first"
        )
    return dataset


def _count_tar(progress: ProgressBar, name: str) -> None:
    if name.endswith(".tar"):
        progress.step()


def _identity(source: Dataset, job: Job) -> dict[str, Any]:
    """What a build with these features would say of itself, and what it would not: where they came from."""
    return {
        **source.identity,
        "config": {**source.identity["config"], "features": list(job.features)},
        MADE_FROM: {
            "sound": "audio.flac of shards",
            "index_sha256": index.file_sha256(job.shards / index.DATASET_FILE),
            "versions": {name: version for name, version in versions().items() if name in VERSIONED},
        },
    }


def _refuse_other(out: Path, made_by: Mapping[str, Any]) -> bool:
    """Refuse a folder of anything but these shards with these features; else say whether it is finished."""
    if not (out / index.DATASET_FILE).exists():
        others = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
        if others:
            raise FolderError(f"{others[0]}: no {index.DATASET_FILE} says that this is ours; choose an empty TO=")
        return False
    before = index.load_dataset(out)
    changed = differences(before.identity, made_by)
    if changed:
        raise FolderError(
            f"{out}: was made differently ({'; '.join(changed)}); choose another TO=, or delete the folder"
        )
    return before.complete


def _plans(shards: Path, made_by: Mapping[str, Any]) -> list[ShardPlan]:
    """The shards in their order, those too of which nothing was built. A receipt's hash stands for all of a shard."""
    build = digest(made_by)
    plans = []
    for name, sha256 in index.load_sums(shards).items():
        if name.startswith(f"{index.RECEIPTS}/"):
            receipt = index.load_receipt(shards / name)
            sources = tuple(_source(row) for row in receipt.rows)
            content = digest({"build": build, "receipt": sha256})
            plans.append(ShardPlan(name=receipt.shard, speaker=receipt.speaker, sources=sources, digest=content))
    return sorted(plans, key=lambda plan: (plan.speaker, len(plan.name), plan.name))


def _source(row: Row) -> ClipSource:
    clip = Clip(
        clip_id=row.clip_id, speaker=row.speaker, emotion=row.emotion, intensity=row.intensity, sentence=row.sentence
    )
    return ClipSource(clip=clip, video=Path(row.source))


def _make(job: Job, plans: Sequence[ShardPlan]) -> None:
    """Make shard after shard, `job.workers` at a time."""
    tasks = [Task(shards=job.shards, out=job.out, features=job.features, plan=plan) for plan in plans]
    if not tasks:
        return
    with (
        ProgressBar(len(tasks), f"making {' and '.join(job.features)}", unit="shard") as progress,
        closing(_mapped(tasks, min(job.workers, len(tasks)))) as receipts,
    ):
        for _ in receipts:
            progress.step()


def _mapped(tasks: Sequence[Task], workers: int) -> Iterator[Receipt]:
    """Results of `_make_shard` from so many processes, in order; whatever ends this ends them, too."""
    threads.one_a_process()
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, initializer=_end_with_parent) as pool:
        with _interrupts_held():
            results = pool.map(_make_shard, tasks)
        try:
            yield from results
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker died, perhaps for want of memory; the same command goes on where this one was, and WORKERS=1 "
                "needs the least"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C is this process's to handle: processes started meanwhile never hear of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Let this worker end when its parent does, however that came."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _make_shard(task: Task) -> Receipt:
    """Write one shard and its receipt. Raises ManifestError naming shard and clip of a sample that cannot be read."""
    receipt = index.load_receipt(task.shards / index.receipt_name(task.plan.name))
    if receipt.sha256 is None:
        return write_shard(task.out, task.plan, [_left_out(row) for row in receipt.rows])
    with (task.shards / receipt.shard).open("rb") as tar:
        return write_shard(task.out, task.plan, (_made(task, tar, receipt, row) for row in receipt.rows))


def _left_out(row: Row) -> BuiltClip:
    return BuiltClip(row=row, members=None, statistics={})


def _made(task: Task, tar: BinaryIO, receipt: Receipt, row: Row) -> BuiltClip:
    """What a build would have made of the clip."""
    if row.shard is None:
        return _left_out(row)
    try:
        members, statistics = with_features(_members(tar, receipt, row.clip_id), task.features)
    except SchemaError as error:
        raise ManifestError(f"{task.shards / receipt.shard}: {row.clip_id}: {error}") from error
    return BuiltClip(row=replace(row, shard=None), members=members, statistics=statistics)


def _members(tar: BinaryIO, receipt: Receipt, clip_id: str) -> dict[str, bytes]:
    if clip_id not in receipt.members:
        raise SchemaError("not in the shard, though its receipt has a row that says so")
    members = {}
    for suffix, (offset, size) in receipt.members[clip_id].items():
        tar.seek(offset)
        members[suffix] = tar.read(size)
    return members
