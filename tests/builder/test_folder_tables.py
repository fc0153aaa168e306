"""Tables of one's own recordings, as spreadsheet programs and people write them."""

from __future__ import annotations

import io
import json
import random
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import openpyxl
import pytest

from builder import engines
from builder.__main__ import main
from builder.datasets import CorpusError, scan_corpus
from builder.datasets.base import Scan
from builder.datasets.names import clean_name, name_id
from manifests import index, tables
from manifests.errors import install_command
from manifests.schema import NAME
from manifests.verify import verify
from manifests.withdraw import WithdrawError, withdraw
from tests.fakes import clip_builder
from tests.fakes.build_process import command

HEADER = ("clip", "speaker", "emotion")
CLIPS = [("a.mp4", "anna", "joy"), ("b.mp4", "ben", "fear"), ("c.mp4", "zoe", "joy")]


def recordings(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"placeholder")


def text_table(rows: Sequence[Sequence[str]], delimiter: str = ",", header: Sequence[str] = HEADER) -> str:
    return "".join(f"{delimiter.join(row)}\r\n" for row in (header, *rows))


def workbook(path: Path, *rows: Sequence[object], others: Sequence[str] = ()) -> Path:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = "Clips"
    for row in rows:
        book.active.append(list(row))
    for name in others:
        book.create_sheet(name)
    book.save(path)
    return path


def clips(scan: Scan) -> list[tuple[str, str, str]]:
    return [(source.clip.clip_id, source.clip.speaker, source.clip.emotion) for source in scan.sources]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    recordings(folder, "a.mp4", "b.mp4", "c.mp4")
    return folder


