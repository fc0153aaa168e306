"""One clock for picture and sound, proved end to end: a white frame and a click at the same instant.

The truth is what was muxed. A third reader, the ffmpeg program with its own timestamps, confirms it first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from builder.media import DecodedClip, decode
from builder.spectrograms import spectrograms
from builder.timeline import uniform
from manifests.schema import GRIDS, SAMPLE_RATE_HZ
from manifests.timeline import Timeline
from tests.factories import media as factory

DECODERS = ("pyav", pytest.param("ffmpeg", marks=pytest.mark.slow))
FRAMES = 75
WHITE = 41  # in the second half, so that a wrong rate shows as well as a wrong start
ANALYSIS_FRAME_SECONDS = 0.025
NO_B_FRAMES = {"bf": "0"}  # with them FLV's first decoding time is negative, and the muxer moves both streams
MP3_DELAY_SECONDS = 2 * factory.MP3_PACKET_SAMPLES / 44_100  # 52 ms: AVI delays MP3 by whole packets


@dataclass(frozen=True, kw_only=True)
class Case:
    """What to record."""

    container: str
    codec: str
    sound_codec: str
    rate: Fraction | None = factory.NTSC
    """Frames a second; None: variable."""
    video_start_seconds: float = 0.0
    audio_start_seconds: float = 0.0

    def __str__(self) -> str:
        rate = f"{float(self.rate):.5g}" if self.rate else "varying"
        starts = f"{1000 * self.video_start_seconds:.0f}+{1000 * self.audio_start_seconds:.0f}ms"
        return f"{self.container}-{self.codec}-{self.sound_codec}-{rate}-{starts}"

    def record(self, folder: Path) -> factory.Clapper:
        """Make the file."""
        frames = factory.flashes(FRAMES, WHITE)
        if self.rate is None:
            shown = factory.varying(frames, start_seconds=self.video_start_seconds)
        else:
            shown = factory.steady(frames, self.container, rate=self.rate, start_seconds=self.video_start_seconds)
        return factory.clapper(
            folder / f"{self}.{self.container}",
            replace(shown, codec=self.codec, options=NO_B_FRAMES if self.container == "flv" else {}),
            container=self.container,
            white=WHITE,
            sound_codec=self.sound_codec,
            audio_start_seconds=self.audio_start_seconds,
        )


def _cases() -> list[Case]:
    mp4 = Case(container="mp4", codec="libx264", sound_codec="aac")
    flv = Case(container="flv", codec="flv", sound_codec="libmp3lame")
    avi = Case(container="avi", codec="mpeg4", sound_codec="libmp3lame")
    rates = [replace(case, rate=Fraction(rate)) for case in (mp4, flv, avi) for rate in (25, factory.NTSC, 30)]
    kinds = [replace(flv, codec="libx264", sound_codec="aac"), replace(avi, sound_codec="pcm_s16le")]
    late_picture = [replace(case, video_start_seconds=0.1) for case in (mp4, flv, avi, *kinds)]
    late_sound = [
        *(replace(case, audio_start_seconds=0.1) for case in (mp4, flv, *kinds)),
        replace(avi, audio_start_seconds=MP3_DELAY_SECONDS),
    ]
    both = [replace(case, video_start_seconds=0.067, audio_start_seconds=0.02) for case in (mp4, flv, kinds[1])]
    vfr = replace(mp4, rate=None)
    varying = [vfr, replace(vfr, video_start_seconds=0.1), replace(vfr, audio_start_seconds=0.1)]
    return [*rates, *late_picture, *late_sound, *both, *varying]


@pytest.fixture(scope="module", params=_cases(), ids=str)
def clapper(request: pytest.FixtureRequest, media_dir: Path) -> factory.Clapper:
    return request.param.record(media_dir)


# --- the truth, read by a program that shares nothing with the builder -----------------------------------------


def _ffmpeg(path: Path, kind: str, **output: object) -> tuple[bytes, str]:
    """Raw output and log of the ffmpeg program, with the file's own timestamps kept."""
    stream = getattr(ffmpeg.input(str(path), copyts=None), kind)
    shown = stream.filter({"video": "showinfo", "audio": "ashowinfo"}[kind])
    command = shown.output("pipe:", fps_mode="passthrough", **output)
    out, err = command.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), capture_stdout=True, capture_stderr=True)
    return out, err.decode()


def _white_seconds(path: Path) -> list[float]:
    _, log = _ffmpeg(path, "video", f="null")
    return [float(time) for time, mean in re.findall(r" pts_time:(\S+) .*? mean:\[(\d+)", log) if int(mean) > 128]


def _click_seconds(path: Path, rate_hz: int) -> float:
    out, log = _ffmpeg(path, "audio", f="s16le", ac=1)
    start = float(re.search(r" pts_time:(\S+)", log)[1])
    return start + _centre(np.frombuffer(out, np.int16)) / rate_hz


def _centre(samples: np.ndarray) -> float:
    """Where the loudest pulse of a recording is, to a fraction of a sample: its centre of energy."""
    energy = samples.astype(float) ** 2
    peak = int(energy.argmax())
    near = slice(max(0, peak - 50), peak + 50)
    return float(np.average(np.arange(len(energy))[near], weights=energy[near]))


