"""Encoders and strategies of the user's own: trained, resumed, predicted and exported, and never run unless named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from manifests.index import file_sha256
from tests.factories.shards import SPEAKERS
from train import cli
from train.fusion import STRATEGIES, FusionError, FusionInput, Strategy, strategy_named
from train.models.own_encoder import build_encoder
from train.own_code import OwnCodeError, load_strategy
from train.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("small_encoder", "folder")

ENCODER = """
import torch
from torch import nn

class Blocks(nn.Module):
    input_size = 28

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv3d(3, 8, (4, 14, 14), (4, 14, 14))
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2)) for _ in range(2)])
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 1000)  # of another task, not used

    def forward_features(self, video):
        tokens = self.patch_embed(video).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.norm(tokens.flatten(0, 1)).view_as(tokens)

    def forward(self, video):
        return self.fc(self.forward_features(video).mean(1))

def build():
    return Blocks()
"""

STRATEGY = """
def fuse(faces, spectrograms):
    assert faces.shape == spectrograms.shape == (len(faces), 16, 3, *faces.shape[-2:])
    return (faces + spectrograms.mul_(2)) / 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules of the user's own; what is imported is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("ownencoder", "ownstrategy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("train.own_code._imported", {})
    monkeypatch.setattr("train.fusion._registered", {})
    (tmp_path / "ownencoder.py").write_text(ENCODER)
    (tmp_path / "ownstrategy.py").write_text(STRATEGY)
    return tmp_path


@pytest.fixture
def run(shards: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command on the shards; its status, and what it said."""

    def call(*words: str) -> tuple[int, str, str]:
        status = cli.run(
            [*words, *(("--shards", str(shards)) if words[0] in ("train", "predict", "embeddings") else ())]
        )
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


TRAIN = ("train", "--fold", "1", "--epochs", "1", "--recipe", "tiny", "--set", "validation_steps=0")
OWN = ("--encoder", "ownencoder:build")


def test_an_encoder_is_trained_exported_and_predicts_where_it_is_named(run, folder: Path) -> None:
    sha256 = file_sha256(folder / "ownencoder.py")
    status, out, err = run(*TRAIN, *OWN)
    assert status == 0, err
    assert "ownencoder:build: 8 features of 16x28x28; layer decay over its 2 blocks; drop_path of the recipe" in err
    home = Path("runs/folder/cfas") / f"fold-{SPEAKERS[0]}"
    config = json.loads((home / "config.json").read_text())
    assert config["identity"]["code_sha256"] == {"ownencoder:build": sha256}
    model = json.loads((home / "model" / "config.json").read_text())
    assert (model["encoder"]["path"], model["encoder"]["sha256"]) == ("ownencoder:build", sha256)
    with safetensors.safe_open(home / "model" / "model.safetensors", "pt") as file:
        assert sha256 in file.metadata()["lineage"]
        assert "encoder.module.norm.num_batches_tracked" in file.keys()  # noqa: SIM118
    assert run(*TRAIN, *OWN)[:2] == (0, out)  # finished

    status, _, err = run("predict", "--run", str(home))
    assert (status, err.count("\n")) == (2, 1)
    assert (
        "was trained with the encoder ownencoder:build, whose code is not in it and is run only if you name it" in err
    )
    status, shown, err = run("predict", "--run", str(home), *OWN)
    assert status == 0, err
    assert f"clips of unseen speakers ({SPEAKERS[0]})" in shown
    assert run("export", "--run", str(home), "--out", "exported")[0] == 2
    status, _, err = run("export", "--run", str(home), "--out", "exported", *OWN)
    assert status == 0, err
    assert run("predict", "--run", "exported", *OWN)[1] == shown

    (folder / "ownencoder.py").write_text(ENCODER + "# changed\n")
    changed = file_sha256(folder / "ownencoder.py")
    for words in (("predict", "--run", str(home)), ("export", "--run", str(home), "--out", "other")):
        status, _, err = run(*words, *OWN)
        assert (status, err.count("\n")) == (2, 1)
        assert f"ownencoder.py has SHA-256 {changed}, expected {sha256}; restore that file" in err
    status, _, err = run(*TRAIN, *OWN)
    assert status == 2
    assert f"was trained with other settings (code_sha256.ownencoder:build: {sha256} -> {changed}" in err
    (folder / "ownencoder.py").unlink()
    status, _, err = run("predict", "--run", str(home), *OWN)
    assert (status, err.count("\n")) == (2, 1)
    assert "ENCODER=ownencoder:build: found no module ownencoder, expected a file ownencoder.py in the current" in err


def test_a_stopped_training_of_an_own_encoder_is_resumed_bit_by_bit(
    run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dropout draws the same numbers as without the stop, and its batch statistics are in the checkpoint."""
    from train import trainer

    words = (*TRAIN, *OWN, "--epochs", "3", "--batch", "4")
    assert run(*words, "--runs", "whole")[0] == 0
    real, steps = trainer.Trainer.train_step, iter(range(100))

    def step(self, *given):
        if next(steps) == 3:
            self.should_stop = lambda: True
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "train_step", step)
        assert run(*words, "--runs", "parts")[0] == 130
    assert list(Path("parts").rglob("checkpoints/*/model.safetensors"))
    assert run(*words, "--runs", "parts")[0] == 0
    one, other = (next(Path(name).rglob("model/model.safetensors")).read_bytes() for name in ("whole", "parts"))
    assert one == other


