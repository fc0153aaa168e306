"""Reads recordings with an ffmpeg process: the alternative decoder, for files that PyAV cannot read.

The video is read twice, because the frames to keep depend on all frame times: first to list them, then to extract.
The program is the system's `ffmpeg`, or the one that comes with imageio-ffmpeg.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from builder.datasets.base import ClipSource
from builder.decoders import base
from builder.decoders.base import (
    Consume,
    DecodedSound,
    DecodedVideo,
    Listing,
    MakeTimeline,
    MediaError,
    Picture,
    Segment,
    Sound,
)
from builder.decoders.mp4 import check_edit_lists
from manifests.timeline import nearest_frames

#: Margin that is read around a segment and then discarded by its times.
MARGIN_SECONDS = 1.0
#: Half of a unit of any container's clock.
ROUNDING_SECONDS = 1e-5
#: CPU time after which ffmpeg aborts.
TIME_LIMIT_SECONDS = 600

#: Do not drop or duplicate frames, and preserve their times.
_EVERY_FRAME = {"fps_mode": "passthrough", "enc_time_base": "demux"}

# Lines of ffmpeg's log are matched from their first character: the file's own metadata is always indented behind its
# key, so that no title can look like one of these lines.
_COMPONENT = r"(?m)^(?:\[[^\]\n]+ @ 0x[0-9a-f]+\] )"
_TIME_BASE = re.compile(_COMPONENT + r"\[info\] config in time_base: (\d+)/(\d+)")
_FRAME = re.compile(
    _COMPONENT + r"\[info\] n: *\d+ pts: *(-?\d+) .* duration: *(\d+) .* s:(\d+)x(\d+) .* iskey:([01]) "
)
_CONTAINER = re.compile(r"(?m)^\[info\] Input #0, (\S+), from ")
_STREAM = re.compile(r"(?m)^(?=\[info\] (?:  )?Stream )")
_VIDEO = re.compile(r"(?m)^\[info\]   Stream #0:[^\n]*?: Video: (?![^\n]*attached pic)")
_SIZE = re.compile(r"Video: [^\n]*?, (\d{1,6})x(\d{1,6})[ ,\n]")
_TURN = re.compile(r"(?m)^\[info\]       Display Matrix: rotation of (-?[\d.]+) degrees$")
_AUDIO = re.compile(r"(?m)^\[info\]   Stream #0:[^\n]*?: Audio: ")
_SOUND = re.compile(_COMPONENT + r"\[info\] n:\d+ pts:(-?\d+) .* channels:(\d+) .* rate:(\d+) nb_samples:(\d+)")
_ERROR = re.compile(_COMPONENT + r"*\[(?:error|fatal|panic|warning(?=\] corrupt decoded frame))\] (.*)")
_LOST = re.compile(_COMPONENT + r"*\[error\] Error submitting packet to decoder")
_DURATION = re.compile(r"(?m)^\[info\]   Duration: (\d+):(\d+):([\d.]+),")
_START = re.compile(r"(?m)^\[info\]   Duration: [^ ]+ start: (-?[\d.]+),")


_Result = TypeVar("_Result")


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
    key_seconds: float | None
    """Presentation time of the last key frame up to the clip's first frame, on the container's clock; None if there is
    none or it is not shown."""
    next_key_seconds: float | None
    """The same of the key frame after it."""
    size: tuple[int, int]
    """Width and height, upright."""


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """What is known of a recording before its frames are extracted."""

    described: str
    """ffmpeg's log about its streams."""
    sound: DecodedSound
    frames: _Frames
    seek: bool
    """Whether it is read from just before its segment."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames that are extracted."""
        return base.kept_size(*self.frames.size)

    @property
    def reduction(self) -> tuple[float, float]:
        """As in `base.DecodedVideo.reductions`."""
        return self.frames.size[0] / self.size[0], self.frames.size[1] / self.size[1]


def _list(source: ClipSource) -> _Listed:
    """Decode a clip's sound and list its frames. Raises MediaError if the video is unusable."""
    described = _describe(source.video)
    if not _VIDEO.search(described):
        raise MediaError("no_video", "found no picture in it")
    sound_range = source.sound_range_seconds
    if sound_range is not None and sound_range[0] > MARGIN_SECONDS:
        try:
            return _list_from(source, described, seek=True)
        except _SeekError:
            pass  # the container has no index: read this recording from its beginning
    return _list_from(source, described, seek=False)


def _list_from(source: ClipSource, described: str, *, seek: bool) -> _Listed:
    sound: DecodedSound = None
    if _AUDIO.search(described):
        sound = base.try_sound(lambda: _sound(source.video, source.sound_range_seconds, described, seek=seek))
    frames = _list_frames(source, sound.end_seconds if isinstance(sound, Sound) else 0.0, described, seek=seek)
    return _Listed(described=described, sound=sound, frames=frames, seek=seek)


