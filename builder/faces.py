"""Frames -> face crops: detect, track, align.

A full-range detector finds the face in the full frame; a face mesh around it gives 468 points in three dimensions. The
mesh tracks the face from its last position; the detector runs again where the mesh is not sure, because the head moved
or turned, and half-way, to count faces. The result depends only on the clip's frames, never on other clips, workers or
runs.

Crops are aligned by a similarity transform in three dimensions of 13 points that expressions move least: the corners of
the eyes, the ridge of the nose, and the temples (Umeyama 1991). The distance between the eyes in the picture would
shrink as the head turns and zoom the crop by 1.25 at 45 degrees; on renderings of seven real faces turned as far this
fit zooms by 1.06, not at all on a mesh that is turned, and it jitters and follows the mouth by 40 % less.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from builder.config import Align, Crop
from builder.decoders.base import PART_STEP_PX, LargePicture
from builder.face_models import AnyFrame, Detection, FaceDetector, FaceMesh, Frame, Mesh, Points, centre_of, distance
from manifests.schema import CROP_PX

#: Points of mediapipe's canonical face (canonical_face_model.obj, Apache 2.0) in cm: x to the right of the image, y
#: down, z away from the camera. Those in the middle of the face by mesh index, as (y, z) ...
_MIDDLE = {
    10: (-8.262, -4.482),  # top of the forehead
    168: (-3.271, -5.236),  # ridge of the nose, downwards from between the eyes
    6: (-2.473, -5.789),
    197: (-1.728, -6.317),
    195: (-1.059, -6.775),
    5: (-0.366, -7.243),
    4: (0.463, -7.587),  # tip of the nose
    2: (2.089, -6.058),  # below it
    152: (9.403, -4.264),  # chin
}
#: ... and pairs of points beside it as (x, y, z) of the one on the right of the image. The first index is the left one.
_PAIRS = {
    (33, 263): (4.446, -2.664, -3.173),  # outer corners of the eyes
    (133, 362): (1.856, -2.585, -3.758),  # inner corners
    (144, 373): (3.670, -2.360, -3.635),  # lower lids
    (153, 380): (2.724, -2.316, -3.777),
    (98, 327): (1.406, 1.714, -5.241),  # below the nostrils
    (97, 326): (0.597, 2.014, -5.866),
    (127, 356): (7.743, -2.365, 2.005),  # temples
    (234, 454): (7.664, -0.673, 2.436),  # in front of the ears
    (93, 323): (7.542, 1.049, 2.431),  # from there along the jaw
    (132, 361): (7.271, 2.891, 2.252),
    (58, 288): (6.720, 4.789, 1.745),
}
#: Mesh indices of the points that are read, of 468, and where they are in the canonical face, [31, 3] in cm.
LANDMARKS = (*_MIDDLE, *(i for i, _ in _PAIRS), *(i for _, i in _PAIRS))
CANONICAL_CM: Points = np.array(
    [
        *((0.0, y, z) for y, z in _MIDDLE.values()),
        *((-x, y, z) for x, y, z in _PAIRS.values()),
        *_PAIRS.values(),
    ]
)


def rows(*indices: int) -> list[int]:
    """Rows of mesh indices in LANDMARKS."""
    return [LANDMARKS.index(i) for i in indices]


EYE_CORNERS = rows(33, 133, 362, 263)
#: Points that keep their places in the head whatever the face does: `rigid_fit` takes its pose from them.
RIGID = [*EYE_CORNERS, *rows(168, 6, 197, 195, 5, 127, 356, 234, 454)]
#: What OpenFace aligns of its 68 points (`extract_rigid_points`): jaw near the ears, nose, corners and lids of eyes.
OPENFACE = rows(234, 93, 132, 58, 288, 361, 323, 454, 168, 6, 197, 98, 97, 2, 326, 327)
OPENFACE += rows(33, 133, 153, 144, 362, 263, 373, 380)

#: Crop -> where irises and mouth corners of a face that looks ahead are, (x, y) in pixels, [4, 2]. Aligned: eyes level,
#: 68 px apart, room for an open mouth. OpenFace: its mean shape times 1.4, that is 0.7 for 112 px, around the centre.
TEMPLATES_PX: dict[str, Points] = {
    "aligned": np.array([[78.0, 84.0], [146.0, 84.0], [86.0, 158.0], [138.0, 158.0]]),
    "openface": np.array([[66.5, 57.0], [157.5, 57.0], [72.5, 158.0], [151.5, 158.0]]),
}
#: Middle between the irises in the canonical face, slightly above the corners of the eyes, [3] in cm; and the pixels of
#: a centimetre in a crop: such that the templates' eyes fit ten speakers of real clips who look ahead, on average.
EYES_CM: Points = CANONICAL_CM[EYE_CORNERS].mean(axis=0) - (0.0, 0.29, 0.0)
ALIGNED_PX_PER_CM = 10.0
OPENFACE_PX_PER_CM = 13.3

#: Crops that are squares around the face: (side, how far the centre is below the box's), in longer sides of the face's
#: box. MARLIN's and VoxCeleb2's were measured on their own clips; both come from detectors with a taller box than ours.
SQUARES = {"none": (1.25, 0.0), "marlin": (1.14, -0.065), "voxceleb": (1.64, 0.19)}
#: VoxCeleb2's squares follow the face through a median filter of 13 frames at 25 frames a second.
SMOOTHING_SECONDS = 0.5
#: Grey level outside the frame.
FILL = {"voxceleb": 110}

#: Frames of 16 on which the detector always runs, to find the face and to count faces.
DETECTION_FRAMES = (0, 8)
#: A mesh is trusted if its face is where it was looked for, within this share of the region's side, and surely present
#: (a logit). Mediapipe's tracking trusts each that is present at all, which needs frames in short succession: a face
#: that is looked for a fifth of the side beside its place is "present", and put half-way between the two. Where real
#: faces jump by up to 0.8 of their width from frame to frame, that is wrong in half of the frames, this in 0.3 %.
SETTLED, CERTAIN_PRESENCE = 0.025, 15.0
#: How far a face may move from one frame to the next and still be the one that the mesh sees, in sides of its region.
REACH = 0.75
#: Meshes until one is settled.
MAX_PASSES = 4


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Position of the tracked face in n frames."""

    points: Points
    """[n, 31, 3] LANDMARKS: x and y in frame pixels, z in pixels away from the camera; NaN where no face was found."""
    boxes: Points
    """[n, 4] x0, y0, x1, y1 around these points in frame pixels; NaN where no face was found."""
    several: bool
    """Whether more than one face was found."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """[n] whether a face was found."""
        return np.isfinite(self.boxes[:, 0])


@dataclass(frozen=True, kw_only=True)
class TimedFaces:
    """Faces with the times of their frames."""

    faces: Faces
    seconds: Sequence[float]
    """[n] ascending."""


class FaceFinder:
    """Follows a face through frames. It loads both models, so create one per process."""

    def __init__(self) -> None:
        self._detector = FaceDetector()
        self._mesh = FaceMesh()

    def detect(self, frame: AnyFrame) -> list[Detection]:
        """The faces in a frame, the largest first."""
        return sorted(self._detector(frame), key=lambda each: each.area_px, reverse=True)

    def mesh(self, frame: AnyFrame, region: Points) -> Mesh | None:
        """The face in a region of the frame, None if there is none."""
        return self._mesh(frame, region)

    def count(self, frame: AnyFrame, detected: Sequence[Detection]) -> int:
        """Count the detections that the mesh confirms: the detector has false positives on hair and hands."""
        confirmed = 0
        for each in detected:
            if (mesh := self.mesh(frame, each.region)) is not None:
                centre = centre_of(mesh.region)
                confirmed += bool((each.box[:2] <= centre).all() and (centre <= each.box[2:]).all())
        return confirmed

    def follow(self, frames: Iterable[AnyFrame], detection_frames: Collection[int] = DETECTION_FRAMES) -> Faces:
        """The face in any number of frames, of which only the landmarks are kept; see FaceTrack."""
        track = FaceTrack(self, detection_frames)
        for frame in frames:
            track.add(frame)
        return track.faces()


class FaceTrack:
    """One face, followed through frames: the largest at first, then the one nearest to its last position.

    On `detection_frames` the detector runs in any case.
    """

    def __init__(self, finder: FaceFinder, detection_frames: Collection[int] = ()) -> None:
        self._finder, self._detection_frames = finder, detection_frames
        self._points: list[Points] = []
        self._region: Points | None = None
        self._several = False

    def add(self, frame: AnyFrame) -> None:
        """Look for the face in the next frame: where it was last, then everywhere."""
        finder, region = self._finder, self._region
        mesh = None if region is None else finder.mesh(frame, region)
        certain = mesh is not None and mesh.presence >= CERTAIN_PRESENCE and _is_settled(mesh)
        if not certain or len(self._points) in self._detection_frames:
            detected = finder.detect(frame)
            self._several |= len(detected) > 1 and finder.count(frame, detected) > 1
            if not certain:
                mesh = self._locate(frame, detected, mesh)
        if mesh is not None:
            self._region = mesh.region
        self._points.append(np.full((len(LANDMARKS), 3), np.nan) if mesh is None else mesh.points[list(LANDMARKS)])

    @property
    def region(self) -> Points | None:
        """[2, 3] where the face was last; None if it has not been found yet."""
        return self._region

    def faces(self) -> Faces:
        """The face in each of the frames."""
        points = np.array(self._points).reshape(-1, len(LANDMARKS), 3)
        boxes = np.concatenate([points[..., :2].min(axis=1), points[..., :2].max(axis=1)], axis=1)
        return Faces(points=points, boxes=boxes, several=self._several)

    def _locate(self, frame: AnyFrame, detected: Sequence[Detection], mesh: Mesh | None) -> Mesh | None:
        """The face that was last in the region, if any, where `mesh` may have found it again.

        From the nearest detection, unless that is too far away to be the face that the mesh sees: the detector misses
        heads that turn. Then in the region around the mesh itself, until it is where it was looked for.
        """
        finder, region = self._finder, self._region
        if detected:
            nearest = detected[0] if region is None else min(detected, key=lambda each: distance(each.region, region))
            if mesh is None or distance(nearest.region, mesh.searched) < REACH:
                mesh = finder.mesh(frame, nearest.region) or mesh
        for _ in range(MAX_PASSES):
            mesh = mesh and finder.mesh(frame, mesh.region)
            if mesh is None or _is_settled(mesh):
                return mesh
        return None


def transforms(faces: Faces, frame_seconds: Sequence[float], crop: Crop = "aligned", align: Align = "frame") -> Points:
    """[n, 2, 3] affine maps from frame to crop pixels. At least one face must have been found.

    A map is a similarity. Frames without a face interpolate between their neighbours over time.

    `aligned`: by the head's pose, see `rigid_fit`; with `align` = `frame` eyes and size stay the same in every crop,
    with `clip` one map for the clip preserves head motion, with `none` the crop is a square around the face's box.
    `openface`, `marlin`, `voxceleb`: as the faces are cropped that OpenFace writes, or MARLIN and VoxCeleb2 have.
    """
    return _maps(_places(faces, frame_seconds, crop, align))


def transforms_between(
    sampled: TimedFaces, further: TimedFaces, frame_seconds: Sequence[float], crop: Crop, align: Align
) -> Points:
    """[m, 2, 3] maps of frames at any times: the crop's place is interpolated over time between two sets of frames.

    The first are the 16 frames of the timeline, one of which must have a face: they keep the maps that `transforms`
    gives them. The second are at other times, so that the crop follows the face more closely.
    """
    chosen, first = np.unique(sampled.seconds, return_index=True)
    own = _places(sampled.faces, sampled.seconds, crop, align)[first]
    seconds = np.concatenate([chosen, further.seconds])
    order = np.argsort(seconds, kind="stable")
    faces = Faces(
        points=np.concatenate([sampled.faces.points[first], further.faces.points])[order],
        boxes=np.concatenate([sampled.faces.boxes[first], further.faces.boxes])[order],
        several=sampled.faces.several,
    )
    if align == "clip":
        places = np.broadcast_to(own[:1], (len(seconds), 4))
    else:
        places = _places(faces, seconds[order].tolist(), crop, align)
        places[order < len(own)] = own
    return _maps(np.stack([np.interp(frame_seconds, seconds[order], column) for column in places.T], axis=1))


def without_strangers(sampled: TimedFaces, further: TimedFaces) -> Faces:
    """The faces of the second set without those that are not where the face of the first set is: other people's."""
    same = np.zeros(len(further.seconds), dtype=bool)
    if sampled.faces.found.any():
        expected = _interpolate(sampled.faces.boxes, sampled.seconds, further.seconds)
        middle = (further.faces.boxes[:, :2] + further.faces.boxes[:, 2:]) / 2
        same = ((expected[:, :2] <= middle) & (middle <= expected[:, 2:])).all(axis=1)  # NaN is nowhere
    return Faces(
        points=np.where(same[:, None, None], further.faces.points, np.nan),
        boxes=np.where(same[:, None], further.faces.boxes, np.nan),
        several=further.faces.several,
    )


