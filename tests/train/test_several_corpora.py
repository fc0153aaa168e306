"""Several corpora at once: names that do not collide, common classes, lineage both ways, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader

from manifests import index
from manifests.fetch import FoldRequest, fetch
from manifests.folds import SIDES
from tests.factories.shards import make_folder, sign
from tests.fakes.servers import FileServer
from train import ShardDataset, cli, run_fold
from train.data import DataError
from train.data.augment import ClipDraws
from train.data.corpora import check_recordings, corpus_indices, corpus_shares, open_corpora, open_whole
from train.data.fold_data import open_fold
from train.data.loader import Loader
from train.data.sampler import ClipSampler
from train.data.shard_folder import verified_files
from train.models.weights import load_classifier
from train.predict import Predictor
from train.recipes import RECIPES, Recipe, RecipeError
from train.runs import finished_runs, read_result, read_summaries

pytestmark = pytest.mark.usefixtures("small_encoder")

#: Corpora with speakers of the same names, and clips of the same ids: `1-fear-0`.
ALPHA = {"dataset": "alpha", "speakers": ("1", "2", "3", "4", "5"), "emotions": ("fear", "joy", "bored")}
BETA = {"dataset": "beta", "speakers": ("1", "2", "3"), "emotions": ("fear", "happy", "sad")}
GAMMA = {"dataset": "gamma", "speakers": ("7", "8", "9"), "emotions": ("afraid", "joy", "bored")}

BOTH = ["shards/alpha", "shards/beta"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `shards` of three corpora."""
    home = tmp_path_factory.mktemp("several") / "shards"
    for values in (ALPHA, BETA, GAMMA):
        make_folder(home / values["dataset"], **values)
        hash_recordings(home / values["dataset"])
    return home


