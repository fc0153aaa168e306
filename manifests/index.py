"""The index of a shard folder: reads and writes `dataset.json`, `clips.jsonl`, receipts and `SHA256SUMS`.

A tar that is truncated between members reads as a shorter tar without an error. So completeness cannot be checked from
a shard: the index lists its content. Folders may be untrusted: names, sizes and types are checked.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import reprlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from manifests.files import describe_os_error, open_regular, read_limited
from manifests.files import file_sha256 as file_sha256
from manifests.folds import MAX_FOLD_FILE_BYTES
from manifests.kinds import KINDS, PAIRS, Kind, check_member
from manifests.records import from_json
from manifests.schema import (
    FEATURE_ROWS,
    INCOMPLETE_FLAGS,
    MASKED_SCHEMA_VERSION,
    NAME,
    SCHEMA_VERSION,
    UNLABELLED,
    SchemaError,
    dump_json,
    spectrogram_shape,
)
from manifests.text import one_line

DATASET_FILE = "dataset.json"
CLIPS_FILE = "clips.jsonl"
CROISSANT_FILE = "croissant.json"
SHARED_FILE = "SHARED.json"
SUMS_FILE = "SHA256SUMS"
FETCHED_FILE = "fetched.json"
CARD_FILE = "README.md"
REPORT_FILE = "report.html"
#: Lists the speakers that an unfinished withdrawal removes.
PENDING_WITHDRAWAL_FILE = ".withdrawing"
RECEIPTS = "receipts"
FOLDS = "folds"
#: Files that are not listed in the index, because they do not describe samples.
UNLISTED_FILES = frozenset({REPORT_FILE, FETCHED_FILE, SHARED_FILE, SUMS_FILE})

#: Key of `Dataset.about`: speaker id -> name, of the speakers whose id is not their name.
SPEAKER_NAMES = "speaker_names"
STATUSES = ("planned", "built", "flagged", "dropped")
#: Value of the build setting `keep` with which incomplete clips are built.
KEEP_INCOMPLETE = "incomplete"

_SHARD_NAME = re.compile(r"(?P<speaker>[A-Za-z0-9_-]{1,80})-[0-9]{3,6}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: A file or folder name; not `.` or `..`, and without characters of paths and URLs.
_PLAIN_PART = re.compile(r"(?!\.{1,2}\Z)[^\\/:]{1,255}")
_MAX_INDEX_BYTES = 1 << 26
#: Larger ones: name, or folder of the name.
_MAX_BYTES = {CLIPS_FILE: 1 << 32, FOLDS: MAX_FOLD_FILE_BYTES}
_MAX_ROW_BYTES = 1 << 20
_Record = TypeVar("_Record")


class ManifestError(UserError):
    """An index file is missing, damaged or of another kind; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Status of one clip: a line of `clips.jsonl`."""

    clip_id: str
    speaker: str
    emotion: str | None
    """None for a clip without a label."""
    intensity: str | None = None
    sentence: str | None = None
    status: str
    """`built`; `flagged`: built, with `flags`; `dropped`: left out, for `reason`."""
    reason: str | None = None
    """One of `DROP_REASONS`."""
    detail: str | None = None
    """Details of the reason."""
    flags: tuple[str, ...] = ()
    faces_found: int | None = None
    """Of 16, or of all frames of a sequence."""
    source: str
    """Recording, relative to the corpus folder."""
    sha256: str | None = None
    sound: str | None = None
    """Separate sound file, relative to the corpus folder, if any."""
    sound_sha256: str | None = None
    """Set if that file was used, or cannot be read although it should be used."""
    shard: str | None = None

    @property
    def raw_label(self) -> str:
        """Raw emotion as counts have it: `UNLABELLED` for a clip without a label."""
        return self.emotion or UNLABELLED

    @property
    def incomplete(self) -> bool:
        """Whether the clip was built with one modality only."""
        return not INCOMPLETE_FLAGS.isdisjoint(self.flags)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ManifestError(f"found status {self.status[:80]!r}, expected one of {', '.join(STATUSES)}")
        if self.shard is not None and not _SHARD_NAME.fullmatch(self.shard):
            raise ManifestError(f"found shard name {self.shard[:80]!r}, expected <speaker>-<part>.tar")


@dataclass(frozen=True, kw_only=True)
class SpectrogramSums:
    """Sums for mean and standard deviation over any set of shards, one per row of a spectrogram."""

    count: int
    """Number of values in each sum."""
    total: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def of(cls, windows: npt.NDArray[np.float16]) -> SpectrogramSums:
        """[windows, rows, 224] -> sums over windows and columns."""
        values = windows.astype(np.float64)
        total, squares = values.sum(axis=(0, 2)), np.square(values).sum(axis=(0, 2))
        return cls(count=values.shape[0] * values.shape[2], total=tuple(total), squares=tuple(squares))

    def __add__(self, other: SpectrogramSums) -> SpectrogramSums:
        return SpectrogramSums(
            count=self.count + other.count,
            total=tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            squares=tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )


def window_statistics(
    spectrograms: Mapping[str, npt.NDArray[np.float16]], present: Mapping[str, Sequence[bool]]
) -> dict[str, SpectrogramSums]:
    """Sums over the windows of each spectrogram that have sound, all without a mask; without those that have none.

    `present` is grid -> whether each window has sound.
    """
    masks = {name: present.get(name.rpartition("_")[2]) for name in spectrograms}
    chosen = {
        name: windows if masks[name] is None else windows[np.array(masks[name])]
        for name, windows in spectrograms.items()
    }
    return {name: SpectrogramSums.of(windows) for name, windows in chosen.items() if len(windows)}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Index entry of one tar."""

    name: str
    """`<speaker>-<part>.tar`."""
    speaker: str
    sha256: str
    bytes: int
    samples: int
    receipt_sha256: str
    """Of `receipts/<speaker>-<part>.json`, which has the offset of each member and the spectrograms' statistics."""

    def __post_init__(self) -> None:
        _check_shard_name(self.name, self.speaker)
        for digest in (self.sha256, self.receipt_sha256):
            if not _SHA256.fullmatch(digest):
                raise ManifestError(f"{self.name}: found {digest[:80]!r}, expected a SHA-256")
        if min(self.bytes, self.samples) < 0:
            raise ManifestError(f"{self.name}: found {self.bytes} bytes, {self.samples} samples, expected counts")

    @property
    def receipt(self) -> str:
        """Name of the receipt within the folder."""
        return receipt_name(self.name)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Content of one shard. It is written after the tar, so a shard with a receipt is complete."""

    shard: str
    speaker: str
    plan: str
    """Hash of the plan: SHA-256 of the shard's planned content and of the build's identity."""
    sha256: str | None
    """Of the tar; None if every clip was dropped, so that there is no tar."""
    bytes: int
    members: Mapping[str, Mapping[str, tuple[int, int]]]
    """Clip id -> member suffix -> (offset, size) of its bytes in the tar."""
    rows: tuple[Row, ...]
    """All clips planned for the shard, including dropped ones."""
    statistics: Mapping[str, SpectrogramSums]
    """Spectrogram name -> sums over the shard's windows that have sound; without those that no window is of."""

    def __post_init__(self) -> None:
        _check_shard_name(self.shard, self.speaker)
        for name, sums in self.statistics.items():
            rows = spectrogram_shape(name)[1]
            if sums.count < 1 or (len(sums.total), len(sums.squares)) != (rows, rows):
                raise ManifestError(f"statistics of {name}: found {len(sums.total)} sums, expected {rows}")
        for key, places in self.members.items():
            if not NAME.fullmatch(key):
                raise ManifestError(f"found clip id {key[:80]!r}, expected 1 to 80 letters, digits, '_' and '-'")
            for suffix, (offset, size) in places.items():
                check_member(suffix, size)
                if not 0 <= offset <= self.bytes - size:
                    raise ManifestError(f"{key}.{suffix}: found bytes from {offset}, expected them within {self.shard}")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """`dataset.json`."""

    dataset: str
    complete: bool
    """False until a build is finished."""
    identity: Mapping[str, Any]
    """Settings, versions and models that the shards were made with."""
    kind: str = PAIRS
    """Kind of the samples: a key of `manifests.kinds.KINDS`. Absent from the file for pairs."""
    about: Mapping[str, Any]
    """Title, homepage, licence, citation, whether redistributable; names of speakers, where they are not the ids."""
    label_schemes: tuple[str, ...] = ()
    fold_schemes: tuple[str, ...] = ()
    """Files in `folds/`, the default first."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Clips built, flagged, dropped."""
    missing: int = 0
    """Number of missing files of the corpus's inventory."""
    missing_names: tuple[str, ...] = ()
    """The first of them."""
    withdrawn: tuple[str, ...] = ()
    """Speakers who were withdrawn, sorted; a build into the folder leaves them out."""
    shards: tuple[Shard, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.dataset, *self.label_schemes, *self.fold_schemes, *self.withdrawn):
            if not NAME.fullmatch(name):
                raise ManifestError(f"found name {name[:80]!r}, expected 1 to 80 letters, digits, '_' and '-'")
        if self.kind not in KINDS:
            raise ManifestError(f"found kind {self.kind[:80]!r}, expected one of {', '.join(KINDS)}")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ManifestError("found a shard named twice")

    @property
    def masked(self) -> bool:
        """Whether the build kept incomplete clips, so that every sample says what is present."""
        config = self.identity.get("config")
        return isinstance(config, Mapping) and config.get("keep") == KEEP_INCOMPLETE

    def speaker_name(self, speaker: str) -> str:
        """A speaker's name for people: as in the corpus's table, where it differs from the id."""
        names = self.about.get(SPEAKER_NAMES)
        name = names.get(speaker) if isinstance(names, Mapping) else None
        return one_line(name[:80]) if isinstance(name, str) else speaker

    @property
    def schema_version(self) -> int:
        """Of the samples and of the index."""
        return MASKED_SCHEMA_VERSION if self.masked else SCHEMA_VERSION

    @property
    def features(self) -> tuple[str, ...]:
        """Spectrograms that every sample has; of sequences, those whose statistics the receipts have."""
        return tuple(self.identity["config"]["features"])

    @property
    def sample_kind(self) -> Kind:
        """What the samples are."""
        return KINDS[self.kind]

    @property
    def members(self) -> tuple[str, ...]:
        """Suffixes of the members of every sample, in tar order."""
        return self.sample_kind.members(self.features)


