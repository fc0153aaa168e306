"""What a build will take, estimated from a few recordings of the corpus, which are opened but not decoded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np

from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from manifests.kinds import PAIRS
from manifests.schema import COLUMNS, FEATURE_ROWS, GRIDS

#: Recordings that are opened, evenly spaced over the corpus, and packets of picture that are read of each.
PROBED, MOST_PACKETS = 12, 2000
#: A clip if no recording can be opened.
USUAL_FRAMES, USUAL_RATE_HZ, USUAL_PIXELS = 75, 25, 640 * 480
#: Bytes of a frame by the crop's side, of its line in the json, and of a second of sound: means over real clips.
FRAME_BYTES = {224: 13_500, 160: 8_500, 112: 5_400, 96: 4_500}
JSON_BYTES, SOUND_BYTES = 140, 18_000
#: Of pairs, the filmstrip, the json, and what a tar adds to five members: means over the same clips.
FILMSTRIP_BYTES, PAIR_BYTES = 205_000, 6_000


@dataclass(frozen=True, kw_only=True)
class CpuSeconds:
    """CPU time of a clip, of a frame of it, and of a pixel of each frame."""

    clip: float
    frame: float
    pixel: float


#: Fitted to builds of 14 clips of CREMA-D, GRID, MEAD (1080p) and VoxCeleb2, of sequences of 13 of them: the mean of
#: each corpus is within 7 % of the fit, of sequences within 24 %. Machines differ by a factor of two.
PAIRS_CPU = CpuSeconds(clip=0.025, frame=0.00015, pixel=3.25e-9)
SEQUENCES_CPU = CpuSeconds(clip=0.0, frame=0.0009, pixel=9.25e-9)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Means over the clips that were looked at."""

    frames: float
    """Frames of a clip: of pairs those of the recording, of sequences those that are stored."""
    bytes: float
    """Of a clip's sample."""
    core_seconds: float
    """CPU time of a clip."""
    opened: int = 0
    """Clips whose recording could be opened; with none of them, the others are those of a usual clip."""
    tried: int = 0
    """Clips whose recording was to be opened."""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What the packets of a recording say, without decoding them."""

    frames: float
    seconds: float
    pixels: int


def estimate_clip(sources: Sequence[ClipSource], config: BuildConfig) -> Estimate:
    """Estimate a clip of a build, from some of its recordings; those that cannot be opened do not count."""
    chosen = np.unique(np.linspace(0, len(sources) - 1, PROBED).round().astype(int)) if sources else []
    found = [estimate for i in chosen if (estimate := _estimate(sources[i], config)) is not None]
    opened = len(found)
    if not found:
        found = [_of(USUAL_FRAMES, USUAL_FRAMES, USUAL_FRAMES / USUAL_RATE_HZ, USUAL_PIXELS, config)]
    means = np.mean([(each.frames, each.bytes, each.core_seconds) for each in found], axis=0).tolist()
    return Estimate(frames=means[0], bytes=means[1], core_seconds=means[2], opened=opened, tried=len(chosen))


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
    if config.kind == PAIRS:
        spectrograms = sum(FEATURE_ROWS[feature] for feature in config.features) * COLUMNS * sum(GRIDS) * 2
        size, cpu = FILMSTRIP_BYTES + PAIR_BYTES + spectrograms, PAIRS_CPU
    else:
        size, cpu = stored * (FRAME_BYTES[config.size_px] + JSON_BYTES), SEQUENCES_CPU
    return Estimate(
        frames=stored,
        bytes=size + seconds * SOUND_BYTES,
        core_seconds=cpu.clip + stored * cpu.frame + decoded * pixels * cpu.pixel,
    )


@lru_cache(maxsize=64)  # turns of a dialogue share a recording
def _probe(path: Path) -> _Probe | None:
    """None for what is missing or no recording: the build will say so. Of a long recording only the start is read."""
    with suppress(OSError, av.FFmpegError, IndexError):
        if not path.is_file():  # opening a pipe would wait for a writer
            return None
        with path.open("rb") as file, av.open(file) as container:
            stream = container.streams.video[0]
            packets = (p for p in container.demux(stream) if p.size and p.pts is not None)
            times = [p.pts * p.time_base for p in islice(packets, MOST_PACKETS)]
            if len(times) < 2:
                return None
            seconds = max(float(max(times) - min(times)) * len(times) / (len(times) - 1), 0.04)
            frames = float(len(times))
            if len(times) == MOST_PACKETS and container.duration:
                whole = max(seconds, container.duration / av.time_base)
                frames, seconds = frames * whole / seconds, whole
            size = stream.codec_context.width * stream.codec_context.height
            return _Probe(frames=frames, seconds=seconds, pixels=size)
    return None
