"""Constants of the spectrograms: the builder computes them with numpy, a trainer that reads sequences on its device.

Analysis frames are 25 ms of sound at 16 kHz, pre-emphasized and Hamming-windowed (paper IV.B.1).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from manifests.schema import FEATURE_ROWS, SAMPLE_RATE_HZ

Floats = npt.NDArray[np.float32]

PRE_EMPHASIS = 0.97
FRAME_SAMPLES = 400  # 25 ms
FFT_SAMPLES = 512
MFCC_BANDS = 40
LIFTER = 22
#: 448 points without the Nyquist bin: 224 rows, the image size of the encoder.
STFT_SAMPLES = 2 * FEATURE_ROWS["stft"]
#: Lower bound of the power, -120 dB: below the quantization noise of 16 bit samples.
POWER_FLOOR = 1e-12
#: Slaney's mel scale: linear up to 1 kHz, 15 mel; above, a factor of 6.4 in frequency every 27 mel.
_BREAK_HZ, _BREAK_MEL, _MEL_PER_FACTOR = 1000.0, 15.0, 27 / np.log(6.4)


@cache
def hamming() -> Floats:
    """[400] window of an analysis frame."""
    return np.asarray(np.hamming(FRAME_SAMPLES), dtype=np.float32)


@cache
def mfcc_bands() -> Floats:
    """[257, 40] triangles between FFT bins, equal steps of the mel scale 2595 log10(1 + f/700) from 0 Hz to Nyquist.

    Their corners are on integer bins, as in the paper's published code; librosa's are not.
    """
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, MFCC_BANDS + 2) / 2595) - 1)
    corners = np.floor((FFT_SAMPLES + 1) * corners_hz / SAMPLE_RATE_HZ)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(FFT_SAMPLES // 2 + 1)[:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)), dtype=np.float32)


@cache
def mfcc_lifter() -> Floats:
    """[13] factors of the cepstral coefficients: a sine of half period 22."""
    rows = np.arange(FEATURE_ROWS["mfcc"], dtype=np.float32)
    return np.asarray(1 + (LIFTER / 2) * np.sin(np.pi * rows / LIFTER), dtype=np.float32)


@cache
def logmel_bands() -> Floats:
    """[257, 128] triangles of equal area on Slaney's mel scale from 0 Hz to Nyquist: `librosa.filters.mel`."""
    top_mel = _BREAK_MEL + np.log(SAMPLE_RATE_HZ / 2 / _BREAK_HZ) * _MEL_PER_FACTOR
    mel = np.linspace(0, top_mel, FEATURE_ROWS["logmel"] + 2)
    above = _BREAK_HZ * np.exp((mel - _BREAK_MEL) / _MEL_PER_FACTOR)
    corners = np.where(mel < _BREAK_MEL, mel * _BREAK_HZ / _BREAK_MEL, above)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    hertz = np.arange(FFT_SAMPLES // 2 + 1)[:, None] * SAMPLE_RATE_HZ / FFT_SAMPLES
    triangles = np.maximum(0, np.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre)))
    return np.asarray(triangles * 2 / (right - left), dtype=np.float32)
