"""Builds of every frame: the frames and crops of a build of pairs among them, with either decoder, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
import skimage.data
from av.video.reformatter import VideoReformatter

from builder import faces, media, sequence
from builder.__main__ import main
from builder.clip import ClipBuilder
from builder.config import BuildConfig, ConfigError, identity
from builder.datasets.base import ClipSource
from builder.decoders import pyav
from builder.decoders.base import Listing, MediaError, PartNotKept, Picture
from builder.faces import LANDMARKS, FaceFinder, Faces, FaceTrack, TimedFaces
from builder.features import FeaturesJob, make_features
from builder.sequence import ANCHOR_SECONDS, plan_frames
from builder.timeline import steady_instants, uniform
from manifests import index, schema
from manifests import sequence as contract
from manifests.index import ManifestError
from manifests.schema import FRAMES
from manifests.sequence import MAX_FRAMES, SequenceSample, decode_frame
from manifests.timeline import nearest_frames
from manifests.verify import verify
from tests.factories import media as factory
from tests.factories.face_clips import face_corpus

REAL = (
    "crema-d/VideoFlash/1001_DFA_ANG_XX.flv",
    "grid/bbaf2n.mpg",
    "voxceleb2-like/vox_00015.mp4",
    "mead/M030_sad_3_001.mp4",
)
DECODERS = pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
Recording = Callable[..., ClipSource]


def builder(**config: object) -> ClipBuilder:
    return ClipBuilder(BuildConfig(dataset="folder", **config), Path("/"))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


@pytest.fixture
def build(finder: FaceFinder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClipBuilder]:
    """Builders that share one set of face models."""
    monkeypatch.setattr("builder.clip.FaceFinder", lambda: finder)
    return builder


@pytest.fixture(scope="module")
def portrait() -> factory.Frames:
    return skimage.data.astronaut()[:240, 100:340]


@pytest.fixture
def recording(tmp_path: Path, portrait: factory.Frames) -> Recording:
    """Writes an MP4 of a face that moves to and fro, at 25 frames a second or at given ticks of 1/600 s."""

    def write(count: int = 40, *, ticks: list[int] | None = None, sound: bool = True, **where: object) -> ClipSource:
        frames = [np.roll(portrait, round(6 * np.sin(i / 4)), axis=1) for i in range(count)]
        shown = factory.steady(frames, "mp4", rate=Fraction(25))
        if ticks is not None:
            shown = replace(shown, ticks=ticks, time_base=Fraction(1, 600))
        seconds = float(shown.end_seconds)
        tone = factory.mono(factory.tone(220, seconds)) if sound else None
        path = factory.write(tmp_path / "clip.mp4", shown, tone)
        return factory.source(path, **where)  # type: ignore[arg-type]

    return write


def made(builder: ClipBuilder, source: ClipSource) -> SequenceSample:
    built = builder.build(source)
    assert built.members is not None, built.row
    return contract.decode(built.members)


def pixels(sample: SequenceSample) -> np.ndarray:
    return np.stack([decode_frame(jpeg, sample.side_px) for jpeg in sample.jpegs]).astype(int)


def check_same_as_pairs(pairs: schema.Sample, members: dict[str, bytes], sample: SequenceSample) -> None:
    """The frames of pairs have the same times, transforms and pixels in a sequence."""
    times = list(sample.timing.frame_seconds)
    assert sample.timing.span_seconds == pairs.timing.span_seconds
    np.testing.assert_array_equal(sample.audio, pairs.audio)
    strip = simplejpeg.decode_jpeg(members["faces.jpg"], fastupsample=True)
    rough = strip.reshape(224, FRAMES, 224, 3).transpose(1, 0, 2, 3)
    for i, seconds in enumerate(pairs.timing.frame_seconds):
        if i and seconds == pairs.timing.frame_seconds[i - 1]:
            continue  # a short clip shows a frame twice, and looks for the face in it twice
        at = times.index(seconds)
        assert sample.transforms[at] == pairs.transforms[i]
        assert sample.face_found[at] == pairs.face_found[i]
        np.testing.assert_array_equal(decode_frame(sample.jpegs[at], 224, smooth=False), rough[i])
        np.testing.assert_array_equal(decode_frame(sample.jpegs[at], 224)[:, 1:-1], pairs.faces[i][:, 1:-1])


# --- as pairs --------------------------------------------------------------------------------------------------


@DECODERS
@pytest.mark.parametrize("name", REAL)
def test_real_clips_have_the_crops_of_pairs(
    build: Callable[..., ClipBuilder], real_clip: Callable[[str], Path], name: str, decoder: str
) -> None:
    source = factory.source(real_clip(name))
    pairs = build(decoder=decoder).build(source)
    both = build(frames="all", decoder=decoder).build(source)
    assert pairs.members is not None
    assert both.members is not None
    check_same_as_pairs(schema.decode(pairs.members), dict(pairs.members), contract.decode(both.members))
    assert both.statistics == pairs.statistics
    assert both.row.flags == pairs.row.flags


@pytest.mark.parametrize(
    ("crop", "align"),
    [
        ("aligned", "frame"),
        ("aligned", "clip"),
        ("aligned", "none"),
        ("voxceleb", "frame"),
        ("marlin", "frame"),
        ("openface", "frame"),
    ],
)
def test_every_crop_has_the_crops_of_pairs(
    build: Callable[..., ClipBuilder], recording: Recording, crop: str, align: str
) -> None:
    source, config = recording(), {"crop": crop, "align": align}
    pairs, both = build(**config).build(source), build(frames="all", **config).build(source)
    check_same_as_pairs(schema.decode(pairs.members), pairs.members, contract.decode(both.members))  # type: ignore[arg-type]


def test_a_part_and_a_half_have_the_crops_of_pairs(
    build: Callable[..., ClipBuilder], tmp_path: Path, portrait: factory.Frames
) -> None:
    frames = [np.hstack([np.roll(portrait, i % 7, axis=1), portrait[:, ::-1] // 2]) for i in range(75)]
    shown = factory.steady(frames, "mp4", rate=Fraction(25))
    path = factory.write(tmp_path / "clip.mp4", shown, factory.mono(factory.tone(220, 3.0)))
    source = factory.source(path, segment_seconds=(0.9, 2.3), region="left")
    pairs, both = build().build(source), build(frames="all").build(source)
    sample = contract.decode(both.members)  # type: ignore[arg-type]
    check_same_as_pairs(schema.decode(pairs.members), pairs.members, sample)  # type: ignore[arg-type]
    assert len(sample.jpegs) == 35
    assert sample.timing.frame_seconds[0] == pytest.approx(0.92, abs=0.021)


@pytest.mark.parametrize("kept_bytes", [1 << 40, 0])
def test_transforms_map_the_recording_onto_the_crops(
    build: Callable[..., ClipBuilder], recording: Recording, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where frames did not fit into memory and were decoded twice."""
    monkeypatch.setattr(sequence, "KEPT_BYTES", kept_bytes)
    source = recording()
    sample = made(build(frames="all"), source)

    def all_frames(listing: Listing, pictures: Iterator[Picture]) -> FrameList:
        return FrameList(listing.timeline, [picture.rgb() for picture in pictures])

    frames = media.decode_frames(source, uniform, all_frames).video.frames
    assert len(sample.jpegs) == len(frames) == 40
    for frame, transform, crop in zip(frames, sample.transforms, pixels(sample), strict=True):
        again = faces.warp(frame, np.array(transform).reshape(2, 3))
        assert np.abs(again[8:-8, 8:-8].astype(int) - crop[8:-8, 8:-8]).mean() < 2