def test_ffmpeg_finds_white_frame_and_click_where_they_were_muxed(clapper: factory.Clapper) -> None:
    assert _white_seconds(clapper.path) == pytest.approx([clapper.clap_seconds], abs=1e-5)
    assert _click_seconds(clapper.path, 44_100) == pytest.approx(clapper.clap_seconds, abs=2e-5)


# --- what the builder makes of it ------------------------------------------------------------------------------


def _close_up(clapper: factory.Clapper) -> Callable[[np.ndarray, float], Timeline]:
    """16 instants around the clap, a quarter of a frame or less apart."""
    gaps = np.diff(clapper.frame_seconds[WHITE - 1 : WHITE + 2])
    instants = clapper.clap_seconds + (np.arange(16) - 7.5) * gaps.min() / 4

    def plan(frame_seconds: np.ndarray, end_seconds: float) -> Timeline:
        return replace(uniform(frame_seconds, end_seconds), instants_seconds=tuple(instants.tolist()))

    return plan


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def clip(clapper: factory.Clapper, decoder: str) -> DecodedClip:
    """The clapper clip on the default timeline."""
    return decode(factory.source(clapper.path), uniform, decoder)


def test_white_frame_is_shown_within_half_a_frame_of_the_clap(clapper: factory.Clapper, decoder: str) -> None:
    near = decode(factory.source(clapper.path), _close_up(clapper), decoder).video

    white = [bool(frame.mean() > 128) for frame in near.frames]
    previous, clap, following = clapper.frame_seconds[WHITE - 1 : WHITE + 2]
    instants = near.timeline.instants_seconds
    assert white == [(previous + clap) / 2 < instant < (clap + following) / 2 for instant in instants]
    shown = [time for time, lit in zip(near.frame_seconds, white, strict=True) if lit]
    assert shown == pytest.approx([clap] * len(shown), abs=1e-5)


def test_click_is_heard_at_the_clap(clapper: factory.Clapper, clip: DecodedClip) -> None:
    heard = clip.sound.start_seconds + _centre(clip.sound.samples) / SAMPLE_RATE_HZ
    assert heard == pytest.approx(clapper.clap_seconds, abs=1 / SAMPLE_RATE_HZ)


def test_click_lies_within_one_hop_of_the_clap_in_the_right_windows(
    clapper: factory.Clapper, clip: DecodedClip
) -> None:
    made = spectrograms(clip.sound.samples, clip.sound.start_seconds, clip.video.timeline, ["logmel", "stft"])
    for name, grid in itertools.product(["logmel", "stft"], GRIDS):
        levels = 10 * np.log10(np.sum(10 ** (made[f"{name}_{grid}"].astype(float) / 10), axis=1))
        times = clip.video.timeline.column_seconds(grid)
        hop = clip.video.timeline.hop_seconds(grid)
        inside, outside = _windows_of(clapper.clap_seconds, times)
        assert len(inside) >= 1
        for window in inside:
            loudest = times[window, levels[window].argmax()]
            assert loudest == pytest.approx(clapper.clap_seconds, abs=hop)
        assert levels[inside].max(axis=1).min() > levels[outside].max() + 30, "click in a wrong window"


def _windows_of(instant: float, times: np.ndarray) -> tuple[list[int], list[int]]:
    """Windows that show the instant with all analysis frames that hear it, and those that do not hear it at all."""
    distance = np.minimum(instant - times[:, 0], times[:, -1] - instant)
    reach = ANALYSIS_FRAME_SECONDS / 2 + factory.CLICK_SECONDS
    return np.flatnonzero(distance > reach).tolist(), np.flatnonzero(distance < -reach).tolist()


@pytest.mark.parametrize("late", ["picture", "sound"])
def test_click_stands_in_the_default_feature_too(media_dir: Path, decoder: str, late: str) -> None:
    """MFCC have no loudness row, but of uncompressed silence every column is the same, except around the click."""
    starts = {"picture": {"video_start_seconds": 0.1}, "sound": {"audio_start_seconds": 0.1}}[late]
    case = Case(container="avi", codec="mpeg4", sound_codec="pcm_s16le", **starts)
    clapper = case.record(media_dir)
    clip = decode(factory.source(clapper.path), uniform, decoder)
    made = spectrograms(clip.sound.samples, clip.sound.start_seconds, clip.video.timeline, ["mfcc"])
    for grid in GRIDS:
        columns = made[f"mfcc_{grid}"].astype(float)
        times = clip.video.timeline.column_seconds(grid)
        inside, outside = _windows_of(clapper.clap_seconds, times)
        silence = columns[outside[0], :, :1]
        changed = np.abs(columns - silence).max(axis=1) > 1
        assert not changed[outside].any()
        for window in inside:
            heard = times[window][changed[window]].mean()
            assert heard == pytest.approx(clapper.clap_seconds, abs=clip.video.timeline.hop_seconds(grid))
