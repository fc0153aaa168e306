"""Atomic writes, locks on a folder, and opening files of folders that another user may have prepared.

A folder that was handed over may hold links, pipes and devices. Each command that uses a shard folder calls
`check_regular` once, after it has the lock, and files of the folder are opened by `open_regular`. What remains is
another process that replaces a subfolder with a link while a command runs: do not give untrusted users write access.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import math
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, BinaryIO

from manifests.errors import UserError

LOCK_FILE = ".lock"
_TEMPORARY = ".part"
_TOKEN_BYTES = 4
#: Timeout of a shared lock while another process has the exclusive lock and is about to finish.
_SHARED_PATIENCE_SECONDS = 60.0


class FolderError(UserError):
    """A folder cannot be written or locked; one line with the reason and what to do."""


class BusyError(FolderError):
    """Another process holds the folder's lock."""


class NotRegularError(OSError):
    """Another kind of entry in the place of a file."""


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
    """Write a file atomically: to a temporary name, flushed, read back and renamed.

    Creates the parent folder. The rename is within one directory, so that it is atomic on network file systems, too.
    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path_in_errors(path), temporary.open("xb") as raw:
            file = HashingFile(raw)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        if (found := file_sha256(temporary)) != file.sha256:
            reason = f"read back SHA-256 {found}, expected {file.sha256}; is the disk sound?"
            raise OSError(errno.EIO, reason, str(path))
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with path_in_errors(path):
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, so that a rename outlasts a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def partial_files(path: Path) -> list[Path]:
    """Partial files that killed processes left of a file that `atomic_writer` was to write, sorted."""
    token = "[0-9a-f]" * (2 * _TOKEN_BYTES)
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{token}{_TEMPORARY}"))


def remove_partial_files(path: Path) -> None:
    """Remove the partial files of a file that is about to be written again, in a folder that is not locked."""
    for partial in partial_files(path):
        partial.unlink(missing_ok=True)


def remove_leftovers(folder: Path, resumable: Collection[str] = ()) -> None:
    """Delete partial files of a killed process in a folder and its direct subfolders; links are not followed.

    Partial downloads of the `resumable` files, names within the folder, are kept.
    """
    for path in (Path(entry) for entry in _scan(folder, levels=2)):
        if path.name.startswith(".") and path.name.endswith(_TEMPORARY) and not path.is_dir():
            complete = path.with_name(path.name.removeprefix(".").removesuffix(_TEMPORARY))
            if complete.relative_to(folder).as_posix() not in resumable:
                path.unlink(missing_ok=True)


def check_regular(folder: Path) -> None:
    """Raise FolderError unless a folder holds only regular files and folders, to the depth of a shard folder.

    The folder itself may be a link, and may be missing.
    """
    if strange := find_irregular(folder):
        name, kind = strange[0]
        raise FolderError(f"{folder / name}: found {kind}, expected a regular file or a folder; remove it")


def find_irregular(folder: Path) -> list[tuple[str, str]]:
    """Links, pipes, sockets and devices in a folder, to the depth of a shard folder: names, sorted, and their kinds."""
    strange = []
    for entry in _scan(folder, levels=3):
        if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
            continue
        if os.path.lexists(entry):  # another process may have renamed it
            kind = "a link" if entry.is_symlink() else "a pipe, a socket or a device"
            strange.append((Path(entry).relative_to(folder).as_posix(), kind))
    return sorted(strange)


def find_files(folder: Path) -> list[tuple[str, int]]:
    """Regular files in a folder, however deep within reason: names and sizes in bytes. Links are not followed."""
    found = []
    for entry in _scan(folder, levels=20):
        with suppress(FileNotFoundError):  # another process may have renamed it
            if entry.is_file(follow_symlinks=False):
                found.append((Path(entry).relative_to(folder).as_posix(), entry.stat().st_size))
    return found


def _scan(folder: Path, levels: int) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder and of its subfolders down to `levels`; nothing for a missing folder, or behind links."""
    try:
        with os.scandir(folder) as scanned:
            entries = list(scanned)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        yield entry
        if levels > 1 and entry.is_dir(follow_symlinks=False):
            yield from _scan(Path(entry), levels - 1)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> FileIO:
    """Open a regular file, unbuffered. Raises NotRegularError for another kind, and never waits for a pipe; OSError.

    `flags` are those of `os.open`. Files of a shard folder are opened with `O_NOFOLLOW`, which refuses links. A file
    that is opened for writing must have one name only: under another one it may be somebody's.
    """
    writing = flags & (os.O_WRONLY | os.O_RDWR)
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise NotRegularError(error.errno, "found a link or a pipe, expected a file; remove it", str(path)) from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and not (writing and found.st_nlink > 1):
        return FileIO(descriptor, "r+" if flags & os.O_RDWR else "w" if writing else "r")
    os.close(descriptor)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    what = "a file with several names" if stat.S_ISREG(found.st_mode) else "a pipe or a device"
    raise NotRegularError(errno.EINVAL, f"found {what}, expected a file; remove it", str(path))


def read_limited(path: Path, most_bytes: int) -> bytes:
    """Bytes of a regular file. Raises OSError for a link and other kinds, and for a larger file before reading it."""
    with BufferedReader(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)) as file, path_in_errors(path):
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"found {size} bytes, expected at most {most_bytes}", str(path))
        return file.read(most_bytes)


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
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            lock = open_regular(folder / LOCK_FILE, flags)
        except OSError as error:
            advice = f"; choose another folder with {setting}" if setting else ""
            if isinstance(error, NotRegularError):
                raise FolderError(describe_os_error(error)) from error
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
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def file_sha256(path: Path) -> str:
    """SHA-256 of the bytes of a regular file, or of the one that a link leads to. Raises OSError."""
    with open_regular(path) as file:
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
