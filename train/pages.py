"""Tables and pictures as Markdown and as one HTML page. Pure.

Names in a folder of runs may come from a stranger, so every text is escaped. The page asks for nothing from anywhere
else, and has no script.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass

_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]|~#$])")
_CSS = """
:root { color-scheme: light dark; --ink: #16191d; --soft: #59626d; --line: #dfe3e8; --ours: #eef6fb; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #98a2ae; --line: #2b313a; --ours: #16242e; --paper: #111418; }
}
body { margin: 0 auto; max-width: 1280px; padding: 32px 24px 80px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 28px; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 44px 0 8px; }
h3 { font-size: 15px; margin: 24px 0 6px; }
p, li { color: var(--soft); max-width: 90ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-size: 12px; }
tr.ours td { background: var(--ours); }
td { overflow-wrap: anywhere; min-width: 3em; }
td:first-child { white-space: nowrap; }
img { max-width: 100%; width: 700px; height: auto; background: #fff; border-radius: 6px; margin: 8px 0; }
""".strip()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table."""

    cells: tuple[str, ...]
    ours: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG."""

    name: str
    """File name, of letters, digits, '_', '-' and one dot."""
    text: str
    """What it shows, for who does not see it."""
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Section:
    """One corpus."""

    title: str
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]


def markdown(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The report as GitHub's Markdown."""
    parts = [f"# {_md(title)}", _md(lead)]
    for section in sections:
        parts.append(f"## {_md(section.title)}")
        parts += [_markdown_table(table) for table in section.tables]
        parts += [f"![{_md(picture.text)}](figures/{picture.name})" for picture in section.pictures]
    return "\n\n".join(parts) + "\n"


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The report as one HTML page with its pictures inside; a policy in it forbids scripts and everything from afar."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{_text(title)}</title>\n'
    body = "".join(map(_html_section, sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{_CSS}\n</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n<p>{_text(lead)}</p>\n{body}"
        "</body>\n</html>\n"
    )


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _markdown_table(table: Table) -> str:
    lines = [f"### {_md(table.title)}", ""]
    rows = [table.columns, tuple("---" for _ in table.columns)]
    lines += [f"| {' | '.join(map(_md, rows[0]))} |", f"| {' | '.join(rows[1])} |"]
    lines += [f"| {' | '.join(map(_md, row.cells))} |" for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {_md(note)}" for note in table.notes)]
    return "\n".join(lines)


def _text(text: str) -> str:
    return html.escape(text)


def _html_section(section: Section) -> str:
    pictures = "".join(map(_html_picture, section.pictures))
    tables = "".join(map(_html_table, section.tables))
    return f"<section>\n<h2>{_text(section.title)}</h2>\n{tables}{pictures}</section>\n"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "".join(map(_html_row, table.rows))
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<h3>{_text(table.title)}</h3>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>\n" + (f"<ul>{notes}</ul>\n" if notes else "")
    )


def _html_row(row: Row) -> str:
    cells = "".join(f"<td>{_text(cell)}</td>" for cell in row.cells)
    whose = "ours" if row.ours else "theirs"
    return f'<tr class="{whose}">{cells}</tr>\n'


def _html_picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return f'<p><img alt="{_text(picture.text)}" src="data:image/png;base64,{data}"></p>\n'
