"""A person leaves a folder of shards: their bytes are gone, the rest keeps its hashes, and no kill can undo that."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manifests import index
from manifests.__main__ import main
from manifests.files import FolderError, exclusive_lock
from manifests.verify import verify
from manifests.withdraw import WithdrawError, withdraw
from tests.factories.builder_shards import DROPPED_SPEAKER, SPEAKERS, shard_folder

GONE = SPEAKERS[0]
#: Kills itself just before the n-th change of the folder.
KILLED = """
import os, pathlib, signal, sys
left = [int(sys.argv[2])]
def counted(call):
    def change(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return change
pathlib.Path.unlink, pathlib.Path.replace = counted(pathlib.Path.unlink), counted(pathlib.Path.replace)
from manifests.withdraw import withdraw
withdraw(pathlib.Path(sys.argv[1]), [sys.argv[3]])
"""


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of them are enough for folds that leave one speaker out."""
    return shard_folder(tmp_path_factory.mktemp("four") / "shards", speakers=(*SPEAKERS, "dora"))


@pytest.fixture
def folder(four: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(four, tmp_path / "shards"))
    (copy / "report.html").write_text("<img>")
    return copy


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_person_is_gone_and_the_rest_keeps_its_hashes(folder: Path) -> None:
    before = index.load_checksums(folder)
    result = withdraw(folder, [GONE])
    assert (result.shards, result.clips, result.report_removed) == (1, 2, True)
    after = index.load_checksums(folder)
    assert before.keys() - after.keys() == {f"{GONE}-000.tar", f"receipts/{GONE}-000.json"}
    assert all(after[name] == before[name] for name in after if name.endswith(".tar") or name.startswith("receipts/"))
    assert verify(folder, full=True) == []
    rest = b"".join(data for name, data in contents(folder).items() if not name.endswith(".tar"))
    dataset = json.loads((folder / "dataset.json").read_bytes())
    assert dataset.pop("withdrawn") == [GONE]
    assert rest.count(GONE.encode()) == 1  # of all places only there
    assert {row.speaker for row in index.load_rows(folder)} == {*SPEAKERS[1:], "dora", DROPPED_SPEAKER}
    assert dataset["fold_schemes"] == ["loso"]


def test_folds_that_no_longer_fit_are_left_out_and_told(folder: Path) -> None:
    assert withdraw(folder, [GONE, "dora"]).skipped_schemes == ("loso",)
    assert index.load_dataset(folder).fold_schemes == ()
    assert verify(folder, full=True) == []


def test_somebody_of_whom_nothing_was_built_can_leave_too(folder: Path) -> None:
    assert withdraw(folder, [DROPPED_SPEAKER]).shards == 1
    assert DROPPED_SPEAKER not in {row.speaker for row in index.load_rows(folder)}
    assert verify(folder, full=True) == []


def test_a_second_time_there_is_nothing_to_do(folder: Path) -> None:
    withdraw(folder, [GONE])
    before = contents(folder)
    assert withdraw(folder, [GONE]).shards == 0
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        (["nobody"], "found no speaker nobody; valid are anna, ben, cleo, dora, zoe"),
        ([*SPEAKERS, "dora", DROPPED_SPEAKER], "no speaker would be left"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(folder: Path, speakers: list[str], message: str) -> None:
    before = contents(folder)
    with pytest.raises(WithdrawError, match=message):
        withdraw(folder, speakers)
    assert contents(folder) == before


def test_a_damaged_folder_is_refused(folder: Path) -> None:
    (folder / "ben-000.tar").unlink()
    with pytest.raises(WithdrawError, match=r"ben-000\.tar: found nothing, expected a file"):
        withdraw(folder, [GONE])


def test_a_build_that_is_under_way_is_waited_for(folder: Path) -> None:
    with (
        exclusive_lock(folder),
        pytest.raises(FolderError, match=r": locked by process \d+ on \S+; wait for it$"),
    ):
        withdraw(folder, [GONE])


def test_killed_at_any_change_the_same_command_ends_it(folder: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(folder, tmp_path / "expected"))
    withdraw(whole, [GONE])
    expected, kills = contents(whole), 0
    while True:
        torn = Path(shutil.copytree(folder, tmp_path / "torn"))
        command = [sys.executable, "-c", KILLED, str(torn), str(kills), GONE]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run(command, env=env, timeout=60).returncode
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        untouched = contents(torn).items() >= contents(folder).items()
        finished = expected.items() <= contents(torn).items()
        assert untouched or finished or verify(torn) != []
        withdraw(torn, [GONE])
        assert contents(torn) == expected
        shutil.rmtree(torn)
        kills += 1
    assert kills > 10


def test_the_command_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["withdraw", str(folder), GONE]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{GONE}: removed 1 shard, 2 clips, ")
    assert "make report generates it again" in out
    assert "PRUNE=1" in out
    assert main(["withdraw", str(folder), GONE]) == 0
    assert "already withdrawn" in capsys.readouterr().out
    assert main(["withdraw", str(folder), "nobody"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