# --- encodings and delimiters ----------------------------------------------------------------------------------

ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-be": "UTF-16",
    "cp1252": "Windows-1252",
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_in_any_encoding_and_with_any_delimiter(root: Path, encoding: str, delimiter: str) -> None:
    rows = [("a.mp4", "Jörg 1", "glücklich"), ("b.mp4", "Järg 1", "müde"), ("c.mp4", "zoe", "müde")]
    bom = "\ufeff" if encoding == "utf-16-be" else ""  # the others write their own, or none
    (root / "clips.csv").write_bytes((bom + text_table(rows, delimiter)).encode(encoding))
    scan = scan_corpus("folder", root)
    assert {clip_id: emotion for clip_id, _, emotion in clips(scan)} == {"a": "glücklich", "b": "müde", "c": "müde"}
    assert sorted(scan.speaker_names.values()) == ["Järg 1", "Jörg 1"]
    name = {",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]
    plain = delimiter == "," and ENCODINGS[encoding] == "UTF-8"
    assert scan.notes == (() if plain else (f"clips.csv: read as {ENCODINGS[encoding]}, cells separated by {name}",))


def test_a_tab_separated_file_is_found_by_its_name(root: Path) -> None:
    (root / "clips.tsv").write_text(text_table(CLIPS, "\t"), "utf-8")
    assert [clip_id for clip_id, _, _ in clips(scan_corpus("folder", root))] == ["a", "b", "c"]


def test_the_first_of_two_tables_is_read_and_the_other_one_named(root: Path) -> None:
    (root / "clips.csv").write_text(text_table(CLIPS[:1]), "utf-8")
    (root / "clips.tsv").write_text(text_table(CLIPS, "\t"), "utf-8")
    scan = scan_corpus("folder", root)
    assert clips(scan) == [("a", "anna", "joy")]
    assert scan.notes == ("clips.tsv: not read, because there is clips.csv",)


def test_what_excel_adds_to_a_text_table_is_left_out(root: Path) -> None:
    """A line for itself, empty cells behind the last column, empty rows behind the last row."""
    lines = ["sep=;", "clip;speaker;emotion;;", "a.mp4;anna;joy;;", ";;;;", "b.mp4;;fear;;", ";;;;"]
    (root / "clips.csv").write_text("\r\n".join(lines), "utf-8")
    with pytest.raises(CorpusError, match=r"clips\.csv:5: found no speaker, expected one in every row$"):
        scan_corpus("folder", root)
    (root / "clips.csv").write_text("\r\n".join([*lines[:4], "b.mp4;ben;fear;;"]), "utf-8")
    assert clips(scan_corpus("folder", root)) == [("a", "anna", "joy"), ("b", "ben", "fear")]


def test_letters_of_two_encodings_are_refused_with_the_line(root: Path) -> None:
    """Read as Windows-1252, the letters of the other lines would be wrong without a word."""
    data = "clip,speaker,emotion\na.mp4,Jörg,joy\nb.mp4,".encode() + "Jörg".encode("cp1252") + b",joy\n"
    (root / "clips.csv").write_bytes(data)
    with pytest.raises(
        CorpusError, match=r"clips\.csv:3: not UTF-8 \(byte 44\), although other letters are; save it as"
    ):
        scan_corpus("folder", root)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (text_table(CLIPS).encode("utf-16-le"), r"clips\.csv: found zero bytes in the header, expected text; save it"),
        (text_table(CLIPS).encode("utf-16")[:-1], r"clips\.csv: not UTF-16 \(byte \d+\); save it as CSV UTF-8"),
        (
            b"PK\x03\x04" + bytes(100),
            r"clips\.csv: found a workbook or an archive, expected text; call a workbook \.xlsx",
        ),
    ],
    ids=["UTF-16 without a mark", "half a letter", "a workbook"],
)
def test_what_is_no_text_is_refused(root: Path, data: bytes, message: str) -> None:
    (root / "clips.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=message) as raised:
        scan_corpus("folder", root)
    assert str(raised.value).isprintable()


# --- cells -----------------------------------------------------------------------------------------------------

SPAN = (*HEADER, "start", "end")


@pytest.mark.parametrize(
    ("delimiter", "start", "end", "seconds"),
    [
        (";", "1,5", "2,25", (1.5, 2.25)),
        ("\t", "0", "2,250", (0.0, 2.25)),
        (",", '"1,5"', '"2,25"', (1.5, 2.25)),
        (";", "1.5", "2.25", (1.5, 2.25)),
    ],
)
def test_a_decimal_comma_is_a_decimal_point(
    root: Path, delimiter: str, start: str, end: str, seconds: tuple[float, float]
) -> None:
    (root / "clips.csv").write_text(text_table([(*CLIPS[0], start, end)], delimiter, SPAN), "utf-8")
    assert [source.segment_seconds for source in scan_corpus("folder", root).sources] == [seconds]


@pytest.mark.parametrize("end", ["1,234.5", "1,2,3", "1.234,5", ",5", "5,"])
def test_thousands_are_not_guessed(root: Path, end: str) -> None:
    (root / "clips.csv").write_text(text_table([(*CLIPS[0], "0", end)], ";", SPAN), "utf-8")
    with pytest.raises(CorpusError, match=r"clips\.csv:2: found start '0' and end '.*'"):
        scan_corpus("folder", root)


def test_two_decimal_marks_in_one_table_are_refused(root: Path) -> None:
    """`1,250` is one and a quarter or one thousand two hundred and fifty."""
    rows = [(*CLIPS[0], "0", "2.5"), (*CLIPS[1], "0", "1,250")]
    (root / "clips.csv").write_text(text_table(rows, ";", SPAN), "utf-8")
    with pytest.raises(
        CorpusError, match=r"clips\.csv:3: .* end '1,250', but another decimal mark in line 2; expected"
    ):
        scan_corpus("folder", root)


def test_paths_of_windows_are_below_the_folder(root: Path) -> None:
    recordings(root, "day 1/take/x.mp4")
    (root / "clips.csv").write_text(text_table([("day 1\\take\\x.mp4", "anna", "joy")]), "utf-8")
    assert scan_corpus("folder", root).sources[0].video == root / "day 1/take/x.mp4"


@pytest.mark.parametrize("path", ["C:\\data\\a.mp4", "\\\\server\\share\\a.mp4", "..\\a.mp4"])
def test_paths_of_windows_outside_of_the_folder_are_refused(root: Path, path: str) -> None:
    (root / "clips.csv").write_text(text_table([(path, "anna", "joy")]), "utf-8")
    with pytest.raises(CorpusError, match=r"clips\.csv:2: found path .*; expected a file below the folder"):
        scan_corpus("folder", root)


# --- columns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        ("Clip", "SPEAKER", "Emotion"),
        ("Datei", "Sprecher", "Emotion"),
        ("file name", "Speaker-ID", "label"),
        ("path", "Participant", "Category"),
        ("Datei", "Sprecher", "Gefühl"),
        ("Datei", "Sprecher", "Emotionen"),
    ],
)
def test_other_names_of_columns_are_recognized(root: Path, header: tuple[str, ...]) -> None:
    (root / "clips.csv").write_text(text_table(CLIPS, header=header), "utf-8")
    scan = scan_corpus("folder", root)
    assert clips(scan) == [("a", "anna", "joy"), ("b", "ben", "fear"), ("c", "zoe", "joy")]
    renamed = [f"{theirs} is {ours}" for theirs, ours in zip(header, HEADER, strict=True) if theirs.casefold() != ours]
    assert scan.notes == ((f"columns: {', '.join(renamed)}",) if renamed else ())


