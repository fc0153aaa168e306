"""One clip as it was sampled: crops, sound and spectrograms above one axis of presentation seconds.

`draw_clip` computes the layout once, as plain shapes. The page's template renders them as SVG, `picture` as pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from builder.faces import Points
from builder.report.axis import TimeAxis, waveform_envelope, windows_seconds
from builder.report.images import ColorScale, RgbImage, spectrogram_image, thumbnail
from manifests.schema import CROP_PX, FRAMES, Sample, Timing

WIDTH_PX = 1200
LEFT_PX, RIGHT_PX = 96, 20
_CROP_GAP_PX, _FRAMES_PX, _WAVE_PX, _GAP_PX, _AXIS_PX = 2, 20, 52, 6, 20
_SPECTROGRAM_PX = 70
_WAVE_BINS = 560
#: Crops narrower than this are too small to read: they are spread over the full width, with lines to their instants.
_NARROWEST_CROP_PX = 40
#: Instants whose windows are shaded.
SHADED = (3, 11)
_FEATURE_TITLES = {"mfcc": "MFCC", "logmel": "log-mel", "stft": "STFT"}


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A box, px from the top left of the figure; `title` is shown on hover."""

    kind: ClassVar = "rectangle"
    left: float
    top: float
    width: float
    height: float
    style: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """Straight lines of one style, each (x0, y0, x1, y1) in px."""

    kind: ClassVar = "strokes"
    lines: Sequence[tuple[float, float, float, float]]
    style: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A filled circle at (x, y)."""

    kind: ClassVar = "dot"
    x: float
    y: float
    radius: float
    style: str


@dataclass(frozen=True, kw_only=True)
class Text:
    """A line of text with its base line at y; the style determines whether x is its right end or its middle."""

    kind: ClassVar = "text"
    text: str
    x: float
    y: float
    style: str


@dataclass(frozen=True, kw_only=True)
class Raster:
    """An image stretched to a box."""

    kind: ClassVar = "raster"
    left: float
    top: float
    width: float
    height: float
    pixels: RgbImage


Shape = Rectangle | Strokes | Dot | Text | Raster


@dataclass(frozen=True, kw_only=True)
class ClipFigure:
    """Shapes of a figure 1200 px wide, in drawing order. Styles are classes in `style.css`."""

    title: str
    height: float
    shapes: tuple[Shape, ...]


def draw_clip(sample: Sample, scales: Mapping[str, ColorScale], template: Points | None) -> ClipFigure:
    """Draw a sample with the spectrograms that have a scale.

    `template` [4, 2]: where irises and mouth corners of an aligned face are in a crop, to be marked.
    """
    timing = sample.timing
    axis = TimeAxis.over(timing, LEFT_PX, WIDTH_PX - LEFT_PX - RIGHT_PX)
    crop_px, centres = place_crops(axis, timing)
    farthest = max(abs(centre - axis.x(t)) for centre, t in zip(centres, timing.instants_seconds, strict=True))
    wave_top = crop_px + 2 + (_FRAMES_PX if farthest < 1 else 3 * _FRAMES_PX)  # long lines need more height
    spectrograms_top = wave_top + _WAVE_PX + _GAP_PX
    axis_top = spectrograms_top + len(scales) * (_SPECTROGRAM_PX + _GAP_PX) - 2
    shapes: list[Shape] = [*_shade_windows(timing, axis, wave_top, _WAVE_PX, "window")]
    shapes += _draw_sound(sample, axis, wave_top)
    for number, (feature, scale) in enumerate(scales.items()):
        top = spectrograms_top + number * (_SPECTROGRAM_PX + _GAP_PX)
        shapes += _draw_spectrogram(sample, feature, scale, axis, top)
    shapes += _draw_crops(sample, crop_px, centres, template)
    shapes += _draw_frame_times(timing, axis, centres, crop_px + 2, wave_top)
    shapes += _draw_axis(axis, axis_top)
    title = f"{sample.clip.clip_id}: faces, sound and spectrograms on one time axis"
    return ClipFigure(title=title, height=axis_top + _AXIS_PX - 4, shapes=tuple(shapes))


def place_crops(axis: TimeAxis, timing: Timing) -> tuple[float, tuple[float, ...]]:
    """Width of a crop and centre of each crop: over its instant, or evenly spread if the instants are too close."""
    closest = min(later - earlier for earlier, later in pairwise(timing.instants_seconds))
    width = axis.length(min(closest, timing.step_seconds))
    if width >= _NARROWEST_CROP_PX:
        return width, tuple(axis.x(t) for t in timing.instants_seconds)
    width = axis.width_px / (FRAMES + 1)
    return width, tuple(axis.left_px + (i + 1) * width for i in range(FRAMES))


def template_marks(template: Points, centre_x: float, top: float, side: float) -> Strokes:
    """Crosses at the irises and horizontal strokes at the mouth corners of an aligned crop; `template` is [4, 2]."""
    scale, left = side / CROP_PX, centre_x - side / 2
    points = [(left + x * scale, top + y * scale) for x, y in template.tolist()]
    arm = max(2.5, side / 28)
    across = ((x - arm, y, x + arm, y) for x, y in points)
    down = ((x, y - arm, x, y + arm) for x, y in points[:2])
    return Strokes(lines=(*across, *down), style="marks")


def _draw_crops(sample: Sample, crop_px: float, centres: Sequence[float], template: Points | None) -> Iterator[Shape]:
    """The 16 crops; those without a detected face are framed and labelled."""
    yield Text(text=f"{FRAMES} faces", x=LEFT_PX - 10, y=crop_px / 2 + 3.5, style="label")
    side = crop_px - _CROP_GAP_PX
    for i, (face, x, found) in enumerate(zip(sample.faces, centres, sample.face_found, strict=True)):
        box = {"left": x - side / 2, "top": 1.0, "width": side, "height": side}
        yield Raster(pixels=thumbnail(face), **box)
        if template is not None:
            yield template_marks(template, x, 1, side)
        instant, frame = sample.timing.instants_seconds[i], sample.timing.frame_seconds[i]
        title = f"face {i + 1} of {FRAMES}: instant {instant:.3f} s, frame at {frame:.3f} s"
        title += f" ({(frame - instant) * 1000:+.0f} ms)"
        if found:
            yield Rectangle(style="shaded" if i in SHADED else "crop", title=title, **box)
        else:
            title += "; no face found, alignment borrowed from its neighbours"
            yield Rectangle(style="borrowed", title=title, **box)
            yield Text(text="borrowed", x=x, y=side - 3, style="borrowed-label")


def _draw_frame_times(
    timing: Timing, axis: TimeAxis, centres: Sequence[float], top: float, wave_top: float
) -> Iterator[Shape]:
    """Below each crop the time of its frame (dot) and its instant (line through the sound)."""
    middle = wave_top - _FRAMES_PX / 2 + 1
    frames = [axis.x(t) for t in timing.frame_seconds]
    yield Text(text="frame times", x=LEFT_PX - 10, y=middle + 3.5, style="label")
    yield Strokes(lines=[(centre, top, x, middle) for centre, x in zip(centres, frames, strict=True)], style="leader")
    yield _mark_instants(timing, axis, middle, wave_top + _WAVE_PX, "instant")
    for x in frames:
        yield Dot(x=x, y=middle, radius=2.6, style="frame")


def _draw_sound(sample: Sample, axis: TimeAxis, top: float) -> Iterator[Shape]:
    """One line per bin from its lowest to its highest sample, scaled to the clip's peak, which is labelled."""
    middle = top + _WAVE_PX / 2
    edges = np.linspace(axis.start_seconds, axis.end_seconds, _WAVE_BINS + 1)
    extremes = waveform_envelope(sample.audio, sample.timing.audio_start_seconds, edges)
    peak = float(np.nanmax(np.abs(extremes), initial=0.0))
    scale = (_WAVE_PX / 2 - 1) / peak if peak else 0.0
    lines = [
        (axis.x(at), middle - high * scale - 0.4, axis.x(at), middle - low * scale + 0.4)
        for at, (low, high) in zip((edges[:-1] + edges[1:]) / 2, extremes, strict=True)
        if np.isfinite(low)
    ]
    level = f"peak {round(20 * np.log10(peak))} dBFS".replace("-", "\N{MINUS SIGN}") if peak else "digital silence"
    yield Text(text="sound", x=LEFT_PX - 10, y=middle - 2.5, style="label")
    yield Text(text=level, x=LEFT_PX - 10, y=middle + 11.5, style="small")
    yield Strokes(lines=lines, style="wave")


