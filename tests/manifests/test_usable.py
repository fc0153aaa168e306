"""Which folds can be used with what was built, and what is said of the others."""

from __future__ import annotations

import pytest

from manifests.folds import FoldFile, assign, load_scheme
from manifests.usable import advise_folds, describe_unusable, describe_usable, usable_folds

SCHEME = load_scheme("ravdess-6fold")


def built(*actors: str, emotion: str = "happy") -> FoldFile:
    """RAVDESS with a clip of some of its actors."""
    rows = [{"speaker": actor, "emotion": emotion} for actor in actors]
    return assign(SCHEME, {f"{actor}-000.tar": actor for actor in actors}, rows)


def test_a_complete_corpus_has_all_folds() -> None:
    file = built(*SCHEME.speakers)
    assert usable_folds(file) == tuple(SCHEME.folds)
    assert describe_usable(file) == "ravdess-6fold"
    assert describe_unusable(file, "1") == ""


def test_of_a_part_some_folds_can_be_used_and_the_others_say_why() -> None:
    tested = SCHEME.folds["1"].test
    file = built(*(actor for actor in SCHEME.speakers if actor not in tested))
    assert "1" not in usable_folds(file)
    assert describe_usable(file) == "ravdess-6fold (5 of 6 folds can be used: 2, 3, 4, 5, 6)"
    found = "ravdess, scheme ravdess-6fold, fold 1: the test side is empty: none of its 4 speakers was built"
    assert describe_unusable(file, "1") == found
    assert advise_folds([file]) == "folds that can be used: SCHEME=ravdess-6fold FOLD=2 (or 3, 4, 5, 6)"


def test_clips_without_a_class_are_no_clips() -> None:
    file = built(*SCHEME.speakers, emotion="calm")
    assert usable_folds(file, {"happy"}) == ()
    found = "ravdess, scheme ravdess-6fold, fold 2: no clip of the train side has a class (found calm)"
    assert describe_unusable(file, "2", {"happy"}) == found
    assert "no fold of any scheme can be used: a split of one's own can (SCHEME=split.csv" in advise_folds(
        [file], {"sad"}
    )


def test_one_or_two_speakers_are_split_by_clip() -> None:
    file = built("01", "02")
    advice = "a split of one's own can (SCHEME=split.csv with columns clip and side, and ALLOW_SHARED_SPEAKERS=1: its"
    assert advice in advise_folds([file])


@pytest.mark.parametrize("sides", [("train", "test"), ("train", "validation", "test")])
def test_without_validation_that_side_may_be_empty(sides: tuple[str, ...]) -> None:
    fold = SCHEME.folds["3"]
    file = built(*fold.train, *fold.test)
    assert ("3" in usable_folds(file, None, sides)) == ("validation" not in sides)
