"""Predictions survive their file, count only when whole, and give the scores that the metrics give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.factories import finished_runs
from train import metrics
from train.data.clip_table import ClipMembers, ClipTable
from train.scoring import (
    EvaluationError,
    ExpectedClip,
    Predictions,
    check_complete,
    expected_clips,
    format_predictions,
    parse_predictions,
    pool_folds,
    score_predictions,
)

CLASSES = finished_runs.CLASSES
FOUND = finished_runs.predictions(("S01", "S02", "S03"), skill=0.7)
PRINTABLE = st.characters(codec="utf-8").filter(str.isprintable)


def test_predictions_survive_their_file() -> None:
    data = format_predictions(FOUND, CLASSES)
    again = parse_predictions(data, CLASSES, "predictions.csv")
    assert (again.clips, again.speakers) == (FOUND.clips, FOUND.speakers)
    np.testing.assert_array_equal(again.labels, FOUND.labels)
    np.testing.assert_array_equal(again.probabilities, FOUND.probabilities)
    assert score_predictions(again, CLASSES) == score_predictions(FOUND, CLASSES)
    header, first = data.decode().splitlines()[:2]
    assert header == "clip,speaker,label,predicted,p(happy),p(angry),p(calm),p(sad)"
    assert first.startswith("S01_000,S01,happy,")


@given(
    arrays(np.float32, (4, 3), elements=st.floats(2**-20, 1, width=32)),
    st.lists(st.text(PRINTABLE, min_size=1), min_size=3, max_size=3, unique=True),
)
def test_every_bit_of_a_probability_and_any_class_name_survive(odds: np.ndarray, classes: list[str]) -> None:
    found = Predictions(
        clips=("d", "b", "a", "c"),
        speakers=("1", "2", "1", "3"),
        labels=np.array([0, 1, 2, 0]),
        probabilities=(odds / odds.sum(axis=1, keepdims=True)).astype(np.float32),
    )
    again = parse_predictions(format_predictions(found, classes), classes, "predictions.csv")
    assert again.clips == ("a", "b", "c", "d")
    np.testing.assert_array_equal(again.probabilities, found.probabilities[[2, 1, 3, 0]])
    np.testing.assert_array_equal(again.predicted, found.predicted[[2, 1, 3, 0]])


def test_the_file_does_not_depend_on_the_order_in_which_ranks_answered() -> None:
    order = np.random.default_rng(0).permutation(len(FOUND))
    shuffled = Predictions(
        clips=tuple(FOUND.clips[row] for row in order),
        speakers=tuple(FOUND.speakers[row] for row in order),
        labels=FOUND.labels[order],
        probabilities=FOUND.probabilities[order],
    )
    assert format_predictions(shuffled, CLASSES) == format_predictions(FOUND, CLASSES)


HEADER = "clip,speaker,label,predicted,p(no),p(yes)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found columns none"),
        ("clip,speaker\n", "found columns clip, speaker; expected clip, speaker, label, predicted, p(no), p(yes)"),
        (HEADER + "a,1,no,no,0.7\n", "found row a, 1, no, no, 0.7"),
        (HEADER + "a,1,no,no,0.7,0.3,0\n", "expected 6 values"),
        (HEADER + "\n", "expected 6 values"),
        (HEADER + "a,1,maybe,no,0.7,0.3\n", "a label of no, yes"),
        (HEADER + "a,1,no,yes,0.7,0.3\n", "a: found prediction 'yes', expected 'no', the most probable class"),
        (HEADER + "a,1,no,no,0.7,0.4\n", "a distribution"),
        (HEADER + "a,1,no,no,1.5,-0.5\n", "a distribution"),
        (HEADER + "a,1,no,no,nan,0.3\n", "a distribution"),
        (HEADER + "a,1,no,no,most,0.3\n", "could not convert"),
        (HEADER + "a,1,no,no,0.7,0.3\na,1,no,no,0.7,0.3\n", "found a more than once"),
        (HEADER + "../a,1,no,no,0.7,0.3\n", "found name '../a'"),
        (HEADER + "a,,no,no,0.7,0.3\n", "found name ''"),
        (HEADER + 'a,1,no,no,0.7,"0.3\n', "predictions.csv"),
    ],
)
def test_an_invalid_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        parse_predictions(text.encode(), ("no", "yes"), "predictions.csv")
    assert str(caught.value).startswith("predictions.csv: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"predictions\.csv: .*utf-8"):
        parse_predictions(b"\xff\xfe", CLASSES, "predictions.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": ("S01",)}, "48 clips, 1 speakers, 48 labels"),
        ({"labels": FOUND.labels + 1}, "expected a label from 0 to 3"),
        ({"labels": FOUND.labels - 1}, "expected a label from 0 to 3"),
        ({"probabilities": FOUND.probabilities[:, 0]}, "probabilities (48,)"),
        ({"clips": ("S01_000",) * 48}, "found S01_000 more than once"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        replace(FOUND, **changes)
    assert message in str(caught.value)


def test_a_whole_fold_is_accepted_in_any_order() -> None:
    expected = finished_runs.expected_clips(FOUND)
    check_complete(FOUND, dict(reversed(expected.items())), "fold 1")


def test_missing_extra_and_changed_clips_are_named() -> None:
    expected = finished_runs.expected_clips(FOUND)
    expected["S09_000"] = expected.pop("S01_003")
    expected["S02_016"] = ExpectedClip("S01", expected["S02_016"].label)
    expected["S02_017"] = ExpectedClip("S02", (expected["S02_017"].label + 1) % 4)
    with pytest.raises(EvaluationError) as caught:
        check_complete(FOUND, expected, "test fold 3")
    assert str(caught.value) == (
        "test fold 3: of 48 clips found 1 missing (S09_000), 1 that the fold does not have (S01_003), "
        "2 with another speaker or label (S02_016, S02_017); expected exactly the fold's clips"
    )


def test_a_long_list_is_cut_short() -> None:
    with pytest.raises(EvaluationError, match=r"43 missing \(.*S01_009 and 38 more\)"):
        expected = finished_runs.expected_clips(FOUND)
        few = Predictions(
            clips=FOUND.clips[:5],
            speakers=FOUND.speakers[:5],
            labels=FOUND.labels[:5],
            probabilities=FOUND.probabilities[:5],
        )
        check_complete(few, expected, "test fold 3")


def test_the_expected_clips_are_those_of_the_shards() -> None:
    clips = ClipTable(
        folder=Path("shards"),
        shards=("S01-000.tar", "S02-000.tar"),
        speakers=("S01", "S02"),
        members=ClipMembers(),
        shard=np.array([0, 1, 1], dtype=np.int32),
        keys=np.array([b"a", b"b", b"c"]),
        labels=np.array([2, 0, 1]),
        byte_ranges=np.zeros((3, 0, 2), dtype=np.int64),
        missing=np.zeros(3, dtype=np.int8),
        left_out={},
    )
    expected = {"a": ExpectedClip("S01", 2), "b": ExpectedClip("S02", 0), "c": ExpectedClip("S02", 1)}
    assert expected_clips(clips) == expected
    with pytest.raises(EvaluationError, match="3 clips of 2 ids"):
        expected_clips(replace(clips, keys=np.array([b"a", b"b", b"a"])))


@pytest.mark.parametrize("classes", [(), ("no", "no"), ("no", ""), ("no", "yes\r")])
def test_classes_that_a_file_cannot_tell_apart_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(EvaluationError, match="expected distinct, printable ones"):
        format_predictions(finished_runs.predictions(("S01",), 0.5, classes=2), classes)


def test_scores_are_those_of_the_metrics() -> None:
    scores = score_predictions(FOUND, CLASSES)
    confusion = metrics.confusion_matrix(FOUND.labels, FOUND.predicted, 4)
    assert scores.clips == 48 and scores.classes == CLASSES and scores.speakers == ("S01", "S02", "S03")
    np.testing.assert_array_equal(scores.confusion, confusion)
    assert (scores.uar, scores.war) == (metrics.uar(confusion), metrics.war(confusion))
    assert (scores.macro_f1, scores.weighted_f1) == (metrics.macro_f1(confusion), metrics.weighted_f1(confusion))
    own = np.array(FOUND.speakers) == "S02"
    theirs = metrics.confusion_matrix(FOUND.labels[own], FOUND.predicted[own], 4)
    np.testing.assert_array_equal(scores.confusions["S02"], theirs)
    assert scores.interval == metrics.bootstrap(np.array(list(scores.confusions.values())))


def test_the_interval_is_drawn_once_and_only_where_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    bootstrap = metrics.bootstrap
    monkeypatch.setattr(metrics, "bootstrap", lambda confusions: drawn.append(1) or bootstrap(confusions))
    scores = score_predictions(FOUND, CLASSES)
    assert not drawn
    assert scores.interval is scores.interval and len(drawn) == 1


def test_one_speaker_has_no_interval() -> None:
    assert score_predictions(finished_runs.predictions(("S01",), 0.7), CLASSES).interval is None


def test_folds_put_together_are_all_their_clips() -> None:
    parts = [
        finished_runs.predictions(speakers, 0.7, seed=seed) for seed, speakers in enumerate([("S03",), ("S01", "S02")])
    ]
    together = pool_folds([score_predictions(part, CLASSES) for part in parts])
    everything = Predictions(
        clips=parts[0].clips + parts[1].clips,
        speakers=parts[0].speakers + parts[1].speakers,
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )
    assert together == score_predictions(everything, CLASSES)


def test_nothing_and_another_number_of_classes_have_no_result() -> None:
    nothing = parse_predictions(HEADER.encode(), ("no", "yes"), "predictions.csv")
    with pytest.raises(EvaluationError, match="found 0 predictions of 2 classes"):
        score_predictions(nothing, ("no", "yes"))
    with pytest.raises(EvaluationError, match="48 predictions of 4 classes, expected at least one, of 3"):
        score_predictions(FOUND, CLASSES[:3])