@pytest.mark.parametrize("recipe", ["linear-probe", "finetune", "finetune-videomae"])
def test_an_own_encoder_takes_other_recipes(run, recipe: str) -> None:
    words = ("train", "--fold", "1", "--recipe", recipe, *OWN, "--strategy", "ffls")
    status, _, err = run(*words, "--epochs", "1", "--set", "batch=4", "--set", "warmup_epochs=0")
    assert status == 0, err
    assert recipe in RECIPES


def test_layers_of_an_own_encoder_are_frozen_and_decayed_by_name(run) -> None:
    setting = 'freeze=["encoder.module.blocks.0.*"]'
    status, _, err = run(*TRAIN, *OWN, "--set", setting, "--set", "layer_decay=0.5")
    assert status == 0, err
    assert "parameters are trained (2 tensors frozen)" in err


def test_two_ranks_train_an_own_encoder_whose_last_layer_is_not_used(shards: Path, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(Path(__file__).parents[2])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "train", *TRAIN, *OWN, "--batch", "6", "--shards", str(shards), "--device", "cpu"]
    both = [
        subprocess.Popen(
            words,
            env={**shared, "PYTHONPATH": root, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "ownencoder.py: found no build, expected one; it has nothing to call"),
        ("build = 3", "found int, expected a function that returns an nn.Module"),
        ("def build(): return 3", "build() returned int, expected an nn.Module"),
        ("def build(): raise KeyError('weights.pth')", "build() failed (KeyError: 'weights.pth', "),
        ("import nowhere", "the module ownencoder failed (ModuleNotFoundError: No module named 'nowhere'"),
        ("def build(:", "the module ownencoder failed (SyntaxError"),
        (
            "from torch import nn\ndef build(): return nn.Linear(3, 3)",
            "failed on a clip of zeros (1, 3, 16, 224, 224) (RuntimeError: mat1 and mat2",
        ),
        (
            "from torch import nn\ndef build(): return nn.Conv3d(3, 2, 16, 16)",
            "returned torch.float32 (1, 2, 1, 14, 14) for 1 clips, expected float features (1, D) or tokens (1, N, D)",
        ),
        (
            "from torch import nn\nclass M(nn.Flatten):\n    input_size = (16, 64, 32)\ndef build(): return M()",
            "found input_size (16, 64, 32), expected the side of a square",
        ),
        ("from torch import nn\nbuild = nn.Flatten", "found a module without parameters (Flatten)"),
    ],
)
def test_encoders_that_cannot_be_are_refused_in_one_line(run, folder: Path, code: str, message: str) -> None:
    (folder / "ownencoder.py").write_text(code)
    status, _, err = run(*TRAIN, *OWN)
    assert (status, err.count("\n")) == (2, 1), err
    assert message in err


