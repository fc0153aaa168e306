"""Tables of the report: our results next to those that others reported, in detail, and by fold. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manifests.text import pluralize
from train import metrics
from train.fusion import BUILT_IN, STRATEGIES
from train.metrics import MeanStd
from train.report.render import ReportTable, TableRow
from train.report.reported import REPORTED
from train.runs import RunSummary
from train.scoring import FoldScores

NOT_RUN = "not run"
#: `Supervision` -> words for the encoder that a training starts from.
_START = {"random": "random weights", "unknown": "unknown"}


def comparison_table(dataset: str, summaries: Sequence[RunSummary]) -> ReportTable:
    """What was reported on a corpus, then a row for each of our strategies, run or not."""
    reported = REPORTED.get(dataset)
    rows = []
    for other in (*reported.paper, *reported.others) if reported else ():
        scores, protocol = (
            ["—" if score is None else f"{score:.2f}" for score in (other.uar, other.war)],
            other.protocol,
        )
        placed = ["", "", *scores] if protocol.averaging == "pooled" else [*scores, "", ""]
        stated = (protocol.training, "", protocol.classes, protocol.folds, protocol.selection)
        start = "self-supervised" if other.ssl else "not self-supervised"
        rows.append(TableRow(cells=(other.method, start, other.modality, *placed, *stated), ours=False))
    for summary in summaries:
        run, protocol = summary.run, summary.run.protocol
        scores = (_format_spread(summary.uar), _format_spread(summary.war), *_format_pooled(summary.pooled))
        classes = f"{len(protocol.classes)} ({protocol.label_scheme})"
        separated = "SPEAKERS SHARED by training and test" if protocol.shared_speakers else "by speaker"
        folds = f"{len(summary.folds)} of {len(protocol.folds)} ({protocol.fold_scheme}), {separated}"
        trained = (_format_clips(summary), str(len(summary.seeds)), classes, folds, protocol.selection)
        start = _START.get(protocol.supervision, protocol.supervision)
        rows.append(TableRow(cells=(f"ours, {summary.name}", start, _modality(run.strategy), *scores, *trained)))
    for strategy in sorted(STRATEGIES, key=lambda name: STRATEGIES[name].order):
        if strategy not in {summary.run.strategy for summary in summaries}:
            cells = (f"ours, {strategy}", "", _modality(strategy), NOT_RUN, NOT_RUN, *[""] * 7)
            rows.append(TableRow(cells=cells))
    return ReportTable(
        title="Reported, and ours" if reported else "Ours",
        columns=(
            *("Method", "Encoder before", "Modality", "UAR", "WAR", "Pooled UAR", "Pooled WAR"),
            *("Training clips", "Seeds", "Classes", "Folds", "Epoch selected on"),
        ),
        rows=tuple(rows),
        notes=(*(reported.notes if reported else ()), *_describe_training(summaries)),
    )


def detail_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """All scores of each of our strategies."""
    rows = []
    for summary in summaries:
        spreads = map(_format_spread, (summary.uar, summary.war, summary.macro_f1, summary.weighted_f1))
        seeds = ("—", "—")
        if len(summary.seeds) > 1:
            seeds = (_format_spread(summary.uar_over_seeds), _format_spread(summary.war_over_seeds))
        folds = (
            f"{summary.pooled.clips:,} of {summary.corpus_clips:,}",
            ", ".join(summary.missing) or "none",
        )
        rows.append(TableRow(cells=(summary.name, *spreads, *seeds, *_format_pooled(summary.pooled), *folds)))
    scores = ("UAR", "WAR", "Macro F1", "Weighted F1", "UAR over seeds", "WAR over seeds", "Pooled UAR", "Pooled WAR")
    return ReportTable(
        title="Ours in detail", columns=("Strategy", *scores, "Clips", "Missing folds"), rows=tuple(rows)
    )


def difference_table(summaries: Sequence[RunSummary]) -> ReportTable | None:
    """The strategy with the highest pooled UAR compared with each other one on the same speakers; None without any."""
    if len(summaries) < 2:
        return None
    best = max(summaries, key=lambda summary: summary.pooled.uar)
    others = [other for other in summaries if other is not best and _is_comparable(best, other)]
    if not others:
        return None
    confusions = [np.array(list(each.pooled.confusions.values())) for each in (best, *others)]
    margin, speakers = metrics.simultaneous_margin(confusions), len(best.pooled.speakers)
    rows = []
    for other in others:
        differences = [getattr(best.pooled, score) - getattr(other.pooled, score) for score in ("uar", "war")]
        cells = [
            f"{100 * difference:+.2f} ± {100 * spread:.2f}"
            for difference, spread in zip(differences, (margin.uar, margin.war), strict=True)
        ]
        verdict = f"By UAR, {best.name} is better than {other.name} on these speakers."
        if differences[0] <= margin.uar:
            verdict = "By UAR, no difference can be shown on these speakers."
        if speakers < metrics.MIN_SPEAKERS:
            verdict = f"{pluralize(speakers, 'speaker')}: too few to tell."
        rows.append(TableRow(cells=(f"{best.name} - {other.name}", *cells, verdict)))
    seeds = {len(each.seeds) for each in (best, *others)}
    trained = " It is of these trained models: training again may change scores, too (SEEDS=3)." if seeds == {1} else ""
    return ReportTable(
        title="Differences between strategies",
        columns=("Compared", "Pooled UAR, points", "Pooled WAR, points", "In words"),
        rows=tuple(rows),
        notes=(
            f"± is how far the best and the worst of {len(confusions)} equally good strategies differ at most in "
            f"{100 * margin.level:.0f} % of the draws of these {speakers} speakers: a difference beyond it is shown, "
            f"although the best was chosen for its score and compared with all.{trained}",
        ),
    )


def _is_comparable(first: RunSummary, second: RunSummary) -> bool:
    """Whether two strategies were tested on the same clips, of at least two speakers."""
    clips, others = (
        {
            speaker: (np.sum(matrix, axis=1) // each.pooled.seeds).tolist()
            for speaker, matrix in each.pooled.confusions.items()
        }
        for each in (first, second)
    )
    return first.pooled.classes == second.pooled.classes and clips == others and len(clips) > 1


def missing_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """UAR of each strategy, mean over folds, where a part of the sound or of the faces is missing."""
    conditions = sorted({condition for summary in summaries for condition in summary.missing_uar})
    rows = []
    for summary in summaries:
        found = [summary.missing_uar.get(condition) for condition in conditions]
        cells = ["" if uar is None else f"{100 * uar:.2f}" for uar in (summary.uar.mean, *found)]
        rows.append(TableRow(cells=(summary.name, *cells)))
    names = [f"{100 * condition.share:.0f} % of {condition.modality}" for condition in conditions]
    return ReportTable(
        title="UAR where a part of a modality is missing",
        columns=("Strategy", "Complete", *names),
        rows=tuple(rows),
        notes=(
            "What is missing of the sound's time, or of the faces, is drawn for each clip; means stand in its place.",
        ),
    )


def fold_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """UAR / WAR of each fold and each of our strategies."""
    columns = [summary.folds for summary in summaries]
    rows = []
    for fold in dict.fromkeys(fold for summary in summaries for fold in summary.run.protocol.folds):
        found = [column.get(fold) for column in columns]
        cells = [f"{100 * scores.uar:.2f} / {100 * scores.war:.2f}" if scores else NOT_RUN for scores in found]
        rows.append(TableRow(cells=(fold, *cells)))
    names = [summary.name for summary in summaries]
    return ReportTable(title="UAR / WAR by fold", columns=("Fold", *names), rows=tuple(rows))


def corpus_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """UAR and WAR of each corpus by itself, of strategies that were trained and tested on several together."""
    corpora = list(dict.fromkeys(corpus for summary in summaries for corpus in summary.pooled.corpora))
    rows = []
    for summary in summaries:
        found = [summary.pooled.of_corpus(corpus) for corpus in corpora]
        cells = [_format_pooled(scores) if scores.confusions else [NOT_RUN] * 2 for scores in found]
        rows.append(TableRow(cells=(summary.name, *(cell for pair in cells for cell in pair))))
    columns = (f"{corpus}, pooled {score}" for corpus in corpora for score in ("UAR", "WAR"))
    return ReportTable(title="By corpus", columns=("Strategy", *columns), rows=tuple(rows))


def cross_corpus_table(summaries: Sequence[RunSummary]) -> ReportTable:
    """Scores on all clips of other corpora than those that were trained on: a row for each of these and strategy."""
    columns = sorted({corpus for summary in summaries for corpus in summary.run.tests})
    rows: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for summary in summaries:
        protocol = summary.run.protocol
        start = _START.get(protocol.supervision, protocol.supervision)
        row = (summary.run.dataset, summary.name, start, protocol.selection)
        cells = rows.setdefault(row, {})
        for corpus in summary.run.tests:
            scores = summary.pooled.of_corpus(corpus)
            uar, war = _format_pooled(scores)
            alone = f" of {summary.corpus_clips:,}" if len(summary.run.tests) == 1 else ""
            tested = f"{len(protocol.classes)} classes, {scores.clips:,}{alone} clips"
            what = f"{tested}; {_format_clips(summary)} trained on"
            cells.setdefault(corpus, []).append(f"{uar} / {war} ({what})")
    return ReportTable(
        title="UAR / WAR on all clips of another corpus",
        columns=("Trained on", "Strategy", "Encoder before", "Epoch selected on", *columns),
        rows=tuple(
            TableRow(cells=(*row, *("; ".join(cells.get(corpus, ["—"])) for corpus in columns)))
            for row, cells in sorted(rows.items())
        ),
        notes=(
            "The classes are those that the corpora have in common, so that scores of one column may be of different "
            "classes. No speaker and no recording of a tested corpus was trained on. These scores cannot be compared "
            "with those of folds of one corpus.",
            *_describe_training(summaries),
        ),
    )


def _modality(strategy: str) -> str:
    """V, A or V+A, as the paper's tables have it; "" for a strategy of another version."""
    return BUILT_IN[strategy].modality if strategy in BUILT_IN else ""