def read(source: ClipSource, make_timeline: MakeTimeline) -> tuple[DecodedVideo, DecodedSound]:
    """Decode a clip's video at the timeline's instants, and its sound. Raises MediaError if the video is unusable."""
    listed = _list(source)
    frames, sound = listed.frames, listed.sound
    timeline = frames.times.timeline(make_timeline)
    chosen = nearest_frames(frames.times.seconds, timeline.instants_seconds).tolist()
    frames_by_index = _extract_frames(source, listed, sorted(set(chosen)))
    picture = DecodedVideo(
        frames=tuple(frames_by_index[i] for i in chosen),
        reductions=(listed.reduction,) * len(chosen),
        frame_seconds=tuple(frames.times.seconds[chosen].tolist()),
        timeline=timeline,
        frame_count=len(frames.numbers),
    )
    return picture, sound


def read_frames(
    source: ClipSource, make_timeline: MakeTimeline, consume: Consume[_Result]
) -> tuple[_Result, DecodedSound]:
    """Give every frame of a clip to `consume`, in order, and decode its sound. Raises MediaError as `read` does."""
    listed = _list(source)
    times = listed.frames.times
    timeline = times.timeline(make_timeline)
    if (np.diff(times.seconds) < 0).any():
        raise base.out_of_order()
    with closing(_extract_in_order(source, listed)) as pictures:
        return consume(Listing(seconds=times.seconds, timeline=timeline), pictures), listed.sound


def read_sound(path: Path) -> Sound | None:
    """Decode a separate sound file; None if it has no sample. Raises MediaError."""
    described = _describe(path)
    return _sound(path, None, described, seek=False) if _AUDIO.search(described) else None


@cache
def program() -> str:
    """Path of the ffmpeg program."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _input(path: Path, segment: Segment | None, *, seek: bool = False, **more: Any) -> Any:
    """The file as ffmpeg's input. `file:` and the whitelists prevent access to other files and protocols."""
    options: dict[str, Any] = {"threads": 1, "protocol_whitelist": "file", "format_whitelist": base.CONTAINERS}
    if segment is not None:  # ffmpeg counts both times from the start of the recording
        first = min(segment[0] - MARGIN_SECONDS, base.MAX_SECONDS) if seek else 0.0
        options["t"] = min(segment[1], base.MAX_SECONDS) + MARGIN_SECONDS - first
        if seek:
            options["ss"] = first
    return ffmpeg.input(f"file:{path}", **options | more)


