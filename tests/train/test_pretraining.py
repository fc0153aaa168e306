"""Masked pre-training from shards: what is learned, what is written, what begins with it and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import VideoMAEForPreTraining

from manifests.folds import FoldError
from manifests.joined_folds import train_on_all
from tests.factories.shards import SPEAKERS, make_folder
from tests.factories.small_trainings import counted
from tests.fakes.servers import FileServer
from tests.kills import killed_at_random
from train import cli
from train.config import TrainConfig
from train.data.fold_data import open_fold
from train.data.masks import LACKS, SHOWS_FACES, SHOWS_SOUND, MaskSettings, TokenLayout
from train.distributed import Ranks
from train.fusion import STRATEGIES
from train.models.mae import patch_targets
from train.models.mae_weights import load_pretrained
from train.models.videomae import ENCODERS, EncoderConfig, split_patches, take_tokens
from train.pretraining import page
from train.pretraining.cross_modal import measure_cross_modal
from train.pretraining.hidden_patches import measure_hidden_patches
from train.pretraining.page import read_epochs
from train.pretraining.probe import linear_probe, nearest_neighbours
from train.pretraining.reconstruction import Reconstruction, to_pixels
from train.pretraining.run import run_pretraining
from train.pretraining.setup import PretrainingSetup, prepare_pretraining
from train.recipes import RECIPES
from train.trainer import Stopped

#: As `tiny`, but narrower.
NARROW = EncoderConfig(width=16, depth=1, heads=2, mlp=32, patch=(2, 14, 14), input=(16, 56, 56))
ALONE = Ranks(device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(ENCODERS, "tiny", NARROW)


def setup(shards: Path | str, runs: Path, **changes: Any) -> PretrainingSetup:
    """A pre-training of few epochs; `changes` are of the recipe, or of the configuration."""
    recipe = RECIPES["pretrain-tiny"]
    short = {"steps": None, "epochs": 3, "batch": 4, "warmup_steps": 0, "warmup_epochs": 1, "validation_steps": 0}
    recipe = replace(recipe, **short)
    known = set(TrainConfig.__dataclass_fields__)
    recipe = replace(recipe, **{name: value for name, value in changes.items() if name not in known})
    settings = {"strategy": "cfas", "fold": "anna", "encoder": "tiny", **changes}
    settings = {name: value for name, value in settings.items() if name in known}
    config = TrainConfig(shards=str(shards), runs=str(runs), recipe=recipe, **settings)
    return prepare_pretraining(config, ALONE, lambda line: None)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


@pytest.fixture
def call(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command of the trainer -> its status, output and messages."""

    def call(command: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        named = {"shards": shards, "runs": tmp_path / "runs", "encoder": "tiny", "epochs": 2, **options}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in named.items() if value is not None]
        status = cli.run([command, *words, *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_it_learns_and_keeps_the_last_epoch(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path, epochs=30)
    before = {name: tensor.clone() for name, tensor in ours.model.state_dict().items()}
    found = run_pretraining(ours)
    epochs = read_epochs(ours.folder)
    assert [line["epoch"] for line in epochs] == list(range(1, 31))
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"] - 0.02
    assert 0 < epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]
    assert {"linear_probe", "nearest_neighbour"} <= epochs[-1].keys()
    after = state_of(ours.folder)
    assert {name for name, tensor in after.items() if torch.equal(before[name], tensor)} == set()
    assert found.scores["train_loss"] == epochs[-1]["train_loss"]
    assert sorted(path.name for path in ours.folder.iterdir()) == [
        *(".lock", "config.json", "log.jsonl", "model", "pretraining.json", "report.html")
    ]
    page = (ours.folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "50 % of the faces, 50 % of the sound; in 75 % of the clips with both" in page
    scores = json.loads((ours.folder / "pretraining.json").read_text())
    for measure, names in (
        ("hidden_modality", ("own", "shifted", "other")),
        ("hidden_patches", ("model", "mean_of_place")),
    ):
        assert scores[measure].keys() == {"sound", "faces"}
        assert all(f"{each[name]:.4f}" in page for each in scores[measure].values() for name in names)
    assert run_pretraining(setup(shards, tmp_path, epochs=30)) == found  # read, not repeated


def test_stopped_and_resumed_it_is_the_same(shards: Path, tmp_path: Path) -> None:
    whole = setup(shards, tmp_path / "whole")
    run_pretraining(whole)
    for stop in (1, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("train.run_fold.stop_on_signal", lambda _, n=stop: nullcontext(counted(n)))
            with pytest.raises(Stopped):
                run_pretraining(setup(shards, tmp_path / f"parts{stop}"))
        rest = setup(shards, tmp_path / f"parts{stop}")
        run_pretraining(rest)
        for name in ("model.safetensors", "config.json", "transformers/model.safetensors"):
            assert (rest.folder / "model" / name).read_bytes() == (whole.folder / "model" / name).read_bytes()


def test_shards_at_an_address_teach_the_same(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_pretraining(here := setup(shards, tmp_path / "here"))
    with FileServer(shards) as server:
        run_pretraining(there := setup(server.url, tmp_path / "there"))
    files = [(each.folder / "model" / "model.safetensors").read_bytes() for each in (here, there)]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_end_with_the_same_model(shards: Path, tmp_path: Path) -> None:
    names = ("model/model.safetensors", "model/config.json", "model/transformers/model.safetensors")
    run_pretraining(whole := setup(shards, tmp_path / "whole", epochs=6))
    folder = tmp_path / "runs" / "folder" / "cfas" / "pretrain-anna"
    servers = get_context("forkserver")  # of processes that have torch already, and are else like new
    servers.set_forkserver_preload(["train.__main__"])

    def ended() -> None:
        for name in names:
            assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()
        shutil.rmtree(folder)

    def killed() -> None:
        if (folder / "pretraining.json").exists():
            assert all((folder / name).is_file() for name in names)

    killed_at_random(lambda: servers.Process(target=_pretrain, args=(shards, tmp_path / "runs")), killed, ended, 20)


def _pretrain(shards: Path, runs: Path) -> None:
    """The same in a process of its own."""
    torch.set_num_threads(1)
    ENCODERS["tiny"] = NARROW  # type: ignore[index]
    run_pretraining(setup(shards, runs, epochs=6))


def test_micro_batches_and_draws_are_means(shards: Path, tmp_path: Path) -> None:
    run_pretraining(one := setup(shards, tmp_path / "one"))
    run_pretraining(two := setup(shards, tmp_path / "two", micro_batches=2))
    for name, tensor in state_of(one.folder).items():
        torch.testing.assert_close(state_of(two.folder)[name], tensor, rtol=0, atol=5e-4)
    four = setup(shards, tmp_path / "four", repeated_augmentation=4)
    batch = next(iter(four.make_loader(four.data.training).epoch(1)))
    clips = four.objective.masked(batch, 1, training=True)
    assert len(clips.inputs) == 4 * len(batch)
    assert len({tuple(row.tolist()) for row in clips.masks.visible}) > len(batch)  # masks of each draw


def test_two_processes_learn_what_one_does(shards: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"shards": shards, "strategy": "ffls", "fold": "anna", "recipe": "tiny", "epochs": 2, "batch": 4}
    words = ["-m", "train", "pretrain", *(f"--{name}={value}" for name, value in options.items())]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    joined = {**shared, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [shared, *({**joined, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))]
    runs = [tmp_path / "one", tmp_path / "two", tmp_path / "two"]
    started = [
        subprocess.Popen([sys.executable, *words, "--encoder=tiny", f"--runs={folder}"], env=environment)
        for environment, folder in zip(environments, runs, strict=True)
    ]
    try:
        assert [process.wait(timeout=200) for process in started] == [0, 0, 0]
    finally:
        for process in started:
            process.kill()
    one, two = (state_of(folder / "folder" / "ffls" / "pretrain-anna") for folder in runs[:2])
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=5e-4)


def test_its_weights_begin_other_trainings_but_no_test_of_its_speakers(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    status, out, said = call("pretrain", fold="anna", strategy="cfas", recipe="tiny")
    assert status == 0, said
    folder = tmp_path / "runs" / "folder" / "cfas" / "pretrain-anna"
    assert f"begin with make train WEIGHTS={folder}/model" in out
    assert "of which 64 are visible and 64 are predicted" in said
    lineage = load_pretrained(folder / "model").encoder.lineage
    assert lineage.kind == "self-supervised"
    assert lineage.speakers("folder") == {*SPEAKERS} - {"anna"}
    for strategy in ("cfas", "rfas", "spectrograms"):
        status, _, said = call("train", fold="anna", strategy=strategy, recipe="tiny", weights=folder / "model")
        assert status == 0, said
    config = json.loads((tmp_path / "runs" / "folder" / "rfas" / "fold-anna" / "config.json").read_text())
    assert config["identity"]["protocol"]["supervision"] == "self-supervised"
    status, _, said = call("train", fold=SPEAKERS[1], strategy="cfas", recipe="tiny", weights=folder / "model")
    assert status == 2
    assert f"were trained or validated on {SPEAKERS[1]} of folder, whom fold {SPEAKERS[1]} tests" in said
    status, _, said = call("pretrain", fold="anna", recipe="tiny", strategy="faces", weights=folder / "model")
    assert status == 0, said
    assert f"from {folder}/model: encoder and decoder" in said
    loaded, info = VideoMAEForPreTraining.from_pretrained(folder / "model" / "transformers", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.config.patch_size == 14


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("pretrain", {"recipe": "finetune"}, "recipe finetune: found no table pretraining, expected a recipe such as"),
        ("train", {"recipe": "pretrain-tiny"}, "recipe pretrain-tiny: is for make pretrain"),
        ("pretrain", {"recipe": "tiny", "test": "other"}, "pretrain: found --test, expected none: nothing is tested"),
        ("pretrain", {"recipe": "tiny", "refit": "1"}, "pretrain: found --refit, expected none"),
        ("pretrain", {"recipe": "tiny", "set": "augmentation.mixup=0.8"}, "expected no mixing and no modality_dropout"),
        ("pretrain", {"recipe": "tiny", "set": "pretraining.faces_ratio=1"}, "faces_ratio: found 1.0, expected above"),
        ("pretrain", {"recipe": "tiny", "set": "pretraining.ratio=1"}, "pretraining: found field 'ratio'; the nearest"),
        (
            "pretrain",
            {"recipe": "tiny", "set": "pretraining.faces_ratio=0.1"},
            "expected at most the 64 of one modality, so that the other one can be hidden",
        ),
        ("pretrain", {"recipe": "tiny", "strategy": "mymodule:fuse"}, "pretrain: found code of your own"),
        ("pretrain", {"recipe": "tiny", "label_scheme": "bogus"}, "bogus"),
        (
            "pretrain",
            {"recipe": "tiny", "fold": None, "fold_scheme": "loso"},
            "found fold scheme loso, expected a fold",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    call: Callable[..., tuple[int, str, str]], command: str, options: dict[str, str], message: str
) -> None:
    status, out, said = call(command, **{"fold": None if "test" in options else "anna", "strategy": "cfas", **options})
    assert (status, out) == (2, "")
    assert message in said
    assert said.count("\n") == 1


def test_other_settings_are_refused_once_it_was_started(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("pretrain", fold="anna", recipe="tiny", epochs=1)[0] == 0
    status, _, said = call("pretrain", fold="anna", recipe="tiny", epochs=1, set="pretraining.motion=true")
    assert status == 2
    assert "was trained with other settings (recipe.pretraining.motion: False -> True)" in said


def test_without_a_fold_all_speakers_are_used(shards: Path, tmp_path: Path) -> None:
    held_out = setup(shards, tmp_path, fold="whole")
    assert held_out.folder == tmp_path / "folder" / "cfas" / "pretrain"
    part = held_out.data.parts[0]
    assert part.trained == {*SPEAKERS}
    assert part.sides["validation"].subjects
    everybody = setup(shards, tmp_path, fold="whole", selection="last")
    assert len(everybody.data.training) == len(held_out.data.training) + len(held_out.data.clips("validation"))
    run_pretraining(everybody)
    assert "validation_loss" not in read_epochs(everybody.folder)[-1]
    assert (everybody.folder / "report.html").is_file()


def test_without_a_fold_no_scheme_is_opened(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schemes of one and of five folds cannot be joined, and corpora of two speakers have none."""

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(cli, "_open_corpora", fail)
    assert call("pretrain", recipe="tiny", strategy="faces", epochs=1)[0] == 0
    assert call("pretrain", "--fixed-epochs", recipe="tiny", strategy="spectrograms", epochs=1)[0] == 0


def test_a_single_speaker_can_be_trained_on_but_not_validated_with() -> None:
    rows = [SimpleNamespace(clip_id="1", speaker="eva", shard="eva-000.tar", raw_label="joy")]
    sides = train_on_all("folder", {"eva-000.tar": "eva"}, rows, validation=False).folds["whole"]
    assert (sides["train"].subjects, sides["validation"].subjects) == (("eva",), ())
    with pytest.raises(FoldError):
        train_on_all("folder", {"eva-000.tar": "eva"}, rows)


def test_pictures_are_of_complete_clips_and_all_that_is_hidden_is_painted(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where half is decoded in training, and a modality is replaced in what the encoder sees."""
    shown: list[page.Reconstruction] = []
    monkeypatch.setattr(page, "draw_reconstructions", lambda clips, *_: shown.extend(clips) or b"")
    hiding = replace(RECIPES["pretrain-tiny"].pretraining, hide_modality=1.0, decoded=0.5)
    ours = setup(shards, tmp_path, strategy="ofos", pretraining=hiding)
    page._draw_clips(ours)
    clips = ours.data.clips("validation")
    whole = {
        key: pixels
        for batch in ours.make_loader(clips).epoch(0)
        for key, pixels in zip(
            batch.keys, to_pixels(ours.transform.evaluation_input(batch).inputs, "imagenet"), strict=True
        )
    }
    for clip in shown:
        original, visible, painted = (clip.videos[name] for name in ("original", "visible", "painted"))
        assert torch.equal(original, whole[clip.key])
        patches = [split_patches(video[None], NARROW.patch)[0].flatten(1) for video in (original, visible, painted)]
        hidden = (patches[1] == 0.5).all(1)
        assert hidden.sum() == 64
        varied = patches[0].std(1) > 1e-3
        assert not (patches[2] == patches[0]).all(1)[hidden & varied].any()


@pytest.mark.parametrize(
    ("strategy", "hide_modality", "expected"),
    [
        ("faces", 0.25, "89.8 % of the faces"),
        ("spectrograms", 0.25, "80.6 % of the sound"),
        ("cfas", 0.0, "89.8 % of the faces, 79.6 % of the sound"),
        (
            *("cfas", 0.25),
            "89.8 % of the faces, 79.6 % of the sound; in 25 % of the clips with both, one modality is hidden wholly "
            "instead",
        ),
        (
            *("ofos", 0.25),
            "89.8 % of the tokens, which show both; in 25 % of the clips with both, one modality is replaced by its "
            "mean, too",
        ),
    ],
)
def test_the_page_says_what_was_hidden(strategy: str, hide_modality: float, expected: str) -> None:
    masks = MaskSettings(faces_ratio=0.9, sound_ratio=0.8125, hide_modality=hide_modality)
    layout = TokenLayout.of(STRATEGIES[strategy], ENCODERS["large"])
    assert page.describe_hidden(layout, masks) == expected
    visible, _ = layout.sizes(masks)
    shares = [float(share) / 100 for share in re.findall(r"([\d.]+) % of the (?:faces|sound|tokens)", expected)]
    hidden = sum(share * tokens.size for share, tokens in zip(shares, layout.groups.values(), strict=True))
    assert hidden == pytest.approx(layout.codes.size - visible, abs=1)


def test_of_clips_without_sound_nothing_more_is_hidden(shards: Path, tmp_path: Path) -> None:
    hiding = replace(RECIPES["pretrain-tiny"].pretraining, hide_modality=1.0)
    for strategy in ("cfas", "ofos"):
        ours = setup(shards, tmp_path, strategy=strategy, pretraining=hiding)
        batch = next(iter(ours.make_loader(ours.data.training).epoch(1)))
        lacking = replace(batch, missing=(1, 2, *[0] * (len(batch) - 2)))
        codes = ours.objective.masked(lacking, 1, training=True).masks.hidden_modality
        assert codes[:2] == (0, 0)
        assert all(codes[2:])


def test_the_right_clip_paints_what_is_hidden_of_it(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path)
    objective, patch = ours.objective, ours.objective.patch
    clips = ours.data.clips("validation")
    (batch,) = ours.make_loader(clips).epoch(0)
    inputs = ours.transform.evaluation_input(batch).inputs
    targets = patch_targets(to_pixels(inputs, "imagenet"), patch)

    def knows_every_clip(seen: torch.Tensor, visible: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """What is hidden of the clip that is seen, whichever that is."""
        codes = objective.layout.codes.ravel()
        assert len({(codes[visible].min(), codes[visible].max()), (codes[decoded].min(), codes[decoded].max())}) == 2
        which = [int((inputs - clip).abs().sum(dim=(1, 2, 3, 4)).argmin()) for clip in seen]
        return take_tokens(targets[which], decoded)

    found = measure_cross_modal(objective, knows_every_clip, ours.make_loader, clips, ALONE, 1)
    assert found.keys() == {"sound", "faces"}
    for each in found.values():
        assert each.own == 0 < each.other
        assert each.better_than_other == each.clips == len(clips)
    nothing = measure_cross_modal(
        objective, lambda _, __, decoded: torch.zeros(*decoded.shape, 1176), ours.make_loader, clips, ALONE, 1
    )
    for each in nothing.values():
        assert each.own == each.other == each.shifted > 0 == each.better_than_other == each.better_than_shifted


@pytest.mark.parametrize("strategy", ["cfas", "ffls", "fslf"])
def test_half_a_clip_later_is_told_from_the_right_time(shards: Path, tmp_path: Path, strategy: str) -> None:
    """A model that copies what is seen at the place and time of a token: other time steps show other pictures."""
    ours = setup(shards, tmp_path, strategy=strategy)
    objective, layout, patch = ours.objective, ours.objective.layout, ours.objective.patch
    clips = ours.data.clips("validation")
    seen = []

    def record(video: torch.Tensor, _: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        seen.append(split_patches(video, patch).unflatten(1, layout.codes.shape))
        return torch.zeros(*decoded.shape, 1176)

    assert measure_cross_modal(objective, record, ours.make_loader, clips, ALONE, 1)
    own, shifted = seen[:2]
    for code in (SHOWS_FACES, SHOWS_SOUND):
        steps = np.flatnonzero((layout.codes == code).any(axis=(1, 2)))
        shown = torch.from_numpy(layout.codes == code)
        for place, step in enumerate(steps):
            later = steps[(place + len(steps) // 2) % len(steps)]
            assert torch.equal(shifted[:, step][:, shown[step]], own[:, later][:, shown[step]])
    assert not torch.equal(own, shifted)


def test_what_is_told_of_a_hidden_modality_does_not_depend_on_the_batch(shards: Path, tmp_path: Path) -> None:
    found = []
    for batch, micro_batches in ((8, 1), (8, 4), (3, 1)):
        ours = setup(shards, tmp_path, batch=batch)
        clips = ours.data.clips("validation")
        found.append(
            measure_cross_modal(ours.objective, ours.model.eval(), ours.make_loader, clips, ALONE, micro_batches)
        )
    for other in found[1:]:
        for name, each in found[0].items():
            assert other[name].clips == each.clips == len(clips)
            assert other[name].own == pytest.approx(each.own, rel=1e-5)
            assert other[name].shifted == pytest.approx(each.shifted, rel=1e-5)
            assert other[name].other == pytest.approx(each.other, rel=1e-5)


def test_what_a_recording_lacks_is_not_predicted(shards: Path, tmp_path: Path) -> None:
    """Errors of the tokens of the modality that a clip lacks do not count, and such clips are no others of a clip."""
    ours = setup(shards, tmp_path)
    objective, clips = ours.objective, ours.data.clips("validation")
    (batch,) = ours.make_loader(clips).epoch(0)
    codes = torch.from_numpy(objective.layout.codes.ravel())
    lacking = replace(batch, missing=(1, 2, *[0] * (len(batch) - 2)))
    masked = objective.masked(lacking, 0, training=False)
    assert objective.masked(batch, 0, training=False).counted is None
    right = take_tokens(masked.targets, masked.masks.decoded)
    shown = codes[masked.masks.decoded]
    for modality in (SHOWS_SOUND, SHOWS_FACES):
        losses = masked.losses(right + (shown == modality)[..., None])
        kept = [clip for clip in range(2) if losses[clip] == 0]
        assert len(kept) == 1, "the clip that lacks this modality"
        assert LACKS[lacking.missing[kept[0]]] == modality
        assert torch.equal(losses[2:] > 0, (shown[2:] == modality).any(1))
    some = replace(clips, missing=np.array([1, *[0] * (len(clips) - 1)], dtype=clips.missing.dtype))
    found = measure_cross_modal(objective, ours.model.eval(), ours.make_loader, some, ALONE, 1)
    rest = measure_cross_modal(
        objective, ours.model.eval(), ours.make_loader, clips.take(np.arange(1, len(clips))), ALONE, 1
    )
    assert found == rest


def test_hidden_patches_are_painted_beside_what_needs_no_learning(shards: Path, tmp_path: Path) -> None:
    ours = setup(shards, tmp_path)
    objective, clips = ours.objective, ours.data.clips("validation")

    def paint_rightly(video: torch.Tensor, _: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        return take_tokens(patch_targets(to_pixels(video, ours.transform.input_range), objective.patch), decoded)

    loader, training = ours.make_loader(clips), ours.make_loader(ours.data.training)
    found = measure_hidden_patches(objective, paint_rightly, ours.make_loader, ours.data.training, clips, ALONE, 1)
    assert found.keys() == {"faces", "sound"}
    codes = objective.layout.codes.reshape(-1)
    places = np.argwhere(np.ones(objective.layout.codes.shape))
    known = torch.cat([objective.masked(each, 0, training=False).targets for each in training.epoch(0)]).mean(0)
    losses: dict[str, list[tuple[float, ...]]] = {"faces": [], "sound": []}
    for batch in loader.epoch(0):
        seen = objective.masked(batch, 0, training=False)
        for targets, visible, decoded in zip(seen.targets, seen.masks.visible, seen.masks.decoded, strict=True):
            for token in decoded.tolist():
                alike = [each for each in visible.tolist() if codes[each] == codes[token]] or visible.tolist()
                near = min(alike, key=lambda each, token=token: np.linalg.norm(places[each] - places[token]))
                guesses = (targets[token], 0 * targets[token], targets[near], known[token])
                errors = tuple(float((guess - targets[token]).square().mean()) for guess in guesses)
                losses["sound" if codes[token] == SHOWS_SOUND else "faces"].append(errors)
    for name, each in found.items():
        expected = np.mean(losses[name], axis=0)
        assert each.model == 0
        np.testing.assert_allclose([each.mean_patch, each.nearest_visible, each.mean_of_place], expected[1:], rtol=1e-4)
    assert {*ours.result()["hidden_patches"]} == {"faces", "sound"}
    assert {*setup(shards, tmp_path, strategy="ofos").result()["hidden_patches"]} == {"both"}
    assert "hidden_patches" not in setup(shards, tmp_path, selection="last").result()


def test_where_tokens_are_shared_no_modality_is_painted_from_the_other(shards: Path, tmp_path: Path) -> None:
    assert setup(shards, tmp_path, strategy="ofos").result().get("hidden_modality", {}) == {}
    assert setup(shards, tmp_path, strategy="faces").result().get("hidden_modality", {}) == {}
    assert setup(shards, tmp_path, selection="last").result().get("hidden_modality", {}) == {}


def test_several_corpora_some_without_labels(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = make_folder(tmp_path / "shards" / "bare", dataset="bare", speakers=("eva", "finn", "gil"), emotions=(None,))
    arguments = ["pretrain", "--shards", str(shards), str(bare), f"--runs={tmp_path / 'runs'}", "--encoder=tiny"]
    status = cli.run([*arguments, "--recipe=tiny", "--epochs=1", "--set", "sampling=balanced-corpora"])
    assert status == 0, capsys.readouterr().err
    folder = tmp_path / "runs" / "bare+folder" / "faces" / "pretrain"
    lineage = load_pretrained(folder / "model").encoder.lineage
    assert lineage.speakers("bare") == {"eva", "finn", "gil"}
    assert lineage.speakers("folder") == {*SPEAKERS}
    assert "linear_probe" not in read_epochs(folder)[-1]


@pytest.mark.parametrize("strategy", ["sfas", "ofos", "rfas"])
def test_where_tokens_are_shared_a_modality_is_hidden_in_the_picture(
    shards: Path, tmp_path: Path, strategy: str
) -> None:
    hiding = replace(RECIPES["pretrain-tiny"].pretraining, hide_modality=1.0)
    ours = setup(shards, tmp_path, strategy=strategy, pretraining=hiding)
    batch = next(iter(ours.make_loader(ours.data.training).epoch(1)))
    found = ours.objective.masked(batch, 1, training=False)
    whole = ours.transform.evaluation_input(batch).inputs
    assert {*found.masks.hidden_modality} <= {SHOWS_FACES, SHOWS_SOUND}
    plain: Reconstruction = ours.objective
    plain.masks = replace(hiding, hide_modality=0.0)
    complete = plain.masked(batch, 1, training=False)
    assert torch.equal(complete.inputs, whole)
    assert torch.equal(found.targets, complete.targets)  # what is hidden has to be predicted
    for shown, full, modality in zip(found.inputs, whole, found.masks.hidden_modality, strict=True):
        assert modality
        assert not torch.equal(shown, full)


def test_a_share_of_the_labels(shards: Path) -> None:
    data = open_fold(shards, "anna", strategy="faces")
    half = data.with_training_share(0.5, seed=0)
    labels, counts = np.unique(data.training.labels, return_counts=True)
    assert {label: np.count_nonzero(half.training.labels == label) for label in labels.tolist()} == {
        label: max(1, round(count / 2)) for label, count in zip(labels.tolist(), counts.tolist(), strict=True)
    }
    assert {*half.training.ids} < {*data.training.ids}
    assert half.training.statistics == data.training.statistics
    assert data.with_training_share(0.5, seed=0).training.ids == half.training.ids
    others = [data.with_training_share(0.5, seed=seed).training.ids for seed in range(1, 6)]
    assert any(ids != half.training.ids for ids in others)
    assert len(data.with_training_share(1e-6, seed=0).training) == len(labels)


def test_probes_find_classes_that_are_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 8, generator=generator)
    features[:, :3] += 8 * torch.eye(3)[labels]
    for measure in (linear_probe, nearest_neighbours):
        assert measure(features[:40], labels[:40], features[40:], labels[40:]) == 1.0
        noise = torch.randn(60, 8, generator=generator)
        assert measure(noise[:40], labels[:40], noise[40:], labels[40:]) < 0.8
