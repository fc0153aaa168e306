"""Reads recordings with PyAV, in this process and with one thread.

Packets are read first, for their times, so the frames to keep are known before the first one is decoded,
and a clip costs one decode and the memory of 16 frames, however long it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from builder.datasets.base import ClipSource
from builder.decoders import base
from builder.decoders.base import (
    Consume,
    DecodedSound,
    DecodedVideo,
    LargePicture,
    Listing,
    MakeTimeline,
    MediaError,
    Picture,
    Segment,
    Sound,
)
from builder.decoders.mp4 import check_edit_lists
from manifests.timeline import nearest_frames

#: Read this much before a segment, so that decoding starts at a key frame before it; more if there is none so near.
SEEK_MARGINS_SECONDS = (1.0, 15.0)
#: Packets are stored in decoding order; read this much past the segment's end for late ones.
REORDER_SECONDS = 1.0
#: Frames of so many pixels are converted in parts, if their format is one of 8 bits with a plane for each component.
MIN_LARGE_PIXELS = 1 << 19
PARTED_FORMATS = {f"yuv{range_}{chroma}p" for range_ in ("", "j") for chroma in (420, 422, 444)}

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class _Packets:
    """A demuxed clip, not decoded yet."""

    video: Any
    """The video stream, or None."""
    time_base: Fraction
    """Of the video stream."""
    audio: Any
    """The audio stream, or None."""
    packets: tuple[Any, ...]
    segment: Segment | None
    """The part of the picture that is used, in seconds since the start of the recording; None for all of it."""
    sound_range: Segment | None
    """The part of the sound that is used, which may be longer; None for all of it."""
    start_seconds: float
    """Presentation time at which the recording starts, from which a segment counts; 0 without a segment."""
    header_end_seconds: float | None
    """End of the recording according to the header; None if the header has no duration."""
    header_video_end_seconds: float | None
    """The same of its picture."""
    sound_too_long: bool
    """There is more sound than MAX_SOUND_SECONDS, of which the rest was not read."""

    def seconds(self, ticks: int) -> float:
        """A presentation time of the picture in seconds on the clip's clock."""
        return float(ticks * self.time_base) - self.start_seconds


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Presentation times in the stream's time base."""

    pts: tuple[int, ...]
    """Ascending."""
    last: int
    """Duration of the last frame in the container; 0 if missing."""

    def seconds(self, clip: _Packets) -> base.FrameTimes:
        """The same in seconds on the clip's clock."""
        ticks = np.asarray([*self.pts, self.last], dtype=np.float64)
        seconds = ticks * clip.time_base.numerator / clip.time_base.denominator
        return base.FrameTimes.of(seconds[:-1] - clip.start_seconds, float(seconds[-1]))


class _OtherTimes(Exception):
    """The frames have other times than their packets."""


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """A decoded frame that is kept."""

    pixels: npt.NDArray[np.uint8]
    """[H, W, 3] RGB, upright, square pixels."""
    reduction: tuple[float, float]
    """As in `base.DecodedVideo.reductions`."""


def read(source: ClipSource, make_timeline: MakeTimeline) -> tuple[DecodedVideo, DecodedSound]:
    """Decode a clip's video at the timeline's instants, and its sound. Raises MediaError if the video is unusable."""
    segment, sound_range = source.segment_seconds, source.sound_range_seconds
    with _demuxed(source.video, segment, sound_range) as clip:
        if clip.video is None:
            raise MediaError("no_video", "found no picture in it")
        packet_times = _packet_times(clip)
        _check_complete(clip, packet_times.seconds(clip))
        times, kept = _decode_frames(clip, set(_select_pts(make_timeline, packet_times, clip)))
        sound = base.try_sound(lambda: _decode_sound(clip))
    if times.pts != packet_times.pts:
        # The packets' times were not the frames' times, which are known now: decode again with these.
        kept.clear()
        with _demuxed(source.video, segment, sound_range) as clip:
            times, kept = _decode_frames(clip, set(_select_pts(make_timeline, times, clip)))
    found = times.seconds(clip)
    timeline = found.timeline(make_timeline)
    chosen = nearest_frames(found.seconds, timeline.instants_seconds)
    video = DecodedVideo(
        frames=tuple(kept[times.pts[i]].pixels for i in chosen),
        reductions=tuple(kept[times.pts[i]].reduction for i in chosen),
        frame_seconds=tuple(found.seconds[chosen].tolist()),
        timeline=timeline,
        frame_count=len(found.seconds),
    )
    return video, sound


