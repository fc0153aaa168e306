"""Sequences as tokenizers read them: faces of 96 pixels at 25 a second, and sound; made without any recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manifests.kinds import SEQUENCES
from manifests.sequence import SequenceTiming
from tests.factories.both_kinds import FRAMES, SPEAKERS, folder_of


def sequences(out: Path, speakers: tuple[str, ...] = SPEAKERS, **changes: Any) -> Path:
    """A finished build of two clips of 40 frames in 1.6 s of each speaker."""
    timing = SequenceTiming(
        span_seconds=(0.05, 0.05 + 0.04 * FRAMES),
        frame_seconds=tuple(0.05 + 0.04 * i for i in range(FRAMES)),
        rate_hz=25.0,
        audio_start_seconds=-0.02,
    )
    options = {"side_px": 96, "rate_hz": 25.0, "timing": timing, **changes}
    return folder_of(out, SEQUENCES, speakers=speakers, **options)
