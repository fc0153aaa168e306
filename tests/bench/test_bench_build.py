"""The benchmark runs, and its table adds up. What it measures is never asserted: machines are noisy."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from simplejpeg import decode_jpeg

from builder.datasets.base import ClipSource
from manifests.schema import Clip, spectrogram_shape
from tests.bench import bench_build
from tests.factories import media as factory


def test_ratio_is_build_over_floor_and_the_rest_is_what_no_step_explains() -> None:
    watches = [
        bench_build.Stopwatch(best={"floor: a": 10, "floor: b": 30, "inputs: i": 5, "build": 60, "step: c": 45}),
        bench_build.Stopwatch(best={"floor: a": 20, "floor: b": 40, "inputs: i": 7, "build": 80, "step: c": 55}),
    ]
    lines = bench_build.describe(watches)
    assert "ratio 1.40 (build / floor), 1.25 (build / floor with inputs)" in lines
    assert any(re.match(r" +20\.0  rest", line) for line in lines)
    minutes = 70 * bench_build.CORPUS_CLIPS / bench_build.CORES / 60_000
    assert lines[-1].startswith(f"{bench_build.CORPUS_CLIPS} clips: {minutes:.1f} minutes")


def test_best_of_several_is_kept() -> None:
    watch = bench_build.Stopwatch(best={"work": 0.0})
    assert watch.time("work", lambda: sum(range(10_000))) == sum(range(10_000))
    assert watch.best["work"] == 0.0


def _clip(tmp_path: Path) -> ClipSource:
    """A second of a still face."""
    frame = np.full((240, 320, 3), 128, dtype=np.uint8)
    frame[40:200, 80:240] = cv2.resize(skimage.data.astronaut()[0:256, 96:352], (160, 160))
    sound = factory.mono(factory.tone(220, 1.0))
    path = factory.write(tmp_path / "clip.mp4", factory.steady([frame] * 30, "mp4"), sound)
    return ClipSource(clip=Clip(clip_id="clip", speaker="one", emotion="calm"), video=path)


def test_every_step_of_a_real_clip_is_measured_and_what_else_is_asked_for(tmp_path: Path) -> None:
    source, seen = _clip(tmp_path), []
    (watch,) = bench_build.measure(
        [source], tmp_path, 1, {"other": lambda given: seen.append(given) or sum(range(100_000))}
    )
    assert seen == [source]
    assert watch.best["other"] > 0
    assert all(spent > 0 for spent in watch.best.values())


def test_sequences_are_measured_with_a_floor_of_their_own(tmp_path: Path) -> None:
    (watch,) = bench_build.measure_sequences([_clip(tmp_path)], tmp_path, 1)
    assert all(spent > 0 for spent in watch.best.values())
    lines = bench_build.describe([watch])
    assert sum("inputs: " in line for line in lines) == 3
    assert not any("rest" in line for line in lines), "no steps were measured"


@pytest.mark.filterwarnings("ignore:.*slated for removal in Python 3.13:DeprecationWarning")  # what librosa imports
def test_a_naive_pipeline_makes_the_same_kind_of_sample(tmp_path: Path) -> None:
    from tests.bench import naive

    source = _clip(tmp_path)
    sample = naive.build(source.video, source.sound, tmp_path)
    (path,) = tmp_path.glob("*.tar")
    with tarfile.open(path) as tar:
        read = {member.name: tar.extractfile(member).read() for member in tar}
    pictures = [decode_jpeg(read[f"clip.{i:02d}.jpg"]) for i in range(16)]
    assert {picture.shape for picture in pictures} == {(224, 224, 3)}
    windows = np.load(io.BytesIO(read["clip.mfcc.npy"]))
    assert windows.shape == (16, *spectrogram_shape("mfcc_16")[1:])
    np.testing.assert_array_equal(windows, sample["mfcc.npy"])
