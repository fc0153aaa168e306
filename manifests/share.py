"""Uploads a finished, verified shard folder to a store.

The copy is a normal shard folder: `sha256sum -c`, `verify` and WebDataset readers work with it. `dataset.json` and
`SHA256SUMS` are written last and removed first, so that an incomplete copy never looks finished. `SHARED.json` is
written first: it identifies the shards, and records the terms on which they were shared.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests import index, licensing
from manifests.download import ExpectedFile, download_file
from manifests.index import Dataset
from manifests.progress import ProgressBar
from manifests.schema import dump_json
from manifests.stores import LocalFile, LocalStore, StoreError, WritableStore
from manifests.text import config_diff, one_line, shorten_list
from manifests.verify import Problem, verify

#: Files that mark a folder as complete, in the order in which they are written.
_LAST = (index.DATASET_FILE, index.SUMS_FILE)
#: Names of files that sharing writes; other files at the destination are not changed.
_SHARED_NAME = re.compile(
    r"[A-Za-z0-9_-]+-[0-9]{3,6}\.tar|(receipts|folds)/[A-Za-z0-9_-]+\.json|"
    r"dataset\.json|clips\.jsonl|croissant\.json|SHARED\.json|SHA256SUMS|README\.md|report\.html"
)


class ShareError(StoreError):
    """A folder cannot be shared; one line with the reason and what to do."""


class VerificationError(ShareError):
    """The folder differs from its index."""

    def __init__(self, folder: Path, problems: Sequence[Problem]) -> None:
        super().__init__(f"{folder}: not shared, because it differs from its index")
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """How to share; only `affirmed` is recorded at the destination."""

    affirmed: str | None = None
    """What the user affirms about the recipient, for shards that are not redistributable."""
    public: bool = False
    """Whether the copy may be public, on stores with private repositories."""
    report: bool = True
    """Whether to include `report.html`, which shows faces."""
    prune: bool = False
    """Remove files at the destination that the folder no longer has."""


@dataclass(frozen=True, kw_only=True)
class ShareResult:
    """Result of sharing."""

    files: int
    """Number of files at the destination, all with verified hashes."""
    bytes: int
    sent: int
    sent_bytes: int
    removed: tuple[str, ...]
    others: tuple[str, ...]
    """Files at the destination that were not shared from a shard folder; they are not changed."""


def share(folder: Path, store: WritableStore, options: ShareOptions) -> ShareResult:
    """Upload the files in a folder's index to a store. If it is killed at any point, the same call resumes.

    Raises ShareError, VerificationError for a damaged or unfinished folder, StoreError, ManifestError for an index
    that cannot be read; the store may have been created by then, but no file was changed.
    """
    dataset = index.load_dataset(folder)
    affirmed = _check_terms(dataset, options)
    if isinstance(store, LocalStore):
        source, target = folder.resolve(), store.path.resolve()
        if source.is_relative_to(target) or target.is_relative_to(source):
            raise ShareError(f"{store.address}: one of it and {folder} contains the other; choose another DEST=")
    _verify_folder(folder, full=False)  # hashes take minutes: first check whether the store can be reached
    with tempfile.TemporaryDirectory() as scratch, store.open_for_writing(public=options.public):
        path, mark = Path(scratch) / index.SHARED_FILE, {"dataset": dataset.dataset, "identity": dataset.identity}
        path.write_text(dump_json({"affirmed": affirmed, **mark}) + "\n", encoding="utf-8")
        local = (_local_file(path, index.SHARED_FILE), *_list_files(folder, options.report))
        files = {file.name: file for file in local}
        remote = store.list_files()
        _check_same_shards(mark, store, remote, Path(scratch) / "remote")
        gone = sorted(name for name in remote.keys() - files.keys() if _SHARED_NAME.fullmatch(name))
        if gone and not options.prune:
            found = f"{store.address}: contains files that are no longer in {folder}: {shorten_list(gone, 20)}"
            raise ShareError(f"{found}; PRUNE=1 removes them")
        _verify_folder(folder, full=True)
        missing = _find_missing(store, files, remote)
        sent = _update(store, files, missing, gone, remote) if missing or gone else []
        return ShareResult(
            files=len(files),
            bytes=sum(file.bytes for file in files.values()),
            sent=len(sent),
            sent_bytes=sum(file.bytes for file in sent),
            removed=tuple(gone),
            others=tuple(sorted(remote.keys() - files.keys() - set(gone))),
        )


def _check_terms(dataset: Dataset, options: ShareOptions) -> str | None:
    """Raise ShareError if the licence forbids sharing. Returns the affirmation, if one was needed."""
    if licensing.redistributable(dataset):
        return None
    if options.public:
        raise ShareError(f"{dataset.dataset}: its licence forbids redistribution, so it cannot be public")
    if options.affirmed != licensing.affirmation(dataset):
        raise ShareError(
            f"{dataset.dataset}: its licence forbids redistribution to recipients who do not have it "
            f"({licensing.about(dataset, 'licence') or 'no licence in the index'}); if the recipient has it, "
            f'set AFFIRM="{licensing.affirmation(dataset)}"'
        )
    return options.affirmed


def _verify_folder(folder: Path, *, full: bool) -> None:
    total = len(index.load_checksums(folder)) if full else 0
    with ProgressBar(total, "verifying the folder", unit="file") as progress:
        problems = verify(folder, full=full, on_file=lambda _: progress.step())
    if problems:
        raise VerificationError(folder, problems)


def _list_files(folder: Path, report: bool) -> Iterator[LocalFile]:
    """The files in a folder's `SHA256SUMS`, with their hashes, and its report."""
    for name, sha256 in index.load_checksums(folder).items():
        if not (folder / name).is_file():
            raise ShareError(f"{folder}: incomplete, {name} is missing; only a complete folder can be shared")
        yield _local_file(folder / name, name, sha256)
    yield _local_file(folder / index.SUMS_FILE, index.SUMS_FILE)
    if report and (folder / index.REPORT_FILE).is_file():
        yield _local_file(folder / index.REPORT_FILE, index.REPORT_FILE)


