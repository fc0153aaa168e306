"""Frames -> 16 aligned face crops: detect, track, align.

A full-range detector finds the face in the full frame; a refined face mesh on a box twice its size gives irises and
mouth (without a detector the mesh misses faces under an eighth of the frame's width). The mesh tracks the face from
its last position; the detector runs again where the mesh loses it, and half-way, to count faces. The result
depends only on the clip's frames, never on other clips, workers or runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builder.config import Align
from manifests.schema import CROP_PX

Frame = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

#: Positions of irises and mouth corners in a crop, (x, y) in pixels: eyes level, 68 px apart, room for an open mouth.
TEMPLATE_PX: Points = np.array([[78.0, 84.0], [146.0, 84.0], [86.0, 158.0], [138.0, 158.0]])
#: Weights of these points in the fit. Irises dominate; mouth corners stabilize the roll of a face turned away.
WEIGHTS = np.array([1.0, 1.0, 0.05, 0.05])
#: Mesh indices of the same points: iris centres, mouth corners, in each pair the one on the left of the image first.
LANDMARKS = (468, 473, 61, 291)
#: Mesh indices of the face's outline: forehead, chin, both cheeks. Only these and LANDMARKS are read, of 478 points.
OUTLINE = (10, 152, 234, 454)

#: Frames on which the detector always runs, to find the face and to count faces.
DETECTION_FRAMES = (0, 8)
#: Side of the box given to the mesh, in face boxes.
BOX_SCALE = 2.0
MIN_CONFIDENCE = 0.5


@dataclass(frozen=True, kw_only=True)
class Faces:
    """Position of the tracked face in 16 frames."""

    points: Points
    """[16, 4, 2] irises and mouth corners in frame pixels; NaN where no face was found."""
    boxes: Points
    """[16, 4] x0, y0, x1, y1 around the face's outline in frame pixels; NaN where no face was found."""
    several: bool
    """Whether more than one face was found."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """[16] whether a face was found."""
        return np.isfinite(self.points[:, 0, 0])


class FaceFinder:
    """The detector and the mesh, loaded once per process. Create it in the process that uses it, not before a fork."""

    def __init__(self) -> None:
        warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype")  # from mediapipe
        with quiet():
            import mediapipe

            solutions = mediapipe.solutions
            self._detector = solutions.face_detection.FaceDetection(
                model_selection=1, min_detection_confidence=MIN_CONFIDENCE
            )
            self._mesh = solutions.face_mesh.FaceMesh(
                static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=MIN_CONFIDENCE
            )
            blank = np.zeros((64, 64, 3), dtype=np.uint8)
            self._detector.process(blank)
            self._mesh.process(blank)

    def detect(self, frame: Frame) -> Points:
        """[faces, 4] boxes x0, y0, x1, y1 in pixels, the largest first."""
        height, width = frame.shape[:2]
        found = self._detector.process(frame).detections or []
        relative = [d.location_data.relative_bounding_box for d in found]
        boxes = np.array([[b.xmin, b.ymin, b.xmin + b.width, b.ymin + b.height] for b in relative]).reshape(-1, 4)
        boxes *= [width, height, width, height]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return boxes[np.argsort(-areas, kind="stable")]

    def mesh(self, frame: Frame, box: Points) -> Points | None:
        """[8, 2] landmarks, then outline, of the face in the box, in frame pixels; None if there is none."""
        x0, y0, x1, y1 = search_area(box, frame.shape)
        if x1 - x0 < 2 or y1 - y0 < 2:
            return None
        found = self.bare_mesh(np.ascontiguousarray(frame[y0:y1, x0:x1]))
        if not found:
            return None
        mesh = found[0].landmark
        relative = np.array([(mesh[i].x, mesh[i].y) for i in (*LANDMARKS, *OUTLINE)])
        return relative * (x1 - x0, y1 - y0) + (x0, y0)

    def bare_mesh(self, area: Frame) -> Any:
        """Raw mediapipe result for a part of a frame: meshes with coordinates from 0 to 1, or None."""
        return self._mesh.process(area).multi_face_landmarks

    def count(self, frame: Frame, boxes: Points) -> int:
        """Count the boxes that the mesh confirms as faces: the detector has false positives on hair and hands."""
        confirmed = 0
        for box in boxes:
            if (mesh := self.mesh(frame, box)) is not None:
                face = _bounds(mesh)
                centre = (face[:2] + face[2:]) / 2
                confirmed += bool((box[:2] <= centre).all() and (centre <= box[2:]).all())
        return confirmed

    def follow(self, frames: Sequence[Frame]) -> Faces:
        """Track one face through the frames: the largest at first, then the one nearest to its last position."""
        points = np.full((len(frames), len(LANDMARKS), 2), np.nan)
        boxes = np.full((len(frames), 4), np.nan)
        several = False
        last: Points | None = None
        for i, frame in enumerate(frames):
            mesh = None if last is None else self.mesh(frame, last)
            if mesh is None or i in DETECTION_FRAMES:
                detected = self.detect(frame)
                several |= len(detected) > 1 and self.count(frame, detected) > 1
                if mesh is None and len(detected):
                    mesh = self.mesh(frame, _nearest(detected, last))
            if mesh is not None:
                last = boxes[i] = _bounds(mesh)
                points[i] = mesh[: len(LANDMARKS)]
        return Faces(points=points, boxes=boxes, several=several)


def transforms(faces: Faces, frame_seconds: Sequence[float], align: Align) -> Points:
    """[16, 2, 3] affine maps from frame to crop pixels. At least one face must have been found.

    `frame`: eyes level and a fixed distance apart in every crop; frames without a face interpolate over time.
    `clip`: one map per clip, which preserves head motion. `none`: the face's box, without rotation or scaling
    to the eyes.
    """
    if align == "none":
        return _box_maps(_interpolate(faces.boxes, frame_seconds))
    points = _interpolate(faces.points, frame_seconds)
    if align == "clip":
        points = np.broadcast_to(points.mean(axis=0), points.shape)
    return similarity(points)


def similarity(points: Points) -> Points:
    """[n, 4, 2] points -> [n, 2, 3] weighted least-squares similarity maps onto the template.

    In complex numbers a similarity is z -> a z + b, and its fit has a closed form.
    """
    z, target = _complex(points), _complex(TEMPLATE_PX)
    weights = WEIGHTS / WEIGHTS.sum()
    z_mean, target_mean = (z * weights).sum(-1, keepdims=True), (target * weights).sum()
    spread = (weights * np.abs(z - z_mean) ** 2).sum(-1)
    a = (weights * np.conj(z - z_mean) * (target - target_mean)).sum(-1) / spread
    b = target_mean - a * z_mean[..., 0]
    return np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)


def warp(frame: Frame, matrix: Points) -> Frame:
    """One frame -> [224, 224, 3] crop, black outside the frame. A large face is first downsampled by averaging."""
    shrink = int(1 / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-3))
    if shrink > 1:
        frame = cv2.resize(frame, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        # The centre of a downsampled pixel is in the middle of the pixels it averages, not on the first.
        centre = matrix @ [(shrink - 1) / 2, (shrink - 1) / 2, 1]
        matrix = np.column_stack([matrix[:, :2] * shrink, centre])
    return cv2.warpAffine(frame, matrix, (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence file descriptor 2: there is no other option to disable mediapipe's native log."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _bounds(points: Points) -> Points:
    """[n, 2] points -> the box x0, y0, x1, y1 around them."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def search_area(box: Points, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A square of twice the box, clipped to the frame: x0, y0, x1, y1 in integer pixels."""
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    reach = BOX_SCALE * max(box[2] - box[0], box[3] - box[1]) / 2
    x = np.clip(np.rint([centre_x - reach, centre_x + reach]), 0, shape[1]).astype(int)
    y = np.clip(np.rint([centre_y - reach, centre_y + reach]), 0, shape[0]).astype(int)
    return int(x[0]), int(y[0]), int(x[1]), int(y[1])


