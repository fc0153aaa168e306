"""The table of a run's files in its page names every column and key that is written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import safetensors.torch

from tests.factories.shards import SPEAKERS
from tests.factories.small_trainings import SMALL
from train import cli
from train.models.videomae import ENCODERS
from train.run_setup import FEATURES
from train.trainer import LOG_STEPS

PAGE = (Path(__file__).parents[2] / "train" / "docs" / "runs.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `(\S+?)/?` \| (.*) \|$", PAGE, re.MULTILINE))


def documented(file: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", ROWS[file]))


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is long enough for every kind of line of the log."""
    runs = tmp_path_factory.mktemp("files") / "runs"
    return train(shards, runs, "--encoder", "tiny", "--recipe", "tiny", "--epochs", str(LOG_STEPS), "--batch", "2")


def train(shards: Path, runs: Path, *options: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", SMALL)
        assert cli.run(["train", "--shards", str(shards), "--runs", str(runs), "--fold", SPEAKERS[0], *options]) == 0
    return runs / "folder" / "cfas" / f"fold-{SPEAKERS[0]}"


def test_every_file_is_in_the_table(run: Path) -> None:
    written = {path.name for path in run.iterdir()} - {".lock"}
    assert written == {"predictions.csv", "missing.csv", "log.jsonl", "config.json", "result.json", "model"}
    assert written <= ROWS.keys()
    assert {path.name for path in (run / "model").iterdir()} <= documented("model")


@pytest.mark.parametrize("file", ["predictions.csv", "missing.csv"])
def test_every_column_is_in_the_table(run: Path, file: str) -> None:
    with (run / file).open(encoding="utf-8", newline="") as table:
        header = next(csv.reader(table))
    assert len(header) >= 4
    assert {"p(<class>)" if name.startswith("p(") else name for name in header} <= documented(file)


def test_every_key_is_in_the_table(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = set().union(*lines)
    assert {"rank_loss", "validation_uar"} <= found
    assert found == documented("log.jsonl")
    config = json.loads((run / "config.json").read_bytes())
    assert config.keys() == documented("config.json")
    result = json.loads((run / "result.json").read_bytes())
    assert {*result, *result["run"]} == documented("result.json")


def test_the_cache_is_in_the_table(run: Path, shards: Path, tmp_path: Path) -> None:
    options = ["--weights", str(run), "--recipe", "linear-probe", "--epochs", "1"]
    train(shards, tmp_path / "runs", *options)
    files = sorted((tmp_path / "runs" / FEATURES).glob("*.safetensors"))
    assert len(files) == len(SPEAKERS) - 1  # of training and validation
    assert f"RUNS/{FEATURES}" in ROWS
    for file in files:
        (tensor,) = safetensors.torch.load_file(file).items()
        assert tensor[0] in documented(f"RUNS/{FEATURES}")
