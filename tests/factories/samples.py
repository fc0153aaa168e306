"""Samples made without any recording, nor the builder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from manifests.schema import Clip, Sample, Timing, spectrogram_shape
from manifests.sequence import SequenceSample, SequenceTiming, encode_frame
from manifests.tokens import Codebooks, TokenSample, TokenTiming


def sample(clip: Clip | None = None, features: Sequence[str] = ("mfcc",), **changes: Any) -> Sample:
    """A sample whose content depends on the clip's id alone; `changes` replace fields."""
    clip = clip or Clip(clip_id="anna-joy", speaker="anna", emotion="joy", sentence="hello")
    rng = np.random.default_rng(zlib.crc32(clip.clip_id.encode()))
    fields = {
        "clip": clip,
        "timing": timing(),
        "faces": np.repeat(np.repeat(rng.integers(0, 256, (16, 14, 14, 3), np.uint8), 16, axis=1), 16, axis=2),
        "spectrograms": {
            f"{feature}_{grid}": rng.normal(-40, 20, spectrogram_shape(f"{feature}_{grid}")).astype(np.float16)
            for feature in features
            for grid in (16, 8)
        },
        "audio": rng.integers(-3000, 3000, 4000, np.int16),
        "transforms": ((0.5, -0.1, 3.25, 0.1, 0.5, 7.75),) * 16,
        "face_found": (True,) * 15 + (False,),
        "flags": ("faces_missing",),
        "source": {"path": f"{clip.clip_id}.mp4", "sha256": "0" * 64, "decoder": "pyav"},
    }
    return Sample(**(fields | changes))


def timing() -> Timing:
    """Instants of a clip of 1.6 s that begins at 0.05 s."""
    return Timing(
        span_seconds=(0.05, 1.65),
        instants_seconds=tuple(0.1 + 0.1 * i for i in range(16)),
        frame_seconds=tuple(0.11 + 0.1 * i for i in range(16)),
        step_seconds=0.1,
        audio_start_seconds=-0.02,
    )


def sequence_sample(clip: Clip | None = None, count: int = 5, side_px: int = 224, **changes: Any) -> SequenceSample:
    """A sample of so many frames, 0.04 s apart, whose content depends on the clip's id alone."""
    clip = clip or Clip(clip_id="anna-joy", speaker="anna", emotion="joy", sentence="hello")
    rng = np.random.default_rng(zlib.crc32(clip.clip_id.encode()))
    tiles = rng.integers(0, 256, (count, side_px // 16, side_px // 16, 3), np.uint8)
    crops = np.repeat(np.repeat(tiles, 16, axis=1), 16, axis=2)
    fields = {
        "clip": clip,
        "timing": SequenceTiming(
            span_seconds=(0.05, 0.05 + 0.04 * count),
            frame_seconds=tuple(0.05 + 0.04 * i for i in range(count)),
            rate_hz=0.0,
            audio_start_seconds=-0.02,
        ),
        "jpegs": tuple(encode_frame(crop) for crop in crops),
        "side_px": side_px,
        "audio": rng.integers(-3000, 3000, 4000, np.int16),
        "transforms": ((0.5, -0.1, 3.25, 0.1, 0.5, 7.75),) * count,
        "face_found": (True,) * (count - 1) + (False,),
        "flags": ("faces_missing",),
        "source": {"path": f"{clip.clip_id}.mp4", "sha256": "0" * 64, "decoder": "pyav"},
    }
    return SequenceSample(**(fields | changes))


def token_sample(clip: Clip | None = None, faces: int = 5, spectra: int = 11, **changes: Any) -> TokenSample:
    """A sample of codes of so many faces and spectra, whose content depends on the clip's id alone."""
    clip = clip or Clip(clip_id="anna-joy", speaker="anna", emotion="joy", sentence="hello")
    rng = np.random.default_rng(zlib.crc32(clip.clip_id.encode()))
    fields = {
        "clip": clip,
        "timing": TokenTiming(
            span_seconds=(0.05, 0.05 + 0.04 * faces),
            frame_seconds=tuple(0.05 + 0.04 * i for i in range(faces)),
            rate_hz=25.0,
            audio_start_seconds=-0.02,
            spectra_hz=50.0,
        ),
        "visual": rng.integers(0, 512, (faces, 24, 24), np.uint16),
        "audio": rng.integers(0, 256, (spectra, 64), np.uint8),
        "codebooks": Codebooks(audio=256, visual=512),
        "tokenizer": "f" * 64,
        "face_found": (True,) * (faces - 1) + (False,),
        "flags": ("faces_missing",),
        "source": {"path": f"{clip.clip_id}.mp4", "sha256": "0" * 64, "decoder": "pyav"},
    }
    return TokenSample(**(fields | changes))
