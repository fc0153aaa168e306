"""One run, from its first step to its test: train, select the best epoch, keep its classifier, test it once."""

from __future__ import annotations

import shutil
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from manifests.files import exclusive_lock, remove_leftovers
from train import runs
from train.checkpoint import Checkpoints, load_trained
from train.classification import run_inference
from train.data.missing import CONDITIONS
from train.data.transforms import evaluation_views
from train.distributed import stop_on_signal
from train.metric_logger import MetricLogger
from train.run_setup import REFIT, TrainingSetup
from train.runs import Run, RunResult
from train.scoring import Predictions, expected_clips
from train.trainer import TrainingError

if TYPE_CHECKING:
    from train.pretraining.base import BasePretraining


def run_fold(setup: TrainingSetup) -> RunResult | None:
    """Train a run, or what remains of it, then read the test fold once. A finished run is only read.

    None where the test fold is not available: the model is kept, and the same run tests it later.

    Raises ConfigError or EvaluationError for a run with other settings, LoggerError for a logger that cannot be used,
    BusyError while another process trains it, Stopped after a signal to stop, DataError or StoreError for a shard that
    does not match its index, and what the Trainer raises.
    """
    if setup.is_finished():
        if setup.ranks.is_main:
            _clear(setup)  # left behind if the run was killed just after it finished
        return runs.read_result(setup.folder)
    lock = exclusive_lock(setup.folder, "RUNS=") if setup.ranks.is_main else nullcontext()
    with lock, setup.data.prefetcher:
        if setup.ranks.any(setup.is_finished()):  # by another process, before this one had the lock
            return runs.read_result(setup.folder)
        if setup.ranks.is_main:
            remove_leftovers(setup.folder)
            setup.checkpoints.remove_partial()
        setup.write_config()
        epoch = fit(setup)
        if setup.config.selection == "refit":
            setup.log(f"epoch {epoch} selected; training again from the start, with the validation speakers")
            setup = setup.refit(epoch)
            fit(setup)
        load_trained(setup.trainable_module, setup.checkpoints.best_path(epoch))
        return _test(setup, setup.save_model(epoch))


def fit(setup: TrainingSetup | BasePretraining) -> int:
    """Train what remains of a training; the epoch whose weights are kept."""
    state = setup.checkpoints.load_state()
    if state.epoch <= setup.epochs:
        folder = setup.folder if setup.ranks.is_main else None
        logger = MetricLogger(folder, setup.log, setup.config.loggers, setup.part)
        with closing(logger):
            trainer = setup.make_trainer(logger)  # Ctrl-C while features are computed ends it at once

            def interrupt() -> None:
                setup.data.prefetcher.interrupt()
                trainer.interrupt()

            with stop_on_signal(interrupt) as trainer.should_stop:
                state = trainer.fit()
    if not state.kept:
        raise TrainingError(f"{setup.folder}: found no epoch to select; remove the folder to start over")
    return state.kept


def _test(setup: TrainingSetup, run: Run) -> RunResult | None:
    """Read the test fold, once; None if it is not available."""
    ranks, data = setup.ranks, setup.data
    if commands := data.fetch_commands("test"):  # of a folder only a part may have been fetched
        command = ", ".join(commands)
        setup.log(f"trained; the test fold is not available: run {command}, then this command again to test, once")
        return None
    clips, loader, recipe = data.clips("test"), setup.make_loader("test"), setup.config.recipe
    views = evaluation_views(
        flip=recipe.test_flip, crops=recipe.test_crops, side=recipe.test_crop_side, windows=recipe.test_windows
    )
    complete, *others = (
        run_inference(setup.model, loader, setup.transform, ranks, setup.config.micro_batches, views, condition)
        for condition in (None, *CONDITIONS)
    )
    missing = {condition: logits.argmax(1).numpy() for condition, logits in zip(CONDITIONS, others, strict=True)}
    if ranks.is_main:
        predictions = Predictions(
            clips=clips.ids,
            speakers=clips.clip_speakers,
            labels=clips.labels,
            probabilities=complete.double().softmax(1).float().numpy(),
        )
        expected = expected_clips(clips)
        runs.finish_run(setup.runs, run, predictions, expected, missing, data.count_corpus_clips())
        _clear(setup)
    ranks.barrier()
    return runs.read_result(setup.folder)


def _clear(setup: TrainingSetup) -> None:
    """Remove everything that is only needed to resume."""
    Checkpoints(folder=setup.folder).clear()
    shutil.rmtree(setup.folder / REFIT, ignore_errors=True)
