"""One file from a store to a disk: whatever the connection does, the file in the end is the expected one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from manifests import download
from manifests.download import CancelledError, ExpectedFile, WrongBytesError, download_file
from manifests.stores import StoreError, UnreachableError, open_store
from tests.fakes.servers import Fault, FileServer

NAME = "anna-000.tar"
DATA = random.Random(0).randbytes(3_000_000)
EXPECTED = ExpectedFile(name=NAME, sha256=hashlib.sha256(DATA).hexdigest(), bytes=len(DATA))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / NAME).write_bytes(DATA)
    with FileServer(tmp_path / "there", prefix="shards") as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual number of tries, without pauses."""
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,) * len(download.PAUSES_SECONDS))


def fetched(server: FileServer, here: Path, expected: ExpectedFile = EXPECTED) -> bool:
    return download_file(open_store(server.url), here, expected)


def flipped(data: bytes) -> bytes:
    return data[:-600] + bytes([data[-600] ^ 1]) + data[-599:]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_once_and_nothing_lies_beside_it(server: FileServer, here: Path) -> None:
    assert fetched(server, here)
    assert (here / NAME).read_bytes() == DATA
    assert not fetched(server, here)
    assert server.requested == [NAME]
    assert names(here) == [NAME]


def test_a_cut_connection_is_gone_on_from_where_it_was_cut(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, Fault(drop_after=1_000_000), Fault(drop_after=500_000))
    assert fetched(server, here)
    assert (here / NAME).read_bytes() == DATA
    assert [request.first_byte for request in server.requests] == [0, 1_000_000, 1_500_000]


def test_a_server_without_ranges_is_asked_from_the_start(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, Fault(drop_after=1_000_000), always=Fault(no_range=True))
    assert fetched(server, here)
    assert (here / NAME).read_bytes() == DATA
    assert len(server.requested) == 2


def test_what_another_run_left_is_gone_on_with(server: FileServer, here: Path) -> None:
    here.mkdir()
    (here / f".{NAME}.part").write_bytes(DATA[:1234])
    fetched(server, here)
    assert (here / NAME).read_bytes() == DATA
    assert [request.first_byte for request in server.requests] == [1234]


@pytest.mark.parametrize("left", [b"of another file", DATA[:-1] + b"x", DATA + b"too much"])
def test_what_another_run_left_is_hashed_again(server: FileServer, here: Path, left: bytes) -> None:
    here.mkdir()
    (here / f".{NAME}.part").write_bytes(left)
    fetched(server, here)
    assert (here / NAME).read_bytes() == DATA
    assert server.requests[-1].first_byte == 0


def test_a_damaged_file_is_mended(server: FileServer, here: Path) -> None:
    fetched(server, here)
    (here / NAME).write_bytes(flipped(DATA))
    assert fetched(server, here)
    assert (here / NAME).read_bytes() == DATA


def test_a_link_in_the_file_s_place_gives_way(server: FileServer, here: Path, tmp_path: Path) -> None:
    here.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (here / NAME).symlink_to(tmp_path / "elsewhere")
    fetched(server, here)
    assert not (here / NAME).is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_wrong_bytes_are_tried_once_more_and_refused(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, always=Fault(change=flipped))
    found = hashlib.sha256(flipped(DATA)).hexdigest()
    with pytest.raises(WrongBytesError) as caught:
        fetched(server, here)
    assert str(caught.value).startswith(f"{server.url}/{NAME}: found SHA-256 {found}, expected {EXPECTED.sha256};")
    assert [request.first_byte for request in server.requests] == [0, 0]
    assert names(here) == []
    server.behave()
    assert fetched(server, here)


def test_wrong_bytes_once_are_no_harm(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, Fault(change=flipped))
    assert fetched(server, here)
    assert (here / NAME).read_bytes() == DATA


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b""])
def test_a_shorter_file_is_refused(server: FileServer, here: Path, change) -> None:
    server.misbehave(NAME, always=Fault(change=change))
    with pytest.raises(WrongBytesError, match=rf"found {len(change(DATA))} bytes, expected {len(DATA)}; "):
        fetched(server, here)


def test_a_longer_file_is_refused_and_not_taken_in(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, always=Fault(change=lambda data: data * 100))
    with pytest.raises(WrongBytesError, match=rf"found more than {len(DATA)} bytes, expected that; "):
        fetched(server, here)


def test_a_file_of_no_promised_size_has_a_limit(server: FileServer, here: Path) -> None:
    with pytest.raises(WrongBytesError, match="found more than 1000 bytes, expected at most that"):
        fetched(server, here, ExpectedFile(name=NAME, sha256=EXPECTED.sha256, most_bytes=1000))


