"""Pictures of runs: learning curves, confusion matrices, strategies side by side. Data -> bytes of a PNG. Pure.

Same data and matplotlib, same bytes: nothing of a user's settings, clock or display goes in. 1400 pixels wide, which is
sharp where a README shows it at half of that. Colours are Okabe and Ito's, told apart by colour-blind readers too, and
never the only difference.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from train import metrics
from train.evaluate import FoldResult
from train.runs import Epoch, Summary

WIDTH_INCHES, DOTS_PER_INCH = 7.0, 200

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_INK, _SOFT, _FAINT = "#1f2328", "#6b7280", "#e5e7eb"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": _INK,
    "text.parse_math": False,  # a class may be called "$"
    "legend.frameon": False,
    "errorbar.capsize": 0,
}
_LONGEST_NAME = 16


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How one run went."""

    epochs: tuple[Epoch, ...]
    chosen: int
    """Number of the epoch that was evaluated."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A score to compare with."""

    name: str
    uar: float
    war: float


def learning_curves(curves: Mapping[str, Curve], title: str) -> bytes:
    """Loss and validation UAR by epoch, fold name -> curve; the chosen epoch is marked on each."""

    def draw() -> Figure:
        figure = _figure(3.0)
        loss, uar = figure.subplots(1, 2)
        for curve in curves.values():
            _draw_curve(loss, uar, curve, alone=len(curves) == 1)
        _finish_curves(loss, uar, curves, title)
        return figure

    return _png(draw)


def confusion_matrix(result: FoldResult, title: str) -> bytes:
    """Where clips of each class went: shaded and told in percent of the row, with the number of clips below."""

    def draw() -> Figure:
        counts = np.array(result.confusion)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        figure = _figure(1.0 + 0.44 * len(counts))
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(counts.shape):
            _draw_cell(axes, row, column, float(shares[row, column]), int(counts[row, column]))
        _label_matrix(axes, result, title)
        return figure

    return _png(draw)


def comparison(summaries: Sequence[Summary], title: str, ceiling: Line | None = None) -> bytes:
    """UAR and WAR of strategies, at least one: each fold, mean and standard deviation, pooled score and interval.

    Chance is what a guess without a look at the clips reaches. `ceiling` is a score that fusion has to beat.
    """

    def draw() -> Figure:
        figure = _figure(1.5 + 0.4 * len(summaries))
        figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        for axes, score in zip(figure.subplots(1, 2, sharey=True), ("uar", "war"), strict=True):
            _draw_scores(axes, summaries, score, [_chance(summaries), *([ceiling] if ceiling else [])])
        figure.axes[0].set_yticks(range(len(summaries)), [_name(s) for s in summaries])
        figure.axes[0].set_ylim(len(summaries) - 0.5, -0.5)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7.5)
        return figure

    return _png(draw)


def _draw_curve(loss: Axes, uar: Axes, curve: Curve, *, alone: bool) -> None:
    numbers = [epoch.epoch for epoch in curve.epochs]
    look = {"linewidth": 1.6 if alone else 0.9, "alpha": 1.0 if alone else 0.55}
    loss.plot(numbers, [epoch.train_loss for epoch in curve.epochs], color=_BLUE, **look)
    loss.plot(numbers, [epoch.validation_loss for epoch in curve.epochs], color=_ORANGE, linestyle="--", **look)
    uar.plot(numbers, [100 * epoch.validation_uar for epoch in curve.epochs], color=_GREEN, **look)
    for epoch in curve.epochs:
        if epoch.epoch == curve.chosen:
            marker = {"marker": "o", "markersize": 5.5 if alone else 4, "markeredgecolor": "white", "zorder": 3}
            loss.plot(epoch.epoch, epoch.validation_loss, color=_ORANGE, **marker)
            uar.plot(epoch.epoch, 100 * epoch.validation_uar, color=_GREEN, **marker)


def _finish_curves(loss: Axes, uar: Axes, curves: Mapping[str, Curve], title: str) -> None:
    loss.plot([], [], color=_BLUE, label="training")
    loss.plot([], [], color=_ORANGE, linestyle="--", label="validation")
    marker = {"linestyle": "none", "marker": "o", "markeredgecolor": "white"}
    loss.plot([], [], color=_ORANGE, label="chosen epoch", **marker)
    uar.plot([], [], color=_GREEN, label=_chosen(curves), **marker)
    loss.set_title(title)
    uar.set_title(f"{len(curves)} folds" if len(curves) > 1 else f"fold {next(iter(curves), '')}")
    loss.set_ylabel("loss")
    uar.set_ylabel("UAR of validation speakers (%)")
    loss.legend(loc="upper right")
    uar.legend(loc="lower right")
    for axes in (loss, uar):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", color=_FAINT, linewidth=0.7)
        axes.set_axisbelow(True)


