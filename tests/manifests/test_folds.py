"""Fold schemes: no speaker on two sides, whether made, committed or received."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import folds
from manifests.corpora import CORPORA
from manifests.folds import SIDES, FoldError, FoldScheme, FoldSpeakers, Side

FACTS = Path(__file__).parents[3] / "shared" / "facts" / "folds"
COMMITTED = [name for facts in CORPORA.values() for name in facts.fold_schemes]
SPEAKERS = {
    "ravdess": tuple(f"{actor:02d}" for actor in range(1, 25)),
    "crema-d": tuple(str(actor) for actor in range(1001, 1092)),
    "iemocap": tuple(f"Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"),
}
speakers = st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), min_size=3, max_size=30, unique=True)

each_committed = pytest.mark.parametrize("name", COMMITTED)


def split(test: str, validation: str, train: str) -> FoldSpeakers:
    """A fold from space-separated speakers."""
    return FoldSpeakers(test=tuple(test.split()), validation=tuple(validation.split()), train=tuple(train.split()))


def scheme(**changes: Any) -> FoldScheme:
    """Two folds over the speakers a, b, c, d."""
    two = {"1": split("a b", "c", "d"), "2": split("c d", "a", "b")}
    return FoldScheme(**{"name": "mine", "dataset": "folder", "source": "", "note": "", "folds": two} | changes)


def sides(one: FoldSpeakers) -> list[set[str]]:
    return [set(getattr(one, side)) for side in SIDES]


# Committed schemes


def test_every_committed_file_is_listed() -> None:
    folder = Path(folds.__file__).parent / "folds"
    assert {path.name for path in folder.iterdir()} == {f"{name}.json" for name in COMMITTED}


@each_committed
def test_committed_scheme_knows_all_speakers_and_its_source(name: str) -> None:
    loaded = folds.load_scheme(name)
    assert loaded.name == name and name in CORPORA[loaded.dataset].fold_schemes
    assert loaded.speakers == SPEAKERS.get(loaded.dataset, loaded.speakers)
    assert loaded.source and loaded.note and not loaded.leaves_out
    for one in loaded.folds.values():
        assert sum(map(len, sides(one))) == len(set().union(*sides(one))) == len(loaded.speakers)


@each_committed
def test_committed_validation_speakers_are_written_out(name: str) -> None:
    raw = json.loads((Path(folds.__file__).parent / "folds" / f"{name}.json").read_bytes())
    assert all(sides["validation"] for sides in raw["folds"].values())


@pytest.mark.parametrize(
    "name", [name for name in COMMITTED if name.startswith(("ravdess", "crema-d")) and name != "crema-d-tfds"]
)
def test_committed_validation_is_the_documented_choice(name: str) -> None:
    for one in folds.load_scheme(name).folds.values():
        assert one.validation == folds.choose_validation({*one.train, *one.validation})


def test_ravdess_6fold_is_four_neighbours_a_fold() -> None:
    loaded = folds.load_scheme("ravdess-6fold")
    assert [one.test for one in loaded.folds.values()] == [SPEAKERS["ravdess"][i : i + 4] for i in range(0, 24, 4)]


def test_crema_d_folds_are_contiguous() -> None:
    five, ten = folds.load_scheme("crema-d-5fold"), folds.load_scheme("crema-d-10fold")
    for loaded in (five, ten):
        assert sum((one.test for one in loaded.folds.values()), ()) == SPEAKERS["crema-d"]
    assert [(one.test[0], one.test[-1]) for one in five.folds.values()] == [
        ("1001", "1018"),
        ("1019", "1036"),
        ("1037", "1054"),
        ("1055", "1072"),
        ("1073", "1091"),
    ]
    assert [len(one.test) for one in ten.folds.values()] == [10] + [9] * 9


@pytest.mark.parametrize("name", CORPORA["iemocap"].fold_schemes)
def test_iemocap_folds_keep_conversations_whole(name: str) -> None:
    for fold, one in folds.load_scheme(name).folds.items():
        sessions = [{speaker[:5] for speaker in side} for side in sides(one)]
        assert one.test == (f"Ses0{fold}F", f"Ses0{fold}M")
        assert not sessions[0] & sessions[1] and not sessions[0] & sessions[2] and not sessions[1] & sessions[2]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("ravdess-6fold", "HiCMAE_ravdess"),
        ("ravdess-emobox", "EmoBox_ravdess"),
        ("ravdess-5fold", "MMEmotionRecognition_ravdess"),
        ("crema-d-5fold", "HiCMAE_crema-d"),
        ("crema-d-5fold", "MAE-DFER_crema-d"),
        ("crema-d-tfds", "TFDS_crema-d"),
    ],
)
def test_committed_test_speakers_are_the_published_ones(name: str, published: str) -> None:
    if not FACTS.is_dir():
        pytest.skip(f"needs the published fold lists in {FACTS}, which are not part of this repository")
    source = json.loads((FACTS / f"{published}.json").read_bytes())["folds"]
    for fold, one in folds.load_scheme(name).folds.items():
        given_sides = source[fold] if isinstance(source[fold], dict) else {"test": source[fold]}
        for side, speakers in given_sides.items():
            assert getattr(one, side) == tuple(sorted(f"{speaker:>02}" for speaker in map(str, speakers)))


# Texts that several speakers read

SCRIPTS = ("script01_1", "script01_2", "script01_3", "script02_1", "script02_2", "script03_1", "script03_2")
IMPROVISED = tuple(f"impro{number:02d}" for number in range(1, 9))
#: Turns of each talker in a dialogue, by emotion.
TURNS = {"ang": 2, "exc": 1, "fru": 1, "neu": 3}


def iemocap_rows(*, scripts: Callable[[int], tuple[str, ...]] = lambda session: SCRIPTS) -> list[dict[str, str]]:
    """Turns of five sessions with the corpus's names: both actors wear the markers once in each dialogue."""
    return [
        {"speaker": f"Ses0{session}{talker}", "sentence": f"Ses0{session}{wearer}_{scene}", "emotion": emotion}
        for session in range(1, 6)
        for wearer in "FM"
        for scene in (*IMPROVISED, *scripts(session), *(["script01_1b"] if session == 5 else []))
        for talker in "FM"
        for emotion, turns in TURNS.items()
        for _ in range(turns)
    ]


