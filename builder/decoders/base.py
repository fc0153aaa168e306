"""Results of a decoder, and code that both decoders share."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import soxr

from builder.timeline import TooShort
from manifests.schema import DROP_REASONS, SAMPLE_RATE_HZ
from manifests.timeline import Seconds, Timeline

#: (frame times [n], end of the last frame) in seconds -> Timeline. Raises TooShort.
MakeTimeline = Callable[[Seconds, float], Timeline]
#: Start and end in presentation seconds.
Segment = tuple[float, float]

#: Allowed containers; without playlists of other files (concat, HLS, DASH).
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,flv,avi,mpeg,mpegts,matroska,webm,asf,ogg,wav,mp3,flac,aac"
#: A recording is truncated if it is shorter than its header declares by more than this.
TRUNCATION_SECONDS = 0.25
#: Longest duration of the last frame that is plausible.
MAX_FRAME_SECONDS = 1.0
#: Fraction of the sound that may be missing before the recording counts as damaged.
SOUND_DAMAGE = 0.1
#: Longest sound of a clip, as in `manifests.schema`; a damaged sample rate may stretch a second to hours.
MAX_SOUND_SECONDS = 15 * 60
#: Offset of a chunk from the end of the previous one above which it is a gap or overlap, not a rounding error.
JITTER_SECONDS = 0.015
#: A step back of the decoding times by more than this is a clock that starts again, as in joined transport streams.
CLOCK_RESTART_SECONDS = 0.5
#: Longest side of a frame with square pixels; OpenCV's coordinates are signed 16-bit integers.
MAX_SIDE_PX = 16_384
#: Most pixels of a recorded frame, about twice those of 8K; decoders keep many frames.
MAX_PIXELS = 1 << 26
#: Larger frames (more than 4K) are reduced by a whole factor, so that 16 of them fit into memory.
MAX_KEPT_PIXELS = 4096 * 2304
#: Parts of a frame are converted to RGB at multiples of this, which all converters treat as they treat the whole frame.
PART_STEP_PX = 16
#: Longest plausible time in a recording, 30 years; later ones would overflow the integers of a demuxer.
MAX_SECONDS = 1e9
#: Longest delay of a sound coder: sound that starts so little before 0, or before the rest, is not part of it.
PRIMING_SECONDS = 0.1
#: What is said of a frame that is damaged without an error.
CORRUPT = "found a frame that the decoder marks as damaged"
#: Logged where H.264 releases a reference frame that is not there. Up to the second key frame that can be one from
#: before a cut, of which no shown frame is made; later it is a frame that is lost.
_RELEASED = re.compile(r"mmco: unref short failure")


class MediaError(Exception):
    """A clip that cannot be decoded; `reason` is one of `DROP_REASONS`, `detail` is what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in DROP_REASONS
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class DecodedVideo:
    """The frames shown at a timeline's instants."""

    frames: tuple[npt.NDArray[np.uint8], ...]
    """16 frames [H, W, 3] RGB, upright, square pixels; one array may appear several times."""
    reductions: tuple[tuple[float, float], ...]
    """For each of the 16, recorded pixels per pixel across and down; not 1 for recordings above 4K."""
    frame_seconds: tuple[float, ...]
    """Presentation time of each of the 16."""
    timeline: Timeline
    frame_count: int
    """Frames in the whole recording or segment."""
    origin_px: tuple[int, int] = (0, 0)
    """(x, y) of the frames' top left corner in the recorded picture; not (0, 0) where only a region is used."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The frames of a recording or segment, before they are decoded."""

    seconds: Seconds
    """[n] presentation times, ascending."""
    timeline: Timeline


#: x0, y0, x1, y1 of a part of a frame in pixels.
Box = tuple[int, int, int, int]


class PartNotKept(Exception):
    """A part of a frame is needed that was not kept."""


