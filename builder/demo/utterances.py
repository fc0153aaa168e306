"""The clips of the demo corpus, and everything about them that is sampled at random. Pure: no files, no clock.

A *take* of a speaker is two face motions (smile, frown) crossed with two speaking styles (lively, dull)::

                lively voice   dull voice
    smile       happy          calm
    frown       angry          sad

so every face motion occurs once with either voice and every voice once with either expression: a classifier with
one modality is correct on at most half of the clips of any set of takes. What both modalities share is sampled once per
take: its length, its loudness, and its words. In each word the voice sounds and the lips part, both as its vowel has
it; between words the lips close and only the room is heard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from builder.demo.speakers import SPEAKERS, number_of

Expression = Literal["smile", "frown"]
SpeakingStyle = Literal["lively", "dull"]
Defect = Literal["silent", "crowd", "noface", "cut"]
Curve = npt.NDArray[np.float64]

#: Part of every seed and of the manifest: raise it with every change to what is sampled or rendered.
VERSION = 2
#: Describes the corpus; the first file of it that is written.
MANIFEST = "demo.json"
FPS = Fraction(30_000, 1_001)
TAKES = 4
#: Most takes of a speaker; ids have two digits.
MAX_TAKES = 99
#: Vowels that are spoken and seen on the lips.
VOWELS = ("a", "e", "i", "o", "u")
#: The eight of the corpus.
SPEAKER_IDS = tuple(SPEAKERS)
#: Raw emotion -> expression of the face and style of the speech.
EMOTIONS: Mapping[str, tuple[Expression, SpeakingStyle]] = {
    "angry": ("frown", "lively"),
    "calm": ("smile", "dull"),
    "happy": ("smile", "lively"),
    "sad": ("frown", "dull"),
}
#: Clips that a builder must drop or flag. The flagged ones are one of each class, all of one speaker, so that they
#: favour no class: including these, a single modality predicts at most half of the labels.
DEFECTS: Mapping[tuple[str, str], Defect] = {
    ("S03", "happy"): "crowd",
    ("S03", "angry"): "crowd",
    ("S03", "calm"): "silent",
    ("S03", "sad"): "silent",
    ("S06", "sad"): "noface",
    ("S08", "happy"): "cut",
}
_DEFECT_TAKE = 0
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


def list_utterances(takes: int = TAKES, speakers: Sequence[str] = SPEAKER_IDS) -> tuple[Utterance, ...]:
    """Every clip of the corpus with so many takes of each of these speakers, sorted by speaker, then clip id."""
    good = [Utterance(speaker=s, emotion=e, take=t) for s in speakers for e in EMOTIONS for t in range(1, takes + 1)]
    defects = [(key, defect) for key, defect in DEFECTS.items() if key[0] in speakers]
    bad = [Utterance(speaker=s, emotion=e, take=_DEFECT_TAKE, defect=d) for (s, e), d in defects]
    return tuple(sorted(good + bad, key=lambda utterance: utterance.path))


@dataclass(frozen=True, kw_only=True)
class Onset:
    """Strength of an expression or speaking style over time: from `start` to `apex`, then slightly released."""

    start: float
    apex: float
    begin_seconds: float
    rise_seconds: float
    release: float
    """Fraction of the apex that is lost by the end of the clip."""

    def at(self, seconds: Curve, duration_seconds: float) -> Curve:
        """[n] strength, around 1 at the apex."""
        risen = smoothstep((seconds - self.begin_seconds) / self.rise_seconds)
        eased = smoothstep((seconds / duration_seconds - 0.7) / 0.3) * self.release
        return self.start + (self.apex - self.start) * risen * (1.0 - eased)


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of one vowel, from pause to pause."""

    centre_seconds: float
    half_width_seconds: float
    height: float
    """Of the speech envelope, 0..1."""
    vowel: int
    """Index in VOWELS."""

    def at(self, seconds: Curve) -> Curve:
        """[n] envelope of this word: 0 outside, `height` around its centre."""
        return self.height * smoothstep(1.5 * (1.0 - np.abs(seconds - self.centre_seconds) / self.half_width_seconds))


@dataclass(frozen=True, kw_only=True)
class Take:
    """Parameters that face and voice share, independent of the class."""

    frames: int
    loudness_db: float
    words: tuple[Word, ...]
    """With pauses between them."""

    @property
    def duration_seconds(self) -> float:
        return float(self.frames / FPS)

    def envelope(self, seconds: Curve) -> Curve:
        """[n] slow speech envelope, 0..1, which parts the lips and raises the voice; 0 between words."""
        return self.blend(seconds, [1.0] * len(VOWELS))

    def blend(self, seconds: Curve, by_vowel: Sequence[float]) -> Curve:
        """[n] sum over words of their envelope times a number of their vowel."""
        words = [by_vowel[word.vowel] * word.at(seconds) for word in self.words]
        return np.sum(words, axis=0) if words else np.zeros_like(seconds)

    def vowels(self, seconds: Curve) -> npt.NDArray[np.int64]:
        """[n] vowel of the nearest word."""
        centres = np.array([word.centre_seconds for word in self.words])
        nearest = np.abs(seconds[:, None] - centres).argmin(axis=1)
        return np.array([word.vowel for word in self.words])[nearest]


