"""The interface of a corpus: a folder that can be scanned for clips, and metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from manifests.corpora import CorpusFacts
from manifests.errors import UserError
from manifests.schema import Clip

Region = Literal["full", "left", "right"]

#: A separate sound file is searched for in the recording's sound this far from where it is expected.
SOUND_SEARCH_SECONDS = 0.5


class CorpusError(UserError):
    """A corpus cannot be used; one line with what was found, expected and what to do."""


class CorpusNotFoundError(CorpusError):
    """A folder does not contain the corpus; the message follows the folder's name."""


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """Location of one clip's picture and sound; no file has been opened yet."""

    clip: Clip
    video: Path
    """Recording with the picture; absolute."""
    sound: Path | None = None
    """Separate sound file, used when the recording has none, or instead of the recording's; absolute."""
    sound_first: bool = False
    """Use `sound`, and the recording's own sound only where that file is missing or cannot be read."""
    segment_seconds: tuple[float, float] | None = None
    """Start and end within the recording, from its first presentation time, as a player counts; None for all of it.
    Applies to `video` only."""
    context_seconds: tuple[float, float] | None = None
    """For a segment, what is also used of the recording's sound, for windows that reach beyond the segment: from, to;
    see `builder.datasets.context`. None for nothing."""
    region: Region = "full"
    """Part of the picture that shows the speaker."""
    known_defect: str | None = None
    """Why the clip is unusable according to the corpus's documentation; such a clip is dropped."""
    known_flags: tuple[str, ...] = ()
    """Keys of `manifests.schema.FLAGS` known before the clip is opened."""

    @property
    def sound_range_seconds(self) -> tuple[float, float] | None:
        """What to decode of the recording's sound; None for all of it."""
        if self.segment_seconds is None:
            return None
        (start, end), search = self.segment_seconds, SOUND_SEARCH_SECONDS if self.sound_first else 0.0
        first, last = self.context_seconds or self.segment_seconds
        return min(first, start - search), max(last, end + search)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Result of scanning a corpus folder."""

    root: Path | None = None
    """Corpus folder, to which file names are relative; None if it is the scanned folder."""
    sources: tuple[ClipSource, ...]
    """Sorted by speaker, then clip id; ids are unique even without regard to case."""
    missing: tuple[str, ...] = ()
    """Files of the corpus's known inventory that are missing (relative names, sorted)."""
    ignored: tuple[tuple[str, str], ...] = ()
    """(relative path, reason) of files that look like media but are ignored."""
    expected_clips: int | None = None
    """Number of clips in the complete corpus, if known."""
    speaker_names: Mapping[str, str] = field(default_factory=dict)
    """Speaker id -> name, of the speakers whose id is not their name."""
    notes: tuple[str, ...] = ()
    """How the corpus was read, where a person may not expect it; for the plan's output."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One published file of a corpus."""

    name: str
    """Relative to the remote folder, and to the local corpus folder."""
    bytes: int
    sha256: str | None = None
    md5: str | None = None
    """One of `sha256` and `md5` is set; neither if the checksum is in the remote's record."""
    members: tuple[str, ...] = ()
    """For a zip archive, the files in it that belong to the corpus, relative to the corpus folder."""
    needed: bool = True
    """Whether a build needs it."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the corpus folder that it provides: its members, or itself."""
        return self.members or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Public download location of a corpus."""

    address: str
    """`https://host`; a mirror may replace it."""
    folder: str
    """Folder of the files, relative to the address."""
    files: Callable[[], tuple[RemoteFile, ...]]
    """Returns every file that the builder can use."""
    record: str | None = None
    """Zenodo record with each file's MD5, relative to the address; None if `files` includes checksums."""
    lfs_mirror: str | None = None
    """Git repository, `https://host/path.git`, with the same files in its Git LFS, for when the address refuses them:
    e.g. because its quota is used up."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus, declared in its module: how to scan it, and the metadata of its shards."""

    name: str
    title: str
    homepage: str = ""
    """Empty for the user's own recordings and for a generated corpus."""
    citation: str
    facts: CorpusFacts = field(default_factory=CorpusFacts)
    """Licence, label schemes, fold schemes; defined in `manifests.corpora`, where readers of shards find them."""
    scan: Callable[[Path, Mapping[str, str]], Scan]
    """(folder, options) -> Scan. Reads names and small text files only, never media. Raises CorpusError."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Option name -> allowed values, the default first, e.g. CREMA-D's `labels: (acted, voted)`; () allows any text."""
    remote: Remote | None = None
    how_to_get: str = ""
    """How to obtain recordings that cannot be downloaded."""
    make: Callable[[Path, Mapping[str, str], Callable[[int, int], None]], object] | None = None
    """(folder, options, progress(done, total)): generates missing recordings; None for a corpus that is not generated.
    """
    is_started: Callable[[Path], bool] | None = None
    """Of a corpus with `make`: whether a folder has a part of it. Raises CorpusError for a folder with other files."""
    shards_gb: float = 0.0
    """Disk space of the shards of the complete corpus; 0 if unknown."""

    def about(self) -> dict[str, Any]:
        """Metadata that is saved with the shards: title, homepage, licence, citation, whether redistributable."""
        licence = self.facts.licence
        return {
            "title": self.title,
            "homepage": self.homepage,
            "licence": licence.text if licence else "",
            "citation": self.citation,
            "redistributable": licence is not None and licence.redistributable,
        }
