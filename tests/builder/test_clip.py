"""One clip from its file to its members: the bad-clip cases that a recording's content decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data

from builder import faces
from builder.clip import ClipBuilder
from builder.config import BuildConfig
from builder.datasets.base import ClipSource
from manifests.schema import FRAMES, Clip, Sample, decode
from tests.factories import media as factory

SIZE_PX = (240, 320)
COUNT = 45
CLIP = Clip(clip_id="clip", speaker="one", emotion="calm")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> ClipBuilder:
    return ClipBuilder(BuildConfig(dataset="folder"), tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def portrait() -> factory.Frames:
    """A face of 80 pixels on grey."""
    return cv2.resize(skimage.data.astronaut()[0:256, 96:352], (160, 160), interpolation=cv2.INTER_AREA)


@pytest.fixture
def recording(tmp_path: Path, portrait: factory.Frames) -> Callable[..., ClipSource]:
    """Writes an MP4 of faces at given places, a frame each."""

    def write(places: Iterator[tuple[tuple[int, int, int], ...]], sound: bool = True, **where: object) -> ClipSource:
        frames = [_frame(portrait, each) for each in places]
        tone = factory.mono(factory.tone(220, len(frames) / 29.97)) if sound else None
        path = factory.write(tmp_path / "clip.mp4", factory.steady(frames, "mp4"), tone)
        return ClipSource(clip=CLIP, video=path, **where)  # type: ignore[arg-type]

    return write


def _frame(portrait: factory.Frames, places: tuple[tuple[int, int, int], ...]) -> factory.Frames:
    """Portraits of `side` pixels with their corner at (x, y)."""
    frame = np.full((*SIZE_PX, 3), 128, dtype=np.uint8)
    for x, y, side in places:
        frame[y : y + side, x : x + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    return frame


def _made(built: object) -> Sample:
    members = built.members  # type: ignore[attr-defined]
    assert members is not None, built
    return decode(members)


def test_a_moving_face_stands_still_in_the_crops(build: ClipBuilder, recording: Callable[..., ClipSource]) -> None:
    source = recording(((40 + i, 30 + i // 2, 160),) for i in range(COUNT))
    sample = _made(build.build(source))
    assert sample.face_found == (True,) * FRAMES
    assert sample.flags == ()
    middle = sample.faces[:, 40:180, 50:170].astype(int)
    assert np.abs(middle - middle[0]).mean() < 6  # the portrait itself never changes


def test_transforms_map_the_recording_onto_the_crops(build: ClipBuilder, recording: Callable[..., ClipSource]) -> None:
    """Warping the recorded frame by the recorded transform gives the crop again, also where only half is used."""
    source = recording((((170, 40, 140),) for _ in range(COUNT)), region="right")
    sample = _made(build.build(source))
    with av.open(str(source.video)) as container:
        shown = next(f for f in container.decode(video=0) if abs(f.time - sample.timing.frame_seconds[5]) < 1e-6)
    crop = faces.warp(shown.to_ndarray(format="rgb24"), np.array(sample.transforms[5]).reshape(2, 3))
    middle = slice(60, 170)
    assert np.abs(crop[middle, middle].astype(int) - sample.faces[5][middle, middle]).mean() < 3


def test_only_the_talkers_half_is_looked_at(build: ClipBuilder, recording: Callable[..., ClipSource]) -> None:
    both = recording((((0, 40, 150), (165, 40, 150)) for _ in range(COUNT)), region="left")
    left = _made(build.build(both))
    right = _made(build.build(replace(both, region="right")))
    assert left.flags == right.flags == ()
    x_left, x_right = (_eyes_px(sample)[0] for sample in (left, right))
    assert x_left < 160 < x_right


def _eyes_px(sample: Sample) -> np.ndarray:
    """Middle between the eyes in the recorded picture, from the first transform's inverse."""
    matrix = np.array(sample.transforms[0]).reshape(2, 3)
    return np.linalg.solve(matrix[:, :2], faces.TEMPLATE_PX[:2].mean(axis=0) - matrix[:, 2])


def test_two_faces_are_flagged_and_the_larger_is_followed(
    build: ClipBuilder, recording: Callable[..., ClipSource]
) -> None:
    sample = _made(build.build(recording(((0, 20, 170), (200, 60, 115)) for _ in range(COUNT))))
    assert sample.flags == ("several_faces",)
    assert _eyes_px(sample)[0] < 170


