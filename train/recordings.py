"""Recordings that are named on a command line or in Python: files, folders and patterns such as `session-*/*.mp4`."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from manifests.files import open_regular

#: Suffixes of the files in a folder that are recordings; a file that is named itself may have any.
RECORDING_SUFFIXES = frozenset(
    {".avi", ".flac", ".flv", ".m4a", ".m4v", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".mpg", ".ogg", ".wav", ".webm"}
)
#: First bytes of what git-lfs leaves in the place of a file that was not downloaded.
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A file to classify, or a name that leads to none."""

    path: Path
    problem: str = ""
    """Why it cannot be read: what was found and what was expected; "" for a file that can."""


def find_recordings(names: Iterable[str | Path]) -> list[Recording]:
    """Recordings that are named, in the order of the names; a name without one has a `problem`.

    A folder stands for all recordings in it and its subfolders, sorted, without hidden ones; a pattern (`*`, `?`,
    `[...]`, and `**` for any number of folders) for everything that matches it, sorted. An existing file is never taken
    for a pattern. `~` is the home folder.
    """
    return [recording for name in names for recording in _find(os.fspath(name))]


def _find(name: str) -> list[Recording]:
    if not os.path.lexists(name):
        name = os.path.expanduser(name)  # noqa: PTH111 - does not raise where there is no home folder
    if os.path.lexists(name) or not glob.has_magic(name):
        return _expand(Path(name))
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute and relative patterns alike
    found = {recording.path: recording for match in matches for recording in _expand(Path(match))}
    return [*found.values()] or [Recording(path=Path(name), problem="found no file of this pattern, expected one")]


def _expand(path: Path) -> list[Recording]:
    """A file itself, or the recordings in a folder."""
    if not os.path.isdir(path):  # noqa: PTH112 - False for a name that is too long
        return [Recording(path=path, problem=_find_problem(path))]
    files, errors = _list_folder(path)
    unlisted = [Recording(path=folder, problem=problem) for folder, problem in errors.items()]
    found = [Recording(path=file, problem=_find_problem(file)) for file in files]
    expected = "expected files such as .mp4, .flv or .wav"
    return found + unlisted or [Recording(path=path, problem=f"found no recordings in this folder, {expected}")]


def _list_folder(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """Recordings below a folder, sorted; and subfolders that cannot be listed, each with the reason.

    Links to folders are followed, and each folder is listed once: links may lead in circles.
    """
    files: list[Path] = []
    errors: dict[Path, str] = {}
    listed = {_identity(folder)}

    def fail(error: OSError) -> None:
        errors[Path(error.filename)] = f"found a folder that cannot be listed ({error.strerror}), expected recordings"

    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        visible = [name for name in sorted(folders) if not name.startswith(".")]
        folders.clear()
        for name in visible:
            identity = _identity(Path(parent, name))
            if identity not in listed:
                listed.add(identity)
                folders.append(name)
        files += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in RECORDING_SUFFIXES
        ]
    return sorted(files, key=str), errors


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _find_problem(path: Path) -> str:
    """Why a file cannot be a recording, "" if it can; of its content only the beginning is read."""
    try:
        with open_regular(path) as file:
            start = file.read(len(_LFS_POINTER))
    except FileNotFoundError:
        return "not found, expected a recording"
    except (OSError, ValueError) as error:  # a name may have a null character
        return f"cannot be read ({getattr(error, 'strerror', None) or error}), expected a recording"
    if start == _LFS_POINTER:
        return "found a git-lfs pointer, expected a recording; run git lfs pull in its folder"
    return "" if start else "found an empty file, expected a recording"
