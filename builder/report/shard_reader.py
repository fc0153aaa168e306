"""Reads a shard folder for the report: index, rows, folds, and the samples of a few clips.

The folder may be untrusted, so names, types, sizes and times are checked before they are used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from builder.report.sequences import decode_as_pairs, draw_all_frames
from manifests.files import open_regular
from manifests.folds import FoldError, FoldFile, load_fold_file
from manifests.index import (
    CLIPS_FILE,
    DATASET_FILE,
    FOLDS,
    Dataset,
    ManifestError,
    Receipt,
    Row,
    SpectrogramSums,
    load_dataset,
    load_receipt,
    load_rows,
    local_shards,
)
from manifests.kinds import PAIRS, SEQUENCES, TOKENS
from manifests.schema import Sample, SchemaError, Timing, decode

_LONGEST_SECONDS = 24 * 3600.0
_Decoded = TypeVar("_Decoded")


@dataclass(frozen=True, kw_only=True)
class ReportFolder:
    """The index of a finished build."""

    folder: Path
    dataset: Dataset
    rows: tuple[Row, ...]
    """One row per clip, including dropped ones."""
    assignments: Mapping[str, FoldFile]
    """Fold scheme -> content of its fold file, the default scheme first."""

    @property
    def kept(self) -> tuple[Row, ...]:
        """Rows of clips that are in a shard."""
        return tuple(row for row in self.rows if row.shard is not None)


def read_folder(folder: Path) -> ReportFolder:
    """Read the index of a finished build. Raises ManifestError."""
    dataset = load_dataset(folder)
    if dataset.kind == TOKENS:
        raise ManifestError(
            f"{folder}: found shards of tokens, which have no pictures, expected those they were made of"
        )
    if not dataset.complete:
        raise ManifestError(f"{folder / DATASET_FILE}: an unfinished build; run the same command again to finish it")
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    rows = tuple(load_rows(folder))
    for row in rows:
        if row.shard is not None and speakers.get(row.shard) != row.speaker:
            raise ManifestError(f"{CLIPS_FILE}: found {row.clip_id} in {row.shard}, not a shard of {row.speaker}")
    assignments = {name: _read_folds(folder / FOLDS / f"{name}.json", speakers) for name in dataset.fold_schemes}
    return ReportFolder(folder=folder, dataset=dataset, rows=rows, assignments=assignments)


def find_rows(build: ReportFolder, clip_ids: Sequence[str]) -> list[Row]:
    """Find the rows of clips, in the given order. Raises ManifestError for a clip that is in no shard."""
    rows = {row.clip_id: row for row in build.kept}
    unknown = [clip_id for clip_id in clip_ids if clip_id not in rows]
    if unknown:
        raise ManifestError(f"{build.folder}: found no clip {unknown[0]!r} in the shards; clips.jsonl lists them")
    return [rows[clip_id] for clip_id in clip_ids]


def read_samples(build: ReportFolder, rows: Iterable[Row]) -> Iterator[tuple[Row, Sample]]:
    """Decode the given clips from their shards; of sequences as a build of pairs has them. Raises ManifestError."""

    def decode_any(members: Mapping[str, bytes]) -> Sample:
        pairs = build.dataset.kind == PAIRS
        sample = decode(members) if pairs else decode_as_pairs(members, build.dataset.features)
        _check_timing(sample.timing)
        return sample

    return _decode_members(build, rows, decode_any)


def read_strips(build: ReportFolder, rows: Iterable[Row]) -> dict[str, npt.NDArray[np.uint8]]:
    """Clip id -> picture of all of its frames, of clips of sequences. Raises ManifestError."""
    if build.dataset.kind != SEQUENCES:
        return {}
    return {row.clip_id: strip for row, strip in _decode_members(build, rows, draw_all_frames)}


def _decode_members(
    build: ReportFolder, rows: Iterable[Row], decode: Callable[[Mapping[str, bytes]], _Decoded]
) -> Iterator[tuple[Row, _Decoded]]:
    shards = {shard.name: shard for shard in build.dataset.shards}
    receipts: dict[str, Receipt] = {}
    for row in rows:
        assert row.shard is not None
        tar, receipt_file = build.folder / row.shard, build.folder / shards[row.shard].receipt
        if row.shard not in receipts:
            receipts[row.shard] = load_receipt(receipt_file)
        members = receipts[row.shard].members.get(row.clip_id)
        if members is None:
            raise ManifestError(f"{receipt_file}: found no clip {row.clip_id}, expected it in {row.shard}")
        try:
            decoded = decode(_read_members(tar, members))
        except SchemaError as error:
            raise ManifestError(f"{tar}: {row.clip_id}: {error}") from error
        yield row, decoded


def sum_statistics(build: ReportFolder) -> dict[str, SpectrogramSums]:
    """Spectrogram name -> sums over all shards in the folder. Raises ManifestError."""
    sums: dict[str, SpectrogramSums] = {}
    for shard in local_shards(build.folder, build.dataset):
        for name, found in load_receipt(build.folder / shard.receipt).statistics.items():
            sums[name] = sums[name] + found if name in sums else found
    return sums


def _read_members(tar: Path, places: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """Member suffix -> bytes, read at the (offset, size) in the receipt."""
    try:
        with open_regular(tar, os.O_RDONLY | os.O_NOFOLLOW) as file:
            members = {name: os.pread(file.fileno(), size, at) for name, (at, size) in places.items()}
    except FileNotFoundError as error:
        raise ManifestError(f"{tar}: missing; fetch or build the shard again") from error
    if any(len(data) != places[name][1] for name, data in members.items()):
        raise ManifestError(f"{tar}: truncated; fetch or build the shard again")
    return members


def _read_folds(path: Path, speakers: Mapping[str, str]) -> FoldFile:
    try:
        return load_fold_file(path, speakers)
    except FoldError as error:
        raise ManifestError(str(error)) from error


def _check_timing(timing: Timing) -> None:
    """Raise SchemaError unless times are in order and within a day."""
    times = (*timing.span_seconds, *timing.instants_seconds, *timing.frame_seconds, timing.audio_start_seconds)
    start, end = timing.span_seconds
    if not start < end or not 1e-6 < timing.step_seconds < _LONGEST_SECONDS or max(map(abs, times)) > _LONGEST_SECONDS:
        raise SchemaError(f"json: found span {timing.span_seconds}, step {timing.step_seconds} s; expected a timeline")