def test_frames_without_a_face_are_marked_and_borrow_their_neighbours_place(
    build: ClipBuilder, recording: Callable[..., ClipSource]
) -> None:
    gone = range(15, 30)
    source = recording((() if i in gone else ((80, 40, 160),)) for i in range(COUNT))
    sample = _made(build.build(source))
    seen = [round(t * 29.97) not in gone for t in sample.timing.frame_seconds]
    assert list(sample.face_found) == seen
    assert sample.flags == ("faces_missing",)
    eyes = np.array(sample.transforms).reshape(-1, 2, 3) @ [*_eyes_px(sample), 1]
    assert np.ptp(eyes, axis=0).max() < 3  # the place did not move, so the borrowed ones are near it too


@pytest.mark.parametrize("shown", [0, 15])
def test_too_few_faces_drop_the_clip(build: ClipBuilder, recording: Callable[..., ClipSource], shown: int) -> None:
    built = build.build(recording(((80, 40, 160),) if i < shown else () for i in range(COUNT)))
    assert built.members is None
    assert (built.row.status, built.row.reason) == ("dropped", "no_face")
    assert "of 16 frames" in str(built.row.detail)
    assert built.row.sha256


def test_recording_without_sound_uses_the_file_beside_it(
    build: ClipBuilder, recording: Callable[..., ClipSource], tmp_path: Path
) -> None:
    mute = recording((((80, 40, 160),) for _ in range(COUNT)), sound=False)
    assert build.build(mute).row.reason == "no_audio"
    beside = factory.write(tmp_path / "beside.wav", None, factory.mono(factory.tone(220, 1.5), codec="pcm_s16le"))
    built = build.build(replace(mute, sound=beside))
    assert built.row.flags == ("sound_from_file",)
    assert built.row.sound_sha256
    assert _made(built).source["sound_path"] == beside.relative_to(build._root).as_posix()


def test_silence_is_kept_flagged_and_finite(build: ClipBuilder, recording: Callable[..., ClipSource]) -> None:
    source = recording(((80, 40, 160),) for _ in range(COUNT))
    frames = [_frame(skimage.data.astronaut()[0:256, 96:352], ((80, 40, 160),))] * COUNT
    factory.write(source.video, factory.steady(frames, "mp4"), factory.mono(np.zeros((72_000, 1), np.int16)))
    sample = _made(build.build(source))
    assert sample.flags == ("silent",)
    assert all(np.isfinite(windows).all() for windows in sample.spectrograms.values())


def test_known_defects_and_missing_files_are_dropped_with_their_reason(build: ClipBuilder, tmp_path: Path) -> None:
    absent = ClipSource(clip=CLIP, video=tmp_path / "absent.mp4")
    assert build.build(absent).row.reason == "unreadable"
    built = build.build(replace(absent, known_defect="a minute of everything"))
    assert (built.row.reason, built.row.detail) == ("known_defect", "a minute of everything")


def test_same_clip_same_bytes_whatever_came_before(
    build: ClipBuilder, recording: Callable[..., ClipSource], tmp_path: Path
) -> None:
    source = recording(((40 + i, 40, 150),) for i in range(COUNT))
    first = build.build(source)
    build.build(ClipSource(clip=CLIP, video=tmp_path / "absent.mp4"))
    assert build.build(source) == first
    assert ClipBuilder(BuildConfig(dataset="folder"), build._root).build(source) == first


@pytest.mark.parametrize("align", ["clip", "none"])
def test_other_alignments_keep_the_heads_motion(
    recording: Callable[..., ClipSource], align: str, tmp_path: Path
) -> None:
    source = recording(((40 + i, 40, 150),) for i in range(COUNT))
    builder = ClipBuilder(BuildConfig(dataset="folder", align=align), tmp_path)  # type: ignore[arg-type]
    sample = _made(builder.build(source))
    scale = np.hypot(*np.array(sample.transforms)[:, [0, 3]].T)
    moved = np.ptp(np.array(sample.transforms)[:, 2])
    if align == "clip":
        assert moved == 0  # one transform
        assert np.ptp(scale) == 0
    else:
        assert moved > 20  # the box follows the head
    rotation = np.array(sample.transforms)[:, 3] / scale
    assert np.abs(rotation).max() < 0.1
