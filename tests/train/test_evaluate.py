"""Predictions survive their file, count only when whole, and give results that cannot be edited unnoticed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.factories import finished_runs
from train import metrics
from train.data import Clips
from train.evaluate import (
    EvaluationError,
    FoldResult,
    Predictions,
    Truth,
    check_complete,
    dump_predictions,
    parse_predictions,
    pooled,
    promised,
    summarise,
)

CLASSES = finished_runs.CLASSES
FOUND = finished_runs.predictions(("S01", "S02", "S03"), skill=0.7)
PRINTABLE = st.characters(codec="utf-8").filter(str.isprintable)


def test_predictions_survive_their_file() -> None:
    data = dump_predictions(FOUND, CLASSES)
    again = parse_predictions(data, CLASSES, "predictions.csv")
    assert (again.clips, again.speakers) == (FOUND.clips, FOUND.speakers)
    np.testing.assert_array_equal(again.labels, FOUND.labels)
    np.testing.assert_array_equal(again.probabilities, FOUND.probabilities)
    assert summarise(again, CLASSES) == summarise(FOUND, CLASSES)
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
    again = parse_predictions(dump_predictions(found, classes), classes, "predictions.csv")
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
    assert dump_predictions(shuffled, CLASSES) == dump_predictions(FOUND, CLASSES)


HEADER = "clip,speaker,label,predicted,p(no),p(yes)\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found columns nothing"),
        ("clip,speaker\n", "found columns clip, speaker; expected clip, speaker, label, predicted, p(no), p(yes)"),
        (HEADER + "a,1,no,no,0.7\n", "found row a, 1, no, no, 0.7"),
        (HEADER + "a,1,no,no,0.7,0.3,0\n", "expected 6 values"),
        (HEADER + "\n", "expected 6 values"),
        (HEADER + "a,1,maybe,no,0.7,0.3\n", "a label of no, yes"),
        (HEADER + "a,1,no,yes,0.7,0.3\n", "a: found 'yes' predicted, but 'no' is the likeliest"),
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
def test_a_file_with_anything_amiss_is_refused(text: str, message: str) -> None:
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
    promise = finished_runs.promise(FOUND)
    check_complete(FOUND, dict(reversed(promise.items())), "fold 1")


def test_missing_extra_and_changed_clips_are_named() -> None:
    promise = finished_runs.promise(FOUND)
    promise["S09_000"] = promise.pop("S01_003")
    promise["S02_016"] = Truth("S01", promise["S02_016"].label)
    promise["S02_017"] = Truth("S02", (promise["S02_017"].label + 1) % 4)
    with pytest.raises(EvaluationError) as caught:
        check_complete(FOUND, promise, "test fold 3")
    assert str(caught.value) == (
        "test fold 3: of 48 clips found 1 missing (S09_000), 1 that the fold does not have (S01_003), "
        "2 with another speaker or label (S02_016, S02_017); expected just the fold's clips"
    )


def test_a_long_list_is_cut_short() -> None:
    with pytest.raises(EvaluationError, match=r"43 missing \(.*S01_009 and 38 more\)"):
        promise = finished_runs.promise(FOUND)
        few = Predictions(
            clips=FOUND.clips[:5],
            speakers=FOUND.speakers[:5],
            labels=FOUND.labels[:5],
            probabilities=FOUND.probabilities[:5],
        )
        check_complete(few, promise, "test fold 3")


def test_the_promise_is_what_the_shards_hold() -> None:
    clips = Clips(
        folder=Path("shards"),
        shards=("S01-000.tar", "S02-000.tar"),
        speakers=("S01", "S02"),
        members=(),
        shard=np.array([0, 1, 1], dtype=np.int32),
        keys=np.array([b"a", b"b", b"c"]),
        labels=np.array([2, 0, 1]),
        places=np.zeros((3, 0, 2), dtype=np.int64),
        left_out={},
    )
    assert promised(clips) == {"a": Truth("S01", 2), "b": Truth("S02", 0), "c": Truth("S02", 1)}
    with pytest.raises(EvaluationError, match="3 clips of 2 ids"):
        promised(replace(clips, keys=np.array([b"a", b"b", b"a"])))


@pytest.mark.parametrize("classes", [(), ("no", "no"), ("no", ""), ("no", "yes\r")])
def test_classes_that_a_file_cannot_tell_apart_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(EvaluationError, match="expected some, distinct and printable"):
        dump_predictions(finished_runs.predictions(("S01",), 0.5, classes=2), classes)


def test_a_result_says_what_the_metrics_say() -> None:
    result = summarise(FOUND, CLASSES)
    confusion = metrics.confusion_matrix(FOUND.labels, FOUND.predicted, 4)
    assert result.clips == 48 and result.classes == CLASSES
    np.testing.assert_array_equal(result.confusion, confusion)
    assert (result.uar, result.war) == (metrics.uar(confusion), metrics.war(confusion))
    assert (result.macro_f1, result.weighted_f1) == (metrics.macro_f1(confusion), metrics.weighted_f1(confusion))
    own = np.array(FOUND.speakers) == "S02"
    theirs = metrics.confusion_matrix(FOUND.labels[own], FOUND.predicted[own], 4)
    assert result.speakers["S02"].uar == metrics.uar(theirs) and result.speakers["S02"].clips == 16
    assert result.interval == metrics.bootstrap(np.array([s.confusion for s in result.speakers.values()]))


def test_one_speaker_has_no_interval() -> None:
    result = summarise(finished_runs.predictions(("S01",), 0.7), CLASSES)
    assert result.interval is None
    assert FoldResult.from_json(json.loads(json.dumps(asdict(result))), "result.json") == result


def test_folds_put_together_are_all_their_clips() -> None:
    parts = [
        finished_runs.predictions(speakers, 0.7, seed=seed) for seed, speakers in enumerate([("S03",), ("S01", "S02")])
    ]
    together = pooled([summarise(part, CLASSES) for part in parts])
    everything = Predictions(
        clips=parts[0].clips + parts[1].clips,
        speakers=parts[0].speakers + parts[1].speakers,
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )
    assert together == summarise(everything, CLASSES)


def test_nothing_and_another_number_of_classes_have_no_result() -> None:
    nothing = parse_predictions(HEADER.encode(), ("no", "yes"), "predictions.csv")
    with pytest.raises(EvaluationError, match="found 0 of 2 classes"):
        summarise(nothing, ("no", "yes"))
    with pytest.raises(EvaluationError, match="48 of 4 classes, expected some, of 3"):
        summarise(FOUND, CLASSES[:3])


def test_a_result_survives_json() -> None:
    result = summarise(FOUND, CLASSES)
    assert FoldResult.from_json(json.loads(json.dumps(asdict(result))), "result.json") == result


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("uar",), 0.99),
        (("macro_f1",), 0.99),
        (("clips",), 49),
        (("confusion", 0, 0), 40),
        (("speakers", "S01", "war"), 0.99),
        (("speakers", "S01", "clips"), 2),
        (("speakers", "S01", "confusion", 1, 1), -1),
        (("speakers", "S01", "confusion", 1), [1, 2]),
        (("speakers",), {}),
        (("classes",), ["a", "b"]),
        (("uar",), "high"),
        (("war",), None),
        (("interval", "draws"), 2.5),
    ],
)
def test_an_edited_result_is_refused(place: tuple[str | int, ...], value: object) -> None:
    edited = json.loads(json.dumps(asdict(summarise(FOUND, CLASSES))))
    *path, last = place
    target = edited
    for key in path:
        target = target[key]
    target[last] = value
    with pytest.raises(EvaluationError, match=r"^result\.json"):
        FoldResult.from_json(edited, "result.json")
