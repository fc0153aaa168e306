"""Results that others reported, to compare with ours: the paper's Tables I to III, and later work on the same corpora.

Percent, as printed. A result means little without its protocol, so each row names how many classes, which folds and
how the epoch was chosen, as far as the publication or its code states them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class ReportedProtocol:
    """A protocol as it was published."""

    classes: str
    folds: str
    selection: str = NOT_STATED
    """What the epoch was chosen on."""


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


#: Corpus -> the most that a single modality can reach, where a corpus was made so that this is known.
MODALITY_CEILINGS: Mapping[str, ScoreLine] = {
    "demo": ScoreLine(name="most that one modality can reach", uar=0.5, war=0.5)
}


def _paper_rows(text: str, *, classes: str, folds: str) -> tuple[ReportedResult, ...]:
    """A table as the paper prints it: method, SSL, modality, UAR, WAR; `folds` are those of its own rows."""
    rows = []
    for line in text.strip().splitlines():
        method, ssl, modality, *scores = (cell.strip() for cell in line.split("|"))
        uar, war = (None if score == "—" else float(score) for score in scores)
        own = method.startswith("MultiMAE-DER")
        protocol = ReportedProtocol(classes=classes, folds=folds if own else NOT_STATED)
        rows.append(
            ReportedResult(method=method, ssl=ssl == "✓", modality=modality, uar=uar, war=war, protocol=protocol)
        )
    return tuple(rows)


def _other(
    method: str, uar: float | None, war: float, classes: str, folds: str, selection: str = NOT_STATED
) -> ReportedResult:
    """A self-supervised method that uses both modalities."""
    protocol = ReportedProtocol(classes=classes, folds=folds, selection=selection)
    return ReportedResult(method=method, ssl=True, modality="V+A", uar=uar, war=war, protocol=protocol)


_TABLE_1 = """
AV-LSTM [15] | × | V+A | — | 65.80
AV-Gating [15] | × | V+A | — | 67.70
MCBP [24] | × | V+A | — | 71.32
MMTM [25] | × | V+A | — | 73.12
ERANNs [26] | × | V+A | — | 74.80
MSAF [16] | × | V+A | — | 74.86
SFN-SR [17] | × | V+A | — | 75.76
MATER [27] | × | V+A | — | 76.30
MuT [28] | × | V+A | — | 76.60
AVT [29] | × | V+A | — | 79.20
VQ-MAE-AV [30] | ✓ | V+A | — | 83.20
MultiMAE-DER | ✓ | V | — | 74.13
MultiMAE-DER | ✓ | A | — | 80.55
MultiMAE-DER-RFAS | ✓ | V+A | 75.97 | 75.44
MultiMAE-DER-SFAS | ✓ | V+A | 75.79 | 76.94
MultiMAE-DER-OFOS | ✓ | V+A | 77.78 | 78.61
MultiMAE-DER-CFAS | ✓ | V+A | 80.65 | 81.39
MultiMAE-DER-FFLS | ✓ | V+A | 82.27 | 83.56
MultiMAE-DER-FSLF | ✓ | V+A | 83.23 | 83.61
"""

_TABLE_2 = """
EF-GRU [31] | × | V+A | — | 57.06
LF-GRU [31] | × | V+A | — | 58.53
TFN [32] | × | V+A | — | 63.09
MATER [27] | × | V+A | — | 67.20
AuxFormer [33] | × | V+A | — | 71.70
AV-LSTM [15] | × | V+A | — | 72.90
AV-Gating [15] | × | V+A | — | 74.00
RAVER [34] | × | V+A | — | 77.30
VQ-MAE-AV [30] | ✓ | V+A | — | 78.40
MultiMAE-DER | ✓ | V | — | 77.83
MultiMAE-DER | ✓ | A | — | 78.45
MultiMAE-DER-RFAS | ✓ | V+A | 74.62 | 74.90
MultiMAE-DER-SFAS | ✓ | V+A | 75.73 | 75.48
MultiMAE-DER-OFOS | ✓ | V+A | 76.88 | 76.54
MultiMAE-DER-CFAS | ✓ | V+A | 78.24 | 78.16
MultiMAE-DER-FFLS | ✓ | V+A | 78.59 | 78.83
MultiMAE-DER-FSLF | ✓ | V+A | 79.12 | 79.36
"""

_TABLE_3 = """
AV-HuBERT [35] | ✓ | V+A | — | 46.45
MAViL [36] | ✓ | V+A | — | 54.94
AVBERT [37] | ✓ | V+A | — | 61.87
MultiMAE-DER | ✓ | V | — | 56.13
MultiMAE-DER | ✓ | A | — | 58.69
MultiMAE-DER-RFAS | ✓ | V+A | 58.62 | 59.98
MultiMAE-DER-SFAS | ✓ | V+A | 60.39 | 60.17
MultiMAE-DER-OFOS | ✓ | V+A | 61.87 | 61.12
MultiMAE-DER-CFAS | ✓ | V+A | 61.98 | 62.25
MultiMAE-DER-FFLS | ✓ | V+A | 62.92 | 63.43
MultiMAE-DER-FSLF | ✓ | V+A | 63.21 | 63.73
"""

_CITED = "Rows with a number in brackets are cited by the MultiMAE-DER paper, which does not restate their protocols."
_TEST_EPOCH = "Where the epoch was chosen on the test fold, a figure is higher than a new speaker would give."

#: Corpus -> what was reported on it.
REPORTED: Mapping[str, CorpusResults] = {
    "ravdess": CorpusResults(
        title="RAVDESS (the paper's Table I)",
        paper=_paper_rows(_TABLE_1, classes="7", folds="6, by subject"),
        others=(
            _other("VQ-MAE-AV", None, 84.80, "8", "6, by subject", "test fold (its public code)"),
            _other("HiCMAE-B", 87.96, 87.99, "8", "6, by subject", "test fold"),
            _other("AVF-MAE++ H", 87.44, 87.57, NOT_STATED, NOT_STATED),
        ),
        notes=(
            "The paper states six folds; its 83.61 is 301 of 360 clips, one split and not a mean of six, and the clip "
            "lists published with it overlap (1,080 + 720 + 360 of 1,440).",
            _CITED,
            _TEST_EPOCH,
        ),
    ),
    "crema-d": CorpusResults(
        title="CREMA-D (the paper's Table II)",
        paper=_paper_rows(_TABLE_2, classes="6", folds="5, by subject"),
        others=(
            _other("VQ-MAE-AV", None, 80.40, "6", "10, by subject", "test fold (its public code)"),
            _other("HiCMAE-B", 84.91, 84.89, "6", "5, by subject", "test fold"),
            _other("AVF-MAE++ H", 86.02, 85.95, "6", NOT_STATED),
        ),
        notes=(_CITED, _TEST_EPOCH),
    ),
    "iemocap": CorpusResults(
        title="IEMOCAP (the paper's Table III)",
        paper=_paper_rows(_TABLE_3, classes="4", folds="5"),
        others=(
            _other("HiCMAE-B", 68.21, 68.36, "4", NOT_STATED, "test fold"),
            _other("AVF-MAE++ H", 72.71, 73.83, "4", NOT_STATED),
        ),
        notes=(_CITED, _TEST_EPOCH),
    ),
}
