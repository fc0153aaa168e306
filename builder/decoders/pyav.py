"""Reads recordings with PyAV, in this process and with one thread.

Packets are read first, for their times, so the frames to keep are known before the first one is decoded,
and a clip costs one decode and the memory of 16 frames, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from builder.datasets.base import ClipSource
from builder.decoders import base
from builder.decoders.base import DecodedSound, DecodedVideo, MakeTimeline, MediaError, Segment, Sound
from builder.timeline import nearest_frames

#: Read this much before a segment, so that decoding starts at a key frame before it; more if there is none so near.
SEEK_MARGINS_SECONDS = (1.0, 15.0)
#: Packets are stored in decoding order; read this much past the segment's end for late ones.
REORDER_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class _Packets:
    """A demuxed clip, not decoded yet."""

    video: Any
    """The video stream, or None."""
    audio: Any
    """The audio stream, or None."""
    packets: tuple[Any, ...]
    segment: Segment | None
    """The part of the picture that is used; None for all of it."""
    sound_range: Segment | None
    """The part of the sound that is used, which may be longer."""
    header_end_seconds: float | None
    """End of the recording according to the header; None if the header has no duration."""


@dataclass(frozen=True, kw_only=True)
class _Times:
    """Presentation times in the stream's time base."""

    pts: tuple[int, ...]
    """Ascending."""
    last: int
    """Duration of the last frame in the container; 0 if missing."""

    def seconds(self, time_base: Fraction) -> base.FrameTimes:
        """The same in seconds."""
        pts = np.asarray([*self.pts, self.last], dtype=np.float64) * time_base.numerator / time_base.denominator
        return base.FrameTimes.of(pts[:-1], float(pts[-1]))


def read(source: ClipSource, make_timeline: MakeTimeline) -> tuple[DecodedVideo, DecodedSound]:
    """Decode a clip's video at the timeline's instants, and its sound. Raises MediaError if the video is unusable."""
    segment, sound_range = source.segment_seconds, source.sound_range_seconds
    with _demuxed(source.video, segment, sound_range) as clip:
        if clip.video is None:
            raise MediaError("no_video", "found no picture in it")
        time_base = clip.video.time_base
        packet_times = _packet_times(clip)
        _check_complete(clip, packet_times.seconds(time_base))
        times, kept = _decode_frames(clip, set(_select_pts(make_timeline, packet_times, time_base)))
        sound = base.try_sound(lambda: _decode_sound(clip))
    if times.pts != packet_times.pts:
        # The packets' times were not the frames' times, which are known now: decode again with these.
        with _demuxed(source.video, segment, sound_range) as clip:
            times, kept = _decode_frames(clip, set(_select_pts(make_timeline, times, time_base)))
    found = times.seconds(time_base)
    timeline = found.timeline(make_timeline)
    chosen = nearest_frames(found.seconds, timeline.instants_seconds)
    video = DecodedVideo(
        frames=tuple(kept[times.pts[i]] for i in chosen),
        frame_seconds=tuple(found.seconds[chosen].tolist()),
        timeline=timeline,
        frame_count=len(found.seconds),
    )
    return video, sound


def read_sound(path: Path) -> Sound | None:
    """Decode a separate sound file; None if it has no sample. Raises MediaError."""
    with _demuxed(path, None, None) as clip:
        return _decode_sound(clip)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an allowed container. It is opened as a file object, so that its name is never parsed as a URL."""
    options = {"format_whitelist": base.CONTAINERS, "protocol_whitelist": "none"}
    with path.open("rb") as file, _logged_errors():  # only to keep them off the terminal
        try:
            container = av.open(file, options=options, metadata_errors="replace")  # titles may be in any encoding
        except av.FFmpegError as error:
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
    packets: list[Any] = []
    unfinished = set(streams)
    try:
        if seek_seconds is not None:
            try:
                container.seek(int(seek_seconds * 1_000_000))
            except av.FFmpegError:
                return None
        for packet in container.demux(*streams) if streams else ():
            packets.append(packet)
            if sound_range is None or packet.dts is None:
                continue
            if packet.dts * packet.time_base > sound_range[1] + REORDER_SECONDS:
                unfinished.discard(packet.stream)
                if not unfinished:
                    break
    except av.FFmpegError as error:
        raise MediaError("decode_error", str(error)) from error
    if seek_seconds is not None and sound_range is not None:
        packets = _start_at_key_frames(packets, streams, sound_range[0])
        if not packets:
            return None
    header_end = None if container.duration is None else (container.duration + (container.start_time or 0)) / 1_000_000
    return _Packets(
        video=video,
        audio=audio,
        packets=tuple(packets),
        segment=segment,
        sound_range=sound_range,
        header_end_seconds=header_end,
    )


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
    packets = [p for p in clip.packets if p.stream is clip.video and p.size and not p.is_discard]
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
    return clip.segment[0] <= float(pts * clip.video.time_base) < clip.segment[1]


def _check_complete(clip: _Packets, times: base.FrameTimes) -> None:
    """Raise MediaError if the video ends before its header's duration, or before the end of the segment."""
    if not len(times.seconds) and any(p.size and p.pts is None for p in clip.packets):
        return  # packets without times
    if clip.segment is not None:
        base.check_segment(times, clip.segment)
        return
    hidden = sum(1 for p in clip.packets if p.stream is clip.video and p.size and p.is_discard)
    base.check_complete(times.end_seconds, _header_video_end(clip.video, hidden))
    base.check_complete(max(times.end_seconds, _last_packet_end(clip)), clip.header_end_seconds)


