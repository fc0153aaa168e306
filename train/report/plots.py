"""Figures of runs: learning curves, confusion matrices, strategies compared. Data -> bytes of a PNG. Pure.

The same data and matplotlib version produce the same bytes: a user's settings, clock and display have no influence.
Figures are 1400 pixels wide, which is sharp in a README that shows half of that. Colours are Okabe and Ito's, which
colour-blind readers can distinguish, and never the only difference.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from train import metrics
from train.data.missing import FACES, SOUND
from train.fusion import BUILT_IN
from train.report.reported import MODALITY_CEILINGS, ScoreLine
from train.runs import EpochMetrics, RunSummary
from train.scoring import FoldScores

WIDTH_INCHES, DOTS_PER_INCH = 7.0, 200

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
_INK, _SOFT = "#1f2328", "#6b7280"
#: Okabe and Ito's colours and distinct markers, for many lines.
_CYCLE = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#8B6F00", "#000000")
_MARKERS = "os^DvP*X"
_LONGEST_NAME = 16

_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """The epochs of one run."""

    epochs: tuple[EpochMetrics, ...]
    selected: int
    """Number of the epoch that was evaluated."""


def as_png(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, bytes]:
    """Draw in the style of `figures.mplstyle`, whatever the user's is, and render to the bytes of a PNG."""

    @wraps(draw)
    def render(*args: _Arguments.args, **options: _Arguments.kwargs) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.style.context(["default", "train.report.figures"]):
            FigureCanvasAgg(draw(*args, **options)).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()

    return render


def make_figure(height_inches: float) -> Figure:
    """A figure of the common width."""
    layout = ConstrainedLayoutEngine(wspace=0.05)
    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH, layout=layout)


@as_png
def learning_curves(curves: Mapping[str, LearningCurve], title: str, before: str = "fold") -> Figure:
    """Loss and validation UAR by epoch, fold name -> curve; the selected epoch is marked on each.

    `before` is a word that comes before the name of a single fold.
    """
    figure = make_figure(3.0)
    loss, uar = figure.subplots(1, 2)
    for curve in curves.values():
        _draw_curve(loss, uar, curve, alone=len(curves) == 1)
    single = next(iter(curves.items())) if len(curves) == 1 else None
    marker = {"linestyle": "none", "marker": "o", "markeredgecolor": "white"}
    loss.plot([], [], color=BLUE, label="training")
    loss.plot([], [], color=ORANGE, linestyle="--", label="validation")
    loss.plot([], [], color=ORANGE, label="selected epoch", **marker)
    epoch = f"selected epoch, {single[1].selected}" if single else "selected epoch"
    uar.plot([], [], color=GREEN, label=epoch, **marker)
    loss.set(title=title, xlabel="epoch", ylabel="loss")
    folds = f"{before} {single[0]}" if single else f"{len(curves)} folds"
    uar.set(title=folds, xlabel="epoch", ylabel="UAR of validation speakers (%)")
    for axes, corner in ((loss, "upper right"), (uar, "lower right")):
        axes.legend(loc=corner)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
    return figure


@as_png
def confusion_matrix(scores: FoldScores, title: str) -> Figure:
    """The classes that clips of each class were predicted as: percent of the row, with the number of clips below."""
    clips = scores.confusion.sum(axis=1)
    shares = scores.confusion / np.maximum(clips[:, None], 1)
    figure = make_figure(1.0 + 0.44 * len(clips))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(scores.confusion).tolist():
        place = {"xy": (column, row), "textcoords": "offset points", "ha": "center", "va": "center"}
        place["color"] = "white" if shares[row, column] > 0.55 else _INK
        weight = "bold" if row == column else "normal"
        axes.annotate(f"{100 * shares[row, column]:.0f} %", xytext=(0, 4.5), fontweight=weight, **place)
        axes.annotate(f"{scores.confusion[row, column]:,}", xytext=(0, -6.5), fontsize=6.5, **place)
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in scores.classes]
    axes.set_title(f"{title}   UAR {100 * scores.uar:.1f} %   WAR {100 * scores.war:.1f} %", pad=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(
        range(len(names)),
        [f"{name}\n{count // scores.seeds:,} clips" for name, count in zip(names, clips, strict=True)],
    )
    axes.set(xlabel="predicted (share of the row, and clips)", ylabel="true")
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return figure


@as_png
def comparison(summaries: Sequence[RunSummary], title: str, ceiling: ScoreLine | None = None) -> Figure:
    """UAR and WAR of strategies, at least one: each fold, mean and standard deviation, pooled score and interval.

    Chance is what a guess without a look at the clips reaches. `ceiling` is a score that fusion has to beat.
    """
    lines = [chance_line(summaries), *([ceiling] if ceiling else [])]
    figure = make_figure(1.5 + 0.4 * len(summaries))
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, score in zip(panels, ("uar", "war"), strict=True):
        for row, summary in enumerate(summaries):
            _draw_row(axes, row, summary, score)
        for line, dashes in zip(lines, ("--", ":"), strict=False):
            look = {"color": _INK, "linewidth": 1, "linestyle": dashes, "zorder": 0}
            axes.axvline(100 * getattr(line, score), label=line.name, **look)
        axes.set(xlim=score_limits(summaries, score, lines), xlabel=f"{score.upper()} (%)")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(summaries)), [row_label(summary) for summary in summaries])
    panels[0].set_ylim(len(summaries) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7.5)
    return figure


