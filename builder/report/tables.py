"""Counts of clips by emotion, speaker and reason, for the tables of the page. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from builder.report.shard_reader import ReportFolder
from manifests.index import Row
from manifests.labels import LABEL_SCHEMES

#: In place of the emotion of clips that have none.
NO_LABEL = "no label"

_Item = TypeVar("_Item")
_ROWS_PER_COLUMN = 31
_SHADES = 5


@dataclass(frozen=True, kw_only=True)
class EmotionCounts:
    """Clips of one raw emotion."""

    emotion: str
    label: str
    """Class in the corpus's default label scheme; empty if there is none."""
    built: int
    flagged: int
    """Number of flagged clips among the built ones."""
    dropped: int

    @property
    def total(self) -> int:
        """Clips of this emotion in the corpus."""
        return self.built + self.dropped


@dataclass(frozen=True, kw_only=True)
class SpeakerCell:
    """Clips of one speaker and one emotion, or of all emotions."""

    built: int
    dropped: int
    style: str
    """`h0` to `h5`, darker for more clips, or `all`."""


@dataclass(frozen=True, kw_only=True)
class ReasonCounts:
    """Dropped clips for each reason, by emotion or by speaker."""

    title: str
    reasons: tuple[str, ...]
    counts: tuple[tuple[str, tuple[int, ...]], ...]
    """(emotion or speaker, one count per reason), sorted."""


def count_by_emotion(build: ReportFolder) -> list[EmotionCounts]:
    """Clips built, flagged and dropped of each raw emotion, sorted."""
    scheme = LABEL_SCHEMES.get(next(iter(build.dataset.label_schemes), ""))
    labels: Mapping[str, str] = scheme.mapping if scheme else {}
    built = Counter(row.emotion or NO_LABEL for row in build.kept)
    flagged = Counter(row.emotion or NO_LABEL for row in build.kept if row.flags)
    dropped = Counter(row.emotion or NO_LABEL for row in build.rows if row.shard is None)
    return [
        EmotionCounts(
            emotion=emotion,
            label=labels.get(emotion) or "",
            built=built[emotion],
            flagged=flagged[emotion],
            dropped=dropped[emotion],
        )
        for emotion in sorted({*built, *dropped})
    ]


def count_by_speaker(build: ReportFolder) -> list[tuple[str, list[SpeakerCell]]]:
    """(speaker, one cell per emotion and one for all), both sorted."""
    built = Counter((row.speaker, row.emotion or NO_LABEL) for row in build.kept)
    dropped = Counter((row.speaker, row.emotion or NO_LABEL) for row in build.rows if row.shard is None)
    emotions = sorted({row.emotion or NO_LABEL for row in build.rows})
    most = max(built.values(), default=1)
    table = []
    for speaker in sorted({row.speaker for row in build.rows}):
        counts = [(built[speaker, emotion], dropped[speaker, emotion]) for emotion in emotions]
        cells = [SpeakerCell(built=b, dropped=d, style=f"h{-(-b * _SHADES // most)}") for b, d in counts]
        cells.append(SpeakerCell(built=sum(b for b, _ in counts), dropped=sum(d for _, d in counts), style="all"))
        table.append((speaker, cells))
    return table


def count_reasons(dropped: Sequence[Row], by: Literal["emotion", "speaker"]) -> ReasonCounts:
    """Count dropped clips by reason, for each emotion or speaker."""
    cells = Counter((getattr(row, by) or NO_LABEL, drop_reason(row)) for row in dropped)
    reasons = tuple(sorted({reason for _, reason in cells}))
    counts = tuple((key, tuple(cells[key, reason] for reason in reasons)) for key in sorted({key for key, _ in cells}))
    return ReasonCounts(title=by, reasons=reasons, counts=counts)


def drop_reason(row: Row) -> str:
    """One of `DROP_REASONS`."""
    return row.reason or "no reason given"


def group_rows(pairs: Iterable[tuple[str, Row]]) -> list[tuple[str, list[Row]]]:
    """(key, its rows in the given order), sorted by key."""
    groups: dict[str, list[Row]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return sorted(groups.items())


def split_columns(rows: Sequence[_Item]) -> list[Sequence[_Item]]:
    """Split the rows of a long table into parts of similar length, to show side by side."""
    parts = -(-len(rows) // _ROWS_PER_COLUMN) or 1
    length = -(-len(rows) // parts) or 1
    return [rows[start : start + length] for start in range(0, len(rows), length)]


def shorten_names(names: Sequence[str], most: int = 12) -> str:
    """`1001, 1002 ... 1018`: the first and the last of many names."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} \N{HORIZONTAL ELLIPSIS} {names[-1]}"