def _places(faces: Faces, frame_seconds: Sequence[float], crop: Crop, align: Align) -> Points:
    """[n, 4] places of the crops in their frames, see `_place`."""
    shape = "none" if align == "none" else crop
    places = np.full((len(faces.boxes), 4), np.nan)
    if shape == "aligned":
        places[faces.found] = _place_upright(faces.points[faces.found])
    elif shape == "openface":
        places[faces.found] = _place_on_template(faces.points[faces.found])
    else:
        places[faces.found] = _place_around(faces.boxes[faces.found], *SQUARES[shape])
    places = _interpolate(places, frame_seconds)
    if shape == "voxceleb":
        places = _smooth(places, frame_seconds)
    if align == "clip":
        places = np.broadcast_to(places.mean(axis=0), places.shape)
    return places


def rigid_fit(points: Points) -> tuple[Points, Points, Points]:
    """[n, 31, 3] landmarks -> the similarities of the canonical face onto them: by least squares over RIGID.

    Returns (size [n] in pixels per cm, rotation [n, 3, 3], position [n, 3] of the canonical origin in pixels), so that
    a point p of the canonical face is at size * rotation @ p + position. Umeyama 1991, "Least-squares estimation of
    transformation parameters between two point patterns", eq. 39-43.
    """
    face, canonical = points[:, RIGID], CANONICAL_CM[RIGID]
    face_mean, canonical_mean = face.mean(axis=1, keepdims=True), canonical.mean(axis=0)
    centred = canonical - canonical_mean
    left, values, right = np.linalg.svd(np.swapaxes(face - face_mean, 1, 2) @ centred)
    sign = np.sign(np.linalg.det(left @ right))  # a rotation, no reflection
    values[:, 2] *= sign
    left[:, :, 2] *= sign[:, None]
    size, rotation = values.sum(axis=1) / (centred**2).sum(), left @ right
    return size, rotation, face_mean[:, 0] - size[:, None] * (rotation @ canonical_mean)


