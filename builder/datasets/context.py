"""The sound around a turn that belongs to no other speaker's turn.

Spectrogram windows at the edges of a clip reach beyond it. Where clips are parts of a recording, the recording goes
on there, but so may the conversation: its sound is used up to the next turn of another speaker and no further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

#: Most seconds that windows reach beyond a clip, per second of the clip: two steps, of which a clip has 15 or 16.
CONTEXT_SHARE = 2 / 15
#: Added to this: one frame more of picture, and the analysis frames at the ends of a window.
CONTEXT_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Span:
    """When a speaker talks in a recording."""

    speaker: str
    start_seconds: float
    end_seconds: float

    def mirrored(self) -> Span:
        """The same with time running backwards."""
        return Span(speaker=self.speaker, start_seconds=-self.end_seconds, end_seconds=-self.start_seconds)


def find_contexts(spans: Sequence[Span]) -> list[tuple[float, float]]:
    """For each turn of a recording, from when to when its sound is nobody else's.

    It includes the turn and ends where a window of it can no longer reach. Where another speaker already talks when
    the turn starts, or still talks when it ends, there is no context on that side.
    """
    ends = _find_starts([span.mirrored() for span in spans])
    return [(start, -end) for start, end in zip(_find_starts(spans), ends, strict=True)]


def _find_starts(spans: Sequence[Span]) -> list[float]:
    """Where the context of each turn starts. Time and memory grow with the turns, not with their square."""
    starts = [math.nan] * len(spans)
    latest: dict[str, float] = {}  # speaker -> end of a turn that started earlier, for the two who end last
    order = sorted(range(len(spans)), key=lambda i: spans[i].start_seconds)
    for start, group in groupby(order, key=lambda i: spans[i].start_seconds):
        together = list(group)
        for i in together:
            others = max((end for name, end in latest.items() if name != spans[i].speaker), default=-math.inf)
            reach = CONTEXT_SHARE * (spans[i].end_seconds - start) + CONTEXT_SECONDS
            starts[i] = max(start - reach, min(others, start))
        for i in together:
            span = spans[i]
            latest[span.speaker] = max(latest.get(span.speaker, -math.inf), span.end_seconds)
            latest = dict(sorted(latest.items(), key=lambda item: -item[1])[:2])
    return starts
