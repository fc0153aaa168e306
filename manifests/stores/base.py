"""The interface of stores: reading a file from any byte offset and, for writable stores, uploading files.

Errors name a file by its address, never with credentials or the target of a redirect, which may contain
credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from manifests.errors import UserError
from manifests.files import describe_os_error
from manifests.text import one_line

KINDS = "a folder, http(s)://host/folder, s3://bucket/folder or hf://datasets/owner/name"
WRITABLE_KINDS = "a folder, s3://bucket/path or hf://datasets/owner/name"
CHUNK_BYTES = 1 << 20

_THREADS = 4
_Result = TypeVar("_Result")


class StoreError(UserError):
    """A store cannot be used, or one of its files is not as expected; one line that names it."""

    status: int | None = None
    """HTTP status with which a server refused, if it did."""


class UnreachableError(StoreError):
    """The store cannot be reached, and waiting is unlikely to help."""


class TransientError(StoreError):
    """A failure that a retry may fix."""

    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        """`pause_seconds` is the delay before a retry that the server requests."""
        super().__init__(message)
        self.pause_seconds = pause_seconds


class SlowError(TransientError):
    """A transfer below the minimum rate: its bytes so far do not count as progress."""


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to send to a store."""

    name: str
    """Relative to the folder, with `/` between its parts."""
    path: Path
    bytes: int
    sha256: str


class Store(Protocol):
    """Files by their names within a published folder."""

    @property
    def address(self) -> str:
        """Path or address, as users specify it."""

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """Bytes of a file from offset `start`; none at its end.

        Raises StoreError; TransientError if a retry may help, UnreachableError if no server ever responded.
        """


@runtime_checkable
class WritableStore(Store, Protocol):
    """A store that shards can be shared to. Every method raises StoreError.

    Files can be compared by hash, so that sharing resumes after an interruption, and each file is verified after it is
    sent.
    """

    @property
    def keeps_history(self) -> str:
        """History that may still contain removed files; `""` if there is none."""

    def open_for_writing(self, *, public: bool) -> AbstractContextManager[None]:
        """Create the store if needed. Raises StoreError for a public repository unless `public` is set."""

    def list_files(self) -> Mapping[str, int]:
        """File name -> size in bytes, without hidden files."""

    def check(self, files: Sequence[LocalFile]) -> Iterator[bool]:
        """For each of these files, which the store has, whether its hash matches."""

    def send(self, files: Sequence[LocalFile]) -> Iterator[LocalFile]:
        """Upload files concurrently; yields each after its hash was verified."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove listed files."""


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it is in, begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def map_in_threads(work: Callable[[LocalFile], _Result], files: Sequence[LocalFile]) -> Iterator[_Result]:
    """Results in the order of `files`. The first error cancels files that were not started."""
    pool, interrupted = ThreadPoolExecutor(_THREADS), True
    try:
        yield from pool.map(work, files)
        interrupted = False
    except Exception:
        interrupted = False
        raise
    finally:  # after Ctrl-C, transfers that are slow are not waited for
        pool.shutdown(wait=not interrupted, cancel_futures=True)


def check_unchanged(file: LocalFile, sha256: str) -> None:
    """Raise StoreError if a local file changed after it was hashed."""
    if sha256 != file.sha256:
        raise StoreError(f"{file.path}: found SHA-256 {sha256}, expected {file.sha256}; it changed while being shared")


def check_arrived(arrived: bool, file: LocalFile, address: str) -> None:
    """Raise StoreError unless the hash of an uploaded file matches."""
    if not arrived:
        raise StoreError(f"{address}/{file.name}: the uploaded file does not have SHA-256 {file.sha256}; share again")


@contextmanager
def store_errors(address: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn OSErrors, and errors of a store's library, into a StoreError that names the store."""
    expected: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except StoreError:
        raise
    except expected as error:
        reason = describe_os_error(error) if isinstance(error, OSError) and error.filename else str(error)
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise StoreError(f"{address}: {one_line(reason + cause) or type(error).__name__}") from error
