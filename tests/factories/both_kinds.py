"""The same clips as a build of pairs and as one of sequences."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builder.report.sequences import decode_as_pairs
from manifests import sequence
from manifests.index import window_statistics
from manifests.kinds import PAIRS, SEQUENCES
from manifests.schema import SAMPLE_RATE_HZ, Clip, encode
from manifests.sequence import SequenceSample, SequenceTiming, encode_frame
from manifests.timeline import nearest_frames
from tests.factories.builder_shards import MadeClip, shard_folder
from tests.factories.samples import sequence_sample
from tests.factories.shards import SETTINGS

#: Of `SETTINGS`, and what a build of sequences adds to them.
ALL_FRAMES = {**SETTINGS, "frames": "all", "size_px": 224, "rate_hz": None}
SPEAKERS = ("anna", "ben", "cleo", "dora")
FRAMES = 40


def moving_crops(clip: Clip, side_px: int = 224) -> npt.NDArray[np.uint8]:
    """[40, side, side, 3] smooth colours that drift, on both edges alike, as the background of a face is."""
    rng = np.random.default_rng(zlib.crc32(clip.clip_id.encode()))
    start, end = colours = rng.integers(30, 220, (2, 6, 6, 3)).astype(np.float32)
    colours[:, :, -1] = colours[:, :, 0]
    crops = [
        cv2.resize(start + (end - start) * i / (FRAMES - 1), (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        for i in range(FRAMES)
    ]
    return np.clip(crops, 0, 255).astype(np.uint8)


def moving_sample(clip: Clip, side_px: int = 224, **changes: Any) -> SequenceSample:
    """A clip of 40 frames in 1.6 s from 0.05 s on, `moving_crops` and a tone that rises."""
    rng = np.random.default_rng(zlib.crc32(clip.clip_id.encode()))
    seconds = np.arange(round(1.7 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * (rng.uniform(200, 400) + 500 * seconds) * seconds)
    options = {
        "timing": SequenceTiming(
            span_seconds=(0.05, 0.05 + 0.04 * FRAMES),
            frame_seconds=tuple(0.05 + 0.04 * i for i in range(FRAMES)),
            rate_hz=0.0,
            audio_start_seconds=-0.02,
        ),
        "jpegs": tuple(map(encode_frame, moving_crops(clip, side_px))),
        "audio": (8000 * tone + rng.normal(0, 200, len(seconds))).astype(np.int16),
        "flags": (),
    }
    return sequence_sample(clip, count=FRAMES, side_px=side_px, **(options | changes))


def folder_of(
    out: Path,
    kind: str,
    *,
    side_px: int = 224,
    rate_hz: float | None = None,
    speakers: Sequence[str] = SPEAKERS,
    **changes: Any,
) -> Path:
    """A finished build of `moving_sample`s, two of each speaker."""
    make = partial(_make, kind=kind, side_px=side_px, changes=changes)
    settings = SETTINGS if kind == PAIRS else {**ALL_FRAMES, "size_px": side_px, "rate_hz": rate_hz}
    if "faces_present" in changes:
        settings = {**settings, "keep": "incomplete"}
    return shard_folder(out, speakers=speakers, drops=False, kind=kind, settings=settings, make=make)


def both_folders(root: Path) -> tuple[Path, Path]:
    """Pairs and sequences of the same clips."""
    return folder_of(root / "pairs", PAIRS), folder_of(root / "sequences", SEQUENCES)


def _make(clip: Clip, kind: str, side_px: int, changes: dict[str, Any]) -> MadeClip:
    made = moving_sample(clip, side_px, **changes)
    members = sequence.encode(made)
    pairs = decode_as_pairs(members, ("mfcc",))
    statistics = window_statistics(pairs.spectrograms, {})
    if kind == SEQUENCES:
        return members, made.flags, statistics
    shown = nearest_frames(np.array(made.timing.frame_seconds), pairs.timing.instants_seconds)
    return encode(replace(pairs, faces=moving_crops(clip)[shown])), made.flags, statistics