def _place_upright(points: Points) -> Points:
    """[n, 31, 3] landmarks -> [n, 4] places of crops with the eyes where the template has them.

    The crop turns by the part of the head's rotation about the line of sight (its twist): a head that is turned and
    bowed has no level eyes, and levelling them would lay it on its side.
    """
    size, rotation, position = rigid_fit(points)
    eyes = position[:, :2] + size[:, None] * (rotation[:, :2] @ EYES_CM)
    twist = np.stack([rotation[:, 0, 0] + rotation[:, 1, 1], rotation[:, 1, 0] - rotation[:, 0, 1]], axis=1)
    right = twist / np.linalg.norm(twist, axis=1, keepdims=True) * (size / ALIGNED_PX_PER_CM)[:, None]
    template_eyes = TEMPLATES_PX["aligned"][:2].mean(axis=0)
    return _place(eyes, right, template_eyes)


def _place_on_template(points: Points) -> Points:
    """[n, 31, 3] landmarks -> [n, 4] places of OpenFace's crops: a similarity transform of its rigid points in 2-D.

    Its size is the ratio of the spreads, as in OpenFace's `AlignShapesWithScale`; in complex numbers the rotation
    has a closed form.
    """
    canonical = CANONICAL_CM[OPENFACE, :2]
    template = canonical[:, 0] + 1j * canonical[:, 1]
    face = points[:, OPENFACE, 0] + 1j * points[:, OPENFACE, 1]
    centred, face_mean = template - template.mean(), face.mean(axis=1)
    face = face - face_mean[:, None]
    turn = (face * np.conj(centred)).sum(axis=1)
    per_cm = turn / np.abs(turn) * np.sqrt((np.abs(face) ** 2).sum(axis=1) / (np.abs(centred) ** 2).sum())
    eyes = face_mean + per_cm * (EYES_CM[0] + 1j * EYES_CM[1] - template.mean())
    right = per_cm / OPENFACE_PX_PER_CM
    template_eyes = TEMPLATES_PX["openface"][:2].mean(axis=0)
    return _place(np.stack([eyes.real, eyes.imag], 1), np.stack([right.real, right.imag], 1), template_eyes)


