"""Reading recordings: which frames and which sound come out, and how each kind of bad file ends.

What is true is known from `tests.factories.media`, which chose every presentation time. Both decoders face every case.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from builder.media import DecodedClip, MediaError, decode
from builder.timeline import fixed, uniform
from manifests.schema import FLAGS, SAMPLE_RATE_HZ
from tests.factories import media as factory

DECODERS = ("pyav", "ffmpeg")
LONG_SECONDS = 60
LEVEL = {"aac": 1.0, "pcm_s16le": 1.0, "libmp3lame": 0.95}  # LAME lowers what it codes by 5 %, against clipping
PACKET_SECONDS = 1152 / 44_100  # sound comes in packets, the last one padded
KEYFRAME_DISTANCE = 250  # frames; DivX's default, so that seeking lands seconds early


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def plain_mp4(media_dir: Path) -> bytes:
    """A healthy recording of 60 frames."""
    return factory.write(media_dir / "plain.mp4", picture("mp4"), sound()).read_bytes()


def picture(container: str, count: int = 60, codec: str | None = None, **settings: object) -> factory.Picture:
    """Stamped frames at 29.97 a second in the codec that goes with the container."""
    codec = codec or {"mp4": "libx264", "flv": "flv", "avi": "mpeg4"}[container]
    return replace(factory.steady(factory.stamps(count), container), codec=codec, **settings)


def sound(container: str = "mp4", hz: float = 440, seconds: float = 2.002, **settings: object) -> factory.Sound:
    """A tone in the codec that goes with the container."""
    codec = {"mp4": "aac", "flv": "libmp3lame", "avi": "pcm_s16le"}[container]
    settings = {"rate_hz": 44_100, "codec": codec, **settings}
    return factory.mono(factory.tone(hz, seconds, settings["rate_hz"]), **settings)


def nearest(shown: factory.Picture, instants: Sequence[float]) -> list[int]:
    """Index of the frame whose presentation time is nearest to each instant."""
    return [int(np.abs(np.asarray(shown.seconds) - instant).argmin()) for instant in instants]


def middles(shown: factory.Picture) -> list[float]:
    """The middles of 16 equal parts of the picture's span."""
    step = (shown.end_seconds - shown.seconds[0]) / 16
    return [shown.seconds[0] + (index + 0.5) * step for index in range(16)]


def stamps_of(clip: DecodedClip) -> list[int]:
    """Frame number that each of the 16 frames carries; fails unless both halves say the same, upright."""
    halves = [np.array_split(frame, [frame.shape[1] // 2], axis=1) for frame in clip.video.frames]
    read = [(factory.read_stamp(left), factory.read_stamp(right)) for left, right in halves]
    assert all(left == (right[0], "left") and right[1] == "right" for left, right in read)
    return [left[0] for left, _ in read]


def spectrum(samples: np.ndarray) -> tuple[float, float]:
    """(strongest frequency in Hz, its amplitude relative to full scale), to about 1 Hz and 1 %."""
    window = np.hanning(len(samples))
    power = np.abs(np.fft.rfft(samples / 32768 * window, 8 * SAMPLE_RATE_HZ))
    return float(power.argmax() / 8), float(2 * power.max() / window.sum())


def middle_of(clip: DecodedClip) -> np.ndarray:
    """The sound without its first and last quarter."""
    quarter = len(clip.sound.samples) // 4
    return clip.sound.samples[quarter:-quarter]


# --- which frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["libx264", "flv", "mpeg4"])
@pytest.mark.parametrize("start_seconds", [0.0, 0.1])
def test_frames_nearest_to_the_instants_are_shown(
    tmp_path: Path, decoder: str, codec: str, start_seconds: float
) -> None:
    container = {"libx264": "mp4", "flv": "flv", "mpeg4": "avi"}[codec]
    shown = replace(factory.steady(factory.stamps(61), container, start_seconds=start_seconds), codec=codec)
    path = factory.write(tmp_path / f"clip.{container}", shown, sound(container), container=container)

    clip = decode(factory.source(path), uniform, decoder)

    expected = nearest(shown, middles(shown))
    assert stamps_of(clip) == expected
    assert clip.video.frame_seconds == pytest.approx([shown.seconds[index] for index in expected], abs=1e-5)
    assert clip.video.frame_count == 61
    assert clip.video.timeline.span_seconds == pytest.approx((shown.seconds[0], shown.end_seconds), abs=2e-3)
    assert clip.video.timeline.instants_seconds == pytest.approx(middles(shown), abs=2e-3)


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), 30])
def test_fixed_plan_takes_every_sixth_frame(tmp_path: Path, decoder: str, rate: Fraction) -> None:
    shown = factory.steady(factory.stamps(95), "mp4", rate=Fraction(rate), start_seconds=0.05)
    path = factory.write(tmp_path / "clip.mp4", shown, sound(seconds=3))

    clip = decode(factory.source(path), fixed, decoder)

    assert stamps_of(clip) == list(range(0, 96, 6))


