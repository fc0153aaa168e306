"""Folds and labels of one's own, and folds that cannot be used: said before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests import index
from manifests.index import SpectrogramSums
from manifests.index_writer import write_index
from manifests.schema import decode_spectrogram
from tests.factories.shards import make_folder, sign
from train import ShardDataset, cli
from train.data.fold_data import open_fold
from train.runs import read_result

SPEAKERS = ("anna", "ben", "cleo", "dora")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two takes of fear and joy of four speakers."""
    return make_folder(tmp_path_factory.mktemp("own") / "shards", speakers=SPEAKERS)


@pytest.fixture
def call(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command in an empty folder; its status and output."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        named = {"shards": shards, "encoder": "tiny", "recipe": "tiny", "epochs": 1, "strategy": "cfas", **options}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
        status = cli.run([command, *words, *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def table(path: str, *lines: str) -> str:
    Path(path).write_text("\n".join(lines) + "\n")
    return path


def test_a_fixed_split_and_labels_of_ones_own(call, tmp_path: Path) -> None:
    split = table("split.csv", "speaker,side", "anna,train", "ben,train", "cleo,val", "dora,test")
    labels = table("map.csv", "emotion,class", "joy,good", "fear,bad")
    status, out, err = call("train", fold_scheme=split, label_scheme=labels)
    assert status == 0, err
    assert "fold 1:" in out
    assert "4 clips of 1 unseen speaker (dora)" in out
    folder = tmp_path / "runs" / "folder" / "cfas" / "fold-1"
    protocol = read_result(folder).run.protocol
    assert protocol.classes == ("good", "bad")
    assert protocol.fold_scheme.startswith("split-")
    assert protocol.label_scheme.startswith("map-")
    assert not protocol.shared_speakers
    recorded = json.loads((folder / "folds.json").read_bytes())
    assert recorded["folds"]["1"]["test"]["subjects"] == ["dora"]
    assert recorded["name"] == protocol.fold_scheme


def test_embeddings_have_the_folds_of_the_table_that_the_run_was_trained_with(
    call, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names of its folds are those of the corpus's default scheme, of other speakers."""
    split = table("split.csv", "speaker,fold", "anna,ben", "ben,anna", "cleo,anna", "dora,dora")
    status, _, err = call("train", fold_scheme=split, fold="anna")
    assert status == 0, err
    Path(split).unlink()
    run = tmp_path / "runs" / "folder" / "cfas" / "fold-anna"

    def folds(run: Path, *options: str) -> tuple[dict[str, str], str | None, str]:
        words = ["embeddings", f"--run={run}", f"--shards={shards}", "--out=vectors.npz", *options]
        assert cli.run(words) == 0
        with np.load("vectors.npz") as found:
            named = dict(zip(found["speaker"].tolist(), found["fold"].tolist(), strict=True))
            return named, json.loads(str(found["settings"]))["fold_scheme"], capsys.readouterr().err

    scheme = read_result(run).run.protocol.fold_scheme
    named, name, err = folds(run)
    assert (named, name) == ({"anna": "ben", "ben": "anna", "cleo": "anna", "dora": "dora"}, scheme)
    assert "no clip has a fold" not in err
    assert folds(run, "--fold-scheme=loso")[:2] == ({speaker: speaker for speaker in SPEAKERS}, "loso")
    assert cli.run(["export", f"--run={run}", "--out=exported"]) == 0
    named, name, err = folds(Path("exported"))
    assert (named, name) == (dict.fromkeys(SPEAKERS, ""), None)
    assert f"exported: found no folds.json, expected the folds of {scheme}, which it was trained with; no clip" in err
    recorded = (run / "folds.json").read_text()
    for text in (recorded.replace("cleo", "eve"), recorded.replace(scheme, "split-other"), "{"):
        (run / "folds.json").write_text(text)
        named, name, err = folds(run)
        assert (named, name) == (dict.fromkeys(SPEAKERS, ""), None)
        assert err.count("no clip has a fold") == 1


def test_a_sweep_of_folds_of_ones_own(call) -> None:
    split = table("split.csv", "speaker,fold", "anna,x", "ben,x", "cleo,y", "dora,z")
    status, out, err = call("sweep", "--refit=0", fold_scheme=split)
    assert status == 0, err
    assert [fold for fold in "xyz" if f"cfas, fold {fold}: UAR" in out] == ["x", "y", "z"]
    assert "3 of 3 folds" in out


def test_a_fold_that_is_named_by_a_number_has_no_other_number(call) -> None:
    split = table("split.csv", "speaker,fold", "anna,0", "ben,1", "cleo,1", "dora,2")
    for fold in (3, "00"):
        status, _, err = call("train", fold_scheme=split, fold=fold)
        assert (status, err.count("\n")) == (2, 1)
        assert f"unknown fold '{fold}'; valid are 0, 1, 2\n" in err
    status, out, err = call("train", fold_scheme=split)
    assert status == 0, err
    assert "fold 0: UAR" in out  # the first


def test_a_fold_is_named_by_its_speaker(call, shards: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "named"))
    record = json.loads((folder / "dataset.json").read_bytes())
    record["about"]["speaker_names"] = {"dora": "Döra 1"}
    (folder / "dataset.json").write_text(json.dumps(record))
    sign(folder)
    status, out, err = call("train", shards=folder, fold="Döra 1")
    assert status == 0, err
    assert "fold dora (Döra 1): UAR" in out
    assert (tmp_path / "runs/folder/cfas/fold-dora/result.json").is_file()
    assert "valid are anna, ben, cleo, dora (Döra 1), or 1 to 4" in call("train", shards=folder, fold="Dora")[2]
    assert len(ShardDataset(folder, fold="Döra 1", side="test")) == 4


def test_another_table_of_the_same_name_is_another_protocol(call) -> None:
    split = table("split.csv", "speaker,side", "anna,train", "ben,train", "cleo,val", "dora,test")
    assert call("train", fold_scheme=split)[0] == 0
    table(split, "speaker,side", "anna,train", "ben,val", "cleo,train", "dora,test")
    status, _, err = call("train", fold_scheme=split)
    assert status == 2
    assert "was trained with other settings (protocol.fold_scheme: split-" in err


def test_shared_speakers_are_refused_or_said(call, shards: Path, tmp_path: Path) -> None:
    lines = ["clip,side"]
    for speaker in SPEAKERS:
        lines += [f"{speaker}-joy-0,train", f"{speaker}-fear-0,train", f"{speaker}-joy-1,test"]
        lines += [f"{speaker}-fear-1,{'test' if speaker == 'anna' else 'val'}"]
    split = table("split.csv", *lines)
    status, out, err = call("train", fold_scheme=split)
    assert (status, out) == (2, "")
    assert "4 speakers on several sides (anna, ben, cleo, dora)" in err
    status, out, err = call("train", "--allow-shared-speakers", fold_scheme=split)
    assert status == 0, err
    assert "5 clips of 4 speakers (anna, ben, cleo, dora), who may be in training, too" in out
    result = read_result(tmp_path / "runs" / "folder" / "cfas" / "fold-1")
    assert result.run.protocol.shared_speakers
    assert result.run.training_clips == 8
    assert cli.run(["report", "--runs=runs"]) == 0
    assert "SPEAKERS SHARED by training and test" in (tmp_path / "runs" / "report" / "report.html").read_text()


def test_statistics_of_a_shared_shard_are_of_the_training_clips_alone(call, shards: Path) -> None:
    lines = ["clip,side", "anna-joy-0,train", "anna-joy-1,test", "ben-joy-0,train", "ben-joy-1,train"]
    lines += ["ben-fear-0,train", "ben-fear-1,train", "cleo-joy-0,val", "anna-fear-0,train"]
    split = table("split.csv", *lines)
    data = open_fold(shards, "1", strategy="cfas", fold_scheme=split, allow_shared_speakers=True)
    expected = None
    for key in ("anna-joy-0", "anna-fear-0", "ben-joy-0", "ben-joy-1", "ben-fear-0", "ben-fear-1"):
        shard = f"{key.partition('-')[0]}-000"
        offset, size = index.load_receipt(shards / f"receipts/{shard}.json").members[key]["mfcc_16.npy"]
        windows = decode_spectrogram((shards / f"{shard}.tar").read_bytes()[offset : offset + size], "mfcc_16")
        sums = SpectrogramSums.of(windows)
        expected = sums if expected is None else expected + sums
    found = data.training.statistics
    assert found.count == expected.count
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-9)
    np.testing.assert_allclose(found.squares, expected.squares, rtol=1e-9)


def test_two_speakers_can_be_a_fixed_split(call) -> None:
    split = table("split.csv", "speaker,side", "anna,train", "dora,test")
    status, _, err = call("train", fold_scheme=split)
    assert status == 2
    assert "fold 1: the validation side is empty" in err
    status, out, err = call("train", "--fixed-epochs", fold_scheme=split)
    assert status == 0, err
    assert "selection: none (last epoch)" in out


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAVDESS without the actors that most folds test."""
    emotions = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
    actors = tuple(f"{actor:02}" for actor in (1, 2, 3, 4, 5, 9, 10, 24))
    folder = make_folder(
        tmp_path_factory.mktemp("part") / "shards",
        dataset="ravdess",
        speakers=actors,
        emotions=emotions,
        takes=1,
        label_schemes=("ravdess-7", "ravdess-8"),
    )
    write_index(folder, index.load_dataset(folder), [f"{actor}-000.tar" for actor in actors])
    return folder


def test_an_empty_side_is_said_before_training(call, part: Path, tmp_path: Path) -> None:
    file = json.loads((part / "folds" / "ravdess-6fold.json").read_bytes())
    empty = next(fold for fold, sides in file["folds"].items() if not sides["test"]["subjects"])
    status, out, err = call("train", shards=part, fold_scheme="ravdess-6fold", fold=empty)
    assert (status, out) == (2, "")
    found = (
        f"ravdess, scheme ravdess-6fold, fold {empty}: the test side is empty: none of its 4 speakers was built; folds"
    )
    assert found in err
    assert "SCHEME=loso FOLD=" in err
    assert not (tmp_path / "runs").exists()
    usable = re.findall(r"\w+", err.partition("SCHEME=ravdess-6fold FOLD=")[2].partition(";")[0].replace("or", ""))
    assert usable
    assert empty not in usable
    assert call("train", shards=part, fold_scheme="ravdess-6fold", fold=usable[0])[0] == 0


def test_a_sweep_trains_what_can_be_trained_and_lists_the_rest(call, part: Path) -> None:
    status, out, err = call("sweep", "--refit=0", shards=part, fold_scheme="ravdess-6fold")
    assert status == 1
    left_out = [line for line in out.splitlines() if line.startswith("left out: ravdess, scheme ravdess-6fold, fold ")]
    assert 0 < len(left_out) < 6
    assert out.count("unseen speaker") == 6 - len(left_out)
    assert all(line in err for line in left_out)  # before the first training, too


def test_a_start_that_failed_leaves_nothing_that_blocks_the_corrected_command(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr("train.trainer.Trainer.train_step", broken)
        assert call("train", learning_rate=0.1)[0] == 2
    assert (tmp_path / "runs" / "folder" / "cfas" / "fold-anna" / "config.json").is_file()
    assert call("train", learning_rate=0.001)[0] == 0
    status, _, err = call("train", learning_rate=0.002)
    assert status == 2
    assert "(recipe.learning_rate: 0.001 -> 0.002)" in err
