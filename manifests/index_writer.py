"""Writes the index of finished shards from their receipts, one at a time; `SHA256SUMS` is written last.

receipts -> clips.jsonl, folds/*.json, croissant.json, README.md, dataset.json, SHA256SUMS
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import folds, index
from manifests.card import ClipCounts, dataset_card
from manifests.corpora import corpus_facts
from manifests.croissant import croissant
from manifests.files import atomic_write, atomic_writer, check_regular, exclusive_lock
from manifests.folds import FoldFile
from manifests.index import Dataset, Shard
from manifests.label_counts import LabelCounts, count_labels
from manifests.schema import INCOMPLETE_FLAGS
from manifests.splits import read_split, restrict_split


@dataclass(frozen=True, kw_only=True)
class WrittenIndex:
    """An index, and counts of its clips."""

    dataset: Dataset
    reasons: Mapping[str, int]
    """Reason -> number of dropped clips."""
    incomplete: Mapping[str, int]
    """Flag of incomplete clips -> number of built clips that have it."""
    empty_speakers: tuple[str, ...]
    """Speakers without a built clip, sorted."""
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit the built speakers."""
    labels: LabelCounts
    """Raw emotion -> speaker -> number of built clips."""


def mark_unfinished(folder: Path, description: Dataset) -> None:
    """Write an index without shards, marked as unfinished, before any file changes. Raises OSError."""
    unfinished = replace(description, complete=False, shards=(), fold_schemes=(), counts={})
    atomic_write(folder / index.DATASET_FILE, index.dump_dataset(unfinished))


def write_index(folder: Path, description: Dataset, shards: Sequence[str]) -> WrittenIndex:
    """Write the index of finished shards, in order, including those with only dropped clips.

    `description` has all fields except shards, counts and fold schemes. Raises ManifestError for a receipt
    that cannot be read, FoldError for a split of one's own that cannot be read, OSError.
    """
    own = _own_splits(folder, description.dataset)
    tally, records, sums = ClipCounts(), list[Shard](), dict[str, str]()
    built = Counter[tuple[str, str | None, str]]()  # (speaker, sentence, emotion); there may be millions of sentences
    by_text = corpus_facts(description.dataset).shared_text is not None
    with atomic_writer(folder / index.CLIPS_FILE) as clips:
        for name in shards:
            path = folder / index.receipt_name(name)
            receipt, receipt_sha256 = index.load_receipt(path), index.file_sha256(path)
            sums[index.receipt_name(receipt.shard)] = receipt_sha256
            clips.write(index.dump_rows(receipt.rows))
            for row in receipt.rows:
                tally.add(row)
                if row.shard:
                    built[row.speaker, row.sentence if by_text else None, row.raw_label] += 1
            if receipt.sha256 is None:  # every clip was dropped, and there is no tar
                continue
            sums[receipt.shard] = receipt.sha256
            records.append(
                Shard(
                    name=receipt.shard,
                    speaker=receipt.speaker,
                    sha256=receipt.sha256,
                    bytes=receipt.bytes,
                    samples=len(receipt.members),
                    receipt_sha256=receipt_sha256,
                )
            )
    sums[index.CLIPS_FILE] = clips.sha256
    speakers = {shard.name: shard.speaker for shard in records}
    schemes, skipped = _write_folds(folder, description.dataset, speakers, built, own)
    sums |= {f"{index.FOLDS}/{name}.json": sha256 for name, sha256 in schemes.items()}
    dataset = replace(
        description,
        complete=True,
        shards=tuple(records),
        fold_schemes=tuple(schemes),
        counts=dict(sorted(tally.statuses.items())),
    )
    metadata = croissant(dataset, clips_bytes=clips.bytes, clips_sha256=sums[index.CLIPS_FILE])
    sums[index.CROISSANT_FILE] = atomic_write(folder / index.CROISSANT_FILE, metadata)
    sums[index.CARD_FILE] = atomic_write(folder / index.CARD_FILE, dataset_card(dataset, tally).encode())
    sums[index.DATASET_FILE] = atomic_write(folder / index.DATASET_FILE, index.dump_dataset(dataset))
    atomic_write(folder / index.SUMS_FILE, index.dump_checksums(sums))
    return WrittenIndex(
        dataset=dataset,
        reasons=tally.reasons,
        incomplete={flag: tally.flags[flag] for flag in sorted(INCOMPLETE_FLAGS) if tally.flags[flag]},
        empty_speakers=tuple(sorted(speaker for speaker, kept in tally.kept.items() if not kept)),
        skipped_schemes=skipped,
        labels=count_labels((emotion, speaker) for speaker, _, emotion in built.elements()),
    )


