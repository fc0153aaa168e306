"""The eight speakers, and others made up at random: appearance, lighting, framing and voice. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

Rgb = tuple[float, float, float]
Backdrop = Literal["plain", "blinds", "shelf", "lights"]


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Changes to the portrait. Lengths are in pixels of the portrait, where the face is 92 wide and 108 high."""

    face_width: float = 0.0
    """How far each cheek moves out; `jaw_width`, `eye_distance`, `nose_width`, `mouth_width` likewise."""
    jaw_width: float = 0.0
    eye_distance: float = 0.0
    nose_width: float = 0.0
    mouth_width: float = 0.0
    chin_length: float = 0.0
    """How far the chin moves down; `nose_length` and `brow_drop` likewise."""
    nose_length: float = 0.0
    brow_drop: float = 0.0
    eye_opening: float = 0.0
    hair_height: float = 0.0
    hair_width: float = 0.0
    skin_gamma: float = 1.0
    """Above 1: darker, whites stay white."""
    skin_gain: Rgb = (1.0, 1.0, 1.0)
    hair_rgb: Rgb = (0.92, 0.78, 0.58)
    """Colour of the brightest strands."""
    hair_gamma: float = 1.0
    suit_hue: int = 0
    """Hue shift of the orange suit in OpenCV's half degrees."""
    stubble: float = 0.0
    glasses: bool = False
    mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One speaker. `light` is the side light, negative from the left; `zoom` is in frame pixels per portrait pixel."""

    appearance: Appearance
    backdrop: Backdrop
    backdrop_rgb: Rgb
    light: float
    exposure: float
    zoom: float
    centre_px: tuple[float, float]
    """Position of the middle of the face in the frame."""
    pitch_hz: float
    formant_scale: float
    """Above 1: a shorter vocal tract."""


#: Id -> speaker, of the eight.
SPEAKERS: Mapping[str, Speaker] = {
    "S01": Speaker(
        appearance=Appearance(),
        backdrop="plain",
        backdrop_rgb=(0.55, 0.62, 0.70),
        light=-0.10,
        exposure=1.0,
        zoom=1.55,
        centre_px=(240, 195),
        pitch_hz=196.0,
        formant_scale=1.07,
    ),
    "S02": Speaker(
        appearance=Appearance(
            face_width=3.5,
            jaw_width=5.0,
            chin_length=6.0,
            nose_width=1.0,
            brow_drop=2.0,
            hair_height=-5.0,
            hair_width=-8.0,
            skin_gamma=1.25,
            skin_gain=(1.02, 0.96, 0.90),
            hair_rgb=(0.36, 0.30, 0.27),
            hair_gamma=1.3,
            suit_hue=100,
            stubble=0.45,
            mirrored=True,
        ),
        backdrop="shelf",
        backdrop_rgb=(0.50, 0.38, 0.28),
        light=0.25,
        exposure=0.95,
        zoom=1.45,
        centre_px=(215, 190),
        pitch_hz=104.0,
        formant_scale=0.93,
    ),
    "S03": Speaker(
        appearance=Appearance(
            face_width=-4.0,
            jaw_width=-5.0,
            chin_length=3.0,
            eye_distance=-0.8,
            nose_length=2.0,
            hair_height=8.0,
            hair_width=3.0,
            skin_gamma=1.7,
            skin_gain=(0.94, 0.92, 0.86),
            hair_rgb=(0.25, 0.22, 0.22),
            hair_gamma=1.5,
            suit_hue=45,
        ),
        backdrop="blinds",
        backdrop_rgb=(0.70, 0.66, 0.58),
        light=0.15,
        exposure=1.05,
        zoom=1.56,
        centre_px=(232, 188),
        pitch_hz=214.0,
        formant_scale=1.10,
    ),
    "S04": Speaker(
        appearance=Appearance(
            face_width=4.0,
            jaw_width=1.0,
            chin_length=-3.0,
            eye_distance=1.0,
            mouth_width=-1.5,
            eye_opening=0.8,
            hair_height=3.0,
            hair_width=4.0,
            skin_gain=(1.03, 0.95, 0.90),
            hair_rgb=(0.85, 0.42, 0.20),
            suit_hue=70,
            glasses=True,
        ),
        backdrop="lights",
        backdrop_rgb=(0.22, 0.24, 0.36),
        light=-0.25,
        exposure=1.0,
        zoom=1.50,
        centre_px=(238, 198),
        pitch_hz=178.0,
        formant_scale=1.04,
    ),
    "S05": Speaker(
        appearance=Appearance(
            face_width=1.0,
            jaw_width=4.5,
            chin_length=2.0,
            eye_distance=0.7,
            nose_width=2.0,
            nose_length=1.0,
            hair_height=-7.0,
            hair_width=-9.0,
            skin_gamma=1.9,
            skin_gain=(0.90, 0.88, 0.84),
            hair_rgb=(0.20, 0.18, 0.18),
            hair_gamma=1.6,
            suit_hue=130,
            stubble=0.3,
            mirrored=True,
        ),
        backdrop="plain",
        backdrop_rgb=(0.62, 0.55, 0.40),
        light=-0.20,
        exposure=1.1,
        zoom=1.50,
        centre_px=(248, 200),
        pitch_hz=98.0,
        formant_scale=0.94,
    ),
    "S06": Speaker(
        appearance=Appearance(
            face_width=-2.0,
            jaw_width=-2.0,
            chin_length=6.0,
            eye_distance=-0.5,
            nose_length=2.5,
            brow_drop=1.0,
            hair_height=2.0,
            hair_width=-3.0,
            skin_gain=(1.0, 0.97, 0.97),
            hair_rgb=(0.92, 0.92, 0.95),
            hair_gamma=0.8,
            suit_hue=20,
            glasses=True,
            mirrored=True,
        ),
        backdrop="shelf",
        backdrop_rgb=(0.32, 0.42, 0.36),
        light=0.10,
        exposure=0.92,
        zoom=1.40,
        centre_px=(225, 186),
        pitch_hz=122.0,
        formant_scale=0.97,
    ),
    "S07": Speaker(
        appearance=Appearance(
            face_width=2.5,
            jaw_width=-3.0,
            chin_length=-2.0,
            eye_distance=0.6,
            eye_opening=1.0,
            nose_width=-1.5,
            mouth_width=1.0,
            hair_height=6.0,
            hair_width=8.0,
            skin_gamma=1.5,
            skin_gain=(1.0, 0.95, 0.82),
            hair_rgb=(0.52, 0.34, 0.20),
            hair_gamma=1.1,
            suit_hue=155,
        ),
        backdrop="blinds",
        backdrop_rgb=(0.45, 0.55, 0.50),
        light=0.22,
        exposure=1.0,
        zoom=1.60,
        centre_px=(250, 198),
        pitch_hz=230.0,
        formant_scale=1.13,
    ),
    "S08": Speaker(
        appearance=Appearance(
            face_width=-1.0,
            jaw_width=3.0,
            chin_length=1.0,
            nose_width=1.0,
            brow_drop=1.5,
            mouth_width=-1.0,
            hair_height=-3.0,
            hair_width=-5.0,
            skin_gamma=1.1,
            skin_gain=(1.0, 0.92, 0.88),
            hair_rgb=(1.0, 0.84, 0.58),
            hair_gamma=0.9,
            suit_hue=95,
            stubble=0.2,
            mirrored=True,
        ),
        backdrop="lights",
        backdrop_rgb=(0.30, 0.20, 0.22),
        light=-0.15,
        exposure=1.0,
        zoom=1.52,
        centre_px=(236, 194),
        pitch_hz=136.0,
        formant_scale=0.99,
    ),
}
#: Largest number of a speaker; ids have two digits.
MAX_SPEAKER = 99
_SEED = 9


def speaker_id(number: int) -> str:
    """`S01` for 1."""
    return f"S{number:02d}"


def number_of(speaker: str) -> int:
    """1 for `S01`."""
    return int(speaker[1:])


@lru_cache
def look_up(speaker: str) -> Speaker:
    """One of the eight, or, of a greater number, a speaker who is drawn: always the same of an id."""
    return SPEAKERS.get(speaker) or _draw(np.random.default_rng([_SEED, number_of(speaker)]))


def _draw(rng: np.random.Generator) -> Speaker:
    """A speaker within what the eight span. Low voices come with short hair, and half of them with stubble."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    low_voice = bool(rng.random() < 0.5)
    red = between(0.9, 1.03)
    green = red * between(0.92, 0.97)
    blue = green * between(0.92, 1.0)
    shade, warmth = between(0.2, 1.0), between(0.0, 0.45)
    grey = between(0.25, 0.6)
    room = [grey * between(0.75, 1.25) for _ in range(3)]
    return Speaker(
        appearance=Appearance(
            face_width=between(-4, 4),
            jaw_width=between(0, 5) if low_voice else between(-5, 1),
            eye_distance=between(-0.8, 1),
            nose_width=between(-1.5, 2),
            mouth_width=between(-1.5, 1),
            chin_length=between(-3, 6),
            nose_length=between(0, 2.5),
            brow_drop=between(0.5, 2) if low_voice else between(0, 1),
            eye_opening=between(0, 1),
            hair_height=between(-7, -2) if low_voice else between(0, 8),
            hair_width=between(-9, -4) if low_voice else between(-3, 8),
            skin_gamma=between(1.0, 1.9),
            skin_gain=(red, green, blue),
            hair_rgb=(shade, shade * (1 - warmth), shade * (1 - 1.6 * warmth)),
            hair_gamma=between(0.8, 1.6),
            suit_hue=int(rng.integers(180)),
            stubble=between(0.1, 0.45) if low_voice and rng.random() < 0.5 else 0.0,
            glasses=bool(rng.random() < 0.25),
            mirrored=bool(rng.random() < 0.5),
        ),
        backdrop=get_args(Backdrop)[rng.integers(4)],
        backdrop_rgb=(room[0], room[1], room[2]),
        light=between(-0.25, 0.25),
        exposure=between(0.92, 1.1),
        zoom=between(1.4, 1.6),
        centre_px=(between(215, 250), between(186, 200)),
        pitch_hz=between(98, 140) if low_voice else between(170, 230),
        formant_scale=between(0.93, 1.0) if low_voice else between(1.03, 1.13),
    )
