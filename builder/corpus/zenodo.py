"""Reads a Zenodo record, and compares its files with the builder's inventory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from builder.datasets.base import CorpusError, RemoteFile
from manifests.download import ExpectedFile, download_file
from manifests.index import ManifestError, read_json
from manifests.records import SchemaError, from_json
from manifests.stores import Store

_MD5 = re.compile(r"md5:[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """One file of a record."""

    key: str
    size: int
    checksum: str
    """`md5:` and 32 digits."""


def with_checksums(store: Store, record: str, remotes: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files with the MD5 from their record.

    Raises StoreError if the record cannot be fetched, CorpusError if a file is missing from it or has a different size
    than in the inventory: then it is not the record that the builder expects.
    """
    where = f"{store.address}/{record}"
    with TemporaryDirectory() as folder:
        download_file(store, Path(folder), ExpectedFile(name=record))
        try:
            files = from_json(tuple[Any, ...], read_json(Path(folder) / record).get("files"), "files")
            found = [
                from_json(RecordFile, {key: file.get(key) for key in ("key", "size", "checksum")}, "file")
                for file in files
            ]
        except (ManifestError, SchemaError, AttributeError) as error:
            raise CorpusError(f"{where}: found no Zenodo record, expected one with its files") from error
    by_name = {file.key: file for file in found}
    checked = []
    for remote in remotes:
        file = by_name.get(remote.name)
        if file is None:
            raise CorpusError(f"{where}: found no {remote.name} in the record, expected one of {remote.bytes} bytes")
        if file.size != remote.bytes:
            raise CorpusError(f"{where}: {remote.name}: found {file.size} bytes, expected {remote.bytes}")
        if not _MD5.fullmatch(file.checksum):
            raise CorpusError(f"{where}: {remote.name}: found checksum {file.checksum[:80]!r}, expected md5:...")
        checked.append(replace(remote, md5=file.checksum.removeprefix("md5:")))
    return tuple(checked)
