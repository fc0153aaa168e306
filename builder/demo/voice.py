"""Speech-like sound by the source-filter model: glottal pulses and aspiration noise through formant resonators.

Two speaking styles. *Lively*: raised and modulated pitch, bright and pressed, raised larynx, quick syllables.
*Dull*: lowered flat pitch, soft spectral tilt, breathy, slow syllables. Both speak the same words, whose envelope and
vowels also shape the lips; only the sound distinguishes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import signal

from builder.demo.speakers import Speaker, look_up
from builder.demo.utterances import Curve, SpeakingStyle, Speech, Take

RATE_HZ = 48_000
#: First three formants of VOWELS in an average tract, in Hz; those above hardly move with the vowel.
_VOWELS_HZ = ((750, 1250, 2600), (480, 1850, 2550), (310, 2200, 2950), (500, 900, 2450), (340, 800, 2300))
_UPPER_FORMANTS_HZ = (3500, 4500, 5500, 6600, 7700)
_BANDWIDTHS_HZ = np.array([80.0, 100.0, 140.0, 200.0, 280.0, 360.0, 440.0, 520.0])
_SPEECH_RMS_DB = -23.0


@dataclass(frozen=True, kw_only=True)
class _StyleTarget:
    """Voice of a speaking style at full strength; half way between the two styles is a neutral voice."""

    pitch: float
    """Factor on the speaker's pitch."""
    swing: float
    """Depth of the pitch modulation, as a fraction of the pitch."""
    brightness: float
    """0: soft and steeply tilted, 1: pressed and bright."""
    breath_db: float
    """Level of the aspiration noise relative to the pulses."""
    formants: float
    """Factor on the speaker's formants: a raised larynx shortens the tract."""


_STYLES: Mapping[SpeakingStyle, _StyleTarget] = {
    "lively": _StyleTarget(pitch=1.35, swing=0.22, brightness=1.0, breath_db=-34.0, formants=1.10),
    "dull": _StyleTarget(pitch=0.85, swing=0.03, brightness=0.0, breath_db=-19.0, formants=0.92),
}


def synthesize_speech(speaker: str, take: Take, speaking_style: SpeakingStyle, speech: Speech) -> npt.NDArray[np.int16]:
    """[n] mono sound at 48 kHz, with the duration of the take's frames."""
    who, style = look_up(speaker), _STYLES[speaking_style]
    seconds = np.arange(round(take.duration_seconds * RATE_HZ)) / RATE_HZ
    rng = np.random.default_rng(speech.noise_seed)
    strength = speech.onset.at(seconds, take.duration_seconds)
    syllable = np.cumsum(np.full(len(seconds), speech.syllables_hz / RATE_HZ))
    source = _source(_pitch_hz(who, style, speech, seconds, strength), style, strength, rng)
    spoken = _articulate(source, who.formant_scale * style.formants, take.vowels(seconds))
    spoken *= take.envelope(seconds) * (0.3 + 0.7 * np.sin(np.pi * syllable) ** 2)
    spoken *= 10 ** ((_SPEECH_RMS_DB + take.loudness_db) / 20) / np.sqrt(np.mean(spoken**2))
    room = _room(len(seconds), rng) * 10 ** ((_SPEECH_RMS_DB + speech.noise_db) / 20 + 0.5)
    return np.round(np.clip(spoken + room, -0.99, 0.99) * 32767).astype(np.int16)


def synthesize_silence(take: Take) -> npt.NDArray[np.int16]:
    """[n] digital silence with the duration of the take's frames."""
    return np.zeros(round(take.duration_seconds * RATE_HZ), dtype=np.int16)


def _pitch_hz(who: Speaker, style: _StyleTarget, speech: Speech, seconds: Curve, strength: Curve) -> Curve:
    swings = np.sum([w * np.sin(2 * np.pi * f * seconds + p) for w, f, p in speech.pitch], axis=0)
    declination = 1.0 - 0.04 * seconds
    shift = 1.0 + (style.pitch - 1.0) * strength
    return who.pitch_hz * speech.pitch_shift * shift * declination * (1.0 + style.swing * strength * swings)


def _source(pitch_hz: Curve, style: _StyleTarget, strength: Curve, rng: np.random.Generator) -> Curve:
    """[n] glottal pulses with jitter and shimmer, soft or bright, and aspiration; at strength 0, a neutral voice."""
    jitter = signal.lfilter([1.0], [1.0, -0.999], rng.normal(0.0, 0.0006, len(pitch_hz)))
    cycles = np.floor(np.cumsum(pitch_hz * (1.0 + jitter)) / RATE_HZ)
    pulses = np.diff(cycles, prepend=0.0) * (1.0 + 0.08 * rng.normal(size=len(pitch_hz)))
    pulses *= np.sqrt(RATE_HZ / pitch_hz)
    soft, bright = _lowpass(pulses, (140.0, 350.0)), _lowpass(pulses, (700.0, 9000.0))
    bright = bright * (_rms(soft) / _rms(bright))
    breath = _lowpass(rng.normal(size=len(pitch_hz)), (900.0,))
    breath *= _rms(soft) / _rms(breath)
    brightness = np.clip(0.5 + (style.brightness - 0.5) * strength, 0.0, 1.0)
    breath_db = -26.0 + (style.breath_db + 26.0) * strength
    return soft * (1.0 - brightness) ** 2 + bright * brightness**2 + breath * 10 ** (breath_db / 20)


def _articulate(source: Curve, formant_scale: float, vowels: npt.NDArray[np.int64]) -> Curve:
    """[n] the source through the formants of the vowel of each sample; vowels change in pauses."""
    total = np.zeros_like(source)
    for vowel in np.unique(vowels):
        resonant = signal.sosfilt(_formants(_VOWELS_HZ[vowel], formant_scale), source)
        total += (vowels == vowel) * resonant / _rms(resonant)
    return total


def _formants(vowel_hz: tuple[int, ...], scale: float) -> npt.NDArray[np.float64]:
    """[8, 6] second-order sections, one resonator per formant, unit gain at 0 Hz."""
    centres_hz = np.array(vowel_hz + _UPPER_FORMANTS_HZ) * scale
    radius = np.exp(-np.pi * _BANDWIDTHS_HZ / RATE_HZ)
    a1, a2 = -2.0 * radius * np.cos(2 * np.pi * centres_hz / RATE_HZ), radius**2
    one, zero = np.ones_like(a1), np.zeros_like(a1)
    return np.stack([1.0 + a1 + a2, zero, zero, one, a1, a2], axis=1)


def _lowpass(x: Curve, corners_hz: tuple[float, ...]) -> Curve:
    """One pole per corner frequency: 6 dB per octave each."""
    for corner in corners_hz:
        pole = np.exp(-2 * np.pi * corner / RATE_HZ)
        x = signal.lfilter([1.0 - pole], [1.0, -pole], x)
    return x


def _room(samples: int, rng: np.random.Generator) -> Curve:
    """[n] low rumble and hiss, rms 1."""
    hiss = rng.normal(size=samples)
    noise = _lowpass(hiss, (600.0,)) + 0.05 * hiss
    return noise / _rms(noise)


def _rms(x: Curve) -> float:
    return float(np.sqrt(np.mean(x**2)))
