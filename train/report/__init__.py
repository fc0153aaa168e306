"""The report on a folder of runs: the paper's Tables I to III next to our results, scores by fold, and figures.

    <out>/report.md           for a repository; shows the figures in `figures/`
    <out>/report.html         the same in one file
    <out>/figures/*.png       strategies compared, confusion matrices, learning curves

The same runs produce the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from manifests.files import atomic_write, remove_leftovers, remove_partial_files
from manifests.text import pluralize
from train.fusion import STRATEGIES
from train.metrics import DRAWS, LEVEL, MIN_SPEAKERS
from train.report import plots
from train.report.plots import LearningCurve
from train.report.render import ReportFigure, ReportSection, render_report
from train.report.reported import REPORTED
from train.report.tables import comparison_table, detail_table, difference_table, fold_table, missing_table
from train.runs import LOG_FILE, RunSummary, read_log, read_summaries, run_folder

_NOT_IN_FILE_NAMES = re.compile("[^A-Za-z0-9_-]+")
_INTRODUCTION = (
    "In percent. UAR is the mean recall of the classes that a test fold has, WAR is accuracy. Ours: mean ± sample "
    "standard deviation over folds, each the mean of its seeds; pooled: all clips of these folds together, with a "
    f"{100 * LEVEL:.0f} % interval from {DRAWS:,} draws of speakers, too narrow (*) below {MIN_SPEAKERS} of them."
)


def write_report(runs: Path, out: Path) -> tuple[Path, Path]:
    """Write the report on a folder of runs, which may be empty or missing; paths of the Markdown and the HTML page.

    Raises EvaluationError for a run that cannot be scored, and OSError.
    """
    sections = build_report(runs)
    paths = out / "report.md", out / "report.html"
    for path in paths:
        remove_partial_files(path)
    remove_leftovers(out / "figures")
    for figure in (figure for section in sections for figure in section.figures):
        atomic_write(out / "figures" / figure.name, figure.png)
    for path, text in zip(paths, render_report("Results", _INTRODUCTION, sections), strict=True):
        atomic_write(path, text.encode())
    return paths


def build_report(runs: Path) -> list[ReportSection]:
    """A section for each corpus with a finished run in `runs`, then one for each other with reported results."""
    corpora: dict[str, list[RunSummary]] = {dataset: [] for dataset in REPORTED}
    for summary in read_summaries(runs):
        corpora.setdefault(summary.run.dataset, []).append(summary)
    order = {name: strategy.order for name, strategy in STRATEGIES.items()}  # those of another version come last
    sections = []
    for dataset, found in sorted(corpora.items(), key=lambda item: not item[1]):
        summaries = sorted(found, key=lambda summary: order.get(summary.run.strategy, len(order) + 1))
        tables = [comparison_table(dataset, summaries)]
        if summaries:
            differences = difference_table(summaries)
            tables += [detail_table(summaries), *([differences] if differences else [])]
            tables += [missing_table(summaries), fold_table(summaries)]
        title = REPORTED[dataset].title if dataset in REPORTED else dataset
        figures = _draw_figures(dataset, summaries, runs) if summaries else ()
        sections.append(ReportSection(title=title, tables=tuple(tables), figures=tuple(figures)))
    return sections


def _draw_figures(dataset: str, summaries: Sequence[RunSummary], runs: Path) -> list[ReportFigure]:
    """Strategies compared, then the confusion matrix and the learning curves of each."""
    png = plots.comparison(summaries, dataset, plots.ceiling_line(dataset, summaries))
    figures = [ReportFigure(name=f"{dataset}-strategies.png", text=f"{dataset}: strategies compared", png=png)]
    png = plots.missing_modality(summaries, dataset)
    text = f"{dataset}: UAR where a part of a modality is missing"
    figures.append(ReportFigure(name=f"{dataset}-missing.png", text=text, png=png))
    for summary in summaries:
        title = f"{dataset}, {summary.name}"
        name = f"{dataset}-{_NOT_IN_FILE_NAMES.sub('-', summary.name).strip('-')}"
        curves = {}
        for run in (result.run for result in summary.results):
            log = read_log(run_folder(runs, run.dataset, run.strategy, run.fold, run.seed) / LOG_FILE)
            curves[run.fold if len(summary.seeds) == 1 else f"{run.fold}, seed {run.seed}"] = LearningCurve(
                epochs=log, selected=run.epoch
            )
        matrix = plots.confusion_matrix(summary.pooled, f"{title}, {pluralize(len(summary.folds), 'fold')}")
        figures.append(ReportFigure(name=f"{name}-confusion.png", text=f"{title}: confusion matrix", png=matrix))
        png = plots.learning_curves(curves, title)
        figures.append(ReportFigure(name=f"{name}-curves.png", text=f"{title}: learning curves", png=png))
    return figures