def read_frames(
    source: ClipSource, make_timeline: MakeTimeline, consume: Consume[_Result]
) -> tuple[_Result, DecodedSound]:
    """Give every frame of a clip to `consume`, in order, and decode its sound. Raises MediaError as `read` does.

    `consume` is called again if it turns out that the packets' times were not the frames' times.
    """
    times: _Times | None = None
    for _ in range(2):
        with _demuxed(source.video, source.segment_seconds, source.sound_range_seconds) as clip:
            if clip.video is None:
                raise MediaError("no_video", "found no picture in it")
            if times is None:
                times = _packet_times(clip)
                _check_complete(clip, times.seconds(clip))
            try:
                if times.pts:
                    found = times.seconds(clip)
                    listing = Listing(seconds=found.seconds, timeline=found.timeline(make_timeline))
                    with closing(_decode_in_order(clip, times)) as pictures:
                        result = consume(listing, pictures)
                    return result, base.try_sound(lambda: _decode_sound(clip))
            except _OtherTimes:
                pass
        with _demuxed(source.video, source.segment_seconds, source.sound_range_seconds) as clip:
            times, _ = _decode_frames(clip, set())
    raise base.out_of_order()


def read_sound(path: Path) -> Sound | None:
    """Decode a separate sound file; None if it has no sample. Raises MediaError."""
    with _demuxed(path, None, None) as clip:
        return _decode_sound(clip)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an allowed container. It is opened as a file object, so that its name is never parsed as a URL."""
    check_edit_lists(path)
    options = {"format_whitelist": base.CONTAINERS, "protocol_whitelist": "none"}
    with path.open("rb") as file, _logged_errors() as logs:
        try:
            container = av.open(file, options=options, metadata_errors="replace")  # titles may be in any encoding
        except av.FFmpegError as error:
            if any(words.startswith("Format not on whitelist") for _, _, words in logs):
                raise base.unsupported() from error
            raise MediaError("unreadable", f"not a recording that can be opened ({error.strerror})") from error
        with container:
            yield container


@contextmanager
def _demuxed(path: Path, segment: Segment | None, sound_range: Segment | None) -> Iterator[_Packets]:
    """Open a recording and read its packets: from just before the segment, or from the start if it cannot seek.

    `sound_range` is the part of the sound to read; it includes the segment.
    """
    start = 0.0 if sound_range is None else min(sound_range[0], base.MAX_SECONDS)
    seeks = [start - margin for margin in SEEK_MARGINS_SECONDS if start > margin]
    for seek_seconds in (*seeks, None):
        with _opened(path) as container:
            clip = _demux(container, segment, sound_range, seek_seconds)
            if clip is not None:
                yield clip
                return


def _demux(
    container: Any, segment: Segment | None, sound_range: Segment | None, seek_seconds: float | None
) -> _Packets | None:
    """Read the packets of the clip's first video and first audio stream, from `seek_seconds` or from the start.

    None if seeking failed or there is no key frame before the segment, as in containers without an index.
    """
    video, audio = _first(container.streams.video), _first(container.streams.audio)
    streams = [stream for stream in (video, audio) if stream is not None]
    start = None if container.start_time is None else container.start_time / 1_000_000
    duration = None if container.duration is None else container.duration / 1_000_000
    origin = 0.0 if segment is None else base.recording_start(start)
    try:
        if seek_seconds is not None:
            try:
                container.seek(int((seek_seconds + origin) * 1_000_000))
            except av.FFmpegError:
                return None
        end = None if sound_range is None else sound_range[1] + origin
        packets, sound_too_long = _read_packets(container, streams, end)
    except av.FFmpegError as error:
        raise MediaError("decode_error", str(error.strerror)) from error
    if seek_seconds is not None and sound_range is not None:
        packets = _start_at_key_frames(packets, streams, sound_range[0] + origin)
        if not packets:
            return None
    return _Packets(
        video=video,
        time_base=Fraction(1) if video is None else video.time_base,
        audio=audio,
        packets=tuple(packets),
        segment=segment,
        sound_range=sound_range,
        start_seconds=origin,
        header_end_seconds=base.header_end(container.format.name, start, duration),
        header_video_end_seconds=None if video is None else _header_video_end(container.format.name, video, packets),
        sound_too_long=sound_too_long,
    )


def _read_packets(container: Any, streams: Sequence[Any], end_seconds: float | None) -> tuple[list[Any], bool]:
    """Read packets up to an end, or all. Returns them, and whether sound beyond MAX_SOUND_SECONDS was left out."""
    packets: list[Any] = []
    sound_starts: dict[Any, int] = {}
    unfinished, too_long = set(streams), set()
    for packet in container.demux(*streams) if streams else ():
        if not packet.size:  # the last frame is shown again, or the stream ends
            continue
        stream, dts = packet.stream, packet.dts
        if stream not in too_long:
            packets.append(packet)
        if dts is None or (end_seconds is None and stream.type != "audio"):
            continue
        if end_seconds is not None:
            finished = dts * packet.time_base > end_seconds + REORDER_SECONDS
        else:
            finished = (dts - sound_starts.setdefault(stream, dts)) * packet.time_base > base.MAX_SOUND_SECONDS
            too_long |= {stream} if finished else set()
        if finished:
            unfinished.discard(stream)
            if not unfinished:
                break
    return packets, bool(too_long)


def _start_at_key_frames(packets: Sequence[Any], streams: Sequence[Any], seconds: float) -> list[Any]:
    """Each stream's packets from its first key frame; [] unless all these are at `seconds` or before."""
    kept = list(packets)
    for stream in streams:
        at = next((i for i, p in enumerate(kept) if p.stream is stream and p.is_keyframe), None)
        if at is None:
            return []
        pts = kept[at].dts if kept[at].pts is None else kept[at].pts
        if pts is None or pts * kept[at].time_base > seconds:
            return []
        kept = [p for i, p in enumerate(kept) if i >= at or p.stream is not stream]
    return kept


