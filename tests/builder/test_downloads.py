"""`corpus`: originals from public homes, over connections that drop and lie; each file comes right or not at all."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.__main__ import main
from builder.corpus import fetch
from builder.datasets import DATASETS, crema_d, ravdess, scan_corpus
from manifests import download
from manifests.files import exclusive_lock
from manifests.index import load_checksums
from tests.factories import corpora
from tests.fakes import remotes
from tests.fakes.servers import Fault, FileServer

HERE = Path(__file__).parent
FACTS = Path(__file__).parents[3] / "shared" / "facts"
CLIPS = len(corpora.CREMA_D_CLIPS)
CLIP = "VideoFlash/1001_DFA_ANG_XX.flv"
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def zenodo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer(remotes.publish_ravdess(tmp_path / "zenodo", monkeypatch)) as server:
        yield server


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with FileServer(remotes.publish_crema_d(tmp_path / "github", monkeypatch)) as server:
        yield server


def command(server: FileServer, data: Path, *arguments: str) -> list[str]:
    dataset = "ravdess" if (server.folder / remotes.RECORD).exists() else "crema-d"
    return ["corpus", "--dataset", dataset, "--data", str(data), "--from", server.url, *arguments]


def at_github(name: str) -> str:
    return f"{remotes.REPOSITORY}/{name}"


def at_zenodo(actor: str) -> str:
    return f"{remotes.ARCHIVES}/{remotes.archive_name(actor)}"


def files(folder: Path) -> set[str]:
    """Every file but the lock."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}


def plan_accepts(name: str, data: Path, clips: int) -> bool:
    scan = scan_corpus(name, data)
    planned = main(["plan", "--dataset", name, "--data", str(data)])
    return (planned, len(scan.sources), scan.missing) == (0, clips, ())


# --- all is well -----------------------------------------------------------------------------------------------


def test_ravdess_ends_in_a_folder_that_can_be_built(zenodo: FileServer, data: Path, capsys: Said) -> None:
    assert main(command(zenodo, data)) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[1] == "licence   CC BY-NC-SA 4.0; https://zenodo.org/records/1188976"
    assert output[2] == f"present   0 of 1440 files in {data}"
    assert output[3] == f"from      {zenodo.url}/{remotes.ARCHIVES}"
    assert re.fullmatch(r"to fetch  24 files, \d+\.\d MB", output[4])
    assert re.fullmatch(r"disk      \d+\.\d MB needed, \d+\.\d MB free", output[5])
    assert re.fullmatch(r"fetched   24 files, \d+\.\d MB, each verified", output[6])
    assert output[7:] == [f"complete  {data}"]
    assert plan_accepts("ravdess", data, 1440)
    expected = {source.video.relative_to(data).as_posix() for source in scan_corpus("ravdess", data).sources}
    sums = {f"Actor_{actor}/SHA256SUMS" for actor in corpora.SPEAKERS["ravdess"]}
    assert files(data) == expected | sums  # no archive, nothing without sound
    for name in expected:
        assert (data / name).read_bytes() == remotes.recording(name)
    assert zenodo.requested[0] == remotes.RECORD
    assert sorted(zenodo.requested[1:]) == [at_zenodo(actor) for actor in corpora.SPEAKERS["ravdess"]]


def test_crema_d_ends_in_a_folder_that_can_be_built(github: FileServer, data: Path, capsys: Said) -> None:
    assert main(command(github, data)) == 0
    assert f"fetched   {CLIPS} files" in capsys.readouterr().out
    assert files(data) == {f"VideoFlash/{clip}.flv" for clip in corpora.CREMA_D_CLIPS}
    assert plan_accepts("crema-d", data, CLIPS)
    assert main(command(github, data, "--all")) == 0
    assert f"fetched   {CLIPS} files" in capsys.readouterr().out
    assert len(files(data)) == 2 * CLIPS
    assert plan_accepts("crema-d", data, CLIPS)
    for name in files(data):
        assert (data / name).read_bytes() == remotes.recording(name)


