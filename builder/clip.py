"""Builds one clip: from its files to the encoded members of its sample, or the reason to drop it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builder import faces, media
from builder.clip_result import ClipResult, Sha256, drop_clip, recorded_row, recording_sha256, relative_name
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from builder.faces import FaceFinder
from builder.media import MediaError
from builder.spectrograms import sound_present, spectrograms
from manifests.index import KEEP_INCOMPLETE, Row, window_statistics
from manifests.schema import CROP_PX, FRAMES, Sample, SchemaError, Timing, encode

#: A clip with faces in fewer than this many of its 16 frames counts as one without faces.
MIN_FACES = FRAMES // 2


class ClipBuilder:
    """Builds clips one after another. It loads the face models, so create one per process."""

    def __init__(self, config: BuildConfig, root: Path) -> None:
        cv2.setNumThreads(1)  # the pool has a process per core; more threads would compete for the cores
        self._config = config
        self._root = root
        self.finder = FaceFinder()
        self._sha256 = lru_cache(maxsize=64)(recording_sha256)  # turns of a dialogue share a recording

    def build(self, source: ClipSource) -> ClipResult:
        """Build a clip; a problem with its recording is recorded in the row, not raised."""
        row = recorded_row(source, self._root, self._sha256)
        try:
            sample = self.sample(source)
            members = encode(sample)
        except MediaError as error:
            return drop_clip(row, error.reason, error.detail)
        except SchemaError as error:
            return drop_clip(row, "decode_error", str(error))
        except OSError as error:
            return drop_clip(row, "unreadable", f"{source.video.name}: {error.strerror or error}")
        except MemoryError:
            return drop_clip(row, "worker_died", "the clip needs more memory than a worker may take")
        return ClipResult(
            row=replace(
                row,
                status="flagged" if sample.flags else "built",
                flags=sample.flags,
                faces_found=sum(sample.face_found),
                sound_sha256=_kept_sha256(row, sample),
            ),
            members=members,
            statistics=window_statistics(sample.spectrograms, sample.sound_present or {}),
        )

    def sample(self, source: ClipSource) -> Sample:
        """Decode, find faces, align, compute spectrograms. Raises MediaError with the reason to drop the clip."""
        masked = self._config.keep == KEEP_INCOMPLETE
        clip = media.decode(source, self._config.make_timeline, self._config.decoder, sound_required=not masked)
        timeline, sound = clip.video.timeline, clip.sound
        heard = sound_present(sound.samples, sound.start_seconds, timeline) if masked else {}
        no_sound = any(not present.any() for present in heard.values())
        followed = self.finder.follow(clip.video.frames)
        found = followed.found
        no_face = found.sum() < MIN_FACES
        if no_face and (no_sound or not masked):
            detail = f"found a face in {found.sum()} of {FRAMES} frames, expected at least {MIN_FACES}"
            if no_sound:
                detail += f"; {clip.no_sound.detail if clip.no_sound else 'the sound is silent'}"
            raise MediaError("no_face", detail)
        flags = set(clip.flags)
        flags |= {flag for flag, holds in (("no_face", no_face), ("no_sound", no_sound)) if holds}
        if not found.all() and not no_face:
            flags.add("faces_missing")
        if followed.several:
            flags.add("several_faces")
        if found.any():
            maps = faces.transforms(followed, clip.video.frame_seconds, self._config.crop, self._config.align)
            fill = faces.FILL.get(self._config.crop, 0)
            crops = [faces.warp(frame, matrix, fill) for frame, matrix in zip(clip.video.frames, maps, strict=True)]
        else:
            maps, crops = np.zeros((FRAMES, 2, 3)), [np.zeros((CROP_PX, CROP_PX, 3), dtype=np.uint8)] * FRAMES
        shown = found if no_face else np.ones(FRAMES, dtype=bool)
        pictures = np.stack(crops)
        pictures[~shown] = 0
        return Sample(
            clip=source.clip,
            timing=Timing(
                span_seconds=timeline.span_seconds,
                instants_seconds=timeline.instants_seconds,
                frame_seconds=clip.video.frame_seconds,
                step_seconds=timeline.step_seconds,
                audio_start_seconds=sound.start_seconds,
            ),
            faces=pictures,
            spectrograms=spectrograms(sound.samples, sound.start_seconds, timeline, self._config.features),
            audio=sound.samples,
            transforms=_round_maps(maps, clip.origin_px, clip.video.reductions),
            face_found=tuple(found.tolist()),
            flags=tuple(sorted(flags)),
            source=_provenance(source, self._root, self._sha256, clip.sound_file_used)
            | {"decoder": self._config.decoder, **clip.alignment},
            faces_present=tuple(shown.tolist()) if masked else None,
            sound_present={grid: tuple(present.tolist()) for grid, present in heard.items()} if masked else None,
        )


def _provenance(source: ClipSource, root: Path, sha256: Sha256, sound_used: bool) -> dict[str, Any]:
    provenance: dict[str, Any] = {"path": relative_name(source.video, root), "sha256": sha256(source.video)}
    if sound_used and source.sound is not None:
        provenance |= {"sound_path": relative_name(source.sound, root), "sound_sha256": sha256(source.sound)}
    if source.segment_seconds is not None:
        provenance["segment_seconds"] = source.segment_seconds
    if source.region != "full":
        provenance["region"] = source.region
    return provenance


def _kept_sha256(row: Row, sample: Sample) -> str | None:
    """Hash of a sound file that a change of the file must show in: one that was used, or was to be and is unusable."""
    unusable = "sound_from_recording" in sample.flags
    return row.sound_sha256 if unusable else sample.source.get("sound_sha256")


def _round_maps(
    maps: faces.Points, origin_px: tuple[int, int], reductions: tuple[tuple[float, float], ...]
) -> tuple[tuple[float, ...], ...]:
    """Maps from pixels of the full recorded frame, row-major, rounded to six decimals."""
    shifted = maps.copy()
    shifted[:, :, 2] -= maps[:, :, :2] @ np.asarray(origin_px, dtype=np.float64)
    for matrix, reduction in zip(shifted, reductions, strict=True):
        if reduction != (1.0, 1.0):  # the middle of pixel x of the recording is at (x + 0.5) / reduction - 0.5
            matrix[:, :2] /= reduction
            matrix[:, 2] += matrix[:, :2] @ (0.5 - 0.5 * np.asarray(reduction))
    return tuple(tuple(np.round(m, 6).ravel().tolist()) for m in shifted)