def test_fixed_plan_drops_short_clips(tmp_path: Path, decoder: str) -> None:
    path = factory.write(tmp_path / "clip.mp4", picture("mp4", 90), sound(seconds=3))
    assert _reason(path, decoder, plan=fixed) == "too_short"


def test_variable_frame_rate_is_sampled_by_presentation_time(tmp_path: Path, decoder: str) -> None:
    shown = factory.varying(factory.stamps(50), start_seconds=0.04)
    path = factory.write(tmp_path / "vfr.mp4", shown, sound(seconds=2.8))

    clip = decode(factory.source(path), uniform, decoder)

    expected = nearest(shown, clip.video.timeline.instants_seconds)
    by_index = [int((index + 0.5) * 50 / 16) for index in range(16)]
    assert expected != by_index, "the clip would not tell sampling by time from sampling by index"
    assert stamps_of(clip) == expected
    assert clip.video.frame_seconds == pytest.approx([shown.seconds[index] for index in expected], abs=1e-5)


def test_last_frame_lasts_as_long_as_the_container_says(tmp_path: Path, decoder: str) -> None:
    shown = factory.varying(factory.stamps(50))
    long = [*shown.ticks[:-1], shown.ticks[-2] + 18_000]  # 200 ms
    shown = replace(shown, ticks=long, options={**shown.options, "bf": "0"})  # reordering would lose the duration
    path = factory.write(tmp_path / "vfr.mp4", shown, sound(seconds=2.8))
    clip = decode(factory.source(path), uniform, decoder)
    assert clip.video.timeline.span_seconds == pytest.approx((0.0, shown.end_seconds), abs=1e-4)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_pictures_come_out_upright(tmp_path: Path, decoder: str, degrees: int) -> None:
    path = factory.write(tmp_path / "turned.mp4", picture("mp4", rotation_degrees=degrees), sound())

    clip = decode(factory.source(path), uniform, decoder)

    assert clip.video.frames[0].shape == (*factory.SIZE_PX, 3)
    assert stamps_of(clip) == nearest(picture("mp4"), middles(picture("mp4")))


@pytest.mark.parametrize(("degrees", "aspect"), [(0, 240 / 120), (90, 160 / 180)])
def test_pixels_come_out_square(tmp_path: Path, decoder: str, degrees: int, aspect: float) -> None:
    """Coded pixels are half as wide again as high: an upright picture grows wider, a turned one higher."""
    path = tmp_path / "wide.mp4"
    factory.write(path, picture("mp4", rotation_degrees=degrees, pixel_aspect=Fraction(3, 2)), sound())
    clip = decode(factory.source(path), uniform, decoder)
    height, width, _ = clip.video.frames[0].shape
    assert width / height == pytest.approx(aspect, rel=0.01)
    assert stamps_of(clip) == nearest(picture("mp4"), middles(picture("mp4")))


@pytest.mark.parametrize(
    ("container", "codec", "pix_fmt", "size_px"),
    [
        ("mp4", "libx264", "yuv420p10le", (120, 160)),
        ("mp4", "libx264", "yuv444p", (121, 161)),
        ("avi", "mpeg4", "yuv420p", (121, 161)),
        ("mp4", "libx264", "gray", (120, 160)),
    ],
)
def test_odd_sizes_and_pixel_formats(
    tmp_path: Path, decoder: str, container: str, codec: str, pix_fmt: str, size_px: tuple[int, int]
) -> None:
    shown = factory.steady(factory.stamps(40, size_px), container)
    if pix_fmt == "gray":  # orange is a dark grey: light the cells fully
        shown = replace(shown, frames=[np.where(frame.any(-1, keepdims=True), 255, frame) for frame in shown.frames])
    shown = replace(shown, frames=[frame.astype(np.uint8) for frame in shown.frames], codec=codec, pix_fmt=pix_fmt)
    path = factory.write(tmp_path / f"clip.{container}", shown, sound(container, seconds=1.3), container=container)

    clip = decode(factory.source(path), uniform, decoder)

    assert clip.video.frames[0].shape == (*size_px, 3)
    assert stamps_of(clip) == nearest(shown, middles(shown))


