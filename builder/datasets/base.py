"""What a corpus is to the builder: a folder that can be scanned for clips, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from manifests.schema import Clip

Region = Literal["full", "left", "right"]


class CorpusError(ValueError):
    """The folder cannot be built as it is; one line that says what was found, expected and what to do."""


class NotHereError(CorpusError):
    """Nothing of the corpus is in the folder; the message goes on from the folder's name."""


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """Where one clip's picture and sound are, before anything was opened."""

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
    """The corpus's documentation says the clip is unusable, in these words: it is dropped."""
    known_flags: tuple[str, ...] = ()
    """Flags of `manifests.schema.FLAGS` known before opening the clip."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What was found in a corpus folder."""

    root: Path | None = None
    """The corpus's own folder, from which files are named; None where that is the folder that was scanned."""
    sources: tuple[ClipSource, ...]
    """Sorted by speaker, then clip id; ids are unique even without regard to case."""
    missing: tuple[str, ...] = ()
    """Files of the corpus's known inventory that are absent (relative names, sorted)."""
    ignored: tuple[tuple[str, str], ...] = ()
    """(relative path, why) of files that look like media but are not taken."""
    expected_clips: int | None = None
    """Clips in the complete corpus, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """One file at a corpus's public home."""

    name: str
    """Relative to the home's folder, and to the corpus folder here."""
    bytes: int
    sha256: str | None = None
    md5: str | None = None
    """One of the two; neither where the home is to be asked for it."""
    holds: tuple[str, ...] = ()
    """For a zip, the files in it that belong into the corpus folder, by names relative to that."""
    needed: bool = True
    """Whether the builder misses it where it is absent."""

    @property
    def files(self) -> tuple[str, ...]:
        """What it brings to the corpus folder: what it holds, or itself."""
        return self.holds or (self.name,)


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where everybody can download a corpus."""

    address: str
    """`https://host`; a mirror may stand in for it."""
    folder: str
    """Where the files are, relative to the address."""
    originals: Callable[[], tuple[Original, ...]]
    """Every file that the builder can use."""
    record: str | None = None
    """Zenodo's record, relative to the address, that tells each file's MD5; None where originals have their sums."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One corpus: how to scan it, and what must be said wherever its shards go."""

    name: str
    title: str
    homepage: str
    licence: str
    redistributable: bool
    """False: shards may not be shared unless the receiver holds the licence too."""
    citation: str
    label_schemes: tuple[str, ...]
    """Names in `manifests.labels.LABEL_SCHEMES`, the default first; empty: labels are whatever the corpus says."""
    fold_schemes: tuple[str, ...]
    """Names of committed schemes in `manifests/folds`, the default first; empty: leave-one-speaker-out is made."""
    scan: Callable[[Path, Mapping[str, str]], Scan]
    """(folder, options) -> Scan. Reads names and small text files only, never media. Raises CorpusError."""
    home: Home | None = None
    how_to_get: str = ""
    """What to do to have the recordings, where they cannot be downloaded."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Option name -> allowed values, the default first, e.g. CREMA-D's `labels: (acted, voted)`; () allows any text."""
