"""Folders that were handed over: links, pipes and leftover state in them reach nothing outside, and nothing waits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.__main__ import main
from manifests.errors import UserError
from manifests.fetch import FoldRequest, fetch
from manifests.files import FolderError, exclusive_lock
from manifests.index import load_checksums
from manifests.share import ShareOptions, share
from manifests.stores import StoreError, open_store, open_writable_store
from manifests.verify import hidden_entries, verify
from manifests.withdraw import PENDING_WITHDRAWAL_FILE, WithdrawError, withdraw
from tests.factories.builder_shards import SPEAKERS, edit_json, resign, shard_folder

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers, so that one can be withdrawn, and terms that allow sharing."""
    made = shard_folder(tmp_path_factory.mktemp("handed") / "source", speakers=(*SPEAKERS, "dora"))
    edit_json(made / "dataset.json", lambda value: value["about"].update(redistributable=True))
    resign(made)
    return made


@pytest.fixture
def handed(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "handed"))


@pytest.fixture
def outside(tmp_path: Path, source: Path) -> Path:
    """A folder that no command may touch: it looks like receipts, and has a partial file."""
    folder = Path(shutil.copytree(source / "receipts", tmp_path / "outside"))
    (folder / ".x.part").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put_link(folder: Path, name: str, target: Path) -> None:
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


COMMANDS: dict[str, Callable[[Path, Path], object]] = {
    "withdraw": lambda folder, source: withdraw(folder, ["anna"]),
    "fetch": lambda folder, source: fetch(str(source), folder, prune=True),
    "share from": lambda folder, source: share(
        folder, open_writable_store(str(folder.parent / "copy")), ShareOptions()
    ),
    "share to": lambda folder, source: share(source, open_writable_store(str(folder)), ShareOptions(prune=True)),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["receipts", "folds", ".source", "README.md", "anna-000.tar", ".fetched.json.1.part"])
def test_no_command_writes_or_removes_through_a_link(
    handed: Path, outside: Path, source: Path, name: str, command: str
) -> None:
    put_link(handed, name, outside)
    before = contents(outside)
    with pytest.raises((FolderError, StoreError)):
        COMMANDS[command](handed, source)
    assert contents(outside) == before
    assert [(problem.file, problem.found) for problem in verify(handed)] == [(name, "a link")]