def _own_splits(folder: Path, dataset: str) -> dict[str, FoldFile]:
    """Splits of one's own that a folder has, by name. Raises FoldError for one that cannot be read: it is not ours."""
    own: dict[str, FoldFile] = {}
    for path in sorted((folder / index.FOLDS).glob("[!.]*.json")):
        if path.stem not in (*folds.GENERATED, *corpus_facts(dataset).fold_schemes):
            try:
                own[path.stem] = folds.parse_fold_file(path.read_bytes(), str(path))
            except folds.FoldError as error:
                raise folds.FoldError(f"{error}; move the file out of the folder, then run the same command") from error
    return own


def _write_folds(
    folder: Path,
    dataset: str,
    speakers: Mapping[str, str],
    built: Counter[tuple[str, str | None, str]],
    own: Mapping[str, FoldFile],
) -> tuple[dict[str, str], dict[str, str]]:
    """Write a fold file for every scheme that fits. Returns scheme -> SHA-256, and scheme -> reason for the others.

    `speakers` is shard -> speaker, `built` counts clips by speaker, sentence and emotion. The splits in `own` stay,
    without speakers and clips that the folder no longer has; `clips.jsonl` is written before. A file is only ever
    replaced, and what no longer fits is removed last, so that a kill at any point loses no split.
    """
    names = folds.fold_schemes_for(dataset, speakers.values())
    written: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name in names:
        rows = (
            {"speaker": speaker, "sentence": sentence, "emotion": emotion}
            for speaker, sentence, emotion in built.elements()
        )
        try:
            scheme = folds.fold_scheme(dataset, name, speakers.values())
            content = folds.dump_fold_file(folds.assign(scheme, speakers, rows))
        except folds.FoldError as error:
            skipped[name] = str(error)
        else:
            written[name] = atomic_write(folder / index.FOLDS / f"{name}.json", content)
    for name, file in own.items():
        restricted = restrict_split(file, speakers, index.load_rows(folder))
        written[name] = atomic_write(folder / index.FOLDS / f"{name}.json", folds.dump_fold_file(restricted))
    for old in (folder / index.FOLDS).glob("[!.]*.json"):
        if old.stem not in written:
            old.unlink()
    return written, skipped


def add_split(folder: Path, table: Path, *, allow_shared_speakers: bool = False) -> FoldFile:
    """Add the folds of a table to a finished folder, so that they can be shared and named like its other schemes.

    Shards and receipts keep their bytes. If it is killed, the same call finishes it. Raises FoldError or TableError for
    a table that cannot be used, ManifestError for a folder that is a partial copy, FolderError, OSError.
    """
    with exclusive_lock(folder, ""):
        check_regular(folder)
        dataset = index.load_dataset(folder)
        names = [f"{path.stem}.tar" for path in (folder / index.RECEIPTS).glob("[!.]*.json")]
        if not all((folder / shard.receipt).exists() for shard in dataset.shards):
            raise index.ManifestError(f"{folder}: is a partial copy; add folds at its source and fetch again")
        rows = list(index.load_rows(folder))
        speakers = {row.shard: row.speaker for row in rows if row.shard is not None}
        file = read_split(table, dataset, speakers, rows, allow_shared_speakers=allow_shared_speakers)
        mark_unfinished(folder, dataset)
        atomic_write(folder / index.FOLDS / f"{file.name}.json", folds.dump_fold_file(file))
        write_index(folder, dataset, sorted(names, key=index.build_order))
        return file
