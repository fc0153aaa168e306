"""Presentation seconds -> positions in a figure, for sound, windows and faces. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from manifests.schema import COLUMNS, SAMPLE_RATE_HZ, Timing

Floats = npt.NDArray[np.float64]

#: Readable distances between ticks.
_TICK_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 3600.0, 7200.0)
_MAX_TICKS = 16


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """Seconds from left to right, linear."""

    start_seconds: float
    end_seconds: float
    left_px: float
    width_px: float

    @classmethod
    def over(cls, timing: Timing, left_px: float, width_px: float) -> TimeAxis:
        """An axis over the clip's span and every window of the grid of 16."""
        first, last = windows_seconds(timing)
        start, end = min(timing.span_seconds[0], first), max(timing.span_seconds[1], last)
        return cls(start_seconds=start, end_seconds=end, left_px=left_px, width_px=width_px)

    def x(self, seconds: float) -> float:
        """Position of an instant, px."""
        share = (seconds - self.start_seconds) / (self.end_seconds - self.start_seconds)
        return self.left_px + share * self.width_px

    def length(self, seconds: float) -> float:
        """Width of a duration, px."""
        return seconds / (self.end_seconds - self.start_seconds) * self.width_px

    def ticks(self) -> tuple[float, ...]:
        """Round times on the axis, at most 16, seconds."""
        duration = self.end_seconds - self.start_seconds
        step = next((s for s in _TICK_SECONDS if duration / s <= _MAX_TICKS - 1), duration)
        first, last = math.ceil(self.start_seconds / step - 1e-9), math.floor(self.end_seconds / step + 1e-9)
        return tuple(round(i * step, 6) for i in range(first, last + 1))


def windows_seconds(timing: Timing) -> tuple[float, float]:
    """Start of the first and end of the last window of the grid of 16."""
    return timing.instants_seconds[0] - timing.step_seconds, timing.instants_seconds[-1] + timing.step_seconds


def stitch_windows(windows: npt.NDArray[np.float16], timing: Timing, seconds: Floats) -> Floats:
    """Overlapping windows -> one spectrogram at the given times, each column from the window with the nearest centre.

    Column j of window i is at t_i - s + j 2s / 224.

    Args:
        windows: [16, rows, 224], the grid of 16.
        timing: the instants t_i and the step s.
        seconds: [n] times of the columns to return.

    Returns: [rows, n]; NaN outside all windows.
    """
    instants = np.asarray(timing.instants_seconds)
    nearest = np.abs(seconds[:, None] - instants).argmin(axis=1)
    columns = np.rint((seconds - instants[nearest]) / timing.step_seconds * (COLUMNS / 2) + COLUMNS / 2).astype(int)
    inside = (columns >= 0) & (columns < COLUMNS)
    values = windows[nearest, :, np.clip(columns, 0, COLUMNS - 1)].astype(np.float64)
    return np.where(inside[:, None], values, np.nan).T


def waveform_envelope(audio: npt.NDArray[np.int16], audio_start_seconds: float, edges_seconds: Floats) -> Floats:
    """[n] sound -> [bins, 2] lowest and highest sample between neighbouring edges, in -1..1; NaN without sound.

    Args:
        audio: [n] mono at 16 kHz.
        audio_start_seconds: time of sample 0.
        edges_seconds: [bins + 1] ascending.
    """
    places = np.clip(np.ceil((edges_seconds - audio_start_seconds) * SAMPLE_RATE_HZ), 0, len(audio)).astype(int)
    extremes = [
        (part.min(), part.max()) if len(part := audio[start:end]) else (np.nan, np.nan)
        for start, end in pairwise(places)
    ]
    return np.array(extremes, dtype=np.float64).reshape(-1, 2) / 32768.0
