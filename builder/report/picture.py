"""A picture of what comes out of a build, for a README: the report's figure as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from builder.report.axis import Axis, envelope, windows_seconds
from builder.report.contents import Contents
from builder.report.figure import FEATURE_TITLES, SHADED, crop_places
from builder.report.images import Picture, scales, spectrogram
from manifests.files import FolderError
from manifests.index import ManifestError, Row
from manifests.schema import FRAMES, Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".jpg", ".jpeg", ".png")
WIDTH_PX = 1400
_DPI = 100
_JPEG_QUALITY = 85
_LEFT_PX, _RIGHT_PX, _TOP_PX = 108, 24, 18
_TITLE_PX, _FRAMES_PX, _WAVE_PX, _SPECTROGRAM_PX, _GAP_PX, _FOOT_PX = 26, 16, 46, 66, 5, 44
_WAVE_BINS = 640
_INK, _SOFT, _ACCENT, _WARN = "#16191d", "#59626d", "#0072b2", "#b84a00"


def draw(contents: Contents, shown: Sequence[tuple[Row, Sample]], path: Path) -> bytes:
    """The given clips below one another, each on its own axis of presentation seconds: a JPEG or PNG for `path`.

    Raises FolderError for a path with another suffix, ManifestError if there is nothing to show.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise FolderError(f"{path}: cannot be drawn; choose a name that ends in {', '.join(SUFFIXES)}")
    if not shown:
        raise ManifestError(f"{contents.folder}: found no clip in the shards, so there is nothing to draw")
    feature, scale = next(iter(scales(contents).items()))
    pixels = _drawn([(row, sample, spectrogram(sample, feature, scale)) for row, sample in shown], feature)
    if path.suffix.lower() == ".png":
        return bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())
    return bytes(simplejpeg.encode_jpeg(pixels, quality=_JPEG_QUALITY, colorspace="RGB"))


def _drawn(shown: Sequence[tuple[Row, Sample, Picture]], feature: str) -> Picture:
    """[height, 1400, 3] on one canvas measured in pixels, whatever the user's matplotlib settings are."""
    from matplotlib import style  # slow to import, and only this picture needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = [_block_px(sample) for _, sample, _ in shown]
    height = _TOP_PX + sum(blocks)
    with style.context("default"):
        figure = Figure(figsize=(WIDTH_PX / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, WIDTH_PX), ylim=(height, 0))
        axes.set_axis_off()
        top = float(_TOP_PX)
        for (row, sample, picture), block in zip(shown, blocks, strict=True):
            _clip(axes, row, sample, picture, feature, top)
            top += block
        axes.set(xlim=(0, WIDTH_PX), ylim=(height, 0), aspect="auto")
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])


def _places(sample: Sample) -> tuple[Axis, float, tuple[float, ...]]:
    axis = Axis.over(sample.timing, _LEFT_PX, WIDTH_PX - _LEFT_PX - _RIGHT_PX)
    return axis, *crop_places(axis, sample.timing)


def _block_px(sample: Sample) -> int:
    _, crop_px, _ = _places(sample)
    return round(_TITLE_PX + crop_px + _FRAMES_PX + _WAVE_PX + _GAP_PX + _SPECTROGRAM_PX + _FOOT_PX)


def _clip(axes: Axes, row: Row, sample: Sample, picture: Picture, feature: str, top: float) -> None:
    axis, crop_px, centres = _places(sample)
    about = "   ".join(text for text in (row.emotion, f"speaker {row.speaker}", row.sentence) if text)
    title = axes.text(_LEFT_PX, top + 12, row.clip_id, color=_INK, size=10.5, weight="bold", parse_math=False)
    axes.text(title.get_window_extent().x1 + 18, top + 12, about, color=_SOFT, size=10.5, parse_math=False)
    top += _TITLE_PX
    _crops(axes, sample, crop_px, centres, top)
    top += crop_px
    wave = top + _FRAMES_PX
    below = wave + _WAVE_PX + _GAP_PX
    _frames(axes, sample, axis, centres, top, wave + _WAVE_PX)
    _wave(axes, sample, axis, wave)
    start, end = windows_seconds(sample.timing)
    axes.imshow(
        picture, extent=(axis.x(start), axis.x(end), below + _SPECTROGRAM_PX, below), interpolation="antialiased"
    )
    _over(axes, sample, axis, below)
    _labels(axes, feature, (top - crop_px / 2, wave + _WAVE_PX / 2, below + _SPECTROGRAM_PX / 2))
    _ticks(axes, axis, below + _SPECTROGRAM_PX + 4)


