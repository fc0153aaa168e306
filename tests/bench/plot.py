"""Plot of the figures that were measured for several sizes. Pure."""

from __future__ import annotations

import io
from collections import defaultdict

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Page
from matplotlib.ticker import FuncFormatter, NullLocator

from tests.bench.figures import Figure, Stages

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
_MARKERS = "osD^vP"
_STYLE = {"font.family": "DejaVu Sans", "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}
_COLUMNS = 2

Panel = tuple[str, str, str]


def plot_growth(stages: Stages) -> bytes:
    """PNG with a panel for each stage, unit and kind of size, and a line for each figure.

    Raises ValueError if no figure was measured for several sizes.
    """
    panels = _panels(stages)
    if not panels:
        raise ValueError("found no figure measured for several sizes, expected at least one to plot")
    rows = -(-len(panels) // _COLUMNS)
    with matplotlib.style.context(["default", _STYLE]):
        page = Page(figsize=(5 * min(_COLUMNS, len(panels)), 3.2 * rows), dpi=140, layout="constrained")
        FigureCanvasAgg(page)
        for place, (panel, lines) in enumerate(panels.items(), 1):
            _draw_panel(page.add_subplot(rows, _COLUMNS, place), panel, lines)
        buffer = io.BytesIO()
        page.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panels(stages: Stages) -> dict[Panel, dict[str, list[Figure]]]:
    """(stage, unit, kind of size) -> name -> its figures by size."""
    panels: dict[Panel, dict[str, list[Figure]]] = defaultdict(lambda: defaultdict(list))
    for stage, figures in stages.items():
        for figure in figures:
            if figure.at is not None:
                panels[stage, figure.unit, figure.of][figure.name].append(figure)
    return panels


def _draw_panel(axes: Axes, panel: Panel, lines: dict[str, list[Figure]]) -> None:
    stage, unit, of = panel
    for i, (name, figures) in enumerate(lines.items()):
        points = sorted((figure.at or 0, figure.value) for figure in figures)
        style = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 4}
        axes.plot(*zip(*points, strict=True), label=name, **style)
    bounds = {figure.most for figures in lines.values() for figure in figures if figure.most is not None}
    for bound in bounds:
        axes.axhline(bound, color="#6b7280", linestyle=":", linewidth=1, label=f"at most {bound:g}")
    axes.set(title=stage, xlabel=of, ylabel=unit, xscale="log")
    if unit == "s":  # total time: linear growth is a straight line
        axes.set_yscale("log")
        axes.set_ylim(top=20 * axes.get_ylim()[1])  # room for the legend
    else:
        axes.set_ylim(bottom=0, top=1.7 * axes.get_ylim()[1])
    sizes = sorted({figure.at for figures in lines.values() for figure in figures if figure.at is not None})
    axes.set_xticks(sizes, minor=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(framealpha=1, edgecolor="none", fontsize=7, loc="upper left")
