"""Faces: the fit is right in numbers, the crop is right in pixels, and real faces are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from builder import faces as module
from builder.datasets.base import ClipSource
from builder.faces import TEMPLATE_PX, FaceFinder, Faces, similarity, transforms, warp
from builder.media import decode
from builder.timeline import uniform
from manifests.schema import CROP_PX, Clip

Floats = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]
SECONDS = tuple(0.1 * i for i in range(16))
REAL = (
    *(f"crema-d/VideoFlash/1001_DFA_{emotion}_XX.flv" for emotion in ("ANG", "DIS", "FEA", "NEU")),
    *(f"grid/{name}.mpg" for name in ("bbaf2n", "brbk7n", "lbax4n", "lrwp9a", "sbia1a", "sbwe5n")),
)


def affine(angle: float, scale: float, shift: Sequence[float]) -> Floats:
    """[2, 3] rotation, scale, then shift."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def apply(matrix: Floats, points: Floats) -> Floats:
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Floats) -> Floats:
    return np.asarray(cv2.invertAffineTransform(matrix))


@st.composite
def similarities(draw: DrawFn) -> Floats:
    shift = (draw(st.floats(-500, 2000)), draw(st.floats(-500, 1500)))
    return affine(draw(st.floats(-np.pi, np.pi)), draw(st.floats(0.05, 20)), shift)


def followed(points: Floats, boxes: Floats | None = None) -> Faces:
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1) if boxes is None else boxes
    return Faces(points=points, boxes=boxes, several=False)


# The fit


@given(similarities())
def test_a_known_similarity_is_recovered(matrix: Floats) -> None:
    """Points that are the template, moved: the fit moves them back."""
    found = similarity(apply(matrix, TEMPLATE_PX)[None])[0]
    np.testing.assert_allclose(found, inverse(matrix), rtol=1e-6, atol=1e-6)


any_points = st.lists(st.tuples(st.floats(0, 2000), st.floats(0, 2000)), min_size=4, max_size=4, unique=True).filter(
    lambda points: np.hypot(*(np.array(points[0]) - points[1])) > 5
)


@given(any_points)
def test_every_fit_is_a_similarity_and_the_best_one(points: list[tuple[float, float]]) -> None:
    source = np.array(points)
    (matrix,) = similarity(source[None])
    a, b = matrix[0, 0], matrix[1, 0]
    np.testing.assert_allclose(matrix[:, :2], [[a, -b], [b, a]])

    def residual(candidate: Floats) -> float:
        errors = ((apply(candidate, source) - TEMPLATE_PX) ** 2).sum(axis=1)
        return float((module.WEIGHTS * errors).sum())

    for turn, scale, x, y in ((1e-3, 1, 0, 0), (0, 1.001, 0, 0), (0, 1, 0.05, 0), (0, 1, 0, 0.05)):
        for sign in (1, -1):
            step = affine(sign * turn, scale**sign, (sign * x, sign * y))
            moved = np.vstack([step, [0, 0, 1]]) @ np.vstack([matrix, [0, 0, 1]])
            assert residual(matrix) <= residual(moved[:2]) * (1 + 1e-9) + 1e-9


@given(similarities(), st.lists(st.floats(-0.4, 0.4), min_size=4, max_size=4))
def test_irises_decide_whatever_the_mouth_does(matrix: Floats, offsets: list[float]) -> None:
    """A mouth open or askew by two fifths of the eyes' distance moves them by a few pixels at most."""
    moved = TEMPLATE_PX.copy()
    moved[2:] += 68 * np.reshape(offsets, (2, 2))
    found = similarity(apply(matrix, moved)[None])[0]
    irises = apply(found, apply(matrix, TEMPLATE_PX[:2]))
    assert np.abs(irises - TEMPLATE_PX[:2]).max() < 4


def test_template_has_level_eyes_in_the_middle_of_a_crop() -> None:
    left, right, *mouth = TEMPLATE_PX
    assert left[1] == right[1]
    assert left[0] + right[0] == CROP_PX
    assert np.mean(mouth, axis=0)[0] == CROP_PX / 2
    assert ((TEMPLATE_PX > 0) & (TEMPLATE_PX < CROP_PX)).all()


# Maps of a clip

BASE = apply(affine(0.1, 0.8, (300, 200)), TEMPLATE_PX)


def walking(speed: float = 12.0) -> Floats:
    """[16, 4, 2] a face that moves to the right."""
    return BASE + np.arange(16)[:, None, None] * np.array([speed, 0.0])


