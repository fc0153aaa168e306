"""Prediction with a trained classifier, on shards and on recordings, and its export."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.factories.shards import SPEAKERS, make_folder
from train import cli
from train.models.videomae import ENCODERS, EncoderConfig

SMALL = EncoderConfig(width=16, depth=1, heads=2, mlp=32, patch=(2, 28, 28), input=(16, 56, 56))
REAL_CLIP = Path(__file__).parents[3] / "shared/clips/crema-d/VideoFlash/1001_DFA_ANG_XX.flv"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("predict") / "shards" / "folder")


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


def test_speakers_can_be_chosen(run: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "--run", str(run), "--shards", str(shards), "--speaker"]
    assert cli.run([*arguments, SPEAKERS[1]]) == 0
    assert "UAR" not in capsys.readouterr().out  # it was seen in training
    assert cli.run([*arguments, "nobody"]) == 2
    assert "found no speaker nobody; there are " in capsys.readouterr().err


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
    ("arguments", "message"),
    [
        ([], "expected recordings, or --shards"),
        (["absent.mp4"], "absent.mp4: not found, expected a recording"),
        (["x.mp4", "--shards", "y"], "expected recordings, or --shards"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", "--run", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


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
        assert cli.run(["predict", "--run", str(folder), "--shards", str(shards), "--out", str(tmp_path / "a")]) == 0
        output.append((tmp_path / "a").read_bytes())
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


def test_recordings_go_through_the_builder(run: Path, tmp_path: Path) -> None:
    """As a program: a real clip under an odd name, twice, and one that is no recording."""
    pytest.importorskip("mediapipe", reason="recordings need the builder")
    if not REAL_CLIP.is_file():
        pytest.skip(f"needs the real clip {REAL_CLIP.name}, which is not part of this repository")
    odd = tmp_path / "an odd, näme #1.flv"
    shutil.copy(REAL_CLIP, odd)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no recording")
    command = [sys.executable, "-m", "train", "predict", "--run", str(run), str(odd), str(broken), str(REAL_CLIP)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1, ended.stderr
    assert [line.partition("  ")[0] for line in lines] == [str(odd), str(broken), str(REAL_CLIP)]
    assert "not built: unreadable" in lines[1]
    assert lines[0].split()[-2:] == lines[2].split()[-2:]  # class and probability
