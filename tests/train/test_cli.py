"""The command line: from shards to a result, stopped and resumed, and what it refuses in one line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from manifests.files import exclusive_lock, shared_lock
from manifests.withdraw import withdraw
from tests.factories.shards import EMOTIONS, SPEAKERS, make_folder, sign
from tests.kills import KILLS, killed_at_random
from train import cli, cost, run_fold, trainer
from train.models.videomae import ENCODERS
from train.models.weights import load_classifier
from train.recipes import RECIPES
from train.runs import read_result

pytestmark = pytest.mark.usefixtures("small_encoder")


@pytest.fixture
def train(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run a command on the shards; its status, and what it said."""

    def call(*arguments: str, **options: Any) -> tuple[int, str, str]:
        named = {
            "shards": shards,
            "runs": tmp_path / "runs",
            "encoder": "tiny",
            "recipe": "tiny",
            "epochs": 2,
            "set": "validation_steps=0",
            **options,
        }
        words = [part for name, value in named.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        status = cli.run([*arguments, *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def run_folder(tmp_path: Path, strategy: str = "cfas", fold: str = SPEAKERS[0], runs: str = "runs") -> Path:
    return tmp_path / runs / "folder" / strategy / f"fold-{fold}"


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = trained(one), trained(other)
    equal = all(torch.equal(first[name], second[name]) for name in first)
    return equal and (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()


def test_from_shards_to_a_result(train, tmp_path: Path) -> None:
    status, out, err = train(strategy="cfas", fold=1)
    assert (status, err.count("\n")) == (0, 6), err
    assert err.startswith("folder, cfas, fold anna: recipe tiny, encoder tiny, mfcc, on cpu; into ")
    assert err.splitlines()[1:4] == [
        "classes of folder-raw  train  validation  test",
        "  fear                     4           2     2",
        "  joy                      4           2     2",
    ]
    outcome = read_result(run_folder(tmp_path))
    assert f"UAR {100 * outcome.scores.uar:.2f} %" in out
    assert "4 clips of 1 unseen speaker (anna)" in out
    model = load_classifier(run_folder(tmp_path) / "model")
    assert model.classes == EMOTIONS
    assert model.details["run"]["strategy"] == "cfas"
    config = json.loads((run_folder(tmp_path) / "config.json").read_text())
    assert config["config"]["recipe"]["name"] == "tiny"
    assert not (run_folder(tmp_path) / "checkpoints").exists()


def test_finished_run_is_not_trained_again(train, tmp_path: Path) -> None:
    first = train(strategy="faces", fold=1)
    left = run_folder(tmp_path, "faces") / "checkpoints" / "000000002-00003"  # by a kill just after the result
    left.mkdir(parents=True)
    status, out, err = train(strategy="faces", fold=1)
    assert (status, out, err) == (0, first[1], "")
    assert not left.exists()


def test_a_run_that_another_process_finishes_meanwhile_is_not_trained_again(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, home = train(strategy="faces", fold=1), run_folder(tmp_path, "faces")
    finished = home.rename(tmp_path / "finished")

    def lock(folder: Path, setting: str):
        finished.rename(folder)  # before this process has the lock
        return exclusive_lock(folder, setting)

    monkeypatch.setattr(run_fold, "exclusive_lock", lock)
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    status, out, _ = train(strategy="faces", fold=1)
    assert (status, out) == (0, first[1])
    assert (home / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_finished_in_another_way_is_refused(train) -> None:
    train(strategy="cfas", fold=1)
    status, _, err = train(strategy="cfas", fold=1, batch=8)
    assert (status, err.count("\n")) == (2, 1)
    assert "fold-anna: was trained with other settings (recipe.batch: 16 -> 8" in err
    assert "remove it, or choose another folder of runs" in err


def test_shards_that_changed_since_are_told(train, shards: Path, tmp_path: Path) -> None:
    train(strategy="cfas", fold="anna")
    others = shutil.copytree(shards, tmp_path / "folder")
    withdraw(others, ["dora"])
    status, _, err = train(strategy="cfas", fold="anna", shards=others)
    assert (status, err.count("\n")) == (2, 1)
    assert "was trained with other settings (protocol.folds: dora removed)" in err
    others = make_folder(tmp_path / "others" / "folder", takes=3)
    assert "(other shards, or other initial weights)" in train(strategy="cfas", fold="anna", shards=others)[2]


def test_a_run_that_another_process_trains_is_refused(train, tmp_path: Path) -> None:
    with exclusive_lock(run_folder(tmp_path)):
        status, _, err = train(strategy="cfas", fold=1)
    assert status == 2
    assert re.search(r"fold-anna: locked by process \d+ on \S+; wait for it, or choose another RUNS=$", err)
    assert train(strategy="cfas", fold=1)[0] == 0


def test_workers_do_not_matter(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPES["tiny"], batch=4))
    for workers in (0, 1, 2):
        assert train(fold=1, workers=workers, runs=tmp_path / f"runs{workers}")[0] == 0
    homes = [run_folder(tmp_path, runs=f"runs{workers}") for workers in (0, 1, 2)]
    assert same(homes[0], homes[1])
    assert same(homes[0], homes[2])


def test_begun_with_other_settings_is_refused(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_fold, "stop_on_signal", stopping_at_once)
    assert train(fold=1)[0] == 130
    status, _, err = train(fold=1, batch=8)
    assert status == 2
    assert "was trained with other settings (recipe.batch: 16 -> 8; recipe.learning_rate: " in err


def stopping_at_once(*_: object):
    """In place of `stop_on_signal`: a signal has come already."""
    return nullcontext(lambda: True)


def test_stopped_after_each_step_is_the_same_in_the_end(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPES["tiny"], batch=4))
    assert train(fold=1, runs=tmp_path / "whole")[0] == 0
    monkeypatch.setattr(run_fold, "stop_on_signal", stopping_at_once)
    statuses = [train(fold=1, runs=tmp_path / "parts")[0] for _ in range(5)]
    assert statuses == [130] * 4 + [0]
    assert same(run_folder(tmp_path, runs="whole"), run_folder(tmp_path, runs="parts"))


def test_ctrl_c_saves_and_says_how_to_continue(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "--shards", str(shards), "--runs", str(tmp_path / "runs")]
    command += ["--encoder", "tiny", "--recipe", "tiny", "--epochs", "2000", "--workers", "0"]
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    log, deadline = run_folder(tmp_path) / "log.jsonl", time.monotonic() + 120
    try:
        while not log.is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("stopped after a checkpoint; run the same command to resume")
    assert (run_folder(tmp_path) / "checkpoints").is_dir()


def command(shards: Path, runs: Path) -> list[str]:
    """Augmented fine-tuning as a program of its own: 3 epochs of 4 steps, a checkpoint after each."""
    options = {"shards": shards, "runs": runs, "encoder": "tiny", "recipe": "finetune", "epochs": 3, "batch": 2}
    options |= {"save-steps": 1, "workers": 1}
    return [sys.executable, "-m", "train", "train", *(f"--{name}={value}" for name, value in options.items())]


def program(shards: Path, runs: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(shards, runs), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a run that was let be."""
    runs = tmp_path_factory.mktemp("undisturbed")
    assert program(shards, runs).wait(timeout=200) == 0
    return runs / "folder" / "cfas" / f"fold-{SPEAKERS[0]}"


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_ends_with_the_same_bytes(
    shards: Path, undisturbed: Path, tmp_path: Path
) -> None:
    home = run_folder(tmp_path)
    process, deadline = program(shards, tmp_path / "runs"), time.monotonic() + 120
    while not list(home.glob("checkpoints/00000000[67]-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (home / "result.json").exists()
    assert program(shards, tmp_path / "runs").wait(timeout=200) == 0
    for name in ("model/model.safetensors", "predictions.csv"):
        assert (home / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_end_with_the_same_bytes(
    shards: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    servers = get_context("forkserver")  # of processes that have torch already, and are else like new
    servers.set_forkserver_preload(["train.__main__"])
    arguments = command(shards, tmp_path / "runs")[3:]
    home = run_folder(tmp_path)

    def ended() -> None:
        for name in ("model/model.safetensors", "predictions.csv"):
            assert (home / name).read_bytes() == (undisturbed / name).read_bytes()
        shutil.rmtree(home)

    def killed() -> None:
        if (home / "result.json").exists():
            read_result(home)

    trainings = killed_at_random(lambda: servers.Process(target=cli.run, args=(arguments,)), killed, ended)
    record_property("seen", f"{KILLS} random kills of train in {trainings} trainings, all ended with the same bytes")


def test_sweep_trains_what_is_missing_and_sums_up(train, tmp_path: Path) -> None:
    train("train", "--refit", strategy="faces", fold=1)
    status, out, err = train("sweep", "--strategy", "faces", "--fold", "1", "2")
    assert status == 0
    assert "faces, fold anna" not in err
    assert "faces, fold ben: recipe" in err
    assert "2 of 4 folds: UAR" in out.splitlines()[-1]
    assert "95 % intervals over speakers" in out.splitlines()[-1]


def test_a_sweep_sums_up_its_own_corpus_and_schemes(train, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", dataset="interviews")
    labels = tmp_path / "map.csv"
    labels.write_text("emotion,class\njoy,good\nfear,bad\n")
    assert train(strategy="faces", fold=1, shards=other)[0] == 0
    assert train(strategy="spectrograms", fold=1, label_scheme=labels)[0] == 0
    _, out, _ = train("sweep", "--refit=0", strategy="faces", fold=1)
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "folder, faces, fold anna",
        "folder, faces, 1 of 4 folds",
    ]


def test_report_is_written(train, tmp_path: Path) -> None:
    train(strategy="faces", fold=1)
    assert cli.run(["report", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    assert "faces" in (tmp_path / "report" / "report.md").read_text()


def test_probe_trains_on_features_that_are_kept(train, tmp_path: Path) -> None:
    train(strategy="cfas", fold=1, runs=tmp_path / "first")
    weights = run_folder(tmp_path, runs="first") / "model"
    status, _, err = train(fold=1, recipe="linear-probe", weights=weights)
    assert status == 0, err
    assert err.count("features of") == 3  # of four speakers; the test fold's clips are decoded
    before, after = trained(weights.parent), trained(run_folder(tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    (run_folder(tmp_path) / "result.json").unlink()
    assert "features of" not in train(fold=1, recipe="linear-probe", weights=weights)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "cfs"}, "unknown strategy 'cfs'; valid are cfas, sfas, ffls, fslf, ofos, rfas"),
        ({"fold": "9"}, "unknown fold '9'; valid are anna, ben, cleo, dora"),
        ({"fold_scheme": "6fold"}, "unknown fold scheme '6fold'; valid are loso"),
        ({"label_scheme": "folder-9"}, "folder-9"),
        ({"encoder": "giant"}, "unknown encoder 'giant'; valid are tiny, small, base, large, huge"),
        ({"recipe": "probe"}, "unknown recipe 'probe'; valid are finetune, finetune-hicmae"),
        ({"recipe": "nowhere.toml"}, "nowhere.toml"),
        ({"set": "layer_decy=0.5"}, "--set: found field 'layer_decy'; the nearest is 'layer_decay'"),
        ({"feature": "stft"}, "no feature 'stft' in its shards; choose FEATURE= of mfcc"),
        ({"shards": "nowhere"}, "nowhere"),
        ({"weights": "nowhere.pth"}, "nowhere.pth: found no such file"),
        ({"recipe": "linear-probe"}, "expected --weights"),
        ({"device": "gpu"}, "expected auto, cpu, cuda"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(train, options: dict[str, str], message: str) -> None:
    status, out, err = train(**options)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert message in err


def test_debug_shows_the_traceback(train) -> None:
    with pytest.raises(ValueError, match="unknown strategy"):
        train("--debug", strategy="cfs")


def test_leaking_fold_is_refused(train, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "leaking", takes=1)
    path = folder / "folds" / "loso.json"
    record = json.loads(path.read_text())
    side = record["folds"]["anna"]
    side["train"] = dict(side["test"])
    path.write_text(json.dumps(record))
    sign(folder)
    status, _, err = train(shards=folder, fold=1)
    assert (status, err.count("\n")) == (2, 1)
    assert "anna" in err


def test_damaged_shard_is_refused(train, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "damaged", takes=1)
    path = folder / "anna-000.tar"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(bytes(data))
    status, out, err = train(shards=folder, fold=1)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {path}: found SHA-256")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_shown_as_toml(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.run(["--show-recipe", "--recipe", name]) == 0
    assert tomllib.loads(capsys.readouterr().out)["name"] == name


def test_demo_takes_tiny_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["--show-recipe", "--dataset", "demo"])
    assert tomllib.loads(capsys.readouterr().out)["name"] == "tiny"
    cli.run(["--show-recipe", "--dataset", "crema-d"])
    assert tomllib.loads(capsys.readouterr().out)["name"] == "finetune"


def test_without_a_dataset_the_only_one_is_taken(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--encoder", "tiny", "--recipe", "tiny", "--epochs", "1", "--runs", str(tmp_path / "runs")]
    monkeypatch.chdir(shards.parent.parent)
    assert cli.run(arguments) == 0
    assert cli.run([*arguments, "--dataset", "foldr"]) == 2
    assert "shards/foldr: not found; found shards of folder; choose with DATASET=" in capsys.readouterr().err
    (tmp_path / "shards").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    said = "error: shards: found no shards of any corpus; `make shards` builds them, `make fetch` downloads them\n"
    assert capsys.readouterr().err.endswith(said)


def test_the_only_feature_is_taken(train, tmp_path: Path) -> None:
    shards = make_folder(tmp_path / "shards" / "folder", features=("logmel",))
    status, _, err = train(shards=shards, fold=1)
    assert status == 0, err
    assert read_result(run_folder(tmp_path)).run.protocol.feature == "logmel"


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.run([])
    assert "Exit status: 0 done, 1 completed with problems, 2 error, 130 interrupted" in " ".join(
        capsys.readouterr().out.split()
    )


def test_cost_of_the_large_encoder_is_the_published_one() -> None:
    assert cost.forward_flop(ENCODERS["large"]) / 2e9 == pytest.approx(596.8, abs=0.05)
    assert cost.format_duration(90) == "1.5 minutes"
    assert cost.measure_flops(torch.device("cpu")) > 1e6


def test_memory_that_is_too_small_is_an_error_with_advice(train, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB\nmore lines")

    monkeypatch.setattr(trainer.Trainer, "fit", fail)
    status, out, err = train(fold=1, micro_batches=2)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == "error: tried to allocate 2 GiB; try --micro-batches 4"


def test_partial_files_of_a_killed_run_are_removed_by_its_next_run(train, tmp_path: Path) -> None:
    folder = run_folder(tmp_path)
    (folder / "model").mkdir(parents=True)
    left = [folder / ".best-1.safetensors.0123abcd.part", folder / "model" / ".config.json.0123abcd.part"]
    report = tmp_path / "runs" / "report"
    (report / "figures").mkdir(parents=True)
    left_by_report = [report / ".report.md.0123abcd.part", report / "figures" / ".old.png.0123abcd.part"]
    for path in [*left, *left_by_report]:
        path.write_bytes(b"half")
    assert train("train")[0] == 0
    assert not any(path.exists() for path in left)
    assert cli.run(["report", "--runs", str(tmp_path / "runs")]) == 0
    assert not any(path.exists() for path in left_by_report)


def test_partial_features_are_removed_unless_another_training_writes_them(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    assert train("train", runs=tmp_path / "first")[0] == 0
    shutil.copytree(run_folder(tmp_path, runs="first") / "model", weights)
    options = {"recipe": "linear-probe", "weights": weights, "epochs": 1}
    left = tmp_path / "runs" / ".features" / ".0.safetensors.0123abcd.part"
    left.parent.mkdir(parents=True)
    left.touch()
    with shared_lock(left.parent):
        assert train("train", **options)[0] == 0
    assert left.exists()
    assert train("train", strategy="faces", **options)[0] == 0
    assert not left.exists()


@pytest.mark.parametrize("statistics", [10**400, 1e300], ids=["10^400", "1e300"])
def test_statistics_out_of_range_are_one_line(train, tmp_path: Path, statistics: float) -> None:
    folder = make_folder(tmp_path / "shards")
    for path in (folder / "receipts").iterdir():
        receipt = json.loads(path.read_bytes())
        for sums in receipt["statistics"].values():
            sums["total"][0] = statistics
        path.write_text(json.dumps(receipt))
    index = json.loads((folder / "dataset.json").read_bytes())
    for shard in index["shards"]:
        receipt = folder / "receipts" / shard["name"].replace(".tar", ".json")
        shard["receipt_sha256"] = hashlib.sha256(receipt.read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(index))
    sign(folder)
    status, _, error = train("train", shards=folder)
    assert status == 2
    assert "statistics" in error
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("class_weights=balanced", "class weights: fear 1.000, joy 1.000\n"),
        ("sampling=balanced", ""),
        ('freeze=["encoder.patch_embed.*", "encoder.blocks.[0-9].*"]', " parameters are trained (15 tensors frozen)\n"),
    ],
)
def test_balancing_and_freezing_are_part_of_the_recipe(train, tmp_path: Path, setting: str, said: str) -> None:
    status, _, err = train("train", "--set", setting, strategy="cfas", fold=1, epochs=1)
    assert status == 0, err
    assert said in err
    name, _, value = setting.partition("=")
    identity = json.loads((run_folder(tmp_path) / "config.json").read_text())["identity"]
    assert identity["recipe"][name] == (value if "[" not in value else json.loads(value))
    assert ({"class_weights", "sampling", "freeze"} - {name}).isdisjoint(identity["recipe"])
    status, _, err = train(strategy="cfas", fold=1, epochs=1)
    assert (status, err.count("\n")) == (2, 1)
    assert f"was trained with other settings (recipe.{name}: " in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('freeze=["encoder.block.*"]', "no parameter that matches 'encoder.block.*'; the nearest are encoder.blocks"),
        ('freeze=["*"]', "freeze: found that * match all parameters, expected some to train"),
        ("freeze=encoder", "no parameter that matches 'encoder'; the nearest are "),
        ("freeze=3", "--set: freeze: found 3, expected a list"),
        ("class_weights=inverse", "class_weights: found inverse, expected one of none, balanced"),
        ("sampling=weighted", "sampling: found weighted, expected one of shuffle, balanced"),
    ],
)
def test_balancing_and_freezing_that_cannot_be_are_refused(train, setting: str, message: str) -> None:
    status, _, err = train("train", "--set", setting, strategy="cfas", fold=1)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_balancing_twice_is_refused(train) -> None:
    status, _, err = train("train", "--set", "sampling=balanced", "--set", "class_weights=balanced", fold=1)
    assert (status, err.count("\n")) == (2, 1)
    assert "both balance the classes: use only one of them" in err
