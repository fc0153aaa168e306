"""Counts, drops, flags and folds as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from builder.report.contents import Contents
from builder.report.markup import Markup, element, joined
from manifests.folds import SIDES, FoldFile, FoldSides, Side
from manifests.index import Row
from manifests.labels import LABEL_SCHEMES
from manifests.schema import DROP_REASONS, FLAGS

#: More of a kind are counted, not listed: `clips.jsonl` has them all.
MOST_LISTED = 100
_MOST_SPEAKERS = 1000
_ROWS_A_COLUMN = 31
#: So many clips of a kind are shown at once; more wait behind their heading.
_FEW = 12
_SHADES = 5


def counts_by_emotion(contents: Contents) -> Markup:
    """A row for each raw emotion, with its class: clips built, flagged, dropped."""
    classes = _classes(contents)
    built, dropped = _tallies(contents.rows)
    flagged = Counter(row.emotion for row in contents.kept if row.flags)
    emotions = _emotions(contents.rows)
    most = max((built[e] + dropped[e] for e in emotions), default=1)
    body = [
        [
            element("th", e, *_class(classes.get(e)), scope="row"),
            _number(built[e]),
            _number(flagged[e]),
            _number(dropped[e], "bad"),
            element("td", _bar(built[e], dropped[e], most), class_="wide"),
        ]
        for e in emotions
    ]
    total = [element("th", "all", scope="row"), *_totals(built, flagged, dropped), element("td")]
    return _table(("emotion", "in shards", "of them flagged", "dropped", ""), [*body, total], class_="emotions")


def counts_by_speaker(contents: Contents) -> Markup:
    """Speakers x emotions, shaded by count, in columns that stay readable for a hundred speakers."""
    speakers = sorted({row.speaker for row in contents.rows})
    cells = Counter((row.speaker, row.emotion, row.shard is not None) for row in contents.rows)
    emotions = _emotions(contents.rows)
    most = max((count for (_, _, kept), count in cells.items() if kept), default=1)
    body = [_speaker_row(speaker, emotions, cells, most) for speaker in speakers[:_MOST_SPEAKERS]]
    grid = element("div", *_side_by_side(("speaker", *emotions, "all"), body), class_="columns")
    return joined([grid, _rest(len(speakers) - _MOST_SPEAKERS, "speaker")])


def drops(contents: Contents) -> Markup:
    """Why clips were left out: by class, by speaker, and each of them with what was found."""
    dropped = [row for row in contents.rows if row.shard is None]
    if not dropped:
        return element("p", "Nothing was dropped.", class_="empty")
    by_emotion = _cross(dropped, "emotion", [row.emotion for row in dropped])
    by_speaker = _cross(dropped, "speaker", [row.speaker for row in dropped])
    reasons = _grouped((_why(row), row) for row in dropped)
    return joined([by_emotion, by_speaker, *(_reason(reason, rows) for reason, rows in reasons)])


def flags(contents: Contents, shown: Iterable[str]) -> Markup:
    """What is worth knowing of clips that were kept; ids of clips shown on the page lead to them."""
    on_page = set(shown)
    groups = _grouped((flag, row) for row in contents.kept for flag in row.flags)
    if not groups:
        return element("p", "No clip was flagged.", class_="empty")
    return joined(_flag(flag, rows, on_page) for flag, rows in groups)


def folds(contents: Contents) -> Markup:
    """Every scheme that was written: subjects and clips of each side, fold by fold."""
    if not contents.assignments:
        return element("p", "No fold scheme fits what was built.", class_="empty")
    return joined(_scheme(a, opened=i == 0) for i, a in enumerate(contents.assignments.values()))


def listed(names: Sequence[str], kind: str) -> Markup:
    """Names in a row, the first of them where there are many."""
    shown = element("p", joined((element("code", name) for name in names[:MOST_LISTED]), " "), class_="ids")
    more = len(names) - MOST_LISTED
    return joined([shown, element("p", f"and {_plural(more, kind)} more", class_="rest") if more > 0 else ""])


def _speaker_row(
    speaker: str, emotions: Sequence[str], cells: Mapping[tuple[str, str, bool], int], most: int
) -> list[Markup]:
    built = [cells[speaker, emotion, True] for emotion in emotions]
    dropped = [cells[speaker, emotion, False] for emotion in emotions]
    row = [_cell(b, d, f"h{-(-b * _SHADES // most)}") for b, d in zip(built, dropped, strict=True)]
    return [element("th", speaker, scope="row"), *row, _cell(sum(built), sum(dropped), "all")]


def _cell(built: int, dropped: int, class_: str) -> Markup:
    lost = element("span", f"\N{MINUS SIGN}{dropped}", class_="bad") if dropped else ""
    return element("td", lost, built or (0 if dropped else "\N{MIDDLE DOT}"), class_=f"n {class_}")


def _cross(rows: Sequence[Row], title: str, keys: Sequence[str]) -> Markup:
    """How many of each reason for every key, which is a row's emotion or speaker."""
    reasons = sorted({_why(row) for row in rows})
    cells = Counter(zip(keys, map(_why, rows), strict=True))
    everyone = sorted(set(keys))
    body = [
        [element("th", key, scope="row"), *(_number(cells[key, reason]) for reason in reasons)]
        for key in everyone[:MOST_LISTED]
    ]
    grid = element("div", *_side_by_side((title, *reasons), body), class_="columns")
    return joined([element("h3", f"By {title}"), grid, _rest(len(everyone) - MOST_LISTED, title)])


