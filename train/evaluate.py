"""From a model's predictions for a test fold to its scores; `train.runs` tells where both are kept.

predictions.csv has a row for each clip of the test fold: clip, speaker, label, predicted, and a probability for each
class, p(<class>). A result counts only for just the clips that the fold promises: none is skipped, and none is added.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from manifests.records import SchemaError, from_json
from manifests.schema import NAME
from train import metrics
from train.metrics import Counts, Interval

if TYPE_CHECKING:
    from train.data.dataset import Clips

_COLUMNS = ("clip", "speaker", "label", "predicted")
_SUM_TOLERANCE = 1e-3
_LISTED = 5

Matrix = tuple[tuple[int, ...], ...]


class EvaluationError(UserError):
    """Predictions or a run that no score may be taken from; one line that says what was found and expected."""


class Truth(NamedTuple):
    """What a fold promises of a clip."""

    speaker: str
    label: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a model said of n clips, C classes. Raises EvaluationError for columns that do not fit together."""

    clips: tuple[str, ...]
    """Clip ids, each once."""
    speakers: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    """[n] true class indices."""
    probabilities: npt.NDArray[np.float32]
    """[n, C], each row sums to 1 within 0.001."""

    def __post_init__(self) -> None:
        _check_columns(self)
        _check_names(self.clips, self.speakers)
        _check_rows(self)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """[n] likeliest class, the first of equals."""
        return self.probabilities.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class SpeakerScore:
    """How well one speaker was recognised."""

    clips: int
    uar: float
    war: float
    confusion: Matrix
    """[C][C] clips, a row for each true class."""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """Scores of one test fold, or of several put together; fractions, defined in `train.metrics`."""

    classes: tuple[str, ...]
    clips: int
    uar: float
    war: float
    macro_f1: float
    weighted_f1: float
    interval: Interval | None
    """Over the choice of speakers; None for a single speaker."""
    confusion: Matrix
    """[C][C] clips, a row for each true class."""
    speakers: Mapping[str, SpeakerScore]

    @classmethod
    def from_json(cls, value: object, where: str) -> FoldResult:
        """What `asdict` and JSON made of a result -> the result. Raises EvaluationError that begins with `where`."""
        try:
            result: FoldResult = from_json(cls, value, where)
        except SchemaError as error:
            raise EvaluationError(str(error)) from error
        check_consistent(result, where)
        return result


def promised(clips: Clips) -> dict[str, Truth]:
    """Clip id -> what the fold promises, for the clips of a test side. Raises EvaluationError for an id found twice."""
    truths = {
        key.decode(): Truth(clips.speakers[shard], int(label))
        for key, shard, label in zip(clips.keys, clips.shard, clips.labels, strict=True)
    }
    if len(truths) != len(clips):
        raise EvaluationError(f"{clips.folder}: found {len(clips)} clips of {len(truths)} ids, expected each id once")
    return truths


def check_complete(predictions: Predictions, promise: Mapping[str, Truth], where: str) -> None:
    """Raise EvaluationError, beginning with `where`, unless just the promised clips are there, with their labels."""
    truths = map(Truth, predictions.speakers, predictions.labels.tolist())
    found = dict(zip(predictions.clips, truths, strict=True))
    common = promise.keys() & found.keys()
    faults = {
        "missing": promise.keys() - common,
        "that the fold does not have": found.keys() - common,
        "with another speaker or label": {clip for clip in common if found[clip] != promise[clip]},
    }
    told = [f"{len(clips)} {what} ({listed(sorted(clips))})" for what, clips in faults.items() if clips]
    if told:
        raise EvaluationError(
            f"{where}: of {len(promise)} clips found {', '.join(told)}; expected just the fold's clips"
        )


def dump_predictions(predictions: Predictions, classes: Sequence[str]) -> bytes:
    """Predictions -> bytes of predictions.csv, rows by clip id, probabilities with every digit they need."""
    labels, predicted = predictions.labels.tolist(), predictions.predicted.tolist()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_header(classes))
    for row in sorted(range(len(predictions)), key=lambda row: predictions.clips[row]):
        names = (predictions.clips[row], predictions.speakers[row], classes[labels[row]], classes[predicted[row]])
        writer.writerow([*names, *map(str, predictions.probabilities[row])])
    return text.getvalue().encode()


def parse_predictions(data: bytes, classes: Sequence[str], where: str) -> Predictions:
    """Bytes of predictions.csv -> Predictions. Raises EvaluationError, beginning with `where`, for anything amiss."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
        if not rows or tuple(rows[0]) != _header(classes):
            found = listed(rows[0]) if rows else "nothing"
            raise EvaluationError(f"found columns {found}; expected {', '.join(_header(classes))}")
        return _from_rows(rows[1:], classes)
    except (csv.Error, ValueError) as error:
        raise EvaluationError(f"{where}: {error}; evaluate the run again") from error


def summarise(predictions: Predictions, classes: Sequence[str]) -> FoldResult:
    """Scores of predictions. Raises EvaluationError for none at all, or for another number of classes."""
    count, width = predictions.probabilities.shape
    if not count or width != len(classes):
        raise EvaluationError(
            f"predictions: found {count} of {width} classes, expected some, of {len(classes)} classes"
        )
    return scored(
        classes,
        *metrics.speaker_confusions(predictions.speakers, predictions.labels, predictions.predicted, len(classes)),
    )


def pooled(results: Sequence[FoldResult]) -> FoldResult:
    """Results of folds with the same classes and no common speaker, put together."""
    speakers = {speaker: score for result in results for speaker, score in result.speakers.items()}
    return _rescored(results[0].classes, dict(sorted(speakers.items())))


def scored(classes: Sequence[str], speakers: Sequence[str], confusions: Counts) -> FoldResult:
    """Scores of S speakers' confusion matrices [S, C, C]."""
    total = confusions.sum(axis=0)
    scores = zip(speakers, confusions, metrics.uar(confusions).tolist(), metrics.war(confusions).tolist(), strict=True)
    return FoldResult(
        classes=tuple(classes),
        clips=int(total.sum()),
        uar=float(metrics.uar(total)),
        war=float(metrics.war(total)),
        macro_f1=float(metrics.macro_f1(total)),
        weighted_f1=float(metrics.weighted_f1(total)),
        interval=metrics.bootstrap(confusions) if len(speakers) > 1 else None,
        confusion=_matrix(total),
        speakers={
            speaker: SpeakerScore(clips=int(confusion.sum()), uar=uar, war=war, confusion=_matrix(confusion))
            for speaker, confusion, uar, war in scores
        },
    )


