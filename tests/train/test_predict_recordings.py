"""Which recordings are classified, and that one of them that cannot be used costs only itself."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from builder.datasets.checks import MEDIA_SUFFIXES
from manifests.schema import NAME
from tests.factories.shards import SPEAKERS
from tests.factories.small_trainings import SMALL
from train import cli
from train.clip_prediction import ClipPrediction, format_clips
from train.models.videomae import ENCODERS
from train.predict import PredictError, Predictor, name_clips
from train.recordings import RECORDING_SUFFIXES, find_recordings

REAL_CLIP = Path(__file__).parents[3] / "shared/clips/crema-d/VideoFlash/1001_DFA_ANG_XX.flv"
CLASSES = ("calm", "=joy")
CLIPS = (
    ClipPrediction(clip="b.mp4", speaker="", label=None, probabilities=dict(zip(CLASSES, (0.25, 0.75), strict=True))),
    ClipPrediction(
        clip="a\n\udcff.mp4",
        speaker="S1",
        label="calm",
        probabilities=dict(zip(CLASSES, (0.625, 0.375), strict=True)),
        missing="sound",
    ),
    ClipPrediction(clip="c.mp4", speaker="", label=None, probabilities=None, reason="not found\nat all"),
)


def train_run(shards: Path, runs: Path, strategy: str) -> Path:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", SMALL)
        options = ["--shards", str(shards), "--runs", str(runs), "--encoder", "tiny", "--recipe", "tiny"]
        chosen = ["--epochs", "1", "--strategy", strategy, "--fold", SPEAKERS[0]]
        assert cli.run(["train", *options, *chosen]) == 0
    return runs / "folder" / strategy / f"fold-{SPEAKERS[0]}"


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose strategy draws the order of each clip from its name."""
    return train_run(shards, tmp_path_factory.mktemp("recordings") / "runs", "rfas")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files with every kind of name, as the working directory."""
    for name in ("b.mp4", "A.FLV", "sub/deep/c d.wav", "sub/notes.txt", "sub/.hidden.mp4", ".git/x.mp4", "list.csv"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).write_bytes(b"content")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "clips"


def found(*names: str) -> list[str]:
    recordings = find_recordings(names)
    assert [recording.problem for recording in recordings if recording.problem] == []
    return [str(recording.path) for recording in recordings]


def problem(name: str | Path) -> str:
    (recording,) = find_recordings([name])
    assert str(recording.path) == str(name)
    return recording.problem


def test_a_folder_has_the_recordings_below_it_sorted_without_hidden_ones(folder: Path) -> None:
    assert found("clips") == ["clips/A.FLV", "clips/b.mp4", "clips/sub/deep/c d.wav"]
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "linked").symlink_to(folder.parent / "empty")
    (folder.parent / "empty" / "z.mp4").write_bytes(b"content")
    assert found("clips")[-2:] == ["clips/linked/z.mp4", "clips/sub/deep/c d.wav"]


def test_a_pattern_is_expanded_by_the_program(folder: Path) -> None:
    assert found("clips/*.mp4") == ["clips/b.mp4"]
    assert found("clips/**/*.[wF]*") == ["clips/A.FLV", "clips/sub/deep/c d.wav"]
    assert found("clips/s*") == ["clips/sub/deep/c d.wav"]  # a folder
    assert {"clips/A.FLV", "clips/b.mp4", "clips/sub/deep/c d.wav", "clips/list.csv"} <= set(found("clips/**"))
    assert len(found("clips/**")) == len(set(found("clips/**")))
    (folder / "take [1].mp4").write_bytes(b"content")
    assert found("clips/take [1].mp4") == ["clips/take [1].mp4"]  # a file is no pattern
    assert problem("clips/*.avi") == "found no file of this pattern, expected one"


def test_the_home_folder_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert found("~/*.mp4", "~/b.mp4") == [str(folder / "b.mp4")] * 2


def test_files_keep_their_order_and_each_its_place(folder: Path) -> None:
    assert found("clips/b.mp4", "clips/A.FLV", "clips/b.mp4", "clips/list.csv") == [
        *("clips/b.mp4", "clips/A.FLV", "clips/b.mp4", "clips/list.csv")
    ]


def test_what_is_no_recording_has_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nothing.mp4").touch()
    (folder / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "dangling.mp4").symlink_to("absent")
    (folder / "circle.mp4").symlink_to("circle.mp4")
    assert problem("clips/absent.mp4") == problem("clips/dangling.mp4") == "not found, expected a recording"
    assert problem("clips/nothing.mp4") == "found an empty file, expected a recording"
    assert problem("clips/pointer.mp4").startswith("found a git-lfs pointer, expected a recording; run git lfs pull")
    assert "found a pipe" in problem("clips/pipe.mp4")
    assert "found a link" in problem("clips/circle.mp4")
    assert problem("empty").startswith("found no recordings in this folder, expected files such as .mp4")
    assert "File name too long" in problem("x" * 300)
    assert problem("a\0b").startswith("cannot be read (")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("train.recordings.open_regular", refuse)
    assert problem("clips/b.mp4") == "cannot be read (Permission denied), expected a recording"


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path) == "clips/sub":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reasons = {str(each.path): each.problem for each in find_recordings(["clips"])}
    assert "cannot be listed (Permission denied)" in reasons["clips/sub"]
    assert reasons["clips/b.mp4"] == ""


def test_the_suffixes_are_those_of_the_builder() -> None:
    assert RECORDING_SUFFIXES == MEDIA_SUFFIXES


def test_names_that_differ_in_case_have_different_ids(tmp_path: Path) -> None:
    """The builder refuses others for all clips together."""
    files = [tmp_path / folder / name for folder, name in (("a", "Take.mp4"), ("b", "take.mp4"), ("c", "TAKE.mp4"))]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(str(number // 2))
    names = name_clips(files)
    assert len(set(names.values())) == 3
    assert all(NAME.fullmatch(name) for name in names.values())


def test_json_has_an_object_for_each_clip() -> None:
    text = format_clips("json", CLASSES, CLIPS)
    assert json.loads(text) == [
        {
            "clip": "b.mp4",
            "speaker": None,
            "label": None,
            "predicted": "=joy",
            "missing": None,
            "reason": None,
            "probabilities": {"calm": 0.25, "=joy": 0.75},
        },
        {
            "clip": "a\n\udcff.mp4",
            "speaker": "S1",
            "label": "calm",
            "predicted": "calm",
            "missing": "sound",
            "probabilities": {"calm": 0.625, "=joy": 0.375},
            "reason": None,
        },
        {
            "clip": "c.mp4",
            "speaker": None,
            "label": None,
            "predicted": None,
            "missing": None,
            "probabilities": None,
            "reason": "not found\nat all",
        },
    ]
    assert text.isascii()
    assert len(text.splitlines()) == len(CLIPS) + 2
    assert json.loads(format_clips("json", CLASSES, ())) == []


def test_the_page_names_the_fields_of_a_prediction() -> None:
    page = (Path(__file__).parents[2] / "train" / "docs" / "predict.md").read_text("utf-8")
    names = {*(field.name for field in fields(ClipPrediction)), "predicted"}
    assert names <= {*re.findall(r"`(\w+)`", page)}
    example = page.partition("[(")[2].partition(") for clip in")[0]
    assert {*re.findall(r"\bclip\.(\w+)", example)} == {"clip", "predicted", "reason"}
    assert [clip.predicted for clip in CLIPS] == ["=joy", "calm", None]
    empty = CLIPS[2]
    assert (empty.label, empty.predicted, empty.probabilities) == (None, None, None)
    assert (empty.speaker, empty.missing, CLIPS[0].reason) == ("", "", "")


def test_what_was_not_built_is_counted_last(
    run: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--run", str(run), "--shards", str(shards)]
    assert cli.run(arguments) == 0
    assert "not built" not in capsys.readouterr().out
    monkeypatch.setattr(Predictor, "predict_shards", lambda *_, **__: [CLIPS[2]])
    assert cli.run(arguments) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 classified, 1 not built"
    assert cli.run([*arguments, "--format", "json"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "0 classified, 1 not built"
    assert json.loads(said.out)


def test_a_table_has_a_line_for_each_clip() -> None:
    assert format_clips("table", CLASSES, CLIPS) == (
        "clip           predicted  probability\n"
        "b.mp4          =joy       0.750\n"
        "a\\n\\udcff.mp4  calm       0.625  labelled calm  without sound\n"
        "c.mp4          not built: not found\\nat all\n"
    )
    assert format_clips("table", CLASSES, CLIPS[:2], probabilities=True) == (
        "clip           predicted  p(calm)  p(=joy)\n"
        "b.mp4          =joy       0.250    0.750\n"
        "a\\n\\udcff.mp4  calm       0.625    0.375    labelled calm  without sound\n"
    )


def test_the_format_is_chosen_by_the_name_or_by_the_option(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--run", str(run), "--shards", str(shards)]
    printed = {}
    for name, options in {
        "a.json": [],
        "a.csv": [],
        "b.json": ["--format", "csv"],
        "b.txt": ["--format", "table"],
    }.items():
        assert cli.run([*arguments, "--out", str(tmp_path / name), *options]) == 0
        printed[name] = capsys.readouterr().out
    assert len(set(printed.values())) == 1
    assert printed["a.csv"].startswith((tmp_path / "b.txt").read_text())  # then the scores
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.json").read_bytes()
    clips = json.loads((tmp_path / "a.json").read_bytes())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [row["clip"] for row in rows] == [clip["clip"] for clip in clips]
    for row, clip in zip(rows, clips, strict=True):
        assert {name: float(row[f"p({name})"]) for name in clip["probabilities"]} == clip["probabilities"]
    for kind, name in (("csv", "a.csv"), ("json", "a.json")):
        assert cli.run([*arguments, "--format", kind]) == 0
        said = capsys.readouterr()
        assert said.out == (tmp_path / name).read_text()
        assert "clips of unseen speakers" in said.err
    assert cli.run([*arguments, "--probabilities"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["clip", "predicted", "p(fear)", "p(joy)"]


def test_the_class_is_an_interface(run: Path, shards: Path) -> None:
    predictor = Predictor.load(str(run), device="cpu")
    every = predictor.predict_shards(shards)
    assert [clip.clip for clip in every] == sorted(clip.clip for clip in every)
    assert {tuple(clip.probabilities or {}) for clip in every} == {predictor.classes}
    some = predictor.predict_shards(shards, speakers=[SPEAKERS[2]])
    assert {clip.speaker for clip in some} == {SPEAKERS[2]}
    known = {clip.clip: clip.probabilities for clip in every}
    for clip in some:
        assert clip.probabilities == pytest.approx(known[clip.clip], abs=1e-6)
    assert predictor([]) == []
    with pytest.raises(PredictError, match="absent: no such folder"):
        Predictor.load("absent")
    with pytest.raises(PredictError, match=r"^absent.mp4: not found, expected a recording \(and 1 more"):
        predictor(["absent.mp4", "b.mp4"])
    with pytest.raises(PredictError, match=r"^absent.mp4: not found, expected a recording$"):
        predictor("absent.mp4")


def recordings_of(folder: Path) -> dict[str, Path]:
    """Files of every kind, good and bad."""
    pytest.importorskip("ai_edge_litert", reason="recordings need the builder")
    if not REAL_CLIP.is_file():
        pytest.skip(f"needs the real clip {REAL_CLIP.name}, which is not part of this repository")
    data = REAL_CLIP.read_bytes()
    names = {"good": "take.flv", "same": "other/take.flv", "case": "other/TAKE.flv", "odd": "other/a, 'b' #1.flv"}
    names |= {"text": "other/text.mp4", "comma": "x.mp4,b", "short": "other/short.flv"}
    paths = {name: folder / path for name, path in names.items()}
    (folder / "other").mkdir(parents=True)
    for name in ("good", "same", "odd"):
        paths[name].write_bytes(data)
    paths["case"].write_bytes(data + b"\0")
    paths["text"].write_text("no recording")
    paths["comma"].write_text("no recording")
    paths["short"].write_bytes(data[:3000])
    return paths


@pytest.mark.parametrize("python_path", ["", os.pathsep.join(["", "elsewhere"])])
def test_a_builder_of_the_current_folder_is_not_run(
    run: Path, tmp_path: Path, python_path: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "builder.py").write_text("import pathlib\npathlib.Path('strange').touch()\n")
    (tmp_path / "text.mp4").write_text("no recording")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", python_path)
    predictor = Predictor.load(run)
    with contextlib.suppress(PredictError):  # no recording
        predictor("text.mp4")
    assert not (tmp_path / "strange").exists()
    assert "No module named builder" not in capfd.readouterr().err


def test_one_bad_file_costs_itself(run: Path, tmp_path: Path) -> None:
    """As a program, with every kind of name."""
    paths = recordings_of(tmp_path / "clips")
    (tmp_path / "empty").mkdir()
    names = ["clips/other", "clips/take.flv", "absent.mp4", "empty", "clips/*,b"]
    command = [sys.executable, "-m", "train", "predict", "--run", str(run), "--format", "json", *names]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 1, ended.stderr
    clips = {clip["clip"]: clip for clip in json.loads(ended.stdout)}
    good = [str(paths[name].relative_to(tmp_path)) for name in ("case", "odd", "same", "good")]
    bad = [str(paths[name].relative_to(tmp_path)) for name in ("short", "text", "comma")]
    assert set(clips) == {*good, *bad, "absent.mp4", "empty"}
    assert list(clips)[-4:] == ["clips/take.flv", "absent.mp4", "empty", "clips/x.mp4,b"]
    for name in good:
        assert sum(clips[name]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert clips[name]["reason"] is None
    assert all(clips[name]["predicted"] is None and clips[name]["reason"] for name in (*bad, "absent.mp4", "empty"))
    assert clips["clips/take.flv"]["probabilities"] == clips["clips/other/take.flv"]["probabilities"]


def test_a_prediction_depends_on_the_clip_alone(run: Path, tmp_path: Path) -> None:
    """On no other clip, on no order, and from a thread, too. `rfas` draws an order from the name of each clip."""
    paths = recordings_of(tmp_path / "clips")
    predictor = Predictor.load(run, device="cpu")
    good = [paths[name] for name in ("good", "same", "case", "odd")]
    renamed = Path(shutil.copy(good[0], tmp_path / "renamed.flv"))
    together = {clip.clip: clip.probabilities for clip in predictor(good)}
    *backwards, other, broken = predictor([*good[::-1], renamed, paths["text"]])
    alone: list[ClipPrediction] = []
    thread = threading.Thread(target=lambda: alone.extend(predictor(good[1])))
    thread.start()
    thread.join()
    assert [clip.clip for clip in backwards] == [*map(str, good[::-1])]
    assert [clip.clip for clip in alone] == [str(good[1])]
    for clip in (*backwards, *alone):
        assert clip.probabilities == pytest.approx(together[clip.clip], abs=1e-6)
    assert broken.probabilities is None
    assert broken.reason.startswith("unreadable, ")
    assert other.probabilities != pytest.approx(together[str(good[0])], abs=1e-6)  # another order: the test can fail
