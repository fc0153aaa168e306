"""Vectors for other tools are those that the model computes, and a linear head on them predicts as the run does."""

from __future__ import annotations

import builtins
import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.torch
import torch

from tests.factories.shards import EMOTIONS, SPEAKERS, make_folder
from tests.factories.small_trainings import SMALL
from train import cli
from train.data.clip_table import load_all_clips, members_for
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import open_folder, prefetch_shards
from train.data.transforms import ClipTransform, NormalizationStats
from train.embeddings import mean_token
from train.fusion import strategy_named
from train.models.videomae import ENCODERS, Classifier
from train.models.weights import load_classifier

TEXTS = ("clip", "speaker", "emotion", "label", "fold")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, tested on the first speaker by one view of each clip."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("embeddings") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", SMALL)
        options = ["--shards", str(shards), "--runs", str(runs), "--encoder", "tiny", "--recipe", "tiny"]
        settings = ["--epochs", "1", "--fold", SPEAKERS[0], "--set", "test_flip=false"]
        assert cli.run(["train", *options, *settings]) == 0
    return runs / "folder" / "cfas" / f"fold-{SPEAKERS[0]}"


def embed(out: Path, *arguments: object) -> dict[str, Any]:
    assert cli.run(["embeddings", "--out", str(out), *map(str, arguments)]) == 0
    with np.load(out, allow_pickle=False) as archive:
        return dict(archive)


def videos(folder: Path, strategy: str, normalization: NormalizationStats | None = None) -> dict[str, torch.Tensor]:
    """Clip id -> input of the encoder [3, T, H, W], made without `train.embeddings`."""
    opened = open_folder(folder)
    clips, emotions = load_all_clips(opened, members_for(opened.index, strategy_named(strategy), "mfcc"))
    stats = normalization or NormalizationStats.of(clips.statistics)
    transform = ClipTransform(
        strategy=strategy_named(strategy), classes=len(emotions), normalization=stats, input_size=SMALL.input
    )
    sampler = ClipSampler(clips=len(clips), batch_size=3, shuffle=False)
    loader = Loader(clips, sampler, face_px=transform.face_px, workers=0, prefetcher=prefetch_shards(opened, []))
    return {
        key: video
        for batch in loader.epoch(0)
        for key, video in zip(batch.keys, transform.evaluation_input(batch).inputs, strict=True)
    }


def provenance(run: Path) -> Mapping[str, Any]:
    details: Mapping[str, Any] = json.loads((run / "model" / "config.json").read_bytes())["details"]
    return details


def assert_close(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-6)


def test_a_linear_head_on_the_vectors_predicts_as_the_run_does(run: Path, shards: Path, tmp_path: Path) -> None:
    found = embed(tmp_path / "all.npz", "--run", run, "--shards", shards)
    weights = safetensors.torch.load_file(run / "model" / "model.safetensors")
    logits = found["vector"] @ weights["head.weight"].numpy().T + weights["head.bias"].numpy()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = dict(zip(found["clip"].tolist(), shares.tolist(), strict=True))
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(EMOTIONS) * 2
    for row in rows:
        assert predicted[row["clip"]] == pytest.approx([float(row[f"p({name})"]) for name in EMOTIONS], abs=1e-6)


def test_each_row_says_what_its_vector_is_of(run: Path, shards: Path, tmp_path: Path) -> None:
    found = embed(tmp_path / "all.npz", "--run", run, "--shards", shards)
    assert set(found) == {*TEXTS, "vector", "settings"}
    assert all(found[name].dtype.kind == "U" for name in (*TEXTS, "settings"))
    assert found["vector"].dtype == np.float32
    assert found["clip"].tolist() == sorted(f"{s}-{e}-{take}" for s in SPEAKERS for e in EMOTIONS for take in (0, 1))
    for clip, speaker, emotion, label, fold in zip(*(found[name].tolist() for name in TEXTS), strict=True):
        assert clip.startswith(f"{speaker}-{emotion}-")
        assert (label, fold) == (emotion, speaker)  # leave one speaker out
    settings = json.loads(str(found["settings"]))
    assert settings["seen_speakers"] == sorted(SPEAKERS[1:])
    assert (settings["fold_scheme"], settings["strategy"], settings["feature"]) == ("loso", "cfas", "mfcc")


@pytest.mark.parametrize("layer", range(SMALL.depth + 1))
def test_a_layer_is_the_mean_of_its_tokens(run: Path, shards: Path, tmp_path: Path, layer: int) -> None:
    found = embed(tmp_path / "layer.npz", "--run", run, "--shards", shards, "--layer", layer)
    model = load_classifier(run / "model").model
    stats = provenance(run)["normalization"]
    clips = videos(shards, "cfas", NormalizationStats(mean=tuple(stats["mean"]), std=tuple(stats["std"])))
    kept: list[torch.Tensor] = []
    if layer:
        model.encoder.blocks[layer - 1].register_forward_hook(lambda module, given, tokens: kept.append(tokens))
    else:
        model.encoder.blocks[0].register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    model(torch.stack([clips[clip] for clip in found["clip"].tolist()]))
    assert_close(found["vector"], kept[0].mean(dim=1))


def test_the_last_layer_is_what_the_classifier_normalizes() -> None:
    torch.manual_seed(0)
    model, video = Classifier(SMALL, 2).eval(), torch.rand(2, 3, *SMALL.input)
    torch.testing.assert_close(mean_token(model.encoder, video, SMALL.depth), model.features(video))
    assert not torch.allclose(mean_token(model.encoder, video, 0), model.features(video))