def _run(output: Any) -> tuple[bytes, str]:
    """Run ffmpeg. Returns its stdout and its log."""
    done = subprocess.run(_command(output), capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout, done.stderr.decode("utf-8", "replace")


def _command(output: Any) -> list[str]:
    flags = ("-nostdin", "-hide_banner", "-nostats", "-copyts", "-timelimit", str(TIME_LIMIT_SECONDS))
    return list(output.global_args(*flags, "-loglevel", "level+info").compile(cmd=program()))


def _describe(path: Path) -> str:
    """ffmpeg's log about a file's streams. Raises MediaError if ffmpeg cannot open the file."""
    check_edit_lists(path)
    _, log = _run(ffmpeg.output(_input(path, None), "pipe:", format="null", t=0, c="copy", map="0"))
    if "Input #0" not in log:
        if "Format not on whitelist" in log:
            raise base.unsupported()
        words = (_ERROR.findall(log) or ["no reason given"])[-1].replace(f"file:{path}", path.name)
        raise MediaError("unreadable", f"not a recording that can be opened ({words})")
    return log


def _picture(source: ClipSource, described: str, *, seek: bool, **more: Any) -> Any:
    """The clip's video as ffmpeg's input, upright. Raises MediaError for one of too many pixels."""
    header = next(lines for lines in _STREAM.split(described) if _VIDEO.match(lines))
    size, turn = _SIZE.search(header), _TURN.search(header)
    if size is not None:
        base.square_width(*map(int, size.groups()), aspect=Fraction(1))
    if turn is not None and round(float(turn[1])) % 90:
        more["noautorotate"] = None
    return _input(source.video, source.segment_seconds, seek=seek, **more).video


def _list_frames(source: ClipSource, sound_end_seconds: float, described: str, *, seek: bool) -> _Frames:
    """Decode the complete video for its frame times. Truncation is reported before damage."""
    segment = source.segment_seconds
    log = _show_frames(source, described, seek=seek)
    frames = _parse_frames(log, segment, _origin_seconds(described, segment))
    if seek and segment is not None and not frames.first_seconds <= segment[0]:
        raise _SeekError
    if segment is not None:
        base.check_segment(frames.times, segment)
    elif len(frames.times.seconds):
        base.check_complete(max(frames.times.end_seconds, sound_end_seconds), _header_end_seconds(described))
    damage = _find_damage(source, described, log, frames, seek=seek)
    if damage or not len(frames.times.seconds):
        raise MediaError("decode_error", damage or "found no frame that can be decoded")
    return frames


def _show_frames(source: ClipSource, described: str, *, seek: bool, **more: Any) -> str:
    """ffmpeg's log about every frame that it decodes."""
    shown = _square(_picture(source, described, seek=seek, **more)).filter("showinfo", checksum=0)
    first = shown.filter("select", "eq(n,0)")  # the log is all that is used; an output of every frame would be buffered
    _, log = _run(first.output("pipe:", format="null", **_EVERY_FRAME))
    return log


def _find_damage(source: ClipSource, described: str, log: str, frames: _Frames, *, seek: bool) -> str | None:
    """What is damaged of the frames that the clip depends on, as in the PyAV decoder; `log` is about more frames.

    These start with the last key frame that is shown before the clip. Frames that follow it in the file and are shown
    before it may depend on earlier ones, which a cut has removed; and what is decoded after the clip's end is not used.
    """
    errors = _errors(log)
    if not errors:
        return None
    if seek and frames.key_seconds is None:
        raise _SeekError
    unneeded = []
    if frames.key_seconds is not None:
        unneeded.append(f"lt(pts*tb,{frames.key_seconds - ROUNDING_SECONDS:.6f})")
    if source.segment_seconds is not None:
        end = source.segment_seconds[1] + _origin_seconds(described, source.segment_seconds)
        unneeded.append(f"gte(dts*tb,{end:.6f})")
    copied = _picture(source, described, seek=seek).output("pipe:", format="null", c="copy")
    undecoded = Counter(_errors(_run(copied)[1]))  # what reading alone says, which includes all unneeded frames
    errors = _decoding_errors(source, described, unneeded, undecoded, seek=seek)
    before_second_key = True
    if errors and frames.next_key_seconds is not None:
        unneeded.append(f"gte(pts*tb,{frames.next_key_seconds - ROUNDING_SECONDS:.6f})")
        first = _decoding_errors(source, described, unneeded, undecoded, seek=seek)
        before_second_key = len(first) >= len(errors)
    return base.find_damage(errors, before_second_key=before_second_key)


def _decoding_errors(
    source: ClipSource, described: str, unneeded: Sequence[str], undecoded: Counter[str], *, seek: bool
) -> list[str]:
    """Errors of the decoder without those of reading the file, if the packets with a condition are not decoded."""
    errors = _errors(_show_frames(source, described, seek=seek, **(_drop(unneeded) if unneeded else {})))
    return list((Counter(errors) - undecoded).elements())


def _drop(conditions: Sequence[str]) -> dict[str, str]:
    """Options of an input whose packets for which any condition holds are not decoded."""
    return {"bsf:v": f"noise=drop='{'+'.join(conditions)}'"}


def _errors(log: str) -> list[str]:
    return [base.CORRUPT if words == "corrupt decoded frame" else words for words in _ERROR.findall(log)]


def _parse_frames(log: str, segment: Segment | None, origin_seconds: float) -> _Frames:
    time_base = _TIME_BASE.search(log)
    found = [tuple(map(int, match.groups())) for match in _FRAME.finditer(log)]
    if time_base is None or not found:
        return _Frames(
            numbers=(),
            times=base.FrameTimes.of(np.empty(0), 0.0),
            first_seconds=np.nan,
            key_seconds=None,
            next_key_seconds=None,
            size=(0, 0),
        )
    numerator, denominator = map(int, time_base.groups())
    stamps = np.array([pts for pts, *_ in found], dtype=np.float64) * numerator / denominator
    seconds = stamps - origin_seconds
    base.check_clock(seconds)
    sizes = {(width, height) for _, _, width, height, _ in found}
    if len(sizes) > 1:
        raise MediaError("decode_error", f"found pictures of {len(sizes)} sizes in one stream; DECODER=pyav reads them")
    size = (found[0][2], found[0][3])
    base.square_width(*size, aspect=Fraction(1))
    start, end = segment or (-np.inf, np.inf)
    inside = np.flatnonzero((seconds >= start) & (seconds < end))
    last = found[inside[-1]][1] * numerator / denominator if len(inside) else 0.0
    keys = np.flatnonzero([key for *_, key in found])
    until = keys <= (inside[0] if len(inside) else -1)
    return _Frames(
        numbers=tuple(inside.tolist()),
        times=base.FrameTimes.of(seconds[inside], last),
        first_seconds=float(seconds[0]),
        key_seconds=float(stamps[keys[until]][-1]) if until.any() else None,
        next_key_seconds=float(stamps[keys[~until]][0]) if not until.all() else None,
        size=size,
    )


def _square(video: Any) -> Any:
    """Scale to square pixels, with the same interpolation as in the PyAV decoder."""
    return video.filter("scale", w=f"clip(iw*sar,1,{base.MAX_SIDE_PX + 1})", h="ih", flags="bilinear")


def _extract_frames(source: ClipSource, listed: _Listed, wanted: Sequence[int]) -> dict[int, npt.NDArray[np.uint8]]:
    """Index in the clip -> [H, W, 3] frame."""
    choice = "+".join(f"eq(n,{listed.frames.numbers[i]})" for i in wanted)
    with closing(_extract(source, listed, choice)) as frames:
        return dict(zip(wanted, itertools.islice(frames, len(wanted)), strict=True))


def _extract_in_order(source: ClipSource, listed: _Listed) -> Iterator[Picture]:
    """One picture for each of a clip's frames."""
    numbers = listed.frames.numbers
    with closing(_extract(source, listed, f"between(n,{numbers[0]},{numbers[-1]})")) as frames:
        for frame in itertools.islice(frames, len(numbers)):
            yield Picture(rgb=partial(np.asarray, frame), reduction=listed.reduction, bytes=frame.nbytes)


def _extract(source: ClipSource, listed: _Listed, choice: str) -> Iterator[npt.NDArray[np.uint8]]:
    """[H, W, 3] each of the frames that fulfil a condition of ffmpeg's. Raises MediaError where one ends early."""
    width, height = listed.size
    chosen = _picture(source, listed.described, seek=listed.seek).filter("select", choice)
    scaled = chosen.filter("scale", w=width, h=height, flags="bilinear").filter("format", "rgb24")
    output = scaled.output("pipe:", format="rawvideo", pix_fmt="rgb24", sws_flags="bilinear", **_EVERY_FRAME)
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(_command(output), stdout=subprocess.PIPE, **quiet) as process:
        assert process.stdout is not None
        try:
            while True:
                picture = np.empty((height, width, 3), dtype=np.uint8)
                read = process.stdout.readinto(picture.reshape(-1))  # type: ignore[attr-defined]
                if read != picture.size:
                    raise MediaError("decode_error", f"found {read} bytes of picture, expected {picture.size}")
                yield picture
        finally:
            process.kill()


def _sound(path: Path, segment: Segment | None, described: str, *, seek: bool) -> Sound | None:
    """Decode the sound. Failed packets leave gaps; `assemble_sound` checks how much is missing."""
    limit = {"t": base.MAX_SOUND_SECONDS + 1} if segment is None else {}
    shown = _input(path, segment, seek=seek, **limit).audio.filter("ashowinfo")
    raw, log = _run(shown.output("pipe:", format="f32le", acodec="pcm_f32le"))
    found = [tuple(map(int, match.groups())) for match in _SOUND.finditer(log)]
    if not found:
        return None
    formats = {(channels, rate_hz) for _, channels, rate_hz, _ in found}
    if len(formats) > 1:
        raise MediaError("decode_error", f"sound: found {len(formats)} formats in one stream; DECODER=pyav reads them")
    ((channels, rate_hz),) = formats
    mono = base.mix(np.frombuffer(raw, dtype="<f4").reshape(-1, channels).T)
    ends = np.cumsum([samples for *_, samples in found])
    origin_seconds = _origin_seconds(described, segment)
    chunks = [
        base.SoundChunk(seconds=pts / rate_hz - origin_seconds, samples=mono[end - samples : end], rate_hz=rate_hz)
        for (pts, _, _, samples), end in zip(found, ends, strict=True)
    ]
    if seek and segment is not None and chunks[0].seconds > segment[0]:
        raise _SeekError
    # Where ffmpeg has sought to, it may lose packets before the first sound that it decodes.
    lost = len(_LOST.findall(log, _SOUND.search(log).start() if seek else 0))  # type: ignore[union-attr]
    return base.assemble_sound(chunks, segment, lost * len(chunks[0].samples) / rate_hz)


def _header_seconds(log: str) -> tuple[float | None, float | None]:
    """Start and duration of a recording; None where the header states neither."""
    start, duration = _START.search(log), _DURATION.search(log)
    seconds = None
    if duration is not None:
        hours, minutes, rest = map(float, duration.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    return None if start is None else float(start[1]), seconds


def _origin_seconds(described: str, segment: Segment | None) -> float:
    """Presentation time from which a segment counts; 0 for a whole recording."""
    return 0.0 if segment is None else base.recording_start(_header_seconds(described)[0])


def _header_end_seconds(described: str) -> float | None:
    container = _CONTAINER.search(described)
    return base.header_end(container[1] if container else "", *_header_seconds(described))