def test_columns_are_chosen_and_others_left_out(root: Path) -> None:
    header = ("Code", "File, as exported", "speaker", "rating=1", "emotion")
    rows = [(speaker, clip, "nobody", emotion, "unused") for clip, speaker, emotion in CLIPS]
    (root / "clips.csv").write_text(text_table(rows, ";", header), "utf-8")
    chosen = "File, as exported=clip,Code=speaker,rating=1=emotion"
    scan = scan_corpus("folder", root, {"columns": chosen})
    assert clips(scan) == [("a", "anna", "joy"), ("b", "ben", "fear"), ("c", "zoe", "joy")]
    assert scan.notes[1:] == (
        "columns: Code is speaker, File, as exported is clip, rating=1 is emotion",
        "columns that are not read: speaker, emotion",
    )


def test_a_misspelled_column_can_be_left_out(root: Path) -> None:
    rows = [(*row, "joy") for row in CLIPS]
    (root / "clips.csv").write_text(text_table(rows, header=(*HEADER, "emotion 2")), "utf-8")
    with pytest.raises(CorpusError) as raised:
        scan_corpus("folder", root)
    assert str(raised.value) == (
        f"{root}/clips.csv:1: found column emotion 2, which looks like emotion; rename it, or say what it is with "
        "COLUMNS=\"'emotion 2=emotion'\" or COLUMNS=\"'emotion 2=ignore'\""
    )
    scan = scan_corpus("folder", root, {"columns": "emotion 2=ignore"})
    assert scan.notes == ("columns that are not read: emotion 2",)


