"""The result of building one clip: its row in the index and its members. Imports no decoder and no face model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder.datasets.base import ClipSource
from manifests.index import Row, Statistics, file_sha256


@dataclass(frozen=True, kw_only=True)
class BuiltClip:
    """A clip after the builder is done with it, written or dropped."""

    row: Row
    members: Mapping[str, bytes] | None
    """Member suffix -> bytes in tar order; None for a dropped clip."""
    statistics: Mapping[str, Statistics]
    """Spectrogram name -> sums of its values; {} for a dropped clip."""


def planned_row(source: ClipSource, root: Path) -> Row:
    """The row of a clip before any of its files is opened."""
    return Row(
        **vars(source.clip),
        status="planned",
        source=relative_name(source.video, root),
        sound=relative_name(source.sound, root) if source.sound else None,
    )


def recording_sha256(path: Path | None) -> str | None:
    """SHA-256 of a recording; None where it is absent or cannot be read."""
    try:
        return file_sha256(path) if path is not None and path.is_file() else None
    except OSError:
        return None


Sha256 = Callable[[Path | None], str | None]


def recorded_row(source: ClipSource, root: Path, sha256: Sha256 = recording_sha256) -> Row:
    """The row of a clip with its recordings' hashes, by which a later build sees whether they changed."""
    return replace(planned_row(source, root), sha256=sha256(source.video), sound_sha256=sha256(source.sound))


def dropped(row: Row, reason: str, detail: str) -> BuiltClip:
    """A clip that is left out of the shards, and why."""
    return BuiltClip(row=replace(row, status="dropped", reason=reason, detail=detail), members=None, statistics={})


def relative_name(path: Path, root: Path) -> str:
    """A file's name as it is recorded: relative to the corpus folder, without where that lies on this machine."""
    name, inside = str(path), f"{str(root).rstrip('/')}/"  # as strings: comparing paths takes five times as long
    return name.removeprefix(inside) if name.startswith(inside) else path.name
