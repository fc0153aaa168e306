"""Where runs are stored, and the scores of several of them together.

    runs/<dataset>/<strategy>/fold-<fold>/
        config.json       everything the run was started with; written by the trainer
        log.jsonl         a JSON object a line; the last of an epoch has `validation_uar`: see `EpochMetrics`
        model/            classifier of the selected epoch, to load, export and predict with
        predictions.csv   the classifier's predictions for the test fold: every score is computed from this file
        result.json       `RunRecord`: what was trained and how, and the SHA-256 of predictions.csv; written last, so
                          that its presence marks a finished run

A folder of runs takes one protocol for each dataset, strategy and fold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from manifests.files import atomic_write
from manifests.records import SchemaError, from_json
from manifests.text import config_diff, shorten_list
from train import metrics, scoring
from train.metrics import MeanStd
from train.scoring import EvaluationError, ExpectedClip, FoldScores, Predictions

RUN_CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
PREDICTIONS_FILE = "predictions.csv"
RESULT_FILE = "result.json"
MODEL = "model"
RESULT_VERSION = 2
#: What to do about a folder of a run with another protocol.
ANOTHER_FOLDER = "remove it, or choose another folder of runs with RUNS= (--runs)"

_MAX_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class RunProtocol:
    """The conditions of a score. Runs are averaged only where all of this is the same."""

    label_scheme: str
    classes: tuple[str, ...]
    fold_scheme: str
    folds: tuple[str, ...]
    """All folds of the scheme, in its order."""
    selection: str
    """How the epoch was selected, such as "UAR of validation speakers"."""
    recipe: str
    encoder: str
    weights: str | None
    """Where the encoder's weights come from, all of them from self-supervised training; None for random weights."""
    feature: str
    """Spectrogram that was read from the shards."""
    settings: str
    """`settings_hash`: a SHA-256, under a key of result.json that is older than the name."""

    def __post_init__(self) -> None:
        scoring.check_classes(self.classes)
        if not self.folds or len(set(self.folds)) < len(self.folds):
            raise EvaluationError(f"found folds {shorten_list(self.folds)}; expected at least one, each once")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: of what, how, and its epochs. Raises EvaluationError for values that contradict each other."""

    dataset: str
    strategy: str
    fold: str
    protocol: RunProtocol
    epoch: int
    """Selected epoch, from 1."""
    epochs: int
    """Epochs trained."""

    def __post_init__(self) -> None:
        for name in (self.dataset, self.strategy, self.fold):
            scoring.check_name(name)
        if self.fold not in self.protocol.folds:
            raise EvaluationError(f"found fold {self.fold}, expected one of {shorten_list(self.protocol.folds)}")
        if not 1 <= self.epoch <= self.epochs:
            raise EvaluationError(f"found selected epoch {self.epoch}, expected 1 to {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`result.json`: a run, and which predictions it is scored by."""

    run: Run
    clips: int
    """Clips of the test fold."""
    clips_sha256: str
    """Of their ids, speakers and labels."""
    predictions_sha256: str
    """Of predictions.csv."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run with the scores of its predictions."""

    run: Run
    scores: FoldScores


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Scores of a strategy over its finished folds, all with the same protocol."""

    variant: str = ""
    """How its protocol differs from others that the dataset and strategy were run with; "" for the only one."""
    results: tuple[RunResult, ...]
    """One for each finished fold, in the scheme's order; at least one."""
    missing: tuple[str, ...]
    """Folds of the scheme without a finished run."""
    uar: MeanStd
    war: MeanStd
    macro_f1: MeanStd
    weighted_f1: MeanStd
    pooled: FoldScores
    """Of all clips of these folds together."""

    @property
    def run(self) -> Run:
        """The first fold's run; the others differ from it only in fold and epochs."""
        return self.results[0].run

    @property
    def name(self) -> str:
        """The strategy, with the variant if several were run."""
        return f"{self.run.strategy} ({self.variant})" if self.variant else self.run.strategy


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """What `log.jsonl` must have for each epoch; its other keys are for people."""

    epoch: int
    """From 1."""
    train_loss: float
    validation_loss: float
    validation_uar: float


def run_folder(runs: Path, dataset: str, strategy: str, fold: str) -> Path:
    """Where a run is stored."""
    return runs / dataset / strategy / f"fold-{fold}"


