"""Samples of sequences: encoded, decoded, refused by name where a stranger wrote them, played by video players."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from dataclasses import replace
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from manifests import kinds, schema, sequence
from manifests.records import SchemaError
from manifests.sequence import (
    MAX_FRAMES,
    SIDES_PX,
    SequenceTiming,
    decode_frame,
    encode_frame,
    read_frame_index,
    reduced_px,
)
from tests.factories.samples import sample, sequence_sample

MADE = sequence_sample()
MEMBERS = sequence.encode(MADE)
FRAMES = MEMBERS["frames.mjpg"]


def described(**changes: Any) -> bytes:
    """The json with other values; ... removes one."""
    meta = json.loads(MEMBERS["json"]) | changes
    return json.dumps({name: value for name, value in meta.items() if value is not ...}).encode()


def timed(**changes: Any) -> bytes:
    return described(timing=json.loads(MEMBERS["json"])["timing"] | changes)


def ranged(change: Any) -> bytes:
    return described(byte_ranges=change(json.loads(MEMBERS["json"])["byte_ranges"]))


def with_frame(number: int, jpeg: bytes) -> dict[str, bytes]:
    """The members with another JPEG, and a json that is right about it."""
    jpegs = [*MADE.jpegs[:number], jpeg, *MADE.jpegs[number + 1 :]]
    sizes = list(map(len, jpegs))
    ranges = [[sum(sizes[:i]), size] for i, size in enumerate(sizes)]
    return MEMBERS | {"frames.mjpg": b"".join(jpegs), "json": described(byte_ranges=ranges)}


def jpeg(width: int, height: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8)))


@pytest.mark.parametrize("side_px", SIDES_PX)
@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_sample_comes_back(count: int, side_px: int) -> None:
    made = sequence_sample(count=count, side_px=side_px)
    members = sequence.encode(made)
    assert tuple(members) == sequence.MEMBERS == kinds.KINDS["sequences"].members(("mfcc",))
    after = sequence.decode(members)
    assert replace(after, audio=made.audio) == made
    np.testing.assert_array_equal(after.audio, made.audio)
    assert sequence.encode(after) == members
    assert sequence.check(members) == made.clip


def test_masks_come_back_and_are_another_version() -> None:
    masked = replace(MADE, faces_present=(True, False, True, True, True), sound_present=(False,) * 5)
    members = sequence.encode(masked)
    after = sequence.decode(members)
    assert (after.faces_present, after.sound_present) == (masked.faces_present, masked.sound_present)
    assert [json.loads(each)["schema_version"] for each in (MEMBERS["json"], members["json"])] == [1, 2]


@given(st.lists(st.integers(1, 255), min_size=1, max_size=8, unique=True))
def test_byte_ranges_find_each_frame(levels: list[int]) -> None:
    jpegs = tuple(encode_frame(np.full((96, 96, 3), level, np.uint8)) for level in levels)
    members = sequence.encode(replace(sequence_sample(count=len(levels), side_px=96), jpegs=jpegs))
    ranges = json.loads(members["json"])["byte_ranges"]
    for level, (offset, size) in zip(levels, ranges, strict=True):
        assert abs(int(decode_frame(members["frames.mjpg"][offset : offset + size], 96)[0, 0, 0]) - level) <= 1


def test_a_video_player_plays_the_frames() -> None:
    with av.open(io.BytesIO(FRAMES), format="mjpeg") as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == len(MADE.jpegs)
    for frame, each in zip(shown, MADE.jpegs, strict=True):
        assert np.median(np.abs(frame.astype(int) - decode_frame(each, 224))) < 2  # colours are interpolated otherwise


def test_json_has_no_value_that_other_readers_cannot_type() -> None:
    meta = json.loads(MEMBERS["json"])
    assert None not in meta.values()
    assert all(isinstance(value, float) for value in meta["timing"]["frame_seconds"])
    assert isinstance(meta["timing"]["rate_hz"], float)


def test_the_frames_of_a_filmstrip_have_the_same_blocks() -> None:
    """At 224 px, a whole number of blocks: only the outermost columns differ, where colours are interpolated."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (16, 14, 14, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    crops[:, 3:-3, 3:-3] = np.clip(crops[:, 3:-3, 3:-3].astype(int) + rng.integers(-20, 20), 0, 255)
    strip, jpegs = schema.encode_faces(crops), [encode_frame(crop) for crop in crops]
    for number, (crop, each) in enumerate(zip(schema.decode_faces(strip), jpegs, strict=True)):
        np.testing.assert_array_equal(decode_frame(each, 224)[:, 1:-1], crop[:, 1:-1], err_msg=str(number))
    rough = simplejpeg.decode_jpeg(strip, fastupsample=True).reshape(224, 16, 224, 3).transpose(1, 0, 2, 3)
    for crop, each in zip(rough, jpegs, strict=True):
        np.testing.assert_array_equal(decode_frame(each, 224, smooth=False), crop)


