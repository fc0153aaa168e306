"""Scores: they are scikit-learn's, and the bootstrap is what drawing speakers one by one gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from train import metrics
from train.metrics import MetricError

CLASSES = 5
FusionInput = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@st.composite
def judged(draw: st.DrawFn) -> FusionInput:
    """Labels and predictions of a few clips; often with classes that have no clip, or are never predicted."""
    pair = st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1))
    drawn = np.array(draw(st.lists(pair, min_size=1, max_size=40)), dtype=np.int64)
    return drawn[:, 0], drawn[:, 1]


@given(judged())
def test_scores_are_those_of_scikit_learn(pairs: FusionInput) -> None:
    labels, predicted = pairs
    confusion = metrics.confusion_matrix(labels, predicted, CLASSES)
    present = np.unique(labels)
    options = {"zero_division": 0.0}

    expected = reference.confusion_matrix(labels, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(confusion, expected)
    recall = reference.recall_score(labels, predicted, labels=present, average="macro", **options)
    assert metrics.uar(confusion) == pytest.approx(recall)
    assert metrics.war(confusion) == pytest.approx(reference.accuracy_score(labels, predicted))
    macro = reference.f1_score(labels, predicted, average="macro", **options)
    assert metrics.macro_f1(confusion) == pytest.approx(macro)
    weighted = reference.f1_score(labels, predicted, average="weighted", **options)
    assert metrics.weighted_f1(confusion) == pytest.approx(weighted)
    each = reference.recall_score(labels, predicted, labels=present, average=None, **options)
    np.testing.assert_allclose(metrics.recalls(confusion)[present], each)


@given(judged())
def test_a_class_without_a_clip_has_no_recall_and_does_not_count(pairs: FusionInput) -> None:
    labels, predicted = pairs
    wider = metrics.confusion_matrix(labels, predicted, CLASSES + 2)
    confusion = metrics.confusion_matrix(labels, predicted, CLASSES)
    absent = np.setdiff1d(np.arange(CLASSES + 2), labels)
    assert np.isnan(metrics.recalls(wider)[absent]).all()
    for score in (metrics.uar, metrics.war, metrics.macro_f1, metrics.weighted_f1):
        assert score(wider) == pytest.approx(score(confusion))


def test_absent_classes_by_hand() -> None:
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]])
    assert metrics.uar(confusion) == pytest.approx((3 / 4 + 1) / 2)
    assert metrics.war(confusion) == pytest.approx(5 / 6)
    # Class 1 has no clip but was predicted once: its F1 is 0, and counts.
    assert metrics.macro_f1(confusion) == pytest.approx((6 / 7 + 0 + 1) / 3)
    assert metrics.chance(confusion) == (pytest.approx(1 / 2), pytest.approx(4 / 6))


@given(judged(), st.permutations(range(CLASSES)))
def test_scores_depend_on_no_order_of_clips_or_classes(pairs: FusionInput, order: list[int]) -> None:
    labels, predicted = pairs
    renamed = np.array(order)
    confusion = metrics.confusion_matrix(labels, predicted, CLASSES)
    turned = metrics.confusion_matrix(renamed[labels[::-1]], renamed[predicted[::-1]], CLASSES)
    for score in (metrics.uar, metrics.war, metrics.macro_f1, metrics.weighted_f1):
        assert score(turned) == pytest.approx(score(confusion))
        assert 0 <= score(confusion) <= 1
    assert metrics.uar(metrics.confusion_matrix(labels, labels, CLASSES)) == 1


@given(judged(), st.lists(st.sampled_from("abc"), min_size=40, max_size=40))
def test_speakers_add_up_and_are_scored_like_anything_else(pairs: FusionInput, drawn: list[str]) -> None:
    labels, predicted = pairs
    speakers = drawn[: len(labels)]
    names, confusions = metrics.speaker_confusions(speakers, labels, predicted, CLASSES)
    assert names == tuple(sorted(set(speakers)))
    np.testing.assert_array_equal(confusions.sum(axis=0), metrics.confusion_matrix(labels, predicted, CLASSES))
    for name, confusion, uar, war in zip(
        names, confusions, metrics.uar(confusions), metrics.war(confusions), strict=True
    ):
        own = np.array(speakers) == name
        np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels[own], predicted[own], CLASSES))
        assert (uar, war) == (metrics.uar(confusion), metrics.war(confusion))


def speakers_of_different_skill(count: int = 12) -> metrics.Counts:
    """[count, 3, 3], with unequal classes and a class that some speakers lack."""
    generator = np.random.default_rng(5)
    confusions = (
        generator.integers(1, 9, size=(count, 3, 3)) + np.eye(3, dtype=np.int64) * np.arange(count)[:, None, None]
    )
    confusions[::4, 2] = 0
    return confusions


def test_the_bootstrap_draws_speakers_with_all_their_clips() -> None:
    confusions = speakers_of_different_skill()
    generator = np.random.default_rng(11)
    drawn = [confusions[generator.integers(0, 12, size=12)].sum(axis=0) for _ in range(4000)]
    found = metrics.bootstrap(confusions, draws=4000)
    for score in ("uar", "war"):
        one_by_one = np.quantile([getattr(metrics, score)(confusion) for confusion in drawn], [0.025, 0.975])
        np.testing.assert_allclose(getattr(found, score), one_by_one, atol=0.01)
        assert getattr(found, score)[0] < getattr(metrics, score)(confusions.sum(axis=0)) < getattr(found, score)[1]


def test_the_bootstrap_is_seeded_and_widens_with_the_level() -> None:
    confusions = speakers_of_different_skill()
    found = metrics.bootstrap(confusions)
    assert found == metrics.bootstrap(confusions) and (found.draws, found.level) == (2000, 0.95)
    assert found != metrics.bootstrap(confusions, seed=1)
    half = metrics.bootstrap(confusions, level=0.5)
    assert found.uar[0] < half.uar[0] < half.uar[1] < found.uar[1]


def test_speakers_who_are_all_alike_leave_no_doubt() -> None:
    alike = np.repeat(speakers_of_different_skill()[1:2], 6, axis=0)
    found = metrics.bootstrap(alike)
    assert found.uar == pytest.approx((metrics.uar(alike[0]),) * 2)
    assert found.war == pytest.approx((metrics.war(alike[0]),) * 2)


def test_spread_is_the_sample_deviation_and_unknown_for_one_fold() -> None:
    found = metrics.mean_std([0.5, 0.7, 0.9])
    assert (found.mean, found.std) == (pytest.approx(0.7), pytest.approx(0.2))
    assert metrics.mean_std([0.5]) == metrics.MeanStd(mean=0.5, std=None)


@pytest.mark.parametrize(
    ("labels", "predicted", "speakers", "message"),
    [
        ([0, 3], [0, 1], "ab", "found a label from 0 to 3, expected 0 to 2"),
        ([0, 1], [-1, 1], "ab", "found a prediction from -1 to 1, expected 0 to 2"),
        ([0, 1], [1], "ab", "found labels (2,) and predictions (1,)"),
        ([0, 1], [1, 0], "a", "found 1 speakers and 2 labels"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    labels: list[int], predicted: list[int], speakers: str, message: str
) -> None:
    with pytest.raises(MetricError) as caught:
        metrics.speaker_confusions(speakers, np.array(labels), np.array(predicted), 3)
    assert message in str(caught.value)


def test_what_has_no_score_is_refused() -> None:
    nothing = np.zeros((3, 3), dtype=np.int64)
    for score in (metrics.uar, metrics.war, metrics.macro_f1, metrics.weighted_f1, metrics.chance):
        with pytest.raises(MetricError, match="without a clip"):
            score(nothing)
    with pytest.raises(MetricError, match="found 1 speakers"):
        metrics.bootstrap(np.ones((1, 3, 3), dtype=np.int64))
    with pytest.raises(MetricError, match="without a clip"):
        metrics.bootstrap(np.stack([nothing, nothing + 1]))
    with pytest.raises(MetricError, match="no score"):
        metrics.mean_std([])


def test_a_margin_is_narrow_where_speakers_are_easy_or_hard_for_all() -> None:
    """What makes a speaker easy or hard for every classifier makes single intervals wide, and the margin no wider."""
    generator = np.random.default_rng(3)
    easy = generator.uniform(0.2, 0.9, size=12)
    first, second = (
        np.array([[[round(40 * (share + more)), 40 - round(40 * (share + more))]] * 2 for share in easy])
        for more in (0.1, 0.0)
    )
    for confusions in (first, second):
        confusions[:, 1] = confusions[:, 1, ::-1]
    margin, alone = metrics.simultaneous_margin([first, second]), metrics.bootstrap(first)
    assert margin.uar < 0.02
    assert alone.uar[1] - alone.uar[0] > 3 * 2 * margin.uar
    assert metrics.simultaneous_margin([first, first]).war == 0.0
    assert metrics.simultaneous_margin([3 * first, second]).uar == margin.uar  # three seeds of one
    with pytest.raises(MetricError, match="expected the same speakers"):
        metrics.simultaneous_margin([first, second[:5]])
    with pytest.raises(MetricError, match="found 1 speakers"):
        metrics.simultaneous_margin([first[:1], second[:1]])


def test_equal_classifiers_seldom_differ_by_more_than_the_margin() -> None:
    """Of 60 tables of eight equally good classifiers, tested on 10 speakers, about 3 should have a difference."""
    generator, found = np.random.default_rng(0), 0
    for _ in range(60):
        speakers, tested = generator.normal(0, 0.5, 10), []
        for _ in range(8):
            skill = 1 / (1 + np.exp(-(1.1 + speakers + generator.normal(0, 0.25, 10))))
            hits = generator.binomial(10, skill[:, None], size=(10, 4))
            tested.append(
                hits[:, :, None] * np.eye(4, dtype=np.int64) + (10 - hits)[:, :, None] * np.eye(4, k=1, dtype=np.int64)
            )
            tested[-1][:, 3, 0] = 10 - hits[:, 3]
        scores = [float(metrics.uar(one.sum(axis=0))) for one in tested]
        found += max(scores) - min(scores) > metrics.simultaneous_margin(tested, draws=400).uar
    assert found <= 9  # 1 in 1,000 by chance, where 45 of 60 tables had one with a pair's own intervals
