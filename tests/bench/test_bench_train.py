"""The training bench: what it measures on a CPU, what it prints, and when it gives up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.bench import bench_train
from tests.bench.bench_train import Figure, Way, main, summary
from train import cost
from train.models.videomae import ENCODERS
from train.trainer import Trainer

QUICK = ("--device", "cpu", "--encoder", "tiny", "--batch", "2", "--compile", "off", "--seconds", "0.01")

INPUT_LINES = [f"input of 2 clips, {name} augmentation" for name in ("no", *filter(None, bench_train.AUGMENTED))]


def _figure(work: str, model: str, rate: float | None) -> Figure:
    way = Way(work=work, model=model, compiled=False, batch=2)
    return Figure(way=way, clips_per_second=rate, mfu=rate and rate / 1000, memory_gb=None)


@pytest.mark.slow
def test_both_kinds_of_work_are_measured_beside_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="the reference encoder is in transformers")
    assert main([*QUICK, "--json", str(tmp_path / "bench.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    ways = [("fine-tune", "ours"), ("fine-tune", "transformers"), ("features", "ours"), ("features", "transformers")]
    assert [tuple(line.split()[:2]) for line in lines[2:6]] == ways
    assert [line.split(":")[0] for line in lines[6:8]] == ["best fine-tune", "best features"]
    assert [line.split(":")[0] for line in lines[8:]] == INPUT_LINES
    record = json.loads((tmp_path / "bench.json").read_bytes())
    for figure, line in zip(record["figures"], lines[2:6], strict=True):
        passes = {"fine-tune": 3, "features": 1}[figure["way"]["work"]]
        work = passes * cost.forward_flop(ENCODERS["tiny"])
        assert figure["mfu"] == pytest.approx(figure["clips_per_second"] * work / record["rate"])
        assert f"{figure['clips_per_second']:.1f}" == line.split()[4]


@pytest.mark.slow
def test_reference_and_ours_are_of_one_size() -> None:
    """transformers keeps a bias for keys, too; all else is the same."""
    pytest.importorskip("transformers", reason="the reference encoder is in transformers")
    config = ENCODERS["tiny"]
    recipe = bench_train.RECIPES["finetune"]
    ours, theirs = (
        sum(parameter.numel() for parameter in bench_train.make_model(name, config, recipe).parameters())
        for name in bench_train.MODELS
    )
    assert theirs - ours in (0, config.depth * config.width)


def test_a_batch_that_does_not_fit_is_a_line_and_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(Trainer, "train_step", full)
    assert main([*QUICK, "--models", "ours"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("out of memory")
    assert [line.split(":")[0] for line in lines[4:]] == ["best features", *INPUT_LINES]


def test_the_summary_takes_the_best_of_each() -> None:
    figures = [
        _figure("fine-tune", "ours", 10.0),
        _figure("fine-tune", "ours", 12.0),
        _figure("fine-tune", "transformers", 8.0),
        _figure("features", "ours", None),
    ]
    assert summary(figures) == "best fine-tune: 12.0 clips/s, 1.50 x transformers (aim for ViT-L on one H200: 110)\n"


def test_a_device_that_is_not_there_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "quantum"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
