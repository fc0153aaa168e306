"""Which folds of a scheme can be used with what was built: every side needs clips that have a class."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from manifests import folds
from manifests.corpora import corpus_facts
from manifests.folds import SIDES, FoldFile
from manifests.joined_folds import WHOLE
from manifests.text import pluralize, shorten_list


def usable_folds(
    file: FoldFile, emotions: Collection[str] | None = None, sides: Sequence[str] = SIDES
) -> tuple[str, ...]:
    """Folds with a clip on each of some sides; of the raw emotions that have a class, None for all."""
    return tuple(
        fold for fold, found in file.folds.items() if all(_count(found[side].clips, emotions) for side in sides)
    )


def describe_usable(file: FoldFile) -> str:
    """`ravdess-6fold`, or `ravdess-6fold (2 of 6 folds can be used: 1, 3)` where only some can be used."""
    usable = usable_folds(file)
    if len(usable) == len(file.folds):
        return file.name
    names = f": {shorten_list(usable, 10)}" if usable else ""
    return f"{file.name} ({len(usable)} of {pluralize(len(file.folds), 'fold')} can be used{names})"


def describe_unusable(
    file: FoldFile, fold: str, emotions: Collection[str] | None = None, sides: Sequence[str] = SIDES
) -> str:
    """Why a fold cannot be used: corpus, scheme, fold, side and what it lacks; empty if it can.

    A corpus that is trained on, or tested, as a whole has neither scheme nor fold.
    """
    for side in sides:
        found = file.folds[fold][side]
        if _count(found.clips, emotions):
            continue
        where = f"{file.dataset}: " if fold == WHOLE else f"{file.dataset}, scheme {file.name}, fold {fold}: "
        if found.clips:
            names = [name or "no label" for name in sorted(found.clips)]
            return f"{where}no clip of the {side} side has a class (found {shorten_list(names)})"
        expected = _expected_speakers(file, fold, side)
        if missing := len(expected):
            return f"{where}the {side} side is empty: none of its {pluralize(missing, 'speaker')} was built"
        without = "; FIXED_EPOCHS=1 trains without it" if side == "validation" else ""
        return f"{where}the {side} side is empty{without}"
    return ""


def advise_folds(
    files: Iterable[FoldFile], emotions: Collection[str] | None = None, sides: Sequence[str] = SIDES
) -> str:
    """Which folds of some schemes can be used instead."""
    every = list(files)
    usable = [(file.name, usable_folds(file, emotions, sides)) for file in every]
    fitting = [
        f"SCHEME={name} FOLD={names[0]}" + (f" (or {shorten_list(names[1:])})" if names[1:] else "")
        for name, names in usable
        if names
    ]
    if fitting:
        return f"folds that can be used: {'; '.join(fitting)}"
    speakers = {
        speaker for file in every for fold in file.folds.values() for side in SIDES for speaker in fold[side].subjects
    }
    return f"no fold of any scheme can be used: a split of one's own can ({folds.advise_split(len(speakers))})"


def _count(clips: Iterable[str], emotions: Collection[str] | None) -> int:
    return sum(emotions is None or emotion in emotions for emotion in clips)


def _expected_speakers(file: FoldFile, fold: str, side: str) -> tuple[str, ...]:
    """Speakers that a committed scheme has on a side; none for others, which are made of built speakers."""
    if file.name not in corpus_facts(file.dataset).fold_schemes:
        return ()
    speakers: tuple[str, ...] = getattr(folds.load_scheme(file.name).folds[fold], side)
    return speakers
