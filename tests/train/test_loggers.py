"""TensorBoard and Weights & Biases get the numbers of the log, change no result, and are continued by a resumed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.factories.shards import SPEAKERS
from tests.factories.small_trainings import make_trainer
from train import cli, loggers
from train.loggers import LOGGERS, LoggerError, check_loggers, drop_partial_record
from train.metric_logger import MetricLogger
from train.trainer import Stopped

ROOT = Path(__file__).parents[2]
#: Trains a tiny encoder; its arguments are those of the command line.
PROGRAM = """
import sys, torch
from tests.factories.small_trainings import SMALL
from train import cli
from train.models.videomae import ENCODERS
torch.set_num_threads(1)
ENCODERS["tiny"] = SMALL
sys.exit(cli.run(sys.argv[1:]))
"""

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard, an extra")
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb, an extra")


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(each.step, each.value) for each in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def train(shards: Path, runs: Path, *options: str, **environment: str) -> Path:
    """A run of the command line in a process of its own; its folder."""
    command = ["train", "--shards", str(shards), "--runs", str(runs), "--encoder", "tiny", "--recipe", "tiny"]
    settings = ["--fold", SPEAKERS[0], "--batch", "2", "--device", "cpu", "--set", "validation_steps=0"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command, *settings, *options],
        cwd=runs.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return runs / "folder" / "cfas" / f"fold-{SPEAKERS[0]}"


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def results(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in ("predictions.csv", "missing.csv", "model/model.safetensors")]


@needs_tensorboard
def test_tensorboard_shows_the_log(tmp_path: Path) -> None:
    logger = MetricLogger(tmp_path, lambda line: None, ["tensorboard"])
    logger.write({"epoch": 1, "train_loss": 0.5}, 10)
    logger.write({"epoch": 2, "train_loss": 0.25}, 20)
    logger.close()
    assert events(tmp_path / "tensorboard") == {"epoch": [(10, 1), (20, 2)], "train_loss": [(10, 0.5), (20, 0.25)]}


@needs_tensorboard
@pytest.mark.parametrize("torn", [0, 1, 11, 20])
def test_a_resumed_training_goes_on_in_the_same_file(tmp_path: Path, torn: int) -> None:
    """Steps after the checkpoint are taken again; what a kill left of a record is dropped."""
    for steps in ((1, 2, 3), (3, 4)):
        logger = MetricLogger(tmp_path, lambda line: None, ["tensorboard"])
        for step in steps:
            logger.write({"loss": step + len(steps) / 8}, step)
        logger.close()
        (file,) = (tmp_path / "tensorboard").iterdir()
        with file.open("ab") as end:
            end.write(file.read_bytes()[:torn])
    assert events(tmp_path / "tensorboard") == {"loss": [(1, 1.375), (2, 2.375), (3, 3.25), (4, 4.25)]}


@pytest.mark.parametrize("size", [0, 5, 12, 23])
def test_records_that_are_complete_are_kept(tmp_path: Path, size: int) -> None:
    record = (8).to_bytes(8, "little") + b"1234" + b"contents" + b"5678"
    file = tmp_path / "events"
    file.write_bytes(record * 2 + record[:size])
    drop_partial_record(file)
    assert file.read_bytes() == record * 2
    drop_partial_record(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


@needs_tensorboard
def test_an_interrupted_training_is_one_curve(tmp_path: Path) -> None:
    """The curve of an undisturbed training, though the epoch that was stopped was logged twice."""
    curves = []
    for name, stops in (("stopped", (6, None)), ("whole", (None,))):
        for stop in stops:
            trainer = make_trainer(tmp_path / name, stop_after=stop, save_steps=1, drop_path=0.0)
            trainer.logger = MetricLogger(tmp_path / name, lambda line: None, ["tensorboard"])
            try:
                trainer.fit()
            except Stopped:
                assert stop
            trainer.logger.close()
        curves.append(events(tmp_path / name / "tensorboard")["validation_loss"])
        assert len([*(tmp_path / name / "tensorboard").iterdir()]) == 1
    assert curves[0] == curves[1]
    assert len(curves[0]) == 3


@needs_tensorboard
@needs_wandb
def test_loggers_change_no_result(shards: Path, tmp_path: Path) -> None:
    """The real packages, with a refit, whose curves are apart; W&B writes to the run's folder."""
    options, offline = ("--epochs", "6", "--refit"), {"WANDB_MODE": "offline", "HOME": str(tmp_path)}
    without = train(shards, tmp_path / "without", *options)
    run = train(shards, tmp_path / "with", *options, "--logger", "tensorboard", "wandb", **offline)
    assert results(run) == results(without)
    assert {path.name for path in without.iterdir()}.isdisjoint({"tensorboard", "wandb"})
    log = log_of(run)
    losses = [line["train_loss"] for line in log if "epoch" in line]
    shown = [*events(run / "tensorboard")["train_loss"], *events(run / "tensorboard" / "refit")["train_loss"]]
    assert [value for _, value in shown] == pytest.approx(losses)
    recorded = [*(run / "wandb").glob("offline-run-*/run-*.wandb")]
    assert len(recorded) == 2  # the training and its refit
    (run_id,) = {path.stem.removeprefix("run-") for path in recorded}
    assert (run / "wandb" / "run-id.txt").read_text().strip() == run_id
    assert any(b"refit/train_loss" in path.read_bytes() for path in recorded)


