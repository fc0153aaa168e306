"""The dataset card: `README.md` beside the shards, for whoever receives the folder without this project.

Its head is what the Hugging Face hub reads; the rest is for people. Emotions, titles and citations come from files that
anyone may have written, so they are set as plain text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from manifests import folds, licensing
from manifests.index import Dataset, Row
from manifests.schema import DROP_REASONS, FLAGS, dump_json, member_names
from manifests.text import pluralize

#: For Hugging Face: what to list it under, which files, and what the members are. Left to guess, it would want
#: torchcodec for the FLAC.
_FRONT = """\
---
pretty_name: {title}
license: {licence}
tags: [webdataset, audiovisual, emotion-recognition, faces, speech]
task_categories: [video-classification, audio-classification]
size_categories: [{size}]
configs:
- config_name: default
  data_files:
  - split: clips
    path: "*.tar"
dataset_info:
  features:
{features}
---
"""
_TYPES = {
    "faces.jpg": "dtype: image",
    "audio.flac": "dtype: binary",
    "json": "dtype: json",
    "__key__": "dtype: string",
    "__url__": "dtype: string",
}
_OTHER_LICENCE = "other\nlicense_name: as-told-below\nlicense_link: README.md"
_ARRAY = "list:\n      list:\n        list: float16"
_SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What rows add up to; there may be millions, so they are counted, not kept."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Counter[str]] = field(default_factory=dict)
    """Speaker -> raw emotion -> clips in shards; of some speakers nothing was built."""

    def add(self, row: Row) -> None:
        """Count a row."""
        self.statuses[row.status] += 1
        kept = self.kept.setdefault(row.speaker, Counter())
        for flag in row.flags:
            self.flags[flag] += 1
        if row.reason:
            self.reasons[row.reason] += 1
        if row.shard:
            kept[row.emotion] += 1

    @property
    def clips(self) -> Counter[str]:
        """Speaker -> clips in shards, of those that have some."""
        return Counter({speaker: emotions.total() for speaker, emotions in self.kept.items() if emotions})

    @property
    def emotions(self) -> Counter[str]:
        """Raw emotion -> clips in shards."""
        together: Counter[str] = Counter()
        for emotions in self.kept.values():
            together.update(emotions)
        return together


def dataset_card(dataset: Dataset, tally: Tally) -> str:
    """What is in the folder, how to fetch, read and check it, where it comes from and on what terms."""
    clips = tally.clips
    return "\n".join(
        [
            _front(dataset, clips.total()),
            f"# {_plain(_title(dataset))}: aligned faces and spectrograms",
            "",
            f"{pluralize(clips.total(), 'clip')} of {pluralize(len(clips), 'speaker')} in "
            f"{pluralize(len(dataset.shards), 'WebDataset shard')}: "
            "16 aligned 224x224 face crops, the spectrograms of the sound around each, and the sound, on one clock.",
            "",
            *_section("Members of a sample", [f"`KEY.{name}`" for name in member_names(dataset.features)]),
            *_section("Clips by emotion", _explained(tally.emotions, {})),
            *_section("Left out", _explained(tally.reasons, DROP_REASONS)),
            *_section("Flagged, kept", _explained(tally.flags, FLAGS)),
            *_folds(dataset, clips),
            *_reading(dataset),
            *_terms(dataset),
            *_people(),
            "## How it was made",
            "",
            "Settings:",
            "",
            f"    {licensing.one_line(dump_json(dataset.identity['config']))}",
            "",
            "Versions, face models and the SHA-256 of every recording are in `dataset.json` and `clips.jsonl`.",
            "",
        ]
    )


def _front(dataset: Dataset, clips: int) -> str:
    columns = [*member_names(dataset.features), "__key__", "__url__"]
    licence = licensing.known_licence(dataset)
    return _FRONT.format(
        title=json.dumps(_title(dataset), ensure_ascii=False),  # also one line of YAML, quoted
        licence=licence.hub_id if licence else _OTHER_LICENCE,
        size=next((size for limit, size in _SIZES.items() if clips < limit), "n>10M"),
        features="\n".join(f"  - name: {column}\n    {_TYPES.get(column, _ARRAY)}" for column in columns),
    )


def _title(dataset: Dataset) -> str:
    return licensing.about(dataset, "title") or dataset.dataset


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []


def _explained(counts: Counter[str], meaning: Mapping[str, str]) -> list[str]:
    """`silent: 3 (what that means)`, in order of names."""
    known = {value: f"{value}: {counts[value]} ({meaning[value]})" for value in counts.keys() & meaning.keys()}
    return [known.get(value, f"{_plain(value)}: {counts[value]}") for value in sorted(counts)]


def _folds(dataset: Dataset, clips: Mapping[str, int]) -> list[str]:
    """A table with a line for each fold; a fold for each speaker is told in one."""
    lines = [line for name in dataset.fold_schemes for line in _scheme(dataset, name, clips)]
    if not lines:
        return []
    return [
        "## Folds",
        "",
        "No speaker is on two sides of a fold. `folds/<scheme>.json` names the shards of each side, and its clips by",
        "emotion. The first scheme is the default.",
        "",
        "| scheme | fold | test | validation | training |",
        "|---|---|---|---|---|",
        *lines,
        "",
    ]


def _scheme(dataset: Dataset, name: str, clips: Mapping[str, int]) -> Iterator[str]:
    if name == folds.LOSO:
        yield f"| {name} | {len(clips)}, one for each speaker | that speaker | about a fifth of the others | the rest |"
    elif name in folds.schemes_for(dataset.dataset, clips):
        for fold, split in folds.fold_scheme(dataset.dataset, name, clips).folds.items():
            sides = (_side(getattr(split, side), clips) for side in reversed(folds.SIDES))
            yield f"| {name} | {fold} | {' | '.join(sides)} |"
    else:
        yield f"| {name} | see `folds/{name}.json` | | | |"


def _side(subjects: Iterable[str], clips: Mapping[str, int]) -> str:
    built = [clips[subject] for subject in subjects if subject in clips]
    return f"{pluralize(len(built), 'speaker')}, {pluralize(sum(built), 'clip')}"


def _reading(dataset: Dataset) -> list[str]:
    tar = dataset.shards[0].name if dataset.shards else "SPEAKER-000.tar"
    return [
        "## Fetching, checking, reading",
        "",
        "`sha256sum -c SHA256SUMS` checks every file. The shards are plain WebDataset tars, also at an address:",
        "",
        "```python",
        "import datasets, webdataset",
        "",
        f'webdataset.WebDataset("{tar}", shardshuffle=False)  # or "https://.../{tar}"',
        'datasets.load_dataset("path/of/this/folder", split="clips", streaming=True)',
        "```",
        "",
        "A shard holds one speaker, so a fold is a list of shards. With the project that made them (MultiMAE-DER):",
        "",
        "```sh",
        f"make fetch FROM=https://... DATASET={dataset.dataset} FOLD=1  # the shards of one fold, each hash checked",
        f"make verify DATASET={dataset.dataset}  # names all that is not as promised",
        "make train SHARDS=https://... STRATEGY=cfas FOLD=1  # trains while shards arrive",
        "```",
        "",
    ]


def _terms(dataset: Dataset) -> list[str]:
    licence, homepage = licensing.known_licence(dataset), licensing.about(dataset, "homepage")
    passing_on = (
        "May be passed on under the licence above."
        if licensing.redistributable(dataset)
        else "**Must not be passed on**: the licence of the recordings forbids it."
    )
    return [
        "## Terms",
        "",
        f"Licence of the recordings: {_plain(licensing.about(dataset, 'licence') or 'not stated')}. {passing_on}",
        *([f"It asks: {licence.conditions} ({licence.url})."] if licence else []),
        *([f"Home: {_plain(homepage)}"] if homepage else []),
        "",
        "Please cite:",
        "",
        f"    {licensing.about(dataset, 'citation') or 'not stated'}",
        "",
    ]


def _people() -> list[str]:
    return [
        "## The people shown",
        "",
        licensing.PERSONAL_DATA,
        "",
        "Whoever is shown may want to be withdrawn: ask whoever gave you this folder, and tell whom you gave it to.",
        "Shards `SPEAKER-*.tar` hold all clips of a speaker and nobody else's. To take them out of a folder:",
        "`python -m manifests withdraw FOLDER SPEAKER`, which rewrites its index. Every other shard keeps its hash.",
        "",
    ]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _MARKUP.sub(r"\\\1", licensing.one_line(text))