def _side_by_side(head: Sequence[str], body: Sequence[Sequence[Markup]]) -> Iterator[Markup]:
    """One table cut into several of much the same length, so that a page shows them next to each other."""
    tables = -(-len(body) // _ROWS_A_COLUMN) or 1
    rows = -(-len(body) // tables) or 1
    for start in range(0, len(body), rows):
        yield _table(head, body[start : start + rows], class_="grid")


def _reason(reason: str, rows: Sequence[Row]) -> Markup:
    body = [
        [
            element("th", element("code", row.clip_id), scope="row"),
            element("td", row.speaker),
            element("td", row.emotion),
            element("td", row.detail or ""),
            element("td", element("code", row.source)),
        ]
        for row in rows[:MOST_LISTED]
    ]
    table = _table(("clip", "speaker", "emotion", "what was found", "recording"), body, class_="drops")
    return _explained(reason, DROP_REASONS, rows, joined([table, _rest(len(rows) - MOST_LISTED, "clip")]))


def _flag(flag: str, rows: Sequence[Row], on_page: set[str]) -> Markup:
    ids = (
        element("a", row.clip_id, href=f"#clip-{row.clip_id}") if row.clip_id in on_page else row.clip_id
        for row in rows[:MOST_LISTED]
    )
    names = element("p", joined((element("code", name) for name in ids), " "), class_="ids")
    return _explained(flag, FLAGS, rows, joined([names, _rest(len(rows) - MOST_LISTED, "clip")]))


def _explained(name: str, meanings: Mapping[str, str], rows: Sequence[Row], content: Markup) -> Markup:
    meaning = element("span", f": {meanings[name]}") if name in meanings else ""
    heading = element("summary", element("code", name), element("b", f" {len(rows):,}"), meaning)
    return element("details", heading, content, open="" if len(rows) <= _FEW else None)


def _scheme(assignment: FoldFile, opened: bool) -> Markup:
    everyone = [s for sides in assignment.folds.values() for side in SIDES for s in sides[side].subjects]
    summary = element(
        "summary",
        element("code", assignment.name),
        element("span", f" {_plural(len(assignment.folds), 'fold')}, {_plural(len(set(everyone)), 'subject')}"),
    )
    body = [_fold(name, sides) for name, sides in assignment.folds.items()]
    head = ("fold", "test clips", "subjects", "validation clips", "subjects", "train clips", "subjects")
    notes = [element("p", assignment.note, element("br"), "Source: ", assignment.source, class_="meaning")]
    for key, meaning in (("absent", "in the scheme but not built"), ("left_out", "built but left out by the scheme")):
        if names := getattr(assignment, key):
            notes.append(element("p", f"{_plural(len(names), 'subject')} {meaning}: ", compact(names), class_="warn"))
    return element("details", summary, *notes, _table(head, body, class_="folds"), open="" if opened else None)


def _fold(name: str, sides: FoldSides) -> list[Markup]:
    cells = (cell for side in ("test", "validation", "train") for cell in _side(sides[side]))
    return [element("th", name, scope="row"), *cells]


def _side(side: Side) -> list[Markup]:
    subjects = side.subjects
    return [
        _number(sum(side.clips.values()), "bad" if not subjects else ""),
        element("td", f"{len(subjects)} ", element("span", compact(subjects, 4), class_="muted")),
    ]


def compact(names: Sequence[str], most: int = 12) -> str:
    """`1001, 1002 ... 1018`: the first and the last of many names."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} \N{HORIZONTAL ELLIPSIS} {names[-1]}"


def _classes(contents: Contents) -> Mapping[str, str]:
    """Raw emotion -> class of the corpus's default label scheme."""
    scheme = LABEL_SCHEMES.get(next(iter(contents.dataset.label_schemes), ""))
    return scheme.mapping if scheme else {}


def _class(name: str | None) -> list[Markup]:
    return [element("span", f" {name}", class_="muted")] if name else []


def _tallies(rows: Sequence[Row]) -> tuple[Counter[str], Counter[str]]:
    return (
        Counter(row.emotion for row in rows if row.shard is not None),
        Counter(row.emotion for row in rows if row.shard is None),
    )


def _totals(*tallies: Counter[str]) -> Iterator[Markup]:
    for tally, class_ in zip(tallies, ("", "", "bad"), strict=True):
        yield _number(tally.total(), class_)


def _emotions(rows: Iterable[Row]) -> list[str]:
    return sorted({row.emotion for row in rows})


def _why(row: Row) -> str:
    return row.reason or "no reason given"


def _grouped(pairs: Iterable[tuple[str, Row]]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return sorted(groups.items())


def _bar(built: int, dropped: int, most: int) -> Markup:
    parts = ((built, "built"), (dropped, "lost"))
    return element("span", *(_part(count / most, kind) for count, kind in parts if count), class_="bar")


def _part(share: float, kind: str) -> Markup:
    return element("span", class_=kind, style=f"width:{100 * share:.2f}%")


def _number(count: int, class_: str = "") -> Markup:
    return element("td", f"{count:,}" if count else "\N{MIDDLE DOT}", class_=f"n {class_ if count else 'none'}".strip())


def _plural(count: int, kind: str) -> str:
    return f"{count:,} {kind}{'' if count == 1 else 's'}"


def _rest(count: int, kind: str) -> Markup:
    """A line for what is not listed."""
    if count <= 0:
        return Markup("")
    return element("p", f"and {_plural(count, kind)} more; all are in clips.jsonl", class_="rest")


def _table(head: Sequence[str], body: Sequence[Sequence[Markup]], class_: str) -> Markup:
    top = element("thead", element("tr", *(element("th", name, scope="col") for name in head)))
    rows = element("tbody", *(element("tr", *cells) for cells in body))
    return element("div", element("table", top, rows, class_=class_), class_="scroll")
