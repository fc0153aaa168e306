"""Fold schemes: the test, validation and training speakers of each fold. Pure, except for reading committed schemes.

A fold has three sides: train, validation and test. A scheme lists speakers, never clips, so that no speaker can be on
two sides; a rule of the scheme may leave out clips whose text is read by speakers of several sides. Each fold has its
own test speakers; validation speakers are disjoint from these and not trained on; all others are training speakers.
Splits of one's own, `manifests.splits`, may list clips. Literature and fold files also call speakers subjects.

    committed scheme, manifests/folds/<name>.json
        {"name", "dataset", "source", "note", "covering", "leaves_out", "shared_text",
         "folds": {"1": {"test": [...], "validation": [...], "train": [...]}, ...}}
        Without "train" a fold trains on every other speaker of the scheme; "shared_text" is optional.
    fold file of a shard folder, folds/<name>.json: see `FoldFile`

Both may be untrusted: sizes, types, names and the rules above are checked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from manifests.corpora import CORPORA, corpus_facts
from manifests.errors import UserError
from manifests.files import describe_os_error, read_limited
from manifests.records import SchemaError, from_json
from manifests.schema import NAME, SCHEMA_VERSION, UNLABELLED, dump_json
from manifests.text import pluralize, shorten_list

#: What `--split` selects -> sides of a fold that it needs: training selects the epoch on validation speakers.
SPLIT_SIDES = {"train": ("train", "validation"), "validation": ("validation",), "test": ("test",)}

LOSO = "loso"
FIVE_FOLDS, TEN_FOLDS = "speakers-5fold", "speakers-10fold"
#: Schemes that are made from the speakers of a corpus.
GENERATED = (LOSO, FIVE_FOLDS, TEN_FOLDS)
#: Most speakers for leave-one-speaker-out: each fold lists all other speakers, so the file grows with the
#: square of the speakers. Larger corpora use ten folds instead.
MAX_LEFT_OUT = 200
SIDES = ("train", "validation", "test")
#: What a scheme does with clips whose text is read by speakers of several sides: keep them; leave them out of every
#: side; leave out of training and validation those whose text the test side has.
SharedText = Literal["kept", "left_out", "disjoint"]
MAX_FOLD_FILE_BYTES = 1 << 28

_FOLDER = Path(__file__).parent / "folds"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_SCHEME_BYTES = 1 << 20
_MAX_TEXT = 2000


class AnyClip(Protocol):
    """A row of the index, or another description of a clip."""

    @property
    def clip_id(self) -> str: ...

    @property
    def sentence(self) -> str | None: ...


class FoldError(UserError):
    """A fold scheme or a fold file is invalid; one line with where, what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class FoldSpeakers:
    """Speakers on each side of one fold, sorted; no speaker is on two sides."""

    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FoldScheme:
    """A partition of a corpus's speakers into folds.

    Raises FoldError if a speaker is on two sides, a side is empty, or the test sets overlap or do not cover.
    """

    name: str
    dataset: str
    source: str
    """Where the partition comes from."""
    note: str
    folds: Mapping[str, FoldSpeakers]
    """Fold name -> speakers of its sides."""
    covering: bool = True
    """Whether every speaker is tested in one fold; False for a scheme of one fold."""
    leaves_out: bool = False
    """Whether the scheme deliberately leaves out speakers of the corpus."""
    shared_text: str = "kept"
    """One of `SharedText`; which clips share their text is a fact of the corpus, `CorpusFacts.text`."""

    def __post_init__(self) -> None:
        where, tested = f"fold scheme {self.name}", dict[str, str]()
        if self.shared_text not in get_args(SharedText):
            valid = ", ".join(get_args(SharedText))
            raise FoldError(f"{where}: found shared_text {self.shared_text[:80]!r}, expected one of {valid}")
        if not self.folds:
            raise FoldError(f"{where}: found no folds, expected at least one")
        for fold, speakers in self.folds.items():
            if empty := [side for side in SIDES if not getattr(speakers, side)]:
                raise FoldError(f"{where}, fold {fold}: found no {empty[0]} speakers, expected at least one")
            _check_once((*speakers.train, *speakers.validation, *speakers.test), f"{where}, fold {fold}: ")
            for speaker in speakers.test:
                if tested.setdefault(speaker, fold) != fold:
                    found = f"{where}: speaker {speaker} is tested in folds {tested[speaker]} and {fold}"
                    raise FoldError(f"{found}; expected test sets without a common speaker")
        untested = set(self.speakers) - set(tested)
        if self.covering and untested:
            raise FoldError(f"{where}: {_list_speakers(untested)} in no test set; expected every speaker tested once")

    @property
    def speakers(self) -> tuple[str, ...]:
        """All speakers of the scheme, sorted."""
        sides = (getattr(speakers, side) for speakers in self.folds.values() for side in SIDES)
        return tuple(sorted(set().union(*sides)))


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of one fold in a shard folder."""

    shards: tuple[str, ...]
    """Shard file names, sorted."""
    subjects: tuple[str, ...]
    """Built speakers, sorted. Fold files have this key; everything else calls them speakers."""
    clips: Mapping[str, int]
    """Raw emotion -> built clips, without those that are left out; "" for clips without a label."""
    left_out_sentences: tuple[str, ...] = ()
    """Sentences (IEMOCAP: dialogues) of these speakers whose clips are not on this side, sorted."""
    clip_ids: tuple[str, ...] | None = None
    """Clips of these speakers that are on this side, sorted; None for all but those that are left out."""

    @property
    def partial(self) -> bool:
        """Whether clips of its shards are not on this side."""
        return bool(self.left_out_sentences) or self.clip_ids is not None

    def has(self, clip: AnyClip) -> bool:
        """Whether a clip of one of its speakers is on this side."""
        return clip.sentence not in self._left_out and (self._chosen is None or clip.clip_id in self._chosen)

    @cached_property
    def _left_out(self) -> frozenset[str]:
        return frozenset(self.left_out_sentences)

    @cached_property
    def _chosen(self) -> frozenset[str] | None:
        return None if self.clip_ids is None else frozenset(self.clip_ids)

    def __post_init__(self) -> None:
        _check_names("subjects", self.subjects)
        _check_names("clip_ids", self.clip_ids or (), NAME)
        if any(len(sentence) > _MAX_TEXT for sentence in self.left_out_sentences):
            raise FoldError(f"left_out_sentences: found one of more than {_MAX_TEXT} characters")
        for emotion, count in self.clips.items():
            if count < 0 or len(emotion) > _MAX_TEXT:
                raise FoldError(f"clips: found {str(dict(self.clips))[:80]}, expected raw emotion -> number of clips")


@dataclass(frozen=True, kw_only=True)
class FoldSides:
    """The three sides of one fold; no clip is on two of them, and no speaker but those that are listed."""

    train: Side
    validation: Side
    test: Side
    shared_speakers: tuple[str, ...] = ()
    """Speakers with clips on several sides, sorted: a split of one's own may have them, if it is asked for."""

    def __post_init__(self) -> None:
        shared, sides = {*self.shared_speakers}, [self[side] for side in SIDES]
        _check_once(speaker for side in sides for speaker in side.subjects if speaker not in shared)
        if any(side.clip_ids is None for side in sides if shared & {*side.subjects}):
            raise FoldError(f"{_list_speakers(shared)} on several sides without a list of clips; expected clip_ids")
        twice = [clip for clip, count in Counter(c for side in sides for c in side.clip_ids or ()).items() if count > 1]
        if twice:
            raise FoldError(f"found clip {shorten_list(sorted(twice))} on two sides, expected each on one")

    def __getitem__(self, side: str) -> Side:
        """One of `SIDES` by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[side]

    def __iter__(self) -> Iterator[str]:
        return iter(SIDES)


@dataclass(frozen=True, kw_only=True)
class FoldFile:
    """Content of a shard folder's `folds/<scheme>.json`: fold -> shards, speakers and clips of each side."""

    schema_version: int
    name: str
    dataset: str
    source: str
    note: str
    absent: tuple[str, ...]
    """Speakers of the scheme that were not built, sorted."""
    left_out: tuple[str, ...]
    """Built speakers that the scheme deliberately leaves out, sorted."""
    folds: Mapping[str, FoldSides]
    """Fold name -> sides."""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise FoldError(f"found schema version {self.schema_version}, expected {SCHEMA_VERSION}")
        _check_described(self.name, self.dataset, self.source, self.note, self.folds)
        _check_names("absent", self.absent)
        _check_names("left_out", self.left_out)