def test_a_second_run_asks_for_nothing(zenodo: FileServer, data: Path, capsys: Said) -> None:
    main(command(zenodo, data))
    before = {name: (data / name).read_bytes() for name in files(data)}
    zenodo.behave()
    capsys.readouterr()
    assert main(command(zenodo, data)) == 0
    assert zenodo.requests == []
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"present   1440 of 1440 files in {data}: 1440 verified",
        f"complete  {data}",
    ]
    assert {name: (data / name).read_bytes() for name in files(data)} == before


def test_only_what_is_absent_is_asked_for(zenodo: FileServer, data: Path) -> None:
    main(command(zenodo, data))
    next((data / "Actor_07").glob("*.mp4")).unlink()
    shutil.rmtree(data / "Actor_09")
    zenodo.behave()
    assert main(command(zenodo, data)) == 0
    assert sorted(zenodo.requested) == [remotes.RECORD, at_zenodo("07"), at_zenodo("09")]
    assert plan_accepts("ravdess", data, 1440)


def test_archives_can_be_kept_and_are_then_not_fetched_again(zenodo: FileServer, data: Path) -> None:
    assert main(command(zenodo, data, "--keep-archives")) == 0
    archives = {path.name for path in data.glob("*.zip")}
    assert archives == {remotes.archive_name(actor) for actor in corpora.SPEAKERS["ravdess"]}
    shutil.rmtree(data / "Actor_09")
    zenodo.behave()
    assert main(command(zenodo, data, "--keep-archives")) == 0
    assert zenodo.requested == [remotes.RECORD]
    assert plan_accepts("ravdess", data, 1440)


def test_a_folder_may_stand_in_for_the_home(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = remotes.publish_crema_d(tmp_path / "usb stick", monkeypatch)
    arguments = ["corpus", "--dataset", "crema-d", "--data", str(data), "--from", str(home)]
    assert main(arguments) == 0
    assert plan_accepts("crema-d", data, CLIPS)


def test_a_folder_inside_the_one_that_was_named(github: FileServer, data: Path, capsys: Said) -> None:
    main(command(github, data / "CREMA-D"))
    github.behave()
    assert main(command(github, data)) == 0
    assert github.requests == []
    shutil.copytree(data / "CREMA-D", data / "copy")
    assert main(command(github, data)) == 2
    assert f"{data}: contains the corpus twice, in CREMA-D and copy; choose one\n" in capsys.readouterr().err


# --- bad connections -------------------------------------------------------------------------------------------


def test_a_dropped_connection_is_gone_on_with_where_it_was_cut(github: FileServer, data: Path) -> None:
    github.misbehave(at_github(CLIP), Fault(drop_after=500), Fault(status=503), Fault(drop_after=300))
    assert main(command(github, data)) == 0
    assert [request.first_byte for request in github.requests if request.name == at_github(CLIP)] == [0, 500, 500, 800]
    assert (data / CLIP).read_bytes() == remotes.recording(CLIP)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(length=2000),
        Fault(length=700),
        Fault(change=lambda data: data[:700]),
        Fault(change=lambda data: data + b"more"),
        Fault(change=lambda data: b"!" + data[1:]),
        Fault(change=lambda data: b""),
        Fault(change=lambda data: corpora.LFS_POINTER),
        Fault(status=500),
    ],
    ids=["declares more", "declares less", "less", "more", "other bytes", "nothing", "a pointer", "an error"],
)
def test_what_went_wrong_once_is_made_good(github: FileServer, data: Path, fault: Fault) -> None:
    github.misbehave(at_github(CLIP), fault)
    assert main(command(github, data)) == 0
    assert (data / CLIP).read_bytes() == remotes.recording(CLIP)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(change=lambda data: b"!" + data[1:]), r"found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; "),
        (Fault(change=lambda data: data + b"more"), r"found more than 1280 bytes, expected that; "),
        (Fault(status=404), r"not found \(HTTP 404\)"),
        (Fault(status=503), r"cannot be fetched for now \(HTTP 503\); run again to resume"),
        (Fault(drop_after=0), r"cannot be fetched \(.*\); run again to resume"),
    ],
    ids=["other bytes", "more", "not there", "overloaded", "cut"],
)
def test_what_stays_wrong_is_listed_and_the_rest_kept(
    github: FileServer, data: Path, capsys: Said, fault: Fault, why: str
) -> None:
    github.misbehave(at_github(CLIP), always=fault)
    assert main(command(github, data)) == 1
    captured = capsys.readouterr()
    assert re.search(rf"^  failed  {CLIP}: {why}", captured.out, re.MULTILINE)
    assert captured.err.endswith("error: 1 file failed; run the same command to try again\n")
    assert len([name for name in files(data) if not Path(name).name.startswith(".")]) == CLIPS - 1
    assert not (data / CLIP).exists()
    github.behave()
    assert main(command(github, data)) == 0
    assert github.requested == [at_github(CLIP)]


