"""A clip's files -> its 16 frames, or all of them, their times, and its sound, decoded once for all features.

PyAV is the default decoder; an ffmpeg process is the alternative, with the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from builder.config import Decoder
from builder.datasets.base import ClipSource, Region
from builder.decoders import ffmpeg, pyav
from builder.decoders.base import (
    Consume,
    DecodedSound,
    DecodedVideo,
    MakeTimeline,
    MediaError,
    Picture,
    Sound,
)
from builder.sound import MISMATCH_SECONDS, ClipSound, choose_sound
from manifests.schema import SAMPLE_RATE_HZ
from manifests.silence import SILENCE_RMS
from manifests.timeline import Timeline

DECODERS = {"pyav": pyav, "ffmpeg": ffmpeg}


class _HasTimeline(Protocol):
    @property
    def timeline(self) -> Timeline: ...


_Result = TypeVar("_Result")
_Video = TypeVar("_Video", bound=_HasTimeline)


@dataclass(frozen=True, kw_only=True)
class DecodedClip(Generic[_Video]):
    """A decoded recording, cut to what one clip needs."""

    video: _Video
    """A `DecodedVideo`, or what `decode_frames` was asked to make of all frames."""
    sound: Sound
    """Of the clip, and of a segment also what surrounds it and is in its windows; silence if there is none."""
    flags: tuple[str, ...]
    """Sorted keys of `manifests.schema.FLAGS`."""
    sound_file_used: bool = False
    """Whether the sound is that of the separate file."""
    alignment: Mapping[str, float] = field(default_factory=dict)
    """Correlation and offset of a separate sound file, as in `builder.sound.ClipSound`."""
    no_sound: MediaError | None = None
    """Why there is no sound; None if there is."""


def decode(
    source: ClipSource, make_timeline: MakeTimeline, decoder: Decoder = "pyav", *, sound_required: bool = True
) -> DecodedClip[DecodedVideo]:
    """Read one clip: its sampled frames, cropped to the speaker's region, and its sound.

    Raises MediaError with the reason to drop the clip; for one without usable sound only if that is required.
    """
    with _validated(source):
        video, recorded = DECODERS[decoder].read(source, make_timeline)
    return _add_sound(source, _cut_frames(video, source.region), recorded, decoder, sound_required=sound_required)


def decode_frames(
    source: ClipSource,
    make_timeline: MakeTimeline,
    consume: Consume[_Video],
    decoder: Decoder = "pyav",
    *,
    sound_required: bool = True,
) -> DecodedClip[_Video]:
    """Read one clip as `decode` does, but give all of its frames to `consume`, uncut; `video` is what that returns."""
    with _validated(source):
        video, recorded = DECODERS[decoder].read_frames(source, make_timeline, consume)
    return _add_sound(source, video, recorded, decoder, sound_required=sound_required)


def decode_again(
    source: ClipSource,
    make_timeline: MakeTimeline,
    consume: Callable[[Iterator[tuple[int, Picture]]], _Result],
    decoder: Decoder,
) -> _Result:
    """Give the same frames, with their index, to another function."""
    with _validated(source):
        return DECODERS[decoder].read_frames(source, make_timeline, lambda _, pictures: consume(enumerate(pictures)))[0]


def _add_sound(
    source: ClipSource, video: _Video, recorded: DecodedSound, decoder: Decoder, *, sound_required: bool
) -> DecodedClip[_Video]:
    if isinstance(recorded, MediaError):
        recorded = MediaError(recorded.reason, f"{source.video.name}: {recorded.detail}")
    try:
        chosen = choose_sound(source, video.timeline, recorded, lambda: _read_sound_file(source, decoder))
    except MediaError as error:
        if sound_required:
            raise
        return _finish(source, video, ClipSound(sound=_silence(video.timeline)), error)
    return _finish(source, video, chosen)


def _finish(
    source: ClipSource, video: _Video, chosen: ClipSound, no_sound: MediaError | None = None
) -> DecodedClip[_Video]:
    flags = {*source.known_flags, *chosen.flags}
    if no_sound is None:
        flags |= _sound_flags(source, video.timeline, chosen.sound)
    return DecodedClip(
        video=video,
        sound=chosen.sound,
        flags=tuple(sorted(flags)),
        sound_file_used=chosen.from_file,
        alignment=chosen.alignment,
        no_sound=no_sound,
    )


@contextmanager
def _validated(source: ClipSource) -> Iterator[None]:
    """Raise MediaError unless the recording may be used; add the file's name to every MediaError."""
    if source.known_defect is not None:
        raise MediaError("known_defect", source.known_defect)
    with _regular_file(source.video):
        yield


@contextmanager
def _regular_file(path: Path) -> Iterator[None]:
    """Raise MediaError unless the path is a non-empty regular file; add the file's name to every MediaError."""
    try:
        if not path.is_file():
            raise MediaError("unreadable", "found no regular file, expected a recording")
        with path.open("rb") as file:
            head = file.read(40)
        if not head:
            raise MediaError("unreadable", "found 0 bytes, expected a recording")
        if head.startswith(b"version https://git-lfs"):
            raise MediaError("unreadable", "found a Git-LFS pointer; run git lfs pull")
        yield
    except MediaError as error:
        raise MediaError(error.reason, f"{path.name}: {error.detail}") from error


def _read_sound_file(source: ClipSource, decoder: Decoder) -> Sound:
    """Decode the separate sound file. Raises MediaError if there is none, or nothing in it."""
    if source.sound is None:
        found = "found no sound file" if source.sound_first else "found no sound in it, and there is no sound file"
        raise MediaError("no_audio", f"{source.video.name}: {found}")
    with _regular_file(source.sound):
        sound = DECODERS[decoder].read_sound(source.sound)
        if sound is None:
            raise MediaError("no_audio", "found no sound in it")
    return sound


def _silence(timeline: Timeline) -> Sound:
    start, end = timeline.span_seconds
    return Sound(samples=np.zeros(max(1, round((end - start) * SAMPLE_RATE_HZ)), np.int16), start_seconds=start)


def _sound_flags(source: ClipSource, timeline: Timeline, sound: Sound) -> set[str]:
    start, end = timeline.span_seconds
    first_seconds, last_seconds = sound.start_seconds, sound.end_seconds
    if source.context_seconds is not None:  # what surrounds the segment does not count
        first_seconds, last_seconds = max(first_seconds, start), min(last_seconds, end)
    flags = set()
    if abs(first_seconds - start) > MISMATCH_SECONDS or abs(last_seconds - end) > MISMATCH_SECONDS:
        flags.add("sound_length_mismatch")
    if sound.damaged:
        flags.add("sound_damaged")
    first = max(0, round((start - sound.start_seconds) * SAMPLE_RATE_HZ))
    audible = sound.samples[first : max(0, round((end - sound.start_seconds) * SAMPLE_RATE_HZ))]
    if not len(audible) or np.sqrt(np.mean(np.square(audible / 32768.0))) < SILENCE_RMS:
        flags.add("silent")
    return flags


def _cut_frames(video: DecodedVideo, region: Region) -> DecodedVideo:
    cut = [cut_region(frame, region) for frame in video.frames]
    return replace(video, frames=tuple(frame for frame, _ in cut), origin_px=cut[0][1])


def cut_region(frame: npt.NDArray[np.uint8], region: Region) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """The half of a picture that the speaker is in, and (x, y) of its top left corner."""
    if region == "full":
        return frame, (0, 0)
    width = frame.shape[1]
    columns = slice(0, width // 2) if region == "left" else slice(width // 2, width)
    return np.ascontiguousarray(frame[:, columns]), (columns.start, 0)
