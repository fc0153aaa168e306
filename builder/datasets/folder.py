"""Any folder of recordings, with a table of clips, speakers and emotions, or without one.

Without a table every recording is a clip without a label. Its speaker is the first folder on its path; a recording
directly in the folder is its own speaker. Ids are made as for a table, and shortened with a hash where names are long.

The table is `clips.csv`, `clips.tsv` or `clips.xlsx` in the folder, or the file in the option `csv`: a header line,
then one line per clip. `manifests.tables` describes what is read, `builder.datasets.columns` other names::

    clip       recording, path relative to the folder
    speaker    the speakers of the folds; any name
    emotion    any printable text; every distinct value is a class. Optional, as are the columns below and their cells:
               a clip without an emotion has no label
    intensity
    sentence
    sound      separate sound file, relative path, used instead of the recording's own sound
    start,end  the clip within the recording, seconds from its start as a player shows them; both or neither. The sound
               around it is used as well, up to the next clip of another speaker, for spectrogram windows that reach
               beyond the clip

The clip id is the path without suffix, with '_' for all characters except letters, digits, '_' and '-'; a clip that
is part of a recording also has its start in milliseconds, so that one recording can contain many clips. Where two
paths would have one id, those in which a character was replaced get a hash of the path. A speaker's id is the name, or,
where a character must be replaced, what is left of it and a hash: see `builder.datasets.names`.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from builder.datasets.base import ClipSource, Corpus, CorpusError, CorpusNotFoundError, Scan
from builder.datasets.checks import has_picture, is_media, visible_files
from builder.datasets.columns import OPTIONAL, REQUIRED, is_known, name_columns
from builder.datasets.context import Span, find_contexts
from builder.datasets.names import add_hash, clean_name, is_plain, name_id, replace_characters
from manifests.corpora import CORPORA
from manifests.schema import Clip, SchemaError
from manifests.tables import Table, TableError, is_table, open_table
from manifests.text import pluralize, shorten_list

#: Names of the table, in the order in which they are looked for.
TABLES = ("clips.csv", "clips.tsv", "clips.xlsx")
#: Columns that most tables have.
COLUMNS = (*REQUIRED, "emotion")
#: Most problems of a table that are listed.
PROBLEMS_LISTED = 20

_SECONDS = re.compile(r"[-+.0-9eE]{1,30}")
_DECIMAL_COMMA = re.compile(r"[0-9]{1,15},[0-9]{1,15}")
_DRIVE = re.compile(r"[A-Za-z]:/")
_DEPTH = 8  # how deep to look for recordings that the table does not name
_MAX_SPEAKER = 64  # limit of fold files
_MAX_CLIP_ID = 80  # clip ids become names in a tar
_PROBLEMS_KEPT = 10_000

Row = Mapping[str, str]


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Clips of the table, or of all recordings. Raises CorpusError, naming the lines, for an unusable table."""
    name, notes = _find_table(root, options)
    if name is None:
        return _scan_recordings(root)
    path = root / name
    try:
        table = open_table(path, is_known)
    except FileNotFoundError as error:
        raise _no_table(name) from error
    except TableError as error:
        raise CorpusError(str(error)) from error
    columns = name_columns(table.header, options.get("columns", ""), f"{path}:{table.header_line}")
    problems, speakers = _Problems(path), _Speakers()
    sources: dict[int, ClipSource] = {}
    try:
        for number, row in _read(table, columns.positions, problems):
            try:
                sources[number] = _source(root, row, speakers.find_id(row["speaker"]))
            except _RowError as error:
                problems.add(number, str(error))
    except (CorpusError, TableError) as error:  # from here on it is no table
        problems.add_last(str(error))
    _separate_ids(root, sources)
    _check_ids(sources, problems, columns.unread)
    problems.check()
    if not sources:
        raise CorpusError(f"{path}: found no rows, expected one per clip")
    _add_contexts(sources)
    unlabelled = sum(source.clip.emotion is None for source in sources.values())
    if 0 < unlabelled < len(sources):
        notes.append(f"{unlabelled} of {pluralize(len(sources), 'clip')} without an emotion: they have no label")
    named = {path for source in sources.values() for path in (source.video, source.sound) if path is not None}
    any_there = any(_exists(source.video) for source in sources.values())
    missing = sorted(path.relative_to(root).as_posix() for path in named if not _exists(path))
    spellings = {name.casefold(): name for name in missing}
    return Scan(
        # Clips without a file stay in the list: the build drops them and records the reason.
        sources=tuple(
            replace(source, sound=source.sound if source.sound and _exists(source.sound) else None)
            for source in sources.values()
            if any_there
        ),
        missing=tuple(missing),
        ignored=tuple(
            (other, f"not named in {name}" + (f", which has {spelling} in other case" if spelling else ""))
            for path in visible_files(root, _DEPTH)
            if is_media(path) and path not in named
            for other in [path.relative_to(root).as_posix()]
            for spelling in [spellings.get(other.casefold())]
        ),
        speaker_names=speakers.replaced,
        notes=(*notes, *table.notes, *columns.notes),
    )


