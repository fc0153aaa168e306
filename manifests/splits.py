"""Splits of one's own: a table of speakers or clips -> the sides of each fold, for any folder of shards.

The table has a header line and one line for each speaker or clip:

    clip or speaker   which one; a clip by its id, or by the name or path of its recording
    fold              the fold that tests it: each fold trains and validates with the others
    side              train, validation or test: a fixed split, which is a scheme with one fold

Other names of the columns are in `COLUMN_NAMES`, such as `file_name` and `Partition`, and of the sides in `SIDE_NAMES`.
With both `fold` and `side`, a line says on which side of which fold a speaker or clip is. Clips that no line names are
on no side. A fold without validation lines validates with about a fifth of its training speakers, evenly spaced over
the sorted ids, if it has at least two.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from manifests.corpora import corpus_facts
from manifests.folds import SIDES, FoldError, FoldFile, FoldSides, Side, choose_validation
from manifests.index import Dataset, Row
from manifests.schema import SCHEMA_VERSION
from manifests.tables import read_scheme_table
from manifests.text import pluralize, shorten_list

#: What tables call the sides.
SIDE_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
#: What tables call the columns.
COLUMN_NAMES = {
    "clip": ("clip", "clip_id", "file", "file_name", "filename", "path"),
    "speaker": ("speaker", "speaker_id", "subject", "actor"),
    "fold": ("fold",),
    "side": ("side", "split", "set", "partition"),
}

#: Most problems of a table that are listed.
PROBLEMS_LISTED = 20

_FIXED = "1"
_FOLD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read_split(
    path: Path,
    dataset: Dataset,
    shards: Mapping[str, str],
    rows: Iterable[Row],
    *,
    allow_shared_speakers: bool = False,
) -> FoldFile:
    """The folds of a table, for the clips of a folder of shards.

    Args:
        path: the table.
        dataset: index of the folder; a speaker may be named as there, or by id.
        shards: shard file name -> speaker.
        rows: all clips of the folder's index; those that were dropped may be named, and are on no side.
        allow_shared_speakers: whether a speaker may have clips on several sides of a fold.

    Raises FoldError, with the line, for a table that names unknown clips or speakers, a clip twice in a fold, or a
    speaker on two sides; OSError.
    """
    table = read_scheme_table(path, COLUMN_NAMES)
    found = table.columns
    if ("clip" in found) == ("speaker" in found) or not found & {"fold", "side"}:
        raise FoldError(
            f"{path}:1: found columns {shorten_list([name[:40] for name in table.header], 10)}, of which "
            f"{' and '.join(sorted(found)) or 'none'} can be used; expected clip or speaker, not both, and "
            f"fold, side or both"
        )
    clips = {row.clip_id: row for row in rows}
    names = _clip_names(clips)
    if "speaker" in found:
        groups = _speaker_clips(clips)
        names = _Names(exact=groups | {dataset.speaker_name(speaker): ids for speaker, ids in groups.items()})
    sides: dict[str, dict[str, str]] = defaultdict(dict)  # fold -> clip id -> side, or "" for the one that tests it
    problems = []
    for number, line in table.lines:
        problem = _place(line, names, sides)
        problems += [f"{path}:{number}: {problem}"] if problem else []
    if problems:
        if len(problems) == 1:
            raise FoldError(problems[0])
        more = [f"... and {len(problems) - PROBLEMS_LISTED} more"] if len(problems) > PROBLEMS_LISTED else []
        raise FoldError(
            f"{problems[0]} (and {pluralize(len(problems) - 1, 'more line')})",
            details=[*problems[:PROBLEMS_LISTED], *more],
        )
    if "side" not in found:
        sides = _cross_validation(sides, clips)
    folds = {
        fold: _fold(f"{path}: fold {fold}", dataset.dataset, sides[fold], clips, shards, allow_shared_speakers)
        for fold in sorted(sides, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    }
    used = {speaker for fold in folds.values() for side in SIDES for speaker in fold[side].subjects}
    shared = ", with speakers on several sides" if any(fold.shared_speakers for fold in folds.values()) else ""
    return FoldFile(
        schema_version=SCHEMA_VERSION,
        name=table.name,
        dataset=dataset.dataset,
        source=f"table {path.name}, SHA-256 {table.sha256}",
        note=f"a split of one's own{shared}",
        absent=(),
        left_out=tuple(sorted({*shards.values()} - used)),
        folds=folds,
    )


def _speaker_clips(clips: Mapping[str, Row]) -> dict[str, list[str]]:
    """Speaker -> ids of the clips."""
    groups = defaultdict(list)
    for clip_id, row in clips.items():
        groups[row.speaker].append(clip_id)
    return groups


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What a line may call clips, or speakers -> ids of the clips."""

    exact: Mapping[str, Sequence[str]]
    """Ids; of clips also paths of recordings, with and without suffix."""
    paths: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """These paths alone, which may be below another folder in the table."""
    bare: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of recordings without folders, with and without suffix."""

    def find(self, named: str) -> Sequence[str]:
        """Ids of the clips that are meant; () for none. Of a recording, suffix and upper folders may differ."""
        path = PurePosixPath(named)
        if named in self.exact or not self.paths:
            return self.exact.get(named, ())
        tails = [PurePosixPath(*path.parts[start:]) for start in range(len(path.parts))]
        for name in (name for tail in tails for name in (str(tail), _without_suffix(tail))):
            if name in self.paths:
                return self.paths[name]
        stem = _without_suffix(path)
        return () if len(tails) > 1 else self.bare.get(named) or self.bare.get(stem) or self.exact.get(stem, ())


def _without_suffix(path: PurePosixPath) -> str:
    """A path without the suffix of a recording; what begins with a digit, as in `take.2`, is part of the name."""
    return str(path.with_suffix("")) if path.suffix[1:2].isalpha() else str(path)


def _clip_names(clips: Mapping[str, Row]) -> _Names:
    """Names of clips. An id counts before a path: `001` is that clip, even if there is a recording `a/001.mp4`."""
    files, stems, bare = (defaultdict[str, list[str]](list) for _ in range(3))
    for clip_id, row in clips.items():
        recording = PurePosixPath(row.source)
        files[row.source].append(clip_id)
        stems[_without_suffix(recording)].append(clip_id)
        for name in {recording.name, _without_suffix(PurePosixPath(recording.name))}:
            bare[name].append(clip_id)
    paths = {**stems, **files}
    return _Names(exact=paths | {clip_id: [clip_id] for clip_id in clips}, paths=paths, bare=bare)


def _place(line: Mapping[str, str], names: _Names, sides: dict[str, dict[str, str]]) -> str:
    """Place the clips of a line on a side; what is wrong with the line, or nothing."""
    kind = "clip" if "clip" in line else "speaker"
    named, fold, side = line[kind].replace("\\", "/"), line.get("fold", _FIXED), line.get("side", "")
    chosen = names.find(named)
    if not chosen:
        near = difflib.get_close_matches(named, names.exact, 1)
        return f"found {kind} {named[:80]!r}, which these shards do not have" + (
            f"; the nearest is {near[0]}" if near else ""
        )
    if kind == "clip" and len(chosen) > 1:
        return f"found clip {named[:80]!r}, the name of {len(chosen)} clips; expected a clip id, as {chosen[0]}"
    if not _FOLD_NAME.fullmatch(fold):
        return f"found fold {fold[:80]!r}, expected up to 64 letters, digits, '_' and '-'"
    if "side" in line and side.lower() not in SIDE_NAMES:
        return f"found side {side[:80]!r}, expected one of {', '.join(SIDES)}"
    place = SIDE_NAMES.get(side.lower(), "")
    for clip_id in chosen:
        if sides[fold].setdefault(clip_id, place) != place or (
            "side" not in line and any(clip_id in others for name, others in sides.items() if name != fold)
        ):
            return f"found {kind} {named[:80]!r} a second time, expected it on one side of a fold"
    return ""


def _cross_validation(tested: Mapping[str, Mapping[str, str]], clips: Mapping[str, Row]) -> dict[str, dict[str, str]]:
    """Fold -> clip -> side, of the fold that tests each clip; validation is chosen later, or is the next fold.

    Where folds share speakers there are no speakers to choose, and the clips of the next fold validate.
    """
    names = sorted(tested)
    if len(names) < 2:
        raise FoldError(
            f"found only fold {names[0]}, expected at least two; name sides in a column side for a fixed split"
        )
    speakers = Counter(speaker for placed in tested.values() for speaker in {clips[clip].speaker for clip in placed})
    shared = max(speakers.values()) > 1
    folds: dict[str, dict[str, str]] = {}
    for number, name in enumerate(names):
        after = names[(number + 1) % len(names)]
        folds[name] = {
            clip: "test" if fold == name else "validation" if shared and fold == after and len(names) > 2 else "train"
            for fold, placed in tested.items()
            for clip in placed
        }
    return folds


def _fold(
    where: str,
    dataset: str,
    placed: Mapping[str, str],
    clips: Mapping[str, Row],
    shards: Mapping[str, str],
    allow_shared_speakers: bool,
) -> FoldSides:
    """One fold; `placed` is clip -> side."""
    sides_of: dict[str, set[str]] = defaultdict(set)
    for clip, side in placed.items():
        sides_of[clips[clip].speaker].add(side)
    shared = {speaker for speaker, sides in sides_of.items() if len(sides) > 1}
    if shared and not allow_shared_speakers:
        raise FoldError(
            f"{where}: {pluralize(len(shared), 'speaker')} on several sides ({shorten_list(sorted(shared))}); expected "
            "each on one side, so that scores are of unseen speakers; ALLOW_SHARED_SPEAKERS=1 accepts it"
        )
    if "validation" not in placed.values() and not shared:
        group = corpus_facts(dataset).recording_group  # speakers who were recorded together stay together
        recordings = {group(speaker) for speaker, sides in sides_of.items() if sides == {"train"}}
        chosen = set(choose_validation(recordings)) if len(recordings) > 1 else set()
        placed = {
            clip: "validation" if side == "train" and group(clips[clip].speaker) in chosen else side
            for clip, side in placed.items()
        }
    return make_sides(placed, clips, shards, tuple(sorted(shared)))


def restrict_split(file: FoldFile, shards: Mapping[str, str], rows: Iterable[Row]) -> FoldFile:
    """A split of one's own for what a folder has now: speakers who were withdrawn leave it, new clips are on no side.

    Arguments as `read_split`.
    """
    clips = {row.clip_id: row for row in rows}
    groups = _speaker_clips(clips)
    folds = {}
    for fold, sides in file.folds.items():
        placed = {
            clip: side
            for side in SIDES
            for speaker in sides[side].subjects
            for clip in groups.get(speaker, ())
            if sides[side].clip_ids is None or sides[side].has(clips[clip])
        }
        present = tuple(speaker for speaker in sides.shared_speakers if speaker in groups)
        folds[fold] = make_sides(placed, clips, shards, present)
    used = {speaker for sides in folds.values() for side in SIDES for speaker in sides[side].subjects}
    return replace(file, folds=folds, left_out=tuple(sorted({*shards.values()} - used)))


def make_sides(
    placed: Mapping[str, str], clips: Mapping[str, Row], shards: Mapping[str, str], shared: tuple[str, ...] = ()
) -> FoldSides:
    """The sides of a fold.

    Args:
        placed: clip id -> side; clips that it does not name are on none.
        clips: clip id -> row, of all clips of a folder's index.
        shards: shard file name -> speaker.
        shared: speakers who may be on several sides.
    """
    complete = Counter(row.speaker for row in clips.values())

    def make_side(name: str) -> Side:
        named = sorted(clip for clip, side in placed.items() if side == name)
        built = [clips[clip] for clip in named if clips[clip].shard is not None]
        speakers = {row.speaker for row in built}
        counts = Counter(clips[clip].speaker for clip in named)
        whole = all(counts[speaker] == complete[speaker] for speaker in speakers) and not speakers & {*shared}
        return Side(
            shards=tuple(sorted(shard for shard, speaker in shards.items() if speaker in speakers)),
            subjects=tuple(sorted(speakers)),
            clips=dict(sorted(Counter(row.raw_label for row in built).items())),
            clip_ids=None if whole else tuple(named),
        )

    train, validation, test = map(make_side, SIDES)
    return FoldSides(train=train, validation=validation, test=test, shared_speakers=shared)
