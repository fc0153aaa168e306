"""A clip's files -> its 16 frames, their times, and its sound, decoded once for all features.

PyAV is the default decoder; an ffmpeg process is the alternative, with the same interface.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from builder.config import Decoder
from builder.datasets.base import ClipSource, Region
from builder.decoders import ffmpeg, pyav
from builder.decoders.base import DecodedVideo, MakeTimeline, MediaError, Sound
from manifests.schema import SAMPLE_RATE_HZ

DECODERS = {"pyav": pyav, "ffmpeg": ffmpeg}

#: Difference between the start or end times of sound and picture above which the clip is flagged.
MISMATCH_SECONDS = 0.5
#: Root mean square, relative to full scale, below which sound counts as silent (-80 dB).
SILENCE_RMS = 1e-4


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """A decoded recording, cut to what one clip needs."""

    video: DecodedVideo
    origin_px: tuple[int, int]
    """(x, y) of the frames' top left corner in the recorded picture; not (0, 0) where only a region is used."""
    sound: Sound
    flags: tuple[str, ...]
    """Sorted keys of `manifests.schema.FLAGS`."""


def decode(source: ClipSource, make_timeline: MakeTimeline, decoder: Decoder = "pyav") -> DecodedClip:
    """Read one clip: its sampled frames, cropped to the speaker's region, and its sound.

    Raises MediaError with the reason to drop the clip.
    """
    if source.known_defect is not None:
        raise MediaError("known_defect", source.known_defect)
    with _validated(source.video):
        video, sound = DECODERS[decoder].read(source, make_timeline)
    flags = set(source.known_flags)
    if sound is None:
        sound = _separate_sound(source, video, decoder)
        flags.add("sound_from_file")
    flags.update(_sound_flags(video, sound))
    video, origin_px = _cut_region(video, source.region)
    return DecodedClip(video=video, origin_px=origin_px, sound=sound, flags=tuple(sorted(flags)))


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


def _separate_sound(source: ClipSource, video: DecodedVideo, decoder: Decoder) -> Sound:
    """Decode the separate sound file of a recording without sound; it starts where the clip starts."""
    if source.sound is None:
        raise MediaError("no_audio", f"{source.video.name}: found no sound in it, and there is no sound file")
    with _validated(source.sound):
        sound = DECODERS[decoder].read_sound(source.sound)
        if sound is None:
            raise MediaError("no_audio", "found no sound in it")
    start = source.segment_seconds[0] if source.segment_seconds else video.timeline.span_seconds[0]
    return replace(sound, start_seconds=start)


def _sound_flags(video: DecodedVideo, sound: Sound) -> set[str]:
    start, end = video.timeline.span_seconds
    flags = set()
    if abs(sound.start_seconds - start) > MISMATCH_SECONDS or abs(sound.end_seconds - end) > MISMATCH_SECONDS:
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
