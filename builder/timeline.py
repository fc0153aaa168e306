"""How the builder samples a clip: from frame times to a timeline, the contract's `Timeline`.

Pure: reads no file. All times are presentation seconds of the source, never frame numbers.
"""

from __future__ import annotations

import math

import numpy as np

from manifests.schema import FRAMES
from manifests.timeline import Seconds, Timeline, spread_instants

FIXED_STEP_FRAMES = 6  # paper IV.B.1


class TooShort(ValueError):
    """The clip has too few frames for the timeline."""


def uniform(frame_seconds: Seconds, end_seconds: float) -> Timeline:
    """Spread 16 instants evenly over the clip: t_i = t0 + (i + 0.5) D / 16, s = D / 16 (paper III.B).

    Args:
        frame_seconds: [n] ascending presentation times of all frames.
        end_seconds: when the last frame ends.

    Raises TooShort for fewer than two frames.
    """
    if len(frame_seconds) < 2:
        raise TooShort(f"found {len(frame_seconds)} frame, expected at least 2")
    return spread_instants((float(frame_seconds[0]), end_seconds))


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
