"""What a fold needs of a published folder, brought here: index, folds, card, and of the shards those of its sides.

A part of a folder is a folder of shards, too: `fetched.json` says which shards are to be in it. The sums are fetched
anew each time and hold for all the rest; whatever is here as they promise is not moved again.
"""

from __future__ import annotations

import shlex
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import index
from manifests.download import CancelledError, ExpectedFile, cancellable_pool, download_file, part_of
from manifests.files import FolderError, atomic_write, exclusive_lock_waiting
from manifests.folds import SIDES, SPLITS, Assignment, FoldError, read_assignment, resolve_fold, resolve_scheme
from manifests.index import Dataset, Fetched, FoldSelection, ManifestError, Shard
from manifests.progress import ProgressBar, log_line_once
from manifests.stores import LocalStore, Store, StoreError, UnreachableError, open_store
from manifests.text import pluralize

#: Files brought at once.
THREADS = 8
#: After so many shards in a row that could not be had, the rest is not tried.
_MOST_FAILURES = 20
#: Most bytes of what the index promises no size of.
_MOST_BYTES = {index.CLIPS_FILE: 1 << 32, index.FOLDS: 1 << 28}
_CARD = "README.md"
_STAGING = ".source"


class FetchError(StoreError):
    """What is at a place, or here, is not what can be fetched as asked; one line that says what to do."""


@dataclass(frozen=True, kw_only=True)
class FoldSelector:
    """Sides of a fold, as a user asks for them."""

    fold: str
    """Name; or number, from 1, where no fold has that name."""
    scheme: str | None = None
    """None for the corpus's default."""
    splits: tuple[str, ...] = ()
    """Some of `SPLITS`; none for all sides."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Some of `folds.SIDES`, in their order."""
        named = {side for split in self.splits for side in SPLITS[split]}
        return tuple(side for side in SIDES if side in named) or SIDES


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """What became of a fetch."""

    address: str
    here: tuple[Shard, ...]
    """Shards that are to be in the folder now."""
    moved: int
    """How many of them had to be brought, at least in part."""
    moved_bytes: int
    kept: int
    """How many of them were here as promised."""
    problems: tuple[str, ...]
    """A line for each file that could not be had."""
    removed: tuple[str, ...] = ()
    """Files that the source does not have any more, and that were here."""


def fetch(
    address: str,
    folder: Path,
    wanted: FoldSelector | None = None,
    *,
    dataset: str | None = None,
    prune: bool = False,
    threads: int = THREADS,
) -> FetchResult:
    """Bring what sides of a fold need, or everything, into a folder; what it has from another time stays in it.

    `dataset` is the corpus that is expected. `prune` removes here what the source does not have any more, or has
    otherwise: without it, that is refused. Raises FetchError, StoreError for an index that cannot be had, ManifestError
    or FoldError for one that is damaged, OSError. Shards that cannot be had are told in the report.
    """
    place = open_store(address)
    _check_free(place, folder)
    removed: tuple[str, ...] = ()
    with _staged_index(place, folder) as (staging, found):
        _check_dataset(place, found, dataset)
        selection = _selection(staging, found, wanted) if wanted else None
        if _is_fetched(folder):
            removed = _make_way(place, folder, staging, found, prune=prune)
            _record(folder, _recorded(place, folder, found, selection))
            _publish_index(staging, folder)
        elif index.load_sums(folder) != index.load_sums(staging):
            raise FetchError(f"{folder}: was built here and differs from {place.address}; choose another folder")
    here = index.local_shards(folder, found)
    return replace(_bring_shards(place, folder, found, here, threads), removed=removed)


def mirror_index(place: Store, folder: Path) -> Dataset:
    """Keep a folder's index the same as at a place; shards that are not there any more are removed here.

    Where the place cannot be reached, an index that came before will do. Raises as `fetch` does.
    """
    try:
        with _staged_index(place, folder) as (staging, dataset):
            _make_way(place, folder, staging, dataset, prune=True)
            _publish_index(staging, folder)
    except UnreachableError:
        if not _has_index(folder):
            raise
        log_line_once(f"{place.address}: cannot be reached now; going on with what came from there before")
        return index.load_dataset(folder)
    return dataset


def expected_files(shard: Shard) -> tuple[ExpectedFile, ...]:
    """A shard's receipt and the shard."""
    return (
        ExpectedFile(name=shard.receipt, sha256=shard.receipt_sha256),
        ExpectedFile(name=shard.name, sha256=shard.sha256, bytes=shard.bytes),
    )


def fetch_command(source: str, folder: Path, selection: FoldSelection) -> str:
    """The command line that brings what a selection needs into a folder."""
    split = ["train"] if selection.sides == SPLITS["train"] else selection.sides
    told = ["--fold", selection.fold, "--fold-scheme", selection.scheme, "--split", *split]
    return shlex.join(["python", "-m", "manifests", "fetch", source, str(folder), *told])


