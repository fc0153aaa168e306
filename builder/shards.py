"""Which clips go into which shard, and writing one: a deterministic tar first, its receipt last."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import groupby
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from builder.built_clip import BuiltClip, planned_row, recording_sha256
from builder.config import CLIPS_A_SHARD, digest
from builder.datasets.base import ClipSource
from manifests import index
from manifests.files import FolderError, atomic_write, atomic_writer
from manifests.index import Dataset, ManifestError, Receipt, Row, Statistics, file_sha256, receipt_name
from manifests.text import config_diff

#: Reasons that lie in the machine and its load, not in the recording: another run may succeed.
RETRYABLE = frozenset({"timeout", "worker_died"})


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard before it is built."""

    name: str
    """`<speaker>-<part>.tar`."""
    speaker: str
    sources: tuple[ClipSource, ...]
    digest: str
    """SHA-256 of what it is to hold and of the build's identity: a receipt with another one is of another build."""


def plan_shards(sources: Sequence[ClipSource], root: Path, build_digest: str) -> list[ShardPlan]:
    """Sources sorted by speaker -> shards of one speaker and at most 100 clips each. No shard mixes subjects."""
    plans = []
    for speaker, group in groupby(sources, key=lambda source: source.clip.speaker):
        clips = list(group)
        for part, start in enumerate(range(0, len(clips), CLIPS_A_SHARD)):
            chosen = tuple(clips[start : start + CLIPS_A_SHARD])
            content = {"build": build_digest, "clips": [_describe(source, root) for source in chosen]}
            name = f"{speaker}-{part:03d}.tar"
            plans.append(ShardPlan(name=name, speaker=speaker, sources=chosen, digest=digest(content)))
    return plans


def _describe(source: ClipSource, root: Path) -> dict[str, Any]:
    """Everything known of a clip before its files are opened."""
    return vars(planned_row(source, root)) | {
        "segment": source.segment_seconds,
        "region": source.region,
        "known_defect": source.known_defect,
        "known_flags": source.known_flags,
    }


def find_earlier_build(folder: Path, identity: Mapping[str, Any], setting: str = "OUT=") -> Dataset | None:
    """The build that a folder holds; None for a folder without files.

    Raises FolderError for a folder of other files, or of a build with another identity; `setting` chooses the folder.
    """
    ours = folder / index.DATASET_FILE
    if not ours.exists():
        others = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        if not others:
            return None
        if not ours.exists():  # another part of the same build may have started meanwhile
            raise FolderError(
                f"{others[0]}: no build wrote this: there is no {index.DATASET_FILE}; choose an empty {setting}"
            )
    earlier = index.load_dataset(folder)
    if changed := config_diff(earlier.identity, identity):
        raise FolderError(
            f"{folder}: was built differently ({'; '.join(changed)}); choose another {setting}, or delete the folder"
        )
    return earlier


def write_shard(folder: Path, plan: ShardPlan, clips: Iterable[BuiltClip]) -> Receipt:
    """Write the tar of the clips that were built, then the receipt of all. Clips may come lazily, in plan order."""
    path = folder / plan.name
    rows: list[Row] = []
    statistics: list[Mapping[str, Statistics]] = []
    with atomic_writer(path) as file:
        # Fixed times and owners: same samples, same bytes. A time that is a float would cost a header of its own.
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
    names = statistics[0] if statistics else ()
    receipt = Receipt(
        shard=plan.name,
        speaker=plan.speaker,
        plan=plan.digest,
        sha256=file.sha256 if statistics else None,
        bytes=file.bytes if statistics else 0,
        members=index.member_places(path) if statistics else {},
        rows=tuple(rows),
        statistics={name: reduce(operator.add, (each[name] for each in statistics)) for name in names},
    )
    atomic_write(folder / receipt_name(plan.name), index.dump_receipt(receipt))
    return receipt


def load_finished(folder: Path, plan: ShardPlan) -> Receipt | None:
    """The shard's receipt if it is of this plan, its tar is whole and its recordings are unchanged."""
    receipt = load_whole(folder, plan)
    if receipt is None or any(row.reason in RETRYABLE for row in receipt.rows) or _recordings_changed(plan, receipt):
        return None
    return receipt


def load_whole(folder: Path, plan: ShardPlan) -> Receipt | None:
    """The shard's receipt if it is of this plan and its tar is whole; recordings are not read."""
    receipt = load_present(folder, plan)
    if receipt is None or (receipt.sha256 and file_sha256(folder / plan.name) != receipt.sha256):
        return None
    return receipt


def load_present(folder: Path, plan: ShardPlan) -> Receipt | None:
    """The shard's receipt if it is of this plan and its tar has the size in it; nothing is hashed."""
    path, tar = folder / receipt_name(plan.name), folder / plan.name
    if not path.is_file():
        return None
    try:
        receipt = index.load_receipt(path)
    except ManifestError:
        return None  # not written by a build of ours: build the shard again
    complete = tar.is_file() and tar.stat().st_size == receipt.bytes if receipt.sha256 else not tar.exists()
    return receipt if complete and receipt.plan == plan.digest else None


def _recordings_changed(plan: ShardPlan, receipt: Receipt) -> bool:
    """Whether a recording's bytes are not those the shard was built from. Hashes decide, never file times."""
    sha256 = cache(recording_sha256)  # turns of a dialogue share a recording
    rows = {row.clip_id: row for row in receipt.rows}
    for source in plan.sources:
        row = rows.get(source.clip.clip_id)
        if row is None or row.sha256 != sha256(source.video):
            return True
        if row.sound_sha256 is not None and row.sound_sha256 != sha256(source.sound):
            return True
    return False
