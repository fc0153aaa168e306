"""The face detector and the face mesh of mediapipe, run by LiteRT.

Only the models are mediapipe's, files of its package; its Python would cost a worker 60 MB and twice the time to start.
What a model reads, and what its numbers mean, is as in mediapipe's graphs, so that tests can compare both: faces and
scores are the same, and so is a mesh, within 0.0003 of the face's width, where both look at the same region.

A region is a square of a frame, turned like the face in it: an affine map [2, 3] from the pixels of a model's input to
pixels of the frame. Each frame is sampled once, straight into the input.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builder.config import DETECTOR, MESH, model_path
from builder.decoders.base import LargePicture

Frame = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
#: A frame, converted or not; both have a shape.
AnyFrame = Frame | LargePicture

#: Both models read square RGB pictures with sides of this many pixels.
INPUT_PX = 192
#: The detector proposes a face for each cell of a grid, relative to the cell's centre.
CELL_PX = 4
#: Proposals below this score are no faces. It is the value in mediapipe's graph, which also holds where its Python is
#: given a lower `min_detection_confidence`.
MIN_SCORE = 0.6
#: Proposals that overlap by more (intersection over union) are the same face.
MIN_OVERLAP = 0.3
#: Side of a region, in longer sides of the box around the face: how the mesh was trained.
REGION_SCALE = 1.5
#: Mesh indices of the outer corners of the eyes; key points of a detection that are the eyes.
MESH_EYES, DETECTION_EYES = (33, 263), (0, 1)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A face that the detector found."""

    box: Points
    """[4] x0, y0, x1, y1 in frame pixels."""
    key_points: Points
    """[6, 2] in frame pixels: eyes (the one on the left of the image first), nose, mouth, ears."""
    score: float
    """0 to 1."""

    @property
    def area_px(self) -> float:
        """Of the box."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @cached_property
    def region(self) -> Points:
        """[2, 3] where to look for the face's mesh."""
        return _region(self.box.reshape(2, 2), self.key_points[list(DETECTION_EYES)])


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A face that the mesh found."""

    points: Points
    """[468, 3] x and y in frame pixels, z in pixels away from the camera."""
    presence: float
    """Logit of the probability that this is a face."""
    searched: Points
    """[2, 3] the region in which it was found."""

    @cached_property
    def region(self) -> Points:
        """[2, 3] the region around the face: where to look for it in the next frame."""
        return _region(self.points[:, :2], self.points[list(MESH_EYES), :2])


class FaceDetector:
    """Finds faces down to about 8 % of a frame's width. Not thread-safe."""

    def __init__(self) -> None:
        self._model = _Model(DETECTOR, lowest=-1)
        centres = CELL_PX * (np.arange(INPUT_PX // CELL_PX) + 0.5)
        self._cells = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 1, 2)

    def __call__(self, frame: AnyFrame) -> list[Detection]:
        """The faces in a frame, the most certain first."""
        height, width = frame.shape[:2]
        scale = max(height, width) / INPUT_PX  # the frame is in the middle of the input, black beside it
        corner = np.array([width, height]) / 2 - scale * INPUT_PX / 2
        region = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]])
        proposals, logits = self._model(sample(frame, region, cv2.BORDER_CONSTANT))
        scores = 1 / (1 + np.exp(-logits.ravel().astype(np.float64)))
        chosen = np.flatnonzero(scores >= MIN_SCORE)
        pairs = proposals.reshape(-1, 8, 2)[chosen].astype(np.float64)  # centre, size, six key points
        pairs[:, [0, 2, 3, 4, 5, 6, 7]] += self._cells[chosen]
        centre, size = pairs[:, 0].copy(), pairs[:, 1].copy()
        pairs[:, 0], pairs[:, 1] = centre - size / 2, centre + size / 2
        return [
            Detection(box=points[:2].ravel(), key_points=points[2:], score=score)
            for points, score in _merge(scale * pairs + corner, scores[chosen])
        ]


