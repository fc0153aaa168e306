"""How many clips and speakers each class of a corpus has, and what of its labels a person should look at. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

from manifests.corpora import LabelScheme
from manifests.folds import SIDES, FoldSides
from manifests.schema import UNLABELLED
from manifests.text import escape_unprintable, shorten_list

#: Raw emotion, or UNLABELLED -> speaker -> number of clips.
LabelCounts = Mapping[str, Mapping[str, int]]

#: Similarity from which two emotions are reported as one that is spelled in two ways.
_LIKE = 0.85
#: Longer emotions, and those of corpora with more of them, are only compared without regard to case and spaces.
_MAX_COMPARED, _LONGEST_COMPARED = 200, 60
_SHOWN = 40  # characters of an emotion in a message


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Clips and speakers of one class."""

    name: str
    clips: int
    speakers: int


def count_labels(clips: Iterable[tuple[str | None, str]]) -> dict[str, Counter[str]]:
    """(raw emotion or None, speaker) of every clip -> raw emotion -> speaker -> number of clips."""
    counts: dict[str, Counter[str]] = {}
    for emotion, speaker in clips:
        counts.setdefault(emotion or UNLABELLED, Counter())[speaker] += 1
    return counts


def count_classes(counts: LabelCounts, scheme: LabelScheme | None = None) -> list[ClassCount]:
    """Clips and speakers of every class of a scheme, in its order; without one every raw emotion is a class."""
    return [
        ClassCount(name=name, clips=sum(speakers.values()), speakers=len(speakers))
        for name, speakers in _speakers_by_class(counts, scheme).items()
    ]


def describe_classes(counts: LabelCounts, scheme: LabelScheme | None = None, most: int | None = None) -> list[str]:
    """A table of the classes with their clips and speakers, one line each; at most the first `most` of them.

    One line says that there are no labels.
    """
    if counts.keys() == {UNLABELLED}:
        return ["no labels: embeddings can be computed of these clips, a classifier cannot be trained on them"]
    classes = count_classes(counts, scheme)
    shown = [(f"  {_shorten(each.name)}", f"{each.clips}", f"{each.speakers}") for each in classes[:most]]
    unlabelled = [counts[UNLABELLED]] if UNLABELLED in counts else []
    outside = [counts[emotion] for emotion in counts.keys() - {UNLABELLED} if scheme and emotion not in scheme.mapping]
    for name, group in (("(left out)", outside), ("(no label)", unlabelled)):
        if group:
            clips = sum(sum(speakers.values()) for speakers in group)
            shown.append((f"  {name}", f"{clips}", f"{len(set().union(*group))}"))
    title = f"classes of {scheme.name}" if scheme else "classes"
    rows = [(title, "clips", "speakers"), *shown]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{name:<{widths[0]}}  {clips:>{widths[1]}}  {speakers:>{widths[2]}}" for name, clips, speakers in rows]
    hidden = len(classes) - len(classes[:most])
    return [*lines, *([f"  ... and {hidden} more"] if hidden else [])]


def describe_sides(sides: Mapping[str, Mapping[str, int]], scheme: LabelScheme) -> list[str]:
    """A table of the classes with their clips on each side, one line each, and what a person should look at.

    `sides` is side -> raw emotion -> clips, in the order of the columns; `train` and `test` are among them. A
    `validation` side without any clip selects no epoch.
    """
    clips = {name: _clips_by_class(counts, scheme) for name, counts in sides.items()}
    return [*tabulate_sides(sides, scheme, f"classes of {scheme.name}"), *_warn_of_classes(clips, scheme.classes)]


def tabulate_sides(sides: Mapping[str, Mapping[str, int]], scheme: LabelScheme, title: str) -> list[str]:
    """A table of the classes with their clips on each side, one line each, below a title; arguments as above."""
    clips = {name: _clips_by_class(counts, scheme) for name, counts in sides.items()}
    rows = [(_shorten(name), *(f"{clips[side][name]}" for side in sides)) for name in scheme.classes]
    widths = [max(map(len, column)) for column in zip(*rows, ("", *sides), strict=True)]
    first = max(len(title), widths[0] + 2)
    lines = [f"{title:<{first}}  " + "  ".join(sides)]
    for name, *counts in rows:
        padded = (f"{count:>{width}}" for count, width in zip(counts, widths[1:], strict=True))
        lines.append(f"  {name:<{first - 2}}  " + "  ".join(padded))
    return lines


def warn_of_sides(corpora: Sequence[FoldSides], schemes: Sequence[LabelScheme]) -> list[str]:
    """What a person should look at of several corpora together, whose schemes have the same classes; one line each."""
    clips = {
        side: sum(
            (_clips_by_class(sides[side].clips, scheme) for sides, scheme in zip(corpora, schemes, strict=True)),
            Counter[str](),
        )
        for side in SIDES
    }
    return _warn_of_classes(clips, schemes[0].classes)


