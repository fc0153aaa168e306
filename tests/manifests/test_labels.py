"""Label schemes: published class counts, order of classes, and what is outside."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.labels import (
    LABEL_SCHEMES,
    LabelError,
    LabelScheme,
    adapt_scheme,
    identity_scheme,
    label_scheme,
    label_schemes_for,
    read_label_table,
)

RAVDESS_CLIPS = dict.fromkeys(["calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"], 192) | {
    "neutral": 96
}
CREMA_D_CLIPS = dict.fromkeys(["ANG", "DIS", "FEA", "HAP", "SAD"], 1271) | {"NEU": 1087}
IEMOCAP_TURNS = {"ang": 1103, "hap": 595, "exc": 1041, "sad": 1084, "neu": 1708, "fru": 1849, "xxx": 2507}

each_scheme = pytest.mark.parametrize("scheme", LABEL_SCHEMES.values(), ids=lambda scheme: scheme.name)


def class_counts(name: str, clips: dict[str, int]) -> dict[str, int]:
    """Class name -> clips of it, in class order."""
    scheme = label_scheme(name)
    counts: Counter[int] = Counter()
    for raw, count in clips.items():
        index = scheme.class_index(raw)
        if index is not None:
            counts[index] += count
    return {scheme.classes[index]: counts[index] for index in sorted(counts)}


@pytest.mark.parametrize(
    ("name", "clips", "expected"),
    [
        (
            "ravdess-7",
            RAVDESS_CLIPS,
            {"neutral": 288, "happy": 192, "sad": 192, "angry": 192, "fearful": 192, "disgust": 192, "surprised": 192},
        ),
        (
            "crema-d-6",
            CREMA_D_CLIPS,
            {"angry": 1271, "disgust": 1271, "fearful": 1271, "happy": 1271, "neutral": 1087, "sad": 1271},
        ),
        ("iemocap-4", IEMOCAP_TURNS, {"angry": 1103, "happy": 1636, "sad": 1084, "neutral": 1708}),
    ],
)
def test_published_class_counts_in_class_order(name: str, clips: dict[str, int], expected: dict[str, int]) -> None:
    assert list(class_counts(name, clips).items()) == list(expected.items())


def test_ravdess_8_keeps_calm_in_the_order_of_the_codes() -> None:
    classes = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert label_scheme("ravdess-8").classes == classes
    assert [label_scheme("ravdess-8").class_index(raw) for raw in classes] == list(range(8))


def test_the_default_comes_first() -> None:
    assert label_schemes_for("ravdess") == ("ravdess-7", "ravdess-8")
    assert label_schemes_for("crema-d") == ("crema-d-6",)
    assert label_schemes_for("iemocap") == ("iemocap-4",)
    assert label_schemes_for("demo") == ("demo-4",)
    assert label_schemes_for("folder") == ()


@each_scheme
def test_scheme_name_says_the_number_of_classes(scheme: LabelScheme) -> None:
    assert scheme.name == f"{scheme.dataset}-{len(scheme.classes)}"


@each_scheme
def test_every_class_is_reached(scheme: LabelScheme) -> None:
    assert {scheme.class_index(raw) for raw in scheme.mapping} == set(range(len(scheme.classes)))


@given(raw=st.text(max_size=8))
@each_scheme
def test_a_raw_emotion_has_a_class_only_if_the_scheme_names_it(scheme: LabelScheme, raw: str) -> None:
    assert (scheme.class_index(raw) is None) == (raw not in scheme.mapping)


def test_an_unknown_scheme_lists_the_valid_ones() -> None:
    with pytest.raises(LabelError, match="unknown label scheme 'ravdess-9'; valid are ravdess-7, ravdess-8, crema-d-6"):
        label_scheme("ravdess-9")


@pytest.mark.parametrize("classes", [("joy",), ("joy", "fear", "rage"), ("joy", "fear", "fear"), ()])
def test_classes_and_mapping_must_agree(classes: tuple[str, ...]) -> None:
    with pytest.raises(LabelError, match="label scheme mine: found classes"):
        LabelScheme(name="mine", dataset="folder", classes=classes, mapping={"j": "joy", "f": "fear"})


def test_only_iemocap_leaves_emotions_out_on_purpose() -> None:
    assert {name: scheme.left_out for name, scheme in LABEL_SCHEMES.items() if scheme.left_out} == {
        "iemocap-4": {"fru", "sur", "fea", "dis"}
    }


def test_a_raw_emotion_is_not_mapped_and_left_out() -> None:
    with pytest.raises(LabelError, match=r"label scheme mine: found \['j'\] mapped and left out"):
        LabelScheme(name="mine", dataset="folder", classes=("joy",), mapping={"j": "joy"}, left_out=frozenset("jf"))


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1))
def test_identity_scheme_does_not_depend_on_order_or_repeats(emotions: list[str]) -> None:
    scheme = identity_scheme("folder", emotions)
    assert scheme == identity_scheme("folder", reversed(emotions * 2))
    assert [scheme.class_index(raw) for raw in scheme.classes] == list(range(len(set(emotions))))
    assert set(scheme.classes) == set(emotions)


def test_identity_scheme_of_nothing_is_refused() -> None:
    with pytest.raises(LabelError, match="folder: found no emotions"):
        identity_scheme("folder", [])


def read_table(tmp_path: Path, *lines: str, emotions: tuple[str, ...] = ("joy", "fear", "boredom")) -> LabelScheme:
    table = tmp_path / "map.csv"
    table.write_text("\n".join(lines) + "\n", "utf-8")
    return read_label_table(table, "folder", emotions)


def test_a_table_of_labels(tmp_path: Path) -> None:
    scheme = read_table(tmp_path, "Emotion;Class", "joy;positive", "fear;negative", "boredom;", "rage;negative")
    assert scheme.classes == ("positive", "negative")
    assert [scheme.class_index(emotion) for emotion in ("joy", "fear", "boredom", "rage")] == [0, 1, None, 1]
    assert scheme.left_out == {"boredom"}
    assert re.fullmatch("map-[0-9a-f]{8}", scheme.name)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("emotion,x", "joy,positive"), r":1: found of the columns emotion and class emotion; expected both"),
        (("emotion,class", "joy,a", "joy,b"), r":3: found emotion 'joy' a second time"),
        (("emotion,class", "joy,a"), r"found no line for boredom, fear, expected one for each emotion of folder"),
        (("emotion,class", "joy,", "fear,", "boredom,"), r"found no class, expected at least one emotion with a class"),
    ],
)
def test_tables_of_labels_that_cannot_be_used(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_table(tmp_path, *lines)


def test_a_scheme_fits_a_corpus_that_calls_emotions_alike() -> None:
    scheme = adapt_scheme(label_scheme("crema-d-6"), "mine", ("Anger", "HAP", "Disgusted", "neutral "))
    found = [scheme.classes[scheme.class_index(emotion)] for emotion in ("Anger", "HAP", "Disgusted", "neutral ")]
    assert found == ["angry", "happy", "disgust", "neutral"]
    assert (scheme.dataset, scheme.classes) == ("mine", label_scheme("crema-d-6").classes)
    with pytest.raises(
        LabelError,
        match=r"crema-d-6: has no class for excited, wonder of mine; its classes are angry, .*LABELS=map.csv",
    ):
        adapt_scheme(label_scheme("crema-d-6"), "mine", ("happy", "wonder", "excited"))
