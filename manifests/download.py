"""One file from a place to a disk: gone on with where it was cut, and as promised before it has its name.

Until then it is `.<name>.part` beside its place. Whoever fills that holds its lock, so that several processes fetch
each file once; the system frees the lock however its owner ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from manifests.files import is_still, named
from manifests.progress import log_line
from manifests.stores import Store, StoreError, TransientError, UnreachableError

#: After each try that brought nothing, about so long a rest; after the last one it is given up.
PAUSES_SECONDS = (0.2, 1.0, 4.0, 15.0, 30.0)

_ALGORITHMS = {"SHA-256": "sha256", "MD5": "md5"}
_MAX_BYTES = 1 << 26


class WrongBytesError(StoreError):
    """What came is not what the index promises."""


class CancelledError(StoreError):
    """Somebody asked to stop; what has come is kept."""


@dataclass(frozen=True, kw_only=True)
class ExpectedFile:
    """What the index says of a file."""

    name: str
    """Relative, within the folder."""
    sha256: str | None = None
    md5: str | None = None
    """For places that tell no better sum. None of both where nothing is promised: it is fetched anew each time."""
    bytes: int | None = None
    """None where it is not promised."""
    most_bytes: int = _MAX_BYTES
    """More than that is not taken where no size is promised."""

    @property
    def limit(self) -> int:
        """Most bytes that are taken."""
        return self.most_bytes if self.bytes is None else self.bytes

    def broken_by(self, path: Path) -> str | None:
        """What is there against what is promised; None where they agree."""
        size = path.stat().st_size
        if size > self.limit:
            return f"found more than {self.limit} bytes, expected {'' if self.bytes else 'at most '}that"
        if self.bytes is not None and size < self.bytes:
            return f"found {size} bytes, expected {self.bytes}"
        for kind, expected in self.sums.items():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, _ALGORITHMS[kind]).hexdigest()
            if found != expected:
                return f"found {kind} {found}, expected {expected}"
        return None

    @property
    def sums(self) -> dict[str, str]:
        """`SHA-256` or `MD5` -> hash, of those that are promised."""
        return {kind: expected for kind, expected in (("SHA-256", self.sha256), ("MD5", self.md5)) if expected}

    def kept_by(self, path: Path) -> bool:
        """Whether just the promised file is there."""
        return bool(self.sums) and path.is_file() and not path.is_symlink() and self.broken_by(path) is None


def download_file(place: Store, folder: Path, promise: ExpectedFile, stop: threading.Event | None = None) -> bool:
    """See to it that a file of a place is in a folder, as promised; whether anything had to be moved for that.

    A lost connection is tried again after growing pauses, and gone on from where it was cut. Wrong bytes are fetched
    once more from the start. Raises WrongBytesError if they come again, UnreachableError where nothing comes for now,
    StoreError for what else cannot be had, CancelledError soon after `stop` is set, OSError naming the file that cannot
    be written. Sets `stop` itself where nobody ever answered.
    """
    path = folder / promise.name
    if promise.kept_by(path):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    with _locked(part) as file:
        if promise.kept_by(path):  # by another process, while this one waited
            return False
        _fill(_Download(place=place, promise=promise, part=part, file=file, stop=stop or threading.Event()))
        with named(path):
            part.replace(path)
    return True


@contextmanager
def cancellable_pool(count: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """So many threads that are asked to stop when the block is left by an error, Ctrl-C among them."""
    pool = ThreadPoolExecutor(count, "fetch")
    try:
        yield pool
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=stop.is_set())


def part_of(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(f".{path.name}.part")


@dataclass(frozen=True, kw_only=True)
class _Download:
    """A file on its way."""

    place: Store
    promise: ExpectedFile
    part: Path
    file: FileIO
    """The part, opened to append."""
    stop: threading.Event

    def cancelled(self) -> CancelledError:
        """What to raise when asked to stop."""
        return CancelledError(f"{self.place.address}/{self.promise.name}: stopped; run again to go on")

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return os.fstat(self.file.fileno()).st_size


def _fill(filling: _Download) -> None:
    """Fill the part with what is promised; leave it empty if something else comes."""
    for _ in range(2):
        _fetch_rest(filling)
        with named(filling.part):
            os.fsync(filling.file.fileno())
            problem = filling.promise.broken_by(filling.part)
        if problem is None:
            return
        filling.file.truncate(0)
    raise WrongBytesError(f"{filling.place.address}/{filling.promise.name}: {problem}; what is there is damaged")


def _fetch_rest(filling: _Download) -> None:
    """What the place has beyond the bytes that are here, in as many tries as it takes."""
    tries, most = 0, len(PAUSES_SECONDS)
    while True:
        if not filling.promise.sums:
            filling.file.truncate(0)
        before = filling.size
        try:
            return _append(filling)
        except UnreachableError:
            filling.stop.set()  # it would be the same for the others
            raise
        except TransientError as error:
            came = filling.promise.sums and filling.size > before
            tries = 1 if came else tries + 1
            if tries > most:
                raise UnreachableError(f"{error}; run again to go on") from error
            pause = max(error.pause_seconds, PAUSES_SECONDS[tries - 1] * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            if not came:
                log_line(f"{error}; trying again in {pause:.1f} s ({tries} of {most})")
            if filling.stop.wait(pause):
                raise filling.cancelled() from error


def _append(filling: _Download) -> None:
    """Take all that comes, but no more than a chunk too much: a place may never end."""
    size, limit = filling.size, filling.promise.limit
    if filling.promise.bytes is not None and size >= limit:
        return
    with closing(filling.place.chunks(filling.promise.name, size)) as chunks:
        for chunk in chunks:
            if filling.stop.is_set():
                raise filling.cancelled()
            with named(filling.part):
                _write(filling.file, chunk)
            size += len(chunk)
            if size > limit:
                return


def _write(file: FileIO, data: bytes) -> None:
    """All of it: the system may take less at once."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """The part, ours alone; nothing is left of an empty one."""
    while True:
        with part.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not is_still(part, file):  # another process finished it while this one waited
                continue
            try:
                yield file
            finally:
                if not os.fstat(file.fileno()).st_size:
                    part.unlink(missing_ok=True)
            return
