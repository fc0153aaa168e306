"""Samples: they survive encoding, and hostile ones do no more than raise a SchemaError."""

from __future__ import annotations

import io
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import simplejpeg
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manifests import records, schema
from manifests.schema import FEATURE_ROWS, FLAGS, FRAMES, Clip, SchemaError
from tests.factories.samples import sample, timing

ALL = tuple(FEATURE_ROWS)
NAMES = tuple(name.removesuffix(".npy") for name in schema.feature_members(ALL))
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "faces.jpg": schema.decode_faces,
    "mfcc_8.npy": lambda data: schema.decode_spectrogram(data, "mfcc_8"),
    "audio.flac": schema.decode_audio,
    "json": schema.decode_metadata,
}
MEMBERS = schema.encode(sample())
SHAPES = {"faces.jpg": (16, 224, 224, 3), "mfcc_8.npy": (8, 13, 224), "audio.flac": None, "json": None}

each_member = pytest.mark.parametrize("member", DECODERS)
names = st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(-1e6, 1e6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def npy(array: np.ndarray, version: tuple[int, int] | None = None, *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=pickled)
    return buffer.getvalue()


def sound(samples: int = 100, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    given_ = {"samplerate": 16_000, "format": "FLAC", "subtype": "PCM_16"} | settings
    channels = given_.pop("channels", 1)
    soundfile.write(buffer, np.zeros((samples, channels), np.int16), **given_)
    return buffer.getvalue()


def claiming(samples: int) -> bytes:
    """A FLAC whose header has a wrong length."""
    data = bytearray(sound())
    rate_to_length = int.from_bytes(data[18:26], "big") >> 36 << 36
    data[18:26] = (rate_to_length | samples).to_bytes(8, "big")
    return bytes(data)


def jpeg(height: int = 224, width: int = 3584) -> bytes:
    return simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8))


def described(**changes: Any) -> bytes:
    """`KEY.json` with other values; a value of `...` removes its key."""
    meta = json.loads(MEMBERS["json"]) | changes
    return json.dumps({name: value for name, value in meta.items() if value is not ...}).encode()


def timed(**changes: Any) -> bytes:
    return described(timing=asdict(timing()) | changes)


# Round trips


@given(
    clip_id=names,
    speaker=names,
    emotion=texts.filter(bool),
    intensity=st.none() | texts.filter(bool),
    found=st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES),
    flags=st.sets(st.sampled_from(sorted(FLAGS))),
    transforms=st.lists(st.tuples(*[numbers] * 6), min_size=FRAMES, max_size=FRAMES),
    source=st.dictionaries(texts, st.none() | texts | numbers | st.integers(), max_size=3),
    instants=st.lists(numbers, min_size=FRAMES, max_size=FRAMES),
)
def test_description_survives(
    clip_id: str, speaker: str, emotion: str, intensity: str | None, found: list[bool], flags: set[str], **rest: Any
) -> None:
    before = sample(
        Clip(clip_id=clip_id, speaker=speaker, emotion=emotion, intensity=intensity),
        timing=replace(timing(), instants_seconds=tuple(rest["instants"])),
        transforms=tuple(rest["transforms"]),
        face_found=tuple(found),
        flags=tuple(sorted(flags)),
        source=rest["source"],
    )
    data = schema.dump_json(schema.metadata(before)).encode()
    after = schema.decode(MEMBERS | {"json": data})
    for field in ("clip", "timing", "transforms", "face_found", "flags", "source"):
        assert getattr(after, field) == getattr(before, field)


MASKS = {"faces_present": (True,) * 3 + (False,) * 13, "sound_present": {"16": (False,) * 16, "8": (True,) * 8}}


