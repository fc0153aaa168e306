"""Results that others reported, to compare with ours: the paper's Tables I to III, and later work on the same corpora.

The figures are in `reported.csv`: percent, as printed. A result depends on its protocol, so each row names
how many classes, which folds and how the epoch was selected, as far as the publication or its code states them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NOT_REPORTED = "not reported"


@dataclass(frozen=True, kw_only=True)
class ReportedProtocol:
    """A protocol as it was published."""

    averaging: str
    """`pooled` over the clips of all folds, else a mean of folds, or not reported."""
    classes: str
    folds: str
    training: str
    """Which part of the corpus it was trained on."""
    selection: str
    """What the epoch was selected on."""


@dataclass(frozen=True, kw_only=True)
class ReportedResult:
    """A row of a published table."""

    method: str
    """As printed; a number in brackets is the paper's own reference."""
    ssl: bool
    """Whether the method used self-supervised learning."""
    modality: str
    """V, A or V+A."""
    uar: float | None
    war: float | None
    protocol: ReportedProtocol


@dataclass(frozen=True, kw_only=True)
class CorpusResults:
    """What was reported on one corpus."""

    title: str
    paper: tuple[ReportedResult, ...]
    """The paper's table, row by row."""
    others: tuple[ReportedResult, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """A score to compare with, as fractions."""

    name: str
    uar: float
    war: float


#: Corpus -> the most that a single modality can reach, where a corpus is synthetic, so that this is known.
MODALITY_CEILINGS: Mapping[str, ScoreLine] = {
    "demo": ScoreLine(name="most that one modality can reach", uar=0.5, war=0.5)
}

_PROTOCOL = ("averaging", "classes", "folds", "training", "selection")
_TITLES = {
    "ravdess": "RAVDESS (the paper's Table I)",
    "crema-d": "CREMA-D (the paper's Table II)",
    "iemocap": "IEMOCAP (the paper's Table III)",
}
_NOTES = {
    "ravdess": (
        "The paper states six folds; its 83.61 is 301 of 360 clips, one split and not a mean of six, and the clip "
        "lists published with it overlap (1,080 + 720 + 360 of 1,440).",
    )
}
_COMMON_NOTES = (
    "Rows with a number in brackets are cited by the MultiMAE-DER paper, which does not restate their protocols.",
    "MultiMAE-DER: its paper says that the encoder was pre-trained without labels on faces, by MAE-DFER's method; the "
    "notebook published with it loads VideoMAE-L as fine-tuned with labels on Kinetics-400.",
    "If the epoch was selected on the test fold, a score is higher than for new speakers.",
    "Reported scores stand under UAR and WAR where it is not reported whether they are means of folds or pooled.",
)


def _load_corpora(path: Path) -> dict[str, CorpusResults]:
    """Corpus -> what was reported on it; empty cells of its protocol were not reported."""
    tables: dict[str, dict[str, list[ReportedResult]]] = {name: {"paper": [], "other": []} for name in _TITLES}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            uar, war = (float(row[score]) if row[score] else None for score in ("uar", "war"))
            protocol = {name: row[name] or NOT_REPORTED for name in _PROTOCOL}
            result = ReportedResult(
                method=row["method"],
                ssl=row["ssl"] == "yes",
                modality=row["modality"],
                uar=uar,
                war=war,
                protocol=ReportedProtocol(**protocol),
            )
            tables[row["corpus"]][row["source"]].append(result)
    return {
        name: CorpusResults(
            title=title,
            paper=tuple(tables[name]["paper"]),
            others=tuple(tables[name]["other"]),
            notes=(*_NOTES.get(name, ()), *_COMMON_NOTES),
        )
        for name, title in _TITLES.items()
    }


#: Corpus -> what was reported on it.
REPORTED: Mapping[str, CorpusResults] = _load_corpora(Path(__file__).with_name("reported.csv"))
