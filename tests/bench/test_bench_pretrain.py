"""The pre-training bench: the operations of a clip, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import figures
from tests.bench.bench_pretrain import main
from tests.factories.shards import make_folder
from train import cost
from train.models.mae import decoder_for
from train.models.videomae import ENCODERS


@pytest.mark.parametrize(("depth", "decoded", "teraflop"), [(12, 1408, 0.84), (12, 704, 0.55), (4, 704, 0.39)])
def test_operations_of_a_clip_are_those_of_vit_large(depth: int, decoded: int, teraflop: float) -> None:
    large = ENCODERS["large"]
    step = cost.TRAINING_PASSES * cost.pretraining_flop(large, decoder_for(large, depth), 160, decoded)
    assert round(step / 1e12, 2) == teraflop


@pytest.mark.slow
def test_it_measures_both_models_and_where_the_time_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="the reference is in transformers")
    shards = make_folder(tmp_path / "shards" / "folder")
    quick = ["--device=cpu", "--batch=2", "--rounds=1", "--seconds=0.01", "--strategy=cfas"]
    assert main([*quick, f"--shards={shards}", f"--json={tmp_path / 'bench.json'}"]) == 0
    found = {figure.name: figure.value for figure in figures.load(tmp_path / "bench.json")}
    assert all(value >= 0 for value in found.values())
    ratio = found["pre-train, ours"] / found["pre-train, transformers"]
    assert found["pre-train, ours / transformers"] == pytest.approx(ratio)
    shares = [value for name, value in found.items() if name.startswith("pre-train, share of")]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1)
    assert found["pre-train, cores that keep up"] * found["pre-train, loader"] == pytest.approx(
        found["pre-train, ours"]
    )
    assert "TFLOP a clip" in capsys.readouterr().out


@pytest.mark.slow
def test_models_that_decode_different_shares_are_not_compared(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the reference is in transformers")
    quick = ["--device=cpu", "--batch=2", "--rounds=1", "--seconds=0.01", "--recipe=pretrain-videomae-v2"]
    assert main([*quick, f"--json={tmp_path / 'bench.json'}"]) == 0
    found = {figure.name for figure in figures.load(tmp_path / "bench.json")}
    assert {"pre-train, ours", "pre-train, transformers"} < found
    assert "pre-train, ours / transformers" not in found
