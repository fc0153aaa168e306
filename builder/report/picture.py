"""A picture of the samples of a build, for a README: figures of clips, below one another, as JPEG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

from builder.report.figure import (
    LEFT_PX,
    WIDTH_PX,
    ClipFigure,
    Dot,
    Raster,
    Rectangle,
    Shape,
    Strokes,
    Text,
    draw_clip,
)
from builder.report.images import RgbImage, color_scales
from builder.report.shard_reader import ReportFolder
from manifests.files import FolderError
from manifests.index import Dataset, ManifestError, Row
from manifests.schema import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".jpg", ".jpeg", ".png")
PICTURE_WIDTH_PX = 1400
_JPEG_QUALITY = 85
_TITLE_PX, _GAP_PX = 38, 8
_POINTS = 0.72  # of 1/72 inch in one pixel of a figure, at 100 pixels an inch
_INK, _SOFT, _ACCENT, _WARN = "#16191d", "#59626d", "#0072b2", "#b84a00"

#: matplotlib's properties for each style of a shape: on white paper, whatever the reader's theme.
_STYLES: dict[str, dict[str, Any]] = {
    "wave": {"fill": False, "edgecolor": _INK, "linewidth": 2, "alpha": 0.72, "snap": False},
    "axis": {"fill": False, "edgecolor": _SOFT, "linewidth": 1},
    "instant": {"fill": False, "edgecolor": _ACCENT, "linewidth": 1, "alpha": 0.75},
    "instant-over": {"fill": False, "edgecolor": "white", "linewidth": 1, "alpha": 0.42},
    "leader": {"fill": False, "edgecolor": _SOFT, "linewidth": 1, "alpha": 0.55},
    "marks": {"fill": False, "edgecolor": "#00e5ff", "linewidth": 1, "alpha": 0.9},
    "frame": {"color": _INK},
    "window": {"facecolor": _ACCENT, "alpha": 0.16, "linewidth": 0},
    "window-outline": {"fill": False, "edgecolor": "white", "linewidth": 1.2, "alpha": 0.85},
    "crop": {"fill": False, "linewidth": 0},
    "shaded": {"fill": False, "edgecolor": _ACCENT, "linewidth": 2},
    "borrowed": {"fill": False, "edgecolor": _WARN, "linewidth": 2.5, "linestyle": (0, (3, 1.5))},
    "label": {"color": _INK, "size": 12, "ha": "right"},
    "small": {"color": _SOFT, "size": 10.5, "ha": "right"},
    "tick": {"color": _SOFT, "size": 11.5, "ha": "center"},
    "borrowed-label": {"color": _WARN, "size": 10, "ha": "center", "weight": "bold"},
    "clip-id": {"color": _INK, "size": 13.5, "ha": "left", "weight": "bold"},
    "details": {"color": _SOFT, "size": 13.5, "ha": "left"},
}


def render_picture(build: ReportFolder, samples: Sequence[tuple[Row, Sample]], path: Path) -> bytes:
    """Render clips below one another, each on its axis of presentation seconds, as JPEG or PNG by the suffix of `path`.

    Raises FolderError for a path with another suffix, ManifestError without any clip.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise FolderError(f"{path}: unknown image format; choose a name with suffix {', '.join(SUFFIXES)}")
    if not samples:
        raise ManifestError(f"{build.folder}: found no clip in the shards")
    feature, scale = next(iter(color_scales(build).items()))
    figures = [(row, draw_clip(sample, {feature: scale}, None)) for row, sample in samples]
    pixels = _render_figures(figures, build.dataset)
    if path.suffix.lower() == ".png":
        return bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())
    return bytes(simplejpeg.encode_jpeg(pixels, quality=_JPEG_QUALITY, colorspace="RGB"))


def _render_figures(figures: Sequence[tuple[Row, ClipFigure]], dataset: Dataset) -> RgbImage:
    """[height, 1400, 3] one canvas in figure pixels, independent of the user's matplotlib settings."""
    from matplotlib import style  # slow to import, and only this picture needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi = 100 * PICTURE_WIDTH_PX / WIDTH_PX
    height = sum(_TITLE_PX + figure.height + _GAP_PX for _, figure in figures)
    height = int(height * dpi / 100) * 100 / dpi  # integer pixels of the picture
    with style.context("default"):
        paper = Figure(figsize=(WIDTH_PX / 100, height / 100), dpi=dpi, facecolor="white")
        canvas = FigureCanvasAgg(paper)
        axes = paper.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, WIDTH_PX), ylim=(height, 0), autoscale_on=False)
        axes.set_axis_off()
        top = 0.0
        for row, figure in figures:
            speaker = f"speaker {dataset.speaker_name(row.speaker)}"
            about = "   ".join(text for text in (row.emotion, speaker, row.sentence) if text)
            title = axes.text(LEFT_PX, top + 26, row.clip_id, **_text_style("clip-id"))
            end = title.get_window_extent().x1 * WIDTH_PX / PICTURE_WIDTH_PX
            axes.text(end + 16, top + 26, about, **_text_style("details"))
            for shape in figure.shapes:
                _render(axes, shape, top + _TITLE_PX)
            top += _TITLE_PX + figure.height + _GAP_PX
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])


def _render(axes: Axes, shape: Shape, top: float) -> None:
    """Render a shape of a figure that begins `top` px down."""
    from matplotlib import patches
    from matplotlib.path import Path as Outline

    match shape:
        case Raster():
            extent = (shape.left, shape.left + shape.width, top + shape.top + shape.height, top + shape.top)
            axes.imshow(shape.pixels, extent=extent, aspect="auto", zorder=2, interpolation="antialiased")
        case Rectangle():
            place = (shape.left, top + shape.top)
            axes.add_patch(patches.Rectangle(place, shape.width, shape.height, zorder=2, **_line_style(shape.style)))
        case Strokes():
            ends = [(x, top + y) for x0, y0, x1, y1 in shape.lines for x, y in ((x0, y0), (x1, y1))]
            outline = Outline(ends, [Outline.MOVETO, Outline.LINETO] * len(shape.lines))
            axes.add_patch(patches.PathPatch(outline, capstyle="butt", zorder=2, **_line_style(shape.style)))
        case Dot():
            axes.add_patch(patches.Circle((shape.x, top + shape.y), shape.radius, zorder=2, **_STYLES[shape.style]))
        case Text():
            axes.text(shape.x, top + shape.y, shape.text, **_text_style(shape.style))


def _line_style(style: str) -> dict[str, Any]:
    return _STYLES[style] | {"linewidth": _STYLES[style]["linewidth"] * _POINTS}


def _text_style(style: str) -> dict[str, Any]:
    return _STYLES[style] | {"size": _STYLES[style]["size"] * _POINTS, "va": "baseline", "parse_math": False}