def _warn_of_classes(clips: Mapping[str, Counter[str]], classes: Sequence[str]) -> list[str]:
    """Classes that a side lacks; `clips` is side -> class -> clips."""
    lines = []
    untrained = [repr(_shorten(name)) for name in classes if not clips["train"][name]]
    validation = clips.get("validation", Counter())
    unselected = [repr(_shorten(name)) for name in classes if not validation[name]]
    untested = [repr(_shorten(name)) for name in classes if not clips["test"][name]]
    if untrained:
        lines.append(f"no training clip of {shorten_list(untrained)}: a classifier cannot learn what it never sees")
    if unselected and validation.total():
        lines.append(
            f"no validation clip of {shorten_list(unselected)}: the epoch is selected by the other classes; "
            "FIXED_EPOCHS=1 selects none"
        )
    if untested:
        lines.append(f"no test clip of {shorten_list(untested)}: UAR is the mean over the other classes")
    return lines


def label_warnings(counts: LabelCounts, scheme: LabelScheme | None = None) -> list[str]:
    """What a person should look at before training on these labels, one line each; [] if nothing.

    Classes of a single speaker, emotions that a scheme does not know, and, without a scheme, emotions that look like
    one emotion in two spellings.
    """
    emotions = counts.keys() - {UNLABELLED}
    warnings = [] if scheme else _describe_likes(sorted(emotions))
    if scheme and (unknown := sorted(emotions - scheme.mapping.keys() - scheme.left_out)):
        named = shorten_list([repr(_shorten(emotion)) for emotion in unknown])
        warnings.append(f"label scheme {scheme.name} has no class for {named}; their clips are not used")
    alone = [name for name, speakers in _speakers_by_class(counts, scheme).items() if len(speakers) == 1]
    if alone:
        named = shorten_list([repr(_shorten(name)) for name in alone])
        warnings.append(f"only one speaker, so that a class cannot be both trained on and tested: {named}")
    return warnings


def _speakers_by_class(counts: LabelCounts, scheme: LabelScheme | None) -> dict[str, Counter[str]]:
    """Class -> speaker -> number of clips, in the order of the classes; speakers have at least one clip."""
    if scheme is None:
        return {emotion: +Counter(counts[emotion]) for emotion in sorted(counts) if emotion != UNLABELLED}
    classes = {name: Counter[str]() for name in scheme.classes}
    for emotion, name in scheme.mapping.items():
        classes[name].update(counts.get(emotion, {}))
    return {name: +speakers for name, speakers in classes.items()}


def _clips_by_class(counts: Mapping[str, int], scheme: LabelScheme) -> Counter[str]:
    """Class -> clips."""
    clips = Counter[str]()
    for emotion, number in counts.items():
        if emotion in scheme.mapping:
            clips[scheme.mapping[emotion]] += number
    return clips


def _describe_likes(emotions: list[str]) -> list[str]:
    """Groups of emotions that differ in case, spaces or accents, then pairs that look like a misspelling."""
    groups: dict[str, list[str]] = {}
    for emotion in emotions:
        groups.setdefault(_simplify(emotion), []).append(emotion)
    lines = [
        f"emotions {' and '.join(repr(_shorten(emotion)) for emotion in group[:5])} differ only in case, spaces or "
        "accents: they are different classes; give them one spelling"
        for group in groups.values()
        if len(group) > 1
    ]
    if len(groups) > _MAX_COMPARED:
        return [*lines, f"found {len(emotions)} different emotions, each of which is a class; is it the right column?"]
    for (one, spelled), (other, spelled_too) in combinations(groups.items(), 2):
        if _looks_misspelled(one, other):
            pair = f"{_shorten(spelled[0])!r} and {_shorten(spelled_too[0])!r}"
            lines.append(
                f"emotions {pair} look alike: they are different classes; give them one spelling if they are one"
            )
    return lines


def _looks_misspelled(one: str, other: str) -> bool:
    """Whether two simplified emotions are probably the same: not if they differ in digits, signs or a prefix."""
    letters, letters_too = (re.sub(r"[\W\d]", "", text) for text in (one, other))
    short, long = sorted((letters, letters_too), key=len)
    if len(long) > _LONGEST_COMPARED or short == long or (long.endswith(short) and len(long) > len(short) + 1):
        return False  # `class 1` and `class 2`, `happy` and `unhappy`
    matcher = SequenceMatcher(None, short, long, autojunk=False)
    return matcher.real_quick_ratio() >= _LIKE and matcher.quick_ratio() >= _LIKE and matcher.ratio() >= _LIKE


def _simplify(emotion: str) -> str:
    """An emotion without case, accents, spaces, '_' and '-'."""
    letters = unicodedata.normalize("NFKD", emotion.casefold())
    return "".join(each for each in letters if not unicodedata.combining(each) and not re.match(r"[\s_-]", each))


def _shorten(name: str) -> str:
    return escape_unprintable(name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}...")
