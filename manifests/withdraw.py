"""Removes speakers from a shard folder: deletes their shards, then rewrites the index.

While it runs, a file lists the speakers to remove, so that a killed withdrawal is recognized and can be
resumed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import index
from manifests.errors import UserError
from manifests.files import atomic_write, exclusive_lock, remove_leftovers
from manifests.index import Dataset
from manifests.index_writer import mark_unfinished, write_index
from manifests.text import shorten_list
from manifests.verify import verify

#: Lists the speakers to remove, until they are removed.
PENDING_WITHDRAWAL_FILE = ".withdrawing"


class WithdrawError(UserError):
    """A speaker cannot be withdrawn from a folder; one line with the reason."""


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """Result of a withdrawal."""

    speakers: tuple[str, ...]
    shards: int = 0
    clips: int = 0
    bytes: int = 0
    report_removed: bool = False
    """report.html showed faces; `make report` generates it again."""
    skipped_schemes: tuple[str, ...] = ()
    """Fold schemes that no longer fit."""


def withdraw(folder: Path, speakers: Sequence[str]) -> Withdrawal:
    """Remove speakers from a finished folder; all other shards and receipts keep their bytes.

    If it is killed at any point, the same call resumes. Speakers who were already withdrawn are accepted.
    Raises WithdrawError for unknown speakers, for all speakers of the folder, or for an incomplete folder;
    ManifestError, FolderError, OSError.
    """
    with exclusive_lock(folder, ""):
        remove_leftovers(folder)
        dataset = index.load_dataset(folder)
        leaving = tuple(sorted({*speakers, *_pending_speakers(folder)}))
        if not is_withdrawal_pending(folder):
            if problems := verify(folder):
                raise WithdrawError(f"{folder}: {problems[0]}; restore the folder first")
            if not all((folder / shard.receipt).exists() for shard in dataset.shards):
                raise WithdrawError(f"{folder}: is a partial copy; withdraw at its source and fetch again")
            if set(leaving) <= set(dataset.withdrawn):
                return Withdrawal(speakers=leaving)
        shards = _speakers_by_shard(folder)
        present = set(shards.values())
        if unknown := [speaker for speaker in leaving if speaker not in {*present, *dataset.withdrawn}]:
            found = f"{folder}: found no speaker {', '.join(unknown)}"
            raise WithdrawError(f"{found}; valid are {shorten_list(sorted(present), 20)}")
        if present and present <= set(leaving):
            raise WithdrawError(f"{folder}: no speaker would be left; delete the folder instead")
        return _remove(folder, dataset, leaving, shards)


def is_withdrawal_pending(folder: Path) -> bool:
    """Whether a folder has an unfinished withdrawal."""
    return (folder / PENDING_WITHDRAWAL_FILE).exists()


def _pending_speakers(folder: Path) -> list[str]:
    """Speakers of an unfinished withdrawal."""
    try:
        return [str(name) for name in json.loads((folder / PENDING_WITHDRAWAL_FILE).read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        found = f"{folder / PENDING_WITHDRAWAL_FILE}: found no list of speakers"
        raise WithdrawError(f"{found}; remove it and withdraw again") from error


def _speakers_by_shard(folder: Path) -> dict[str, str]:
    """Shard -> speaker, from the receipts' names, in the order of a build."""
    names = [f"{path.stem}.tar" for path in (folder / index.RECEIPTS).glob("[!.]*.json")]
    speakers = {name: name.rpartition("-")[0] for name in names}
    return dict(sorted(speakers.items(), key=lambda item: (item[1], len(item[0]), item[0])))


def _remove(folder: Path, dataset: Dataset, leaving: tuple[str, ...], shards: dict[str, str]) -> Withdrawal:
    atomic_write(folder / PENDING_WITHDRAWAL_FILE, json.dumps(leaving).encode())
    description = replace(dataset, withdrawn=tuple(sorted({*dataset.withdrawn, *leaving})))
    mark_unfinished(folder, description)
    gone = [shard for shard, speaker in shards.items() if speaker in leaving]
    clips = size = 0
    for shard in gone:
        clips += len(index.load_receipt(folder / index.receipt_name(shard)).rows)
        size += (folder / shard).stat().st_size if (folder / shard).exists() else 0
        (folder / shard).unlink(missing_ok=True)
        (folder / index.receipt_name(shard)).unlink()
    report_removed = (folder / index.REPORT_FILE).exists()
    (folder / index.REPORT_FILE).unlink(missing_ok=True)
    written = write_index(folder, description, [shard for shard in shards if shard not in gone])
    (folder / PENDING_WITHDRAWAL_FILE).unlink()
    return Withdrawal(
        speakers=leaving,
        shards=len(gone),
        clips=clips,
        bytes=size,
        report_removed=report_removed,
        skipped_schemes=tuple(sorted(set(dataset.fold_schemes) - set(written.dataset.fold_schemes))),
    )
