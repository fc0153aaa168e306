"""Fetches the index, folds, dataset card, and the shards of a fold's sides, or all shards, from a store.

A partial copy is a shard folder, too: `fetched.json` lists the shards that belong to it. `SHA256SUMS` is fetched
every time, and files that match it are not transferred again.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import index
from manifests.download import CancelledError, ExpectedFile, cancellable_pool, download_file, part_path
from manifests.errors import module_command
from manifests.files import atomic_write, check_regular, exclusive_lock, remove_leftovers
from manifests.folds import SIDES, SPLIT_SIDES, FoldError, load_fold_file, resolve_fold, resolve_scheme
from manifests.index import Dataset, Fetched, ManifestError, ResolvedFold, Shard
from manifests.progress import ProgressBar, log_line_once
from manifests.splits import read_split
from manifests.stores import LocalStore, Store, StoreError, UnreachableError, open_store
from manifests.tables import is_table
from manifests.text import pluralize, shorten_list

#: Concurrent downloads.
THREADS = 8
#: After this many consecutive failed shards, the others are not tried.
MAX_FAILURES = 20
_STAGING = ".source"


class FetchError(StoreError):
    """The shards at an address, or a local folder, do not fit the request; one line with what to do."""


@dataclass(frozen=True, kw_only=True)
class FoldRequest:
    """Sides of a fold, as a user selects them."""

    fold: str | None = None
    """Name or, if no fold has that name, number from 1; None for the only fold of the scheme."""
    scheme: str | None = None
    """A name, or a table of one's own; None for the corpus's default."""
    allow_shared_speakers: bool = False
    """Whether the table may have speakers on several sides."""
    splits: tuple[str, ...] = ()
    """Keys of `SPLIT_SIDES`; empty for all sides."""

    @property
    def sides(self) -> tuple[str, ...]:
        """The selected `folds.SIDES`, in their order."""
        chosen = {side for split in self.splits for side in SPLIT_SIDES[split]}
        return tuple(side for side in SIDES if side in chosen) or SIDES


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """Result of a fetch."""

    address: str
    local: tuple[Shard, ...]
    """Shards that belong to the folder now."""
    moved: int
    """Number of shards that were transferred, at least in part."""
    moved_bytes: int
    kept: int
    """Number of shards that were already intact."""
    problems: tuple[str, ...]
    """One line per file that could not be fetched."""
    removed: tuple[str, ...] = ()
    """Local files that were removed because the source no longer has them."""


def fetch(
    address: str,
    folder: Path,
    selector: FoldRequest | None = None,
    *,
    dataset: str | None = None,
    prune: bool = False,
    threads: int = THREADS,
    max_failures: int = MAX_FAILURES,
) -> FetchResult:
    """Fetch the shards of some sides of a fold, or all shards, into a folder; earlier selections are kept.

    `dataset` is the expected corpus. `prune` removes local shards that the source removed or changed;
    without it, they raise FetchError. Raises StoreError for an index that cannot be fetched, ManifestError or
    FoldError for a damaged one, FolderError, OSError. Shards that cannot be fetched are listed in the result.
    """
    store = open_store(address)
    _check_folder(store, folder)
    removed: tuple[str, ...] = ()
    with _staged_index(store, folder) as (staging, found):
        if dataset not in (None, found.dataset):
            raise FetchError(
                f"{store.address}: found shards of {found.dataset}, expected {dataset}; set DATASET={found.dataset}, "
                "and OUT= for another folder"
            )
        selected = _select(staging, found, selector) if selector else None
        if index.load_fetched(folder) is not None or not (folder / index.DATASET_FILE).is_file():
            removed = _remove_outdated(store, folder, staging, found, prune=prune)
            record = _extend_record(store, folder, found, selected)
            atomic_write(folder / index.FETCHED_FILE, index.dump_fetched(record))
            _publish_index(staging, folder)
        elif index.load_checksums(folder) != index.load_checksums(staging):
            raise FetchError(f"{folder}: was built here and differs from {store.address}; choose another folder")
    return replace(_fetch_shards(store, folder, found, threads, max_failures), removed=removed)


def mirror_index(store: Store, folder: Path) -> Dataset:
    """Update a folder's index to a store's; local shards that the store no longer has are removed.

    If the store cannot be reached, an index that was fetched before is used. Raises the same errors as `fetch`.
    """
    try:
        with _staged_index(store, folder) as (staging, dataset):
            _remove_outdated(store, folder, staging, dataset, prune=True)
            _publish_index(staging, folder)
    except UnreachableError:
        if not _has_index(folder):
            raise
        log_line_once(f"{store.address}: cannot be reached; using the index that was fetched before")
        return index.load_dataset(folder)
    return dataset


def fetch_command(source: str, folder: Path, selection: ResolvedFold) -> str:
    """The command line that fetches a selection into a folder."""
    split = ["train"] if selection.sides == SPLIT_SIDES["train"] else selection.sides
    options = ["--fold", selection.fold, "--fold-scheme", selection.scheme, "--split", *split]
    return module_command("manifests", "fetch", source, str(folder), *options)


def _check_folder(store: Store, folder: Path) -> None:
    """Raise FetchError for the source itself, a folder with other files, or an unfinished build."""
    if isinstance(store, LocalStore) and store.path.resolve() == folder.resolve():
        raise FetchError(f"{folder}: source and destination are the same folder; choose another one")
    if not folder.is_dir() or index.load_fetched(folder) is not None:
        return
    if (folder / index.DATASET_FILE).is_file():
        if not index.load_dataset(folder).complete:
            raise FetchError(f"{folder}: found an unfinished build; choose another folder")
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FetchError(f"{folder}: found files that are not shards; choose another folder")


@contextmanager
def _staged_index(store: Store, folder: Path) -> Iterator[tuple[Path, Dataset]]:
    """Download a store's `SHA256SUMS`, index, rows, card and folds to a staging folder; one process at a time.

    Files that are intact in the folder are copied from it.
    """
    staging = folder / _STAGING
    with exclusive_lock(folder, "", cleanup=True, wait=True):
        check_regular(folder)
        try:
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        except RecursionError as error:
            raise FetchError(f"{staging}: found folders nested too deep; remove it") from error
        try:
            download_file(store, staging, ExpectedFile(name=index.SUMS_FILE))
            sums = index.load_checksums(staging)
            _stage(store, folder, sums, index.DATASET_FILE)
            dataset = index.load_dataset(staging)
            if not dataset.complete:
                raise FetchError(f"{store.address}: found an unfinished build, expected a finished one")
            folds = (f"{index.FOLDS}/{scheme}.json" for scheme in dataset.fold_schemes)
            for name in (*folds, index.CLIPS_FILE, index.CARD_FILE, *(sums.keys() & {index.CROISSANT_FILE})):
                _stage(store, folder, sums, name)
            yield staging, dataset
        except (FoldError, ManifestError) as error:
            raise FetchError(str(error).replace(str(staging), store.address)) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _stage(store: Store, folder: Path, sums: dict[str, str], name: str) -> None:
    if name not in sums:
        raise FetchError(f"{store.address}/{index.SUMS_FILE}: found no line for {name}, expected one")
    expected = ExpectedFile(name=name, sha256=sums[name], most_bytes=index.max_bytes(name))
    download_file(LocalStore(path=folder) if expected.matches(folder / name) else store, folder / _STAGING, expected)


def _has_index(folder: Path) -> bool:
    """Whether a folder has an intact index, with or without shards."""
    try:
        sums, dataset = index.load_checksums(folder), index.load_dataset(folder)
    except ManifestError:
        return False
    names = set(index.expected_names(dataset, ())) - {shard.name for shard in dataset.shards}
    return all(name in sums and ExpectedFile(name=name, sha256=sums[name]).matches(folder / name) for name in names)


def _publish_index(staging: Path, folder: Path) -> None:
    """Move the index into the folder, `SHA256SUMS` last: after an interruption the next run detects the difference.

    Of partial files, only those of files that the index lists are kept.
    """
    remove_leftovers(folder, resumable=index.load_checksums(staging))
    for path in sorted(staging.rglob("*"), key=lambda path: (path.name == index.SUMS_FILE, path)):
        if path.is_file():
            target = folder / path.relative_to(staging)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)


def _remove_outdated(store: Store, folder: Path, staging: Path, now: Dataset, *, prune: bool) -> tuple[str, ...]:
    """Remove local files that the store removed or changed. Raises FetchError if shards need `prune`.

    Only files that a fetch put there are removed, whatever the store's lists name. Returns the files that the store no
    longer has, sorted.
    """
    try:
        before, sums = index.load_dataset(folder), index.load_checksums(folder)
    except ManifestError:
        return ()  # no index, or a damaged one: each file is compared with its hash
    hashes = {shard.name: shard.sha256 for shard in now.shards}
    outdated = [shard for shard in before.shards if hashes.get(shard.name) != shard.sha256]
    fetched = _fetched_names(folder, before, sums)
    present = [shard for shard in outdated if shard.name in fetched and (folder / shard.name).exists()]
    if present and not prune:
        raise FetchError(
            f"{store.address}: {_describe_changes(present, now)} since the last fetch; run again with --prune "
            "(make: PRUNE=1) to update this copy, or fetch into another folder"
        )
    gone = fetched & (sums.keys() - index.load_checksums(staging).keys())
    removed = tuple(sorted(name for name in gone if (folder / name).exists()))
    for name in gone | (fetched & {name for shard in outdated for name in (shard.name, shard.receipt)}):
        (folder / name).unlink(missing_ok=True)
        part_path(folder / name).unlink(missing_ok=True)
    return removed


def _fetched_names(folder: Path, dataset: Dataset, sums: Collection[str]) -> set[str]:
    """Files that earlier fetches downloaded into a folder: of all that the index lists, those of its own shards."""
    shards = index.local_shards(folder, dataset)
    names = set(index.expected_names(replace(dataset, shards=shards), (shard.receipt for shard in shards)))
    if len(shards) == len(dataset.shards):  # receipts of shards whose clips were all dropped
        names |= {name for name in sums if name.startswith(f"{index.RECEIPTS}/")}
    return names | {index.CROISSANT_FILE}


def _describe_changes(outdated: Sequence[Shard], now: Dataset) -> str:
    gone = sorted({shard.speaker for shard in outdated} - {shard.speaker for shard in now.shards})
    changed = [shard.name for shard in outdated if shard.speaker not in gone]
    withdrawn = f"speaker{'s' if len(gone) > 1 else ''} {shorten_list(gone)} withdrawn" if gone else ""
    replaced = f"{pluralize(len(changed), 'shard')} changed ({shorten_list(changed)})" if changed else ""
    return " and ".join(filter(None, (withdrawn, replaced)))


def _select(staging: Path, dataset: Dataset, selector: FoldRequest) -> tuple[ResolvedFold, set[str]]:
    """Resolve the selection's names and its shards. Raises FoldError listing valid names."""
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    if selector.scheme is not None and is_table(selector.scheme):
        rows, shared = index.load_rows(staging), selector.allow_shared_speakers
        folds = read_split(Path(selector.scheme), dataset, speakers, rows, allow_shared_speakers=shared).folds
        scheme = selector.scheme
    else:
        scheme = resolve_scheme(selector.scheme, dataset.fold_schemes, {*speakers.values()})
        folds = load_fold_file(staging / index.FOLDS / f"{scheme}.json", speakers).folds
    if selector.fold is None and len(folds) > 1:
        valid = f"valid are {shorten_list(folds, 10)}"
        raise FetchError(f"found a split or a scheme, but no fold; name one with --fold (make: FOLD=); {valid}")
    fold = next(iter(folds)) if selector.fold is None else resolve_fold(tuple(folds), selector.fold)
    names = {name for side in selector.sides for name in folds[fold][side].shards}
    return ResolvedFold(scheme=scheme, fold=fold, sides=selector.sides), names


