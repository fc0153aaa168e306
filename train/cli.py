"""Command line of the trainer: what is asked for, what is said, and errors in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from manifests.files import FolderError
from manifests.folds import FoldError, resolve_fold
from manifests.index import ManifestError
from manifests.labels import LabelError
from manifests.schema import SchemaError
from manifests.stores import StoreError
from manifests.text import pluralize
from train import cost, runs
from train.checkpoint import CheckpointError
from train.config import DEMO, DEMO_DEFAULT, ENCODER_DEFAULT, ConfigError, TrainConfig, device_for
from train.data import DataError, Folder, open_folder
from train.evaluate import EvaluationError, FoldScores
from train.export import export
from train.fusion import STRATEGIES, FusionError
from train.imaging import ImagingError
from train.loop import Stopped, TrainingError
from train.models.layouts import WeightsError
from train.models.videomae import ENCODERS
from train.predict import (
    ClipPrediction,
    PredictError,
    Predictor,
    load_predictor,
    predict_recordings,
    predict_shards,
    score_unseen,
    write_predictions,
)
from train.prepare import corpus_folder, fold_names, only_folder
from train.ranks import Ranks, joined
from train.recipes import RECIPES, Recipe, RecipeError, dump_toml, recipe_named
from train.report import write_report
from train.runs import RunResult, RunSummary
from train.session import Session, is_finished, prepare, train

#: What a user can mend; anything else is a fault of the program and shows its traceback.
ERRORS = (
    *(CheckpointError, ConfigError, DataError, EvaluationError, FoldError, FolderError, FusionError, ImagingError),
    *(
        LabelError,
        ManifestError,
        StoreError,
        PredictError,
        RecipeError,
        SchemaError,
        TrainingError,
        WeightsError,
        OSError,
    ),
)
STOPPED = 130
FEATURE_DEFAULT = "mfcc"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 1 after an error, 130 after Ctrl-C."""
    told = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    asked = _parser().parse_args(
        told if told and (told[0] in _COMMANDS or told[0] in ("-h", "--help")) else ["train", *told]
    )
    try:
        return _COMMANDS[asked.command](asked)
    except Stopped:
        return _failed("stopped; all that was learnt is saved: the same command goes on where this one was", STOPPED)
    except KeyboardInterrupt:
        return _failed("stopped; the same command goes on from the last checkpoint", STOPPED)
    except torch.OutOfMemoryError as error:
        if asked.debug:
            raise
        advice = f" Try --accumulate {2 * asked.accumulate}" if "accumulate" in asked else ""
        return _failed(f"{str(error).splitlines()[0]}{advice}", 1)
    except ERRORS as error:
        if asked.debug:
            raise
        return _failed(" ".join(str(error).split()), 1)


def _train(asked: argparse.Namespace) -> int:
    """Train one strategy on one fold."""
    if asked.show_recipe:
        sys.stdout.write(dump_toml(_recipe(asked, demo=DEMO in (asked.dataset, Path(asked.shards or "").name))))
        return 0
    with joined(asked.device) as ranks:
        (strategy,) = _only(asked.strategy or ["cfas"], "strategy")
        (fold,) = _only(asked.fold or ["1"], "fold")
        outcome = _trained(_config(asked, open_folder(_shards(asked)), strategy, fold), ranks)
        if ranks.first and outcome:
            _out(_told(outcome))
    return 0


def _sweep(asked: argparse.Namespace) -> int:
    """Train strategies on folds, but for what is done, and say what they reach over all folds."""
    with joined(asked.device) as ranks:
        strategies = asked.strategy or list(STRATEGIES)
        folder = open_folder(_shards(asked))
        folds = asked.fold or fold_names(folder, asked.fold_scheme)
        configs = [_config(asked, folder, strategy, fold) for strategy in strategies for fold in folds]
        for config in configs:
            outcome = _trained(config, ranks)
            if ranks.first and outcome:
                _out(_told(outcome))
        if ranks.first:
            for summary in runs.read_summaries(configs[0].home):
                _out(_summed(summary))
    return 0


def _trained(config: TrainConfig, ranks: Ranks) -> RunResult | None:
    session = prepare(config, ranks, _say)
    if not is_finished(session):
        made = session.protocol
        what = f"{session.corpus.name}, {config.strategy}, fold {config.fold}: recipe {made.recipe}"
        session.say(f"{what}, encoder {made.encoder}, {made.feature}, on {ranks.device}; into {session.folder}")
        _warn_of_cost(session)
    return train(session)


def _predict(asked: argparse.Namespace) -> int:
    """Say what a trained classifier makes of recordings or of shards; exit status 1 if a recording cannot be used."""
    if bool(asked.clips) == bool(asked.shards):
        raise ConfigError("predict: expected recordings, or --shards with a folder of shards")
    predictor = load_predictor(Path(asked.run))
    ranks = Ranks(device=device_for(asked.device))
    if asked.shards:
        said = predict_shards(predictor, asked.shards, ranks, speakers=asked.speaker or (), workers=asked.workers)
    else:
        said = predict_recordings(predictor, list(map(Path, asked.clips)), ranks, workers=asked.workers)
    if asked.out:
        write_predictions(Path(asked.out), predictor, said)
    _out("\n".join(_lines_said(predictor, said)))
    return int(any(one.probabilities is None for one in said))