def _local_file(path: Path, name: str, sha256: str | None = None) -> LocalFile:
    return LocalFile(name=name, path=path, bytes=path.stat().st_size, sha256=sha256 or index.file_sha256(path))


def _check_same_shards(mark: Mapping[str, Any], store: WritableStore, remote: Mapping[str, int], scratch: Path) -> None:
    """Raise ShareError for a store that contains other shards, or files of another kind."""
    marks = [name for name in (index.SHARED_FILE, index.DATASET_FILE) if name in remote]
    if remote and not marks:
        found = f"{store.address}: contains {one_line(min(remote))} but is not a shard folder"
        raise ShareError(f"{found}; choose an empty DEST=")
    for name in marks:
        download_file(store, scratch, ExpectedFile(name=name))
        try:
            found = json.loads((scratch / name).read_bytes())
            changed = config_diff({key: found[key] for key in mark}, mark)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShareError(f"{store.address}: its {name} is of another kind; choose an empty DEST=") from error
        if changed:
            what = "; ".join(line[:200] for line in changed[:20])
            raise ShareError(f"{store.address}: contains other shards ({what}); choose another DEST=")


def _find_missing(store: WritableStore, files: Mapping[str, LocalFile], remote: Mapping[str, int]) -> set[str]:
    """Names of files that are missing from the store, or have other bytes."""
    same_size = [file for file in files.values() if remote.get(file.name) == file.bytes]
    missing = files.keys() - {file.name for file in same_size}
    if same_size:
        with ProgressBar(len(same_size), "checking the destination", unit="file") as progress:
            for file, intact in zip(same_size, store.check(same_size), strict=True):
                progress.step("intact" if intact else "to send again")
                missing |= set() if intact else {file.name}
    return missing


def _update(
    store: WritableStore,
    files: Mapping[str, LocalFile],
    missing: Collection[str],
    gone: Sequence[str],
    remote: Mapping[str, int],
) -> list[LocalFile]:
    """Update the store; returns the sent files. Until it is complete, it has none of the files in `_LAST`."""
    first = [name for name in missing if name == index.SHARED_FILE]
    rest = sorted(name for name in missing if name not in (index.SHARED_FILE, *_LAST))
    sent: list[LocalFile] = []
    with ProgressBar(sum(files[name].bytes for name in (*first, *rest, *_LAST)), "sharing", unit="B") as progress:

        def send(*names: str) -> None:
            for file in store.send([files[name] for name in names]):
                progress.step("sent", by=file.bytes)
                sent.append(file)

        send(*first)
        for names in ([name for name in reversed(_LAST) if name in remote], gone):
            if names:
                store.remove(names)
        send(*rest)
        for name in _LAST:
            send(name)
    return sent