@pytest.mark.parametrize(
    ("header", "chosen", "message"),
    [
        (
            "clip,speaker,emotion,Path",
            "",
            r"clips\.csv:1: found columns clip and Path, both for clip; expected one; choose",
        ),
        (
            "subject,actor,file,label",
            "",
            r":1: found columns subject and actor, both for speaker; expected one; choose",
        ),
        (
            "File,who,what",
            "File=clip",
            r":1: found columns File, who, what, without speaker; expected clip, speaker and any of emotion",
        ),
        (
            "clip,speaker,emotion",
            "File=clip",
            r":1: found no column 'File', which COLUMNS= names; the columns are clip, ",
        ),
        (
            "clip,speaker,emotion",
            "clip=File",
            r"folder: option columns: found 'clip=File'; expected NAME=COLUMN, NAME as",
        ),
        ("clip,speaker,emotion", "clip", r"folder: option columns: found 'clip'; expected NAME=COLUMN"),
        ("clip,a,b", "a=speaker,b=speaker", r"folder: option columns: found .*, each once"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(root: Path, header: str, chosen: str, message: str) -> None:
    (root / "clips.csv").write_text(f"{header}\na.mp4{',x' * header.count(',')}\n", "utf-8")
    with pytest.raises(CorpusError, match=message):
        scan_corpus("folder", root, {"columns": chosen})


def test_a_table_may_be_named_by_its_whole_path(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "mine.csv").write_text(text_table(CLIPS), "utf-8")
    assert main(command("plan", root, tmp_path / "out", "--option", f"csv={root / 'mine.csv'}")) == 0
    assert main(command("plan", root, tmp_path / "out", "--option", f"csv={tmp_path / 'mine.csv'}")) == 2
    assert "expected a file below the folder" in capsys.readouterr().err


def test_a_name_in_another_case_is_said(root: Path) -> None:
    (root / "a.mp4").rename(root / "A.MP4")
    (root / "clips.csv").write_text(text_table(CLIPS), "utf-8")
    scan = scan_corpus("folder", root)
    assert scan.missing == ("a.mp4",)
    assert ("A.MP4", "not named in clips.csv, which has a.mp4 in other case") in scan.ignored
    (root / "clips.csv").write_text(text_table(CLIPS[:1]), "utf-8")
    with pytest.raises(CorpusError, match=r"the first is a.mp4, but found A.MP4, which differs only in case"):
        scan_corpus("folder", root)


def test_columns_are_an_option_of_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "clips.csv").write_text(text_table(CLIPS, ";", ("a", "b", "c")), "utf-8")
    arguments = command(
        "plan", root, tmp_path / "out", "--column", "a=clip", "--column=b=speaker", "--column", "c=emotion"
    )
    assert main(arguments) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("table"))
    assert lines[first : first + 5] == [
        "table     clips.csv: read as UTF-8, cells separated by semicolons",
        "table     columns: a is clip, b is speaker, c is emotion",
        "classes  clips  speakers",
        "  fear       1         1",
        "  joy        2         2",
    ]
    assert (
        lines[first + 5] == "warning   only one speaker, so that a class cannot be both trained on and tested: 'fear'"
    )
    assert main(["plan", "--dataset", "ravdess", "--column", "a=clip"]) == 2
    assert "ravdess: unknown option 'columns'" in capsys.readouterr().err


# --- workbooks -------------------------------------------------------------------------------------------------


def test_a_workbook_is_read(root: Path) -> None:
    book = workbook(
        root / "clips.xlsx",
        ["Datei", "Sprecher", "Emotion", "start", "end", None, "Note"],
        ["a.mp4", 1, "glücklich", 0.5, 2, None, "x"],
        [None, None, None, None, None, None, None],
        ["b.mp4", 2.0, "müde", None, None, None, None],
        ["c.mp4", True, " müde ", "1,5", "2", None, None, "beside the table"],
        others=["Notes"],
    )
    scan = scan_corpus("folder", root)
    assert clips(scan) == [("a_500", "1", "glücklich"), ("b", "2", "müde"), ("c_1500", "TRUE", "müde")]
    assert [source.segment_seconds for source in scan.sources] == [(0.5, 2.0), None, (1.5, 2.0)]
    assert scan.notes == (
        "clips.xlsx: read as a workbook, sheet Clips",
        "sheets that are not read: Notes",
        "columns: Datei is clip, Sprecher is speaker",
        "columns that are not read: Note",
    )
    renamed = book.rename(root / "Study.XLSX")
    assert clips(scan_corpus("folder", root, {"csv": renamed.name})) == clips(scan)


def test_problems_of_a_workbook_have_the_rows_of_the_program(root: Path) -> None:
    workbook(root / "clips.xlsx", [], HEADER, CLIPS[0], [], ["b.mp4", None, "joy"])
    with pytest.raises(CorpusError, match=r"clips\.xlsx:5: found no speaker, expected one in every row$"):
        scan_corpus("folder", root)


def edit_sheet(path: Path, edit: Callable[[str], str], name: str = "xl/worksheets/sheet1.xml") -> None:
    """Rewrite a file of a workbook."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    before = members[name].decode()
    members[name] = edit(before).encode()
    assert members[name] != before.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in members.items():
            archive.writestr(each, data)


def test_formulas_are_read_as_the_values_saved_with_them(root: Path) -> None:
    workbook(root / "clips.xlsx", HEADER, ["a.mp4", "=A1", "joy"], ["b.mp4", "ben", "sad"])
    with pytest.raises(CorpusError, match=r"clips\.xlsx:2: found no speaker"):  # no program has computed it
        scan_corpus("folder", root)
    edit_sheet(
        root / "clips.xlsx",
        lambda text: re.sub(r'<c r="B2"[^>]*>.*?</c>', '<c r="B2" t="str"><f>A1</f><v>anna</v></c>', text),
    )
    assert clips(scan_corpus("folder", root)) == [("a", "anna", "joy"), ("b", "ben", "sad")]


def test_what_a_workbook_says_about_its_size_is_not_believed(root: Path) -> None:
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    edit_sheet(root / "clips.xlsx", lambda text: re.sub(r'<dimension ref="[^"]*"', '<dimension ref="A1:A1"', text))
    assert len(clips(scan_corpus("folder", root))) == 3


@pytest.mark.timeout(120)
def test_cells_far_away_cost_neither_time_nor_memory(root: Path) -> None:
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    far = (
        '<row r="1048576"><c r="XFD1048576" t="str"><v>x</v></c></row>'
        '<row r="999999999"><c r="A999999999" t="str"><v>x</v></c></row></sheetData>'
    )
    edit_sheet(root / "clips.xlsx", lambda text: text.replace("</sheetData>", far))
    assert len(clips(scan_corpus("folder", root))) == 3
    edit_sheet(root / "clips.xlsx", lambda text: text.replace('r="XFD1048576"', 'r="ZZZZZZZZZ1048576"'))
    with pytest.raises(CorpusError, match=r"clips\.xlsx: a damaged workbook \(ValueError\)"):
        scan_corpus("folder", root)


def test_texts_that_cells_share_are_read(root: Path) -> None:
    """As Excel writes them; a number that no text has is damage."""
    workbook(root / "clips.xlsx", HEADER, CLIPS[0])
    texts = ["clip", "speaker", "emotion", "a.mp4", "J\u00f6rg 1"]
    shared = "".join(f"<si><t>{text}</t></si>" for text in texts)
    namespace = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(root / "clips.xlsx", "a") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {namespace}>{shared}</sst>")
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
    edit_sheet(root / "clips.xlsx", lambda text: text.replace("</Types>", override), "[Content_Types].xml")
    cells = "".join(
        f'<row r="{row}">'
        + "".join(f'<c r="{"ABC"[at]}{row}" t="s"><v>{n}</v></c>' for at, n in enumerate(numbers))
        + "</row>"
        for row, numbers in ((1, (0, 1, 2)), (2, (3, 4, 1)))
    )
    edit_sheet(
        root / "clips.xlsx", lambda text: re.sub(r"<sheetData>.*</sheetData>", f"<sheetData>{cells}</sheetData>", text)
    )
    scan = scan_corpus("folder", root)
    assert [(clip_id, emotion) for clip_id, _, emotion in clips(scan)] == [("a", "speaker")]
    assert list(scan.speaker_names.values()) == ["J\u00f6rg 1"]
    edit_sheet(root / "clips.xlsx", lambda text: text.replace("<v>4</v>", "<v>5</v>"))
    with pytest.raises(CorpusError, match=r"clips\.xlsx: a damaged workbook \(IndexError\)"):
        scan_corpus("folder", root)


def test_a_workbook_that_unpacks_to_too_much_is_not_unpacked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    with (
        zipfile.ZipFile(root / "clips.xlsx", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/media/image1.png", "w") as file,
    ):
        for _ in range(129):
            file.write(bytes(1 << 20))
    assert (root / "clips.xlsx").stat().st_size < 1 << 20

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be parsed")

    monkeypatch.setattr(openpyxl, "load_workbook", refuse)
    with pytest.raises(
        CorpusError, match=r"clips\.xlsx: found \d+ files of \d+ bytes in the workbook, expected at most"
    ):
        scan_corpus("folder", root)


def test_a_workbook_that_lies_about_its_size_is_not_believed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only as much is unpacked as the directory of the archive declares."""
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    edit_sheet(root / "clips.xlsx", lambda text: text.replace("</sheetData>", "<!--" + " " * 5000 + "--></sheetData>"))
    data = bytearray((root / "clips.xlsx").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = archive.getinfo("xl/worksheets/sheet1.xml").file_size
    at = data.rfind(size.to_bytes(4, "little"))  # in the directory, behind the files
    data[at : at + 4] = (100).to_bytes(4, "little")
    (root / "clips.xlsx").write_bytes(data)
    with pytest.raises(
        CorpusError, match=r"clips\.xlsx: a damaged workbook \(\w+\); open it in Excel and save it again"
    ):
        scan_corpus("folder", root)


def test_entities_that_multiply_are_refused(root: Path) -> None:
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 1000}">' for i in range(9))
    edit_sheet(
        root / "clips.xlsx",
        lambda text: f"<!DOCTYPE x [{entities}]>" + text.replace("<t>joy</t>", "<t>&e8;</t>"),
    )
    with pytest.raises(CorpusError, match=r"clips\.xlsx: a damaged workbook"):
        scan_corpus("folder", root)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("clips.xlsx", b"", "not a workbook that can be read; expected .xlsx without a password"),
        (
            "clips.xlsx",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "not a workbook that can be read; expected .xlsx",
        ),
        ("clips.xlsx", b"clip,speaker,emotion\n", "not a workbook that can be read"),
        ("old.xls", b"\xd0\xcf\x11\xe0", r"found a \.xls file; expected \.csv or \.xlsx, save it as one of them"),
        ("open.ods", b"PK\x03\x04", r"found a \.ods file; expected \.csv or \.xlsx"),
    ],
)
def test_what_is_no_workbook_is_refused(root: Path, name: str, data: bytes, message: str) -> None:
    (root / name).write_bytes(data)
    with pytest.raises(CorpusError, match=rf"{name}: {message}"):
        scan_corpus("folder", root, {"csv": name})


