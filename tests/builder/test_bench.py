"""The benchmark runs, and its table adds up. What it measures is never asserted: machines are noisy."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import media_factory as factory
import numpy as np
import skimage.data

from builder import bench
from builder.datasets.base import ClipSource
from manifests.schema import Clip


def test_ratio_is_build_over_floor_and_the_rest_is_what_no_step_explains() -> None:
    watches = [
        bench.Stopwatch(best={"floor: a": 10.0, "floor: b": 30.0, "build": 60.0, "step: c": 45.0}),
        bench.Stopwatch(best={"floor: a": 20.0, "floor: b": 40.0, "build": 80.0, "step: c": 55.0}),
    ]
    lines = bench.describe(watches)
    assert "ratio 1.40 (build / floor)" in lines
    assert any(re.match(r" +20\.0  rest", line) for line in lines)
    minutes = 70 * bench.CORPUS_CLIPS / bench.CORES / 60_000
    assert lines[-1].startswith(f"{bench.CORPUS_CLIPS} clips: {minutes:.1f} minutes")


def test_best_of_several_is_kept() -> None:
    watch = bench.Stopwatch(best={"work": 0.0})
    assert watch.time("work", lambda: sum(range(10_000))) == sum(range(10_000))
    assert watch.best["work"] == 0.0


def test_every_step_of_a_real_clip_is_measured(tmp_path: Path) -> None:
    frame = np.full((240, 320, 3), 128, dtype=np.uint8)
    frame[40:200, 80:240] = cv2.resize(skimage.data.astronaut()[0:256, 96:352], (160, 160))
    sound = factory.mono(factory.tone(220, 1.0))
    path = factory.write(tmp_path / "clip.mp4", factory.steady([frame] * 30, "mp4"), sound)
    source = ClipSource(clip=Clip(clip_id="clip", speaker="one", emotion="calm"), video=path)
    (watch,) = bench.measure([source], tmp_path, repeats=1)
    assert all(spent > 0 for spent in watch.best.values())
