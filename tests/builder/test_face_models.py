"""Face models: the same faces, scores and meshes as mediapipe's own graphs, which run in these tests only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from builder.face_models import MESH_EYES, Detection, FaceDetector, FaceMesh, Mesh, centre_of, distance, quiet

Floats = npt.NDArray[np.float64]
Frame = npt.NDArray[np.uint8]
REAL = (
    *(f"crema-d/VideoFlash/1001_DFA_{emotion}_XX.flv" for emotion in ("ANG", "DIS", "FEA", "NEU")),
    *(f"grid/{name}.mpg" for name in ("bbaf2n", "brbk7n", "lbax4n", "lrwp9a", "sbia1a", "sbwe5n")),
    "mead/M030_sad_3_001.mp4",
    *(f"voxceleb2-like/vox_{name}.mp4" for name in ("00015", "00098", "681100216")),
    "edge/no_face.mp4",
)
#: Errors are shares of the face's width.
BOX_TOLERANCE, MESH_TOLERANCE = 0.001, 0.0003


@pytest.fixture(scope="module")
def solutions() -> Any:
    with quiet():
        import mediapipe

        return mediapipe.solutions


@pytest.fixture(scope="module")
def portrait() -> Frame:
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


def frames_of(path: Path, count: int) -> Iterator[Frame]:
    """The first frames of a clip."""
    with av.open(str(path)) as container:
        for _, frame in zip(range(count), container.decode(video=0), strict=False):
            yield frame.to_ndarray(format="rgb24")


def reference_detections(graph: Any, frame: Frame) -> tuple[Floats, Floats]:
    """Boxes and key points [n, 8, 2] in pixels, and scores [n], of mediapipe's graph."""
    points, scores = [], []
    for found in graph.process(frame).detections or []:
        place = found.location_data
        box = place.relative_bounding_box
        corners = [(box.xmin, box.ymin), (box.xmin + box.width, box.ymin + box.height)]
        points.append([*corners, *((key.x, key.y) for key in place.relative_keypoints)])
        scores.append(found.score[0])
    return np.array(points).reshape(-1, 8, 2) * frame.shape[1::-1], np.array(scores)


def points_of(detected: Sequence[Detection]) -> Floats:
    return np.array([np.vstack([each.box.reshape(2, 2), each.key_points]) for each in detected]).reshape(-1, 8, 2)


def assert_same_detections(graph: Any, detector: FaceDetector, frame: Frame) -> int:
    expected, scores = reference_detections(graph, frame)
    detected = detector(frame)
    assert len(detected) == len(expected)
    if len(expected):
        widths = np.ptp(expected[:, :2, 0], axis=1)[:, None, None]
        assert (np.abs(points_of(detected) - expected) / widths).max() < BOX_TOLERANCE
        np.testing.assert_allclose([each.score for each in detected], scores, atol=1e-3)
    return len(expected)


@pytest.fixture(scope="module")
def detection_graph(solutions: Any) -> Any:
    with quiet():
        graph = solutions.face_detection.FaceDetection(model_selection=1)
        graph.process(np.zeros((64, 64, 3), dtype=np.uint8))
    return graph


def test_detections_of_a_portrait_are_those_of_mediapipe(detection_graph: Any, portrait: Frame) -> None:
    """In frames of any shape, of several faces, cut off at a side, and of none."""
    detector = FaceDetector()
    tall = np.vstack([portrait, np.zeros_like(portrait)])
    pictures = (portrait, tall, np.hstack([portrait, portrait]), portrait[60:, 150:], 0 * portrait, 255 - portrait)
    found = [assert_same_detections(detection_graph, detector, np.ascontiguousarray(each)) for each in pictures]
    assert found[:3] == [1, 1, 2]
    assert found[4] == 0


@pytest.mark.parametrize("name", REAL)
def test_detections_of_real_clips_are_those_of_mediapipe(
    detection_graph: Any, real_clip: Callable[[str], Path], name: str
) -> None:
    detector = FaceDetector()
    for frame in frames_of(real_clip(name), 24):
        assert_same_detections(detection_graph, detector, frame)


def assert_same_meshes(solutions: Any, frames: Iterator[Frame]) -> int:
    """Compares with mediapipe's tracking: there, too, a mesh is looked for around the one of the frame before."""
    mesh = FaceMesh()
    with quiet():
        graph = solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1, refine_landmarks=False)
        graph.process(next(frames))
    last, compared = None, 0
    for frame in frames:
        height, width = frame.shape[:2]
        found = graph.process(frame).multi_face_landmarks
        points = found and np.array([(mark.x * width, mark.y * height, mark.z * width) for mark in found[0].landmark])
        if found and last is not None:
            got = mesh(frame, Mesh(points=last, presence=1.0, searched=np.zeros((2, 3))).region)
            assert got is not None
            assert got.presence > 0
            error = np.abs(got.points - points).max() / np.ptp(points[:, 0])
            assert error < MESH_TOLERANCE
            compared += 1
        last = points or None if not found else points
    return compared


def test_meshes_of_a_portrait_are_those_of_mediapipe(solutions: Any, portrait: Frame) -> None:
    shifted = (np.ascontiguousarray(np.roll(portrait, (2 * i, 3 * i), axis=(0, 1))) for i in range(8))
    assert assert_same_meshes(solutions, shifted) == 6


@pytest.mark.parametrize("name", REAL[:-1])
def test_meshes_of_real_clips_are_those_of_mediapipe(
    solutions: Any, real_clip: Callable[[str], Path], name: str
) -> None:
    assert assert_same_meshes(solutions, frames_of(real_clip(name), 24)) >= 15


def test_regions_are_squares_that_turn_with_the_eyes() -> None:
    points = np.random.default_rng(0).uniform((100, 50), (180, 150), (468, 2))
    points[:4] = (100, 50), (180, 150), (100, 150), (180, 50)
    points[list(MESH_EYES)] = (120, 80), (160, 110)
    region = Mesh(points=np.column_stack([points, points[:, 0]]), presence=1.0, searched=np.eye(3)[:2]).region
    np.testing.assert_allclose(centre_of(region), (140, 100))
    np.testing.assert_allclose(region[:, :2] @ (192, 0), np.array([0.8, 0.6]) * 150)  # along the eyes, 1.5 x 100
    np.testing.assert_allclose(region[:, :2] @ (0, 192), np.array([-0.6, 0.8]) * 150)
    away = region + np.array([[0, 0, 30], [0, 0, 40]])
    assert distance(away, region) == pytest.approx(50 / 150)


def test_a_mesh_depends_on_its_frame_alone(portrait: Frame) -> None:
    detector, mesh = FaceDetector(), FaceMesh()
    (face,) = detector(portrait)
    first = mesh(portrait, face.region)
    assert first is not None
    assert mesh(0 * portrait, face.region) is None
    for again in (mesh(portrait, detector(portrait)[0].region), FaceMesh()(portrait, face.region)):
        assert again is not None
        np.testing.assert_array_equal(again.points, first.points)
        assert again.presence == first.presence


def test_faces_are_found_without_the_python_of_mediapipe() -> None:
    """Nor what it imports: a worker would start slower and need 60 MB more. Only the files of its package are read."""
    code = (
        "import sys, numpy; from builder.clip import ClipBuilder; from builder.faces import FaceFinder; "
        "FaceFinder().follow([numpy.zeros((64, 64, 3), 'u1')]); "
        "print([name for name in ('mediapipe', 'google.protobuf', 'matplotlib', 'jax', 'absl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
