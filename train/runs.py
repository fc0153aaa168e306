"""Where runs are stored, and the scores of several of them together.

    runs/<dataset>/<strategy>/fold-<fold>/       with the seed 0; with others fold-<fold>-seed-<seed>
    runs/<dataset>/<strategy>/test-<corpora>/    of a test on all clips of other corpora than it was trained on
        config.json       everything the run was started with; written by the trainer
        log.jsonl         a JSON object a line; the last of an epoch has `validation_uar`: see `EpochMetrics`
        model/            classifier of the selected epoch, to load, export and predict with
        predictions.csv   the classifier's predictions for the test fold: every score is computed from this file
        missing.csv       classes it predicts where a part of the sound or of the faces is missing
        result.json       `RunRecord`: what was trained and how, and the SHA-256 of both tables; written last, so
                          that its presence marks a finished run

A dataset of several corpora is called `crema-d+ravdess`. A folder of runs takes one protocol for each dataset, strategy
and fold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.files import atomic_write
from manifests.records import SchemaError, from_json
from manifests.several import split_names
from manifests.text import config_diff, shorten_list
from train import metrics, scoring
from train.data.corpora import TEST_PREFIX
from train.data.missing import Missing
from train.metrics import MeanStd
from train.scoring import EvaluationError, ExpectedClip, FoldScores, Predictions

RUN_CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
#: The folds of a table of one's own.
FOLDS_FILE = "folds.json"
PREDICTIONS_FILE = "predictions.csv"
MISSING_FILE = "missing.csv"
RESULT_FILE = "result.json"
RESULT_VERSION = 4
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
    """Where the encoder's weights come from; None for random weights."""
    lineage: str
    """What they descend from, in words: see `Lineage`."""
    supervision: str
    """Whether labels were used before this training: a `Supervision`."""
    feature: str
    """Spectrogram that was read from the shards."""
    build: str
    """How the shards were built: see `describe_build`."""
    precision: str
    """Of matrix products: `float32`, or `bfloat16` on a GPU."""
    settings: str
    """`settings_hash`: a SHA-256, under a key of result.json that is older than the name."""
    windows: str | None = None
    """Which part of a clip is seen, of shards with every frame: see `describe_windows`; None for shards of pairs."""
    shared_speakers: bool = False
    """Whether speakers are on several sides of a fold, so that scores are not of unseen speakers only."""

    def __post_init__(self) -> None:
        scoring.check_classes(self.classes)
        if not self.folds or len(set(self.folds)) < len(self.folds):
            raise EvaluationError(f"found folds {shorten_list(self.folds)}; expected at least one, each once")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: of what, how, and its epochs. Raises EvaluationError for values that contradict each other."""

    dataset: str
    """Corpus that was trained on, or several: `crema-d+ravdess`."""
    strategy: str
    fold: str
    """Fold that was tested; `test:ravdess` for all clips of another corpus."""
    seed: int
    protocol: RunProtocol
    epoch: int
    """Epoch whose weights were tested, from 1."""
    epochs: int
    """Epochs of the recipe."""
    training_clips: int
    """Clips that the tested weights were trained on."""

    def __post_init__(self) -> None:
        for name in (*self.corpora, self.strategy, *(self.tests or [self.fold])):
            scoring.check_name(name)
        if self.fold not in self.protocol.folds:
            raise EvaluationError(f"found fold {self.fold}, expected one of {shorten_list(self.protocol.folds)}")
        if not 1 <= self.epoch <= self.epochs:
            raise EvaluationError(f"found selected epoch {self.epoch}, expected 1 to {self.epochs}")
        if self.seed < 0 or self.training_clips < 1:
            found = f"seed {self.seed}, {self.training_clips} training clips"
            raise EvaluationError(f"found {found}; expected a seed from 0 and at least one clip")

    @property
    def corpora(self) -> tuple[str, ...]:
        """Corpora that were trained on."""
        return split_names(self.dataset)

    @property
    def tests(self) -> tuple[str, ...]:
        """Corpora all clips of which were tested, in place of a fold; () for a fold."""
        return split_names(self.fold.removeprefix(TEST_PREFIX)) if self.fold.startswith(TEST_PREFIX) else ()

    @property
    def reads_several(self) -> bool:
        """Whether it has read several corpora, so that names of speakers and clips say theirs."""
        return len(self.corpora) > 1 or bool(self.tests)

    @property
    def tested(self) -> str:
        """What was tested, in words: `fold 1`, or `all of ravdess`."""
        return f"all of {' and '.join(self.tests)}" if self.tests else f"fold {self.fold}"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """`result.json`: a run, and which predictions it is scored by."""

    run: Run
    clips: int
    """Clips of the test fold."""
    corpus_clips: int
    """Clips that the corpus has there, with those that were dropped when the shards were built."""
    clips_sha256: str
    """Of their ids, speakers and labels."""
    predictions_sha256: str
    """Of predictions.csv."""
    missing_sha256: str
    """Of missing.csv."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run with the scores of its predictions."""

    run: Run
    scores: FoldScores
    corpus_clips: int
    """Clips that the corpus has in the test fold; some may have been dropped when the shards were built."""
    missing: Mapping[Missing, FoldScores]
    """Condition -> scores of the same clips without a part of a modality."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Scores of a strategy over its finished folds and seeds, all with the same protocol."""

    variant: str = ""
    """How its protocol differs from others that the dataset and strategy were run with; "" for the only one."""
    results: tuple[RunResult, ...]
    """Every finished run, by fold in the scheme's order, then by seed; at least one."""
    seeds: tuple[int, ...]
    """Seeds that the scores are of: those that finished the same, most folds."""
    folds: Mapping[str, FoldScores]
    """Finished fold -> scores of these seeds together, each clip counted once for each of them."""
    missing: tuple[str, ...]
    """Folds of the scheme that are not in `folds`."""
    uar: MeanStd
    """Over folds, as the following."""
    war: MeanStd
    macro_f1: MeanStd
    weighted_f1: MeanStd
    uar_over_seeds: MeanStd
    """Over seeds, of each seed's mean over folds."""
    war_over_seeds: MeanStd
    pooled: FoldScores
    """Of all clips of these folds and seeds together."""
    corpus_clips: int
    """Clips that the corpus has in these folds."""
    missing_uar: Mapping[Missing, float]
    """Condition -> mean UAR over these folds and seeds without a part of a modality."""

    @property
    def run(self) -> Run:
        """The first fold's run; the others differ from it only in fold, seed and epoch."""
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


