"""Which clips go into which shard, and writing one: a deterministic tar first, its receipt last."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import groupby
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from builder.config import CLIPS_A_SHARD, digest
from builder.datasets.base import ClipSource
from builder.rows import BuiltClip, planned_row, recording_sha256
from manifests.files import atomic_write, atomic_writer
from manifests.index import (
    ManifestError,
    Receipt,
    Row,
    Statistics,
    dump_receipt,
    file_sha256,
    load_receipt,
    member_places,
    receipt_name,
)

#: Reasons that lie in the machine and its load, not in the recording: another run may do better.
PASSING = frozenset({"timeout", "worker_died"})


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
            content = {"build": build_digest, "clips": [_content(source, root) for source in chosen]}
            name = f"{speaker}-{part:03d}.tar"
            plans.append(ShardPlan(name=name, speaker=speaker, sources=chosen, digest=digest(content)))
    return plans


def _content(source: ClipSource, root: Path) -> dict[str, Any]:
    """All that is known of a clip before its files are opened."""
    return vars(planned_row(source, root)) | {
        "segment": source.segment_seconds,
        "region": source.region,
        "known_defect": source.known_defect,
        "known_flags": source.known_flags,
    }


def write_shard(folder: Path, plan: ShardPlan, clips: Iterable[BuiltClip]) -> Receipt:
    """Write the tar of the clips that were built, then the receipt of all. Clips may come lazily, in plan order."""
    path = folder / plan.name
    rows: list[Row] = []
    statistics: list[dict[str, Statistics]] = []
    with atomic_writer(path) as file:
        # Fixed times and owners: same samples, same bytes. A time that is a float would cost a header of its own.
        with TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
            for clip in clips:
                kept = clip.members is not None
                rows.append(replace(clip.row, shard=plan.name) if kept else clip.row)
                if clip.members is not None:
                    tar.write({"__key__": clip.row.clip_id, **clip.members})
                    statistics.append(dict(clip.statistics))
        assert [row.clip_id for row in rows] == [source.clip.clip_id for source in plan.sources]
    if not statistics:
        path.unlink()
    receipt = Receipt(
        shard=plan.name,
        speaker=plan.speaker,
        plan=plan.digest,
        sha256=file.sha256 if statistics else None,
        bytes=file.bytes if statistics else 0,
        members=member_places(path) if statistics else {},
        rows=tuple(rows),
        statistics=_added(statistics),
    )
    atomic_write(folder / receipt_name(plan.name), dump_receipt(receipt))
    return receipt


def finished(folder: Path, plan: ShardPlan) -> Receipt | None:
    """The shard's receipt, if it is of this plan, its tar is whole and its recordings are still the same."""
    receipt = whole(folder, plan)
    if receipt is None or any(row.reason in PASSING for row in receipt.rows) or _changed(plan, receipt):
        return None
    return receipt


def whole(folder: Path, plan: ShardPlan) -> Receipt | None:
    """The shard's receipt, if it is of this plan and its tar is whole; recordings are not looked at."""
    receipt = _receipt(folder, plan)
    if receipt is None or not _has_its_size(folder, receipt):
        return None
    if receipt.sha256 is not None and file_sha256(folder / receipt.shard) != receipt.sha256:
        return None
    return receipt


def is_there(folder: Path, plan: ShardPlan) -> bool:
    """Whether the shard has a receipt of this plan and a tar of the size that it promises; nothing is hashed."""
    receipt = _receipt(folder, plan)
    return receipt is not None and _has_its_size(folder, receipt)


def _receipt(folder: Path, plan: ShardPlan) -> Receipt | None:
    path = folder / receipt_name(plan.name)
    if not path.is_file():
        return None
    try:
        receipt = load_receipt(path)
    except ManifestError:
        return None  # whatever wrote it was no build of ours; build the shard again
    return receipt if receipt.plan == plan.digest else None


def _has_its_size(folder: Path, receipt: Receipt) -> bool:
    path = folder / receipt.shard
    if receipt.sha256 is None:
        return not path.exists()
    return path.is_file() and path.stat().st_size == receipt.bytes


def _changed(plan: ShardPlan, receipt: Receipt) -> bool:
    """A recording's bytes are not those the shard was built from. Hashes decide, never file times."""
    sha256 = cache(recording_sha256)  # turns of a dialogue share a recording
    rows = {row.clip_id: row for row in receipt.rows}
    for source in plan.sources:
        row = rows.get(source.clip.clip_id)
        if row is None or row.sha256 != sha256(source.video):
            return True
        if row.sound_sha256 is not None and row.sound_sha256 != sha256(source.sound):
            return True
    return False


def _added(statistics: Sequence[dict[str, Statistics]]) -> dict[str, Statistics]:
    names = statistics[0] if statistics else ()
    return {name: reduce(operator.add, (each[name] for each in statistics)) for name in names}