def _extend_record(
    store: Store, folder: Path, dataset: Dataset, selected: tuple[ResolvedFold, set[str]] | None
) -> Fetched:
    """The folder's record with the selection added, without shards that the store no longer has."""
    before = index.load_fetched(folder) or Fetched(source="", selections=(), shards=())
    if selected is None or before.shards is None:
        return Fetched(source=store.address, selections=(), shards=None)
    selection, names = selected
    known = {shard.name for shard in dataset.shards}
    return Fetched(
        source=store.address,
        selections=tuple(dict.fromkeys((*before.selections, selection))),
        shards=tuple(sorted(known & {*before.shards, *names})),
    )


def _fetch_shards(store: Store, folder: Path, dataset: Dataset, threads: int, max_failures: int) -> FetchResult:
    """Fetch the folder's shards in threads; a failure does not stop the others."""
    shards = index.local_shards(folder, dataset)
    groups = {shard.name: [ExpectedFile.receipt_of(shard), ExpectedFile.tar_of(shard)] for shard in shards}
    if len(shards) == len(dataset.shards):  # receipts of shards whose clips were all dropped
        known, sums = {shard.receipt for shard in shards}, index.load_checksums(folder)
        without_tar = [name for name in sums if name.startswith(f"{index.RECEIPTS}/") and name not in known]
        groups[index.RECEIPTS] = [ExpectedFile(name=name, sha256=sums[name]) for name in without_tar]
    sizes = {shard.name: shard.bytes for shard in shards}
    moved, problems, failures, stop = dict[str, int](), list[str](), 0, threading.Event()
    with ProgressBar(sum(sizes.values()), "fetching", unit="B") as progress, cancellable_pool(threads, stop) as pool:
        waiting = {pool.submit(_fetch_group, store, folder, group, stop): name for name, group in groups.items()}
        for done in as_completed(waiting):
            name = waiting[done]
            try:
                moved[name] = done.result()
                outcome, failures = "fetched" if moved[name] else "present", 0
            except CancelledError:
                continue
            except StoreError as error:
                problems.append(str(error))
                outcome, failures = "failed", failures + 1
            if name in sizes:
                progress.step(outcome, by=sizes[name] if name in moved else 0)
            if failures == max_failures:
                stop.set()
                problems.append(f"{store.address}: {failures} consecutive files failed; the others were not tried")
    return FetchResult(
        address=store.address,
        local=shards,
        moved=sum(size > 0 for name, size in moved.items() if name in sizes),
        moved_bytes=sum(moved.values()),
        kept=sum(size == 0 for name, size in moved.items() if name in sizes),
        problems=tuple(problems),
    )


def _fetch_group(store: Store, folder: Path, expected: Iterable[ExpectedFile], stop: threading.Event) -> int:
    """Download a group of files; returns the number of bytes transferred."""
    if stop.is_set():
        raise CancelledError(f"{store.address}: stopped")
    moved = [file.name for file in expected if download_file(store, folder, file, stop)]
    return sum((folder / name).stat().st_size for name in moved)
