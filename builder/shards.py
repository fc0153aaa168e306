"""Assigns clips to shards, and writes a shard: first a deterministic tar, then its receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from builder.clip_result import ClipResult, planned_row, recording_sha256
from builder.config import CLIPS_PER_SHARD, digest
from builder.datasets.base import ClipSource
from manifests import index
from manifests.files import FolderError, atomic_write, atomic_writer, check_regular, find_files
from manifests.index import Dataset, ManifestError, Receipt, Row, SpectrogramSums, file_sha256, receipt_name
from manifests.text import config_diff

#: Drop reasons caused by the machine, not by the recording: a retry may succeed.
RETRYABLE = frozenset({"timeout", "worker_died"})


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard before it is built."""

    name: str
    """`<speaker>-<part>.tar`."""
    speaker: str
    sources: tuple[ClipSource, ...]
    digest: str
    """SHA-256 of its planned content and of the build's identity; a receipt must have the same one."""


def plan_shards(sources: Sequence[ClipSource], root: Path, build_digest: str) -> list[ShardPlan]:
    """Sources sorted by speaker -> shards of one speaker and at most 100 clips each. No shard mixes speakers."""
    plans = []
    for speaker, group in groupby(sources, key=lambda source: source.clip.speaker):
        clips = list(group)
        for part, start in enumerate(range(0, len(clips), CLIPS_PER_SHARD)):
            chosen = tuple(clips[start : start + CLIPS_PER_SHARD])
            content = {"build": build_digest, "clips": [_describe(source, root) for source in chosen]}
            name = f"{speaker}-{part:03d}.tar"
            plans.append(ShardPlan(name=name, speaker=speaker, sources=chosen, digest=digest(content)))
    return plans


def _describe(source: ClipSource, root: Path) -> dict[str, Any]:
    """Everything known about a clip before its files are opened.

    Sources have a key of `partial` only where it says something, so that the others keep the hashes of earlier plans.
    """
    partial = {"sound_first": source.sound_first or None, "context": source.context_seconds}
    return (
        vars(planned_row(source, root))
        | {key: value for key, value in partial.items() if value is not None}
        | {
            "segment": source.segment_seconds,
            "region": source.region,
            "known_defect": source.known_defect,
            "known_flags": source.known_flags,
        }
    )


def find_earlier_build(folder: Path, corpus: str, identity: Mapping[str, Any], setting: str = "OUT=") -> Dataset | None:
    """Index of the build in a folder; None for a folder without files.

    Raises FolderError for other files, for links and devices, and for a build of another corpus or with another
    identity; `setting` is named in the error message.
    """
    index_file = folder / index.DATASET_FILE
    if not index_file.exists():  # before links: those among other files are none of ours to remove
        others = sorted(folder / name for name, _ in find_files(folder) if not Path(name).name.startswith("."))
        if others and not index_file.exists():  # another part of the same build may have started in the meantime
            raise FolderError(
                f"{others[0]}: not written by a build: found no {index.DATASET_FILE}; choose an empty folder with "
                f"{setting.rpartition(' ')[2]}"
            )
        check_regular(folder)
        if not others:
            return None
    check_regular(folder)
    earlier = index.load_dataset(folder)
    if earlier.dataset != corpus:
        raise FolderError(f"{folder}: has shards of {earlier.dataset}, not of {corpus}; choose another {setting}")
    if changed := config_diff(earlier.identity, identity):
        raise FolderError(f"{folder}: was built differently ({'; '.join(changed)}); choose another {setting}")
    return earlier


