"""Selects clips that represent a build. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from manifests.index import Row

#: Its multiples modulo 1 are evenly spread for any count, so that few speakers are sampled from the complete list.
_GOLDEN_RATIO = 0.6180339887498949


def choose_clips(rows: Sequence[Row], count: int) -> list[Row]:
    """Up to `count` built clips: every emotion, as many speakers as possible, then one clip with each flag.

    If `count` is too small for both, emotions take precedence. Clips without a flag are preferred, and come first.
    """
    speakers = sorted({row.speaker for row in rows if row.shard is not None})
    rank = {speaker: i * _GOLDEN_RATIO % 1 for i, speaker in enumerate(speakers)}
    left = [row for row in rows if row.shard is not None]
    left.sort(key=lambda row: (bool(row.flags), rank[row.speaker], row.clip_id))
    flags = sorted({flag for row in left for flag in row.flags})
    emotions = len({row.emotion for row in left})
    chosen: list[Row] = []

    def balance(total: int) -> None:
        """Choose up to `total` clips, each of the emotion, then of the speaker, with the fewest clips so far."""
        by_emotion, by_speaker = Counter(row.emotion for row in chosen), Counter(row.speaker for row in chosen)
        while left and len(chosen) < total:
            row = min(left, key=lambda row: (by_emotion[row.emotion], by_speaker[row.speaker]))
            left.remove(row)
            chosen.append(row)
            by_emotion[row.emotion] += 1
            by_speaker[row.speaker] += 1

    balance(min(count, max(count - len(flags), emotions)))
    for flag in flags:
        if len(chosen) < count and not any(flag in row.flags for row in chosen):
            row = next(row for row in left if flag in row.flags)
            left.remove(row)
            chosen.append(row)
    balance(count)
    return sorted(chosen, key=lambda row: (bool(row.flags), row.raw_label, row.speaker, row.clip_id))
