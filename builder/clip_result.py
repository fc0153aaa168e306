"""The result of building one clip: its row in the index. Imports no decoder and no face model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from builder.datasets.base import ClipSource
from manifests.index import Row, file_sha256
from manifests.shard_writer import ClipResult as ClipResult


def planned_row(source: ClipSource, root: Path) -> Row:
    """Index row of a clip before any of its files is opened."""
    return Row(
        **vars(source.clip),
        status="planned",
        source=relative_name(source.video, root),
        sound=relative_name(source.sound, root) if source.sound else None,
    )


def recording_sha256(path: Path | None) -> str | None:
    """SHA-256 of a recording; None if it is missing or cannot be read."""
    try:
        return file_sha256(path) if path is not None and path.is_file() else None
    except OSError:
        return None


Sha256 = Callable[[Path | None], str | None]


def recorded_row(source: ClipSource, root: Path, sha256: Sha256 = recording_sha256) -> Row:
    """Index row of a clip with its recordings' hashes, by which a later build detects changes."""
    return replace(planned_row(source, root), sha256=sha256(source.video), sound_sha256=sha256(source.sound))


def drop_clip(row: Row, reason: str, detail: str) -> ClipResult:
    """A clip that is left out of the shards, with the reason."""
    return ClipResult(row=replace(row, status="dropped", reason=reason, detail=detail), members=None, statistics={})


def relative_name(path: Path, root: Path) -> str:
    """File name relative to the corpus folder, independent of where the folder is on this machine."""
    name, inside = str(path), f"{str(root).rstrip('/')}/"  # as strings: comparing paths takes five times as long
    return name.removeprefix(inside) if name.startswith(inside) else path.name
