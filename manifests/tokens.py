"""A sample of tokens and its encoding: the codes of every face and spectrum of a clip, and their times.

A sample is a group of tar members that share a key::

    KEY.visual.npy    codes of m faces, uint16 [m, 24, 24]
    KEY.audio.npy     codes of n spectra of the sound, uint8 [n, 64]
    KEY.json          who, what, when: as in a sample of sequences, but for the codes, and the tokenizers' hash

Tokenizers of VQ-MAE-AV make them of a sample of sequences. Samples may be untrusted: headers and sizes are checked
before anything is decoded, and no code is beyond its codebook.
"""

from __future__ import annotations

import io
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.records import field_types, from_json
from manifests.schema import (
    MASKED_SCHEMA_VERSION,
    SCHEMA_VERSION,
    Clip,
    SchemaError,
    check_present,
    check_size,
    encode_metadata,
    load_metadata,
    read_fields,
)
from manifests.sequence import MAX_FRAMES

VISUAL_MEMBER, AUDIO_MEMBER = "visual.npy", "audio.npy"
MEMBERS = (VISUAL_MEMBER, AUDIO_MEMBER, "json")
#: Codes of a face, and of a spectrum.
VISUAL_SHAPE, AUDIO_SHAPE = (24, 24), (64,)
#: Most spectra of a clip: a quarter of an hour.
MAX_SPECTRA = 15 * 60 * 50 + 1
#: Key in the identity of a folder of tokens: what they were made of and by which tokenizers, a `TokenSource`.
SOURCE_KEY = "tokens_from"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Codebooks:
    """Number of codes of each tokenizer: codes are below it."""

    audio: int
    visual: int

    def __post_init__(self) -> None:
        if not 1 <= self.audio <= 1 << 8 or not 1 <= self.visual <= 1 << 16:
            raise SchemaError(f"codebooks: found {self.audio} and {self.visual}, expected 1 to 256 and 1 to 65536")


@dataclass(frozen=True, kw_only=True)
class TokenTiming:
    """Times of codes, in presentation seconds of the source (one clock for both streams)."""

    span_seconds: tuple[float, float]
    """First face's time and the last one's end."""
    frame_seconds: tuple[float, ...]
    """Presentation time of each of m faces, ascending. At a fixed rate a frame may be there twice."""
    rate_hz: float
    """Faces a second: face k is the nearest to `span_seconds[0] + k / rate_hz`."""
    audio_start_seconds: float
    """Centre of the first spectrum."""
    spectra_hz: float
    """Spectra a second: spectrum k is centred at `audio_start_seconds + k / spectra_hz`."""

    def __post_init__(self) -> None:
        (start, end), times = self.span_seconds, self.frame_seconds
        if not 1 <= len(times) <= MAX_FRAMES:
            raise SchemaError(f"timing.frame_seconds: found {len(times)} faces, expected 1 to {MAX_FRAMES}")
        if self.rate_hz <= 0 or self.spectra_hz <= 0:
            raise SchemaError(f"timing: found {self.rate_hz} and {self.spectra_hz} a second, expected more than 0")
        if any(a > b for a, b in pairwise(times)) or not start <= times[0] <= times[-1] < end:
            found = f"found {reprlib.repr(times)} in a clip from {start} to {end}"
            raise SchemaError(f"timing.frame_seconds: {found}, expected ascending times within it")


@dataclass(frozen=True, kw_only=True)
class TokenSample:
    """One clip as codes. Arrays compare by identity, so compare encoded members instead."""

    clip: Clip
    timing: TokenTiming
    visual: npt.NDArray[np.uint16]
    """[m, 24, 24] codes of faces."""
    audio: npt.NDArray[np.uint8]
    """[n, 64] codes of spectra."""
    codebooks: Codebooks
    tokenizer: str
    """SHA-256 of the tokenizers."""
    face_found: tuple[bool, ...]
    """For each of m faces, as in `manifests.sequence.SequenceSample`, as are the fields that follow."""
    flags: tuple[str, ...]
    source: Mapping[str, Any]
    faces_present: tuple[bool, ...] | None = None
    sound_present: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        m = len(self.timing.frame_seconds)
        for name in ("visual", "face_found", "faces_present", "sound_present"):
            value = getattr(self, name)
            if value is not None and len(value) != m:
                raise SchemaError(f"{name}: found {len(value)}, expected {m}, one for each face")
        if not _SHA256.fullmatch(self.tokenizer):
            raise SchemaError(f"tokenizer: found {self.tokenizer[:80]!r}, expected a SHA-256")
        for name, shape, most in (("visual", VISUAL_SHAPE, MAX_FRAMES), ("audio", AUDIO_SHAPE, MAX_SPECTRA)):
            codes, count = getattr(self, name), getattr(self.codebooks, name)
            if codes.dtype != _TYPES[name] or codes.shape[1:] != shape or not 1 <= len(codes) <= most:
                found = f"{codes.dtype} {codes.shape}"
                raise SchemaError(f"{name}.npy: found {found}, expected {_TYPES[name]} (1 to {most}, {shape})")
            if codes.max() >= count:
                raise SchemaError(f"{name}.npy: found code {codes.max()}, expected codes below {count}")


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """What a folder of tokens was made of: value of `SOURCE_KEY` in its identity."""

    index_sha256: str
    """Of `dataset.json` of the sequences."""
    tokenizer: str
    """SHA-256 of the tokenizers, as in each sample."""
    codebooks: Codebooks
    lineage: Mapping[str, Any]
    """What the tokenizers were trained on, as JSON: the trainer refuses test folds with one of these speakers."""
    versions: Mapping[str, str]
    """Of what computed the codes."""


