"""Fold schemes: which subjects are tested, validated and trained on. Pure but for reading committed schemes.

A scheme names subjects, never clips, so that no subject can be on two sides. Fold k tests on its own
subjects; validation subjects are other ones, kept from training; all the rest train.

    committed scheme, manifests/folds/<name>.json
        {"name", "dataset", "source", "note", "covering", "leaves_out",
         "folds": {"1": {"test": [...], "validation": [...], "train": [...]}, ...}}
        Without "train" a fold trains on every other subject of the scheme.
    what a shard folder holds, folds/<name>.json: see `Assignment`

Both may come from a stranger: sizes, types and names are checked, and so are the rules above.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, cast

from manifests.corpora import CORPORA, corpus_facts
from manifests.errors import UserError
from manifests.schema import SCHEMA_VERSION
from manifests.text import pluralize

#: What `train` and the other sides that may be asked for bring: validation speakers choose the epoch.
SPLITS = {"train": ("train", "validation"), "validation": ("validation",), "test": ("test",)}

LOSO = "loso"
TEN_FOLDS = "speakers-10fold"
#: Most speakers that are left out one at a time: each of these folds names all others, so that the file grows with the
#: square of the speakers. A corpus of more is tested in ten folds instead.
MOST_LEFT_OUT = 200
SIDES = ("train", "validation", "test")

_FOLDER = Path(__file__).parent / "folds"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_SCHEME_BYTES = 1 << 20
_MAX_ASSIGNMENT_BYTES = 1 << 28
_MAX_TEXT = 2000


class FoldError(UserError):
    """A fold scheme or a fold file cannot be used; one line that says where, what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Subjects on each side of one fold, sorted; no subject is on two sides."""

    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FoldScheme:
    """A partition of a corpus's subjects into folds. Raises FoldError when it breaks its own rules."""

    name: str
    dataset: str
    source: str
    """Where the partition comes from."""
    note: str
    folds: Mapping[str, Split]
    """Fold name -> split."""
    covering: bool = True
    """Every subject is tested in one fold; False for a single split."""
    leaves_out: bool = False
    """The scheme leaves subjects of the corpus out on purpose."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def subjects(self) -> tuple[str, ...]:
        """All subjects the scheme knows, sorted."""
        return tuple(sorted({subject for split in self.folds.values() for subject in _members(split)}))


class Side(TypedDict):
    """One side of one fold in a shard folder."""

    shards: list[str]
    """Shard file names, sorted."""
    subjects: list[str]
    """Built subjects, sorted."""
    clips: dict[str, int]
    """Raw emotion -> built clips."""


class Assignment(TypedDict):
    """Content of a shard folder's `folds/<scheme>.json`: fold -> shards, subjects and clips of each side."""

    schema_version: int
    name: str
    dataset: str
    source: str
    note: str
    absent: list[str]
    """Subjects of the scheme that were not built, sorted."""
    left_out: list[str]
    """Built subjects that the scheme leaves out on purpose, sorted."""
    folds: dict[str, dict[str, Side]]
    """Fold name -> one of `SIDES` -> side."""


def check(scheme: FoldScheme) -> None:
    """Raise FoldError if a subject is on two sides, a side is empty, or the test sets overlap or do not cover."""
    if not scheme.folds:
        raise FoldError(f"fold scheme {scheme.name}: found no folds, expected at least one")
    tested: dict[str, str] = {}
    for fold, split in scheme.folds.items():
        _check_sides(split, f"fold scheme {scheme.name}, fold {fold}")
        for subject in split.test:
            if tested.setdefault(subject, fold) != fold:
                raise FoldError(
                    f"fold scheme {scheme.name}: subject {subject} is tested in folds {tested[subject]} and {fold}; "
                    "expected test sets without a common subject"
                )
    untested = set(scheme.subjects) - set(tested)
    if scheme.covering and untested:
        raise FoldError(
            f"fold scheme {scheme.name}: {_listed(untested)} in no test set; expected every subject tested once"
        )


def choose_validation(train_subjects: Iterable[str]) -> tuple[str, ...]:
    """About a fifth of the subjects, evenly spaced over the sorted ids, at least one.

    Neighbouring ids often share sex or recording day, so spacing spreads those over both sides.
    Raises FoldError for fewer than two subjects: one must be left to train on.
    """
    ids = sorted(set(train_subjects))
    if len(ids) < 2:
        raise FoldError(f"found {pluralize(len(ids), 'subject')} to train on and validate with, expected at least 2")
    count = max(1, round(len(ids) / 5))
    return tuple(ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count))


