"""Samples of sequences for the report: as a build of pairs would show them, and all of their frames in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from builder.spectrograms import spectrograms
from builder.timeline import uniform
from manifests import sequence
from manifests.schema import CROP_PX, Sample, SchemaError, Timing
from manifests.sequence import decode_frame
from manifests.timeline import nearest_frames

#: Side of a frame in the picture of all of them, and most frames in it: browsers and WebP limit its width.
_STRIP_PX, _STRIP_FRAMES = 56, 240
_LONGEST_SECONDS = 24 * 3600.0


def decode_as_pairs(members: Mapping[str, bytes], features: Sequence[str]) -> Sample:
    """A sample with the frames nearest to 16 instants, and the spectrograms of the sound around them.

    Raises SchemaError for members that cannot be decoded.
    """
    made = sequence.decode(members)
    timing = made.timing
    start, end = timing.span_seconds
    if end - start > _LONGEST_SECONDS:
        raise SchemaError(f"json: found span {timing.span_seconds}, expected at most a day")
    timeline = uniform(np.array([start, end]), end)
    chosen = nearest_frames(np.array(timing.frame_seconds), timeline.instants_seconds).tolist()
    faces = [decode_frame(made.jpegs[i], made.side_px) for i in chosen]
    if made.side_px != CROP_PX:
        faces = [cv2.resize(face, (CROP_PX, CROP_PX), interpolation=cv2.INTER_LINEAR) for face in faces]
    return Sample(
        clip=made.clip,
        timing=Timing(
            span_seconds=timing.span_seconds,
            instants_seconds=timeline.instants_seconds,
            frame_seconds=tuple(timing.frame_seconds[i] for i in chosen),
            step_seconds=timeline.step_seconds,
            audio_start_seconds=timing.audio_start_seconds,
        ),
        faces=np.stack(faces),
        spectrograms=spectrograms(made.audio, timing.audio_start_seconds, timeline, features),
        audio=made.audio,
        transforms=tuple(made.transforms[i] for i in chosen),
        face_found=tuple(made.face_found[i] for i in chosen),
        flags=made.flags,
        source=made.source,
    )


def draw_all_frames(members: Mapping[str, bytes]) -> npt.NDArray[np.uint8]:
    """[56, 56 n, 3] all frames side by side, of long clips 240 that are evenly spaced. Raises SchemaError."""
    made = sequence.decode(members)
    count = len(made.jpegs)
    chosen = np.linspace(0, count - 1, min(count, _STRIP_FRAMES)).round().astype(int)
    size = (_STRIP_PX, _STRIP_PX)
    frames = [cv2.resize(decode_frame(made.jpegs[i], made.side_px), size, interpolation=cv2.INTER_AREA) for i in chosen]
    return np.concatenate(frames, axis=1).astype(np.uint8)
