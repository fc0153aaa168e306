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
from train.fusion import BUILT_IN
from train.metrics import DRAWS, LEVEL, MIN_SPEAKERS
from train.report import plots
from train.report.plots import LearningCurve
from train.report.render import ReportFigure, ReportSection, render_report
from train.report.reported import REPORTED
from train.report.tables import (
    comparison_table,
    corpus_table,
    cross_corpus_table,
    detail_table,
    difference_table,
    fold_table,
    missing_table,
)
from train.report.vq_mae import is_vq_mae, vq_mae_section
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
    """A section for each corpus, or several together, with a finished run in `runs`, and one for tests across corpora.

    Then one for each other corpus with reported results.
    """
    corpora: dict[str, list[RunSummary]] = {dataset: [] for dataset in REPORTED}
    order = {name: strategy.order for name, strategy in BUILT_IN.items()}  # those of another version come last
    across = []
    for summary in read_summaries(runs):
        if summary.run.tests:
            across.append(summary)
        else:
            corpora.setdefault(summary.run.dataset, []).append(summary)
    ours, others = [], []
    for dataset, found in corpora.items():
        summaries = sorted(found, key=lambda summary: order.get(summary.run.strategy, len(order) + 1))
        tables = [comparison_table(dataset, summaries)]
        if summaries:
            differences = difference_table(summaries)
            tables += [corpus_table(summaries)] if summaries[0].pooled.corpora else []
            tables += [detail_table(summaries), *([differences] if differences else [])]
            tables += [missing_table(summaries), fold_table(summaries)]
        title = REPORTED[dataset].title if dataset in REPORTED else dataset
        figures = _draw_figures(dataset, summaries, runs) if summaries else ()
        section = ReportSection(title=title, tables=tuple(tables), figures=tuple(figures))
        (ours if summaries else others).append(section)
    of_tokens = [summary for found in corpora.values() for summary in found if is_vq_mae(summary)]
    tokens = [vq_mae_section(of_tokens)] if of_tokens else []
    return [*ours, *([_cross_corpus_section(across, runs)] if across else []), *tokens, *others]


def _cross_corpus_section(summaries: Sequence[RunSummary], runs: Path) -> ReportSection:
    """Tests on all clips of other corpora, apart from those on folds, and from what others reported on these."""
    figures = [
        figure
        for summary in summaries
        for figure in _draw_run(f"{summary.run.dataset} on {' and '.join(summary.run.tests)}", summary, runs)
    ]
    return ReportSection(title="Across corpora", tables=(cross_corpus_table(summaries),), figures=tuple(figures))


def _draw_figures(dataset: str, summaries: Sequence[RunSummary], runs: Path) -> list[ReportFigure]:
    """Strategies compared, then the confusion matrix and the learning curves of each."""
    png, name = plots.comparison(summaries, dataset, plots.ceiling_line(dataset, summaries)), _file_name(dataset)
    figures = [ReportFigure(name=f"{name}-strategies.png", text=f"{dataset}: strategies compared", png=png)]
    png = plots.missing_modality(summaries, dataset)
    text = f"{dataset}: UAR where a part of a modality is missing"
    figures.append(ReportFigure(name=f"{name}-missing.png", text=text, png=png))
    return [*figures, *(figure for summary in summaries for figure in _draw_run(dataset, summary, runs))]


def _draw_run(dataset: str, summary: RunSummary, runs: Path) -> list[ReportFigure]:
    """The confusion matrix and the learning curves of a strategy."""
    title, name = f"{dataset}, {summary.name}", f"{_file_name(dataset)}-{_file_name(summary.name)}"
    curves = {}
    for run in (result.run for result in summary.results):
        log = read_log(run_folder(runs, run.dataset, run.strategy, run.fold, run.seed) / LOG_FILE)
        tested = run.tested if run.tests else run.fold
        curves[tested if len(summary.seeds) == 1 else f"{tested}, seed {run.seed}"] = LearningCurve(
            epochs=log, selected=run.epoch
        )
    folds = "" if summary.run.tests else f", {pluralize(len(summary.folds), 'fold')}"
    matrix = plots.confusion_matrix(summary.pooled, f"{title}{folds}")
    png = plots.learning_curves(curves, title, "tested on" if summary.run.tests else "fold")
    return [
        ReportFigure(name=f"{name}-confusion.png", text=f"{title}: confusion matrix", png=matrix),
        ReportFigure(name=f"{name}-curves.png", text=f"{title}: learning curves", png=png),
    ]


def _file_name(text: str) -> str:
    return _NOT_IN_FILE_NAMES.sub("-", text.replace("+", "-and-")).strip("-")
