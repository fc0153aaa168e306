"""The dataset card: `README.md` beside the shards, for whoever receives the folder without this project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from manifests.index import Dataset, Row
from manifests.schema import DROP_REASONS, FLAGS, dump_json, member_names

_FRONT = """\
---
configs:
- config_name: default
  data_files:
  - split: all
    path: "*.tar"
---
"""


def dataset_card(dataset: Dataset, rows: Sequence[Row]) -> str:
    """What is in the folder, how to read and check it, where it comes from and on what terms."""
    return "\n".join(
        [
            _FRONT,
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


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""] if lines else []


def _counted(values: object) -> list[str]:
    return [f"{value}: {count}" for value, count in sorted(Counter(values).items())]  # type: ignore[call-overload]


def _explained(values: object, meaning: object) -> list[str]:
    counts = sorted(Counter(values).items())  # type: ignore[call-overload]
    return [f"{value}: {count} ({meaning[value]})" for value, count in counts]  # type: ignore[index]


def _reading(dataset: Dataset) -> list[str]:
    schemes = [f"`folds/{name}.json`" for name in dataset.fold_schemes]
    return [
        "## Reading and checking",
        "",
        "`sha256sum -c SHA256SUMS` checks every file. Plain WebDataset tars: `webdataset.WebDataset` and Hugging Face",
        '`datasets` (`load_dataset("webdataset", data_files="*.tar")`) read them. A shard holds one speaker,',
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