def test_a_length_that_is_told_too_long_is_no_harm(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, Fault(length=len(DATA) + 5))
    fetched(server, here)
    assert (here / NAME).read_bytes() == DATA


def test_a_length_that_is_told_too_short_is_refused(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, always=Fault(length=77))
    with pytest.raises(WrongBytesError, match=f"found 77 bytes, expected {len(DATA)}"):
        fetched(server, here)


def test_a_file_without_a_promise_is_fetched_anew(server: FileServer, here: Path) -> None:
    expected = ExpectedFile(name=NAME)
    server.misbehave(NAME, Fault(drop_after=10))
    assert fetched(server, here, expected)
    (server.folder / NAME).write_bytes(b"other")
    assert fetched(server, here, expected)
    assert (here / NAME).read_bytes() == b"other"
    assert {request.first_byte for request in server.requests} == {0}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: FileServer, here: Path, status: int) -> None:
    server.misbehave(NAME, Fault(status=status, headers={"Retry-After": "0"}), Fault(status=status))
    assert fetched(server, here)
    assert len(server.requested) == 3


def test_a_server_that_never_answers_is_given_up_and_what_came_is_kept(server: FileServer, here: Path) -> None:
    server.misbehave(NAME, Fault(drop_after=1_000_000), always=Fault(status=503))
    with pytest.raises(StoreError, match=rf"^{server.url}/{NAME}: cannot be fetched for now \(HTTP 503\); run again"):
        fetched(server, here)
    assert len(server.requested) == 1 + len(download.PAUSES_SECONDS)
    server.behave()
    fetched(server, here)
    assert [request.first_byte for request in server.requests] == [1_000_000]


@pytest.mark.parametrize("expected", [EXPECTED, ExpectedFile(name=NAME)])
def test_a_connection_that_always_ends_at_the_same_byte_is_given_up(
    server: FileServer, here: Path, expected: ExpectedFile
) -> None:
    server.misbehave(NAME, always=Fault(drop_after=1000, no_range=True))
    with pytest.raises(StoreError, match=f"the connection ended {len(DATA) - 1000} bytes too early.*; run again"):
        fetched(server, here, expected)


@pytest.mark.parametrize(
    ("status", "message"), [(404, "not found"), (403, "may not be read"), (418, "cannot be fetched")]
)
def test_a_refusal_is_final(server: FileServer, here: Path, status: int, message: str) -> None:
    server.misbehave(NAME, always=Fault(status=status))
    with pytest.raises(StoreError, match=rf"{NAME}: {message} \(HTTP {status}\)"):
        fetched(server, here)
    assert server.requested == [NAME]
    assert names(here) == []


