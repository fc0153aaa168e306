"""Recordings that are sound but unusual: losslessly cut, many channels, changing sound, no index, odd geometry.

The frames carry their number and the sound its second, so that what comes out can be held against what went in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.decoders import base
from builder.decoders.ffmpeg import program
from builder.decoders.mp4 import check_edit_lists
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


def test_a_cut_that_skips_whole_groups_of_pictures(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str
) -> None:
    """The demuxer leaves out what precedes the cut without a word; the number of frames in the header includes it."""
    whole, path = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    run_ffmpeg("-i", recording("mp4"), "-c:v", "libx264", "-g", 30, "-bf", 0, "-c:a", "copy", whole)
    run_ffmpeg("-i", whole, "-c", "copy", "-output_ts_offset", -2, "-avoid_negative_ts", "disabled", path)

    clip = decode(factory.source(path), uniform, decoder)

    assert clip.video.frame_count == 30 * (SECONDS - 2)
    check_alignment(clip, 2.0)


def test_a_frame_that_is_held_for_seconds(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    """The mean frame rate is that of the others: number of frames / rate is longer than the recording."""
    path = tmp_path / "held.mp4"
    picture = ("-vf", "select='eq(n,0)+gt(n,72)'", "-fps_mode", "vfr", "-c:v", "libx264", "-bf", 3)
    run_ffmpeg("-i", recording("mp4"), *picture, "-c:a", "copy", path)
    clip = decode(factory.source(path), uniform, decoder)
    assert clip.video.timeline.span_seconds == pytest.approx((0, SECONDS), abs=0.1)


@pytest.mark.parametrize("offset", [-0.2, 20, 3600])
def test_a_matroska_whose_clock_does_not_start_at_0(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, offset: float
) -> None:
    path = tmp_path / "late.mkv"
    run_ffmpeg("-i", recording("mp4"), "-c", "copy", "-output_ts_offset", offset, path)
    if offset > 0:
        check_alignment(decode(factory.source(path), uniform, decoder), -offset)

    factory.cut_at_packet(path, 0.6)
    with pytest.raises(MediaError) as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "truncated"


def test_frames_that_are_shown_again(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    """Theora says so with a packet of 0 bytes; new versions of its encoder write small ones, replaced here."""
    doubled, path = tmp_path / "doubled.ogg", tmp_path / "again.ogg"
    run_ffmpeg("-i", recording("mp4"), "-r", 60, "-c:v", "libtheora", "-q:v", 8, "-c:a", "libvorbis", doubled)
    with av.open(str(doubled)) as opened, av.open(str(path), "w") as output:
        streams = {s: output.add_stream_from_template(s, opaque=True) for s in opened.streams}
        for packet in (packet for packet in opened.demux() if packet.size):
            written = packet
            if packet.stream.type == "video" and packet.size < 30:
                written = av.Packet(0)
                written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
            written.stream = streams[packet.stream]
            output.mux(written)
    with av.open(str(path)) as opened:
        assert [packet.size for packet in opened.demux(video=0)].count(0) > 200

    clip = decode(factory.source(path), uniform, decoder)

    assert clip.video.frame_count == 30 * SECONDS
    check_alignment(clip, 0.0)


OPEN_GROUPS = ("-c:v", "libx264", "-bf", 3, "-x264-params", "open-gop=1:keyint=30:min-keyint=30:scenecut=0")


@pytest.fixture(scope="module")
def open_groups(recording: Callable[[str], Path], media_dir: Path) -> Path:
    """Each second starts with a key frame, which the last frames of the second before it depend on."""
    path = media_dir / "open.mp4"
    run_ffmpeg("-i", recording("mp4"), *OPEN_GROUPS, "-c:a", "copy", path)
    return path


@pytest.mark.parametrize("container", ["flv", "mkv", "mov", "mp4"])
def test_open_groups_of_pictures_cut_losslessly(
    open_groups: Path, tmp_path: Path, decoder: str, container: str
) -> None:
    """H.264 then releases frames that are not there, which decoders log as an error, and shows every picture."""
    path = tmp_path / f"cut.{container}"
    run_ffmpeg("-ss", 1.3, "-i", open_groups, "-c", "copy", path)
    clip = decode(factory.source(path), uniform, decoder)
    assert clip.video.frame_count >= 30 * (SECONDS - 1.3) - 5
    numbers = np.array(frame_numbers(clip)) * FRAME_SECONDS
    assert np.ptp(numbers - clip.video.frame_seconds) < 1.1 * FRAME_SECONDS


@pytest.mark.parametrize("container", ["flv", "mkv", "frag.mp4", "ts"])
def test_a_part_that_starts_in_open_groups_of_pictures(
    open_groups: Path, tmp_path: Path, decoder: str, container: str
) -> None:
    path = tmp_path / f"open.{container}"
    options = ("-movflags", "frag_keyframe+empty_moov") if container == "frag.mp4" else ()
    run_ffmpeg("-i", open_groups, "-c", "copy", *options, path)
    first = decode(factory.source(path), uniform).video.timeline.span_seconds[0] - start_of(path)
    for segment in ((2.013, 4.0), (3.5, 6.9)):
        clip = decode(factory.source(path, segment_seconds=segment), uniform, decoder)
        assert clip.video.timeline.span_seconds == pytest.approx(segment, abs=1.1 * FRAME_SECONDS)
        check_alignment(clip, -first)


def test_frames_that_are_lost_are_damage(open_groups: Path, tmp_path: Path, decoder: str) -> None:
    """A transport stream shows the loss only in what the next frames refer to."""
    path = tmp_path / "lost.ts"
    run_ffmpeg("-i", open_groups, "-c", "copy", path)
    data = bytearray(path.read_bytes())
    lost = len(data) // 8
    data[len(data) // 2 : len(data) // 2 + lost] = bytes(lost)
    path.write_bytes(data)
    with pytest.raises(MediaError) as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "decode_error"


@pytest.mark.parametrize("container", ["mkv", "avi", "flv"])
@pytest.mark.parametrize(
    ("damaged", "reason"),
    [((2.0, 2.7), None), ((3.05, 3.25), "decode_error"), ((4.0, 4.3), "decode_error"), ((5.3, 5.7), None)],
)
def test_damage_counts_where_the_part_depends_on_it(
    recording: Callable[[str], Path],
    tmp_path: Path,
    decoder: str,
    container: str,
    damaged: tuple[float, float],
    reason: str | None,
) -> None:
    """The part from 3.5 to 5 s depends on what follows the key frame at 3 s."""
    path = tmp_path / f"damaged.{container}"
    regular = ("-c:v", "libx264", "-g", 90, "-sc_threshold", 0) if container == "mkv" else ("-c:v", "copy")
    run_ffmpeg("-i", recording(container), *regular, "-c:a", "copy", path)
    share, centre = (damaged[1] - damaged[0]) / SECONDS, sum(damaged) / 2 / SECONDS
    factory.damage(path, "video", share=share, centre=centre)
    source = factory.source(path, segment_seconds=(3.5, 5.0))
    if reason is None:
        numbers = np.array(frame_numbers(decode(source, uniform, decoder)))
        assert (numbers.min(), numbers.max()) == pytest.approx((106, 148), abs=4)
    else:
        with pytest.raises(MediaError) as error:
            decode(source, uniform, decoder)
        assert error.value.reason == reason


def test_words_of_one_recording_do_not_depend_on_the_others(
    recording: Callable[[str], Path], open_groups: Path, tmp_path: Path
) -> None:
    paths = []
    for name in ("mp4", "flv", "avi", "mkv"):
        path = tmp_path / f"damaged.{name}"
        path.write_bytes(recording(name).read_bytes())
        factory.damage(path, "video", share=0.3)
        factory.damage(path, "audio", share=0.05)
        paths.append(path)
    cut = tmp_path / "cut.flv"
    run_ffmpeg("-ss", 1.3, "-i", open_groups, "-c", "copy", cut)
    lost = tmp_path / "lost.ts"
    run_ffmpeg("-i", open_groups, "-c", "copy", lost)
    lost.write_bytes(lost.read_bytes()[:-200_000])
    paths += [cut, lost, cut]

    first = {path: words_of(path) for path in paths}

    for path in (*reversed(paths), *paths, *(path for path in paths for _ in range(2))):
        assert words_of(path) == first[path]
    assert not any("last error" in words for words in first.values())


def words_of(path: Path) -> str:
    try:
        return str(decode(factory.source(path), uniform).flags)
    except MediaError as error:
        return str(error)


@pytest.mark.parametrize("sound", ["aac", "libmp3lame"])
def test_a_fragmented_recording_whose_sound_starts_first(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, sound: str
) -> None:
    """Without an edit list, the coder's delay is a packet at 0, with a gap before the rest."""
    path = tmp_path / "fragments.mp4"
    fragments = ("-movflags", "frag_keyframe+empty_moov")
    run_ffmpeg("-i", recording("mp4"), *OPEN_GROUPS, "-c:a", sound, *fragments, path)
    clip = decode(factory.source(path), uniform, decoder)
    assert clip.flags == ()
    check_alignment(clip, -clip.video.timeline.span_seconds[0])


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
    first, last = (
        seconds - start_of(path) for seconds in decode(factory.source(path), uniform).video.timeline.span_seconds
    )
    start = data.draw(st.floats(first, last - 1.0), label="start")
    end = data.draw(st.floats(start + 0.9, last), label="end")
    decoder = data.draw(st.sampled_from(("pyav", "ffmpeg")), label="decoder")

    clip = decode(factory.source(path, segment_seconds=(start, end)), uniform, decoder)

    assert clip.video.timeline.span_seconds == pytest.approx((start, end), abs=1.1 * FRAME_SECONDS)
    check_alignment(clip, -first)


