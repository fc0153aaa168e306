"""Predictions for a test fold: checking them, their CSV file, and the scores computed from them.

predictions.csv has a row for each clip of the test fold: clip, speaker, label, predicted, and a probability for each
class, p(<class>). Predictions are scored only if they are for exactly the clips of the fold.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from manifests.schema import NAME
from manifests.several import corpus_of, name_within
from manifests.text import shorten_list
from train import metrics
from train.data.missing import Missing
from train.metrics import Counts, Interval

if TYPE_CHECKING:
    from train.data.clip_table import ClipTable

_COLUMNS = ("clip", "speaker", "label", "predicted")
_MISSING_COLUMNS = ("missing", "share", "clip", "predicted")
_SUM_TOLERANCE = 1e-3
_LONGEST_CELL = 80

Matrix = tuple[tuple[int, ...], ...]


class EvaluationError(UserError):
    """Predictions, or a run, that cannot be scored: what was found and what was expected."""


class ExpectedClip(NamedTuple):
    """What predictions for a clip of a test fold must agree with."""

    speaker: str
    label: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A model's predictions for n clips, C classes. Raises EvaluationError for columns that do not fit together."""

    clips: tuple[str, ...]
    """Clip ids, each once; of several corpora with the corpus, as the speakers: `crema-d/1001_DFA_ANG_XX`."""
    speakers: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    """[n] true class indices."""
    probabilities: npt.NDArray[np.float32]
    """[n, C], each row sums to 1 within 0.001."""

    def __post_init__(self) -> None:
        counts, shape = (len(self.clips), len(self.speakers), len(self.labels)), self.probabilities.shape
        if len(shape) != 2 or {*counts, shape[0]} != {shape[0]}:
            found = "{} clips, {} speakers, {} labels".format(*counts)
            raise EvaluationError(f"predictions: found {found}, probabilities {shape}; expected equal numbers")
        for name in (*self.clips, *set(self.speakers)):
            _check_qualified(name)
        duplicates = sorted(clip for clip, count in Counter(self.clips).items() if count > 1)
        if duplicates:
            raise EvaluationError(
                f"predictions: found {shorten_list(duplicates)} more than once, expected each clip once"
            )
        error = np.abs(self.probabilities.sum(axis=1, dtype=np.float64) - 1)
        distribution = (self.probabilities >= 0).all(axis=1) & (error < _SUM_TOLERANCE)
        for row in np.flatnonzero(~(distribution & (self.labels >= 0) & (self.labels < shape[1])))[:1]:
            found = f"label {self.labels[row]} and probabilities {self.probabilities[row].tolist()}"
            raise EvaluationError(
                f"{self.clips[row]}: found {found}, expected a label from 0 to {shape[1] - 1} and a distribution"
            )

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """[n] most probable class, the first if tied."""
        return self.probabilities.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """Scores of one test fold, or of several pooled: fractions, defined in `train.metrics`."""

    classes: tuple[str, ...]
    confusions: Mapping[str, Matrix]
    """Speaker -> [C][C] clips, a row for each true class; at least one clip."""
    seeds: int = 1
    """How often each clip is counted: once for each seed."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speakers of the fold, sorted."""
        return tuple(self.confusions)

    @cached_property
    def confusion(self) -> Counts:
        """[C, C] clips of all speakers, a row for each true class."""
        return np.array(list(self.confusions.values()), dtype=np.int64).sum(axis=0)

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(self.confusion.sum()) // self.seeds

    @property
    def uar(self) -> float:
        """Unweighted average recall."""
        return float(metrics.uar(self.confusion))

    @property
    def war(self) -> float:
        """Weighted average recall, which is accuracy."""
        return float(metrics.war(self.confusion))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes."""
        return float(metrics.macro_f1(self.confusion))

    @property
    def weighted_f1(self) -> float:
        """Mean F1 of the classes, each weighted by its clips."""
        return float(metrics.weighted_f1(self.confusion))

    @property
    def corpora(self) -> tuple[str, ...]:
        """Corpora of the speakers, where their names say it: see `of_corpus`."""
        return tuple(sorted({corpus_of(speaker) for speaker in self.confusions} - {""}))

    def of_corpus(self, corpus: str) -> FoldScores:
        """Scores of the speakers of one of several corpora."""
        own = {speaker: matrix for speaker, matrix in self.confusions.items() if corpus_of(speaker) == corpus}
        return replace(self, confusions=own)

    @cached_property
    def interval(self) -> Interval | None:
        """Bootstrap interval over the choice of speakers; None for a single speaker."""
        return metrics.bootstrap(np.array(list(self.confusions.values()))) if len(self.confusions) > 1 else None


def expected_clips(clips: ClipTable) -> dict[str, ExpectedClip]:
    """Clip id -> speaker and label, of the clips of a test fold. Raises EvaluationError for an id found twice."""
    expected = {
        clip: ExpectedClip(speaker, int(label))
        for clip, speaker, label in zip(clips.ids, clips.clip_speakers, clips.labels, strict=True)
    }
    if len(expected) != len(clips):
        raise EvaluationError(f"{clips.folder}: found {len(clips)} clips of {len(expected)} ids, expected each id once")
    return expected


def check_complete(predictions: Predictions, expected: Mapping[str, ExpectedClip], where: str) -> None:
    """Raise EvaluationError, beginning with `where`, unless these are exactly the expected clips and their labels."""
    clips = map(ExpectedClip, predictions.speakers, predictions.labels.tolist())
    found = dict(zip(predictions.clips, clips, strict=True))
    common = expected.keys() & found.keys()
    faults = {
        "missing": expected.keys() - common,
        "that the fold does not have": found.keys() - common,
        "with another speaker or label": {clip for clip in common if found[clip] != expected[clip]},
    }
    lines = [f"{len(names)} {fault} ({shorten_list(sorted(names))})" for fault, names in faults.items() if names]
    if lines:
        raise EvaluationError(
            f"{where}: of {len(expected)} clips found {', '.join(lines)}; expected exactly the fold's clips"
        )


def format_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A table as UTF-8 CSV with Unix line endings."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def prediction_columns(classes: Sequence[str]) -> tuple[str, ...]:
    """Header of predictions.csv. Raises EvaluationError for classes that are not distinct and printable."""
    check_classes(classes)
    return (*_COLUMNS, *(f"p({name})" for name in classes))


def format_predictions(predictions: Predictions, classes: Sequence[str]) -> bytes:
    """Predictions -> bytes of predictions.csv, rows by clip id, probabilities with every digit they need."""
    labels, predicted = predictions.labels.tolist(), predictions.predicted.tolist()
    rows = (
        [
            *(predictions.clips[row], predictions.speakers[row], classes[labels[row]], classes[predicted[row]]),
            *map(str, predictions.probabilities[row]),
        ]
        for row in sorted(range(len(predictions)), key=lambda row: predictions.clips[row])
    )
    return format_csv(prediction_columns(classes), rows)


def parse_predictions(data: bytes, classes: Sequence[str], where: str) -> Predictions:
    """Bytes of predictions.csv -> Predictions. Raises EvaluationError, beginning with `where`, for an invalid file."""
    try:
        columns, indices = prediction_columns(classes), {name: index for index, name in enumerate(classes)}
        header, *rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True)) or [[]]
        if tuple(header) != columns:
            raise EvaluationError(f"found columns {_shorten(header) or 'none'}; expected {', '.join(columns)}")
        for row in rows:
            if len(row) != len(columns) or row[2] not in indices:
                expected = f"{len(columns)} values and a label of {_shorten(classes)}"
                raise EvaluationError(f"found row {_shorten(row)}; expected {expected}")
        predictions = Predictions(
            clips=tuple(row[0] for row in rows),
            speakers=tuple(row[1] for row in rows),
            labels=np.array([indices[row[2]] for row in rows], dtype=np.int64),
            probabilities=np.array([row[4:] for row in rows], dtype=np.float32).reshape(-1, len(classes)),
        )
        for row, predicted in zip(rows, predictions.predicted, strict=True):
            if row[3] != classes[predicted]:
                expected = f"{classes[predicted]!r}, the most probable class"
                raise EvaluationError(f"{row[0]}: found prediction {row[3]!r}, expected {expected}")
    except (csv.Error, ValueError) as error:
        raise EvaluationError(f"{where}: {error}; remove the run's folder and train it again") from error
    return predictions


def score_predictions(predictions: Predictions, classes: Sequence[str]) -> FoldScores:
    """Scores of predictions. Raises EvaluationError for none at all, or for another number of classes."""
    count, width = predictions.probabilities.shape
    if not count or width != len(classes):
        raise EvaluationError(
            f"found {count} predictions of {width} classes, expected at least one, of {len(classes)} classes"
        )
    return score_classes(predictions, predictions.predicted, classes)


def score_classes(labelled: Predictions, predicted: npt.NDArray[np.int64], classes: Sequence[str]) -> FoldScores:
    """Scores of other predictions [n] for the same clips, as class indices."""
    speakers, confusions = metrics.speaker_confusions(labelled.speakers, labelled.labels, predicted, len(classes))
    matrices = (tuple(map(tuple, confusion)) for confusion in confusions.tolist())
    return FoldScores(classes=tuple(classes), confusions=dict(zip(speakers, matrices, strict=True)))


def format_missing(
    predictions: Predictions, missing: Mapping[Missing, npt.NDArray[np.int64]], classes: Sequence[str]
) -> bytes:
    """Condition -> [n] predicted classes of the same clips, as CSV: condition, share, clip, predicted."""
    return format_csv(
        _MISSING_COLUMNS,
        (
            (condition.modality, str(condition.share), predictions.clips[row], classes[predicted[row]])
            for condition, predicted in sorted(missing.items())
            for row in sorted(range(len(predictions)), key=lambda row: predictions.clips[row])
        ),
    )


def score_missing(
    data: bytes, predictions: Predictions, classes: Sequence[str], where: str
) -> dict[Missing, FoldScores]:
    """Scores from the bytes that `format_missing` made. Raises EvaluationError, beginning with `where`, for others."""
    try:
        header, *rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True)) or [[]]
        if tuple(header) != _MISSING_COLUMNS:
            raise EvaluationError(f"found columns {_shorten(header) or 'none'}; expected {', '.join(_MISSING_COLUMNS)}")
        found: dict[Missing, dict[str, str]] = {}
        for modality, share, clip, predicted in rows:
            found.setdefault(Missing(modality, float(share)), {})[clip] = predicted
        indices = {name: index for index, name in enumerate(classes)}
        return {
            condition: score_classes(
                predictions, np.array([indices[each[clip]] for clip in predictions.clips]), classes
            )
            for condition, each in found.items()
        }
    except (csv.Error, ValueError, KeyError) as error:
        raise EvaluationError(f"{where}: {error}; remove the run's folder and train it again") from error


def merge_seeds(runs: Sequence[FoldScores]) -> FoldScores:
    """Scores of one fold's clips over runs with several seeds: UAR and WAR are the means of the runs'."""
    confusions = {
        speaker: tuple(map(tuple, np.sum([run.confusions[speaker] for run in runs], axis=0).tolist()))
        for speaker in runs[0].confusions
    }
    return FoldScores(classes=runs[0].classes, confusions=confusions, seeds=len(runs))


def pool_folds(folds: Sequence[FoldScores]) -> FoldScores:
    """Scores of all clips of folds with the same classes and seeds, and no common speaker."""
    confusions = {speaker: matrix for fold in folds for speaker, matrix in fold.confusions.items()}
    return FoldScores(classes=folds[0].classes, confusions=dict(sorted(confusions.items())), seeds=folds[0].seeds)


def check_classes(classes: Sequence[str]) -> None:
    """Raise EvaluationError unless classes, at least one, are distinct and each named in printable characters."""
    if not classes or len(set(classes)) < len(classes) or not all(name and name.isprintable() for name in classes):
        raise EvaluationError(f"found classes {_shorten(map(repr, classes))}; expected distinct, printable ones")


def check_name(name: str) -> None:
    """Raise EvaluationError unless a name can be that of a clip, speaker, corpus, strategy or fold."""
    if not NAME.fullmatch(name):
        raise EvaluationError(f"found name {name[:_LONGEST_CELL]!r}, expected 1 to 80 letters, digits, '_' and '-'")


def _check_qualified(name: str) -> None:
    """As `check_name`, for a clip or a speaker of one corpus, or of one of several: `crema-d/1001`."""
    if not NAME.fullmatch(name_within(name)) or (corpus_of(name) and not NAME.fullmatch(corpus_of(name))):
        check_name(name)


def _shorten(cells: Iterable[str]) -> str:
    """The first cells of an untrusted file, each cut to a length that fits a message."""
    return shorten_list(cell[:_LONGEST_CELL] for cell in cells)