def iemocap_sides(name: str, rows: list[dict[str, str]]) -> dict[str, dict[str, tuple[int, set[str]]]]:
    """Fold -> side -> clips that it has, and their scenes; the file's counts must be those of its clips."""
    shards = {f"{speaker}-000.tar": speaker for speaker in SPEAKERS["iemocap"]}
    data = folds.dump_fold_file(folds.assign(folds.load_scheme(name), shards, rows))
    found: dict[str, dict[str, tuple[int, set[str]]]] = {}
    for fold, three in folds.read_fold_file(data, shards, "file").folds.items():
        found[fold] = {}
        for side in SIDES:
            one = three[side]
            inside = [
                row for row in rows if row["speaker"] in one.subjects and row["sentence"] not in one.left_out_sentences
            ]
            assert one.clips == dict(sorted(Counter(row["emotion"] for row in inside).items()))
            found[fold][side] = (len(inside), {row["sentence"].split("_", 1)[1] for row in inside})
    return found


#: Clips of a session in one dialogue scene: both wearers, both talkers.
A_SCENE = 2 * 2 * sum(TURNS.values())


def test_improvised_has_no_script_on_any_side() -> None:
    found = iemocap_sides("iemocap-improvised", iemocap_rows())
    for fold, three in found.items():
        assert all(scenes == set(IMPROVISED) for _, scenes in three.values())
        assert {side: clips for side, (clips, _) in three.items()} == {
            "train": 3 * 8 * A_SCENE,
            "validation": 8 * A_SCENE,
            "test": 8 * A_SCENE,
        }, fold