def test_weights_without_a_run_take_a_strategy(
    run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Normalized by the statistics of all the shards."""
    monkeypatch.setitem(ENCODERS, "tiny", SMALL)
    named = [
        "--weights",
        run,
        "--encoder",
        "tiny",
        "--shards",
        shards,
        "--strategy",
        "spectrograms",
        "--feature",
        "mfcc",
    ]
    found = embed(tmp_path / "weights.npz", *named)
    assert "were trained or selected on ben, cleo, dora" in capsys.readouterr().err
    model = load_classifier(run / "model").model
    clips = videos(shards, "spectrograms")
    batch = torch.stack([clips[clip] for clip in found["clip"].tolist()])
    assert_close(found["vector"], model.fc_norm(model.encoder(batch).mean(dim=1)))
    assert found["fold"].tolist() == found["speaker"].tolist()


def test_parquet_has_the_same(run: Path, shards: Path, tmp_path: Path) -> None:
    arrays = embed(tmp_path / "all.npz", "--run", run, "--shards", shards)
    assert (
        cli.run(["embeddings", "--run", str(run), "--shards", str(shards), "--out", str(tmp_path / "a.parquet")]) == 0
    )
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == [*TEXTS, "vector"]
    for name in TEXTS:
        assert table[name].to_pylist() == arrays[name].tolist()
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), arrays["vector"])
    assert table.schema.field("vector").type.list_size == SMALL.width
    assert json.loads(table.schema.metadata[b"settings"]) == json.loads(str(arrays["settings"]))


def test_the_same_command_writes_the_same_bytes(run: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / ".a.npz.0123abcd.part").touch()  # of a command that was killed
    for name, workers in (("a.npz", 0), ("b.npz", 2)):
        embed(tmp_path / name, "--run", run, "--shards", shards, "--workers", workers)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_labels_are_those_of_the_corpus_or_of_the_run(run: Path, tmp_path: Path) -> None:
    """Shards of another corpus than the run's have their own schemes; an emotion without a class has no label."""
    emotions = ("neutral", "calm", "other")
    folder = make_folder(tmp_path / "shards", dataset="ravdess", emotions=emotions[:2], speakers=("01", "02", "03"))
    found = embed(tmp_path / "a.npz", "--run", run, "--shards", folder, "--label-scheme", "ravdess-7")
    assert set(zip(found["emotion"].tolist(), found["label"].tolist(), strict=True)) == {
        ("neutral", "neutral"),
        ("calm", "neutral"),
    }
    other = make_folder(tmp_path / "other", emotions=emotions, speakers=SPEAKERS)
    found = embed(tmp_path / "b.npz", "--run", run, "--shards", other)
    assert set(found["label"].tolist()) == {""}  # the run has other emotions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "RUN", "--layer", "2"], "layer: found 2, expected 0 (patch embedding) to 1 (last block)"),
        (["--run", "RUN", "--layer", "-1"], "layer: found -1, expected 0"),
        (["--run", "RUN", "--fold-scheme", "absent"], "unknown fold scheme 'absent'; valid are loso"),
        (["--run", "RUN", "--strategy", "cfas"], "found --strategy with --run, which has its own"),
        (["--run", "RUN", "--weights", "RUN"], "expected --run with a folder, or --weights with --strategy"),
        ([], "expected --run with a folder, or --weights with --strategy"),
        (["--weights", "RUN"], "found no strategy, expected --strategy with one of cfas, "),
        (["--weights", "RUN", "--strategy", "absent"], "unknown strategy 'absent'"),
        (["--weights", "RUN", "--strategy", "cfas", "--encoder", "giant"], "unknown encoder 'giant'; valid are"),
        (["--weights", "RUN", "--strategy", "cfas", "--feature", "stft"], "found no feature 'stft' in its shards"),
        (["--run", "absent"], "absent: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_embedded_is_one_line(
    run: Path, shards: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(run) if word == "RUN" else word for word in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", SMALL)
        assert cli.run(["embeddings", "--shards", str(shards), "--out", str(tmp_path / "a.npz"), *named]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "a.npz").exists()


def test_shards_that_look_different_are_refused(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run / "model", tmp_path / "model"))
    settings = json.loads((other / "config.json").read_bytes())
    settings["details"]["build"]["crop"] = "openface"
    (other / "config.json").write_text(json.dumps(settings), "utf-8")
    arguments = ["embeddings", "--run", str(other), "--shards", str(shards), "--out", str(tmp_path / "a.npz")]
    assert cli.run(arguments) == 2
    assert "crop: openface -> aligned" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.csv", "a", "folder.npz"])
def test_a_file_of_another_kind_is_refused_first(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.npz").mkdir()
    assert cli.run(["embeddings", "--run", "absent", "--out", str(tmp_path / name)]) == 2
    assert "expected the name of a file ending with .npz or .parquet" in capsys.readouterr().err


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is computed: there is no run."""
    load = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert cli.run(["embeddings", "--run", "absent", "--out", str(tmp_path / "a.parquet")]) == 2
    error = capsys.readouterr().err
    assert "found no pyarrow (No module named 'pyarrow'), expected it for Parquet; pip install" in error
    assert error.count("\n") == 1


def test_vectors_that_are_no_numbers_are_refused(
    run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "train.embeddings.classifier_input", lambda model, video: torch.full((len(video), 4), torch.nan)
    )
    assert cli.run(["embeddings", "--run", str(run), "--shards", str(shards), "--out", str(tmp_path / "a.npz")]) == 2
    assert "found a vector that is not finite" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()