def start_of(path: Path) -> float:
    """Presentation time from which a player counts."""
    with av.open(str(path)) as opened:
        return (opened.start_time or 0) / 1e6


@pytest.mark.parametrize(("container", "offset"), [("ts", 0), ("ts", 3600.5), ("mpg", 0), ("mkv", 20), ("mp4", 20)])
@pytest.mark.parametrize("segment", [(0.4, 2.4), (4.3, 6.2)])
def test_a_part_counts_from_the_start_of_its_recording(
    recording: Callable[[str], Path],
    tmp_path: Path,
    decoder: str,
    container: str,
    offset: float,
    segment: tuple[float, float],
) -> None:
    path = tmp_path / f"late.{container}"
    codecs = ("-c", "copy") if container != "mpg" else ("-c:v", "mpeg1video", "-q:v", 3, "-c:a", "mp2")
    run_ffmpeg("-i", recording("mp4"), *codecs, "-output_ts_offset", offset, path)
    assert start_of(path) > 0.4

    clip = decode(factory.source(path, segment_seconds=segment), uniform, decoder)

    assert clip.video.timeline.span_seconds == pytest.approx(segment, abs=1.1 * FRAME_SECONDS)
    assert clip.sound.start_seconds == pytest.approx(segment[0], abs=1e-3)
    late = decode(factory.source(path), uniform).video.timeline.span_seconds[0] - start_of(path)
    assert late < 0.1  # the sound's first packet precedes the picture
    check_alignment(clip, -late)


