"""Tables that people write: text with a header line, in the separators that spreadsheets use."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import UserError
from manifests.files import read_limited

SUFFIX = ".csv"
MAX_TABLE_BYTES = 1 << 28


class TableError(UserError):
    """A file is not such a table, or has other columns; one line with the file and the line in it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it was read."""

    path: Path
    sha256: str
    lines: tuple[tuple[int, Mapping[str, str]], ...]
    """Line number, column -> cell; at least one."""

    @property
    def name(self) -> str:
        """The file's name with the beginning of its hash, so that no two contents share it: `split-1a2b3c4d`."""
        return f"{re.sub('[^A-Za-z0-9_-]+', '-', self.path.stem).strip('-')[:50] or 'table'}-{self.sha256[:8]}"

    @property
    def columns(self) -> frozenset[str]:
        """Names of the known columns."""
        return frozenset(self.lines[0][1])


def is_table(name: str | None) -> bool:
    """Whether a setting names a table rather than one of the project's schemes."""
    return name is not None and name.lower().endswith(SUFFIX)


def read_table(path: Path, columns: Mapping[str, Sequence[str]]) -> Table:
    """A table, its columns renamed, its cells stripped; columns of other names are left out.

    `columns` is name -> what tables call it; all are optional. Cells are separated by commas, semicolons or tabs.
    Raises TableError; OSError for a file that is missing, too large or not a regular one.
    """
    data = read_limited(path, MAX_TABLE_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    first_line = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=max(",;\t", key=first_line.count), strict=True)
    known = {title: name for name, titles in columns.items() for title in titles}
    try:
        header = [known.get(cell.strip().lower(), "") for cell in next(reader, [])]
        if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
            raise TableError(f"{path}:1: found two columns for {twice[0]}, expected one")
        lines = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise TableError(f"{path}:{reader.line_num}: found {len(cells)} cells, expected {len(header)}")
            named = zip(header, cells, strict=True)
            lines.append((reader.line_num, {name: cell.strip() for name, cell in named if name}))
    except csv.Error as error:
        raise TableError(f"{path}:{reader.line_num}: not a table ({error}); separate cells by commas") from error
    if not lines:
        raise TableError(f"{path}: found no lines below the header, expected at least one")
    return Table(path=path, sha256=hashlib.sha256(data).hexdigest(), lines=tuple(lines))
