"""Frozen features are computed once for each shard and settings, and are those of the encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.factories.shards import SPEAKERS, make_folder
from tests.factories.small_trainings import ALONE
from train.config import TrainConfig
from train.data.fold_data import FoldData, open_fold
from train.embedding_cache import cached_embeddings, select_shard
from train.models.videomae import Classifier, EncoderConfig
from train.recipes import RECIPES
from train.run_setup import make_transform

ENCODER = EncoderConfig(width=16, depth=1, heads=2, mlp=32, patch=(2, 28, 28), input=(16, 56, 56))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    torch.set_num_threads(1)
    folder = make_folder(tmp_path_factory.mktemp("features") / "shards", takes=1)
    return open_fold(folder, SPEAKERS[0], strategy="ffls")


def config(folder: Path) -> TrainConfig:
    return TrainConfig(
        shards=str(folder), strategy="ffls", fold=SPEAKERS[0], encoder="tiny", recipe=RECIPES["tiny"], workers=0
    )


def found(
    data: FoldData, cache: Path, computed: list[str], seed: int = 0, batch_size: int = 16, **changes: object
) -> torch.Tensor:
    torch.manual_seed(seed)
    model = Classifier(ENCODER, 2)
    transform = replace(make_transform(config(data.folder.path), data, ENCODER), **changes)
    options = {"cache": cache, "ranks": ALONE, "workers": 0, "batch_size": batch_size, "on_shard": computed.append}
    return cached_embeddings(model, data, data.clips("train"), transform, **options)


def test_second_time_nothing_is_computed(data: FoldData, tmp_path: Path) -> None:
    seen: list[str] = []
    first = found(data, tmp_path, seen)
    assert first.shape == (len(data.clips("train")), 16)
    assert seen == list(data.clips("train").shards)
    assert torch.equal(found(data, tmp_path, seen), first)
    assert len(seen) == len(data.clips("train").shards)


def test_other_weights_or_settings_are_other_features(data: FoldData, tmp_path: Path) -> None:
    seen: list[str] = []
    first = found(data, tmp_path, seen)
    assert not torch.equal(found(data, tmp_path, seen, seed=1), first)
    assert not torch.equal(found(data, tmp_path, seen, input_range="unit"), first)
    assert len(seen) == 3 * len(data.clips("train").shards)


def test_damaged_file_is_computed_again(data: FoldData, tmp_path: Path) -> None:
    seen: list[str] = []
    first = found(data, tmp_path, seen)
    damaged = sorted(tmp_path.glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert torch.equal(found(data, tmp_path, seen), first)
    assert len(seen) == len(data.clips("train").shards) + 1


def test_features_are_in_the_order_of_the_clips(data: FoldData, tmp_path: Path) -> None:
    many = found(data, tmp_path / "a", [])
    torch.testing.assert_close(found(data, tmp_path / "b", [], batch_size=1), many, rtol=1e-5, atol=1e-6)


def test_clips_of_a_shard_are_all_of_one_speaker(data: FoldData) -> None:
    clips = data.clips("train")
    parts = [select_shard(clips, shard) for shard in range(len(clips.shards))]
    assert np.concatenate([part.keys for part in parts]).tolist() == clips.keys.tolist()
    for shard, part in enumerate(parts):
        assert all(key.decode().startswith(clips.speakers[shard]) for key in part.keys)
