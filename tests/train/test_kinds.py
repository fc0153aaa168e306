"""Shards of a kind that is not trained on are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifests.kinds import SEQUENCES
from tests.factories.builder_shards import shard_folder
from train.__main__ import main
from train.data import DataError
from train.data.shard_folder import open_folder


def test_a_folder_of_sequences_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shard_folder(tmp_path / "shards", kind=SEQUENCES)
    with pytest.raises(DataError, match=r"found shards of sequences, expected pairs, which a build without FRAMES=all"):
        open_folder(folder)
    assert main(["train", "--shards", str(folder), "--strategy", "cfas", "--fold", "1", "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
