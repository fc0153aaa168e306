"""What a corpus is to the builder: a folder that can be scanned for clips, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from manifests.corpora import CorpusFacts
from manifests.errors import UserError
from manifests.schema import Clip

Region = Literal["full", "left", "right"]


class CorpusError(UserError):
    """The folder cannot be built as it is; one line that says what was found, expected and what to do."""


class NotHereError(CorpusError):
    """Nothing of the corpus is in the folder; the message continues the folder's name."""


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """Where one clip's picture and sound are, before any file is opened."""

    clip: Clip
    video: Path
    """Recording with the picture; absolute."""
    sound: Path | None = None
    """Separate sound file, used when the recording has none; absolute."""
    segment_seconds: tuple[float, float] | None = None
    """Start and end within the recording; None means all of it. Applies to `video` only."""
    region: Region = "full"
    """Part of the picture the talker is in."""
    known_defect: str | None = None
    """Why the clip is unusable according to the corpus's documentation: it is dropped."""
    known_flags: tuple[str, ...] = ()
    """Flags of `manifests.schema.FLAGS` known before opening the clip."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What was found in a corpus folder."""

    root: Path | None = None
    """The corpus's own folder, to which file names are relative; None where that is the folder that was scanned."""
    sources: tuple[ClipSource, ...]
    """Sorted by speaker, then clip id; ids are unique even without regard to case."""
    missing: tuple[str, ...] = ()
    """Files of the corpus's known inventory that are absent (relative names, sorted)."""
    ignored: tuple[tuple[str, str], ...] = ()
    """(relative path, why) of files that look like media but are not used."""
    expected_clips: int | None = None
    """Clips in the complete corpus, where that is known."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a corpus where it is published."""

    name: str
    """Relative to the remote's folder, and to the corpus folder here."""
    bytes: int
    sha256: str | None = None
    md5: str | None = None
    """One of the two; neither where the remote's record has to be read for it."""
    holds: tuple[str, ...] = ()
    """For a zip, the files in it that belong into the corpus folder, by names relative to that."""
    needed: bool = True
    """Whether a build misses it where it is absent."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the corpus folder that it provides: those it holds, or itself."""
        return self.holds or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Where everybody can download a corpus."""

    address: str
    """`https://host`; a mirror may stand in for it."""
    folder: str
    """Where the files are, relative to the address."""
    files: Callable[[], tuple[RemoteFile, ...]]
    """Every file that the builder can use."""
    record: str | None = None
    """Zenodo's record with each file's MD5, relative to the address; None where files are listed with their sums."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus, wholly declared in its module: how to scan it, and what has to go with its shards."""

    name: str
    title: str
    homepage: str = ""
    """Empty for recordings of one's own and for those that are made on the spot."""
    citation: str
    facts: CorpusFacts = field(default_factory=CorpusFacts)
    """Licence, label schemes, fold schemes: `manifests.corpora` has them, for those who read the shards."""
    scan: Callable[[Path, Mapping[str, str]], Scan]
    """(folder, options) -> Scan. Reads names and small text files only, never media. Raises CorpusError."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Option name -> allowed values, the default first, e.g. CREMA-D's `labels: (acted, voted)`; () allows any text."""
    remote: Remote | None = None
    how_to_get: str = ""
    """How to obtain the recordings where they cannot be downloaded."""
    make: Callable[[Path, Callable[[int, int], None]], object] | None = None
    """(folder, progress(done, total)): makes the recordings unless they are there, for a corpus that is generated."""
    shards_gb: float = 0.0
    """Disk space that the shards of the complete corpus take; 0 where it is not known."""

    def about(self) -> dict[str, Any]:
        """What is stated wherever shards of the corpus go: title, homepage, licence, citation, sharing rule."""
        licence = self.facts.licence
        return {
            "title": self.title,
            "homepage": self.homepage,
            "licence": licence.text if licence else "",
            "citation": self.citation,
            "redistributable": licence is not None and licence.redistributable,
        }
