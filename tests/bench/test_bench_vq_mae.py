"""The bench of VQ-MAE-AV: operations of a clip, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench import bench_vq_mae
from tests.bench.bench_vq_mae import main
from tests.factories.tokens import make_token_folder
from train import cost
from train.models.vq_mae_av import MODELS


def test_operations_of_a_clip_are_those_of_the_paper_s_model() -> None:
    """4.2 to 6.9 GMAC, without the codes' last layer, whatever the coupled masks hide."""
    model = MODELS["vq-mae-av"]
    least, most = (
        cost.token_flop(model, {"audio": audio, "visual": visual}, decodes=True) / 2e9
        for audio, visual in ((159, 1), (1, 359))
    )
    assert 4.2 < least < 4.3 and 6.9 < most < 7.1


def test_the_plain_version_computes_the_same() -> None:
    torch.manual_seed(0)
    steps = bench_vq_mae._pretraining(MODELS["tiny"], torch.device("cpu"), 2)
    first, second = (step() for step in steps)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-3)


def test_it_measures_both_stages_and_the_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = make_token_folder(tmp_path / "folder")
    words = ["--device=cpu", "--batch=2", "--rounds=1", "--encoder=tiny", f"--shards={shards}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for stage in ("pre-training", "fine-tuning"):
        assert len([line for line in out.splitlines() if line.startswith(stage)]) == 2
    assert "loader: " in out and "clips/s a core" in out
