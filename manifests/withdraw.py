"""Removes speakers from a shard folder: deletes their shards, then rewrites the index.

While it runs, a file lists the speakers to remove, so that a killed withdrawal is recognized and can be resumed: by
the same user, with the same speakers. Folders may be untrusted: the file alone never removes anybody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifests import index
from manifests.errors import UserError, module_command
from manifests.files import atomic_write, check_regular, exclusive_lock, read_limited, remove_leftovers
from manifests.index import PENDING_WITHDRAWAL_FILE as PENDING_WITHDRAWAL_FILE
from manifests.index import Dataset
from manifests.index_writer import mark_unfinished, write_index
from manifests.records import SchemaError, from_json
from manifests.schema import NAME
from manifests.text import shorten_list
from manifests.verify import verify

_MAX_PENDING_BYTES = 1 << 20


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
    Raises WithdrawError for unknown speakers, for all speakers of the folder, for an incomplete folder, or for an
    unfinished withdrawal of other speakers or of another user; ManifestError, FolderError, OSError.
    """
    with exclusive_lock(folder, ""):
        check_regular(folder)
        remove_leftovers(folder)
        dataset, leaving = index.load_dataset(folder), tuple(sorted({*speakers}))
        pending = _pending_speakers(folder)
        if pending is not None and pending != leaving:
            command = module_command("manifests", "withdraw", str(folder), *pending)
            raise WithdrawError(
                f"{folder}: found an unfinished withdrawal of {shorten_list(pending)}; if you started it, finish it: "
                f"{command}; if not, restore the folder first"
            )
        resumed = pending is not None and set(leaving) <= set(dataset.withdrawn)
        if not resumed:
            if problems := [each for each in verify(folder) if each.file != PENDING_WITHDRAWAL_FILE]:
                raise WithdrawError(f"{folder}: {problems[0]}; restore the folder first")
            if not all((folder / shard.receipt).exists() for shard in dataset.shards):
                raise WithdrawError(f"{folder}: is a partial copy; withdraw at its source and fetch again")
            if set(leaving) <= set(dataset.withdrawn):
                (folder / PENDING_WITHDRAWAL_FILE).unlink(missing_ok=True)
                return Withdrawal(speakers=leaving)
        shards = _speakers_by_shard(folder)
        present = set(shards.values())
        if unknown := [speaker for speaker in leaving if speaker not in {*present, *dataset.withdrawn}]:
            found = f"{folder}: found no speaker {', '.join(unknown)}"
            valid = [_describe_speaker(dataset, speaker) for speaker in sorted(present)]
            raise WithdrawError(f"{found}; valid are {shorten_list(valid, 20)}")
        if present and present <= set(leaving):
            raise WithdrawError(f"{folder}: no speaker would be left; delete the folder instead")
        withdrawal = _remove(folder, dataset, leaving, shards)
        if resumed and (problems := verify(folder)):  # before it was killed the folder was whole
            raise WithdrawError(f"{folder}: {problems[0]}; restore the folder")
        return withdrawal


def is_withdrawal_pending(folder: Path) -> bool:
    """Whether a folder has an unfinished withdrawal."""
    return os.path.lexists(folder / PENDING_WITHDRAWAL_FILE)


def _pending_speakers(folder: Path) -> tuple[str, ...] | None:
    """Speakers of this user's unfinished withdrawal, sorted; None if there is none."""
    path = folder / PENDING_WITHDRAWAL_FILE
    if not is_withdrawal_pending(folder):
        return None
    if (owner := path.lstat().st_uid) != os.geteuid():
        raise WithdrawError(f"{path}: belongs to user {owner}, who started a withdrawal; restore the folder first")
    try:
        names: tuple[str, ...] = from_json(
            tuple[str, ...], json.loads(read_limited(path, _MAX_PENDING_BYTES)), str(path)
        )
    except (SchemaError, ValueError, RecursionError) as error:
        raise WithdrawError(f"{path}: found no list of speakers; remove it and withdraw again") from error
    if not names or not all(map(NAME.fullmatch, names)):
        raise WithdrawError(f"{path}: found no list of speakers; remove it and withdraw again")
    return tuple(sorted(set(names)))


def _speakers_by_shard(folder: Path) -> dict[str, str]:
    """Shard -> speaker, from the receipts' names, in the order of a build."""
    names = [f"{path.stem}.tar" for path in (folder / index.RECEIPTS).glob("[!.]*.json")]
    return {name: name.rpartition("-")[0] for name in sorted(names, key=index.build_order)}


def _describe_speaker(dataset: Dataset, speaker: str) -> str:
    name = dataset.speaker_name(speaker)
    return speaker if name == speaker else f"{speaker} ({name})"


def _forget_names(dataset: Dataset, leaving: Sequence[str]) -> dict[str, Any]:
    """Metadata of the corpus without the names of speakers."""
    about, names = dict(dataset.about), dataset.about.get(index.SPEAKER_NAMES)
    if isinstance(names, Mapping):
        about[index.SPEAKER_NAMES] = {speaker: name for speaker, name in names.items() if speaker not in leaving}
        if not about[index.SPEAKER_NAMES]:
            del about[index.SPEAKER_NAMES]
    return about


def _remove(folder: Path, dataset: Dataset, leaving: tuple[str, ...], shards: dict[str, str]) -> Withdrawal:
    atomic_write(folder / PENDING_WITHDRAWAL_FILE, json.dumps(leaving).encode())
    description = replace(
        dataset, withdrawn=tuple(sorted({*dataset.withdrawn, *leaving})), about=_forget_names(dataset, leaving)
    )
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