def test_a_server_that_never_answered_is_not_waited_for(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileServer(tmp_path) as gone:
        nobody = gone.url
    for url, reason in ((nobody, "Connection refused"), ("http://nowhere.invalid", ".*[Nn]ame.*")):
        host = url.removeprefix("http://")
        message = rf"^{url}/{NAME}: {host} cannot be reached \({reason}\); check network and proxy, then run again$"
        stop = threading.Event()
        with pytest.raises(UnreachableError, match=message):
            download_file(open_store(url), here, EXPECTED, stop)
        assert stop.is_set()  # nor are the others, who ask the same server
    assert capsys.readouterr().err == ""


def test_a_server_that_went_away_is_waited_for_and_each_try_is_told(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_bytes(DATA)
    with FileServer(tmp_path) as gone:
        store = open_store(gone.url)
        download_file(store, here, EXPECTED)
    (here / NAME).unlink()
    stop = threading.Event()
    with pytest.raises(UnreachableError, match=r"\(Connection refused\); run again to resume$"):
        download_file(store, here, EXPECTED, stop)
    assert not stop.is_set()
    why = f"{store.address}/{NAME}: cannot be fetched (Connection refused)"
    most = len(download.PAUSES_SECONDS)
    lines = [f"{why}; trying again in 0.0 s ({number} of {most})" for number in range(1, most + 1)]
    assert capsys.readouterr().err.splitlines() == lines


def test_what_goes_on_at_once_is_not_told(server: FileServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.misbehave(NAME, Fault(drop_after=1_000_000), Fault(status=503))
    fetched(server, here)
    (line,) = capsys.readouterr().err.splitlines()
    assert "(HTTP 503); trying again in 0.0 s (2 of 5)" in line


def test_a_server_that_is_too_slow_is_given_up(
    server: FileServer, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "RATE_SECONDS", 0.5)
    server.misbehave(NAME, always=Fault(bytes_per_second=500))
    message = r"anna-000\.tar: found \d{2,3} bytes a second, expected 1000; run again to resume$"
    with pytest.raises(UnreachableError, match=message):
        fetched(server, here)
    assert len(server.requested) == 1 + len(download.PAUSES_SECONDS)
    assert capsys.readouterr().err.count("trying again") == len(download.PAUSES_SECONDS)
    kept = (here / f".{NAME}.part").stat().st_size
    server.behave()
    assert fetched(server, here)  # what came is kept
    assert [request.first_byte for request in server.requests] == [kept]


def test_a_slow_server_of_at_least_that_rate_will_do(
    server: FileServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RATE_SECONDS", 0.5)
    data = DATA[:9000]
    (server.folder / NAME).write_bytes(data)
    server.misbehave(NAME, Fault(bytes_per_second=6000))
    assert fetched(server, here, ExpectedFile(name=NAME, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))
    assert len(server.requested) == 1


def test_who_waits_for_another_process_can_be_stopped(server: FileServer, here: Path) -> None:
    here.mkdir()
    stop = threading.Event()
    with (here / f".{NAME}.part").open("ab") as part, ThreadPoolExecutor(1) as pool:
        fcntl.flock(part, fcntl.LOCK_EX)
        waiting = pool.submit(download_file, open_store(server.url), here, EXPECTED, stop)
        time.sleep(0.3)
        stop.set()
        with pytest.raises(CancelledError, match="stopped; run again to resume"):
            waiting.result(timeout=5)


def test_several_at_once_fetch_a_file_once(server: FileServer, here: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda _: fetched(server, here), range(8)))
    assert sorted(moved) == [False] * 7 + [True]
    assert server.requested == [NAME]
    assert names(here) == [NAME]


def in_another_process(server: FileServer, here: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that fetches the file, and prints whether it had to."""
    script = (
        f"{before}\nimport sys\nfrom pathlib import Path\nfrom manifests.stores import open_store\n"
        "from manifests.download import ExpectedFile, download_file\n"
        f"expected = ExpectedFile(name={NAME!r}, sha256={EXPECTED.sha256!r}, bytes={EXPECTED.bytes})\n"
        "print(download_file(open_store(sys.argv[1]), Path(sys.argv[2]), expected))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, server.url, str(here)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_fetch_a_file_once(server: FileServer, here: Path) -> None:
    processes = [in_another_process(server, here) for _ in range(3)]
    printed = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert printed == ["False", "False", "True"]
    assert server.requested == [NAME]


def test_a_killed_process_leaves_no_lock_and_what_it_had(server: FileServer, here: Path) -> None:
    never = threading.Event()
    server.misbehave(NAME, Fault(drop_after=1_000_000), Fault(hold=never))
    process = in_another_process(server, here)
    while len(server.requested) < 2:
        time.sleep(0.01)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.communicate()
    never.set()
    server.behave()
    assert fetched(server, here)
    assert [request.first_byte for request in server.requests] == [1_000_000]
    assert names(here) == [NAME]


def test_a_disk_that_takes_no_more_is_named(server: FileServer, here: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    process = in_another_process(server, here, before=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{here / f'.{NAME}.part'}'"
    assert names(here) == [f".{NAME}.part"]
    fetched(server, here)
    assert server.requests[-1].first_byte == 2_000_000


def test_who_asks_to_stop_is_heard(server: FileServer, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError, match="stopped; run again to resume"):
        download_file(open_store(server.url), here, EXPECTED, stop)
    server.misbehave(NAME, always=Fault(status=503, headers={"Retry-After": "300"}))
    with pytest.raises(CancelledError):  # no rest is taken
        download_file(open_store(server.url), here, EXPECTED, stop)
    assert capsys.readouterr().err == ""  # no word of another try follows that of the interruption


def test_md5_is_checked_where_a_place_tells_nothing_else(server: FileServer, here: Path) -> None:
    digest = hashlib.md5(DATA).hexdigest()
    assert fetched(server, here, ExpectedFile(name=NAME, md5=digest))
    assert not fetched(server, here, ExpectedFile(name=NAME, md5=digest))
    with pytest.raises(WrongBytesError, match=f"found MD5 {digest}, expected {'0' * 32}"):
        fetched(server, here, ExpectedFile(name=NAME, md5="0" * 32))
    assert (here / NAME).read_bytes() == DATA
