"""Fixtures of the contract's tests: shard folders, made without recordings."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.factories.builder_shards import shard_folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build that no test changes."""
    return shard_folder(tmp_path_factory.mktemp("whole") / "shards")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A finished build to damage."""
    return Path(shutil.copytree(whole, tmp_path / "shards"))
