"""Fine-tuning of a VQ-MAE-AV on shards of tokens: runs like those of other models, and what can be done with them."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.factories.shards import make_folder
from tests.factories.small_trainings import counted
from tests.factories.tokens import make_token_folder
from tests.train.test_token_pretraining import ALONE, NARROW
from tests.train.test_token_pretraining import setup as pretraining
from train import cli
from train.config import TrainConfig
from train.lineage import Ancestor, Lineage
from train.models.vq_mae_av import MODELS
from train.models.vq_mae_weights import load_emotion_classifier
from train.predict import PredictError, Predictor
from train.pretraining.run import run_pretraining
from train.recipes import RECIPES
from train.run_fold import run_fold
from train.run_setup import TrainingSetup, prepare
from train.runs import read_result
from train.trainer import Stopped


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(MODELS, "tiny", NARROW)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_folder(tmp_path_factory.mktemp("tokens") / "folder")


def setup(shards: Path, runs: Path, **changes: Any) -> TrainingSetup:
    """A run of few epochs; `changes` are of the recipe, its table, or the configuration."""
    recipe = replace(RECIPES["vq-mae-av-tiny"], epochs=2, warmup_epochs=1)
    table = {name: changes.pop(name) for name in ("head", "depth", "fusion") if name in changes}
    recipe = replace(recipe, vq_mae=replace(recipe.vq_mae, **table))
    known = set(TrainConfig.__dataclass_fields__)
    recipe = replace(recipe, **{name: value for name, value in changes.items() if name not in known})
    encoder = None if "weights" in changes else "tiny"
    settings = {"strategy": "vq-mae-av", "fold": "anna", "encoder": encoder, **changes}
    settings = {name: value for name, value in settings.items() if name in known}
    config = TrainConfig(shards=str(shards), runs=str(runs), recipe=recipe, **settings)
    return prepare(config, ALONE, lambda line: None)


@pytest.fixture(scope="module")
def pretrained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", NARROW)
        run_pretraining(made := pretraining(shards, tmp_path_factory.mktemp("pretrained")))
    return made.folder / "model"


@pytest.mark.parametrize(
    "changes",
    [
        *({"head": head} for head in ("mean", "attention", "query2emo")),
        *({"strategy": strategy} for strategy in ("vq-mae-a", "vq-mae-v")),
        {"fusion": "caf-saf", "depth": 2},
    ],
)
def test_a_run_is_like_those_of_other_models(shards: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    ours = setup(shards, tmp_path, **changes)
    result = run_fold(ours)
    assert result is not None
    strategy = changes.get("strategy", "vq-mae-av")
    assert ours.folder == tmp_path / "folder" / strategy / "fold-anna"
    assert result.scores.clips == 8
    assert len(result.missing) == 8
    if strategy == "vq-mae-a":  # without faces nothing changes
        missing = {
            condition.share: scores for condition, scores in result.missing.items() if condition.modality == "faces"
        }
        assert {scores.uar for scores in missing.values()} == {result.scores.uar}
    protocol = result.run.protocol
    assert protocol.windows == "random 2 s, tested on 3 windows of 2 s"
    depth, head = changes.get("depth", 1), changes.get("head", "attention")
    fusion = changes.get("fusion", "saf-saf")
    assert protocol.encoder == f"tiny: depth {depth}, fusion {fusion}, head {head}, losses none, scratch"
    predictor = Predictor.load(ours.folder, "cpu")
    predicted = predictor.predict_shards(shards, speakers=["anna"])
    table = {line.split(",")[0]: line for line in (ours.folder / "predictions.csv").read_text().splitlines()[1:]}
    assert {clip.clip for clip in predicted} == table.keys()
    for clip in predicted:
        stored = [float(number) for number in table[clip.clip].split(",")[4:]]
        assert np.allclose([*clip.probabilities.values()], stored, atol=1e-6)


def test_emotions_are_learned(shards: Path, tmp_path: Path) -> None:
    """What is heard and what is seen are told apart together, and half of it alone."""
    scores = {
        strategy: run_fold(setup(shards, tmp_path, strategy=strategy, epochs=30, learning_rate=1e-2)).scores.uar
        for strategy in ("vq-mae-av", "vq-mae-a", "vq-mae-v")
    }
    assert scores["vq-mae-av"] > 0.9
    assert scores["vq-mae-a"] <= 0.75 and scores["vq-mae-v"] <= 0.75


def test_stopped_and_resumed_it_is_the_same(shards: Path, tmp_path: Path) -> None:
    run_fold(whole := setup(shards, tmp_path / "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.run_fold.stop_on_signal", lambda _: nullcontext(counted(2)))
        with pytest.raises(Stopped):
            run_fold(setup(shards, tmp_path / "parts"))
    run_fold(rest := setup(shards, tmp_path / "parts"))
    for name in ("model/model.safetensors", "model/config.json", "predictions.csv", "missing.csv"):
        assert (rest.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_it_begins_with_a_pretraining_and_may_be_frozen(shards: Path, tmp_path: Path, pretrained: Path) -> None:
    ours = setup(shards, tmp_path, weights=str(pretrained), freeze=("encoder.*",))
    before = {name: each.clone() for name, each in ours.model.state_dict().items()}
    result = run_fold(ours)
    assert result.run.protocol.supervision == "self-supervised"
    changed = {name for name, each in ours.model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed and not any(name.startswith("encoder.") for name in changed)
    _, saved = load_emotion_classifier(ours.folder / "model")
    assert saved.lineage.speakers("folder") == {"anna", "ben", "cleo", "dora"} - {"anna"}
    for changes, message in (
        ({"fold": "ben"}, "were trained or validated on ben of folder, whom fold ben tests"),
        ({"depth": 3}, "expected 3 blocks of width 16, saf-saf; leave DEPTH= and FUSION= out"),
        ({"strategy": "vq-mae-a"}, "found vq-mae-av, expected weights of vq-mae-a"),
    ):
        with pytest.raises(ValueError, match=message):
            setup(shards, tmp_path / "other", weights=str(pretrained), **changes)


def test_a_run_is_called_by_all_trainings_that_its_weights_descend_from(
    shards: Path, tmp_path: Path, pretrained: Path
) -> None:
    """The encoder of a pre-training that was continued with another loss has learned from both."""
    marks = "separate passes, decoded 5 %, within instants"
    words = "tiny: depth 1, fusion saf-saf, head attention, losses"

    def pretrain(name: str, **changes: Any) -> str:
        run_pretraining(made := pretraining(shards, tmp_path / name, epochs=1, warmup_epochs=0, **changes))
        return str(made.folder / "model")

    def called(weights: str | Path, **changes: Any) -> str:
        return setup(shards, tmp_path / "unused", weights=str(weights), **changes).protocol.encoder

    assert called(pretrained) == f"{words} both ({marks}), tuned"
    generative = pretrain("generative", contrastive=0.0)
    assert called(generative) == f"{words} generative (decoded 5 %, within instants), tuned"
    continued = pretrain("continued", generative=0.0, weights=generative)
    both = f"{words} both (decoded 5 %, within instants, separate passes, 2 pre-trainings)"
    assert called(continued) == f"{both}, tuned"
    again = pretrain("again", generative=0.0, weights=continued)
    assert called(again, training_share=0.5) == f"{both.replace('2 pre', '3 pre')}, tuned (50 % of the labels)"
    run_fold(classifier := setup(shards, tmp_path / "classifier", weights=generative, epochs=1, warmup_epochs=0))
    supervised = classifier.folder / "model"
    assert called(supervised) == f"{words} unknown, tuned"
    assert called(pretrain("supervised", contrastive=0.0, weights=str(supervised))) == f"{words} unknown, tuned"


def test_weights_that_do_not_say_how_they_were_made_are_in_no_row(
    shards: Path, tmp_path: Path, pretrained: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(pretrained, folder)
    config = json.loads((folder / "config.json").read_text())
    settings = config["details"]["pretraining"]
    for changed in (None, {}, {**settings, "generative": "x"}, {**settings, "earlier": [{}]}, {"earlier": 1}):
        config["details"]["pretraining"] = changed
        (folder / "config.json").write_text(json.dumps(config))
        named = setup(shards, tmp_path / "unused", weights=str(folder)).protocol.encoder
        assert named.endswith("losses unknown, tuned")


def test_tokenizers_that_saw_a_test_speaker_are_refused(tmp_path: Path) -> None:
    seen = Ancestor(dataset="demo", speakers=("anna",), labels=None, strategy="tokenizers", build="", licence="CC0 1.0")
    folder = make_token_folder(tmp_path / "demo", dataset="demo", lineage=Lineage(ancestors=(seen,)))
    for prepared in (setup, pretraining):
        words = "the tokenizers of these codes: were trained or validated on anna of demo, whom"
        with pytest.raises(ValueError, match=words) as at:
            prepared(folder, tmp_path / "runs")
        assert str(at.value).endswith("or train others with make tokenizers FOLD=anna, then make tokens")
    run_pretraining(made := pretraining(folder, tmp_path / "runs", fold="ben", epochs=1, warmup_epochs=0))
    for prepared, weights in ((setup, str(made.folder / "model")), (pretraining, str(made.folder / "model"))):
        with pytest.raises(ValueError, match=words) as at:  # who are also in training, but other weights do not help
            prepared(folder, tmp_path / "others", weights=weights)
        assert "can be tested on fold ben of loso" in str(at.value)
        assert str(at.value).endswith(
            "or train others with make tokenizers FOLD=anna, then make tokens and make pretrain"
        )
        with pytest.raises(ValueError, match=r"model: were trained or validated on cleo of demo, .*other --weights$"):
            prepared(folder, tmp_path / "others", weights=weights, fold="cleo")
    scratch = setup(folder, tmp_path / "runs", fold="ben")
    assert scratch.lineage.speakers("demo") >= {"anna"}
    assert scratch.protocol.supervision == "random"  # of the encoder, whatever made its codes


def test_it_is_exported_and_reported(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = setup(shards, tmp_path / "runs")
    run_fold(run)
    assert cli.run(["export", f"--run={run.folder}", f"--out={tmp_path / 'out'}"]) == 0
    assert Predictor.load(tmp_path / "out", "cpu").predict_shards(shards, speakers=["anna"])
    assert cli.run(["report", f"--runs={tmp_path / 'runs'}"]) == 0
    page = (tmp_path / "runs" / "report" / "report.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| from scratch ")]
    scores = read_result(run.folder).scores
    assert f"29.60 | — | {100 * scores.war:.2f} / {100 * scores.weighted_f1:.2f} (tiny, 1 of 4 folds)" in row
    assert read_result(run.folder).scores.clips == 8
    capsys.readouterr()
    assert cli.run(["export", f"--run={run.folder}", f"--out={tmp_path / 'onnx'}", "--format=onnx"]) == 2
    assert "found a VQ-MAE-AV, expected another model with FORMAT=onnx" in capsys.readouterr().err


def test_what_is_no_input_of_it_is_refused(shards: Path, tmp_path: Path) -> None:
    run_fold(run := setup(shards, tmp_path / "runs"))
    predictor = Predictor.load(run.folder, "cpu")
    with pytest.raises(PredictError, match="found a classifier of codes, expected SHARDS="):
        predictor(["clip.mp4"])
    with pytest.raises(PredictError, match="found shards of pairs, expected codes of aaaaaaaaaaaa"):
        predictor.predict_shards(make_folder(tmp_path / "pairs"))


def test_commands_take_the_model_and_its_settings(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pretrained: Path
) -> None:
    words = [f"--shards={shards}", f"--runs={tmp_path}", "--model=vq-mae-av", "--fold=anna", "--epochs=1"]
    assert cli.run(["train", *words, "--head=query2emo", f"--weights={pretrained}", "--recipe=vq-mae-av-tiny"]) == 0
    config = json.loads((tmp_path / "folder" / "vq-mae-av" / "fold-anna" / "config.json").read_text())
    assert config["identity"]["recipe"]["vq_mae"]["head"] == "query2emo"
    assert f"{pretrained}: begins with its encoder\n" in capsys.readouterr().err
    assert cli.run(["train", *words, "--recipe=finetune"]) == 2
    assert "found strategy vq-mae-av, expected one with a table vq_mae" in capsys.readouterr().err
    assert cli.run(["train", "--model=vq-mae-av", "--show-recipe"]) == 0
    assert 'loss = "asymmetric"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--head=query2emo"], "pretrain: found head query2emo, expected none: a pre-training has no"),
        (["pretrain", "--label-scheme=emotions"], "pretrain: found label scheme emotions, expected none with vq-mae-a"),
        *(
            ([command, "--feature=mfcc"], f"{command}: found feature mfcc, expected none with vq-mae-a: it reads codes")
            for command in ("pretrain", "train", "sweep")
        ),
    ],
)
def test_options_that_a_command_cannot_use_are_refused_in_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.run([*words, "--model=vq-mae-a", f"--shards={shards}", f"--runs={tmp_path}", "--fold=anna"]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(("dataset", "epochs"), [("demo", 100), ("folder", 160)])
def test_the_shown_recipe_is_that_of_the_corpus_whatever_its_folder_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, epochs: int
) -> None:
    folder = make_token_folder(tmp_path / f"{dataset}-tokens-S08", dataset=dataset)
    assert cli.run(["pretrain", "--model=vq-mae-av", f"--shards={folder}", "--show-recipe"]) == 0
    assert f"epochs = {epochs}\n" in capsys.readouterr().out


def test_memory_that_is_too_small_for_pairs_takes_a_smaller_batch(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("train.trainer.Trainer.fit", fail)
    words = [f"--shards={shards}", f"--runs={tmp_path}", "--encoder=tiny", "--recipe=vq-mae-av-tiny", "--fold=anna"]
    for settings, advice in (([], "a smaller --batch"), (["contrastive=0"], "--micro-batches 2")):
        changed = [f"--set=token_pretraining.{each}" for each in settings]
        runs = [f"--runs={tmp_path / advice}"]
        assert cli.run(["pretrain", "--model=vq-mae-av", *words, *runs, *changed]) == 2
        assert capsys.readouterr().err.endswith(f"error: tried to allocate 2 GiB; try {advice}\n")


def test_the_number_of_workers_changes_nothing(shards: Path, tmp_path: Path) -> None:
    runs = [setup(shards, tmp_path / str(workers), workers=workers) for workers in (0, 3)]
    for run in runs:
        run_fold(run)
    first, second = ((run.folder / "predictions.csv").read_bytes() for run in runs)
    assert first == second
