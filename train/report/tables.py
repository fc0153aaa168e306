"""Tables of the report: our results next to those that others reported, in detail, and by fold. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from train.fusion import STRATEGIES
from train.metrics import MeanStd
from train.report.render import ReportTable, TableRow
from train.report.reported import REPORTED
from train.runs import RunSummary

NOT_RUN = "not run"


def comparison_table(dataset: str, summaries: Sequence[RunSummary]) -> ReportTable:
    """What was reported on a corpus, then a row for each of our strategies, run or not."""
    reported = REPORTED.get(dataset)
    rows = []
    for other in (*reported.paper, *reported.others) if reported else ():
        scores = ("—" if score is None else f"{score:.2f}" for score in (other.uar, other.war))
        protocol = (other.protocol.classes, other.protocol.folds, other.protocol.selection)
        ssl = "✓" if other.ssl else "×"
        rows.append(TableRow(cells=(other.method, ssl, other.modality, *scores, "", "", *protocol), ours=False))
    for summary in summaries:
        run, protocol = summary.run, summary.run.protocol
        ssl = "×" if protocol.weights is None else "✓"
        scores = (_format_spread(summary.uar), _format_spread(summary.war), *_format_pooled(summary))
        classes = f"{len(protocol.classes)} ({protocol.label_scheme})"
        folds = f"{len(summary.results)} of {len(protocol.folds)} ({protocol.fold_scheme}), by subject"
        name = f"ours, {summary.name}"
        rows.append(TableRow(cells=(name, ssl, _modality(run.strategy), *scores, classes, folds, protocol.selection)))
    for strategy in sorted(STRATEGIES, key=lambda name: STRATEGIES[name].order):
        if strategy not in {summary.run.strategy for summary in summaries}:
            cells = (f"ours, {strategy}", "", _modality(strategy), NOT_RUN, NOT_RUN, "", "", "", "", "")
            rows.append(TableRow(cells=cells))
    scores = ("UAR", "WAR", "Pooled UAR", "Pooled WAR")
    return ReportTable(
        title="Reported, and ours" if reported else "Ours",
        columns=("Method", "SSL", "Modality", *scores, "Classes", "Folds", "Epoch selected on"),
        rows=tuple(rows),
        notes=(*(reported.notes if reported else ()), *_describe_training(summaries)),
    )


def detail_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """All scores of each of our strategies."""
    rows = []
    for summary in summaries:
        spreads = map(_format_spread, (summary.uar, summary.war, summary.macro_f1, summary.weighted_f1))
        folds = (f"{summary.pooled.clips:,}", ", ".join(summary.missing) or "none")
        rows.append(TableRow(cells=(summary.name, *spreads, *_format_pooled(summary), *folds)))
    scores = ("UAR", "WAR", "Macro F1", "Weighted F1", "Pooled UAR", "Pooled WAR")
    return ReportTable(
        title="Ours in detail", columns=("Strategy", *scores, "Clips", "Missing folds"), rows=tuple(rows)
    )


def fold_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """UAR / WAR of each fold and each of our strategies."""
    columns = [{result.run.fold: result.scores for result in summary.results} for summary in summaries]
    rows = []
    for fold in dict.fromkeys(fold for summary in summaries for fold in summary.run.protocol.folds):
        found = [column.get(fold) for column in columns]
        cells = [f"{100 * scores.uar:.2f} / {100 * scores.war:.2f}" if scores else NOT_RUN for scores in found]
        rows.append(TableRow(cells=(fold, *cells)))
    names = [summary.name for summary in summaries]
    return ReportTable(title="UAR / WAR by fold", columns=("Fold", *names), rows=tuple(rows))


def _modality(strategy: str) -> str:
    """V, A or V+A, as the paper's tables have it; "" for a strategy of another version."""
    return STRATEGIES[strategy].modality if strategy in STRATEGIES else ""


def _describe_training(summaries: Sequence[RunSummary]) -> list[str]:
    """How our runs were trained: a line for each distinct training, with its strategies."""
    trainings: dict[str, list[str]] = {}
    for summary in summaries:
        protocol = summary.run.protocol
        start = "a random start" if protocol.weights is None else f"the weights {protocol.weights}"
        encoder = f"encoder {protocol.encoder} from {start}"
        training = f"recipe {protocol.recipe}, {encoder}, {protocol.feature}, settings {protocol.settings[:12]}"
        trainings.setdefault(training, []).append(summary.name)
    return [f"Ours, {', '.join(names)}: {training}." for training, names in trainings.items()]


def _format_spread(spread: MeanStd) -> str:
    return f"{100 * spread.mean:.2f}" + (" (one fold)" if spread.std is None else f" ± {100 * spread.std:.2f}")


def _format_pooled(summary: RunSummary) -> list[str]:
    """Pooled UAR and WAR, each with its interval if it has several speakers."""
    cells = []
    for score in ("uar", "war"):
        low, high = getattr(summary.pooled.interval, score, (None, None))
        interval = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
        cells.append(f"{100 * getattr(summary.pooled, score):.2f}{interval}")
    return cells
