"""Sound and windows -> spectrograms: the T±1 spectrograms that belong to the 16 faces (paper III.B, IV.B.1).

Windows overlap by half, and the grid of 8 has twice the hop of the grid of 16: most columns are in several windows.
So the columns of both grids are computed together, and each spectrum only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from manifests.filterbanks import (
    FFT_SAMPLES,
    FRAME_SAMPLES,
    POWER_FLOOR,
    PRE_EMPHASIS,
    STFT_SAMPLES,
    hamming,
    mfcc_bands,
    mfcc_lifter,
)
from manifests.schema import FEATURE_ROWS, GRIDS, SAMPLE_RATE_HZ
from manifests.timeline import Timeline

Floats = npt.NDArray[np.float32]

#: Frames per block: a block fits the CPU cache; processing all frames together takes three times as long.
BLOCK_FRAMES = 256


def spectrograms(
    audio: npt.NDArray[np.int16], audio_start_seconds: float, timeline: Timeline, features: Sequence[str]
) -> dict[str, npt.NDArray[np.float16]]:
    """All features on both grids: `<feature>_<grid>` -> [grid, rows, 224] float16.

    Column j of a window is the analysis frame centred at `timeline.column_seconds(grid)[:, j]`; sound outside
    the recording is silence.

    Args:
        audio: [n] mono at 16 kHz.
        audio_start_seconds: presentation time of sample 0.
        timeline: the instants and their step.
        features: names in `manifests.schema.FEATURE_ROWS`.
    """
    seconds = {grid: timeline.column_seconds(grid) - audio_start_seconds for grid in GRIDS}
    centres = {grid: np.rint(each * SAMPLE_RATE_HZ).astype(np.int64) for grid, each in seconds.items()}
    needed = np.unique(np.concatenate([each.ravel() for each in centres.values()]))
    signal, places = _pad_signal(audio, needed)
    parts: dict[str, list[Floats]] = {feature: [] for feature in features}
    for block in np.array_split(places, -(-len(needed) // BLOCK_FRAMES)):
        frames = analysis_frames(signal, block)
        for feature in features:
            parts[feature].append(FEATURES[feature](frames))
    result = {}
    for feature in features:
        columns = np.concatenate(parts[feature]).astype(np.float16)
        for grid in GRIDS:
            windows = columns[np.searchsorted(needed, centres[grid])]  # [grid, 224, rows]
            result[f"{feature}_{grid}"] = np.ascontiguousarray(windows.transpose(0, 2, 1))
    return result


def _pad_signal(audio: npt.NDArray[np.int16], centres: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Pre-emphasized sound with a frame of silence on both sides, and the positions of the centres in it.

    Centres further outside are clipped to that silence: a recording with a jumping clock costs no memory.
    """
    half = FRAME_SAMPLES // 2
    signal = np.pad(pre_emphasis(audio.astype(np.float32) / 32768.0), FRAME_SAMPLES)
    return signal, np.clip(centres, -half, len(audio) + half) + FRAME_SAMPLES


def analysis_frames(signal: Floats, centres: npt.NDArray[np.int64]) -> Floats:
    """[n, 400] Hamming-windowed frames around the given samples of a padded signal."""
    starts = np.lib.stride_tricks.sliding_window_view(signal, FRAME_SAMPLES)
    return starts[centres - FRAME_SAMPLES // 2] * hamming()


def pre_emphasis(signal: Floats) -> Floats:
    """y[n] = x[n] - 0.97 x[n-1]."""
    return np.append(signal[:1], signal[1:] - np.float32(PRE_EMPHASIS) * signal[:-1])


def power(frames: Floats, fft_samples: int = FFT_SAMPLES) -> Floats:
    """[n, 400] frames -> [n, bins] power spectra, |X|^2 / N."""
    spectrum = scipy.fft.rfft(frames, fft_samples, axis=1)
    return (spectrum.real**2 + spectrum.imag**2) / np.float32(fft_samples)


def mfcc(frames: Floats) -> Floats:
    """[n, 400] frames -> [n, 13] cepstral coefficients 1..13.

    The paper's parameters: 40 mel bands, 20 log10 of power, orthonormal DCT-II, sinusoidal lifter 22.
    """
    bands = np.maximum(power(frames) @ mfcc_bands(), POWER_FLOOR)
    cepstrum = scipy.fft.dct(20 * np.log10(bands), type=2, axis=1, norm="ortho")
    return cepstrum[:, 1 : FEATURE_ROWS["mfcc"] + 1] * mfcc_lifter()


def logmel(frames: Floats) -> Floats:
    """[n, 400] frames -> [n, 128] mel bands in dB."""
    return _decibel(power(frames) @ _logmel_bands())


def stft(frames: Floats) -> Floats:
    """[n, 400] frames -> [n, 224] STFT bins in dB, 0 Hz to just under Nyquist."""
    return _decibel(power(frames, STFT_SAMPLES)[:, : FEATURE_ROWS["stft"]])


FEATURES: dict[str, Callable[[Floats], Floats]] = {"mfcc": mfcc, "logmel": logmel, "stft": stft}
assert FEATURES.keys() == FEATURE_ROWS.keys()


def _decibel(power_: Floats) -> Floats:
    return 10 * np.log10(np.maximum(power_, POWER_FLOOR))


@cache
def _logmel_bands() -> Floats:
    """[257, 128] librosa's mel bands."""
    import librosa  # takes seconds and 150 MB to import, so only if this feature is used

    return librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=FFT_SAMPLES, n_mels=FEATURE_ROWS["logmel"]).T
