"""Where runs are kept, and what several of them say together.

    runs/<dataset>/<strategy>/fold-<fold>/
        config.json       everything the run was started with; written by the loop
        log.jsonl         lines that are JSON objects; one with `validation_uar` ends an epoch: see `Epoch`
        model/            classifier of the chosen epoch, to be loaded, exported and predicted with
        predictions.csv   what the model said of each clip of the test fold: see `train.evaluate`
        result.json       `Outcome`: what was trained, how, and its scores; written last, so that it says "done"

Runs are put together only where they were made the same way and no speaker is tested twice; a folder takes runs of
one way for each dataset, strategy and fold, so that others go into another `runs`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from manifests.files import atomic_write
from manifests.records import SchemaError, from_json
from manifests.schema import NAME
from train import metrics
from train.evaluate import (
    EvaluationError,
    FoldResult,
    Predictions,
    Truth,
    check_classes,
    check_complete,
    check_consistent,
    dump_predictions,
    listed,
    parse_predictions,
    pooled,
    summarise,
)
from train.metrics import Spread

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
PREDICTIONS_FILE = "predictions.csv"
RESULT_FILE = "result.json"
MODEL = "model"
RESULT_VERSION = 1
#: What to do about a folder that holds a run of another way.
ANOTHER_FOLDER = "remove it, or choose another folder of runs with RUNS= (--runs)"

_MAX_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a score must be read with. Runs are put together only where all of this is the same."""

    label_scheme: str
    classes: tuple[str, ...]
    fold_scheme: str
    folds: tuple[str, ...]
    """All folds of the scheme, in its order."""
    selection: str
    """What the epoch was chosen on, such as "UAR of validation speakers"."""
    recipe: str
    encoder: str
    weights: str | None
    """Where the encoder's weights come from, all of them self-supervised at first; None for a random start."""
    feature: str
    """Spectrogram the shards were read with."""
    settings: str
    """SHA-256 of all settings that may change a score, but for the fold."""

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if not self.folds or len(set(self.folds)) < len(self.folds):
            raise EvaluationError(f"found folds {listed(self.folds)}; expected at least one, each once")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: which, how, and the epoch it ended with. Raises EvaluationError for what cannot be."""

    dataset: str
    strategy: str
    fold: str
    protocol: Protocol
    epoch: int
    """Chosen epoch, from 1."""
    epochs: int
    """Epochs trained."""

    def __post_init__(self) -> None:
        for name in (self.dataset, self.strategy, self.fold):
            if not NAME.fullmatch(name):
                raise EvaluationError(f"found name {name[:80]!r}, expected 1 to 80 letters, digits, '_' and '-'")
        if self.fold not in self.protocol.folds:
            raise EvaluationError(f"found fold {self.fold}, expected one of {listed(self.protocol.folds)}")
        if not 1 <= self.epoch <= self.epochs:
            raise EvaluationError(f"found chosen epoch {self.epoch}, expected 1 to {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run: `result.json`."""

    run: Run
    predictions_sha256: str
    result: FoldResult


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A strategy's scores over the folds that are finished, all made the same way."""

    way: str = ""
    """What tells it from other ways that the dataset and strategy were run in; "" for the only one."""
    outcomes: tuple[Outcome, ...]
    """One for each finished fold, in the scheme's order; at least one."""
    missing: tuple[str, ...]
    """Folds of the scheme without a finished run."""
    uar: Spread
    war: Spread
    macro_f1: Spread
    weighted_f1: Spread
    pooled: FoldResult
    """All clips of all these folds put together."""

    @property
    def run(self) -> Run:
        """The first fold's run; all but fold and epochs is common to all."""
        return self.outcomes[0].run

    @property
    def name(self) -> str:
        """The strategy, and what tells this way of it from others."""
        return f"{self.run.strategy} ({self.way})" if self.way else self.run.strategy


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What `log.jsonl` must tell of an epoch; its other keys are for people."""

    epoch: int
    """From 1."""
    train_loss: float
    validation_loss: float
    validation_uar: float


def run_folder(runs: Path, dataset: str, strategy: str, fold: str) -> Path:
    """Where a run is kept."""
    return runs / dataset / strategy / f"fold-{fold}"


def is_done(folder: Path, protocol: Protocol) -> bool:
    """Whether a run is finished, so that a sweep may skip it.

    Raises EvaluationError for one that was made in another way, which must not pass for this one.
    """
    if not (folder / RESULT_FILE).is_file():
        return False
    differ = _differences(read_outcome(folder).run.protocol, protocol)
    if differ:
        raise EvaluationError(f"{folder}: was made in another way ({differ}); {ANOTHER_FOLDER}")
    return True


def finish(runs: Path, run: Run, predictions: Predictions, promise: Mapping[str, Truth]) -> Outcome:
    """Judge a run by its test fold, once: write predictions.csv, then result.json.

    Raises EvaluationError, and writes nothing, for a run that was judged before or predictions of other clips than
    those in `promise`; OSError.
    """
    folder = run_folder(runs, run.dataset, run.strategy, run.fold)
    if (folder / RESULT_FILE).is_file():
        raise EvaluationError(
            f"{folder}: the test fold was read before, expected once; remove the folder to train anew"
        )
    check_complete(predictions, promise, f"{folder}, test fold {run.fold}")
    data = dump_predictions(predictions, run.protocol.classes)
    outcome = Outcome(
        run=run,
        predictions_sha256=hashlib.sha256(data).hexdigest(),
        result=summarise(predictions, run.protocol.classes),
    )
    atomic_write(folder / PREDICTIONS_FILE, data)
    atomic_write(folder / RESULT_FILE, dump_outcome(outcome))
    return outcome


def dump_outcome(outcome: Outcome) -> bytes:
    """Outcome -> bytes of result.json."""
    value = {"result_version": RESULT_VERSION, **asdict(outcome)}
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def read_outcome(folder: Path) -> Outcome:
    """A finished run whose scores are those of its predictions. Raises EvaluationError naming the file at fault."""
    path = folder / RESULT_FILE
    if not path.is_file():
        raise EvaluationError(f"{folder}: found no finished run ({RESULT_FILE}); the command that trains it goes on")
    value = _json(_bytes(path), str(path))
    if not isinstance(value, dict) or value.pop("result_version", None) != RESULT_VERSION:
        raise EvaluationError(f"{path}: found no result of version {RESULT_VERSION}; evaluate the run again")
    outcome: Outcome = _typed(Outcome, value, str(path))
    check_consistent(outcome.result, str(path))
    _check_predictions(folder / PREDICTIONS_FILE, outcome)
    return outcome


def read_log(path: Path) -> tuple[Epoch, ...]:
    """Epochs of a log, in order; of an epoch that was done twice, the last. Raises EvaluationError naming the line.

    Lines about anything else are passed over, and so is a last line that was never finished.
    """
    epochs: dict[int, Epoch] = {}
    for number, line in enumerate(_bytes(path).split(b"\n")[:-1], 1):
        value = _json(line, f"{path}:{number}")
        if isinstance(value, dict) and "validation_uar" in value:
            known = {field.name: value[field.name] for field in fields(Epoch) if field.name in value}
            epoch = _typed(Epoch, known, f"{path}:{number}")
            epochs[epoch.epoch] = epoch
    return tuple(epochs[number] for number in sorted(epochs))


def sweep(runs: Path) -> tuple[Summary, ...]:
    """Scores of each dataset, strategy and way with a finished run, by name. Raises EvaluationError for one amiss."""
    groups: dict[tuple[str, str], dict[Protocol, list[Outcome]]] = {}
    for outcome in _outcomes(runs):
        ways = groups.setdefault((outcome.run.dataset, outcome.run.strategy), {})
        ways.setdefault(outcome.run.protocol, []).append(outcome)
    return tuple(
        summarise_runs(outcomes, way)
        for key in sorted(groups)
        for way, outcomes in zip(_told_apart(tuple(groups[key])), groups[key].values(), strict=True)
    )


def summarise_runs(outcomes: Sequence[Outcome], way: str = "") -> Summary:
    """Scores of one strategy over its finished folds, at least one.

    Raises EvaluationError for runs that were made in different ways, and for a speaker tested in two folds.
    """
    _check_same_protocol([outcome.run for outcome in outcomes])
    done = {outcome.run.fold: outcome for outcome in outcomes}
    folds = outcomes[0].run.protocol.folds
    ordered = tuple(done[fold] for fold in folds if fold in done)
    _check_tested_once(ordered)
    results = [outcome.result for outcome in ordered]
    return Summary(
        way=way,
        outcomes=ordered,
        missing=tuple(fold for fold in folds if fold not in done),
        uar=metrics.spread([result.uar for result in results]),
        war=metrics.spread([result.war for result in results]),
        macro_f1=metrics.spread([result.macro_f1 for result in results]),
        weighted_f1=metrics.spread([result.weighted_f1 for result in results]),
        pooled=pooled(results),
    )


def finished(runs: Path) -> list[Path]:
    """Folders of the finished runs."""
    return sorted(path.parent for path in runs.glob(f"*/*/fold-*/{RESULT_FILE}"))


def _outcomes(runs: Path) -> Iterator[Outcome]:
    for folder in finished(runs):
        outcome = read_outcome(folder)
        home = run_folder(runs, outcome.run.dataset, outcome.run.strategy, outcome.run.fold)
        if folder != home:
            raise EvaluationError(f"{folder / RESULT_FILE}: found what belongs into {home}; move or remove the folder")
        yield outcome


def _check_same_protocol(runs: Sequence[Run]) -> None:
    ours = runs[0]
    for theirs in runs[1:]:
        differ = _differences(ours.protocol, theirs.protocol)
        if differ:
            raise EvaluationError(
                f"{ours.dataset}, {ours.strategy}: folds {ours.fold} and {theirs.fold} differ in {differ}; "
                f"expected runs made the same way: compare their {CONFIG_FILE} and keep one kind elsewhere"
            )


def _differences(one: Protocol, other: Protocol) -> str:
    """What differs between two protocols, "" for nothing."""
    told = [f"{name} {_said(one, name)}, here {_said(other, name)}" for name in _differing((one, other))]
    return "; ".join(told)


def _told_apart(protocols: Sequence[Protocol]) -> list[str]:
    """What tells each protocol from the others; "" for the only one."""
    if len(protocols) == 1:
        return [""]
    told = [", ".join(_said(each, name) for name in _differing(protocols)) for each in protocols]
    if len(set(told)) == len(told):
        return told
    return [f"{text}, {_said(each, 'settings')}" for text, each in zip(told, protocols, strict=True)]


def _differing(protocols: Sequence[Protocol]) -> list[str]:
    """Fields that are not the same in all; the hash of all settings only where nothing else tells them apart."""
    names = [field.name for field in fields(Protocol) if len({getattr(each, field.name) for each in protocols}) > 1]
    return [name for name in names if name != "settings"] or names


def _said(protocol: Protocol, name: str) -> str:
    """A field's value in a few words."""
    value = getattr(protocol, name)
    if isinstance(value, tuple):
        return f"{len(value)} {name}"
    return value[:7] if name == "settings" else str(value or f"no {name}")[:40]