def test_an_empty_workbook_is_refused(root: Path) -> None:
    workbook(root / "clips.xlsx")
    with pytest.raises(CorpusError, match=r"clips\.xlsx:1: found columns none, without clip and speaker; expected"):
        scan_corpus("folder", root)
    workbook(root / "clips.xlsx", HEADER)
    with pytest.raises(CorpusError, match=r"clips\.xlsx: found no rows, expected one per clip"):
        scan_corpus("folder", root)


def test_damaged_workbooks_give_clips_or_one_error(root: Path) -> None:
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    with zipfile.ZipFile(root / "clips.xlsx") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chance, refused = random.Random(1), 0
    for attempt in range(150):
        damaged = dict(members)
        name = chance.choice(sorted(members))
        data = bytearray(damaged[name])
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(len(data))] = chance.choice(b"0<>/\"'\x00\xff9r")
        damaged[name] = bytes(data)
        if attempt % 10 == 0:
            del damaged[name]
        with zipfile.ZipFile(root / "clips.xlsx", "w") as archive:
            for each, content in damaged.items():
                archive.writestr(each, content)
        try:
            scan_corpus("folder", root)
        except CorpusError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > 30


def test_a_missing_package_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbook(root / "clips.xlsx", HEADER, *CLIPS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(CorpusError) as raised:
        scan_corpus("folder", root)
    assert str(raised.value) == (
        f"{root}/clips.xlsx: needs openpyxl; {install_command('excel')}, or save the table as CSV UTF-8"
    )


def test_the_limit_of_a_workbook_is_below_that_of_text() -> None:
    assert tables.MAX_WORKBOOK_BYTES < 1 << 28


# --- every problem at once -------------------------------------------------------------------------------------


def test_all_problems_are_listed_with_their_lines(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["/a.mp4,anna,joy", "b.mp4,,joy", "a.mp4,Ann,joy", "b.mp4,ann,joy", "c.mp4,ann,joy", "a.mov,ben,joy", "x,y"]
    (root / "clips.csv").write_text("\n".join(["clip,speaker,emotion", *rows]) + "\n", "utf-8")
    assert main(command("plan", root, tmp_path / "out")) == 2
    captured = capsys.readouterr()
    table = root / "clips.csv"
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"  {table}:2: found path '/a.mp4'; expected a file below the folder, without '..'",
        f"  {table}:3: found no speaker, expected one in every row",
        f"  {table}:5: speakers Ann and ann differ only in case; expected one spelling",
        f"  {table}:4 and {table}:7: the same clip id a; rename a file or remove a row",
        f"  {table}:8: found 2 cells, expected 3 (clip, speaker, emotion)",
        f"error: {table}:2: found path '/a.mp4'; expected a file below the folder, without '..' "
        "(the first of 5 problems)",
    ]


def test_rows_of_one_recording_without_times_name_the_columns_that_are_not_read(root: Path) -> None:
    rows = ["a.mp4,anna,joy,0,1", "a.mp4,anna,fear,1,2"]
    (root / "clips.csv").write_text("\n".join(["clip,speaker,emotion,Ab,Bis dahin", *rows]), "utf-8")
    with pytest.raises(CorpusError) as raised:
        scan_corpus("folder", root)
    assert str(raised.value).endswith(
        ":3: the same clip id a; rename a file or remove a row, or name the columns with the times: "
        'COLUMNS="From=start To=end" (not read: Ab, Bis dahin)'
    )
    (root / "clips.csv").write_text("\n".join(["Datei,Sprecher,Gefühl,Von,Bis", *rows]), "utf-8")
    assert [source.segment_seconds for source in scan_corpus("folder", root).sources] == [(0, 1), (1, 2)]


def test_the_first_of_many_problems_are_listed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "clips.csv").write_text("clip,speaker,emotion\n" + "a.mp4,,joy\n" * 30_000 + '"', "utf-8")
    assert main(command("plan", root, tmp_path / "out")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 22
    assert lines[19].startswith(f"  {root}/clips.csv:21: found no speaker")
    assert lines[20] == "  ... and 29981 more"
    assert lines[21].endswith(":2: found no speaker, expected one in every row (the first of 30001 problems)")


def test_problems_cannot_control_the_terminal(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "clips.csv").write_text("clip,speaker,emotion\n/\x1b[31m,x,joy\na.mp4,\x1b[2J,joy\n", "utf-8")
    assert main(command("plan", root, tmp_path / "out")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anna", "1001", "Ses01F", "p-1", "A_b", "-", "x" * 64])
def test_a_name_that_is_an_id_stays_as_it_is(name: str) -> None:
    assert name_id(name, 64) == name


def test_names_have_readable_ids_that_differ() -> None:
    names = ["Jörg 1", "Järg 1", "Jorg 1", "Jorg_1", "jörg 1", "李雷", "韩梅", "Ø", "ß" * 64]
    ids = {name: name_id(name, 64) for name in names}
    assert ids["Jörg 1"] == "Jorg_1-200f2628"  # part of every shard's name: it must never change
    assert len({each.casefold() for each in ids.values()}) == len(names)
    assert all(NAME.fullmatch(each) and len(each) <= 64 for each in ids.values())
    assert ids["Jorg_1"] == "Jorg_1"


def test_one_name_in_two_encodings_of_its_letters_is_one_speaker(root: Path) -> None:
    rows = [("a.mp4", "Jo\u0308rg 1", "joy"), ("b.mp4", "J\u00f6rg  1", "joy"), ("c.mp4", "J\u00f6rg\u00a01", "joy")]
    (root / "clips.csv").write_text(text_table(rows), "utf-8")
    scan = scan_corpus("folder", root)
    assert {speaker for _, speaker, _ in clips(scan)} == {name_id("Jörg 1", 64)}
    assert dict(scan.speaker_names) == {name_id("Jörg 1", 64): "Jörg 1"}
    assert clean_name("J\u00f6rg\u00a0 1") == "Jörg 1"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Jörg", "jörg"), r"clips\.csv:3: speakers Jörg and jörg differ only in case; expected one spelling"),
        (("é" * 65, "b"), r"clips\.csv:2: speaker é+\.\.\. has 65 characters, expected at most 64"),
        (("a\u202eb", "b"), r"clips\.csv:2: found speaker '.*'; expected printable characters only"),
    ],
)
def test_names_that_cannot_be_used_are_refused(root: Path, names: tuple[str, str], message: str) -> None:
    rows = [(clip, speaker, "joy") for clip, speaker in zip(("a.mp4", "b.mp4"), names, strict=True)]
    (root / "clips.csv").write_text(text_table(rows), "utf-8")
    with pytest.raises(CorpusError, match=message):
        scan_corpus("folder", root)