def test_settings_that_contradict_an_own_encoder(run) -> None:
    assert (
        "weights: found w.pth, expected none: ownencoder:build loads its own"
        in run(*TRAIN, *OWN, "--weights", "w.pth")[2]
    )
    assert "unknown encoder 'own encoder:build'; valid are tiny" in run(*TRAIN, "--encoder", "own encoder:build")[2]


def test_sizes_that_do_not_divide_224_are_resized_by_the_encoder(folder: Path) -> None:
    (folder / "ownencoder.py").write_text(ENCODER.replace("input_size = 28", "img_size = (42, 42)"))
    encoder, code = build_encoder("ownencoder:build")
    assert (encoder.config.side, encoder.config.input) == (42, (16, 224, 224))
    assert encoder.eval()(torch.zeros(2, 3, 16, 224, 224)).shape == (2, 4 * 9, 8)
    assert encoder(torch.zeros(0, 3, 16, 224, 224)).shape == (0, 1, 8)
    assert code.file == str(folder / "ownencoder.py")


def test_a_function_is_a_strategy_by_its_own_name(run, folder: Path) -> None:
    own = ("--strategy", "ownstrategy:fuse")
    status, out, err = run(*TRAIN, "--encoder", "tiny", *own)
    assert status == 0, err
    assert "folder, fuse, fold anna: UAR" in out
    home = Path("runs/folder/fuse") / f"fold-{SPEAKERS[0]}"
    sha256 = file_sha256(folder / "ownstrategy.py")
    assert json.loads((home / "config.json").read_text())["identity"]["code_sha256"] == {"ownstrategy:fuse": sha256}
    details = json.loads((home / "model" / "config.json").read_text())["details"]
    assert (details["strategy_path"], details["strategy_sha256"]) == ("ownstrategy:fuse", sha256)
    status, _, err = run("predict", "--run", str(home))
    assert (status, err.count("\n")) == (2, 1)
    assert "was trained with the strategy ownstrategy:fuse, whose code is not in it" in err
    assert run("predict", "--run", str(home), *own)[0] == 0
    assert run("export", "--run", str(home), "--out", "exported", *own)[0] == 0
    assert run("report")[0] == 0
    assert "fuse" in Path("runs/report/report.html").read_text()
    (folder / "ownstrategy.py").write_text(STRATEGY + "# changed\n")
    for words in (("predict", "--run", "exported"), (*TRAIN, "--encoder", "tiny")):
        status, _, err = run(*words, *own)
        assert (status, err.count("\n")) == (2, 1)
        assert sha256 in err


def test_a_run_with_both_is_embedded_and_one_message_names_both(run, folder: Path) -> None:
    named = (*OWN, "--strategy", "ownstrategy:fuse")
    status, _, err = run(*TRAIN, *named)
    assert status == 0, err
    home = Path("runs/folder/fuse") / f"fold-{SPEAKERS[0]}"
    for words in (
        ("predict", "--run", str(home)),
        ("export", "--run", str(home), "--out", "exported"),
        ("embeddings", "--run", str(home), "--out", "v.npz"),
    ):
        for given in ((), OWN, named[2:]):
            status, _, err = run(*words, *given)
            assert (status, err.count("\n")) == (2, 1)
            assert "add ENCODER=ownencoder:build STRATEGY=ownstrategy:fuse" in err
            assert "(--encoder ownencoder:build --strategy ownstrategy:fuse)" in err
    embed = ("embeddings", "--run", str(home), "--out", "v.npz", *named)
    status, out, err = run(*embed)
    assert status == 0, err
    assert "16 vectors of 8 numbers" in out
    with np.load("v.npz") as found:
        settings = json.loads(str(found["settings"]))
        weights = safetensors.torch.load_file(home / "model" / "model.safetensors")
        logits = found["vector"] @ weights["head.weight"].numpy().T + weights["head.bias"].numpy()
        predicted = dict(zip(found["clip"].tolist(), logits.argmax(1).tolist(), strict=True))
    assert (settings["strategy"], settings["strategy_sha256"]) == ("fuse", file_sha256(folder / "ownstrategy.py"))
    status, out, _ = run("predict", "--run", str(home), *named, "--format", "json")
    classes = list(json.loads(out)[0]["probabilities"])
    assert {clip["clip"]: clip["predicted"] for clip in json.loads(out)} == {
        clip: classes[index] for clip, index in predicted.items()
    }
    status, _, err = run(*embed, "--layer", "1")
    assert status == 2
    assert "layer: found 1, expected none with the encoder ownencoder:build" in err


