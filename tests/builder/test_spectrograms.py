"""Spectrograms: the paper's numbers, at the right instants, from any sound."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from builder import spectrograms as module
from builder.spectrograms import FEATURES, analysis_frames, mfcc, pre_emphasis, spectrograms
from builder.timeline import uniform
from manifests.filterbanks import mfcc_bands
from manifests.schema import COLUMNS, FEATURE_ROWS, GRIDS, SAMPLE_RATE_HZ
from manifests.timeline import Timeline

ALL = tuple(FEATURE_ROWS)
GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "mfcc_reference.npz"
HALF_FRAME_SECONDS = 0.0125
FLOAT16_DB = 0.07  # half a step of float16 below 128 dB, and a bit

Audio = npt.NDArray[np.int16]
each_feature = pytest.mark.parametrize("feature", ALL)


def clip_timeline(seconds: float, start: float = 0.0, rate: float = 29.97) -> Timeline:
    count = round(seconds * rate)
    return uniform(start + np.arange(count) / rate, start + count / rate)


def hop_timeline(hop_samples: int, first_centre: int) -> Timeline:
    """A timeline whose grid of 16 has whole samples from column to column, the first at `first_centre`."""
    step = hop_samples * COLUMNS / 2 / SAMPLE_RATE_HZ
    instants = first_centre / SAMPLE_RATE_HZ + step * np.arange(1, 17)
    return Timeline(span_seconds=(0.0, 1.0), instants_seconds=tuple(instants.tolist()), step_seconds=step)


def noise(seconds: float, scale: float = 3000, seed: int = 0) -> Audio:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0, scale, round(seconds * SAMPLE_RATE_HZ)), -32768, 32767).astype(np.int16)


# The paper's numbers


def reference_mfcc(frame: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """13 coefficients of 400 pre-emphasised samples, step by step and in double precision."""
    windowed = frame * (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399))
    power = np.abs(np.fft.rfft(windowed, 512)) ** 2 / 512
    mel_top = 2595 * np.log10(1 + 8000 / 700)
    hertz = [700 * (10 ** (mel_top * i / 41 / 2595) - 1) for i in range(42)]
    bins = [int(513 * each / 16_000) for each in hertz]
    decibels = []
    for low, middle, high in zip(bins, bins[1:], bins[2:], strict=False):
        up = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
        down = sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))
        decibels.append(20 * np.log10(max(up + down, 1e-12)))
    coefficients = []
    for order in range(1, 14):
        waves = [value * np.cos(np.pi * order * (band + 0.5) / 40) for band, value in enumerate(decibels)]
        coefficients.append(np.sqrt(2 / 40) * sum(waves))
    return np.array([value * (1 + 11 * np.sin(np.pi * n / 22)) for n, value in enumerate(coefficients)])


def reference_frame(signal: npt.NDArray[np.float64], centre: int) -> npt.NDArray[np.float64]:
    """400 samples around one, silence outside, of sound that was pre-emphasised as a whole."""
    frame = np.zeros(400)
    for i in range(400):
        n = centre - 200 + i
        if 0 <= n < len(signal):
            frame[i] = signal[n] - (0.97 * signal[n - 1] if n else 0)
    return frame


def error(found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """Largest difference, relative to the size of each frame's coefficients."""
    return float((np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max())


def test_mfcc_are_those_of_the_papers_code() -> None:
    if not GOLDEN.is_file():
        pytest.skip(f"needs the reference {GOLDEN}, which is not part of this repository")
    with np.load(GOLDEN) as golden:
        for i in range(3):
            signal, expected = golden[f"signal_{i}"], golden[f"mfcc_{i}"]
            centres = 200 + 2 * np.arange(len(expected))
            padded = np.append(pre_emphasis(signal), np.zeros(400, np.float32))
            assert error(mfcc(analysis_frames(padded, centres)), expected) < 1e-4


def test_mfcc_follow_their_definition() -> None:
    audio = noise(0.2) + (8000 * np.sin(2 * np.pi * 440 * np.arange(3200) / 16_000)).astype(np.int16)
    signal = audio / 32768.0
    centres = np.array([200, 333, 1000, 2222, 3000])
    expected = np.stack([reference_mfcc(reference_frame(signal, centre)) for centre in centres])
    found = mfcc(analysis_frames(pre_emphasis(signal.astype(np.float32)), centres))
    assert error(found, expected) < 1e-4


def test_every_column_is_the_definition_at_its_own_time() -> None:
    """From the recorded sound to the stored numbers, beyond both ends of the sound too."""
    timeline, start = clip_timeline(1.0, start=0.3), 0.25
    audio = noise(0.9, seed=1)
    found = spectrograms(audio, start, timeline, ["mfcc"])
    rng = np.random.default_rng(2)
    for grid in GRIDS:
        times = timeline.column_seconds(grid)
        for window, column in zip(rng.integers(0, grid, 20), rng.integers(0, COLUMNS, 20), strict=True):
            centre = round((times[window, column] - start) * SAMPLE_RATE_HZ)
            expected = reference_mfcc(reference_frame(audio / 32768.0, centre))
            scale = max(np.abs(expected).max(), 1)
            np.testing.assert_allclose(found[f"mfcc_{grid}"][window, :, column], expected, rtol=0, atol=1e-3 * scale)


def test_mel_bands_are_never_empty() -> None:
    for bands, count in ((mfcc_bands(), 40), (module._logmel_bands(), 128)):
        assert bands.shape == (257, count)
        assert (bands >= 0).all()
        assert (bands.max(axis=0) > 0).all()


def test_logmel_is_librosas() -> None:
    import librosa

    audio = noise(2.5, seed=3)
    hop = 16
    found = spectrograms(audio, 0.0, hop_timeline(hop, first_centre=2000), ["logmel"])["logmel_16"]
    signal = audio.astype(np.float64) / 32768
    emphasised = librosa.effects.preemphasis(signal, coef=0.97, zi=[0.0])
    mel = librosa.feature.melspectrogram(
        y=emphasised[2000 - 256 :],
        sr=SAMPLE_RATE_HZ,
        n_fft=512,
        hop_length=hop,
        win_length=400,
        window=np.hamming(400),
        center=False,
        n_mels=128,
    )
    expected = librosa.power_to_db(mel / 512, amin=1e-12, top_db=None)
    for window in range(16):
        start = window * COLUMNS // 2
        np.testing.assert_allclose(found[window], expected[:, start : start + COLUMNS], atol=FLOAT16_DB)


@pytest.mark.parametrize("row", [6, 12, 100, 220])
def test_a_tone_is_in_its_stft_row(row: int) -> None:
    hertz = row * SAMPLE_RATE_HZ / 448
    audio = (10_000 * np.sin(2 * np.pi * hertz * np.arange(32_000) / SAMPLE_RATE_HZ)).astype(np.int16)
    found = spectrograms(audio, 0.0, clip_timeline(2.0), ["stft"])["stft_16"][4:12]
    assert (found.argmax(axis=1) == row).all()


@each_feature
def test_loudness_survives(feature: str) -> None:
    """Twice the amplitude is 6.02 dB more, in every band; the shape of the spectrum, MFCC 1..13, stays."""
    audio = noise(2.0, scale=2000, seed=4)
    soft, loud = (spectrograms(gain * audio, 0.0, clip_timeline(1.9), [feature])[f"{feature}_16"] for gain in (1, 2))
    gained = (loud.astype(float) - soft)[2:14]
    if feature == "mfcc":
        assert np.abs(gained).max() < 1
    else:
        heard = soft[2:14] > -100
        assert heard.mean() > 0.99
        np.testing.assert_allclose(gained[heard], 20 * np.log10(2), atol=FLOAT16_DB)


# The right instants


@pytest.mark.parametrize(
    ("timeline", "start", "seconds"),
    [
        (clip_timeline(2.5), 0.0, 2.5),
        (clip_timeline(3.67, start=0.067), 0.0, 3.5),
        (clip_timeline(0.5, start=600.0, rate=25), 599.9, 0.7),
        (clip_timeline(6.1), 1.5, 2.0),
    ],
)
def test_windows_equal_those_made_one_by_one(timeline: Timeline, start: float, seconds: float) -> None:
    audio = noise(seconds, seed=5)
    signal = np.pad(pre_emphasis(audio.astype(np.float32) / 32768), 200_000)
    found = spectrograms(audio, start, timeline, ALL)
    for grid in GRIDS:
        centres = np.rint((timeline.column_seconds(grid) - start) * SAMPLE_RATE_HZ).astype(int) + 200_000
        for feature, of_frames in FEATURES.items():
            windows = np.stack([of_frames(analysis_frames(signal, each)).T for each in centres])
            stored = found[f"{feature}_{grid}"]
            assert stored.shape == (grid, FEATURE_ROWS[feature], COLUMNS)
            assert stored.dtype == np.float16
            np.testing.assert_allclose(stored, windows, rtol=1e-3, atol=0.01)


@given(at=st.floats(0.05, 1.95), audio_start=st.floats(-0.1, 0.05), video_start=st.floats(-0.05, 0.05))
@settings(max_examples=25)
def test_an_impulse_is_seen_when_it_is_heard(at: float, audio_start: float, video_start: float) -> None:
    timeline = clip_timeline(2.0, start=video_start)
    audio = np.zeros(36_000, np.int16)
    sample = round((at - audio_start) * SAMPLE_RATE_HZ)
    audio[sample] = 30_000
    heard = audio_start + sample / SAMPLE_RATE_HZ
    found = spectrograms(audio, audio_start, timeline, ALL)
    for grid in GRIDS:
        hop = timeline.hop_seconds(grid)
        seen = 0
        for window, times in enumerate(timeline.column_seconds(grid)):
            if not times[0] + HALF_FRAME_SECONDS < heard < times[-1] - HALF_FRAME_SECONDS:
                continue
            seen += 1
            for feature in ALL:
                picture = found[f"{feature}_{grid}"][window].astype(float)
                touched = np.flatnonzero(np.abs(picture - picture[:, [0]]).max(axis=0) > 0.5)
                assert abs(times[touched].mean() - heard) <= hop
                if feature != "mfcc":
                    assert abs(times[picture.mean(axis=0).argmax()] - heard) <= hop
        assert seen in (1, 2)


def test_a_sound_that_moves_by_a_sample_moves_by_a_sample() -> None:
    audio = noise(1.0, seed=6)
    before = spectrograms(audio, 0.0, clip_timeline(0.9), ALL)
    after = spectrograms(audio[1:], 1 / SAMPLE_RATE_HZ, clip_timeline(0.9), ALL)
    for name, windows in before.items():
        np.testing.assert_allclose(after[name][4:], windows[4:], rtol=1e-3, atol=0.01)


# Any sound

SILENCE = {
    name: windows[0, :, 0] for name, windows in spectrograms(np.zeros(0, np.int16), 0, clip_timeline(1), ALL).items()
}


@pytest.mark.parametrize("audio", [np.zeros(0, np.int16), np.zeros(1, np.int16), np.zeros(50_000, np.int16)])
def test_silence_is_one_finite_value_a_row(audio: Audio) -> None:
    for name, windows in spectrograms(audio, 0.0, clip_timeline(2.0), ALL).items():
        assert np.isfinite(windows).all()
        assert (windows == SILENCE[name][:, None]).all()


def test_what_is_not_recorded_is_silence() -> None:
    audio = np.full(16_000, 32_767, np.int16)
    timeline, start = clip_timeline(4.0), 1.5
    for name, windows in spectrograms(audio, start, timeline, ALL).items():
        times = timeline.column_seconds(int(name.partition("_")[2]))
        outside = (times < start - HALF_FRAME_SECONDS) | (times > start + 1.0 + HALF_FRAME_SECONDS)
        silent = (windows == SILENCE[name][:, None]).all(axis=1)
        assert silent[outside].all()
        sounding = (times > start + HALF_FRAME_SECONDS) & (times < start + 1.0)
        assert not silent[sounding].any()


@pytest.mark.parametrize("start", [-90_000.0, 95_443.7])
def test_sound_hours_away_is_silence_at_no_cost(start: float) -> None:
    tracemalloc.start()
    found = spectrograms(noise(1.0), start, clip_timeline(2.0), ["mfcc"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all((windows == SILENCE[name][:, None]).all() for name, windows in found.items())
    assert peak < 100 << 20


@given(
    audio=arrays.arrays(
        np.int16, st.integers(0, 3000), elements=st.sampled_from([-32768, -1, 0, 1, 32767]) | st.integers(-32768, 32767)
    ),
    start=st.floats(-2, 2),
    seconds=st.floats(0.1, 3),
)
@settings(max_examples=30)
def test_any_sound_gives_finite_numbers(audio: Audio, start: float, seconds: float) -> None:
    for windows in spectrograms(audio, start, clip_timeline(seconds), ALL).values():
        assert np.isfinite(windows).all()


def test_square_wave_at_full_scale_is_finite() -> None:
    audio = np.tile(np.array([-32768, 32767], np.int16), 16_000)
    for windows in spectrograms(audio, 0.0, clip_timeline(2.0), ALL).values():
        assert np.isfinite(windows).all()