def _scan_recordings(root: Path) -> Scan:
    """Every recording in the folder as a clip without a label. Raises CorpusError."""
    sources: dict[int, ClipSource] = {}
    ignored: list[tuple[str, str]] = []
    others: list[str] = []
    speakers, alone, prefix = _Speakers(), 0, f"{str(root).rstrip('/')}/"
    for path in visible_files(root, _DEPTH):
        name = str(path).removeprefix(prefix)  # as text: relative paths take many times as long
        if "/" not in name and is_table(name):
            others.append(name)
        if not is_media(path):
            continue
        if not has_picture(path) or not name.isprintable():
            ignored.append((name, "sound only" if name.isprintable() else "its name has characters that no text has"))
            continue
        folder, inside, _ = name.partition("/")
        alone += not inside
        try:
            speaker = speakers.find_id(_shorten(folder if inside else path.stem))
        except _RowError as error:
            raise CorpusError(f"{path}: {error}; rename a file or folder, or list the clips in {TABLES[0]}") from error
        clip_id = _clip_id(PurePosixPath(name), None)
        if len(clip_id) > _MAX_CLIP_ID:
            clip_id = _clip_id(PurePosixPath(name), None, hashed=True)
        sources[len(sources)] = ClipSource(clip=Clip(clip_id=clip_id, speaker=speaker, emotion=None), video=path)
    if not sources:
        found = f"found no recording ({pluralize(len(ignored), 'file')} ignored)" if ignored else "found no recording"
        wanted = f"expected some, such as .mp4, or {TABLES[0]} with columns {', '.join(COLUMNS)}"
        raise CorpusNotFoundError(f"{found}; {wanted}")
    _separate_ids(root, sources)
    return Scan(
        sources=tuple(sources.values()),
        ignored=tuple(ignored),
        speaker_names=speakers.replaced,
        notes=(
            "none: each recording is a clip without a label, its speaker the first folder on its path"
            + (f" ({alone} outside of folders: each its own)" if alone else ""),
            f"{TABLES[0]} with columns {', '.join(COLUMNS)} would give speakers and labels",
            *(f"{name}: not read; OPTION=csv={name} reads it" for name in others),
        ),
    )


def _shorten(name: str) -> str:
    """A name that is not too long for a speaker."""
    return name if len(name) <= _MAX_SPEAKER else add_hash(name, name, _MAX_SPEAKER)


