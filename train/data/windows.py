"""Which part of a clip is seen: windows in time, drawn in training, evenly spaced in tests. Pure.

A window is a part of a clip's span. Its 16 instants are the centres of 16 equal parts of it, so that the window of a
whole clip is the timeline that the builder samples pairs at (paper III.B), and a shorter one has frames that are closer
together. A position of 0 is a window that begins with the clip, of 1 one that ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.timeline import Timeline, spread_instants
from train.data.augment import ClipDraws


class Window(NamedTuple):
    """A part of a clip."""

    start_seconds: float
    end_seconds: float

    @property
    def timeline(self) -> Timeline:
        """Its 16 instants."""
        return spread_instants(self)


class Placement(NamedTuple):
    """Where a window is, for a clip of any length."""

    share: float
    """Its length, as a share of the longest one: above 0, up to 1."""
    position: float
    """0..1 of what it leaves of the clip."""


@dataclass(frozen=True, kw_only=True)
class EvenWindows:
    """Windows of a test: of the longest length, evenly spaced over the clip; a single one is centred."""

    longest_seconds: float = 0.0
    """Longest window; 0 for the whole clip."""
    count: int = 1

    def placements(self, keys: Sequence[str], epoch: int) -> npt.NDArray[np.float64]:  # noqa: ARG002 - of all alike
        """[B, count, 2] `Placement` of each window of clips."""
        positions = np.linspace(0, 1, self.count) if self.count > 1 else np.array([0.5])
        return np.broadcast_to(np.stack([np.ones(self.count), positions], axis=1), (len(keys), self.count, 2))


@dataclass(frozen=True, kw_only=True)
class RandomWindows:
    """Windows of a training: one for each draw of a clip, by (seed, epoch, draw, clip), see `train.data.augment`."""

    longest_seconds: float = 0.0
    """Longest window; 0 for the whole clip."""
    share: tuple[float, float] = (1.0, 1.0)
    """Least and greatest length, as shares of the longest one; with (1, 1) only the start is drawn, where there is a
    choice."""
    seed: int = 0
    count: int = 1
    """Draws of a clip: repeated augmentation."""

    def placements(self, keys: Sequence[str], epoch: int) -> npt.NDArray[np.float64]:
        """[B, count, 2] `Placement` of each window of clips; `keys` are what random numbers are drawn from."""
        drawn = [
            ClipDraws(keys=tuple(keys), seed=self.seed, epoch=epoch, draw=draw).uniform("window", 2)
            for draw in range(self.count)
        ]
        least, most = self.share
        numbers = np.stack(drawn, axis=1).astype(np.float64)
        numbers[..., 0] = least + (most - least) * numbers[..., 0]
        return numbers


Windows = EvenWindows | RandomWindows
#: Clips seen once, whole.
WHOLE_CLIPS = EvenWindows()


def place_window(span_seconds: tuple[float, float], longest_seconds: float, placement: Placement) -> Window:
    """The window of a clip of this span; a clip that is not longer than `longest_seconds`, or 0, is seen whole."""
    start, end = span_seconds
    longest = min(longest_seconds or end - start, end - start)
    length = longest * placement.share
    if length >= end - start:
        return Window(start, end)  # exactly, so that a frame at the same distance from two instants stays where it is
    first = start + placement.position * (end - start - length)
    return Window(first, min(first + length, end))


def describe_windows(
    longest_seconds: float, share: tuple[float, float], test_windows: int, *, drawn: bool = True
) -> str:
    """What a training and its test see of each clip, such as "random 0.6 to 1 of a clip, tested on whole clips"."""
    longest = f"{longest_seconds:g} s" if longest_seconds else "a clip"
    least, most = (f"{number:g}" for number in share)
    if share != (1.0, 1.0):
        trained = f"random {least} to {most} of {longest}"
    else:
        trained = f"{'random' if drawn else 'the middle'} {longest}" if longest_seconds else "whole clips"
    tested = f"the middle {longest}" if longest_seconds else "whole clips"
    if test_windows > 1:
        tested = f"{test_windows} windows of {longest}"
    return trained if trained == tested else f"{trained}, tested on {tested}"
