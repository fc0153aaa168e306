"""Prediction with a trained classifier, on shards and on recordings, and its export."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from manifests.schema import NAME
from tests.factories.shards import SPEAKERS, make_folder
from tests.factories.small_trainings import SMALL
from train import cli, predict
from train.models.videomae import ENCODERS
from train.models.weights import load_classifier, save_classifier

REAL_CLIP = Path(__file__).parents[3] / "shared/clips/crema-d/VideoFlash/1001_DFA_ANG_XX.flv"


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, tested on the first speaker."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("predict") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", SMALL)
        options = (
            "--shards",
            str(shards),
            "--runs",
            str(runs),
            "--encoder",
            "tiny",
            "--recipe",
            "tiny",
            "--epochs",
            "1",
        )
        assert cli.run(["train", *options, "--fold", SPEAKERS[0]]) == 0
    return runs / "folder" / "cfas" / f"fold-{SPEAKERS[0]}"


def table(data: str | Path) -> dict[str, dict[str, str]]:
    text = data.read_text("utf-8") if isinstance(data, Path) else data
    return {row["clip"]: row for row in csv.DictReader(io.StringIO(text))}


def test_the_test_fold_is_predicted_as_it_was_when_the_run_was_judged(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the last bits: batches are cut in another way."""
    assert cli.run(["predict", "--run", str(run), "--shards", str(shards), "--out", str(tmp_path / "out.csv")]) == 0
    output, judged = table(tmp_path / "out.csv"), table(run / "predictions.csv")
    assert judged.keys() < output.keys()
    for clip, row in judged.items():
        assert {name: output[clip][name] for name in ("speaker", "label", "predicted")} == {
            name: row[name] for name in ("speaker", "label", "predicted")
        }
        for name in (name for name in row if name.startswith("p(")):
            assert float(output[clip][name]) == pytest.approx(float(row[name]), abs=1e-6)
    out = capsys.readouterr().out
    unseen = len(judged)
    assert f"{unseen} clips of unseen speakers ({SPEAKERS[0]})" in out
    assert f"not scored: {len(output) - unseen} clips of speakers" in out


def test_labels_that_are_no_classes_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a corpus of one's own, and of another one, whose equal words may mean something else."""
    options = {"speakers": ("xena", "yara", "zoe"), "emotions": ("calm", "joy")}
    for dataset in ("folder", "interviews"):
        shards = make_folder(tmp_path / dataset, dataset=dataset, **options)
        assert cli.run(["predict", "--run", str(run), "--shards", str(shards)]) == 0
        captured = capsys.readouterr()
        assert f"{shards}: clips labelled calm are not scored: not among the classes (fear, joy)\n" in captured.err
        assert "6 clips of unseen speakers (xena, yara, zoe)" in captured.out
    shards = make_folder(tmp_path / "ravdess", dataset="ravdess", **options)
    assert cli.run(["predict", "--run", str(run), "--shards", str(shards)]) == 0
    captured = capsys.readouterr()
    words = "because its labels (calm, joy) are those of ravdess, and the classes (fear, joy) those of folder"
    assert f"{shards}: not scored, {words}\n" in captured.err
    assert "UAR" not in captured.out


def test_speakers_can_be_chosen(run: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "--run", str(run), "--shards", str(shards), "--speaker"]
    assert cli.run([*arguments, SPEAKERS[1]]) == 0
    assert "UAR" not in capsys.readouterr().out  # it was seen in training
    assert cli.run([*arguments, "nobody"]) == 2
    assert "found no speaker nobody; available speakers: " in capsys.readouterr().err


def test_shards_that_look_different_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(run / "model", tmp_path / "model")
    settings = json.loads((other / "config.json").read_bytes())
    settings["details"]["build"]["align"] = "none"
    (other / "config.json").write_text(json.dumps(settings), "utf-8")
    shards = make_folder(tmp_path / "shards")
    assert cli.run(["predict", "--run", str(other), "--shards", str(shards)]) == 2
    error = capsys.readouterr().err
    assert "align: none -> " in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("trained", "given", "difference"),
    [
        ("marlin", "aligned", "crop: marlin -> aligned"),
        (None, "aligned", "crop: eyes (of an older version) -> aligned"),
        ("aligned", None, "crop: aligned -> eyes (of an older version)"),
        (None, None, ""),
        ("openface", "openface", ""),
    ],
)
def test_a_classifier_knows_how_its_faces_were_cropped(
    run: Path, trained: str | None, given: str | None, difference: str
) -> None:
    """Builds before crops had names were aligned in yet another way than `aligned`."""

    def cropped(build: Mapping[str, object], crop: str | None) -> dict[str, object]:
        return {name: value for name, value in build.items() if name != "crop"} | ({"crop": crop} if crop else {})

    provenance = predict.load_predictor(run).provenance
    known = replace(provenance, build=cropped(provenance.build, trained))
    assert known.diff_build(cropped(provenance.build, given)) == ([difference] if difference else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected either recordings (make: CLIP=) or --shards"),
        (["absent.mp4"], "absent.mp4: not found, expected a recording"),
        (["x.mp4", "--shards", "y"], "expected either recordings (make: CLIP=) or --shards"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", "--run", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_export_as_onnx_computes_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, arguments = tmp_path / "export", ["export", "--run", str(run), "--format", "onnx", "--out"]
    assert cli.run([*arguments, str(out)]) == 0
    assert cli.run([*arguments, str(out)]) == 0  # again
    capsys.readouterr()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    trained = load_classifier(run / "model")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(trained.classes)
    assert (metadata["input_range"], metadata["strategy"], metadata["feature"]) == ("imagenet", "cfas", "mfcc")
    for clips in (1, 3):
        shape = (clips, 3, *trained.model.encoder.config.input)
        video = torch.randn(shape, generator=torch.Generator().manual_seed(clips))
        (logits,) = session.run(["logits"], {"video": video.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), trained.model(video), rtol=1e-5, atol=1e-5)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.run([*arguments, str(tmp_path / "other")]) == 2
    assert "onnxscript is not installed; pip install" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "found"), [("out.xlsx", "found .xlsx"), ("out", "found no suffix")])