def _find_table(root: Path, options: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """Name of the table, None if there is none, and what to say about others. Raises CorpusError."""
    if "csv" in options:
        try:
            return _inside(options["csv"]).as_posix(), []
        except _RowError as error:
            raise CorpusError(f"option csv: {error}") from error
    found = [name for name in TABLES if os.path.lexists(root / name)]
    if not found and "columns" in options:
        raise _no_table(f"{', '.join(TABLES[:-1])} or {TABLES[-1]}")
    if not found:
        return None, []
    return found[0], [f"{name}: not read, because there is {found[0]}" for name in found[1:]]


def _no_table(name: str) -> CorpusNotFoundError:
    return CorpusNotFoundError(f"found no {name}; expected a table with columns {', '.join(COLUMNS)}")


# --- rows ------------------------------------------------------------------------------------------------------


class _RowError(Exception):
    """What is wrong with a row; the message follows the file and the line."""


class _Problems:
    """Everything that is wrong with the rows of a table, so that all can be corrected at once."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._found: list[tuple[int, str]] = []
        self._count = 0

    def add(self, line: int, message: str, *, first_line: int | None = None) -> None:
        """Add what is wrong with a line, or with two."""
        self._count += 1
        if len(self._found) < _PROBLEMS_KEPT:
            where = (
                f"{self._table}:{line}"
                if first_line is None
                else f"{self._table}:{first_line} and {self._table}:{line}"
            )
            self._found.append((line, f"{where}: {message}"))

    def add_last(self, text: str) -> None:
        """Add what makes it impossible to read the rest of the table."""
        self._count += 1
        self._found.append((sys.maxsize, text))

    def check(self) -> None:
        """Raise CorpusError if there is any; several are its details."""
        if not self._count:
            return
        texts = [text for _, text in sorted(self._found)]
        if self._count == 1:
            raise CorpusError(texts[0])
        more = [f"... and {self._count - PROBLEMS_LISTED} more"] if self._count > PROBLEMS_LISTED else []
        raise CorpusError(
            f"{texts[0]} (the first of {self._count} problems)", details=[*texts[:PROBLEMS_LISTED], *more]
        )


def _read(table: Table, positions: Mapping[str, int], problems: _Problems) -> Iterator[tuple[int, Row]]:
    """(line, column -> cell) of every row without a problem; a generator because there may be millions."""
    absent = dict.fromkeys(OPTIONAL, "")
    header, marks = table.header, dict[str, int]()  # decimal mark -> first line with it
    for number, cells in table.rows:
        if len(cells) != len(header) and (len(cells) < len(header) or any(cells[len(header) :])):
            names = ", ".join(header)[:200]
            problems.add(number, f"found {len(cells)} cells, expected {len(header)} ({names})")
            continue
        row = absent | {name: cells[at] for name, at in positions.items()}
        try:
            yield number, _check_row(row, number, {} if table.has_numbers else marks)
        except _RowError as error:
            problems.add(number, str(error))


def _check_row(row: Row, number: int, marks: dict[str, int]) -> Row:
    if empty := [column for column in REQUIRED if not row[column]]:
        raise _RowError(f"found no {empty[0]}, expected one in every row")
    for seconds in (row["start"], row["end"]):
        for mark in ",.":
            if mark in seconds:
                marks.setdefault(mark, number)
    if len(marks) > 1 and number == max(marks.values()):
        raise _RowError(
            f"found start {row['start'][:40]!r} and end {row['end'][:40]!r}, but another decimal mark in line "
            f"{min(marks.values())}; expected only decimal points, or only decimal commas"
        )
    return row


def _source(root: Path, row: Row, speaker: str) -> ClipSource:
    """Source of one row; the existence of its files is checked later."""
    recording, segment = _inside(row["clip"]), _segment(row)
    if segment is not None and row["sound"]:
        raise _RowError("found both sound and start, end; expected one or the other: cut the sound first")
    return ClipSource(
        clip=_clip(_clip_id(recording, segment), speaker, row),
        video=root / recording,
        sound=root / _inside(row["sound"]) if row["sound"] else None,
        sound_first=bool(row["sound"]),
        segment_seconds=segment,
    )


def _clip(clip_id: str, speaker: str, row: Row) -> Clip:
    if len(clip_id) > _MAX_CLIP_ID:
        raise _RowError(
            f"clip id {clip_id[:20]}... has {len(clip_id)} characters, expected at most {_MAX_CLIP_ID}; "
            "shorten the names of the file and its folders"
        )
    if not row["emotion"].isprintable():  # it becomes the name of a class
        raise _RowError(f"found emotion {row['emotion'][:80]!r}; expected printable characters only")
    try:
        return Clip(
            clip_id=clip_id,
            speaker=speaker,
            emotion=row["emotion"] or None,
            intensity=row["intensity"] or None,
            sentence=row["sentence"] or None,
        )
    except SchemaError as error:
        raise _RowError(str(error)) from error


def _segment(row: Row) -> tuple[float, float] | None:
    if not row["start"] and not row["end"]:
        return None
    words = [row["start"].strip(), row["end"].strip()]
    points = [word.replace(",", ".") if _DECIMAL_COMMA.fullmatch(word) else word for word in words]
    try:  # float() also reads 1_0 as 10, and digits of other scripts
        start, end = (float(word) if _SECONDS.fullmatch(word) else math.nan for word in points)
    except ValueError:
        start, end = math.nan, math.nan
    if not 0 <= start < end < math.inf:
        found = f"found start {words[0][:40]!r} and end {words[1][:40]!r}"
        raise _RowError(f"{found}; expected seconds, 0 <= start < end")
    return start, end


def _inside(name: str) -> PurePosixPath:
    """A path relative to the folder, also of Windows. Raises _RowError for a path outside of it."""
    slashes = name.replace("\\", "/")
    path = PurePosixPath(slashes)
    if path.is_absolute() or _DRIVE.match(slashes) or not path.name or ".." in path.parts or "\0" in name:
        raise _RowError(f"found path {name[:200]!r}; expected a file below the folder, without '..'")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system or not in its encoding, a folder not to be read
        return False


# --- ids -------------------------------------------------------------------------------------------------------


class _Speakers:
    """Ids of speakers by the names in the table."""

    def __init__(self) -> None:
        self.replaced: dict[str, str] = {}
        """Id -> name, of names that are no ids."""
        self._ids: dict[str, str] = {}
        self._spellings: dict[str, str] = {}

    def find_id(self, written: str) -> str:
        """Id of a speaker. Raises _RowError for a name that cannot be used, once: its other rows need no mention."""
        if written in self._ids:
            return self._ids[written]
        name = clean_name(written)
        self._ids[written] = name_id(name, _MAX_SPEAKER) if len(name) <= _MAX_SPEAKER else add_hash("", name, 64)
        if len(name) > _MAX_SPEAKER:
            raise _RowError(f"speaker {name[:20]}... has {len(name)} characters, expected at most {_MAX_SPEAKER}")
        if not name.isprintable():
            raise _RowError(f"found speaker {name!r}; expected printable characters only")
        first = self._spellings.setdefault(name.casefold(), name)
        if first != name:
            raise _RowError(f"speakers {first} and {name} differ only in case; expected one spelling")
        if self._ids[written] != name:
            self.replaced[self._ids[written]] = name
        return self._ids[written]


def _clip_id(recording: PurePosixPath, segment: tuple[float, float] | None, *, hashed: bool = False) -> str:
    path = recording.with_suffix("").as_posix()
    start = "" if segment is None else f"_{round(segment[0] * 1000)}"
    plain = replace_characters(path)
    return (add_hash(plain, path, _MAX_CLIP_ID - len(start)) if hashed else plain) + start


def _separate_ids(root: Path, sources: dict[int, ClipSource]) -> None:
    """Give those of equal clip ids a hash in whose paths a character was replaced."""
    uses = Counter(source.clip.clip_id.lower() for source in sources.values())
    if len(uses) == len(sources):
        return
    videos = {source.video for source in sources.values() if uses[source.clip.clip_id.lower()] > 1}
    for number, source in sources.items():
        if source.video in videos:
            recording = PurePosixPath(source.video.relative_to(root))
            if not is_plain(recording.with_suffix("").as_posix()):
                clip_id = _clip_id(recording, source.segment_seconds, hashed=True)
                sources[number] = replace(source, clip=replace(source.clip, clip_id=clip_id))


def _check_ids(sources: Mapping[int, ClipSource], problems: _Problems, unread: Sequence[str]) -> None:
    lines: dict[str, int] = {}
    for number, source in sources.items():
        first = lines.setdefault(source.clip.clip_id.lower(), number)
        if first != number:
            message = f"the same clip id {source.clip.clip_id}; rename a file or remove a row"
            if unread and source.segment_seconds is None and source.video == sources[first].video:
                names = shorten_list([name[:40] for name in unread])
                message += f', or name the columns with the times: COLUMNS="From=start To=end" (not read: {names})'
            problems.add(number, message, first_line=first)


def _add_contexts(sources: dict[int, ClipSource]) -> None:
    """Add the sound around each segment that may be used."""
    recordings: dict[Path, dict[int, Span]] = {}
    for number, source in sources.items():
        if source.segment_seconds is not None:
            start, end = source.segment_seconds
            span = Span(speaker=source.clip.speaker, start_seconds=start, end_seconds=end)
            recordings.setdefault(source.video, {})[number] = span
    for spans in recordings.values():
        for number, context in zip(spans, find_contexts(list(spans.values())), strict=True):
            sources[number] = replace(sources[number], context_seconds=context)


CORPUS = Corpus(
    name="folder",
    title="Recordings of one's own",
    citation="none",
    facts=CORPORA["folder"],
    scan=scan,
    how_to_get="no download needed: these are your own recordings, best listed in clips.csv or clips.xlsx",
    options={"csv": (), "columns": ()},
)