# --- refused ---------------------------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[dict[str, bytes], str]] = {
    "no frames": ({"frames.mjpg": b""}, "json.byte_ranges"),
    "frames cut": ({"frames.mjpg": FRAMES[:-5]}, "json.byte_ranges"),
    "frames longer": ({"frames.mjpg": FRAMES + b"x"}, "json.byte_ranges"),
    "frames bloated": ({"frames.mjpg": bytes((128 << 20) + 1)}, "frames.mjpg: found 134217729 bytes"),
    "ranges overlap": ({"json": ranged(lambda r: [[0, r[0][1]], [1, r[1][1]], *r[2:]])}, "json.byte_ranges"),
    "ranges out of order": ({"json": ranged(lambda r: r[::-1])}, "json.byte_ranges"),
    "ranges with a gap": ({"json": ranged(lambda r: [[0, r[0][1] - 1], *r[1:]])}, "json.byte_ranges"),
    "range of nothing": ({"json": ranged(lambda r: [[0, 0], *r[1:]])}, "json.byte_ranges"),
    "range negative": ({"json": ranged(lambda r: [[0, -5], *r[1:]])}, "json.byte_ranges"),
    "range beyond": ({"json": ranged(lambda r: [*r[:-1], [r[-1][0], 10**9]])}, "json.byte_ranges"),
    "range of floats": ({"json": ranged(lambda r: [[0.0, 1.0], *r[1:]])}, "json.byte_ranges"),
    "range huge": ({"json": ranged(lambda r: [[0, 10**400], *r[1:]])}, "json.byte_ranges"),
    "ranges that wrap around": (
        {"json": ranged(lambda r: [[0, 2**63 - 1], [2**63 - 1, 2**63 - 1], [-2, 2], *r[3:]])},
        "json.byte_ranges",
    ),
    "ranges of texts": ({"json": ranged(lambda r: ["a" * 99_999, *[""] * 9_999])}, "json.byte_ranges"),
    "ranges of booleans": ({"json": ranged(lambda r: [[False, True], *r[1:]])}, "json.byte_ranges"),
    "fewer ranges": ({"json": ranged(lambda r: r[:-1])}, "json.byte_ranges: found 4"),
    "no ranges": ({"json": described(byte_ranges=...)}, "json: missing byte_ranges"),
    "side": ({"json": described(side_px=225)}, "json.side_px"),
    "another side": ({"json": described(side_px=96)}, "frames.mjpg: frame 0: found 224x224, expected 96x96"),
    "side a text": ({"json": described(side_px="224")}, "json.side_px"),
    "times descend": ({"json": timed(frame_seconds=[0.2, 0.1, 0.12, 0.13, 0.14])}, "json.timing"),
    "times equal": ({"json": timed(frame_seconds=[0.1, 0.1, 0.12, 0.13, 0.14])}, "json.timing"),
    "times before": ({"json": timed(frame_seconds=[0.01, 0.1, 0.12, 0.13, 0.14])}, "json.timing"),
    "times after": ({"json": timed(frame_seconds=[0.1, 0.11, 0.12, 0.13, 99.0])}, "json.timing"),
    "times infinite": ({"json": timed(frame_seconds=[0.1, 0.11, 0.12, 0.13, math.inf])}, "json.timing"),
    "span backwards": ({"json": timed(span_seconds=[1.0, 0.0])}, "json.timing"),
    "rate negative": ({"json": timed(rate_hz=-25.0)}, "json.timing"),
    "rate NaN": ({"json": timed(rate_hz=math.nan)}, "json.timing"),
    "too many frames": ({"json": timed(frame_seconds=[0.05 + i / 1e6 for i in range(MAX_FRAMES + 1)])}, "json.timing"),
    "no time": ({"json": timed(frame_seconds=[])}, "json.timing"),
    "timing of pairs": ({"json": schema.encode(sample())["json"]}, "json"),
    "fewer transforms": ({"json": described(transforms=[[1.0] * 6] * 4)}, "json.transforms: found 4"),
    "fewer found": ({"json": described(face_found=[True] * 4)}, "json.face_found: found 4"),
    "version without masks": ({"json": described(schema_version=2)}, "json: missing faces_present"),
    "short mask": (
        {"json": described(schema_version=2, faces_present=[True], sound_present=[True] * 5)},
        "json.faces_present: found 1",
    ),
    "version": ({"json": described(schema_version=3)}, "json: found schema version 3"),
    "flags": ({"json": described(flags="cute")}, "json.flags"),
    "frame of noise": (with_frame(2, bytes(range(256)) * 8), "frames.mjpg: frame 2"),
    "frame of another size": (with_frame(2, jpeg(224, 96)), "frames.mjpg: frame 2: found 224x96"),
    "frame cut": (with_frame(2, MADE.jpegs[2][:-40]), "frames.mjpg: frame 2"),
    "frame with a tail": (with_frame(4, MADE.jpegs[4] + bytes(9)), "frames.mjpg: frame 4"),
    "frame claims to be huge": (
        with_frame(1, MADE.jpegs[1].replace(b"\x00\xe0\x00\xe0", b"\xff\xdc\xff\xdc")),
        "frames.mjpg: frame 1: found 65500x65500",
    ),
    "sound": ({"audio.flac": b"fLaC"}, "audio.flac"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_samples_are_refused_by_name(case: str) -> None:
    changed, words = HOSTILE[case]
    with pytest.raises(SchemaError) as caught:
        sequence.decode(MEMBERS | changed)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 500


def test_a_frame_of_very_many_scans_is_refused_before_decoding() -> None:
    whole = MADE.jpegs[0]
    start = whole.index(b"\xff\xda")
    header = whole[start : start + 2 + int.from_bytes(whole[start + 2 : start + 4], "big")]
    with pytest.raises(SchemaError, match=r"^frames\.mjpg: frame 0: found 101 scans, expected at most 32$"):
        sequence.decode(with_frame(0, whole[:start] + header * 100 + whole[start:]))


def test_a_frame_with_damaged_data_is_found_when_it_is_decoded() -> None:
    damaged = MADE.jpegs[3][:300] + b"\xff\xd9"
    with pytest.raises(SchemaError, match=r"^frames\.mjpg"):
        sequence.check(with_frame(3, damaged))


@pytest.mark.parametrize("names", [("frames.mjpg", "json"), (*sequence.MEMBERS, "faces.jpg"), ()])
def test_missing_and_unknown_members_are_named(names: tuple[str, ...]) -> None:
    with pytest.raises(SchemaError, match=r"^found members .*, expected frames\.mjpg, audio\.flac, json$"):
        sequence.decode({name: MEMBERS.get(name, b"") for name in names})


def test_a_sample_that_cannot_be_decoded_is_not_encoded() -> None:
    with pytest.raises(SchemaError, match="jpegs: found 4, expected 5"):
        replace(MADE, jpegs=MADE.jpegs[:4])
    with pytest.raises(SchemaError, match="side_px: found 225"):
        replace(MADE, side_px=225)
    with pytest.raises(SchemaError, match=r"frames\.mjpg: found .* bytes, expected at most 134217728"):
        sequence.encode(replace(MADE, jpegs=(bytes(30 << 20),) * 5))


def test_a_fixed_rate_may_show_a_frame_twice() -> None:
    timing = SequenceTiming(
        span_seconds=(0.0, 1.0), frame_seconds=(0.0, 0.0, 0.5), rate_hz=25.0, audio_start_seconds=0.0
    )
    assert timing.frame_seconds[0] == timing.frame_seconds[1]


def test_checking_needs_the_memory_of_one_frame() -> None:
    """3,000 frames are 450 MB of pixels."""
    short = sequence_sample(count=1)
    made = sequence_sample(
        count=3000, side_px=224, jpegs=short.jpegs * 3000, transforms=short.transforms * 3000, face_found=(True,) * 3000
    )
    members = sequence.encode(made)
    tracemalloc.start()
    assert sequence.check(members) == made.clip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(members["frames.mjpg"]) + (40 << 20)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_times_and_places_of_frames_are_read_without_the_rest(count: int) -> None:
    members = sequence.encode(sequence_sample(count=count))
    made, data = sequence.decode(members), members["frames.mjpg"]
    index = read_frame_index(members["json"], len(data))
    assert index.span_seconds == made.timing.span_seconds
    assert tuple(index.frame_seconds.tolist()) == made.timing.frame_seconds
    assert tuple(data[o : o + s] for o, s in index.byte_ranges.tolist()) == made.jpegs
    assert (index.audio_start_seconds, index.masked) == (made.timing.audio_start_seconds, False)
    blind = read_frame_index(members["json"], None)
    assert (blind.span_seconds, len(blind.byte_ranges)) == (index.span_seconds, 0)


@pytest.mark.parametrize(
    "case", [case for case, changes in HOSTILE.items() if any(name in case for name in ("time", "range", "rate"))]
)
def test_times_and_places_that_a_sample_may_not_have_are_refused_by_both(case: str) -> None:
    members = MEMBERS | HOSTILE[case][0]
    with pytest.raises(SchemaError):
        read_frame_index(members["json"], len(members["frames.mjpg"]))


@pytest.mark.parametrize("side_px", SIDES_PX)
@pytest.mark.parametrize("needed_px", [224, 112, 56, 28])
def test_a_reduced_frame_has_the_least_side_that_is_not_smaller(side_px: int, needed_px: int) -> None:
    jpeg = sequence_sample(count=1, side_px=side_px).jpegs[0]
    side = reduced_px(side_px, needed_px)
    assert side == side_px or needed_px <= side < needed_px + side_px / 8
    out = np.zeros((side, side, 3), np.uint8)
    found = decode_frame(jpeg, side_px, needed_px=needed_px, out=out)
    assert found.shape == out.shape
    assert np.array_equal(found, out)
    assert out.std() > 10


def test_kinds_know_their_members() -> None:
    kinds.check_member("frames.mjpg", 128 << 20)
    kinds.check_member("mfcc_16.npy", 1)
    with pytest.raises(SchemaError, match="unknown member"):
        kinds.check_member("frames.avi", 1)
    with pytest.raises(SchemaError, match="unknown member"):
        schema.decode(schema.encode(sample()) | {"frames.mjpg": FRAMES})