def test_a_file_of_a_format_that_is_not_written_is_refused(
    run: Path, shards: Path, tmp_path: Path, name: str, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", "--run", str(run), "--shards", str(shards), "--out", str(tmp_path / name)]
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    expected = "expected a name that ends with .csv, .json, .txt; or choose FORMAT= (--format) of table, csv, json"
    assert (said.out, said.err) == ("", f"error: {tmp_path / name}: {found}, {expected}\n")
    assert cli.run([*arguments, "--format", "csv"]) == 0
    assert table(tmp_path / name)


def test_an_export_predicts_and_says_what_it_is(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "export"
    assert cli.run(["export", "--run", str(run), "--out", str(out)]) == 0
    assert cli.run(["export", "--run", str(run), "--out", str(out)]) == 0  # again
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (out / "README.md").read_text("utf-8")
    assert all(text in card for text in ("UAR", SPEAKERS[0], "CC0 1.0", "Nobody, 2026", "cfas"))
    output = []
    for folder in (run, out):
        assert (
            cli.run(["predict", "--run", str(folder), "--shards", str(shards), "--out", str(tmp_path / "a.csv")]) == 0
        )
        output.append((tmp_path / "a.csv").read_bytes())
    assert output[0] == output[1]
    capsys.readouterr()


def test_a_folder_of_something_else_is_not_exported_into(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert cli.run(["export", "--run", str(run), "--out", str(tmp_path)]) == 2
    assert "found thesis.tex, expected an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unfinished_run_is_not_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = shutil.copytree(run, tmp_path / "run")
    (unfinished / "result.json").unlink()
    assert cli.run(["export", "--run", str(unfinished), "--out", str(tmp_path / "export")]) == 2
    assert "found no finished run (result.json); repeat the command that trains it" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_a_run_that_is_not_finished_and_a_folder_of_runs_say_so(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "folder" / "cfas" / "fold-1")
    stopped = Path(shutil.copytree(run, tmp_path / "runs" / "folder" / "cfas" / "fold-2"))
    shutil.rmtree(stopped / "model")
    (stopped / "result.json").unlink()
    expected = {
        stopped: "found a run that is not finished, expected a classifier; run the same training again",
        stopped.parent: "found a folder that holds runs: fold-1, fold-2; choose one",
        tmp_path / "runs": "found a folder that holds runs: folder/cfas/fold-1, folder/cfas/fold-2; choose one",
    }
    for folder, message in expected.items():
        for command in (["predict", "--shards", str(shards)], ["export", "--out", str(tmp_path / "out")]):
            assert cli.run([*command, "--run", str(folder)]) == 2
            assert capsys.readouterr().err == f"error: {folder}: {message}\n"


def test_recordings_go_through_the_builder(run: Path, tmp_path: Path) -> None:
    """As a program: a real clip, also under an odd name and without sound, and one that is no recording."""
    pytest.importorskip("ai_edge_litert", reason="recordings need the builder")
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="recordings need the builder")
    if not REAL_CLIP.is_file():
        pytest.skip(f"needs the real clip {REAL_CLIP.name}, which is not part of this repository")
    odd = tmp_path / "an odd, näme #1.flv"
    shutil.copy(REAL_CLIP, odd)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no recording")
    mute = tmp_path / "mute.flv"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(REAL_CLIP), "-an", "-c", "copy", str(mute)]
    subprocess.run(ffmpeg, check=True)
    recordings = [str(odd), str(broken), str(REAL_CLIP), str(mute)]
    command = [sys.executable, "-m", "train", "predict", "--run", str(run), *recordings]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1, ended.stderr
    assert lines.pop(0).split() == ["clip", "predicted", "probability"]
    assert lines.pop() == "3 classified, 1 not built"
    assert [line.partition("  ")[0].rstrip() for line in lines] == recordings
    assert lines[3].endswith("  without sound") and "without" not in lines[2]
    assert "not built: unreadable" in lines[1]
    assert lines[0].split()[-2:] == lines[2].split()[-2:]  # class and probability


def changed(run: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the run whose model's config.json was changed."""
    copy = Path(shutil.copytree(run, folder / "run"))
    path = copy / "model" / "config.json"
    settings = json.loads(path.read_bytes())
    change(settings)
    path.write_text(json.dumps(settings), "utf-8")
    return copy


def test_an_export_that_was_killed_can_be_run_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    out.mkdir()
    (out / ".model.safetensors.0123abcd.part").write_bytes(b"half")
    (out / ".README.md.89abcdef.part").write_bytes(b"")
    assert cli.run(["export", "--run", str(run), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_partial_files_of_others_are_left(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".thesis.tex.0123abcd.part").write_text("mine")
    assert cli.run(["export", "--run", str(run), "--out", str(tmp_path)]) == 2
    assert "expected an empty folder" in capsys.readouterr().err
    assert (tmp_path / ".thesis.tex.0123abcd.part").read_text() == "mine"


def test_the_next_prediction_removes_what_a_killed_one_left(run: Path, shards: Path, tmp_path: Path) -> None:
    for name in (".out.csv.0123abcd.part", ".other.csv.0123abcd.part"):
        (tmp_path / name).touch()
    assert cli.run(["predict", "--run", str(run), "--shards", str(shards), "--out", str(tmp_path / "out.csv")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.csv.0123abcd.part", "out.csv"]


def test_no_class_has_a_probability_that_is_not_a_number(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are finite and too large for the sums that they take part in."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    classifier = load_classifier(copy / "model")
    with torch.no_grad():
        classifier.model.head.weight.fill_(3e38)
    options = {
        "classes": classifier.classes,
        "licence": classifier.licence,
        "lineage": classifier.lineage,
        "details": classifier.details,
    }
    save_classifier(classifier.model, copy / "model", **options)
    arguments = ["predict", "--run", str(copy), "--shards", str(shards), "--out", str(tmp_path / "out.csv")]
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    assert "nan" not in said.out
    assert "found no finite probability, expected one for each class" in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("about", [{}, {"title": 3, "licence": None, "citation": ["x"]}, {"title": " "}], ids=str)
def test_a_corpus_that_states_nothing_is_exported(run: Path, tmp_path: Path, about: dict[str, object]) -> None:
    copy = changed(run, tmp_path, lambda settings: settings["details"].update(about=about))
    assert cli.run(["export", "--run", str(copy), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Recordings: not stated." in card
    assert "No citation is stated." in card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings["details"]["mapping"].update(joy="other"), "details.mapping: found {'other'}"),
        (lambda settings: settings.update(classes=["a", "b"]), "details.run.protocol.classes: found"),
        (lambda settings: settings["details"].update(build={}), "details.build.features: found False"),
        (lambda settings: settings["details"]["build"].update(features=["--out=/"]), "details.build.features: found"),
        (lambda settings: settings["details"]["normalization"].update(std=[1.0]), "details.normalization.std: found 1"),
        (lambda settings: settings["details"]["normalization"].update(std=[0.0] * 13), "details.normalization.std"),
        (lambda settings: settings["details"]["normalization"].update(mean=[10**400] * 13), "mean[0]: found 1000"),
        (lambda settings: settings["details"].update(mapping=[]), "details.mapping: found []"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_disagree_are_one_line(
    run: Path,
    shards: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = changed(run, tmp_path, change)
    for command in (["predict", "--shards", str(shards)], ["export", "--out", str(tmp_path / "out")]):
        assert cli.run([*command, "--run", str(copy)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_cell_is_no_formula(tmp_path: Path) -> None:
    classes = ("=1+1", "calm")
    predictor = SimpleNamespace(classes=classes)
    clips = ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a\r\n=1\udcff")
    predictions = [
        predict.ClipPrediction(
            clip=clip,
            speaker="@me",
            label=None,
            probabilities=dict(zip(classes, (0.75, 0.25), strict=True)),
            reason="-r",
        )
        for clip in clips
    ]
    predict.write_predictions(tmp_path / "out.csv", predictor, predictions)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == [*(f"'{clip}" for clip in clips[:4]), r"'\t=1", r"'\r=1", r"a\r\n=1\udcff"]
    assert all(row[1:4] == ["'@me", "", "'=1+1"] and row[4:] == ["0.75", "0.25", "", "'-r"] for row in rows[1:])


def test_a_clip_has_the_same_id_wherever_it_stands(tmp_path: Path) -> None:
    """`rfas` draws its order from the id."""
    for folder, data in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.mp4").write_bytes(data)
    (tmp_path / "mit Leerzeichen.mp4").write_bytes(b"3")
    (tmp_path / "1001_DFA_ANG_XX.flv").write_bytes(b"4")
    files = sorted(tmp_path.rglob("*.*"))
    named = predict.name_clips(files)
    assert predict.name_clips(files[::-1]) == named
    assert named[tmp_path / "1001_DFA_ANG_XX.flv"] == "1001_DFA_ANG_XX"
    assert (
        named[tmp_path / "a" / "same.mp4"] == named[tmp_path / "c" / "same.mp4"] != named[tmp_path / "b" / "same.mp4"]
    )
    assert all(NAME.fullmatch(clip) for clip in named.values())