def _place_around(boxes: Points, side: float, below: float) -> Points:
    """[n, 4] boxes -> [n, 4] places of upright squares."""
    length = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    zero = np.zeros_like(length)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + np.stack([zero, below * length], axis=1)
    return np.concatenate([centre, np.stack([side * length / CROP_PX, zero], axis=1)], axis=1)


def _place(points: Points, right: Points, at_px: Points) -> Points:
    """[n, 4] places of the crops that show `points` [n, 2] of the frames at `at_px` [2].

    A place is where a crop is in the frame: its centre, and the step from one of its pixels to the next on the right.
    """
    x, y = CROP_PX / 2 - at_px
    down = np.stack([-right[:, 1], right[:, 0]], axis=1)
    return np.concatenate([points + x * right + y * down, right], axis=1)


def _maps(places: Points) -> Points:
    """[n, 4] places -> [n, 2, 3] affine maps from frame to crop pixels."""
    x, y = (places[:, 2:] / (places[:, 2:] ** 2).sum(axis=1, keepdims=True)).T
    turns = np.stack([np.stack([x, y], -1), np.stack([-y, x], -1)], -2)
    shifts = CROP_PX / 2 - turns @ places[:, :2, None]
    return np.concatenate([turns, shifts], axis=2)


def _smooth(places: Points, seconds: Sequence[float]) -> Points:
    """[n, 4] -> the median over the frames within half of SMOOTHING_SECONDS before and after each."""
    times = np.asarray(seconds)
    near = np.abs(times[:, None] - times) <= SMOOTHING_SECONDS / 2
    return np.stack([np.median(places[each], axis=0) for each in near])


