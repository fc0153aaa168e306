"""Folds of one's own: a table of speakers or clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest

from manifests import folds, index, index_writer
from manifests.__main__ import main
from manifests.cli import make_parser
from manifests.console import run_command
from manifests.coverage import fold_coverage
from manifests.fetch import FoldRequest, fetch
from manifests.folds import SIDES, FoldError, FoldFile
from manifests.index import Dataset, Row
from manifests.index_writer import add_split
from manifests.splits import _clip_names, read_split
from manifests.tables import TableError, is_table
from manifests.usable import describe_unusable
from manifests.verify import verify
from manifests.withdraw import withdraw
from tests.factories.shards import make_folder

SPEAKERS = ("anna", "ben", "cleo", "dora", "emil")
DATASET = Dataset(dataset="mine", complete=True, identity={}, about={"speaker_names": {"emil": "Émile 5"}})
SHARDS = {f"{speaker}-000.tar": speaker for speaker in SPEAKERS}
ROWS = [
    Row(
        clip_id=f"{speaker}-{take}",
        speaker=speaker,
        emotion=("joy", "fear")[take % 2],
        status="built",
        source=f"videos/{speaker}/take {take}.mp4" if take else f"videos/{speaker}.mp4",
        shard=f"{speaker}-000.tar",
    )
    for speaker in SPEAKERS
    for take in range(4)
]


def read(tmp_path: Path, *lines: str, rows: list[Row] | None = None, shared: bool = False, **options) -> FoldFile:
    """A table of these lines."""
    table = tmp_path / "my split.csv"
    table.write_text("\n".join(lines) + "\n", "utf-8", **options)
    return read_split(table, DATASET, SHARDS, rows or ROWS, allow_shared_speakers=shared)


def subjects(file: FoldFile, fold: str) -> dict[str, tuple[str, ...]]:
    return {side: file.folds[fold][side].subjects for side in SIDES}


def test_folds_of_speakers(tmp_path: Path) -> None:
    file = read(tmp_path, "speaker,fold", "anna,1", "ben,1", "cleo,2", "dora,2", "emil,10")
    assert list(file.folds) == ["1", "2", "10"]
    assert subjects(file, "1") == {"test": ("anna", "ben"), "validation": ("dora",), "train": ("cleo", "emil")}
    assert subjects(file, "10")["test"] == ("emil",)
    assert file.folds["1"]["test"].clips == {"fear": 4, "joy": 4}
    assert file.folds["1"]["train"].shards == ("cleo-000.tar", "emil-000.tar")
    assert not file.folds["1"]["test"].partial
    assert file.name.startswith("my-split-")
    assert "SHA-256" in file.source


def test_a_fixed_split_is_a_scheme_of_one_fold(tmp_path: Path) -> None:
    lines = ("Subject;Split", "anna;TRAIN", "ben;training", "cleo;dev", "dora;test")
    file = read(tmp_path, *lines)
    assert list(file.folds) == ["1"]
    assert subjects(file, "1") == {"train": ("anna", "ben"), "validation": ("cleo",), "test": ("dora",)}
    assert file.left_out == ("emil",)


def test_without_validation_lines_some_training_speakers_validate_if_there_are_two(tmp_path: Path) -> None:
    several = read(tmp_path, "speaker,side", "anna,train", "ben,train", "cleo,train", "dora,test")
    assert subjects(several, "1") == {"train": ("anna", "cleo"), "validation": ("ben",), "test": ("dora",)}
    two = read(tmp_path, "speaker,side", "anna,train", "dora,test")
    assert subjects(two, "1") == {"train": ("anna",), "validation": (), "test": ("dora",)}


def test_speakers_recorded_together_validate_together(tmp_path: Path) -> None:
    speakers = [f"Ses0{session}{letter}" for session in (1, 2, 3) for letter in "FM"]
    rows = [
        Row(clip_id=f"{s}-1", speaker=s, emotion="ang", status="built", source=s, shard=f"{s}-000.tar")
        for s in speakers
    ]
    table = tmp_path / "split.csv"
    table.write_text("speaker,side\n" + "".join(f"{s},{'test' if '3' in s else 'train'}\n" for s in speakers))
    file = read_split(table, replace(DATASET, dataset="iemocap"), {f"{s}-000.tar": s for s in speakers}, rows)
    assert subjects(file, "1")["validation"] in (("Ses01F", "Ses01M"), ("Ses02F", "Ses02M"))


def test_fold_and_side_together_say_everything(tmp_path: Path) -> None:
    lines = ["speaker,fold,side"]
    lines += [
        f"{speaker},a,{side}" for speaker, side in zip(SPEAKERS, ("train", "train", "val", "test", "test"), strict=True)
    ]
    lines += [
        f"{speaker},b,{side}"
        for speaker, side in zip(SPEAKERS, ("test", "train", "train", "val", "train"), strict=True)
    ]
    file = read(tmp_path, *lines)
    assert subjects(file, "a") == {"train": ("anna", "ben"), "validation": ("cleo",), "test": ("dora", "emil")}
    assert subjects(file, "b") == {"train": ("ben", "cleo", "emil"), "validation": ("dora",), "test": ("anna",)}


def test_clips_by_id_by_name_and_by_path(tmp_path: Path) -> None:
    lines = ("file,side", "anna-0,train", "anna-1.mp4,train", "videos/ben.mp4,val", "videos\\cleo\\take 2.mp4,test")
    file = read(tmp_path, *lines)
    sides = file.folds["1"]
    assert sides["train"].clip_ids == ("anna-0", "anna-1")
    assert sides["validation"].clip_ids == ("ben-0",)
    assert sides["test"].clip_ids == ("cleo-2",)
    assert sides["train"].clips == {"fear": 1, "joy": 1}
    assert [row.clip_id for row in ROWS if sides["train"].has(row)] == ["anna-0", "anna-1"]
    with pytest.raises(
        FoldError, match=r"csv:2: found clip 'take 1.mp4', the name of 5 clips; expected a clip id, as anna-1"
    ):
        read(tmp_path, "clip,side", "take 1.mp4,train")


def test_a_clip_is_what_the_table_names_and_no_other() -> None:
    """An id counts before a path; folders count; a suffix and folders above the corpus's do not."""
    sources = {
        "001": "001.mp4",
        "sub_001": "sub/001.mp4",
        "b_x": "b/x.mp4",
        "take_2": "c/take.2.mp4",
        "take": "c/take.mp4",
    }
    named = _clip_names({clip_id: replace(ROWS[0], clip_id=clip_id, source=path) for clip_id, path in sources.items()})
    for name, clip_id in (
        *(("001", "001"), ("001.mp4", "001"), ("sub/001.wav", "sub_001"), ("corpus/sub/001.mp4", "sub_001")),
        *(("x.wav", "b_x"), ("b/x", "b_x"), ("take.2", "take_2"), ("take.2.wav", "take_2"), ("take", "take")),
    ):
        assert named.find(name) == [clip_id], name
    for name in ("a/x.mp4", "take.3", "", "/", "..", "y"):
        assert named.find(name) == (), name


