"""Folds of several corpora: every speaker is tested once, and nobody is on two sides, whatever the numbers of folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import folds
from manifests.corpora import corpus_facts
from manifests.folds import SIDES, FoldError, FoldFile, FoldScheme, FoldSpeakers
from manifests.index import Row
from manifests.joined_folds import WHOLE, count_joined, group_folds, hold_out, join_folds, train_on_all
from manifests.splits import make_sides

PARTNERS = [f"Ses{number:02}{sex}" for number in range(1, 9) for sex in "FM"]


def rows_of(speakers: Sequence[str], sentences: Sequence[str | None] = (None,)) -> list[Row]:
    return [
        Row(
            clip_id=f"{speaker}-{emotion}-{number}",
            speaker=speaker,
            emotion=emotion,
            sentence=sentence,
            status="built",
            source="x",
            shard=f"{speaker}-000.tar",
        )
        for speaker in speakers
        for emotion in ("joy", "fear")
        for number, sentence in enumerate(sentences)
    ]


def assign(scheme: FoldScheme, rows: Sequence[Row]) -> FoldFile:
    return folds.assign(scheme, shards_of(rows), [vars(row) for row in rows])


def shards_of(rows: Sequence[Row]) -> dict[str, str]:
    return {str(row.shard): row.speaker for row in rows}


def names(count: int) -> list[str]:
    return [f"s{number:02}" for number in range(count)]


@given(speakers=st.integers(3, 40), count=st.integers(2, 40), partners=st.booleans())
def test_every_speaker_is_tested_once_and_is_on_one_side(speakers: int, count: int, partners: bool) -> None:
    everyone = PARTNERS[: max(speakers, 6) // 2 * 2] if partners else names(speakers)
    dataset = "iemocap" if partners else "mine"
    rows = rows_of(everyone)
    file = assign(folds.leave_one_speaker_out(dataset, everyone), rows)
    count = min(count, len(file.folds))
    joined = join_folds(file, count, shards_of(rows), rows)
    assert [*joined.folds] == [str(number + 1) for number in range(count)]
    tested = Counter(speaker for sides in joined.folds.values() for speaker in sides.test.subjects)
    assert tested == dict.fromkeys(everyone, 1)
    group = corpus_facts(dataset).recording_group
    for number, sides in joined.folds.items():
        found = [speaker for side in SIDES for speaker in sides[side].subjects]
        assert len(found) == len({*found})
        expected = {file.folds[fold].test.subjects[0] for fold in group_folds(file, count)[number]}
        assert {*sides.test.subjects} == expected
        recorded = {group(speaker) for speaker in sides.test.subjects}
        assert recorded.isdisjoint(map(group, (*sides.train.subjects, *sides.validation.subjects)))
        assert {*map(group, sides.train.subjects)}.isdisjoint(map(group, sides.validation.subjects))
        assert all(sides[side].clip_ids is None for side in SIDES)  # whole speakers
        assert sides.test.clips == dict.fromkeys(("fear", "joy"), len(expected))
        if not partners and len(everyone) - len(expected) >= 2:
            assert {*found} == {*everyone}
            assert sides.train.subjects


def test_joining_to_few_folds_leaves_most_of_the_others_to_train_on() -> None:
    """Were all of their validation speakers to validate, nobody would be left."""
    everyone = names(10)
    folds_of_ten = {
        str(number): FoldSpeakers(
            test=(everyone[number],),
            validation=(everyone[(number + 1) % 10],),
            train=tuple(everyone[(number + 2 + each) % 10] for each in range(8)),
        )
        for number in range(10)
    }
    scheme = FoldScheme(name="ten", dataset="mine", source="", note="", folds=folds_of_ten)
    rows = rows_of(everyone)
    joined = join_folds(assign(scheme, rows), 2, shards_of(rows), rows)
    first = joined.folds["1"]
    assert first.test.subjects == ("s00", "s02", "s04", "s06", "s08")
    assert first.validation.subjects == ("s01",)
    assert first.train.subjects == ("s03", "s05", "s07", "s09")


def test_as_many_folds_are_the_same_ones_under_numbers() -> None:
    rows = rows_of(names(3))
    file = assign(folds.leave_one_speaker_out("mine", names(3)), rows)
    joined = join_folds(file, 3, shards_of(rows), iter(()))  # rows are not read
    assert [*joined.folds.values()] == [*file.folds.values()]
    assert (file.name, joined.name) == ("loso", "3-of-loso")
    numbered = assign(folds.five_folds("mine", names(5)), rows_of(names(5)))
    assert join_folds(numbered, 5, {}, iter(())) == numbered
    with pytest.raises(FoldError, match="loso: found 3 folds, expected at least 4"):
        join_folds(file, 4, shards_of(rows), rows)


@given(count=st.integers(2, 6))
def test_clips_that_one_of_the_folds_leaves_out_are_left_out(count: int) -> None:
    """IEMOCAP's scripted dialogues: nobody trains on what the test side says."""
    sessions = [f"Ses{number:02}F" for number in range(1, 7)]
    rows = [
        replace(row, sentence=f"{row.speaker}_script0{int(row.speaker[3:5]) % 3}" if row.emotion == "joy" else "impro")
        for row in rows_of(sessions)
    ]
    plain = folds.leave_one_speaker_out("iemocap", sessions)
    file = assign(FoldScheme(**{**vars(plain), "shared_text": "disjoint"}), rows)
    joined = join_folds(file, count, shards_of(rows), rows)
    text = corpus_facts("iemocap").text
    for sides in joined.folds.values():
        said = {
            side: {text(row.sentence) for row in rows if row.speaker in sides[side].subjects and sides[side].has(row)}
            - {None}
            for side in SIDES
        }
        assert said["test"]
        assert said["test"].isdisjoint(said["train"] | said["validation"])


