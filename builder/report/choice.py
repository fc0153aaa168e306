"""Which clips stand for the whole build. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from manifests.index import Row

#: Multiples of it, modulo 1, spread evenly however many are taken: a few speakers, but from all over the list.
_GOLDEN = 0.6180339887498949


def choose(rows: Sequence[Row], count: int) -> list[Row]:
    """Up to `count` built clips: every emotion, as many speakers as there is room for, then one clip of each flag.

    Emotions come before flags where there is no room for both. Clips without a flag are preferred, and come first.
    """
    kept = [row for row in rows if row.shard is not None]
    flags = sorted({flag for row in kept for flag in row.flags})
    emotions = len({row.emotion for row in kept})
    picks = _Picks.among(kept)
    picks.spread(min(count, max(count - len(flags), emotions)))
    for flag in flags:
        if len(picks.rows) < count:
            picks.first_with(flag)
    picks.spread(count)
    return sorted(picks.rows, key=lambda row: (bool(row.flags), row.emotion, row.speaker, row.clip_id))


@dataclass
class _Picks:
    """Clips picked so far, and those left in the order of preference between equals."""

    left: list[Row]
    rows: list[Row] = field(default_factory=list)
    emotions: Counter[str] = field(default_factory=Counter)
    speakers: Counter[str] = field(default_factory=Counter)

    @classmethod
    def among(cls, rows: Sequence[Row]) -> _Picks:
        rank = {speaker: i * _GOLDEN % 1 for i, speaker in enumerate(sorted({row.speaker for row in rows}))}
        return cls(left=sorted(rows, key=lambda row: (bool(row.flags), rank[row.speaker], row.clip_id)))

    def spread(self, count: int) -> None:
        """Pick until there are `count`, each time of the emotion, then of the speaker, seen least."""
        while self.left and len(self.rows) < count:
            self._pick(min(self.left, key=lambda row: (self.emotions[row.emotion], self.speakers[row.speaker])))

    def first_with(self, flag: str) -> None:
        """Pick a clip with the flag, unless one was."""
        if not any(flag in row.flags for row in self.rows):
            self._pick(next(row for row in self.left if flag in row.flags))

    def _pick(self, row: Row) -> None:
        self.left.remove(row)
        self.rows.append(row)
        self.emotions[row.emotion] += 1
        self.speakers[row.speaker] += 1