def _first(streams: Sequence[Any]) -> Any:
    """The first stream that can be decoded, or None. Cover images of sound files are ignored."""
    cover = av.stream.Disposition.attached_pic
    return next((s for s in streams if s.codec_context is not None and not s.disposition & cover), None)


def _packet_times(clip: _Packets) -> _Times:
    """Times of the clip's frames according to its packets; empty if a packet has no time."""
    packets = [p for p in clip.packets if p.stream is clip.video and not p.is_discard]
    base.check_clock(np.array([float(p.dts * p.time_base) for p in packets if p.dts is not None]))
    if any(p.pts is None for p in packets):
        return _Times(pts=(), last=0)
    return _times((p.pts, p.duration) for p in packets if _inside(p.pts, clip))


def _times(found: Iterable[tuple[int, int | None]]) -> _Times:
    """(pts, duration) pairs in any order -> times."""
    ordered = sorted((pts, duration or 0) for pts, duration in found)
    return _Times(pts=tuple(pts for pts, _ in ordered), last=ordered[-1][1] if ordered else 0)


def _inside(pts: int, clip: _Packets) -> bool:
    if clip.segment is None:
        return True
    return clip.segment[0] <= clip.seconds(pts) < clip.segment[1]


def _check_complete(clip: _Packets, times: base.FrameTimes) -> None:
    """Raise MediaError if the video ends before its header's duration, or before the end of the segment."""
    if not len(times.seconds) and any(p.pts is None for p in clip.packets):
        return  # packets without times
    if clip.segment is not None:
        base.check_segment(times, clip.segment)
        return
    base.check_complete(times.end_seconds, clip.header_video_end_seconds)
    base.check_complete(max(times.end_seconds, _last_packet_end(clip)), clip.header_end_seconds)