def test_speakers_who_may_be_on_several_sides_keep_to_their_clips() -> None:
    rows = rows_of(names(4))
    shards = shards_of(rows)
    placed = [
        {row.clip_id: "test" if (n + fold) % 4 == 0 else "train" for n, row in enumerate(rows)} for fold in range(4)
    ]
    clips = {row.clip_id: row for row in rows}
    made = {str(n): make_sides(each, clips, shards, tuple(names(4))) for n, each in enumerate(placed)}
    file = replace(assign(folds.leave_one_speaker_out("mine", names(4)), rows), folds=made)
    joined = join_folds(file, 2, shards, rows)
    tested = Counter(clip for sides in joined.folds.values() for clip in sides.test.clip_ids or ())
    assert tested == dict.fromkeys(clips, 1)
    assert joined.folds["1"].shared_speakers == tuple(names(4))


def test_a_fixed_split_is_not_joined_with_a_cross_validation() -> None:
    several = assign(folds.leave_one_speaker_out("mine", names(4)), rows_of(names(4)))
    fixed = replace(several, dataset="yours", folds={"1": several.folds["s00"]})
    assert count_joined([several, replace(several, dataset="yours")]) == 4
    assert count_joined([fixed, replace(fixed, dataset="mine")]) == 1
    with pytest.raises(FoldError, match=r"found schemes of mine 4 folds, yours 1 fold; expected several folds of each"):
        count_joined([several, fixed])


@given(speakers=st.integers(2, 60))
def test_a_fifth_of_a_whole_corpus_validates(speakers: int) -> None:
    rows = rows_of(names(speakers))
    dropped = replace(rows[0], clip_id="dropped", status="dropped", shard=None, reason="no_face")
    trained = train_on_all("mine", shards_of(rows), [*rows, dropped]).folds[WHOLE]
    assert trained.validation.subjects == folds.choose_validation(names(speakers))
    assert {*trained.train.subjects} == {*names(speakers)} - {*trained.validation.subjects}
    assert not trained.test.subjects
    tested = hold_out("mine", shards_of(rows), [*rows, dropped]).folds[WHOLE]
    assert tested.test.subjects == tuple(names(speakers))
    assert sum(tested.test.clips.values()) == len(rows)
    assert not tested.train.clips and not tested.validation.clips


def test_partners_validate_together_and_one_speaker_is_too_few() -> None:
    rows = rows_of(PARTNERS)
    sides = train_on_all("iemocap", shards_of(rows), rows).folds[WHOLE]
    group = corpus_facts("iemocap").recording_group
    assert {*map(group, sides.train.subjects)}.isdisjoint(map(group, sides.validation.subjects))
    with pytest.raises(FoldError, match=r"found 1 speaker to train .*expected at least 2 .*FIXED_EPOCHS=1"):
        train_on_all("mine", shards_of(rows_of(["a"])), rows_of(["a"]))