def encode(sample: TokenSample) -> dict[str, bytes]:
    """Sample -> member suffix -> bytes, in tar order. Equal samples have equal bytes."""
    members = {VISUAL_MEMBER: _dump_codes(sample.visual), AUDIO_MEMBER: _dump_codes(sample.audio)}
    return {**members, "json": encode_metadata(metadata(sample), sample.clip)}


def metadata(sample: TokenSample) -> dict[str, Any]:
    """Content of `KEY.json`, without nulls and empty lists, as in the other kinds."""
    masks: dict[str, Any] = {}
    if sample.faces_present is not None and sample.sound_present is not None:
        masks = {"faces_present": sample.faces_present, "sound_present": sample.sound_present}
    return {
        "schema_version": MASKED_SCHEMA_VERSION if masks else SCHEMA_VERSION,
        **{name: value or "" for name, value in asdict(sample.clip).items()},
        "timing": {name: np.asarray(value, dtype=float).tolist() for name, value in vars(sample.timing).items()},
        "face_found": sample.face_found,
        "flags": " ".join(sample.flags),
        "source": dict(sample.source),
        "codebooks": asdict(sample.codebooks),
        "tokenizer": sample.tokenizer,
        **masks,
    }


def decode(members: Mapping[str, bytes]) -> TokenSample:
    """Member suffix -> bytes, back to a sample. Raises SchemaError naming the invalid member."""
    if members.keys() != set(MEMBERS):
        raise SchemaError(f"found members {reprlib.repr(sorted(members))}, expected {', '.join(MEMBERS)}")
    meta = load_metadata(members["json"])
    kinds = {name: field_types(TokenSample)[name] for name in _FIELDS}
    if meta["schema_version"] == MASKED_SCHEMA_VERSION:
        check_present(meta, _MASKS)
        kinds |= dict.fromkeys(_MASKS, tuple[bool, ...])
    fields = read_fields(meta, kinds)
    return TokenSample(
        visual=decode_visual(members[VISUAL_MEMBER]), audio=decode_audio(members[AUDIO_MEMBER]), **fields
    )


def check(members: Mapping[str, bytes]) -> Clip:
    """Decode everything in a sample. Returns its clip; raises SchemaError."""
    return decode(members).clip


def decode_visual(data: bytes) -> npt.NDArray[np.uint16]:
    """Bytes of `visual.npy` -> [m, 24, 24], read-only. Raises SchemaError. Codes are not compared with a codebook."""
    codes: npt.NDArray[np.uint16] = _load_codes(data, "visual", VISUAL_SHAPE)
    return codes


def decode_audio(data: bytes) -> npt.NDArray[np.uint8]:
    """Bytes of `audio.npy` -> [n, 64], read-only. Raises SchemaError. Codes are not compared with a codebook."""
    codes: npt.NDArray[np.uint8] = _load_codes(data, "audio", AUDIO_SHAPE)
    return codes


def token_source(identity: Mapping[str, Any], where: str) -> TokenSource:
    """What tokens were made of, from the identity of their folder. Raises SchemaError, beginning with `where`."""
    found: TokenSource = from_json(TokenSource, identity.get(SOURCE_KEY), f"{where}: {SOURCE_KEY}")
    return found


def _dump_codes(codes: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(codes), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _load_codes(data: bytes, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """npy bytes -> [n, *shape]; the header is compared with the only valid one, not parsed."""
    check_size(f"{name}.npy", len(data))
    start = 10 + int.from_bytes(data[8:10], "little")
    header, kind = data[:start], _TYPES[name]
    count, rest = divmod(len(data) - start, kind.itemsize * int(np.prod(shape)))
    expected = f"{{'descr': '{kind.str}', 'fortran_order': False, 'shape': {(count, *shape)}, }}"
    if rest or header[:8] != b"\x93NUMPY\x01\x00" or header[10:].rstrip(b" \n") != expected.encode():
        raise SchemaError(f"{name}.npy: found {header[:120]!r}, {len(data)} bytes; expected npy 1.0 with {expected}")
    codes: npt.NDArray[Any] = np.frombuffer(data, dtype=kind, offset=start).reshape(count, *shape)
    return codes


_TYPES: Mapping[str, np.dtype[Any]] = {"visual": np.dtype("<u2"), "audio": np.dtype("|u1")}
_FIELDS = ("timing", "face_found", "source", "codebooks", "tokenizer")
_MASKS = ("faces_present", "sound_present")