def _header_video_end(container: str, stream: Any, packets: Sequence[Any]) -> float | None:
    """End of the video according to the header; None if the header states neither a duration nor a number of frames.

    The header of an AVI states the number of its frames, at a constant rate; its duration is estimated from what there
    is. In other containers the duration is stated, after edits; the number of frames also counts those that an edit
    list leaves out, and their mean rate that of the others.
    """
    lengths = []
    if stream.duration and container != "avi":
        lengths.append(float(stream.duration * stream.time_base))
    if stream.frames and stream.average_rate:
        hidden, shown = (
            {p.pos for p in packets if p.stream is stream and p.is_discard is how} for how in (True, False)
        )
        lengths.append(float((stream.frames - len(hidden - shown)) / stream.average_rate))
    return float((stream.start_time or 0) * stream.time_base) + min(lengths) if lengths else None


def _last_packet_end(clip: _Packets) -> float:
    ends = [0.0]
    for stream in (s for s in (clip.video, clip.audio) if s is not None):
        timed = (p for p in clip.packets if p.stream is stream and p.pts is not None)
        ends.append(float(max((p.pts + (p.duration or 0) for p in timed), default=0) * stream.time_base))
    return max(ends)


def _select_pts(make_timeline: MakeTimeline, times: _Times, clip: _Packets) -> list[int]:
    """pts of the 16 frames to keep."""
    if not times.pts:
        return []
    found = times.seconds(clip)
    return [times.pts[i] for i in nearest_frames(found.seconds, found.timeline(make_timeline).instants_seconds)]


def _decode_frames(clip: _Packets, wanted: set[int]) -> tuple[_Times, dict[int, _Frame]]:
    """Decode a clip's frames. Returns their times, and pts -> frame of those selected. Raises MediaError."""
    to_rgb = VideoReformatter()
    found: list[tuple[int, int | None]] = []
    kept: dict[int, _Frame] = {}
    with closing(_decode(clip)) as frames:
        for frame in frames:
            found.append((frame.pts, frame.duration))
            if frame.pts in wanted:
                kept[frame.pts] = _upright_rgb(frame, to_rgb, _aspect(clip))
    if not found:
        raise MediaError("decode_error", "found no frame that can be decoded")
    return _times(found), kept


def _decode_in_order(clip: _Packets, times: _Times) -> Iterator[Picture]:
    """Decode a clip's frames at the given times. Raises MediaError; _OtherTimes where the frames' times are others.

    Of several frames with the same time, all are the last one, as for `_decode_frames`.
    """
    to_rgb, aspect, number = VideoReformatter(), _aspect(clip), 0
    with closing(_decode(clip)) as frames:
        for pts, group in itertools.groupby(frames, key=lambda frame: frame.pts):
            same = list(group)
            if times.pts[number : number + len(same)] != (pts,) * len(same):
                raise _OtherTimes
            number += len(same)
            picture = Picture(
                rgb=partial(_rgb, same[-1], to_rgb, aspect),
                reduction=_reduction(same[-1], aspect),
                bytes=sum(plane.buffer_size for plane in same[-1].planes),
                large=_large(same[-1], to_rgb, aspect),
            )
            yield from [picture] * len(same)
    if number != len(times.pts):
        raise _OtherTimes


def _aspect(clip: _Packets) -> Fraction:
    """Width of a recorded pixel over its height."""
    return clip.video.sample_aspect_ratio or Fraction(1)


def _decode(clip: _Packets) -> Iterator[Any]:
    """Decode every frame, because each may depend on earlier ones; yields those of the clip.

    Raises MediaError for damage in what the clip's frames depend on; other frames may be damaged.
    """
    context = clip.video.codec_context
    context.thread_count = 1
    base.square_width(context.width, context.height, _aspect(clip))
    packets = [packet for packet in clip.packets if packet.stream is clip.video]
    needed = _find_needed(packets, clip)
    with _logged_errors() as logs:
        for packet in (*packets, None):  # None: the frames that the decoder has not shown yet
            logs.clear()
            decoded, failure = [], None
            try:
                decoded = clip.video.decode(packet)
            except av.FFmpegError as error:
                failure = str(error.strerror)
            if packet in needed:
                messages = [f"{name}: {words.strip()}" for _, name, words in logs]
                damage = base.find_damage(messages, before_second_key=needed[packet]) or failure
                if damage:
                    raise MediaError("decode_error", damage)
            for frame in decoded:
                if frame.pts is None or not _inside(frame.pts, clip):
                    continue
                if frame.is_corrupt:
                    raise MediaError("decode_error", base.CORRUPT)
                yield frame


