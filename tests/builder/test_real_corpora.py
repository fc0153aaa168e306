"""Real recordings of MEAD and of VoxCeleb2's form, laid out as these corpora are, are built as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.__main__ import main
from manifests import index
from manifests.verify import verify

Said = pytest.CaptureFixture[str]


def place(recording: Path, path: Path) -> None:
    path.parent.mkdir(parents=True)
    shutil.copy(recording, path)


def build(dataset: str, data: Path, out: Path) -> dict[str, index.Row]:
    where = ["--dataset", dataset, "--data", str(data), "--out", str(out)]
    assert main(["shards", *where, "--workers", "1", "--allow-drops"]) == 0
    assert verify(out, full=True) == []
    return {row.clip_id: row for row in index.load_rows(out)}


def test_voxceleb2(real_clip: Callable[[str], Path], tmp_path: Path, capsys: Said) -> None:
    """Three speakers of dev, and a file that is damaged, as some of the corpus are."""
    names = ("15", "98", "681100216")
    for number, name in enumerate(names):
        track = tmp_path / f"data/dev/mp4/id{number + 12:05d}/21Uxsk56VD{number}/00001.mp4"
        place(real_clip(f"voxceleb2-like/vox_{name:>05}.mp4"), track)
    broken = tmp_path / "data/dev/mp4/id00012/21Uxsk56VDQ/00002.mp4"
    broken.parent.mkdir()
    broken.write_bytes(track.read_bytes()[:1000])
    rows = build("voxceleb2", tmp_path / "data", tmp_path / "shards")
    assert rows.keys() == {*(f"id{n + 12:05d}-21Uxsk56VD{n}-00001" for n in range(3)), "id00012-21Uxsk56VDQ-00002"}
    dropped = rows.pop("id00012-21Uxsk56VDQ-00002")
    assert (dropped.status, dropped.reason) == ("dropped", "unreadable")
    assert all(row.shard and row.faces_found == 16 and row.emotion is None for row in rows.values())
    output = capsys.readouterr().out
    assert "\nno labels: " in output and "\nfolds     voxceleb2-dev-test (0 of 1 fold), " not in output


def test_mead(real_clip: Callable[[str], Path], tmp_path: Path) -> None:
    recording = real_clip("mead/M030_sad_3_001.mp4")
    place(recording, tmp_path / "data/M030/video/front/sad/level_3/001.mp4")
    place(recording, tmp_path / "data/M030/video/top/sad/level_3/001.mp4")
    rows = build("mead", tmp_path / "data", tmp_path / "shards")
    assert list(rows) == ["M030_front_sad_3_001"]
    row = rows["M030_front_sad_3_001"]
    assert (row.speaker, row.emotion, row.intensity, row.faces_found) == ("M030", "sad", "level_3", 16)
    dataset = index.load_dataset(tmp_path / "shards")
    assert (dataset.label_schemes, dataset.about["redistributable"]) == (("mead-8",), False)