def resize_maps(maps: Points, side_px: int) -> Points:
    """[n, 2, 3] maps onto crops of 224 pixels -> maps onto crops of another size that show the same."""
    scale = side_px / CROP_PX
    resized = maps * scale
    resized[:, :, 2] += (scale - 1) / 2  # the middle of pixel x is at (x + 0.5) scale - 0.5
    return resized


def warp(frame: AnyFrame, matrix: Points, fill: int = 0, side_px: int = CROP_PX) -> Frame:
    """One frame -> square crop, of grey level `fill` outside the frame. A large face is first downsampled."""
    shrink = int(1 / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-3))
    if isinstance(frame, LargePicture):
        corners = side_px * np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
        points = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        frame, origin_px = frame.around(points, PART_STEP_PX * max(shrink, 1))
        matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ origin_px])
    if shrink > 1:
        frame = cv2.resize(frame, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        # The centre of a downsampled pixel is in the middle of the pixels it averages, not on the first.
        centre = matrix @ [(shrink - 1) / 2, (shrink - 1) / 2, 1]
        matrix = np.column_stack([matrix[:, :2] * shrink, centre])
    return cv2.warpAffine(frame, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR, borderValue=(fill,) * 3)


def _is_settled(mesh: Mesh) -> bool:
    """Whether the face is where it was looked for."""
    return distance(mesh.region, mesh.searched) <= SETTLED


def _interpolate(values: Points, seconds: Sequence[float], wanted_seconds: Sequence[float] | None = None) -> Points:
    """Fill rows of NaN in [n, m] by linear interpolation over time; with other times, the rows at these."""
    known = np.isfinite(values[:, 0])
    times = np.asarray(seconds)
    wanted = times if wanted_seconds is None else wanted_seconds
    return np.stack([np.interp(wanted, times[known], column[known]) for column in values.T], axis=1)