def test_only_clip_ids_that_would_be_equal_get_a_hash(root: Path) -> None:
    """Shards that were built before keep the ids of their clips."""
    names = ["day one/talk.mp4", "Jörg.mp4", "a b.mp4", "a_b.mp4", "x/y.mp4", "x_y.mp4", "é.mp4", "ü.mp4"]
    recordings(root, *names)
    rows = [(name, "anna", "joy") for name in names]
    (root / "clips.csv").write_text(text_table(rows), "utf-8")
    scan = scan_corpus("folder", root)
    found = {source.video.relative_to(root).as_posix(): source.clip.clip_id for source in scan.sources}
    assert {name: found[name] for name in ("day one/talk.mp4", "Jörg.mp4", "a_b.mp4", "x_y.mp4")} == {
        "day one/talk.mp4": "day_one_talk",
        "Jörg.mp4": "J_rg",
        "a_b.mp4": "a_b",
        "x_y.mp4": "x_y",
    }
    assert re.fullmatch(r"a_b-[0-9a-f]{8}", found["a b.mp4"]) and re.fullmatch(r"x_y-[0-9a-f]{8}", found["x/y.mp4"])
    assert {found["é.mp4"][:2], found["ü.mp4"][:2]} == {"_-"}
    assert len(set(found.values())) == len(names)
    (root / "clips.csv").write_text(text_table(rows[::-1]), "utf-8")
    assert scan_corpus("folder", root).sources == scan.sources


