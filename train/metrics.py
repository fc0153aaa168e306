"""Recall, F1 and their confidence intervals, from counts. Pure.

Shapes: n clips, C classes, S speakers. A confusion matrix [C, C] counts clips, a row for each true class and a column
for each predicted one; `...` is any number of such matrices. All scores are fractions, 0 to 1.

A class without a clip has no recall, so UAR is the mean over the classes that occur: a fold without `disgust` is
scored on the rest. That is scikit-learn's balanced accuracy. F1 is averaged over the classes that occur as label or as
prediction, because predicting an absent class is a mistake; that is scikit-learn's default too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DRAWS = 2000
LEVEL = 0.95
#: With fewer speakers a nominal 95 % interval covers clearly less: 48 % with two, 83 % with four (by simulation).
MIN_SPEAKERS = 8


class MetricError(UserError):
    """Counts that no score can be computed from: what was found and what was expected."""


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """Mean and sample standard deviation (n - 1) over folds."""

    mean: float
    std: float | None
    """None for a single fold, which has no spread."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Percentile bootstrap intervals, (low, high)."""

    level: float
    """Share of the draws inside."""
    draws: int
    uar: tuple[float, float]
    war: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Margin:
    """What differences of scores between several classifiers must exceed."""

    level: float
    """Probability that none of them does by chance."""
    uar: float
    war: float


def confusion_matrix(labels: Counts, predicted: Counts, classes: int) -> Counts:
    """[n] true and [n] predicted class indices -> [C, C]. Raises MetricError for indices outside 0..C-1."""
    _check_indices(labels, predicted, classes)
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def speaker_confusions(
    speakers: Sequence[str], labels: Counts, predicted: Counts, classes: int
) -> tuple[tuple[str, ...], Counts]:
    """[n] speakers, labels, predictions -> the S speakers, sorted, and their confusion matrices [S, C, C]."""
    _check_indices(labels, predicted, classes)
    if len(speakers) != len(labels):
        raise MetricError(f"found {len(speakers)} speakers and {len(labels)} labels, expected equal numbers")
    names, place = np.unique(np.array(speakers, dtype=np.str_), return_inverse=True)
    cells = (place * classes + labels) * classes + predicted
    counts = np.bincount(cells, minlength=len(names) * classes**2)
    return tuple(names.tolist()), counts.reshape(len(names), classes, classes)


def recalls(confusion: Counts | Floats) -> Floats:
    """Recall of each class: [..., C, C] -> [..., C], NaN for a class without a clip."""
    return _ratio(_hits(confusion), confusion.sum(axis=-1))


def uar(confusion: Counts | Floats) -> Floats:
    """Unweighted average recall, the mean recall of the classes that occur: [..., C, C] -> [...].

    Raises MetricError for a matrix without a clip.
    """
    _check_some(confusion)
    return np.nanmean(recalls(confusion), axis=-1)


def war(confusion: Counts | Floats) -> Floats:
    """Weighted average recall, each class weighted by its clips, which is accuracy: [..., C, C] -> [...].

    Raises MetricError for a matrix without a clip.
    """
    _check_some(confusion)
    return _hits(confusion).sum(axis=-1) / confusion.sum(axis=(-2, -1))