def test_colours_are_red_green_blue(tmp_path: Path, decoder: str) -> None:
    path = factory.write(tmp_path / "clip.mp4", picture("mp4"), sound())
    lit = decode(factory.source(path), uniform, decoder).video.frames[0][5:25, 3:17].mean((0, 1))
    assert lit == pytest.approx(factory.LIT_RGB, abs=12)


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
def test_decoders_agree(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"clip.{container}"
    heard = sound(container, hz=300, start_seconds=0.0)
    factory.write(path, picture(container), heard, container=container)

    first, second = (decode(factory.source(path), uniform, decoder) for decoder in DECODERS)

    _assert_same(first, second)


def _assert_same(first: DecodedClip, second: DecodedClip) -> None:
    """Same pixels, same times, and sound that agrees sample by sample but for rounding."""
    assert np.array_equal(first.video.frames, second.video.frames)
    assert first.video.frame_seconds == pytest.approx(second.video.frame_seconds, abs=1e-5)
    assert first.video.frame_count == second.video.frame_count
    assert first.sound.start_seconds == pytest.approx(second.sound.start_seconds, abs=1e-3)
    shift = round((second.sound.start_seconds - first.sound.start_seconds) * SAMPLE_RATE_HZ)
    a, b = first.sound.samples[max(shift, 0) :], second.sound.samples[max(-shift, 0) :]
    assert (
        abs(len(a) - len(b)) <= PACKET_SECONDS * SAMPLE_RATE_HZ
    )  # ffmpeg cuts the last packet's padding, PyAV does not
    common = min(len(a), len(b)) - 32  # resampling differs where the sound ends
    difference = a[:common].astype(float) - b[:common]
    assert np.sqrt(np.mean(difference**2)) < 0.01 * np.sqrt(np.mean(a.astype(float) ** 2)) + 2


# --- which sound -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"),
    [
        ("mp4", "aac", 8_000),
        ("mp4", "aac", 48_000),
        ("flv", "libmp3lame", 44_100),
        ("avi", "pcm_s16le", 8_000),
        ("avi", "pcm_s16le", 48_000),
        ("avi", "libmp3lame", 44_100),
    ],
)
def test_sound_keeps_pitch_level_and_length(
    tmp_path: Path, decoder: str, container: str, codec: str, rate_hz: int
) -> None:
    heard = sound(container, hz=1000, codec=codec, rate_hz=rate_hz)
    path = factory.write(tmp_path / f"clip.{container}", picture(container), heard, container=container)

    clip = decode(factory.source(path), uniform, decoder)

    assert clip.sound.samples.dtype == np.int16
    assert clip.sound.start_seconds == pytest.approx(0, abs=1e-3)
    assert clip.sound.end_seconds == pytest.approx(2.002, abs=2400 / rate_hz)  # coders end on a whole packet
    assert spectrum(middle_of(clip)) == pytest.approx((1000, 0.5 * LEVEL[codec]), rel=0.02)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("avi", "pcm_s16le"), ("flv", "libmp3lame")])
def test_stereo_is_averaged(tmp_path: Path, decoder: str, container: str, codec: str) -> None:
    """Two different tones at half their level, neither twice as fast nor one dropped nor 3 dB up."""
    channels = np.stack([factory.tone(400, 2.002, 44_100), factory.tone(1500, 2.002, 44_100, 0.3)], axis=1)
    heard = factory.Sound(samples=channels, rate_hz=44_100, codec=codec)
    path = factory.write(tmp_path / f"clip.{container}", picture(container), heard, container=container)

    clip = decode(factory.source(path), uniform, decoder)

    middle = middle_of(clip)
    low = spectrum(middle)
    time = np.arange(len(middle)) / SAMPLE_RATE_HZ
    high = np.abs(np.mean(middle / 32768 * np.hanning(len(middle)) * np.exp(-2j * np.pi * 1500 * time))) * 4
    assert low == pytest.approx((400, 0.25 * LEVEL[codec]), rel=0.02)
    assert high == pytest.approx(0.15 * LEVEL[codec], rel=0.02)
    assert clip.sound.end_seconds == pytest.approx(2.002, abs=0.06)