@as_png
def missing_modality(summaries: Sequence[RunSummary], title: str) -> Figure:
    """UAR of strategies, at least one, by the share of the sound (left) and of the faces (right) that is missing."""
    figure = make_figure(3.4)
    figure.suptitle(f"{title}, a part of a modality missing", x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    panels = figure.subplots(1, 2, sharey=True)
    chance = chance_line(summaries)
    for axes, modality in zip(panels, (SOUND, FACES), strict=True):
        for number, summary in enumerate(summaries):
            curve = [(0.0, summary.uar.mean)]
            curve += [(each.share, uar) for each, uar in summary.missing_uar.items() if each.modality == modality]
            shares, scores = zip(*((100 * share, 100 * uar) for share, uar in sorted(curve)), strict=True)
            colour = _CYCLE[number % len(_CYCLE)]
            axes.plot(shares, scores, color=colour, marker=_MARKERS[number % len(_MARKERS)], label=summary.name)
        axes.axhline(100 * chance.uar, color=_INK, linewidth=1, linestyle="--", zorder=0, label=chance.name)
        axes.set(xlabel=f"{modality} missing (%)", xticks=[0, 25, 50, 75, 100])
        axes.grid(axis="y")
    panels[0].set_ylabel("UAR (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7.5)
    return figure


def chance_line(summaries: Sequence[RunSummary]) -> ScoreLine:
    """Chance on the clips of the strategy with the most of them."""
    most = max(summaries, key=lambda summary: summary.pooled.clips)
    uar, war = metrics.chance(most.pooled.confusion)
    return ScoreLine(name="chance", uar=uar, war=war)


def ceiling_line(dataset: str, summaries: Sequence[RunSummary]) -> ScoreLine | None:
    """What fusion has to beat: the known ceiling of one modality, else the best score that one reached, by UAR."""
    strategies = [(summary, BUILT_IN.get(summary.run.strategy)) for summary in summaries]
    single = [summary for summary, strategy in strategies if strategy and not (strategy.faces and strategy.windows)]
    if dataset in MODALITY_CEILINGS or not single:
        return MODALITY_CEILINGS.get(dataset)
    best = max(single, key=lambda summary: summary.uar.mean)
    return ScoreLine(name=f"best single modality ({best.run.strategy})", uar=best.uar.mean, war=best.war.mean)


def score_limits(summaries: Sequence[RunSummary], score: str, lines: Sequence[ScoreLine]) -> tuple[float, float]:
    """The tens, in percent, that contain all scores, deviations, intervals and lines."""
    values = [getattr(line, score) for line in lines]
    for summary in summaries:
        spread = getattr(summary, score)
        values += [getattr(scores, score) for scores in summary.folds.values()]
        values += [spread.mean - (spread.std or 0), spread.mean + (spread.std or 0)]
        values += getattr(summary.pooled.interval, score) if summary.pooled.interval else ()
    low, high = 10 * math.floor(10 * min(values) - 0.1), 10 * math.ceil(10 * max(values) + 0.1)
    return max(low, -1), min(high, 101)


def row_label(summary: RunSummary) -> str:
    """Name of a strategy, with the number of folds where some are missing."""
    done, folds = len(summary.folds), len(summary.run.protocol.folds)
    return summary.name + (f"\n{done} of {folds} folds" if done < folds else "")


def _draw_curve(loss: Axes, uar: Axes, curve: LearningCurve, *, alone: bool) -> None:
    numbers = [epoch.epoch for epoch in curve.epochs]
    look = {"linewidth": 1.6 if alone else 0.9, "alpha": 1.0 if alone else 0.55}
    loss.plot(numbers, [epoch.train_loss for epoch in curve.epochs], color=BLUE, **look)
    loss.plot(numbers, [epoch.validation_loss for epoch in curve.epochs], color=ORANGE, linestyle="--", **look)
    uar.plot(numbers, [100 * epoch.validation_uar for epoch in curve.epochs], color=GREEN, **look)
    marker = {"marker": "o", "markersize": 5.5 if alone else 4, "markeredgecolor": "white", "zorder": 3}
    for epoch in (epoch for epoch in curve.epochs if epoch.epoch == curve.selected):
        loss.plot(epoch.epoch, epoch.validation_loss, color=ORANGE, **marker)
        uar.plot(epoch.epoch, 100 * epoch.validation_uar, color=GREEN, **marker)


def _draw_row(axes: Axes, row: int, summary: RunSummary, score: str) -> None:
    """Mean and deviation above, pooled score and interval below, a tick for each fold between."""
    names = ("mean ± std over folds", f"all clips, {100 * metrics.LEVEL:.0f} % interval over speakers", "a fold")
    mean_name, pooled_name, fold_name = names if row == 0 else ("", "", "")  # the legend shows each once
    spread, pooled = getattr(summary, score), getattr(summary.pooled, score)
    deviation = (spread.mean - (spread.std or 0), spread.mean + (spread.std or 0))
    interval = getattr(summary.pooled.interval, score, (pooled, pooled))
    folds = [100 * getattr(scores, score) for scores in summary.folds.values()]
    _draw_range(axes, row - 0.16, spread.mean, deviation, color=BLUE, linewidth=2.2, marker="o", label=mean_name)
    _draw_range(axes, row + 0.18, pooled, interval, color=ORANGE, linewidth=1.2, marker="D", label=pooled_name)
    look = {"linestyle": "none", "marker": "|", "color": _SOFT, "markersize": 5}
    axes.plot(folds, [row] * len(folds), label=fold_name, **look)


def _draw_range(axes: Axes, y: float, value: float, ends: tuple[float, float], **look: Any) -> None:
    axes.plot([100 * ends[0], 100 * ends[1]], [y, y], **{**look, "marker": "", "label": ""})
    axes.plot(100 * value, y, markersize=4.5, **look)