def _describe_training(summaries: Sequence[RunSummary]) -> list[str]:
    """How our runs were trained: a line for each distinct training, with its strategies."""
    trainings: dict[str, list[str]] = {}
    for summary in summaries:
        protocol = summary.run.protocol
        start = protocol.lineage + (f" ({protocol.weights})" if protocol.weights else "")
        seen = f", every frame ({protocol.windows})" if protocol.windows else ""
        training = (
            f"recipe {protocol.recipe}, encoder {protocol.encoder} from {start}; {protocol.feature}, {protocol.build}"
            f"{seen}; {protocol.precision}, settings {protocol.settings[:12]}"
        )
        run = summary.run
        across = f"{run.dataset} on {' and '.join(run.tests)} by " if run.tests else ""
        trainings.setdefault(training, []).append(f"{across}{summary.name}")
    return [f"Ours, {', '.join(names)}: {training}." for training, names in trainings.items()]


def _format_clips(summary: RunSummary) -> str:
    """Training clips of a fold: their number, or the least and the most."""
    counts = sorted({result.run.training_clips for result in summary.results})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _format_spread(spread: MeanStd) -> str:
    return f"{100 * spread.mean:.2f}" + (" (one fold)" if spread.std is None else f" ± {100 * spread.std:.2f}")


def _format_pooled(pooled: FoldScores) -> list[str]:
    """Pooled UAR and WAR, each with its interval if it has several speakers."""
    cells = []
    for score in ("uar", "war"):
        low, high = getattr(pooled.interval, score, (None, None))
        interval = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
        interval += "*" if interval and len(pooled.speakers) < metrics.MIN_SPEAKERS else ""
        cells.append(f"{100 * getattr(pooled, score):.2f}{interval}")
    return cells