def test_all_parts_of_a_recording_with_an_equal_id_get_its_hash(root: Path) -> None:
    recordings(root, "a b.mp4", "a_b.mp4")
    rows = [("a b.mp4", "x", "joy", "0", "1"), ("a_b.mp4", "x", "joy", "0", "1"), ("a b.mp4", "x", "joy", "1", "2")]
    (root / "clips.csv").write_text(text_table(rows, header=SPAN), "utf-8")
    ids = [clip_id for clip_id, _, _ in clips(scan_corpus("folder", root))]
    assert sorted(re.sub(r"-\w{8}", "-HASH", each) for each in ids) == ["a_b-HASH_0", "a_b-HASH_1000", "a_b_0"]


# --- a build of speakers with names ----------------------------------------------------------------------------

NAMED: Mapping[str, Mapping[str, str]] = {
    "Jörg 1": {"j1": "ok", "j2": "ok"},
    "Järg 1": {"k1": "ok", "k2": "ok"},
    "Zoe & <xmp>": {"z1": "drop no_face", "z2": "drop no_face"},
    "ben": {"b1": "ok", "b2": "ok"},
    "cem": {"c1": "ok", "c2": "ok"},
}


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    return clip_builder.corpus(tmp_path / "named", NAMED), tmp_path / "out"


