"""One clock for picture and sound: from frame times to the 16 instants and windows of both streams.

Pure: reads no file. All times are presentation seconds of the source, never frame numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.schema import COLUMNS, FRAMES, GRIDS

Seconds = npt.NDArray[np.float64]

FIXED_STEP_FRAMES = 6  # paper IV.B.1


class TooShort(ValueError):
    """The clip has too few frames for the timeline."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When a clip is sampled."""

    span_seconds: tuple[float, float]
    """First frame's time and the last frame's end."""
    instants_seconds: tuple[float, ...]
    """The 16 instants t_i."""
    step_seconds: float
    """s: from instant T to T+1; a window reaches from T-1 to T+1."""

    def window_starts(self, grid: int) -> Seconds:
        """[grid] start of each window in seconds: t_i - s for 16, t_2i - 2s for 8."""
        stride = FRAMES // grid
        return np.asarray(self.instants_seconds[::stride]) - stride * self.step_seconds

    def hop_seconds(self, grid: int) -> float:
        """Seconds from one spectrogram column to the next: a window of 2 steps has 224 columns."""
        return 2 * (FRAMES // grid) * self.step_seconds / COLUMNS

    @property
    def windows_span_seconds(self) -> tuple[float, float]:
        """Start of the first window and end of the last, over both grids."""
        starts = [self.window_starts(grid) for grid in GRIDS]
        ends = [each + 2 * (FRAMES // grid) * self.step_seconds for each, grid in zip(starts, GRIDS, strict=True)]
        return float(min(map(np.min, starts))), float(max(map(np.max, ends)))

    def column_seconds(self, grid: int) -> Seconds:
        """[grid, 224] the instant at the centre of each spectrogram column."""
        return self.window_starts(grid)[:, None] + np.arange(COLUMNS) * self.hop_seconds(grid)


def uniform(frame_seconds: Seconds, end_seconds: float) -> Timeline:
    """Spread 16 instants evenly over the clip: t_i = t0 + (i + 0.5) D / 16, s = D / 16 (paper III.B).

    Args:
        frame_seconds: [n] ascending presentation times of all frames.
        end_seconds: when the last frame ends.

    Raises TooShort for fewer than two frames.
    """
    if len(frame_seconds) < 2:
        raise TooShort(f"found {len(frame_seconds)} frame, expected at least 2")
    start = float(frame_seconds[0])
    step = (end_seconds - start) / FRAMES
    instants = start + (np.arange(FRAMES) + 0.5) * step
    return Timeline(span_seconds=(start, end_seconds), instants_seconds=tuple(instants.tolist()), step_seconds=step)


def fixed(frame_seconds: Seconds, end_seconds: float, step_frames: int = FIXED_STEP_FRAMES) -> Timeline:
    """Frames 0, 6, ..., 90 from the start of the clip (paper IV.B.1); s is their mean distance in time.

    Raises TooShort for a clip without the last of these frames.
    """
    last = (FRAMES - 1) * step_frames
    if len(frame_seconds) <= last:
        raise TooShort(f"found {len(frame_seconds)} frames, expected at least {last + 1} for 16 at step {step_frames}")
    instants = frame_seconds[: last + 1 : step_frames]
    step = float(instants[-1] - instants[0]) / (FRAMES - 1)
    span = (float(frame_seconds[0]), end_seconds)
    return Timeline(span_seconds=span, instants_seconds=tuple(instants.tolist()), step_seconds=step)


def steady_instants(span_seconds: tuple[float, float], rate_hz: float) -> tuple[float, ...]:
    """Instants start + k / rate within a span."""
    start, end = span_seconds
    count = max(1, math.ceil((end - start) * rate_hz - 1e-6))
    return tuple((start + np.arange(count) / rate_hz).tolist())


def nearest_frames(frame_seconds: Seconds, instants_seconds: tuple[float, ...]) -> npt.NDArray[np.intp]:
    """Index of the frame nearest in time to each instant; the earlier one of two at the same distance."""
    instants = np.asarray(instants_seconds)
    after = np.clip(np.searchsorted(frame_seconds, instants), 1, max(len(frame_seconds) - 1, 1))
    if len(frame_seconds) == 1:
        return np.zeros(len(instants), dtype=np.intp)
    before = after - 1
    return np.where(instants - frame_seconds[before] <= frame_seconds[after] - instants, before, after)


assert all(FRAMES % grid == 0 for grid in GRIDS)
