"""What the clips of a folder add up to: counted, not kept, so that a million of them are no burden."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from manifests.index import Row


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of clips; grows by `add`."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of clips that were dropped."""
    flags: Counter[str] = field(default_factory=Counter)
    kept: dict[str, Counter[str]] = field(default_factory=dict)
    """Every speaker -> raw emotion -> clips that have a shard."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Tally:
        """Of some rows."""
        tally = cls()
        for row in rows:
            tally.add(row)
        return tally

    def add(self, row: Row) -> None:
        """One more clip."""
        emotions = self.kept.setdefault(row.speaker, Counter())
        self.statuses[row.status] += 1
        self.flags.update(row.flags)
        if row.reason:
            self.reasons[row.reason] += 1
        if row.shard:
            emotions[row.emotion] += 1

    @property
    def emotions(self) -> Counter[str]:
        """Raw emotion -> clips that have a shard."""
        return sum(self.kept.values(), Counter())

    @property
    def speakers(self) -> dict[str, int]:
        """Speaker -> clips that have a shard, of those who have any."""
        return {speaker: emotions.total() for speaker, emotions in self.kept.items() if emotions}
