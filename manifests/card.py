"""The dataset card: `README.md` in the shard folder, for recipients without this project.

Its header is read by the Hugging Face Hub; the rest is for people. Emotions, titles and citations may be
untrusted, so the template escapes every value unless it is marked as safe: shown in a code block, or a constant of this
project.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests import folds, licensing
from manifests.index import Dataset, Row
from manifests.schema import DROP_REASONS, FLAGS, dump_json
from manifests.text import one_line, pluralize

if TYPE_CHECKING:
    from jinja2 import Template

#: Types of the members for Hugging Face; by default it would require torchcodec for the FLAC.
_TYPES = {"audio.flac": "binary", "audio.npy": "binary", "json": "json", "__key__": "string", "__url__": "string"}
_OTHER_LICENCE = "other\nlicense_name: see-below\nlicense_link: README.md"
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")


@dataclass(frozen=True, kw_only=True)
class ClipCounts:
    """Counts of rows; the rows are not kept, because there may be millions."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Counter[str]] = field(default_factory=dict)
    """Speaker -> raw emotion, or `UNLABELLED` -> clips in shards; empty for a speaker without a built clip."""

    def add(self, row: Row) -> None:
        """Count a row."""
        self.statuses[row.status] += 1
        kept = self.kept.setdefault(row.speaker, Counter())
        for flag in row.flags:
            self.flags[flag] += 1
        if row.reason:
            self.reasons[row.reason] += 1
        if row.shard:
            kept[row.raw_label] += 1

    @property
    def clips(self) -> Counter[str]:
        """Speaker -> clips in shards, of those that have some."""
        return Counter({speaker: emotions.total() for speaker, emotions in self.kept.items() if emotions})

    @property
    def emotions(self) -> Counter[str]:
        """Raw emotion, or `UNLABELLED` -> clips in shards."""
        together: Counter[str] = Counter()
        for emotions in self.kept.values():
            together.update(emotions)
        return together


def dataset_card(dataset: Dataset, tally: ClipCounts) -> str:
    """Render the dataset card: content, usage, origin and licence of the folder."""
    clips = tally.clips
    title = licensing.about(dataset, "title") or dataset.dataset
    licence = licensing.known_licence(dataset)
    members, kind = dataset.members, dataset.sample_kind
    types = {members[0]: kind.hub_type, **_TYPES}
    return _template().render(
        dataset=dataset,
        kind=kind,
        title=title,
        title_json=json.dumps(title, ensure_ascii=False),  # also one line of YAML, quoted
        licence=licence,
        licence_id=licence.hub_id if licence else _OTHER_LICENCE,
        licence_text=licensing.about(dataset, "licence") or "not stated",
        redistributable=licensing.redistributable(dataset),
        homepage=licensing.about(dataset, "homepage"),
        citation=licensing.about(dataset, "citation") or "not stated",
        personal_data=licensing.PERSONAL_DATA,
        size_category=next((size for limit, size in _SIZES.items() if clips.total() < limit), "n>10M"),
        members=members,
        columns={column: types.get(column) for column in (*members, "__key__", "__url__")},
        clips=clips.total(),
        speakers=len(clips),
        counted=[
            ("Clips by emotion", {name or "(no label)": count for name, count in tally.emotions.items()}, {}),
            ("Left out", tally.reasons, DROP_REASONS),
            ("Flagged, kept", tally.flags, FLAGS),
        ],
        fold_rows=[row for name in dataset.fold_schemes for row in _fold_rows(dataset, name, clips)],
        settings=one_line(dump_json(dataset.identity["config"])),
    )


def _fold_rows(dataset: Dataset, name: str, clips: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Rows of the table of folds: one per fold of a scheme, or one for leave-one-speaker-out."""
    if name == folds.LOSO:
        yield name, f"{len(clips)}, one for each speaker", "that speaker", "about a fifth of the others", "the rest"
    elif name in folds.fold_schemes_for(dataset.dataset, clips):
        scheme = folds.fold_scheme(dataset.dataset, name, clips)
        if scheme.shared_text != "kept":
            yield name, scheme.note, *[f"see `folds/{name}.json`"] * 3
            return
        for fold, sides in scheme.folds.items():
            built = [[clips[s] for s in side if s in clips] for side in (sides.test, sides.validation, sides.train)]
            yield name, fold, *(f"{pluralize(len(side), 'speaker')}, {pluralize(sum(side), 'clip')}" for side in built)
    else:
        yield name, f"see `folds/{name}.json`", "", "", ""


@cache
def _template() -> Template:
    import jinja2  # readers of shards do not need it

    def escape(value: Any) -> Any:
        """Escape text for Markdown, on one line."""
        return value if hasattr(value, "__html__") else _MARKUP.sub(r"\\\1", one_line(str(value)))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # noqa: S701 - this is no HTML; `finalize` escapes Markdown
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["pluralize"] = pluralize
    return environment.get_template("card.md.j2")
