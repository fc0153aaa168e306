"""Assigns clips to shards, and finds shards that need not be built again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from builder.clip_result import ClipResult, planned_row, recording_sha256
from builder.config import CLIPS_PER_SHARD, digest
from builder.datasets.base import ClipSource
from manifests import index, shard_writer
from manifests.index import ManifestError, Receipt, receipt_name
from manifests.shard_writer import ShardName, load_intact

#: Drop reasons caused by the machine, not by the recording: a retry may succeed.
RETRYABLE = frozenset({"timeout", "worker_died"})


@dataclass(frozen=True, kw_only=True)
class ShardPlan(ShardName):
    """One shard before it is built."""

    sources: tuple[ClipSource, ...]


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
    return shard_writer.write_shard(folder, plan, _in_order(plan, clips))


def _in_order(plan: ShardPlan, clips: Iterable[ClipResult]) -> Iterator[ClipResult]:
    found = []
    for clip in clips:
        found.append(clip.row.clip_id)
        yield clip
    assert found == [source.clip.clip_id for source in plan.sources]


def load_finished(folder: Path, plan: ShardPlan) -> Receipt | None:
    """Load the receipt of a shard of this plan; None unless its tar is intact and its recordings are unchanged."""
    receipt = load_intact(folder, plan)
    if receipt is None or any(row.reason in RETRYABLE for row in receipt.rows) or _recordings_changed(plan, receipt):
        return None
    return receipt


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
