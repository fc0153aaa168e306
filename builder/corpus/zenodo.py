"""What Zenodo says of a record's files, held against what the builder knows of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from builder.datasets.base import CorpusError, Original
from manifests.download import ExpectedFile, download_file
from manifests.index import ManifestError, read_json
from manifests.records import SchemaError, from_json, kinds
from manifests.stores import Store

_MD5 = re.compile(r"md5:[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a record."""

    key: str
    size: int
    checksum: str
    """`md5:` and 32 digits."""


def with_checksums(place: Store, record: str, originals: Sequence[Original]) -> tuple[Original, ...]:
    """The originals with the MD5 that their record tells.

    Raises StoreError where the record cannot be had, CorpusError where it lacks a file or tells another size than is
    known: it is not the record that the builder was made for.
    """
    with TemporaryDirectory() as folder:
        download_file(place, Path(folder), ExpectedFile(name=record))
        told = {entry.key: entry for entry in _entries(Path(folder) / record, f"{place.address}/{record}")}
    return tuple(
        _with_checksum(original, told.get(original.name), f"{place.address}/{record}") for original in originals
    )


def _entries(path: Path, where: str) -> list[Entry]:
    try:
        files = from_json(tuple[Any, ...], read_json(path).get("files"), "files")
        return [from_json(Entry, {key: file.get(key) for key in kinds(Entry)}, "file") for file in files]
    except (ManifestError, SchemaError, AttributeError) as error:
        raise CorpusError(f"{where}: found something else than a Zenodo record, expected one with its files") from error


def _with_checksum(original: Original, told: Entry | None, where: str) -> Original:
    if told is None:
        raise CorpusError(f"{where}: found no {original.name} in the record, expected one of {original.bytes} bytes")
    if told.size != original.bytes:
        raise CorpusError(f"{where}: {original.name}: found {told.size} bytes, expected {original.bytes}")
    if not _MD5.fullmatch(told.checksum):
        raise CorpusError(f"{where}: {original.name}: found checksum {told.checksum[:80]!r}, expected md5:...")
    return replace(original, md5=told.checksum.removeprefix("md5:"))
