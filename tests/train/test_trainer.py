"""The trainer: what is learned does not depend on how, or in how many parts, it was run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.factories.small_trainings import CLASSES, CLIPS, loader, make_trainer, plain
from train.classification import run_inference, sum_of_losses
from train.data.augment import NO_AUGMENTATION, Augmentation, TransformError
from train.data.batches import CachedBatch
from train.data.sampler import balanced_class_weights
from train.data.transforms import CachedTransform, ModelInput, View
from train.runs import EpochMetrics, read_log
from train.trainer import Stopped, Trainer, TrainingError, is_better

#: Two ranks, and micro-batches, add the same float32 numbers in another order, in 12 steps; found is below 1e-6.
RANKS_TOLERANCE = 5e-6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_and_chooses_the_best_epoch(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=12, drop_path=0.0)
    progress = trainer.fit()
    log = read_log(tmp_path / "log.jsonl")
    assert [epoch.epoch for epoch in log] == list(range(1, 13))
    assert log[-1].train_loss < log[0].train_loss - 0.3
    assert progress.best == max(log, key=lambda epoch: (epoch.validation_uar, -epoch.validation_loss, -epoch.epoch))
    assert progress.best.validation_uar > 0.8


def test_same_seed_same_weights(tmp_path: Path) -> None:
    trainers = [make_trainer(tmp_path / name) for name in "ab"]
    for trainer in trainers:
        trainer.fit()
    assert equal(weights(trainers[0]), weights(trainers[1]))


def test_another_seed_other_weights(tmp_path: Path) -> None:
    trainers = [make_trainer(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for trainer in trainers:
        trainer.fit()
    assert not equal(weights(trainers[0]), weights(trainers[1]))


@pytest.mark.parametrize("stop_after", [1, 4, 6, 8])
def test_stopped_and_resumed_is_as_if_it_had_not_been(tmp_path: Path, stop_after: int) -> None:
    """4 is the last step of an epoch, 1, 6 are within one."""
    whole = make_trainer(tmp_path / "whole")
    state = whole.fit()
    with pytest.raises(Stopped):
        make_trainer(tmp_path / "parts", stop_after=stop_after).fit()
    torch.manual_seed(999)  # nothing may come from what was drawn before
    rest = make_trainer(tmp_path / "parts")
    assert rest.fit() == state
    assert equal(weights(whole), weights(rest))
    assert read_log(tmp_path / "parts" / "log.jsonl") == read_log(tmp_path / "whole" / "log.jsonl")
    best = [safetensors.torch.load_file(trainer.checkpoints.best_path(state.best.epoch)) for trainer in (whole, rest)]
    assert equal(*best)


def test_killed_between_checkpoints_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    killed = make_trainer(tmp_path / "parts", save_steps=2)
    steps = iter(range(7))

    def die() -> bool:
        if next(steps) == 6:
            raise RuntimeError("killed")
        return False

    killed.should_stop = die
    with pytest.raises(RuntimeError, match="killed"):
        killed.fit()
    rest = make_trainer(tmp_path / "parts", save_steps=2)
    rest.fit()
    assert equal(weights(whole), weights(rest))


@pytest.mark.parametrize("changes", [{}, {"class_weights": "balanced"}, {"sampling": "balanced"}])
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_learn_the_same(tmp_path: Path, micro_batches: int, changes: dict[str, str]) -> None:
    """13 clips in steps of 8: the last step has micro-batches of 4 and 1, or of 2, 2 and 1."""
    whole = plain(tmp_path / "whole", batch=8, **changes)
    split = plain(tmp_path / "split", batch=8, micro_batches=micro_batches, **changes)
    calls: list[int] = []
    model = split.model
    split.compiled_model = lambda inputs, noise: calls.append(len(inputs)) or model(inputs, noise)
    whole.fit()
    split.fit()
    assert calls[:micro_batches] == [8 // micro_batches] * micro_batches
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], tensor, rtol=0, atol=RANKS_TOLERANCE)


#: Changes of the recipe under which the invariants hold, too.
VARIANTS = {
    "as it is": {},
    "weighted": {"class_weights": "balanced"},
    "balanced": {"sampling": "balanced"},
    "partly frozen": {"freeze": ["encoder.patch_embed.*", "encoder.blocks.0.*"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_learn_what_one_does(tmp_path: Path, variant: str) -> None:
    """13 clips in steps of 4: the last step has one clip for the first rank and none for the second."""
    changes = VARIANTS[variant]
    alone = plain(tmp_path / "alone", **changes)
    final = alone.fit()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, out = "tests.factories.small_trainings", tmp_path / "two"
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared["PYTHONPATH"] = os.pathsep.join([*sys.path, shared.get("PYTHONPATH", "")])
    both = [
        subprocess.Popen(
            [sys.executable, "-m", script, str(out), json.dumps(changes)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    state = sorted((out / "checkpoints").iterdir())[-1]
    found = safetensors.torch.load_file(state / "model.safetensors")
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=RANKS_TOLERANCE)
    log = read_log(out / "log.jsonl")
    assert [epoch.validation_uar for epoch in log] == [
        epoch.validation_uar for epoch in read_log(tmp_path / "alone" / "log.jsonl")
    ]
    assert json.loads((state / "state.json").read_text())["best"]["epoch"] == final.best.epoch


@pytest.mark.parametrize("variant", [name for name in VARIANTS if VARIANTS[name]])
def test_every_variant_is_resumed_as_if_it_had_not_been_stopped(tmp_path: Path, variant: str) -> None:
    changes = VARIANTS[variant] | {"augmentation": Augmentation(mixup=0.8)}
    whole = make_trainer(tmp_path / "whole", **changes)
    state = whole.fit()
    with pytest.raises(Stopped):
        make_trainer(tmp_path / "parts", stop_after=6, **changes).fit()
    rest = make_trainer(tmp_path / "parts", **changes)
    assert rest.fit() == state
    assert equal(weights(whole), weights(rest))


def test_weights_of_classes_have_mean_1_over_clips_and_mix_with_targets() -> None:
    labels = np.array([0] * 9 + [1] * 3 + [3])
    class_weights = balanced_class_weights(labels, 4)
    assert class_weights[labels].mean() == pytest.approx(1)
    assert class_weights.tolist() == pytest.approx([13 / 27, 13 / 9, 0, 13 / 3])
    logits, factors = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)), torch.from_numpy(class_weights)
    targets = torch.tensor([[1.0, 0, 0, 0], [0.25, 0, 0, 0.75]])
    plain_losses = torch.stack([sum_of_losses(logits[i : i + 1], targets[i : i + 1], 0.1, None) for i in range(2)])
    clip_weights = torch.tensor([13 / 27, 0.25 * 13 / 27 + 0.75 * 13 / 3])
    torch.testing.assert_close(sum_of_losses(logits, targets, 0.1, factors), (plain_losses * clip_weights).sum())
    ones = sum_of_losses(logits, targets, 0.1, torch.ones(4))
    torch.testing.assert_close(ones, sum_of_losses(logits, targets, 0.1, None))
    assert sum_of_losses(logits[:0], targets[:0], 0.1, factors) == 0


def test_a_step_is_not_divided_by_the_weights_of_its_clips(tmp_path: Path) -> None:
    """The loss of a step of one clip is larger by the weight of its class, which a weighted mean would cancel."""

    def first_loss(class_weights: str) -> float:
        options = {"drop_path": 0.0, "head_dropout": 0.0, "augmentation": NO_AUGMENTATION}
        trainer = plain(tmp_path, class_weights=class_weights, **options)
        return float(trainer.train_step(1, 0, rare))

    skewed = loader(CLIPS, batch=CLIPS, skewed=True)
    (every,) = skewed.epoch(1)
    place = every.labels.tolist().index(CLASSES - 1)
    rare = every[place : place + 1]
    weight = balanced_class_weights(skewed.labels.numpy(), CLASSES)[-1]
    assert weight == pytest.approx(CLIPS / CLASSES)
    assert first_loss("balanced") == pytest.approx(first_loss("none") * weight, rel=1e-5)


def test_frozen_parameters_stay_and_have_no_state(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, freeze=("encoder.blocks.[0].*", "fc_norm.bias"))
    before, names = weights(trainer), dict(trainer.model.named_parameters())
    frozen = {name for name in names if name.startswith("encoder.blocks.0.") or name == "fc_norm.bias"}
    trainer.fit()
    after = weights(trainer)
    assert {name for name in names if torch.equal(before[name], after[name])} == frozen
    grouped = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert grouped == len(trainer.optimizer.state) == len(names) - len(frozen)


def test_stochastic_depth_belongs_to_the_clip(tmp_path: Path) -> None:
    """Not to its place in the batch, and not to a generator that something else uses."""
    trainer = make_trainer(tmp_path, head_dropout=0.5)
    keys = tuple(f"clip-{number}" for number in range(5))
    (noise,) = trainer.objective.noise(keys, 2)
    torch.manual_seed(5)
    (turned,) = trainer.objective.noise(keys[::-1], 2)
    assert torch.equal(noise, turned.flip(0))
    assert noise.shape == (5, 2 * 2 + 16)  # two for each block, one for each channel
    assert not torch.equal(noise, trainer.objective.noise(keys, 3)[0])
    assert make_trainer(tmp_path / "none", drop_path=0.0).objective.noise(keys, 2) == ()
    inputs = trainer.train_loader.inputs[:5]
    with torch.no_grad():
        assert not torch.allclose(trainer.model(inputs, noise), trainer.model(inputs), atol=1e-3)


def test_the_last_small_step_is_left_out_if_asked_for(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, drop_last=True)
    trainer.fit()
    assert trainer.steps_per_epoch == 3  # of 13 clips in steps of 4
    sampler = trainer.train_loader.sampler
    seen = {int(clip) for epoch in range(1, 9) for step in sampler.batches(epoch) for clip in step}
    assert len(seen) == CLIPS  # which one is left out depends on the epoch
    assert sampler.clips_per_epoch == 12


def test_epochs_without_a_validation(tmp_path: Path) -> None:
    """4 steps an epoch, a validation after at least 7: epochs 2, 4 and the last; resumed in the same way."""
    options = {"epochs": 5, "validation_steps": 7}
    whole = make_trainer(tmp_path / "whole", **options)
    state = whole.fit()
    assert [epoch.epoch for epoch in read_log(tmp_path / "whole" / "log.jsonl")] == [2, 4, 5]
    for stop_after in (3, 4, 11):
        folder = tmp_path / f"parts{stop_after}"
        with pytest.raises(Stopped):
            make_trainer(folder, stop_after=stop_after, **options).fit()
        rest = make_trainer(folder, **options)
        assert rest.fit() == state
        assert equal(weights(whole), weights(rest))


def test_a_checkpoint_falls_due_in_steps_of_the_whole_training(tmp_path: Path) -> None:
    """Also where an epoch has fewer steps than there are between checkpoints, and no validation."""
    trainer = make_trainer(tmp_path, epochs=9, validation_steps=36, save_steps=8)
    found: list[int] = []

    def look() -> bool:
        found.append(max((int(p.name[:9]) for p in (tmp_path / "checkpoints").glob("[0-9]*")), default=0))
        return False

    trainer.should_stop = look
    trainer.fit()
    assert sorted(set(found)) == [0, 8, 16, 24, 32]


def test_probabilities_of_views_are_averaged(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    whole = loader(CLIPS, batch=4, shuffle=False)

    class Mirrored:
        """The transform, whose views mirror."""

        def evaluation_input(self, batch: CachedBatch, view: View, missing: int) -> ModelInput:
            inputs, targets = trainer.objective.transform.evaluation_input(batch)
            return ModelInput(inputs.flip(-1) if view.mirrored else inputs, targets)

    views = (View(), View(mirrored=True))
    found = run_inference(trainer.model, whole, Mirrored(), trainer.ranks, views=views).softmax(1)
    with torch.inference_mode():
        parts = [trainer.model(inputs).softmax(1) for inputs in (whole.inputs, whole.inputs.flip(-1))]
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-6)


def test_a_clips_loss_is_the_mean_over_its_draws(tmp_path: Path) -> None:
    """Two equal draws teach what one does."""

    class Twice:
        def training_input(self, batch: CachedBatch, epoch: int) -> ModelInput:
            inputs, targets = CachedTransform(classes=CLASSES).training_input(batch, epoch)
            return ModelInput(inputs.repeat(2, 1, 1, 1, 1), targets.repeat(2, 1))

    options = {"drop_path": 0.0, "head_dropout": 0.0, "augmentation": NO_AUGMENTATION}
    once, twice = plain(tmp_path / "once", **options), plain(tmp_path / "twice", repeated_augmentation=2, **options)
    twice.objective.transform = Twice()
    for trainer in (once, twice):
        trainer.model.train()
        batch = next(iter(trainer.train_loader.epoch(1)))
        assert float(trainer.train_step(1, 0, batch)) > 0
    for name, tensor in weights(once).items():
        torch.testing.assert_close(weights(twice)[name], tensor, rtol=0, atol=RANKS_TOLERANCE)


def test_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="lower learning rate"):
        trainer.fit()


def test_better_prefers_recall_then_loss_then_the_earlier() -> None:
    first = EpochMetrics(epoch=1, train_loss=1.0, validation_loss=0.5, validation_uar=0.7)
    assert is_better(first, None)
    assert is_better(replace(first, epoch=2, validation_uar=0.8, validation_loss=0.9), first)
    assert is_better(replace(first, epoch=2, validation_loss=0.4), first)
    assert not is_better(replace(first, epoch=2), first)
    assert not is_better(replace(first, epoch=2, validation_uar=0.6, validation_loss=0.1), first)


def test_predictions_are_in_the_order_of_the_clips(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    whole = loader(CLIPS, batch=4, shuffle=False)
    logits = run_inference(trainer.model, whole, trainer.objective.transform, trainer.ranks)
    assert logits.shape == (CLIPS, CLASSES)
    assert not trainer.model.training
    with torch.inference_mode():
        torch.testing.assert_close(logits, trainer.model(whole.inputs), rtol=1e-5, atol=1e-6)


def test_a_validation_loss_that_is_no_number_stops_before_anything_is_kept(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.val_loader.inputs[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="epoch 1, validation: found loss nan, expected a finite number"):
        trainer.fit()
    assert not list(tmp_path.glob("best-*"))


def test_validation_shows_as_much_of_a_face_as_the_test(tmp_path: Path) -> None:
    """Cached inputs have no faces to cut, so that they refuse the view, and name it."""
    with pytest.raises(TransformError, match=r"side=0\.9"):
        make_trainer(tmp_path, test_crop_side=0.9).validate()
