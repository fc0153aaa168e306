"""Publish: a finished folder of shards, whole and checked, to a place that others read from.

The far end is a folder like any other: `sha256sum -c`, `verify` and the field's readers work there. `dataset.json` and
`SHA256SUMS` come last and go first, so that a place that is not whole never looks finished; `SHARED.json`, which comes
first, says whose it is meanwhile, and on what terms it was passed on.
"""

from __future__ import annotations

import json
import re
import reprlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifests import index, licensing
from manifests.index import Dataset, Problem
from manifests.progress import ProgressBar
from manifests.schema import dump_json
from manifests.stores.destinations import Destination, Directory, File, ShareError

REPORT = "report.html"
#: What says that a folder is whole, in the order in which it is written.
_LAST = (index.DATASET_FILE, index.SUMS_FILE)
_OURS = re.compile(
    r"[A-Za-z0-9_-]+-[0-9]{3,6}\.tar|(receipts|folds)/[A-Za-z0-9_-]+\.json|"
    r"dataset\.json|clips\.jsonl|croissant\.json|SHARED\.json|SHA256SUMS|README\.md|report\.html"
)


class NotWholeError(ShareError):
    """The folder is not as its index promises."""

    def __init__(self, folder: Path, problems: Sequence[Problem]) -> None:
        super().__init__(f"{folder}: not shared, since it is not as its index promises")
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """How to share; only `affirmed` is passed on."""

    affirmed: str | None = None
    """What the user says of the receiver, for shards that may not be passed on to everybody."""
    public: bool = False
    """Everybody may see it, where the destination can tell."""
    report: bool = True
    """With `report.html`, which shows faces."""
    prune: bool = False
    """Remove at the far end what is gone from the folder."""


@dataclass(frozen=True, kw_only=True)
class ShareResult:
    """What sharing did."""

    files: int
    """At the far end, all of them with the right hash."""
    bytes: int
    sent: int
    sent_bytes: int
    removed: tuple[str, ...]
    others: tuple[str, ...]
    """Files at the far end that no share put there; they were left alone."""


def share(folder: Path, destination: Destination, wish: ShareOptions) -> ShareResult:
    """Bring the destination to hold just what the folder promises. Killed at any point, the same call goes on.

    Raises ShareError, NotWholeError for a folder that is damaged or unfinished, ManifestError for an index that cannot
    be read; the far end may have been opened by then, but nothing was changed there.
    """
    dataset = index.load_dataset(folder)
    affirmed = _check_terms(dataset, wish)
    _check_apart(folder, destination)
    _check_whole(folder, full=False)  # hashes take minutes: first see whether the far end can be had
    with _mark(dataset, affirmed) as mark, destination.opened(public=wish.public):
        files = {file.name: file for file in (mark, *_files(folder, wish.report))}
        there = destination.listing()
        _check_lineage(dataset, destination, there)
        gone = sorted(name for name in there.keys() - files.keys() if _OURS.fullmatch(name))
        _check_gone(folder, destination, gone, wish.prune)
        _check_whole(folder, full=True)
        missing = _missing(destination, files, there)
        sent = _bring(destination, files, missing, gone, there) if missing or gone else []
        return ShareResult(
            files=len(files),
            bytes=sum(file.bytes for file in files.values()),
            sent=len(sent),
            sent_bytes=sum(file.bytes for file in sent),
            removed=tuple(gone),
            others=tuple(sorted(there.keys() - files.keys() - set(gone))),
        )


def _check_terms(dataset: Dataset, wish: ShareOptions) -> str | None:
    """Refuse what the licence forbids; else what was affirmed, where that was needed."""
    if licensing.redistributable(dataset):
        return None
    if wish.public:
        raise ShareError(f"{dataset.dataset}: its licence forbids passing it on, so it cannot be public")
    if wish.affirmed != licensing.affirmation(dataset):
        raise ShareError(
            f"{dataset.dataset}: its licence forbids passing it on to whoever has not got it too "
            f"({licensing.about(dataset, 'licence') or 'no licence is stated'}); if that is so here, "
            f'say AFFIRM="{licensing.affirmation(dataset)}"'
        )
    return wish.affirmed


def _check_apart(folder: Path, destination: Destination) -> None:
    if isinstance(destination, Directory):
        near, far = folder.resolve(), destination.folder.resolve()
        if near.is_relative_to(far) or far.is_relative_to(near):
            raise ShareError(f"{destination.address}: one of it and {folder} lies in the other; choose another DEST=")


