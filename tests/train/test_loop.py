"""The loop: what is learnt does not depend on how, or how often, it was run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.factories.small_trainings import CLASSES, CLIPS, feed, plain, training
from train.feeds import Examples
from train.loop import Stopped, Training, TrainingError, better, fit, predict
from train.runs import Epoch, read_log

#: Two ranks, and micro-batches, add the same float32 numbers in another order, in 12 steps; found is below 1e-6.
RANKS_TOLERANCE = 5e-6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def weights(job: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in job.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_and_chooses_the_best_epoch(tmp_path: Path) -> None:
    job = training(tmp_path, epochs=12, drop_path=0.0)
    progress = fit(job)
    log = read_log(tmp_path / "log.jsonl")
    assert [epoch.epoch for epoch in log] == list(range(1, 13))
    assert log[-1].train_loss < log[0].train_loss - 0.3
    assert progress.best == max(log, key=lambda epoch: (epoch.validation_uar, -epoch.validation_loss, -epoch.epoch))
    assert progress.best.validation_uar > 0.8


def test_same_seed_same_weights(tmp_path: Path) -> None:
    jobs = [training(tmp_path / name) for name in "ab"]
    for job in jobs:
        fit(job)
    assert equal(weights(jobs[0]), weights(jobs[1]))


def test_another_seed_other_weights(tmp_path: Path) -> None:
    jobs = [training(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for job in jobs:
        fit(job)
    assert not equal(weights(jobs[0]), weights(jobs[1]))


@pytest.mark.parametrize("stop_after", [1, 4, 6, 8])
def test_stopped_and_resumed_is_as_if_it_had_not_been(tmp_path: Path, stop_after: int) -> None:
    """4 is the last step of an epoch, 1, 6 are within one."""
    whole = training(tmp_path / "whole")
    told = fit(whole)
    with pytest.raises(Stopped):
        fit(training(tmp_path / "parts", stop_after=stop_after))
    torch.manual_seed(999)  # nothing may come from what was drawn before
    rest = training(tmp_path / "parts")
    assert fit(rest) == told
    assert equal(weights(whole), weights(rest))
    assert read_log(tmp_path / "parts" / "log.jsonl") == read_log(tmp_path / "whole" / "log.jsonl")
    best = [safetensors.torch.load_file(job.checkpoints.best(told.best.epoch)) for job in (whole, rest)]
    assert equal(*best)


def test_killed_between_checkpoints_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole")
    fit(whole)
    killed = training(tmp_path / "parts", save_steps=2)
    steps = iter(range(7))

    def die() -> bool:
        if next(steps) == 6:
            raise RuntimeError("killed")
        return False

    with pytest.raises(RuntimeError, match="killed"):
        fit(replace(killed, stop=die))
    rest = training(tmp_path / "parts", save_steps=2)
    fit(rest)
    assert equal(weights(whole), weights(rest))


class InPieces:
    """A feed whose steps are cut into micro-batches."""

    def __init__(self, whole, size):
        self.whole, self.size = whole, size
        self.schedule, self.labels = whole.schedule, whole.labels

    def steps(self, epoch, first=0):
        for (piece,) in self.whole.steps(epoch, first):
            yield piece.split(self.size)

    def examples(self, piece, epoch) -> Examples:
        return self.whole.examples(piece, epoch)


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_learn_the_same(tmp_path: Path, size: int) -> None:
    whole, cut = (plain(tmp_path / name) for name in ("whole", "cut"))
    fit(whole)
    fit(replace(cut, training=InPieces(cut.training, size)))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=0, atol=RANKS_TOLERANCE)


def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    """13 clips in steps of 4: the last step has one clip for the first rank and none for the second."""
    alone = plain(tmp_path / "alone")
    told = fit(alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, out = "tests.factories.small_trainings", tmp_path / "two"
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared["PYTHONPATH"] = os.pathsep.join([*sys.path, shared.get("PYTHONPATH", "")])
    both = [
        subprocess.Popen(
            [sys.executable, "-m", script, str(out)], env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
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
    assert json.loads((state / "state.json").read_text())["best"]["epoch"] == told.best.epoch


def test_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    job = training(tmp_path)
    with torch.no_grad():
        job.model.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="lower learning rate"):
        fit(job)


def test_better_prefers_recall_then_loss_then_the_earlier() -> None:
    first = Epoch(epoch=1, train_loss=1.0, validation_loss=0.5, validation_uar=0.7)
    assert better(first, None)
    assert better(replace(first, epoch=2, validation_uar=0.8, validation_loss=0.9), first)
    assert better(replace(first, epoch=2, validation_loss=0.4), first)
    assert not better(replace(first, epoch=2), first)
    assert not better(replace(first, epoch=2, validation_uar=0.6, validation_loss=0.1), first)


def test_predictions_are_in_the_order_of_the_clips(tmp_path: Path) -> None:
    job = training(tmp_path)
    whole = feed(CLIPS, batch=4, shuffle=False)
    logits = predict(job.model, whole, job.ranks)
    assert logits.shape == (CLIPS, CLASSES)
    assert not job.model.training
    with torch.inference_mode():
        torch.testing.assert_close(logits, job.model(whole.inputs), rtol=1e-5, atol=1e-6)
