"""Who says what, and everything about a clip that is drawn by chance. Pure: no file, no clock, no global state.

A *take* of a speaker is two pictures (smile, frown) crossed with two sounds (lively, dull)::

                lively voice   dull voice
    smile       happy          calm
    frown       angry          sad

so every picture occurs once with either voice and every sound once with either expression: one modality alone
cannot name more than half of the clips, on any set of whole takes. What both modalities share (length, loudness
and the slow speech envelope that opens the jaw and swells the voice) is drawn once a take, for all four clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Expression = Literal["smile", "frown"]
Manner = Literal["lively", "dull"]
Defect = Literal["silent", "crowd", "noface", "cut"]
Curve = npt.NDArray[np.float64]

#: Part of every seed and of the manifest: a change of anything that is drawn or rendered raises it.
VERSION = 1
FPS = Fraction(30_000, 1_001)
TAKES = 4
SPEAKERS = tuple(f"S{number:02d}" for number in range(1, 9))
#: Raw emotion -> what the face does and how the voice speaks.
EMOTIONS: Mapping[str, tuple[Expression, Manner]] = {
    "angry": ("frown", "lively"),
    "calm": ("smile", "dull"),
    "happy": ("smile", "lively"),
    "sad": ("frown", "dull"),
}
#: Clips that a builder must drop or flag. Those it keeps are one of each class, all of one speaker, so that they
#: favour no class: neither the pictures nor the sounds of the corpus tell more than half of the labels with them.
DEFECTS: Mapping[tuple[str, str], Defect] = {
    ("S03", "happy"): "crowd",
    ("S03", "angry"): "crowd",
    ("S03", "calm"): "silent",
    ("S03", "sad"): "silent",
    ("S06", "sad"): "noface",
    ("S08", "happy"): "cut",
}
_DEFECT_TAKE = TAKES + 1
_STREAMS = ("take", "smile", "frown", "lively", "dull")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One clip of the inventory."""

    speaker: str
    emotion: str
    take: int
    defect: Defect | None = None

    @property
    def clip_id(self) -> str:
        """`S01_happy_01`, or `S03_happy_bad_crowd` for a deliberately bad clip."""
        return f"{self.speaker}_{self.emotion}_{f'bad_{self.defect}' if self.defect else f'{self.take:02d}'}"

    @property
    def path(self) -> str:
        """File name relative to the corpus folder, with forward slashes."""
        return f"{self.speaker}/{self.clip_id}.mp4"


def inventory() -> tuple[Utterance, ...]:
    """Every clip of the corpus, sorted by speaker, then clip id."""
    good = [Utterance(speaker=s, emotion=e, take=t) for s in SPEAKERS for e in EMOTIONS for t in range(1, TAKES + 1)]
    bad = [Utterance(speaker=s, emotion=e, take=_DEFECT_TAKE, defect=d) for (s, e), d in DEFECTS.items()]
    return tuple(sorted(good + bad, key=lambda utterance: utterance.path))


@dataclass(frozen=True, kw_only=True)
class Onset:
    """How an expression or a manner of speaking comes up: from `start` to `apex`, a little eased off at the end."""

    start: float
    apex: float
    begin_seconds: float
    rise_seconds: float
    release: float
    """Share of the apex that is lost by the end of the clip."""

    def at(self, seconds: Curve, duration_seconds: float) -> Curve:
        """[n] strength, around 1 at the apex."""
        risen = smoothstep((seconds - self.begin_seconds) / self.rise_seconds)
        eased = smoothstep((seconds / duration_seconds - 0.7) / 0.3) * self.release
        return self.start + (self.apex - self.start) * risen * (1.0 - eased)


