"""All frames of a clip -> their aligned crops, in limited memory.

The mesh looks for the face on anchor frames only: the 16 frames of the timeline, which a build of pairs stores, and
further ones between them, no more than ANCHOR_SECONDS apart. Between anchors the place of the crop is interpolated over
time. A crop is known when all anchors are, so frames are kept as the decoder stores them until then, of large ones only
what is around the face. If they take more than KEPT_BYTES, or a crop needs a part that was not kept, all are decoded a
second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from builder import faces
from builder.config import BuildConfig
from builder.datasets.base import Region
from builder.decoders.base import LargePicture, Listing, MediaError, Picture
from builder.face_models import INPUT_PX, AnyFrame
from builder.faces import FaceFinder, Faces, FaceTrack, Frame, Points, TimedFaces
from builder.media import cut_region
from builder.timeline import steady_instants
from manifests.sequence import MAX_FRAMES, encode_frame
from manifests.timeline import Seconds, Timeline, nearest_frames

#: Longest time between two frames on which the mesh looks for the face: every second frame at 25 to 30 frames a second.
#: More meshes add their noise to crops of heads that hardly move, fewer lose heads that shake;
#: see builder/docs/sequences.md.
ANCHOR_SECONDS = 0.085
#: Corners of what is kept of a large frame, in pixels of the region where the mesh looks for the face: enough for the
#: largest crop, and the usual one of a face that moves by a quarter of its width until the next mesh.
KEPT_REGION = INPUT_PX * np.array([(x, y) for x in (-0.2, 1.2) for y in (-0.2, 1.2)])
#: Memory for the frames of a clip; with more, it is decoded twice.
KEPT_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class FramePlan:
    """Which frames of a recording are used, by their index."""

    seconds: Seconds
    """[n] times of all frames."""
    timeline: Timeline
    shown: tuple[int, ...]
    """Frames that are stored, in order; at a fixed rate a frame may be shown twice."""
    sampled: tuple[int, ...]
    """The 16 of the timeline, as in a build of pairs; one of a short clip may be there several times."""
    further: tuple[int, ...]
    """More frames on which a face is looked for, ascending."""

    def times(self, indices: Sequence[int]) -> list[float]:
        """Presentation times of some frames."""
        found: list[float] = self.seconds[list(indices)].tolist()
        return found


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A clip after its first decode: where its face is, and its frames if they are few."""

    plan: FramePlan
    sampled: Faces
    """In the 16 frames of the timeline, as a build of pairs finds them."""
    further: Faces
    """In the frames of `plan.further`."""
    reductions: tuple[tuple[float, float], ...]
    """For each frame that is shown, as in `DecodedVideo`."""
    origin_px: tuple[int, int]
    """As in `DecodedVideo`."""
    kept: Mapping[int, Picture] | None
    """Frame -> picture, of those that are shown, of large ones only what is around the face; None if they would take
    more memory than KEPT_BYTES."""

    @property
    def timeline(self) -> Timeline:
        """The 16 instants."""
        return self.plan.timeline

    @property
    def anchors_found(self) -> npt.NDArray[np.bool_]:
        """[16 + further] for each anchor, whether a face was found."""
        return np.concatenate([self.sampled.found, self.further.found])

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """For each frame that is shown, whether a face was found in the anchors before and after it."""
        anchors = np.array([*self.plan.sampled, *self.plan.further])
        order = np.argsort(anchors, kind="stable")
        anchors, found = anchors[order], self.anchors_found[order]
        before = np.searchsorted(anchors, self.plan.shown, side="right") - 1
        after = np.searchsorted(anchors, self.plan.shown, side="left")
        return found[before] & found[after]


def plan_frames(listing: Listing, rate_hz: float | None, anchor_seconds: float | None = None) -> FramePlan:
    """Choose the frames to store and those on which to look for the face. Raises MediaError for too many."""
    seconds, timeline = listing.seconds, listing.timeline
    if rate_hz is None:
        shown = np.flatnonzero(np.diff(seconds, prepend=-math.inf) > 0)  # of frames with the same time the first
    else:
        shown = nearest_frames(seconds, steady_instants(timeline.span_seconds, rate_hz))
    if len(shown) > MAX_FRAMES:
        raise MediaError(
            "decode_error",
            f"found {len(shown)} frames, expected at most {MAX_FRAMES}; cut the clip into parts (start and end in the "
            "table), or store fewer frames a second (RATE=)",
        )
    sampled = nearest_frames(seconds, timeline.instants_seconds).tolist()
    further = {int(shown[0]), int(shown[-1])}  # a frame that is shown has anchors on both sides
    for start, end in pairwise(sorted({*further, *sampled})):
        parts = math.ceil((seconds[end] - seconds[start]) / (anchor_seconds or ANCHOR_SECONDS) - 1e-6)
        between = shown[(start < shown) & (shown < end)]
        if parts > 1 and len(between):
            instants = np.linspace(seconds[start], seconds[end], parts + 1)[1:-1]
            further |= set(between[nearest_frames(seconds[between], tuple(instants.tolist()))].tolist())
    return FramePlan(
        seconds=seconds,
        timeline=timeline,
        shown=tuple(shown.tolist()),
        sampled=tuple(sampled),
        further=tuple(sorted(further - set(sampled))),
    )


