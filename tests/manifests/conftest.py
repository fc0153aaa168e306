"""Fixtures of the contract's tests: shard folders, made without recordings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Hugging Face's library, kept from the network and from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        library = pytest.importorskip("datasets")
        library.disable_progress_bars()
        yield library
