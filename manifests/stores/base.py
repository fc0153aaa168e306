"""What every store offers: a file's bytes from any of them on, and, where it can be written to, sharing.

Errors name a file by its own address: never with a credential, nor with where a server redirected to, which may hold
one.
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
    """A store cannot be used, or a file there is not as expected; one line that names it."""


class UnreachableError(StoreError):
    """Nothing can be read from there for now, and it is not worth waiting."""


class TransientError(StoreError):
    """A failure that a retry may overcome."""

    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        """`pause_seconds` is what the server asks for before the next try."""
        super().__init__(message)
        self.pause_seconds = pause_seconds


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to send to a store."""

    name: str
    """Within the folder, `/` between its parts."""
    path: Path
    bytes: int
    sha256: str


class Store(Protocol):
    """Files by their names within a published folder."""

    @property
    def address(self) -> str:
        """As people write it."""

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        """Bytes of a file from byte `start` on; none where it has no more.

        Raises StoreError; TransientError for what a retry may overcome, UnreachableError if no server ever answered.
        """


@runtime_checkable
class WritableStore(Store, Protocol):
    """A store that shards can be shared to. Every method raises StoreError.

    Files can be compared by hash, so that sharing resumes where it was killed, and each file is checked after it was
    sent.
    """

    @property
    def keeps_history(self) -> str:
        """What may still hold files that were removed; `""` for nothing."""

    def open_for_writing(self, *, public: bool) -> AbstractContextManager[None]:
        """Create the store if needed; refuse one that everybody can see unless `public`, where that can be told."""

    def list_files(self) -> Mapping[str, int]:
        """Files there -> size in bytes, without hidden ones."""

    def check(self, files: Sequence[LocalFile]) -> Iterator[bool]:
        """For each of these listed files, whether it has the right hash."""

    def send(self, files: Sequence[LocalFile]) -> Iterator[LocalFile]:
        """Write files, several at a time; yields each once it is there with the right hash."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove listed files."""


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it is in, begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def map_in_threads(work: Callable[[LocalFile], _Result], files: Sequence[LocalFile]) -> Iterator[_Result]:
    """Results in the order of `files`. The first error ends it; what has not begun by then is left out."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield from pool.map(work, files)
    finally:
        pool.shutdown(cancel_futures=True)


def check_unchanged(file: LocalFile, sha256: str) -> None:
    """Raise StoreError if a file changed since it was listed."""
    if sha256 != file.sha256:
        raise StoreError(f"{file.path}: found SHA-256 {sha256}, expected {file.sha256}; it changed while being shared")


def check_arrived(arrived: bool, file: LocalFile, address: str) -> None:
    """Raise StoreError unless a file arrived with the right hash."""
    if not arrived:
        raise StoreError(f"{address}/{file.name}: what arrived does not have SHA-256 {file.sha256}; share again")


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