def survey_frames(
    listing: Listing, pictures: Iterator[Picture], finder: FaceFinder, config: BuildConfig, region: Region
) -> Survey:
    """Look for the face in the anchor frames, and keep the frames to show while they fit into KEPT_BYTES."""
    plan = plan_frames(listing, config.rate_hz)
    shown, anchors, track = set(plan.shown), {*plan.sampled, *plan.further}, FaceTrack(finder)
    sampled, kept = dict[int, AnyFrame](), _KeptPictures(len(shown))
    reductions, origin_px = dict[int, tuple[float, float]](), (0, 0)
    for i, picture in enumerate(pictures):
        rgb, large = None, _large(picture, region)
        if i in anchors:
            if large is None:
                rgb = picture.rgb()
                frame, origin_px = cut_region(rgb, region)
            else:
                frame = large
            if i in plan.sampled:
                sampled[i] = frame
            else:
                track.add(frame)
        if i in shown:
            reductions[i] = picture.reduction
            kept.add(i, picture, rgb, None if large is None else track.region)
    followed = finder.follow([sampled[i] for i in plan.sampled])
    own = TimedFaces(faces=followed, seconds=plan.times(plan.sampled))
    others = faces.without_strangers(own, TimedFaces(faces=track.faces(), seconds=plan.times(plan.further)))
    return Survey(
        plan=plan,
        sampled=followed,
        further=others,
        reductions=tuple(reductions[i] for i in plan.shown),
        origin_px=origin_px,
        kept=kept.pictures(),
    )


def _large(picture: Picture, region: Region) -> LargePicture | None:
    """The picture in parts, if it can be converted in parts and all of it is the speaker's."""
    return picture.large if region == "full" else None


class _KeptPictures:
    """The pictures of a clip, if all fit into KEPT_BYTES; as RGB if they were converted and there is room for that."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pictures: dict[int, Picture] | None = {}
        self._bytes = self._converted_bytes = 0

    def add(self, i: int, picture: Picture, rgb: Frame | None, face: Points | None = None) -> None:
        """Keep frame i, unless it and the frames to come, if they are as large, do not fit: then none is kept.

        `face`: the region in which it is, if only that part is to be kept of a large picture.
        """
        if self._pictures is None:
            return
        if picture.large is not None and face is not None:
            picture = picture.keep_around(KEPT_REGION @ face[:, :2].T + face[:, 2])
        needed_bytes = self._bytes + (self._count - len(self._pictures)) * picture.bytes
        self._bytes += picture.bytes
        if needed_bytes > KEPT_BYTES:
            self._pictures = None
            return
        if rgb is not None and needed_bytes + self._converted_bytes + rgb.nbytes <= KEPT_BYTES:
            self._converted_bytes += rgb.nbytes
            picture = replace(picture, rgb=partial(np.asarray, rgb))
        self._pictures[i] = picture

    def pictures(self) -> Mapping[int, Picture] | None:
        """Frame -> picture; None if they do not fit."""
        return self._pictures


def frame_maps(survey: Survey, config: BuildConfig) -> Points:
    """[n, 2, 3] maps of the frames that are shown onto their crops. A face must be in one of the 16."""
    plan = survey.plan
    sampled = TimedFaces(faces=survey.sampled, seconds=plan.times(plan.sampled))
    further = TimedFaces(faces=survey.further, seconds=plan.times(plan.further))
    maps = faces.transforms_between(sampled, further, plan.times(plan.shown), config.crop, config.align)
    return faces.resize_maps(maps, config.size_px)


def encode_crops(
    pictures: Iterable[tuple[int, Picture]],
    plan: FramePlan,
    maps: Points,
    present: npt.NDArray[np.bool_],
    config: BuildConfig,
    region: Region,
) -> tuple[bytes, ...]:
    """JPEG of the crop of each frame that is shown; black where no face is present."""
    fill, black = faces.FILL.get(config.crop, 0), np.zeros((config.size_px, config.size_px, 3), np.uint8)
    rows, jpegs = {i: row for row, i in enumerate(plan.shown)}, dict[int, bytes]()
    for i, picture in pictures:
        if (row := rows.get(i)) is not None:
            crop = black
            if present[row]:
                frame = _large(picture, region) or cut_region(picture.rgb(), region)[0]
                crop = faces.warp(frame, maps[row], fill, config.size_px)
            jpegs[i] = encode_frame(crop)
    return tuple(jpegs[i] for i in plan.shown)