def test_script_disjoint_tests_everything_and_trains_on_none_of_the_tests_scripts() -> None:
    found = iemocap_sides("iemocap-script-disjoint", iemocap_rows())
    assert sum(three["test"][0] for three in found.values()) == len(iemocap_rows())  # every clip is tested once
    for fold, three in found.items():
        extra = {"script01_1b"} if fold == "5" else set()
        assert three["test"] == ((15 + len(extra)) * A_SCENE, {*IMPROVISED, *SCRIPTS, *extra})
        assert three["train"] == (3 * 8 * A_SCENE, set(IMPROVISED))
        assert three["validation"] == (8 * A_SCENE, set(IMPROVISED))


def test_a_script_that_the_test_lacks_is_trained_on() -> None:
    """Session 2 was built without its third script, e.g. because the recordings are missing."""
    rows = iemocap_rows(scripts=lambda session: SCRIPTS[:5] if session == 2 else SCRIPTS)
    found = iemocap_sides("iemocap-script-disjoint", rows)
    assert found["2"]["train"][1] == found["2"]["validation"][1] == {*IMPROVISED, "script03_1", "script03_2"}
    assert found["1"]["train"][1] == set(IMPROVISED)


def test_default_folds_of_iemocap_keep_every_clip_and_do_not_mention_texts() -> None:
    rows = iemocap_rows()
    found = iemocap_sides("iemocap-5fold", rows)
    assert all(sum(clips for clips, _ in three.values()) == len(rows) for three in found.values())
    shards = {f"{speaker}-000.tar": speaker for speaker in SPEAKERS["iemocap"]}
    assert b"left_out_sentences" not in folds.dump_fold_file(
        folds.assign(folds.load_scheme("iemocap-5fold"), shards, rows)
    )


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(FoldError, match="found shared_text 'some', expected one of kept, left_out, disjoint"):
        scheme(shared_text="some")


# Rules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": {}}, "found no folds"),
        ({"folds": {"1": split("a", "b", "")}}, "fold 1: found no train speakers"),
        ({"folds": {"1": split("a b", "b", "c")}}, "fold 1: speaker b on two sides"),
        ({"folds": {"1": split("a", "b b", "c")}}, "fold 1: speaker b on two sides or twice on one"),
        ({"folds": {"1": split("a", "b", "c"), "2": split("a c", "d", "b")}}, "speaker a is tested in folds 1 and 2"),
        ({"folds": {"1": split("a", "b", "c"), "2": split("c", "a", "b")}}, "speaker b in no test set"),
    ],
)
def test_a_scheme_that_breaks_the_rules_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FoldError, match=f"^fold scheme mine.*{message}"):
        scheme(**changes)


def test_a_single_split_need_not_test_everyone() -> None:
    one = scheme(folds={"1": split("a", "b", "c")}, covering=False)
    assert one.speakers == ("a", "b", "c")


@given(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=120))
def test_validation_is_about_a_fifth_and_leaves_some_to_train(speakers: set[str]) -> None:
    chosen = folds.choose_validation(speakers)
    assert chosen == tuple(sorted(set(chosen))) and set(chosen) < speakers
    assert len(chosen) == max(1, round(len(speakers) / 5))
    assert chosen == folds.choose_validation(sorted(speakers, reverse=True))