def test_masks_survive_and_have_a_version_of_their_own() -> None:
    """What is always present is not mentioned: the bytes are those of samples made before there were masks."""
    plain, masked = sample(), sample(**MASKS)
    assert schema.metadata(plain)["schema_version"] == 1
    assert not MASKS.keys() & schema.metadata(plain).keys()
    assert schema.metadata(masked)["schema_version"] == 2
    after = schema.decode(schema.encode(masked))
    assert (after.faces_present, after.sound_present) == (masked.faces_present, masked.sound_present)
    assert schema.decode(schema.encode(plain)).faces_present is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"faces_present": [True] * 15}, "found 15 and .*, expected 16, and one for each window"),
        ({"faces_present": [1] * 16}, r"json.faces_present\[0\]: found 1, expected true or false"),
        ({"sound_present": {"16": [True] * 16}}, "expected 16, and one for each window"),
        ({"sound_present": {"16": [True] * 16, "8": [True] * 9}}, "expected 16, and one for each window"),
        ({"sound_present": {"16": [True] * 16, "8": [True] * 8, "4": [True] * 4}}, "expected 16, and one for each"),
        ({"sound_present": None}, "json.sound_present: found None, expected an object"),
        ({"schema_version": 3}, "found schema version 3, expected 1 or 2"),
    ],
)
def test_masks_that_do_not_fit_are_refused(changes: dict[str, Any], complaint: str) -> None:
    meta = schema.metadata(sample(**MASKS)) | changes
    with pytest.raises(SchemaError, match=complaint):
        schema.decode_metadata(schema.dump_json(meta).encode())


@pytest.mark.parametrize("name", MASKS)
def test_a_sample_of_the_second_version_has_both_masks(name: str) -> None:
    meta = schema.metadata(sample(**MASKS))
    del meta[name]
    with pytest.raises(SchemaError, match=f"json: missing {name}"):
        schema.decode_metadata(schema.dump_json(meta).encode())


@given(arrays.arrays(np.int16, st.integers(1, 5000), elements=st.integers(-32768, 32767)))
@settings(max_examples=30)
def test_sound_survives_to_the_bit(audio: np.ndarray) -> None:
    np.testing.assert_array_equal(schema.decode_audio(schema.encode_audio(audio)), audio)


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
@settings(max_examples=10)
def test_spectrogram_survives_to_the_bit(name: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(-60000, 60000, width=16), min_size=1, max_size=20))
    windows = np.resize(np.array(values, np.float16), schema.spectrogram_shape(name))
    after = schema.decode_spectrogram(schema.encode_spectrogram(windows), name)
    assert after.dtype == np.float16
    np.testing.assert_array_equal(after, windows)


def test_faces_keep_their_place_and_nearly_their_colour() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 1, 1, 3), np.uint8)
    faces = np.broadcast_to(colours, (16, 224, 224, 3))
    after = schema.decode_faces(schema.encode_faces(faces))
    assert np.abs(after.astype(int) - faces)[:, :, 1:-1].max() <= 3


def test_crops_do_not_touch_their_neighbours_in_the_filmstrip() -> None:
    """Chroma has half the resolution, so a crop's outermost column may see its neighbour's; nothing else may."""
    faces = np.full((16, 224, 224, 3), 128, np.uint8)
    faces[5] = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    after = schema.decode_faces(schema.encode_faces(faces))
    assert (np.delete(after, 5, axis=0)[:, :, 1:-1] == after[0, 0, 1]).all()


def test_filmstrip_is_the_crops_side_by_side() -> None:
    data = MEMBERS["faces.jpg"]
    np.testing.assert_array_equal(schema.decode_filmstrip(data), np.hstack(schema.decode_faces(data)))


@pytest.mark.parametrize("face_px", schema.FACE_PX)
def test_a_reduced_filmstrip_is_the_mean_of_what_its_pixels_cover(face_px: int) -> None:
    rows, columns = np.indices((224, 16 * 224)) / 224
    faces = np.stack([127 + 100 * np.sin(9 * rows), 127 + 100 * np.cos(7 * columns), 127 + 60 * rows], axis=-1)
    crops = np.rint(faces).astype(np.uint8).reshape(224, 16, 224, 3).transpose(1, 0, 2, 3)
    data, covered = schema.encode_faces(crops), 224 // face_px
    out = np.empty((face_px, 16 * face_px, 3), np.uint8)
    schema.decode_filmstrip(data, out, face_px)
    means = schema.decode_filmstrip(data).astype(float).reshape(face_px, covered, 16 * face_px, covered, 3).mean((1, 3))
    np.testing.assert_allclose(out, means, atol=3, rtol=0)


