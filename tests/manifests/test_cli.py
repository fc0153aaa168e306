"""`python -m manifests verify`: its output and exit status."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from manifests.__main__ import main
from manifests.console import fail, say
from manifests.files import exclusive_lock
from manifests.progress import log_line
from manifests.verify import verify
from manifests.withdraw import PENDING_WITHDRAWAL_FILE
from tests.factories.builder_shards import edit_json, resign
from tests.fakes.servers import Fault, FileServer

Capture = pytest.CaptureFixture[str]
REPOSITORY = Path(__file__).parents[2]


def test_whole_folder_ends_with_0_and_says_what_it_holds(whole: Path, capsys: Capture) -> None:
    assert main(["verify", str(whole)]) == 0
    megabytes = sum(path.stat().st_size for path in whole.glob("*.tar")) / 1e6
    expected = f"complete: 6 samples in 3 shards, {megabytes:.1f} MB (every hash and sample)\n"
    assert capsys.readouterr() == (expected, "")


def test_every_bad_file_has_a_line_and_the_status_is_1(folder: Path, capsys: Capture) -> None:
    (folder / "anna-000.tar").unlink()
    (folder / "ben-000.tar").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert main(["verify", str(folder)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines.pop() == f"{folder}: build or fetch it again"
    assert [line.split()[:2] for line in lines] == [
        ["BAD", "notes.txt:"],
        ["BAD", "anna-000.tar:"],
        ["BAD", "ben-000.tar:"],
    ]
    assert all("found" in line and "expected" in line for line in lines)
    assert err == ""


def test_quick_looks_at_sizes_only_and_says_so(folder: Path, capsys: Capture) -> None:
    tar = folder / "anna-000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:-1] + b"x")
    assert main(["verify", str(folder), "--quick"]) == 0
    assert "(every size)" in capsys.readouterr().out
    assert main(["verify", str(folder)]) == 1
    tar.write_bytes(data[:-1])
    assert main(["verify", str(folder), "--quick"]) == 1


def test_unfinished_build_has_status_1(folder: Path, capsys: Capture) -> None:
    index = folder / "dataset.json"
    index.write_bytes(index.read_bytes().replace(b'"complete": true', b'"complete": false'))
    assert main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "BAD  dataset.json: found an unfinished build, expected a finished one",
        f"{folder}: run the same make shards to finish it",
    ]
    (folder / PENDING_WITHDRAWAL_FILE).write_text('["anna"]')
    assert main(["verify", str(folder)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{folder}: run the same make withdraw to finish it"


@pytest.mark.parametrize("name", ["dataset.json", "SHA256SUMS"])
def test_without_an_index_the_status_is_2_and_one_line_says_why(folder: Path, name: str, capsys: Capture) -> None:
    (folder / name).unlink()
    assert main(["verify", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {folder / name}: missing; is this a finished shard folder?\n"


def test_damaged_index_has_status_2(folder: Path, capsys: Capture) -> None:
    (folder / "dataset.json").write_bytes(b"[" * 100_000)
    assert main(["verify", str(folder)]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith(f"error: {folder / 'dataset.json'}: not JSON (")
    assert complaint.endswith("); build or fetch it again")


def test_as_a_program_without_the_builder(folder: Path) -> None:
    """Status and bad file, though a name is no UTF-8 and the terminal knows ASCII only."""
    (folder / "caf\udce9").write_text("x")
    blocked = (
        "import sys; sys.modules['builder'] = None; import runpy; runpy.run_module('manifests', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked, "verify", str(folder)],
        cwd=REPOSITORY,
        env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.startswith(b"BAD  caf\\udce9: found a file the index does not know")


def as_a_shell_runs_it(command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`command` with `$RUN` for the program and `$1`, `$2` for arguments."""
    return subprocess.run(
        ["sh", "-c", command, "sh", *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "RUN": f"{sys.executable} -m manifests",
            **environment,
        },
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("stream", [">&-", "2>&-", ">/dev/full", "2>/dev/full"])
@pytest.mark.parametrize("name", ["", "absent"])
def test_a_closed_or_full_output_is_a_failure_without_a_traceback(whole: Path, stream: str, name: str) -> None:
    """What is printed to a full disk gets lost, and an error that nobody can read is one all the same."""
    done = as_a_shell_runs_it(f"$RUN verify $1 {stream}", whole / name)
    if stream == "2>/dev/full" and not name:
        assert done.returncode == 0  # there was nothing to say
    else:
        assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert done.stderr.count(b"\n") <= 1


def test_a_reader_that_stops_early_is_no_bug(folder: Path) -> None:
    for number in range(3000):
        (folder / f"unexpected-{number}").write_text("")
    done = as_a_shell_runs_it("$RUN verify $1 | head -n 1", folder)
    assert done.stdout.startswith(b"BAD  unexpected-0: ")
    assert done.stderr == b""


def test_words_from_files_control_no_terminal_and_fit_any_encoding(folder: Path, tmp_path: Path) -> None:
    """Licence, file names, and messages about them."""
    edit_json(
        folder / "dataset.json", lambda value: value["about"].update(redistributable=True, licence="Ä\x1b[31m\u202e")
    )
    resign(folder)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "\x1b[31m").write_text("x")
    done = as_a_shell_runs_it(
        "$RUN share $1 $2; $RUN share $1 $3; $RUN verify $3",
        folder,
        tmp_path / "copy",
        tmp_path / "there",
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
    )
    shown = done.stdout + done.stderr
    assert b"licence of the recordings: \\xc4\\x1b[31m\\u202e\n" in done.stdout
    assert b"contains \\x1b[31m but is not a shard folder" in done.stderr
    assert shown.isascii()
    assert b"\x1b" not in shown
    assert b"Traceback" not in shown