class FrameList:
    """All frames of a clip."""

    def __init__(self, timeline: object, frames: list[np.ndarray]) -> None:
        self.timeline, self.frames = timeline, frames


def test_a_second_decode_gives_the_same_bytes(
    build: Callable[..., ClipBuilder], recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = recording()
    once = build(frames="all").build(source)
    monkeypatch.setattr(sequence, "KEPT_BYTES", 0)
    assert build(frames="all").build(source) == once


def test_the_decoders_give_the_same_crops(build: Callable[..., ClipBuilder], recording: Recording) -> None:
    source = recording()
    pyav, ffmpeg = (made(build(frames="all", decoder=decoder), source) for decoder in ("pyav", "ffmpeg"))
    assert ffmpeg.jpegs == pyav.jpegs
    assert (ffmpeg.timing.frame_seconds, ffmpeg.transforms) == (pyav.timing.frame_seconds, pyav.transforms)


def test_only_what_fits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "KEPT_BYTES", 1000)
    rgb = np.zeros((10, 10, 3), np.uint8)
    picture = Picture(rgb=lambda: pytest.fail("is converted again"), reduction=(1.0, 1.0), bytes=150)
    kept = sequence._KeptPictures(4)
    kept.add(0, picture, rgb)
    kept.add(1, picture, rgb)
    first, second = (kept.pictures() or {}).values()
    assert first.rgb() is rgb
    assert second is picture, "300 bytes more are too many"
    kept.add(2, replace(picture, bytes=351), None)
    kept.add(3, picture, None)
    assert kept.pictures() is None


