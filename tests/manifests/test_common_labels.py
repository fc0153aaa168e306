"""Classes that several corpora have in common, whatever each calls them, and what is left out of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import labels
from manifests.common_labels import CorpusEmotions, common_schemes
from manifests.corpora import CORPORA
from manifests.labels import LabelError, read_label_table

LABELLED = [name for name, facts in CORPORA.items() if facts.label_schemes]


def corpus(dataset: str, *emotions: str) -> CorpusEmotions:
    """A corpus with clips of some emotions, or of all that its schemes know."""
    schemes = labels.label_schemes_for(dataset)
    known = labels.label_scheme(schemes[0]) if schemes else None
    every = sorted(known.mapping.keys() | known.left_out) if known and not emotions else emotions
    return CorpusEmotions(dataset=dataset, label_schemes=schemes, emotions=every)


@pytest.mark.parametrize(
    ("datasets", "classes", "left_out"),
    [
        (
            ("crema-d", "ravdess"),
            ("angry", "disgust", "fearful", "happy", "neutral", "sad"),
            {"ravdess": {"surprised"}},
        ),
        (
            ("iemocap", "mead"),
            ("angry", "happy", "sad", "neutral"),
            {"iemocap": {"fru", "sur", "fea", "dis"}, "mead": {"contempt", "disgusted", "fear", "surprised"}},
        ),
        (
            ("crema-d", "demo", "iemocap"),
            ("angry", "happy", "sad"),
            {"crema-d": {"DIS", "FEA", "NEU"}, "demo": {"calm"}, "iemocap": {"fru", "sur", "fea", "dis", "neu"}},
        ),
    ],
)
def test_the_classes_of_known_corpora(datasets: tuple[str, ...], classes: tuple[str, ...], left_out: dict) -> None:
    schemes = common_schemes([corpus(dataset) for dataset in datasets])
    for dataset, scheme in schemes.items():
        assert (scheme.name, scheme.dataset, scheme.classes) == ("common", dataset, classes)
        assert scheme.left_out == left_out.get(dataset, set())
    assert schemes[datasets[0]].mapping


def test_calm_is_neutral_as_in_the_default_scheme_of_ravdess() -> None:
    assert common_schemes([corpus("crema-d"), corpus("ravdess")])["ravdess"].mapping["calm"] == "neutral"


@given(
    data=st.data(),
    datasets=st.lists(st.sampled_from([*LABELLED, "interviews", "clips"]), min_size=2, max_size=4, unique=True),
)
def test_every_class_has_clips_in_every_corpus_and_every_emotion_is_said(data: st.DataObject, datasets: list) -> None:
    corpora = []
    for dataset in datasets:
        known = corpus(dataset, *(("Joy", "ANGER", "sad", "bored", "Neutral") if dataset not in LABELLED else ()))
        chosen = data.draw(st.lists(st.sampled_from(sorted(known.emotions)), min_size=1, unique=True))
        corpora.append(CorpusEmotions(dataset=dataset, label_schemes=known.label_schemes, emotions=chosen))
    try:
        schemes = common_schemes(corpora)
    except LabelError as error:
        assert "expected at least 2 classes" in str(error)
        return
    (classes,) = {scheme.classes for scheme in schemes.values()}
    for each in corpora:
        scheme = schemes[each.dataset]
        assert {scheme.mapping[emotion] for emotion in each.emotions if emotion in scheme.mapping} == {*classes}
        assert {*each.emotions} <= scheme.mapping.keys() | scheme.left_out
        assert scheme.left_out.isdisjoint(scheme.mapping)


def test_common_spellings_of_ones_own_corpora() -> None:
    schemes = common_schemes([corpus("interviews", "Joy", "anger", "bored"), corpus("clips", "happiness", "ANG", "x")])
    assert schemes["interviews"].mapping == {"Joy": "happy", "anger": "angry"}
    assert schemes["interviews"].left_out == {"bored"}
    assert schemes["clips"].mapping == {"happiness": "happy", "ANG": "angry"}
    assert schemes["interviews"].classes == schemes["clips"].classes == ("angry", "happy")


def test_a_class_without_clips_in_one_corpus_is_left_out() -> None:
    schemes = common_schemes([corpus("crema-d", "ANG", "HAP"), corpus("ravdess")])
    assert schemes["ravdess"].classes == ("angry", "happy")
    assert "sad" in schemes["ravdess"].left_out


def test_a_named_scheme_chooses_among_the_classes() -> None:
    schemes = common_schemes([corpus("crema-d"), corpus("ravdess"), corpus("own", "joy", "anger", "odd")], "iemocap-4")
    assert {scheme.classes for scheme in schemes.values()} == {("angry", "happy")}
    assert {scheme.name for scheme in schemes.values()} == {"iemocap-4"}
    assert schemes["own"].mapping == {"joy": "happy", "anger": "angry"}
    assert schemes["own"].left_out == {"odd"}
    eight = common_schemes([corpus("crema-d"), corpus("ravdess")], "ravdess-8")
    assert "calm" in eight["ravdess"].left_out  # which only one of them has
    assert "neutral" in eight["crema-d"].classes
    with pytest.raises(LabelError, match="unknown label scheme 'x'; valid are ravdess-7"):
        common_schemes([corpus("crema-d"), corpus("ravdess")], "x")
    with pytest.raises(LabelError, match="iemocap-4: has no class for odd of own; its classes are angry, happy"):
        common_schemes([corpus("crema-d"), corpus("own", "odd")], "iemocap-4")


def test_a_table_for_all_and_for_single_corpora(tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text("dataset,emotion,class\n,joy,up\n,fear,down\nclips,bored,down\nclips,fear,\ninterviews,calm,up\n")
    schemes = common_schemes(
        [corpus("interviews", "joy", "fear", "calm"), corpus("clips", "joy", "fear", "bored")], str(table)
    )
    assert schemes["interviews"].mapping == {"joy": "up", "fear": "down", "calm": "up"}
    assert schemes["clips"].mapping == {"joy": "up", "bored": "down"}
    assert schemes["clips"].left_out == {"fear"}
    assert schemes["clips"].name == schemes["interviews"].name != "common"
    with pytest.raises(LabelError, match="found no line for bored, expected one for each emotion of interviews"):
        read_label_table(table, "interviews", ["joy", "bored"])
    table.write_text("corpus,emotion,class\nclips,joy,up\nclips,joy,down\n")
    with pytest.raises(LabelError, match=r"map.csv:3: found emotion 'joy' a second time"):
        read_label_table(table, "clips", ["joy"])


def test_what_cannot_be_combined_is_said() -> None:
    with pytest.raises(LabelError) as caught:
        common_schemes([corpus("interviews", "joy", "bored"), corpus("clips", "happy", "tired")])
    assert str(caught.value) == (
        "found happy that all corpora have, expected at least 2 classes: interviews has bored, happy; clips has happy, "
        "tired; say which class each emotion is in a table: LABELS=map.csv with the columns dataset, emotion and class"
    )
    with pytest.raises(
        LabelError, match=r"scheme common: found 'odd' in crema-d, expected only ANG, DIS, .*in a table"
    ):
        common_schemes([corpus("crema-d", "ANG", "HAP", "odd"), corpus("ravdess")])
    with pytest.raises(LabelError, match="clips: found no labels, but some of the other corpora; leave"):
        common_schemes(
            [corpus("interviews", "joy", "bored"), CorpusEmotions(dataset="clips", label_schemes=(), emotions=())]
        )


def test_without_labels_every_clip_is_used() -> None:
    """As pre-training does."""
    for corpora, name in (
        ([corpus("crema-d"), corpus("ravdess")], "none"),
        ([CorpusEmotions(dataset=each, label_schemes=(), emotions=()) for each in ("voxceleb2", "talks")], None),
    ):
        schemes = common_schemes(corpora, name)
        assert [*schemes] == [each.dataset for each in corpora]
        assert {scheme.classes for scheme in schemes.values()} == {()}