@given(st.integers(5, 200))
def test_validation_is_evenly_spaced(count: int) -> None:
    ids = [f"{i:03d}" for i in range(count)]
    places = [ids.index(speaker) for speaker in folds.choose_validation(ids)]
    gaps = {right - left for left, right in pairwise(places)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


@pytest.mark.parametrize("speakers", [[], ["a"], ["a", "a"]])
def test_validation_needs_two_speakers(speakers: list[str]) -> None:
    with pytest.raises(FoldError, match="expected at least 2"):
        folds.choose_validation(speakers)


@given(speakers)
def test_leave_one_speaker_out_tests_each_once_against_all_others(names: list[str]) -> None:
    made = folds.leave_one_speaker_out("folder", names)
    assert made == folds.leave_one_speaker_out("folder", reversed(names))
    assert list(made.folds) == sorted(names)
    for speaker, one in made.folds.items():
        assert one.test == (speaker,)
        assert {*one.validation, *one.train} == set(names) - {speaker}


def test_leave_one_speaker_out_of_iemocap_parts_no_conversation() -> None:
    made = folds.leave_one_speaker_out("iemocap", SPEAKERS["iemocap"])
    assert len(made.folds) == 10
    for one in made.folds.values():
        sessions = [{speaker[:5] for speaker in side} for side in sides(one)]
        assert sum(map(len, sessions)) == len(set().union(*sessions)) == 5
        assert len(one.train) + len(one.validation) == 8


@pytest.mark.parametrize(("dataset", "names"), [("folder", ["a", "b"]), ("iemocap", SPEAKERS["iemocap"][:4])])
def test_leave_one_speaker_out_needs_three(dataset: str, names: list[str]) -> None:
    with pytest.raises(FoldError, match=f"{dataset}: leave-one-speaker-out found speakers .*; expected at least three"):
        folds.leave_one_speaker_out(dataset, names)


@given(st.integers(10, 400))
def test_ten_folds_test_each_speaker_once_and_spread_them(count: int) -> None:
    names = [f"id{number:05d}" for number in range(count)]
    made = folds.ten_folds("folder", reversed(names))
    assert made == folds.ten_folds("folder", names)
    assert sorted(name for one in made.folds.values() for name in one.test) == names
    for one in made.folds.values():
        assert set().union(*sides(one)) == set(names) and sum(map(len, sides(one))) == count
        assert abs(len(one.test) - count / 10) < 1
        assert one.validation == folds.choose_validation({*one.train, *one.validation})


def test_five_folds_are_as_ten() -> None:
    made = folds.five_folds("mead", "abcdefghijk")
    assert [one.test for one in made.folds.values()] == [
        ("a", "f", "k"),
        ("b", "g"),
        ("c", "h"),
        ("d", "i"),
        ("e", "j"),
    ]
    assert (made.name, made.note[:36]) == ("speakers-5fold", "each fold tests every fifth speaker ")
    assert folds.fold_scheme("mead", "speakers-5fold", "abcdefghijk") == made
    with pytest.raises(FoldError, match=r"mead: five folds found speakers a, b, c, d; expected speakers of five"):
        folds.five_folds("mead", "abcd")


def test_ten_folds_part_no_conversation() -> None:
    names = [f"Ses{session:02d}{letter}" for session in range(1, 13) for letter in "FM"]
    for one in folds.ten_folds("iemocap", names).folds.values():
        sessions = [{speaker[:5] for speaker in side} for side in sides(one)]
        assert sum(map(len, sessions)) == len(set().union(*sessions)) == 12


def test_ten_folds_need_ten_speakers() -> None:
    with pytest.raises(FoldError, match=r"folder: ten folds found speakers a, b, .*; expected speakers of ten"):
        folds.ten_folds("folder", "abcdefghi")


def test_a_corpus_of_many_speakers_has_ten_folds_instead_of_one_for_each() -> None:
    many = [f"id{number:05d}" for number in range(folds.MAX_LEFT_OUT + 1)]
    assert folds.fold_schemes_for("folder", many[1:]) == ("loso",)
    assert folds.fold_schemes_for("folder", [*many, *many]) == ("speakers-10fold",)
    assert folds.fold_scheme("folder", "speakers-10fold", many) == folds.ten_folds("folder", many)
    with pytest.raises(FoldError, match=r"unknown fold scheme 'loso' for folder; valid are speakers-10fold$"):
        folds.fold_scheme("folder", "loso", many)


def test_schemes_are_found_by_corpus_and_name() -> None:
    assert folds.fold_schemes_for("ravdess") == ("ravdess-6fold", "ravdess-emobox", "ravdess-5fold", "loso")
    assert folds.fold_schemes_for("folder") == ("loso",)
    assert folds.fold_scheme("ravdess", "ravdess-6fold", []) == folds.load_scheme("ravdess-6fold")
    assert folds.fold_scheme("folder", "loso", "abc") == folds.leave_one_speaker_out("folder", "abc")


def test_an_unknown_scheme_lists_the_valid_ones() -> None:
    with pytest.raises(FoldError, match=r"unknown fold scheme 'x' for ravdess; valid are ravdess-6fold, .*, loso"):
        folds.fold_scheme("ravdess", "x", [])
    with pytest.raises(FoldError, match="'crema-d-5fold' for ravdess; valid are"):
        folds.fold_scheme("ravdess", "crema-d-5fold", [])
    with pytest.raises(FoldError, match=r"unknown fold scheme '\.\./x'; committed are"):
        folds.load_scheme("../x")


def test_a_scheme_of_a_folder_is_chosen_by_name_or_is_its_first() -> None:
    assert folds.resolve_scheme(None, ("6fold", "loso"), "abc") == "6fold"
    assert folds.resolve_scheme("loso", ("6fold", "loso"), "abc") == "loso"
    with pytest.raises(FoldError, match=r"^unknown fold scheme 'x'; valid are 6fold, loso$"):
        folds.resolve_scheme("x", ("6fold", "loso"), "abc")
    with pytest.raises(FoldError, match=r"2 speakers, too few .* SCHEME=split\.csv with columns clip and"):
        folds.resolve_scheme("x", (), "ab")


# Scheme files


def scheme_file(**changes: Any) -> bytes:
    """File of two folds over the speakers a, b, c, d."""
    two = {"1": {"test": ["b", "a"], "validation": ["c"]}, "2": {"test": ["c", "d"], "validation": ["a"]}}
    value = {"name": "mine", "dataset": "folder", "source": "me", "note": "", "covering": True, "leaves_out": False}
    return json.dumps(value | {"folds": two} | changes).encode()


def test_a_scheme_file_is_read() -> None:
    assert folds.parse_scheme(scheme_file(), "x.json") == scheme(source="me")


def test_a_scheme_file_may_say_who_trains() -> None:
    one = {"test": ["a"], "validation": ["b"], "train": ["c"]}
    read = folds.parse_scheme(scheme_file(folds={"1": one}, covering=False), "x.json")
    assert read.folds["1"] == split("a", "b", "c")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b" " * ((1 << 20) + 1), "found 1048577 bytes"),
        (b"[]", r"found \[\], expected an object"),
        (b"{}", r"found no \['covering', 'dataset', .*\], expected name, dataset"),
        (scheme_file(extra=1), r"found \['extra'\], expected name, dataset"),
        (scheme_file(name="../mine"), r"name: found '\.\./mine'"),
        (scheme_file(name="n" * 65), "name: found"),
        (scheme_file(dataset=3), "dataset: found 3"),
        (scheme_file(note="n" * 2001), "note: found"),
        (scheme_file(covering=1), "covering: found 1, expected true or false"),
        (scheme_file(folds={}), "folds: found {}"),
        (scheme_file(folds=[]), r"folds: found \[\]"),
        (scheme_file(folds={"a/b": {}}), r"folds\.a/b: found no \['test', 'validation'\]"),
        (scheme_file(folds={"a/b": {"test": ["a"], "validation": ["b"]}}), "folds: found 'a/b'"),
        (scheme_file(folds={"1": []}), r"folds\.1: found \[\], expected an object"),
        (scheme_file(folds={"1": {"test": ["a"], "validation": "bc"}}), r"folds\.1\.validation: found 'bc'"),
        (scheme_file(folds={"1": {"test": ["a"], "validation": [["b"]]}}), r"found \['b'\]"),
        (
            scheme_file(folds={"1": {"test": ["a"], "validation": [1]}}),
            r"folds\.1\.validation\[0\]: found 1, expected text",
        ),
        (scheme_file(folds={"1": {"test": ["a"], "validation": ["b" * 65]}}), "expected up to 64 letters"),
        (scheme_file(folds={"1": {"test": ["a"], "validation": ["b\n"]}}), "found 'b"),
        (scheme_file(folds={"1": {"test": ["a"], "validation": ["a"], "train": ["b"]}}), "speaker a on two sides"),
    ],
)
def test_a_malformed_scheme_file_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(FoldError, match=f"^x.json.*({message})") as raised:
        folds.parse_scheme(data, "x.json")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SIDES, "1", "folds"]), inner),
    max_leaves=12,
)


