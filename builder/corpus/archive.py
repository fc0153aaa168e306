"""Extracts a corpus's files from a zip, and nothing else: only names that belong to the corpus are written."""

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
from manifests.index import SUMS_FILE, dump_sums

#: More than any recording has: a member that is larger, or claims to be, is an attack.
MAX_BYTES = 1 << 28
#: What zipfile raises for a zip that is damaged, encrypted or compressed in an unknown way.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, UnicodeError)


def unpack(archive: Path, root: Path, names: Sequence[str]) -> None:
    """Write these members to their names below `root`, each whole or not at all, then `SHA256SUMS` beside them.

    Raises CorpusError for a zip that holds a link, a path out of the folder or something far too large, or lacks one of
    the members, before anything is written; and for one that turns out to be damaged.
    """
    sums: dict[str, dict[str, str]] = {}
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = _checked(bundle, archive, names)
            for name in names:
                folder, _, plain = name.rpartition("/")
                with atomic_writer(root / name) as file, bundle.open(members[name]) as member:
                    shutil.copyfileobj(member, file)
                sums.setdefault(folder, {})[plain] = file.sha256
    except _DAMAGE as error:
        raise CorpusError(
            f"{archive}: cannot be unpacked ({error}); delete it, and run the same command to fetch it again"
        ) from error
    for folder, files in sums.items():
        atomic_write(root / folder / SUMS_FILE, dump_sums(files))


def _checked(bundle: zipfile.ZipFile, archive: Path, names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """Name -> member, for all that are wanted."""
    wanted = set(names)
    members: dict[str, zipfile.ZipInfo] = {}
    for member in bundle.infolist():
        problem = "a name twice" if member.filename in members else _problem(member)
        if problem:
            shown = ascii(member.orig_filename)[:120]
            raise CorpusError(f"{archive}: holds {shown}, {problem}; nothing of it was unpacked")
        if member.filename in wanted:
            members[member.filename] = member
    lacking = sorted(wanted - members.keys())
    if lacking:
        raise CorpusError(f"{archive}: found no {lacking[0]} in it, expected {len(wanted)} files, {len(lacking)} lack")
    return members


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        return "a path out of the folder"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.file_size > MAX_BYTES:
        return f"found {member.file_size} bytes, expected at most {MAX_BYTES}"
    return None
