"""The loader's bench: what it prints and when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the loader is the trainer's")

from manifests.kinds import SEQUENCES
from tests.bench import bench_load
from tests.bench.bench_load import main
from tests.factories.both_kinds import folder_of
from tests.factories.many_shards import make_folder

LEAST = ("--rounds", "1", "--workers", "0", "2", "--batch-size", "4")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_folder(tmp_path_factory.mktemp("bench") / "shards", takes=1))


def test_every_way_has_a_line_with_its_share_of_bare_decoding(shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([shards, *LEAST, "--least", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:28].rstrip() for line in lines] == ["bare decoding", "loader, 0 workers", "loader, 2 workers"]
    assert lines[0].endswith("clips/s a core   1.00")
    rates = [float(line[28:].split()[0]) for line in lines]
    assert [line.split()[-1] for line in lines] == [f"{rate / rates[0]:.2f}" for rate in rates]


def test_the_frames_of_sequences_that_a_whole_clip_shows_are_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare decoding decodes the 16 frames and the sound of a clip, as our loader does."""
    folder, decoded = str(folder_of(tmp_path / "shards", SEQUENCES)), []
    monkeypatch.setitem(bench_load._DECODERS, "jpg", lambda data: decoded.append(len(data)))
    assert main([folder, *LEAST, "--least", "0"]) == 0
    names = [line[:28].rstrip() for line in capsys.readouterr().out.splitlines()]
    assert names == ["bare decoding", "loader, 0 workers", "loader, 2 workers"]
    assert len(decoded) == 16 * 8 * 2  # clips, and rounds with that to warm up


def test_a_loader_below_the_least_fails_the_bench(shards: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([shards, *LEAST, "--least", "100"]) == 1
    capsys.readouterr()


def test_a_folder_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