def _lines_said(predictor: Predictor, said: Sequence[ClipPrediction]) -> Iterator[str]:
    """A line a clip, then the scores where there are labels."""
    clip, name = (max(map(len, names), default=0) for names in ([one.clip for one in said], predictor.classes))
    for one in said:
        found, share = one.likeliest
        truth = f"  is {one.label}" if one.label else ""
        yield f"{one.clip:<{clip}}  " + (
            f"{found:<{name}}  {share:.3f}{truth}" if found else f"not built: {one.reason}"
        )
    result, seen = score_unseen(predictor, said)
    if seen:
        yield f"not scored: {seen} clips of speakers that the classifier was trained on or chosen by"
    if result:
        yield f"{_scores(result)}; {result.clips} clips of unseen speakers ({', '.join(result.speakers)})"


def _export(asked: argparse.Namespace) -> int:
    """Write a finished run as a folder to hand on."""
    outcome = export(Path(asked.run), Path(asked.out))
    _out(f"{asked.out}: {_told(outcome)}")
    return 0


def _report(asked: argparse.Namespace) -> int:
    """Write the report on all runs."""
    for path in write_report(Path(asked.runs), Path(asked.out or Path(asked.runs) / "report")):
        _out(str(path))
    if not runs.finished_runs(Path(asked.runs)):
        _say(f"{asked.runs}: no finished run yet; make train or make sweep makes some")
    return 0


def _config(asked: argparse.Namespace, folder: Folder, strategy: str, fold: str) -> TrainConfig:
    """What was asked for of a folder of shards, the corpus's defaults filled in."""
    demo, built = folder.dataset.dataset == DEMO, folder.dataset.features
    return TrainConfig(
        shards=_shards(asked),
        strategy=strategy,
        fold=resolve_fold(fold_names(folder, asked.fold_scheme), fold),
        fold_scheme=asked.fold_scheme,
        label_scheme=asked.label_scheme,
        feature=asked.feature or (built[0] if len(built) == 1 else FEATURE_DEFAULT),
        encoder=_encoder(asked, demo),
        weights=asked.weights,
        recipe=_recipe(asked, demo=demo),
        seed=asked.seed,
        runs=asked.runs,
        workers=asked.workers,
        device=asked.device,
        accumulate=asked.accumulate,
        save_steps=asked.save_steps,
        check=asked.check,
        compile=asked.compile,
    )


def _recipe(asked: argparse.Namespace, *, demo: bool) -> Recipe:
    default = DEMO_DEFAULT if demo and asked.weights is None and asked.encoder in (None, DEMO_DEFAULT) else "finetune"
    recipe = recipe_named(asked.recipe or default)
    if asked.batch is not None:
        recipe = recipe.with_batch(asked.batch)
    changes = {name: getattr(asked, name) for name in ("epochs", "learning_rate") if getattr(asked, name) is not None}
    if "epochs" in changes:
        changes["warmup_epochs"] = recipe.warmup_epochs * changes["epochs"] / recipe.epochs
    return replace(recipe, **changes)


def _encoder(asked: argparse.Namespace, demo: bool) -> str:
    return str(asked.encoder or (DEMO_DEFAULT if demo and asked.weights is None else ENCODER_DEFAULT))


def _shards(asked: argparse.Namespace) -> str:
    """Folder of shards: the one named, that of the corpus named, or the only one there is."""
    if asked.shards:
        return str(asked.shards)
    root = Path("shards")
    return str(corpus_folder(root, asked.dataset) if asked.dataset else only_folder(root))


def _only(names: Sequence[str], what: str) -> Sequence[str]:
    if len(names) != 1:
        raise ConfigError(f"{what}: found {', '.join(names)}, expected one; several are for `sweep`")
    return names


def _warn_of_cost(session: Session) -> None:
    """On a CPU, with an encoder made for a GPU, say what is to come."""
    if session.ranks.device.type != "cpu" or session.config.encoder == DEMO_DEFAULT:
        return
    recipe, forward = session.config.recipe, cost.forward_flop(session.model.encoder.config)
    clips = {side: sum(session.corpus.sides[side]["clips"].values()) for side in ("train", "validation", "test")}
    passes = recipe.epochs * (cost.TRAINING_PASSES * clips["train"] + clips["validation"]) + clips["test"]
    work = forward * (sum(clips.values()) if recipe.frozen else passes)
    rate = cost.measured_rate(session.ranks.device) * session.ranks.count
    session.say(
        f"on this CPU, at the {rate / 1e9:.0f} GFLOP/s it multiplies matrices with, {recipe.name} of "
        f"{session.config.encoder} takes {cost.told(work / rate)} or more ({forward / 1e12:.2f} TFLOP a clip forward, "
        f"{work / 1e12:,.0f} in all); --encoder tiny or a GPU is the way out"
    )