def test_opposite_channels_cancel(tmp_path: Path, decoder: str) -> None:
    left = factory.tone(400, 2.002, 44_100)
    heard = factory.Sound(samples=np.stack([left, -left], axis=1), rate_hz=44_100, codec="pcm_s16le")
    path = factory.write(tmp_path / "clip.avi", picture("avi"), heard, container="avi")

    clip = decode(factory.source(path), uniform, decoder)

    assert np.abs(clip.sound.samples).max() <= 1
    assert "silent" in clip.flags


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
def test_sound_that_starts_late_and_ends_early_keeps_its_place(tmp_path: Path, decoder: str, container: str) -> None:
    heard = sound(container, seconds=1.0, start_seconds=0.4)
    path = factory.write(tmp_path / f"clip.{container}", picture(container), heard, container=container)

    clip = decode(factory.source(path), uniform, decoder)

    time = clip.sound.start_seconds + np.arange(len(clip.sound.samples)) / SAMPLE_RATE_HZ
    loud = time[np.abs(clip.sound.samples) > 0.3 * 32768]
    assert loud[0] == pytest.approx(0.4, abs=0.03)  # FLV and AVI: the coder's priming replaces the first 25 ms
    assert loud[-1] == pytest.approx(1.4, abs=0.005)
    assert "sound_length_mismatch" in clip.flags


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
def test_silence_is_kept_and_flagged(tmp_path: Path, decoder: str, container: str) -> None:
    silence = replace(sound(container), samples=np.zeros((88_288, 1), np.int16))
    path = factory.write(tmp_path / f"clip.{container}", picture(container), silence, container=container)

    clip = decode(factory.source(path), uniform, decoder)

    assert clip.flags == ("silent",)
    assert len(clip.sound.samples) > 1.9 * SAMPLE_RATE_HZ


def test_ordinary_clips_carry_no_flag(tmp_path: Path, decoder: str) -> None:
    path = factory.write(tmp_path / "clip.mp4", picture("mp4"), sound())
    assert decode(factory.source(path), uniform, decoder).flags == ()


@pytest.mark.parametrize("missing", ["no stream", "empty stream"])
def test_separate_sound_file_stands_in(tmp_path: Path, decoder: str, missing: str) -> None:
    heard = None if missing == "no stream" else factory.Sound(samples=np.zeros((0, 1), np.int16))
    video = factory.write(tmp_path / "clip.mp4", factory.steady(factory.stamps(60), "mp4", start_seconds=0.1), heard)
    wav = _write_wav(tmp_path / "clip.wav", factory.tone(700, 2, SAMPLE_RATE_HZ))

    clip = decode(factory.source(video, sound=wav), uniform, decoder)

    assert clip.flags == ("sound_from_file",)
    assert spectrum(middle_of(clip)) == pytest.approx((700, 0.5), rel=0.02)
    assert clip.sound.start_seconds == pytest.approx(0.1, abs=1e-3)  # a file of its own starts with the picture


def test_the_recordings_own_sound_comes_first(tmp_path: Path, decoder: str) -> None:
    video = factory.write(tmp_path / "clip.mp4", picture("mp4"), sound(hz=1000))
    wav = _write_wav(tmp_path / "clip.wav", factory.tone(300, 2, SAMPLE_RATE_HZ))

    clip = decode(factory.source(video, sound=wav), uniform, decoder)

    assert spectrum(middle_of(clip))[0] == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("own", ["sound", "damaged sound", "no sound"])
def test_a_named_sound_file_comes_first(tmp_path: Path, decoder: str, own: str) -> None:
    video = factory.write(tmp_path / "clip.mp4", picture("mp4"), None if own == "no sound" else sound(hz=1000))
    if own == "damaged sound":
        factory.damage(video, "audio", share=0.5)
    wav = _write_wav(tmp_path / "clip.wav", factory.tone(300, 2, SAMPLE_RATE_HZ))

    clip = decode(factory.source(video, sound=wav, sound_first=True), uniform, decoder)

    assert spectrum(middle_of(clip)) == pytest.approx((300, 0.5), rel=0.02)
    assert clip.sound.start_seconds == pytest.approx(0, abs=1e-3)
    assert clip.sound_file_used
    assert ("sound_from_file" in clip.flags) == (own != "sound")  # the recording has none that could be used


@pytest.mark.parametrize("content", [None, b"", b"RIFF but no sound", b"FORM\0\0\0\4AIFF"])
def test_a_named_sound_file_that_cannot_be_used_is_flagged(tmp_path: Path, decoder: str, content: bytes | None) -> None:
    video = factory.write(tmp_path / "clip.mp4", picture("mp4"), sound(hz=1000))
    wav = tmp_path / "clip.wav"
    if content is not None:
        wav.write_bytes(content)

    clip = decode(factory.source(video, sound=wav, sound_first=True), uniform, decoder)

    assert clip.flags == ("sound_from_recording",)
    assert not clip.sound_file_used
    assert spectrum(middle_of(clip))[0] == pytest.approx(1000, abs=2)


