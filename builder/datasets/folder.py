"""Any folder of recordings with a table of clips, speakers and emotions.

The table is `clips.csv` in the folder, or the file in the option `csv`; UTF-8, a header line, then one
line per clip::

    clip       recording, path relative to the folder
    speaker    letters, digits, '_' and '-'; the speakers of the folds
    emotion    any printable text; every distinct value is a class
    intensity  optional, as are the columns below and their cells
    sentence
    sound      separate sound file, relative path, used instead of the recording's own sound
    start,end  the clip within the recording, seconds from its start as a player shows them; both or neither. The sound
               around it is used as well, up to the next clip of another speaker, for spectrogram windows that reach
               beyond the clip

The clip id is the path without suffix, with '_' for all characters except letters, digits, '_' and '-'; a clip that
is part of a recording also has its start in milliseconds, so that one recording can contain many clips.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from builder.datasets.base import ClipSource, Corpus, CorpusError, CorpusNotFoundError, Scan
from builder.datasets.checks import is_media, read_table, visible_files
from builder.datasets.context import Span, find_contexts
from manifests.corpora import CORPORA
from manifests.schema import Clip, SchemaError

REQUIRED = ("clip", "speaker", "emotion")
OPTIONAL = ("intensity", "sentence", "sound", "start", "end")

_DEFAULT_TABLE = "clips.csv"
_SECONDS = re.compile(r"[-+.0-9eE]{1,30}")
_DEPTH = 8  # how deep to look for recordings that the table does not name
_MAX_SPEAKER = 64  # limit of fold files
_MAX_CLIP_ID = 80  # clip ids become names in a tar

Row = Mapping[str, str]


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Clips of the table. Raises CorpusError, naming the line, for a table that cannot be used."""
    table = options.get("csv", _DEFAULT_TABLE)
    path = root / _inside(table, "option csv")
    sources = _add_contexts({number: _source(root, row, f"{path}:{number}") for number, row in _read(path)})
    lines: dict[str, int] = {}
    for number, source in sources.items():
        first = lines.setdefault(source.clip.clip_id.lower(), number)
        if first != number:
            raise CorpusError(
                f"{path}:{first} and {path}:{number}: the same clip id {source.clip.clip_id}; "
                "rename a file or remove a row"
            )
    named = {path for source in sources.values() for path in (source.video, source.sound) if path is not None}
    any_there = any(_exists(source.video) for source in sources.values())
    return Scan(
        # Clips without a file stay in the list: the build drops them and records the reason.
        sources=tuple(
            replace(source, sound=source.sound if source.sound and _exists(source.sound) else None)
            for source in sources.values()
            if any_there
        ),
        missing=tuple(sorted(path.relative_to(root).as_posix() for path in named if not _exists(path))),
        ignored=tuple(
            (path.relative_to(root).as_posix(), f"not named in {table}")
            for path in visible_files(root, _DEPTH)
            if is_media(path) and path not in named
        ),
    )


def _read(table: Path) -> Iterator[tuple[int, Row]]:
    """(line number, column -> cell) of every row, cells stripped; a generator because there may be millions."""
    try:
        text = read_table(table).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CorpusNotFoundError(
            f"found no {table.name}; expected a table with columns {', '.join(REQUIRED)}"
        ) from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{table}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    lines = ([cell.strip() for cell in cells] for cells in reader if cells)
    try:
        header = _check_header(next(lines, []), table)
        cells = next(lines, None)
        if cells is None:
            raise CorpusError(f"{table}: found no rows, expected one per clip")
        while cells is not None:
            yield reader.line_num, _row(header, cells, f"{table}:{reader.line_num}")
            cells = next(lines, None)
    except csv.Error as error:
        raise CorpusError(f"{table}:{reader.line_num}: not a table ({error}); separate cells by commas") from error


def _check_header(header: list[str], table: Path) -> list[str]:
    known = {*REQUIRED, *OPTIONAL}
    if not set(REQUIRED) <= set(header) <= known or len(set(header)) != len(header):
        raise CorpusError(
            f"{table}:1: found columns {', '.join(header)[:200] or 'none'}; expected {', '.join(REQUIRED)} "
            f"and any of {', '.join(OPTIONAL)}, each once"
        )
    return header


