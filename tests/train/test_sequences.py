"""Training, testing and predicting on sequences: as on pairs where clips are seen whole, refused where it cannot be."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from manifests.kinds import SEQUENCES
from tests.factories.both_kinds import SPEAKERS, both_folders, folder_of
from tests.factories.small_trainings import SMALL
from train import ShardDataset, cli, predict
from train.classification import run_inference
from train.data import DataError
from train.data.augment import Augmentation
from train.data.clip_table import load_all_clips, members_for
from train.data.loader import Loader
from train.data.missing import Missing
from train.data.sampler import ClipSampler
from train.data.shard_folder import open_folder
from train.data.transforms import ClipTransform, NormalizationStats, View, evaluation_views, fit_faces
from train.data.windows import EvenWindows, RandomWindows, Windows
from train.distributed import Ranks
from train.fusion import STRATEGIES
from train.models.videomae import ENCODERS
from train.predict import PredictError, Predictor
from train.runs import read_result

FOLD = SPEAKERS[0]
UNIFORM = ("--set", "augmentation.window_share=[1,1]")
PARTS = ("--set", "window_seconds=0.8", "--set", "test_windows=3", "--set", "augmentation.window_share=[0.5,1]")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pairs and sequences of the same eight clips."""
    return both_folders(tmp_path_factory.mktemp("sequences"))


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a small encoder for two epochs; the run's folder."""
    root = tmp_path_factory.mktemp("runs")

    def train(shards: Path, name: str, *options: str, strategy: str = "cfas") -> Path:
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ENCODERS, "tiny", SMALL)
            chosen = ["--encoder", "tiny", "--recipe", "tiny", "--epochs", "2", "--batch", "4", "--strategy", strategy]
            where = ["--shards", str(shards), "--runs", str(root / name), "--fold", FOLD]
            assert cli.run(["train", *where, *chosen, *options]) == 0
        return root / name / "folder" / strategy / f"fold-{FOLD}"

    return train


@pytest.fixture(scope="module")
def runs(folders: tuple[Path, Path], train: Callable[..., Path]) -> dict[str, Path]:
    """Finished runs: on pairs, on whole clips of sequences, and on parts of them."""
    pairs, sequences = folders
    return {
        "pairs": train(pairs, "pairs"),
        "whole": train(sequences, "whole", *UNIFORM),
        "parts": train(sequences, "parts", *PARTS),
    }


def probabilities(run: Path, shards: Path) -> np.ndarray:
    found = Predictor.load(run, "cpu").predict_shards(shards)
    return np.array([list((clip.probabilities or {}).values()) for clip in found])


def test_training_on_whole_clips_of_sequences_is_training_on_pairs(
    folders: tuple[Path, Path], runs: dict[str, Path]
) -> None:
    """Both runs learn the same, and each predicts the same for clips of either kind."""
    pairs, sequences = folders
    expected = probabilities(runs["pairs"], pairs)
    assert expected.std() > 1e-3
    for run in ("pairs", "whole"):
        for shards in (pairs, sequences):
            np.testing.assert_allclose(probabilities(runs[run], shards), expected, atol=2e-3)
    first, second = (read_result(runs[name]).scores.war for name in ("pairs", "whole"))
    assert first == second


def test_parts_of_clips_are_other_input(folders: tuple[Path, Path], runs: dict[str, Path]) -> None:
    whole, parts = probabilities(runs["whole"], folders[1]), probabilities(runs["parts"], folders[1])
    assert np.abs(whole - parts).max() > 1e-3


def test_the_protocol_says_which_part_of_clips_is_seen(runs: dict[str, Path]) -> None:
    windows = {name: read_result(run).run.protocol.windows for name, run in runs.items()}
    assert windows == {
        "pairs": None,
        "whole": "whole clips",
        "parts": "random 0.5 to 1 of 0.8 s, tested on 3 windows of 0.8 s",
    }
    recipe = json.loads((runs["pairs"] / "config.json").read_bytes())["config"]["recipe"]
    assert recipe["augmentation"]["window_share"] == [1.0, 1.0]  # pairs have no windows, whatever the recipe says


def test_a_run_is_the_same_whatever_the_number_of_workers(
    folders: tuple[Path, Path], train: Callable[..., Path], runs: dict[str, Path]
) -> None:
    again = train(folders[1], "again", *PARTS, "--workers", "0")
    for name in ("predictions.csv", "missing.csv"):
        assert (again / name).read_bytes() == (runs["parts"] / name).read_bytes()
    other = train(folders[1], "other", *PARTS[:4], *UNIFORM)
    assert (other / "predictions.csv").read_bytes() != (again / "predictions.csv").read_bytes()


@pytest.mark.parametrize("setting", ["window_seconds=0.8", "window_seconds=0.8 test_windows=3"])
def test_windows_of_pairs_are_refused_in_one_line(
    folders: tuple[Path, Path], tmp_path: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [part for each in setting.split() for part in ("--set", each)]
    where = ["--shards", str(folders[0]), "--runs", str(tmp_path), "--fold", FOLD, "--strategy", "cfas"]
    assert cli.run(["train", *where, "--encoder", "tiny", "--recipe", "tiny", *options]) == 2
    assert not list(tmp_path.rglob("config.json"))
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"found window_seconds = 0\.8, .* with shards of pairs, .* which FRAMES=all", line)


