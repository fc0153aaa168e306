"""The dataset card: `README.md` beside the shards, for whoever receives the folder without this project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from manifests.index import Dataset, Row
from manifests.schema import DROP_REASONS, FLAGS, dump_json, member_names

#: For Hugging Face: which files, and what the members are. Left to guess, it would want torchcodec for the FLAC.
_FRONT = """\
---
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
_ARRAY = "list:\n      list:\n        list: float16"


def dataset_card(dataset: Dataset, rows: Sequence[Row]) -> str:
    """What is in the folder, how to read and check it, where it comes from and on what terms."""
    return "\n".join(
        [
            _front(dataset),
            f"# {dataset.about['title']}: aligned faces and spectrograms",
            "",
            f"{dataset.counts.get('built', 0) + dataset.counts.get('flagged', 0)} clips of "
            f"{len({row.speaker for row in rows if row.shard})} speakers in {len(dataset.shards)} WebDataset shards: "
            "16 aligned 224x224 face crops, the spectrograms of the sound around each, and the sound, on one clock.",
            "",
            *_section("Members of a sample", [f"`KEY.{name}`" for name in member_names(dataset.features)]),
            *_section("Clips by emotion", _counted(row.emotion for row in rows if row.shard)),
            *_section("Left out", _explained((row.reason for row in rows if row.reason), DROP_REASONS)),
            *_section("Flagged, kept", _explained((flag for row in rows for flag in row.flags), FLAGS)),
            *_reading(dataset),
            *_terms(dataset),
            "## How it was made",
            "",
            f"Settings: `{dump_json(dataset.identity['config'])}`",
            "",
            "Versions, face models and the SHA-256 of every recording are in `dataset.json` and `clips.jsonl`.",
            "",
        ]
    )


def _front(dataset: Dataset) -> str:
    columns = [*member_names(dataset.features), "__key__", "__url__"]
    features = [f"  - name: {column}\n    {_TYPES.get(column, _ARRAY)}" for column in columns]
    return _FRONT.format(features="\n".join(features))


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []


def _counted(values: Iterable[str]) -> list[str]:
    return [f"{value}: {count}" for value, count in sorted(Counter(values).items())]


def _explained(values: Iterable[str], meaning: Mapping[str, str]) -> list[str]:
    return [f"{value}: {count} ({meaning[value]})" for value, count in sorted(Counter(values).items())]


def _reading(dataset: Dataset) -> list[str]:
    schemes = [f"`folds/{name}.json`" for name in dataset.fold_schemes]
    return [
        "## Reading and checking",
        "",
        "`sha256sum -c SHA256SUMS` checks every file. Plain WebDataset tars: `webdataset.WebDataset` and Hugging Face",
        '`datasets` (`load_dataset("path/of/this/folder")`) read them. A shard holds one speaker,',
        f"so a fold is a list of shards: {', '.join(schemes) or 'none fits what was built'}.",
        "",
    ]


def _terms(dataset: Dataset) -> list[str]:
    passing_on = (
        "May be passed on under the licence above."
        if dataset.about["redistributable"]
        else "**Must not be passed on**: the licence of the recordings forbids it."
    )
    return [
        "## Terms",
        "",
        f"Licence of the recordings: {dataset.about['licence']}. {passing_on}",
        f"Home: {dataset.about['homepage']}",
        "",
        "Face crops and voices are personal data: use them for what the people shown agreed to, and do not try to",
        "identify anyone.",
        "",
        "Please cite:",
        "",
        *(f"    {line}" for line in str(dataset.about["citation"]).splitlines()),
        "",
    ]