@dataclass(frozen=True, kw_only=True)
class ResolvedFold:
    """Sides of a fold."""

    scheme: str
    fold: str
    sides: tuple[str, ...]
    """Some of `folds.SIDES`."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """`fetched.json`: which part of a shard folder was fetched. It describes one copy and is not in `SHA256SUMS`."""

    source: str
    """Path or address."""
    selections: tuple[ResolvedFold, ...]
    """Empty for all shards."""
    shards: tuple[str, ...] | None
    """Names of the shards that belong to this copy, sorted; None for all."""


def receipt_name(shard: str) -> str:
    """`1001-000.tar` -> `receipts/1001-000.json`."""
    return f"{RECEIPTS}/{shard.removesuffix('.tar')}.json"


def build_order(shard: str) -> tuple[str, int, str]:
    """Sort key of shard names that gives the order of a build: by speaker, then by number."""
    return shard.rpartition("-")[0], len(shard), shard


def dump_dataset(dataset: Dataset) -> bytes:
    """Dataset -> bytes of `dataset.json`, readable and canonical."""
    value = {"schema_version": dataset.schema_version, **asdict(dataset)}
    if dataset.kind == PAIRS:
        del value["kind"]  # the bytes are those of builds made before there were kinds
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def load_dataset(folder: Path) -> Dataset:
    """Read `dataset.json`. Raises ManifestError naming the invalid value."""
    path = folder / DATASET_FILE
    value = read_json(path)
    version = value.pop("schema_version", None)
    if version not in (SCHEMA_VERSION, MASKED_SCHEMA_VERSION):
        expected = f"{SCHEMA_VERSION} or {MASKED_SCHEMA_VERSION}"
        raise ManifestError(f"{path}: found schema version {reprlib.repr(version)}, expected {expected}")
    shards = value.get("shards")
    for shard in shards if isinstance(shards, list) else ():
        if isinstance(shard, dict):
            shard.pop("statistics", None)  # older folders repeat the receipts' statistics here
    dataset = _record(Dataset, value, str(path))
    config = dataset.identity.get("config")
    features = config.get("features") if isinstance(config, dict) else None
    if not isinstance(features, list) or not features or any(f not in tuple(FEATURE_ROWS) for f in features):
        found = reprlib.repr(features)
        raise ManifestError(f"{path}: found features {found}, expected some of {', '.join(FEATURE_ROWS)}")
    if version != dataset.schema_version:
        raise ManifestError(f"{path}: found schema version {version}, expected {dataset.schema_version} for its `keep`")
    return dataset


def dump_fetched(fetched: Fetched) -> bytes:
    """Fetched -> bytes of `fetched.json`."""
    return (json.dumps(asdict(fetched), sort_keys=True, indent=1) + "\n").encode()


def load_fetched(folder: Path) -> Fetched | None:
    """Read `fetched.json`; None for a folder that was not fetched. Raises ManifestError."""
    path = folder / FETCHED_FILE
    return _record(Fetched, read_json(path), str(path)) if os.path.lexists(path) else None


def local_shards(folder: Path, dataset: Dataset) -> tuple[Shard, ...]:
    """Shards that belong to this copy: all, unless only a part was fetched. Raises ManifestError."""
    fetched = load_fetched(folder)
    if fetched is None or fetched.shards is None:
        return dataset.shards
    wanted = set(fetched.shards)
    return tuple(shard for shard in dataset.shards if shard.name in wanted)


def dump_receipt(receipt: Receipt) -> bytes:
    """Receipt -> bytes, one line."""
    plain = {
        **vars(receipt),
        "rows": [vars(row) for row in receipt.rows],
        "statistics": {name: vars(sums) for name, sums in receipt.statistics.items()},
    }
    return (dump_json(plain) + "\n").encode()


def load_receipt(path: Path) -> Receipt:
    """Read a receipt. Raises ManifestError naming the invalid value."""
    return _record(Receipt, read_json(path), str(path))


def dump_rows(rows: Iterable[Row]) -> bytes:
    """Rows -> bytes of `clips.jsonl`."""
    return "".join(dump_json(vars(row)) + "\n" for row in rows).encode()


def load_rows(folder: Path) -> Iterator[Row]:
    """Read `clips.jsonl` row by row. Raises ManifestError naming the invalid line."""
    path = folder / CLIPS_FILE
    with _manifest_errors(path), BufferedReader(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
        for number in itertools.count(1):
            line = file.readline(_MAX_ROW_BYTES)
            if not line:
                return
            yield _record(Row, _json(line, f"{path}:{number}"), f"{path}:{number}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of limited size. Raises ManifestError."""
    value = _json(_read(path), str(path))
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: found a {type(value).__name__}, expected an object")
    return value