def has_other_recordings(folder: Path, plans: Iterable[ShardPlan]) -> bool:
    """Whether a folder has shards, but none with a recording of the shard that is planned under its name.

    Names of speakers, files and data folders are alike in many corpora. Where no shard is planned under the name of one
    that the folder has, as after a table gave the speakers other names, all planned recordings are compared with all
    that were built. The first recording in common ends the search.
    """
    planned, found, alike = {receipt_name(plan.name): plan for plan in plans}, False, False
    everything, names = set[str](), set[str]()
    for path in folder.glob(f"{index.RECEIPTS}/*.json"):
        with suppress(ManifestError):  # damaged: the shard is built again
            rows, found = index.load_receipt(path).rows, True
            built = {row.sha256 for row in rows if row.sha256}
            if plan := planned.get(path.relative_to(folder).as_posix()):
                alike = True
                videos = dict.fromkeys(source.video for source in plan.sources)
                if not built or any(recording_sha256(video) in built for video in videos):  # none could be read before
                    return False
            elif not alike:
                everything |= built
                names |= {PurePosixPath(row.source).name for row in rows}
    if alike or not everything:
        return found
    videos = dict.fromkeys(source.video for plan in planned.values() for source in plan.sources)
    likely_first = sorted(videos, key=lambda video: video.name not in names)
    return not any(recording_sha256(video) in everything for video in likely_first)


def write_shard(folder: Path, plan: ShardPlan, clips: Iterable[ClipResult]) -> Receipt:
    """Write the tar of the built clips, then the receipt of all. `clips` may be lazy; it is in the plan's order."""
    from webdataset.writer import TarWriter  # imports torch where it is installed: workers do without

    path = folder / plan.name
    rows: list[Row] = []
    statistics: list[Mapping[str, SpectrogramSums]] = []
    with atomic_writer(path) as file:
        # Fixed times and owners: same samples, same bytes. A float time would need an extra header.
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            for clip in clips:
                if clip.members is None:
                    rows.append(clip.row)
                    continue
                rows.append(replace(clip.row, shard=plan.name))
                statistics.append(clip.statistics)
                tar.write({"__key__": clip.row.clip_id, **clip.members})
        assert [row.clip_id for row in rows] == [source.clip.clip_id for source in plan.sources]
    if not statistics:
        path.unlink()
    sums: dict[str, SpectrogramSums] = {}
    for each in statistics:
        sums |= {name: sums[name] + found if name in sums else found for name, found in each.items()}
    receipt = Receipt(
        shard=plan.name,
        speaker=plan.speaker,
        plan=plan.digest,
        sha256=file.sha256 if statistics else None,
        bytes=file.bytes if statistics else 0,
        members=index.member_byte_ranges(path) if statistics else {},
        rows=tuple(rows),
        statistics=sums,
    )
    atomic_write(folder / receipt_name(plan.name), index.dump_receipt(receipt))
    return receipt


def load_finished(folder: Path, plan: ShardPlan) -> Receipt | None:
    """Load the receipt of a shard of this plan; None unless its tar is intact and its recordings are unchanged."""
    receipt = load_intact(folder, plan)
    if receipt is None or any(row.reason in RETRYABLE for row in receipt.rows) or _recordings_changed(plan, receipt):
        return None
    return receipt


def load_intact(folder: Path, plan: ShardPlan) -> Receipt | None:
    """Load the receipt of a shard of this plan; None unless its tar is intact. Recordings are not read."""
    receipt = load_present(folder, plan)
    if receipt is None or (receipt.sha256 and file_sha256(folder / plan.name) != receipt.sha256):
        return None
    return receipt


def load_present(folder: Path, plan: ShardPlan) -> Receipt | None:
    """Load the receipt of a shard of this plan; None unless its tar has the expected size. Hashes are not checked."""
    path, tar = folder / receipt_name(plan.name), folder / plan.name
    if not path.is_file():
        return None
    try:
        receipt = index.load_receipt(path)
    except ManifestError:
        return None  # damaged or foreign: rebuild the shard
    complete = tar.is_file() and tar.stat().st_size == receipt.bytes if receipt.sha256 else not tar.exists()
    return receipt if complete and receipt.plan == plan.digest else None


def _recordings_changed(plan: ShardPlan, receipt: Receipt) -> bool:
    """Whether a recording changed since the shard was built, by hash, never by file times."""
    sha256 = cache(recording_sha256)  # turns of a dialogue share a recording
    rows = {row.clip_id: row for row in receipt.rows}
    for source in plan.sources:
        row = rows.get(source.clip.clip_id)
        if row is None or row.sha256 != sha256(source.video):
            return True
        if row.sound_sha256 is not None and row.sound_sha256 != sha256(source.sound):
            return True
    return False