def _crops(axes: Axes, sample: Sample, side: float, centres: Sequence[float], top: float) -> None:
    for i, (face, x) in enumerate(zip(sample.faces, centres, strict=True)):
        pixels = round(side) - 2
        left, down = round(x - side / 2) + 1, round(top) + 1
        small = cv2.resize(face, (pixels, pixels), interpolation=cv2.INTER_AREA)
        axes.imshow(small, extent=(left, left + pixels, down + pixels, down), interpolation="nearest")
        colour = _WARN if not sample.face_found[i] else _ACCENT if i in SHADED else None
        if colour:
            _box(axes, left, down, pixels, pixels, edgecolor=colour, linewidth=1.6, fill=False)


def _frames(axes: Axes, sample: Sample, axis: Axis, centres: Sequence[float], top: float, bottom: float) -> None:
    middle = top + _FRAMES_PX / 2
    for centre, t, frame in zip(centres, sample.timing.instants_seconds, sample.timing.frame_seconds, strict=True):
        axes.plot([centre, axis.x(frame)], [top, middle], color=_SOFT, linewidth=0.6)
        axes.plot([axis.x(t)] * 2, [middle, bottom], color=_ACCENT, linewidth=0.7, alpha=0.7)
        axes.plot(axis.x(frame), middle, "o", color=_INK, markersize=3.2)


def _wave(axes: Axes, sample: Sample, axis: Axis, top: float) -> None:
    edges = np.linspace(axis.start_seconds, axis.end_seconds, _WAVE_BINS + 1)
    extremes = envelope(sample.audio, sample.timing.audio_start_seconds, edges)
    peak = float(np.nanmax(np.abs(extremes), initial=0.0)) or 1.0
    x = np.linspace(axis.left_px, axis.left_px + axis.width_px, _WAVE_BINS)
    low, high = (top + _WAVE_PX / 2 * (1 - extremes / peak * 0.96)).T
    axes.fill_between(x, low + 0.4, high - 0.4, color=_INK, alpha=0.72, linewidth=0)
    for left, width in _windows(sample, axis):
        _box(axes, left, top, width, _WAVE_PX, facecolor=_ACCENT, alpha=0.15, linewidth=0)


def _over(axes: Axes, sample: Sample, axis: Axis, top: float) -> None:
    """Instants and windows on the spectrogram."""
    for t in sample.timing.instants_seconds:
        axes.plot([axis.x(t)] * 2, [top, top + _SPECTROGRAM_PX], color="white", linewidth=0.7, alpha=0.42)
    for left, width in _windows(sample, axis):
        _box(axes, left, top, width, _SPECTROGRAM_PX, edgecolor="white", linewidth=1.2, fill=False)


def _windows(sample: Sample, axis: Axis) -> list[tuple[float, float]]:
    """(left, width) px of the two windows that are marked."""
    step = sample.timing.step_seconds
    return [(axis.x(sample.timing.instants_seconds[i] - step), axis.length(2 * step)) for i in SHADED]


def _box(axes: Axes, left: float, top: float, width: float, height: float, **look: object) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top), width, height, **look))  # type: ignore[arg-type]


def _labels(axes: Axes, feature: str, middles: tuple[float, float, float]) -> None:
    names = (f"{FRAMES} faces", "sound", FEATURE_TITLES.get(feature, feature))
    for name, y in zip(names, middles, strict=True):
        axes.text(_LEFT_PX - 14, y, name, color=_INK, size=9.5, ha="right", va="center", parse_math=False)


def _ticks(axes: Axes, axis: Axis, y: float) -> None:
    axes.plot([axis.left_px, axis.left_px + axis.width_px], [y, y], color=_SOFT, linewidth=0.8)
    for t in axis.ticks():
        axes.plot([axis.x(t)] * 2, [y, y + 4], color=_SOFT, linewidth=0.8)
        axes.text(axis.x(t), y + 15, f"{t:g} s", color=_SOFT, size=8.5, ha="center", va="center")