def test_a_named_sound_file_that_cannot_be_used_and_no_other_sound(tmp_path: Path, decoder: str) -> None:
    video = factory.write(tmp_path / "clip.mp4", picture("mp4"))
    wav = tmp_path / "clip.wav"
    wav.write_bytes(b"RIFF but no sound")
    with pytest.raises(MediaError, match=r"^unreadable: clip\.wav: not a recording that can be opened"):
        decode(factory.source(video, sound=wav, sound_first=True), uniform, decoder)


def test_separate_sound_that_cannot_be_read_is_no_sound(tmp_path: Path, decoder: str) -> None:
    video = factory.write(tmp_path / "clip.mp4", picture("mp4"))
    wav = tmp_path / "clip.wav"
    wav.write_bytes(b"RIFF but no sound")
    with pytest.raises(MediaError) as caught:
        decode(factory.source(video, sound=wav), uniform, decoder)
    assert caught.value.reason in ("no_audio", "unreadable")
    assert "clip.wav" in caught.value.detail


def _write_wav(path: Path, samples: factory.Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(samples.tobytes())
    return path


# --- part of a long recording ----------------------------------------------------------------------------------


def tone_hz(second: int) -> float:
    return 500 + 50 * second


@pytest.fixture(scope="module", params=["pcm_s16le", "libmp3lame"])
def dialogue(request: pytest.FixtureRequest, media_dir: Path) -> tuple[Path, factory.Picture]:
    """A minute of AVI: every frame numbered on both halves, every second at its own pitch."""
    frames = factory.stamps(int(LONG_SECONDS * factory.NTSC))
    shown = factory.steady(frames, "avi")
    shown = replace(shown, codec="mpeg4", options={"g": str(KEYFRAME_DISTANCE)})
    samples = factory.scale(LONG_SECONDS, tone_hz, SAMPLE_RATE_HZ)
    heard = factory.mono(samples, rate_hz=SAMPLE_RATE_HZ, codec=request.param)
    path = media_dir / f"dialogue_{request.param}.avi"
    return factory.write(path, shown, heard, container="avi"), shown


@pytest.mark.parametrize("segment", [(0.0, 2.5), (17.3, 20.1), (31.731, 32.4), (55.2, 59.9)])
def test_segment_gives_that_part_of_picture_and_sound(
    dialogue: tuple[Path, factory.Picture], decoder: str, segment: tuple[float, float]
) -> None:
    path, shown = dialogue

    clip = decode(factory.source(path, segment_seconds=segment), uniform, decoder)

    frame = float(1 / factory.NTSC)
    assert clip.video.timeline.span_seconds == pytest.approx(segment, abs=frame)
    assert stamps_of(clip) == nearest(shown, clip.video.timeline.instants_seconds)
    assert clip.video.frame_count == pytest.approx((segment[1] - segment[0]) / frame, abs=1.01)
    assert clip.sound.start_seconds <= segment[0] + 1e-3
    assert clip.sound.end_seconds >= segment[1] - 1e-3
    _assert_pitches(clip, segment)


def _assert_pitches(clip: DecodedClip, segment: tuple[float, float]) -> None:
    """Each 100 ms of the segment that lies within one second has that second's pitch."""
    checked = 0
    for start in np.arange(segment[0] + 0.03, segment[1] - 0.13, 0.1):
        first = round((start - clip.sound.start_seconds) * SAMPLE_RATE_HZ)
        if 0.04 < start % 1 < 0.86:  # clear of a change of pitch
            pitch, _ = spectrum(clip.sound.samples[first : first + SAMPLE_RATE_HZ // 10])
            assert pitch == pytest.approx(tone_hz(int(start)), abs=6)
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("chunk_seconds", [3.0, 12.0])
def test_segment_of_a_badly_interleaved_recording(media_dir: Path, decoder: str, chunk_seconds: float) -> None:
    """Seconds of sound lie ahead of their picture in the file: reading must not stop at the first late packet."""
    shown = picture("avi", 360, options={"g": str(KEYFRAME_DISTANCE)})
    samples = factory.scale(12, tone_hz, SAMPLE_RATE_HZ)
    heard = factory.mono(samples, rate_hz=SAMPLE_RATE_HZ, codec="pcm_s16le", chunk_seconds=chunk_seconds)
    path = factory.write(media_dir / f"chunks_{decoder}_{chunk_seconds}.avi", shown, heard, container="avi")
    segment = (5.2, 7.4)

    clip = decode(factory.source(path, segment_seconds=segment), uniform, decoder)

    assert stamps_of(clip) == nearest(shown, clip.video.timeline.instants_seconds)
    assert clip.video.timeline.span_seconds == pytest.approx(segment, abs=float(1 / factory.NTSC))
    _assert_pitches(clip, segment)


@pytest.mark.parametrize(("region", "origin_px"), [("left", (0, 0)), ("right", (80, 0)), ("full", (0, 0))])
def test_region_is_the_talkers_half(
    dialogue: tuple[Path, factory.Picture], decoder: str, region: str, origin_px: tuple[int, int]
) -> None:
    path, shown = dialogue

    clip = decode(factory.source(path, segment_seconds=(17.3, 20.1), region=region), uniform, decoder)

    assert clip.video.origin_px == origin_px
    expected = nearest(shown, clip.video.timeline.instants_seconds)
    if region == "full":
        assert stamps_of(clip) == expected
    else:
        assert [factory.read_stamp(frame) for frame in clip.video.frames] == [(index, region) for index in expected]


def test_segment_beyond_the_end_of_the_recording(dialogue: tuple[Path, factory.Picture], decoder: str) -> None:
    source = factory.source(dialogue[0], segment_seconds=(61.0, 63.0))
    with pytest.raises(MediaError) as caught:
        decode(source, uniform, decoder)
    assert caught.value.reason in ("truncated", "too_short")


def test_segment_that_loses_its_second_half_is_truncated(dialogue: tuple[Path, factory.Picture], decoder: str) -> None:
    source = factory.source(dialogue[0], segment_seconds=(58.0, 62.0))
    with pytest.raises(MediaError) as caught:
        decode(source, uniform, decoder)
    assert caught.value.reason == "truncated"
    assert caught.value.detail.endswith("the table's end is 62.00 s, the recording has 59.99 s")


# --- files that end in a drop ----------------------------------------------------------------------------------


def _reason(path: Path, decoder: str, *, plan: Callable = uniform) -> str:
    """Why the clip is dropped; the detail is one line."""
    with pytest.raises(MediaError) as caught:
        decode(factory.source(path), plan, decoder)
    assert len(caught.value.detail.splitlines()) == 1
    return caught.value.reason


def _front_loaded(path: Path) -> Path:
    return factory.write(path, picture("mp4"), sound(), options={"movflags": "faststart"})


@pytest.mark.parametrize("fraction", [0.4, 0.6, 0.8])
def test_cut_mp4_is_truncated(tmp_path: Path, decoder: str, fraction: float) -> None:
    path = factory.cut(_front_loaded(tmp_path / "cut.mp4"), fraction)
    assert _reason(path, decoder) == "truncated"


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
@pytest.mark.parametrize("heard", [True, False], ids=["sound", "mute"])
def test_recording_cut_between_packets_is_truncated(tmp_path: Path, decoder: str, container: str, heard: bool) -> None:
    """Nothing that is left is damaged: only the length in the header shows it."""
    path = tmp_path / f"cut.{container}"
    options = {"movflags": "faststart"} if container == "mp4" else {}
    factory.write(path, picture(container), sound(container) if heard else None, container=container, options=options)
    _skip_untold_promise(decoder, container)
    assert _reason(factory.cut_at_packet(path, 0.6), decoder) == "truncated"


@pytest.mark.parametrize("container", ["flv", "avi"])
def test_recording_cut_within_a_packet_is_dropped(tmp_path: Path, decoder: str, container: str) -> None:
    """Half a packet is damage as well as an early end."""
    path = factory.write(tmp_path / f"cut.{container}", picture(container), sound(container), container=container)
    _skip_untold_promise(decoder, container)
    assert _reason(factory.cut(path, 0.6), decoder) in ("truncated", "decode_error")


def _skip_untold_promise(decoder: str, container: str) -> None:
    if (decoder, container) == ("ffmpeg", "avi"):
        pytest.skip("the ffmpeg program does not report how many frames the header of an AVI declares; PyAV does")


def test_mp4_cut_before_its_index_is_unreadable(tmp_path: Path, decoder: str) -> None:
    path = factory.cut(factory.write(tmp_path / "cut.mp4", picture("mp4"), sound()), 0.5)
    assert _reason(path, decoder) == "unreadable"


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
@pytest.mark.parametrize("zeros", [False, True], ids=["noise", "zeros"])
def test_damaged_picture_is_a_decode_error(tmp_path: Path, decoder: str, container: str, zeros: bool) -> None:
    path = factory.write(tmp_path / f"bad.{container}", picture(container), sound(container), container=container)
    assert _reason(factory.damage(path, "video", zeros=zeros), decoder) == "decode_error"


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("flv", "libmp3lame")])
def test_damaged_sound_is_a_decode_error(tmp_path: Path, decoder: str, container: str, codec: str) -> None:
    path = tmp_path / f"bad.{container}"
    factory.write(path, picture(container), sound(container, codec=codec), container=container)
    assert _reason(factory.damage(path, "audio", share=0.4), decoder) == "decode_error"


@pytest.mark.parametrize("container", ["mp4", "flv"])
def test_a_few_damaged_sound_packets_are_flagged_and_move_nothing(tmp_path: Path, decoder: str, container: str) -> None:
    shown = picture(container)
    codec = {"mp4": "aac", "flv": "libmp3lame"}[container]
    path = tmp_path / f"bad.{container}"
    clapper = factory.clapper(path, shown, container=container, white=45, sound_codec=codec)
    factory.damage(path, "audio", share=0.05, centre=0.3)

    clip = decode(factory.source(path), uniform, decoder)

    assert "sound_damaged" in clip.flags
    late = clip.sound.samples[round(1.2 * SAMPLE_RATE_HZ) :]
    heard = clip.sound.start_seconds + 1.2 + np.abs(late.astype(int)).argmax() / SAMPLE_RATE_HZ
    assert heard == pytest.approx(clapper.clap_seconds, abs=1e-3)


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
def test_recording_without_sound(tmp_path: Path, decoder: str, container: str) -> None:
    path = factory.write(tmp_path / f"mute.{container}", picture(container), container=container)
    assert _reason(path, decoder) == "no_audio"


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
def test_recording_with_an_empty_sound_stream(tmp_path: Path, decoder: str, container: str) -> None:
    heard = replace(sound(container), samples=np.zeros((0, 1), np.int16))
    path = factory.write(tmp_path / f"mute.{container}", picture(container), heard, container=container)
    assert _reason(path, decoder) == "no_audio"


def test_recording_without_picture(tmp_path: Path, decoder: str) -> None:
    assert _reason(factory.write(tmp_path / "sound.mp4", None, sound()), decoder) == "no_video"
    assert _reason(_write_wav(tmp_path / "sound.wav", factory.tone(440, 1, 16_000)), decoder) == "no_video"


def test_a_cover_picture_is_no_picture(tmp_path: Path, decoder: str) -> None:
    path = factory.sound_with_cover(tmp_path / "song.mp3", factory.tone(440, 1, 44_100), 44_100)
    assert _reason(path, decoder) == "no_video"


@pytest.mark.parametrize("container", ["mp4", "flv", "avi"])
def test_one_frame_is_too_short(tmp_path: Path, decoder: str, container: str) -> None:
    shown = replace(picture(container), frames=factory.stamps(1), ticks=picture(container).ticks[:2])
    path = factory.write(tmp_path / f"one.{container}", shown, sound(container, seconds=0.5), container=container)
    assert _reason(path, decoder) == "too_short"


GIT_LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 265922\n"


@pytest.mark.parametrize("suffix", ["flv", "mp4"])
def test_git_lfs_pointer_says_what_to_run(tmp_path: Path, decoder: str, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    path.write_text(GIT_LFS_POINTER)
    with pytest.raises(MediaError, match="git lfs pull") as caught:
        decode(factory.source(path), uniform, decoder)
    assert caught.value.reason == "unreadable"


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(50_000))


def _text(path: Path, content: str) -> None:
    path.write_text(content)


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone.mp4"))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(Path.touch, id="empty"),
        pytest.param(Path.mkdir, id="folder"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(_dangling_link, id="dangling link"),
        pytest.param(_noise, id="noise"),
        pytest.param(partial(_text, content="a shopping list\n"), id="text"),
        pytest.param(partial(_text, content="\0" * 4096), id="zeros"),
    ],
)
@pytest.mark.timeout(20)
def test_what_is_no_recording_is_unreadable(tmp_path: Path, decoder: str, make: Callable[[Path], object]) -> None:
    path = tmp_path / "clip.mp4"
    make(path)
    assert _reason(path, decoder) == "unreadable"


