"""One clip from its file to its members: the bad-clip cases that a recording's content decides."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import skimage.data

from builder import faces
from builder.__main__ import main
from builder.clip import ClipBuilder
from builder.clip_result import recording_sha256
from builder.config import BuildConfig, identity
from builder.datasets.base import ClipSource
from builder.decoders import base
from builder.features import replace_features
from manifests import index
from manifests.files import FolderError
from manifests.index import SpectrogramSums
from manifests.schema import FRAMES, Clip, Sample, decode
from manifests.shard_writer import find_earlier_build
from manifests.verify import verify
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


@pytest.mark.parametrize("region", ["full", "right"])
def test_transforms_of_a_reduced_recording_map_its_full_size(
    build: ClipBuilder, recording: Callable[..., ClipSource], monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    source = recording((((165, 40, 150),) for _ in range(COUNT)), region=region)
    whole = _made(build.build(source))
    monkeypatch.setattr(base, "MAX_KEPT_PIXELS", SIZE_PX[0] * SIZE_PX[1] // 4)
    reduced = _made(build.build(source))
    assert np.linalg.norm(_eyes_px(reduced) - _eyes_px(whole)) < 1.5
    scales = [np.hypot(*np.array(sample.transforms)[:, [0, 3]].T).mean() for sample in (reduced, whole)]
    assert scales[0] == pytest.approx(scales[1], rel=0.05)
    middle = slice(60, 170)
    assert np.abs(reduced.faces[:, middle, middle].astype(int) - whole.faces[:, middle, middle]).mean() < 12


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
    return np.linalg.solve(matrix[:, :2], faces.TEMPLATES_PX["aligned"][:2].mean(axis=0) - matrix[:, 2])


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


@pytest.mark.parametrize("usable", [True, False])
def test_a_named_sound_file_is_recorded_with_its_hash(
    build: ClipBuilder, recording: Callable[..., ClipSource], tmp_path: Path, usable: bool
) -> None:
    """Also where it cannot be used: once it is replaced, the clip is built again."""
    source = recording(((80, 40, 160),) for _ in range(COUNT))
    named = factory.write(tmp_path / "named.wav", None, factory.mono(factory.tone(440, 1.5), codec="pcm_s16le"))
    if not usable:
        named.write_bytes(b"RIFF but no sound")

    built = build.build(replace(source, sound=named, sound_first=True))

    assert built.row.flags == (() if usable else ("sound_from_recording",))
    assert built.row.sound_sha256 == recording_sha256(named)
    assert ("sound_path" in _made(built).source) == usable


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


@pytest.mark.parametrize(("crop", "corner"), [("aligned", 0), ("openface", None), ("marlin", None), ("voxceleb", 110)])
def test_each_crop_shows_the_face_and_what_it_is_known_for_outside_the_frame(
    crop: str, corner: int | None, tmp_path: Path
) -> None:
    """The frame is hardly larger than the face, so that the wide crops reach beyond it."""
    face = cv2.resize(skimage.data.astronaut()[56:200, 165:285], (192, 230), interpolation=cv2.INTER_LINEAR)
    tone = factory.mono(factory.tone(220, COUNT / 29.97))
    video = factory.write(tmp_path / "clip.mp4", factory.steady([face] * COUNT, "mp4"), tone)
    builder = ClipBuilder(BuildConfig(dataset="folder", crop=crop), tmp_path)  # type: ignore[arg-type]
    sample = _made(builder.build(ClipSource(clip=CLIP, video=video)))
    assert sample.face_found == (True,) * FRAMES
    assert sample.faces[:, 60:160, 60:160].std() > 20
    if corner is not None:
        assert np.abs(sample.faces[:, :5, :5].astype(int) - corner).max() < 8  # JPEG


# --- keep=incomplete -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> ClipBuilder:
    return ClipBuilder(BuildConfig(dataset="folder", keep="incomplete"), tmp_path_factory.getbasetemp())


def test_a_complete_clip_is_all_present(keep: ClipBuilder, recording: Callable[..., ClipSource]) -> None:
    built = keep.build(recording(((80, 40, 160),) for _ in range(COUNT)))
    sample = _made(built)
    assert (built.row.status, sample.flags) == ("built", ())
    assert sample.faces_present == (True,) * FRAMES
    assert sample.sound_present == {"16": (True,) * 16, "8": (True,) * 8}


def test_a_clip_without_sound_is_kept_with_its_windows_absent(
    keep: ClipBuilder, build: ClipBuilder, recording: Callable[..., ClipSource]
) -> None:
    source = recording((((80, 40, 160),) for _ in range(COUNT)), sound=False)
    assert build.build(source).row.reason == "no_audio"
    built = keep.build(source)
    sample = _made(built)
    assert (built.row.status, built.row.flags) == ("flagged", ("no_sound",))
    assert built.row.incomplete
    assert sample.sound_present == {"16": (False,) * 16, "8": (False,) * 8}
    assert sample.faces_present == (True,) * FRAMES
    assert len(sample.audio) == round(sum(np.diff(sample.timing.span_seconds)) * 16_000)
    assert not sample.audio.any()
    assert built.statistics == {}  # of no window


def test_sound_that_cannot_be_decoded_is_no_sound(keep: ClipBuilder, recording: Callable[..., ClipSource]) -> None:
    source = recording(((80, 40, 160),) for _ in range(COUNT))
    factory.damage(source.video, "audio", share=0.6)
    assert keep.build(source).row.flags == ("no_sound",)


@pytest.mark.parametrize("shown", [0, 15])
def test_a_clip_with_too_few_faces_is_kept_and_black_where_it_has_none(
    keep: ClipBuilder, recording: Callable[..., ClipSource], shown: int
) -> None:
    built = keep.build(recording(((80, 40, 160),) if i < shown else () for i in range(COUNT)))
    sample = _made(built)
    assert (built.row.status, built.row.flags) == ("flagged", ("no_face",))
    assert sample.faces_present == sample.face_found
    assert sum(sample.face_found) == built.row.faces_found == (5 if shown else 0)
    for crop, present in zip(sample.faces, sample.face_found, strict=True):
        assert (crop.mean() > 20) if present else (crop.max() < 12)  # JPEG: a neighbour's edge rings
    assert sample.sound_present == {"16": (True,) * 16, "8": (True,) * 8}


def test_windows_without_sound_are_absent_and_not_in_the_statistics(
    keep: ClipBuilder, recording: Callable[..., ClipSource]
) -> None:
    """The sound ends after half of the clip."""
    source = recording(((80, 40, 160),) for _ in range(COUNT))
    frames = [_frame(skimage.data.astronaut()[0:256, 96:352], ((80, 40, 160),))] * COUNT
    factory.write(source.video, factory.steady(frames, "mp4"), factory.mono(factory.tone(220, COUNT / 29.97 / 2)))
    built = keep.build(source)
    sample = _made(built)
    assert sample.flags == ("sound_length_mismatch",)
    assert sample.sound_present is not None
    middles = np.array(sample.timing.instants_seconds)
    end, step = COUNT / 29.97 / 2, sample.timing.step_seconds
    assert sample.sound_present["16"] == tuple((middles - step < end + 0.03).tolist())
    for grid in ("16", "8"):
        windows = sample.spectrograms[f"mfcc_{grid}"][np.array(sample.sound_present[grid])]
        assert 0 < len(windows) < int(grid)
        assert built.statistics[f"mfcc_{grid}"] == SpectrogramSums.of(windows)


@pytest.mark.parametrize("silent", [False, True])
def test_a_clip_without_either_is_dropped(
    keep: ClipBuilder, recording: Callable[..., ClipSource], silent: bool
) -> None:
    source = recording((() for _ in range(COUNT)), sound=False)
    if silent:
        frames = [_frame(skimage.data.astronaut(), ())] * COUNT
        factory.write(source.video, factory.steady(frames, "mp4"), factory.mono(np.zeros((72_000, 1), np.int16)))
    row = keep.build(source).row
    assert (row.status, row.reason) == ("dropped", "no_face")
    why = "the sound is silent" if silent else "clip.mp4: found no sound in it, and there is no sound file"
    assert row.detail == f"found a face in 0 of 16 frames, expected at least 8; {why}"


def test_features_of_incomplete_clips_are_those_of_a_build(
    keep: ClipBuilder, recording: Callable[..., ClipSource], tmp_path: Path
) -> None:
    source = recording((((80, 40, 160),) for _ in range(COUNT)), sound=False)
    config = BuildConfig(dataset="folder", keep="incomplete", features=("stft",))
    expected, made = ClipBuilder(config, keep._root).build(source), keep.build(source)
    assert made.members is not None and expected.members is not None
    assert replace_features(made.members, ("stft",)) == (dict(expected.members), expected.statistics)


def test_a_build_keeps_incomplete_clips_and_says_so(tmp_path: Path, portrait: factory.Frames) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for speaker in ("anna", "ben", "cleo"):
        for kind, places, heard in (
            ("whole", ((80, 40, 160),), True),
            ("mute", ((80, 40, 160),), False),
            ("faceless", (), True),
            ("nothing", (), False),
        ):
            if kind == "whole" and speaker == "cleo":
                continue
            tone = factory.mono(factory.tone(220, COUNT / 29.97)) if heard else None
            frames = [_frame(portrait, places)] * COUNT
            factory.write(data / f"{speaker}-{kind}.mp4", factory.steady(frames, "mp4"), tone)
    rows = [f"{path.name},{path.name.split('-')[0]},joy" for path in sorted(data.iterdir())]
    (data / "clips.csv").write_text("\n".join(["clip,speaker,emotion", *rows]) + "\n", encoding="utf-8")
    out = tmp_path / "shards"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        arguments = ["--dataset=folder", f"--data={data}", "--workers=1", "--allow-drops", "--keep=incomplete"]
        assert main(["shards", *arguments, f"--out={out}"]) == 0
    assert "built 8 (6 of them flagged)   dropped 3\n" in said.getvalue()
    assert "  kept 3: no_face, incomplete: " in said.getvalue()
    assert "  kept 3: no_sound, incomplete: " in said.getvalue()
    dataset = index.load_dataset(out)
    assert dataset.masked and dataset.identity["config"]["keep"] == "incomplete"
    assert json.loads((out / "dataset.json").read_bytes())["schema_version"] == 2
    assert verify(out, full=True) == []
    flags = {row.clip_id: row.flags for row in index.load_rows(out) if row.shard}
    assert flags["anna-mute"] == ("no_sound",) and flags["anna-faceless"] == ("no_face",)
    # Statistics are of what is present: the sums of a shard are those of its clips with sound.
    counts = index.load_receipt(out / "receipts/anna-000.json").statistics
    assert {name: sums.count for name, sums in counts.items()} == {"mfcc_16": 2 * 16 * 224, "mfcc_8": 2 * 8 * 224}
    with pytest.raises(FolderError, match=r"config.keep: incomplete -> None"):
        find_earlier_build(out, "data", identity(BuildConfig(dataset="folder")))
