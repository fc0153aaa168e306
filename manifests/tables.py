"""Tables of one's own, as spreadsheet programs save them: text in several encodings and delimiters, or a workbook.

Text is UTF-8, UTF-16 with a byte order mark, or, where its bytes are no UTF-8, Windows-1252; cells are separated by
commas, semicolons or tabs. Of a workbook (.xlsx) the first sheet is read, and of formulas the values saved with them.
Files may be hostile: their sizes are limited before they are parsed.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import UserError, install_command
from manifests.text import shorten_list

WORKBOOK_SUFFIXES = (".xlsx", ".xlsm")
#: Formats of spreadsheet programs that are not read.
OTHER_SUFFIXES = (".xls", ".xlsb", ".ods", ".numbers")
SUFFIXES = (".csv", ".tsv", *WORKBOOK_SUFFIXES)
#: Size of a table with millions of clips; larger ones are not read.
MAX_TABLE_BYTES = 1 << 29
#: Size of all files in a workbook once unpacked; about 500 000 rows. Larger tables are read as text.
MAX_WORKBOOK_BYTES = 1 << 27

_MAX_ENTRIES = 10_000  # files in a workbook, pictures among them
_MAX_ROWS = 1_048_576  # that Excel can save
_MAX_HEADER_LINE, _MAX_COLUMNS = 100, 1000  # of a workbook
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SNIFFED = 1 << 16  # characters in which the header is looked for
_SEPARATOR_LINE = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)  # written by Excel, for itself
_ZIP = b"PK\x03\x04"
#: What a damaged workbook makes its reader raise.
_DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

Cells = list[str]


class TableError(UserError):
    """A file is not a table, or has other columns than expected; one line with the file and the line in it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, read as far as its header."""

    header: Cells
    """Stripped; [] for a table without a line."""
    header_line: int
    rows: Iterator[tuple[int, Cells]]
    """(line, stripped cells) of every row with a cell that is not empty. Raises TableError where it cannot be read."""
    has_numbers: bool
    """Whether numbers are stored as such, so that their decimal mark is known; in text it is a matter of language."""
    notes: tuple[str, ...]
    """How the file was read, where it is not plain."""
    sha256: str


def open_table(path: Path, is_known: Callable[[str], bool]) -> Table:
    """Open a table; `is_known` recognizes the name of a column.

    Raises FileNotFoundError if there is none, TableError for a file that cannot be read as a table.
    """
    suffix = path.suffix.lower()
    if suffix in OTHER_SUFFIXES:
        raise TableError(f"{path}: found a {suffix} file; expected .csv or .xlsx, save it as one of them")
    data = read_bytes(path)
    if suffix in WORKBOOK_SUFFIXES:
        return _open_workbook(path, data)
    if data.startswith(_ZIP):
        raise TableError(f"{path}: found a workbook or an archive, expected text; call a workbook .xlsx")
    return _open_text(path, data, is_known)


def read_bytes(path: Path) -> bytes:
    """Content of a table. Raises FileNotFoundError if there is none, TableError if it cannot be read.

    That is, for a file larger than any table, and one that is not regular: a pipe may never end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TableError(f"{path}: found no regular file; expected a text file")
        if status.st_size > MAX_TABLE_BYTES:
            raise TableError(f"{path}: found {status.st_size} bytes, expected at most {MAX_TABLE_BYTES} of text")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def is_table(name: str | None) -> bool:
    """Whether a setting names a table rather than one of the project's schemes."""
    return name is not None and name.lower().endswith(SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class SchemeTable:
    """A table of folds or of labels: a scheme of one's own."""

    path: Path
    sha256: str
    header: tuple[str, ...]
    """Names of all columns, as in the table."""
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


def read_scheme_table(path: Path, columns: Mapping[str, Sequence[str]]) -> SchemeTable:
    """A table, its columns renamed; columns of other names are left out.

    `columns` is name -> what tables call it, in lower case; all are optional. Raises TableError; FileNotFoundError.
    """
    known = {title: name for name, titles in columns.items() for title in titles}
    table = open_table(path, lambda column: column.lower() in known)
    header = [known.get(column.lower(), "") for column in table.header]
    if twice := [name for name, count in Counter(filter(None, header)).items() if count > 1]:
        raise TableError(f"{path}:{table.header_line}: found two columns for {twice[0]}, expected one")
    lines = []
    for number, cells in table.rows:
        if len(cells) != len(header):
            raise TableError(f"{path}:{number}: found {len(cells)} cells, expected {len(header)}")
        lines.append((number, {name: cell for name, cell in zip(header, cells, strict=True) if name}))
    if not lines:
        raise TableError(f"{path}: found no lines below the header, expected at least one")
    return SchemeTable(path=path, sha256=table.sha256, header=tuple(table.header), lines=tuple(lines))


# --- text ------------------------------------------------------------------------------------------------------


def _open_text(path: Path, data: bytes, is_known: Callable[[str], bool]) -> Table:
    text, encoding = _decode(path, data)
    separator_line = _SEPARATOR_LINE.match(text)
    delimiter = separator_line[1] if separator_line else _find_delimiter(text[:_SNIFFED], is_known)
    if separator_line:
        text = text[separator_line.end() :]
    lines = _read_lines(path, text, delimiter, 1 if separator_line else 0)
    header_line, header = next(lines, (1, []))
    if any("\0" in column for column in header):
        raise TableError(f"{path}: found zero bytes in the header, expected text; save it as CSV UTF-8")
    plain = encoding == "UTF-8" and delimiter == ","
    how = f"{path.name}: read as {encoding}, cells separated by {_DELIMITERS[delimiter]}"
    return Table(
        header=header,
        header_line=header_line,
        rows=lines,
        has_numbers=False,
        notes=() if plain else (how,),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _decode(path: Path, data: bytes) -> tuple[str, str]:
    """Text of a file, and the name of its encoding."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16"), "UTF-16"
        except UnicodeDecodeError as error:
            raise TableError(f"{path}: not UTF-16 (byte {error.start}); save it as CSV UTF-8") from error
    try:
        return data.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if any(not character.isascii() and character != "\N{REPLACEMENT CHARACTER}" for character in _salvage(data)):
            raise TableError(
                f"{path}:{line}: not UTF-8 (byte {error.start}), although other letters are; save it as CSV UTF-8"
            ) from error
    try:
        return data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path}: not UTF-8, UTF-16 or Windows-1252 (byte {error.start}); save it as CSV UTF-8"
        ) from error


def _salvage(data: bytes) -> str:
    """What is UTF-8 in a file that is not: letters of more than one byte hardly ever are by chance."""
    return data.decode("utf-8", errors="replace")


def _find_delimiter(text: str, is_known: Callable[[str], bool]) -> str:
    """The delimiter with which a header has the most known columns; of equals the one with the most columns."""

    def score(delimiter: str) -> tuple[int, int]:
        try:
            reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)
            header = next((cells for cells in reader if any(map(str.strip, cells))), [])
        except csv.Error:
            header = []
        return sum(map(is_known, header)), len(header)

    return max(_DELIMITERS, key=score)  # the first of equals: a comma


def _read_lines(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, Cells]]:
    """(line, stripped cells) of every line with a cell that is not empty; `skipped` lines came before the text."""
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num + skipped, stripped
    except csv.Error as error:
        where = f"{path}:{reader.line_num + skipped}"
        raise TableError(
            f"{where}: not a table ({error}); separate cells by {_DELIMITERS[delimiter]}, and close each quote"
        ) from error


# --- workbooks -------------------------------------------------------------------------------------------------


def _open_workbook(path: Path, data: bytes) -> Table:
    try:
        import openpyxl
    except ImportError as error:
        raise TableError(
            f"{path}: needs openpyxl; {install_command('excel')}, or save the table as CSV UTF-8"
        ) from error
    _check_archive(path, data)
    # About styles and extensions; in force while rows are read.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        sheets = book.worksheets
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if not sheets:
        raise TableError(f"{path}: found no sheet with cells, expected the table in the first one")
    header_line, header = next(_read_sheet(path, sheets[0], 1, _MAX_HEADER_LINE, _MAX_COLUMNS), (1, []))
    while header and not header[-1]:
        header.pop()
    notes = [f"{path.name}: read as a workbook, sheet {sheets[0].title[:40]}"]
    if len(sheets) > 1:
        notes.append(f"sheets that are not read: {shorten_list([sheet.title[:40] for sheet in sheets[1:]], 10)}")
    rows = _read_sheet(path, sheets[0], header_line + 1, _MAX_ROWS, max(len(header), 1))
    return Table(
        header=header,
        header_line=header_line,
        rows=rows,
        has_numbers=True,
        notes=tuple(notes),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _check_archive(path: Path, data: bytes) -> None:
    """Raise TableError unless a file is a zip whose content is of a reasonable size. Nothing is unpacked.

    The sizes that an archive declares are those that are read at most.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except _DAMAGED as error:
        raise TableError(
            f"{path}: not a workbook that can be read; expected .xlsx without a password, save it again"
        ) from error
    size = sum(entry.file_size for entry in entries)
    if len(entries) > _MAX_ENTRIES or size > MAX_WORKBOOK_BYTES:
        raise TableError(
            f"{path}: found {len(entries)} files of {size} bytes in the workbook, expected at most {_MAX_ENTRIES} of "
            f"{MAX_WORKBOOK_BYTES}; save the table as CSV UTF-8"
        )


def _read_sheet(path: Path, sheet: Any, first: int, last: int, width: int) -> Iterator[tuple[int, Cells]]:
    """(row, `width` stripped cells) of every row from `first` to `last` with a cell that is not empty."""
    try:
        sheet.reset_dimensions()  # what a file says about them is often wrong
        rows: Iterator[tuple[object, ...]] = sheet.iter_rows(first, last, 1, width, values_only=True)
        for number, values in enumerate(rows, first):
            if values.count(None) < len(values):  # a hostile row number is followed by a million empty rows
                cells = [_cell_text(value) for value in values]
                if any(cells):
                    yield number, cells
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _cell_text(value: object) -> str:
    """A cell as a person sees it: numbers of speakers are numbers without `.0`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = str(value).strip()
    return text if text.isascii() else text.encode(errors="replace").decode()  # half a character


def _damaged(path: Path, error: BaseException) -> TableError:
    return TableError(f"{path}: a damaged workbook ({type(error).__name__}); open it in Excel and save it again")