@dataclass(frozen=True, kw_only=True)
class Take:
    """What picture and sound share, whatever the class."""

    frames: int
    loudness_db: float
    words: tuple[tuple[float, float, float], ...]
    """(centre in seconds, half width in seconds, height 0..1) of each swell of the speech envelope."""

    @property
    def duration_seconds(self) -> float:
        return float(self.frames / FPS)

    def envelope(self, seconds: Curve) -> Curve:
        """[n] slow speech envelope, 0..1: it opens the jaw and swells the voice alike."""
        swells = [h * smoothstep(1.0 - np.abs(seconds - c) / w) for c, w, h in self.words]
        return np.clip(np.sum(swells, axis=0), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is drawn for one rendered picture."""

    onset: Onset
    head: tuple[tuple[float, float, float], ...]
    """(amplitude in its own unit, frequency in Hz, phase in rad) of turn, nod, roll, sway and heave."""
    blinks_seconds: tuple[float, ...]
    offset_px: tuple[float, float]
    """Where the speaker sits in this take, relative to the usual place."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What is drawn for one rendered sound."""

    onset: Onset
    syllables_hz: float
    vowels: tuple[int, ...]
    """Indices of the vowels, one a syllable: all five before any comes back, so that no clip is all i or all a."""
    pitch: tuple[tuple[float, float, float], ...]
    """(weight, frequency in Hz, phase in rad) of the swings of the pitch."""
    pitch_shift: float
    noise_db: float
    """Level of the room's noise under the speech."""
    noise_seed: int


def draw_take(speaker: str, take: int) -> Take:
    """Length, loudness and envelope of a take: one draw for its four clips."""
    rng = _rng(speaker, take, "take")
    frames = int(rng.integers(51, 73))
    duration = float(frames / FPS)
    words, centre = [], rng.uniform(0.15, 0.3)
    while centre < duration - 0.12:
        half_width = rng.uniform(0.2, 0.32)
        words.append((float(centre), float(half_width), float(rng.uniform(0.5, 1.0))))
        centre += half_width * rng.uniform(1.25, 1.7)
    return Take(frames=frames, loudness_db=float(rng.uniform(-3.0, 3.0)), words=tuple(words))


def draw_picture(speaker: str, take: int, expression: Expression) -> Picture:
    """What varies in a picture; nothing of the voice goes into it."""
    rng = _rng(speaker, take, expression)
    duration = draw_take(speaker, take).duration_seconds
    blinks = rng.uniform(0.2, duration - 0.2, size=rng.integers(0, 3))
    return Picture(
        onset=_draw_onset(rng, duration),
        head=_draw_waves(rng, (2.2, 1.6, 2.4, 3.0, 1.5), (0.25, 0.9)),
        blinks_seconds=tuple(float(t) for t in blinks),
        offset_px=(float(rng.uniform(-14, 14)), float(rng.uniform(-8, 8))),
    )


def draw_voice(speaker: str, take: int, manner: Manner) -> Voice:
    """What varies in a sound; nothing of the expression goes into it."""
    rng = _rng(speaker, take, manner)
    duration = draw_take(speaker, take).duration_seconds
    return Voice(
        onset=_draw_onset(rng, duration),
        syllables_hz=float(rng.uniform(5.0, 6.5) if manner == "lively" else rng.uniform(2.0, 2.8)),
        vowels=tuple(int(v) for _ in range(4) for v in rng.permutation(5)),
        pitch=_draw_waves(rng, (0.6, 0.4), (0.7, 2.2)),
        pitch_shift=float(rng.uniform(0.94, 1.06)),
        noise_db=float(rng.uniform(-50.0, -42.0)),
        noise_seed=int(rng.integers(1 << 31)),
    )


def smoothstep(x: Curve) -> Curve:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _draw_onset(rng: np.random.Generator, duration: float) -> Onset:
    return Onset(
        start=float(rng.uniform(0.35, 0.6)),
        apex=float(rng.uniform(0.85, 1.15)),
        begin_seconds=float(rng.uniform(0.0, 0.2) * duration),
        rise_seconds=float(rng.uniform(0.2, 0.5)),
        release=float(rng.uniform(0.0, 0.35)),
    )


def _draw_waves(
    rng: np.random.Generator, amplitudes: tuple[float, ...], band_hz: tuple[float, float]
) -> tuple[tuple[float, float, float], ...]:
    return tuple(
        (float(a * rng.uniform(0.4, 1.0)), float(rng.uniform(*band_hz)), float(rng.uniform(0, 2 * np.pi)))
        for a in amplitudes
    )


def _rng(speaker: str, take: int, stream: str) -> np.random.Generator:
    """A generator of its own for every draw, so that no draw depends on what else was drawn."""
    return np.random.default_rng([VERSION, SPEAKERS.index(speaker), take, _STREAMS.index(stream)])