@given(st.sampled_from(["name", "dataset", "source", "note", "covering", "leaves_out", "folds"]), json_values)
def test_a_hostile_scheme_file_gives_a_scheme_or_a_fold_error(key: str, value: Any) -> None:
    try:
        read = folds.parse_scheme(scheme_file(**{key: value}), "x.json")
    except FoldError as error:
        assert str(error).startswith("x.json")
    else:
        assert replace(read) == read  # the rules are checked again


# What a shard folder holds

SHARDS = {"a-0.tar": "a", "a-1.tar": "a", "b-0.tar": "b", "c-0.tar": "c", "d-0.tar": "d"}
ROWS = [
    {"speaker": speaker, "emotion": emotion, "clip_id": f"{speaker}{emotion}{i}"}
    for speaker in "abcd"
    for emotion, count in (("joy", 2), ("fear", 1))
    for i in range(count)
]


def test_assignment_lists_shards_speakers_and_clips() -> None:
    assigned = folds.assign(scheme(), SHARDS, ROWS)
    assert all(assigned.folds["1"][side].left_out_sentences == () for side in SIDES)
    assert json.loads(folds.dump_fold_file(assigned))["folds"]["1"] == {
        "train": {"shards": ["d-0.tar"], "subjects": ["d"], "clips": {"fear": 1, "joy": 2}},
        "validation": {"shards": ["c-0.tar"], "subjects": ["c"], "clips": {"fear": 1, "joy": 2}},
        "test": {
            "shards": ["a-0.tar", "a-1.tar", "b-0.tar"],
            "subjects": ["a", "b"],
            "clips": {"fear": 2, "joy": 4},
        },
    }
    assert assigned.absent == assigned.left_out == ()
    assert (assigned.name, assigned.dataset) == ("mine", "folder")