def test_a_speaker_is_named_in_full(tmp_path: Path) -> None:
    with pytest.raises(FoldError, match=r"csv:2: found speaker 'anna\.2', which these shards do not have"):
        read(tmp_path, "speaker,side", "anna.2,train")


def test_a_speaker_on_two_sides_is_refused_unless_it_is_accepted(tmp_path: Path) -> None:
    lines = ("clip,side", "anna-0,train", "anna-1,test", "ben-0,validation", "cleo-0,train")
    with pytest.raises(
        FoldError, match=r"fold 1: 1 speaker on several sides \(anna\); expected .*ALLOW_SHARED_SPEAKERS=1"
    ):
        read(tmp_path, *lines)
    file = read(tmp_path, *lines, shared=True)
    assert file.folds["1"].shared_speakers == ("anna",)
    assert "several sides" in file.note
    assert file.folds["1"]["train"].clip_ids == ("anna-0", "cleo-0")


def test_folds_of_clips_with_shared_speakers_validate_on_the_next_fold(tmp_path: Path) -> None:
    lines = ["clip,fold", *(f"{speaker}-{take},{take}" for speaker in SPEAKERS for take in range(4))]
    file = read(tmp_path, *lines, shared=True)
    assert list(file.folds) == ["0", "1", "2", "3"]
    assert file.folds["3"]["test"].clip_ids == tuple(f"{speaker}-3" for speaker in SPEAKERS)
    assert file.folds["3"]["validation"].clip_ids == tuple(f"{speaker}-0" for speaker in SPEAKERS)
    sizes = {side: len(file.folds["3"][side].clip_ids or ()) for side in SIDES}
    assert sizes == {"train": 10, "validation": 5, "test": 5}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ("speaker,emotion", "anna,joy"),
            r":1: found columns speaker, emotion, of which speaker can be used; expected clip or speaker, ",
        ),
        (("clip,speaker,side", "anna-0,anna,train"), r"columns clip, speaker, side, of which .* can be used; expected"),
        (("speaker,actor,side", "anna,anna,train"), r":1: found two columns for speaker, expected one"),
        (
            ("speaker,side", "anne,train"),
            r":2: found speaker 'anne', which these shards do not have; the nearest is anna",
        ),
        (("speaker,side", "anna,train", "x,test", "y,test"), r":3: found speaker 'x'.* \(and 1 more line\)"),
        (("speaker,side", "anna,left"), r":2: found side 'left', expected one of train, validation, test"),
        (("speaker,side", "anna,train", "anna,test"), r":3: found speaker 'anna' a second time"),
        (("speaker,fold", "anna,1", "anna,2"), r":3: found speaker 'anna' a second time"),
        (("speaker,fold", "anna,1"), r"found only fold 1, expected at least two"),
        (("speaker,fold", "anna,../x"), r":2: found fold '\.\./x', expected up to 64 letters"),
        (("speaker,side", "anna"), r":2: found 1 cells, expected 2"),
        (("speaker,side",), r"found no lines below the header"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises((FoldError, TableError), match=message):
        read(tmp_path, *lines)


def test_tables_of_spreadsheet_programs_and_names_of_speakers(tmp_path: Path) -> None:
    """The speaker emil is called Émile 5 in the corpus's table."""
    lines = [("Speaker", "Set"), ("anna", "train"), ("ben", "validation"), ("Émile 5", "test")]
    text = "\n".join("\t".join(line) for line in lines)
    for name, encoding in (("a.csv", "utf-16"), ("b.tsv", "cp1252"), ("c.csv", "utf-8-sig")):
        (tmp_path / name).write_bytes(text.encode(encoding))
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(line)
    book.save(tmp_path / "d.xlsx")
    for path in sorted(tmp_path.iterdir()):
        assert is_table(str(path))
        file = read_split(path, DATASET, SHARDS, ROWS)
        assert subjects(file, "1") == {"train": ("anna",), "validation": ("ben",), "test": ("emil",)}


def test_two_tables_of_one_name_are_two_schemes(tmp_path: Path) -> None:
    first = read(tmp_path, "speaker,side", "anna,train", "ben,test")
    second = read(tmp_path, "speaker,side", "ben,train", "anna,test")
    assert first.name != second.name


def test_dropped_clips_are_expected_but_not_built(tmp_path: Path) -> None:
    dropped = {"status": "dropped", "reason": "no_face", "shard": None}
    rows = [Row(**{**vars(row), **dropped}) if row.clip_id == "dora-1" else row for row in ROWS]
    lines = ("clip,side", "anna-0,train", "ben-0,val", "dora-0,test", "dora-1,test")
    file = read(tmp_path, *lines, rows=rows)
    assert file.folds["1"]["test"].clips == {"joy": 1}
    (tmp_path / index.CLIPS_FILE).write_bytes(index.dump_rows(rows))
    found = fold_coverage(tmp_path, file, "1")["test"]
    assert (found.built, found.expected, found.reasons) == (1, 2, {"no_face": 1})


def test_a_fold_file_of_clips_is_read_as_it_was_written(tmp_path: Path) -> None:
    lines = ("clip,side", "anna-0,train", "anna-1,test", "ben-0,validation")
    file = read(tmp_path, *lines, shared=True)
    data = folds.dump_fold_file(file)
    assert folds.read_fold_file(data, SHARDS, "x") == file
    twice = data.replace(b'"clip_ids":["anna-1"]', b'"clip_ids":["anna-0"]')
    assert twice != data
    with pytest.raises(FoldError, match="found clip anna-0 on two sides"):
        folds.read_fold_file(twice, SHARDS, "x")
    hidden = data.replace(b',"shared_speakers":["anna"]', b"").replace(b'"shared_speakers":["anna"],', b"")
    assert hidden != data
    with pytest.raises(FoldError, match="speaker anna on two sides"):
        folds.read_fold_file(hidden, SHARDS, "x")


def test_a_table_becomes_a_scheme_of_the_folder_and_of_its_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    before = index.load_checksums(folder)
    table = tmp_path / "split.csv"
    lines = ["speaker,side", "anna,train", "ben,train", "cleo,val", "dora,test", "emil,test"]
    table.write_text("\n".join(lines) + "\n")
    assert run_command(make_parser(), ["folds", str(folder), str(table)]) == 0
    out = capsys.readouterr().out
    assert "fold 1: clips of train 8, validation 4, test 8" in out
    assert verify(folder, full=True) == []
    name = index.load_dataset(folder).fold_schemes[1]
    assert name in out and name.startswith("split-")
    kept = {file for file in before if file.endswith(".tar") or file.startswith("receipts/")}
    assert {file: index.load_checksums(folder)[file] for file in kept} == {file: before[file] for file in kept}
    fetch(str(folder), tmp_path / "copy", FoldRequest(fold="1", scheme=name, splits=("test",)))
    assert sorted(path.name for path in (tmp_path / "copy").glob("*.tar")) == ["dora-000.tar", "emil-000.tar"]
    withdraw(folder, ["emil", "anna"])
    assert verify(folder, full=True) == []
    dataset = index.load_dataset(folder)
    assert name in dataset.fold_schemes
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    sides = folds.load_fold_file(folder / "folds" / f"{name}.json", speakers).folds["1"]
    assert (sides["train"].subjects, sides["test"].subjects) == (("ben",), ("dora",))
    assert b"emil" not in (folder / "folds" / f"{name}.json").read_bytes()


def test_clips_of_a_split_stay_when_others_are_withdrawn(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    table = tmp_path / "split.csv"
    lines = ["clip,side", "anna-joy-0,train", "anna-joy-1,test", "ben-fear-0,train", "cleo-joy-0,val"]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(FoldError, match="on several sides"):
        add_split(folder, table)
    name = add_split(folder, table, allow_shared_speakers=True).name
    assert verify(folder, full=True) == []
    withdraw(folder, ["ben"])
    assert verify(folder, full=True) == []
    speakers = {shard.name: shard.speaker for shard in index.load_dataset(folder).shards}
    sides = folds.load_fold_file(folder / "folds" / f"{name}.json", speakers).folds["1"]
    assert [sides[side].clip_ids for side in SIDES] == [("anna-joy-0",), ("cleo-joy-0",), ("anna-joy-1",)]
    assert sides.shared_speakers == ("anna",)


def test_only_the_shards_of_a_table_are_fetched(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    table = tmp_path / "split.csv"
    table.write_text("speaker,side\nanna,train\nben,val\ncleo,test\n")
    request = FoldRequest(fold="1", scheme=str(table), splits=("train",))
    fetch(str(folder), tmp_path / "copy", request)
    assert sorted(path.name for path in (tmp_path / "copy").glob("*.tar")) == ["anna-000.tar", "ben-000.tar"]
    assert verify(tmp_path / "copy", full=True) == []


def test_the_only_fold_of_a_table_needs_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    table, copy = tmp_path / "split.csv", tmp_path / "copy"
    table.write_text("speaker,side\nanna,train\nben,val\ncleo,test\n")
    assert main(["fetch", str(folder), str(copy), f"--fold-scheme={table}", "--split", "test"]) == 0
    assert sorted(path.name for path in copy.glob("*.tar")) == ["cleo-000.tar"]
    assert main(["fetch", str(folder), str(copy), "--fold-scheme=loso"]) == 2
    assert "but no fold; name one with --fold (make: FOLD=); valid are anna, ben, " in capsys.readouterr().err


def test_columns_may_have_the_names_of_other_tools(tmp_path: Path) -> None:
    lines = [f"{row.source},{'Dev' if row.speaker == 'ben' else 'Train'}" for row in ROWS if row.speaker != "anna"]
    file = read(tmp_path, "file_name,Partition", "anna-0,Test", *lines)
    assert subjects(file, "1") == {"train": ("cleo", "dora", "emil"), "validation": ("ben",), "test": ("anna",)}


def test_all_problems_of_a_table_are_listed(tmp_path: Path) -> None:
    with pytest.raises(FoldError) as raised:
        read(tmp_path, "speaker,side", "x,train", "anna,left", *(f"y{number},test" for number in range(30)))
    assert "found speaker 'x'" in raised.value.details[0] and "found side 'left'" in raised.value.details[1]
    assert len(raised.value.details) == 21 and raised.value.details[-1] == "... and 12 more"


def test_one_training_speaker_trains_without_validation(tmp_path: Path) -> None:
    file = read(tmp_path, "speaker,side", "anna,train", "ben,test")
    assert describe_unusable(file, "1").endswith("the validation side is empty; FIXED_EPOCHS=1 trains without it")


def test_an_added_split_is_finished_by_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    table = tmp_path / "split.csv"
    table.write_text("speaker,side\nanna,train\nben,val\ncleo,test\n")
    written = index_writer.atomic_write
    for last in range(1, 8):
        calls = iter(range(1, last + 1))

        def write(path: Path, data: bytes, calls=calls, last=last) -> str:
            if next(calls) == last:
                raise OSError("killed")
            return written(path, data)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
            patch.setattr(index_writer, "atomic_write", write)
            add_split(folder, table)
        name = add_split(folder, table).name
        assert verify(folder, full=True) == []
        assert name in index.load_dataset(folder).fold_schemes


def test_a_split_outlives_a_kill_while_the_index_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    table = tmp_path / "split.csv"
    table.write_text("speaker,side\nanna,train\nben,val\ncleo,test\n")
    name = add_split(folder, table).name
    path = folder / "folds" / f"{name}.json"
    before = path.read_bytes()
    dataset = index.load_dataset(folder)
    shards = [shard.name for shard in dataset.shards]
    written = index_writer.atomic_write
    last, killed = 0, True
    while killed:
        last, killed, calls = last + 1, False, iter(range(1, last + 2))

        def write(path: Path, data: bytes, calls=calls, last=last) -> str:
            if next(calls) == last:
                raise OSError("killed")
            return written(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(index_writer, "atomic_write", write)
            try:
                index_writer.write_index(folder, dataset, shards)
            except OSError:
                killed = True
        assert path.read_bytes() == before
        index_writer.write_index(folder, dataset, shards)
        assert path.read_bytes() == before
        assert verify(folder, full=True) == []
        assert name in index.load_dataset(folder).fold_schemes
    assert last > 5


def test_a_split_that_cannot_be_read_is_not_deleted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    table, mine = tmp_path / "split.csv", folder / "folds" / "mine.json"
    table.write_text("speaker,side\nanna,train\nben,val\ncleo,test\n")
    mine.write_text("{")
    with pytest.raises(FoldError, match=r"mine\.json: not JSON .*; move the file out of the folder, then run the same"):
        add_split(folder, table)
    assert mine.read_text() == "{"
    mine.rename(tmp_path / "mine.json")
    add_split(folder, table)
    assert verify(folder, full=True) == []


def test_generated_folds_that_no_longer_fit_are_removed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "shards", speakers=SPEAKERS)
    dataset = index.load_dataset(folder)
    (folder / "folds" / "speakers-10fold.json").write_bytes((folder / "folds" / "loso.json").read_bytes())
    index_writer.write_index(folder, dataset, [shard.name for shard in dataset.shards])
    assert verify(folder, full=True) == []