def test_pairs_cannot_be_seen_as_parts_of_clips_were(folders: tuple[Path, Path], runs: dict[str, Path]) -> None:
    with pytest.raises(PredictError, match=r"pairs: found shards of pairs, .* FRAMES=all .* sees random 0\.5 to 1 of"):
        probabilities(runs["parts"], folders[0])


def test_sequences_of_another_size_are_other_clips(tmp_path: Path, runs: dict[str, Path]) -> None:
    small = folder_of(tmp_path / "small", SEQUENCES, side_px=112)
    with pytest.raises(PredictError, match=r"other settings than the training shards .*size_px: 224 -> 112"):
        probabilities(runs["whole"], small)


def test_recordings_are_built_as_the_training_shards_were(
    tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    class Builder:
        def __init__(self, command: list[str], **_: Any) -> None:
            commands.append(command)

        def __enter__(self) -> Builder:
            return self

        def __exit__(self, *_: object) -> None: ...

        def wait(self) -> int:
            return 1

        def kill(self) -> None: ...

    monkeypatch.setattr(predict.subprocess, "Popen", Builder)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a recording")
    for name, change in (("pairs", {}), ("whole", {}), ("whole", {"size_px": 160, "rate_hz": 25.0})):
        predictor = Predictor.load(runs[name], "cpu")
        build = {**predictor.provenance.build, **change}
        changed = replace(predictor, provenance=replace(predictor.provenance, build=build))
        with pytest.raises(PredictError, match="the builder failed"):
            changed([clip])
    options = [{each for each in command if each.startswith(("--frames", "--size", "--rate"))} for command in commands]
    assert options == [set(), {"--frames=all", "--size=224"}, {"--frames=all", "--size=160", "--rate=25.0"}]


def test_small_crops_are_enlarged_and_that_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = folder_of(tmp_path / "small", SEQUENCES, side_px=96)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", replace(SMALL, input=(4, 112, 112)))
        chosen = ["--encoder", "tiny", "--recipe", "tiny", "--epochs", "1", "--strategy", "cfas", "--fold", FOLD]
        assert cli.run(["train", "--shards", str(small), "--runs", str(tmp_path / "runs"), *chosen]) == 0
    logged = capsys.readouterr()
    assert "crops of 96 pixels are enlarged to the encoder's 112" in logged.out + logged.err
    assert ", mfcc, every frame (random 0.6 to 1 of a clip, tested on whole clips), on " in logged.err


def test_embeddings_of_whole_clips_are_those_of_pairs(
    folders: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    vectors = []
    for shards in folders:
        out = tmp_path / f"{shards.name}.npz"
        assert cli.run(["embeddings", "--run", str(runs["whole"]), "--shards", str(shards), "--out", str(out)]) == 0
        vectors.append(np.load(out)["vector"])
    assert vectors[0].std() > 1e-3
    np.testing.assert_allclose(*vectors, atol=5e-3)


def test_an_exported_classifier_sees_the_same_windows(
    folders: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    assert cli.run(["export", "--run", str(runs["parts"]), "--out", str(tmp_path / "out")]) == 0
    assert "tested on 3 windows of 0.8 s" in (tmp_path / "out" / "README.md").read_text()
    expected = probabilities(runs["parts"], folders[1])
    np.testing.assert_array_equal(probabilities(tmp_path / "out", folders[1]), expected)


# Views of a batch


def loader_of(path: Path, windows: Windows, face_px: int = 224) -> Loader:
    folder = open_folder(path)
    clips, _ = load_all_clips(folder, members_for(folder.index, STRATEGIES["cfas"], "mfcc"))
    sampler = ClipSampler(clips=len(clips), batch_size=4, shuffle=False)
    return Loader(clips, sampler, windows=windows, workers=0, face_px=face_px)


def transform(**changes: Any) -> ClipTransform:
    stats = NormalizationStats(mean=(0.0,) * 13, std=(30.0,) * 13)
    return ClipTransform(
        **{"strategy": STRATEGIES["cfas"], "classes": 2, "normalization": stats, "input_size": (16, 56, 56), **changes}
    )


def test_the_probabilities_of_several_windows_are_averaged(folders: tuple[Path, Path]) -> None:
    weights = torch.randn(3 * 16 * 56 * 56, 2, generator=torch.Generator().manual_seed(1)) / 100

    def model(video: Tensor) -> Tensor:
        return video.flatten(1) @ weights

    several = loader_of(folders[1], EvenWindows(longest_seconds=0.8, count=3), face_px=56)
    views = evaluation_views(flip=False, crops=1, side=1, windows=3)
    assert [view.window for view in views] == [0, 1, 2]
    found = run_inference(model, several, transform(), Ranks(device=torch.device("cpu")), views=views).softmax(1)
    each = [
        torch.cat([model(transform().evaluation_input(batch, View(window=i)).inputs) for batch in several.epoch(0)])
        for i in range(3)
    ]
    assert (each[0] - each[2]).abs().max() > 1e-2
    torch.testing.assert_close(found, torch.stack([logits.softmax(1) for logits in each]).mean(0), rtol=0, atol=1e-5)
    middle = loader_of(folders[1], EvenWindows(longest_seconds=0.8), face_px=56)
    alone = torch.cat([model(transform().evaluation_input(batch).inputs) for batch in middle.epoch(0)])
    torch.testing.assert_close(alone, each[1])


def test_each_draw_of_a_clip_sees_its_own_window(folders: tuple[Path, Path]) -> None:
    windows = RandomWindows(share=(0.2, 0.4), count=2)
    batch = next(iter(loader_of(folders[1], windows, face_px=56).epoch(1)))
    for settings in (None, Augmentation(flip=0.5)):
        twice = transform(repeats=2, augmentation=settings).training_input(batch, 1).inputs
        assert twice.shape == (8, 3, 16, 56, 56)
        assert not torch.equal(twice[:4], twice[4:])
        one = transform(repeats=1, augmentation=settings).training_input(batch, 1).inputs
        assert torch.equal(twice[:4], one)


def test_missing_parts_are_the_same_in_all_windows(folders: tuple[Path, Path]) -> None:
    batch = next(iter(loader_of(folders[1], EvenWindows(longest_seconds=0.8, count=2), face_px=56).epoch(0)))
    wholly = [transform().evaluation_input(batch, View(window=i), Missing("faces", 1.0)).inputs for i in range(2)]
    assert torch.equal(wholly[0][..., :28, :], wholly[1][..., :28, :])
    assert not torch.equal(wholly[0][..., 28:, :], wholly[1][..., 28:, :])


def test_incomplete_clips_are_read_without_what_they_lack(tmp_path: Path) -> None:
    masks = {"faces_present": (True,) * 40, "sound_present": (False,) * 40}
    folder = folder_of(tmp_path / "shards", SEQUENCES, flags=("no_sound",), audio=np.zeros(9000, np.int16), **masks)
    loader = loader_of(folder, EvenWindows(), face_px=56)
    batch = next(iter(loader.epoch(0)))
    assert batch.missing == (1, 1, 1, 1)
    video = transform().evaluation_input(batch).inputs
    assert (video[..., 28:, :].std(), video[..., :28, :].std()) == (0.0, pytest.approx(1, abs=0.7))


@pytest.mark.parametrize(("side", "needed"), [(60, 56), (160, 224), (112, 224), (36, 28)])
def test_faces_of_another_side_are_resized(side: int, needed: int) -> None:
    ramp = torch.linspace(0, 255, side).round().byte().expand(2, 3, 3, side, side)
    fitted = fit_faces(ramp, needed)
    assert (fitted.shape, fitted.dtype) == ((2, 3, 3, needed, needed), torch.uint8)
    centres = (torch.arange(needed) + 0.5) * side / needed - 0.5
    expected = (centres.clamp(0, side - 1) * 255 / (side - 1))[2:-2]
    torch.testing.assert_close(fitted[0, 0, 0, 0].float()[2:-2], expected, rtol=0, atol=1.5)


def test_faces_of_a_multiple_of_the_side_stay_as_they_are() -> None:
    faces = torch.zeros(1, 16, 3, 224, 224, dtype=torch.uint8)
    assert fit_faces(faces, 224) is faces
    assert fit_faces(faces, 56) is faces


# A training loop of one's own


def test_a_dataset_of_sequences_has_the_items_of_pairs(folders: tuple[Path, Path]) -> None:
    pairs, sequences = (ShardDataset(shards, fold=1, face_dtype=torch.uint8) for shards in folders)
    assert (pairs.keys, pairs.classes) == (sequences.keys, sequences.classes)
    for one, other in zip(pairs, sequences, strict=True):
        assert torch.equal(one["faces"][..., 1:-1], other["faces"][..., 1:-1])
        torch.testing.assert_close(one["spectrograms"], other["spectrograms"], rtol=2**-10, atol=0.02)
    again = pickle.loads(pickle.dumps(sequences))
    assert torch.equal(again[0]["faces"], sequences[0]["faces"])


def test_a_dataset_draws_windows_from_torchs_random_numbers(folders: tuple[Path, Path]) -> None:
    dataset = ShardDataset(folders[1], fold=1, window_share=(0.3, 0.6))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dataset[0]["faces"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    part = ShardDataset(folders[1], fold=1, window_seconds=0.4)
    assert torch.equal(part[0]["faces"], part[0]["faces"])
    assert not torch.equal(part[0]["faces"], ShardDataset(folders[1], fold=1)[0]["faces"])


@pytest.mark.parametrize("settings", [{"window_seconds": 1.0}, {"window_share": (0.5, 1.0)}])
def test_a_dataset_of_pairs_has_no_windows(folders: tuple[Path, Path], settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"found shards of pairs, which show whole clips; expected .* FRAMES=all"):
        ShardDataset(folders[0], fold=1, **settings)
    with pytest.raises(DataError, match="window_seconds, window_share: found"):
        ShardDataset(folders[1], fold=1, window_share=(0.7, 0.2))
