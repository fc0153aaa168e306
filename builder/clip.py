"""Builds one clip: from its files to the encoded members of its sample, or the reason to drop it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builder import faces, media
from builder.clip_result import ClipResult, Sha256, drop_clip, recorded_row, recording_sha256, relative_name
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from builder.decoders.base import PartNotKept
from builder.faces import FaceFinder
from builder.media import DecodedClip, MediaError
from builder.sequence import encode_crops, frame_maps, survey_frames
from builder.spectrograms import spectrograms
from manifests import schema, sequence
from manifests.index import KEEP_INCOMPLETE, Row, SpectrogramSums, window_statistics
from manifests.kinds import PAIRS, SEQUENCES
from manifests.schema import CROP_PX, FRAMES, Sample, SchemaError, Timing
from manifests.sequence import SequenceSample, SequenceTiming
from manifests.silence import is_heard, sound_present

#: A clip with faces in less than this fraction of the frames that are looked at counts as one without faces.
MIN_FACES = 0.5


@dataclass(frozen=True, kw_only=True)
class BuiltSample:
    """A sample of any kind, encoded, and what the index records of it."""

    members: Mapping[str, bytes]
    flags: tuple[str, ...]
    faces_found: int
    source: Mapping[str, Any]
    statistics: Mapping[str, SpectrogramSums]


class ClipBuilder:
    """Builds clips one after another. It loads the face models, so create one per process."""

    def __init__(self, config: BuildConfig, root: Path) -> None:
        cv2.setNumThreads(1)  # the pool has a process per core; more threads would compete for the cores
        self._config = config
        self._root = root
        self.finder = FaceFinder()
        self._sha256 = lru_cache(maxsize=64)(recording_sha256)  # turns of a dialogue share a recording
        self._build = {PAIRS: self._build_pairs, SEQUENCES: self._build_sequence}[config.kind]

    def build(self, source: ClipSource) -> ClipResult:
        """Build a clip; a problem with its recording is recorded in the row, not raised."""
        row = recorded_row(source, self._root, self._sha256)
        try:
            built = self._build(source)
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
                status="flagged" if built.flags else "built",
                flags=built.flags,
                faces_found=built.faces_found,
                sound_sha256=_kept_sha256(row, built),
            ),
            members=built.members,
            statistics=built.statistics,
        )

    def _build_pairs(self, source: ClipSource) -> BuiltSample:
        sample = self.sample(source)
        return BuiltSample(
            members=schema.encode(sample),
            flags=sample.flags,
            faces_found=sum(sample.face_found),
            source=sample.source,
            statistics=window_statistics(sample.spectrograms, sample.sound_present or {}),
        )

    def _build_sequence(self, source: ClipSource) -> BuiltSample:
        sample, statistics = self.sequence(source)
        return BuiltSample(
            members=sequence.encode(sample),
            flags=sample.flags,
            faces_found=sum(sample.face_found),
            source=sample.source,
            statistics=statistics,
        )

    def sample(self, source: ClipSource) -> Sample:
        """Decode, find faces, align, compute spectrograms. Raises MediaError with the reason to drop the clip."""
        config, masked = self._config, self._config.keep == KEEP_INCOMPLETE
        clip = media.decode(source, config.make_timeline, config.decoder, sound_required=not masked)
        timeline, sound = clip.video.timeline, clip.sound
        heard = sound_present(sound.samples, sound.start_seconds, timeline) if masked else {}
        followed = self.finder.follow(clip.video.frames)
        found = followed.found
        flags = _check_faces(clip, found, heard, masked=masked)
        if followed.several:
            flags.add("several_faces")
        if found.any():
            maps = faces.transforms(followed, clip.video.frame_seconds, config.crop, config.align)
            fill = faces.FILL.get(config.crop, 0)
            crops = [faces.warp(frame, matrix, fill) for frame, matrix in zip(clip.video.frames, maps, strict=True)]
        else:
            maps, crops = np.zeros((FRAMES, 2, 3)), [np.zeros((CROP_PX, CROP_PX, 3), dtype=np.uint8)] * FRAMES
        shown = found if "no_face" in flags else np.ones(FRAMES, dtype=bool)
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
            spectrograms=spectrograms(sound.samples, sound.start_seconds, timeline, config.features),
            audio=sound.samples,
            transforms=_round_maps(maps, clip.video.origin_px, clip.video.reductions),
            face_found=tuple(found.tolist()),
            flags=tuple(sorted(flags)),
            source=self._describe_source(source, clip),
            faces_present=tuple(shown.tolist()) if masked else None,
            sound_present={grid: tuple(present.tolist()) for grid, present in heard.items()} if masked else None,
        )

    def sequence(self, source: ClipSource) -> tuple[SequenceSample, dict[str, SpectrogramSums]]:
        """The same with every frame instead of 16, and the sums over the spectrograms that `sample` would have."""
        config, masked = self._config, self._config.keep == KEEP_INCOMPLETE
        survey = partial(survey_frames, finder=self.finder, config=config, region=source.region)
        clip = media.decode_frames(source, config.make_timeline, survey, config.decoder, sound_required=not masked)
        surveyed, plan, sound = clip.video, clip.video.plan, clip.sound
        heard = sound_present(sound.samples, sound.start_seconds, plan.timeline) if masked else {}
        flags = _check_faces(clip, surveyed.anchors_found, heard, masked=masked)
        if surveyed.sampled.several:
            flags.add("several_faces")
        found, count = surveyed.found, len(plan.shown)
        seconds, step = np.array(plan.times(plan.shown)), plan.timeline.step_seconds
        maps = frame_maps(surveyed, config) if surveyed.sampled.found.any() else np.zeros((count, 2, 3))
        shown = found if "no_face" in flags else np.ones(count, dtype=bool)
        encode = partial(encode_crops, plan=plan, maps=maps, present=shown, config=config, region=source.region)
        try:
            if surveyed.kept is None:
                raise PartNotKept
            jpegs = encode(surveyed.kept.items())
        except PartNotKept:
            jpegs = media.decode_again(source, config.make_timeline, encode, config.decoder)
        windows = spectrograms(sound.samples, sound.start_seconds, plan.timeline, config.features)
        sounding = is_heard(sound.samples, sound.start_seconds, seconds - step, 2 * step)
        sample = SequenceSample(
            clip=source.clip,
            timing=SequenceTiming(
                span_seconds=plan.timeline.span_seconds,
                frame_seconds=tuple(seconds.tolist()),
                rate_hz=config.rate_hz or 0.0,
                audio_start_seconds=sound.start_seconds,
            ),
            jpegs=jpegs,
            side_px=config.size_px,
            audio=sound.samples,
            transforms=_round_maps(maps, surveyed.origin_px, surveyed.reductions),
            face_found=tuple(found.tolist()),
            flags=tuple(sorted(flags)),
            source=self._describe_source(source, clip),
            faces_present=tuple(shown.tolist()) if masked else None,
            sound_present=tuple(sounding.tolist()) if masked else None,
        )
        return sample, window_statistics(windows, heard)

    def _describe_source(self, source: ClipSource, clip: DecodedClip[Any]) -> dict[str, Any]:
        provenance = _provenance(source, self._root, self._sha256, clip.sound_file_used)
        return provenance | {"decoder": self._config.decoder, **clip.alignment}


def _check_faces(
    clip: DecodedClip[Any], found: npt.NDArray[np.bool_], heard: Mapping[str, npt.NDArray[np.bool_]], *, masked: bool
) -> set[str]:
    """Flags of a clip with faces in these frames. Raises MediaError where there are too few; `masked` keeps it.

    `heard` is grid -> which windows have sound, of a masked clip.
    """
    no_sound = any(not present.any() for present in heard.values())
    no_face = found.sum() < MIN_FACES * len(found)
    if no_face and (no_sound or not masked):
        expected = math.ceil(MIN_FACES * len(found))
        detail = f"found a face in {found.sum()} of {len(found)} frames, expected at least {expected}"
        if no_sound:
            detail += f"; {clip.no_sound.detail if clip.no_sound else 'the sound is silent'}"
        raise MediaError("no_face", detail)
    flags = {flag for flag, holds in (("no_face", no_face), ("no_sound", no_sound)) if holds}
    if not found.all() and not no_face:
        flags.add("faces_missing")
    return {*clip.flags, *flags}


def _provenance(source: ClipSource, root: Path, sha256: Sha256, sound_used: bool) -> dict[str, Any]:
    provenance: dict[str, Any] = {"path": relative_name(source.video, root), "sha256": sha256(source.video)}
    if sound_used and source.sound is not None:
        provenance |= {"sound_path": relative_name(source.sound, root), "sound_sha256": sha256(source.sound)}
    if source.segment_seconds is not None:
        provenance["segment_seconds"] = source.segment_seconds
    if source.region != "full":
        provenance["region"] = source.region
    return provenance


def _kept_sha256(row: Row, sample: BuiltSample) -> str | None:
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