def test_members_come_in_the_promised_order_and_decode() -> None:
    members = schema.encode(sample(features=ALL))
    assert tuple(members) == schema.member_names(ALL)
    after = schema.decode(members)
    assert {name: windows.shape for name, windows in after.spectrograms.items()} == {
        name: schema.spectrogram_shape(name) for name in NAMES
    }


def test_equal_samples_give_equal_bytes() -> None:
    again = replace(sample(), source=dict(reversed(sample().source.items())))
    assert schema.encode(again) == MEMBERS
    assert schema.encode(schema.decode(MEMBERS))["json"] == MEMBERS["json"]


def test_numpy_reads_the_arrays() -> None:
    loaded = np.load(io.BytesIO(MEMBERS["mfcc_16.npy"]), allow_pickle=False)
    np.testing.assert_array_equal(loaded, sample().spectrograms["mfcc_16"])


def test_arrays_that_numpy_saved_are_read() -> None:
    buffer = io.BytesIO()
    np.save(buffer, sample().spectrograms["mfcc_8"])
    np.testing.assert_array_equal(
        schema.decode_spectrogram(buffer.getvalue(), "mfcc_8"), sample().spectrograms["mfcc_8"]
    )


def test_description_has_one_type_for_readers_that_guess_types() -> None:
    """The same, whether a clip has everything or nothing of what it may have."""
    full = Clip(clip_id="a", speaker="b", emotion="c", intensity="d", sentence="e")
    bare = Clip(clip_id="a", speaker="b", emotion=None)
    zero = replace(timing(), step_seconds=0, span_seconds=(0, 1))
    described_types = [
        types_of(json.loads(schema.encode(made)["json"]))
        for made in (sample(full, flags=("silent",)), sample(bare, flags=(), timing=zero, transforms=((0,) * 6,) * 16))
    ]
    assert described_types[0] == described_types[1]


def types_of(value: Any) -> Any:
    """A JSON value with types in the place of scalars; refuses null and empty lists."""
    assert value is not None
    assert value != []
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return {str(types_of(item)) for item in value} if isinstance(value, list) else type(value)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), min_size=2))
def test_canonical_json_knows_no_order(value: dict[str, Any]) -> None:
    line = schema.dump_json(value)
    assert line == schema.dump_json(dict(reversed(value.items())))
    assert "\n" not in line
    assert json.loads(line) == value


# Names


@given(names)
def test_names_within_the_grammar_pass_and_fit_a_tar_header(name: str) -> None:
    assert Clip(clip_id=name, speaker=name, emotion="x").clip_id == name
    assert len(f"{name}.{max(schema.member_names(ALL), key=len)}") <= 100


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "..", "a b", "é", "a\n", "a" * 81, "\u0661"])
@pytest.mark.parametrize("field", ["clip_id", "speaker"])
def test_other_names_are_refused(field: str, name: str) -> None:
    with pytest.raises(SchemaError, match=f"{field} .*expected 1 to 80"):
        Clip(**{"clip_id": "a", "speaker": "b", "emotion": "c"} | {field: name})


def test_a_clip_without_a_label_has_no_empty_one() -> None:
    with pytest.raises(
        SchemaError, match=r"^emotion of a: found '', expected text, or None for a clip without a label$"
    ):
        Clip(clip_id="a", speaker="b", emotion="")


def test_values_are_refused_just_where_numpy_says_they_are_not_finite() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite, odd = halves[np.isfinite(halves)], halves[~np.isfinite(halves)]
    windows = np.resize(finite, schema.spectrogram_shape("logmel_8"))
    assert schema.decode_spectrogram(npy(windows), "logmel_8").tobytes() == windows.tobytes()
    windows = np.zeros(schema.spectrogram_shape("mfcc_8"), np.float16)
    for windows[-1, -1, -1] in odd:
        with pytest.raises(SchemaError, match="non-finite values"):
            schema.decode_spectrogram(npy(windows), "mfcc_8")


