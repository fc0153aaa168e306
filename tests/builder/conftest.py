"""Fixtures of the builder's tests: where generated recordings go, and the real clips where there are any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "clips"


@pytest.fixture(scope="session")
def media_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for recordings that several tests read and none changes."""
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def real_clip() -> Callable[[str], Path]:
    """`real_clip("crema-d/VideoFlash/x.flv")` -> its path; skips the test where the real clips are absent."""

    def path(name: str) -> Path:
        if not (REAL_CLIPS / name).is_file():
            pytest.skip(f"needs the real clip {name} in {REAL_CLIPS}, which is not part of this repository")
        return REAL_CLIPS / name

    return path


@pytest.fixture(scope="session")
def refined_mesh() -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float64] | None]:
    """Finds the one face of a picture: [478, 2] in pixels with irises and lips, which the builder's own mesh lacks."""
    from builder.face_models import quiet

    with quiet():
        import mediapipe

        mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)

    def find(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64] | None:
        faces = mesh.process(picture).multi_face_landmarks
        return np.array([(mark.x, mark.y) for mark in faces[0].landmark]) * picture.shape[1::-1] if faces else None

    return find
