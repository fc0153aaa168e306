"""Sound -> spectrograms on the device: windows around any instants, with the builder's numbers.

Shards of pairs have spectrograms of 16 fixed instants. Sequences have the sound: windows around whichever instants a
training draws are computed here, for a whole batch at once. Where windows overlap, each spectrum is computed once.

Shape suffixes: B clips, W windows, rows of a feature (`manifests.schema.FEATURE_ROWS`), 224 columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from manifests.filterbanks import (
    FFT_SAMPLES,
    FRAME_SAMPLES,
    POWER_FLOOR,
    PRE_EMPHASIS,
    STFT_SAMPLES,
    hamming,
    logmel_bands,
    mfcc_bands,
    mfcc_lifter,
)
from manifests.schema import COLUMNS, FEATURE_ROWS, SAMPLE_RATE_HZ

Seconds = npt.NDArray[np.float64]

#: Of the power spectra that VQ-MAE-AV's tokenizer reads: Hann windows of 64 ms, 50 a second, 513 bins.
POWER_WINDOW_SAMPLES, POWER_HOP_SAMPLES = 1024, 320


def spectrogram_windows(
    sounds: Sequence[npt.NDArray[np.int16]],
    sound_starts: Seconds,
    window_starts: Seconds,
    hops: Seconds,
    feature: str,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Windows of a batch of clips, float32 [B, W, rows, 224], dB-like, as the builder stores them but not rounded.

    Column j of a window is the analysis frame centred at its start plus j hops, to the nearest sample; sound outside
    the recording is silence.

    Args:
        sounds: B arrays [n] mono at 16 kHz.
        sound_starts: [B] presentation time of the first sample in seconds.
        window_starts: [B, W] presentation time of each window's start in seconds.
        hops: [B] seconds from one column to the next.
        feature: a name in `manifests.schema.FEATURE_ROWS`.
        device: where the spectra are computed.
    """
    columns = window_starts[:, :, None] + np.arange(COLUMNS) * hops[:, None, None] - sound_starts[:, None, None]
    centres = np.rint(columns * SAMPLE_RATE_HZ).astype(np.int64)
    half = FRAME_SAMPLES // 2
    lengths = np.array([len(sound) for sound in sounds])
    # One line of all sounds, each between frames of silence, in which centres further outside are clipped to these.
    offsets = np.concatenate([[0], np.cumsum(lengths + 2 * FRAME_SAMPLES)])
    places = np.clip(centres, -half, (lengths + half)[:, None, None]) + (offsets[:-1] + FRAME_SAMPLES)[:, None, None]
    needed, inverse = np.unique(places, return_inverse=True)
    frames = _analysis_frames(_pad_sounds(sounds, device), torch.from_numpy(needed - half).to(device))
    found = FEATURES[feature](frames)[torch.from_numpy(inverse.ravel()).to(device)]
    return found.view(*centres.shape, FEATURE_ROWS[feature]).transpose(2, 3).contiguous()


def power_spectra(sounds: Tensor, *, padded: bool = False) -> Tensor:
    """[B, n] float32 sound in -1..1 -> [B, frames, 513] power |X|^2, 50 frames a second, the first centred at 0.

    Of sound that is `padded` the first begins at 0.
    """
    window = torch.hann_window(POWER_WINDOW_SAMPLES, device=sounds.device)
    options = {"window": window, "center": not padded, "pad_mode": "constant", "return_complex": True}
    spectrum = torch.stft(sounds, POWER_WINDOW_SAMPLES, POWER_HOP_SAMPLES, **options)
    return (spectrum.real**2 + spectrum.imag**2).transpose(1, 2)