def _header_video_end(stream: Any, hidden: int) -> float | None:
    """End of the video according to the header; None if the header has no duration.

    The header also counts the `hidden` frames that an edit list leaves out, as in losslessly cut recordings.
    """
    start = float((stream.start_time or 0) * stream.time_base)
    lengths = []
    if stream.duration:
        lengths.append(float(stream.duration * stream.time_base))
    if stream.frames and stream.average_rate:
        lengths.append(float((stream.frames - hidden) / stream.average_rate))
    return start + max(lengths) if lengths else None


def _last_packet_end(clip: _Packets) -> float:
    ends = [0.0]
    for stream in (s for s in (clip.video, clip.audio) if s is not None):
        timed = (p for p in clip.packets if p.stream is stream and p.pts is not None and p.size)
        ends.append(float(max((p.pts + (p.duration or 0) for p in timed), default=0) * stream.time_base))
    return max(ends)


def _select_pts(make_timeline: MakeTimeline, times: _Times, time_base: Fraction) -> list[int]:
    """pts of the 16 frames to keep."""
    if not times.pts:
        return []
    found = times.seconds(time_base)
    return [times.pts[i] for i in nearest_frames(found.seconds, found.timeline(make_timeline).instants_seconds)]


def _decode_frames(clip: _Packets, wanted: set[int]) -> tuple[_Times, dict[int, npt.NDArray[np.uint8]]]:
    """Decode every frame, because each may depend on earlier ones. Returns times, and pts -> RGB of those selected."""
    clip.video.codec_context.thread_count = 1
    to_rgb = VideoReformatter()
    found: list[tuple[int, int | None]] = []
    kept: dict[int, npt.NDArray[np.uint8]] = {}
    with _logged_errors() as errors:
        for packet in (p for p in clip.packets if p.stream is clip.video):
            try:
                decoded = packet.decode()
            except av.FFmpegError as error:
                raise MediaError("decode_error", str(error)) from error
            for frame in decoded:
                if frame.pts is None or not _inside(frame.pts, clip):
                    continue
                found.append((frame.pts, frame.duration))
                if frame.pts in wanted:
                    kept[frame.pts] = _upright_rgb(frame, to_rgb, clip.video)
    if errors or not found:
        raise MediaError("decode_error", (errors or ["found no frame that can be decoded"])[0])
    return _times(found), kept


@contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collect errors that the decoder logs: it conceals damage in the video and continues."""
    messages: list[str] = []
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as logs:
        yield messages
    messages += [f"{name}: {text.strip()}" for level, name, text in logs if level <= av.logging.ERROR]


def _upright_rgb(frame: Any, to_rgb: VideoReformatter, stream: Any) -> npt.NDArray[np.uint8]:
    """Convert to RGB with square pixels, rotated as the container specifies."""
    width = base.square_width(frame.width, frame.height, stream.sample_aspect_ratio or Fraction(1))
    rgb = to_rgb.reformat(frame, width=width, height=frame.height, format="rgb24").to_ndarray()
    # A display matrix of zeros has no angle: PyAV returns a meaningless large number.
    turns = round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 360 else 0
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _decode_sound(clip: _Packets) -> Sound | None:
    """Decode the clip's sound to mono at 16 kHz. A failed packet leaves a gap."""
    if clip.audio is None:
        return None
    clip.audio.codec_context.thread_count = 1
    to_float: dict[tuple[str, str, int], av.AudioResampler] = {}  # a stream may change its format
    chunks: list[base.SoundChunk] = []
    lost_seconds = 0.0
    with _logged_errors():  # only to keep them off the terminal; losses are counted below
        for packet in (p for p in clip.packets if p.stream is clip.audio):
            try:
                decoded = []
                for frame in packet.decode():
                    # PyAV reads planes beyond the seventh out of bounds, so many channels are interleaved.
                    samples = "fltp" if frame.layout.nb_channels < 8 else "flt"
                    found = (frame.format.name, str(frame.layout), frame.sample_rate)
                    decoded += to_float.setdefault(found, av.AudioResampler(format=samples)).resample(frame)
            except av.FFmpegError:
                lost_seconds += _seconds_inside(packet, clip.sound_range)
                continue
            for frame in decoded:
                if frame.pts is not None:
                    values = frame.to_ndarray()
                    if not frame.format.is_planar:  # [1, n * channels]
                        values = values.reshape(-1, frame.layout.nb_channels).T
                    # One voice, in any number of channels: average them.
                    seconds, mono = float(frame.pts * frame.time_base), values.mean(axis=0)
                    chunks.append(base.SoundChunk(seconds=seconds, samples=mono, rate_hz=frame.sample_rate))
    return base.assemble_sound(chunks, clip.sound_range, lost_seconds)


def _seconds_inside(packet: Any, segment: Segment | None) -> float:
    """Duration of a packet; 0 if it starts outside of the segment."""
    seconds = float((packet.duration or 0) * packet.time_base)
    if segment is None or packet.pts is None:
        return seconds
    return seconds if segment[0] <= float(packet.pts * packet.time_base) < segment[1] else 0.0
