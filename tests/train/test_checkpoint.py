"""Checkpoints are whole or not there, and damaged ones are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.factories.small_trainings import ENCODER, recipe
from train import checkpoint
from train.checkpoint import CheckpointError, Checkpoints, TrainState, load_trained
from train.models.videomae import Classifier
from train.optim import make_optimizer
from train.runs import EpochMetrics

BEST = EpochMetrics(epoch=2, train_loss=0.5, validation_loss=0.7, validation_uar=0.1 + 0.2)


def made(seed: int = 0, steps: int = 1) -> tuple[Classifier, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Classifier(ENCODER, 3)
    optimizer = make_optimizer(model, ENCODER.depth, recipe())
    for _ in range(steps):
        model(torch.randn(2, 3, 4, 16, 16)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_what_is_restored_is_what_was_saved(tmp_path: Path) -> None:
    kept, state = Checkpoints(folder=tmp_path), TrainState(epoch=3, step=2, loss_sum=1 / 3, best=BEST, kept=BEST.epoch)
    model, optimizer = made()
    kept.save(model, optimizer, state, 7)
    other, others = made(seed=1, steps=0)
    assert kept.restore(other, others) == state
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for name in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizer.state[one][name], others.state[two][name])


def test_without_a_checkpoint_nothing_changes(tmp_path: Path) -> None:
    model, optimizer = made()
    before = [parameter.clone() for parameter in model.parameters()]
    assert Checkpoints(folder=tmp_path).restore(model, optimizer) == TrainState()
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))


def test_only_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(folder=tmp_path)
    model, optimizer = made()
    for epoch in (1, 2):
        kept.save_best(model, epoch)
        kept.save(model, optimizer, TrainState(epoch=epoch + 1), epoch)
    kept.save_best(model, 2)
    kept.save(model, optimizer, TrainState(epoch=4, best=BEST, kept=BEST.epoch), 3)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    files = ("model.safetensors", "optimizer.pt", "state.json")
    assert found == ["best-2.safetensors", *(f"checkpoints/000000003-00004/{name}" for name in files)]
    kept.clear()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_while_saving_the_one_before_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    kept = Checkpoints(folder=tmp_path)
    model, optimizer = made()
    kept.save(model, optimizer, TrainState(step=1), 1)
    written = iter(range(1, 9))
    original = Path.replace, torch.save

    def dying(call):
        def die(*arguments):
            if next(written) == step:
                raise OSError("no space left")
            return call(*arguments)

        return die

    monkeypatch.setattr(Path, "replace", dying(original[0]))
    monkeypatch.setattr(checkpoint.torch, "save", dying(original[1]))
    with pytest.raises(OSError, match="no space"):
        kept.save(model, optimizer, TrainState(step=2), 2)
    monkeypatch.undo()
    assert kept.restore(*made(seed=1, steps=0)) == TrainState(step=1)


def test_killed_between_the_last_step_and_the_end_of_its_epoch_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop on the last step and the end of the epoch save after the same number of steps."""
    kept = Checkpoints(folder=tmp_path)
    kept.save(*made(), TrainState(epoch=1, step=3), 3)

    def dying(*_: object) -> None:
        raise OSError("killed")

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(OSError, match="killed"):
        kept.save(*made(), TrainState(epoch=2), 3)
    monkeypatch.undo()
    assert kept.load_state() == TrainState(epoch=1, step=3)
    kept.save(*made(), TrainState(epoch=2), 3)
    assert kept.load_state() == TrainState(epoch=2)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("keep", [0, 20])
def test_damaged_checkpoint_is_named(tmp_path: Path, name: str, keep: int) -> None:
    kept = Checkpoints(folder=tmp_path)
    model, optimizer = made()
    kept.save(model, optimizer, TrainState(), 1)
    path = tmp_path / "checkpoints" / "000000001-00001" / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"000000001.*to start over"):
        kept.restore(model, optimizer)


def test_optimizer_state_that_would_run_code_is_refused(tmp_path: Path) -> None:
    kept = Checkpoints(folder=tmp_path)
    model, optimizer = made()
    kept.save(model, optimizer, TrainState(), 1)
    torch.save({"state": Path}, tmp_path / "checkpoints" / "000000001-00001" / "optimizer.pt")
    with pytest.raises(CheckpointError):
        kept.restore(model, optimizer)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    kept = Checkpoints(folder=tmp_path)
    kept.save_best(made()[0], 1)
    with pytest.raises(CheckpointError, match="best-1"):
        load_trained(Classifier(ENCODER, 4), kept.best_path(1))


FULL_DISK = """
set -e
mkdir full
mount -t tmpfs -o size=300k none full
"$@"
"""

SAVE_UNTIL_FULL = """
import os
import sys
from pathlib import Path
from manifests.files import describe_os_error
from tests.factories.small_trainings import make_trainer

trainer = make_trainer(Path("full/run"))
trainer.save()
room = Path("full/room")
room.write_bytes(bytes(4096 * os.statvfs("full").f_bavail))
for pages in range(1000):  # the disk is full at any moment of a save
    os.truncate(room, max(0, room.stat().st_size - 12288))
    try:
        trainer.state = trainer.checkpoints.load_state()
        trainer.checkpoints.save(trainer.model, trainer.optimizer, trainer.state, pages + 1)
        break
    except OSError as error:
        print(describe_os_error(error))
    assert trainer.checkpoints.restore(trainer.model, trainer.optimizer) == trainer.state
    assert len(list(Path("full/run/checkpoints").iterdir())) == 1
else:
    sys.exit("never saved")
"""


def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_much_is_free(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount file systems (unshare -m)")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FULL_DISK, "sh", sys.executable, "-c", SAVE_UNTIL_FULL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    line = r"full/run/checkpoints/\S+/(\S+): disk full, 0 MB free; make room and run the same command again"
    files = {re.fullmatch(line, each)[1] for each in lines}
    assert {"model.safetensors", "optimizer.pt"} <= files


def test_what_a_killed_process_left_is_removed_by_the_next_save(tmp_path: Path) -> None:
    kept = Checkpoints(folder=tmp_path)
    left = tmp_path / "checkpoints" / ".000000007.123.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(bytes(100))
    kept.save(*made(), TrainState(step=1), 1)
    assert not left.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_resumed(tmp_path: Path, value: float) -> None:
    kept = Checkpoints(folder=tmp_path)
    model, optimizer = made()
    with torch.no_grad():
        next(model.parameters()).fill_(value)
    kept.save(model, optimizer, TrainState(step=1), 1)
    with pytest.raises(CheckpointError, match=r"NaN or infinity in .*; remove the run's folder to start over"):
        kept.restore(*made())