@dataclass(frozen=True, kw_only=True)
class _SchemeSides:
    """One fold of a committed scheme."""

    test: tuple[str, ...]
    validation: tuple[str, ...]
    train: tuple[str, ...] | None = None
    """None for every other speaker of the scheme."""

    def __post_init__(self) -> None:
        for side in SIDES:
            _check_names(side, getattr(self, side) or ())


@dataclass(frozen=True, kw_only=True)
class _SchemeFile:
    """Content of a committed scheme's file."""

    name: str
    dataset: str
    source: str
    note: str
    covering: bool
    leaves_out: bool
    folds: Mapping[str, _SchemeSides]
    shared_text: str = "kept"

    def __post_init__(self) -> None:
        _check_described(self.name, self.dataset, self.source, self.note, self.folds)


def choose_validation(train_speakers: Iterable[str]) -> tuple[str, ...]:
    """About a fifth of the speakers, evenly spaced over the sorted ids, at least one.

    Neighbouring ids often share sex or recording day, so spacing spreads those over both sides.
    Raises FoldError for fewer than two speakers: at least one is needed for training.
    """
    ids = sorted(set(train_speakers))
    if len(ids) < 2:
        raise FoldError(f"found {pluralize(len(ids), 'speaker')} to train on and validate with, expected at least 2")
    count = max(1, round(len(ids) / 5))
    return tuple(ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count))


