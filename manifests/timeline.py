"""One clock for picture and sound: instants at which a clip is seen, the frames nearest to them, and windows of sound.

Pure: reads no file. All times are presentation seconds of the source, never frame numbers. The builder samples whole
clips with it, a trainer that reads sequences any part of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.schema import COLUMNS, FRAMES, GRIDS

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When a clip is sampled."""

    span_seconds: tuple[float, float]
    """First frame's time and the last frame's end; of a part of a clip its start and end."""
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


def spread_instants(span_seconds: tuple[float, float]) -> Timeline:
    """The centres of 16 equal parts of a span: t_i = t0 + (i + 0.5) D / 16, s = D / 16 (paper III.B)."""
    start, end = span_seconds
    step = (end - start) / FRAMES
    instants = start + (np.arange(FRAMES) + 0.5) * step
    return Timeline(span_seconds=span_seconds, instants_seconds=tuple(instants.tolist()), step_seconds=step)


def nearest_frames(frame_seconds: Seconds, instants_seconds: tuple[float, ...]) -> npt.NDArray[np.intp]:
    """Index of the frame nearest in time to each instant; the earlier one of two at the same distance."""
    instants = np.asarray(instants_seconds)
    after = np.clip(np.searchsorted(frame_seconds, instants), 1, max(len(frame_seconds) - 1, 1))
    if len(frame_seconds) == 1:
        return np.zeros(len(instants), dtype=np.intp)
    before = after - 1
    return np.where(instants - frame_seconds[before] <= frame_seconds[after] - instants, before, after)


assert all(FRAMES % grid == 0 for grid in GRIDS)