@dataclass(frozen=True, kw_only=True)
class LargePicture:
    """A frame of which only the parts that are looked at are converted to RGB."""

    shape: tuple[int, int, int]
    """H, W, 3."""
    kept: Box
    """The part that is in memory."""
    bytes: int
    """Memory that it takes until it is released."""
    convert: Callable[[Box], npt.NDArray[np.uint8]]
    """A part of what is kept, with sides as `_box` returns them -> [h, w, 3] RGB."""
    copy: Callable[[Box], LargePicture]
    """A copy that only keeps such a part."""

    def around(
        self, points: npt.NDArray[np.float64], step_px: int = PART_STEP_PX
    ) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
        """RGB of a part that has all pixels that interpolation between `points` [n, 2] reads, and its top left corner.

        Points and corner are (x, y) in frame pixels; the corner is at multiples of `step_px`, a multiple of
        PART_STEP_PX. Raises PartNotKept.
        """
        box, kept = self._box(points, step_px), self.kept
        if box[0] < kept[0] or box[1] < kept[1] or box[2] > kept[2] or box[3] > kept[3]:
            raise PartNotKept
        return self.convert(box), box[:2]

    def keep_around(self, points: npt.NDArray[np.float64]) -> LargePicture:
        """A copy without what is not around `points` [n, 2], as in `around`."""
        return self.copy(self._box(points, PART_STEP_PX))

    def _box(self, points: npt.NDArray[np.float64], step_px: int) -> Box:
        """Sides of a part at multiples of `step_px` or of the frame's; points may be outside of the frame."""
        size = np.array(self.shape[1::-1])
        low = np.floor((points.min(axis=0) - 2) / step_px).astype(int) * step_px
        high = np.ceil((points.max(axis=0) + 2) / step_px).astype(int) * step_px
        x0, y0 = np.clip(low, 0, (size - 1) // step_px * step_px).tolist()
        x1, y1 = np.minimum(np.maximum(high, (x0 + step_px, y0 + step_px)), size).tolist()
        return x0, y0, x1, y1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded frame, as the decoder stores it."""

    rgb: Callable[[], npt.NDArray[np.uint8]]
    """Converts it: [H, W, 3] RGB, upright, square pixels, as in `DecodedVideo.frames`."""
    reduction: tuple[float, float]
    """As in `DecodedVideo.reductions`."""
    bytes: int
    """Memory that it takes until it is released."""
    large: LargePicture | None = None
    """The same, of which parts can be converted; None where that is no faster than to convert all of it."""

    def keep_around(self, points: npt.NDArray[np.float64]) -> Picture:
        """A large picture without what is not around `points` [n, 2] (x, y); its parts can be converted, not all."""
        assert self.large is not None
        large = self.large.keep_around(points)
        return replace(self, rgb=_not_kept, bytes=large.bytes, large=large)


def _not_kept() -> npt.NDArray[np.uint8]:
    raise PartNotKept


_Result = TypeVar("_Result")
#: (listing, one picture for each of its frames, in order) -> any result. It must read the pictures to the end: damage
#: is reported where it is decoded.
Consume = Callable[[Listing, Iterator[Picture]], _Result]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Mono sound with its place in time."""

    samples: npt.NDArray[np.int16]
    """[n] at 16 kHz."""
    start_seconds: float
    """Presentation time of sample 0."""
    damaged: bool = False
    """Some of it is missing and replaced by silence."""

    @property
    def end_seconds(self) -> float:
        """Presentation time just after the last sample."""
        return self.start_seconds + len(self.samples) / SAMPLE_RATE_HZ


#: The sound of a recording: None without any sample, or why it cannot be decoded while the picture can.
DecodedSound = Sound | MediaError | None


def try_sound(decode: Callable[[], Sound | None]) -> DecodedSound:
    """Call a function that decodes sound; a MediaError is returned instead of raised."""
    try:
        return decode()
    except MediaError as error:
        return error


@dataclass(frozen=True, kw_only=True)
class SoundChunk:
    """Decoded samples of one packet."""

    seconds: float
    """Presentation time of the first sample."""
    samples: npt.NDArray[np.float32]
    """[n] mono, -1 to 1."""
    rate_hz: int
    """The recording's own sample rate at this point."""


@dataclass(frozen=True, kw_only=True)
class FrameTimes:
    """When the frames of a clip are shown."""

    seconds: Seconds
    """[n] ascending presentation times; n may be 0."""
    end_seconds: float
    """End of the last frame; meaningless without frames."""

    @classmethod
    def of(cls, seconds: Seconds, last_seconds: float) -> FrameTimes:
        """Create from the frames' times and the last frame's duration in the container.

        That is often 0 or missing; then the median duration of the recording's frames is used.
        """
        if not len(seconds):
            return cls(seconds=seconds, end_seconds=0.0)
        usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
        lasts = min(max(last_seconds, usual), MAX_FRAME_SECONDS)
        return cls(seconds=seconds, end_seconds=float(seconds[-1]) + lasts)

    def timeline(self, make_timeline: MakeTimeline) -> Timeline:
        """Apply `make_timeline`. Raises MediaError for a clip that is too short."""
        try:
            return make_timeline(self.seconds, self.end_seconds)
        except TooShort as error:
            raise MediaError("too_short", str(error)) from error


def unsupported() -> MediaError:
    """The error for a file in a container that is not one of `CONTAINERS`."""
    use = "MP4, MOV, MKV, WebM, AVI, FLV, MPEG or OGG, for sound also WAV, FLAC, MP3 or M4A"
    return MediaError("unreadable", f"not a supported format; use {use}")


def recording_start(start_seconds: float | None) -> float:
    """Presentation time from which a player, and the start and end of a clip in its recording, count.

    `start_seconds` is the container's, that of its earliest stream; None if it has none.
    """
    return 0.0 if start_seconds is None or -PRIMING_SECONDS < start_seconds < 0 else start_seconds


def header_end(container: str, start_seconds: float | None, duration_seconds: float | None) -> float | None:
    """End of a recording according to its header, from the container's start and duration; None without a duration.

    Durations count from the first presentation time, but those of Matroska from 0.
    """
    if duration_seconds is None or container.startswith("matroska"):
        return duration_seconds
    return duration_seconds + (start_seconds or 0.0)


def find_damage(messages: Iterable[str], *, before_second_key: bool) -> str | None:
    """The first of a decoder's error messages that means a damaged picture, or None.

    `before_second_key`: all of them are from before the second key frame that is decoded for the clip.
    """
    return next((words for words in messages if not (before_second_key and _RELEASED.search(words))), None)


def check_complete(found_end_seconds: float, header_end_seconds: float | None) -> None:
    """Raise MediaError for a truncated file, which decoders read without an error."""
    if header_end_seconds is not None and found_end_seconds < header_end_seconds - TRUNCATION_SECONDS:
        raise MediaError("truncated", f"found {found_end_seconds:.2f} s, expected {header_end_seconds:.2f} s")


def check_segment(times: FrameTimes, segment: Segment) -> None:
    """Raise MediaError for a recording that ends before the segment does."""
    if not len(times.seconds):
        raise MediaError("truncated", f"found no frame between {segment[0]:.2f} and {segment[1]:.2f} s")
    if times.end_seconds < segment[1] - TRUNCATION_SECONDS:
        raise MediaError(
            "truncated", f"the table's end is {segment[1]:.2f} s, the recording has {times.end_seconds:.2f} s"
        )


def check_clock(seconds: Seconds) -> None:
    """Raise MediaError if the clock starts again; `seconds` are [n] times in the order in which frames are stored."""
    restarts = np.flatnonzero(np.diff(seconds) < -CLOCK_RESTART_SECONDS)
    if len(restarts):
        before, after = seconds[restarts[0]], seconds[restarts[0] + 1]
        raise MediaError(
            "decode_error",
            f"the clock jumps back from {before:.2f} to {after:.2f} s, as in recordings joined end to end; "
            "convert the file once (ffmpeg -i FILE -c copy NEW.mp4)",
        )


def out_of_order() -> MediaError:
    """The error for a video whose frames are not stored in the order of their times, of which every frame is used."""
    return MediaError(
        "decode_error", "found frames that are not in the order of their times; convert the file once (ffmpeg -i)"
    )


def square_width(width: int, height: int, aspect: Fraction) -> int:
    """Width in square pixels of a frame whose pixels are `aspect` times as wide as high. Raises MediaError."""
    square = max(round(width * aspect), 1)
    if max(square, height) > MAX_SIDE_PX:
        raise MediaError("decode_error", f"found {square}x{height} pixels, expected at most {MAX_SIDE_PX} a side")
    if max(width, square) * height > MAX_PIXELS:
        raise MediaError("decode_error", f"found {square}x{height} pixels, expected at most {MAX_PIXELS} in all")
    return square


def kept_size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which a frame with square pixels is kept: reduced by a whole factor if it is large."""
    factor = math.ceil(math.sqrt(width * height / MAX_KEPT_PIXELS))
    return (width, height) if factor <= 1 else (max(width // factor, 1), max(height // factor, 1))


def orientation(matrix: Sequence[float]) -> tuple[bool, bool, bool]:
    """Whether a display matrix transposes a picture, and then mirrors it across and down.

    `matrix` has 9 values, row-major as in MP4 and FFmpeg: x' = m[0] x + m[3] y, y' = m[1] x + m[4] y. A turn that is no
    multiple of 90 degrees, and a matrix without an angle, change nothing.
    """
    scales = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not all(scales):
        return False, False, False
    degrees = round(math.degrees(math.atan2(matrix[1] / scales[1], matrix[0] / scales[0])))
    if degrees % 90:
        return False, False, False
    if degrees % 180:  # one quarter or three
        return True, matrix[3] < 0, matrix[1] < 0
    return False, matrix[0] < 0, matrix[4] < 0


def mix(channels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[channels, n] -> [n] mean of all channels: one voice, in any number of them."""
    if len(channels) == 1:
        return channels[0]
    with np.errstate(over="ignore", invalid="ignore"):  # of samples that are no numbers, which are refused later
        return channels.mean(axis=0, dtype=channels.dtype)


def too_long(rate_hz: int) -> MediaError:
    """The error for sound of more than MAX_SOUND_SECONDS."""
    found = f"over {MAX_SOUND_SECONDS} s at {rate_hz} Hz"
    return MediaError("decode_error", f"sound: found {found}, expected at most {MAX_SOUND_SECONDS} s")


def assemble_sound(chunks: Sequence[SoundChunk], segment: Segment | None, lost_seconds: float = 0.0) -> Sound | None:
    """Chunks -> continuous 16 kHz sound, each chunk at its time; None without any sample.

    `lost_seconds` is the duration of failed packets; some decoders skip damage without an error, which leaves gaps.
    Raises MediaError if more than SOUND_DAMAGE of the sound is missing.
    """
    chunks = _select_chunks(chunks, segment)
    if not chunks:
        return None
    gap_seconds = 0.0
    if len({chunk.rate_hz for chunk in chunks}) > 1:  # the rate changes within the recording: resample each part
        parts = [(rate, list(part)) for rate, part in itertools.groupby(chunks, key=lambda chunk: chunk.rate_hz)]
        chunks = []
        for rate, part in parts:
            line, start, gaps = _place_chunks(part, rate)
            gap_seconds += gaps / rate
            samples = soxr.resample(line, rate, SAMPLE_RATE_HZ)
            chunks.append(SoundChunk(seconds=start, samples=samples, rate_hz=SAMPLE_RATE_HZ))
    rate_hz = chunks[0].rate_hz
    line, start, gaps = _place_chunks(chunks, rate_hz)
    missing = max(gaps + round(gap_seconds * rate_hz), round(lost_seconds * rate_hz))
    _check_missing(missing, len(line), rate_hz)
    if segment is not None:
        first = max(0, round((segment[0] - start) * rate_hz))
        last = max(first, round((segment[1] - start) * rate_hz))
        line, start = line[first:last], start + first / rate_hz
        if not len(line):
            return None
    if len(line) > MAX_SOUND_SECONDS * rate_hz:
        raise too_long(rate_hz)
    if rate_hz != SAMPLE_RATE_HZ:
        line = soxr.resample(line, rate_hz, SAMPLE_RATE_HZ)
    # 16 bit here, before any feature is computed, so that features made from the stored sound are the same.
    samples = np.clip(np.rint(np.clip(line, -1.0, 1.0) * 32768.0), -32768, 32767).astype(np.int16)
    if not len(samples):
        raise MediaError("decode_error", f"sound: found less than one sample at {SAMPLE_RATE_HZ} Hz")
    return Sound(samples=samples, start_seconds=start, damaged=missing > 0)


def _select_chunks(chunks: Sequence[SoundChunk], segment: Segment | None) -> list[SoundChunk]:
    """Chunks with samples, those of the segment only. Raises MediaError for samples that are no finite numbers."""
    selected = _join_priming([chunk for chunk in chunks if len(chunk.samples)])
    if segment is not None:
        # Sound outside of the segment may be damaged by seeking.
        ends = [chunk.seconds + len(chunk.samples) / chunk.rate_hz for chunk in selected]
        selected = [c for c, end in zip(selected, ends, strict=True) if c.seconds < segment[1] and end > segment[0]]
    if not all(np.isfinite(chunk.samples).all() for chunk in selected):
        raise MediaError("decode_error", "sound: found samples that are infinite or not a number")
    return selected


def _join_priming(chunks: list[SoundChunk]) -> list[SoundChunk]:
    """Move a first chunk that a short gap separates from the others to where they start.

    It is a coder's delay, which muxers of fragmented MP4 place at 0 wherever the sound itself starts.
    """
    if len(chunks) < 2 or chunks[0].rate_hz != chunks[1].rate_hz:
        return chunks
    length = len(chunks[0].samples) / chunks[0].rate_hz
    gap = chunks[1].seconds - chunks[0].seconds - length
    if length > PRIMING_SECONDS or not JITTER_SECONDS < gap <= PRIMING_SECONDS:
        return chunks
    return [replace(chunks[0], seconds=chunks[1].seconds - length), *chunks[1:]]


def _place_chunks(chunks: Sequence[SoundChunk], rate_hz: int) -> tuple[npt.NDArray[np.float32], float, int]:
    """Place chunks in one array. Returns it, its start time, and the number of samples in the gaps.

    Rounding errors of times are ignored, real gaps become silence. Raises MediaError if the gaps are too long.
    """
    start = chunks[0].seconds
    places: list[int] = []
    follows = gaps = 0
    for chunk in chunks:
        place = max(0, round((chunk.seconds - start) * rate_hz))
        if abs(place - follows) <= JITTER_SECONDS * rate_hz:
            place = follows
        gaps += max(0, place - follows)
        places.append(place)
        follows = place + len(chunk.samples)
    length = max(p + len(c.samples) for p, c in zip(places, chunks, strict=True))
    _check_missing(gaps, length, rate_hz)  # before it is allocated: damaged times may be years apart
    line = np.zeros(length, dtype=np.float32)
    for place, chunk in zip(places, chunks, strict=True):
        line[place : place + len(chunk.samples)] = chunk.samples
    return line, start, gaps


def _check_missing(missing: int, length: int, rate_hz: int) -> None:
    """Raise MediaError if more than SOUND_DAMAGE of `length` samples are missing."""
    if missing > SOUND_DAMAGE * length:
        seconds = (missing / rate_hz, length / rate_hz)
        raise MediaError("decode_error", f"sound: found {seconds[0]:.2f} of {seconds[1]:.2f} s missing")