def run_folder(runs: Path, dataset: str, strategy: str, fold: str, seed: int = 0) -> Path:
    """Where a run is stored."""
    cross, name = fold.startswith(TEST_PREFIX), fold.removeprefix(TEST_PREFIX)
    tested = f"test-{name}" if cross else f"fold-{name}"
    return runs / dataset / strategy / (f"{tested}-seed-{seed}" if seed else tested)


def folds_file(corpus: str = "") -> str:
    """Name of the file, in the folder of a run, that has the folds of a table, or of one of several corpora."""
    return f"folds-{corpus}.json" if corpus else FOLDS_FILE


def finished_runs(runs: Path) -> list[Path]:
    """Folders of the finished runs."""
    return sorted(path.parent for kind in ("fold", "test") for path in runs.glob(f"*/*/{kind}-*/{RESULT_FILE}"))


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


def finish_run(
    runs: Path,
    run: Run,
    predictions: Predictions,
    expected: Mapping[str, ExpectedClip],
    missing: Mapping[Missing, npt.NDArray[np.int64]],
    corpus_clips: int,
) -> RunResult:
    """Score a run on its test fold, once: write predictions.csv and missing.csv, then result.json.

    `missing` is condition -> [n] class indices that the model predicts for the same clips.

    Raises EvaluationError, before anything is written, for a run that was scored before or predictions of other clips
    than `expected`; OSError.
    """
    folder = run_folder(runs, run.dataset, run.strategy, run.fold, run.seed)
    if (folder / RESULT_FILE).is_file():
        raise EvaluationError(f"{folder}: this run was already tested; remove the folder to train again")
    scoring.check_complete(predictions, expected, f"{folder}, test fold {run.fold}")
    classes = run.protocol.classes
    scores = scoring.score_predictions(predictions, classes)
    data = scoring.format_predictions(predictions, classes)
    without = scoring.format_missing(predictions, missing, classes)
    record = RunRecord(
        run=run,
        clips=len(predictions),
        corpus_clips=corpus_clips,
        clips_sha256=_hash_clips(predictions),
        predictions_sha256=hashlib.sha256(data).hexdigest(),
        missing_sha256=hashlib.sha256(without).hexdigest(),
    )
    value = {"result_version": RESULT_VERSION, **asdict(record)}
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    atomic_write(folder / PREDICTIONS_FILE, data)
    atomic_write(folder / MISSING_FILE, without)
    atomic_write(folder / RESULT_FILE, f"{text}\n".encode())
    return RunResult(
        run=run,
        scores=scores,
        corpus_clips=corpus_clips,
        missing={each: scoring.score_classes(predictions, found, classes) for each, found in missing.items()},
    )


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
    scores, path = scoring.score_predictions(predictions, classes), folder / MISSING_FILE
    data = _read_bytes(path)
    if hashlib.sha256(data).hexdigest() != record.missing_sha256:
        raise EvaluationError(f"{path}: found other predictions than {RESULT_FILE} was written for; restore them")
    missing = scoring.score_missing(data, predictions, classes, str(path))
    return RunResult(run=record.run, scores=scores, corpus_clips=record.corpus_clips, missing=missing)


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
    """Scores of each dataset, strategy and variant with a finished run, by name; tests across corpora by themselves.

    Raises EvaluationError for a run that is damaged, or stored where another belongs.
    """
    groups: dict[tuple[str, str, tuple[str, ...]], dict[RunProtocol, list[RunResult]]] = {}
    for folder in finished_runs(runs):
        result = read_result(folder)
        run = result.run
        expected = run_folder(runs, run.dataset, run.strategy, run.fold, run.seed)
        if folder != expected:
            raise EvaluationError(f"{folder / RESULT_FILE}: found the run of {expected}; move or remove the folder")
        groups.setdefault((run.dataset, run.strategy, run.tests), {}).setdefault(run.protocol, []).append(result)
    return tuple(
        summarize_folds(results, variant)
        for key in sorted(groups)
        for variant, results in zip(_name_variants(list(groups[key])), groups[key].values(), strict=True)
    )


