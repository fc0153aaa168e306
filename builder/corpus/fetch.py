"""Originals from their public home to the corpus folder: several at once, gone on with where they were cut, checked."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from builder.corpus.archive import unpack
from builder.corpus.stock import promise
from builder.datasets.base import CorpusError, Original
from manifests.download import CancelledError, cancellable_pool, download_file
from manifests.progress import ProgressBar
from manifests.stores import Store, StoreError

#: Files fetched at once; public homes are shared by many.
CONNECTIONS = 4
#: After so many in a row that could not be had, the rest is not tried: each took minutes to give up.
_MOST_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class Room:
    """Disk space, in bytes."""

    needed: int
    """At most, while fetching."""
    free: int


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of the originals that were asked for."""

    files: int
    bytes: int
    """Of the files."""
    failed: Mapping[str, str]
    """Name -> why."""
    not_tried: int


def room(root: Path, originals: Sequence[Original], *, connections: int, keep_archives: bool) -> Room:
    """What fetching these takes: all of them, and archives beside what they hold, which is at most as large."""
    archives = sorted((original.bytes for original in originals if original.holds), reverse=True)
    needed = sum(original.bytes for original in originals) + sum(archives if keep_archives else archives[:connections])
    there = sum(here(root, original) for original in originals)
    home = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return Room(needed=max(0, needed - there), free=shutil.disk_usage(home).free)


def here(root: Path, original: Original) -> int:
    """Bytes of an original that came before, or of its archive."""
    path = root / original.name
    begun = (each for each in (path, path.with_name(f".{path.name}.part")) if each.is_file())
    return min(next((each.stat().st_size for each in begun), 0), original.bytes)


def fetch(
    place: Store, root: Path, originals: Sequence[Original], *, connections: int, keep_archives: bool = False
) -> Fetched:
    """Bring the originals, unpack those that are archives, and delete these unless they are to be kept.

    One that cannot be had does not keep the others from coming. Raises OSError naming what cannot be written.
    """
    failed: dict[str, str] = {}
    fetched: list[Original] = []
    stop = threading.Event()
    total = sum(original.bytes - here(root, original) for original in originals)
    with ProgressBar(total, "fetching", unit="B") as progress, cancellable_pool(connections, stop) as pool:
        counted = Counted(place=place, progress=progress, lock=threading.Lock())
        waiting = {pool.submit(_fetch_one, counted, root, each, keep_archives, stop): each for each in originals}
        in_a_row = 0
        for done in as_completed(waiting):
            original = waiting[done]
            try:
                done.result()
                fetched.append(original)
                in_a_row = 0
            except CancelledError:
                continue
            except (StoreError, CorpusError) as error:
                failed[original.name] = str(error).removeprefix(f"{place.address}/{original.name}: ")
                in_a_row += 1
            if in_a_row == _MOST_FAILURES:
                stop.set()
    return Fetched(
        files=len(fetched),
        bytes=sum(original.bytes for original in fetched),
        failed=failed,
        not_tried=len(originals) - len(fetched) - len(failed),
    )


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A place whose bytes are counted as they come."""

    place: Store
    progress: ProgressBar
    lock: threading.Lock
    """Several threads count."""

    @property
    def address(self) -> str:
        """The place's."""
        return self.place.address

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """The place's."""
        for chunk in self.place.chunks(name, start):
            with self.lock:
                self.progress.step(by=len(chunk))
            yield chunk


def _fetch_one(place: Store, root: Path, original: Original, keep_archives: bool, stop: threading.Event) -> None:
    if stop.is_set():
        raise CancelledError(f"{place.address}: stopped")
    download_file(place, root, promise(original), stop)
    if original.holds:
        unpack(root / original.name, root, original.holds)
        if not keep_archives:
            (root / original.name).unlink()
