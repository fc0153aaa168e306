"""Spectrograms that the trainer computes from sound are those that the builder stores."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch

from builder.spectrograms import analysis_frames, pre_emphasis, spectrograms
from builder.timeline import uniform
from manifests.filterbanks import logmel_bands
from manifests.schema import FEATURE_ROWS, GRIDS, SAMPLE_RATE_HZ
from manifests.timeline import Timeline
from train.data.spectrograms import mfcc, power_spectra, spectrogram_windows

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "mfcc_reference.npz"
#: Half a step of float16, in which the builder stores values, below 128, and rounding of float32.
FLOAT16 = 0.035


def voice(seconds: float, seed: int = 0) -> npt.NDArray[np.int16]:
    """Harmonics that glide and pause, with some noise."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(3 * times)) / SAMPLE_RATE_HZ
    sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.sin(9 * times) > -0.3)
    return np.clip(4000 * sound + rng.normal(0, 20, len(times)), -32768, 32767).astype(np.int16)


def timeline(seconds: float, start: float, rate: float) -> Timeline:
    count = round(seconds * rate)
    return uniform(start + np.arange(count) / rate, start + count / rate)


CLIPS = (
    (voice(2.4), 0.0, timeline(2.4, 0.0, 29.97)),
    (voice(3.7, seed=1), 0.021, timeline(3.6, 0.067, 25.0)),  # streams start apart
    (voice(0.9, seed=2), -0.3, timeline(1.1, 0.0, 30.0)),  # sound ends before the picture
    (np.zeros(16_000, np.int16), 0.0, timeline(1.0, 0.0, 25.0)),
)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("feature", FEATURE_ROWS)
def test_windows_of_a_batch_have_the_builders_numbers(feature: str, grid: int) -> None:
    """Clips of different lengths in one batch, on both grids."""
    found = spectrogram_windows(
        [sound for sound, _, _ in CLIPS],
        np.array([start for _, start, _ in CLIPS]),
        np.stack([line.window_starts(grid) for _, _, line in CLIPS]),
        np.array([line.hop_seconds(grid) for _, _, line in CLIPS]),
        feature,
    )
    assert found.shape == (len(CLIPS), grid, FEATURE_ROWS[feature], 224)
    for each, (sound, start, line) in zip(found, CLIPS, strict=True):
        stored = spectrograms(sound, start, line, [feature])[f"{feature}_{grid}"].astype(np.float32)
        np.testing.assert_allclose(each.numpy(), stored, atol=FLOAT16, rtol=1e-3)


def test_cepstra_are_the_papers() -> None:
    """Frames at a hop of two samples, as in the reference."""
    if not GOLDEN.is_file():
        pytest.skip(f"needs the reference {GOLDEN}, which is not part of this repository")
    with np.load(GOLDEN) as golden:
        for i in range(3):
            signal, expected = golden[f"signal_{i}"], golden[f"mfcc_{i}"]
            padded = np.append(pre_emphasis(signal), np.zeros(400, np.float32))
            frames = analysis_frames(padded, 200 + 2 * np.arange(len(expected)))
            scale = np.abs(expected).max(axis=1, keepdims=True)
            np.testing.assert_array_less(np.abs(mfcc(torch.from_numpy(frames)).numpy() - expected) / scale, 1e-4)


def test_mel_bands_are_librosas() -> None:
    expected = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=512, n_mels=128).T
    np.testing.assert_allclose(logmel_bands(), expected, atol=1e-8)


def test_a_window_does_not_depend_on_the_rest_of_the_batch() -> None:
    sound, start, line = CLIPS[0]
    arguments = np.array([start]), line.window_starts(16)[None], np.array([line.hop_seconds(16)])
    alone = spectrogram_windows([sound], *arguments, "logmel")
    other, other_start, other_line = CLIPS[1]
    starts = np.stack([line.window_starts(16), other_line.window_starts(16)])
    hops = np.array([line.hop_seconds(16), other_line.hop_seconds(16)])
    both = spectrogram_windows([sound, other], np.array([start, other_start]), starts, hops, "logmel")
    torch.testing.assert_close(both[0], alone[0], rtol=0, atol=1e-4)


def test_far_outside_the_sound_is_silence() -> None:
    """Also where it would be in another clip's sound."""
    starts = np.array([[-1e6, 30.0, 1e9], [0.1, 0.2, 0.3]])
    sounds = [voice(0.5), voice(2.0, seed=3)]
    found = spectrogram_windows(sounds, np.zeros(2), starts, np.full(2, 1e-3), "stft")
    assert (found[0] == found[0].min()).all()
    assert float(found[0].min()) == pytest.approx(-120)
    assert (found[1] > -119).any()


def test_power_spectra_are_librosas() -> None:
    """A Hann window of 1024, hop 320, centred, no logarithm: what VQ-MAE-AV's tokenizer reads."""
    sounds = torch.from_numpy(np.stack([voice(1.0), voice(1.0, seed=4)])).float() / 32768
    found = power_spectra(sounds)
    assert found.shape == (2, 51, 513)
    for each, sound in zip(found, sounds, strict=True):
        expected = np.abs(librosa.stft(sound.numpy(), n_fft=1024, hop_length=320)) ** 2
        np.testing.assert_allclose(each.T.numpy(), expected, rtol=1e-3, atol=1e-3)
