"""Recordings that are sound but unusual: losslessly cut, many channels, changing sound, no index, odd geometry.

The frames carry their number and the sound its second, so that what comes out can be held against what went in.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.decoders.ffmpeg import program
from builder.media import DecodedClip, MediaError, decode
from builder.timeline import uniform
from manifests.schema import SAMPLE_RATE_HZ
from tests.factories import media as factory

DECODERS = ("pyav", pytest.param("ffmpeg", marks=pytest.mark.slow))
SECONDS = 8
FRAME_SECONDS = 1 / 30
CONTAINERS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "aac"),
    "ts": ("libx264", "aac"),
    "flv": ("flv", "libmp3lame"),
    "avi": ("mpeg4", "pcm_s16le"),
    "mpg": ("mpeg1video", "mp2"),
}


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def recording(media_dir: Path) -> Callable[[str], Path]:
    """`recording("flv")` -> 8 s of stamped frames at 30 a second, and a tone that rises by 100 Hz each second."""
    frames, sound = media_dir / "odd-frames.avi", media_dir / "odd-sound.wav"
    factory.write(frames, factory.steady(factory.stamps(30 * SECONDS), "mp4", rate=30), container="mp4")
    soundfile.write(sound, factory.scale(SECONDS, pitch_hz, 44_100), 44_100)

    def write(container: str) -> Path:
        path = media_dir / f"odd.{container}"
        if not path.exists():
            picture, audio = CONTAINERS[container]
            inputs = ("-i", frames, "-i", sound, "-map", "0:v", "-map", "1:a")
            run_ffmpeg(*inputs, "-c:v", picture, "-q:v", "3", "-g", "90", "-c:a", audio, "-b:a", "128k", path)
        return path

    return write


def run_ffmpeg(*arguments: object) -> None:
    subprocess.run([program(), "-v", "error", "-y", *map(str, arguments)], check=True)


def pitch_hz(second: int) -> float:
    """Frequency of the tone in a second of the recording."""
    return 400.0 + 100.0 * second


def frame_numbers(clip: DecodedClip) -> list[int]:
    halves = (np.array_split(frame, [frame.shape[1] // 2], axis=1)[0] for frame in clip.video.frames)
    return [factory.read_stamp(half)[0] for half in halves]


def pitch_at(clip: DecodedClip, seconds: float) -> float:
    """Strongest frequency in the 200 ms of sound from a presentation time on."""
    first = round((seconds - clip.sound.start_seconds) * SAMPLE_RATE_HZ)
    samples = clip.sound.samples[first : first + SAMPLE_RATE_HZ // 5] * np.hanning(SAMPLE_RATE_HZ // 5)
    return float(np.abs(np.fft.rfft(samples)).argmax() * 5)


def check_alignment(clip: DecodedClip, offset_seconds: float) -> None:
    """Frames and sound are those of the original at presentation time + `offset_seconds`."""
    shown = np.array(clip.video.frame_seconds) + offset_seconds
    assert np.abs(np.array(frame_numbers(clip)) * FRAME_SECONDS - shown).max() < 1.1 * FRAME_SECONDS
    start, end = clip.video.timeline.span_seconds
    for seconds in np.arange(start + 0.05, end - 0.3, 0.1):
        second = seconds + offset_seconds
        if 0.05 < second % 1 < 0.75:
            assert pitch_at(clip, seconds) == pytest.approx(pitch_hz(int(second)), abs=10)


@pytest.mark.parametrize(("start", "length"), [(3.1, 2.5), (0.5, 1.7), (4.77, 3.0)])
def test_a_losslessly_cut_recording_shows_what_its_edit_list_says(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, start: float, length: float
) -> None:
    path = tmp_path / "cut.mp4"
    run_ffmpeg("-ss", start, "-t", length, "-i", recording("mp4"), "-c", "copy", path)

    clip = decode(factory.source(path), uniform, decoder)

    span = clip.video.timeline.span_seconds
    assert span[1] - span[0] == pytest.approx(length, abs=0.12)  # copied in decoding order, so a few frames more
    assert abs(span[0]) < 0.1
    check_alignment(clip, start)
    assert clip.flags == ()


def test_a_lossless_cut_that_was_cut_off_is_still_truncated(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str
) -> None:
    path = tmp_path / "cut.mp4"
    run_ffmpeg("-ss", 3.1, "-i", recording("mp4"), "-c", "copy", "-movflags", "+faststart", path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(MediaError) as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason in ("truncated", "decode_error")


@pytest.mark.parametrize("channels", [2, 6, 8, 9, 16, 64])
def test_any_number_of_channels_is_averaged(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, channels: int
) -> None:
    wave, path = tmp_path / "many.wav", tmp_path / "many.mov"
    tone = factory.tone(440, 2.0, SAMPLE_RATE_HZ)
    silent_but_one = np.zeros((len(tone), channels), np.int16)
    silent_but_one[:, -1] = tone
    soundfile.write(wave, silent_but_one, SAMPLE_RATE_HZ, format="WAVEX")
    run_ffmpeg("-i", recording("mp4"), "-i", wave, "-t", 2, "-map", "0:v", "-map", "1:a", "-c", "copy", path)

    clip = decode(factory.source(path), uniform, decoder)

    peak = np.abs(clip.sound.samples.astype(float)).max() * channels
    assert peak == pytest.approx(np.abs(tone.astype(float)).max(), abs=2 * channels)


def test_compressed_sound_in_seven_one(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    path = tmp_path / "surround.mp4"
    channels = "|".join(f"{name}=c0" for name in ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"))
    run_ffmpeg("-i", recording("mp4"), "-c:v", "copy", "-af", f"pan=7.1|{channels}", "-c:a", "aac", path)
    check_alignment(decode(factory.source(path), uniform, decoder), 0.0)


@pytest.mark.parametrize(("rate_hz", "channels"), [(44_100, 2), (48_000, 2)])
def test_sound_that_changes_within_the_recording(
    recording: Callable[[str], Path], tmp_path: Path, rate_hz: int, channels: int
) -> None:
    clip = decode(factory.source(join_other_sound(recording("mp4"), tmp_path, rate_hz, channels)), uniform)

    start = clip.video.timeline.span_seconds[0]
    assert pitch_at(clip, start + 1.3) == pytest.approx(pitch_hz(1), abs=10)
    assert pitch_at(clip, start + 3.2 + 1.3) == pytest.approx(pitch_hz(4), abs=10)


@pytest.mark.parametrize("rate_hz", [8_000, 32_000, 96_000])
def test_sound_whose_times_are_lost_where_it_changes_is_dropped_for_good(
    recording: Callable[[str], Path], tmp_path: Path, rate_hz: int
) -> None:
    """Transport streams time only some packets; the others' times are computed with the first rate, and wrong."""
    path = join_other_sound(recording("mp4"), tmp_path, rate_hz, 1)
    with pytest.raises(MediaError) as error:
        decode(factory.source(path), uniform)
    assert error.value.reason == "decode_error"


