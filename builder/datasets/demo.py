"""The demo corpus: eight made-up speakers, 134 clips, rendered on the spot from one photograph and a voice model.

A folder for each speaker; file names::

    S01/S01_happy_01.mp4            speaker _ emotion _ take
    S03/S03_happy_bad_crowd.mp4     speaker _ emotion _ bad _ defect

    speaker  S01..S08
    emotion  happy = smile, lively voice    calm = smile, dull voice
             angry = frown, lively voice    sad  = frown, dull voice
    take     01..04: the same timing for all four emotions
    defect   crowd   a second, smaller face       silent  digital silence      (kept and flagged by a builder)
             noface  an empty room                cut     the second half of the file is gone   (dropped)

Neither picture nor sound alone tells more than half of the emotions, whatever the speaker; both together tell all.
The clip id is the name without its suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, NotHereError, Scan
from builder.datasets.checks import is_media, visible_files
from builder.demo.utterances import Utterance, list_utterances
from manifests.labels import schemes_for
from manifests.schema import Clip

_DEPTH = 3  # <parent>/<corpus>/S01/<file>, one more than needed from the corpus itself


def make_demo(root: Path, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Path:
    """Make the demo corpus in `root` unless it is there and complete; see `builder.demo.writer.make_demo`."""
    from builder.demo import writer  # rendering needs libraries that scanning does not

    return writer.make_demo(root, workers=workers, progress=progress)


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Every clip of the demo below `root`; it may hold the speakers' folders or be their parent."""
    del options  # there are none
    known = {utterance.clip_id: utterance for utterance in list_utterances()}
    media = [path for path in visible_files(root, _DEPTH) if is_media(path)]
    taken = {path for path in media if path.stem in known and path.suffix == ".mp4"}
    if not taken:
        raise NotHereError("found no clip of the demo corpus; expected S01/S01_happy_01.mp4 ...; have it made")
    found = {path.stem for path in taken}
    return Scan(
        sources=tuple(ClipSource(clip=_clip(known[path.stem]), video=path) for path in sorted(taken)),
        missing=tuple(sorted(utterance.path for clip_id, utterance in known.items() if clip_id not in found)),
        ignored=tuple(
            (path.relative_to(root).as_posix(), "no name of a demo clip") for path in media if path not in taken
        ),
        expected_clips=len(known),
    )


def _clip(utterance: Utterance) -> Clip:
    return Clip(
        clip_id=utterance.clip_id,
        speaker=utterance.speaker,
        emotion=utterance.emotion,
        sentence=f"take {utterance.take}",
    )


CORPUS = Corpus(
    name="demo",
    title="Demo: eight made-up speakers, rendered from one photograph and a voice model",
    homepage="",
    licence=(
        "portrait of Eileen Collins: NASA, public domain (from scikit-image); everything else: this project's licence"
    ),
    redistributable=True,
    citation="Portrait of Eileen Collins, NASA; distributed with scikit-image (van der Walt et al. 2014, PeerJ 2:e453)",
    label_schemes=schemes_for("demo"),
    fold_schemes=(),
    scan=scan,
    how_to_get="there is nothing to download: make shards makes it in data/demo",
)