def _check_free(place: Store, folder: Path) -> None:
    """Raise FetchError for the place itself, a folder of other things, or a build that is not finished."""
    if isinstance(place, LocalStore) and place.path.resolve() == folder.resolve():
        raise FetchError(f"{folder}: found the same folder here and there; choose another one")
    if not folder.is_dir() or index.load_fetched(folder) is not None:
        return
    if (folder / index.DATASET_FILE).is_file():
        if not index.load_dataset(folder).complete:
            raise FetchError(f"{folder}: found an unfinished build; choose another folder")
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FetchError(f"{folder}: found other things than shards; choose another folder")


def _is_fetched(folder: Path) -> bool:
    """Whether a folder is one that was fetched, or yet to be."""
    return index.load_fetched(folder) is not None or not (folder / index.DATASET_FILE).is_file()


@contextmanager
def _staged_index(place: Store, folder: Path) -> Iterator[tuple[Path, Dataset]]:
    """A place's sums, index, rows, card and folds in a folder of their own; of this folder's users one at a time.

    What the folder itself has as promised is not moved.
    """
    staging = folder / _STAGING
    with _owned(folder):
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        try:
            download_file(place, staging, ExpectedFile(name=index.SUMS_FILE))
            sums = index.load_sums(staging)
            _stage(place, folder, sums, index.DATASET_FILE)
            dataset = index.load_dataset(staging)
            if not dataset.complete:
                raise FetchError(f"{place.address}: found an unfinished build, expected a finished one")
            folds = (f"{index.FOLDS}/{scheme}.json" for scheme in dataset.fold_schemes)
            for name in (*folds, index.CLIPS_FILE, _CARD, *(sums.keys() & {index.CROISSANT_FILE})):
                _stage(place, folder, sums, name)
            yield staging, dataset
        except (FoldError, ManifestError) as error:
            raise FetchError(str(error).replace(str(staging), place.address)) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    try:
        with exclusive_lock_waiting(folder):
            yield
    except FolderError as error:
        raise FetchError(str(error)) from error


def _has_index(folder: Path) -> bool:
    """Whether all that is said about the shards is in a folder, with the hashes that its sums promise."""
    try:
        sums, dataset = index.load_sums(folder), index.load_dataset(folder)
    except ManifestError:
        return False
    said = set(index.expected_names(dataset, ())) - {shard.name for shard in dataset.shards}
    return all(name in sums and ExpectedFile(name=name, sha256=sums[name]).kept_by(folder / name) for name in said)


def _stage(place: Store, folder: Path, sums: dict[str, str], name: str) -> None:
    if name not in sums:
        raise FetchError(f"{place.address}/{index.SUMS_FILE}: found no line for {name}, expected one")
    most_bytes = _MOST_BYTES.get(name.partition("/")[0], ExpectedFile.most_bytes)
    promise = ExpectedFile(name=name, sha256=sums[name], most_bytes=most_bytes)
    download_file(LocalStore(path=folder) if promise.kept_by(folder / name) else place, folder / _STAGING, promise)


def _publish_index(staging: Path, folder: Path) -> None:
    """The sums come last: until then the next run finds that something is amiss."""
    for path in sorted(staging.rglob("*"), key=lambda path: (path.name == index.SUMS_FILE, path)):
        if path.is_file():
            home = folder / path.relative_to(staging)
            home.parent.mkdir(exist_ok=True)
            path.replace(home)


def _make_way(place: Store, folder: Path, staging: Path, now: Dataset, *, prune: bool) -> tuple[str, ...]:
    """Remove what the place does not have any more, or has otherwise. Raises FetchError if that takes `prune`.

    Returns the files that went for good, sorted.
    """
    try:
        before, sums = index.load_dataset(folder), index.load_sums(folder)
    except ManifestError:
        return ()  # none yet, or damaged: each file is held against its own hash
    stale = _stale(before, now)
    held = [shard for shard in stale if (folder / shard.name).exists()]
    if held and not prune:
        raise FetchError(
            f"{place.address}: {_told(held, now)} since they were fetched; run again with --prune (make: PRUNE=1) to "
            "have the same here, or fetch into another folder"
        )
    gone = sums.keys() - index.load_sums(staging).keys()
    removed = tuple(sorted(name for name in gone if (folder / name).exists()))
    for name in gone | {name for shard in stale for name in (shard.name, shard.receipt)}:
        (folder / name).unlink(missing_ok=True)
        part_of(folder / name).unlink(missing_ok=True)
    return removed


def _record(folder: Path, fetched: Fetched) -> None:
    for path in folder.glob(f".{index.FETCHED_FILE}.*"):  # of a run that was killed
        path.unlink()
    atomic_write(folder / index.FETCHED_FILE, index.dump_fetched(fetched))


