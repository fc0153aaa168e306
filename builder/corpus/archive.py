"""Extracts the files of a corpus from a zip archive; other members are not extracted."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from builder.datasets.base import CorpusError
from manifests.files import atomic_write, atomic_writer
from manifests.index import SUMS_FILE, dump_checksums

#: More than any recording has; a larger member is rejected as malicious.
MAX_BYTES = 1 << 28
#: Exceptions of zipfile for archives that are damaged, encrypted or compressed with an unknown method.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, UnicodeError)


def unpack(archive: Path, root: Path, names: Sequence[str]) -> None:
    """Extract the named members below `root` atomically, then write a `SHA256SUMS` file to each folder.

    Raises CorpusError for an archive that contains a link, a path outside of the folder or a member that is too large,
    or that misses a named member, before any file is written; and for a damaged archive.
    """
    sums: dict[str, dict[str, str]] = {}
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = _find_members(bundle, archive, names)
            for name in names:
                folder, _, plain = name.rpartition("/")
                with atomic_writer(root / name) as file, bundle.open(members[name]) as member:
                    shutil.copyfileobj(member, file)
                sums.setdefault(folder, {})[plain] = file.sha256
    except _DAMAGE as error:
        raise CorpusError(
            f"{archive}: cannot be unpacked ({error}); delete it and run the same command again"
        ) from error
    for folder, files in sums.items():
        atomic_write(root / folder / SUMS_FILE, dump_checksums(files))


def _find_members(bundle: zipfile.ZipFile, archive: Path, names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """Name -> member, for all names. Raises CorpusError, also for unsafe members."""
    wanted = set(names)
    members: dict[str, zipfile.ZipInfo] = {}
    for member in bundle.infolist():
        problem = "a duplicate name" if member.filename in members else _problem(member)
        if problem:
            shown = ascii(member.orig_filename)[:120]
            raise CorpusError(f"{archive}: contains {shown}, {problem}; no file was unpacked")
        if member.filename in wanted:
            members[member.filename] = member
    missing = sorted(wanted - members.keys())
    if missing:
        raise CorpusError(f"{archive}: found no {missing[0]}, expected {len(wanted)} files, {len(missing)} are missing")
    return members


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        return "a path outside of the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.file_size > MAX_BYTES:
        return f"found {member.file_size} bytes, expected at most {MAX_BYTES}"
    return None