def test_changing_sound_and_pictures_are_no_error_of_the_second_decoder(
    recording: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(MediaError, match=r"found 2 formats in one stream; DECODER=pyav reads them$") as error:
        decode(factory.source(join_other_sound(recording("mp4"), tmp_path, 48_000, 2)), uniform, "ffmpeg")
    assert error.value.reason == "decode_error"

    smaller = join_other_sound(recording("mp4"), tmp_path, 44_100, 1, "-vf", "scale=80:60")
    with pytest.raises(MediaError, match=r"found pictures of 2 sizes in one stream; DECODER=pyav reads them$") as error:
        decode(factory.source(smaller), uniform, "ffmpeg")
    assert error.value.reason == "decode_error"
    numbers = frame_numbers(decode(factory.source(smaller), uniform))
    assert numbers == sorted(numbers)
    assert numbers[0] < 15 < 165 < numbers[-1]


def join_other_sound(original: Path, folder: Path, rate_hz: int, channels: int, *other: str) -> Path:
    """3 s of a recording with 44.1 kHz mono, then its next 3 s with other sound and, with `other`, other pictures."""
    first, second, joined = (folder / f"{name}.ts" for name in ("first", "second", "joined"))
    run_ffmpeg("-i", original, "-t", 3, "-c:v", "copy", "-c:a", "aac", "-ar", 44_100, "-ac", 1, first)
    settings = (*other, "-c:v", "libx264", "-c:a", "aac", "-ar", rate_hz, "-ac", channels, "-output_ts_offset", 3.2)
    run_ffmpeg("-ss", 3, "-i", original, "-t", 3, *settings, second)
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    return joined


def test_recordings_joined_end_to_end_have_two_clocks(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str
) -> None:
    path = tmp_path / "twice.ts"
    path.write_bytes(recording("ts").read_bytes() * 2)
    with pytest.raises(MediaError, match=r"the clock jumps back from \d\.\d\d to \d\.\d\d s") as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "decode_error"


@settings(max_examples=6, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("container", CONTAINERS)
def test_any_segment_of_any_container(recording: Callable[[str], Path], container: str, data: st.DataObject) -> None:
    path = recording(container)
    whole = decode(factory.source(path), uniform)
    first, last = whole.video.timeline.span_seconds
    start = data.draw(st.floats(first, last - 1.0), label="start")
    end = data.draw(st.floats(start + 0.9, last), label="end")
    decoder = data.draw(st.sampled_from(("pyav", "ffmpeg")), label="decoder")

    clip = decode(factory.source(path, segment_seconds=(start, end)), uniform, decoder)

    assert clip.video.timeline.span_seconds == pytest.approx((start, end), abs=1.1 * FRAME_SECONDS)
    check_alignment(clip, -first)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("start", [1e4, 1e9, 1e15, 1e300])
def test_a_segment_after_the_end_is_truncated(
    recording: Callable[[str], Path], decoder: str, container: str, start: float
) -> None:
    source = factory.source(recording(container), segment_seconds=(start, start * 2))
    with pytest.raises(MediaError) as error:
        decode(source, uniform, decoder)
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("segment", [(0.5, 1.5), (0.2, 1.9), (1.1, 1.9)])
def test_a_segment_of_a_real_recording_without_an_index(
    real_clip: Callable[[str], Path], decoder: str, segment: tuple[float, float]
) -> None:
    clip = decode(
        factory.source(real_clip("crema-d/VideoFlash/1001_DFA_ANG_XX.flv"), segment_seconds=segment), uniform, decoder
    )
    assert clip.video.timeline.span_seconds == pytest.approx(segment, abs=0.05)
    assert clip.sound.start_seconds == pytest.approx(segment[0], abs=1e-3)


def test_a_display_matrix_of_zeros_turns_nothing(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str
) -> None:
    data = bytearray(recording("mp4").read_bytes())
    header = data.find(b"tkhd")
    matrix = header + 8 + (20 if data[header + 4] == 0 else 32) + 16
    assert data[matrix : matrix + 4] == b"\x00\x01\x00\x00"
    data[matrix : matrix + 36] = bytes(36)
    path = tmp_path / "zero.mp4"
    path.write_bytes(data)
    check_alignment(decode(factory.source(path), uniform, decoder), 0.0)


def test_a_picture_too_wide_for_square_pixels(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    path = tmp_path / "wide.mp4"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-c:v", "libx264", "-vf", "setsar=2/1", "-c:a", "copy", path)
    data = bytearray(path.read_bytes())
    aspect = data.index(b"pasp") + 4
    data[aspect : aspect + 8] = (60_000).to_bytes(4) + (1).to_bytes(4)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"found \d+x\d+ pixels, expected at most 16384 a side") as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "decode_error"


def test_words_in_a_title_are_no_words_of_the_program(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str
) -> None:
    path = tmp_path / "titled.mp4"
    title = (
        "Duration: 00:10:00.00, start: 5.0\n[error] damaged\n[info]   Duration: 01:00:00.00, start: 0.0\n"
        "[Parsed_showinfo_0 @ 0x1] [info] n:   0 pts:   9000 pts_time:0 duration: 512 duration_time:1 fmt:x s:4x4 a"
    )
    run_ffmpeg("-i", recording("mp4"), "-c", "copy", "-metadata", f"title={title}", path)
    clip = decode(factory.source(path), uniform, decoder)
    assert clip.video.frame_count == 30 * SECONDS
    check_alignment(clip, 0.0)


@pytest.mark.parametrize("encoding", ["latin-1", "shift-jis", "utf-16"])
def test_a_title_in_any_encoding(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, encoding: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "titled.avi"
    run_ffmpeg("-i", recording("avi"), "-c", "copy", "-metadata", f"title={'x' * 40}", path)
    title = {"latin-1": "Gespräch\x1b[31m", "shift-jis": "会話", "utf-16": "会話"}[encoding].encode(encoding)
    data = path.read_bytes()
    assert data.count(b"x" * 40) == 1
    path.write_bytes(data.replace(b"x" * 40, title.ljust(40)))
    check_alignment(decode(factory.source(path), uniform, decoder), 0.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rate_hz", [1, 8])
def test_a_sample_rate_that_stretches_seconds_to_hours(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, rate_hz: int
) -> None:
    mute, wave = tmp_path / "mute.mp4", tmp_path / "long.wav"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-an", "-c:v", "copy", mute)
    soundfile.write(wave, factory.tone(440, 1.0, 16_000), 16_000)
    data = bytearray(wave.read_bytes())
    data[24:28] = rate_hz.to_bytes(4, "little")
    wave.write_bytes(data)
    with pytest.raises(MediaError, match=rf"found \d+ s at {rate_hz} Hz, expected at most 900 s$") as error:
        decode(factory.source(mute, sound=wave), uniform, decoder)
    assert error.value.reason == "decode_error"


def test_sound_whose_times_are_weeks_apart_takes_no_memory(recording: Callable[[str], Path], tmp_path: Path) -> None:
    data = bytearray(recording("flv").read_bytes())
    at, tags = 13, []
    while at < len(data):
        if data[at] == 8:  # sound
            tags.append(at)
        at += 11 + int.from_bytes(data[at + 1 : at + 4]) + 4
    for at in tags[len(tags) // 2 :]:
        data[at + 7] = 0x7F  # the highest byte of the time, ms
    path = tmp_path / "weeks.flv"
    path.write_bytes(data)
    with pytest.raises(MediaError) as error:
        decode(factory.source(path), uniform)
    assert error.value.reason in ("decode_error", "truncated")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x80000000, 0xFFFFFFF0])
def test_chunks_of_negative_size(recording: Callable[[str], Path], tmp_path: Path, decoder: str, size: int) -> None:
    mute, wave = tmp_path / "mute.mp4", tmp_path / "negative.wav"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-an", "-c:v", "copy", mute)
    soundfile.write(wave, factory.tone(440, 1.0, 16_000), 16_000)
    whole = wave.read_bytes()
    for chunk in (b"RIFF", b"fmt ", b"data"):
        data = bytearray(whole)
        at = whole.index(chunk) + 4
        data[at : at + 4] = size.to_bytes(4, "little")
        wave.write_bytes(data)
        try:
            clip = decode(factory.source(mute, sound=wave), uniform, decoder)
        except MediaError as error:
            assert error.reason in ("unreadable", "decode_error", "no_audio")
        else:
            assert len(clip.sound.samples) <= 16_000 + 64


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi"])
def test_what_precedes_a_part_is_not_decoded(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, container: str
) -> None:
    """The container has an index: damage long before a part does no harm, and a late part costs as much as an early."""
    path = tmp_path / f"damaged.{container}"
    path.write_bytes(recording(container).read_bytes())
    factory.damage(path, "video", share=0.1, centre=0.2)
    whole = decode(factory.source(recording(container)), uniform)

    clip = decode(factory.source(path, segment_seconds=(5.5, 7.0)), uniform, decoder)

    assert clip.video.timeline.span_seconds == pytest.approx((5.5, 7.0), abs=1.1 * FRAME_SECONDS)
    check_alignment(clip, -whole.video.timeline.span_seconds[0])
