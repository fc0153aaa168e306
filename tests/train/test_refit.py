"""A refit trains again from the start with the validation speakers, for as long as their UAR said, and tests once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.factories.shards import SPEAKERS
from train import cli
from train.models.weights import load_classifier
from train.runs import Run, read_result
from train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_encoder")
CLIPS = 4
"""Of each speaker."""


@pytest.fixture
def train(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Train a fold; the run's folder and its output."""

    def call(*arguments: str, runs: str = "runs", command: str = "train", **options: Any) -> tuple[Path, str, str]:
        named = {"shards": shards, "runs": tmp_path / runs, "encoder": "tiny", "recipe": "tiny", "epochs": 4}
        named |= {"strategy": "cfas", "fold": 1, "set": "validation_steps=0", **options}
        status = cli.run([command, *(f"--{name}={value}" for name, value in named.items()), *arguments])
        said = capsys.readouterr()
        assert status == 0, said.err
        return tmp_path / runs / "folder" / "cfas" / "fold-anna", said.out, said.err

    return call


def run_of(folder: Path) -> Run:
    return read_result(folder).run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_classifier(folder / "model").model.state_dict()


def test_a_refit_sees_the_validation_speakers_for_the_selected_number_of_epochs(train) -> None:
    selected, _, _ = train(runs="selected")
    refit, out, err = train("--refit", runs="refit")
    one, other = run_of(selected), run_of(refit)
    assert (one.epoch, one.training_clips, other.epoch, other.training_clips) == (
        other.epoch,
        CLIPS * 2,
        one.epoch,
        CLIPS * 3,
    )
    assert other.protocol.selection == "UAR of validation speakers, then refit with them"
    assert one.protocol.selection == "UAR of validation speakers"
    assert f"(selection: {other.protocol.selection})" in out
    assert f"epoch {one.epoch} selected; training again from the start, with the validation speakers" in err
    lines = [json.loads(line) for line in (refit / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "train_loss" in line] == [1, 2, 3, 4, *range(1, one.epoch + 1)]
    assert not (refit / "refit").exists() and not (refit / "checkpoints").exists()
    assert load_classifier(refit / "model").lineage.speakers("folder") == {*SPEAKERS} - {"anna"}
    statistics = [load_classifier(folder / "model").details["normalization"] for folder in (selected, refit)]
    assert statistics[0] != statistics[1]  # of the training shards, which are more


def test_fixed_epochs_equal_a_refit_of_all_epochs(train) -> None:
    """Both train on the same clips from the same start."""
    fixed, _, _ = train("--fixed-epochs", runs="fixed", epochs=1)
    refit, _, _ = train("--refit", runs="refit", epochs=1)
    assert run_of(fixed).protocol.selection == "none (last epoch)"
    assert (run_of(fixed).epoch, run_of(fixed).training_clips) == (1, CLIPS * 3)
    ours, theirs = weights(fixed), weights(refit)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (fixed / "predictions.csv").read_bytes() == (refit / "predictions.csv").read_bytes()


@pytest.mark.parametrize("stop", [2, 5, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 3, 4, 6))])
def test_a_refit_resumes_wherever_it_was_stopped(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole, _, _ = train("--refit", runs="whole")
    saved, calls = Trainer.save, iter(range(1, 100))

    def save(trainer: Trainer) -> None:
        saved(trainer)
        if next(calls) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save)
        command = ["train", "--strategy=cfas", "--fold=1", "--encoder=tiny", "--recipe=tiny", "--epochs=4", "--refit"]
        shards = json.loads((whole / "config.json").read_bytes())["config"]["shards"]
        named = [f"--shards={shards}", f"--runs={tmp_path / 'parts'}", "--set=validation_steps=0"]
        stopped = cli.run([*command, *named])
    parts, _, _ = train("--refit", runs="parts")
    assert stopped == (130 if stop <= 4 + run_of(whole).epoch else 0)
    assert (parts / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_a_sweep_refits_unless_told_otherwise(train) -> None:
    folder, _, _ = train(command="sweep", runs="one", epochs=1)
    assert "refit" in run_of(folder).protocol.selection
    folder, _, _ = train("--refit=0", command="sweep", runs="other", epochs=1)
    assert run_of(folder).protocol.selection == "UAR of validation speakers"


def test_seeds_are_runs_of_their_own(train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = train("--seeds=2", "--strategy=cfas", command="sweep", epochs=1)
    folders = sorted(path.name for path in (tmp_path / "runs" / "folder" / "cfas").iterdir())
    assert folders == ["fold-anna", "fold-anna-seed-1"]
    assert "1 of 4 folds, 2 seeds (UAR ± " in out
    assert cli.run(["report", f"--runs={tmp_path / 'runs'}"]) == 0
    capsys.readouterr()
    text = (tmp_path / "runs" / "report" / "report.md").read_text()
    assert "UAR over seeds" in text
    shutil.move(tmp_path / "runs/folder/cfas/fold-anna-seed-1", tmp_path / "runs/folder/cfas/fold-anna-seed-2")
    assert cli.run(["report", f"--runs={tmp_path / 'runs'}"]) == 2
    assert "found the run of" in capsys.readouterr().err