def test_weights_are_embedded_with_an_own_strategy(run) -> None:
    assert run(*TRAIN, "--encoder", "tiny")[0] == 0
    weights = str(Path("runs/folder/cfas") / f"fold-{SPEAKERS[0]}")
    status, out, err = run(
        "embeddings", "--weights", weights, "--encoder", "tiny", "--strategy", "ownstrategy:fuse", "--out", "v.npz"
    )
    assert status == 0, err
    assert "16 vectors" in out


def pairs(faces: int, windows: int) -> FusionInput:
    images = (torch.rand(2, count, channels, 56, 56) for count, channels in ((faces, 3), (windows, 1)))
    return FusionInput(**dict(zip(("faces", "spectrograms"), images, strict=True)), keys=("a", "b"))


def test_a_function_gets_copies_of_three_channels() -> None:
    given = pairs(16, 16)
    before = given.spectrograms.clone()
    video = load_strategy("ownstrategy:fuse")(given)
    assert torch.equal(given.spectrograms, before)
    torch.testing.assert_close(video, ((given.faces + 2 * before) / 3).transpose(1, 2))
    assert strategy_named("fuse").path == "ownstrategy:fuse"


def test_a_strategy_object_reads_what_it_says(folder: Path) -> None:
    (folder / "ownstrategy.py").write_text(
        "from train.fusion import Strategy, ofos\n"
        "alternate = Strategy(name='other', faces=8, windows=8, order=9, rule=ofos)\n"
    )
    strategy = load_strategy("ownstrategy:alternate")
    assert isinstance(strategy, Strategy)
    assert (strategy.name, strategy.faces, strategy.windows) == ("alternate", 8, 8)
    given = pairs(8, 8)
    assert torch.equal(strategy(given), STRATEGIES["ofos"](given))


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("def cfas(f, s): return f", "cfas", "cfas is a built-in strategy; rename the function in"),
        (
            "def fuse(f, s): return f[:, :8]",
            "fuse",
            "returned torch.float32 (1, 8, 3, 224, 224), expected a float tensor",
        ),
        ("def fuse(f, s): return None", "fuse", "returned NoneType, expected a float tensor"),
        ("def fuse(f): return f", "fuse", "failed on 1 clips (TypeError: fuse() takes 1 positional argument"),
        ("fuse = 3", "fuse", "fuse: found int, expected a Strategy or a function"),
        ("def other(f, s): return f", "fuse", "found no fuse, expected one; it has other"),
        (
            "from train.fusion import *\nfuse = Strategy(name='x', faces=4, windows=0, order=1, rule=faces)",
            "fuse",
            "found 4 faces and 0 windows, expected 16, 8 or 0 of each",
        ),
    ],
)
def test_strategies_that_cannot_be_are_refused(folder: Path, code: str, name: str, message: str) -> None:
    (folder / "ownstrategy.py").write_text(code)
    with pytest.raises((OwnCodeError, FusionError)) as caught:
        load_strategy(f"ownstrategy:{name}")
    assert message in str(caught.value)
    with pytest.raises(FusionError, match="unknown strategy 'fuse'"):
        strategy_named("fuse")


def test_a_file_that_changes_within_a_second_is_imported_again(folder: Path) -> None:
    """Python's own cache of compiled files compares sizes and seconds."""
    strategy = load_strategy("ownstrategy:fuse")
    (folder / "ownstrategy.py").write_text(STRATEGY.replace("mul_(2)) / 3", "mul_(4)) / 5"))
    assert load_strategy("ownstrategy:fuse").sha256 != strategy.sha256
    given = pairs(16, 16)
    torch.testing.assert_close(
        strategy_named("fuse")(given), ((given.faces + 4 * given.spectrograms) / 5).transpose(1, 2)
    )