def f1(confusion: Counts | Floats) -> Floats:
    """F1 of each class, 2 TP / (2 TP + FP + FN): [..., C, C] -> [..., C], NaN for a class that does not occur."""
    return _ratio(2 * _hits(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def macro_f1(confusion: Counts | Floats) -> Floats:
    """Mean F1 of the classes that occur as label or prediction: [..., C, C] -> [...]. Raises MetricError as `uar`."""
    _check_some(confusion)
    return np.nanmean(f1(confusion), axis=-1)


def weighted_f1(confusion: Counts | Floats) -> Floats:
    """Mean F1 of the classes, each weighted by its clips: [..., C, C] -> [...]. Raises MetricError as `uar`."""
    _check_some(confusion)
    weights = confusion.sum(axis=-1)
    return (np.nan_to_num(f1(confusion)) * weights).sum(axis=-1) / weights.sum(axis=-1)


def chance(confusion: Counts | Floats) -> tuple[float, float]:
    """Best (UAR, WAR) to expect without looking at a clip: 1 / classes that occur, and the largest class's share."""
    _check_some(confusion)
    clips = confusion.sum(axis=-1)
    return float(1 / np.count_nonzero(clips)), float(clips.max() / clips.sum())


def bootstrap(confusions: Counts, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> Interval:
    """Intervals of UAR and WAR over the choice of speakers, from the speakers' confusion matrices [S, C, C].

    Clips of one speaker are correlated, so each draw takes S speakers with replacement, and all the clips of each. The
    count of each speaker is multinomial, so all draws are one product of matrices. With fewer than
    `MIN_SPEAKERS` the interval is too narrow. Raises MetricError for fewer than two speakers, or one without a clip.
    """
    speakers = len(confusions)
    if speakers < 2:
        raise MetricError(f"found {speakers} speakers to draw from, expected at least 2")
    _check_some(confusions)
    drawn = np.tensordot(_draw_speakers(speakers, draws, seed), confusions.astype(np.float64), axes=1)
    return Interval(level=level, draws=draws, uar=_middle(uar(drawn), level), war=_middle(war(drawn), level))


def simultaneous_margin(
    confusions: Sequence[Counts], *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Margin:
    """How far the best of equally good classifiers may be from the worst by the choice of speakers alone.

    Args:
        confusions: of each classifier the confusion matrices of the same speakers, [S, C, C].
        draws: how many resamples of the speakers, the same ones for every classifier.
        level: share of the draws in which no two classifiers differ by more.
        seed: of the draws.

    Each score of a draw is centred at the classifier's own score of all speakers; the margin is the quantile of the
    range over the classifiers. A difference beyond it is one that chance rarely makes between any two of them, so that
    the best may be compared with each other one. Raises MetricError for other speakers, and what `bootstrap` does.
    """
    if len({one.shape for one in confusions}) != 1:
        raise MetricError(f"found confusion matrices {[one.shape for one in confusions]}, expected the same speakers")
    speakers = len(confusions[0])
    if speakers < 2:
        raise MetricError(f"found {speakers} speakers to draw from, expected at least 2")
    times = _draw_speakers(speakers, draws, seed)
    margins = {}
    for name, score in (("uar", uar), ("war", war)):
        centred = [
            score(np.tensordot(times, one.astype(np.float64), axes=1)) - score(one.sum(axis=0)) for one in confusions
        ]
        margins[name] = float(np.quantile(np.ptp(np.array(centred), axis=0), level))
    return Margin(level=level, **margins)


def _draw_speakers(speakers: int, draws: int, seed: int) -> Floats:
    """[draws, S] how often each speaker is in a draw of as many, with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(speakers, np.full(speakers, 1 / speakers), size=draws).astype(np.float64)


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation of a score over folds or seeds. Raises MetricError without a value."""
    if not values:
        raise MetricError("found no score, expected at least one")
    return MeanStd(mean=float(np.mean(values)), std=float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _hits(confusion: Counts | Floats) -> Counts | Floats:
    """[..., C, C] -> [..., C]."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(part: Counts | Floats, whole: Counts | Floats) -> Floats:
    """Elementwise quotient, NaN where the divisor is 0."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _middle(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_some(confusion: Counts | Floats) -> None:
    if confusion.size == 0 or not confusion.sum(axis=(-2, -1)).all():
        raise MetricError(f"found a confusion matrix without a clip in {confusion.shape}, expected at least one clip")


def _check_indices(labels: Counts, predicted: Counts, classes: int) -> None:
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise MetricError(f"found labels {labels.shape} and predictions {predicted.shape}, expected (n,) of both")
    for what, values in (("label", labels), ("prediction", predicted)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise MetricError(f"found a {what} from {values.min()} to {values.max()}, expected 0 to {classes - 1}")