@pytest.mark.parametrize("kept_share", [1.0, 0.1])
def test_large_frames_converted_in_parts_give_the_same_bytes(
    build: Callable[..., ClipBuilder], recording: Recording, kept_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a crop needs more than what was kept, so that they are decoded twice."""
    source, decoded = recording(), []
    whole = build(frames="all").build(source)
    monkeypatch.setattr(pyav, "MIN_LARGE_PIXELS", 0)
    monkeypatch.setattr(sequence, "KEPT_REGION", 96 + kept_share * (sequence.KEPT_REGION - 96))
    again = media.decode_again
    monkeypatch.setattr(media, "decode_again", lambda *given: decoded.append(given) or again(*given))
    assert build(frames="all").build(source) == whole
    assert len(decoded) == (kept_share < 1)


@pytest.mark.parametrize("form", sorted(pyav.PARTED_FORMATS))
def test_parts_are_converted_like_the_whole(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "MIN_LARGE_PIXELS", 0)
    rng, to_rgb = np.random.default_rng(0), VideoReformatter()
    noise = rng.integers(0, 256, (182, 250, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=form)
    whole, large = pyav._rgb(frame, to_rgb, Fraction(1)), pyav._large(frame, to_rgb, Fraction(1))
    assert large is not None
    assert large.shape == whole.shape
    for _ in range(20):
        points = rng.uniform((-40, -40), (290, 220), (2, 2))
        for picture in (large, large.keep_around(np.concatenate([points - 80, points + 80]))):
            part, (x, y) = picture.around(points, 32)
            np.testing.assert_array_equal(part, whole[y : y + part.shape[0], x : x + part.shape[1]])
            assert (x % 32, y % 32) == (0, 0)
            inside = np.clip(points, 0, (249, 181))
            assert (inside.min(axis=0) >= (x, y)).all()
            assert (inside.max(axis=0) <= (x + part.shape[1] - 1, y + part.shape[0] - 1)).all()
    with pytest.raises(PartNotKept):
        large.keep_around(np.zeros((1, 2))).around(np.full((1, 2), 100.0))


def test_small_odd_stretched_and_rare_frames_are_converted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    to_rgb, square = VideoReformatter(), Fraction(1)
    assert pyav._large(av.VideoFrame(320, 240, "yuv420p"), to_rgb, square) is None
    monkeypatch.setattr(pyav, "MIN_LARGE_PIXELS", 0)
    assert pyav._large(av.VideoFrame(320, 240, "yuv420p"), to_rgb, square) is not None
    assert pyav._large(av.VideoFrame(320, 241, "yuv420p"), to_rgb, square) is None
    assert pyav._large(av.VideoFrame(320, 240, "yuv420p"), to_rgb, Fraction(16, 15)) is None
    assert pyav._large(av.VideoFrame(320, 240, "yuv420p10le"), to_rgb, square) is None


def test_a_moving_face_stands_still(build: Callable[..., ClipBuilder], recording: Recording) -> None:
    crops = pixels(made(build(frames="all"), recording()))[:, 40:180, 50:170]
    assert np.abs(crops - crops[0]).mean() < 6


# --- which frames ----------------------------------------------------------------------------------------------


@DECODERS
def test_variable_frame_rate_keeps_every_frame_at_its_time(
    build: Callable[..., ClipBuilder], recording: Recording, decoder: str
) -> None:
    steps = np.random.default_rng(3).integers(10, 60, 40)
    ticks = [0, *np.cumsum(steps).tolist()]
    sample = made(build(frames="all", decoder=decoder), recording(ticks=ticks))
    assert sample.timing.frame_seconds == pytest.approx([tick / 600 for tick in ticks[:-1]], abs=1e-4)
    assert sample.timing.rate_hz == 0


@DECODERS
@pytest.mark.parametrize("rate_hz", [10.0, 25.0, 60.0])
def test_rate_takes_the_nearest_frames(
    build: Callable[..., ClipBuilder], recording: Recording, decoder: str, rate_hz: float
) -> None:
    steps = np.random.default_rng(3).integers(10, 60, 40)
    ticks = [0, *np.cumsum(steps).tolist()]
    source = recording(ticks=ticks)
    own = made(build(frames="all", decoder=decoder), source)
    sample = made(build(frames="all", rate_hz=rate_hz, decoder=decoder), source)
    start, end = sample.timing.span_seconds
    assert len(sample.jpegs) == pytest.approx((end - start) * rate_hz, abs=1)
    times = np.array(own.timing.frame_seconds)
    for k, seconds in enumerate(sample.timing.frame_seconds):
        assert abs(seconds - (start + k / rate_hz)) <= np.abs(times - (start + k / rate_hz)).min() + 1e-9
        assert seconds in own.timing.frame_seconds


@pytest.mark.parametrize("side_px", [160, 112, 96])
def test_size_shows_the_same_in_fewer_pixels(
    build: Callable[..., ClipBuilder], recording: Recording, side_px: int
) -> None:
    import cv2

    source = recording(count=20)
    large, small = made(build(frames="all"), source), made(build(frames="all", size_px=side_px), source)
    assert small.side_px == side_px
    for before, after in zip(pixels(large), pixels(small), strict=True):
        reduced = cv2.resize(before.astype(np.uint8), (side_px, side_px), interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - after)[2:-2, 2:-2].mean() < 5


def test_a_short_clip_has_each_frame_once(build: Callable[..., ClipBuilder], recording: Recording) -> None:
    source = recording(count=7)
    sample = made(build(frames="all"), source)
    assert len(sample.jpegs) == 7
    pairs = build().build(source)
    check_same_as_pairs(schema.decode(pairs.members), pairs.members, sample)  # type: ignore[arg-type]


def test_too_many_frames_are_refused_with_what_to_do() -> None:
    seconds = np.arange(MAX_FRAMES + 1) / 25
    listing = Listing(seconds=seconds, timeline=uniform(seconds, float(seconds[-1]) + 0.04))
    with pytest.raises(MediaError, match=r"decode_error: found 4097 frames, expected at most 4096; .*RATE="):
        plan_frames(listing, None)
    assert len(plan_frames(listing, 12.5).shown) == 2049


def test_anchors_are_never_far_apart() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 15, 16, 17, 75, 400):
        seconds = np.cumsum(rng.uniform(0.01, 0.06, count))
        plan = plan_frames(Listing(seconds=seconds, timeline=uniform(seconds, float(seconds[-1]) + 0.04)), None)
        anchors = sorted({*plan.sampled, *plan.further})
        assert {0, count - 1} <= set(anchors)
        assert not set(plan.sampled) & set(plan.further)
        assert np.diff(seconds[anchors]).max() < ANCHOR_SECONDS + 2 * 0.06
        assert plan.sampled == tuple(nearest_frames(seconds, plan.timeline.instants_seconds))


def test_instants_of_a_rate_fill_the_span() -> None:
    assert steady_instants((1.0, 2.0), 4.0) == (1.0, 1.25, 1.5, 1.75)
    assert steady_instants((0.0, 0.01), 4.0) == (0.0,)
    assert len(steady_instants((0.0, 3.0), 25.0)) == 75


@DECODERS
@pytest.mark.parametrize("case", ["whole", "part", "turned", "cut", "damaged", "avi", "flv", "no sound", "one frame"])
def test_the_decoders_check_all_frames_as_they_check_16(tmp_path: Path, decoder: str, case: str) -> None:
    """The same reason to drop a recording, or the same 16 frames among all, sound and timeline."""
    container = case if case in ("avi", "flv") else "mp4"
    frames = factory.stamps(1 if case == "one frame" else 60)
    codec = {"avi": "mpeg4", "flv": "flv"}.get(case, "libx264")
    shown = replace(
        factory.steady(frames, container, start_seconds=0.1),
        codec=codec,
        rotation_degrees=90 if case == "turned" else 0,
    )
    sound_codec = {"avi": "pcm_s16le", "flv": "libmp3lame"}.get(case, "aac")
    tone = factory.mono(factory.tone(220, 2.0, rate_hz=44_100), codec=sound_codec, rate_hz=44_100)
    path = tmp_path / f"clip.{container}"
    factory.write(path, shown, None if case == "no sound" else tone, container=container)
    if case == "cut":
        factory.cut(path, 0.6)
    if case == "damaged":
        factory.damage(path, "video")
    source = factory.source(path, segment_seconds=(0.5, 1.7) if case == "part" else None)

    def all_frames(listing: Listing, pictures: Iterator[Picture]) -> FrameList:
        chosen = nearest_frames(listing.seconds, listing.timeline.instants_seconds)
        found = [picture.rgb() for picture in pictures]
        assert len(found) == len(listing.seconds)
        return FrameList(listing.timeline, [found[i] for i in chosen])

    def attempt(read: Callable[[], media.DecodedClip]) -> object:
        try:
            return read()
        except MediaError as error:
            return error.reason  # of damage, ffmpeg does not always log the same words first

    sampled = attempt(lambda: media.decode(source, uniform, decoder))  # type: ignore[arg-type]
    every = attempt(lambda: media.decode_frames(source, uniform, all_frames, decoder))  # type: ignore[arg-type]
    if isinstance(sampled, str) or isinstance(every, str):
        assert every == sampled
        return
    assert case not in ("cut", "damaged", "no sound", "one frame")
    assert every.video.timeline == sampled.video.timeline
    np.testing.assert_array_equal(every.video.frames, sampled.video.frames)
    np.testing.assert_array_equal(every.sound.samples, sampled.sound.samples)
    assert every.flags == sampled.flags


@pytest.mark.parametrize("wrong", ["none", "shifted", "fewer"])
def test_frames_whose_packets_have_other_times_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    shown = factory.steady(factory.stamps(30), "mp4")
    source = factory.source(factory.write(tmp_path / "clip.mp4", shown, factory.mono(factory.tone(220, 1.0))))

    def times(listing: Listing, pictures: Iterator[Picture]) -> FrameList:
        return FrameList(listing.timeline, [(*listing.seconds, *[picture.rgb() for picture in pictures])])

    right = media.decode_frames(source, uniform, times).video
    packet_times = pyav._packet_times

    def wrong_times(clip: pyav._Packets) -> pyav._Times:
        pts = packet_times(clip).pts
        pts = {"none": (), "shifted": tuple(each + 3 for each in pts), "fewer": pts[:-1]}[wrong]
        return replace(packet_times(clip), pts=pts)

    monkeypatch.setattr(pyav, "_packet_times", wrong_times)
    monkeypatch.setattr(pyav, "_check_complete", lambda *_: None)
    again = media.decode_frames(source, uniform, times).video
    assert again.timeline == right.timeline
    np.testing.assert_equal(again.frames, right.frames)


def test_frames_out_of_order_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = factory.source(factory.write(tmp_path / "clip.mp4", factory.steady(factory.stamps(30), "mp4")))
    decode = pyav._decode

    def swapped(clip: pyav._Packets) -> Iterator[object]:
        first, second, *others = decode(clip)
        yield from (second, first, *others)

    monkeypatch.setattr(pyav, "_decode", swapped)
    with pytest.raises(MediaError, match=r"decode_error: .*not in the order of their times; convert the file once"):
        media.decode_frames(source, uniform, lambda listing, pictures: FrameList(listing.timeline, list(pictures)))


# --- faces -----------------------------------------------------------------------------------------------------


def _faces(*middles: float) -> Faces:
    """Faces of 100 pixels whose middles are at (x, x); NaN where there is none."""
    x = np.array(middles)
    points = np.broadcast_to(x[:, None, None], (len(x), len(LANDMARKS), 3)).copy()
    return Faces(points=points, boxes=np.stack([x - 50, x - 50, x + 50, x + 50], axis=1), several=False)


def test_other_peoples_faces_are_no_anchors() -> None:
    sampled = TimedFaces(faces=_faces(100, np.nan, 200), seconds=[0.0, 1.0, 2.0])
    further = TimedFaces(faces=_faces(105, 300, 149, np.nan), seconds=[0.1, 0.5, 1.0, 1.5])
    assert faces.without_strangers(sampled, further).found.tolist() == [True, False, True, False]
    nobody = TimedFaces(faces=_faces(np.nan), seconds=[0.0])
    assert not faces.without_strangers(nobody, further).found.any()


def test_a_track_finds_the_face_again(finder: FaceFinder, portrait: factory.Frames) -> None:
    track = FaceTrack(finder)
    for frame in (portrait, np.zeros_like(portrait), portrait):
        track.add(frame)
    assert track.faces().found.tolist() == [True, False, True]
    assert FaceTrack(finder).faces().points.shape == (0, len(LANDMARKS), 3)


def test_frames_without_a_face_are_marked(
    build: Callable[..., ClipBuilder], tmp_path: Path, portrait: factory.Frames
) -> None:
    frames = [portrait if i < 40 else np.zeros_like(portrait) for i in range(50)]
    shown = factory.steady(frames, "mp4", rate=Fraction(25))
    source = factory.source(factory.write(tmp_path / "a.mp4", shown, factory.mono(factory.tone(220, 2.0))))
    sample = made(build(frames="all"), source)
    assert sample.flags == ("faces_missing",)
    assert all(sample.face_found[:37])
    assert not any(sample.face_found[41:])


def test_clips_without_faces_are_dropped_or_black(
    build: Callable[..., ClipBuilder], tmp_path: Path, portrait: factory.Frames
) -> None:
    frames = [portrait if i < 10 else np.zeros_like(portrait) for i in range(50)]
    shown = factory.steady(frames, "mp4", rate=Fraction(25))
    source = factory.source(factory.write(tmp_path / "a.mp4", shown, factory.mono(factory.tone(220, 2.0))))
    row = build(frames="all").build(source).row
    assert row.reason == "no_face"
    assert row.detail is not None
    assert row.detail.startswith("found a face in ")
    kept = made(build(frames="all", keep="incomplete"), source)
    assert kept.flags == ("no_face",)
    assert kept.faces_present == kept.face_found
    for crop, present in zip(pixels(kept), kept.faces_present or (), strict=True):
        assert crop.any() == present
    assert kept.sound_present == (True,) * 50


def test_clips_without_sound_are_kept_if_wanted(build: Callable[..., ClipBuilder], recording: Recording) -> None:
    source = recording(sound=False)
    assert build(frames="all").build(source).row.reason == "no_audio"
    built = build(frames="all", keep="incomplete").build(source)
    sample = contract.decode(built.members)  # type: ignore[arg-type]
    assert sample.flags == ("no_sound",)
    assert sample.sound_present == (False,) * 40
    assert sample.faces_present == (True,) * 40
    assert built.statistics == {}


# --- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"frames": "17"}, "frames: found '17', expected one of 16, all"),
        ({"frames": "all", "size_px": 200}, "size_px: found 200, expected one of 224, 160, 112, 96"),
        ({"frames": "all", "rate_hz": 0.5}, "rate_hz: found 0.5, expected 1 to 240"),
        ({"frames": "all", "timeline": "fixed"}, "timeline: found 'fixed' with frames 'all'"),
        ({"size_px": 112}, "size_px, rate_hz: found 112 and None with frames '16'"),
        ({"rate_hz": 25.0}, "size_px, rate_hz: found 224 and 25.0 with frames '16'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("'", ".")):
        BuildConfig(dataset="folder", **config)  # type: ignore[arg-type]


def test_builds_of_pairs_are_described_as_before() -> None:
    assert not {"frames", "size_px", "rate_hz"} & set(identity(BuildConfig(dataset="folder"))["config"])
    settings = identity(BuildConfig(dataset="folder", frames="all", rate_hz=25.0))["config"]
    assert (settings["frames"], settings["size_px"], settings["rate_hz"]) == ("all", 224, 25.0)


# --- builds ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return face_corpus(tmp_path_factory.mktemp("corpus") / "data", ("anna", "ben", "cleo"), 2)


@pytest.fixture(scope="module")
def shards(corpus: Path) -> Path:
    out = corpus.parent / "shards"
    arguments = ["--dataset", "folder", "--data", str(corpus), "--out", str(out), "--frames", "all", "--workers", "2"]
    assert main(["shards", *arguments]) == 0
    return out


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): index.file_sha256(path) for path in files}


def test_a_build_says_its_kind_and_is_whole(shards: Path) -> None:
    assert verify(shards, full=True) == []
    dataset = index.load_dataset(shards)
    assert (dataset.kind, dataset.members) == ("sequences", contract.MEMBERS)
    receipt = index.load_receipt(shards / dataset.shards[0].receipt)
    assert set(receipt.statistics) == {"mfcc_16", "mfcc_8"}
    assert all(set(places) == set(contract.MEMBERS) for places in receipt.members.values())


def test_any_number_of_workers_gives_the_same_bytes(corpus: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    arguments = ["--dataset", "folder", "--data", str(corpus), "--out", str(out), "--frames", "all", "--workers", "1"]
    assert main(["shards", *arguments]) == 0
    assert hashes(out) == hashes(shards)


def test_a_killed_build_resumes_with_the_same_bytes(corpus: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    arguments = ["--dataset", "folder", "--data", str(corpus), "--out", str(out), "--frames", "all", "--workers", "1"]
    for shard in ("anna", "ben", "cleo"):
        script = (
            "import os, signal, sys\n"
            "from manifests import files\n"
            "from builder.__main__ import main\n"
            "replace = os.replace\n"
            "def strike(source, target, *a, **k):\n"
            f"    if '{shard}-000.json' in str(target): os.killpg(0, signal.SIGKILL)\n"
            "    return replace(source, target, *a, **k)\n"
            "os.replace = strike\n"
            "main(sys.argv[1:])\n"
        )
        killed = subprocess.run(
            [sys.executable, "-c", script, "shards", *arguments],
            capture_output=True,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert killed.returncode == -9, killed.stderr.decode()
        assert not (out / "receipts" / f"{shard}-000.json").exists()
    assert main(["shards", *arguments]) == 0
    assert hashes(out) == hashes(shards)


def test_another_kind_in_the_same_folder_is_refused(
    corpus: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "--dataset", "folder", "--data", str(corpus), "--out", str(shards)]) == 2
    assert "was built differently" in capsys.readouterr().err


def test_features_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="found shards of sequences, which store no spectrograms, expected pairs"):
        make_features(FeaturesJob(shards=shards, out=tmp_path / "out", features=("logmel",)))


def test_report_shows_every_frame_without_a_script(shards: Path) -> None:
    page = (shards / "report.html").read_text()
    assert page.count("Every frame: scroll to move through the clip") == 6
    assert "every frame of the recording, 224x224 pixels; figures show 16 instants" in page
    assert "16 stored" not in page
    assert "Please cite" not in page  # recordings of one's own
    assert "<script" not in page


def test_plan_estimates_size_and_time(
    corpus: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", "--dataset", "folder", "--data", str(corpus), "--out", str(tmp_path / "new")]
    assert main([*arguments, "--frames", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    size = next(line for line in lines if line.startswith("size"))
    assert "frames" in size
    assert next(line for line in lines if line.startswith("time"))
    estimated = float(size.split("about ")[1].split()[0])
    found = sum(path.stat().st_size for path in shards.glob("*.tar")) / 1e6
    assert found / 2 < estimated < found * 2 + 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel counts memory in another unit")
def test_memory_does_not_grow_with_a_recording(tmp_path: Path) -> None:
    """1080p of 12 s is 1.9 GB of pixels: none but the 16 frames of the timeline are kept."""
    path = tmp_path / "long.mp4"
    portrait = np.kron(skimage.data.astronaut()[:216, 100:292], np.ones((5, 5, 1), np.uint8))
    frame = np.zeros((1080, 1920, 3), np.uint8)
    frame[:, 480:1440] = portrait
    shown = factory.steady(LazyFrames(frame, 300), "mp4", rate=Fraction(25))
    factory.write(path, replace(shown, options={"preset": "ultrafast"}), factory.mono(factory.tone(220, 12.0)))
    script = (
        "import sys, resource\n"
        "from pathlib import Path\n"
        "from builder.clip import ClipBuilder\n"
        "from builder.config import BuildConfig\n"
        "from tests.factories import media as factory\n"
        "builder = ClipBuilder(BuildConfig(dataset='folder', frames='all'), Path('/'))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "built = builder.build(factory.source(Path(sys.argv[1])))\n"
        "assert built.row.faces_found == 300, built.row\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},  # gives back what is free, however it is scattered
        check=True,
    )
    assert int(done.stdout) < 300


class LazyFrames:
    """The same frame many times, a little to the right each time."""

    def __init__(self, frame: np.ndarray, count: int) -> None:
        self._frame, self._count = frame, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < self._count:
            raise IndexError
        return np.roll(self._frame, i % 10, axis=1)
