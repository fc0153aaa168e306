"""Reads recordings with an ffmpeg process: the alternative decoder, for files that PyAV cannot read.

The video is read twice, because the frames to keep depend on all frame times: first to list them, then to extract.
The program is the system's `ffmpeg`, or the one that comes with imageio-ffmpeg.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from builder.datasets.base import ClipSource
from builder.decoders import base
from builder.decoders.base import DecodedSound, DecodedVideo, MakeTimeline, MediaError, Segment, Sound
from builder.timeline import nearest_frames

#: Margin that is read around a segment and then discarded by its times.
MARGIN_SECONDS = 1.0
#: CPU time after which ffmpeg aborts.
TIME_LIMIT_SECONDS = 600

#: Do not drop or duplicate frames, and preserve their times.
_EVERY_FRAME = {"fps_mode": "passthrough", "enc_time_base": "demux"}

# Lines of ffmpeg's log are matched from their first character: the file's own metadata is always indented behind its
# key, so that no title can look like one of these lines.
_COMPONENT = r"(?m)^(?:\[[^\]\n]+ @ 0x[0-9a-f]+\] )"
_TIME_BASE = re.compile(_COMPONENT + r"\[info\] config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(_COMPONENT + r"\[info\] n: *\d+ pts: *(-?\d+) .* duration: *(\d+) .* s:(\d+)x(\d+) ")
_VIDEO = re.compile(r"(?m)^\[info\]   Stream #0:[^\n]*?: Video: (?![^\n]*attached pic)")
_AUDIO = re.compile(r"(?m)^\[info\]   Stream #0:[^\n]*?: Audio: ")
_SOUND = re.compile(_COMPONENT + r"\[info\] n:\d+ pts:(-?\d+) .* channels:(\d+) .* rate:(\d+) nb_samples:(\d+)")
_ERROR = re.compile(_COMPONENT + r"*\[(?:error|fatal|panic)\] (.*)")
_LOST = re.compile(_COMPONENT + r"*\[error\] Error submitting packet to decoder")
_DURATION = re.compile(r"(?m)^\[info\]   Duration: (\d+):(\d+):([\d.]+), start: (-?[\d.]+)")


class _SeekError(Exception):
    """Seeking failed, or ended after the segment's start."""


@dataclass(frozen=True, kw_only=True)
class _Frames:
    """Frames that the first run lists."""

    numbers: tuple[int, ...]
    """Index of each frame of the clip in ffmpeg's output."""
    times: base.FrameTimes
    first_seconds: float
    """Presentation time of the first decoded frame; nan without frames."""
    size: tuple[int, int]
    """Width and height, upright."""


def read(source: ClipSource, make_timeline: MakeTimeline) -> tuple[DecodedVideo, DecodedSound]:
    """Decode a clip's video at the timeline's instants, and its sound. Raises MediaError if the video is unusable."""
    described = _describe(source.video)
    if not _VIDEO.search(described):
        raise MediaError("no_video", "found no picture in it")
    sound_range = source.sound_range_seconds
    if sound_range is not None and sound_range[0] > MARGIN_SECONDS:
        try:
            return _read(source, make_timeline, described, seek=True)
        except _SeekError:
            pass  # the container has no index: read this recording from its beginning
    return _read(source, make_timeline, described, seek=False)


def _read(
    source: ClipSource, make_timeline: MakeTimeline, described: str, *, seek: bool
) -> tuple[DecodedVideo, DecodedSound]:
    sound: DecodedSound = None
    if _AUDIO.search(described):
        sound = base.try_sound(lambda: _sound(source.video, source.sound_range_seconds, seek=seek))
    frames = _list_frames(source, sound.end_seconds if isinstance(sound, Sound) else 0.0, described, seek=seek)
    timeline = frames.times.timeline(make_timeline)
    chosen = nearest_frames(frames.times.seconds, timeline.instants_seconds).tolist()
    frames_by_index = _extract_frames(source, frames, sorted(set(chosen)), seek=seek)
    picture = DecodedVideo(
        frames=tuple(frames_by_index[i] for i in chosen),
        frame_seconds=tuple(frames.times.seconds[chosen].tolist()),
        timeline=timeline,
        frame_count=len(frames.numbers),
    )
    return picture, sound


def read_sound(path: Path) -> Sound | None:
    """Decode a separate sound file; None if it has no sample. Raises MediaError."""
    return _sound(path, None, seek=False) if _AUDIO.search(_describe(path)) else None


@cache
def program() -> str:
    """Path of the ffmpeg program."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _input(path: Path, segment: Segment | None, *, seek: bool = False) -> Any:
    """The file as ffmpeg's input. `file:` and the whitelists prevent access to other files and protocols."""
    options: dict[str, Any] = {"threads": 1, "protocol_whitelist": "file", "format_whitelist": base.CONTAINERS}
    if segment is not None:
        first = min(segment[0] - MARGIN_SECONDS, base.MAX_SECONDS) if seek else 0.0
        options["t"] = min(segment[1], base.MAX_SECONDS) + MARGIN_SECONDS - first
        if seek:  # on the recording's own clock, wherever that begins
            options |= {"ss": first, "seek_timestamp": 1}
    return ffmpeg.input(f"file:{path}", **options)


def _run(output: Any) -> tuple[bytes, str]:
    """Run ffmpeg. Returns its stdout and its log."""
    flags = ("-nostdin", "-hide_banner", "-nostats", "-copyts", "-timelimit", str(TIME_LIMIT_SECONDS))
    command = output.global_args(*flags, "-loglevel", "level+info").compile(cmd=program())
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout, done.stderr.decode("utf-8", "replace")