def test_frames_are_aligned_one_by_one() -> None:
    for matrix, points in zip(transforms(followed(walking()), SECONDS, "frame"), walking(), strict=True):
        np.testing.assert_allclose(apply(matrix, points), TEMPLATE_PX, atol=1e-6)


@pytest.mark.parametrize("missing", [[0], [15], [0, 1, 2, 3, 4], [7, 8, 9], list(range(1, 16)), [0, 5, 6, 15]])
def test_missing_frames_borrow_in_proportion_to_time(missing: list[int]) -> None:
    points, times = walking(), np.array([0.1 * i**1.5 for i in range(16)])
    points += (times[:, None, None] - 0.1 * np.arange(16)[:, None, None]) * np.array([120.0, 0.0])  # linear in time
    gone = points.copy()
    gone[missing] = np.nan
    faces = followed(gone)
    assert np.flatnonzero(~faces.found).tolist() == missing
    known = np.flatnonzero(faces.found)
    clamped = np.clip(times, times[known[0]], times[known[-1]])
    expected = points[0] + (clamped - times[0])[:, None, None] * np.array([120.0, 0.0])
    np.testing.assert_allclose(transforms(faces, tuple(times), "frame"), similarity(expected), atol=1e-9)


def test_one_map_a_clip_leaves_motion_in() -> None:
    maps = transforms(followed(walking()), SECONDS, "clip")
    assert (maps == maps[0]).all()
    placed = apply(maps[0], walking().mean(axis=0))
    np.testing.assert_allclose(placed, TEMPLATE_PX, atol=1e-6)
    assert apply(maps[0], walking()[15])[0, 0] > apply(maps[0], walking()[0])[0, 0] + 50


def test_no_alignment_is_a_square_around_the_box() -> None:
    boxes = np.tile([100.0, 50.0, 180.0, 150.0], (16, 1)) + np.arange(16)[:, None]
    boxes[3] = np.nan
    points = walking()
    points[3] = np.nan
    maps = transforms(followed(points, boxes), SECONDS, "none")
    for i, matrix in enumerate(maps):
        assert matrix[0, 1] == matrix[1, 0] == 0
        np.testing.assert_allclose(apply(matrix, np.array([140.0, 100.0]) + i), [112, 112])
        np.testing.assert_allclose(apply(matrix, np.array([140.0, 50.0]) + i), [112, 112 - CROP_PX / 2.5])


# Crops


def dotted(points: Floats, size: tuple[int, int], radius: float) -> Frame:
    """A black frame with a soft white dot at each point."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    frame = np.zeros(size, np.float32)
    for px, py in points:
        frame = np.maximum(frame, np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)))
    return np.repeat(np.rint(255 * frame).astype(np.uint8)[..., None], 3, axis=2)


def centroid(crop: Frame, near: Floats, reach: int = 12) -> Floats:
    """Centre of brightness around a place of the crop."""
    left, top = np.rint(near).astype(int) - reach
    window = crop[top : top + 2 * reach + 1, left : left + 2 * reach + 1, 0].astype(float)
    y, x = np.mgrid[: window.shape[0], : window.shape[1]]
    return np.array([left + (window * x).sum() / window.sum(), top + (window * y).sum() / window.sum()])


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.9, 2.2, 3.4, 5.1])
@pytest.mark.parametrize("degrees", [0, -17, 30])
def test_crops_show_the_template_where_it_should_be(scale: float, degrees: float) -> None:
    """Faces from a third to five times the crop's size; the large ones are shrunk first."""
    size = (int(260 * max(scale, 1)), int(320 * max(scale, 1)))
    placed = affine(np.radians(degrees), scale, (0, 0))
    placed[:, 2] = np.array([size[1], size[0]]) / 2 - apply(placed, TEMPLATE_PX.mean(axis=0))
    points = apply(placed, TEMPLATE_PX)
    crop = warp(dotted(points, size, radius=3 * scale), similarity(points[None])[0])
    assert crop.shape == (CROP_PX, CROP_PX, 3)
    assert crop.dtype == np.uint8
    for expected in TEMPLATE_PX:
        assert np.abs(centroid(crop, expected) - expected).max() < 0.5


def test_large_faces_are_averaged_not_sampled() -> None:
    """A fine chequerboard, shrunk four times, is an even grey."""
    y, x = np.mgrid[:1000, :1000]
    board = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    crop = warp(board, affine(0, 0.25, (-8, -8)))
    assert np.abs(crop[20:200, 20:200].astype(int) - 127).max() <= 2


def test_outside_the_frame_is_black() -> None:
    crop = warp(np.full((100, 100, 3), 255, np.uint8), affine(0, 1.0, (112, 112)))
    assert (crop[:110] == 0).all()
    assert (crop[:, :110] == 0).all()
    assert (crop[115:210, 115:210] == 255).all()


