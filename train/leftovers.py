"""Partial files that a killed process left behind."""

from __future__ import annotations

import glob
from pathlib import Path

#: Eight hexadecimal digits, as `manifests.files.atomic_writer` puts them into the name of a partial file.
_ANY_TOKEN = "[0-9a-f]" * 8


def partial_files(path: Path) -> list[Path]:
    """Partial files of a file that was to be written atomically; names that are like them but are not ours are left."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{_ANY_TOKEN}.part"))


def remove_partial_files(path: Path) -> None:
    """Remove the partial files of a file that is about to be written again."""
    for partial in partial_files(path):
        partial.unlink(missing_ok=True)
