"""Downloads a file from a store, with resume, and verifies it before it is renamed to its final name.

Until then it is `.<name>.part` in the same folder, locked by the process that writes it: several processes download
each file once; the system releases the lock when that process exits.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from manifests.files import is_same_file, open_regular, path_in_errors
from manifests.index import Shard
from manifests.progress import log_line
from manifests.stores import SlowError, Store, StoreError, TransientError, UnreachableError

#: Pauses (with jitter) before retries after attempts without progress; after the last retry the download fails.
PAUSES_SECONDS = (0.2, 1.0, 4.0, 15.0, 30.0)

#: A transfer below this rate over this time is cut and tried again, so that no server holds a command for hours.
MIN_BYTES_PER_SECOND = 1000
RATE_SECONDS = 30.0

_MAX_BYTES = 1 << 26


class WrongBytesError(StoreError):
    """A store's file differs from the expected size or hash."""


class CancelledError(StoreError):
    """The download was cancelled; the bytes so far are kept."""


@dataclass(frozen=True, kw_only=True)
class ExpectedFile:
    """Name, hash and size of a file, as an index lists them."""

    name: str
    """Relative, within the folder."""
    sha256: str | None = None
    md5: str | None = None
    """For sources that publish no better hash. Without either hash, the file is downloaded every time."""
    bytes: int | None = None
    """None if the size is unknown."""
    most_bytes: int = _MAX_BYTES
    """Limit if the size is unknown."""

    @classmethod
    def receipt_of(cls, shard: Shard) -> ExpectedFile:
        """A shard's receipt."""
        return cls(name=shard.receipt, sha256=shard.receipt_sha256)

    @classmethod
    def tar_of(cls, shard: Shard) -> ExpectedFile:
        """A shard's tar."""
        return cls(name=shard.name, sha256=shard.sha256, bytes=shard.bytes)

    @property
    def hashes(self) -> dict[str, str]:
        """`SHA-256` or `MD5` -> hash, if known."""
        return {kind: digest for kind, digest in (("SHA-256", self.sha256), ("MD5", self.md5)) if digest}

    @property
    def max_bytes(self) -> int:
        """Maximum number of bytes to download."""
        return self.most_bytes if self.bytes is None else self.bytes

    def find_mismatch(self, path: Path) -> str | None:
        """Describe how a file differs from the expected one; None if it matches."""
        size = path.stat().st_size
        if size > self.max_bytes:
            return f"found more than {self.max_bytes} bytes, expected {'' if self.bytes else 'at most '}that"
        if self.bytes is not None and size < self.bytes:
            return f"found {size} bytes, expected {self.bytes}"
        for kind, expected in self.hashes.items():
            with open_regular(path) as file:
                found = hashlib.file_digest(file, kind.replace("-", "")).hexdigest()
            if found != expected:
                return f"found {kind} {found}, expected {expected}"
        return None

    def matches(self, path: Path) -> bool:
        """Whether the file at a path has these bytes; False if no hash is known."""
        return bool(self.hashes) and path.is_file() and not path.is_symlink() and self.find_mismatch(path) is None