# Following


class Scripted(FaceFinder):
    """A finder that sees boxes written down beforehand: per frame, (box, whether the mesh finds a face there)."""

    def __init__(self, script: Sequence[Sequence[tuple[Sequence[float], bool]]]) -> None:
        self.script = script
        self.detections: list[int] = []

    def detect(self, frame: Frame) -> Floats:
        number = int(frame[0, 0, 0])
        self.detections.append(number)
        boxes = np.array([box for box, _ in self.script[number]], dtype=float).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return boxes[np.argsort(-areas, kind="stable")]

    def mesh(self, frame: Frame, box: Floats) -> Floats | None:
        """The face whose centre lies in the box, as 478 points over it."""
        middle_of = [
            ((np.array(face[:2]) + face[2:]) / 2, face, seen) for face, seen in self.script[int(frame[0, 0, 0])]
        ]
        for middle, face, seen in middle_of:
            if seen and (middle >= box[:2]).all() and (middle <= box[2:]).all():
                spread = np.linspace(0, 1, 478)[:, None]
                return np.array(face[:2]) * (1 - spread) + np.array(face[2:]) * spread
        return None


def follow(script: Sequence[Sequence[tuple[Sequence[float], bool]]]) -> tuple[list[float | None], Faces, list[int]]:
    """Left edges of the followed face, all that was found, and the frames the detector looked at."""
    finder = Scripted(script)
    found = finder.follow([np.full((4, 4, 3), i, np.uint8) for i in range(len(script))])
    edges = [None if np.isnan(box[0]) else float(box[0]) for box in found.boxes]
    return edges, found, finder.detections


def at(left: float, size: float = 40, *, seen: bool = True) -> tuple[Sequence[float], bool]:
    return (left, 0.0, left + size, size), seen


def test_one_face_is_followed_with_few_detections() -> None:
    edges, found, detections = follow([[at(100 + i)] for i in range(16)])
    assert edges == [100.0 + i for i in range(16)]
    assert found.found.all()
    assert not found.several
    assert detections == list(module.DETECTION_FRAMES)
    assert found.points.shape == (16, 4, 2)


def test_the_largest_face_is_followed_and_several_are_noted() -> None:
    edges, found, _ = follow([[at(10, 30), at(200, 50)]] * 16)
    assert edges == [200.0] * 16
    assert found.several


def test_a_second_face_that_comes_late_is_noted_and_not_followed() -> None:
    edges, found, _ = follow([[at(10, 30)]] * 6 + [[at(10, 30), at(200, 90)]] * 10)
    assert edges == [10.0] * 16
    assert found.several


def test_a_lost_face_is_looked_for_near_its_last_place() -> None:
    """It jumps further than its box while a larger one is there: the nearer is taken, not the larger."""
    script = [[at(100)]] * 5 + [[at(150), at(600, 90)]] * 11
    edges, found, detections = follow(script)
    assert edges == [100.0] * 5 + [150.0] * 11
    assert detections == [0, 5, 8]
    assert found.several


def test_frames_without_a_face_are_marked_and_searched() -> None:
    nothing: list[tuple[Sequence[float], bool]] = []
    edges, found, detections = follow([nothing, nothing, *repeat([at(50)], 4), nothing, *repeat([at(55)], 9)])
    assert edges == [None, None, 50, 50, 50, 50, None, *[55] * 9]
    assert found.found.tolist() == [edge is not None for edge in edges]
    assert np.isnan(found.points[0]).all()
    assert detections == [0, 1, 2, 6, 8]
    assert not found.several


def test_a_box_without_a_mesh_is_no_face() -> None:
    edges, found, detections = follow([[at(50, seen=False)]] * 16)
    assert edges == [None] * 16
    assert not found.found.any()
    assert detections == list(range(16))


@given(box=st.tuples(*[st.floats(-500, 2500)] * 4), height=st.integers(1, 1200), width=st.integers(1, 2000))
def test_search_area_is_twice_the_box_as_far_as_the_frame_goes(
    box: tuple[float, float, float, float], height: int, width: int
) -> None:
    x0, y0, x1, y1 = np.array([min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])])
    left, top, right, bottom = module.search_area(np.array([x0, y0, x1, y1]), (height, width, 3))
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    side = max(x1 - x0, y1 - y0)
    assert right - left <= 2 * side + 1
    if (x0 + x1) / 2 - side >= 0 and (x0 + x1) / 2 + side <= width:
        assert right - left == pytest.approx(2 * side, abs=1)


