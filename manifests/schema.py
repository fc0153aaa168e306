"""A sample of pairs and its encoding: a clip's 16 face crops, spectrograms, sound and times.

A sample is a group of tar members that share a key::

    KEY.faces.jpg      filmstrip of the 16 aligned crops, side by side, 3584x224
    KEY.mfcc_16.npy    16 windows [t-s, t+s], float16 [16, rows, 224]; likewise logmel_16, stft_16
    KEY.mfcc_8.npy     8 windows of every second instant [t-2s, t+2s], float16 [8, rows, 224]
    KEY.audio.flac     the clip's sound, 16 kHz mono, 16 bit, so that features can be rebuilt
    KEY.json           who, what, when: `Clip`, times in seconds, transforms, masks, flags, provenance

Samples of the other kinds are in `manifests.sequence` and `manifests.tokens`, all in the table of `manifests.kinds`.

Samples may be untrusted: decoding checks sizes, types and shapes before it allocates, uses only the parsers for JPEG,
FLAC and JSON, and accepts only the member names above.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.records import SchemaError as SchemaError
from manifests.records import field_types, from_json

SCHEMA_VERSION = 1
#: Of samples that say which frames show a face and which windows have sound, and of folders of such samples.
MASKED_SCHEMA_VERSION = 2

FRAMES = 16  # instants a clip is sampled at (paper III.B)
CROP_PX = 224  # side of a face crop
FACE_PX = (224, 112, 56, 28)  # sides that a JPEG decoder can reduce it to
COLUMNS = 224  # spectrogram columns per window
SAMPLE_RATE_HZ = 16_000
JPEG_QUALITY = 95

#: Rows of each feature's spectrogram: MFCC 1..13, mel bands, STFT bins.
FEATURE_ROWS: Mapping[str, int] = {"mfcc": 13, "logmel": 128, "stft": 224}
#: The two grids of windows on which every feature is stored: 16 of step s, 8 of step 2s.
GRIDS = (16, 8)

#: Reason to leave a clip out of the shards -> its meaning.
DROP_REASONS: Mapping[str, str] = {
    "unreadable": "the file is missing, empty or no recording that can be opened",
    "decode_error": "the recording is damaged; the decoder's message is kept",
    "truncated": "the recording ends well before the length its header promises, or before the clip's end",
    "too_short": "too few frames for the timeline",
    "no_video": "the recording has no picture",
    "no_audio": "no sound in the recording, nor in a separate file",
    "no_face": "a face was found in fewer than half of the frames",
    "known_defect": "the corpus's own documentation says this clip is unusable",
    "timeout": "the clip took longer than the time limit",
    "internal_error": "an error of the program, not of the recording; its type and words are kept",
    "worker_died": "the process working on the clip died twice (crash or out of memory)",
}
#: Flag of a built clip -> its meaning.
FLAGS: Mapping[str, str] = {
    "silent": "the sound is digital silence or close to it",
    "faces_missing": "no face in some frames; those borrow their neighbours' alignment",
    "several_faces": "more than one face in the picture; one was followed",
    "sound_from_file": "the recording has no sound, so the separate sound file was used",
    "sound_length_mismatch": "sound and picture (or sound file) differ in length",
    "shared_sound": "the corpus holds the same sound under another label",
    "sound_damaged": "some of the sound is missing, and silence instead",
    "sound_from_recording": "the clip's own sound file is missing or cannot be read, so the recording's sound was used",
    "sound_mismatch": "the clip's own sound file was not found in the recording's sound, or more than 0.1 s away",
    "no_face": "incomplete: a face was found in fewer than half of the frames, the others are black",
    "no_sound": "incomplete: there is no sound, or only silence",
}
#: Flags of clips that have only one modality; only a build with `keep: incomplete` has such clips.
INCOMPLETE_FLAGS = frozenset({"no_face", "no_sound"})

#: Maximum size of a member, by file suffix; the builder's members are far smaller.
MAX_MEMBER_BYTES: Mapping[str, int] = {
    "jpg": 4 << 20,
    "npy": 8 << 20,
    "mjpg": 128 << 20,
    "flac": 32 << 20,
    "json": 1 << 20,
}

#: Clip ids and speakers. With the longest suffix a member's name still fits into the 100 bytes a tar header has for it.
NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
#: Where a raw emotion is expected, in counts and in `KEY.json`, of clips without a label.
UNLABELLED = ""
#: JPEG marker; within compressed data 0xFF is always followed by another byte.
_START_OF_SCAN = b"\xff\xda"
#: The builder's JPEGs have one; encoders of progressive JPEGs write about 10.
_MAX_SCANS = 32
_MAX_AUDIO_SAMPLES = 15 * 60 * SAMPLE_RATE_HZ
#: Row-major 2x3 map.
Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One utterance. Its label, if it has one, is the raw label of the corpus."""

    clip_id: str
    """Key of the sample, unique in its corpus even without regard to case; 1 to 80 of `[A-Za-z0-9_-]`."""
    speaker: str
    """Speaker id as in the corpus; fold files list them as `subjects`."""
    emotion: str | None
    """Raw emotion, mapped to a class by a label scheme at training time; None if it has no label."""
    intensity: str | None = None
    sentence: str | None = None

    def __post_init__(self) -> None:
        for field in ("clip_id", "speaker"):
            value = getattr(self, field)
            if not NAME.fullmatch(value):
                raise SchemaError(f"{field} {value!r}: expected 1 to 80 letters, digits, '_' and '-'")
        if self.emotion == UNLABELLED:
            raise SchemaError(f"emotion of {self.clip_id}: found '', expected text, or None for a clip without a label")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of the sampled instants, in presentation seconds of the source (one clock for both streams)."""

    span_seconds: tuple[float, float]
    """First frame's time and the last frame's end."""
    instants_seconds: tuple[float, ...]
    """The 16 instants t_i."""
    frame_seconds: tuple[float, ...]
    """Presentation time of the frame shown for each instant."""
    step_seconds: float
    """s: a window of the grid of 16 covers [t-s, t+s], of the grid of 8 [t-2s, t+2s]."""
    audio_start_seconds: float
    """Time of the first stored sound sample."""

    def __post_init__(self) -> None:
        for field in ("instants_seconds", "frame_seconds"):
            found = len(getattr(self, field))
            if found != FRAMES:
                raise SchemaError(f"timing.{field}: found {found}, expected {FRAMES}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One built clip.

    Arrays compare by identity, so compare encoded members instead.
    """

    clip: Clip
    timing: Timing
    faces: npt.NDArray[np.uint8]
    """[16, 224, 224, 3] RGB aligned crops."""
    spectrograms: Mapping[str, npt.NDArray[np.float16]]
    """`<feature>_<grid>` -> [grid, rows, 224], finite, dB-like units, no per-image scaling."""
    audio: npt.NDArray[np.int16]
    """[n] mono at 16 kHz; sample 0 is at `timing.audio_start_seconds`. For a part of a recording it includes what its
    windows reach of the sound before and after it; the clip itself is `timing.span_seconds`."""
    transforms: tuple[Affine, ...]
    """16 affine maps, source pixel -> crop pixel."""
    face_found: tuple[bool, ...]
    """For each of 16 crops, whether it shows a detected face; the others use an interpolated transform."""
    flags: tuple[str, ...]
    """Sorted, each one of `FLAGS`."""
    source: Mapping[str, Any]
    """Provenance: path relative to the corpus folder, sha256, segment, decoder. JSON values."""
    faces_present: tuple[bool, ...] | None = None
    """For each of 16 crops, whether it shows a face; the others are black. None, and the next field with it, in samples
    of a build that leaves out incomplete clips: there everything is present."""
    sound_present: Mapping[str, tuple[bool, ...]] | None = None
    """Grid, `16` and `8` -> for each window, whether it has any sound; the others are spectrograms of silence."""