def test_wrong_bytes_of_an_archive_are_refused_by_its_md5(zenodo: FileServer, data: Path, capsys: Said) -> None:
    zenodo.misbehave(at_zenodo("03"), always=Fault(change=lambda data: data[:-1] + b"!"))
    assert main(command(zenodo, data)) == 1
    assert re.search(r"failed  \S+_03.zip: found MD5 [0-9a-f]{32}, expected [0-9a-f]{32}; ", capsys.readouterr().out)
    assert not (data / "Actor_03").exists()
    assert len(list(data.glob("Actor_*"))) == 23


def test_a_dead_home_is_not_asked_for_every_file(github: FileServer, data: Path, capsys: Said) -> None:
    github.allow = lambda request: False
    assert main(command(github, data, "--connections", "1")) == 2
    captured = capsys.readouterr()
    assert captured.err.endswith(
        f"error: {github.url}/{remotes.REPOSITORY}: may not be read (HTTP 401); is a login or an "
        "agreement to its terms missing?\n"
    )
    assert "failed" not in captured.out + captured.err
    assert fetch.MAX_FAILURES <= len(github.requested) < CLIPS


def test_three_files_that_failed_are_named(github: FileServer, data: Path, capsys: Said) -> None:
    names = [f"VideoFlash/{clip}.flv" for clip in corpora.CREMA_D_CLIPS[:5]]
    for name in names:
        github.misbehave(at_github(name), always=Fault(status=404))
    assert main(command(github, data)) == 1
    output = capsys.readouterr().out
    assert output.count("  failed  VideoFlash/") == 3
    assert output.endswith(": not found (HTTP 404)\n  ... and 2 more (ALL=1 lists them)\n")
    assert main(command(github, data, "--all")) == 1
    assert capsys.readouterr().out.count("  failed  VideoFlash/") == 5


def test_where_nothing_came_the_status_says_so(github: FileServer, data: Path, capsys: Said) -> None:
    main(command(github, data))
    (data / CLIP).unlink()
    github.misbehave(at_github(CLIP), always=Fault(status=404))
    capsys.readouterr()
    assert main(command(github, data)) == 2
    captured = capsys.readouterr()
    assert f"  failed  {CLIP}: not found (HTTP 404)\n" in captured.out
    assert captured.err.endswith("error: 1 file failed; run the same command to try again\n")