def expected_names(dataset: Dataset, receipts: Iterable[str]) -> list[str]:
    """Every file of a complete folder, relative and sorted, without `UNLISTED_FILES`."""
    folds = (f"{FOLDS}/{scheme}.json" for scheme in dataset.fold_schemes)
    tars = (shard.name for shard in dataset.shards)
    return sorted([*tars, *receipts, *folds, DATASET_FILE, CLIPS_FILE, CARD_FILE])


def max_bytes(name: str) -> int:
    """Most bytes of a file other than a shard, by its name in the folder."""
    return _MAX_BYTES.get(name.partition("/")[0], _MAX_INDEX_BYTES)


def dump_checksums(sums: Mapping[str, str]) -> bytes:
    """Name -> SHA-256 in the format of `sha256sum -c`."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def load_checksums(folder: Path) -> dict[str, str]:
    """Read `SHA256SUMS`; only plain names inside the folder are accepted. Raises ManifestError."""
    path = folder / SUMS_FILE
    sums: dict[str, str] = {}
    for number, line in enumerate(_read(path).decode(errors="replace").removesuffix("\n").split("\n"), 1):
        digest, _, name = line.partition("  ")
        parts = name.split("/")
        plain = len(parts) <= 2 and name.isprintable() and all(map(_PLAIN_PART.fullmatch, parts))
        if not _SHA256.fullmatch(digest) or not plain or name in sums:
            raise ManifestError(f"{path}:{number}: found {line[:160]!r}, expected a SHA-256 and a plain name, once")
        sums[name] = digest
    return sums


def member_byte_ranges(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Clip id -> member suffix -> (offset, size), read from the tar's headers.

    Raises SchemaError unless it is an uncompressed tar of samples' members, as regular files without duplicates. Each
    header is read by itself: `tarfile.open` would read extended headers, which claim any size, into memory.
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with BufferedReader(open_regular(tar, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            end, start = os.fstat(file.fileno()).st_size, 0
            while (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
                member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                start += tarfile.BLOCKSIZE
                key, _, suffix = member.name.partition(".")
                regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                if not regular or not NAME.fullmatch(key) or suffix in places.setdefault(key, {}):
                    found = f"{tar.name}: found member {member.name[:100]!r}"
                    raise SchemaError(f"{found}, expected KEY.suffix, once, a regular file")
                check_member(suffix, member.size)
                if member.size > end - start:
                    raise SchemaError(f"{tar.name}: not a plain tar (truncated within {member.name[:100]!r})")
                places[key][suffix] = (start, member.size)
                start += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                file.seek(start)
            if not end:
                raise SchemaError(f"{tar.name}: not a plain tar (empty file)")
    except tarfile.TarError as error:
        raise SchemaError(f"{tar.name}: not a plain tar ({error})") from error
    except OSError as error:
        raise SchemaError(describe_os_error(error)) from error
    return places


def _read(path: Path) -> bytes:
    with _manifest_errors(path):
        return read_limited(path, _MAX_INDEX_BYTES)


@contextmanager
def _manifest_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a ManifestError that names the file."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ManifestError(f"{path}: missing; is this a finished shard folder?") from error
    except OSError as error:
        raise ManifestError(describe_os_error(error)) from error


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not JSON ({type(error).__name__}); build or fetch it again") from error


def _record(kind: type[_Record], value: object, where: str) -> _Record:
    try:
        record: _Record = from_json(kind, value, f"{where}: {kind.__name__.lower()}")
    except SchemaError as error:
        raise ManifestError(str(error)) from error
    return record


def _check_shard_name(name: str, speaker: str) -> None:
    match = _SHARD_NAME.fullmatch(name)
    if not match or match["speaker"] != speaker:
        raise ManifestError(f"found shard name {name[:100]!r}, expected <speaker>-<part>.tar of {speaker[:80]!r}")