class Described(Protocol):
    """What the samples of every kind have in common, besides the sound."""

    @property
    def clip(self) -> Clip: ...
    @property
    def timing(self) -> Any: ...
    @property
    def transforms(self) -> tuple[Affine, ...]: ...
    @property
    def face_found(self) -> tuple[bool, ...]: ...
    @property
    def flags(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> Mapping[str, Any]: ...


def feature_members(features: tuple[str, ...]) -> tuple[str, ...]:
    """Member suffixes that the given features add to each sample, in tar order."""
    return tuple(f"{feature}_{grid}.npy" for feature in features for grid in GRIDS)


def member_names(features: tuple[str, ...]) -> tuple[str, ...]:
    """All member suffixes of a sample in tar order."""
    return ("faces.jpg", *feature_members(features), "audio.flac", "json")


def check_member(suffix: str, size: int) -> None:
    """Raise SchemaError unless a sample may have a member of that name and size in bytes."""
    if suffix not in _MEMBERS:
        raise SchemaError(f"{suffix[:80]!r}: unknown member; known are {', '.join(_MEMBERS)}")
    check_size(suffix, size)


def check_size(suffix: str, size: int) -> None:
    """Raise SchemaError if a known member has another size in bytes than it may have."""
    limit = MAX_MEMBER_BYTES[suffix.rpartition(".")[2]]
    if not 0 <= size <= limit:
        raise SchemaError(f"{suffix}: found {size} bytes, expected at most {limit}")


def encode_faces(faces: npt.NDArray[np.uint8]) -> bytes:
    """[16, 224, 224, 3] RGB crops -> JPEG filmstrip of 3584x224."""
    if faces.shape != (FRAMES, CROP_PX, CROP_PX, 3) or faces.dtype != np.uint8:
        raise SchemaError(f"faces.jpg: found {faces.dtype} {faces.shape}, expected uint8 (16, 224, 224, 3)")
    strip = np.ascontiguousarray(faces.transpose(1, 0, 2, 3)).reshape(CROP_PX, FRAMES * CROP_PX, 3)
    return bytes(simplejpeg.encode_jpeg(strip, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"))


def decode_filmstrip(
    data: bytes, out: npt.NDArray[np.uint8] | None = None, face_px: int = CROP_PX
) -> npt.NDArray[np.uint8]:
    """JPEG filmstrip -> [224, 3584, 3] RGB, in the memory of `out` if given; the header is checked before decoding.

    With another `face_px` of FACE_PX it is [face_px, 16 * face_px, 3]: the decoder reduces the picture, about to the
    means of the pixels that each one covers, in less time than it takes to decode all.
    """
    check_member("faces.jpg", len(data))
    check_jpeg(data, "faces.jpg", FRAMES * CROP_PX, CROP_PX)
    try:
        strip: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=face_px, min_width=FRAMES * face_px, min_factor=1, buffer=out
        )
    except ValueError as error:
        raise SchemaError(f"faces.jpg: not a JPEG that can be decoded ({error})") from error
    return strip


def check_jpeg(data: bytes | memoryview, name: str, width: int, height: int) -> None:
    """Raise SchemaError, which begins with `name`, unless a JPEG's header says that it has this size, in few scans."""
    values = np.frombuffer(data, np.uint8)
    scans = np.count_nonzero((values[:-1] == _START_OF_SCAN[0]) & (values[1:] == _START_OF_SCAN[1]))
    if scans > _MAX_SCANS:  # the decoder works through the whole picture for each
        raise SchemaError(f"{name}: found {scans} scans, expected at most {_MAX_SCANS}")
    try:
        found_height, found_width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise SchemaError(f"{name}: not a JPEG that can be decoded ({error})") from error
    if (found_width, found_height) != (width, height):
        raise SchemaError(f"{name}: found {found_width}x{found_height}, expected {width}x{height}")


def decode_faces(data: bytes) -> npt.NDArray[np.uint8]:
    """JPEG filmstrip -> [16, 224, 224, 3] RGB (a view into the strip)."""
    return decode_filmstrip(data).reshape(CROP_PX, FRAMES, CROP_PX, 3).transpose(1, 0, 2, 3)


def spectrogram_shape(name: str) -> tuple[int, int, int]:
    """`<feature>_<grid>` -> (grid, rows, 224). Raises SchemaError for any other name."""
    feature, _, grid = name.partition("_")
    if feature not in FEATURE_ROWS or grid not in map(str, GRIDS):
        raise SchemaError(f"{name[:80]}.npy: unknown member; features are {', '.join(FEATURE_ROWS)}")
    return int(grid), FEATURE_ROWS[feature], COLUMNS


def encode_spectrogram(windows: npt.NDArray[np.float16], name: str = "spectrogram") -> bytes:
    """[grid, rows, 224] float16 -> npy bytes; `name` is for the error message."""
    if windows.dtype != np.float16 or not _all_finite(windows):
        raise SchemaError(f"{name}.npy: found {windows.dtype} {windows.shape}, expected finite float16")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(windows), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_spectrogram(data: bytes, name: str) -> npt.NDArray[np.float16]:
    """npy bytes -> [grid, rows, 224] float16, read-only; `name` is `<feature>_<grid>` and fixes the shape.

    The header is compared with the only valid one, not parsed.
    """
    shape = spectrogram_shape(name)
    start = 10 + int.from_bytes(data[8:10], "little")
    header = data[:start]
    expected = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
    if header[:8] != b"\x93NUMPY\x01\x00" or header[10:].rstrip(b" \n") != expected.encode():
        raise SchemaError(f"{name}.npy: found {header[:120]!r}, expected an npy 1.0 header with {expected}")
    if len(data) - start != 2 * math.prod(shape):
        raise SchemaError(f"{name}.npy: found {len(data) - start} bytes of data, expected {2 * math.prod(shape)}")
    windows = np.frombuffer(data, dtype="<f2", offset=start).reshape(shape)
    if not _all_finite(windows):
        raise SchemaError(f"{name}.npy: found non-finite values")
    return windows


def _all_finite(values: npt.NDArray[np.float16]) -> bool:
    """Checks the exponent bits (all ones: not finite), because `isfinite` converts every half to float first."""
    return bool((values.view(np.uint16) & 0x7C00).max(initial=0) < 0x7C00)


def encode_audio(audio: npt.NDArray[np.int16]) -> bytes:
    """[n] int16 at 16 kHz mono, n from 1 to 15 minutes' worth -> FLAC bytes (lossless)."""
    import soundfile  # slow to import, and most readers never decode sound

    if audio.dtype != np.int16 or audio.ndim != 1 or not 1 <= len(audio) <= _MAX_AUDIO_SAMPLES:
        raise SchemaError(
            f"audio.flac: found {audio.dtype} {audio.shape}, expected int16 (n,), n from 1 to {_MAX_AUDIO_SAMPLES}"
        )
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_audio(data: bytes) -> npt.NDArray[np.int16]:
    """FLAC bytes -> [n] int16 at 16 kHz mono; the header is checked before decoding."""
    import soundfile

    check_member("audio.flac", len(data))
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            found = (sound.format, sound.subtype, sound.samplerate, sound.channels)
            if found != ("FLAC", "PCM_16", SAMPLE_RATE_HZ, 1) or not 1 <= sound.frames <= _MAX_AUDIO_SAMPLES:
                raise SchemaError(
                    f"audio.flac: found {found}, {sound.frames} samples; expected FLAC of 16 bit, 16 kHz, mono, "
                    f"1 to {_MAX_AUDIO_SAMPLES} samples"
                )
            audio: npt.NDArray[np.int16] = sound.read(dtype="int16")
            if len(audio) != sound.frames:
                raise SchemaError(f"audio.flac: found {len(audio)} samples, expected {sound.frames}")
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", error)  # str(error) names the object in memory
        raise SchemaError(f"audio.flac: not FLAC that can be decoded ({reason})") from error
    return audio


def dump_json(value: object) -> str:
    """One canonical line of JSON: sorted keys, UTF-8, no NaN. Equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def digest(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(dump_json(value).encode()).hexdigest()


def encode(sample: Sample) -> dict[str, bytes]:
    """Sample -> member suffix -> bytes, in tar order. Equal samples have equal bytes.

    Raises SchemaError for a sample that `decode` would not accept.
    """
    members = {"faces.jpg": encode_faces(sample.faces)}
    for name, windows in sample.spectrograms.items():
        if windows.shape != spectrogram_shape(name):
            raise SchemaError(f"{name}.npy: found {windows.shape}, expected {spectrogram_shape(name)}")
        members[f"{name}.npy"] = encode_spectrogram(windows, name)
    members["audio.flac"] = encode_audio(sample.audio)
    members["json"] = encode_metadata(metadata(sample), sample.clip)
    decode_metadata(members["json"])
    return members


def encode_metadata(meta: Mapping[str, Any], clip: Clip) -> bytes:
    """Content of `KEY.json` -> bytes. Raises SchemaError for values that JSON cannot hold."""
    try:
        return dump_json(meta).encode()
    except (TypeError, ValueError) as error:
        raise SchemaError(f"json: {clip.clip_id} cannot be written ({error})") from error


def metadata(sample: Sample) -> dict[str, Any]:
    """Content of `KEY.json`: unknown values are "", flags are joined by spaces, times are fractions.

    Other readers infer types from a few samples, so no value is null, an empty list, or sometimes an integer
    and sometimes a float.
    """
    masks: dict[str, Any] = {}
    if sample.faces_present is not None and sample.sound_present is not None:
        masks = {"faces_present": sample.faces_present, "sound_present": dict(sample.sound_present)}
    return describe(sample, masks)


def describe(sample: Described, masks: Mapping[str, Any]) -> dict[str, Any]:
    """What the json of any kind of sample contains; `masks` is {} unless the build keeps incomplete clips."""
    return {
        "schema_version": MASKED_SCHEMA_VERSION if masks else SCHEMA_VERSION,
        **{name: value or "" for name, value in asdict(sample.clip).items()},
        "timing": {name: np.asarray(value, dtype=float).tolist() for name, value in vars(sample.timing).items()},
        "transforms": np.asarray(sample.transforms, dtype=float).tolist(),
        "face_found": sample.face_found,
        "flags": " ".join(sample.flags),
        "source": dict(sample.source),
        **masks,
    }


def decode_metadata(data: bytes) -> dict[str, Any]:
    """`KEY.json` bytes -> dict as returned by `metadata`, after checks of size, types and schema version."""
    meta = load_metadata(data)
    _read_fields(meta)
    return meta


def load_metadata(data: bytes) -> dict[str, Any]:
    """`KEY.json` bytes of any kind of sample -> dict, after checks of size and schema version."""
    check_member("json", len(data))
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"json: cannot be parsed ({type(error).__name__})") from error
    found = meta.get("schema_version") if isinstance(meta, dict) else type(meta).__name__
    if not isinstance(meta, dict) or found not in _VERSIONS:
        expected = f"{SCHEMA_VERSION} or {MASKED_SCHEMA_VERSION}"
        raise SchemaError(f"json: found schema version {reprlib.repr(found)}, expected {expected}")
    return meta


def decode(members: Mapping[str, bytes]) -> Sample:
    """Member suffix -> bytes, back to a Sample. Raises SchemaError naming the invalid member."""
    for required in _REQUIRED:
        if required not in members:
            raise SchemaError(f"{required}: missing from the sample")
    for name, data in members.items():
        check_member(name, len(data))
    fields = _read_fields(decode_metadata(members["json"]))
    arrays = [name.removesuffix(".npy") for name in members if name not in _REQUIRED]
    return Sample(
        faces=decode_faces(members["faces.jpg"]),
        spectrograms={name: decode_spectrogram(members[f"{name}.npy"], name) for name in arrays},
        audio=decode_audio(members["audio.flac"]),
        **fields,
    )


def _read_fields(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Content of `KEY.json` -> the fields of Sample that it contains."""
    found = read_fields(meta, {name: field_types(Sample)[name] for name in _FIELDS})
    for name in ("transforms", "face_found"):
        if len(found[name]) != FRAMES:
            raise SchemaError(f"json.{name}: found {len(found[name])}, expected {FRAMES}")
    return found | (_read_masks(meta) if meta["schema_version"] == MASKED_SCHEMA_VERSION else {})


def read_fields(meta: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Content of `KEY.json` of any kind of sample -> clip, flags, and the fields of the given types."""
    check_present(meta, (*field_types(Clip), *kinds, "flags"))
    clip = from_json(Clip, {name: None if meta[name] == "" else meta[name] for name in field_types(Clip)}, "json")
    found = {name: from_json(kind, meta[name], f"json.{name}") for name, kind in kinds.items()}
    flags = tuple(from_json(str, meta["flags"], "json.flags").split())
    if not set(flags) <= FLAGS.keys():
        raise SchemaError(f"json.flags: found {reprlib.repr(meta['flags'])}; known are {', '.join(FLAGS)}")
    return {"clip": clip, "flags": flags, **found}


def check_present(meta: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise SchemaError unless the json has all of these."""
    if missing := [name for name in names if name not in meta]:
        raise SchemaError(f"json: missing {', '.join(missing)}")


def _read_masks(meta: Mapping[str, Any]) -> dict[str, Any]:
    check_present(meta, _MASKS)
    masks = {name: from_json(kind, meta[name], f"json.{name}") for name, kind in _MASKS.items()}
    lengths = {grid: len(mask) for grid, mask in masks["sound_present"].items()}
    if len(masks["faces_present"]) != FRAMES or lengths != {str(grid): grid for grid in GRIDS}:
        found = f"found {len(masks['faces_present'])} and {reprlib.repr(lengths)}"
        raise SchemaError(f"json.faces_present, sound_present: {found}, expected {FRAMES}, and one for each window")
    return masks


_VERSIONS = (SCHEMA_VERSION, MASKED_SCHEMA_VERSION)
_MASKS: Mapping[str, Any] = {"faces_present": tuple[bool, ...], "sound_present": Mapping[str, tuple[bool, ...]]}
_REQUIRED = ("faces.jpg", "audio.flac", "json")
_FIELDS = ("timing", "transforms", "face_found", "source")
_MEMBERS = frozenset(member_names(tuple(FEATURE_ROWS)))
