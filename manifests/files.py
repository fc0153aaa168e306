"""Atomic writes, and locks on a folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, BinaryIO

from manifests.errors import UserError

LOCK_FILE = ".lock"
_TEMPORARY = ".part"
#: Timeout of a shared lock while another process has the exclusive lock and is about to finish.
_SHARED_PATIENCE_SECONDS = 60.0


class FolderError(UserError):
    """A folder cannot be written or locked; one line with the reason and what to do."""


class BusyError(FolderError):
    """Another process holds the folder's lock."""


class HashingFile:
    """Counts and hashes the bytes written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self._sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    @property
    def sha256(self) -> str:
        """Hex digest of everything written so far."""
        return self._sha256.hexdigest()


@contextmanager
def atomic_writer(path: Path) -> Iterator[HashingFile]:
    """Write a file atomically: to a temporary name, flushed, renamed and read back.

    Creates the parent folder. The rename is within one directory, so that it is atomic on network file systems, too.
    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path_in_errors(path), temporary.open("wb") as raw:
            file = HashingFile(raw)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with path_in_errors(path):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if (found := file_sha256(path)) != file.sha256:
        path.unlink()
        raise OSError(errno.EIO, f"read back SHA-256 {found}, expected {file.sha256}; is the disk sound?", str(path))


@contextmanager
def path_in_errors(path: Path) -> Iterator[None]:
    """Set `path` as the file name of an OSError without one, e.g. of a failed write."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def atomic_write(path: Path, data: bytes) -> str:
    """Write a file atomically; returns its SHA-256."""
    with atomic_writer(path) as file:
        file.write(data)
    return file.sha256


def remove_leftovers(folder: Path) -> None:
    """Delete partial files of a killed process in a folder and its direct subfolders."""
    for path in [*folder.glob(f".*{_TEMPORARY}"), *folder.glob(f"*/.*{_TEMPORARY}")]:
        path.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path, setting: str = "OUT=", *, cleanup: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the folder's exclusive lock. The system releases it when its owner exits.

    `setting` is the option that chooses the folder, for error messages; empty if there is none. Raises BusyError
    if another process holds it, unless `wait` is set; FolderError if the folder cannot be written. With `cleanup`,
    a lock file and empty folders that were created are removed on failure.
    """
    with _hold_lock(folder, setting, fcntl.LOCK_EX, math.inf if wait else 0.0, cleanup=cleanup):
        yield


@contextmanager
def shared_lock(folder: Path, setting: str = "OUT=") -> Iterator[None]:
    """Hold the folder's shared lock, as other processes on any machine that build parts of it.

    Raises the same errors as `exclusive_lock`.
    """
    with _hold_lock(folder, setting, fcntl.LOCK_SH, _SHARED_PATIENCE_SECONDS, cleanup=False):
        yield


@contextmanager
def _hold_lock(folder: Path, setting: str, kind: int, patience_seconds: float, *, cleanup: bool) -> Iterator[None]:
    created = [path for path in (folder / LOCK_FILE, folder, *folder.parents) if not path.exists()]
    with _acquire_lock(folder, setting, kind, patience_seconds) as lock:
        with path_in_errors(folder / LOCK_FILE):
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        except BaseException:
            if cleanup:
                with suppress(OSError):  # a folder that is not empty is kept, with its parents
                    for path in created:
                        (path.unlink if path.name == LOCK_FILE else path.rmdir)()
            raise
        finally:
            lock.truncate(0)  # recipients of the folder must not see the host name


def _acquire_lock(folder: Path, setting: str, kind: int, patience_seconds: float) -> FileIO:
    """Open and lock the folder's lock file. If its last owner removed it meanwhile, a new one is created."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK_FILE).open("a+b", buffering=0)
        except OSError as error:
            advice = f"; choose another folder with {setting}" if setting else ""
            raise FolderError(f"{folder}: cannot be written ({error.strerror}){advice}") from error
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            if is_same_file(folder / LOCK_FILE, lock):
                if kind == fcntl.LOCK_EX:
                    lock.truncate(0)
                return lock
            lock.close()
        except BlockingIOError:
            with lock:
                if time.monotonic() >= deadline:
                    lock.seek(0)
                    owner = lock.read(200).decode(errors="replace").partition("\n")[0] or "another process"
                    advice = f", or choose another {setting}" if setting else ""
                    raise BusyError(f"{folder}: locked by {owner}; wait for it{advice}") from None
            time.sleep(0.2)
        except OSError as error:
            lock.close()
            advice = f" with {setting}" if setting else ""
            message = f"{folder}: cannot be locked ({error.strerror}); choose a local folder{advice}"
            raise FolderError(message) from error


def is_same_file(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file is still the file at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_os_error(error: OSError) -> str:
    """One line: path, reason, and the free space if the disk is full."""
    if not error.filename:
        return error.strerror or str(error)
    path = Path(os.fsdecode(error.filename))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next((p for p in (path, *path.parents) if p.exists()), Path())
        free = shutil.disk_usage(folder).free
        return f"{path}: disk full, {free / 1e6:.0f} MB free; make room and run the same command again"
    return f"{path}: {error.strerror or error}"
