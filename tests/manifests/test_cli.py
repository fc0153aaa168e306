"""`python -m manifests verify`: its output and exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.__main__ import main
from manifests.withdraw import PENDING_WITHDRAWAL_FILE

Capture = pytest.CaptureFixture[str]
REPOSITORY = Path(__file__).parents[2]


def test_whole_folder_ends_with_0_and_says_what_it_holds(whole: Path, capsys: Capture) -> None:
    assert main(["verify", str(whole)]) == 0
    megabytes = sum(path.stat().st_size for path in whole.glob("*.tar")) / 1e6
    expected = f"complete: 6 samples in 3 shards, {megabytes:.1f} MB (every hash and member)\n"
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"required: COMMAND; see python -m manifests --help"),
        (["verify"], r"required: folder; see python -m manifests verify --help"),
        (["burn", "x"], r"invalid choice: 'burn' \(choose from .*verify.*\); see python -m manifests --help"),
        (["withdraw", "x"], r"required: SPEAKER; see python -m manifests withdraw --help"),
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
