"""The page: headline, counts, what was left out, clips with their time marks, folds, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.report import tables
from builder.report.contents import Contents
from builder.report.figure import clip_figure, template_marks
from builder.report.images import data_uri, mean_face, scales
from builder.report.markup import Markup, element, joined
from manifests.index import Dataset, Row
from manifests.schema import CROP_PX, FRAMES, Sample

Shown = Sequence[tuple[Row, Sample]]

#: No script, nothing from elsewhere, whatever a shard folder's texts may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")

_CHECKS = ("sha256sum -c SHA256SUMS", "python -m manifests verify .")
_TIMELINES = {"uniform": "16 instants spread evenly over each clip", "fixed": "every {step}th frame from the start"}
_ALIGNMENTS = {
    "frame": "each crop on its own: eyes level and at one distance",
    "clip": "one transform a clip: the head's motion stays",
    "none": "not aligned: a square around the face's box",
}


def render(contents: Contents, shown: Shown) -> str:
    """The whole page. `shown` are the clips to draw."""
    ids = [row.clip_id for row, _ in shown]
    sections = [
        ("counts", "Clips by emotion and speaker", _counts(contents)),
        ("dropped", "Left out", tables.drops(contents)),
        ("flagged", "Kept, but flagged", tables.flags(contents, ids)),
        ("clips", "Clips as they were sampled", _clips(contents, shown)),
        ("folds", "Folds", tables.folds(contents)),
        *([("missing", "Missing from the corpus", _missing(contents.dataset))] if contents.dataset.missing else []),
        ("made", "How it was made", _made(contents.dataset)),
    ]
    links = (element("a", title, href=f"#{key}") for key, title, _ in sections)
    body = [
        element("header", *_headline(contents), element("nav", *links)),
        *(element("section", element("h2", title), content, id=key) for key, title, content in sections),
    ]
    page = element("html", _head(contents.dataset), element("body", element("main", *body)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _head(dataset: Dataset) -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{_title(dataset)}: build report"),
        element("style", Markup(_STYLE)),
    )


def _headline(contents: Contents) -> list[Markup]:
    dataset, kept = contents.dataset, contents.kept
    flagged, dropped = sum(bool(row.flags) for row in kept), len(contents.rows) - len(kept)
    share = f"{100 * dropped / len(contents.rows):.1f} % of {len(contents.rows):,}" if dropped else ""
    figures = [
        ("clips", len(kept), "in shards", ""),
        ("flagged", flagged, "of these", "some" if flagged else ""),
        ("dropped", dropped, share, "bad" if dropped else ""),
        ("speakers", len({row.speaker for row in kept}), _without_clips(contents), ""),
        ("shards", len(dataset.shards), size(sum(shard.bytes for shard in dataset.shards)), ""),
    ]
    return [
        element("p", "Build report", class_="kicker"),
        element("h1", _title(dataset)),
        element("div", *(_tile(*figure) for figure in figures), class_="tiles"),
        element("dl", *_facts(dataset), class_="facts"),
    ]


def _title(dataset: Dataset) -> str:
    return str(dataset.about.get("title", dataset.dataset))


def _without_clips(contents: Contents) -> str:
    empty = len({row.speaker for row in contents.rows} - {row.speaker for row in contents.kept})
    return f"{empty:,} more without a clip" if empty else ""


def _tile(name: str, count: int, note: str, class_: str) -> Markup:
    name = name.removesuffix("s") if count == 1 else name
    parts = (element("b", f"{count:,}"), element("span", name), element("small", note))
    return element("div", *parts, class_=f"tile {class_}".strip())


def _facts(dataset: Dataset) -> list[Markup]:
    config, about = dataset.identity["config"], dataset.about
    facts = [
        ("Spectrograms", ", ".join(dataset.features)),
        ("Time", _meaning(_TIMELINES, config, "timeline")),
        ("Alignment", _meaning(_ALIGNMENTS, config, "align")),
        ("Corpus options", _plain(config.get("options", {}))),
        ("Check the files", joined([element("code", command) for command in _CHECKS], " or ")),
        ("Licence", joined([about.get("licence", "not stated"), ". ", _passing_on(about.get("redistributable"))])),
        ("Home", _link(str(about.get("homepage", "")))),
    ]
    return [element("div", element("dt", name), element("dd", fact)) for name, fact in facts if fact]


def _meaning(meanings: Mapping[str, str], config: Mapping[str, Any], setting: str) -> str:
    """What a setting's value means; the value itself where that is not known."""
    value = str(config.get(setting, ""))
    return meanings[value].replace("{step}", str(config.get("step_frames"))) if value in meanings else value


def _passing_on(allowed: object) -> Markup:
    if allowed is True:
        return element("span", "These shards may be passed on under that licence.", class_="good")
    return element("strong", "These shards must not be passed on.", class_="bad")


def _link(address: str) -> Markup:
    """An address as a link, if it leads to a web page; else as text."""
    if not address.startswith(("https://", "http://")):
        return joined([address])
    return element("a", address, href=address, rel="noreferrer noopener")


def _counts(contents: Contents) -> Markup:
    note = "A number is clips in shards; \N{MINUS SIGN}n before it, clips dropped."
    return joined(
        [
            tables.counts_by_emotion(contents),
            element("h3", "Speakers"),
            element("p", note, class_="meaning"),
            tables.counts_by_speaker(contents),
        ]
    )


