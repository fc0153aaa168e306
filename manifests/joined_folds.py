"""Folds of several corpora at once, and sides of whole corpora for a test across corpora. Pure.

Several corpora have as many folds together as the one with the fewest: K. Of a corpus with more, the k-th of them tests
what its folds k, k + K, k + 2 K, ... test, so that still every speaker is tested once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from manifests.corpora import corpus_facts
from manifests.folds import SIDES, FoldError, FoldFile, FoldSides, Side, choose_validation
from manifests.index import Row
from manifests.schema import SCHEMA_VERSION
from manifests.splits import make_sides
from manifests.text import pluralize

#: Name of the scheme of a test across corpora, and of its only fold.
CROSS_CORPUS, WHOLE = "cross-corpus", "whole"

_LONGEST_NAME = 64


def count_joined(files: Iterable[FoldFile]) -> int:
    """K, the number of folds that the schemes of several corpora have together.

    Raises FoldError for a fixed split together with a cross-validation, of which it would test everything.
    """
    counts = {file.dataset: len(file.folds) for file in files}
    if min(counts.values()) == 1 < max(counts.values()):
        found = ", ".join(f"{dataset} {pluralize(count, 'fold')}" for dataset, count in counts.items())
        raise FoldError(
            f"found schemes of {found}; expected several folds of each corpus, or one of each: choose with "
            'SCHEME="a b", one for each corpus'
        )
    return min(counts.values())


def group_folds(file: FoldFile, count: int) -> dict[str, tuple[str, ...]]:
    """Number of each of `count` joined folds, from 1 -> the folds of a scheme whose speakers it tests."""
    names = tuple(file.folds)
    return {str(number + 1): names[number::count] for number in range(count)}


def join_folds(file: FoldFile, count: int, shards: Mapping[str, str], rows: Iterable[Row]) -> FoldFile:
    """A scheme with `count` folds, named by their numbers: see `group_folds`.

    Where several folds are joined, a clip is tested that any of them tests. Of the others, those that one of them
    leaves out are on no side, those validate that did so in the first of them that has any left, and the rest trains.

    Args:
        file: the scheme, of at least `count` folds.
        shards: shard file name -> speaker.
        rows: all clips of the folder's index; they are only read if folds are joined.

    Raises FoldError for a scheme of fewer folds.
    """
    if len(file.folds) < count:
        raise FoldError(f"{file.name}: found {pluralize(len(file.folds), 'fold')}, expected at least {count}")
    groups = group_folds(file, count)
    if len(file.folds) == count:
        folds = {number: file.folds[names[0]] for number, names in groups.items()}
    else:
        clips = {row.clip_id: row for row in rows}
        folds = {number: _join([file.folds[name] for name in names], clips, shards) for number, names in groups.items()}
    same = [*folds] == [*file.folds]
    name = file.name if same else f"{count}-of-{file.name}"[:_LONGEST_NAME]
    return FoldFile(**{**vars(file), "name": name, "folds": folds})


def _join(folds: Sequence[FoldSides], clips: Mapping[str, Row], shards: Mapping[str, str]) -> FoldSides:
    by_speaker = [_sides_by_speaker(sides) for sides in folds]
    sides_of = {clip: [_side_of(row, speakers) for speakers in by_speaker] for clip, row in clips.items()}
    kept = {clip: sides for clip, sides in sides_of.items() if "test" not in sides and None not in sides}
    validating = [
        number for number in range(len(folds)) if any(sides[number] == "validation" for sides in kept.values())
    ]
    placed = {clip: "test" for clip, sides in sides_of.items() if "test" in sides}
    for clip, sides in kept.items():
        placed[clip] = "validation" if validating and sides[validating[0]] == "validation" else "train"
    shared = {speaker for sides in folds for speaker in sides.shared_speakers}
    return make_sides(placed, clips, shards, tuple(sorted(shared)))


def _sides_by_speaker(sides: FoldSides) -> dict[str, list[tuple[str, Side]]]:
    """Speaker -> name and content of the sides with clips of this speaker: one, unless speakers are shared."""
    found: dict[str, list[tuple[str, Side]]] = {}
    for name in SIDES:
        for speaker in sides[name].subjects:
            found.setdefault(speaker, []).append((name, sides[name]))
    return found


def _side_of(row: Row, speakers: Mapping[str, Sequence[tuple[str, Side]]]) -> str | None:
    return next((name for name, side in speakers.get(row.speaker, ()) if side.has(row)), None)


def train_on_all(dataset: str, shards: Mapping[str, str], rows: Iterable[Row], *, validation: bool = True) -> FoldFile:
    """One fold that trains on all speakers but, with `validation`, about a fifth, those of `choose_validation`.

    Speakers who were recorded together stay together. Raises FoldError for fewer than two recordings to divide.
    """
    clips, facts = {row.clip_id: row for row in rows}, corpus_facts(dataset)
    groups = {speaker: facts.recording_group(speaker) for speaker in shards.values()}
    if validation and len(set(groups.values())) < 2:
        found = pluralize(len(groups), "speaker")
        raise FoldError(
            f"found {found} to train on and validate with, expected at least 2 of different recordings; "
            "FIXED_EPOCHS=1 (--fixed-epochs) takes no validation"
        )
    validating = set(choose_validation(groups.values())) if validation else set()
    placed = {
        clip: "validation" if groups[row.speaker] in validating else "train"
        for clip, row in clips.items()
        if row.speaker in groups
    }
    return _whole(dataset, make_sides(placed, clips, shards))


def hold_out(dataset: str, shards: Mapping[str, str], rows: Iterable[Row]) -> FoldFile:
    """One fold that tests all clips of a corpus, which is held out from training."""
    clips = {row.clip_id: row for row in rows}
    return _whole(dataset, make_sides(dict.fromkeys(clips, "test"), clips, shards))


def _whole(dataset: str, sides: FoldSides) -> FoldFile:
    return FoldFile(
        schema_version=SCHEMA_VERSION,
        name=CROSS_CORPUS,
        dataset=dataset,
        source="made from the speakers of the corpus",
        note="a corpus as a whole, to train on and to validate with, or to test",
        absent=(),
        left_out=(),
        folds={WHOLE: sides},
    )