def test_what_is_said_cannot_control_a_terminal(capsys: Capture) -> None:
    say("a\x1b[31m\tb\nc")
    assert fail("a\x1b[31m\nb") == 2
    log_line("a\x1b[31m\rb")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[31m\\tb\nc\n"
    assert err == "error: a\\x1b[31m b\na\\x1b[31m\\rb\n"


def test_a_user_without_an_entry_in_passwd_and_without_a_home_can_run_everything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def unknown(user: object) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    edit_json(folder / "dataset.json", lambda value: value["about"].update(redistributable=True))
    resign(folder)
    assert main(["share", str(folder), str(tmp_path / "copy")]) == 0
    with FileServer(folder) as server:
        assert main(["fetch", server.url, str(tmp_path / "here")]) == 0
    assert main(["verify", str(tmp_path / "here")]) == 0
    with exclusive_lock(folder):
        assert main(["withdraw", str(folder), "anna"]) == 2
    assert f"locked by process {os.getpid()} on " in capsys.readouterr().err
    for place in ("~/shards", "~nobody/shards"):
        assert main(["fetch", place, str(tmp_path / "there")]) == 2
        assert capsys.readouterr().err.startswith(f"error: {place}: found no home folder of that user")


# Ctrl-C


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "manifests", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C once: it ends at once, and says how to go on. Returns what it printed to stderr."""
    process.send_signal(signal.SIGINT)
    pressed = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 3
    assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted; run the same command to continue"), err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("stalled", [False, True])
@pytest.mark.parametrize("name", ["dataset.json", "cleo-000.tar"])
def test_ctrl_c_ends_a_fetch_from_a_slow_server(folder: Path, tmp_path: Path, name: str, stalled: bool) -> None:
    here, go_on = tmp_path / "here", threading.Event()
    with FileServer(folder) as server:
        server.misbehave(name, always=Fault(hold=go_on) if stalled else Fault(bytes_per_second=500))
        process = started("fetch", server.url, here)
        while name not in server.requested:
            time.sleep(0.01)
        time.sleep(0.5)
        interrupted(process)
        server.behave()
        go_on.set()
        assert main(["fetch", server.url, str(here)]) == 0
    assert {path.name for path in here.rglob(".*")} <= {".lock"}
    assert verify(here, full=True) == []


@pytest.mark.parametrize("arguments", [("fetch", "{there}", "{here}"), ("fetch", "{there}", "{here}", "--fold", "1")])
def test_ctrl_c_ends_a_command_that_waits_for_a_lock(whole: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    here = tmp_path / "here"
    with exclusive_lock(here):
        process = started(*(argument.format(there=whole, here=here) for argument in arguments))
        time.sleep(2)
        assert process.poll() is None
        interrupted(process)


def test_ctrl_c_ends_a_share_to_a_slow_place(folder: Path, tmp_path: Path) -> None:
    """A file that is read from a pipe that nobody fills stands for a disk that hangs."""
    edit_json(folder / "dataset.json", lambda value: value["about"].update(redistributable=True))
    resign(folder)
    slow = "import sys, time\nfrom manifests import files\nfrom manifests.stores import local\n"
    slow += "sent = files.HashingFile.write\n"
    slow += "def write(self, data):\n print('sending', flush=True)\n time.sleep(30)\n return sent(self, data)\n"
    slow += "files.HashingFile.write = write\n"
    slow += "from manifests.console import run_program\nfrom manifests.__main__ import main\nrun_program(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", slow, "share", str(folder), str(tmp_path / "copy")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "sending" not in process.stdout.readline():
        pass
    interrupted(process)
    assert main(["share", str(folder), str(tmp_path / "copy")]) == 0
    assert {path.name for path in (tmp_path / "copy").rglob(".*")} <= {".lock"}


def test_ctrl_c_while_the_command_is_imported(tmp_path: Path) -> None:
    """A package that takes long to import stands for a slow disk."""
    (tmp_path / "tqdm.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(30)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "manifests", "verify", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted before anything was started\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"required: COMMAND; see \S*python\S* -m manifests --help"),
        (["verify"], r"required: folder; see \S*python\S* -m manifests verify --help"),
        (["burn", "x"], r"invalid choice: 'burn' \(choose from .*verify.*\); see \S*python\S* -m manifests --help"),
        (["withdraw", "x"], r"required: SPEAKER; see \S*python\S* -m manifests withdraw --help"),
        (["fetch", "x", "y", "--split", "trian"], r"--split: invalid choice: 'trian' \(choose from .*train.*\); .*"),
    ],
)
def test_wrong_usage_has_a_line_and_status_2(arguments: list[str], message: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{message}\n", err)


def test_places_that_were_not_named_are_told_before_anything_else(folder: Path, capsys: Capture) -> None:
    for arguments, message in (
        (["share", str(folder), ""], "no destination; set DEST=folder|s3://bucket/path|hf://"),
        (["fetch", "", str(folder)], "no source; set FROM=folder|https://"),
    ):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith(f"error: {message}")


def test_help_tells_every_status(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for status in ("0 on success", "1 if files are damaged", "2 if the command", "130 after Ctrl-C"):
        assert status in text
