"""A report as Markdown and as one HTML page, from the same data: templates are in `templates/`. Pure.

Names in a folder of runs may come from a stranger, so templates escape every value, for Markdown as for HTML. The page
loads no other file and has no script, and its content policy forbids both.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.nodes import EvalContext
from markupsafe import Markup

_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]|~#$])")


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a table."""

    cells: tuple[str, ...]
    ours: bool = True


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Text in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportFigure:
    """A PNG."""

    name: str
    """File name, of letters, digits, '_', '-' and one dot."""
    text: str
    """What it shows, for readers who do not see it."""
    png: bytes

    @property
    def base64(self) -> str:
        """The PNG as text, for a data URI."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True, kw_only=True)
class ReportSound:
    """A WAV file that the page plays."""

    text: str
    wav: bytes

    @property
    def base64(self) -> str:
        """The file as text, for a data URI."""
        return base64.b64encode(self.wav).decode()


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """One corpus."""

    title: str
    tables: tuple[ReportTable, ...]
    figures: tuple[ReportFigure, ...]
    sounds: tuple[ReportSound, ...] = ()


def render_report(title: str, introduction: str, sections: Sequence[ReportSection]) -> tuple[str, str]:
    """The report as GitHub's Markdown, with its figures in `figures/`, and as one HTML page with its figures inside."""
    values = {"title": title, "introduction": introduction, "sections": sections}
    return render_template("report.md.j2", **values), render_template("report.html.j2", **values)


def render_template(name: str, **values: Any) -> str:
    """A template of this package, every value escaped for HTML (`*.html.j2`) or for Markdown (all others)."""
    return _TEMPLATES.get_template(name).render(**values)


@jinja2.pass_eval_context
def _escape_for_markdown(context: EvalContext, value: object) -> object:
    """Text that Markdown shows as it is, on one line; HTML is left to Jinja's own escaping."""
    if context.autoescape or isinstance(value, Markup):
        return value
    return _MARKDOWN_SIGNS.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _code_span(value: str) -> Markup:
    return Markup(f"`{' '.join(value.split()).replace('`', '')}`")  # noqa: S704 - nothing can end a span of code


def _verbatim(value: str) -> Markup:
    """An indented block of code."""
    return Markup("\n".join(f"    {line}" for line in value.splitlines()))  # noqa: S704 - no line can end the block


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("train.report"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    finalize=_escape_for_markdown,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"code": _code_span, "verbatim": _verbatim}