def summarize_folds(results: Sequence[RunResult], variant: str = "") -> RunSummary:
    """Scores of one strategy over its finished folds and seeds, at least one.

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
    done = {(result.run.fold, result.run.seed): result for result in results}
    ordered = tuple(done[fold, seed] for fold in folds for seed in sorted(seed for f, seed in done if f == fold))
    tested: dict[str, str] = {}
    for fold, speaker in ((result.run.fold, speaker) for result in ordered for speaker in result.scores.speakers):
        other = tested.setdefault(speaker, fold)
        if other != fold:
            raise EvaluationError(
                f"{name}: speaker {speaker} is tested in folds {other} and {fold}; expected each speaker in one"
            )
    folds_of = {seed: [f for f in folds if (f, seed) in done] for seed in sorted({seed for _, seed in done})}
    finished = max(folds_of.values(), key=len)
    seeds = tuple(seed for seed, found in folds_of.items() if found == finished)
    scores = {fold: scoring.merge_seeds([done[fold, seed].scores for seed in seeds]) for fold in finished}
    over_folds = ("uar", "war", "macro_f1", "weighted_f1")
    return RunSummary(
        variant=variant,
        results=ordered,
        seeds=seeds,
        folds=scores,
        missing=tuple(fold for fold in folds if fold not in scores),
        **{score: metrics.mean_std([getattr(each, score) for each in scores.values()]) for score in over_folds},
        **{f"{score}_over_seeds": _spread_over_seeds(done, seeds, finished, score) for score in ("uar", "war")},
        pooled=scoring.pool_folds(list(scores.values())),
        corpus_clips=sum(done[fold, seeds[0]].corpus_clips for fold in finished),
        missing_uar=_mean_missing([done[fold, seed] for fold in finished for seed in seeds]),
    )


def _mean_missing(results: Sequence[RunResult]) -> dict[Missing, float]:
    """Condition -> mean UAR over runs, of the conditions that all were tested in."""
    common = set.intersection(*({*result.missing} for result in results))
    return {each: metrics.mean_std([result.missing[each].uar for result in results]).mean for each in sorted(common)}


def _spread_over_seeds(
    done: Mapping[tuple[str, int], RunResult], seeds: Sequence[int], folds: Sequence[str], score: str
) -> MeanStd:
    means = [metrics.mean_std([getattr(done[fold, seed].scores, score) for fold in folds]).mean for seed in seeds]
    return metrics.mean_std(means)


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
