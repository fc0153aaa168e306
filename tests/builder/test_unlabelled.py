"""Recordings without a table, and tables without emotions: clips without labels, from the plan to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builder import engines
from builder.__main__ import main
from builder.datasets import CorpusError, scan_corpus
from builder.datasets.base import Scan
from manifests import index
from manifests.folds import load_fold_file
from manifests.schema import NAME, decode
from manifests.verify import verify
from tests.factories.corpora import placeholder, put
from tests.fakes import clip_builder

NO_LABELS = "no labels: embeddings can be computed of these clips, a classifier cannot be trained on them\n"


def clips(scan: Scan) -> dict[str, tuple[str, str | None]]:
    return {source.clip.clip_id: (source.clip.speaker, source.clip.emotion) for source in scan.sources}


# --- folders without a table -----------------------------------------------------------------------------------


def test_the_first_folder_is_the_speaker_and_a_file_outside_of_folders_its_own(tmp_path: Path) -> None:
    for name in ("anna/day 1/a.mp4", "anna/b.MOV", "Jörg/a.flv", "one.mkv", "two.webm"):
        put(tmp_path / name)
    scan = scan_corpus("folder", tmp_path)
    assert clips(scan) == {
        "anna_b": ("anna", None),
        "anna_day_1_a": ("anna", None),
        "J_rg_a": ("Jorg-8e63741c", None),
        "one": ("one", None),
        "two": ("two", None),
    }
    assert scan.speaker_names == {"Jorg-8e63741c": "Jörg"}
    assert scan.notes == (
        "none: each recording is a clip without a label, its speaker the first folder on its path "
        "(2 outside of folders: each its own)",
        "clips.csv with columns clip, speaker, emotion would give speakers and labels",
    )


def test_sound_and_names_that_are_no_text_are_ignored(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav", "notes.txt", "new\nline.mp4"):
        put(tmp_path / name)
    (tmp_path / "latin-\udce9.mp4").write_bytes(b"placeholder")
    scan = scan_corpus("folder", tmp_path)
    assert clips(scan) == {"a": ("a", None)}
    why = "its name has characters that no text has"
    assert scan.ignored == (("a.wav", "sound only"), ("latin-\udce9.mp4", why), ("new\nline.mp4", why))


def test_another_table_in_the_folder_is_mentioned(tmp_path: Path) -> None:
    put(tmp_path / "anna/a.mp4")
    for name in ("labels.xlsx", "anna/inside.csv"):
        put(tmp_path / name)
    assert scan_corpus("folder", tmp_path).notes[2:] == ("labels.xlsx: not read; OPTION=csv=labels.xlsx reads it",)
    with pytest.raises(
        CorpusError, match=r"found no clips\.csv, .*; expected a table with columns clip, speaker, emot"
    ):
        scan_corpus("folder", tmp_path, {"columns": "File=clip"})
    with pytest.raises(CorpusError, match=r"found no gone\.csv; expected a table with columns clip, speaker, emotion"):
        scan_corpus("folder", tmp_path, {"csv": "gone.csv"})


def test_long_names_are_shortened_and_equal_ids_separated(tmp_path: Path) -> None:
    for name in (f"{'s' * 99}/{'c' * 99}.mp4", f"{'s' * 98}/b.mp4", "x/a b.mp4", "x/a_b.mp4", f"{'é' * 70}.mp4"):
        put(tmp_path / name)
    scan = scan_corpus("folder", tmp_path)
    assert len(clips(scan)) == 5 and all(map(NAME.fullmatch, clips(scan)))
    speakers = {speaker for speaker, _ in clips(scan).values()}
    assert len(speakers) == 4 and max(map(len, speakers)) == 64


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Anna/a.mp4", "anna/b.mp4"), r"anna/b\.mp4: speakers Anna and anna differ only in case; .*; rename a file"),
        (("a.mp4", "a.mov"), r"a\.mov and .*a\.mp4: the same clip id a; expected .*; rename or remove one"),
        (
            ("a.wav",),
            r"found no recording \(1 file ignored\); expected some, such as \.mp4, or clips\.csv with columns",
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    for name in names:
        put(tmp_path / name)
    with pytest.raises(CorpusError, match=message) as raised:
        scan_corpus("folder", tmp_path)
    assert "\n" not in str(raised.value)


# --- tables without emotions -----------------------------------------------------------------------------------


def test_a_table_may_have_no_emotions(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    (tmp_path / "clips.csv").write_text("clip,speaker,mood\na.mp4,anna,good\n")
    scan = scan_corpus("folder", tmp_path)
    assert clips(scan) == {"a": ("anna", None)}
    assert scan.notes == (
        "columns: none is emotion, so that no clip has a label",
        "columns that are not read: mood",
    )
    assert clips(scan_corpus("folder", tmp_path, {"columns": "mood=emotion"})) == {"a": ("anna", "good")}


def test_some_clips_may_have_no_emotion(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path / f"{name}.mp4")
    (tmp_path / "clips.csv").write_text("clip,speaker,emotion\na.mp4,anna,joy\nb.mp4,ben,\nc.mp4,ben,joy\n")
    scan = scan_corpus("folder", tmp_path)
    assert clips(scan) == {"a": ("anna", "joy"), "b": ("ben", None), "c": ("ben", "joy")}
    assert scan.notes == ("1 of 3 clips without an emotion: they have no label",)


# --- builds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for speaker in ("ann", "ben", "cy"):
        folder = tmp_path / "faces" / speaker
        folder.mkdir(parents=True)
        for take in (1, 2):
            clip_builder.source(folder, f"{take}")
    return tmp_path / "faces"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ClipPool", clip_builder.FakePool)


@pytest.mark.usefixtures("fake")
def test_a_folder_is_planned_built_described_and_split(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    where = ["--dataset", "folder", "--data", str(data), "--out", str(out)]
    assert main(["plan", *where]) == 0
    planned = capsys.readouterr().out
    assert planned.startswith("faces: 6 clips, 3 speakers, 3 shards\n")
    assert "\ntable     none: each recording is a clip without a label, its speaker the first folder on" in planned
    assert f"\n{NO_LABELS}folds     loso\n" in planned
    assert main(["shards", *where]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "table     none: each recording is a clip without a label, its speaker the first fol"
    )
    assert f"\nfolds     loso\n{NO_LABELS}report " in captured.out
    assert verify(out, full=True) == []
    dataset = index.load_dataset(out)
    assert (dataset.label_schemes, dataset.fold_schemes, dataset.counts) == ((), ("loso",), {"built": 6})
    rows = list(index.load_rows(out))
    assert {row.emotion for row in rows} == {None} and {row.raw_label for row in rows} == {""}
    tar = out / "ann-000.tar"
    places = index.member_byte_ranges(tar)["ann_1"]
    members = {name: tar.read_bytes()[at : at + size] for name, (at, size) in places.items()}
    assert json.loads(members["json"])["emotion"] == ""
    assert decode(members).clip.emotion is None
    loso = load_fold_file(out / "folds/loso.json", {shard.name: shard.speaker for shard in dataset.shards})
    assert loso.folds["ann"].test.clips == {"": 2}
    assert "- (no label): 6\n" in (out / "README.md").read_text().replace("\\", "")
    assert '<th scope="row">no label</th>' in (out / "report.html").read_text()


@pytest.mark.usefixtures("fake")
def test_labelled_and_unlabelled_clips_are_counted_apart(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["clip,speaker,emotion", "ann/1.mp4,ann,joy", "ann/2.mp4,ann,", "ben/1.mp4,ben,joy", "cy/1.mp4,cy,"]
    (data / "clips.csv").write_text("\n".join(table) + "\n")
    out = tmp_path / "shards"
    assert main(["shards", "--dataset", "folder", "--data", str(data), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("table     2 of 4 clips without an emotion: they have no label\n")
    counted = [line.split() for line in captured.out.splitlines() if re.match(r"classes|  joy|  \(no label", line)]
    assert counted == [["classes", "clips", "speakers"], ["joy", "2", "2"], ["(no", "label)", "2", "2"]]
    assert verify(out, full=True) == []


def test_more_than_200_speakers_have_ten_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(201):
        put(tmp_path / "faces" / f"p{number}" / "a.mp4", placeholder)
    assert main(["plan", "--dataset", "folder", "--data", str(tmp_path / "faces"), "--out", str(tmp_path / "o")]) == 0
    assert f"\n{NO_LABELS}folds     speakers-10fold\n" in capsys.readouterr().out