def _stale(before: Dataset, now: Dataset) -> list[Shard]:
    """Shards that another index has not, or has otherwise."""
    promised = {shard.name: shard.sha256 for shard in now.shards}
    return [shard for shard in before.shards if promised.get(shard.name) != shard.sha256]


def _told(stale: Sequence[Shard], now: Dataset) -> str:
    """What has become of shards at their source."""
    gone = sorted({shard.speaker for shard in stale} - {shard.speaker for shard in now.shards})
    changed = [shard.name for shard in stale if shard.speaker not in gone]
    told = [f"speaker{'s' if len(gone) > 1 else ''} {_listed(gone)} withdrawn"] if gone else []
    return " and ".join(
        [*told, *([f"{pluralize(len(changed), 'shard')} changed ({_listed(changed)})"] if changed else [])]
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_dataset(place: Store, found: Dataset, expected: str | None) -> None:
    if expected not in (None, found.dataset):
        raise FetchError(f"{place.address}: found shards of {found.dataset}, expected {expected}; DATASET= chooses")


def _selection(staging: Path, dataset: Dataset, wanted: FoldSelector) -> tuple[FoldSelection, set[str]]:
    """What is wanted, by name, and its shards. Raises FetchError listing what is valid."""
    scheme = resolve_scheme(wanted.scheme, dataset.fold_schemes, {shard.speaker for shard in dataset.shards})
    assigned = _assignment(staging, dataset, scheme)["folds"]
    fold = resolve_fold(tuple(assigned), wanted.fold)
    names = {name for side in wanted.sides for name in assigned[fold][side]["shards"]}
    return FoldSelection(scheme=scheme, fold=fold, sides=wanted.sides), names


def _assignment(folder: Path, dataset: Dataset, scheme: str) -> Assignment:
    path = folder / index.FOLDS / f"{scheme}.json"
    return read_assignment(path.read_bytes(), {shard.name: shard.speaker for shard in dataset.shards}, str(path))


def _recorded(
    place: Store, folder: Path, dataset: Dataset, selection: tuple[FoldSelection, set[str]] | None
) -> Fetched:
    """What is to be here: what was, as far as the place still has it, and what is selected now."""
    before = index.load_fetched(folder) or Fetched(source="", selections=(), shards=())
    if selection is None or before.shards is None:
        return Fetched(source=place.address, selections=(), shards=None)
    asked, names = selection
    known = {shard.name for shard in dataset.shards}
    return Fetched(
        source=place.address,
        selections=tuple(dict.fromkeys((*before.selections, asked))),
        shards=tuple(sorted(known & {*before.shards, *names})),
    )


def _bring_shards(place: Store, folder: Path, dataset: Dataset, shards: tuple[Shard, ...], threads: int) -> FetchResult:
    """All at once, as many as there are threads; what cannot be had does not keep the rest from coming."""
    groups = {shard.name: expected_files(shard) for shard in shards}
    if len(shards) == len(dataset.shards):
        groups[index.RECEIPTS] = tuple(_receipts_alone(folder, dataset))
    sizes = {shard.name: shard.bytes for shard in shards}
    moved, problems, failures, stop = dict[str, int](), list[str](), 0, threading.Event()
    with ProgressBar(sum(sizes.values()), "fetching", unit="B") as progress, cancellable_pool(threads, stop) as pool:
        waiting = {pool.submit(_bring, place, folder, group, stop): name for name, group in groups.items()}
        for done in as_completed(waiting):
            name = waiting[done]
            try:
                moved[name] = done.result()
                outcome, failures = "moved" if moved[name] else "here", 0
            except CancelledError:
                continue
            except StoreError as error:
                problems.append(str(error))
                outcome, failures = "bad", failures + 1
            if name in sizes:
                progress.step(outcome, by=sizes[name] if name in moved else 0)
            if failures == _MOST_FAILURES:
                stop.set()
                problems.append(f"{place.address}: {failures} in a row could not be had; the rest was not tried")
    return FetchResult(
        address=place.address,
        here=shards,
        moved=sum(size > 0 for name, size in moved.items() if name in sizes),
        moved_bytes=sum(moved.values()),
        kept=sum(size == 0 for name, size in moved.items() if name in sizes),
        problems=tuple(problems),
    )


def _bring(place: Store, folder: Path, promised: Iterable[ExpectedFile], stop: threading.Event) -> int:
    """Bytes that had to be moved."""
    if stop.is_set():
        raise CancelledError(f"{place.address}: stopped")
    moved = [promise.name for promise in promised if download_file(place, folder, promise, stop)]
    return sum((folder / name).stat().st_size for name in moved)


def _receipts_alone(folder: Path, dataset: Dataset) -> Iterator[ExpectedFile]:
    """Receipts of shards whose clips were all dropped."""
    known = {shard.receipt for shard in dataset.shards}
    for name, sha256 in index.load_sums(folder).items():
        if name.startswith(f"{index.RECEIPTS}/") and name not in known:
            yield ExpectedFile(name=name, sha256=sha256)