def _chosen(curves: Mapping[str, Curve]) -> str:
    if len(curves) != 1:
        return "chosen epoch"
    return f"chosen epoch, {next(iter(curves.values())).chosen}"


def _draw_cell(axes: Axes, row: int, column: int, share: float, count: int) -> None:
    if count:
        place = {"xy": (column, row), "textcoords": "offset points", "ha": "center", "va": "center"}
        color = "white" if share > 0.55 else _INK
        weight = "bold" if row == column else "normal"
        axes.annotate(f"{100 * share:.0f} %", xytext=(0, 4.5), color=color, fontweight=weight, **place)
        axes.annotate(f"{count:,}", xytext=(0, -6.5), color=color, fontsize=6.5, **place)


def _label_matrix(axes: Axes, result: FoldResult, title: str) -> None:
    names = [_short(name) for name in result.classes]
    clips = [sum(row) for row in result.confusion]
    axes.set_title(f"{title}   UAR {100 * result.uar:.1f} %   WAR {100 * result.war:.1f} %", pad=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), [f"{name}\n{count:,} clips" for name, count in zip(names, clips, strict=True)])
    axes.set_xlabel("predicted (share of the row, and clips)")
    axes.set_ylabel("true")
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _draw_scores(axes: Axes, summaries: Sequence[Summary], score: str, lines: Sequence[Line]) -> None:
    """One panel, a row for each strategy; `score` is `uar` or `war`."""
    for row, summary in enumerate(summaries):
        _draw_row(axes, row, summary, score)
    for line, dashes in zip(lines, ("--", ":"), strict=False):
        place = 100 * getattr(line, score)
        axes.axvline(place, color=_INK, linewidth=1, linestyle=dashes, zorder=0, label=line.name)
    axes.set_xlim(*_limits(summaries, score, lines))
    axes.set_xlabel(f"{score.upper()} (%)")
    axes.grid(axis="x", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _draw_row(axes: Axes, row: int, summary: Summary, score: str) -> None:
    """Mean and deviation above, pooled score and interval below, a tick for each fold between."""
    spread, value = getattr(summary, score), getattr(summary.pooled, score)
    spanned = (spread.mean - (spread.std or 0), spread.mean + (spread.std or 0))
    interval = getattr(summary.pooled.interval, score, (value, value))
    folds = [100 * getattr(outcome.result, score) for outcome in summary.outcomes]
    names = ("mean ± std over folds", f"all clips, {100 * metrics.LEVEL:.0f} % interval over speakers", "a fold")
    mean, pooled, fold = names if row == 0 else ("", "", "")
    _draw_range(
        axes, row - 0.16, spread.mean, spanned, {"color": _BLUE, "linewidth": 2.2, "marker": "o", "label": mean}
    )
    _draw_range(axes, row + 0.18, value, interval, {"color": _ORANGE, "linewidth": 1.2, "marker": "D", "label": pooled})
    axes.plot(folds, [row] * len(folds), linestyle="none", marker="|", color=_SOFT, markersize=5, label=fold)


def _draw_range(axes: Axes, y: float, value: float, span: tuple[float, float], look: Mapping[str, Any]) -> None:
    axes.plot([100 * span[0], 100 * span[1]], [y, y], **{**look, "marker": "", "label": ""})
    axes.plot(100 * value, y, markersize=4.5, **look)


def _limits(summaries: Sequence[Summary], score: str, lines: Sequence[Line]) -> tuple[float, float]:
    """The tens that all there is to see lies between, in percent."""
    seen = [getattr(line, score) for line in lines]
    for summary in summaries:
        spread = getattr(summary, score)
        seen += [getattr(outcome.result, score) for outcome in summary.outcomes]
        seen += [spread.mean - (spread.std or 0), spread.mean + (spread.std or 0)]
        seen += getattr(summary.pooled.interval, score) if summary.pooled.interval else ()
    low, high = 10 * math.floor(10 * min(seen) - 0.1), 10 * math.ceil(10 * max(seen) + 0.1)
    return max(low, -1), min(high, 101)


def _chance(summaries: Sequence[Summary]) -> Line:
    """Chance on the clips of the strategy with the most of them."""
    most = max(summaries, key=lambda summary: summary.pooled.clips)
    uar, war = metrics.chance(np.array(most.pooled.confusion))
    return Line(name="chance", uar=uar, war=war)


def _name(summary: Summary) -> str:
    done, folds = len(summary.outcomes), len(summary.run.protocol.folds)
    return summary.name + (f"\n{done} of {folds} folds" if done < folds else "")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _figure(height_inches: float) -> Figure:
    layout = ConstrainedLayoutEngine(wspace=0.05)
    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH, layout=layout)


def _png(draw: Callable[[], Figure]) -> bytes:
    """Draw and render in our own style, whatever the user's is."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE]):
        figure = draw()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