def _told(outcome: RunResult) -> str:
    """A result for people."""
    made, result = outcome.run, outcome.scores
    speakers = pluralize(len(result.speakers), "unseen speaker")
    who = f"{result.clips} clips of {speakers} ({', '.join(result.speakers)})"
    chosen = f"epoch {made.epoch} of {made.epochs}, chosen by {made.protocol.selection}"
    return f"{made.dataset}, {made.strategy}, fold {made.fold}: {_scores(result)}; {who}; {chosen}"


def _summed(summary: RunSummary) -> str:
    """A strategy over its folds."""
    made, done = summary.run, len(summary.results)
    means = ", ".join(
        f"{name} {100 * spread.mean:.2f}" + (f" ± {100 * spread.std:.2f} %" if spread.std is not None else " %")
        for name, spread in (("UAR", summary.uar), ("WAR", summary.war))
    )
    return (
        f"{made.dataset}, {made.strategy}, {done} of {len(made.protocol.folds)} folds: {means}; "
        f"pooled {_scores(summary.pooled)}"
    )


def _scores(result: FoldScores) -> str:
    interval = result.interval
    found = []
    for name, value in (("UAR", result.uar), ("WAR", result.war)):
        low, high = getattr(interval, name.lower()) if interval else (None, None)
        range_ = "" if low is None or high is None else f" ({100 * low:.2f} to {100 * high:.2f})"
        found.append(f"{name} {100 * value:.2f} %{range_}")
    more = f", {100 * interval.level:.0f} % intervals over speakers" if interval else ""
    return ", ".join(found) + more


def _out(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _failed(message: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Train, judge and use classifiers.",
        epilog=f"Exit status: 0, 1 after an error, 2 for a command line that cannot be, {STOPPED} after Ctrl-C.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in (("train", "train one strategy on one fold"), ("sweep", "train strategies on folds")):
        command = _command(commands, name, what)
        _add_data(command.add_argument_group("data"))
        _add_model(command.add_argument_group("model and recipe"))
        _add_running(command.add_argument_group("running"))
    report = _command(commands, "report", "set the paper's tables beside all runs")
    report.add_argument("--runs", default="runs", help="folder of all runs")
    report.add_argument("--out", help="folder of the report; runs/report if not given")
    _add_predict(_command(commands, "predict", "say what a trained classifier makes of recordings or shards"))
    told = _command(commands, "export", "write a finished run as a folder to hand on")
    told.add_argument("--run", required=True, help="folder of the run")
    told.add_argument("--out", required=True, help="folder to write")
    return parser


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + "."
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _add_predict(command: argparse.ArgumentParser) -> None:
    command.add_argument("clips", nargs="*", metavar="clip.mp4", help="recordings; they need the builder")
    command.add_argument("--run", required=True, help="folder of a finished run, or an exported one")
    command.add_argument("--shards", help="folder of shards, or its address, in place of recordings")
    command.add_argument("--speaker", nargs="+", help="of the shards only these speakers")
    command.add_argument("--out", help="write what is said as CSV, too")
    command.add_argument("--workers", type=int, default=2, help="decoding threads")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dataset", help="corpus: shards/<dataset>; the only one built if not given")
    group.add_argument("--shards", help="folder of shards, or its address, in place of --dataset")
    group.add_argument("--strategy", nargs="+", help=f"cfas; in a sweep all of {', '.join(STRATEGIES)}")
    group.add_argument("--fold", nargs="+", help="name or number of the test fold; the first, in a sweep all")
    group.add_argument("--fold-scheme", help="the corpus's default if not given")
    group.add_argument("--label-scheme", help="the corpus's default if not given")
    group.add_argument("--feature", help=f"spectrogram; the only one that was built, or {FEATURE_DEFAULT}")
    group.add_argument("--check", choices=("hashes", "sizes"), default="hashes", help="what is checked of local shards")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--encoder", help=f"{', '.join(ENCODERS)}; {ENCODER_DEFAULT}, or tiny for the demo corpus")
    group.add_argument("--weights", help="file, folder or hub id the encoder starts from; random if not given")
    group.add_argument("--recipe", help=f"{', '.join(RECIPES)}; finetune, or tiny for the demo corpus")
    group.add_argument("--show-recipe", action="store_true", help="print the recipe as TOML and leave")
    group.add_argument("--epochs", type=int, help="in place of the recipe's")
    group.add_argument("--batch", type=int, help="clips a step in place of the recipe's; its rate is scaled alike")
    group.add_argument("--learning-rate", type=float, help="in place of the recipe's")
    group.add_argument("--seed", type=int, default=0)


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--runs", default="runs", help="folder of all runs")
    group.add_argument("--workers", type=int, default=2, help="decoding threads; any number gives the same result")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--accumulate", type=int, default=1, help="micro-batches a step, to need less memory")
    group.add_argument("--save-steps", type=int, default=500, help="steps between checkpoints")
    group.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="auto compiles on a GPU")


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "sweep": _sweep,
    "report": _report,
    "predict": _predict,
    "export": _export,
}