def _nearest(boxes: Points, last: Points | None) -> Points:
    """The box with its centre nearest to that of `last`; the largest if `last` is None."""
    if last is None:
        return boxes[0]
    offsets = (boxes[:, :2] + boxes[:, 2:] - last[:2] - last[2:]) / 2
    return boxes[int(np.argmin(np.hypot(offsets[:, 0], offsets[:, 1])))]


def _complex(points: Points) -> Any:
    return points[..., 0] + 1j * points[..., 1]


def _interpolate(values: Points, seconds: Sequence[float]) -> Points:
    """Fill rows of NaN in [16, ...] by linear interpolation over time."""
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat[:, 0])
    times = np.asarray(seconds)
    columns = [np.interp(times, times[known], column[known]) for column in flat.T]
    return np.stack(columns, axis=1).reshape(values.shape)


def _box_maps(boxes: Points) -> Points:
    """[n, 4] face boxes -> [n, 2, 3] affine maps of a square around each, slightly larger than the face."""
    side = 1.25 * np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    scale = CROP_PX / side
    shift_x = CROP_PX / 2 - scale * (boxes[:, 0] + boxes[:, 2]) / 2
    shift_y = CROP_PX / 2 - scale * (boxes[:, 1] + boxes[:, 3]) / 2
    zero = np.zeros_like(scale)
    return np.stack([np.stack([scale, zero, shift_x], -1), np.stack([zero, scale, shift_y], -1)], -2)