def finished_runs(runs: Path) -> list[Path]:
    """Folders of the finished runs."""
    return sorted(path.parent for path in runs.glob(f"*/*/fold-*/{RESULT_FILE}"))


def is_finished(folder: Path, protocol: RunProtocol) -> bool:
    """Whether a run is finished, so that a sweep may skip it.

    Raises EvaluationError for a finished run that is damaged, or that has another protocol.
    """
    if not (folder / RESULT_FILE).is_file():
        return False
    changes = _diff_protocols(read_result(folder).run.protocol, protocol)
    if changes:
        raise EvaluationError(f"{folder}: was trained with another protocol ({changes}); {ANOTHER_FOLDER}")
    return True


def finish_run(runs: Path, run: Run, predictions: Predictions, expected: Mapping[str, ExpectedClip]) -> RunResult:
    """Score a run on its test fold, once: write predictions.csv, then result.json.

    Raises EvaluationError, before anything is written, for a run that was scored before or predictions of other clips
    than `expected`; OSError.
    """
    folder = run_folder(runs, run.dataset, run.strategy, run.fold)
    if (folder / RESULT_FILE).is_file():
        raise EvaluationError(f"{folder}: this run was already tested; remove the folder to train again")
    scoring.check_complete(predictions, expected, f"{folder}, test fold {run.fold}")
    scores = scoring.score_predictions(predictions, run.protocol.classes)
    data = scoring.format_predictions(predictions, run.protocol.classes)
    record = RunRecord(
        run=run,
        clips=len(predictions),
        clips_sha256=_hash_clips(predictions),
        predictions_sha256=hashlib.sha256(data).hexdigest(),
    )
    value = {"result_version": RESULT_VERSION, **asdict(record)}
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    atomic_write(folder / PREDICTIONS_FILE, data)
    atomic_write(folder / RESULT_FILE, f"{text}\n".encode())
    return RunResult(run=run, scores=scores)


def read_result(folder: Path) -> RunResult:
    """A finished run, scored from its predictions. Raises EvaluationError naming a file that is damaged or changed."""
    path = folder / RESULT_FILE
    if not path.is_file():
        raise EvaluationError(f"{folder}: found no finished run ({RESULT_FILE}); repeat the command that trains it")
    value = _parse_json(_read_bytes(path), str(path))
    if not isinstance(value, dict) or value.pop("result_version", None) != RESULT_VERSION:
        raise EvaluationError(f"{path}: found no result of version {RESULT_VERSION}; train the run again")
    record: RunRecord = _from_json(RunRecord, value, str(path))
    path, classes = folder / PREDICTIONS_FILE, record.run.protocol.classes
    data = _read_bytes(path)
    if hashlib.sha256(data).hexdigest() != record.predictions_sha256:
        raise EvaluationError(f"{path}: found other predictions than {RESULT_FILE} was written for; restore them")
    predictions = scoring.parse_predictions(data, classes, str(path))
    if (len(predictions), _hash_clips(predictions)) != (record.clips, record.clips_sha256):
        raise EvaluationError(
            f"{path}: found {len(predictions)} clips that are not the test fold of {RESULT_FILE}, "
            f"expected its {record.clips}; remove the folder to train again"
        )
    return RunResult(run=record.run, scores=scoring.score_predictions(predictions, classes))


def read_log(path: Path) -> tuple[EpochMetrics, ...]:
    """Epochs of a log, in order; of one that was repeated, the last. Raises EvaluationError naming the line.

    Other lines are skipped, and so is a last line that was only partly written.
    """
    epochs: dict[int, EpochMetrics] = {}
    for number, line in enumerate(_read_bytes(path).split(b"\n")[:-1], 1):
        value = _parse_json(line, f"{path}:{number}")
        if isinstance(value, dict) and "validation_uar" in value:
            known = {field.name: value[field.name] for field in fields(EpochMetrics) if field.name in value}
            epoch = _from_json(EpochMetrics, known, f"{path}:{number}")
            epochs[epoch.epoch] = epoch
    return tuple(epochs[number] for number in sorted(epochs))


