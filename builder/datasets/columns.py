"""Which column of a table is the clip, which the speaker, and so on: by its name, a synonym, or the user's choice."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from builder.datasets.base import CorpusError
from manifests.text import shorten_list

REQUIRED = ("clip", "speaker")
OPTIONAL = ("emotion", "intensity", "sentence", "sound", "start", "end")
#: Other names of columns. Case, spaces, '_' and '-' make no difference, here and in the names above.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "clip": ("file", "filename", "path", "video", "recording", "datei"),
    "speaker": ("subject", "actor", "person", "participant", "speakerid", "sprecher"),
    "emotion": ("label", "class", "category", "emotionen", "gefühl"),
    "start": ("von",),
    "end": ("bis",),
}
#: What the user may choose for a column besides a name: the column is not read.
IGNORE = "ignore"

_MEANINGS: Mapping[str, str] = {name: name for name in (*REQUIRED, *OPTIONAL)} | {
    synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms
}
_CHOICES = "|".join((*REQUIRED, *OPTIONAL, IGNORE))
_LIKE = 0.85  # similarity from which an unknown name counts as a misspelling
_SHOWN = 40  # characters of a column's name in messages
_LONGEST = 60  # longer names are no misspellings


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Positions of the columns that are read."""

    positions: Mapping[str, int]
    """Name -> index of its cell in a row."""
    unread: tuple[str, ...]
    """Names of the columns that are not read."""
    notes: tuple[str, ...]
    """What a person may not expect: columns with other names, and columns that are not read."""


def is_known(column: str) -> bool:
    """Whether a column's name in a table is one of the names or a synonym."""
    return _simplify(column) in _MEANINGS


def name_columns(header: Sequence[str], choices: str, where: str) -> Columns:
    """Find the columns of a header. `choices` is `NAME=COLUMN,...`, e.g. `File=clip,Speaker no.=speaker`, or empty.

    Raises CorpusError for required columns that are missing, two columns for one name, and names that look misspelled.
    """
    chosen = _parse_choices(choices)
    if unknown := [name for name in chosen if name not in header]:
        raise CorpusError(
            f"{where}: found no column {unknown[0][:_SHOWN]!r}, which COLUMNS= names; "
            f"the columns are {shorten_list(_cut(header), 20)}"
        )
    taken = {meaning for meaning in chosen.values() if meaning != IGNORE}
    positions: dict[str, int] = {}
    unread: list[str] = []
    for at, column in enumerate(header):
        meaning = chosen.get(column) or _MEANINGS.get(_simplify(column), "")
        if meaning == IGNORE or not meaning or (column not in chosen and meaning in taken):
            unread.append(column)
        elif meaning in positions:
            first = header[positions[meaning]]
            raise CorpusError(
                f"{where}: found columns {first[:_SHOWN]} and {column[:_SHOWN]}, both for {meaning}; expected one; "
                f"choose with {_choice(first, meaning)}"
            )
        else:
            positions[meaning] = at
    _refuse_misspelled([column for column in unread if column not in chosen], where)
    if absent := [name for name in REQUIRED if name not in positions]:
        found = f"found columns {', '.join(header)[:200] or 'none'}, without {' and '.join(absent)}"
        raise CorpusError(
            f"{where}: {found}; expected {', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)}, each once; others are "
            'named with COLUMNS="File=clip Code=speaker"'
        )
    renamed = [f"{header[at][:_SHOWN]} is {name}" for name, at in positions.items() if _simplify(header[at]) != name]
    named = [column for column in unread if column]
    if "emotion" not in positions:
        renamed.append("none is emotion, so that no clip has a label")
    notes = [f"columns: {', '.join(renamed)}"] if renamed else []
    notes += [f"columns that are not read: {shorten_list(_cut(named), 10)}"] if named else []
    return Columns(positions=positions, unread=tuple(named), notes=tuple(notes))


def _parse_choices(text: str) -> dict[str, str]:
    """`File=clip,Person=speaker` -> name in the table -> its meaning."""
    chosen: dict[str, str] = {}
    at = 0
    while at < len(text):  # names in a table may have commas and '=', meanings have none
        found = re.compile(rf"\s*(.+?)\s*=\s*({_CHOICES})\s*(?:,|$)").match(text, at)
        if found is None or found[1] in chosen or found[2] in set(chosen.values()) - {IGNORE}:
            raise CorpusError(
                f"folder: option columns: found {text[:200]!r}; expected NAME=COLUMN, NAME as in the table, COLUMN one "
                f"of {', '.join((*REQUIRED, *OPTIONAL))}, each once, or {IGNORE} (make: COLUMNS=)"
            )
        chosen[found[1]] = found[2]
        at = found.end()
    return chosen


def _refuse_misspelled(columns: Sequence[str], where: str) -> None:
    for column in columns:
        simple = _simplify(column)
        known = simple not in _MEANINGS and len(simple) <= _LONGEST and get_close_matches(simple, _MEANINGS, 1, _LIKE)
        if known:
            raise CorpusError(
                f"{where}: found column {column[:_SHOWN]}, which looks like {known[0]}; rename it, or say "
                f"what it is with {_choice(column, _MEANINGS[known[0]])} or {_choice(column, IGNORE)}"
            )


def _choice(column: str, meaning: str) -> str:
    """The setting that says what a column is."""
    return f'COLUMNS="{shlex.quote(f"{column[:_SHOWN]}={meaning}")}"'


def _simplify(column: str) -> str:
    return re.sub(r"[\s_-]+", "", column).casefold()


def _cut(columns: Sequence[str]) -> list[str]:
    return [column[:_SHOWN] for column in columns]