def _clips(contents: Contents, shown: Shown) -> Markup:
    if not shown:
        return element("p", "No clip was built.", class_="empty")
    scale, aligned = scales(contents), contents.dataset.identity["config"].get("align") != "none"
    return joined(
        [
            element("div", _legend(aligned), _alignment([sample for _, sample in shown], aligned), class_="key"),
            *(
                _clip(row, sample, clip_figure(sample, scale, aligned=aligned, key=str(i)))
                for i, (row, sample) in enumerate(shown)
            ),
        ]
    )


def _legend(aligned: bool) -> Markup:
    entries = [
        ("instant", "an instant t: a crop is centred over it, a spectrogram window on it"),
        ("frame", "presentation time of the frame that the crop shows, the one nearest to t"),
        ("window", "the window [t \N{MINUS SIGN} s, t + s] of two of the instants, s being the step between instants"),
        ("borrowed", "no face was found: the crop borrows its neighbours' alignment"),
    ]
    if aligned:
        entries.append(("marks", "where irises and mouth corners must be in an aligned crop"))
    items = (element("li", element("span", class_=f"swatch {name}"), text) for name, text in entries)
    colours = (
        "Spectrograms are put together from the 16 overlapping windows that are stored, each shown where it is most "
        "central. Colours reach 2.5 standard deviations about the mean over all shards, so loudness can be compared."
    )
    return element("div", element("ul", *items, class_="legend"), element("p", colours, class_="meaning"))


def _alignment(samples: Sequence[Sample], aligned: bool) -> Markup:
    """Mean of all crops shown: sharp eyes mean a good alignment."""
    mean = mean_face(samples)
    if mean is None:
        return Markup("")
    picture = element("image", href=data_uri(mean), width=CROP_PX, height=CROP_PX)
    marks = [element("path", d=template_marks(CROP_PX / 2, 0, CROP_PX), class_="marks")] if aligned else []
    number = sum(sum(sample.face_found) for sample in samples)
    caption = f"Mean of the {number} found faces below. The sharper eyes and mouth are, the better the alignment."
    svg = element("svg", picture, *marks, viewBox=f"0 0 {CROP_PX} {CROP_PX}", role="img", class_="mean")
    return element("figure", svg, element("figcaption", caption), class_="alignment")


def _clip(row: Row, sample: Sample, figure: Markup) -> Markup:
    names = [row.speaker, row.emotion, row.intensity, row.sentence]
    heading = [
        element("h3", element("code", row.clip_id)),
        *(element("span", name, class_="pill") for name in names if name),
        *(element("span", flag, class_="pill flag") for flag in row.flags),
    ]
    return element(
        "article",
        element("div", *heading, class_="title"),
        element("div", figure, class_="scroll"),
        element("p", joined(_details(sample), " \N{MIDDLE DOT} "), class_="details"),
        id=f"clip-{row.clip_id}",
    )


def _details(sample: Sample) -> list[Markup]:
    """Times and provenance of a clip; hashes are in the index."""
    timing = sample.timing
    start, end = timing.span_seconds
    late = np.abs(np.subtract(timing.frame_seconds, timing.instants_seconds)).max() * 1000
    facts = {
        "span": f"{start:.3f}\N{EN DASH}{end:.3f} s",
        "step s": f"{timing.step_seconds * 1000:.1f} ms",
        "frames off by at most": f"{late:.0f} ms",
        "faces": f"{sum(sample.face_found)} of {FRAMES}",
        "sound from": f"{timing.audio_start_seconds:.3f} s",
    }
    source = {key: _shown(value) for key, value in sorted(sample.source.items()) if not key.endswith("sha256")}
    return [joined([element("b", name), " ", value]) for name, value in (*facts.items(), *source.items())]


def _shown(value: object) -> Markup:
    text = f"{value[0]}\N{EN DASH}{value[1]} s" if isinstance(value, list | tuple) and len(value) == 2 else str(value)
    return element("code", text[:300])


def _missing(dataset: Dataset) -> Markup:
    text = f"Not there: {dataset.missing:,} of the files that the corpus is known to hold; the first of them:"
    count = element("p", text, class_="warn")
    return joined([count, tables.listed(sorted(dataset.missing_names)[: tables.MOST_LISTED], "file")])


def _made(dataset: Dataset) -> Markup:
    settings = {**dataset.identity["config"], "versions": dataset.identity.get("versions", {})}
    rows = (
        element("tr", element("th", key, scope="row"), element("td", element("code", _plain(value) or "none")))
        for key, value in sorted(settings.items())
    )
    personal = (
        "Face crops and voices are personal data: use them for what the people shown agreed to, and do not try to "
        "identify anyone."
    )
    return joined(
        [
            element("div", element("table", element("tbody", *rows), class_="list"), class_="scroll"),
            element("h3", "Please cite"),
            element("blockquote", dataset.about.get("citation", "nothing")),
            element("p", personal),
        ]
    )


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return ", ".join(f"{k}: {v}" for k, v in sorted(value.items())) if isinstance(value, dict) else str(value)


def size(count: float) -> str:
    """Bytes in the unit people read: `1.61 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