@pytest.mark.parametrize(("container", "offset"), [("ts", 3600.5), ("mkv", 20), ("mp4", 20)])
def test_what_surrounds_a_part_counts_from_the_start_of_its_recording(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, container: str, offset: float
) -> None:
    path = tmp_path / f"late.{container}"
    run_ffmpeg("-i", recording("mp4"), "-c", "copy", "-output_ts_offset", offset, path)
    source = replace(factory.source(path, segment_seconds=(4.3, 6.2)), context_seconds=(4.05, 6.45))

    clip = decode(source, uniform, decoder)

    assert clip.video.timeline.span_seconds == pytest.approx((4.3, 6.2), abs=1.1 * FRAME_SECONDS)
    first, last = clip.video.timeline.windows_span_seconds
    assert clip.sound.start_seconds == pytest.approx(max(first - 0.025, 4.05), abs=1e-3)
    assert clip.sound.end_seconds == pytest.approx(min(last + 0.025, 6.45), abs=1e-3)
    assert pitch_at(clip, 4.15) == pytest.approx(pitch_hz(4), abs=10)
    late = decode(factory.source(path), uniform).video.timeline.span_seconds[0] - start_of(path)
    check_alignment(clip, -late)


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
    matrix = find_matrix(data)
    data[matrix : matrix + 36] = bytes(36)
    path = tmp_path / "zero.mp4"
    path.write_bytes(data)
    check_alignment(decode(factory.source(path), uniform, decoder), 0.0)


