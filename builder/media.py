"""A clip's files -> its 16 frames, their times, and its sound, decoded once for all features.

PyAV is the default decoder; an ffmpeg process is the alternative, with the same interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from builder.config import Decoder
from builder.datasets.base import ClipSource, Region
from builder.decoders import ffmpeg, pyav
from builder.decoders.base import DecodedVideo, MakeTimeline, MediaError, Sound
from builder.sound import MISMATCH_SECONDS, ClipSound, choose_sound
from builder.spectrograms import SILENCE_RMS
from manifests.schema import SAMPLE_RATE_HZ

DECODERS = {"pyav": pyav, "ffmpeg": ffmpeg}


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A decoded recording, cut to what one clip needs."""

    video: DecodedVideo
    origin_px: tuple[int, int]
    """(x, y) of the frames' top left corner in the recorded picture; not (0, 0) where only a region is used."""
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
) -> DecodedClip:
    """Read one clip: its sampled frames, cropped to the speaker's region, and its sound.

    Raises MediaError with the reason to drop the clip; for one without usable sound only if that is required.
    """
    if source.known_defect is not None:
        raise MediaError("known_defect", source.known_defect)
    with _validated(source.video):
        video, recorded = DECODERS[decoder].read(source, make_timeline)
    if isinstance(recorded, MediaError):
        recorded = MediaError(recorded.reason, f"{source.video.name}: {recorded.detail}")
    try:
        chosen = choose_sound(source, video.timeline, recorded, lambda: _read_sound_file(source, decoder))
    except MediaError as error:
        if sound_required:
            raise
        return _finish(source, video, ClipSound(sound=_silence(video)), error)
    return _finish(source, video, chosen)


def _finish(
    source: ClipSource, video: DecodedVideo, chosen: ClipSound, no_sound: MediaError | None = None
) -> DecodedClip:
    flags = {*source.known_flags, *chosen.flags}
    if no_sound is None:
        flags |= _sound_flags(source, video, chosen.sound)
    video, origin_px = _cut_region(video, source.region)
    return DecodedClip(
        video=video,
        origin_px=origin_px,
        sound=chosen.sound,
        flags=tuple(sorted(flags)),
        sound_file_used=chosen.from_file,
        alignment=chosen.alignment,
        no_sound=no_sound,
    )


@contextmanager
def _validated(path: Path) -> Iterator[None]:
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
    with _validated(source.sound):
        sound = DECODERS[decoder].read_sound(source.sound)
        if sound is None:
            raise MediaError("no_audio", "found no sound in it")
    return sound


def _silence(video: DecodedVideo) -> Sound:
    start, end = video.timeline.span_seconds
    return Sound(samples=np.zeros(max(1, round((end - start) * SAMPLE_RATE_HZ)), np.int16), start_seconds=start)


def _sound_flags(source: ClipSource, video: DecodedVideo, sound: Sound) -> set[str]:
    start, end = video.timeline.span_seconds
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


def _cut_region(video: DecodedVideo, region: Region) -> tuple[DecodedVideo, tuple[int, int]]:
    """Keep the half of the picture that the speaker is in."""
    if region == "full":
        return video, (0, 0)
    width = video.frames[0].shape[1]
    columns = slice(0, width // 2) if region == "left" else slice(width // 2, width)
    frames = tuple(np.ascontiguousarray(frame[:, columns]) for frame in video.frames)
    return replace(video, frames=frames), (columns.start, 0)