@pytest.fixture(scope="module")
def lists_folder(media_dir: Path) -> Path:
    """A folder with a recording that lists can point at."""
    folder = media_dir / "lists"
    folder.mkdir()
    target = factory.write(folder / "other.mp4", picture("mp4", 30), sound(seconds=1), options=FRAGMENTED)
    assert decode(factory.source(target), uniform).video.frame_count == 30
    return folder


@pytest.mark.parametrize("kind", ["ffconcat", "m3u8", "mpd", "sdp"])
@pytest.mark.parametrize("disguised", [True, False])
def test_lists_of_other_files_are_not_followed(lists_folder: Path, decoder: str, kind: str, disguised: bool) -> None:
    """A text file must not make the decoder open what it points at, whatever the file is called."""
    path = lists_folder / f"clip.{'mp4' if disguised else kind}"
    path.write_text(LISTS[kind].format(name="other.mp4"))
    assert _reason(path, decoder) == "unreadable"


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}  # what HLS and DASH lists point at
LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile {name}\n",
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{name}\n#EXT-X-ENDLIST\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="0" bandwidth="1"><BaseURL>{name}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
}


# --- files with misleading names -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.flv", "clip.avi", "clip", "clip.m3u8"])
def test_content_decides_not_the_name(tmp_path: Path, decoder: str, plain_mp4: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(plain_mp4)
    assert decode(factory.source(tmp_path / name), uniform, decoder).video.frame_count == 60


@pytest.mark.parametrize(
    "name",
    ["Ünï cödé 表情.mp4", "a b  c.mp4", "take #1.mp4", "100%03d.mp4", 'it\'s "x".mp4', "-i.mp4", "a:b|c?d*[e].mp4"],
)
def test_names_with_special_characters(tmp_path: Path, decoder: str, plain_mp4: bytes, name: str) -> None:
    folder = tmp_path / f"{name} folder"
    folder.mkdir()
    (folder / name).write_bytes(plain_mp4)
    assert decode(factory.source(folder / name), uniform, decoder).video.frame_count == 60


@pytest.mark.parametrize("name", ["file:clip.mp4", "concat:clip.mp4", "pipe:0", "-y", "%d.mp4"])
def test_relative_names_that_look_like_something_else(
    tmp_path: Path, decoder: str, plain_mp4: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(plain_mp4)
    assert decode(factory.source(Path(name)), uniform, decoder).video.frame_count == 60


def test_reading_leaves_the_file_alone(tmp_path: Path, decoder: str, plain_mp4: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(plain_mp4)
    path.chmod(0o444)
    decode(factory.source(path), uniform, decoder)
    assert path.read_bytes() == plain_mp4
    assert list(tmp_path.iterdir()) == [path]


# --- real recordings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "crema-d/VideoFlash/1001_DFA_ANG_XX.flv",
        "crema-d/VideoFlash/1001_DFA_NEU_XX.flv",
        "grid/bbaf2n.mpg",
        "edge/face_noface.mov",
        "edge/single_face.mp4",
    ],
)
def test_decoders_agree_on_real_clips(real_clip: Callable[[str], Path], name: str) -> None:
    source = factory.source(real_clip(name))
    first, second = (decode(source, uniform, decoder) for decoder in DECODERS)
    _assert_same(first, second)
    assert set(first.flags) <= set(FLAGS)


def test_real_flv_starts_where_its_stream_does(real_clip: Callable[[str], Path], decoder: str) -> None:
    clip = decode(factory.source(real_clip("crema-d/VideoFlash/1001_DFA_ANG_XX.flv")), uniform, decoder)
    assert clip.video.timeline.span_seconds[0] == pytest.approx(0.027, abs=1e-6)
    assert clip.sound.start_seconds == pytest.approx(0.0, abs=1e-6)
    assert clip.video.frames[0].shape == (360, 480, 3)


@pytest.mark.parametrize("segment", [(0.4, 1.9), (1.2, 2.7)])
def test_a_part_of_a_sound_recording_is_not_called_damaged_for_having_been_sought_into(
    real_clip: Callable[[str], Path], decoder: str, segment: tuple[float, float], capfd: pytest.CaptureFixture[str]
) -> None:
    source = factory.source(real_clip("grid/bbaf2n.mpg"), segment_seconds=segment)
    clip = decode(source, uniform, decoder)
    assert clip.flags == ()
    assert clip.sound.start_seconds == pytest.approx(segment[0], abs=1e-3)
    assert capfd.readouterr().err == ""