# What cannot be written


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"faces": np.zeros((16, 224, 224, 3), np.float32)}, "faces.jpg"),
        ({"faces": np.zeros((15, 224, 224, 3), np.uint8)}, "faces.jpg"),
        ({"spectrograms": {"mfcc_16": np.zeros((16, 13, 224), np.float32)}}, "mfcc_16.npy"),
        ({"spectrograms": {"mfcc_16": np.full((16, 13, 224), np.nan, np.float16)}}, "mfcc_16.npy"),
        ({"spectrograms": {"mfcc_16": np.full((16, 13, 224), np.inf, np.float16)}}, "mfcc_16.npy"),
        ({"spectrograms": {"mfcc_16": np.zeros((8, 13, 224), np.float16)}}, "mfcc_16.npy"),
        ({"spectrograms": {"chroma_16": np.zeros((16, 13, 224), np.float16)}}, "chroma_16.npy"),
        ({"audio": np.zeros(0, np.int16)}, "audio.flac"),
        ({"audio": np.zeros(9, np.float32)}, "audio.flac"),
        ({"audio": np.zeros((9, 2), np.int16)}, "audio.flac"),
        ({"flags": ("cute",)}, "json"),
        ({"face_found": (True,) * 15}, "json"),
        ({"transforms": ((1.0,) * 5,) * 16}, "json"),
        ({"transforms": ((math.nan,) * 6,) * 16}, "json"),
        ({"source": {"path": Ellipsis}}, "json"),
        ({"source": {"path": "\ud800"}}, "json"),
    ],
)
def test_unfit_sample_is_not_written(changes: dict[str, Any], member: str) -> None:
    with pytest.raises(SchemaError, match=member):
        schema.encode(sample(**changes))


def test_timing_has_16_instants() -> None:
    with pytest.raises(SchemaError, match=r"instants_seconds: found 3, expected 16"):
        replace(timing(), instants_seconds=(0.0, 1.0, 2.0))


# Hostile samples

