"""What a folder of shards promises: `dataset.json`, `clips.jsonl`, receipts, `SHA256SUMS`; and whether it holds.

A tar cut at a member's boundary reads as a shorter tar without an error, so a shard alone proves nothing: the
index says what must be there. Folders come from strangers: names are plain, sizes are capped, types are checked.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import reprlib
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError
from manifests.records import from_json
from manifests.schema import (
    FEATURE_ROWS,
    NAME,
    SCHEMA_VERSION,
    SchemaError,
    check_member,
    dump_json,
    member_names,
    spectrogram_shape,
)
from manifests.text import escape_unprintable, pluralize

DATASET_FILE = "dataset.json"
CLIPS_FILE = "clips.jsonl"
CROISSANT_FILE = "croissant.json"
SHARED_FILE = "SHARED.json"
SUMS_FILE = "SHA256SUMS"
FETCHED_FILE = "fetched.json"
RECEIPTS = "receipts"
FOLDS = "folds"
#: Files beside the promised ones that say nothing about samples.
VIEWS = frozenset({"report.html", FETCHED_FILE, SHARED_FILE, SUMS_FILE})

STATUSES = ("planned", "built", "flagged", "dropped")

_SHARD_NAME = re.compile(r"(?P<speaker>[A-Za-z0-9_-]{1,80})-[0-9]{3,6}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_INDEX_BYTES = 1 << 26
_MAX_ROW_BYTES = 1 << 20
_Record = TypeVar("_Record")


class ManifestError(UserError):
    """An index file is absent, damaged or not of this kind; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one source clip: a line of `clips.jsonl`."""

    clip_id: str
    speaker: str
    emotion: str
    intensity: str | None = None
    sentence: str | None = None
    status: str
    """`built`; `flagged`: built, but worth a look; `dropped`: left out, for `reason`."""
    reason: str | None = None
    """One of `DROP_REASONS`."""
    detail: str | None = None
    """What was found."""
    flags: tuple[str, ...] = ()
    faces_found: int | None = None
    """Of 16."""
    source: str
    """Recording, relative to the corpus folder."""
    sha256: str | None = None
    sound: str | None = None
    """Separate sound file, relative to the corpus folder, where there is one."""
    sound_sha256: str | None = None
    """Set where that file was used."""
    shard: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ManifestError(f"found status {self.status[:80]!r}, expected one of {', '.join(STATUSES)}")
        if self.shard is not None and not _SHARD_NAME.fullmatch(self.shard):
            raise ManifestError(f"found shard name {self.shard[:80]!r}, expected <speaker>-<part>.tar")

    @classmethod
    def from_json(cls, value: object) -> Row:
        """Raises ManifestError for anything but a row."""
        return _record(cls, value, CLIPS_FILE)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums that add up to mean and standard deviation over any set of shards, a number a row of a spectrogram."""

    count: int
    """Values in each sum."""
    total: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def of(cls, windows: npt.NDArray[np.float16]) -> Statistics:
        """[grid, rows, 224] -> sums over windows and columns."""
        values = windows.astype(np.float64)
        total, squares = values.sum(axis=(0, 2)), np.square(values).sum(axis=(0, 2))
        return cls(count=values.shape[0] * values.shape[2], total=tuple(total), squares=tuple(squares))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            count=self.count + other.count,
            total=tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            squares=tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar, as the index promises it."""

    name: str
    """`<speaker>-<part>.tar`."""
    speaker: str
    sha256: str
    bytes: int
    samples: int
    receipt_sha256: str
    """Of `receipts/<speaker>-<part>.json`, which tells where each member lies, and the spectrograms' statistics."""

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
    """What was written into one shard: made last, so that its presence says the tar is whole."""

    shard: str
    speaker: str
    plan: str
    """SHA-256 of what the shard was to hold and of the build's identity."""
    sha256: str | None
    """Of the tar; None where every clip was dropped, so that there is no tar."""
    bytes: int
    members: Mapping[str, Mapping[str, tuple[int, int]]]
    """Clip id -> member suffix -> (offset, size) of its bytes in the tar."""
    rows: tuple[Row, ...]
    """All clips planned for the shard, dropped ones too."""
    statistics: Mapping[str, Statistics]
    """Spectrogram name -> sums over the shard."""

    def __post_init__(self) -> None:
        _check_shard_name(self.shard, self.speaker)
        _check_statistics(self.statistics)
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
    """False while a build is under way."""
    identity: Mapping[str, Any]
    """Settings, versions and models that made the shards."""
    about: Mapping[str, Any]
    """Title, homepage, licence, citation, whether it may be passed on."""
    label_schemes: tuple[str, ...] = ()
    fold_schemes: tuple[str, ...] = ()
    """Files in `folds/`, the default first."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Clips built, flagged, dropped."""
    missing: int = 0
    """Files of the corpus's inventory that were not there."""
    missing_names: tuple[str, ...] = ()
    """The first of them."""
    withdrawn: tuple[str, ...] = ()
    """Speakers who were withdrawn, sorted; a build into the folder leaves them out."""
    shards: tuple[Shard, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.dataset, *self.label_schemes, *self.fold_schemes, *self.withdrawn):
            if not NAME.fullmatch(name):
                raise ManifestError(f"found name {name[:80]!r}, expected 1 to 80 letters, digits, '_' and '-'")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ManifestError("found a shard named twice")

    @property
    def features(self) -> tuple[str, ...]:
        """Spectrograms that every sample has."""
        return tuple(self.identity["config"]["features"])


