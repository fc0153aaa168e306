"""What `plan` says a build will take, from recordings that are opened but not decoded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder import estimate
from builder.__main__ import main
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from builder.estimate import Estimate, estimate_clip
from manifests.schema import Clip
from tests.factories import corpora
from tests.factories.face_clips import FRAMES, face_clip

PAIRS, SEQUENCES = BuildConfig(dataset="folder"), BuildConfig(dataset="folder", frames="all")


def source(path: Path) -> ClipSource:
    return ClipSource(clip=Clip(clip_id=path.stem, speaker="anna", emotion=None), video=path)


@pytest.fixture
def good(tmp_path: Path) -> ClipSource:
    return source(face_clip(tmp_path / "good.mp4"))


@pytest.mark.parametrize("config", [PAIRS, SEQUENCES], ids=["pairs", "sequences"])
@pytest.mark.timeout(60)
def test_recordings_that_cannot_be_opened_do_not_count(good: ClipSource, tmp_path: Path, config: BuildConfig) -> None:
    (tmp_path / "text.mp4").write_text("no recording")
    os.mkfifo(tmp_path / "pipe.mp4")
    alone = estimate_clip([good], config)
    others = [source(tmp_path / name) for name in ("text.mp4", "pipe.mp4", "missing.mp4")]
    among = estimate_clip([*others, good], config)
    assert (alone.opened, alone.tried, among.opened, among.tried) == (1, 1, 1, 4)
    assert alone.frames == among.frames == FRAMES
    assert (alone.bytes, alone.core_seconds) == (among.bytes, among.core_seconds)
    none = estimate_clip(others, config)
    assert (none.opened, none.frames) == (0, estimate.USUAL_FRAMES)


def test_of_a_long_recording_only_the_start_is_read(good: ClipSource, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate_clip([good], SEQUENCES)
    monkeypatch.setattr(estimate, "MOST_PACKETS", 10)
    estimate._probe.cache_clear()
    start = estimate_clip([good], SEQUENCES)
    estimate._probe.cache_clear()
    # Frames are stored out of order: the times of the first ten reach further than those of ten frames.
    assert start.frames == pytest.approx(whole.frames, rel=0.3)
    assert start.bytes == pytest.approx(whole.bytes, rel=0.3)


def test_sequences_grow_with_frames_and_pixels_and_pairs_do_not(good: ClipSource) -> None:
    small, slow = (
        estimate_clip([good], BuildConfig(dataset="folder", frames="all", size_px=size, rate_hz=rate))
        for size, rate in ((96, None), (224, 5.0))
    )
    sequences, pairs = estimate_clip([good], SEQUENCES), estimate_clip([good], PAIRS)
    assert max(small.bytes, slow.bytes) < sequences.bytes
    assert slow.frames == pytest.approx(FRAMES / 5, rel=0.1)
    more = estimate_clip([good], BuildConfig(dataset="folder", features=("mfcc", "logmel")))
    assert more.bytes > pairs.bytes


@pytest.mark.parametrize("frames", ["16", "all"])
def test_a_plan_of_voxceleb2_says_shards_bytes_and_hours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, frames: str
) -> None:
    data = corpora.voxceleb2(tmp_path / "data")
    clips = len(list(data.rglob("*.mp4")))
    arguments = ["plan", "--dataset", "voxceleb2", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--frames", frames]) == 0
    unread = capsys.readouterr().out
    assert ", estimated for usual clips of 75 frames: found none that can be opened of 12 recordings\n" in unread
    costly = Estimate(frames=200, bytes=3e9, core_seconds=5400.0, opened=11, tried=12)
    monkeypatch.setattr(estimate, "estimate_clip", lambda _sources, _config: costly)
    assert main([*arguments, "--frames", frames]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{clips} clips" in lines[0]
    assert " shards" in lines[0]
    size = f"size      about {3 * clips} GB in total" + (", 200 frames a clip" if frames == "all" else "")
    assert size in lines
    hours = -(-clips * 3 // 2)
    assert f"time      about {hours} hours of one core, estimated from 11 recordings (1 more cannot be opened)" in lines
