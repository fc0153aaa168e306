"""One clip as it was sampled: crops, sound and spectrograms above one axis of presentation seconds, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from builder.faces import TEMPLATE_PX
from builder.report.axis import Axis, envelope, windows_seconds
from builder.report.images import THUMBNAIL_PX, Scale, data_uri, spectrogram, thumbnails
from builder.report.markup import Markup, element
from manifests.schema import CROP_PX, FRAMES, Sample, Timing

WIDTH_PX = 1200
_LEFT_PX, _RIGHT_PX = 96, 6
_CROP_GAP_PX, _FRAMES_PX, _WAVE_PX, _GAP_PX, _AXIS_PX = 2, 20, 52, 6, 20
_SPECTROGRAM_PX = 70
_WAVE_BINS = 560
#: Crops narrower than this say nothing: they are spread over the whole width, and lines lead to their instants.
_NARROWEST_CROP_PX = 40
#: Instants whose windows are shaded.
SHADED = (3, 11)

FEATURE_TITLES = {"mfcc": "MFCC", "logmel": "log-mel", "stft": "STFT"}


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where things are, px from the top left."""

    axis: Axis
    crop_px: float
    crop_centres: tuple[float, ...]
    frames_px: float
    """Height of the lane between crops and sound; higher where lines have far to go sideways."""
    features: tuple[str, ...]

    @property
    def frames_top(self) -> float:
        return self.crop_px + 2

    @property
    def wave_top(self) -> float:
        return self.frames_top + self.frames_px

    def spectrogram_top(self, number: int) -> float:
        return self.wave_top + _WAVE_PX + _GAP_PX + number * (_SPECTROGRAM_PX + _GAP_PX)

    @property
    def bottom(self) -> float:
        return self.spectrogram_top(len(self.features)) - _GAP_PX


def clip_figure(sample: Sample, scales: Mapping[str, Scale], *, aligned: bool, key: str) -> Markup:
    """SVG of a sample; `key` makes ids unique on the page, `aligned` says that crops follow the template."""
    layout = _layout(sample, tuple(scales))
    height = layout.bottom + _AXIS_PX
    parts = [
        element("title", f"{sample.clip.clip_id}: faces, sound and spectrograms on one time axis"),
        *_windows(sample, layout, layout.wave_top, _WAVE_PX, "window"),
        *_waveform(sample, layout),
        *_spectrograms(sample, layout, scales),
        *_crops(sample, layout, aligned, key),
        *_frames(sample, layout),
        *_axis(layout),
    ]
    return element("svg", *parts, viewBox=f"0 0 {WIDTH_PX} {_n(height)}", role="img", class_="clip")


def crop_places(axis: Axis, timing: Timing) -> tuple[float, tuple[float, ...]]:
    """Width of a crop and the centre of each: over its instant, or evenly spread where instants are too close."""
    closest = min(later - earlier for earlier, later in pairwise(timing.instants_seconds))
    width = axis.length(min(closest, timing.step_seconds))
    if width >= _NARROWEST_CROP_PX:
        return width, tuple(axis.x(t) for t in timing.instants_seconds)
    width = axis.width_px / (FRAMES + 1)
    return width, tuple(axis.left_px + (i + 1) * width for i in range(FRAMES))


def template_marks(centre_x: float, top: float, side: float) -> str:
    """SVG path of crosses at the irises and of strokes at the mouth's corners of an aligned crop."""
    scale, left = side / CROP_PX, centre_x - side / 2
    points = [(left + x * scale, top + y * scale) for x, y in TEMPLATE_PX.tolist()]
    arm = max(2.5, side / 28)
    across = (f"M{_n(x - arm)} {_n(y)}h{_n(2 * arm)}" for x, y in points)
    down = (f"M{_n(x)} {_n(y - arm)}v{_n(2 * arm)}" for x, y in points[:2])
    return "".join((*across, *down))


def _layout(sample: Sample, features: tuple[str, ...]) -> _Layout:
    axis = Axis.over(sample.timing, _LEFT_PX, WIDTH_PX - _LEFT_PX - _RIGHT_PX)
    width, centres = crop_places(axis, sample.timing)
    farthest = max(abs(c - axis.x(t)) for c, t in zip(centres, sample.timing.instants_seconds, strict=True))
    lane = _FRAMES_PX if farthest < 1 else 3 * _FRAMES_PX
    return _Layout(axis=axis, crop_px=width, crop_centres=centres, frames_px=lane, features=features)


def _crops(sample: Sample, layout: _Layout, aligned: bool, key: str) -> Iterator[Markup]:
    """The filmstrip, stored once and shown crop by crop; borrowed alignments are framed and hatched."""
    strip = data_uri(thumbnails(sample))
    size = {"width": FRAMES * THUMBNAIL_PX, "height": THUMBNAIL_PX}
    yield element("defs", element("image", id=f"strip-{key}", href=strip, **size))
    yield _label("faces", layout.crop_px / 2)
    side = layout.crop_px - _CROP_GAP_PX
    for i, (x, found) in enumerate(zip(layout.crop_centres, sample.face_found, strict=True)):
        view = f"{i * THUMBNAIL_PX} 0 {THUMBNAIL_PX} {THUMBNAIL_PX}"
        place = {"x": _n(x - side / 2), "y": "1", "width": _n(side), "height": _n(side)}
        yield element("svg", element("use", href=f"#strip-{key}"), viewBox=view, **place)
        if aligned:
            yield element("path", d=template_marks(x, 1, side), class_="marks")
        kind = "borrowed" if not found else "shaded" if i in SHADED else "crop"
        yield element("g", element("title", _crop_title(sample, i)), element("rect", class_=kind, **place))
        if not found:
            yield element("text", "borrowed", x=_n(x), y=_n(side - 3), class_="borrowed-label")


