"""VQ-MAE-AV's Tables 1 to 7 (Sadok, Leglaive, Séguier), as printed, next to our runs of the same variants. Pure.

The figures are in `vq_mae_reported.csv`. The authors' F1 is weighted by class, as their code computes it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.config import SELECTIONS
from train.fusion import TOKEN_STRATEGIES
from train.report.render import ReportSection, ReportTable, TableRow
from train.runs import Run, RunSummary
from train.token_variants import DEFAULT_DEPTH, Variant, parse_variant

_TITLES = {
    "1": "Table 1: audiovisual emotion recognition",
    "2": "Table 2: pre-training and fine-tuning",
    "3": "Table 3: blocks of the encoder",
    "4": "Table 4: losses of the pre-training",
    "5": "Table 5: fusion of encoder and decoder",
    "6": "Table 6: heads",
    "7": "Table 7: modalities",
}
#: What the paper and its code leave open, or say differently in two places.
NOTES = (
    "The text says that Table 1 is of cross-attention fusion in encoder and decoder; its 84.80 is the row of Table 4 "
    "with self-attention fusion, where this report has placed it.",
    "The text gives VQ-MAE-AV gains of 5.6 and 8.3 points over faces and sound alone; Table 7 has 7.4 and 8.3.",
    "Tables 2 and 3 do not say which losses were used; their 81.5 is the row of Tables 5 to 7 without the contrastive "
    "loss, where this report has placed them. Their 30.0 million parameters of Table 5 are 29.9 when counted.",
    "The folds' actors are not named. The code shuffles RAVDESS's 24 actors without a seed and leaves four untested, "
    "tests one random window of 2 s of each clip, and keeps the epoch that is best on the test fold.",
    "Ours: mean over folds of accuracy (WAR) and of weighted F1 in the corpora named, several windows of each clip. "
    'The epoch is selected on validation speakers; where a cell says "last epoch", none is, and they are trained on, '
    "too. Cells name what else differs from the paper's settings. Tokenizers and models of other rows differ in what "
    "they were trained on.",
)
#: Classes of the paper's corpora.
_CLASSES = {"ravdess": 8, "crema-d": 6}


@dataclass(frozen=True, kw_only=True)
class ReportedRow:
    """A row of one of the paper's tables."""

    table: str
    method: str
    corpus: str
    modality: str
    """V, A or V+A."""
    variant: Variant | None
    """None for methods of others."""
    parameters_millions: str
    """As printed; "" where it is not, as the next."""
    accuracy: str
    """Percent."""
    f1: str
    """Percent."""


def vq_mae_section(summaries: Sequence[RunSummary]) -> ReportSection:
    """The paper's tables, each row with our runs of the same variant, if any, by corpus."""
    corpora = sorted({summary.run.dataset for summary in summaries})
    tables = []
    for number, title in _TITLES.items():
        rows = [row for row in ROWS if row.table == number]
        cells = [
            (row.method, row.corpus, *(each or "—" for each in (row.parameters_millions, row.accuracy, row.f1)))
            for row in rows
        ]
        ours = [[_find(row, corpus, summaries) for corpus in corpora] for row in rows]
        tables.append(
            ReportTable(
                title=title,
                columns=(
                    "Method",
                    "Corpus",
                    "Parameters, millions",
                    "Accuracy",
                    "F1",
                    *(f"ours, {corpus}: accuracy / F1" for corpus in corpora),
                ),
                rows=tuple(TableRow(cells=(*first, *rest)) for first, rest in zip(cells, ours, strict=True)),
                notes=NOTES if number == "7" else (),
            )
        )
    return ReportSection(title="VQ-MAE-AV: its paper's Tables 1 to 7", tables=tuple(tables), figures=())


def is_vq_mae(summary: RunSummary) -> bool:
    """Whether runs are of a VQ-MAE-AV, or its version for one modality."""
    return summary.run.strategy in TOKEN_STRATEGIES


def _find(row: ReportedRow, corpus: str, summaries: Sequence[RunSummary]) -> str:
    """Our scores of the variant of a row on a corpus; "" for none.

    Scores on one of the paper's corpora stand beside those of the same one only, scores on others beside all.
    """
    found: list[str] = []
    if row.variant is None or (corpus in _CLASSES and corpus != row.corpus):
        return ""
    for summary in summaries:
        run, variant = summary.run, parse_variant(summary.run.protocol.encoder)
        same = variant is not None and row.variant.includes(variant)
        if same and run.dataset == corpus and TOKEN_STRATEGIES[run.strategy].modality == row.modality:
            scores = f"{100 * summary.war.mean:.2f} / {100 * summary.weighted_f1.mean:.2f}"
            folds = f"{len(summary.folds)} of {len(run.protocol.folds)} folds"
            found.append(f"{scores} ({', '.join([variant.model, *_differences(variant, run), folds])})")
    return "; ".join(found)


def _differences(variant: Variant, run: Run) -> list[str]:
    """What differs from the paper's settings in a run of the same variant, in words."""
    protocol, classes = run.protocol, len(run.protocol.classes)
    marks = {
        f"{classes} classes": classes != _CLASSES.get(run.dataset, classes),
        "speakers in training too": protocol.shared_speakers,
        "last epoch": protocol.selection == SELECTIONS["last"],
    }
    own = (words for words, differs in marks.items() if differs)
    return [*variant.pretraining_changes, *variant.tuning_changes, *own]


def _load_rows(path: Path) -> tuple[ReportedRow, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            ReportedRow(
                **{name: row[name] for name in ("table", "method", "corpus", "modality")},
                **{name: row[name] for name in ("parameters_millions", "accuracy", "f1")},
                variant=Variant(
                    model="",
                    depth=row["depth"],
                    **{name: row[name] for name in ("fusion", "head", "losses", "start")},
                )
                if row["depth"]
                else None,
            )
            for row in csv.DictReader(file)
        )


ROWS = _load_rows(Path(__file__).with_name("vq_mae_reported.csv"))
assert all(row.variant is None or row.variant.depth.isdecimal() or row.variant.depth == DEFAULT_DEPTH for row in ROWS)
