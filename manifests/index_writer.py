"""Everything that is said about finished shards: made from their receipts, one at a time, the sums last.

receipts -> clips.jsonl, folds/*.json, croissant.json, README.md, dataset.json, SHA256SUMS
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import folds, index
from manifests.card import Tally, dataset_card
from manifests.croissant import croissant
from manifests.files import atomic_write, atomic_writer
from manifests.index import Dataset, Receipt, Shard
from manifests.schema import dump_json


@dataclass(frozen=True, kw_only=True)
class WrittenIndex:
    """An index, and what became of the clips in it."""

    dataset: Dataset
    reasons: Mapping[str, int]
    """Clips dropped, by reason."""
    empty_speakers: tuple[str, ...]
    """Speakers of whom nothing was built, sorted."""
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit what was built."""


@dataclass(frozen=True, kw_only=True)
class _Tally:
    """What receipts add up to; rows are counted, not kept."""

    clips: Tally
    shards: list[Shard]
    sums: dict[str, str]


def mark_unfinished(folder: Path, described: Dataset) -> None:
    """Say that the shards are being worked on, and what they are to be, before anything changes. Raises OSError."""
    atomic_write(folder / index.DATASET_FILE, index.dump_dataset(_without_shards(described)))


def write_index(folder: Path, described: Dataset, shards: Sequence[str]) -> WrittenIndex:
    """Write all that is said about finished shards, in their order, those too of which every clip was dropped.

    `described` tells everything but the shards themselves, their counts and folds. Raises ManifestError for a receipt
    that cannot be read, OSError.
    """
    tally, clips_bytes = _read_receipts(folder, shards)
    clips, sums = tally.clips, tally.sums
    schemes, skipped = _write_folds(folder, described.dataset, tally)
    dataset = replace(
        described,
        complete=True,
        shards=tuple(tally.shards),
        fold_schemes=schemes,
        counts=dict(sorted(clips.statuses.items())),
    )
    metadata = croissant(dataset, clips_bytes=clips_bytes, clips_sha256=sums[index.CLIPS_FILE])
    sums[index.CROISSANT_FILE] = atomic_write(folder / index.CROISSANT_FILE, metadata)
    sums["README.md"] = atomic_write(folder / "README.md", dataset_card(dataset, clips).encode())
    sums[index.DATASET_FILE] = atomic_write(folder / index.DATASET_FILE, index.dump_dataset(dataset))
    atomic_write(folder / index.SUMS_FILE, index.dump_sums(sums))
    return WrittenIndex(
        dataset=dataset,
        reasons=clips.reasons,
        empty_speakers=tuple(sorted(speaker for speaker, kept in clips.kept.items() if not kept)),
        skipped_schemes=skipped,
    )


def _without_shards(described: Dataset) -> Dataset:
    return replace(described, complete=False, shards=(), fold_schemes=(), counts={})


def _read_receipts(folder: Path, shards: Sequence[str]) -> tuple[_Tally, int]:
    """Write clips.jsonl from the receipts; what they add up to, and the bytes of clips.jsonl."""
    tally = _Tally(clips=Tally(), shards=[], sums={})
    with atomic_writer(folder / index.CLIPS_FILE) as clips:
        for name in shards:
            path = folder / index.receipt_name(name)
            receipt = index.load_receipt(path)
            clips.write(index.dump_rows(receipt.rows))
            _count(tally, receipt, index.file_sha256(path))
    tally.sums[index.CLIPS_FILE] = clips.sha256
    return tally, clips.bytes


def _count(tally: _Tally, receipt: Receipt, receipt_sha256: str) -> None:
    tally.sums[index.receipt_name(receipt.shard)] = receipt_sha256
    for row in receipt.rows:
        tally.clips.add(row)
    if receipt.sha256 is not None:  # else every clip was dropped, and there is no tar
        tally.sums[receipt.shard] = receipt.sha256
        tally.shards.append(_shard(receipt, receipt.sha256, receipt_sha256))


def _shard(receipt: Receipt, sha256: str, receipt_sha256: str) -> Shard:
    return Shard(
        name=receipt.shard,
        speaker=receipt.speaker,
        sha256=sha256,
        bytes=receipt.bytes,
        samples=len(receipt.members),
        receipt_sha256=receipt_sha256,
    )


def _write_folds(folder: Path, dataset: str, tally: _Tally) -> tuple[tuple[str, ...], dict[str, str]]:
    """`folds/<scheme>.json` for every scheme that fits what was built; the others with the reason."""
    for old in (folder / index.FOLDS).glob("*.json"):
        old.unlink()
    speakers = {shard.name: shard.speaker for shard in tally.shards}
    skipped: dict[str, str] = {}
    written: list[str] = []
    for name in folds.schemes_for(dataset, speakers.values()):
        try:
            scheme = folds.fold_scheme(dataset, name, speakers.values())
            assignment = folds.assign(scheme, speakers, _kept_rows(tally))
        except folds.FoldError as error:
            skipped[name] = str(error)
        else:
            file = f"{index.FOLDS}/{name}.json"
            tally.sums[file] = atomic_write(folder / file, (dump_json(assignment) + "\n").encode())
            written.append(name)
    return tuple(written), skipped


def _kept_rows(tally: _Tally) -> Iterator[dict[str, str]]:
    """Speaker and emotion of every built clip."""
    for speaker, emotions in tally.clips.kept.items():
        for emotion in emotions.elements():
            yield {"speaker": speaker, "emotion": emotion}
