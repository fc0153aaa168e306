"""A sample of sequences and its encoding: the aligned crop of every frame of a clip, its sound and times.

A sample is a group of tar members that share a key::

    KEY.frames.mjpg    one JPEG for each frame, one after another: video players read it as Motion JPEG
    KEY.audio.flac     the clip's sound, as in a sample of pairs
    KEY.json           who, what, when: as in a sample of pairs, but for every frame, and where each JPEG is

Samples may be untrusted: sizes and headers are checked before anything is decoded. A sample holds its JPEGs, not their
pixels, and `decode_frame` decodes one: memory does not grow with a clip's length.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.records import field_types
from manifests.schema import (
    CROP_PX,
    JPEG_QUALITY,
    MASKED_SCHEMA_VERSION,
    Affine,
    Clip,
    SchemaError,
    check_jpeg,
    check_present,
    check_size,
    decode_audio,
    describe,
    encode_audio,
    encode_metadata,
    load_metadata,
    read_fields,
)
from manifests.timeline import Seconds

FRAMES_MEMBER = "frames.mjpg"
MEMBERS = (FRAMES_MEMBER, "audio.flac", "json")
#: Sides that a crop may have. All are whole numbers of the blocks of 16 pixels that a JPEG consists of.
SIDES_PX = (CROP_PX, 160, 112, 96)
#: Most frames of a clip: 160 s at 25 frames a second.
MAX_FRAMES = 4096
#: Latest time that a reader of some frames accepts, and earliest one: indices of samples fit into 64 bits.
_LATEST_SECONDS = 1e9
#: First and last bytes of a JPEG: video players split Motion JPEG at these.
_FIRST, _LAST = b"\xff\xd8\xff", b"\xff\xd9"


@dataclass(frozen=True, kw_only=True)
class SequenceTiming:
    """Times of the frames, in presentation seconds of the source (one clock for both streams)."""

    span_seconds: tuple[float, float]
    """First frame's time and the last frame's end."""
    frame_seconds: tuple[float, ...]
    """Presentation time of each frame, ascending. At a fixed rate a frame may be there twice."""
    rate_hz: float
    """Frame k is the nearest to `span_seconds[0] + k / rate_hz`; 0 if these are the recording's own frames."""
    audio_start_seconds: float
    """Time of the first stored sound sample."""

    def __post_init__(self) -> None:
        (start, end), times = self.span_seconds, self.frame_seconds
        if not 1 <= len(times) <= MAX_FRAMES:
            raise SchemaError(f"timing.frame_seconds: found {len(times)} frames, expected 1 to {MAX_FRAMES}")
        if self.rate_hz < 0:
            raise SchemaError(f"timing.rate_hz: found {self.rate_hz}, expected 0 or more")
        ascending = all(a <= b if self.rate_hz else a < b for a, b in pairwise(times))
        if not ascending or not start <= times[0] <= times[-1] < end:
            found = f"found {reprlib.repr(times)} in a clip from {start} to {end}"
            raise SchemaError(f"timing.frame_seconds: {found}, expected ascending times within it")