def check_consistent(result: FoldResult, where: str) -> None:
    """Raise EvaluationError, beginning with `where`, unless a result's scores are what its speakers' counts give."""
    try:
        again = _rescored(result.classes, result.speakers)
    except ValueError as error:
        raise EvaluationError(f"{where}: found counts without a score ({error}); evaluate the run again") from error
    if not _same(again, result):
        raise EvaluationError(f"{where}: found scores that its counts do not give; evaluate the run again")


def check_classes(classes: Sequence[str]) -> None:
    """Raise EvaluationError unless there are classes, each named once with characters that a person can see."""
    if not classes or len(set(classes)) < len(classes) or not all(name and name.isprintable() for name in classes):
        raise EvaluationError(f"found classes {listed(map(repr, classes))}; expected some, distinct and printable")


def listed(names: Iterable[str]) -> str:
    """At most five names, cut short, and how many more: for messages."""
    known = [name[:80] for name in names]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more


def _rescored(classes: Sequence[str], speakers: Mapping[str, SpeakerScore]) -> FoldResult:
    confusions = np.array([score.confusion for score in speakers.values()], dtype=np.int64)
    expected = (len(speakers), len(classes), len(classes))
    if confusions.shape != expected or confusions.min(initial=0) < 0:
        raise EvaluationError(f"found counts {confusions.shape}, expected {expected}, none below 0")
    return scored(classes, tuple(speakers), confusions)


def _same(one: FoldResult, other: FoldResult) -> bool:
    """Equal counts, and scores equal but for rounding, of the whole and of each speaker."""
    names = ("uar", "war", "macro_f1", "weighted_f1")
    parts = [(one, other, names), *((one.speakers[key], other.speakers[key], names[:2]) for key in one.speakers)]
    return one.confusion == other.confusion and all(
        a.clips == b.clips and all(math.isclose(getattr(a, name), getattr(b, name)) for name in names)
        for a, b, names in parts
    )


def _header(classes: Sequence[str]) -> tuple[str, ...]:
    check_classes(classes)
    return (*_COLUMNS, *(f"p({name})" for name in classes))


def _from_rows(rows: Sequence[Sequence[str]], classes: Sequence[str]) -> Predictions:
    width = len(_header(classes))
    index = {name: place for place, name in enumerate(classes)}
    for row in rows:
        if len(row) != width or row[2] not in index:
            raise EvaluationError(f"found row {listed(row)}; expected {width} values and a label of {listed(classes)}")
    predictions = Predictions(
        clips=tuple(row[0] for row in rows),
        speakers=tuple(row[1] for row in rows),
        labels=np.array([index[row[2]] for row in rows], dtype=np.int64),
        probabilities=np.array([row[4:] for row in rows], dtype=np.float32).reshape(-1, len(classes)),
    )
    for row, predicted in zip(rows, predictions.predicted, strict=True):
        if row[3] != classes[predicted]:
            raise EvaluationError(f"{row[0]}: found {row[3]!r} predicted, but {classes[predicted]!r} is the likeliest")
    return predictions


def _check_columns(predictions: Predictions) -> None:
    counts = len(predictions.clips), len(predictions.speakers), len(predictions.labels)
    shape = predictions.probabilities.shape
    if len(shape) != 2 or {*counts, shape[0]} != {shape[0]}:
        found = "{} clips, {} speakers, {} labels".format(*counts)
        raise EvaluationError(f"predictions: found {found}, probabilities {shape}; expected as many of each")


def _check_names(clips: Sequence[str], speakers: Sequence[str]) -> None:
    for name in (*clips, *set(speakers)):
        if not NAME.fullmatch(name):
            raise EvaluationError(f"found name {name[:80]!r}, expected 1 to 80 letters, digits, '_' and '-'")
    twice = sorted(clip for clip, count in Counter(clips).items() if count > 1)
    if twice:
        raise EvaluationError(f"predictions: found {listed(twice)} more than once, expected each clip once")


def _check_rows(predictions: Predictions) -> None:
    labels, probabilities = predictions.labels, predictions.probabilities
    classes = probabilities.shape[1]
    off = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1)
    fine = (probabilities >= 0).all(axis=1) & (off < _SUM_TOLERANCE) & (labels >= 0) & (labels < classes)
    for row in np.flatnonzero(~fine)[:1]:
        found = f"label {labels[row]} and probabilities {probabilities[row].tolist()}"
        raise EvaluationError(
            f"{predictions.clips[row]}: found {found}, expected a label from 0 to {classes - 1} and a distribution"
        )


def _matrix(counts: Counts) -> Matrix:
    return tuple(map(tuple, counts.tolist()))
