"""Files are whole or not there, and a folder has one owner at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import files
from manifests.files import (
    FolderError,
    atomic_write,
    atomic_writer,
    describe_os_error,
    exclusive_lock,
    partial_files,
    remove_leftovers,
)

REPOSITORY = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from manifests.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole or not there


@given(st.lists(st.binary(max_size=50), max_size=5))
@settings(max_examples=20)
def test_what_is_written_is_there_counted_and_hashed(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("atomic_writer") / "a.tar"
    with atomic_writer(path) as file:
        for part in parts:
            assert file.write(part) == len(part)
    assert path.read_bytes() == b"".join(parts)
    assert (file.bytes, file.sha256) == (len(b"".join(parts)), hashlib.sha256(b"".join(parts)).hexdigest())
    assert names(path.parent) == ["a.tar"]


def test_publish_returns_the_hash_and_replaces(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"before")
    assert atomic_write(tmp_path / "a", b"now") == hashlib.sha256(b"now").hexdigest()
    assert (tmp_path / "a").read_bytes() == b"now"
    assert names(tmp_path) == ["a"]


def test_nothing_shows_before_it_is_whole(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"before")
    with atomic_writer(tmp_path / "a") as file:
        file.write(b"now")
        assert (tmp_path / "a").read_bytes() == b"before"
        assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_failure_while_writing_leaves_what_was_there(
    tmp_path: Path, error: BaseException, before: bytes | None
) -> None:
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)

    def broken() -> None:
        with atomic_writer(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        broken()
    assert caught.value is error
    assert names(tmp_path) == ([] if before is None else ["a"])
    assert before is None or path.read_bytes() == before


def failing(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_failure_while_publishing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    failing(monkeypatch, owner, name)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "a", b"data")
    assert names(tmp_path) == []


def test_a_failed_write_says_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, os, "fsync")
    with pytest.raises(OSError) as caught:
        atomic_write(tmp_path / "a", b"data")
    assert caught.value.filename == str(tmp_path / "a")


def test_what_reads_back_otherwise_does_not_replace_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that swallows a bit between writing and reading."""
    atomic_write(tmp_path / "a", b"before")
    sync = os.fsync

    def flipping(descriptor: int) -> None:
        sync(descriptor)
        for partial in partial_files(tmp_path / "a"):
            partial.write_bytes(b"dat0")

    monkeypatch.setattr(os, "fsync", flipping)
    with pytest.raises(OSError, match=r"read back SHA-256 .*is the disk sound") as caught:
        atomic_write(tmp_path / "a", b"data")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "a"))
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_data_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def syncing(descriptor: int) -> None:
        events.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file")
        sync(descriptor)

    def replacing(path: Path, target: Path) -> Path:
        assert path.parent == target.parent
        assert path.read_bytes() == b"data"
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    atomic_write(tmp_path / "a", b"data")
    assert events == ["file", "rename", "folder"]


def test_leftovers_of_a_killed_build_go_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "receipts").mkdir()
    kept = ["a.tar", "part", ".hidden", "notes.part", "receipts/a.json"]
    left = []

    def killed(path: Path) -> Path:
        with atomic_writer(path):
            return next(other for other in path.parent.iterdir() if other.name not in kept and other.is_file())

    for path in (tmp_path / "b.tar", tmp_path / "receipts/b.json"):
        left.append(killed(path))
    for path in left:
        path.write_bytes(b"half")
    for name in kept:
        (tmp_path / name).write_bytes(b"x")
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in left)
    assert all((tmp_path / name).exists() for name in kept)


# One owner at a time


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """`hold(folder)` starts a process that owns the folder."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(folder)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refused(folder: Path, message: str) -> None:
    with pytest.raises(FolderError, match=message), exclusive_lock(folder):
        pytest.fail("was not refused")


def test_a_second_process_is_refused_and_told_who_is_there(
    tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = hold(tmp_path)
    refused(tmp_path, rf"locked by process {process.pid} on .*; wait for it, or choose another OUT=")


def test_a_killed_owners_lock_is_free(tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with exclusive_lock(tmp_path):
        assert (tmp_path / files.LOCK_FILE).read_text().startswith(f"process {os.getpid()} on ")


def test_an_owner_that_ends_frees_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive_lock(tmp_path / "new" / "folder"):
            refused(tmp_path / "new" / "folder", "locked by")
    with pytest.raises(ValueError, match="x"), exclusive_lock(tmp_path):
        raise ValueError("x")
    with exclusive_lock(tmp_path):
        pass


def test_a_tidy_owner_that_fails_leaves_what_was_there_before(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with exclusive_lock(kept, cleanup=True):
        (kept / "a.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match="x"), exclusive_lock(kept, cleanup=True):
        raise ValueError("x")
    assert {path.name for path in kept.iterdir()} == {"a.tar", files.LOCK_FILE}
    (kept / files.LOCK_FILE).unlink()
    for folder in (kept, tmp_path / "new" / "folder"):
        with pytest.raises(ValueError, match="x"), exclusive_lock(folder, cleanup=True):
            raise ValueError("x")
    assert {path.name for path in tmp_path.rglob("*")} == {"kept", "a.tar"}


def test_who_waited_for_a_lock_that_was_taken_away_holds_the_next_one(tmp_path: Path) -> None:
    folder, failing = tmp_path / "new", exclusive_lock(tmp_path / "new", cleanup=True, wait=True)
    inside, leave = threading.Event(), threading.Event()

    def wait_and_hold() -> None:
        with exclusive_lock(folder, cleanup=True, wait=True):
            inside.set()
            leave.wait()

    failing.__enter__()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_and_hold)
        assert not inside.wait(0.5)
        assert failing.__exit__(ValueError, ValueError("x"), None) is not True
        assert inside.wait(60)
        refused(folder, "locked by")
        leave.set()
        waiting.result()


def test_a_finished_folder_does_not_name_the_machine(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path):
        pass
    assert (tmp_path / files.LOCK_FILE).read_bytes() == b""


def test_a_folder_that_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "out", r"file/out: cannot be written \(.*\); choose another folder with OUT=")


# What went wrong, in a line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_free_space(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Path] = []

    def disk_usage(path: Path) -> object:
        measured.append(path)
        return type("Usage", (), {"free": 12_345_678})

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    path = tmp_path / "absent" / "a.tar"
    line = describe_os_error(OSError(number, os.strerror(number), str(path)))
    assert line == f"{path}: disk full, 12 MB free; make room and run the same command again"
    assert measured == [tmp_path]


def test_other_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "absent").read_bytes()
    assert describe_os_error(caught.value) == f"{tmp_path / 'absent'}: No such file or directory"
    assert describe_os_error(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert describe_os_error(OSError("odd")) == "odd"
    assert describe_os_error(PermissionError(errno.EACCES, "Permission denied", b"/x")) == "/x: Permission denied"