class FaceMesh:
    """Finds 468 points of the face in a region. Not thread-safe."""

    def __init__(self) -> None:
        self.model = _Model(MESH, lowest=0)

    def __call__(self, frame: AnyFrame, region: Points) -> Mesh | None:
        """The face in the region, None if there is none."""
        points, presence = self.model(sample(frame, region, cv2.BORDER_REPLICATE))
        if presence.item() <= 0:  # less than 50 %
            return None
        points = points.reshape(-1, 3).astype(np.float64)
        plane = points[:, :2] @ region[:, :2].T + region[:, 2]
        depth = points[:, 2] * np.hypot(*region[:, 0])
        return Mesh(points=np.column_stack([plane, depth]), presence=presence.item(), searched=region)


class _Model:
    """A model on one thread. Same input, same output: it keeps nothing of earlier calls."""

    def __init__(self, name: str, lowest: float) -> None:
        """`lowest`: what the model reads for black; white is 1."""
        from ai_edge_litert.interpreter import Interpreter  # reports import this module where it is not installed

        with quiet():
            self._interpreter = Interpreter(model_path=str(model_path(name)), num_threads=1)
            self._interpreter.allocate_tensors()
        (self._input,) = (each["index"] for each in self._interpreter.get_input_details())
        self._outputs = [each["index"] for each in self._interpreter.get_output_details()]
        self._lowest = np.float32(lowest)

    def __call__(self, picture: Frame) -> list[npt.NDArray[np.float32]]:
        """Outputs for a picture [192, 192, 3]."""
        values: Any = self._interpreter.tensor(self._input)()[0]  # the input itself, no copy
        np.multiply(picture, (1 - self._lowest) / np.float32(255), out=values)
        values += self._lowest
        del values  # LiteRT refuses to run while someone refers to its memory
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def sample(frame: AnyFrame, region: Points, border: int) -> Frame:
    """[192, 192, 3] the region of a frame."""
    if isinstance(frame, LargePicture):
        corners = INPUT_PX * np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
        frame, origin_px = frame.around(corners @ region[:, :2].T + region[:, 2])
        region = np.column_stack([region[:, :2], region[:, 2] - origin_px])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, region, (INPUT_PX, INPUT_PX), flags=flags, borderMode=border)


def centre_of(region: Points) -> Points:
    """[2] in frame pixels."""
    return region @ (INPUT_PX / 2, INPUT_PX / 2, 1)


def distance(region: Points, other: Points) -> float:
    """Between the centres of two regions, in sides of the second."""
    return float(np.hypot(*(centre_of(region) - centre_of(other))) / (INPUT_PX * np.hypot(*other[:, 0])))


def _region(points: Points, eyes: Points) -> Points:
    """[2, 3] a square around points [n, 2], with its upper side parallel to the line through the eyes [2, 2]."""
    coordinates = np.ascontiguousarray(points.T)  # NumPy takes a tenth of the time for the extrema of rows
    low, high = coordinates.min(axis=1), coordinates.max(axis=1)
    along = eyes[1] - eyes[0]
    x, y = along / np.hypot(*along) * REGION_SCALE * (high - low).max() / INPUT_PX
    turn = np.array([[x, -y], [y, x]])
    return np.column_stack([turn, (low + high) / 2 - turn @ (INPUT_PX / 2, INPUT_PX / 2)])


def _merge(points: Points, scores: Points) -> Iterator[tuple[Points, float]]:
    """Faces from proposals [n, 8, 2], of which the first two points are corners of a box.

    Those that overlap with the best one are averaged, weighted by their scores; then the same with the rest.
    """
    order = np.argsort(-scores, kind="stable")
    points, scores = points[order], scores[order]
    while len(points):
        same = _overlap(points, points[0]) > MIN_OVERLAP
        same[0] = True
        yield np.average(points[same], axis=0, weights=scores[same]), float(scores[0])
        points, scores = points[~same], scores[~same]


def _overlap(boxes: Points, box: Points) -> Points:
    """[n] intersection over union of boxes [n, 2 or more, 2] and one box [2 or more, 2]."""
    low, high = np.maximum(boxes[:, 0], box[0]), np.minimum(boxes[:, 1], box[1])
    common = np.maximum(high - low, 0).prod(axis=1)
    return common / ((boxes[:, 1] - boxes[:, 0]).prod(axis=1) + (box[1] - box[0]).prod() - common)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence file descriptor 2: there is no other way to disable the native log of LiteRT, and of mediapipe."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