@pytest.fixture
def shards(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the current folder."""
    monkeypatch.chdir(tmp_path)
    verified_files.clear()  # of the folders of the same name that other tests had
    return Path(shutil.copytree(finished, "shards"))


@pytest.fixture
def call(shards: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in the folder of the shards; its status and output."""

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        training = ["--encoder=tiny", "--recipe=tiny", "--epochs=2", "--set=validation_steps=0"]
        status = cli.run([command, *(training if command in ("train", "sweep") else ()), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def hash_recordings(folder: Path, names: str = "") -> None:
    """Give every clip the hash of a recording, by `names`, else by the corpus, and its id."""
    rows = [
        replace(row, sha256=hashlib.sha256(f"{names or folder.name} {row.clip_id}".encode()).hexdigest())
        for row in index.load_rows(folder)
    ]
    (folder / index.CLIPS_FILE).write_bytes(index.dump_rows(rows))
    sign(folder)


def change_config(folder: Path, **settings: Any) -> None:
    dataset = index.load_dataset(folder)
    config = {**dataset.identity["config"], **settings}
    changed = replace(dataset, identity={**dataset.identity, "config": config})
    (folder / index.DATASET_FILE).write_bytes(index.dump_dataset(changed))
    sign(folder)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def refusal(call: Command, *arguments: str) -> str:
    """What a training says that is refused in one line."""
    status, out, err = call("train", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    return err


# --- data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["1", "2", "3"])
def test_speakers_and_clips_of_the_same_names_are_kept_apart(shards: Path, fold: str) -> None:
    data = open_fold(open_corpora(["shards/beta", "shards/alpha"]), fold, strategy="cfas")
    assert (data.name, data.folds, data.fold_scheme) == ("alpha+beta", ("1", "2", "3"), "loso+loso")
    tables = {side: data.clips(side) for side in SIDES}
    ids = [clip for table in tables.values() for clip in table.ids]
    assert len(ids) == len({*ids}) == 5 * 2 * 2 + 3 * 2 * 2  # of two emotions each
    assert {clip.rpartition("/")[2] for clip in ids if clip.startswith("alpha/1-fear")} == {"1-fear-0", "1-fear-1"}
    speakers = [{*table.clip_speakers} for table in tables.values()]
    assert not set.intersection(*speakers)
    assert sum(map(len, speakers)) == 8
    assert len({*tables["train"].shards, *tables["test"].shards, *tables["validation"].shards}) == 8
    assert {*np.unique(corpus_indices(tables["train"]))} == {0, 1}


def test_clips_of_one_id_in_two_corpora_are_augmented_apart(shards: Path) -> None:
    tables = [open_fold(open_corpora(names), "1", strategy="cfas").training for names in (["shards/alpha"], BOTH)]
    batches = [
        next(Loader(clips, ClipSampler(clips=len(clips), batch_size=len(clips), shuffle=False), workers=0).epoch(1))
        for clips in tables
    ]
    assert batches[0].draw_keys == batches[0].keys  # a single corpus: as ever
    assert len({*batches[1].keys}) < len(batches[1].keys)
    assert batches[1].draw_keys == tables[1].ids
    drawn = ClipDraws(keys=batches[1].draw_keys, seed=0, epoch=1).uniform("crop", 4)
    assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_every_speaker_is_tested_once(shards: Path) -> None:
    corpora = open_corpora(["shards/alpha", "shards/beta", "shards/gamma"])
    tested = Counter(
        speaker
        for fold in corpora.folds
        for speaker in {*open_fold(corpora, fold, strategy="faces").clips("test").clip_speakers}
    )
    assert tested == dict.fromkeys(
        [f"{values['dataset']}/{name}" for values in (ALPHA, BETA, GAMMA) for name in values["speakers"]], 1
    )


def test_statistics_are_of_the_training_shards_of_all(shards: Path) -> None:
    corpora = open_corpora(["shards/alpha", "shards/beta"])
    data = open_fold(corpora, "1", strategy="cfas")
    expected = None
    for part in data.parts:
        for name in part.sides["train"].shards:
            sums = index.load_receipt(part.folder.path / index.receipt_name(name)).statistics["mfcc_16"]
            expected = sums if expected is None else expected + sums
    assert {part.name for part in data.parts if part.sides["train"].shards} == {"alpha", "beta"}
    assert data.training.statistics.count == expected.count
    np.testing.assert_allclose(data.training.statistics.total, expected.total)


def test_a_dataset_of_several_folders(shards: Path) -> None:
    dataset = ShardDataset(["shards/alpha", "shards/beta"], fold=1, side="test")
    assert dataset.classes == ("fearful", "happy")
    assert {*dataset.speakers} == {"alpha/1", "alpha/4", "beta/1"}
    alone = ShardDataset("shards/beta", fold="1", side="test")
    same = dataset[dataset.keys.index("beta/1-happy-1")]
    mine = alone[alone.keys.index("1-happy-1")]
    assert torch.equal(same["faces"], mine["faces"])
    assert torch.equal(same["spectrograms"], mine["spectrograms"])
    assert (same["speaker"], same["key"], same["label"]) == ("beta/1", "beta/1-happy-1", 1)
    batches = DataLoader(dataset, batch_size=4, num_workers=2)
    assert sorted(key for batch in batches for key in batch["key"]) == sorted(dataset.keys)


def test_without_labels_every_clip_of_all_corpora_is_read(shards: Path) -> None:
    dataset = ShardDataset(["shards/alpha", "shards/beta"], fold=1, side="train", label_scheme="none")
    assert dataset.classes == ()
    assert {*dataset.labels} == {-1}
    assert any(key.startswith("alpha/") and "-bored-" in key for key in dataset.keys)
    assert any(key.startswith("beta/") and "-sad-" in key for key in dataset.keys)


@pytest.mark.parametrize("names", [("alpha",), ("alpha", "beta", "gamma")])
def test_all_clips_of_whole_corpora_are_there_for_a_training_without_labels(shards: Path, names: tuple) -> None:
    corpora = open_whole([shards / name for name in names])
    data = open_fold(corpora, "whole", strategy="cfas", label_scheme="none", unlabelled=True)
    tables = [data.training, data.clips("validation")]
    found = [clip for table in tables for clip in table.ids]
    rows = [(name, row.clip_id) for name in names for row in index.load_rows(shards / name)]
    assert sorted(found) == sorted(clip if len(names) == 1 else f"{name}/{clip}" for name, clip in rows)
    assert {*tables[0].clip_speakers}.isdisjoint(tables[1].clip_speakers)
    assert data.count("test") == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": "marlin"}, "alpha and beta: were built in different ways (crop: aligned -> marlin); build one"),
        ({"align": "clip"}, "(align: frame -> clip)"),
        ({"timeline": "fixed", "step_frames": 3}, "(step_frames: None -> 3; timeline: uniform -> fixed)"),
    ],
)
def test_shards_that_were_built_in_another_way_are_refused(call: Command, changes: dict[str, Any], said: str) -> None:
    change_config(Path("shards/beta"), **changes)
    assert said in refusal(call, "--dataset", "alpha", "beta")
    assert said in refusal(call, "--dataset", "alpha", "--test", "beta")


def test_what_does_not_change_a_clip_may_differ(call: Command) -> None:
    change_config(Path("shards/beta"), decoder="ffmpeg", step_frames=3, options={"labels": "voted"})
    assert call("train", "--dataset", "alpha", "beta")[0] == 0
    result = read_result(Path("runs/alpha+beta/cfas/fold-1"))
    assert result.run.protocol.build == "crop aligned, timeline uniform, align frame, beta/labels voted"


def test_features_that_both_have_are_used(shards: Path, call: Command) -> None:
    both = make_folder(Path("shards/both"), dataset="both", features=("logmel", "mfcc"), speakers=("1", "2", "3"))
    assert open_corpora([both, "shards/beta"]).features == ("mfcc",)
    assert call("train", "--dataset", "both", "beta", "--strategy=spectrograms")[0] == 0
    said = refusal(call, "--dataset", "both", "beta", "--feature=logmel")
    assert "beta: found no feature 'logmel' in its shards" in said
    make_folder(Path("shards/other"), dataset="other", features=("stft",))
    said = refusal(call, "--dataset", "beta", "other")
    assert "beta and other: found no spectrogram that both have (mfcc and stft)" in said


def test_a_corpus_twice_is_refused(shards: Path, call: Command) -> None:
    assert "found alpha twice (shards/alpha and shards/alpha), expected corpora of" in refusal(
        call, "--dataset", "alpha", "alpha"
    )
    said = refusal(call, "--dataset", "alpha", "beta", "--test", "alpha")
    assert "found alpha twice" in said and "a corpus that is trained on has folds to test" in said


@pytest.mark.parametrize("arguments", [("--dataset", "alpha", "copy"), ("--dataset", "alpha", "--test", "copy")])
def test_recordings_in_both_corpora_are_refused(shards: Path, call: Command, arguments: tuple[str, ...]) -> None:
    """The same recordings under another name, and with other names of speakers."""
    make_folder(Path("shards/copy"), dataset="copy", speakers=("x", "y", "z"), emotions=("fear", "joy"))
    assert call("train", *arguments, "--runs=fine")[0] == 0
    rows = [*index.load_rows(Path("shards/copy"))]
    known = next(iter(index.load_rows(Path("shards/alpha")))).sha256
    changed = [replace(row, sha256=known if number == 0 else "0" * 64) for number, row in enumerate(rows)]
    (Path("shards/copy") / index.CLIPS_FILE).write_bytes(index.dump_rows(changed))
    sign(Path("shards/copy"))
    said = refusal(call, *arguments)
    assert "alpha and copy: found 1 recording in both, expected different recordings: their speakers could be" in said
    corpora = open_corpora(["shards/beta", "shards/gamma"])
    check_recordings([part.folder for part in corpora.parts])  # these have none in common


# --- training ----------------------------------------------------------------------------------------------------


def test_training_on_two_corpora(shards: Path, call: Command) -> None:
    status, out, err = call("train", "--dataset", "beta", "alpha", "--strategy=cfas", "--fold=1")
    assert status == 0, err
    assert err.splitlines()[:9] == [
        "alpha+beta, cfas, fold 1: recipe tiny, encoder tiny, mfcc, on cpu; into runs/alpha+beta/cfas/fold-1",
        "alpha      train  validation  test",
        "  fearful      4           2     4",
        "  happy        4           2     4",
        "  without a common class: bored (10 clips)",
        "beta       train  validation  test",
        "  fearful      2           2     2",
        "  happy        2           2     2",
        "  without a common class: sad (6 clips)",
    ]
    home = Path("runs/alpha+beta/cfas/fold-1")
    result = read_result(home)
    assert out.splitlines()[0].startswith("alpha+beta, cfas, fold 1: UAR ")
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == ["  alpha", "  beta"]
    assert result.scores.speakers == ("alpha/1", "alpha/4", "beta/1")
    assert result.corpus_clips == result.scores.clips == 12
    assert sum(result.scores.of_corpus(each).clips for each in result.scores.corpora) == 12
    rows = read_csv(home / "predictions.csv")
    assert {row["clip"].partition("/")[0] for row in rows} == {"alpha", "beta"}
    assert [*rows[0]] == ["clip", "speaker", "label", "predicted", "p(fearful)", "p(happy)"]
    assert len(read_csv(home / "missing.csv")) == 8 * 12
    config = json.loads((home / "model" / "config.json").read_text())["details"]
    assert config["mapping"]["alpha/joy"] == config["mapping"]["beta/happy"] == "happy"
    lineage = load_classifier(home / "model").lineage
    assert [(each.dataset, each.speakers) for each in lineage.ancestors] == [
        ("alpha", ("2", "3", "5")),
        ("beta", ("2", "3")),
    ]
    assert all(each.recordings for each in lineage.ancestors)
    assert lineage.ancestors[0].recordings != lineage.ancestors[1].recordings


def test_the_order_of_the_corpora_does_not_matter(shards: Path, call: Command) -> None:
    first = call("train", "--dataset", "beta", "alpha")
    again = call("train", "--dataset", "alpha", "beta")
    assert (again[0], again[1], again[2]) == (0, first[1], "")  # finished
    assert call("train", "--shards", "shards/beta", "shards/alpha")[1:] == (first[1], "")


def test_stopped_after_each_step_is_the_same_in_the_end(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPES["tiny"], batch=6))
    arguments = ["--dataset", "alpha", "beta", "--refit=1"]
    assert call("train", *arguments, "--runs=whole")[0] == 0
    monkeypatch.setattr(run_fold, "stop_on_signal", lambda *_: nullcontext(lambda: True))
    statuses = []
    while 0 not in statuses and len(statuses) < 20:
        statuses.append(call("train", *arguments, "--runs=parts")[0])
    assert {*statuses[:-1]} == {130} and statuses[-1] == 0 and len(statuses) > 3
    one, other = (Path(runs) / "alpha+beta/cfas/fold-1" for runs in ("whole", "parts"))
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    first, second = (safetensors.torch.load_file(each / "model" / "model.safetensors") for each in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_result(one).run.training_clips == 20  # with the validation clips


def test_other_corpora_are_other_settings(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "alpha", "beta")[0] == 0
    rebuilt = make_folder(Path("rebuilt/beta"), **{**BETA, "takes": 3})
    said = refusal(call, "--shards", "shards/alpha", str(rebuilt))
    assert "was trained with other settings (other shards, or other initial weights)" in said
    assert "(recipe.sampling: None -> balanced-corpora" in refusal(
        call, "--dataset", "alpha", "beta", "--set=sampling=balanced-corpora"
    )


def test_each_corpus_equally_often(shards: Path, call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Counter[str]] = []
    original = run_fold.TrainingSetup.make_loader

    def make_loader(setup: Any, side: str) -> Any:
        loader = original(setup, side)
        if side == "train":
            corpora = corpus_indices(loader.clips)
            seen.append(Counter(corpora[np.concatenate(loader.sampler.batches(1))].tolist()))
        return loader

    monkeypatch.setattr(run_fold.TrainingSetup, "make_loader", make_loader)
    assert call("train", "--dataset", "alpha", "beta", "--set=sampling=balanced-corpora")[0] == 0
    assert call("train", "--dataset", "alpha", "beta", "--runs=plain")[0] == 0
    assert seen == [{0: 6, 1: 6}, {0: 8, 1: 4}]


def test_a_sweep_trains_all_common_folds_and_the_report_has_each_corpus(shards: Path, call: Command) -> None:
    status, out, err = call("sweep", "--dataset", "alpha", "beta", "--strategy", "faces", "spectrograms", "--refit=0")
    assert status == 0, err
    assert [path.name for path in finished_runs(Path("runs"))] == ["fold-1", "fold-2", "fold-3"] * 2
    assert "alpha+beta, faces, 3 of 3 folds: UAR " in out
    (summary, _) = read_summaries(Path("runs"))
    assert len(summary.pooled.speakers) == 8
    assert summary.pooled.corpora == ("alpha", "beta")
    assert call("report", "--runs=runs")[0] == 0
    report = Path("runs/report/report.md").read_text()
    assert "## alpha+beta\n" in report and "### By corpus" in report
    assert "| Strategy | alpha, pooled UAR | alpha, pooled WAR | beta, pooled UAR | beta, pooled WAR |" in report
    assert "Across corpora" not in report
    assert Path("runs/report/figures/alpha-and-beta-strategies.png").is_file()


def test_a_fold_that_lacks_clips_of_one_corpus_is_left_out_of_a_sweep(shards: Path, call: Command) -> None:
    lines = ["clip,fold,side"]
    for fold, tested in (("a", "1"), ("b", "2"), ("c", "3")):
        for speaker in ("1", "2", "3"):
            emotions = ("sad",) if fold == "b" and speaker == "2" else ("fear", "happy")
            side = "test" if speaker == tested else "validation" if speaker == str(int(tested) % 3 + 1) else "train"
            lines += [f"{speaker}-{emotion}-{take},{fold},{side}" for emotion in emotions for take in (0, 1)]
    Path("split.csv").write_text("\n".join(lines) + "\n")
    arguments = ["--dataset", "alpha", "beta", "--strategy=faces", "--fold-scheme", "loso", "split.csv"]
    said = refusal(call, *arguments, "--fold=2")
    assert "fold 2: no clip of the test side has a class (found sad); folds that can be used: FOLD=1 (or 3)" in said
    assert said.startswith("error: beta, scheme ")
    status, out, err = call("sweep", *arguments, "--refit=0")
    assert status == 1, err
    assert "left out: beta, scheme " in out
    assert [path.name for path in finished_runs(Path("runs"))] == ["fold-1", "fold-3"]


def test_a_scheme_for_each_corpus(shards: Path, call: Command) -> None:
    Path("split.csv").write_text("speaker,side\n1,train\n2,val\n3,test\n")
    Path("other.csv").write_text("speaker,side\n5,train\n4,val\n3,test\n1,test\n")
    # In the order of the corpora as they are named.
    assert call("train", "--dataset", "beta", "alpha", "--fold-scheme", "split.csv", "other.csv")[0] == 0
    result = read_result(Path("runs/alpha+beta/cfas/fold-1"))
    assert result.scores.speakers == ("alpha/1", "alpha/3", "beta/3")
    assert result.run.protocol.fold_scheme.startswith("other-")
    said = refusal(call, "--dataset", "alpha", "beta", "--fold-scheme", "loso", "split.csv")
    assert "found schemes of alpha 5 folds, beta 1 fold; expected several folds of each corpus, or one of each" in said
    said = refusal(call, "--dataset", "alpha", "beta", "--fold-scheme", "loso", "loso", "loso")
    assert "found 3 fold schemes, expected one for each of 2 corpora, or one" in said
    said = refusal(call, "--dataset", "alpha", "beta", "--fold-scheme", "speakers-10fold")
    assert "alpha: unknown fold scheme 'speakers-10fold'; valid are loso" in said
    assert "unknown fold '9'; valid are 1, 2, 3" in refusal(call, "--dataset", "alpha", "beta", "--fold=9")


def test_without_a_validation_a_corpus_may_lack_that_side(shards: Path, call: Command) -> None:
    """Two speakers are enough of it."""
    Path("split.csv").write_text("speaker,side\n1,train\n2,test\n")
    Path("other.csv").write_text("speaker,side\n1,train\n2,val\n3,test\n")
    arguments = ["--dataset", "alpha", "beta", "--fold-scheme", "split.csv", "other.csv"]
    said = refusal(call, *arguments)
    assert "the validation side is empty; FIXED_EPOCHS=1 trains without it; no fold of these schemes can be" in said
    status, _, err = call("train", *arguments, "--fixed-epochs")
    assert status == 0, err
    assert read_result(Path("runs/alpha+beta/cfas/fold-1")).run.training_clips == 12


def test_a_table_of_labels_names_the_corpora(shards: Path, call: Command) -> None:
    lines = ["dataset,emotion,class", ",fear,bad", ",joy,good", "beta,happy,good", "beta,sad,bad", "alpha,bored,"]
    Path("map.csv").write_text("\n".join(lines) + "\n")
    status, _, err = call("train", "--dataset", "alpha", "beta", "--label-scheme=map.csv")
    assert status == 0, err
    assert read_result(Path("runs/alpha+beta/cfas/fold-1")).run.protocol.classes == ("bad", "good")
    assert "  all emotions have a class" in err.splitlines()
    assert "  without a common class: bored (10 clips)" in err.splitlines()
    said = refusal(call, "--dataset", "alpha", "beta", "--label-scheme=none")
    assert "shards/alpha: found no labels, expected some to train a classifier with" in said


# --- lineage -----------------------------------------------------------------------------------------------------


def test_weights_of_several_corpora_know_the_speakers_of_each(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "alpha", "beta", "--fold=1")[0] == 0
    weights = "--weights=runs/alpha+beta/cfas/fold-1"
    said = refusal(call, "--dataset", "beta", "--fold=2", "--runs=next", weights)
    assert "were trained or validated on 2 of beta, whom fold 2 tests; expected unseen speakers: these weights" in said
    assert "fold 1 of loso" in said
    assert call("train", "--dataset", "beta", "--fold=1", "--runs=next", weights)[0] == 0
    assert call("train", "--dataset", "gamma", "--fold=7", "--runs=next", weights)[0] == 0
    said = refusal(call, "--dataset", "gamma", "--test", "beta", "--runs=next", weights)
    assert (
        "were trained or validated on 2, 3 of beta, which is tested as a whole; expected weights that have seen none"
        in said
    )


def test_weights_of_one_corpus_are_refused_for_several(shards: Path, call: Command) -> None:
    """By the name of a speaker of the same corpus, not by that of another one."""
    assert call("train", "--dataset", "beta", "--fold=1")[0] == 0
    weights = "--weights=runs/beta/cfas/fold-1"
    said = refusal(call, "--dataset", "alpha", "beta", "--fold=2", "--runs=next", weights)
    assert "were trained or validated on 2 of beta, whom fold 2 tests" in said and "on fold 1 of loso+loso" in said
    assert call("train", "--dataset", "alpha", "beta", "--fold=1", "--runs=next", weights)[0] == 0
    assert call("train", "--dataset", "alpha", "gamma", "--fold=2", "--runs=next", weights)[0] == 0
    last = load_classifier(Path("runs/../next/alpha+beta/cfas/fold-1/model")).lineage
    assert [each.dataset for each in last.ancestors] == ["beta", "alpha", "beta"]


def test_recordings_of_a_tested_corpus_are_known_under_another_name(shards: Path, call: Command) -> None:
    make_folder(Path("shards/copy"), **{**BETA, "dataset": "copy"})
    hash_recordings(Path("shards/copy"), "beta")
    assert call("train", "--dataset", "copy", "gamma", "--fold=1")[0] == 0
    weights = "--weights=runs/copy+gamma/cfas/fold-1"
    said = refusal(call, "--dataset", "alpha", "--test", "beta", "--runs=next", weights)
    assert "were trained or validated on 2, 3 of beta, which is tested as a whole" in said
    said = refusal(call, "--dataset", "alpha", "beta", "--fold=3", "--runs=next", weights)
    assert "were trained or validated on 3 of beta, whom fold 3 tests" in said
    assert "were trained or validated on 8, 9 of gamma" in refusal(
        call, "--dataset", "alpha", "--test", "gamma", weights
    )
    assert call("train", "--dataset", "beta", "--test", "alpha", "--runs=next", weights)[0] == 0  # beta is not tested
    result = read_result(Path("next/beta/cfas/test-alpha"))
    assert result.run.protocol.selection.endswith(", whom the initial weights know")


# --- across corpora ----------------------------------------------------------------------------------------------


def test_a_whole_other_corpus_is_tested(shards: Path, call: Command) -> None:
    status, out, err = call("train", "--dataset", "alpha", "--test", "beta")
    assert status == 0, err
    assert out.startswith("alpha, cfas, tested on all of beta: UAR ") and out.count("\n") == 1
    home = Path("runs/alpha/cfas/test-beta")
    result = read_result(home)
    assert result.run.tests == ("beta",)
    assert result.scores.speakers == ("beta/1", "beta/2", "beta/3")
    assert result.scores.clips == result.corpus_clips == 3 * 2 * 2  # of the common classes
    assert {row["label"] for row in read_csv(home / "predictions.csv")} == {"fearful", "happy"}
    (ancestor,) = load_classifier(home / "model").lineage.ancestors
    assert (ancestor.dataset, ancestor.speakers) == ("alpha", ("1", "2", "3", "4", "5"))
    config = json.loads((home / "config.json").read_text())["config"]
    assert (config["tests"], config["fold"]) == (["shards/beta"], "test:beta")
    data = open_fold(open_corpora(["shards/alpha"], tests=["shards/beta"]), "test:beta", strategy="cfas")
    assert data.parts[0].sides["validation"].subjects == ("3",)  # a fifth, the one in the middle
    assert not {*data.parts[0].sides["test"].shards} and not {*data.parts[1].sides["train"].shards}
    assert call("train", "--dataset", "alpha", "--test", "beta")[1:] == (out, "")  # finished
    assert finished_runs(Path("runs")) == [home]


def test_a_clip_that_was_dropped_counts_as_one_of_the_corpus(shards: Path, call: Command) -> None:
    rows = [*index.load_rows(Path("shards/beta"))]
    lost = [
        replace(rows[0], clip_id=f"4-{emotion}", speaker="4", emotion=emotion, status="dropped", shard=None)
        for emotion in ("fear", "sad")
    ]
    lost = [replace(row, reason="no_face") for row in lost]
    (Path("shards/beta") / index.CLIPS_FILE).write_bytes(index.dump_rows([*rows, *lost]))
    sign(Path("shards/beta"))
    assert call("train", "--dataset", "alpha", "--test", "beta")[0] == 0
    result = read_result(Path("runs/alpha/cfas/test-beta"))
    assert (result.scores.clips, result.corpus_clips) == (12, 13)  # sad is no common class


def test_several_corpora_are_tested_by_one_training_and_trained_on_for_one_test(shards: Path, call: Command) -> None:
    status, out, err = call("train", "--dataset", "alpha", "--test", "gamma", "beta", "--strategy=faces")
    assert status == 0, err
    assert [line.split(":")[0] for line in out.splitlines()[1:]] == ["  beta", "  gamma"]
    result = read_result(Path("runs/alpha/faces/test-beta+gamma"))
    assert {name.partition("/")[0] for name in result.scores.speakers} == {"beta", "gamma"}
    assert call("train", "--dataset", "gamma", "alpha", "--test", "shards/beta", "--strategy=faces")[0] == 0
    assert read_result(Path("runs/alpha+gamma/faces/test-beta")).run.corpora == ("alpha", "gamma")


def test_a_sweep_across_corpora_resumes_and_is_apart_in_the_report(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "alpha", "--strategy=faces", "--fold=1")[0] == 0
    status, out, err = call("sweep", "--dataset", "alpha", "--test", "beta", "--strategy", "faces", "cfas", "--seeds=2")
    assert status == 0, err
    assert [path.name for path in finished_runs(Path("runs")) if path.parent.name == "faces"] == [
        *("fold-1", "test-beta", "test-beta-seed-1")
    ]
    assert "alpha, faces, tested on all of beta, 2 seeds" in out
    assert "1 of 5 folds" not in out  # of the run on a fold
    summaries = read_summaries(Path("runs"))
    assert [(each.run.strategy, each.run.tests, each.name) for each in summaries] == [
        ("cfas", ("beta",), "cfas"),
        ("faces", (), "faces"),
        ("faces", ("beta",), "faces"),
    ]
    assert call("report", "--runs=runs")[0] == 0
    report = Path("runs/report/report.md").read_text()
    within, across = report.split("## Across corpora\n")
    across = across.split("\n## ")[0]
    rows = [line for line in across.splitlines() if line.startswith("| alpha")]
    assert [row.split(" | ")[1] for row in rows] == ["cfas", "faces"]
    pooled = summaries[0].pooled
    assert f"{100 * pooled.uar:.2f}" in rows[0] and "(2 classes, 12 of 12 clips; 20 trained on)" in rows[0]
    assert "| Trained on | Strategy | Encoder before | Epoch selected on | beta |" in across
    assert "- Ours, alpha on beta by cfas, alpha on beta by faces: recipe tiny, encoder tiny from random" in across
    assert "beta" not in within.split("## alpha\n")[1].split("## ")[0]
    assert (Path("runs/report/figures") / "alpha-on-beta-cfas-confusion.png").is_file()


def test_scores_of_several_tests_stand_in_one_row(shards: Path, call: Command) -> None:
    for test in ("beta", "gamma"):
        assert call("train", "--dataset", "alpha", "--test", test, "--strategy=faces")[0] == 0
    assert call("train", "--dataset", "gamma", "--test", "beta", "--strategy=faces")[0] == 0
    call("report", "--runs=runs")
    report = Path("runs/report/report.md").read_text()
    rows = [
        line.strip("| ").split(" | ") for line in report.splitlines() if line.startswith(("| alpha |", "| gamma |"))
    ]
    assert [(row[0], "classes" in row[-2], row[-1] == "—") for row in rows] == [
        ("alpha", True, False),
        ("gamma", True, True),
    ]


def test_published_figures_stand_apart_from_tests_across_corpora(shards: Path, call: Command) -> None:
    schemes = {"crema-d": ("crema-d-6",), "ravdess": ("ravdess-7", "ravdess-8")}
    emotions = {"crema-d": ("ANG", "HAP", "NEU", "DIS"), "ravdess": ("angry", "calm", "happy", "surprised")}
    for name, known in schemes.items():
        home = Path("shards") / name
        make_folder(home, dataset=name, speakers=ALPHA["speakers"], emotions=emotions[name], label_schemes=known)
    status, _, err = call("train", "--dataset", "crema-d", "--test", "ravdess")
    assert status == 0, err
    assert "  without a common class: DIS (10 clips)" in err.splitlines()
    assert "  without a common class: surprised (10 clips)" in err.splitlines()
    assert read_result(Path("runs/crema-d/cfas/test-ravdess")).run.protocol.classes == ("angry", "happy", "neutral")
    assert call("train", "--dataset", "crema-d", "ravdess", "--strategy=faces")[0] == 0
    assert call("report", "--runs=runs")[0] == 0
    sections = Path("runs/report/report.md").read_text().split("\n## ")
    titles = [section.splitlines()[0] for section in sections[1:]]
    assert titles[:2] == ["crema-d+ravdess", "Across corpora"]
    for title, section in zip(titles, sections[1:], strict=True):
        if "the paper's Table" in title:
            assert section.count("not run") == 16, title  # UAR and WAR of eight strategies
        else:
            assert "MultiMAE-DER" not in section
    make_folder(Path("shards/iemocap"), dataset="iemocap", emotions=("ang", "hap", "odd"), label_schemes=("iemocap-4",))
    said = refusal(call, "--dataset", "crema-d", "--test", "iemocap")
    assert "label scheme common: found 'odd' in iemocap, expected only ang, dis, exc, " in said


def test_what_a_test_across_corpora_does_not_take_is_refused(shards: Path, call: Command) -> None:
    across = ("--dataset", "alpha", "--test", "beta")
    assert "fold: found 1, expected none with --test, which tests whole corpora" in refusal(call, *across, "--fold=1")
    assert "found fold scheme loso, expected none: a whole corpus is" in refusal(call, *across, "--fold-scheme=loso")
    said = refusal(call, "--dataset", "alpha", "--test", "delta")
    assert "shards/delta: not found; found shards of alpha, beta, gamma; choose with TEST= (--test)" in said
    make_folder(Path("shards/mute"), dataset="mute", emotions=(None,))
    said = refusal(call, "--dataset", "alpha", "--test", "mute")
    assert "mute: found no labels, but some of the other corpora" in said
    beta = Path("shards/beta")
    rows = [replace(row, emotion="sad") if row.speaker == "2" else row for row in index.load_rows(beta)]
    (beta / index.CLIPS_FILE).write_bytes(index.dump_rows(rows))
    sign(beta)
    assert refusal(call, "--dataset", "beta", "--test", "alpha") == (
        "error: beta: no clip of the validation side has a class (found sad); choose other corpora, or classes with "
        "LABELS= (--label-scheme), or FIXED_EPOCHS=1 (--fixed-epochs), which takes no validation\n"
    )
    make_folder(Path("shards/odd"), dataset="odd", emotions=("fear", "odd"))
    assert "found fearful that all corpora have, expected at least 2 classes: alpha has" in refusal(
        call, "--dataset", "alpha", "--test", "odd"
    )


# --- what comes after a training ---------------------------------------------------------------------------------


def test_predictions_of_each_corpus_are_scored_by_its_own_names(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "alpha", "beta")[0] == 0
    run = Path("runs/alpha+beta/cfas/fold-1")
    predicted = {row["clip"]: row for row in read_csv(run / "predictions.csv")}
    predictor = Predictor.load(run)
    for corpus, emotion in (("alpha", "joy"), ("beta", "happy")):
        found = {clip.clip: clip for clip in predictor.predict_shards(f"shards/{corpus}")}
        assert found[f"1-{emotion}-0"].label == "happy"
        assert {clip.speaker for clip in found.values() if not clip.seen} == (
            {"1", "4"} if corpus == "alpha" else {"1"}
        )
        row = predicted[f"{corpus}/1-fear-0"]
        assert (row["predicted"], row["label"]) == (found["1-fear-0"].predicted, found["1-fear-0"].label)
        assert float(row["p(happy)"]) == pytest.approx(found["1-fear-0"].probabilities["happy"], abs=1e-5)
    third = predictor.predict_shards("shards/gamma")
    assert not any(clip.seen for clip in third)
    assert {(clip.clip.split("-")[1], clip.label) for clip in third} == (
        {("afraid", "fearful"), ("joy", "happy"), ("bored", None)}  # by the common names, as a test across corpora
    )
    assert call("train", "--dataset", "alpha", "--test", "beta")[0] == 0
    across = Predictor.load("runs/alpha/cfas/test-beta")
    assert {clip.label for clip in across.predict_shards("shards/beta")} == {"fearful", "happy", None}
    assert not any(clip.seen for clip in across.predict_shards("shards/beta"))
    assert all(clip.seen for clip in across.predict_shards("shards/alpha"))


def test_another_corpus_is_not_scored_by_a_table_of_classes(shards: Path, call: Command) -> None:
    Path("map.csv").write_text("emotion,class\nfear,bad\njoy,good\nhappy,good\nbored,bad\nsad,bad\n")
    assert call("train", "--dataset", "alpha", "beta", "--label-scheme=map.csv")[0] == 0
    run = "runs/alpha+beta/cfas/fold-1"
    assert "12 clips of unseen speakers" in call("predict", "--run", run, "--shards=shards/alpha")[1]
    status, out, err = call("predict", "--run", run, "--shards=shards/gamma")
    assert (status, "UAR" in out, "labelled" in out) == (0, False, False)
    assert "shards/gamma: not scored, because the classes (bad, good) are those of a table of alpha+beta, and " in err


def test_embeddings_of_a_run_on_several_corpora_need_one_of_them(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "alpha", "--test", "beta")[0] == 0
    status, out, err = call("embeddings", "--run=runs/alpha/cfas/test-beta", "--out=a.npz")
    assert (status, out) == (2, "")
    assert err == (
        "error: embeddings: found a run on 2 corpora, expected the one to compute vectors of: DATASET= (--dataset), "
        "such as alpha, beta\n"
    )


def test_embeddings_have_the_folds_of_the_run(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "alpha", "beta", "--fold=2")[0] == 0
    run = "runs/alpha+beta/cfas/fold-2"
    assert call("embeddings", f"--run={run}", "--dataset=alpha", "--out=a.npz")[0] == 0
    with np.load("a.npz") as found:
        folds = dict(zip(found["speaker"].tolist(), found["fold"].tolist(), strict=True))
        labels = dict(zip(found["clip"].tolist(), found["label"].tolist(), strict=True))
        settings = json.loads(str(found["settings"]))
    assert folds == {"1": "1", "2": "2", "3": "3", "4": "1", "5": "2"}
    assert (labels["1-joy-0"], labels["1-bored-0"]) == ("happy", "")
    assert settings["seen_speakers"] == ["1", "3", "4"]
    assert call("export", f"--run={run}", "--out=exported")[0] == 0
    status, _, err = call("embeddings", "--run=exported", "--dataset=alpha", "--out=b.npz")
    assert status == 0
    assert "exported: found no folds-alpha.json, expected the folds of loso+loso, which it was trained with" in err
    card = Path("exported/README.md").read_text()
    assert "--shards shards/alpha\n" in card and "--shards shards/beta\n" in card
    assert "- alpha: UAR " in card
    assert call("train", "--dataset", "gamma", "--fold=7", "--weights=exported")[0] == 0


def test_a_frozen_encoder_trains_on_cached_features_of_all_corpora(shards: Path, call: Command) -> None:
    assert call("train", "--dataset", "gamma", "--fold=7", "--runs=before")[0] == 0
    arguments = ["--dataset", "alpha", "beta", "--weights=before/gamma/cfas/fold-7", "--recipe=linear-probe"]
    status, _, err = call("train", *arguments)
    assert status == 0, err
    assert err.count("features of ") == 5  # shards of training and validation
    assert "features of " not in call("train", *arguments, "--seed=1")[2]


# --- where shards are --------------------------------------------------------------------------------------------


def test_parts_that_were_fetched_are_enough_to_train_and_the_rest_tests(shards: Path, call: Command) -> None:
    for fold in ("1", "4"):
        fetch("shards/alpha", Path(f"part{fold}/alpha"), FoldRequest(fold=fold, splits=("train",)))
    arguments = ["--shards", "part1/alpha", "shards/beta", "--fold=1"]
    status, out, err = call("train", *arguments)
    assert (status, out) == (0, ""), err
    last = err.splitlines()[-1]
    assert last.startswith("trained; the test fold is not available: run ") and last.count(" fetch ") == 2
    assert "--fold 1 --fold-scheme loso --split test, " in last and "--fold 4 --fold-scheme loso --split test, " in last
    fetch("shards/alpha", Path("part1/alpha"), FoldRequest(fold="1", splits=("test",)))
    fetch("shards/alpha", Path("part1/alpha"), FoldRequest(fold="4", splits=("test",)))
    status, out, _ = call("train", *arguments)
    assert status == 0 and out.startswith("alpha+beta, cfas, fold 1: UAR ")
    said = refusal(call, "--shards", "part4/alpha", "shards/beta", "--fold=2", "--runs=next")
    assert "part4/alpha: of 3 training and validation shards of fold 2 found 2; fetch the rest: " in said
    assert said.endswith(" --fold 2 --fold-scheme loso --split train\n")


def test_a_part_of_a_corpus_that_is_tested_as_a_whole(shards: Path, call: Command) -> None:
    fetch("shards/beta", Path("part/beta"), FoldRequest(fold="1", splits=("train",)))
    status, out, err = call("train", "--dataset", "alpha", "--test", "part/beta")
    assert (status, out) == (0, ""), err
    assert err.splitlines()[-1].endswith("shards/beta part/beta, then this command again to test, once")
    fetch("shards/beta", Path("part/beta"))
    assert call("train", "--dataset", "alpha", "--test", "part/beta")[1].startswith(
        "alpha, cfas, tested on all of beta"
    )
    fetch("shards/alpha", Path("part/alpha"), FoldRequest(fold="1", splits=("test",)))
    said = refusal(call, "--shards", "part/alpha", "--test", "beta", "--runs=next")
    assert "part/alpha: of 5 training and validation shards found 1; fetch the rest: " in said
    with pytest.raises(DataError, match="unknown fold 'x'; valid are test:beta"):
        open_fold(open_corpora(["shards/alpha"], tests=["shards/beta"]), "x", strategy="cfas")


def test_an_address_beside_a_folder(shards: Path, call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    assert call("train", "--dataset", "alpha", "beta", "--runs=local")[0] == 0
    assert call("train", "--dataset", "beta", "--test", "alpha", "--runs=local")[0] == 0
    with FileServer(shards / "alpha", prefix="lab/alpha") as server:
        status, _, err = call("train", "--shards", "shards/beta", server.url, "--runs=remote")
        assert status == 0, err
        status, _, err = call("train", "--shards", "shards/beta", "--test", server.url, "--runs=remote")
        assert status == 0, err
    for run in ("alpha+beta/cfas/fold-1", "beta/cfas/test-alpha"):
        tables = [(Path(runs) / run / "predictions.csv").read_bytes() for runs in ("local", "remote")]
        assert tables[0] == tables[1]
    config = json.loads(Path("remote/beta/cfas/test-alpha/config.json").read_text())["config"]
    assert config["tests"] == [server.url]


def test_a_damaged_shard_of_either_corpus_is_refused(shards: Path, call: Command) -> None:
    tar = Path("shards/beta/2-000.tar")
    data = tar.read_bytes()
    tar.write_bytes(data[:-600] + bytes([data[-600] ^ 1]) + data[-599:])
    status, _, err = call("train", "--dataset", "alpha", "beta", "--fold=1")
    assert status == 2
    assert "shards/beta/2-000.tar: found SHA-256 " in err.splitlines()[-1]


def test_corpora_are_drawn_in_shares() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    sampler = ClipSampler(clips=100, batch_size=10, balanced_labels=labels, class_shares=(1.0, 3.0, 1.0))
    drawn = labels[sampler.order(1)]
    assert np.bincount(drawn).tolist() == [20, 60, 20]
    assert np.bincount(sampler.order(1)[drawn == 1], minlength=95)[80:95].tolist() == [4] * 15  # all equally often
    equal = replace(sampler, class_shares=(2.0, 2.0, 2.0))
    assert np.array_equal(equal.order(1), replace(sampler, class_shares=()).order(1))


def test_shares_of_corpora_have_names(shards: Path) -> None:
    clips = open_fold(
        open_whole([shards / "alpha", shards / "beta"]), "whole", strategy="faces", label_scheme="none", unlabelled=True
    ).training
    names = list(dict.fromkeys(speaker.partition("/")[0] for speaker in clips.speakers))
    assert corpus_shares(clips, {names[1]: 3.0}) == (1.0, 3.0)
    assert corpus_shares(clips, {}) == ()
    with pytest.raises(DataError, match="corpus_weights: found gamma, expected one of "):
        corpus_shares(clips, {"gamma": 1.0})
    base = {"name": "a", "epochs": 1, "batch": 2, "learning_rate": 0.1}
    weights = Recipe(**base, sampling="balanced-corpora", corpus_weights=("a=2", "b = 0.5")).weights_of_corpora
    assert weights == {"a": 2.0, "b": 0.5}
    for wrong in (("a",), ("a=0",), ("a=1", "a=2"), ("a=nan",)):
        with pytest.raises(RecipeError, match="corpus_weights: found"):
            Recipe(**base, sampling="balanced-corpora", corpus_weights=wrong)
    with pytest.raises(RecipeError, match="with sampling = balanced-corpora"):
        Recipe(**base, corpus_weights=("a=2",))
