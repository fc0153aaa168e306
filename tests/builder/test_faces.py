"""Faces: the fit is right in numbers, the crop is right in pixels, and real faces are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product, repeat
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from builder import faces as module
from builder.config import Crop
from builder.datasets.base import ClipSource
from builder.face_models import INPUT_PX, Detection, Mesh, centre_of
from builder.faces import CANONICAL_CM, LANDMARKS, RIGID, FaceFinder, Faces, rigid_fit, transforms, warp
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
TRACKS = tuple(f"voxceleb2-like/vox_{name}.mp4" for name in ("00015", "00098", "681100216"))
TEMPLATE_PX = module.TEMPLATES_PX["aligned"]
IRISES, CHIN = (468, 473), LANDMARKS.index(152)
CROPS: tuple[Crop, ...] = ("aligned", "openface", "marlin", "voxceleb")


def affine(angle: float, scale: float, shift: Sequence[float]) -> Floats:
    """[2, 3] rotation, scale, then shift."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def apply(matrix: Floats, points: Floats) -> Floats:
    """Map x and y of points [n, 2 or more]."""
    return points[:, :2] @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Floats) -> Floats:
    return np.asarray(cv2.invertAffineTransform(matrix))


def rotation(yaw: float = 0, pitch: float = 0, roll: float = 0) -> Floats:
    """[3, 3] a head that is bowed, then turned, then tilted, in degrees."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    turned = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    bowed = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ turned @ bowed


def head(yaw: float = 0, pitch: float = 0, roll: float = 0, face: Floats = CANONICAL_CM, size: float = 12) -> Floats:
    """[31, 3] landmarks of a head `size` pixels per cm large, in a frame."""
    return size * face @ rotation(yaw, pitch, roll).T + (400.0, 300.0, 0.0)


def person(number: int) -> Floats:
    """[31, 3] a face in cm that differs from the canonical one: each point by half a centimetre or so."""
    return CANONICAL_CM + 0.4 * np.random.default_rng(number).normal(size=CANONICAL_CM.shape)


def followed(points: Floats) -> Faces:
    """Faces at these landmarks [n, 31, 3]."""
    return Faces(points=points, boxes=boxes_of(points), several=False)


def boxes_of(points: Floats) -> Floats:
    return np.concatenate([points[..., :2].min(axis=1), points[..., :2].max(axis=1)], axis=1)


def map_of(points: Floats, crop: Crop = "aligned") -> Floats:
    """[2, 3] the map of a single frame."""
    return transforms(followed(points[None]), [0.0], crop)[0]


def zoom(matrix: Floats) -> float:
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def moved(points: Floats, matrix: Floats) -> Floats:
    """Landmarks as they are when the frame is mapped by a similarity; depth scales with it."""
    return np.column_stack([apply(matrix, points), points[:, 2] * zoom(matrix)])


@st.composite
def similarities(draw: DrawFn, *, upright: bool = False) -> Floats:
    shift = (draw(st.floats(-500, 2000)), draw(st.floats(-500, 1500)))
    return affine(0.0 if upright else draw(st.floats(-np.pi, np.pi)), draw(st.floats(0.05, 20)), shift)


poses = st.builds(head, st.floats(-60, 60), st.floats(-40, 40), st.floats(-30, 30), st.integers(0, 99).map(person))


# The fit


@given(st.floats(-90, 90), st.floats(-80, 80), st.floats(-180, 180), st.floats(0.1, 100))
def test_a_known_pose_is_recovered(yaw: float, pitch: float, roll: float, size: float) -> None:
    found_size, found_rotation, position = rigid_fit(head(yaw, pitch, roll, size=size)[None])
    assert found_size[0] == pytest.approx(size)
    np.testing.assert_allclose(found_rotation[0], rotation(yaw, pitch, roll), atol=1e-6)
    np.testing.assert_allclose(position[0], (400, 300, 0), atol=1e-6)


@given(poses)
def test_the_fit_is_a_rotation_and_the_best_one(points: Floats) -> None:
    (size,), (turn,), (position,) = rigid_fit(points[None])
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)

    def residual(size: float, turn: Floats, position: Floats) -> float:
        return float(((size * CANONICAL_CM[RIGID] @ turn.T + position - points[RIGID]) ** 2).sum())

    best = residual(size, turn, position)
    for sign, axis in product((1, -1), range(3)):
        nudge = sign * np.eye(3)[axis]
        tilted = rotation(*(0.1 * nudge)) @ turn
        for other in (
            (size, turn, position + 0.1 * nudge),
            (size, tilted, position),
            (size * (1 + 1e-3 * sign), turn, position),
        ):
            assert best <= residual(*other) * (1 + 1e-9)


def test_the_table_of_landmarks_is_a_face() -> None:
    """Left and right mirror each other, each index is of the plain mesh, and z grows away from the camera."""
    assert len(set(LANDMARKS)) == len(LANDMARKS) == len(CANONICAL_CM) == 31
    assert set(LANDMARKS) < set(range(468))
    left, right = CANONICAL_CM[9:20], CANONICAL_CM[20:]
    np.testing.assert_array_equal(left * (-1, 1, 1), right)
    assert (left[:, 0] < 0).all()
    assert CANONICAL_CM[LANDMARKS.index(4), 2] == CANONICAL_CM[:, 2].min()  # the tip of the nose is nearest


# Aligned crops: heads that turn, faces that move


def test_a_face_that_looks_ahead_has_its_eyes_where_the_template_has_them() -> None:
    matrix = map_of(head())
    np.testing.assert_allclose(apply(matrix, 12 * module.EYES_CM[None] + (400, 300, 0))[0], (112, 84), atol=1e-6)
    assert zoom(matrix) == pytest.approx(module.ALIGNED_PX_PER_CM / 12)
    np.testing.assert_allclose(matrix[:, :2], zoom(matrix) * np.eye(2), atol=1e-9)


@pytest.mark.parametrize("number", range(8))
def test_size_is_kept_and_the_chin_stays_inside_when_a_head_turns(number: int) -> None:
    """The distance between the eyes in the picture would zoom by 1.4 at 45 degrees and put the chin at 257 of 224."""
    face = person(number) if number else CANONICAL_CM
    ahead = zoom(map_of(head(face=face)))
    for yaw, pitch in product((-60, -45, -30, 0, 30, 45, 60), (-40, -30, 0, 30, 40)):
        points = head(yaw, pitch, face=face)
        matrix = map_of(points)
        assert zoom(matrix) == pytest.approx(ahead, rel=0.05), (yaw, pitch)
        x, y = apply(matrix, points[[CHIN]])[0]
        assert 0 <= x < CROP_PX, (yaw, pitch)
        assert 0 <= y < CROP_PX, (yaw, pitch)
        eyes = apply(matrix, points[module.EYE_CORNERS]).mean(axis=0)
        assert np.abs(eyes - (112, 86)).max() < 6, (yaw, pitch)


@given(poses)
def test_expressions_do_not_move_the_crop(points: Floats) -> None:
    """Jaw, mouth, nostrils, lids and forehead may be anywhere."""
    other = [row for row in range(len(LANDMARKS)) if row not in RIGID]
    expressive = points.copy()
    expressive[other] += np.random.default_rng(0).normal(scale=50, size=(len(other), 3))
    np.testing.assert_array_equal(map_of(expressive), map_of(points))
    assert not {*RIGID} & {*module.rows(10, 152, 58, 288, 98, 327, 144, 373)}


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (60, 0), (0, 40), (45, 20), (-60, 30), (60, -30)])
@pytest.mark.parametrize("roll", [-30, 0, 45])
def test_a_tilted_head_is_upright_in_the_crop(yaw: float, pitch: float, roll: float) -> None:
    """A head that is turned and bowed has no level eyes; the crop divides the difference."""
    points = head(yaw, pitch, roll)
    across, down = (
        apply(map_of(points), points)[module.rows(33, 263)],
        apply(map_of(points), points)[module.rows(168, 152)],
    )
    level = np.degrees(np.arctan2(*(across[1] - across[0])[::-1]))
    upright = np.degrees(np.arctan2(*(down[1] - down[0]))) if pitch == 0 == yaw else 0.0
    assert abs(level) < (1e-6 if 0 in (yaw, pitch) else 25)
    assert abs(upright) < 1e-6


# Published crops


@given(poses, st.sampled_from(["aligned", "openface"]), similarities())
def test_a_frame_that_is_scaled_turned_and_shifted_gives_the_same_crop(
    points: Floats, crop: Crop, matrix: Floats
) -> None:
    there = moved(points, matrix)
    np.testing.assert_allclose(
        apply(map_of(there, crop), there), apply(map_of(points, crop), points), rtol=1e-6, atol=1e-4
    )


@given(poses, st.sampled_from(["marlin", "voxceleb"]), similarities(upright=True))
def test_a_frame_that_is_scaled_and_shifted_gives_the_same_square(points: Floats, crop: Crop, matrix: Floats) -> None:
    there = moved(points, matrix)
    np.testing.assert_allclose(
        apply(map_of(there, crop), there), apply(map_of(points, crop), points), rtol=1e-6, atol=1e-4
    )


@pytest.mark.parametrize(
    ("crop", "align", "side", "top"),
    [
        ("aligned", "none", 1.25, 0.5 - 1.25 / 2),
        ("marlin", "frame", 1.14, 0.5 - 0.065 - 1.14 / 2),
        ("voxceleb", "frame", 1.64, 0.5 + 0.19 - 1.64 / 2),
    ],
)
def test_squares_are_around_the_face(crop: Crop, align: str, side: float, top: float) -> None:
    """A box of 80 x 100 pixels: `side` and `top` are in its longer side."""
    box = np.array([100.0, 50.0, 180.0, 150.0])
    faces = Faces(points=np.zeros((1, 31, 3)), boxes=box[None], several=False)
    (matrix,) = transforms(faces, [0.0], crop, align)  # type: ignore[arg-type]
    np.testing.assert_allclose(apply(inverse(matrix), np.array([[0.0, 0.0], [CROP_PX, CROP_PX]])), [
        [140 - 50 * side, 50 + 100 * top],
        [140 + 50 * side, 50 + 100 * (top + side)],
    ])  # fmt: skip


def test_voxceleb_squares_follow_the_median_of_half_a_second() -> None:
    points = np.stack([head()] * 16)
    points[5, :, 0] += 300  # one frame is off
    points[8:, :, 1] += 40  # the head drops, and stays there
    middle = [
        apply(inverse(m), np.array([[112.0, 112.0]]))[0] for m in transforms(followed(points), SECONDS, "voxceleb")
    ]
    x, y = np.array(middle).T
    assert np.ptp(x) == pytest.approx(0)
    np.testing.assert_allclose(y - y[0], [0] * 8 + [40] * 8, atol=1e-9)
    marlin = transforms(followed(points), SECONDS, "marlin")
    assert np.ptp(marlin[:, 0, 2]) > 100  # in each frame on its own


def test_openface_crops_put_its_mean_face_around_the_centre() -> None:
    """Of its mean shape times 1.4 (0.7 for 112 px): eyes 91 px apart and 54 px above the centre."""
    points = head(roll=20)
    matrix = map_of(points, "openface")
    assert zoom(matrix) == pytest.approx(13.3 / 12)
    eyes = apply(matrix, points[module.rows(33, 133, 362, 263)])
    assert eyes[:, 0].mean() == pytest.approx(112)
    assert np.ptp(eyes[:, 1]) < 2  # levelled
    assert 57 < eyes[:, 1].mean() < 63


def test_openface_crops_zoom_in_on_heads_that_turn_as_openface_does() -> None:
    """It is a fit in two dimensions; encoders that were trained on its crops know them so."""
    ahead, turned = (zoom(map_of(head(yaw), "openface")) for yaw in (0, 45))
    assert 1.05 < turned / ahead < 1.25


# Maps of a clip

BASE = head(10, -5, 6)


def walking(speed: float = 12.0) -> Floats:
    """[16, 31, 3] a face that moves to the right."""
    return BASE + np.arange(16)[:, None, None] * np.array([speed, 0.0, 0.0])


@pytest.mark.parametrize("crop", ["aligned", "openface", "marlin"])
def test_frames_are_aligned_one_by_one(crop: Crop) -> None:
    for matrix, points in zip(transforms(followed(walking()), SECONDS, crop), walking(), strict=True):
        np.testing.assert_allclose(apply(matrix, points), apply(map_of(BASE, crop), BASE), atol=1e-6)


@pytest.mark.parametrize("missing", [[0], [15], [0, 1, 2, 3, 4], [7, 8, 9], list(range(1, 16)), [0, 5, 6, 15]])
@pytest.mark.parametrize("crop", ["aligned", "openface", "marlin"])
def test_missing_frames_borrow_in_proportion_to_time(crop: Crop, missing: list[int]) -> None:
    points, times = walking(), np.array([0.1 * i**1.5 for i in range(16)])
    points[:, :, 0] += (times[:, None] - 0.1 * np.arange(16)[:, None]) * 120.0  # linear in time
    gone = points.copy()
    gone[missing] = np.nan
    faces = followed(gone)
    assert np.flatnonzero(~faces.found).tolist() == missing
    known = np.flatnonzero(faces.found)
    clamped = np.clip(times, times[known[0]], times[known[-1]])
    expected = points[0] + (clamped - times[0])[:, None, None] * np.array([120.0, 0.0, 0.0])
    np.testing.assert_allclose(
        transforms(faces, tuple(times), crop), transforms(followed(expected), tuple(times), crop), atol=1e-9
    )


def test_one_map_a_clip_leaves_motion_in() -> None:
    maps = transforms(followed(walking()), SECONDS, "aligned", "clip")
    assert (maps == maps[0]).all()
    average = walking().mean(axis=0)
    np.testing.assert_allclose(apply(maps[0], average), apply(map_of(average), average), atol=1e-6)
    assert apply(maps[0], walking()[15])[0, 0] > apply(maps[0], walking()[0])[0, 0] + 50


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
    placed[:, 2] = np.array([size[1], size[0]]) / 2 - apply(placed, TEMPLATE_PX.mean(axis=0)[None])[0]
    crop = warp(dotted(apply(placed, TEMPLATE_PX), size, radius=3 * scale), inverse(placed))
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


@pytest.mark.parametrize("fill", [0, 110])
def test_outside_the_frame_is_grey(fill: int) -> None:
    crop = warp(np.full((100, 100, 3), 255, np.uint8), affine(0, 1.0, (112, 112)), fill)
    assert (crop[:110] == fill).all()
    assert (crop[:, :110] == fill).all()
    assert (crop[115:210, 115:210] == 255).all()


# Following


class Scripted(FaceFinder):
    """A finder that sees boxes written down beforehand: per frame, (box, whether the mesh finds a face there)."""

    def __init__(self, script: Sequence[Sequence[tuple[Sequence[float], bool]]], presence: float = 20.0) -> None:
        self.script = script
        self.presence = presence
        self.detections: list[int] = []

    def detect(self, frame: Frame) -> list[Detection]:
        number = int(frame[0, 0, 0])
        self.detections.append(number)
        boxes = [np.array(box, dtype=float) for box, _ in self.script[number]]
        detected = [
            Detection(box=box, key_points=np.array([box[:2], box[[2, 1]], *[box[:2]] * 4]), score=0.9) for box in boxes
        ]
        return sorted(detected, key=lambda each: -each.area_px)

    def mesh(self, frame: Frame, region: Floats) -> Mesh | None:
        """The face whose centre lies in the region, as 468 points in its corners; its eyes are level."""
        middle, reach = centre_of(region), INPUT_PX / 2 * np.hypot(*region[:, 0])
        for box, seen in self.script[int(frame[0, 0, 0])]:
            low, high = np.array(box[:2]), np.array(box[2:])
            if seen and (np.abs((low + high) / 2 - middle) <= reach).all():
                points = np.zeros((468, 3))
                points[::2, :2], points[1::2, :2] = low, high
                points[[33, 263], :2] = low, (high[0], low[1])
                return Mesh(points=points, presence=self.presence, searched=region)
        return None


def follow(
    script: Sequence[Sequence[tuple[Sequence[float], bool]]], presence: float = 20.0
) -> tuple[list[float | None], Faces, list[int]]:
    """Left edges of the followed face, all that was found, and the frames the detector looked at."""
    finder = Scripted(script, presence)
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
    assert found.points.shape == (16, 31, 3)


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
    edges, found, detections = follow([nothing, nothing, *repeat([at(50)], 4), nothing, *repeat([at(51)], 9)])
    assert edges == [None, None, 50, 50, 50, 50, None, *[51] * 9]
    assert found.found.tolist() == [edge is not None for edge in edges]
    assert np.isnan(found.points[0]).all()
    assert detections == [0, 1, 2, 6, 8]
    assert not found.several


def test_a_box_without_a_mesh_is_no_face() -> None:
    edges, found, detections = follow([[at(50, seen=False)]] * 16)
    assert edges == [None] * 16
    assert not found.found.any()
    assert detections == list(range(16))


def test_a_face_that_is_not_where_it_was_looked_for_is_detected_again() -> None:
    """By more than 0.025 of the region's side, which is 1.5 times the face's."""
    edges, _, detections = follow([[at(100)]] * 5 + [[at(101.2)]] * 5 + [[at(103)]] * 6)
    assert edges == [100.0] * 5 + [101.2] * 5 + [103.0] * 6
    assert detections == [0, 8, 10]


def test_a_face_that_is_hardly_present_is_detected_in_each_frame() -> None:
    edges, _, detections = follow([[at(100)]] * 16, presence=3.0)
    assert edges == [100.0] * 16
    assert detections == list(range(16))


def test_a_turned_head_that_the_detector_misses_is_not_swapped_for_another_face() -> None:
    class Missing(Scripted):
        def detect(self, frame: Frame) -> list[Detection]:
            return [each for each in super().detect(frame) if not self.detections[-1] or each.box[0] > 200]

    finder = Missing([[at(100, 60)], *[[at(100 + 10 * i, 60), at(300)] for i in range(1, 16)]])
    found = finder.follow([np.full((4, 4, 3), i, np.uint8) for i in range(16)])
    np.testing.assert_array_equal(found.boxes[:, 0], 100 + 10 * np.arange(16))


def test_any_number_of_frames_with_detection_where_it_is_asked_for() -> None:
    finder = Scripted([[at(100 + 0.5 * i)] for i in range(100)])
    found = finder.follow((np.full((4, 4, 3), i, np.uint8) for i in range(100)), detection_frames=(0, 50))
    np.testing.assert_array_equal(found.boxes[:, 0], 100 + 0.5 * np.arange(100))
    assert finder.detections == [0, 50]
    assert Scripted([]).follow([]).points.shape == (0, 31, 3)


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


RefinedMesh = Callable[[Frame], Floats | None]


def iris_errors(refined_mesh: RefinedMesh, crops: Sequence[Frame]) -> Floats:
    """How far from their place the irises are found again in each crop, in pixels; infinite where no face is found."""
    found = map(refined_mesh, crops)
    eyes = [np.full((2, 2), np.inf) if mesh is None else mesh[list(IRISES)] for mesh in found]
    return np.asarray(np.linalg.norm(np.array(eyes) - TEMPLATE_PX[:2], axis=2).max(axis=1))


def cropped(
    finder: FaceFinder, frames: Sequence[Frame], seconds: Sequence[float], crop: Crop = "aligned"
) -> tuple[Faces, list[Frame]]:
    found = finder.follow(frames)
    maps = transforms(found, seconds, crop)
    return found, [warp(frame, matrix) for frame, matrix in zip(frames, maps, strict=True)]


def test_a_portrait_is_found_and_aligned(finder: FaceFinder, refined_mesh: RefinedMesh, portrait: Frame) -> None:
    found, crops = cropped(finder, [portrait], [0.0])
    assert found.found.all()
    assert not found.several
    (error,) = iris_errors(refined_mesh, crops)
    assert error <= 5


def test_a_turned_portrait_is_levelled(finder: FaceFinder, refined_mesh: RefinedMesh, portrait: Frame) -> None:
    turned = cv2.warpAffine(portrait, cv2.getRotationMatrix2D((225, 120), 20, 1.0), (512, 512))
    found, crops = cropped(finder, [turned], [0.0])
    assert found.found.all()
    assert iris_errors(refined_mesh, crops)[0] <= 5


def test_a_small_face_is_found(finder: FaceFinder, refined_mesh: RefinedMesh, portrait: Frame) -> None:
    frame = in_a_frame(portrait, 0.1)
    found, crops = cropped(finder, [frame] * 2, SECONDS[:2])
    assert found.found.all()
    width = found.boxes[0, 2] - found.boxes[0, 0]
    assert 0.07 < width / 1280 < 0.13
    assert iris_errors(refined_mesh, crops).max() <= 2


def test_a_face_that_jumps_is_followed(finder: FaceFinder, portrait: Frame) -> None:
    """By up to its own width from one frame to the next: the mesh alone would be wrong and still call it a face."""
    offsets = [(0, 0), (30, 0), (70, 20), (130, 0), (30, 30), (0, -10), (40, 90), (120, 60)]
    frames = [
        cv2.warpAffine(portrait, affine(0, 1, offset), (640, 512), borderMode=cv2.BORDER_REPLICATE)
        for offset in offsets
    ]
    points = finder.follow(frames, detection_frames=(0,)).points
    assert np.isfinite(points).all()
    still = points[:, :, :2] - np.array(offsets)[:, None]
    assert np.abs(still - np.median(still, axis=0)).max() < 2.5  # of 100 px of the face


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


def test_faces_of_real_clips_are_found_and_aligned(
    finder: FaceFinder, refined_mesh: RefinedMesh, real_clip: Callable[[str], Path]
) -> None:
    errors = {}
    for name in REAL:
        source = ClipSource(clip=Clip(clip_id="a", speaker="b", emotion="c"), video=real_clip(name))
        picture = decode(source, uniform).video
        found, crops = cropped(finder, picture.frames, picture.frame_seconds)
        assert found.found.all(), f"{name}: a face in {found.found.sum()} of 16 frames"
        assert not found.several, name
        errors[name] = iris_errors(refined_mesh, crops)
    every = np.concatenate(list(errors.values()))
    worst = max(errors, key=lambda name: errors[name].max())
    message = f"iris error: median {np.median(every):.2f} px, worst {every.max():.2f} px in {worst}"
    assert np.median(every) <= 2, message
    assert every.max() <= 5, message


def real_picture(path: Path) -> tuple[Sequence[Frame], Sequence[float]]:
    source = ClipSource(clip=Clip(clip_id="a", speaker="b", emotion="c"), video=path)
    picture = decode(source, uniform).video
    return picture.frames, picture.frame_seconds


@pytest.mark.parametrize("name", TRACKS)
def test_turned_heads_of_real_clips_are_steady_and_complete(
    finder: FaceFinder, real_clip: Callable[[str], Path], name: str
) -> None:
    """Found again in their crops, heads turned by 35 degrees have one size, their eyes in place, and their chin."""
    found, crops = cropped(finder, *real_picture(real_clip(name)))
    assert found.found.all()
    again = finder.follow(crops)
    assert again.found.all()
    size, _, _ = rigid_fit(again.points)
    assert size.std() / size.mean() < 0.03
    assert np.abs(size / module.ALIGNED_PX_PER_CM - 1).max() < 0.08
    eyes = again.points[:, module.EYE_CORNERS, :2].mean(axis=1)
    assert np.abs(eyes - (112, 86)).max() < 8
    chin = again.points[:, CHIN, :2]
    assert ((chin >= 0) & (chin < CROP_PX)).all()


@pytest.mark.parametrize("name", TRACKS)
def test_a_voxceleb_crop_of_a_voxceleb_track_is_the_track(
    finder: FaceFinder, real_clip: Callable[[str], Path], name: str
) -> None:
    frames, seconds = real_picture(real_clip(name))
    for matrix in transforms(finder.follow(frames), seconds, "voxceleb"):
        assert zoom(matrix) == pytest.approx(1, abs=0.12)
        assert np.abs(apply(matrix, np.array([[112.0, 112.0]])) - 112).max() < 16


def test_talking_hardly_changes_the_size(finder: FaceFinder, real_clip: Callable[[str], Path]) -> None:
    """How much larger the head seems for a centimetre that the jaw opens, beside the height of the face's box."""
    opened, sizes, heights = [], [], []
    for name in REAL[:4]:
        found = finder.follow(real_picture(real_clip(name))[0])
        size, _, _ = rigid_fit(found.points)
        jaw = np.linalg.norm(found.points[:, CHIN] - found.points[:, LANDMARKS.index(2)], axis=1)
        steps = np.arange(16)
        for values, of_frame in (
            (opened, jaw / np.median(size)),
            (sizes, 100 * np.log(size)),
            (heights, 100 * np.log(np.ptp(found.boxes[:, 1::2], axis=1))),
        ):
            values.extend(
                of_frame - np.polyval(np.polyfit(steps, of_frame, 3), steps)
            )  # the head comes nearer, or leaves
    assert np.ptp(opened) > 1
    percent, box_percent = (float(np.dot(values, opened) / np.dot(opened, opened)) for values in (sizes, heights))
    assert box_percent > 3
    assert abs(percent) < 2.5