def find_matrix(data: bytearray) -> int:
    """Where the display matrix of an MP4's first stream is."""
    header = data.find(b"tkhd")
    matrix = header + 8 + (20 if data[header + 4] == 0 else 32) + 16
    assert data[matrix : matrix + 4] == b"\x00\x01\x00\x00"
    return matrix


MIRRORS = {
    "across": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "down": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "transposed": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "transposed, turned": ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
    "turned": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "slanted": ((0.7, 0.7, -0.7, 0.7), lambda frame: frame),
}


@pytest.mark.parametrize("mirror", MIRRORS)
def test_mirrored_pictures_are_mirrored_back(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, mirror: str
) -> None:
    matrix, shown = MIRRORS[mirror]
    data = bytearray(recording("mp4").read_bytes())
    at = find_matrix(data)
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = round(value * 65536).to_bytes(4, signed=True)
    path = tmp_path / "mirrored.mp4"
    path.write_bytes(data)

    clip = decode(factory.source(path), uniform, decoder)

    for frame, plain in zip(
        clip.video.frames, decode(factory.source(recording("mp4")), uniform).video.frames, strict=True
    ):
        assert frame.shape == shown(plain).shape
        assert np.abs(frame.astype(int) - shown(plain)).mean() < 4


@pytest.mark.timeout(20)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("entries", [251, 100_000, 0xFFFFFF])
def test_an_edit_list_without_end_is_not_expanded(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, entries: int, packed: bool
) -> None:
    path = tmp_path / "edits.mp4"
    data = recording("mp4").read_bytes()
    moov = data.index(b"moov") - 4
    start = data.index(b"elst", moov) - 4
    stop = start + int.from_bytes(data[start : start + 4])
    entry = (1).to_bytes(4) + bytes(4) + b"\0\1\0\0"
    edits = (16 + 12 * entries).to_bytes(4) + b"elst" + bytes(4) + entries.to_bytes(4) + entry * entries
    index = bytearray(data[moov:start] + edits + data[stop:])
    for name in (b"moov", b"trak", b"edts"):  # the boxes that contain it
        at = index.index(name) - 4
        size = int.from_bytes(index[at : at + 4]) + len(edits) - (stop - start)
        index[at : at + 4] = size.to_bytes(4)
    if packed:
        body = len(index).to_bytes(4) + zlib.compress(index)
        method = box(b"dcom", b"zlib") + box(b"cmvd", body)
        index = bytearray(box(b"moov", box(b"cmov", method)))
    path.write_bytes(data[:moov] + index)

    with pytest.raises(MediaError, match=rf"found an edit list of {entries} entries, expected at most 250$") as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "decode_error"


def box(name: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4) + name + body


@pytest.mark.parametrize("container", CONTAINERS)
def test_files_without_a_long_edit_list_pass(recording: Callable[[str], Path], container: str) -> None:
    check_edit_lists(recording(container))