@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "pipe", "folder"])
def test_a_lock_that_is_another_file_is_not_written(handed: Path, tmp_path: Path, kind: str) -> None:
    lock, other = handed / ".lock", tmp_path / "precious"
    other.write_text("mine")
    {
        "link": lambda: lock.symlink_to(other),
        "link to nothing": lambda: lock.symlink_to(tmp_path / "absent"),
        "hard link": lambda: os.link(other, lock),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lambda: lock.mkdir(),
    }[kind]()
    with pytest.raises(FolderError, match=rf"^{handed}"), exclusive_lock(handed):
        pytest.fail("was not refused")
    assert other.read_text() == "mine"
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("make", [lambda part, other: part.symlink_to(other), lambda part, other: os.link(other, part)])
def test_a_partial_file_that_is_another_file_is_not_written(
    source: Path, tmp_path: Path, make: Callable[[Path, Path], None], capsys: Capture
) -> None:
    other, here = tmp_path / "precious", tmp_path / "here"
    other.write_text("mine")
    here.mkdir()
    make(here / ".anna-000.tar.part", other)
    assert main(["fetch", str(source), str(here)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert other.read_text() == "mine"


def test_a_user_s_own_link_to_a_folder_of_shards_works(handed: Path, source: Path, tmp_path: Path) -> None:
    link = tmp_path / "shards"
    link.symlink_to(handed)
    assert verify(link, full=True) == []
    assert withdraw(link, ["anna"]).shards == 1
    share(link, open_writable_store(str(tmp_path / "copy")), ShareOptions())
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "here").symlink_to(there)
    fetch(str(source), tmp_path / "here")
    assert verify(there, full=True) == []


@pytest.mark.parametrize("name", ["dataset.json", "SHA256SUMS", "clips.jsonl", "anna-000.tar", "folds/loso.json", "x"])
def test_a_pipe_or_a_loop_keeps_nobody_waiting(handed: Path, source: Path, tmp_path: Path, name: str) -> None:
    (handed / name).unlink(missing_ok=True)
    os.mkfifo(handed / name)
    (handed / "loop").symlink_to(handed)
    assert {problem.file for problem in verify(handed, full=True)} == {name, "loop"}
    for command in COMMANDS.values():
        with pytest.raises(UserError):
            command(handed, source)
    if name != "x":
        with pytest.raises(StoreError, match=r"a pipe or a device"):
            list(open_store(str(handed)).chunks(name))


def test_hidden_entries_are_named_and_change_nothing(handed: Path, capsys: Capture) -> None:
    for name in (".lock", ".DS_Store", ".a\x1b[31m"):
        (handed / name).write_text("x")
    (handed / ".git" / "objects").mkdir(parents=True)
    assert hidden_entries(handed) == [".DS_Store", ".a\x1b[31m", ".git"]
    assert main(["verify", str(handed)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out[:3]] == ["note .DS_Store", "note .a\\x1b[31m", "note .git"]
    assert out[3].startswith("complete: ")


def test_folders_that_the_index_does_not_know_are_named_however_deep(handed: Path, capsys: Capture) -> None:
    (handed / "empty").mkdir()
    command = "import os\nos.chdir('empty')\nfor _ in range(1500):\n os.mkdir('x')\n os.chdir('x')"
    subprocess.run([sys.executable, "-c", command], cwd=handed, check=True)
    try:
        assert main(["verify", str(handed)]) == 1
        assert capsys.readouterr().out.splitlines()[0] == (
            "BAD  empty: found a folder the index does not know, expected nothing by that name"
        )
    finally:
        subprocess.run(["rm", "-r", str(handed / "empty")], check=True)


@pytest.mark.parametrize(
    "name", ["folds/loso.json", "dataset.json", "SHA256SUMS", "README.md", "receipts/anna-000.json"]
)
def test_a_sparse_file_is_not_read(handed: Path, tmp_path: Path, name: str, capsys: Capture) -> None:
    """6 GB that take no room on the disk; the address space is limited to less."""
    os.truncate(handed / name, 6 << 30)
    command = "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (3 << 30,) * 2)\n"
    command += "from manifests.__main__ import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "verify", str(handed), *(["--quick"] if name != "README.md" else [])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert f"{name}: found {6 << 30} bytes, expected at most " in done.stdout + done.stderr


# State that was left


def test_a_withdrawal_that_was_not_asked_for_is_refused(handed: Path) -> None:
    before = contents(handed / "receipts")
    (handed / PENDING_WITHDRAWAL_FILE).write_text('["ben"]')
    with pytest.raises(WithdrawError, match=r"found an unfinished withdrawal of ben; .*withdraw \S+ ben; if not"):
        withdraw(handed, ["anna"])
    assert contents(handed / "receipts") == before
    assert [problem.file for problem in verify(handed)] == [PENDING_WITHDRAWAL_FILE]


def test_a_withdrawal_that_was_only_claimed_does_not_skip_the_check(handed: Path) -> None:
    (handed / PENDING_WITHDRAWAL_FILE).write_text('["anna"]')
    (handed / "ben-000.tar").write_bytes(b"x")
    with pytest.raises(WithdrawError, match=r"ben-000\.tar: found 1 bytes"):
        withdraw(handed, ["anna"])
    assert (handed / "anna-000.tar").exists()
    edit_json(handed / "dataset.json", lambda value: value.update(complete=False))
    with pytest.raises(WithdrawError, match="found an unfinished build"):
        withdraw(handed, ["anna"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_withdrawal_of_another_user_is_refused(handed: Path) -> None:
    (handed / PENDING_WITHDRAWAL_FILE).write_text('["anna"]')
    os.chown(handed / PENDING_WITHDRAWAL_FILE, 4321, 4321)
    with pytest.raises(WithdrawError, match=r"\.withdrawing: belongs to user 4321, who started a withdrawal"):
        withdraw(handed, ["anna"])


@pytest.mark.parametrize("text", ["", "[", "{}", "[]", "[1]", '["../x"]', '["a\\u001b"]', "[" * 100_000, "9" * 5000])
def test_what_is_no_list_of_speakers_is_told_in_a_line(handed: Path, text: str, capsys: Capture) -> None:
    (handed / PENDING_WITHDRAWAL_FILE).write_text(text)
    assert main(["withdraw", str(handed), "anna"]) == 2
    assert "found no list of speakers; remove it and withdraw again\n" in capsys.readouterr().err


def test_a_publisher_removes_only_what_was_fetched(source: Path, handed: Path, tmp_path: Path) -> None:
    """Lists that name a user's own files, and later do not, do not remove them."""
    here, thesis = tmp_path / "here", ".thesis.tex"
    with (handed / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {thesis}\n{'0' * 64}  notes.txt\n")
    fetch(str(handed), here, FoldRequest(fold="anna", splits=("test",)))
    for name in (thesis, "notes.txt", "cleo-000.tar"):  # the last is in the list, and was not fetched
        (here / name).write_text("mine")
    withdraw_there = shard_folder(tmp_path / "newer", speakers=("anna", "ben", "dora"))
    fetch(str(withdraw_there), here, prune=True, selector=FoldRequest(fold="anna", splits=("test",)))
    assert [(here / name).read_text() for name in (thesis, "notes.txt", "cleo-000.tar")] == ["mine"] * 3
    assert "cleo-000.tar" not in load_checksums(here)


def test_leftovers_of_a_killed_fetch_go_with_the_next(source: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    fetch(str(source), here)
    for name in (
        ".dataset.json.1a2b.part",
        ".fetched.json.1a2b.part",
        "receipts/.old-000.json.part",
        ".old-000.tar.part",
    ):
        (here / name).write_text("half")
    (here / ".source").mkdir()
    fetch(str(source), here)
    assert {path.name for path in here.rglob(".*")} == {".lock"}
    assert json.loads((here / "fetched.json").read_text())["shards"] is None
