"""Shards without labels can be read and embedded, not trained on; of mixed ones only labelled clips are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.factories.shards import make_folder
from train import ShardDataset, cli
from train.data.fold_data import open_fold

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("none") / "shards", emotions=[None])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("mixed") / "shards", emotions=["fear", None, "joy"])


def test_items_without_a_label_have_a_number_that_is_no_class(unlabelled: Path) -> None:
    dataset = ShardDataset(unlabelled, fold=1)
    assert (len(dataset), dataset.classes, set(dataset.labels.tolist())) == (4, (), {-1})
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["label"].tolist() == [-1] * 4
    loss = torch.nn.CrossEntropyLoss(ignore_index=-1, reduction="sum")
    assert loss(torch.zeros(4, 3), batch["label"]) == 0


def test_of_mixed_shards_labelled_clips_are_read_or_all(mixed: Path) -> None:
    dataset = ShardDataset(mixed, fold=1)
    assert (len(dataset), dataset.classes, set(dataset.labels.tolist())) == (8, ("fear", "joy"), {0, 1})
    assert not any("None" in key for key in dataset.keys)
    every = ShardDataset(mixed, fold=1, label_scheme="none")
    assert (len(every), every.classes, set(every.labels.tolist())) == (12, (), {-1})


def test_a_training_uses_the_labelled_clips(mixed: Path) -> None:
    data = open_fold(mixed, "anna", strategy="cfas")
    assert data.label_scheme.classes == ("fear", "joy")
    assert dict(data.training.left_out) == {"": 4}
    assert len(data.training) == 8


@pytest.mark.parametrize("scheme", [None, "none", "ravdess-7"])
@pytest.mark.parametrize("command", [("train", "--fold", "anna"), ("sweep",)])
def test_a_training_needs_labels(
    unlabelled: Path, tmp_path: Path, capsys: Said, command: tuple[str, ...], scheme: str | None
) -> None:
    chosen = ["--label-scheme", scheme] if scheme else []
    where = ["--shards", str(unlabelled), "--runs", str(tmp_path), "--encoder", "tiny", "--recipe", "tiny"]
    assert cli.run([*command, *where, *chosen]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == [
        f"error: {unlabelled}: found no labels, expected some to train a classifier with; add a column emotion to the "
        "table of the recordings and build them again, or choose another corpus or LABELS="
    ]


@pytest.mark.usefixtures("small_encoder")
def test_vectors_and_predictions_need_no_labels(mixed: Path, unlabelled: Path, tmp_path: Path, capsys: Said) -> None:
    options = ["--runs", str(tmp_path / "runs"), "--encoder", "tiny", "--recipe", "tiny", "--epochs", "1"]
    assert cli.run(["train", "--shards", str(mixed), *options, "--fold", "anna"]) == 0
    run = tmp_path / "runs/folder/cfas/fold-anna"
    for folder in (mixed, unlabelled):
        assert (
            cli.run(["embeddings", "--run", str(run), "--shards", str(folder), "--out", str(tmp_path / "v.npz")]) == 0
        )
        with np.load(tmp_path / "v.npz") as vectors:
            assert {*vectors["emotion"].tolist()} == ({"", "fear", "joy"} if folder == mixed else {""})
            assert {*vectors["label"].tolist()} == ({"", "fear", "joy"} if folder == mixed else {""})
    weights = ["--weights", str(run), "--encoder", "tiny", "--strategy", "cfas", "--feature", "mfcc"]
    assert cli.run(["embeddings", *weights, "--shards", str(unlabelled), "--out", str(tmp_path / "w.npz")]) == 0
    capsys.readouterr()
    for folder, words in (
        (unlabelled, "not scored, because its clips have no labels"),
        (mixed, "clips without a label are not scored"),
    ):
        table = tmp_path / "predictions.csv"
        assert cli.run(["predict", "--run", str(run), "--shards", str(folder), "--out", str(table)]) == 0
        assert f"{folder}: {words}\n" in capsys.readouterr().err
        rows = table.read_text().splitlines()[1:]
        assert len(rows) == (24 if folder == mixed else 8)