@dataclass(frozen=True, kw_only=True)
class FoldSelection:
    """Sides of a fold."""

    scheme: str
    fold: str
    sides: tuple[str, ...]
    """Some of `folds.SIDES`."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """`fetched.json`: what of a published folder was fetched on purpose. Of this copy alone, and in no sums."""

    source: str
    """Where from: a path or an address."""
    selections: tuple[FoldSelection, ...]
    """What was asked for; none for everything."""
    shards: tuple[str, ...] | None
    """Names of the shards that are to be here, sorted; None for all."""


def receipt_name(shard: str) -> str:
    """`1001-000.tar` -> `receipts/1001-000.json`."""
    return f"{RECEIPTS}/{shard.removesuffix('.tar')}.json"


def dump_dataset(dataset: Dataset) -> bytes:
    """Dataset -> bytes of `dataset.json`, readable and canonical."""
    value = {"schema_version": SCHEMA_VERSION, **asdict(dataset)}
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def load_dataset(folder: Path) -> Dataset:
    """Read `dataset.json`. Raises ManifestError naming what is wrong."""
    path = folder / DATASET_FILE
    value = read_json(path)
    found = value.pop("schema_version", None)
    if found != SCHEMA_VERSION:
        raise ManifestError(f"{path}: found schema version {reprlib.repr(found)}, expected {SCHEMA_VERSION}")
    _forget_statistics(value.get("shards"))
    dataset = _record(Dataset, value, str(path))
    _check_features(dataset, str(path))
    return dataset


def _forget_statistics(shards: object) -> None:
    """Older folders repeated in `dataset.json` what their receipts tell."""
    for shard in shards if isinstance(shards, list) else ():
        if isinstance(shard, dict):
            shard.pop("statistics", None)


def dump_fetched(fetched: Fetched) -> bytes:
    """Fetched -> bytes of `fetched.json`."""
    return (json.dumps(asdict(fetched), sort_keys=True, indent=1) + "\n").encode()


def load_fetched(folder: Path) -> Fetched | None:
    """Read `fetched.json`; None for a folder that was not fetched. Raises ManifestError."""
    path = folder / FETCHED_FILE
    return _record(Fetched, read_json(path), str(path)) if path.is_file() else None


def local_shards(folder: Path, dataset: Dataset) -> tuple[Shard, ...]:
    """Shards that are to be in a folder: all, unless a part was fetched on purpose. Raises ManifestError."""
    fetched = load_fetched(folder)
    if fetched is None or fetched.shards is None:
        return dataset.shards
    wanted = set(fetched.shards)
    return tuple(shard for shard in dataset.shards if shard.name in wanted)


def dump_receipt(receipt: Receipt) -> bytes:
    """Receipt -> bytes, a line."""
    plain = {
        **vars(receipt),
        "rows": [vars(row) for row in receipt.rows],
        "statistics": {name: vars(sums) for name, sums in receipt.statistics.items()},
    }
    return (dump_json(plain) + "\n").encode()


def load_receipt(path: Path) -> Receipt:
    """Read a receipt. Raises ManifestError naming what is wrong."""
    return _record(Receipt, read_json(path), str(path))


def dump_rows(rows: Iterable[Row]) -> bytes:
    """Rows -> bytes of `clips.jsonl`."""
    return "".join(dump_json(vars(row)) + "\n" for row in rows).encode()


def load_rows(folder: Path) -> Iterator[Row]:
    """Read `clips.jsonl` row by row. Raises ManifestError naming the line that is wrong."""
    path = folder / CLIPS_FILE
    if not path.is_file():
        raise ManifestError(f"{path}: not there; a folder of shards has one")
    with path.open("rb") as file:
        for number in itertools.count(1):
            line = file.readline(_MAX_ROW_BYTES)
            if not line:
                return
            yield _record(Row, _json(line, f"{path}:{number}"), f"{path}:{number}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sane size. Raises ManifestError."""
    value = _json(_read(path), str(path))
    if not isinstance(value, dict):
        raise ManifestError(f"{path}: found a {type(value).__name__}, expected an object")
    return value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_names(dataset: Dataset, receipts: Iterable[str]) -> list[str]:
    """Every file a complete folder has, relative and sorted, without the views and the sums themselves."""
    folds = (f"{FOLDS}/{scheme}.json" for scheme in dataset.fold_schemes)
    tars = (shard.name for shard in dataset.shards)
    return sorted([*tars, *receipts, *folds, DATASET_FILE, CLIPS_FILE, "README.md"])