def test_assignment_does_not_depend_on_order() -> None:
    backwards = {shard: SHARDS[shard] for shard in reversed(SHARDS)}
    assert folds.dump_fold_file(folds.assign(scheme(), SHARDS, ROWS)) == folds.dump_fold_file(
        folds.assign(scheme(), backwards, reversed(ROWS))
    )


def test_speakers_that_were_not_built_are_absent() -> None:
    assigned = folds.assign(scheme(), {"a-0.tar": "a"}, ROWS[:3])
    assert assigned.absent == ("b", "c", "d")
    assert assigned.folds["1"].test.subjects == ("a",)
    assert assigned.folds["1"].train == Side(shards=(), subjects=(), clips={})


def test_a_built_speaker_unknown_to_the_scheme_is_refused() -> None:
    shards = SHARDS | {"e-0.tar": "e"}
    with pytest.raises(FoldError, match="fold scheme mine: speaker e built but unknown to the scheme; use loso"):
        folds.assign(scheme(), shards, ROWS)
    assigned = folds.assign(scheme(leaves_out=True), shards, ROWS)
    assert assigned.left_out == ("e",)
    assert b"e-0.tar" not in folds.dump_fold_file(assigned)


def test_a_clip_of_a_speaker_without_a_shard_is_refused() -> None:
    with pytest.raises(FoldError, match="found a clip of 'z', who has no shard"):
        folds.assign(scheme(), SHARDS, [*ROWS, {"speaker": "z", "emotion": "joy"}])


