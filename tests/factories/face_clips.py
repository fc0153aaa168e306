"""Small recordings in which a face is found: a portrait that moves a little, and a tone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.factories import media as factory

FRAMES = 25


def face_clip(path: Path, number: int = 0, *, sound: bool = True) -> Path:
    """One second at 25 frames a second, H.264 and AAC in MP4; the number sets the motion and the tone."""
    import skimage.data

    portrait = skimage.data.astronaut()[:240, 100:340]
    frames = [np.roll(portrait, (number + i) % 5, axis=1) for i in range(FRAMES)]
    picture = factory.steady(frames, "mp4", rate=Fraction(FRAMES))
    tone = factory.mono(factory.tone(220 + 20 * number, 1.0)) if sound else None
    return factory.write(path, picture, tone)


def face_corpus(root: Path, speakers: Sequence[str], clips: int) -> Path:
    """A `folder` corpus of so many speakers with so many clips each, no two alike."""
    root.mkdir()
    lines = ["clip,speaker,emotion"]
    for speaker in speakers:
        for take in range(clips):
            name = face_clip(root / f"{speaker}{take}.mp4", len(lines)).name
            lines.append(f"{name},{speaker},{('happy', 'sad')[take % 2]}")
    (root / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
