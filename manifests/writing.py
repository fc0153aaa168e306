"""Everything that is said about finished shards: made from their receipts, one at a time, the sums last.

receipts -> clips.jsonl, folds/*.json, croissant.json, README.md, dataset.json, SHA256SUMS
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import folds, index
from manifests.card import dataset_card
from manifests.croissant import croissant
from manifests.files import publish, published
from manifests.index import Dataset, Receipt, Shard
from manifests.schema import dump_json
from manifests.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Written:
    """An index, and what became of the clips in it."""

    dataset: Dataset
    reasons: Mapping[str, int]
    """Clips dropped, by reason."""
    empty_speakers: tuple[str, ...]
    """Speakers of whom nothing was built, sorted."""
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit what was built."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What receipts add up to."""

    tally: Tally
    shards: list[Shard]
    sums: dict[str, str]


def mark_unfinished(folder: Path, described: Dataset) -> None:
    """Say that the shards are being worked on, and what they are to be, before anything changes. Raises OSError."""
    publish(folder / index.DATASET_FILE, index.dump_dataset(_without_shards(described)))


def write_index(folder: Path, described: Dataset, shards: Sequence[str]) -> Written:
    """Write all that is said about finished shards, in their order, those too of which every clip was dropped.

    `described` tells everything but the shards themselves, their counts and folds. Raises ManifestError for a receipt
    that cannot be read, OSError.
    """
    found, clips_bytes = _read_receipts(folder, shards)
    tally, sums = found.tally, found.sums
    schemes, skipped = _write_folds(folder, described.dataset, found)
    dataset = replace(
        described,
        complete=True,
        shards=tuple(found.shards),
        fold_schemes=schemes,
        counts=dict(sorted(tally.statuses.items())),
    )
    metadata = croissant(dataset, clips_bytes=clips_bytes, clips_sha256=sums[index.CLIPS_FILE])
    sums[index.CROISSANT_FILE] = publish(folder / index.CROISSANT_FILE, metadata)
    sums["README.md"] = publish(folder / "README.md", dataset_card(dataset, tally).encode())
    sums[index.DATASET_FILE] = publish(folder / index.DATASET_FILE, index.dump_dataset(dataset))
    publish(folder / index.SUMS_FILE, index.dump_sums(sums))
    return Written(
        dataset=dataset,
        reasons=tally.reasons,
        empty_speakers=tuple(sorted(tally.kept.keys() - tally.speakers.keys())),
        skipped_schemes=skipped,
    )


def _without_shards(described: Dataset) -> Dataset:
    return replace(described, complete=False, shards=(), fold_schemes=(), counts={})


def _read_receipts(folder: Path, shards: Sequence[str]) -> tuple[_Found, int]:
    """Write clips.jsonl from the receipts; what they add up to, and the bytes of clips.jsonl."""
    found = _Found(tally=Tally(), shards=[], sums={})
    with published(folder / index.CLIPS_FILE) as clips:
        for name in shards:
            path = folder / index.receipt_name(name)
            receipt = index.load_receipt(path)
            clips.write(index.dump_rows(receipt.rows))
            _add(found, receipt, index.file_sha256(path))
    found.sums[index.CLIPS_FILE] = clips.sha256
    return found, clips.bytes


def _add(found: _Found, receipt: Receipt, receipt_sha256: str) -> None:
    found.sums[index.receipt_name(receipt.shard)] = receipt_sha256
    for row in receipt.rows:
        found.tally.add(row)
    if receipt.sha256 is not None:  # else every clip was dropped, and there is no tar
        found.sums[receipt.shard] = receipt.sha256
        found.shards.append(_shard(receipt, receipt.sha256, receipt_sha256))


def _shard(receipt: Receipt, sha256: str, receipt_sha256: str) -> Shard:
    return Shard(
        name=receipt.shard,
        speaker=receipt.speaker,
        sha256=sha256,
        bytes=receipt.bytes,
        samples=len(receipt.members),
        receipt_sha256=receipt_sha256,
        statistics=receipt.statistics,
    )


def _write_folds(folder: Path, dataset: str, found: _Found) -> tuple[tuple[str, ...], dict[str, str]]:
    """`folds/<scheme>.json` for every scheme that fits what was built; the others with the reason."""
    for old in (folder / index.FOLDS).glob("*.json"):
        old.unlink()
    speakers = {shard.name: shard.speaker for shard in found.shards}
    skipped: dict[str, str] = {}
    written: list[str] = []
    for name in folds.schemes_for(dataset, found.tally.speakers):
        try:
            scheme = folds.fold_scheme(dataset, name, speakers.values())
            assignment = folds.assign(scheme, speakers, _kept_rows(found.tally))
        except folds.FoldError as error:
            skipped[name] = str(error)
        else:
            file = f"{index.FOLDS}/{name}.json"
            found.sums[file] = publish(folder / file, (dump_json(assignment) + "\n").encode())
            written.append(name)
    return tuple(written), skipped


def _kept_rows(tally: Tally) -> Iterator[dict[str, str]]:
    """Speaker and emotion of every built clip."""
    for speaker, emotions in tally.kept.items():
        for emotion in emotions.elements():
            yield {"speaker": speaker, "emotion": emotion}