@given(speakers, st.data())
def test_every_clip_is_on_one_side_of_every_fold(names: list[str], data: st.DataObject) -> None:
    shards = {f"{name}-{part}.tar": name for name in names for part in range(data.draw(st.integers(1, 3)))}
    rows = data.draw(st.lists(st.fixed_dictionaries({"speaker": st.sampled_from(names), "emotion": st.just("joy")})))
    assigned = folds.assign(folds.leave_one_speaker_out("folder", names), shards, rows)
    for fold in assigned.folds.values():
        found = [shard for side in SIDES for shard in fold[side].shards]
        assert sorted(found) == sorted(shards)
        assert sum(fold[side].clips.get("joy", 0) for side in SIDES) == len(rows)
    assert folds.read_fold_file(folds.dump_fold_file(assigned), shards, "x.json") == assigned


Change = Callable[[Any], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(extra=1), r"found \['extra'\], expected schema_version"),
        (lambda a: a.update(schema_version=99), "found schema version 99, expected 1"),
        (lambda a: a.update(name="a/b"), "name: found 'a/b'"),
        (lambda a: a.update(source=None), "source: found None"),
        (lambda a: a.update(absent="e"), r"\.absent: found 'e'"),
        (lambda a: a.update(left_out=["/e"]), "left_out: found '/e'"),
        (lambda a: a.update(folds=None), "folds: found None"),
        (lambda a: a["folds"]["1"].pop("train"), r"folds\.1: found no \['train'\], expected train, validation, test"),
        (lambda a: a["folds"]["1"].update(train=[]), r"folds\.1\.train: found \[\]"),
        (lambda a: a["folds"]["1"]["train"].update(subjects=["../d"]), r"folds\.1\.train: subjects: found '\.\./d'"),
        (lambda a: a["folds"]["1"]["train"].update(shards=["a-0.tar"]), "those of its speakers"),
        (lambda a: a["folds"]["1"]["train"].update(shards=["../d-0.tar"]), "those of its speakers"),
        (lambda a: a["folds"]["1"]["test"]["shards"].pop(), "expected 3, those of its speakers"),
        (lambda a: a["folds"]["1"]["train"].update(clips={"joy": True}), r"train\.clips\.joy: found True"),
        (lambda a: a["folds"]["1"]["train"].update(clips={"joy": -1}), "clips: found {'joy': -1}"),
        (lambda a: a["folds"]["1"]["train"].update(clips=[]), r"train\.clips: found \[\]"),
        (lambda a: a["folds"]["1"].update(train=a["folds"]["1"]["test"]), "speakers a, b on two sides"),
    ],
)
def test_a_malformed_fold_file_is_refused_in_one_line(change: Change, message: str) -> None:
    assigned: Any = json.loads(folds.dump_fold_file(folds.assign(scheme(), SHARDS, ROWS)))
    change(assigned)
    with pytest.raises(FoldError, match=f"^x.json.*{message}") as raised:
        folds.read_fold_file(json.dumps(assigned).encode(), SHARDS, "x.json")
    assert "\n" not in str(raised.value)


def test_a_fold_file_of_other_shards_is_refused() -> None:
    data = folds.dump_fold_file(folds.assign(scheme(), SHARDS, ROWS))
    with pytest.raises(FoldError, match=r"folds\.1\.train: found shards"):
        folds.read_fold_file(data, SHARDS | {"b-0.tar": "d"}, "x.json")