def _check_whole(folder: Path, *, full: bool) -> None:
    promised = len(index.load_sums(folder)) if full else 0
    with ProgressBar(promised, "checking what is to be shared", unit="file") as progress:
        problems = index.verify(folder, full=full, on_file=lambda _: progress.step())
    if problems:
        raise NotWholeError(folder, problems)


@contextmanager
def _mark(dataset: Dataset, affirmed: str | None) -> Iterator[File]:
    """`SHARED.json`: whose shards these are, and what was affirmed of whoever receives them."""
    said = {"affirmed": affirmed, "dataset": dataset.dataset, "identity": dataset.identity}
    with tempfile.TemporaryDirectory() as here:
        path = Path(here) / index.SHARED_FILE
        path.write_text(dump_json(said) + "\n", encoding="utf-8")
        yield _file(path, index.SHARED_FILE)


def _files(folder: Path, report: bool) -> Iterator[File]:
    """What a folder promises, with the hashes that it promises, and its report."""
    for name, sha256 in index.load_sums(folder).items():
        if not (folder / name).is_file():
            raise ShareError(f"{folder}: not all of it is here ({name} is not); only the whole of it can be shared")
        yield _file(folder / name, name, sha256)
    yield _file(folder / index.SUMS_FILE, index.SUMS_FILE)
    if report and (folder / REPORT).is_file():
        yield _file(folder / REPORT, REPORT)


def _file(path: Path, name: str, sha256: str | None = None) -> File:
    return File(name=name, path=path, bytes=path.stat().st_size, sha256=sha256 or index.file_sha256(path))


def _check_lineage(dataset: Dataset, destination: Destination, there: Mapping[str, int]) -> None:
    """Refuse a place that holds something else: other shards, or files of another kind."""
    told = [name for name in (index.SHARED_FILE, index.DATASET_FILE) if name in there]
    if there and not told:
        where = f"{destination.address}: holds {licensing.one_line(min(there))} and nothing that says it is ours"
        raise ShareError(f"{where}; choose an empty DEST=")
    for name in told:
        try:
            found = json.loads(destination.read(name))
            before = {key: found[key] for key in ("dataset", "identity")}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ShareError(f"{destination.address}: its {name} is not ours; choose an empty DEST=") from error
        if changed := _differences(before, {"dataset": dataset.dataset, "identity": dataset.identity}):
            raise ShareError(f"{destination.address}: holds other shards ({'; '.join(changed)}); choose another DEST=")


def _differences(there: object, here: object, where: str = "") -> list[str]:
    """`identity.config.align: 'frame' there, 'clip' here`, for all that differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        pairs = ((key, there.get(key), here.get(key)) for key in sorted({*there, *here}))
        return [line for key, a, b in pairs for line in _differences(a, b, f"{where}.{key}".removeprefix("."))]
    return [] if there == here else [f"{where}: {reprlib.repr(there)} there, {reprlib.repr(here)} here"]


def _check_gone(folder: Path, destination: Destination, gone: Sequence[str], prune: bool) -> None:
    if gone and not prune:
        shown = f"{', '.join(gone[:20])}{' ...' if len(gone) > 20 else ''}"
        raise ShareError(f"{destination.address}: holds what is gone from {folder}: {shown}; PRUNE=1 removes it there")


def _missing(destination: Destination, files: Mapping[str, File], there: Mapping[str, int]) -> set[str]:
    """Names that are not at the far end, or with other bytes."""
    alike = [file for file in files.values() if there.get(file.name) == file.bytes]
    missing = files.keys() - {file.name for file in alike}
    if alike:
        with ProgressBar(len(alike), "checking what is there", unit="file") as progress:
            for file, held in zip(alike, destination.check(alike), strict=True):
                progress.step("right" if held else "to send again")
                missing |= set() if held else {file.name}
    return missing


def _bring(
    destination: Destination,
    files: Mapping[str, File],
    missing: Set[str],
    gone: Sequence[str],
    there: Mapping[str, int],
) -> list[File]:
    """Change the far end; what was sent. While it is not whole, it has none of the files that say so."""
    first = missing & {index.SHARED_FILE}
    rest = sorted(missing - {index.SHARED_FILE, *_LAST})
    sent: list[File] = []
    with ProgressBar(sum(files[name].bytes for name in (*first, *rest, *_LAST)), "sharing", unit="B") as progress:

        def send(names: Iterable[str]) -> None:
            for file in destination.send([files[name] for name in names]):
                progress.step("sent", by=file.bytes)
                sent.append(file)

        send(first)
        _remove(destination, [name for name in reversed(_LAST) if name in there])
        _remove(destination, gone)
        send(rest)
        for name in _LAST:
            send([name])
    return sent


def _remove(destination: Destination, names: Sequence[str]) -> None:
    if names:
        destination.remove(names)