def _find_needed(packets: Sequence[Any], clip: _Packets) -> dict[Any, bool]:
    """The packets that the clip's frames depend on -> whether they precede the second key frame.

    These start with the last key frame that is shown before the clip. Frames that follow it in the file and are shown
    before it may depend on earlier ones, which a cut has removed; and what is decoded after the clip's end is not used.
    """
    shown = [(p.pts, i) for i, p in enumerate(packets) if p.pts is not None and not p.is_discard]
    first = min((each for each in shown if _inside(each[0], clip)), default=None)
    if first is None:
        return dict.fromkeys(packets, False)
    keys = [i for i, p in enumerate(packets) if p.is_keyframe]
    before = [i for i in keys if i <= first[1] and (packets[i].pts is None or packets[i].pts <= first[0])]
    key = max(before, default=0)
    second = min((i for i in keys if i > key), default=len(packets))
    start = packets[key].pts if before else None
    end = None if clip.segment is None else clip.segment[1]
    return {
        p: i < second
        for i, p in enumerate(packets)
        if i >= key
        and (start is None or p.pts is None or p.pts >= start)
        and (end is None or p.dts is None or clip.seconds(p.dts) < end)
    }


@contextmanager
def _logged_errors() -> Iterator[list[tuple[int, str, str]]]:
    """Collect (level, component, words) that libraries log in this thread: decoders conceal damage and continue."""
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # words of one recording would be left out after the same words of another
    with av.logging.Capture() as logs:
        yield logs


def _upright_rgb(frame: Any, to_rgb: VideoReformatter, aspect: Fraction) -> _Frame:
    return _Frame(pixels=_rgb(frame, to_rgb, aspect), reduction=_reduction(frame, aspect))


def _reduction(frame: Any, aspect: Fraction) -> tuple[float, float]:
    """Recorded pixels per pixel of the upright frame across and down."""
    _, reduction = _square_size(frame.width, frame.height, aspect)
    if reduction[0] == reduction[1]:  # however it is turned
        return reduction
    transposed, _, _ = base.orientation(_display_matrix(frame))
    return reduction[::-1] if transposed else reduction


def _square_size(width: int, height: int, aspect: Fraction) -> tuple[tuple[int, int], tuple[float, float]]:
    """Width and height of a recorded frame with square pixels, as it is kept, and the reduction."""
    square = base.square_width(width, height, aspect)
    size = base.kept_size(square, height)
    return size, (square / size[0], height / size[1])


def _rgb(frame: Any, to_rgb: VideoReformatter, aspect: Fraction) -> npt.NDArray[np.uint8]:
    """Convert to RGB with square pixels, turned and mirrored as the container specifies, and large frames reduced."""
    (width, height), _ = _square_size(frame.width, frame.height, aspect)
    # One thread: the pool has a process per core. By default a thread per core is started for every clip.
    rgb = to_rgb.reformat(frame, width=width, height=height, format="rgb24", threads=1).to_ndarray()
    transposed, across, down = base.orientation(_display_matrix(frame))
    if transposed:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb[:: -1 if down else 1, :: -1 if across else 1])


def _large(frame: Any, to_rgb: VideoReformatter, aspect: Fraction) -> LargePicture | None:
    """A frame whose parts can be converted, as it is stored; None if it is small, turned or in a rare format."""
    width, height = frame.width, frame.height
    if width * height < MIN_LARGE_PIXELS or frame.format.name not in PARTED_FORMATS or width % 2 or height % 2:
        return None
    if _square_size(width, height, aspect) != ((width, height), (1.0, 1.0)):
        return None
    if any(base.orientation(_display_matrix(frame))) or any(plane.line_size <= 0 for plane in frame.planes):
        return None
    return _keep(frame, (0, 0, width, height), (height, width, 3), to_rgb)


