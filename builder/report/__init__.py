"""Reports on a build for people: `report.html`, and a picture for the top of a README.

Both need only the shard folder, not the recordings or the face models, so every recipient of a folder can generate
them again. Output is deterministic.

`shard_reader` reads the folder, `sampling` selects the clips to show, `figure` draws a clip as shapes, `page` renders
them as SVG in the page's template and `picture` as pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.report.page import render_page
from builder.report.picture import render_picture
from builder.report.sampling import choose_clips
from builder.report.shard_reader import find_rows, read_folder, read_samples, read_strips
from manifests.files import atomic_write
from manifests.index import REPORT_FILE

__all__ = ["REPORT_FILE", "write_picture", "write_report"]

_PICTURE_CLIPS = 3


def write_report(folder: Path, *, clips: int = 24) -> Path:
    """Write `report.html` to a shard folder, as one self-contained file.

    Args:
        folder: a finished build.
        clips: number of clips to show with faces, sound and time marks.

    Raises ManifestError, naming the invalid file, and OSError.
    """
    build = read_folder(folder)
    rows = choose_clips(build.rows, clips)
    path = folder / REPORT_FILE
    page = render_page(build, list(read_samples(build, rows)), read_strips(build, rows))
    atomic_write(path, page.encode(errors="replace"))
    return path


def write_picture(folder: Path, path: Path, clip_ids: Sequence[str] | None = None) -> Path:
    """Write a picture, 1400 px wide, of samples: faces, sound and spectrogram of clips on their time axes.

    Args:
        folder: a finished build.
        path: output file; `.jpg` or `.png`.
        clip_ids: clips to show; by default three of different emotions and speakers.

    Raises ManifestError, also for a clip that is not in the folder, FolderError for another file type, and OSError.
    """
    build = read_folder(folder)
    rows = choose_clips(build.rows, _PICTURE_CLIPS) if clip_ids is None else find_rows(build, clip_ids)
    atomic_write(path, render_picture(build, list(read_samples(build, rows)), path))
    return path