def dump_sums(sums: Mapping[str, str]) -> bytes:
    """Name -> SHA-256 as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def load_sums(folder: Path) -> dict[str, str]:
    """Read `SHA256SUMS`; only plain names inside the folder are taken. Raises ManifestError."""
    path = folder / SUMS_FILE
    sums: dict[str, str] = {}
    for number, line in enumerate(_read(path).decode(errors="replace").removesuffix("\n").split("\n"), 1):
        digest, _, name = line.partition("  ")
        if not _SHA256.fullmatch(digest) or not _is_plain(name) or name in sums:
            raise ManifestError(f"{path}:{number}: found {line[:160]!r}, expected a SHA-256 and a plain name, once")
        sums[name] = digest
    return sums


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as promised."""

    file: str
    found: str
    expected: str

    def __str__(self) -> str:
        return escape_unprintable(f"{self.file}: found {self.found}, expected {self.expected}")


def verify(folder: Path, full: bool = False, on_file: Callable[[str], None] | None = None) -> list[Problem]:
    """Hold a folder against its index: all that is not as promised, every bad file named.

    Quick: each promised file is there, of the right size, and nothing else is. Full: every hash, and every shard's
    members where the receipt says. Shards that were not fetched on purpose need not be there, nor their receipts.
    `on_file` hears of each file before it is checked.

    Raises ManifestError where the index itself cannot be read.
    """
    dataset = load_dataset(folder)
    if not dataset.complete:
        return [Problem(file=DATASET_FILE, found="an unfinished build", expected="a finished one")]
    sums = load_sums(folder)
    promised = expected_names(dataset, _receipts(dataset, sums))
    problems = [*_unlisted(folder, promised), *_disagreeing_sums(dataset, sums, promised)]
    sizes = {shard.name: shard.bytes for shard in dataset.shards}
    here = local_shards(folder, dataset)
    elsewhere = _elsewhere(folder, dataset, here, promised)
    for name in promised:
        if name in elsewhere:
            continue
        if on_file is not None:
            on_file(name)
        problems += _check_file(folder, name, sizes.get(name), sums.get(name), full)
    if full and not problems:
        suffixes = set(member_names(dataset.features))
        problems = [problem for shard in here for problem in _check_members(folder, shard, suffixes)]
    return problems


def _elsewhere(folder: Path, dataset: Dataset, here: Sequence[Shard], promised: Iterable[str]) -> set[str]:
    """Promised shards and receipts that are neither to be in a folder nor in it."""
    if len(here) == len(dataset.shards):
        return set()
    wanted = {name for shard in here for name in (shard.name, shard.receipt)}
    of_shards = (name for name in promised if name.endswith(".tar") or name.startswith(f"{RECEIPTS}/"))
    return {name for name in of_shards if name not in wanted and not (folder / name).exists()}


def _receipts(dataset: Dataset, sums: Mapping[str, str]) -> set[str]:
    """Every shard's, and what only the sums know: those of shards without a clip, and Croissant metadata, if any."""
    known = {name for name in sums if name.startswith(f"{RECEIPTS}/") or name == CROISSANT_FILE}
    return {shard.receipt for shard in dataset.shards} | known


def _unlisted(folder: Path, promised: Sequence[str]) -> Iterator[Problem]:
    known = {*promised, *VIEWS}
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    for name in sorted(present - known):
        if not name.startswith("."):
            yield Problem(file=name, found="a file the index does not know", expected="nothing by that name")


