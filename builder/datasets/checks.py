"""Helpers for scanning a corpus: list files, find the corpus folder, validate sources."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, CorpusError, CorpusNotFoundError
from manifests.tables import TableError, read_bytes
from manifests.text import pluralize

#: Suffixes of files that look like recordings.
MEDIA_SUFFIXES = frozenset(
    {".avi", ".flac", ".flv", ".m4a", ".m4v", ".mkv", ".mov", ".mp3", ".mp4", ".mpeg", ".mpg", ".ogg", ".wav", ".webm"}
)

#: Those of recordings without a picture.
SOUND_SUFFIXES = frozenset({".flac", ".m4a", ".mp3", ".ogg", ".wav"})

_POINTER = b"version https://git-lfs"
_MAX_POINTER_BYTES = 1024
#: Most recordings that are checked for being pointers: a status of each of a million takes minutes on a network.
_MAX_CHECKED = 20_000


def visible_files(folder: Path, depth: int) -> list[Path]:
    """Files at most `depth` levels below a folder, sorted, without hidden ones (including `._*`).

    A folder that does not exist has none. Links to folders are followed, but each folder is listed only once, under
    its own name if it has one below `folder`. Raises CorpusError for a folder that cannot be listed.
    """
    files: list[Path] = []
    listed: set[tuple[int, int]] = set()  # device and inode: links may lead in circles
    folders, links = [(folder, depth)], []  # links come last
    while folders or links:
        path, levels = (folders or links).pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in listed:
                continue
            listed.add((status.st_dev, status.st_ino))
            entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _cannot_list(error) from error
        for entry in entries:
            if not _is_folder(entry):
                files.append(path / entry.name)
            elif levels > 1:
                (links if entry.is_symlink() else folders).append((path / entry.name, levels - 1))
    return sorted(files, key=str)


def list_folders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without hidden ones. Raises CorpusError if it cannot be listed."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError as error:
        raise _cannot_list(error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself
        return False


def is_media(path: Path) -> bool:
    """Whether the suffix is that of a recording; the content is not read."""
    return path.suffix.lower() in MEDIA_SUFFIXES


def has_picture(path: Path) -> bool:
    """Whether the suffix is that of a recording with a picture; the content is not read."""
    return is_media(path) and path.suffix.lower() not in SOUND_SUFFIXES


def corpus_folder(root: Path, is_corpus: Callable[[Path], bool], layout: str) -> Path:
    """Corpus folder: `root`, or the only folder in it that contains the corpus.

    Raises CorpusNotFoundError, naming the expected `layout`, if there is none, CorpusError if there are several.
    """
    try:
        if is_corpus(root):
            return root
        inside = [path for path in sorted(root.iterdir()) if path.is_dir() and is_corpus(path)]
    except OSError as error:
        raise _cannot_list(error) from error
    if len(inside) > 1:
        raise CorpusError(f"{root}: contains the corpus twice, in {inside[0].name} and {inside[1].name}; choose one")
    if not inside:
        raise CorpusNotFoundError(f"found no corpus; expected {layout}")
    return inside[0]


def resolve_options(corpus: Corpus, options: Mapping[str, str]) -> dict[str, str]:
    """The corpus's default options, updated with `options`. Raises CorpusError for an unknown option or value."""
    for option, value in options.items():
        if option not in corpus.options:
            valid = ", ".join(corpus.options) or "none"
            raise CorpusError(f"{corpus.name}: unknown option {option!r}; valid are: {valid}")
        allowed = corpus.options[option]
        if allowed and value not in allowed:
            raise CorpusError(f"{corpus.name}: option {option} is {value!r}; valid are: {', '.join(allowed)}")
    defaults = {option: allowed[0] for option, allowed in corpus.options.items() if allowed}
    return defaults | dict(options)


def refuse_pointers(sources: Iterable[ClipSource]) -> None:
    """Raise CorpusError if a recording is a git-lfs pointer; of many recordings, some are checked, evenly spaced."""
    media = list(dict.fromkeys(path for each in sources for path in (each.video, each.sound) if path is not None))
    checked = media[:: -(-len(media) // _MAX_CHECKED) or 1]
    pointers = sorted(path for path in checked if is_pointer(path))
    if pointers:
        count = f"{len(pointers)} of {pluralize(len(checked), 'file')}"
        raise CorpusError(
            f"{pointers[0]}: a git-lfs pointer, not a recording ({count}); run git lfs pull in the corpus folder"
        )


def check_unique_ids(sources: Iterable[ClipSource]) -> None:
    """Raise CorpusError for duplicate clip ids, and for ids or speakers that differ only in case.

    Ids and speakers become file names, and some file systems ignore case.
    """
    clips: dict[str, ClipSource] = {}
    speakers: dict[str, ClipSource] = {}
    for source in sources:
        first = clips.setdefault(source.clip.clip_id.lower(), source)
        if first is not source:
            raise CorpusError(
                f"{first.video} and {source.video}: the same clip id {source.clip.clip_id}; "
                "expected ids that differ in more than case; rename or remove one"
            )
        first = speakers.setdefault(source.clip.speaker.lower(), source)
        if first.clip.speaker != source.clip.speaker:
            raise CorpusError(
                f"{first.video} and {source.video}: speakers {first.clip.speaker} and {source.clip.speaker} "
                "differ only in case; expected one spelling"
            )


def is_pointer(path: Path) -> bool:
    """Whether a file is a git-lfs pointer, a small text file in place of the recording."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False  # a clip that cannot be opened is dropped by the build, with its reason


def read_table(path: Path) -> bytes:
    """Content of a text file that lists or labels clips. Raises FileNotFoundError if there is none, CorpusError."""
    try:
        return read_bytes(path)
    except TableError as error:
        raise CorpusError(str(error)) from error


def _cannot_list(error: OSError) -> CorpusError:
    return CorpusError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions")