@pytest.mark.parametrize("turned", [False, True])
def test_large_pictures_are_reduced(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    path = recording("mp4")
    if turned:
        path = tmp_path / "turned.mp4"
        run_ffmpeg("-display_rotation", 90, "-i", recording("mp4"), "-c", "copy", path)
    whole = decode(factory.source(path), uniform, decoder)
    height, width, _ = whole.video.frames[0].shape
    assert whole.video.reductions == ((1.0, 1.0),) * 16

    monkeypatch.setattr(base, "MAX_KEPT_PIXELS", height * width // 4)
    clip = decode(factory.source(path), uniform, decoder)

    assert clip.video.reductions == ((2.0, 2.0),) * 16
    for frame, large in zip(clip.video.frames, whole.video.frames, strict=True):
        means = large.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
        assert np.abs(frame - means).mean() < 6


@pytest.mark.slow
def test_pictures_of_8k_take_little_memory(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    path = tmp_path / "8k.mov"
    picture = ("-vf", "scale=7680:4320,setsar=1", "-c:v", "mjpeg", "-q:v", 8)
    run_ffmpeg("-i", recording("mp4"), "-t", 2, "-r", 10, *picture, "-c:a", "pcm_s16le", path)
    program = f"""
import resource
from pathlib import Path
from builder.media import decode
from builder.timeline import uniform
from tests.factories.media import source
clip = decode(source(Path({str(path)!r})), uniform, {decoder!r})
assert clip.video.frames[0].shape == (2160, 3840, 3)
# Since it began to run this program: ru_maxrss has the peak of the process that started it, too.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
own = int(status["VmHWM"].split()[0])
print((own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1500


def test_pictures_larger_than_any_are_refused(tmp_path: Path, decoder: str) -> None:
    path = tmp_path / "huge.avi"
    run_ffmpeg("-f", "lavfi", "-i", "color=size=16384x4112:rate=10:duration=0.3", "-c:v", "mjpeg", "-q:v", 30, path)
    with pytest.raises(MediaError, match=r"found 16384x4112 pixels, expected at most 67108864 in all$") as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "decode_error"


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
    with pytest.raises(MediaError, match=rf"found over 900 s at {rate_hz} Hz, expected at most 900 s$") as error:
        decode(factory.source(mute, sound=wave), uniform, decoder)
    assert error.value.reason == "decode_error"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("share", ["one", "all"])
def test_samples_that_are_no_numbers_are_refused(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, value: float, share: str
) -> None:
    mute, wave = tmp_path / "mute.mp4", tmp_path / "odd.wav"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-an", "-c:v", "copy", mute)
    samples = np.tile(factory.tone(440, 1.0, 16_000)[:, None] / 32768, (1, 2))
    samples[5000 if share == "one" else slice(None)] = value
    soundfile.write(wave, samples, 16_000, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"odd\.wav: sound: found samples that are infinite or not a number$") as error:
        decode(factory.source(mute, sound=wave), uniform, decoder)
    assert error.value.reason == "decode_error"


@pytest.mark.parametrize("gain", [20, 1e30, 1e38])
def test_samples_out_of_range_are_clipped(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, gain: float
) -> None:
    mute, wave = tmp_path / "mute.mp4", tmp_path / "loud.wav"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-an", "-c:v", "copy", mute)
    samples = np.where(factory.tone(440, 1.0, 16_000) < 0, -1.0, 1.0) * gain
    soundfile.write(wave, samples, 16_000, subtype="FLOAT")
    clip = decode(factory.source(mute, sound=wave), uniform, decoder)
    assert set(np.unique(clip.sound.samples)) == {-32768, 32767}


@pytest.mark.parametrize("name", ["aiff", "au", "caf", "w64", "gif", "nut"])
def test_formats_that_are_not_supported(
    recording: Callable[[str], Path], tmp_path: Path, decoder: str, name: str
) -> None:
    path = tmp_path / f"other.{name}"
    run_ffmpeg("-i", recording("avi"), "-t", 1, path)
    with pytest.raises(MediaError, match=rf"other\.{name}: not a supported format; use MP4, .*WAV, FLAC") as error:
        decode(factory.source(path), uniform, decoder)
    assert error.value.reason == "unreadable"


@pytest.mark.timeout(30)
def test_hours_of_sound_are_not_read(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    mute, wave = tmp_path / "mute.mp4", tmp_path / "long.wav"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-an", "-c:v", "copy", mute)
    soundfile.write(wave, np.zeros(16_000, np.int16), 16_000)
    data = bytearray(wave.read_bytes())
    data[4:8] = data[40:44] = b"\xf0\xff\xff\xff"
    wave.write_bytes(data)
    os.truncate(wave, 0xFFFFFFF0)
    with pytest.raises(MediaError, match=r"sound: found over 900 s at 16000 Hz, expected at most 900 s$") as error:
        decode(factory.source(mute, sound=wave), uniform, decoder)
    assert error.value.reason == "decode_error"


def test_a_sample_rate_that_leaves_no_sample(recording: Callable[[str], Path], tmp_path: Path, decoder: str) -> None:
    mute, wave = tmp_path / "mute.mp4", tmp_path / "short.wav"
    run_ffmpeg("-i", recording("mp4"), "-t", 1, "-an", "-c:v", "copy", mute)
    soundfile.write(wave, factory.tone(440, 1.0, 16_000), 16_000)
    data = bytearray(wave.read_bytes())
    data[24:28] = (0x7FFFFFFF).to_bytes(4, "little")
    wave.write_bytes(data)
    with pytest.raises(MediaError, match=r"short\.wav: sound: found less than one sample at 16000 Hz$") as error:
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