def _describe(path: Path) -> str:
    """ffmpeg's log about a file's streams. Raises MediaError if ffmpeg cannot open the file."""
    _, log = _run(ffmpeg.output(_input(path, None), "pipe:", format="null", t=0, c="copy", map="0"))
    if "Input #0" not in log:
        words = (_ERROR.findall(log) or ["no reason given"])[-1].replace(f"file:{path}", path.name)
        raise MediaError("unreadable", f"not a recording that can be opened ({words})")
    return log


def _list_frames(source: ClipSource, sound_end_seconds: float, described: str, *, seek: bool) -> _Frames:
    """Decode the complete video for its frame times. Truncation is reported before damage."""
    segment = source.segment_seconds
    shown = _square(_input(source.video, segment, seek=seek).video).filter("showinfo", checksum=0)
    _, log = _run(shown.output("pipe:", format="null", **_EVERY_FRAME))
    frames = _parse_frames(log, segment)
    if seek and segment is not None and (_ERROR.search(log) or not frames.first_seconds <= segment[0]):
        raise _SeekError
    if segment is not None:
        base.check_segment(frames.times, segment)
    elif len(frames.times.seconds):
        base.check_complete(max(frames.times.end_seconds, sound_end_seconds), _header_end_seconds(described))
    errors = _ERROR.findall(log)
    if errors or not len(frames.times.seconds):
        raise MediaError("decode_error", (errors or ["found no frame that can be decoded"])[0])
    return frames


def _parse_frames(log: str, segment: Segment | None) -> _Frames:
    time_base = _TIME_BASE.search(log)
    found = [tuple(map(int, match.groups())) for match in _FRAME.finditer(log)]
    if time_base is None or not found:
        return _Frames(numbers=(), times=base.FrameTimes.of(np.empty(0), 0.0), first_seconds=np.nan, size=(0, 0))
    numerator, denominator = map(int, time_base.groups())
    seconds = np.array([pts for pts, *_ in found], dtype=np.float64) * numerator / denominator
    base.check_clock(seconds)
    sizes = {(width, height) for *_, width, height in found}
    if len(sizes) > 1:
        raise MediaError("decode_error", f"found pictures of {len(sizes)} sizes in one stream; DECODER=pyav reads them")
    base.square_width(*found[0][2:], aspect=Fraction(1))
    start, end = segment or (-np.inf, np.inf)
    inside = np.flatnonzero((seconds >= start) & (seconds < end))
    last = found[inside[-1]][1] * numerator / denominator if len(inside) else 0.0
    return _Frames(
        numbers=tuple(inside.tolist()),
        times=base.FrameTimes.of(seconds[inside], last),
        first_seconds=float(seconds[0]),
        size=(found[0][2], found[0][3]),
    )


def _square(video: Any) -> Any:
    """Scale to square pixels, with the same interpolation as in the PyAV decoder."""
    return video.filter("scale", w=f"clip(iw*sar,1,{base.MAX_SIDE_PX + 1})", h="ih", flags="bilinear")


def _extract_frames(
    source: ClipSource, frames: _Frames, wanted: Sequence[int], *, seek: bool
) -> dict[int, npt.NDArray[np.uint8]]:
    """Index in the clip -> [H, W, 3] frame."""
    choice = "+".join(f"eq(n,{frames.numbers[i]})" for i in wanted)
    video = _square(_input(source.video, source.segment_seconds, seek=seek).video).filter("select", choice)
    output = video.output("pipe:", format="rawvideo", pix_fmt="rgb24", sws_flags="bilinear", **_EVERY_FRAME)
    raw, _ = _run(output)
    width, height = frames.size
    pictures = np.frombuffer(raw, dtype=np.uint8).reshape(-1, height, width, 3)
    return dict(zip(wanted, pictures, strict=True))


def _sound(path: Path, segment: Segment | None, *, seek: bool) -> Sound | None:
    """Decode the sound. Failed packets leave gaps; `assemble_sound` checks how much is missing."""
    shown = _input(path, segment, seek=seek).audio.filter("ashowinfo")
    raw, log = _run(shown.output("pipe:", format="f32le", acodec="pcm_f32le"))
    found = [tuple(map(int, match.groups())) for match in _SOUND.finditer(log)]
    if not found:
        return None
    formats = {(channels, rate_hz) for _, channels, rate_hz, _ in found}
    if len(formats) > 1:
        raise MediaError("decode_error", f"sound: found {len(formats)} formats in one stream; DECODER=pyav reads them")
    ((channels, rate_hz),) = formats
    mono = np.frombuffer(raw, dtype="<f4").reshape(-1, channels).mean(axis=1)
    ends = np.cumsum([samples for *_, samples in found])
    chunks = [
        base.SoundChunk(seconds=pts / rate_hz, samples=mono[end - samples : end], rate_hz=rate_hz)
        for (pts, _, _, samples), end in zip(found, ends, strict=True)
    ]
    if seek and segment is not None and chunks[0].seconds > segment[0]:
        raise _SeekError
    return base.assemble_sound(chunks, segment, len(_LOST.findall(log)) * len(chunks[0].samples) / rate_hz)


def _header_end_seconds(log: str) -> float | None:
    match = _DURATION.search(log)
    if match is None:
        return None
    hours, minutes, seconds, start = map(float, match.groups())
    return hours * 3600 + minutes * 60 + seconds + start