def test_people_read_names_and_files_have_ids(named: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    data, out = named
    assert main(command("shards", data, out)) == 1
    captured = capsys.readouterr()
    assert "no clip was built of speaker Zoe & <xmp>. The shards are kept" in captured.err
    assert verify(out, full=True) == []
    ids = {name: name_id(name, 64) for name in NAMED}
    assert {path.name for path in out.glob("*.tar")} == {f"{ids[name]}-000.tar" for name in NAMED if name[0] != "Z"}
    about = json.loads((out / "dataset.json").read_text())["about"]
    assert about[index.SPEAKER_NAMES] == {ids[name]: name for name in ("Jörg 1", "Järg 1", "Zoe & <xmp>")}
    page = (out / "report.html").read_text("utf-8")
    assert f'<th scope="row">Jörg 1<span class="muted"> {ids["Jörg 1"]}</span></th>' in page
    assert '<th scope="row">ben</th>' in page
    assert "<xmp>" not in page
    assert "Zoe &amp; &lt;xmp&gt;" in page
    assert f'<span class="pill">{ids["Jörg 1"]}</span>' not in page


def test_names_leave_with_their_speakers(named: tuple[Path, Path]) -> None:
    data, out = named
    main(command("shards", data, out))
    jorg, jarg = (name_id(name, 64) for name in ("Jörg 1", "Järg 1"))
    with pytest.raises(
        WithdrawError, match=rf"found no speaker Jörg 1; valid are {jarg} \(Järg 1\), {jorg} \(Jörg 1\), "
    ):
        withdraw(out, ["Jörg 1"])
    withdraw(out, [jorg])
    assert "Jörg" not in (out / "dataset.json").read_text("utf-8")
    assert index.load_dataset(out).speaker_name(jarg) == "Järg 1"
    assert main(command("shards", data, out, "--allow-drops")) == 0
    assert "Jörg" not in (out / "dataset.json").read_text("utf-8")
    withdraw(out, [jarg, name_id("Zoe & <xmp>", 64)])
    assert index.SPEAKER_NAMES not in json.loads((out / "dataset.json").read_text())["about"]


def test_speakers_with_plain_names_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of a corpus without such names has the bytes that it always had."""
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)
    data = clip_builder.corpus(tmp_path / "data", {"A": {"a1": "ok"}, "B": {"b1": "ok"}, "C": {"c1": "ok"}})
    main(command("shards", data, tmp_path / "out"))
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())["about"]
    assert set(about) == {"title", "homepage", "licence", "citation", "redistributable"}


@pytest.mark.parametrize("names", [None, 3, [], ["S"], {"S": 3}, {"S": None}])
def test_names_in_an_index_are_not_trusted(names: object) -> None:
    dataset = index.Dataset(dataset="x", complete=True, identity={}, about={index.SPEAKER_NAMES: names})
    assert dataset.speaker_name("S") == "S"


def test_a_hostile_name_is_one_short_line() -> None:
    about = {index.SPEAKER_NAMES: {"S": "a\x1b[31m\n" + "b" * 1000}}
    name = index.Dataset(dataset="x", complete=True, identity={}, about=about).speaker_name("S")
    assert name.isprintable() and len(name) < 100