def download_file(
    store: Store,
    folder: Path,
    expected: ExpectedFile,
    stop: threading.Event | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> bool:
    """Download a file into a folder, unless the folder already has it; returns whether it was downloaded.

    A lost connection is retried with backoff, and the download is resumed. A corrupt file is downloaded again once,
    from the start. `on_bytes` is called with the size of each written chunk, in the calling thread. Raises
    WrongBytesError if it is corrupt again, UnreachableError if the store cannot be reached, StoreError for other
    failures of the store, CancelledError soon after `stop` is set, OSError naming the file that cannot be written.
    Sets `stop` if the store never responded.
    """
    path = folder / expected.name
    if expected.matches(path):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part, stop = part_path(path), stop or threading.Event()
    with _open_part(part, stop) as file:
        if expected.matches(path):  # another process downloaded it in the meantime
            return False
        _Download(store, expected, part, file, stop, on_bytes).run()
        with path_in_errors(path):
            part.replace(path)
    return True


@contextmanager
def cancellable_pool(count: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that sets `stop` on any exception in its block. After Ctrl-C it does not wait for its threads."""
    pool, interrupted = ThreadPoolExecutor(count, "fetch"), False
    try:
        yield pool
    except BaseException as error:
        stop.set()
        interrupted = isinstance(error, KeyboardInterrupt)
        raise
    finally:
        pool.shutdown(wait=not interrupted, cancel_futures=stop.is_set())


def part_path(path: Path) -> Path:
    """Path of the partial file during a download."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def _open_part(part: Path, stop: threading.Event) -> Iterator[FileIO]:
    """Open the partial file for appending and lock it; it is removed afterwards if it is empty.

    Raises CancelledError if `stop` is set while another process has the lock.
    """
    while True:
        with open_regular(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop.wait(0.1):
                    raise CancelledError(f"{part}: stopped; run again to resume") from None
                continue
            if not is_same_file(part, file):  # another process finished it in the meantime
                continue
            try:
                yield file
            finally:
                if not os.fstat(file.fileno()).st_size:
                    part.unlink(missing_ok=True)
            return


@dataclass(frozen=True)
class _Download:
    """State of one download."""

    store: Store
    expected: ExpectedFile
    part: Path
    file: FileIO
    """The partial file, opened for appending."""
    stop: threading.Event
    on_bytes: Callable[[int], None] | None

    def run(self) -> None:
        """Download into the partial file and verify it; a corrupt file is truncated to 0 bytes."""
        for _ in range(2):
            self._fetch_with_retries()
            with path_in_errors(self.part):
                os.fsync(self.file.fileno())
                problem = self.expected.find_mismatch(self.part)
            if problem is None:
                return
            self.file.truncate(0)
        raise WrongBytesError(f"{self.store.address}/{self.expected.name}: {problem}; the source file is damaged")

    def _fetch_with_retries(self) -> None:
        tries, most = 0, len(PAUSES_SECONDS)
        while True:
            if not self.expected.hashes:
                self.file.truncate(0)
            before = self._size()
            try:
                return self._append_rest()
            except UnreachableError:
                self.stop.set()  # other downloads from the store would fail, too
                raise
            except TransientError as error:
                progressed = self.expected.hashes and self._size() > before and not isinstance(error, SlowError)
                tries = 1 if progressed else tries + 1
                if tries > most:
                    raise UnreachableError(f"{error}; run again to resume") from error
                pause = max(error.pause_seconds, PAUSES_SECONDS[tries - 1] * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                if not progressed:
                    again = f"trying again in {pause:.1f} s ({tries} of {most})"
                    log_line(f"{error}; {again}", unless=self.stop)
                if self.stop.wait(pause):
                    raise self._cancelled() from error

    def _append_rest(self) -> None:
        """Append the remaining bytes; stop one chunk past the expected size, because a store may send endlessly."""
        size = self._size()
        if self.expected.bytes is not None and size >= self.expected.max_bytes:
            return
        started, received = time.monotonic(), 0
        with closing(self.store.chunks(self.expected.name, size)) as chunks:
            for chunk in chunks:
                if self.stop.is_set():
                    raise self._cancelled()
                rest = memoryview(chunk)
                with path_in_errors(self.part):
                    while rest:  # a write may be partial
                        rest = rest[self.file.write(rest) :]
                size += len(chunk)
                received += len(chunk)
                if (seconds := time.monotonic() - started) > RATE_SECONDS:
                    if received < MIN_BYTES_PER_SECOND * seconds:
                        found = f"found {received / seconds:.0f} bytes a second, expected {MIN_BYTES_PER_SECOND}"
                        raise SlowError(f"{self.store.address}/{self.expected.name}: {found}")
                    started, received = time.monotonic(), 0
                if self.on_bytes is not None:
                    self.on_bytes(len(chunk))
                if size > self.expected.max_bytes:
                    return

    def _size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def _cancelled(self) -> CancelledError:
        return CancelledError(f"{self.store.address}/{self.expected.name}: stopped; run again to resume")