@dataclass(frozen=True, kw_only=True)
class SequenceSample:
    """One built clip with all of its frames."""

    clip: Clip
    timing: SequenceTiming
    jpegs: tuple[bytes, ...]
    """n aligned crops, each a JPEG; `decode_frame` decodes one."""
    side_px: int
    """Side of a crop, one of SIDES_PX."""
    audio: npt.NDArray[np.int16]
    """As in `manifests.schema.Sample`."""
    transforms: tuple[Affine, ...]
    """n affine maps, source pixel -> crop pixel."""
    face_found: tuple[bool, ...]
    """For each of n crops, whether a face was found where it is: in the frame, or in those between which its transform
    is interpolated."""
    flags: tuple[str, ...]
    """Sorted, each one of `manifests.schema.FLAGS`."""
    source: Mapping[str, Any]
    """Provenance, as in `manifests.schema.Sample`."""
    faces_present: tuple[bool, ...] | None = None
    """For each of n crops, whether it shows a face; the others are black. None, and the next field with it, in samples
    of a build that leaves out incomplete clips: there everything is present."""
    sound_present: tuple[bool, ...] | None = None
    """For each of n frames, whether there is any sound within a sixteenth of the clip's span before and after it."""

    def __post_init__(self) -> None:
        n = len(self.timing.frame_seconds)
        for name in ("jpegs", "transforms", "face_found", "faces_present", "sound_present"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise SchemaError(f"{name}: found {len(value)}, expected {n}, one for each frame")
        if self.side_px not in SIDES_PX:
            raise SchemaError(f"side_px: found {self.side_px}, expected one of {', '.join(map(str, SIDES_PX))}")


def encode_frame(crop: npt.NDArray[np.uint8]) -> bytes:
    """[side, side, 3] RGB crop -> JPEG. At 224 pixels it has the blocks that the crop has in a filmstrip of pairs."""
    return bytes(simplejpeg.encode_jpeg(crop, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"))


def decode_frame(
    jpeg: bytes | memoryview,
    side_px: int,
    *,
    smooth: bool = True,
    needed_px: int | None = None,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """JPEG -> [side, side, 3] RGB, in the memory of `out` if given; the header is checked before decoding.

    The decoder interpolates colours, across the edges between the crops of a filmstrip. Without `smooth` it does not,
    and a crop has the pixels that it has in a filmstrip decoded likewise. With `needed_px`, the decoder reduces the
    picture to `reduced_px(side_px, needed_px)` pixels a side, as `manifests.schema.decode_filmstrip` does.
    """
    check_frame(jpeg, side_px)
    return decode_checked_frame(jpeg, side_px, smooth=smooth, needed_px=needed_px, out=out)


def check_frame(jpeg: bytes | memoryview, side_px: int) -> None:
    """Raise SchemaError unless the header of a JPEG says that it is a crop of this side, in few scans."""
    check_jpeg(jpeg, FRAMES_MEMBER, side_px, side_px)


def decode_checked_frame(
    jpeg: bytes | memoryview,
    side_px: int,
    *,
    smooth: bool = True,
    needed_px: int | None = None,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """`decode_frame` of a JPEG that `check_frame` has accepted before."""
    least = side_px if needed_px is None else min(needed_px, side_px)
    try:
        crop: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            jpeg,
            colorspace="RGB",
            fastupsample=not smooth,
            min_height=least,
            min_width=least,
            min_factor=1,
            buffer=out,
        )
    except ValueError as error:
        raise SchemaError(f"{FRAMES_MEMBER}: not a JPEG that can be decoded ({error})") from error
    return crop


def reduced_px(side_px: int, needed_px: int) -> int:
    """Side to which a decoder reduces a crop: the least eighth of `side_px` that has the pixels needed, at most all."""
    return next((side for k in range(1, 9) if (side := -(-side_px * k // 8)) >= needed_px), side_px)


def encode(sample: SequenceSample) -> dict[str, bytes]:
    """Sample -> member suffix -> bytes, in tar order. Equal samples have equal bytes.

    Raises SchemaError for a sample that `decode` would not accept.
    """
    frames = b"".join(sample.jpegs)
    members = {FRAMES_MEMBER: frames, "audio.flac": encode_audio(sample.audio)}
    members["json"] = encode_metadata(metadata(sample), sample.clip)
    for name, data in members.items():
        check_size(name, len(data))
    _read_metadata(load_metadata(members["json"]), len(frames))
    return members


def metadata(sample: SequenceSample) -> dict[str, Any]:
    """Content of `KEY.json`: as in pairs, and `side_px` and `byte_ranges`, the (offset, size) of each JPEG."""
    masks: dict[str, Any] = {}
    if sample.faces_present is not None and sample.sound_present is not None:
        masks = {"faces_present": sample.faces_present, "sound_present": sample.sound_present}
    sizes = list(map(len, sample.jpegs))
    ranges = list(zip(accumulate(sizes, initial=0), sizes, strict=False))
    return describe(sample, masks) | {"side_px": sample.side_px, "byte_ranges": ranges}


def decode(members: Mapping[str, bytes]) -> SequenceSample:
    """Member suffix -> bytes, back to a sample, whose JPEGs have been checked by their headers only.

    Raises SchemaError naming the invalid member.
    """
    if members.keys() != set(MEMBERS):
        raise SchemaError(f"found members {reprlib.repr(sorted(members))}, expected {', '.join(MEMBERS)}")
    frames = members[FRAMES_MEMBER]
    check_size(FRAMES_MEMBER, len(frames))
    fields, ranges = _read_metadata(load_metadata(members["json"]), len(frames))
    jpegs = tuple(frames[offset : offset + size] for offset, size in ranges)
    for number, jpeg in enumerate(jpegs):
        if jpeg[:3] != _FIRST or jpeg[-2:] != _LAST:
            raise SchemaError(f"{FRAMES_MEMBER}: frame {number} is not a JPEG from its first marker to its last")
        check_jpeg(jpeg, f"{FRAMES_MEMBER}: frame {number}", fields["side_px"], fields["side_px"])
    return SequenceSample(jpegs=jpegs, audio=decode_audio(members["audio.flac"]), **fields)


class FrameIndex(NamedTuple):
    """What reading some frames of a clip, and the sound around them, needs of `KEY.json`."""

    span_seconds: tuple[float, float]
    frame_seconds: Seconds
    """[n] presentation time of each frame, ascending."""
    byte_ranges: npt.NDArray[np.int64]
    """[n, 2] offset of each JPEG in `frames.mjpg`, and its size; [0, 2] if frames are not read."""
    audio_start_seconds: float
    masked: bool
    """Whether the build kept incomplete clips, so that some may have no sound, or windows without any."""


def read_frame_index(data: bytes, frames_bytes: int | None) -> FrameIndex:
    """Times and places of the frames in `KEY.json`, in a third of the time that reading all of it takes.

    Raises SchemaError for values that `decode` would not accept for a `frames.mjpg` of so many bytes, None if no frame
    is read; and for times that are not within some 30 years of 0.
    """
    meta = load_metadata(data)
    check_present(meta, ("timing", "byte_ranges"))
    timing = meta["timing"]
    if not isinstance(timing, dict):
        raise SchemaError(f"json.timing: found a {type(timing).__name__}, expected an object")
    check_present(timing, ("span_seconds", "frame_seconds", "rate_hz", "audio_start_seconds"))
    span, seconds = (_numbers(timing, name) for name in ("span_seconds", "frame_seconds"))
    rate, audio_start = (_numbers({name: [timing[name]]}, name)[0] for name in ("rate_hz", "audio_start_seconds"))
    if len(span) != 2 or not 1 <= len(seconds) <= MAX_FRAMES:
        found = f"{len(span)} and {len(seconds)}"
        raise SchemaError(f"json.timing: found {found} times of span and frames, expected 2 and 1 to {MAX_FRAMES}")
    steps = np.diff(seconds)
    ascending = (steps >= 0).all() if rate else (steps > 0).all()
    start, end = span.tolist()
    if rate < 0 or not ascending or not start <= seconds[0] <= seconds[-1] < end:
        found = f"found {reprlib.repr(seconds.tolist())} in a clip from {start} to {end}"
        raise SchemaError(f"json.timing.frame_seconds: {found}, expected ascending times within it")
    ranges = np.empty((0, 2), np.int64)
    if frames_bytes is not None:
        check_size(FRAMES_MEMBER, frames_bytes)
        ranges = _byte_ranges(meta["byte_ranges"], len(seconds), frames_bytes)
    return FrameIndex(
        span_seconds=(start, end),
        frame_seconds=seconds,
        byte_ranges=ranges,
        audio_start_seconds=float(audio_start),
        masked=meta["schema_version"] == MASKED_SCHEMA_VERSION,
    )


def _numbers(values: Mapping[str, Any], name: str) -> Seconds:
    """Finite times, none of them absurd. Raises SchemaError."""
    found = values[name]
    if isinstance(found, list) and {*map(type, found)} <= {float, int}:
        try:
            numbers = np.array(found, dtype=np.float64)
        except OverflowError:
            numbers = np.array([np.inf])
        if (np.abs(numbers) <= _LATEST_SECONDS).all():
            return numbers
    raise SchemaError(f"json.timing.{name}: found {reprlib.repr(found)}, expected times in seconds")


def _byte_ranges(found: Any, count: int, frames_bytes: int) -> npt.NDArray[np.int64]:
    """[n, 2] offsets and sizes that follow one another through all bytes. Raises SchemaError."""
    pairs = found if isinstance(found, list) and {*map(type, found)} == {list} else []
    numbers = [*chain.from_iterable(pairs)]
    plain = {*map(len, pairs)} == {2} and len(pairs) == count and {*map(type, numbers)} == {int}
    if plain and min(numbers) >= 0 and max(numbers) <= frames_bytes:  # so that their sum fits into 64 bits, too
        ranges = np.array(numbers, dtype=np.int64).reshape(count, 2)
        offsets, sizes = ranges.T
        ends = np.cumsum(sizes)
        if sizes.min() > 0 and offsets[0] == 0 and (offsets[1:] == ends[:-1]).all() and ends[-1] == frames_bytes:
            return ranges
    raise SchemaError(
        f"json.byte_ranges: found {reprlib.repr(found)}, expected {count} ranges that follow one another through all "
        f"{frames_bytes} bytes of {FRAMES_MEMBER}"
    )


def check(members: Mapping[str, bytes]) -> Clip:
    """Decode everything in a sample, one frame at a time. Returns its clip; raises SchemaError."""
    sample = decode(members)
    for jpeg in sample.jpegs:
        decode_frame(jpeg, sample.side_px)
    return sample.clip


def _read_metadata(meta: Mapping[str, Any], frames_bytes: int) -> tuple[dict[str, Any], Sequence[tuple[int, int]]]:
    """Content of `KEY.json` -> the fields of SequenceSample that it contains, and the byte range of each JPEG."""
    kinds = {name: field_types(SequenceSample)[name] for name in _FIELDS} | {"byte_ranges": tuple[tuple[int, int], ...]}
    if meta["schema_version"] == MASKED_SCHEMA_VERSION:
        check_present(meta, _MASKS)
        kinds |= dict.fromkeys(_MASKS, tuple[bool, ...])
    found = read_fields(meta, kinds)
    ranges = found.pop("byte_ranges")
    n = len(found["timing"].frame_seconds)
    for name, value in {**found, "byte_ranges": ranges}.items():
        if name in _PER_FRAME and len(value) != n:
            raise SchemaError(f"json.{name}: found {len(value)}, expected {n}, one for each frame")
    starts, ends = [offset for offset, _ in ranges], [0, *(offset + size for offset, size in ranges)]
    if any(size <= 0 for _, size in ranges) or starts != ends[:-1] or ends[-1] != frames_bytes:
        raise SchemaError(
            f"json.byte_ranges: found {reprlib.repr(ranges)}, expected ranges that follow one another through all "
            f"{frames_bytes} bytes of {FRAMES_MEMBER}"
        )
    if found["side_px"] not in SIDES_PX:
        raise SchemaError(f"json.side_px: found {found['side_px']}, expected one of {', '.join(map(str, SIDES_PX))}")
    return found, ranges


_FIELDS = ("timing", "side_px", "transforms", "face_found", "source")
_MASKS = ("faces_present", "sound_present")
_PER_FRAME = frozenset({"transforms", "face_found", "byte_ranges", *_MASKS})
