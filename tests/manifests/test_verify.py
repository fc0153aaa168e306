"""Verify: a whole folder is whole, and whatever is damaged is found and named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import index
from manifests.index import ManifestError
from manifests.schema import Clip, encode
from manifests.verify import verify
from tests.factories.builder_shards import edit_json
from tests.factories.samples import sample

SHARD = "anna-000.tar"
RECEIPT = "receipts/anna-000.json"
MEMBERS = encode(sample(Clip(clip_id="anna-joy", speaker="anna", emotion="joy")))


@pytest.fixture(scope="module")
def scratch(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build that every example of a property test damages and mends again."""
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("scratch") / "shards"))


def test_whole_folder_is_whole(whole: Path) -> None:
    checked: list[str] = []
    assert verify(whole) == []
    assert verify(whole, full=True, on_file=checked.append) == []
    on_disk = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert set(checked) == on_disk - {"SHA256SUMS"}


def test_views_and_hidden_files_are_nobodys_business(folder: Path) -> None:
    for name in ("report.html", ".lock", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    assert verify(folder, full=True) == []


def test_coreutils_agree(whole: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("needs the sha256sum of coreutils")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=whole, check=True)


def test_receipts_say_where_members_lie(whole: Path) -> None:
    receipt = index.load_receipt(whole / RECEIPT)
    data = (whole / SHARD).read_bytes()
    for suffix, (offset, size) in receipt.members["anna-joy"].items():
        assert data[offset : offset + size] == MEMBERS[suffix]


# Damage


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut_last_sample(folder: Path) -> None:
    """What a copy that was broken off can leave: a shorter tar without an error."""
    members = index.load_receipt(folder / RECEIPT).members["anna-joy"]
    start = min(offset for offset, _ in members.values())
    with (folder / SHARD).open("r+b") as file:
        file.truncate(start - 512)
    assert len(index.member_byte_ranges(folder / SHARD)) == 1


def link(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


def edit_sums(change: Callable[[str], str]) -> Callable[[Path], None]:
    def edit_file(folder: Path) -> None:
        path = folder / "SHA256SUMS"
        path.write_text("".join(change(line) for line in path.read_text().splitlines(keepends=True)))

    return edit_file


def without(name: str) -> Callable[[Path], None]:
    return edit_sums(lambda line: "" if line.endswith(f"  {name}\n") else line)


def other_hash(name: str) -> Callable[[Path], None]:
    return edit_sums(lambda line: f"{'0' * 64}  {name}\n" if line.endswith(f"  {name}\n") else line)


def unfinished(folder: Path) -> None:
    dataset = index.load_dataset(folder)
    (folder / "dataset.json").write_bytes(index.dump_dataset(replace(dataset, complete=False)))


def add_line(folder: Path) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  not-there.txt\n")


#: Damage -> (how it is done, files that must be named, whether the quick look sees it too).
DAMAGE: dict[str, tuple[Callable[[Path], object], set[str], bool]] = {
    "tar flipped": (lambda f: flip(f / SHARD, 5000), {SHARD}, False),
    "tar flipped at its end": (lambda f: flip(f / SHARD, -1), {SHARD}, False),
    "tar cut at a member": (cut_last_sample, {SHARD}, True),
    "tar longer": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes() + b"\0"), {SHARD}, True),
    "tar missing": (lambda f: (f / SHARD).unlink(), {SHARD}, True),
    "tar of another": (lambda f: shutil.copy(f / "ben-000.tar", f / SHARD), {SHARD}, False),
    "tar extra": (lambda f: shutil.copy(f / SHARD, f / "anna-001.tar"), {"anna-001.tar"}, True),
    "tar a link": (lambda f: link(f, SHARD), {SHARD}, True),
    "tar a folder": (lambda f: [(f / SHARD).unlink(), (f / SHARD).mkdir()], {SHARD}, True),
    "file extra": (lambda f: (f / "folds/notes.txt").write_text("x"), {"folds/notes.txt"}, True),
    "file with a bad name": (lambda f: (f / "a\x1b[31m\n").write_text("x"), {"a\x1b[31m\n"}, True),
    "folder a link": (lambda f: link(f, "receipts"), {"receipts"}, True),
    "receipt flipped": (lambda f: flip(f / RECEIPT, 200), {RECEIPT}, False),
    "receipt missing": (lambda f: (f / RECEIPT).unlink(), {RECEIPT}, True),
    "receipt of a dropped shard missing": (
        lambda f: (f / "receipts/zoe-000.json").unlink(),
        {"receipts/zoe-000.json"},
        True,
    ),
    "fold flipped": (lambda f: flip(f / "folds/loso.json", 50), {"folds/loso.json"}, False),
    "rows flipped": (lambda f: flip(f / "clips.jsonl", 50), {"clips.jsonl"}, False),
    "card missing": (lambda f: (f / "README.md").unlink(), {"README.md"}, True),
    "dataset.json edited": (
        lambda f: edit_json(f / "dataset.json", lambda value: value["counts"].update(built=99)),
        {"dataset.json"},
        False,
    ),
    "dataset.json unfinished": (unfinished, {"dataset.json"}, True),
    "dataset.json a link": (lambda f: link(f, "dataset.json"), {"dataset.json"}, True),
    "sum of a tar altered": (other_hash(SHARD), {"SHA256SUMS", SHARD}, True),
    "sum of a tar absent": (without(SHARD), {"SHA256SUMS"}, True),
    "sum of a receipt altered": (other_hash(RECEIPT), {"SHA256SUMS", RECEIPT}, True),
    "sum of a receipt absent": (without(RECEIPT), {"SHA256SUMS"}, True),
    "sum of the card altered": (other_hash("README.md"), {"README.md"}, False),
    "sum of the card absent": (without("README.md"), {"SHA256SUMS"}, True),
    "sum of dataset.json absent": (without("dataset.json"), {"SHA256SUMS"}, True),
    "sum of nothing": (add_line, {"SHA256SUMS"}, True),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_the_file_named(
    folder: Path, case: tuple[Callable[[Path], object], set[str], bool]
) -> None:
    damage, files, quick = case
    damage(folder)
    assert {problem.file for problem in verify(folder, full=True)} == files
    assert bool(verify(folder)) == quick


def test_several_faults_are_all_named(folder: Path) -> None:
    flip(folder / SHARD, 600)
    (folder / "ben-000.tar").unlink()
    (folder / "extra").write_text("x")
    assert {problem.file for problem in verify(folder, full=True)} == {SHARD, "ben-000.tar", "extra"}


def test_a_file_that_cannot_be_read_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("manifests.verify.file_sha256", broken)
    found = {problem.file: problem.found for problem in verify(folder, full=True)}
    assert "Input/output error" in found[SHARD]


def test_problems_are_one_line_that_a_terminal_can_show(folder: Path) -> None:
    (folder / "a\x1b[31m\n\udcff").write_text("x")
    (problem,) = verify(folder)
    assert str(problem).isprintable()
    assert "a\\x1b[31m\\n\\udcff" in str(problem)


@given(st.data())
@settings(max_examples=150)
def test_no_change_of_any_byte_goes_unseen(scratch: Path, whole: Path, data: st.DataObject) -> None:
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    name = data.draw(st.sampled_from(names))
    before = (whole / name).read_bytes()
    at = data.draw(st.integers(0, len(before)))
    after = before[:at] + data.draw(st.binary(max_size=8)) + before[at + data.draw(st.integers(0, 8)) :]
    (scratch / name).write_bytes(after)
    try:
        seen = bool(verify(scratch, full=True))
    except ManifestError:
        seen = True
    (scratch / name).write_bytes(before)
    assert seen == (after != before)
