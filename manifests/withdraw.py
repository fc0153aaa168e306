"""One person out of a folder of shards: their bytes go first, then everything that is said is said anew.

While it is under way a file names who is leaving, so that a killed withdrawal is gone on with, and taken for nothing
else.
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

#: Names who is leaving, while they are.
PENDING_WITHDRAWAL_FILE = ".withdrawing"
_REPORT = "report.html"


class WithdrawError(UserError):
    """Somebody cannot be withdrawn from a folder; one line that says why."""


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """What was removed."""

    speakers: tuple[str, ...]
    shards: int
    clips: int
    bytes: int
    report_removed: bool
    """report.html showed faces; `make report` draws it anew."""
    skipped_schemes: tuple[str, ...]
    """Fold schemes that no longer fit."""


def withdraw(folder: Path, speakers: Sequence[str]) -> Withdrawal:
    """Remove speakers from a finished folder; all other shards and receipts keep their bytes.

    Killed at any point, the same call goes on. Of someone who was withdrawn before there is nothing left to remove.
    Raises WithdrawError for speakers that are not there, for all there are, or a folder that is not whole;
    ManifestError, FolderError, OSError.
    """
    with exclusive_lock(folder, ""):
        remove_leftovers(folder)
        dataset = index.load_dataset(folder)
        leaving = tuple(sorted({*speakers, *_under_way(folder)}))
        if not (folder / PENDING_WITHDRAWAL_FILE).exists():
            _check_whole(folder, dataset)
            if set(leaving) <= set(dataset.withdrawn):
                return Withdrawal(
                    speakers=leaving, shards=0, clips=0, bytes=0, report_removed=False, skipped_schemes=()
                )
        receipts = _receipts(folder)
        _check_speakers(folder, leaving, {*receipts.values(), *dataset.withdrawn}, set(receipts.values()))
        return _remove(folder, dataset, leaving, receipts)


def is_withdrawal_pending(folder: Path) -> bool:
    """Whether a withdrawal was begun here and not ended."""
    return (folder / PENDING_WITHDRAWAL_FILE).exists()


def _remove(folder: Path, dataset: Dataset, leaving: tuple[str, ...], receipts: dict[str, str]) -> Withdrawal:
    atomic_write(folder / PENDING_WITHDRAWAL_FILE, json.dumps(leaving).encode())
    described = replace(dataset, withdrawn=tuple(sorted({*dataset.withdrawn, *leaving})))
    mark_unfinished(folder, described)
    gone = [shard for shard, speaker in receipts.items() if speaker in leaving]
    clips = size = 0
    for shard in gone:
        clips += len(index.load_receipt(folder / index.receipt_name(shard)).rows)
        size += (folder / shard).stat().st_size if (folder / shard).exists() else 0
        (folder / shard).unlink(missing_ok=True)
        (folder / index.receipt_name(shard)).unlink()
    report = folder / _REPORT
    had_report = report.exists()
    report.unlink(missing_ok=True)
    before = set(dataset.fold_schemes)
    written = write_index(folder, described, [shard for shard in receipts if shard not in gone])
    (folder / PENDING_WITHDRAWAL_FILE).unlink()
    return Withdrawal(
        speakers=leaving,
        shards=len(gone),
        clips=clips,
        bytes=size,
        report_removed=had_report,
        skipped_schemes=tuple(sorted(before - set(written.dataset.fold_schemes))),
    )


def _under_way(folder: Path) -> list[str]:
    """Who was leaving when a withdrawal was killed."""
    try:
        return [str(name) for name in json.loads((folder / PENDING_WITHDRAWAL_FILE).read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise WithdrawError(
            f"{folder / PENDING_WITHDRAWAL_FILE}: found no list of speakers; remove it and withdraw again"
        ) from error


def _check_whole(folder: Path, dataset: Dataset) -> None:
    problems = index.verify(folder)
    absent = [shard.receipt for shard in dataset.shards if not (folder / shard.receipt).exists()]
    if absent and not problems:
        raise WithdrawError(f"{folder}: is a part of what was published; withdraw at its source and fetch again")
    if problems:
        raise WithdrawError(f"{folder}: {problems[0]}; restore the folder first")


def _receipts(folder: Path) -> dict[str, str]:
    """Shard -> speaker, from the receipts' names, in a build's order."""
    names = [f"{path.stem}.tar" for path in (folder / index.RECEIPTS).glob("[!.]*.json")]
    speakers = {name: name.rpartition("-")[0] for name in names}
    return dict(sorted(speakers.items(), key=lambda item: (item[1], len(item[0]), item[0])))


def _check_speakers(folder: Path, leaving: Sequence[str], known: set[str], here: set[str]) -> None:
    if unknown := [speaker for speaker in leaving if speaker not in known]:
        there = ", ".join(sorted(here)[:20]) + (", ..." if len(here) > 20 else "")
        raise WithdrawError(f"{folder}: found no speaker {', '.join(unknown)}; there are {there}")
    if here and here <= set(leaving):
        raise WithdrawError(f"{folder}: nobody would be left; delete the folder instead")