def _disagreeing_sums(dataset: Dataset, sums: Mapping[str, str], promised: Sequence[str]) -> Iterator[Problem]:
    """The index and SHA256SUMS must promise the same files, tars and receipts with the same hashes."""
    for name in sorted(sums.keys() ^ set(promised)):
        found, expected = ("a line", "none") if name in sums else ("no line", "one")
        yield Problem(file=SUMS_FILE, found=f"{found} for {name}", expected=expected)
    for shard in dataset.shards:
        for name, sha256 in ((shard.name, shard.sha256), (shard.receipt, shard.receipt_sha256)):
            if sums.get(name, sha256) != sha256:
                yield Problem(file=SUMS_FILE, found=f"{sums[name]} for {name}", expected=sha256)


def _check_file(folder: Path, name: str, size: int | None, sha256: str | None, full: bool) -> Iterator[Problem]:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        yield Problem(file=name, found="no regular file" if path.exists() else "nothing", expected="a file")
    elif size is not None and path.stat().st_size != size:
        yield Problem(file=name, found=f"{path.stat().st_size} bytes", expected=f"{size}")
    elif full and sha256 is not None:
        try:
            found = file_sha256(path)
        except OSError as error:
            found = str(error.strerror)
        if found != sha256:
            yield Problem(file=name, found=f"SHA-256 {found}", expected=sha256)


def _check_members(folder: Path, shard: Shard, suffixes: set[str]) -> Iterator[Problem]:
    """The receipt's places are where the tar has them, all of them, and every sample is complete."""
    try:
        receipt, members = load_receipt(folder / shard.receipt), member_places(folder / shard.name)
    except (ManifestError, SchemaError) as error:
        yield Problem(file=shard.name, found=str(error), expected="a shard and its receipt")
        return
    if receipt.members != members:
        yield Problem(file=shard.receipt, found=f"other members than in {shard.name}", expected="the same")
    if len(members) != shard.samples:
        yield Problem(file=shard.name, found=pluralize(len(members), "sample"), expected=f"{shard.samples}")
    for key, places in members.items():
        if places.keys() != suffixes:
            yield Problem(
                file=shard.name, found=f"{key} with {', '.join(places)}", expected=", ".join(sorted(suffixes))
            )


def member_places(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Clip id -> member suffix -> (offset, size), read from the tar's headers.

    Raises SchemaError for anything but a sample's members as regular files in an uncompressed tar, each once.
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for member in _tar_members(tar):
        key, _, suffix = member.name.partition(".")
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.pax_headers
        if not plain or not NAME.fullmatch(key) or suffix in places.setdefault(key, {}):
            raise SchemaError(
                f"{tar.name}: found member {member.name[:100]!r}, expected KEY.suffix, once, a regular file"
            )
        check_member(suffix, member.size)
        places[key][suffix] = (member.offset_data, member.size)
    return places


def _tar_members(tar: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(tar, "r:") as archive:
            yield from archive
    except (tarfile.TarError, ValueError, EOFError, OverflowError, MemoryError) as error:  # all that bad headers raise
        raise SchemaError(f"{tar.name}: not a plain tar ({error})") from error


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return (
        len(parts) <= 2
        and all(re.fullmatch(r"[^\\/:]{1,255}", p) and p not in (".", "..") for p in parts)
        and name.isprintable()
    )


def _read(path: Path) -> bytes:
    """A file of sane size. Raises ManifestError."""
    if not path.is_file():
        raise ManifestError(f"{path}: not there; is this a folder of finished shards?")
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise ManifestError(f"{path}: found {path.stat().st_size} bytes, expected at most {_MAX_INDEX_BYTES}")
    return path.read_bytes()


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


def _check_statistics(statistics: Mapping[str, Statistics]) -> None:
    for name, sums in statistics.items():
        rows = spectrogram_shape(name)[1]
        if sums.count < 1 or (len(sums.total), len(sums.squares)) != (rows, rows):
            raise ManifestError(f"statistics of {name}: found {len(sums.total)} sums, expected {rows}")


def _check_features(dataset: Dataset, where: str) -> None:
    """The settings name spectrograms."""
    config = dataset.identity.get("config")
    features = config.get("features") if isinstance(config, dict) else None
    if not isinstance(features, list) or not features or any(f not in tuple(FEATURE_ROWS) for f in features):
        found = reprlib.repr(features)
        raise ManifestError(f"{where}: found features {found}, expected some of {', '.join(FEATURE_ROWS)}")