def _row(header: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(header):
        raise CorpusError(f"{where}: found {len(cells)} cells, expected {len(header)} ({', '.join(header)})")
    row = dict.fromkeys(OPTIONAL, "") | dict(zip(header, cells, strict=True))
    empty = [column for column in REQUIRED if not row[column]]
    if empty:
        raise CorpusError(f"{where}: found no {empty[0]}, expected one in every row")
    return row


def _source(root: Path, row: Row, where: str) -> ClipSource:
    """Source of one row; the existence of its files is checked later."""
    recording, segment = _inside(row["clip"], where), _segment(row, where)
    if segment is not None and row["sound"]:
        raise CorpusError(f"{where}: found both sound and start, end; expected one or the other: cut the sound first")
    return ClipSource(
        clip=_clip(recording, row, segment, where),
        video=root / recording,
        sound=root / _inside(row["sound"], where) if row["sound"] else None,
        sound_first=bool(row["sound"]),
        segment_seconds=segment,
    )


def _add_contexts(sources: dict[int, ClipSource]) -> dict[int, ClipSource]:
    """Sources with the sound around each segment that may be used."""
    recordings: dict[Path, dict[int, Span]] = {}
    for number, source in sources.items():
        if source.segment_seconds is not None:
            start, end = source.segment_seconds
            span = Span(speaker=source.clip.speaker, start_seconds=start, end_seconds=end)
            recordings.setdefault(source.video, {})[number] = span
    for spans in recordings.values():
        for number, context in zip(spans, find_contexts(list(spans.values())), strict=True):
            sources[number] = replace(sources[number], context_seconds=context)
    return sources


def _clip(recording: PurePosixPath, row: Row, segment: tuple[float, float] | None, where: str) -> Clip:
    clip_id = re.sub(r"[^A-Za-z0-9_-]", "_", recording.with_suffix("").as_posix())
    if segment is not None:
        clip_id += f"_{round(segment[0] * 1000)}"
    for name, value, limit in (("speaker", row["speaker"], _MAX_SPEAKER), ("clip id", clip_id, _MAX_CLIP_ID)):
        if len(value) > limit:
            raise CorpusError(f"{where}: {name} {value[:20]}... has {len(value)} characters, expected at most {limit}")
    if not row["emotion"].isprintable():  # it becomes the name of a class
        raise CorpusError(f"{where}: found emotion {row['emotion'][:80]!r}; expected printable characters only")
    try:
        return Clip(
            clip_id=clip_id,
            speaker=row["speaker"],
            emotion=row["emotion"],
            intensity=row["intensity"] or None,
            sentence=row["sentence"] or None,
        )
    except SchemaError as error:
        raise CorpusError(f"{where}: {error}") from error


def _segment(row: Row, where: str) -> tuple[float, float] | None:
    if not row["start"] and not row["end"]:
        return None
    words = [row["start"].strip(), row["end"].strip()]
    try:  # float() also reads 1_0 as 10, and digits of other scripts
        start, end = (float(word) if _SECONDS.fullmatch(word) else math.nan for word in words)
    except ValueError:
        start, end = math.nan, math.nan
    if not 0 <= start < end < math.inf:
        found = f"found start {words[0][:40]!r} and end {words[1][:40]!r}"
        raise CorpusError(f"{where}: {found}; expected seconds, 0 <= start < end")
    return start, end


def _inside(name: str, where: str) -> PurePosixPath:
    """Validate a path relative to the folder. Raises CorpusError for a path outside of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.name or ".." in path.parts or "\0" in name:
        raise CorpusError(f"{where}: found path {name[:200]!r}; expected a file below the folder, without '..'")
    return path


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system, a folder that may not be read
        return False


CORPUS = Corpus(
    name="folder",
    title="Recordings of one's own",
    citation="none",
    facts=CORPORA["folder"],
    scan=scan,
    how_to_get="no download needed: these are your own recordings, listed in clips.csv",
    options={"csv": ()},
)