@dataclass(frozen=True, kw_only=True)
class Light:
    """Light and camera of a recording, the same in all of its frames."""

    direction_rad: float
    """Where the light comes from, in the frame."""
    slope: float
    """Relative brightness gained over 100 pixels towards the light."""
    gamma: float
    """Contrast of the camera, 1 for that of the portrait."""
    gain_rgb: tuple[float, float, float]
    """Exposure and white balance."""


@dataclass(frozen=True, kw_only=True)
class FaceMotion:
    """Everything that varies in one rendered video."""

    onset: Onset
    head: tuple[tuple[float, float, float], ...]
    """(amplitude in its own unit, frequency in Hz, phase in rad) of turn, nod, roll, sway and heave."""
    blinks_seconds: tuple[float, ...]
    offset_px: tuple[float, float]
    """Shift of the speaker in this take, relative to the usual position."""
    light: Light


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Everything that varies in one synthesized recording."""

    onset: Onset
    syllables_hz: float
    pitch: tuple[tuple[float, float, float], ...]
    """(weight, frequency in Hz, phase in rad) of the modulation of the pitch."""
    pitch_shift: float
    noise_db: float
    """Level of the room noise relative to the speech."""
    noise_seed: int


def sample_take(speaker: str, take: int) -> Take:
    """Sample length, loudness and words of a take, the same for its four clips."""
    rng = _rng(speaker, take, "take")
    frames = int(rng.integers(51, 73))
    duration = float(frames / FPS)
    vowels = [int(vowel) for _ in range(3) for vowel in rng.permutation(len(VOWELS))]  # all before any repeats
    words, start = [], rng.uniform(0.0, 0.35)
    while start < duration - 0.3:
        half_width = rng.uniform(0.09, 0.23)
        words.append(
            Word(
                centre_seconds=float(start + half_width),
                half_width_seconds=float(half_width),
                height=float(rng.uniform(0.7, 1.0)),
                vowel=vowels[len(words)],
            )
        )
        start += 2 * half_width + rng.uniform(0.07, 0.35)
    return Take(frames=frames, loudness_db=float(rng.uniform(-3.0, 3.0)), words=tuple(words))


def sample_face_motion(speaker: str, take: int, expression: Expression) -> FaceMotion:
    """Sample the parameters of a video; independent of the speech."""
    rng = _rng(speaker, take, expression)
    duration = sample_take(speaker, take).duration_seconds
    blinks = rng.uniform(0.2, duration - 0.2, size=rng.integers(0, 3))
    return FaceMotion(
        onset=_sample_onset(rng, duration),
        head=_sample_waves(rng, (2.2, 1.6, 2.4, 3.0, 1.5), (0.25, 0.9)),
        blinks_seconds=tuple(float(t) for t in blinks),
        offset_px=(float(rng.uniform(-14, 14)), float(rng.uniform(-8, 8))),
        light=_sample_light(rng),
    )


def sample_speech(speaker: str, take: int, speaking_style: SpeakingStyle) -> Speech:
    """Sample the parameters of the speech; independent of the expression."""
    rng = _rng(speaker, take, speaking_style)
    duration = sample_take(speaker, take).duration_seconds
    return Speech(
        onset=_sample_onset(rng, duration),
        syllables_hz=float(rng.uniform(5.0, 6.5) if speaking_style == "lively" else rng.uniform(2.0, 2.8)),
        pitch=_sample_waves(rng, (0.6, 0.4), (0.7, 2.2)),
        pitch_shift=float(rng.uniform(0.94, 1.06)),
        noise_db=float(rng.uniform(-50.0, -42.0)),
        noise_seed=int(rng.integers(1 << 31)),
    )


def smoothstep(x: Curve) -> Curve:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _sample_onset(rng: np.random.Generator, duration: float) -> Onset:
    return Onset(
        start=float(rng.uniform(0.35, 0.6)),
        apex=float(rng.uniform(0.85, 1.15)),
        begin_seconds=float(rng.uniform(0.0, 0.2) * duration),
        rise_seconds=float(rng.uniform(0.2, 0.5)),
        release=float(rng.uniform(0.0, 0.35)),
    )


def _sample_light(rng: np.random.Generator) -> Light:
    direction, slope, gamma = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.0, 0.35), np.exp(rng.uniform(-0.25, 0.25))
    gain = np.exp(rng.uniform(-0.3, 0.2) + rng.uniform(-0.08, 0.08, size=3))
    return Light(
        direction_rad=float(direction),
        slope=float(slope),
        gamma=float(gamma),
        gain_rgb=(float(gain[0]), float(gain[1]), float(gain[2])),
    )


def _sample_waves(
    rng: np.random.Generator, amplitudes: tuple[float, ...], band_hz: tuple[float, float]
) -> tuple[tuple[float, float, float], ...]:
    return tuple(
        (float(a * rng.uniform(0.4, 1.0)), float(rng.uniform(*band_hz)), float(rng.uniform(0, 2 * np.pi)))
        for a in amplitudes
    )


def _rng(speaker: str, take: int, stream: str) -> np.random.Generator:
    """One generator per stream, so that no value depends on what else is sampled."""
    return np.random.default_rng([VERSION, number_of(speaker) - 1, take, _STREAMS.index(stream)])
