"""One run, from its first step to its test: train, select the best epoch, keep its classifier, test it once."""

from __future__ import annotations

from contextlib import closing, nullcontext

from manifests.files import exclusive_lock, remove_leftovers
from train import runs
from train.checkpoint import Checkpoints, load_trained
from train.distributed import stop_on_signal
from train.metric_logger import MetricLogger
from train.run_setup import TrainingSetup
from train.runs import RunResult
from train.scoring import Predictions, expected_clips
from train.trainer import TrainingError, run_inference


def run_fold(setup: TrainingSetup) -> RunResult | None:
    """Train a run, or what remains of it, then read the test fold once. A finished run is only read.

    None where the test fold is not available: the model is kept, and the same run tests it later.

    Raises ConfigError or EvaluationError for a run with other settings, BusyError while another process trains it,
    Stopped after a signal to stop, DataError or StoreError for a shard that does not match its index, and what the
    Trainer raises.
    """
    if setup.is_finished():
        if setup.ranks.is_main:
            Checkpoints(folder=setup.folder).clear()  # left behind if the run was killed just after it finished
        return runs.read_result(setup.folder)
    lock = exclusive_lock(setup.folder, "RUNS=") if setup.ranks.is_main else nullcontext()
    with lock, setup.data.prefetcher:
        if setup.ranks.any(setup.is_finished()):  # by another process, before this one had the lock
            return runs.read_result(setup.folder)
        if setup.ranks.is_main:
            remove_leftovers(setup.folder)
            Checkpoints(folder=setup.folder).remove_partial()
        setup.write_config()
        return _train_and_test(setup)


def _train_and_test(setup: TrainingSetup) -> RunResult | None:
    ranks, checkpoints = setup.ranks, Checkpoints(folder=setup.folder)
    state = checkpoints.load_state()
    if state.epoch <= setup.config.recipe.epochs:
        logger = MetricLogger(setup.folder if ranks.is_main else None, setup.log)
        with closing(logger):
            trainer = setup.make_trainer(checkpoints, logger)  # Ctrl-C while inputs are cached ends it at once

            def interrupt() -> None:
                setup.data.prefetcher.interrupt()
                trainer.interrupt()

            with stop_on_signal(interrupt) as trainer.should_stop:
                state = trainer.fit()
    if state.best is None:
        raise TrainingError(f"{setup.folder}: found no epoch to select; remove the folder to start over")
    load_trained(setup.trainable_module, checkpoints.best_path(state.best.epoch))
    run = setup.save_model(state.best.epoch)
    data = setup.data
    if data.folder.missing([data.sides["test"]]):  # of a folder only a part may have been fetched
        command = data.folder.fetch_command(data.fold_scheme, setup.config.fold, "test")
        setup.log(f"trained; the test fold is not available: run {command}, then this command again to test, once")
        return None
    clips, loader, micro_batches = data.clips("test"), setup.make_loader("test"), setup.config.micro_batches
    logits = run_inference(setup.trainable_module, loader, setup.input_transform, ranks, micro_batches)
    if ranks.is_main:
        predictions = Predictions(
            clips=tuple(key.decode() for key in clips.keys),
            speakers=tuple(clips.speakers[shard] for shard in clips.shard),
            labels=clips.labels,
            probabilities=logits.double().softmax(1).float().numpy(),
        )
        runs.finish_run(setup.runs, run, predictions, expected_clips(clips))
        checkpoints.clear()
    ranks.barrier()
    return runs.read_result(setup.folder)
