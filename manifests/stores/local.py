"""A folder on a local or mounted file system."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from manifests.files import (
    NotRegularError,
    atomic_writer,
    check_regular,
    describe_os_error,
    exclusive_lock,
    file_sha256,
    find_files,
    open_regular,
    remove_leftovers,
)
from manifests.stores import base
from manifests.stores.base import LocalFile, StoreError

#: Errors of a disk or a mounted file system that may pass; with any other, a second try fails like the first.
_PASSING = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOMEM, errno.ENFILE, errno.EMFILE),
        *(errno.ETIMEDOUT, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN),
    }
)


@dataclass(frozen=True, kw_only=True)
class LocalStore:
    """A local or mounted folder: a `WritableStore`."""

    path: Path
    keeps_history: ClassVar[str] = ""

    @property
    def address(self) -> str:
        """The path."""
        return str(self.path)

    def chunks(self, name: str, start: int = 0) -> Generator[bytes, None, None]:
        path = self.path / name
        try:
            with open_regular(path) as file:  # or a link to one, as in the cache of the Hub
                file.seek(start)
                while chunk := file.read(base.CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise StoreError(f"{path}: not found") from error
        except NotRegularError as error:
            raise StoreError(describe_os_error(error)) from error
        except OSError as error:
            kind = base.TransientError if error.errno in _PASSING else StoreError
            raise kind(f"{path}: cannot be read ({error.strerror})") from error

    @contextmanager
    def open_for_writing(self, *, public: bool) -> Iterator[None]:  # noqa: ARG002 - file permissions are the user's
        """See `WritableStore`. Raises FolderError where the folder is in use or cannot be written."""
        with exclusive_lock(self.path, "DEST=", cleanup=True):
            with base.store_errors(self.address):
                check_regular(self.path)
                remove_leftovers(self.path)
            yield

    def list_files(self) -> dict[str, int]:
        with base.store_errors(self.address):
            return {name: size for name, size in find_files(self.path) if not base.is_hidden(name)}

    def check(self, files: Sequence[LocalFile]) -> Iterator[bool]:
        def has_hash(file: LocalFile) -> bool:
            with base.store_errors(self.address):
                return file_sha256(self.path / file.name) == file.sha256

        return base.map_in_threads(has_hash, files)

    def send(self, files: Sequence[LocalFile]) -> Iterator[LocalFile]:
        """See `WritableStore`; `atomic_writer` reads each file back."""

        def copy(file: LocalFile) -> LocalFile:
            path = self.path / file.name
            with base.store_errors(self.address), atomic_writer(path) as target, open_regular(file.path) as source:
                while chunk := source.read(base.CHUNK_BYTES):
                    target.write(chunk)
                base.check_unchanged(file, target.sha256)
            return file

        return base.map_in_threads(copy, files)

    def remove(self, names: Sequence[str]) -> None:
        with base.store_errors(self.address):
            for name in names:
                (self.path / name).unlink(missing_ok=True)