def leave_one_speaker_out(dataset: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme `loso`: one fold a speaker, named after the speaker.

    Speakers recorded in one conversation stay together: the tested speaker's partner is left out of that
    fold, and partners validate together. Raises FoldError for fewer than three conversations.
    """
    conversation = {speaker: corpus_facts(dataset).group_of(speaker) for speaker in sorted(set(speakers))}
    if len(set(conversation.values())) < 3:
        raise FoldError(
            f"{dataset}: leave-one-speaker-out found {_listed(conversation)}; expected at least three speakers "
            "of different recordings, one each to test, to validate and to train on"
        )
    return FoldScheme(
        name=LOSO,
        dataset=dataset,
        source="made from the speakers of the corpus",
        note="each fold tests one speaker; about a fifth of the others, evenly spaced over the sorted ids, validates; "
        "whoever shares the tested speaker's recordings (IEMOCAP) is left out of that fold",
        folds={speaker: _leave_out(speaker, conversation) for speaker in conversation},
    )


def ten_folds(dataset: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme `speakers-10fold`: each fold tests a tenth of the speakers, and validates with a fifth of the others.

    Both are evenly spaced over the sorted ids. Speakers recorded in one conversation stay together. Raises FoldError
    for fewer than ten conversations.
    """
    conversation = {speaker: corpus_facts(dataset).group_of(speaker) for speaker in sorted(set(speakers))}
    recorded = sorted(set(conversation.values()))
    if len(recorded) < 10:
        raise FoldError(f"{dataset}: ten folds found {_listed(conversation)}; expected speakers of ten recordings")
    return FoldScheme(
        name=TEN_FOLDS,
        dataset=dataset,
        source="made from the speakers of the corpus",
        note="each fold tests every tenth speaker of the sorted ids; about a fifth of the others, evenly spaced, "
        "validates; whoever shares recordings (IEMOCAP) is on the same side",
        folds={str(start + 1): _test(recorded[start::10], conversation) for start in range(10)},
    )


def schemes_for(dataset: str, speakers: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of all fold schemes of a corpus, the default first, the one that is made from its speakers last."""
    made = TEN_FOLDS if len(set(speakers)) > MOST_LEFT_OUT else LOSO
    return (*corpus_facts(dataset).fold_schemes, made)


def fold_scheme(dataset: str, name: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme of a corpus by name: committed, or made from the speakers. Raises FoldError listing valid names."""
    everyone = set(speakers)
    valid = schemes_for(dataset, everyone)
    if name not in valid:
        raise FoldError(f"unknown fold scheme {name!r} for {dataset}; valid are {', '.join(valid)}")
    make = {LOSO: leave_one_speaker_out, TEN_FOLDS: ten_folds}.get(name)
    return make(dataset, everyone) if make else load_scheme(name)


def resolve_scheme(name: str | None, known: Sequence[str], speakers: Collection[str]) -> str:
    """Which of the schemes of a folder of shards is meant; the first, its default, by None.

    `speakers` are those of its shards. Raises FoldError listing the valid names.
    """
    if not known:
        told = pluralize(len(speakers), "speaker")
        raise FoldError(f"these shards have no fold scheme: {told}, too few to leave one out")
    if name is not None and name not in known:
        raise FoldError(f"unknown fold scheme {name!r}; valid are {', '.join(known)}")
    return name or known[0]


def resolve_fold(folds: Sequence[str], fold: str) -> str:
    """A fold by name, or by number, from 1, where no fold has that name. Raises FoldError listing the valid ones."""
    if fold in folds:
        return fold
    if fold.isdecimal() and 1 <= int(fold) <= len(folds):
        return folds[int(fold) - 1]
    numbers = "" if all(map(str.isdecimal, folds)) else f", or 1 to {len(folds)}"
    raise FoldError(f"unknown fold {fold!r}; valid are {', '.join(folds)}{numbers}")


def load_scheme(name: str) -> FoldScheme:
    """Committed scheme of that name. Raises FoldError, listing the valid names, where there is none."""
    names = [name for facts in CORPORA.values() for name in facts.fold_schemes]
    if name not in names:
        raise FoldError(f"unknown fold scheme {name!r}; committed are {', '.join(names)}")
    return parse_scheme((_FOLDER / f"{name}.json").read_bytes(), f"{name}.json")


def parse_scheme(data: bytes, where: str) -> FoldScheme:
    """Bytes of a scheme file -> FoldScheme. Raises FoldError that begins with `where`."""
    keys = ("name", "dataset", "source", "note", "covering", "leaves_out", "folds")
    value = _object(_json(data, _MAX_SCHEME_BYTES, where), keys, where)
    folds = {fold: _subjects(sides, f"{where}, fold {fold}") for fold, sides in _folds(value["folds"], where)}
    everyone = {subject for sides in folds.values() for side in sides.values() for subject in side}
    try:
        return FoldScheme(
            name=_name(value["name"], f"{where}, name"),
            dataset=_name(value["dataset"], f"{where}, dataset"),
            source=_text(value["source"], f"{where}, source"),
            note=_text(value["note"], f"{where}, note"),
            folds={fold: _split(sides, everyone) for fold, sides in folds.items()},
            covering=_flag(value["covering"], f"{where}, covering"),
            leaves_out=_flag(value["leaves_out"], f"{where}, leaves_out"),
        )
    except FoldError as error:
        raise error if str(error).startswith(where) else FoldError(f"{where}: {error}") from error


def assign(scheme: FoldScheme, shards: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Assignment:
    """What `folds/<scheme>.json` of a shard folder says.

    `shards` is shard file name -> speaker; `rows` are the built clips, each with `speaker` and `emotion`.
    Subjects of the scheme without a shard are listed as absent. Raises FoldError for a built subject that
    the scheme does not know, unless the scheme says that it leaves subjects out.
    """
    built = set(shards.values())
    strangers = built - set(scheme.subjects)
    if strangers and not scheme.leaves_out:
        raise FoldError(
            f"fold scheme {scheme.name}: {_listed(strangers)} built but unknown to the scheme; "
            f"use {LOSO} or a scheme that names them"
        )
    clips: dict[str, Counter[str]] = {subject: Counter() for subject in built}
    for row in rows:
        if row["speaker"] not in clips:
            raise FoldError(f"fold scheme {scheme.name}: found a clip of {_show(row['speaker'])}, who has no shard")
        clips[row["speaker"]][row["emotion"]] += 1
    return Assignment(
        schema_version=SCHEMA_VERSION,
        name=scheme.name,
        dataset=scheme.dataset,
        source=scheme.source,
        note=scheme.note,
        absent=sorted(set(scheme.subjects) - built),
        left_out=sorted(strangers),
        folds={
            fold: {side: _side(getattr(split, side), shards, clips) for side in SIDES}
            for fold, split in scheme.folds.items()
        },
    )


def read_assignment(data: bytes, shards: Mapping[str, str], where: str) -> Assignment:
    """Bytes of a shard folder's `folds/<scheme>.json` -> its content, checked against the folder's shards.

    `shards` is shard file name -> speaker, from the folder's index. Raises FoldError, beginning with `where`,
    for anything malformed, a subject on two sides, or shards that are not just those of a side's subjects.
    """
    value = _object(_json(data, _MAX_ASSIGNMENT_BYTES, where), tuple(Assignment.__annotations__), where)
    if value["schema_version"] != SCHEMA_VERSION:
        raise FoldError(f"{where}: found schema version {_show(value['schema_version'])}, expected {SCHEMA_VERSION}")
    for key in ("name", "dataset"):
        _name(value[key], f"{where}, {key}")
    for key in ("source", "note"):
        _text(value[key], f"{where}, {key}")
    for key in ("absent", "left_out"):
        _names(value[key], f"{where}, {key}")
    for fold, sides in _folds(value["folds"], where):
        _check_assigned(_object(sides, SIDES, f"{where}, fold {fold}"), shards, f"{where}, fold {fold}")
    return cast(Assignment, value)


def _members(split: Split) -> tuple[str, ...]:
    return (*split.train, *split.validation, *split.test)


def _check_sides(split: Split, where: str) -> None:
    """Every side has subjects, and no subject occurs twice."""
    empty = [side for side in SIDES if not getattr(split, side)]
    if empty:
        raise FoldError(f"{where}: found no {empty[0]} subjects, expected at least one")
    _check_once(_members(split), where)


def _check_once(subjects: Iterable[str], where: str) -> None:
    twice = [subject for subject, count in Counter(subjects).items() if count > 1]
    if twice:
        raise FoldError(f"{where}: {_listed(twice)} on two sides or twice on one; expected each subject once")


def _leave_out(speaker: str, conversation: Mapping[str, str]) -> Split:
    """Split that tests one speaker; `conversation` is speaker -> recording."""
    return replace(_test((conversation[speaker],), conversation), test=(speaker,))


def _test(recordings: Iterable[str], conversation: Mapping[str, str]) -> Split:
    """Split that tests everyone in some recordings."""
    groups = set(conversation.values())
    test = set(recordings)
    validation = set(choose_validation(groups - test))
    return Split(
        test=_recorded_in(test, conversation),
        validation=_recorded_in(validation, conversation),
        train=_recorded_in(groups - test - validation, conversation),
    )


def _recorded_in(recordings: set[str], conversation: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(speaker for speaker, recording in conversation.items() if recording in recordings))


def _side(subjects: Iterable[str], shards: Mapping[str, str], clips: Mapping[str, Counter[str]]) -> Side:
    built = sorted(subject for subject in subjects if subject in clips)
    counts: Counter[str] = Counter()
    for subject in built:
        counts.update(clips[subject])
    return Side(shards=_shards_of(built, shards), subjects=built, clips=dict(sorted(counts.items())))


def _shards_of(subjects: Iterable[str], shards: Mapping[str, str]) -> list[str]:
    wanted = set(subjects)
    return sorted(shard for shard, speaker in shards.items() if speaker in wanted)


def _check_assigned(sides: Mapping[str, Any], shards: Mapping[str, str], where: str) -> None:
    """Sides of one fold as read: well-formed, disjoint, with just the shards of their subjects."""
    everyone: list[str] = []
    for name in SIDES:
        side = _object(sides[name], tuple(Side.__annotations__), f"{where}, {name}")
        subjects = _names(side["subjects"], f"{where}, {name}")
        expected = _shards_of(subjects, shards)
        if side["shards"] != expected:
            found = _show(side["shards"])
            raise FoldError(f"{where}, {name}: found shards {found}, expected {len(expected)}, those of its subjects")
        _check_counts(side["clips"], f"{where}, {name}, clips")
        everyone += subjects
    _check_once(everyone, where)


def _check_counts(value: Any, where: str) -> None:
    if not isinstance(value, dict) or not all(type(count) is int and count >= 0 for count in value.values()):
        raise FoldError(f"{where}: found {_show(value)}, expected raw emotion -> number of clips")
    for emotion in value:
        _text(emotion, where)


def _split(sides: Mapping[str, list[str]], everyone: set[str]) -> Split:
    test, validation = sides["test"], sides["validation"]
    train = sides.get("train", everyone - {*test, *validation})
    return Split(test=tuple(sorted(test)), validation=tuple(sorted(validation)), train=tuple(sorted(train)))


def _subjects(value: Any, where: str) -> dict[str, list[str]]:
    """Side -> subjects of one fold of a scheme file; `train` may be left out."""
    keys = SIDES if isinstance(value, dict) and "train" in value else ("validation", "test")
    return {side: _names(names, f"{where}, {side}") for side, names in _object(value, keys, where).items()}


def _folds(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise FoldError(f"{where}, folds: found {_show(value)}, expected fold name -> sides")
    for fold, sides in value.items():
        yield _name(fold, f"{where}, folds"), sides


def _json(data: bytes, limit: int, where: str) -> Any:
    if len(data) > limit:
        raise FoldError(f"{where}: found {len(data)} bytes, expected at most {limit}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FoldError(f"{where}: not JSON that can be parsed ({type(error).__name__})") from error


def _object(value: Any, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        found = ", ".join(map(_show, value)) if isinstance(value, dict) else _show(value)
        raise FoldError(f"{where}: found {found[:200]}; expected just {', '.join(keys)}")
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise FoldError(f"{where}: found {_show(value)}, expected up to 64 letters, digits, '_' and '-'")
    return value


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        raise FoldError(f"{where}: found {_show(value)}, expected a list of subject ids")
    return [_name(item, where) for item in value]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise FoldError(f"{where}: found {_show(value)}, expected text of at most {_MAX_TEXT} characters")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise FoldError(f"{where}: found {_show(value)}, expected true or false")
    return value


def _show(value: Any) -> str:
    return repr(value)[:80]


def _listed(subjects: Iterable[str]) -> str:
    """`subject 07` or `subjects 07, 08, ...`, at most ten of them."""
    names = sorted(subjects)
    more = ", ..." if len(names) > 10 else ""
    return f"subject{'s' if len(names) != 1 else ''} {', '.join(names[:10])}{more}"
