"""What a build of sequences will take, estimated from a few recordings: their clips differ in frames, unlike pairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from builder.config import BuildConfig
from builder.datasets.base import ClipSource

#: Recordings that are opened, evenly spaced over the corpus, and the frames of a clip if none can be opened.
PROBED, USUAL_FRAMES = 12, 75
#: Bytes of a frame by the crop's side, of its line in the json, and of a second of sound: means over real clips.
FRAME_BYTES = {224: 13_500, 160: 8_500, 112: 5_400, 96: 4_500}
JSON_BYTES, SOUND_BYTES = 140, 18_000
#: CPU time of a frame and of a pixel of it, and of a clip.
FRAME_SECONDS, PIXEL_SECONDS, CLIP_SECONDS = 0.0025, 8e-9, 0.03


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Means over the clips that were looked at."""

    frames: float
    """Frames of a clip that are stored."""
    bytes: float
    """Of a clip's sample."""
    core_seconds: float
    """CPU time of a clip."""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What the packets of a recording say, without decoding them."""

    frames: int
    seconds: float
    pixels: int


def estimate_sequences(sources: Sequence[ClipSource], config: BuildConfig) -> Estimate:
    """Estimate a clip of a build, from some of its recordings."""
    chosen = np.unique(np.linspace(0, len(sources) - 1, PROBED).round().astype(int)) if sources else []
    found = [estimate for i in chosen if (estimate := _estimate(sources[i], config)) is not None]
    if not found:
        return _of(USUAL_FRAMES, USUAL_FRAMES, USUAL_FRAMES / 25, 640 * 480, config)
    means = np.mean([(each.frames, each.bytes, each.core_seconds) for each in found], axis=0).tolist()
    return Estimate(frames=means[0], bytes=means[1], core_seconds=means[2])


def _estimate(source: ClipSource, config: BuildConfig) -> Estimate | None:
    probe = _probe(source.video)
    if probe is None:
        return None
    seconds = probe.seconds
    if source.segment_seconds is not None:
        seconds = min(seconds, source.segment_seconds[1] - source.segment_seconds[0])
    decoded = probe.frames * seconds / probe.seconds
    stored = decoded if config.rate_hz is None else seconds * config.rate_hz
    return _of(stored, decoded, seconds, probe.pixels, config)


def _of(stored: float, decoded: float, seconds: float, pixels: float, config: BuildConfig) -> Estimate:
    return Estimate(
        frames=stored,
        bytes=stored * (FRAME_BYTES[config.size_px] + JSON_BYTES) + seconds * SOUND_BYTES,
        core_seconds=CLIP_SECONDS + stored * FRAME_SECONDS + decoded * pixels * PIXEL_SECONDS,
    )


@lru_cache(maxsize=64)  # turns of a dialogue share a recording
def _probe(path: Path) -> _Probe | None:
    """None for what is missing or no recording: the build will say so."""
    with suppress(OSError, av.FFmpegError, IndexError), path.open("rb") as file, av.open(file) as container:
        stream = container.streams.video[0]
        times = [p.pts * p.time_base for p in container.demux(stream) if p.size and p.pts is not None]
        if len(times) > 1:
            seconds = float(max(times) - min(times)) * len(times) / (len(times) - 1)
            size = stream.codec_context.width * stream.codec_context.height
            return _Probe(frames=len(times), seconds=max(seconds, 0.04), pixels=size)
    return None
