"""Verify: a whole folder is whole, and whatever is damaged is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import index
from manifests.index import ManifestError
from manifests.schema import Clip, encode
from manifests.share import ShareOptions, VerificationError, share
from manifests.stores import open_writable_store
from manifests.verify import verify
from tests.factories.builder_shards import edit_json, resign
from tests.factories.samples import sample

SHARD = "anna-000.tar"
RECEIPT = "receipts/anna-000.json"
FOLD = "folds/loso.json"
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
    "fold flipped": (lambda f: flip(f / "folds/loso.json", 50), {"folds/loso.json"}, True),
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


# Lies: every hash is right, and a command that uses the folder would refuse it.


def fold(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / FOLD, lambda value: change(value["folds"]["anna"]))


def receipt(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / RECEIPT, change)


def member(suffix: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Other bytes in the place of a member, with which the receipt agrees."""

    def overwrite(folder: Path) -> None:
        offset, size = index.load_receipt(folder / RECEIPT).members["anna-joy"][suffix]
        tar = (folder / SHARD).read_bytes()
        data = change(tar[offset : offset + size]).ljust(size)
        (folder / SHARD).write_bytes(tar[:offset] + data + tar[offset + size :])
        receipt(lambda value: value.update(sha256=index.file_sha256(folder / SHARD)))(folder)

    return overwrite


def shift(value: dict[str, Any]) -> None:
    value["members"]["anna-joy"]["json"][0] += 1


#: Lie -> (how it is told, the file that must be named, words of the reason, whether the quick look sees it too).
LIES: dict[str, tuple[Callable[[Path], object], str, str, bool]] = {
    "fold with a tested speaker in training": (
        fold(lambda sides: sides["train"].update(sides["test"])),
        *(FOLD, "on two sides", True),
    ),
    "fold with another speaker's shard": (
        fold(lambda sides: sides["train"].update(shards=[SHARD])),
        *(FOLD, "those of its speakers", True),
    ),
    "fold with other counts": (
        fold(lambda sides: sides["test"]["clips"].update(joy=7)),
        *(FOLD, "as in clips.jsonl", False),
    ),
    "fold file an empty object": (lambda f: (f / FOLD).write_text("{}"), FOLD, "found no", True),
    "fold file a number": (lambda f: (f / FOLD).write_text("5"), FOLD, "expected an object", True),
    "fold file of zeros": (lambda f: (f / FOLD).write_bytes(bytes(99)), FOLD, "not JSON", True),
    "fold file deep": (lambda f: (f / FOLD).write_text("[" * 99999), FOLD, "not JSON", True),
    "receipt of another tar": (receipt(lambda value: value.update(sha256="0" * 64)), RECEIPT, "dataset.json", True),
    "receipt of a longer tar": (receipt(lambda value: value.update(bytes=1 << 30)), RECEIPT, "dataset.json", True),
    "receipt that is no receipt": (lambda f: (f / RECEIPT).write_text("{}"), RECEIPT, "found no", True),
    "receipt without statistics": (receipt(lambda value: value["statistics"].clear()), RECEIPT, "statistics", True),
    "receipt without rows": (receipt(lambda value: value["rows"].clear()), RECEIPT, "rows of other clips", True),
    "receipt with another emotion": (
        receipt(lambda value: [row.update(emotion="rage") for row in value["rows"]]),
        *(RECEIPT, "other clips than in clips.jsonl", False),
    ),
    "receipt with a wrong offset": (receipt(shift), SHARD, "other members than in receipts/anna-000.json", False),
    "receipt of dropped clips with a tar": (
        lambda f: edit_json(f / "receipts/zoe-000.json", lambda value: value.update(sha256="0" * 64)),
        *("receipts/zoe-000.json", "expected one without a clip", True),
    ),
    "rows that are none": (lambda f: (f / "clips.jsonl").write_text("{}\n"), "clips.jsonl", "found no", False),
    "row in a shard of another": (
        lambda f: (f / "clips.jsonl").write_text((f / "clips.jsonl").read_text().replace('"anna-000', '"ben-000')),
        *("clips.jsonl", "expected a shard of anna", False),
    ),
    "picture a text": (member("faces.jpg", lambda data: b"hello"), SHARD, "anna-joy: faces.jpg: not a JPEG", False),
    "picture cut": (member("faces.jpg", lambda data: data[:-900]), SHARD, "anna-joy: faces.jpg: not a JPEG", False),
    "spectrogram a picture": (member("mfcc_8.npy", lambda data: b"\xff\xd8"), SHARD, "anna-joy: mfcc_8.npy", False),
    "spectrogram not finite": (
        member("mfcc_16.npy", lambda data: data[:-2] + b"\x00\x7c"),
        *(SHARD, "anna-joy: mfcc_16.npy: found non-finite values", False),
    ),
    "sound a text": (member("audio.flac", lambda data: b"fLaC"), SHARD, "anna-joy: audio.flac: not FLAC", False),
    "words deep": (member("json", lambda data: b"[" * len(data)), SHARD, "anna-joy: json: cannot be parsed", False),
    "words of another emotion": (
        member("json", lambda data: json.dumps({**json.loads(data), "emotion": "sad"}, separators=(",", ":")).encode()),
        *(SHARD, "expected ('anna-joy', 'anna', 'joy')", False),
    ),
}


@pytest.mark.parametrize("case", LIES.values(), ids=LIES)
def test_content_that_a_command_would_refuse_is_named(
    folder: Path, case: tuple[Callable[[Path], object], str, str, bool]
) -> None:
    lie, file, words, quick = case
    lie(folder)
    resign(folder)
    (problem,) = verify(folder, full=True)
    assert problem.file == file
    assert words in problem.found
    assert str(folder) not in str(problem)
    assert bool(verify(folder)) == quick


@pytest.mark.parametrize("lie", ["fold with a tested speaker in training", "picture a text"])
def test_a_folder_that_another_command_would_refuse_is_not_shared(folder: Path, tmp_path: Path, lie: str) -> None:
    edit_json(folder / "dataset.json", lambda value: value["about"].update(redistributable=True))
    LIES[lie][0](folder)
    resign(folder)
    with pytest.raises(VerificationError, match="not shared, because it differs from its index"):
        share(folder, open_writable_store(str(tmp_path / "copy")), ShareOptions())
    assert not (tmp_path / "copy" / "dataset.json").exists()


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
