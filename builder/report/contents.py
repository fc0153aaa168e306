"""A shard folder as the report reads it: index, rows, folds, and the samples of a few clips.

The folder may come from a stranger, so what is drawn is checked first: names, types, sizes, finite times.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.folds import FoldError, FoldFile, read_fold_file
from manifests.index import (
    CLIPS_FILE,
    DATASET_FILE,
    FOLDS,
    Dataset,
    ManifestError,
    Receipt,
    Row,
    Shard,
    Statistics,
    load_dataset,
    load_receipt,
    load_rows,
    local_shards,
)
from manifests.schema import Sample, SchemaError, Timing, decode

_LONGEST_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A finished shard folder."""

    folder: Path
    dataset: Dataset
    rows: tuple[Row, ...]
    """Every source clip, dropped ones too."""
    assignments: Mapping[str, FoldFile]
    """Fold scheme -> who is on which side, the default scheme first."""

    @property
    def kept(self) -> tuple[Row, ...]:
        """Rows of clips that are in a shard."""
        return tuple(row for row in self.rows if row.shard is not None)


def load(folder: Path) -> Contents:
    """Read the index of a finished build. Raises ManifestError."""
    dataset = load_dataset(folder)
    if not dataset.complete:
        raise ManifestError(f"{folder / DATASET_FILE}: an unfinished build; run the same build again to finish it")
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    rows = tuple(load_rows(folder))
    _check_shards(rows, speakers)
    assignments = {name: _assignment(folder, name, speakers) for name in dataset.fold_schemes}
    return Contents(folder=folder, dataset=dataset, rows=rows, assignments=assignments)


def named(contents: Contents, clip_ids: Sequence[str]) -> list[Row]:
    """Rows of the given clips, in the order given. Raises ManifestError for a clip that is in no shard."""
    rows = {row.clip_id: row for row in contents.kept}
    unknown = [clip_id for clip_id in clip_ids if clip_id not in rows]
    if unknown:
        raise ManifestError(f"{contents.folder}: found no clip {unknown[0]!r} in the shards; clips.jsonl lists them")
    return [rows[clip_id] for clip_id in clip_ids]


def samples(contents: Contents, rows: Iterable[Row]) -> Iterator[tuple[Row, Sample]]:
    """Decode the given clips out of their shards. Raises ManifestError."""
    shards = {shard.name: shard for shard in contents.dataset.shards}
    receipts: dict[str, Receipt] = {}
    for row in rows:
        assert row.shard is not None
        shard = shards[row.shard]
        if shard.name not in receipts:
            receipts[shard.name] = load_receipt(contents.folder / shard.receipt)
        yield row, _sample(contents.folder, shard, receipts[shard.name], row.clip_id)


def statistics(contents: Contents) -> dict[str, Statistics]:
    """Spectrogram name -> sums over all shards that are here. Raises ManifestError."""
    sums: dict[str, Statistics] = {}
    for shard in local_shards(contents.folder, contents.dataset):
        for name, found in load_receipt(contents.folder / shard.receipt).statistics.items():
            sums[name] = sums[name] + found if name in sums else found
    return sums


def _sample(folder: Path, shard: Shard, receipt: Receipt, clip_id: str) -> Sample:
    if clip_id not in receipt.members:
        raise ManifestError(f"{folder / shard.receipt}: found no clip {clip_id}, expected it in {shard.name}")
    try:
        sample = decode(_members(folder / shard.name, receipt.members[clip_id]))
        _check_timing(sample.timing)
    except SchemaError as error:
        raise ManifestError(f"{folder / shard.name}: {clip_id}: {error}") from error
    return sample


def _members(tar: Path, places: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """Member suffix -> bytes, read from where the receipt says they are."""
    try:
        with tar.open("rb") as file:
            members = {name: os.pread(file.fileno(), size, at) for name, (at, size) in places.items()}
    except FileNotFoundError as error:
        raise ManifestError(f"{tar}: not there; fetch or build the shard again") from error
    if any(len(data) != places[name][1] for name, data in members.items()):
        raise ManifestError(f"{tar}: ends before its members do; fetch or build the shard again")
    return members


def _assignment(folder: Path, name: str, speakers: Mapping[str, str]) -> FoldFile:
    path = folder / FOLDS / f"{name}.json"
    if not path.is_file():
        raise ManifestError(f"{path}: not there; the index promises it")
    try:
        return read_fold_file(path.read_bytes(), speakers, str(path))
    except FoldError as error:
        raise ManifestError(str(error)) from error


def _check_shards(rows: Iterable[Row], speakers: Mapping[str, str]) -> None:
    for row in rows:
        if row.shard is not None and speakers.get(row.shard) != row.speaker:
            raise ManifestError(f"{CLIPS_FILE}: found {row.clip_id} in {row.shard}, not a shard of {row.speaker}")


def _check_timing(timing: Timing) -> None:
    """Times can be drawn: in order, and within a day. Raises SchemaError."""
    times = (*timing.span_seconds, *timing.instants_seconds, *timing.frame_seconds, timing.audio_start_seconds)
    start, end = timing.span_seconds
    if not start < end or not 1e-6 < timing.step_seconds < _LONGEST_SECONDS or max(map(abs, times)) > _LONGEST_SECONDS:
        raise SchemaError(f"json: found span {timing.span_seconds}, step {timing.step_seconds} s; expected a timeline")
