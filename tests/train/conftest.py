"""Fixtures that several tests of the trainer use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.factories.shards import make_folder
from tests.factories.small_trainings import SMALL
from train.models.videomae import ENCODERS


@pytest.fixture
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that is small enough for tests, under the name `tiny`."""
    torch.set_num_threads(1)
    monkeypatch.setitem(ENCODERS, "tiny", SMALL)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished shards of the speakers of `tests.factories.shards`, with a few clips each."""
    return make_folder(tmp_path_factory.mktemp("finished") / "shards" / "folder")
