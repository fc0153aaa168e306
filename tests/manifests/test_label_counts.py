"""Clips and speakers of classes, and labels that a person should look at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.label_counts import (
    ClassCount,
    count_classes,
    count_labels,
    describe_classes,
    describe_sides,
    label_warnings,
)
from manifests.labels import label_scheme
from tests.manifests.test_labels import CREMA_D_CLIPS, IEMOCAP_TURNS, RAVDESS_CLIPS

EXCITED = {"hap": {"A": 2, "B": 1}, "exc": {"B": 4}, "sad": {"A": 1}, "fru": {"C": 9}, "???": {"C": 1}}


def test_labels_are_counted_by_emotion_and_speaker() -> None:
    clips = [("joy", "A"), ("joy", "B"), ("joy", "A"), ("fear", "A")]
    assert count_labels(clips) == {"joy": {"A": 2, "B": 1}, "fear": {"A": 1}}
    assert count_labels([]) == {}


def test_clips_without_a_label_are_no_class() -> None:
    counts = count_labels([("joy", "A"), (None, "A"), (None, "B")])
    assert counts == {"joy": {"A": 1}, "": {"A": 1, "B": 1}}
    assert [each.name for each in count_classes(counts)] == ["joy"]
    assert [line.split() for line in describe_classes(counts)[1:]] == [["joy", "1", "1"], ["(no", "label)", "2", "2"]]
    scheme = label_scheme("demo-4")
    assert [line.split() for line in describe_classes(counts, scheme)[-2:]] == [
        ["(left", "out)", "1", "1"],
        ["(no", "label)", "2", "2"],
    ]
    assert not any("''" in line for line in (*label_warnings(counts), *label_warnings(counts, scheme)))
    assert len(describe_classes(count_labels([(None, "A")]), scheme)) == 1


def test_classes_without_a_scheme_are_the_emotions() -> None:
    assert count_classes({"joy": {"A": 2, "B": 1}, "fear": {"A": 1, "B": 0}}) == [
        ClassCount(name="fear", clips=1, speakers=1),
        ClassCount(name="joy", clips=3, speakers=2),
    ]


def test_classes_of_a_scheme_are_in_its_order_also_those_without_a_clip() -> None:
    found = count_classes(EXCITED, label_scheme("iemocap-4"))
    assert [(each.name, each.clips, each.speakers) for each in found] == [
        ("angry", 0, 0),
        ("happy", 7, 2),
        ("sad", 1, 1),
        ("neutral", 0, 0),
    ]


def test_classes_are_a_table() -> None:
    assert describe_classes(EXCITED, label_scheme("iemocap-4")) == [
        "classes of iemocap-4  clips  speakers",
        "  angry                   0         0",
        "  happy                   7         2",
        "  sad                     1         1",
        "  neutral                 0         0",
        "  (left out)             10         1",
    ]
    assert describe_classes({"joy": {"A": 1000}, "fear": {"A": 1}, "sad": {"B": 1}}, most=2) == [
        "classes  clips  speakers",
        "  fear       1         1",
        "  joy     1000         1",
        "  ... and 1 more",
    ]


def test_classes_of_a_fold_are_a_table() -> None:
    clips = {"train": {"hap": 10, "exc": 5, "sad": 3, "fru": 8}, "validation": {"ang": 1}, "test": {"hap": 2, "neu": 1}}
    assert describe_sides(clips, label_scheme("iemocap-4")) == [
        "classes of iemocap-4  train  validation  test",
        "  angry                   0           1     0",
        "  happy                  15           0     2",
        "  sad                     3           0     0",
        "  neutral                 0           0     1",
        "no training clip of 'angry', 'neutral': a classifier cannot learn what it never sees",
        "no validation clip of 'happy', 'sad', 'neutral': the epoch is selected by the other classes; FIXED_EPOCHS=1 "
        "selects none",
        "no test clip of 'angry', 'sad': UAR is the mean over the other classes",
    ]


def test_an_emotion_that_a_scheme_does_not_know_is_named() -> None:
    assert label_warnings(EXCITED, label_scheme("iemocap-4")) == [
        "label scheme iemocap-4 has no class for '???'; their clips are not used",
        "only one speaker, so that a class cannot be both trained on and tested: 'sad'",
    ]


def two_speakers(*emotions: str) -> dict[str, dict[str, int]]:
    return {emotion: {"A": 1, "B": 1} for emotion in emotions}


@pytest.mark.parametrize(
    "emotions",
    [
        ("Happy", "happy"),
        ("very happy", "very_happy"),
        ("fröhlich", "frohlich"),
        ("happy", "happyy"),
        ("happy", "hapy"),
        ("neutral", "netural"),
        ("surprise", "surprised"),
        ("disgust", "disguts"),
        ("sad", "sadd"),
        ("fröhlich", "Froehlich"),
    ],
)
def test_two_spellings_of_an_emotion_are_reported(emotions: tuple[str, str]) -> None:
    (line,) = label_warnings(two_speakers(*emotions))
    assert all(repr(emotion) in line for emotion in emotions)
    assert "they are different classes; give them one spelling" in line


@pytest.mark.parametrize(
    "emotions",
    [
        *(tuple(emotions) for emotions in (RAVDESS_CLIPS, CREMA_D_CLIPS, IEMOCAP_TURNS)),
        ("happy", "unhappy"),
        ("satisfied", "dissatisfied"),
        ("class 1", "class 2", "class 10"),
        ("valence+", "valence-"),
        ("positive", "negative", "neutral"),
        ("high arousal", "low arousal"),
        ("sad", "mad", "glad"),
        ("Freude", "Trauer", "Wut", "Angst", "Ekel", "Überraschung", "neutral"),
        ("喜", "怒", "哀"),
        ("1", "2", "3"),
    ],
)
def test_different_emotions_are_not_reported(emotions: tuple[str, ...]) -> None:
    assert label_warnings(two_speakers(*emotions)) == []


def test_three_spellings_are_one_group_and_one_pair() -> None:
    assert label_warnings(two_speakers("Happy", "happy", "happyy")) == [
        "emotions 'Happy' and 'happy' differ only in case, spaces or accents: they are different classes; "
        "give them one spelling",
        "emotions 'Happy' and 'happyy' look alike: they are different classes; give them one spelling if they are one",
    ]


def test_classes_of_one_speaker_are_reported_in_one_line() -> None:
    counts = {"joy": {"A": 3, "B": 1}, "fear": {"A": 9}, "calm": {"B": 1, "A": 0}}
    assert label_warnings(counts) == [
        "only one speaker, so that a class cannot be both trained on and tested: 'calm', 'fear'"
    ]


@pytest.mark.timeout(30)
def test_a_column_that_is_no_emotion_is_reported_soon() -> None:
    lines = label_warnings(
        two_speakers(*(f"sentence {i} of {'many words ' * 20}{chr(0x4E00 + i)}" for i in range(5000)))
    )
    assert lines == ["found 5000 different emotions, each of which is a class; is it the right column?"]


@given(st.dictionaries(st.text(min_size=1), st.dictionaries(st.text(), st.integers(0, 9)), max_size=8))
def test_any_labels_are_described_in_lines_that_can_be_printed(counts: dict[str, dict[str, int]]) -> None:
    lines = [*describe_classes(counts), *label_warnings(counts)]
    assert len(describe_classes(counts)) == len(counts) + 1
    assert all(line.isprintable() for line in lines)