def _crop_title(sample: Sample, i: int) -> str:
    instant, frame = sample.timing.instants_seconds[i], sample.timing.frame_seconds[i]
    found = "" if sample.face_found[i] else "; no face found, alignment borrowed from its neighbours"
    late = (frame - instant) * 1000
    return f"face {i + 1} of {FRAMES}: instant {instant:.3f} s, frame at {frame:.3f} s ({late:+.0f} ms){found}"


def _frames(sample: Sample, layout: _Layout) -> Iterator[Markup]:
    """Below each crop the time of the frame it shows (dot) and its instant (line down through the sound)."""
    x, top = layout.axis.x, layout.frames_top
    middle = layout.wave_top - _FRAMES_PX / 2 + 1
    yield _label("frame times", middle)
    shown = zip(layout.crop_centres, sample.timing.frame_seconds, strict=True)
    leaders = "".join(f"M{_n(centre)} {_n(top)}L{_n(x(frame))} {_n(middle)}" for centre, frame in shown)
    yield element("path", d=leaders, class_="leader")
    yield element("path", d=_instants(sample, layout, middle, layout.wave_top + _WAVE_PX), class_="instant")
    for frame in sample.timing.frame_seconds:
        yield element("circle", cx=_n(x(frame)), cy=_n(middle), r="2.6", class_="frame")


def _instants(sample: Sample, layout: _Layout, top: float, bottom: float) -> str:
    return "".join(f"M{_n(layout.axis.x(t))} {_n(top)}V{_n(bottom)}" for t in sample.timing.instants_seconds)


def _windows(sample: Sample, layout: _Layout, top: float, height: float, class_: str) -> Iterator[Markup]:
    """The windows [t - s, t + s] of two instants."""
    timing, axis = sample.timing, layout.axis
    size = {"y": _n(top), "width": _n(axis.length(2 * timing.step_seconds)), "height": _n(height)}
    for i in SHADED:
        yield element("rect", x=_n(axis.x(timing.instants_seconds[i] - timing.step_seconds)), **size, class_=class_)


def _waveform(sample: Sample, layout: _Layout) -> Iterator[Markup]:
    """Sound as a line from its lowest to its highest sample per bin, scaled to the clip's peak, which is given."""
    axis, middle = layout.axis, layout.wave_top + _WAVE_PX / 2
    edges = np.linspace(axis.start_seconds, axis.end_seconds, _WAVE_BINS + 1)
    extremes = envelope(sample.audio, sample.timing.audio_start_seconds, edges)
    peak = float(np.nanmax(np.abs(extremes), initial=0.0))
    scale = (_WAVE_PX / 2 - 1) / peak if peak else 0.0
    path = "".join(
        f"M{_n(axis.x(at))} {_n(middle - high * scale - 0.4)}V{_n(middle - low * scale + 0.4)}"
        for at, (low, high) in zip((edges[:-1] + edges[1:]) / 2, extremes, strict=True)
        if np.isfinite(low)
    )
    yield _label("sound", middle - 6)
    loudness = f"peak {round(20 * np.log10(peak))} dBFS".replace("-", "\N{MINUS SIGN}") if peak else "digital silence"
    yield _label(loudness, middle + 8, "small")
    yield element("path", d=path, class_="wave")


def _spectrograms(sample: Sample, layout: _Layout, scales: Mapping[str, Scale]) -> Iterator[Markup]:
    start, end = windows_seconds(sample.timing)
    x, width = layout.axis.x(start), layout.axis.length(end - start)
    for number, feature in enumerate(layout.features):
        top = layout.spectrogram_top(number)
        rows = sample.spectrograms[f"{feature}_{FRAMES}"].shape[1]
        yield _label(FEATURE_TITLES.get(feature, feature), top + _SPECTROGRAM_PX / 2 - 6)
        yield _label(f"{rows} rows", top + _SPECTROGRAM_PX / 2 + 8, "small")
        place = {"x": _n(x), "y": _n(top), "width": _n(width), "height": _SPECTROGRAM_PX}
        picture = data_uri(spectrogram(sample, feature, scales[feature]))
        yield element("image", href=picture, preserveAspectRatio="none", **place)
        yield element("path", d=_instants(sample, layout, top, top + _SPECTROGRAM_PX), class_="instant over")
        yield from _windows(sample, layout, top, _SPECTROGRAM_PX, "window-outline")


def _axis(layout: _Layout) -> Iterator[Markup]:
    axis, y = layout.axis, layout.bottom + 4
    marks = "".join(f"M{_n(axis.x(t))} {_n(y)}v4" for t in axis.ticks())
    yield element("path", d=f"M{_n(axis.left_px)} {_n(y)}h{_n(axis.width_px)}{marks}", class_="axis")
    for t in axis.ticks():
        yield element("text", f"{t:g} s", x=_n(axis.x(t)), y=_n(y + 14), class_="tick")


def _label(text: str, y: float, class_: str = "label") -> Markup:
    return element("text", text, x=_LEFT_PX - 10, y=_n(y + 3.5), class_=class_)


def _n(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")
