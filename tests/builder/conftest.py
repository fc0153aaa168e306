"""Fixtures of the builder's tests: where generated recordings go, and the real clips where there are any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