def leave_one_speaker_out(dataset: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme `loso`: one fold per speaker, named after the speaker.

    Speakers recorded in one conversation stay together: the tested speaker's partner is left out of that
    fold, and partners validate together. Raises FoldError for fewer than three conversations.
    """
    recordings = {speaker: corpus_facts(dataset).recording_group(speaker) for speaker in sorted(set(speakers))}
    if len(set(recordings.values())) < 3:
        raise FoldError(
            f"{dataset}: leave-one-speaker-out found {_list_speakers(recordings)}; expected at least three speakers "
            "of different recordings, one each to test, to validate and to train on"
        )
    return FoldScheme(
        name=LOSO,
        dataset=dataset,
        source="made from the speakers of the corpus",
        note="each fold tests one speaker; about a fifth of the others, evenly spaced over the sorted ids, validates; "
        "whoever shares the tested speaker's recordings (IEMOCAP) is left out of that fold",
        folds={
            speaker: replace(_test_recordings([recording], recordings), test=(speaker,))
            for speaker, recording in recordings.items()
        },
    )


def five_folds(dataset: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme `speakers-5fold`, as `speakers-10fold`, but each fold tests a fifth of the speakers."""
    return _spaced_folds(FIVE_FOLDS, "five", "fifth", 5, dataset, speakers)


def ten_folds(dataset: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme `speakers-10fold`: each fold tests a tenth of the speakers, and validates with a fifth of the others.

    Both are evenly spaced over the sorted ids, so that speakers whose ids begin alike, as MEAD's of one sex do, are on
    every side. Speakers recorded in one conversation stay together. Raises FoldError for fewer than ten conversations.
    """
    return _spaced_folds(TEN_FOLDS, "ten", "tenth", 10, dataset, speakers)


def _spaced_folds(
    name: str, number: str, ordinal: str, count: int, dataset: str, speakers: Iterable[str]
) -> FoldScheme:
    recordings = {speaker: corpus_facts(dataset).recording_group(speaker) for speaker in sorted(set(speakers))}
    groups = sorted(set(recordings.values()))
    if len(groups) < count:
        found = f"{dataset}: {number} folds found {_list_speakers(recordings)}"
        raise FoldError(f"{found}; expected speakers of {number} recordings")
    return FoldScheme(
        name=name,
        dataset=dataset,
        source="made from the speakers of the corpus",
        note=f"each fold tests every {ordinal} speaker of the sorted ids; about a fifth of the others, evenly spaced, "
        "validates; whoever shares recordings (IEMOCAP) is on the same side",
        folds={str(start + 1): _test_recordings(groups[start::count], recordings) for start in range(count)},
    )


def fold_schemes_for(dataset: str, speakers: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of all fold schemes of a corpus, the default first, those generated from its speakers last."""
    made = TEN_FOLDS if len(set(speakers)) > MAX_LEFT_OUT else LOSO
    facts = corpus_facts(dataset)
    return tuple(dict.fromkeys((*facts.fold_schemes, *facts.generated_folds, made)))


def fold_scheme(dataset: str, name: str, speakers: Iterable[str]) -> FoldScheme:
    """Scheme of a corpus by name: committed, or generated from the speakers. Raises FoldError listing valid names."""
    everyone = set(speakers)
    valid = fold_schemes_for(dataset, everyone)
    if name not in valid:
        raise FoldError(f"unknown fold scheme {name!r} for {dataset}; valid are {', '.join(valid)}")
    make = {LOSO: leave_one_speaker_out, FIVE_FOLDS: five_folds, TEN_FOLDS: ten_folds}.get(name)
    return make(dataset, everyone) if make else load_scheme(name)


def resolve_scheme(name: str | None, known: Sequence[str], speakers: Collection[str]) -> str:
    """Validate the name of one of a folder's fold schemes; for None, its default, the first.

    `speakers` are the speakers of its shards. Raises FoldError listing the valid names.
    """
    if not known:
        found = pluralize(len(speakers), "speaker")
        raise FoldError(
            f"these shards have no fold scheme: {found}, too few to leave one out; use a split of your own: "
            f"{advise_split(len(speakers))}"
        )
    if name is not None and name not in known:
        raise FoldError(f"unknown fold scheme {name!r}; valid are {', '.join(known)}")
    return name or known[0]


def advise_split(speakers: int) -> str:
    """The settings of a split of one's own for so many speakers: with fewer than three, one for each side, of clips."""
    if speakers >= len(SIDES):
        return "SCHEME=split.csv with columns speaker and side"
    by_clip = "SCHEME=split.csv with columns clip and side, and ALLOW_SHARED_SPEAKERS=1"
    return f"{by_clip}: its scores are not of unseen speakers"


def resolve_fold(folds: Sequence[str], fold: str, speaker_name: Callable[[str], str] = str) -> str:
    """A fold by name, by the name of the speaker that it tests, or by number from 1, unless names are numbers.

    `speaker_name` is the id of a speaker -> the name for people. Raises FoldError listing the valid folds.
    """
    if fold in folds:
        return fold
    if named := [name for name in folds if speaker_name(name) == fold]:
        return named[0]
    has_numbers = not any(map(str.isdecimal, folds))
    if has_numbers and fold.isdecimal() and 1 <= int(fold) <= len(folds):
        return folds[int(fold) - 1]
    valid = ", ".join(describe_fold(name, speaker_name) for name in folds)
    raise FoldError(f"unknown fold {fold!r}; valid are {valid}{f', or 1 to {len(folds)}' if has_numbers else ''}")


def describe_fold(fold: str, speaker_name: Callable[[str], str]) -> str:
    """A fold with the name of the speaker that it tests, where that is another one: `Jorg_1-200f2628 (Jörg 1)`."""
    name = speaker_name(fold)
    return fold if name == fold else f"{fold} ({name})"


def load_scheme(name: str) -> FoldScheme:
    """Load a committed scheme by name. Raises FoldError, listing the valid names, for an unknown one."""
    names = [name for facts in CORPORA.values() for name in facts.fold_schemes]
    if name not in names:
        raise FoldError(f"unknown fold scheme {name!r}; committed are {', '.join(names)}")
    return parse_scheme((_FOLDER / f"{name}.json").read_bytes(), f"{name}.json")


def parse_scheme(data: bytes, where: str) -> FoldScheme:
    """Bytes of a scheme file -> FoldScheme. Raises FoldError that begins with `where`."""
    file: _SchemeFile = _parse(_SchemeFile, data, _MAX_SCHEME_BYTES, where)
    everyone = {s for sides in file.folds.values() for s in (*sides.test, *sides.validation, *(sides.train or ()))}
    folds = {
        fold: FoldSpeakers(
            test=tuple(sorted(sides.test)),
            validation=tuple(sorted(sides.validation)),
            train=tuple(sorted(everyone - {*sides.test, *sides.validation} if sides.train is None else sides.train)),
        )
        for fold, sides in file.folds.items()
    }
    try:
        return FoldScheme(**{**vars(file), "folds": folds})
    except FoldError as error:
        raise FoldError(f"{where}: {error}") from error


def assign(scheme: FoldScheme, shards: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> FoldFile:
    """Content of a shard folder's `folds/<scheme>.json`.

    `shards` is shard file name -> speaker; `rows` are the built clips, each with `speaker` and `emotion`, and with
    `sentence` for a scheme that leaves out clips by their text. Speakers of the scheme without a shard are listed as
    absent. Raises FoldError for a built speaker that is not in the scheme, unless the scheme leaves speakers out.
    """
    built = set(shards.values())
    unknown = built - set(scheme.speakers)
    if unknown and not scheme.leaves_out:
        raise FoldError(
            f"fold scheme {scheme.name}: {_list_speakers(unknown)} built but unknown to the scheme; "
            f"use {LOSO} or a scheme that names them"
        )
    by_text = scheme.shared_text != "kept"
    clips: dict[str, Counter[tuple[str | None, str]]] = {speaker: Counter() for speaker in built}
    for row in rows:
        if row["speaker"] not in clips:
            found = f"fold scheme {scheme.name}: found a clip of {str(row['speaker'])[:80]!r}"
            raise FoldError(f"{found}, who has no shard")
        clips[row["speaker"]][row["sentence"] if by_text else None, row["emotion"] or UNLABELLED] += 1

    def assign_side(side: str, speakers: FoldSpeakers) -> Side:
        present = tuple(sorted(built.intersection(getattr(speakers, side))))
        left_out = _left_out_sentences(scheme, side, present, built.intersection(speakers.test), clips)
        counts: Counter[str] = Counter()
        for speaker in present:
            for (sentence, emotion), count in clips[speaker].items():
                if sentence not in left_out:
                    counts[emotion] += count
        return Side(
            shards=_find_shards(present, shards),
            subjects=present,
            clips=dict(sorted(counts.items())),
            left_out_sentences=tuple(sorted(left_out)),
        )

    return FoldFile(
        schema_version=SCHEMA_VERSION,
        name=scheme.name,
        dataset=scheme.dataset,
        source=scheme.source,
        note=scheme.note,
        absent=tuple(sorted(set(scheme.speakers) - built)),
        left_out=tuple(sorted(unknown)),
        folds={
            fold: FoldSides(
                train=assign_side("train", speakers),
                validation=assign_side("validation", speakers),
                test=assign_side("test", speakers),
            )
            for fold, speakers in scheme.folds.items()
        },
    )


def dump_fold_file(file: FoldFile) -> bytes:
    """FoldFile -> bytes of `folds/<scheme>.json`, without the fields that few schemes have where they say nothing."""
    plain, unsaid = asdict(file), {"left_out_sentences": (), "clip_ids": None, "shared_speakers": ()}
    for fold in plain["folds"].values():
        for part in (fold, *(fold[side] for side in SIDES)):
            for name in [name for name, value in unsaid.items() if name in part and part[name] == value]:
                del part[name]
    return (dump_json(plain) + "\n").encode()


def load_fold_file(path: Path, shards: Mapping[str, str]) -> FoldFile:
    """Read a shard folder's `folds/<scheme>.json`. Raises FoldError as `read_fold_file`, or if it cannot be read."""
    try:
        data = read_limited(path, MAX_FOLD_FILE_BYTES)
    except FileNotFoundError as error:
        raise FoldError(f"{path}: missing; fetch or build the folder again") from error
    except OSError as error:
        raise FoldError(f"{describe_os_error(error)}; fetch or build the folder again") from error
    return read_fold_file(data, shards, str(path))


def read_fold_file(data: bytes, shards: Mapping[str, str], where: str) -> FoldFile:
    """Bytes of a shard folder's `folds/<scheme>.json` -> FoldFile, checked against the folder's shards.

    `shards` is shard file name -> speaker, from the folder's index. Raises FoldError, beginning with `where`, for
    anything malformed, a speaker on two sides, or a side whose shards are not exactly those of its speakers.
    """
    file = parse_fold_file(data, where)
    for fold, sides in file.folds.items():
        for name in SIDES:
            side, expected = sides[name], _find_shards(sides[name].subjects, shards)
            if side.shards != expected:
                found = f"{where}.folds.{fold}.{name}: found shards {shorten_list(side.shards)[:200]}"
                raise FoldError(f"{found}; expected {len(expected)}, those of its speakers")
    return file


def parse_fold_file(data: bytes, where: str) -> FoldFile:
    """Bytes of a fold file -> FoldFile, not compared with any shards. Raises FoldError that begins with `where`."""
    file: FoldFile = _parse(FoldFile, data, MAX_FOLD_FILE_BYTES, where)
    return file


def _test_recordings(tested: Iterable[str], recordings: Mapping[str, str]) -> FoldSpeakers:
    """A fold that tests all speakers of some recordings; `recordings` is speaker -> recording."""
    everything, test = set(recordings.values()), set(tested)
    validation = set(choose_validation(everything - test))

    def speakers_in(chosen: set[str]) -> tuple[str, ...]:
        return tuple(sorted(speaker for speaker, recording in recordings.items() if recording in chosen))

    train = everything - test - validation
    return FoldSpeakers(test=speakers_in(test), validation=speakers_in(validation), train=speakers_in(train))


def _left_out_sentences(
    scheme: FoldScheme,
    side: str,
    speakers: Iterable[str],
    tested: Iterable[str],
    clips: Mapping[str, Iterable[tuple[str | None, str]]],
) -> set[str]:
    """Sentences of a side's speakers that its scheme leaves out; `clips` is speaker -> (sentence, emotion) pairs."""
    if scheme.shared_text == "kept" or (scheme.shared_text == "disjoint" and side == "test"):
        return set()
    text = corpus_facts(scheme.dataset).text
    in_test = {text(sentence) for speaker in tested for sentence, _ in clips[speaker]}
    found = {sentence for speaker in speakers for sentence, _ in clips[speaker] if sentence and text(sentence)}
    return found if scheme.shared_text == "left_out" else {each for each in found if text(each) in in_test}


def _find_shards(speakers: Iterable[str], shards: Mapping[str, str]) -> tuple[str, ...]:
    wanted = set(speakers)
    return tuple(sorted(shard for shard, speaker in shards.items() if speaker in wanted))


def _parse(kind: type[Any], data: bytes, limit: int, where: str) -> Any:
    if len(data) > limit:
        raise FoldError(f"{where}: found {len(data)} bytes, expected at most {limit}")
    try:
        return from_json(kind, json.loads(data), where)
    except SchemaError as error:
        raise FoldError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise FoldError(f"{where}: not JSON that can be parsed ({type(error).__name__})") from error


def _check_described(name: str, dataset: str, source: str, note: str, folds: Mapping[str, Any]) -> None:
    _check_names("name", [name])
    _check_names("dataset", [dataset])
    for place, text in (("source", source), ("note", note)):
        if len(text) > _MAX_TEXT:
            raise FoldError(f"{place}: found {text[:80]!r}, expected text of at most {_MAX_TEXT} characters")
    _check_names("folds", folds)
    if not folds:
        raise FoldError("folds: found {}, expected fold name -> sides")


def _check_names(place: str, names: Iterable[str], valid: re.Pattern[str] = _NAME) -> None:
    for name in names:
        if not valid.fullmatch(name):
            raise FoldError(f"{place}: found {name[:80]!r}, expected up to 64 letters, digits, '_' and '-'")


def _check_once(speakers: Iterable[str], where: str = "") -> None:
    twice = [speaker for speaker, count in Counter(speakers).items() if count > 1]
    if twice:
        raise FoldError(f"{where}{_list_speakers(twice)} on two sides or twice on one; expected each speaker once")


def _list_speakers(speakers: Iterable[str]) -> str:
    """`speaker 07` or `speakers 07, 08 and 3 more`."""
    names = sorted(speakers)
    return f"speaker{'' if len(names) == 1 else 's'} {shorten_list(names, 10)}"
