"""What a person looks at after a build: `report.html`, and a picture for a README's first screen.

Both are made from the shard folder alone: neither the recordings nor the face models are needed, so whoever
receives a folder can make them again. Same folder, same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.report import contents, page
from builder.report.choice import choose
from builder.report.picture import draw
from manifests.files import atomic_write

__all__ = ["REPORT_FILE", "write_picture", "write_report"]

REPORT_FILE = "report.html"
_PICTURE_CLIPS = 3


def write_report(folder: Path, *, clips: int = 24) -> Path:
    """Make `report.html` in a folder of shards: one file that asks for nothing from anywhere else.

    Args:
        folder: a finished build.
        clips: how many clips to show with faces, sound and time marks.

    Raises ManifestError, naming the file that is not as it should be, and OSError.
    """
    found = contents.load(folder)
    shown = list(contents.samples(found, choose(found.rows, clips)))
    path = folder / REPORT_FILE
    atomic_write(path, page.render(found, shown).encode(errors="replace"))
    return path


def write_picture(folder: Path, path: Path, clip_ids: Sequence[str] | None = None) -> Path:
    """Make a picture, 1400 px wide, of what comes out: faces, sound and spectrogram of clips on their time axes.

    Args:
        folder: a finished build.
        path: where to write it; `.jpg` or `.png`.
        clip_ids: clips to show, three of different emotions and speakers where not given.

    Raises ManifestError, for a clip that is not in the folder too, FolderError for another kind of file, and OSError.
    """
    found = contents.load(folder)
    rows = choose(found.rows, _PICTURE_CLIPS) if clip_ids is None else contents.named(found, clip_ids)
    atomic_write(path, draw(found, list(contents.samples(found, rows)), path))
    return path