# Real faces


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture(scope="module")
def portrait() -> Frame:
    """A public-domain photograph that scikit-image includes: one face, looking at the camera."""
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


def in_a_frame(portrait: Frame, face_share: float) -> Frame:
    """The portrait somewhere in a grey 1280x720 frame, its face as wide as that share of the frame."""
    scale = face_share * 1280 / 100  # the face is about 100 pixels wide
    small = cv2.resize(
        portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    frame = np.full((720, 1280, 3), 90, np.uint8)
    height = min(small.shape[0], 600)
    frame[100 : 100 + height, 640 : 640 + small.shape[1]] = small[:height, :640]
    return frame


def iris_errors(finder: FaceFinder, crops: Sequence[Frame]) -> Floats:
    """How far from their place the irises are found again in each crop, in pixels; infinite where no face is found."""
    whole = np.array([56.0, 56.0, 168.0, 168.0])  # twice this box is the crop
    found = [finder.mesh(crop, whole) for crop in crops]
    return np.array(
        [
            np.inf if mesh is None else np.hypot(*(mesh[:2] - TEMPLATE_PX[:2]).T).max()
            for mesh in map(irises_first, found)
        ]
    )


def irises_first(mesh: Floats | None) -> Floats | None:
    """Landmarks in the template's order, whether the finder gives those alone or the whole mesh."""
    return mesh if mesh is None or len(mesh) < 478 else mesh[list(module.LANDMARKS)]


def aligned(finder: FaceFinder, frames: Sequence[Frame], seconds: Sequence[float]) -> tuple[Faces, list[Frame]]:
    found = finder.follow(frames)
    maps = transforms(found, seconds, "frame")
    return found, [warp(frame, matrix) for frame, matrix in zip(frames, maps, strict=True)]


def test_a_portrait_is_found_and_aligned(finder: FaceFinder, portrait: Frame) -> None:
    found, crops = aligned(finder, [portrait], [0.0])
    assert found.found.all()
    assert not found.several
    (error,) = iris_errors(finder, crops)
    assert error <= 2


def test_a_turned_portrait_is_levelled(finder: FaceFinder, portrait: Frame) -> None:
    turned = cv2.warpAffine(portrait, cv2.getRotationMatrix2D((225, 120), 20, 1.0), (512, 512))
    found, crops = aligned(finder, [turned], [0.0])
    assert found.found.all()
    assert iris_errors(finder, crops)[0] <= 2


def test_a_small_face_is_found(finder: FaceFinder, portrait: Frame) -> None:
    frame = in_a_frame(portrait, 0.1)
    found, crops = aligned(finder, [frame] * 2, SECONDS[:2])
    assert found.found.all()
    width = found.boxes[0, 2] - found.boxes[0, 0]
    assert 0.07 < width / 1280 < 0.13
    assert iris_errors(finder, crops).max() <= 2


def test_two_faces_are_noted(finder: FaceFinder, portrait: Frame) -> None:
    assert finder.follow([np.hstack([portrait, portrait])]).several


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_frame_has_no_face(finder: FaceFinder, level: int) -> None:
    assert not finder.follow([np.full((480, 640, 3), level, np.uint8)] * 2).found.any()


def test_a_face_depends_on_its_own_clip_alone(finder: FaceFinder, portrait: Frame) -> None:
    frames = [np.ascontiguousarray(np.roll(portrait, 3 * i, axis=1)) for i in range(4)]
    before = finder.follow(frames)
    finder.follow([in_a_frame(portrait, 0.2), np.zeros((100, 100, 3), np.uint8)])
    for again in (finder.follow(frames), FaceFinder().follow(frames)):
        np.testing.assert_array_equal(again.points, before.points)
        np.testing.assert_array_equal(again.boxes, before.boxes)


def test_faces_of_real_clips_are_found_and_aligned(finder: FaceFinder, real_clip: Callable[[str], Path]) -> None:
    errors = {}
    for name in REAL:
        source = ClipSource(clip=Clip(clip_id="a", speaker="b", emotion="c"), video=real_clip(name))
        picture = decode(source, uniform).video
        found, crops = aligned(finder, picture.frames, picture.frame_seconds)
        assert found.found.all(), f"{name}: a face in {found.found.sum()} of 16 frames"
        assert not found.several, name
        errors[name] = iris_errors(finder, crops)
    every = np.concatenate(list(errors.values()))
    worst = max(errors, key=lambda name: errors[name].max())
    message = f"iris error: median {np.median(every):.2f} px, worst {every.max():.2f} px in {worst}"
    assert np.median(every) <= 2, message
    assert every.max() <= 5, message
