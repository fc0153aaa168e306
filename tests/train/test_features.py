"""Frozen features are computed once for each shard and settings, and are those of the encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.factories.shards import SPEAKERS, make_folder
from tests.factories.small_trainings import ALONE
from train import features as module
from train.config import TrainConfig
from train.features import features, of_shard
from train.feeds import FeedError, pooled
from train.models.videomae import Classifier, EncoderConfig
from train.prepare import Corpus, make_imaging, open_corpus
from train.recipes import RECIPES

ENCODER = EncoderConfig(width=16, depth=1, heads=2, mlp=32, patch=(2, 28, 28), input=(16, 56, 56))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    torch.set_num_threads(1)
    folder = make_folder(tmp_path_factory.mktemp("features") / "shards", takes=1)
    return open_corpus(config(folder))


def config(folder: Path) -> TrainConfig:
    return TrainConfig(
        shards=str(folder), strategy="ffls", fold=SPEAKERS[0], encoder="tiny", recipe=RECIPES["tiny"], workers=0
    )


def found(corpus: Corpus, cache: Path, seen: list[str], seed: int = 0, **changes: object) -> torch.Tensor:
    torch.manual_seed(seed)
    model = Classifier(ENCODER, 2)
    imaging = replace(make_imaging(config(corpus.folder.path), corpus, ENCODER), **changes)
    shards = {shard.name: shard.sha256 for shard in corpus.folder.dataset.shards}
    clips = corpus.clips("train")
    return features(model, clips, shards, imaging, cache=cache, ranks=ALONE, workers=0, on_shard=seen.append)


def test_second_time_nothing_is_computed(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[str] = []
    first = found(corpus, tmp_path, seen)
    assert first.shape == (len(corpus.clips("train")), 16)
    assert seen == list(corpus.clips("train").shards)
    assert torch.equal(found(corpus, tmp_path, seen), first)
    assert len(seen) == len(corpus.clips("train").shards)


def test_other_weights_or_settings_are_other_features(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[str] = []
    first = found(corpus, tmp_path, seen)
    assert not torch.equal(found(corpus, tmp_path, seen, seed=1), first)
    assert not torch.equal(found(corpus, tmp_path, seen, input_range="unit"), first)
    assert len(seen) == 3 * len(corpus.clips("train").shards)


def test_damaged_file_is_computed_again(corpus: Corpus, tmp_path: Path) -> None:
    seen: list[str] = []
    first = found(corpus, tmp_path, seen)
    damaged = sorted(tmp_path.glob("*.safetensors"))[0]
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert torch.equal(found(corpus, tmp_path, seen), first)
    assert len(seen) == len(corpus.clips("train").shards) + 1


def test_features_are_in_the_order_of_the_clips(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = found(corpus, tmp_path / "a", [])
    monkeypatch.setattr(module, "_BATCH", 1)
    torch.testing.assert_close(found(corpus, tmp_path / "b", []), many, rtol=1e-5, atol=1e-6)


def test_clips_of_a_shard_are_all_of_one_speaker(corpus: Corpus) -> None:
    clips = corpus.clips("train")
    parts = [of_shard(clips, shard) for shard in range(len(clips.shards))]
    assert np.concatenate([part.keys for part in parts]).tolist() == clips.keys.tolist()
    for shard, part in enumerate(parts):
        assert all(key.decode().startswith(clips.speakers[shard]) for key in part.keys)


def test_small_input_is_the_mean_of_the_pixels_it_covers() -> None:
    video = torch.arange(2 * 3 * 4 * 8 * 8, dtype=torch.float32).view(2, 3, 4, 8, 8)
    small = pooled(video, (4, 2, 2))
    assert small.shape == (2, 3, 4, 2, 2)
    torch.testing.assert_close(small[1, 2, 3, 1, 0], video[1, 2, 3, 4:8, 0:4].mean())
    assert pooled(video, (4, 8, 8)) is video


def test_input_that_does_not_go_into_the_video_is_refused() -> None:
    with pytest.raises(FeedError, match="expected one that goes into"):
        pooled(torch.zeros(1, 3, 4, 8, 8), (4, 3, 8))
