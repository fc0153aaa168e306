"""Files that are whole or not there, and a folder that one process at a time may change."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, BinaryIO

from manifests.errors import UserError

LOCK_FILE = ".lock"
_TEMPORARY = ".part"
#: Whoever joins others waits so long for one who is about to be done alone.
_PATIENCE_SECONDS = 60.0


class FolderError(UserError):
    """The output folder cannot be used; one line that says why and what to do."""


class BusyError(FolderError):
    """Somebody else is at work in the folder."""


class HashingFile:
    """Counts and hashes what is written through it."""

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
    """Write a file, and the folder it is in, that appears under its name whole, flushed and read back, or not at all.

    Renaming stays within one directory, so that it is atomic on network file systems too. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with named(path), temporary.open("wb") as raw:
            file = HashingFile(raw)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with named(path):
        _sync_folder(path.parent)
    _check_read_back(path, file.sha256)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A write that fails does not say where; say it: `path` becomes the file name of an OSError that has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def atomic_write(path: Path, data: bytes) -> str:
    """Write `data` as a file that is whole or not there; its SHA-256."""
    with atomic_writer(path) as file:
        file.write(data)
    return file.sha256


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed build was in the middle of writing, in the folder and those right below it."""
    for path in [*folder.glob(f".*{_TEMPORARY}"), *folder.glob(f"*/.*{_TEMPORARY}")]:
        path.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path, setting: str = "OUT=", *, tidy: bool = False) -> Iterator[None]:
    """Hold the folder's lock while building. The system frees it when its owner dies, however that happens.

    `setting` is what people choose the folder with, empty where no other will do. Raises BusyError, before any work,
    where another build holds it, FolderError where the folder cannot be written. With `tidy`, an owner that fails takes
    away the lock, and the empty folders, that were not there before.
    """
    with _owned(folder, setting, fcntl.LOCK_EX, 0.0, tidy=tidy):
        yield


@contextmanager
def exclusive_lock_waiting(folder: Path) -> Iterator[None]:
    """Hold the folder's lock alone, after whoever holds it now; tidy as a `exclusive_lock`. Raises FolderError."""
    with _owned(folder, "", fcntl.LOCK_EX, math.inf, tidy=True):
        yield


@contextmanager
def shared_lock(folder: Path, setting: str = "OUT=") -> Iterator[None]:
    """Hold the folder's lock together with others, of this machine or of several, who build parts of it.

    Raises as `exclusive_lock` does.
    """
    with _owned(folder, setting, fcntl.LOCK_SH, _PATIENCE_SECONDS, tidy=False):
        yield


@contextmanager
def _owned(folder: Path, setting: str, kind: int, patience: float, *, tidy: bool) -> Iterator[None]:
    made = [path for path in (folder / LOCK_FILE, folder, *folder.parents) if not path.exists()]
    with _lock(folder, setting, kind, patience) as lock:
        with named(folder / LOCK_FILE):
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        except BaseException:
            if tidy:
                _take_away(made)
            raise
        finally:
            lock.truncate(0)  # whoever is given the folder need not know the machine


@contextmanager
def _lock(folder: Path, setting: str, kind: int, patience: float) -> Iterator[FileIO]:
    """The folder's lock, held. One that its last owner took away locks nothing: the next is made."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK_FILE).open("a+b", buffering=0)
        except OSError as error:
            advice = f"; choose another folder with {setting}" if setting else ""
            raise FolderError(f"{folder}: cannot be written ({error.strerror}){advice}") from error
        with lock:
            _take(lock, folder, setting, kind, patience)
            if is_still(folder / LOCK_FILE, lock):
                yield lock
                return


def is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether a file that was opened under a name is still the one with that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _take_away(made: Sequence[Path]) -> None:
    """A lock that is held alone, and the folders around it, inner ones first, as far as they are empty then."""
    with suppress(OSError):
        for path in made:
            (path.unlink if path.name == LOCK_FILE else path.rmdir)()


def _take(lock: FileIO, folder: Path, setting: str, kind: int, patience: float) -> None:
    """Lock the file, and empty it if it is to be one's own; or raise FolderError."""
    end = time.monotonic() + patience
    try:
        while not _locked(lock, kind):
            if time.monotonic() >= end:
                lock.seek(0)
                owner = lock.read(200).decode(errors="replace").partition("\n")[0] or "another process"
                advice = f", or choose another {setting}" if setting else ""
                raise BusyError(f"{folder}: {owner} is at work here; wait for it{advice}")
            time.sleep(0.2)
    except OSError as error:
        advice = f" with {setting}" if setting else ""
        raise FolderError(f"{folder}: cannot be locked ({error.strerror}); choose a local folder{advice}") from error
    if kind == fcntl.LOCK_EX:
        lock.truncate(0)


def _locked(lock: FileIO, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def describe_os_error(error: OSError) -> str:
    """One line: path, what happened, and the free space where that was it."""
    if not error.filename:
        return error.strerror or str(error)
    path = Path(os.fsdecode(error.filename))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        home = next((p for p in (path, *path.parents) if p.exists()), Path())
        free = shutil.disk_usage(home).free
        return f"{path}: disk full, {free / 1e6:.0f} MB free; make room and run the same command again"
    return f"{path}: {error.strerror or error}"


def _check_read_back(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        raise OSError(errno.EIO, f"read back SHA-256 {found}, expected {expected}; is the disk sound?", str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