class FakeWandb:
    """As much of the package as is used, to see what it is given."""

    class Error(Exception):
        """A run that cannot be started."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def Settings(self, **settings: Any) -> dict[str, Any]:  # noqa: N802 - the package's name
        return settings

    def init(self, **options: Any) -> FakeWandb:
        if self.problem:
            raise self.Error(self.problem)
        self.started.append(options)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.started[-1] |= {"axis": (name, step_metric)}

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_wandb_continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = tmp_path / "demo" / "cfas" / "fold-1"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"config": {"seed": 3}}')
    for part in ("", "", "refit"):
        logger = MetricLogger(run, lambda line: None, ["wandb"], part)
        logger.write({"train_loss": 0.5}, 7)
        logger.close()
    assert len({options["id"] for options in fake.started}) == 1
    assert {options["resume"] for options in fake.started} == {"allow"}
    assert {options["name"] for options in fake.started} == {"demo/cfas/fold-1"}
    assert fake.started[0]["config"] == {"config": {"seed": 3}}
    assert fake.logged[1:] == [
        {"optimizer_step": 7, "train_loss": 0.5},
        {"refit/optimizer_step": 7, "refit/train_loss": 0.5},
    ]
    assert [options["axis"] for options in fake.started[1:]] == [
        ("*", "optimizer_step"),
        ("refit/*", "refit/optimizer_step"),
    ]
    assert fake.finished == 3


def test_wandb_that_cannot_be_started_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("No API key configured.\nUse wandb login"))
    with pytest.raises(LoggerError, match=r"^logger wandb: cannot be started \(No API key configured.\); run wandb"):
        MetricLogger(tmp_path, lambda line: None, ["wandb"])


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_that_cannot_be_imported_ends_the_command_at_once(
    shards: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(module: str) -> None:
        raise TypeError("Descriptors cannot be created directly.\nIf this call came from a _pb2.py file, ...")

    monkeypatch.setattr(loggers, "import_module", refuse)
    options = ["--shards", str(shards), "--runs", str(tmp_path / "runs"), "--encoder", "tiny", "--recipe", "tiny"]
    assert cli.run(["train", *options, "--logger", name]) == 2
    error = capsys.readouterr().err
    assert f"logger {name}: cannot be imported (TypeError: Descriptors cannot be created directly. If" in error
    assert error.endswith(f"pip install --constraint constraints.txt '.[{name}]'\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B itself leaves a folder `wandb` where it is used."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(LoggerError, match="logger wandb: cannot be imported"):
        check_loggers(["wandb"])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def test_unknown_loggers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(["train", "--logger", "excel"])
    assert ended.value.code == 2
    assert "invalid choice: 'excel'" in capsys.readouterr().err
    with pytest.raises(LoggerError, match="unknown logger 'excel'; valid are tensorboard, wandb"):
        check_loggers(["excel"])


def test_nothing_is_logged_elsewhere_unless_asked(tmp_path: Path) -> None:
    logger = MetricLogger(tmp_path, lambda line: None)
    logger.write({"epoch": 1}, 1)
    logger.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