RIGHT = np.zeros((8, 13, 224), np.float16)
HOSTILE: list[tuple[str, str, bytes]] = [
    ("mfcc_8.npy", "empty", b""),
    ("mfcc_8.npy", "not finite", npy(np.full_like(RIGHT, np.nan))),
    ("mfcc_8.npy", "objects", npy(np.full(RIGHT.shape, None, object), pickled=True)),
    ("mfcc_8.npy", "float32", npy(RIGHT.astype(np.float32))),
    ("mfcc_8.npy", "big-endian", npy(RIGHT.astype(">f2"))),
    ("mfcc_8.npy", "shape", npy(np.zeros((8, 14, 224), np.float16))),
    ("mfcc_8.npy", "grid", npy(np.zeros((16, 13, 224), np.float16))),
    ("mfcc_8.npy", "fortran", npy(np.asfortranarray(np.random.default_rng(0).random((8, 13, 224)).astype(np.float16)))),
    ("mfcc_8.npy", "version", npy(RIGHT, (2, 0))),
    ("mfcc_8.npy", "huge", npy(RIGHT).replace(b"(8, 13, 224)", b"(1000000000000, 13, 224)")),
    ("mfcc_8.npy", "negative", npy(RIGHT).replace(b"(8, 13, 224)", b"(-8, -13, 224)")),
    ("mfcc_8.npy", "code", npy(RIGHT).replace(b"(8, 13, 224)", b"exit(), 13, 9")),
    ("mfcc_8.npy", "cut header", npy(RIGHT)[:60]),
    ("mfcc_8.npy", "cut data", npy(RIGHT)[:-2]),
    ("mfcc_8.npy", "longer", npy(RIGHT) + b"\0\0"),
    ("mfcc_8.npy", "a zip", b"PK\x03\x04" + bytes(100)),
    ("mfcc_8.npy", "a pickle", b"\x80\x04K\x01."),
    ("faces.jpg", "empty", b""),
    ("faces.jpg", "noise", bytes(range(256)) * 8),
    ("faces.jpg", "one crop", jpeg(224, 224)),
    ("faces.jpg", "upright", jpeg(3584, 224)),
    ("faces.jpg", "huge", jpeg().replace(b"\x00\xe0\x0e\x00", b"\xff\xdc\xff\xdc")),
    ("faces.jpg", "cut", jpeg()[:-100]),
    ("faces.jpg", "a PNG", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ("faces.jpg", "bloated", jpeg() + bytes(5 << 20)),
    ("audio.flac", "empty", b""),
    ("audio.flac", "rate", sound(samplerate=48_000)),
    ("audio.flac", "stereo", sound(channels=2)),
    ("audio.flac", "24 bit", sound(subtype="PCM_24")),
    ("audio.flac", "a WAV", sound(format="WAV")),
    ("audio.flac", "an Ogg", sound(format="OGG", subtype="VORBIS")),
    ("audio.flac", "endless", claiming((1 << 36) - 1)),
    ("audio.flac", "unknown length", claiming(0)),
    ("audio.flac", "shorter than claimed", claiming(10_000)),
    ("audio.flac", "cut", sound(5000)[:-20]),
    ("json", "empty", b""),
    ("json", "no JSON", b"{"),
    ("json", "not UTF-8", b'{"schema_version": 1, "emotion": "\xff"}'),
    ("json", "a list", b"[1]"),
    ("json", "deep", b"[" * 100_000),
    ("json", "large", described(sentence="x" * (1 << 20))),
    ("json", "many digits", described(sentence=0).replace(b'"sentence": 0', b'"sentence": ' + b"9" * 5000)),
    ("json", "version", described(schema_version=2)),
    ("json", "no version", described(schema_version=...)),
    ("json", "no timing", described(timing=...)),
    ("json", "no emotion", described(emotion=...)),
    ("json", "no source", described(source=...)),
    ("json", "emotion", described(emotion=["joy"])),
    ("json", "clip_id", described(clip_id="../x")),
    ("json", "speaker", described(speaker=7)),
    ("json", "surrogate", described(sentence="\ud800")),
    ("json", "NaN", timed(step_seconds=math.nan)),
    ("json", "infinite", timed(span_seconds=[0.0, math.inf])),
    ("json", "big number", timed(step_seconds=10**400)),
    ("json", "span", timed(span_seconds=[0.0])),
    ("json", "15 instants", timed(instants_seconds=[0.0] * 15)),
    ("json", "timing a list", described(timing=[])),
    ("json", "unknown time", timed(colour="red")),
    ("json", "transforms", described(transforms=[[1.0] * 6] * 15)),
    ("json", "a transform", described(transforms=[[1.0] * 5] * 16)),
    ("json", "found", described(face_found=[1] * 16)),
    ("json", "flags", described(flags=["silent"])),
    ("json", "no speaker known", described(speaker="")),
    ("json", "unknown flag", described(flags="silent cute")),
    ("json", "source a list", described(source=[])),
]


@pytest.mark.parametrize(
    ("member", "data"), [(m, d) for m, _, d in HOSTILE], ids=[f"{m}: {what}" for m, what, _ in HOSTILE]
)
def test_hostile_member_is_refused_by_name(member: str, data: bytes) -> None:
    with pytest.raises(SchemaError, match=rf"^{member}\b") as caught:
        DECODERS[member](data)
    assert len(str(caught.value)) < 500
    assert " object at 0x" not in str(caught.value)
    with pytest.raises(SchemaError, match=rf"^{member}\b"):
        schema.decode(MEMBERS | {member: data})


@pytest.mark.parametrize(
    "case", [case for case in HOSTILE if case[1] in ("huge", "endless", "unknown length")], ids=str
)
def test_claimed_sizes_allocate_nothing(case: tuple[str, str, bytes]) -> None:
    tracemalloc.start()
    with pytest.raises(SchemaError):
        DECODERS[case[0]](case[2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_picture_of_very_many_scans_is_refused_before_decoding() -> None:
    """Each makes a decoder go through the whole picture again: 200,000 of them take minutes."""
    strip = schema.encode_faces(np.zeros((16, 224, 224, 3), np.uint8))
    start = strip.index(b"\xff\xda")
    header = strip[start : start + 2 + int.from_bytes(strip[start + 2 : start + 4], "big")]
    assert schema.decode_faces(strip).shape == (16, 224, 224, 3)
    for scans in (100, 200_000):
        began = time.monotonic()
        with pytest.raises(SchemaError, match=rf"^faces\.jpg: found {scans + 1} scans, expected at most 32$"):
            schema.decode_faces(strip[:start] + header * scans + strip[start:])
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("absent", ["faces.jpg", "audio.flac", "json"])
def test_missing_member_is_named(absent: str) -> None:
    with pytest.raises(SchemaError, match=f"^{absent}: missing"):
        schema.decode({name: data for name, data in MEMBERS.items() if name != absent})


@pytest.mark.parametrize("name", ["mfcc_4.npy", "mfcc.npy", "mfcc_016.npy", "audio.wav", "x.pyd", "pickle", ".npy"])
def test_unknown_member_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="unknown member"):
        schema.decode(MEMBERS | {name: npy(RIGHT)})
    with pytest.raises(SchemaError, match="unknown member"):
        schema.check_member(name, 1)


@pytest.mark.parametrize("name", schema.member_names(ALL))
def test_member_sizes_are_capped(name: str) -> None:
    limit = schema.MAX_MEMBER_BYTES[name.rpartition(".")[2]]
    schema.check_member(name, limit)
    for size in (-1, limit + 1, 10**13):
        with pytest.raises(SchemaError, match=rf"^{name}: found {size} bytes"):
            schema.check_member(name, size)


def test_largest_members_of_our_own_are_within_the_caps() -> None:
    rng = np.random.default_rng(0)
    noise = schema.encode_faces(rng.integers(0, 256, (16, 224, 224, 3), np.uint8))
    schema.check_member("faces.jpg", len(noise))
    schema.check_member("stft_16.npy", len(npy(np.zeros(schema.spectrogram_shape("stft_16"), np.float16))))
    loud = schema.encode_audio(rng.integers(-32768, 32768, 60 * 16_000, np.int16))
    schema.check_member("audio.flac", 15 * len(loud))


@each_member
@given(data=st.binary(max_size=300))
def test_random_bytes_raise_nothing_else(member: str, data: bytes) -> None:
    with pytest.raises(SchemaError):
        DECODERS[member](data)


@each_member
@given(at=st.integers(0, 1 << 20), replaced=st.integers(0, 40), by=st.binary(max_size=40))
@settings(max_examples=60)
def test_damaged_members_decode_to_the_right_shape_or_raise_a_schema_error(
    member: str, at: int, replaced: int, by: bytes
) -> None:
    whole = MEMBERS[member]
    at %= min(len(whole), 2000)  # headers are near the beginning
    try:
        decoded = DECODERS[member](whole[:at] + by + whole[at + replaced :])
    except SchemaError as error:
        assert str(error).startswith(member)
    else:
        assert SHAPES[member] in (None, getattr(decoded, "shape", None))


@given(st.sampled_from(sorted(json.loads(MEMBERS["json"]))), json_values)
def test_any_value_anywhere_in_the_description_raises_nothing_else(field: str, value: Any) -> None:
    try:
        after = schema.decode(MEMBERS | {"json": described(**{field: value})})
    except SchemaError as error:
        assert str(error).startswith("json")
    else:
        assert schema.decode_metadata(schema.dump_json(schema.metadata(after)).encode())


def test_what_a_stranger_wrote_is_quoted_in_one_line() -> None:
    with pytest.raises(SchemaError) as caught:
        records.from_json(Mapping[str, float], {"clear\n\x1b[2J": "it"}, "counts")
    assert str(caught.value) == r"counts.clear\n\x1b[2J: found 'it', expected a finite number"
