"""Two labs: one publishes its shards; the other fetches or streams what a fold needs, and trains it to the same end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from manifests import __main__ as sharing
from manifests import download, licensing
from manifests.errors import interpreter
from manifests.fetch import FoldRequest, fetch
from manifests.index import load_dataset
from manifests.verify import verify
from tests.factories.shards import make_folder
from tests.factories.small_trainings import SMALL
from tests.fakes.servers import Fault, FileServer
from train import cli
from train.models.videomae import ENCODERS
from train.recipes import RECIPES

#: What somebody who trains need not have.
ABSENT = (
    "ai_edge_litert",
    "av",
    "builder",
    "cv2",
    "datasets",
    "fsspec",
    "huggingface_hub",
    "librosa",
    "mediapipe",
    "requests",
    "s3fs",
)
#: Test shard of the third fold.
TESTED = "cleo-000.tar"

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first lab has built."""
    return make_folder(tmp_path_factory.mktemp("lab-one") / "shards")


@pytest.fixture
def server(built: Path, tmp_path: Path) -> Iterator[FileServer]:
    """What the first lab has published."""
    words = licensing.affirmation(load_dataset(built))  # made-up shards state no licence
    assert sharing.main(["share", str(built), str(tmp_path / "published"), "--affirm", words]) == 0
    with FileServer(tmp_path / "published", prefix="lab-one/folder") as running:
        yield running


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small encoder under the name `tiny`; a cache of its own; no rests."""
    torch.set_num_threads(1)
    monkeypatch.setitem(ENCODERS, "tiny", SMALL)
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPES["tiny"], batch=4))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Run a command; its status, and what it printed."""

    def call(shards: object, runs: str = "runs", *arguments: str, **options: Any) -> tuple[int, str, str]:
        named = {"encoder": "tiny", "recipe": "tiny", "epochs": 2, "fold": 3, **options}
        flags = [part for name, value in named.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        capsys.readouterr()
        status = cli.run([*arguments, "--shards", str(shards), "--runs", str(tmp_path / runs), *flags])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def expected(train: Train, built: Path, tmp_path: Path) -> Path:
    """The run that the first lab gets from its own folder."""
    assert train(built, "expected")[0] == 0
    return home(tmp_path, "expected")


def home(tmp_path: Path, runs: str = "runs") -> Path:
    return tmp_path / runs / "folder" / "cfas" / "fold-cleo"


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended alike, to the last bit."""
    first, second = (safetensors.torch.load_file(run / "model" / "model.safetensors") for run in (one, other))
    equal = all(torch.equal(first[name], second[name]) for name in first)
    return equal and (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()


def follow(output: str) -> None:
    """Run the command that a message names."""
    line = output[output.index(f"{interpreter()} -m manifests fetch") :].splitlines()[0].partition(", then")[0]
    assert sharing.main(shlex.split(line)[3:]) == 0


def elsewhere(tmp_path: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as the second lab runs it, which has neither the builder nor what it needs."""
    script = (
        f"import runpy, sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_fold_is_fetched_and_trained_and_its_test_shards_never_cross(server: FileServer, tmp_path: Path) -> None:
    lab = tmp_path / "lab-two"
    lab.mkdir()
    done = elsewhere(lab, "manifests", "fetch", server.url, "part", "--fold", "3", "--split", "train")
    assert done.returncode == 0, done.stderr
    settings = ["--shards", "part", "--fold", "3", "--encoder", "tiny", "--recipe", "tiny", "--epochs", "1"]
    done = elsewhere(lab, "train", "train", "--strategy", "cfas", *settings)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"trained; the test fold is not available: run {shlex.quote(sys.executable)} -m manifests fetch "
        f"{server.url} part --fold cleo --fold-scheme loso --split test, then this command again to test, once"
    )
    assert (home(lab) / "model" / "model.safetensors").is_file()
    assert not [name for name in server.requested if "cleo" in name]
    assert not list(lab.rglob("cleo*"))


def test_a_part_is_trained_and_tested_once_the_test_fold_has_come(
    server: FileServer, train: Train, expected: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    fetch(server.url, part, FoldRequest(fold="3", splits=("train",)))
    status, out, output = train(part)
    assert (status, out) == (0, "")
    assert not (home(tmp_path) / "result.json").exists()
    log = (home(tmp_path) / "log.jsonl").read_bytes()
    status, out, again = train(part)
    assert (status, out, again.splitlines()[4:]) == (0, "", output.splitlines()[-1:])  # after run and classes
    follow(output)
    status, out, output = train(part)
    assert (status, output.count("\n")) == (0, 4)
    assert "4 clips of 1 unseen speaker (cleo)" in out
    assert (home(tmp_path) / "log.jsonl").read_bytes() == log  # nothing was trained again
    assert same(home(tmp_path), expected)
    assert train(part) == (0, out, "")


def test_shards_that_training_needs_and_lacks_are_told_with_what_brings_them(
    server: FileServer, train: Train, expected: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    fetch(server.url, part, FoldRequest(fold="1", splits=("test",)))
    status, out, output = train(part)
    assert (status, out, output.count("\n")) == (2, "", 1)
    assert output.startswith(
        f"error: {part}: of 3 training and validation shards of fold cleo found 1; fetch the rest: "
    )
    follow(output)
    assert train(part)[0] == 0
    assert not (part / TESTED).exists()
    follow(train(part)[2])
    assert verify(part, full=True) == []
    assert train(part)[0] == 0
    assert same(home(tmp_path), expected)


def test_a_sweep_over_a_part_trains_what_it_can(server: FileServer, train: Train, tmp_path: Path) -> None:
    part = tmp_path / "part"
    fetch(server.url, part, FoldRequest(fold="3", splits=("train",)))
    status, out, output = train(part, "runs", "sweep", strategy="faces")
    assert (status, out.strip()) == (0, "")
    assert "the test fold is not available" in output


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_streaming_ends_as_training_from_a_local_folder(
    server: FileServer,
    train: Train,
    built: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    assert train(built, "local", workers=workers)[0] == 0
    status, out, output = train(server.url, workers=workers)
    assert status == 0, output
    assert "unseen speaker (cleo)" in out
    assert same(home(tmp_path), home(tmp_path, "local"))
    server.behave()
    assert train(server.url, "again", workers=workers)[0] == 0
    assert set(server.requested) == {"SHA256SUMS"}


def test_training_begins_while_shards_arrive_and_a_wrong_one_ends_it_until_it_is_mended(
    server: FileServer, train: Train, expected: Path, built: Path, tmp_path: Path
) -> None:
    validation = f"{_validation(built)}-000.tar"
    late = threading.Event()
    server.misbehave(validation, Fault(hold=late, status=404))
    letting = threading.Thread(target=_after_a_checkpoint, args=(home(tmp_path), late))
    letting.start()
    status, out, output = train(server.url, save_steps=1)
    letting.join()
    assert (status, out) == (2, "")
    assert output.splitlines()[-1] == f"error: {server.url}/{validation}: not found (HTTP 404)"
    assert (
        not (home(tmp_path) / "log.jsonl").exists()
        or b"validation_uar" not in (home(tmp_path) / "log.jsonl").read_bytes()
    )
    steps = [path.name for path in (home(tmp_path) / "checkpoints").iterdir()]
    assert len(steps) == 1
    assert train(server.url, save_steps=1)[0] == 0
    assert same(home(tmp_path), expected)


def test_ctrl_c_ends_the_wait_for_a_shard(server: FileServer, tmp_path: Path) -> None:
    for name in ("anna", "ben", "dora"):
        server.misbehave(f"{name}-000.tar", always=Fault(status=503, headers={"Retry-After": "300"}))
    settings = ["--fold", "3", "--encoder", "tiny", "--recipe", "tiny", "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(
        [sys.executable, "-m", "train", "--shards", server.url, *settings],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not [name for name in server.requested if name.endswith(".tar")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "interrupted; run the same command to continue from the last checkpoint"


def _validation(folder: Path) -> str:
    from train.data.shard_folder import fold_sides, open_folder

    (speaker,) = fold_sides(open_folder(folder), "cleo")["validation"].subjects
    return speaker


def _after_a_checkpoint(run: Path, event: threading.Event) -> None:
    while not list((run / "checkpoints").glob("[0-9]*/state.json")):
        time.sleep(0.01)
    event.set()