def clip_power(sound: npt.NDArray[np.int16], device: torch.device | str = "cpu", drawn: Tensor | None = None) -> Tensor:
    """Sound of a clip [n] -> [1 + n // 320, 513] power spectra of it, scaled such that its peak is 1; silence stays.

    With `drawn`, [k] numbers from 0 to below 1, only the spectra at these shares of the clip, [k, 513].
    """
    samples = torch.from_numpy(sound).to(device).float()
    peak = samples.abs().max() if len(sound) else samples.new_ones(())
    scaled = functional.pad(samples / peak.clamp(min=1), (POWER_WINDOW_SAMPLES // 2, POWER_WINDOW_SAMPLES // 2))
    if drawn is None:
        return power_spectra(scaled[None], padded=True)[0]
    starts = (drawn.to(device).double() * (1 + len(sound) // POWER_HOP_SAMPLES)).long() * POWER_HOP_SAMPLES
    frames = scaled.unfold(0, POWER_WINDOW_SAMPLES, 1)[starts]
    return power_spectra(frames, padded=True)[:, 0]


def mfcc(frames: Tensor) -> Tensor:
    """[n, 400] frames -> [n, 13] cepstral coefficients 1..13, as `builder.spectrograms.mfcc`."""
    bands = (_power(frames) @ _constant(mfcc_bands, frames)).clamp(min=POWER_FLOOR)
    return 20 * bands.log10() @ _constant(_cepstrum, frames)


def logmel(frames: Tensor) -> Tensor:
    """[n, 400] frames -> [n, 128] mel bands in dB."""
    return _decibel(_power(frames) @ _constant(logmel_bands, frames))


def stft(frames: Tensor) -> Tensor:
    """[n, 400] frames -> [n, 224] bins in dB, 0 Hz to just under Nyquist."""
    return _decibel(_power(frames, STFT_SAMPLES)[:, : FEATURE_ROWS["stft"]])


FEATURES: Mapping[str, Callable[[Tensor], Tensor]] = {"mfcc": mfcc, "logmel": logmel, "stft": stft}
assert FEATURES.keys() == FEATURE_ROWS.keys()


def _pad_sounds(sounds: Sequence[npt.NDArray[np.int16]], device: torch.device | str) -> Tensor:
    """All sounds in one line, pre-emphasized, with a frame of silence before and after each."""
    parts = []
    for sound in sounds:
        samples = torch.from_numpy(sound).to(device).float() / 32768.0
        emphasized = torch.cat([samples[:1], samples[1:] - PRE_EMPHASIS * samples[:-1]])
        parts.append(functional.pad(emphasized, (FRAME_SAMPLES, FRAME_SAMPLES)))
    return torch.cat(parts)


def _analysis_frames(signal: Tensor, starts: Tensor) -> Tensor:
    """[n, 400] windowed frames that start at the given samples."""
    return signal.unfold(0, FRAME_SAMPLES, 1)[starts] * _constant(hamming, signal)


def _power(frames: Tensor, fft_samples: int = FFT_SAMPLES) -> Tensor:
    """[n, 400] frames -> [n, bins] power spectra, |X|^2 / N."""
    spectrum = torch.fft.rfft(frames, fft_samples)
    return (spectrum.real**2 + spectrum.imag**2) / fft_samples


def _decibel(power: Tensor) -> Tensor:
    return 10 * power.clamp(min=POWER_FLOOR).log10()


@cache
def _cepstrum() -> npt.NDArray[np.float32]:
    """[40, 13] orthonormal DCT-II of the mel bands, coefficients 1..13, with the lifter: MFCC are one product."""
    bands, rows = mfcc_bands().shape[1], FEATURE_ROWS["mfcc"]
    angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(1, rows + 1)
    return (math.sqrt(2 / bands) * np.cos(angles) * mfcc_lifter()).astype(np.float32)


def _constant(make: Callable[[], npt.NDArray[np.float32]], like: Tensor) -> Tensor:
    return _on_device(make, like.device)


@cache
def _on_device(make: Callable[[], npt.NDArray[np.float32]], device: torch.device) -> Tensor:
    return torch.from_numpy(make()).to(device)