@pytest.mark.parametrize(("dataset", "where"), [("ravdess", "api/records/1188976"), ("crema-d", remotes.REPOSITORY)])
def test_nobody_there(data: Path, capsys: Said, dataset: str, where: str) -> None:
    assert main(["corpus", "--dataset", dataset, "--data", str(data), "--from", "http://127.0.0.1:9"]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.match(rf"error: http://127.0.0.1:9/{where}: 127.0.0.1:9 cannot be reached \(.*\); check", errors[0])
    assert "failed" not in captured.out
    assert "checking" not in captured.err  # nothing is there


def test_check_of_an_empty_folder_counts_files(data: Path, capsys: Said) -> None:
    assert main(["corpus", "--dataset", "ravdess", "--data", str(data), "--check"]) == 1
    captured = capsys.readouterr()
    assert f"present   0 of 1440 files in {data}\n" in captured.out
    assert captured.err == "error: 1440 files missing\n"


@pytest.mark.parametrize("address", ["gopher://host", "https://me:secret@host", "https://host/?key=secret"])
def test_addresses_that_are_none(data: Path, capsys: Said, address: str) -> None:
    assert main(["corpus", "--dataset", "crema-d", "--data", str(data), "--from", address]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("error: found ")
    assert "secret" not in captured.err + captured.out


# --- stopped and resumed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_process_is_gone_on_with(
    github: FileServer, data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The server gives half of a file and then holds its breath."""
    released = threading.Event()
    held = Fault(hold=released, drop_after=0)
    github.misbehave(at_github(CLIP), Fault(drop_after=640), held, always=Fault(drop_after=0))
    program = [sys.executable, "-m", "tests.fakes.corpus_command", str(tmp_path / "inventory")]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    process = subprocess.Popen(
        [*program, *command(github, data)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and (
        github.requested.count(at_github(CLIP)) < 2 or len(list(data.rglob("*.flv"))) < CLIPS - 1
    ):
        time.sleep(0.01)  # the others are there, and half of this one
    process.send_signal(number)
    released.set()  # a thread that waits for an answer notices Ctrl-C after it
    complained = process.communicate(timeout=100)[1]
    assert process.returncode == (130 if number is signal.SIGINT else -number), complained
    assert "Traceback" not in complained
    part = data / "VideoFlash" / f".{Path(CLIP).name}.part"
    assert part.read_bytes() == remotes.recording(CLIP)[:640]
    assert not (data / CLIP).exists()
    github.behave()
    assert main(command(github, data)) == 0
    assert [(request.name, request.first_byte) for request in github.requests] == [(at_github(CLIP), 640)]
    assert not part.exists()
    assert plan_accepts("crema-d", data, CLIPS)


def test_killed_while_unpacking(zenodo: FileServer, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if: some files of an archive are there, its sums are not, and the archive still is."""
    main(command(zenodo, data, "--keep-archives"))
    (data / "Actor_05" / "SHA256SUMS").unlink()
    names = sorted((data / "Actor_05").iterdir())
    for path in names[30:]:
        path.unlink()
    zenodo.behave()
    assert main(command(zenodo, data)) == 0
    assert zenodo.requested == [remotes.RECORD]
    assert len(load_checksums(data / "Actor_05")) == 60
    assert not (data / remotes.archive_name("05")).exists()


def test_a_second_process_is_refused(github: FileServer, data: Path, capsys: Said) -> None:
    with exclusive_lock(data):
        assert main(command(github, data)) == 2
    assert "wait for it, or choose another DATA=\n" in capsys.readouterr().err
    assert github.requests == []


# --- before anything moves -------------------------------------------------------------------------------------


def test_too_small_a_disk_is_refused_before_anything_is_asked(
    zenodo: FileServer, data: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5000, 5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main(command(zenodo, data)) == 2
    captured = capsys.readouterr()
    assert "licence   CC BY-NC-SA 4.0" in captured.out
    assert re.search(r"^disk      \d+\.\d MB needed, 0.0 MB free$", captured.out, re.MULTILINE)
    assert captured.err.endswith(
        f"{data}: not enough disk space; free some space, or choose another folder with DATA=\n"
    )
    assert zenodo.requests == []
    assert not data.exists()


def test_room_for_archives_beside_what_they_hold(zenodo: FileServer, data: Path) -> None:
    archives = ravdess.remote_files()
    size = archives[0].bytes
    assert {archive.bytes for archive in archives} == {size}
    assert fetch.needed_bytes(data, archives, connections=4, keep_archives=False) == 28 * size
    assert fetch.needed_bytes(data, archives, connections=4, keep_archives=True) == 48 * size
    data.mkdir()
    (data / f".{archives[0].name}.part").write_bytes(bytes(1000))
    assert fetch.needed_bytes(data, archives, connections=4, keep_archives=True) == 48 * size - 1000


def test_a_folder_that_cannot_be_written(github: FileServer, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(command(github, tmp_path / "file" / "data")) == 2
    assert "cannot be written (Not a directory); choose another folder with DATA=\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda files: files.pop(2), "found no Video_Speech_Actor_03.zip in the record, expected one of "),
        (lambda files: files[2].update(size=17), r"Video_Speech_Actor_03.zip: found 17 bytes, expected \d+"),
        (lambda files: files[2].update(checksum="sha1:abc"), "found checksum 'sha1:abc', expected md5:"),
        (lambda files: files[2].update(checksum=None), "found no Zenodo record"),
        (lambda files: files.insert(0, "x"), "found no Zenodo record"),
    ],
)
def test_a_record_that_is_not_the_known_one_is_refused(
    zenodo: FileServer, data: Path, capsys: Said, spoil: Callable[[list[object]], object], complaint: str
) -> None:
    entries: list[object] = [remotes.entry(path) for path in sorted((zenodo.folder / remotes.ARCHIVES).glob("*.zip"))]
    spoil(entries)
    remotes.write_record(zenodo.folder, entries)
    assert main(command(zenodo, data)) == 2
    assert re.search(rf"^error: {zenodo.url}/{remotes.RECORD}: .*{complaint}", capsys.readouterr().err, re.MULTILINE)
    assert zenodo.requested == [remotes.RECORD]


@pytest.mark.parametrize("text", ["<html>maintenance</html>", "[]", '{"files": {}}', "{}"])
def test_an_answer_that_is_no_record(zenodo: FileServer, data: Path, capsys: Said, text: str) -> None:
    (zenodo.folder / remotes.RECORD).write_text(text)
    assert main(command(zenodo, data)) == 2
    assert "found no Zenodo record" in capsys.readouterr().err


# --- archives that are traps -----------------------------------------------------------------------------------


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../escaped.mp4", "a path outside of the folder"),
        ("Actor_05/../../escaped.mp4", "a path outside of the folder"),
        ("/tmp/escaped.mp4", "a path outside of the folder"),
        ("..\\escaped.mp4", "a path outside of the folder"),
        ("C:escaped.mp4", "a path outside of the folder"),
        (link("Actor_05/link"), "a link"),
        ("Actor_05/01-01-01-01-01-01-05.mp4", "a duplicate name"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_archive_that_would_write_elsewhere_is_refused(
    zenodo: FileServer,
    data: Path,
    capsys: Said,
    monkeypatch: pytest.MonkeyPatch,
    name: str | zipfile.ZipInfo,
    problem: str,
) -> None:
    with zipfile.ZipFile(zenodo.folder / at_zenodo("05"), "a") as bundle:
        bundle.writestr(name, b"gotcha")
    remotes.publish_record(zenodo.folder, monkeypatch)
    assert main(command(zenodo, data)) == 1
    assert "_05.zip: contains '" in (output := capsys.readouterr().out)
    assert f"', {problem}; no file was unpacked\n" in output
    assert not (data / "Actor_05").exists()
    assert not list(data.parent.rglob("*escaped*"))
    assert len(list(data.glob("Actor_*"))) == 23


def test_what_is_of_no_use_is_left_in_the_archive(
    zenodo: FileServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(zenodo.folder / at_zenodo("05"), "a") as bundle:
        bundle.writestr("__MACOSX/Actor_05/._01-01-01-01-01-01-05.mp4", b"rubbish")
        bundle.writestr("Actor_05/setup.exe", b"rubbish")
    remotes.publish_record(zenodo.folder, monkeypatch)
    assert main(command(zenodo, data)) == 0
    assert len(files(data)) == 1440 + 24


def _bomb(path: Path) -> None:
    """A member that says it is larger than any recording."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"Actor_05/01-01-01-01-01-01-05.mp4") - 46  # its entry in the zip's own list
    data[at + 24 : at + 28] = (1 << 29).to_bytes(4, "little")
    path.write_bytes(data)


def _damaged(path: Path) -> None:
    data = path.read_bytes()
    wanted = remotes.recording("Actor_05/01-01-01-01-01-01-05.mp4")
    path.write_bytes(data.replace(wanted, bytes(len(wanted))))


def _encrypted(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + flags] |= 1
    path.write_bytes(data)


def _lacking(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("Actor_05/01-01-01-01-01-01-05.mp4", b"alone")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_bomb, "contains 'Actor_05/01-01-01-01-01-01-05.mp4', found 536870912 bytes, expected at most 268435456; "),
        (_damaged, "cannot be unpacked (Bad CRC-32 for file 'Actor_05/01-01-01-01-01-01-05.mp4')"),
        (_encrypted, "cannot be unpacked (File "),
        (_lacking, "found no Actor_05/01-01-01-01-01-02-05.mp4, expected 60 files, 59 are missing"),
        (lambda path: path.write_bytes(b"no zip"), "cannot be unpacked (File is not a zip file)"),
    ],
    ids=["bomb", "damaged", "encrypted", "lacking", "no zip"],
)
def test_an_archive_that_cannot_be_unpacked(
    zenodo: FileServer,
    data: Path,
    capsys: Said,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    problem: str,
) -> None:
    spoil(zenodo.folder / at_zenodo("05"))
    remotes.publish_record(zenodo.folder, monkeypatch)
    assert main(command(zenodo, data)) == 1
    assert f"{remotes.archive_name('05')}: {data}/{remotes.archive_name('05')}: {problem}" in capsys.readouterr().out
    assert not files(data) & {"Actor_05/01-01-01-01-01-01-05.mp4", "Actor_05/SHA256SUMS"}
    assert not [name for name in files(data) if name.endswith(".part")]


# --- what is here, held against what is published --------------------------------------------------------------


def test_check_counts_and_names(github: FileServer, data: Path, capsys: Said) -> None:
    main(command(github, data))
    (data / CLIP).write_bytes(remotes.recording(CLIP)[:-1] + b"!")
    (data / "VideoFlash/1001_DFA_DIS_XX.flv").write_bytes(b"short")
    (data / "VideoFlash/1001_DFA_FEA_XX.flv").unlink()
    (data / "VideoFlash/1001_DFA_HAP_XX.flv").write_bytes(corpora.LFS_POINTER)
    before = {name: (data / name).read_bytes() for name in files(data)}
    github.behave()
    capsys.readouterr()
    assert main(command(github, data, "--check")) == 1
    captured = capsys.readouterr()
    found = hashlib.sha256((data / CLIP).read_bytes()).hexdigest()
    expected = hashlib.sha256(remotes.recording(CLIP)).hexdigest()
    assert captured.out.splitlines()[2:] == [
        f"present   {CLIPS - 2} of {CLIPS} files in {data}: {CLIPS - 4} verified, 2 mismatched",
        f"  mismatched  {CLIP}: found SHA-256 {found}, expected {expected}",
        "  mismatched  VideoFlash/1001_DFA_DIS_XX.flv: found 5 bytes, expected 1280",
        "  missing  VideoFlash/1001_DFA_FEA_XX.flv",
        "  missing  VideoFlash/1001_DFA_HAP_XX.flv",
    ]
    assert captured.err.endswith("error: 2 files missing; 2 files mismatched; REPLACE=1 downloads again\n")
    assert github.requests == []
    assert {name: (data / name).read_bytes() for name in files(data)} == before


def test_what_is_wrong_is_replaced_only_when_asked(github: FileServer, data: Path, capsys: Said) -> None:
    main(command(github, data))
    (data / CLIP).write_bytes(b"cut by myself")
    pointer = "VideoFlash/1001_DFA_HAP_XX.flv"
    (data / pointer).write_bytes(corpora.LFS_POINTER)
    github.behave()
    assert main(command(github, data)) == 1
    assert capsys.readouterr().err.endswith("error: 1 file mismatched; REPLACE=1 downloads again\n")
    assert github.requested == [at_github(pointer)]
    assert (data / CLIP).read_bytes() == b"cut by myself"
    assert main(command(github, data, "--replace")) == 0
    assert github.requested == [at_github(pointer), at_github(CLIP)]
    assert (data / CLIP).read_bytes() == remotes.recording(CLIP)


def test_check_of_files_that_somebody_else_unpacked(zenodo: FileServer, data: Path, capsys: Said) -> None:
    corpora.ravdess(data, corpora.SPEAKERS["ravdess"])
    assert main(command(zenodo, data, "--check")) == 0
    assert f"present   1440 of 1440 files in {data}: 1440 unchecked\n" in capsys.readouterr().out


def test_check_of_files_that_changed_since_they_were_unpacked(zenodo: FileServer, data: Path, capsys: Said) -> None:
    main(command(zenodo, data))
    capsys.readouterr()
    (data / "Actor_02/01-01-01-01-01-01-02.mp4").write_bytes(b"cut")
    assert main(command(zenodo, data, "--check")) == 1
    output = capsys.readouterr().out
    assert f"present   1440 of 1440 files in {data}: 1439 verified, 1 mismatched\n" in output
    assert "  mismatched  Actor_02/01-01-01-01-01-01-02.mp4: found SHA-256 " in output
    zenodo.behave()
    assert main(command(zenodo, data, "--replace")) == 0
    assert zenodo.requested == [remotes.RECORD, at_zenodo("02")]


def test_real_clips_are_as_published(real_clip: Callable[[str], Path], capsys: Said) -> None:
    data = real_clip(f"crema-d/{CLIP}").parents[1]
    assert main(["corpus", "--dataset", "crema-d", "--data", str(data), "--check"]) == 1
    output = capsys.readouterr().out
    assert f"present   8 of 7446 files in {data}: 4 verified, 4 mismatched\n" in output  # its WAVs are no corpus's own
    assert output.count("  mismatched  AudioWAV/") == 4
    assert output.endswith("\n  ... and 7428 more (ALL=1 lists them)\n")


# --- what the builder knows ------------------------------------------------------------------------------------


def test_corpora_without_a_public_home_say_what_to_do(capsys: Said) -> None:
    assert main(["corpus", "--dataset", "iemocap"]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(
        r"error: IEMOCAP: .*: cannot be downloaded; request access with the release form at https://\S+; .*\n",
        captured.err,
    )
    for name, words in (("demo", "make shards generates it"), ("folder", "your own recordings")):
        assert main(["corpus", "--dataset", name]) == 0
        assert words in capsys.readouterr().out
    assert all((corpus.remote is None) == bool(corpus.how_to_get) for corpus in DATASETS.values())


def test_originals_are_the_whole_corpus() -> None:
    archives = ravdess.remote_files()
    assert len(archives) == 24
    assert {name for archive in archives for name in archive.members} == {
        f"Actor_{clip_id[-2:]}/{clip_id}.mp4" for clip_id in ravdess.inventory()
    }
    recordings = crema_d.remote_files()
    assert len(recordings) == 2 * 7442
    assert sum(original.needed for original in recordings) == 7442


def test_originals_are_as_documented() -> None:
    if not FACTS.is_dir():
        pytest.skip(f"needs the corpora's own lists in {FACTS}, which are not part of this repository")
    with (FACTS / "ravdess_zips.csv").open() as file:
        sizes = {row["name"]: int(row["size"]) for row in csv.DictReader(file) if row["name"].startswith("Video")}
    assert {original.name: original.bytes for original in ravdess.remote_files()} == sizes
    with (FACTS / "crema_d_files.csv").open() as file:
        published = {row["name"]: (row["sha256"], int(row["size"])) for row in csv.DictReader(file)}
    assert {original.name: (original.sha256, original.bytes) for original in crema_d.remote_files()} == published