def _keep(part: Any, kept: base.Box, shape: tuple[int, int, int], to_rgb: VideoReformatter) -> LargePicture:
    """A picture of this shape of which `part`, a frame of PyAV's, is kept."""

    def cut(box: base.Box) -> Any:
        """Copy a part as it is stored."""
        x0, y0, x1, y1 = box[0] - kept[0], box[1] - kept[1], box[2] - kept[0], box[3] - kept[1]
        copied = av.VideoFrame(x1 - x0, y1 - y0, part.format.name)
        for whole, plane in zip(part.planes, copied.planes, strict=True):
            across, down = part.width // whole.width, part.height // whole.height
            rows = slice(y0 // down, y0 // down + plane.height)
            _pixels(plane)[:] = _pixels(whole)[rows, x0 // across : x0 // across + plane.width]
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            setattr(copied, name, getattr(part, name))
        return copied

    def convert(box: base.Box) -> npt.NDArray[np.uint8]:
        found = part if box == kept else cut(box)
        rgb: npt.NDArray[np.uint8] = to_rgb.reformat(
            found, width=found.width, height=found.height, format="rgb24", threads=1
        ).to_ndarray()
        return rgb

    return LargePicture(
        shape=shape,
        kept=kept,
        bytes=sum(plane.buffer_size for plane in part.planes),
        convert=convert,
        copy=lambda box: _keep(cut(box), box, shape, to_rgb),
    )


def _pixels(plane: Any) -> npt.NDArray[np.uint8]:
    """[H, W] a plane of 8 bits, not copied."""
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _display_matrix(frame: Any) -> list[float]:
    """The 9 values that say how a frame is turned and mirrored; zeros if it is not."""
    try:
        matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # frame.side_data would never release the frame
    except ValueError:  # the frame also has data of a kind that PyAV does not know
        angle = math.radians(frame.rotation)
        return [math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1]
    return [0.0] * 9 if matrix is None else np.frombuffer(bytes(matrix), np.int32).tolist()


def _decode_sound(clip: _Packets) -> Sound | None:
    """Decode the clip's sound to mono at 16 kHz. A failed packet leaves a gap."""
    if clip.audio is None:
        return None
    if clip.sound_too_long:
        raise base.too_long(clip.audio.codec_context.sample_rate)
    clip.audio.codec_context.thread_count = 1
    to_float: dict[tuple[str, str, int], av.AudioResampler] = {}  # a stream may change its format
    chunks: list[base.SoundChunk] = []
    lost_seconds = 0.0
    with _logged_errors():  # only to keep them off the terminal; losses are counted below
        for packet in (*(p for p in clip.packets if p.stream is clip.audio), None):
            try:
                decoded = []
                for frame in clip.audio.decode(packet):
                    # PyAV reads planes beyond the seventh out of bounds, so many channels are interleaved.
                    samples = "fltp" if frame.layout.nb_channels < 8 else "flt"
                    found = (frame.format.name, frame.layout.name, frame.sample_rate)
                    if found not in to_float:
                        to_float[found] = av.AudioResampler(format=samples)
                    decoded += to_float[found].resample(frame)
            except av.FFmpegError:
                lost_seconds += 0.0 if packet is None else _seconds_inside(packet, clip)
                continue
            for frame in decoded:
                if frame.pts is not None:
                    values = frame.to_ndarray()
                    if not frame.format.is_planar:  # [1, n * channels]
                        values = values.reshape(-1, frame.layout.nb_channels).T
                    # One voice, in any number of channels: average them.
                    seconds, mono = frame.time - clip.start_seconds, base.mix(values)
                    chunks.append(base.SoundChunk(seconds=seconds, samples=mono, rate_hz=frame.sample_rate))
    return base.assemble_sound(chunks, clip.sound_range, lost_seconds)


def _seconds_inside(packet: Any, clip: _Packets) -> float:
    """Duration of a packet of sound; 0 if it starts outside of the part that is used."""
    seconds = float((packet.duration or 0) * packet.time_base)
    if clip.sound_range is None or packet.pts is None:
        return seconds
    start = float(packet.pts * packet.time_base) - clip.start_seconds
    return seconds if clip.sound_range[0] <= start < clip.sound_range[1] else 0.0