def read_summaries(runs: Path) -> tuple[RunSummary, ...]:
    """Scores of each dataset, strategy and variant with a finished run, by name.

    Raises EvaluationError for a run that is damaged, or stored where another belongs.
    """
    groups: dict[tuple[str, str], dict[RunProtocol, list[RunResult]]] = {}
    for folder in finished_runs(runs):
        result = read_result(folder)
        run = result.run
        expected = run_folder(runs, run.dataset, run.strategy, run.fold)
        if folder != expected:
            raise EvaluationError(f"{folder / RESULT_FILE}: found the run of {expected}; move or remove the folder")
        groups.setdefault((run.dataset, run.strategy), {}).setdefault(run.protocol, []).append(result)
    return tuple(
        summarize_folds(results, variant)
        for key in sorted(groups)
        for variant, results in zip(_name_variants(list(groups[key])), groups[key].values(), strict=True)
    )


def summarize_folds(results: Sequence[RunResult], variant: str = "") -> RunSummary:
    """Scores of one strategy over its finished folds, at least one.

    Raises EvaluationError for runs with different protocols, and for a speaker tested in two folds.
    """
    first, folds = results[0].run, results[0].run.protocol.folds
    name = f"{first.dataset}, {first.strategy}"
    for run in (result.run for result in results):
        changes = _diff_protocols(first.protocol, run.protocol)
        if changes:
            raise EvaluationError(
                f"{name}: folds {first.fold} and {run.fold} differ ({changes}); expected runs with the same protocol: "
                f"compare their {RUN_CONFIG_FILE} and move those of one protocol to another folder"
            )
    done = {result.run.fold: result for result in results}
    ordered = tuple(done[fold] for fold in folds if fold in done)
    tested: dict[str, str] = {}
    for fold, speaker in ((result.run.fold, speaker) for result in ordered for speaker in result.scores.speakers):
        other = tested.setdefault(speaker, fold)
        if other != fold:
            raise EvaluationError(
                f"{name}: speaker {speaker} is tested in folds {other} and {fold}; expected each speaker in one"
            )
    scores = ("uar", "war", "macro_f1", "weighted_f1")
    return RunSummary(
        variant=variant,
        results=ordered,
        missing=tuple(fold for fold in folds if fold not in done),
        **{score: metrics.spread([getattr(result.scores, score) for result in ordered]) for score in scores},
        pooled=scoring.pool_folds([result.scores for result in ordered]),
    )


def _hash_clips(predictions: Predictions) -> str:
    """SHA-256 of the ids, speakers and labels of clips, whatever their order."""
    clips = sorted(zip(predictions.clips, predictions.speakers, predictions.labels.tolist(), strict=True))
    return hashlib.sha256(json.dumps(clips).encode()).hexdigest()


def _diff_protocols(before: RunProtocol, now: RunProtocol) -> str:
    """Differences, "" for none; the hash of all settings is named only if it is the only one."""
    lines = config_diff(asdict(before), asdict(now))
    return "; ".join([line for line in lines if not line.startswith("settings:")] or lines)


def _name_variants(protocols: Sequence[RunProtocol]) -> list[str]:
    """For each protocol, in a few words, what differs between them; "" for a single one."""

    def describe(protocol: RunProtocol, name: str) -> str:
        value = getattr(protocol, name)
        if isinstance(value, tuple):
            return f"{len(value)} {name}"
        return value[:7] if name == "settings" else str(value or f"no {name}")[:40]

    differing = [f.name for f in fields(RunProtocol) if len({getattr(protocol, f.name) for protocol in protocols}) > 1]
    names = [name for name in differing if name != "settings"]
    variants = [", ".join(describe(protocol, name) for name in names) for protocol in protocols]
    if len(set(variants)) == len(variants):
        return variants
    return [", ".join(describe(protocol, name) for name in [*names, "settings"]) for protocol in protocols]


def _from_json(kind: Any, value: object, where: str) -> Any:
    try:
        return from_json(kind, value, where)
    except SchemaError as error:
        raise EvaluationError(str(error)) from error


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{where}: not JSON that can be parsed ({type(error).__name__})") from error


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise EvaluationError(f"{path}: not found, expected in the folder of a run; train it again")
    if path.stat().st_size > _MAX_BYTES:
        raise EvaluationError(f"{path}: found {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
    return path.read_bytes()