def _check_tested_once(outcomes: Sequence[Outcome]) -> None:
    tested: dict[str, Run] = {}
    for outcome in outcomes:
        for speaker in outcome.result.speakers:
            run, other = outcome.run, tested.setdefault(speaker, outcome.run)
            if other is not run:
                raise EvaluationError(
                    f"{run.dataset}, {run.strategy}: speaker {speaker} is tested in folds {other.fold} and {run.fold}; "
                    "expected each speaker in one"
                )


def _check_predictions(path: Path, outcome: Outcome) -> None:
    """predictions.csv is the one that was judged, and gives the counts that were written down."""
    data, classes = _bytes(path), outcome.run.protocol.classes
    if hashlib.sha256(data).hexdigest() != outcome.predictions_sha256:
        raise EvaluationError(f"{path}: found other predictions than {RESULT_FILE} was made of; restore them")
    again, result = summarise(parse_predictions(data, classes, str(path)), classes), outcome.result
    if (again.classes, again.speakers.keys()) != (result.classes, result.speakers.keys()) or any(
        again.speakers[speaker].confusion != score.confusion for speaker, score in result.speakers.items()
    ):
        raise EvaluationError(f"{path}: found other counts than in {RESULT_FILE}, expected the same; evaluate again")


def _typed(kind: Any, value: object, where: str) -> Any:
    try:
        return from_json(kind, value, where)
    except SchemaError as error:
        raise EvaluationError(str(error)) from error


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise EvaluationError(f"{path}: not there, expected in the folder of a run; train it again")
    if path.stat().st_size > _MAX_BYTES:
        raise EvaluationError(f"{path}: found {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
    return path.read_bytes()


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{where}: not JSON that can be parsed ({type(error).__name__})") from error