def _draw_spectrogram(sample: Sample, feature: str, scale: ColorScale, axis: TimeAxis, top: float) -> Iterator[Shape]:
    start, end = windows_seconds(sample.timing)
    middle = top + _SPECTROGRAM_PX / 2
    rows = sample.spectrograms[f"{feature}_{FRAMES}"].shape[1]
    yield Text(text=_FEATURE_TITLES.get(feature, feature), x=LEFT_PX - 10, y=middle - 2.5, style="label")
    yield Text(text=f"{rows} rows", x=LEFT_PX - 10, y=middle + 11.5, style="small")
    yield Raster(
        left=axis.x(start),
        top=top,
        width=axis.length(end - start),
        height=_SPECTROGRAM_PX,
        pixels=spectrogram_image(sample, feature, scale),
    )
    yield _mark_instants(sample.timing, axis, top, top + _SPECTROGRAM_PX, "instant-over")
    yield from _shade_windows(sample.timing, axis, top, _SPECTROGRAM_PX, "window-outline")


def _mark_instants(timing: Timing, axis: TimeAxis, top: float, bottom: float, style: str) -> Strokes:
    places = [axis.x(t) for t in timing.instants_seconds]
    return Strokes(lines=[(x, top, x, bottom) for x in places], style=style)


def _shade_windows(timing: Timing, axis: TimeAxis, top: float, height: float, style: str) -> Iterator[Shape]:
    """The windows [t - s, t + s] of two instants."""
    width = axis.length(2 * timing.step_seconds)
    for i in SHADED:
        left = axis.x(timing.instants_seconds[i] - timing.step_seconds)
        yield Rectangle(left=left, top=top, width=width, height=height, style=style)


def _draw_axis(axis: TimeAxis, y: float) -> Iterator[Shape]:
    ticks = [(t, axis.x(t)) for t in axis.ticks()]
    line = (axis.left_px, y, axis.left_px + axis.width_px, y)
    yield Strokes(lines=[line, *((x, y, x, y + 4) for _, x in ticks)], style="axis")
    for t, x in ticks:
        yield Text(text=f"{t:g} s", x=x, y=y + 14, style="tick")
