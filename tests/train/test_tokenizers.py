"""Training of tokenizers from sequences: what is learned, what is written, and what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from manifests.kinds import PAIRS
from tests.factories.both_kinds import SPEAKERS, folder_of
from tests.factories.small_trainings import counted
from tests.factories.token_shards import sequences
from tests.fakes.servers import FileServer
from tests.kills import killed_at_random
from train import cli
from train.config import TrainConfig
from train.data.spectrograms import clip_power, power_spectra
from train.distributed import Ranks
from train.metric_logger import MetricLogger
from train.models.checkpoint_formats import WeightsError
from train.models.tokenizer_files import load_tokenizers
from train.models.vqvae import BatchNorm
from train.pretraining.page import read_epochs
from train.recipes import RECIPES, Tokenizing
from train.report.tokenizers import griffin_lim
from train.tokenizers.objective import MEASURED_FACES, draw_spectra, faces_of, measure
from train.tokenizers.page import SHOWN_FACES, decode_clips
from train.tokenizers.run import run_tokenizers
from train.tokenizers.setup import TokenizerSetup, prepare_tokenizers
from train.trainer import Stopped

ALONE = Ranks(device=torch.device("cpu"))
FILES = ("model/model.safetensors", "model/config.json", "model/README.md", "report.html", "decoded.wav")
SMALL = Tokenizing(
    visual_hidden=8, visual_residual_hidden=4, spectra=16, faces=4, calibration_spectra=128, fixed_share=0.5
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sequences(tmp_path_factory.mktemp("finished") / "shards" / "folder")


def setup(shards: Path | str, runs: Path, **changes: Any) -> TokenizerSetup:
    """A training of few steps; `changes` are of the recipe, or of the configuration."""
    known = set(TrainConfig.__dataclass_fields__)
    options = {"epochs": 3, "steps": None, "batch": 2, "warmup_steps": 0, "validation_steps": 0, "tokenizers": SMALL}
    options |= {name: value for name, value in changes.items() if name not in known}
    recipe = replace(RECIPES["tokenizers-tiny"], **options)
    settings = {"strategy": "tokenizers", "fold": "anna", "encoder": None, **changes}
    settings = {name: value for name, value in settings.items() if name in known}
    config = TrainConfig(shards=str(shards), runs=str(runs), recipe=recipe, **settings)
    return prepare_tokenizers(config, ALONE, lambda line: None)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


@pytest.fixture
def call(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command of the trainer -> its status, output and messages."""

    def call(command: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        named = {"shards": shards, "runs": tmp_path / "runs", **options}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in named.items() if value is not None]
        status = cli.run([command, *words, *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_both_learn_and_the_folder_says_what_they_are(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path, epochs=20)
    found = run_tokenizers(ours)
    epochs = read_epochs(ours.folder)
    assert [line["epoch"] for line in epochs] == list(range(1, 21))
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.5
    assert epochs[-1]["divergence"] < epochs[0]["divergence"]
    assert epochs[-1]["psnr"] > epochs[0]["psnr"]
    assert found.scores["mean_divergence"] == epochs[0]["mean_divergence"]
    assert {name: found.scores[name] for name in found.scores} == {
        name: epochs[-1][name] for name in found.scores
    }  # what is saved is what was measured after the last epoch
    assert 1 < found.scores["audio_perplexity"] <= 256
    assert 1 < found.scores["visual_perplexity"] <= 512
    assert sorted(path.name for path in ours.folder.iterdir()) == [
        *(".lock", "config.json", "decoded.wav", "log.jsonl", "model", "report.html", "tokenizers.json")
    ]
    page = (ours.folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3
    assert page.count("data:audio/wav;base64") == 2
    assert "all spectra are measured, and 16 evenly spaced faces" in page
    sound, rate = soundfile.read(io.BytesIO((ours.folder / "decoded.wav").read_bytes()))
    assert rate == 16_000
    assert len(sound) == pytest.approx(1.7 * rate, abs=320)
    card = (ours.folder / "model" / "README.md").read_text()
    assert ", ".join(sorted({*SPEAKERS} - {"anna"})) in card
    assert f"Itakura-Saito divergence {found.scores['divergence']:.3f}" in card
    assert run_tokenizers(setup(shards, tmp_path, epochs=20)) == found  # read, not repeated


def test_a_folder_gives_the_model_that_was_trained(shards: Path, tmp_path: Path) -> None:
    run_tokenizers(ours := setup(shards, tmp_path))
    for source in (ours.folder / "model", ours.folder):
        loaded = load_tokenizers(source)
        assert not loaded.model.training
        assert loaded.lineage.kind == "self-supervised"
        assert loaded.lineage.ancestors[0].speakers == ("ben", "cleo", "dora")
        power = torch.rand(5, 513)
        assert torch.equal(loaded.model.audio.encode(power), ours.model.audio.encode(power))
        faces = torch.rand(2, 3, 96, 96)
        assert torch.equal(loaded.model.visual.encode(faces), ours.model.visual.encode(faces))
    config = ours.folder / "model" / "config.json"
    assert json.loads(config.read_text())["sha256"] == loaded.sha256


def test_norms_have_the_statistics_of_training_clips(shards: Path, tmp_path: Path) -> None:
    run_tokenizers(ours := setup(shards, tmp_path))
    first = next(module for module in ours.model.audio.modules() if isinstance(module, BatchNorm))
    with torch.no_grad():
        inputs = ours.model.audio.encoder[0](ours.reference.power[:, None])
    torch.testing.assert_close(first.running_mean, inputs.mean(dim=(0, 2)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.running_var, inputs.var(dim=(0, 2)), rtol=1e-3, atol=1e-3)
    assert len(ours.reference.power) >= SMALL.calibration_spectra


def test_in_the_last_epochs_the_encoder_of_sound_and_all_norms_stay(shards: Path, tmp_path: Path) -> None:
    fresh = setup(shards, tmp_path, epochs=4)
    batch = next(iter(fresh.make_loader(fresh.data.training, training=True).epoch(1)))
    audio, objective = fresh.model.audio, fresh.objective
    optimizer = fresh.make_trainer(MetricLogger(None, lambda line: None)).optimizer
    states = []
    for epoch in (1, 2, 3, 4):
        fresh.model.train()
        objective.loss(fresh.model, batch, epoch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        states.append({name: tensor.clone() for name, tensor in audio.state_dict().items()})
        assert bool(audio.fixed) == (epoch > 2)
    before, after = states[2:]
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("encoder."))
    norms = [f"{name}.running_mean" for name, module in audio.named_modules() if isinstance(module, BatchNorm)]
    assert all(torch.equal(before[name], after[name]) for name in norms)
    assert not torch.equal(states[0][norms[0]], states[1][norms[0]])
    assert not torch.equal(before["decoder.0.weight"], after["decoder.0.weight"])
    assert not torch.equal(before["quantizer.vectors"], after["quantizer.vectors"])


@pytest.mark.parametrize("change", ["weights", "config"])
def test_a_changed_folder_is_refused(shards: Path, tmp_path: Path, change: str) -> None:
    run_tokenizers(ours := setup(shards, tmp_path, epochs=1))
    folder = ours.folder / "model"
    if change == "weights":
        state = {name: tensor + 1e-6 for name, tensor in state_of(ours.folder).items()}
        with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
            metadata = file.metadata()
        safetensors.torch.save_file(state, folder / "model.safetensors", metadata)
        message = "found other weights than config.json describes"
    else:
        config = json.loads((folder / "config.json").read_text())
        config["visual"]["hidden"] = 16
        (folder / "config.json").write_text(json.dumps(config))
        message = "size mismatch|Error"
    with pytest.raises(WeightsError, match=message):
        load_tokenizers(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="found other weights, expected tokenizers; train some with make tokenizers"):
        load_tokenizers(folder)


def test_stopped_and_resumed_it_is_the_same(shards: Path, tmp_path: Path) -> None:
    run_tokenizers(whole := setup(shards, tmp_path / "whole"))
    for stop in (1, 3, 5):  # before, at and after the encoder of sound is fixed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.run_fold.stop_on_signal", lambda _, n=stop: nullcontext(counted(n)))
            with pytest.raises(Stopped):
                run_tokenizers(setup(shards, tmp_path / f"parts{stop}"))
        run_tokenizers(rest := setup(shards, tmp_path / f"parts{stop}"))
        for name in FILES:
            assert (rest.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_shards_at_an_address_teach_the_same(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_tokenizers(here := setup(shards, tmp_path / "here", workers=0))
    with FileServer(shards) as server:
        run_tokenizers(there := setup(server.url, tmp_path / "there", workers=3))
    files = [(each.folder / "model" / "model.safetensors").read_bytes() for each in (here, there)]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_end_with_the_same_model(shards: Path, tmp_path: Path) -> None:
    run_tokenizers(whole := setup(shards, tmp_path / "whole", epochs=6))
    folder = tmp_path / "runs" / "folder" / "tokenizers-anna"
    servers = get_context("forkserver")  # of processes that have torch already, and are else like new
    servers.set_forkserver_preload(["train.__main__"])

    def ended() -> None:
        for name in FILES:
            assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()
        shutil.rmtree(folder)

    def killed() -> None:
        if (folder / "tokenizers.json").exists():
            assert all((folder / name).is_file() for name in FILES)

    killed_at_random(lambda: servers.Process(target=_train, args=(shards, tmp_path / "runs")), killed, ended, 20)


def _train(shards: Path, runs: Path) -> None:
    """The same in a process of its own."""
    torch.set_num_threads(1)
    run_tokenizers(setup(shards, runs, epochs=6))


def test_two_processes_learn_what_one_does(shards: Path, tmp_path: Path) -> None:
    """Also where the last step of an epoch has no clip for one of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"shards": shards, "fold": "anna", "recipe": "tiny", "batch": 4, "fixed-epochs": None, "epochs": 2}
    options |= {"learning-rate": 1e-4}
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]
    small = [f"--set=tokenizers.{name}={getattr(SMALL, name)}" for name in vars(SMALL)]
    words = ["-m", "train", "tokenizers", *words, *small]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    joined = {**shared, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [shared, *({**joined, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))]
    runs = [tmp_path / "one", tmp_path / "two", tmp_path / "two"]
    started = [
        subprocess.Popen([sys.executable, *words, f"--runs={folder}"], env=environment)
        for environment, folder in zip(environments, runs, strict=True)
    ]
    try:
        assert [process.wait(timeout=200) for process in started] == [0, 0, 0]
    finally:
        for process in started:
            process.kill()
    one, two = (state_of(folder / "folder" / "tokenizers-anna") for folder in runs[:2])
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3)


def test_a_command_trains_both(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    small = [f"--set=tokenizers.{name}={getattr(SMALL, name)}" for name in vars(SMALL)]
    status, out, said = call("tokenizers", *small, recipe="tiny", epochs=1, fold="anna")
    assert status == 0, said
    folder = tmp_path / "runs" / "folder" / "tokenizers-anna"
    assert f"make shards of codes with make tokens WEIGHTS={folder}/model" in out
    assert "tokenizer of sound: 23,065 parameters" in said
    assert "of the mean spectrum" in out
    status, _, said = call("tokenizers", *small, "--set=tokenizers.decay=0.9", recipe="tiny", epochs=1, fold="anna")
    assert status == 2
    assert "was trained with other settings (recipe.tokenizers.decay: 0.99 -> 0.9)" in said
    status, out, said = call("tokenizers", "--show-recipe", recipe="tiny")
    assert "[tokenizers]" in out


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("tokenizers", {"recipe": "finetune"}, "recipe finetune: found no table tokenizers, expected a recipe such as"),
        ("train", {"recipe": "tokenizers", "encoder": "tiny"}, "recipe tokenizers: is for make tokenizers"),
        ("pretrain", {"recipe": "tokenizers", "encoder": "tiny"}, "recipe tokenizers: found no table pretraining"),
        ("tokenizers", {"strategy": "cfas"}, "tokenizers: found strategy cfas, expected none"),
        ("tokenizers", {"encoder": "tiny"}, "tokenizers: found encoder tiny, expected none"),
        ("tokenizers", {"label_scheme": "emotions"}, "tokenizers: found label scheme emotions, expected none"),
        ("tokenizers", {"feature": "mfcc"}, "tokenizers: found feature mfcc, expected none"),
        ("tokenizers", {"head": "mean"}, "tokenizers: found head mean, expected none: this is a setting of --model"),
        ("tokenizers", {"depth": "3"}, "tokenizers: found depth 3, expected none: this is a setting of --model"),
        ("tokenizers", {"fusion": "caf-saf"}, "tokenizers: found fusion caf-saf, expected none: this is a setting of"),
        ("tokenizers", {"tokenizers": "x"}, "tokenizers: found tokenizers x, expected none: this is a setting of"),
        ("tokenizers", {"compile": "on"}, "tokenizers: found compile on, expected auto or off: codebooks change"),
        ("tokenizers", {"refit": "1"}, "tokenizers: found --refit, expected none"),
        ("tokenizers", {"micro_batches": "2"}, "micro_batches: found 2, expected 1: batch norms and codebooks see"),
        ("tokenizers", {"set": "tokenizers.faces=3"}, "faces: found 3, expected 1, 2, 4, 8 or 16"),
        ("tokenizers", {"set": "augmentation.flip=0.5"}, "expected window_share only, with tokenizers"),
        ("tokenizers", {"set": "tokenizers.face=3"}, "found field 'face'; the nearest is 'faces'"),
        ("tokenizers", {"fold": None, "fold_scheme": "loso"}, "found fold scheme loso, expected a fold"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    call: Callable[..., tuple[int, str, str]], command: str, options: dict[str, str], message: str
) -> None:
    status, out, said = call(command, **{"fold": "anna", "recipe": "tiny", "epochs": 1, **options})
    assert (status, out) == (2, "")
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (lambda folder: folder_of(folder, PAIRS), "folder: found pairs, expected sequences of 96 pixels at 25"),
        (lambda folder: sequences(folder, side_px=112), "folder: found sequences of 112 pixels at 25 frames a second"),
        (lambda folder: sequences(folder, rate_hz=None), "of 96 pixels at any number of frames a second"),
    ],
)
def test_other_shards_are_refused(tmp_path: Path, build: Callable[[Path], Path], found: str) -> None:
    with pytest.raises(Exception, match=found) as caught:
        setup(build(tmp_path / "folder"), tmp_path / "runs")
    assert str(caught.value).endswith("build them with make shards FRAMES=all RATE=25 SIZE=96")


def test_clips_without_sound_or_face_are_not_measured(tmp_path: Path) -> None:
    """And have no part in the loss of what they lack."""
    shards = sequences(tmp_path / "folder")
    ours = setup(shards, tmp_path / "runs")
    batch = next(iter(ours.make_loader(ours.data.training, training=True).epoch(1)))
    complete = ours.objective.loss(ours.model.eval(), batch, 1)
    parts = [ours.objective.loss(ours.model, replace(batch, missing=(code, code)), 1) for code in (1, 2)]
    torch.testing.assert_close(parts[0] + parts[1], complete)
    assert all(0 < part.item() < complete.item() for part in parts)


@pytest.mark.parametrize(("code", "lacking"), [(1, "audio"), (2, "visual")])
def test_what_clips_lack_moves_no_codebook_and_no_norm(shards: Path, tmp_path: Path, code: int, lacking: str) -> None:
    def state_after(missing: tuple[int, int], first: int, clips: int) -> dict[str, torch.Tensor]:
        ours = setup(shards, tmp_path)
        batch = next(iter(ours.make_loader(ours.data.training, training=True).epoch(1)))
        before = {name: each.clone() for name, each in ours.model.state_dict().items()}
        step = replace(batch, missing=missing)[first : first + clips]
        ours.objective.loss(ours.model.train(), step, 1).backward()
        after = ours.model.state_dict()
        return {name: each for name, each in after.items() if not torch.equal(each, before[name])}

    neither = state_after((code, code), 0, 2)
    assert neither and not any(name.startswith(lacking) for name in neither)
    part, alone = state_after((code, 0), 0, 2), state_after((0, 0), 1, 1)
    of_lacking = [name for name in alone if name.startswith(lacking)]
    assert of_lacking
    for name in of_lacking:
        torch.testing.assert_close(part[name], alone[name])


def test_faces_that_are_measured_are_not_those_that_a_training_draws(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip has 40 faces, whose colours drift: 16 of them, evenly spaced, are measured whatever is drawn."""
    found, scores = [], []
    for count in (1, 8):
        monkeypatch.setattr(sys.modules[__name__], "SMALL", replace(SMALL, faces=count))
        ours = setup(shards, tmp_path)
        found.append(ours)
        trained = next(iter(ours.make_loader(ours.data.training, training=True).epoch(1)))
        assert trained.frames.shape == (2, 1, count, 96, 96, 3)
        loader = ours.make_loader(ours.measured)
        seen = next(iter(loader.epoch(0))).frames[0, 0].int()
        assert len(seen) == MEASURED_FACES == 16
        assert ((seen[1:] - seen[:-1]).abs().amax(dim=(1, 2, 3)) > 0).all(), "all are different"
        scores.append(measure(ours.model.eval(), loader, ours.reference, ALONE))
    assert scores[0] == scores[1]
    few, many = found
    everything = torch.cat([faces_of(each) for each in many.make_whole_loader(many.data.training).epoch(0)])
    assert len(everything) == 16 * len(many.data.training)
    torch.testing.assert_close(few.reference.face, everything.mean(dim=0))
    assert [len(clip.faces) for clip in decode_clips(few)] == [SHOWN_FACES] * len(decode_clips(many))


def test_spectra_of_a_step_belong_to_clip_and_epoch(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path)
    batch = next(iter(ours.make_whole_loader(ours.data.training).epoch(0)))
    drawn = np.array([[0.0, 0.5, 0.999]] * len(batch), np.float32)
    found = draw_spectra(batch, drawn).view(len(batch), 3, 513)
    power = clip_power(batch.sounds.samples[1])
    torch.testing.assert_close(found[1], power[[0, len(power) // 2, len(power) - 1]], rtol=1e-5, atol=1e-6)
    assert torch.equal(power, power_spectra(torch.from_numpy(_scaled(batch.sounds.samples[1])))[0])
    assert power.max() > 1  # of a peak of 1
    assert torch.equal(clip_power(batch.sounds.samples[1] // 2 * 2), clip_power(batch.sounds.samples[1] // 2))


def _scaled(sound: np.ndarray) -> np.ndarray:
    """[1, n] float32, its peak 1."""
    return (sound.astype(np.float32) / np.abs(sound.astype(np.float32)).max())[None]


def test_sound_from_its_own_spectra_has_these_spectra() -> None:
    seconds = torch.arange(16_000) / 16_000
    sound = torch.sin(2 * torch.pi * 440 * seconds) * 20_000
    power = clip_power(sound.numpy().astype(np.int16))
    found = clip_power((griffin_lim(power) * 20_000).numpy().astype(np.int16))
    assert len(found) == len(power)
    assert int(found[25].argmax()) == int(power[25].argmax()) == round(440 * 1024 / 16_000)


def test_without_a_fold_all_speakers_are_used(shards: Path, tmp_path: Path) -> None:
    held_out = setup(shards, tmp_path, fold="whole")
    assert held_out.folder == tmp_path / "folder" / "tokenizers"
    part = held_out.data.parts[0]
    assert part.trained == {*SPEAKERS}
    assert part.sides["validation"].subjects
    everybody = setup(shards, tmp_path, fold="whole", selection="last", epochs=1)
    found = run_tokenizers(everybody)
    assert "divergence" not in read_epochs(everybody.folder)[-1]
    assert found.scores["divergence"] > 0  # of the clips that were trained on
    assert "On the clips that were trained on" in (everybody.folder / "report.html").read_text()
