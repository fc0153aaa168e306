"""The demo corpus: eight synthetic speakers, 134 clips, rendered from one photograph and a voice model.

A folder for each speaker; file names::

    S01/S01_happy_01.mp4            speaker _ emotion _ take
    S03/S03_happy_bad_crowd.mp4     speaker _ emotion _ bad _ defect

    speaker  S01..S08; OPTION="speakers=S09-S32" has others, made up at random, for a second corpus: what is pre-trained
             on them has seen nobody of the eight
    emotion  happy = smile, lively voice    calm = smile, dull voice
             angry = frown, lively voice    sad  = frown, dull voice
    take     01..04: the same words, in the same rhythm, for all four emotions; each recording has a light of its own.
             OPTION=takes=16 has more of them
    defect   crowd   a second, smaller face       silent  digital silence      (kept and flagged by a builder)
             noface  an empty room                cut     the second half of the file is missing (dropped)

Neither picture nor sound alone distinguishes more than half of the emotions, whatever the speaker; together they do.
The clip id is the name without suffix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, CorpusError, CorpusNotFoundError, Scan
from builder.datasets.checks import is_media, visible_files
from builder.demo.speakers import MAX_SPEAKER, speaker_id
from builder.demo.utterances import MANIFEST, MAX_TAKES, SPEAKER_IDS, TAKES, Utterance, list_utterances
from manifests.corpora import CORPORA
from manifests.schema import Clip
from manifests.text import shorten_list

_SPEAKERS = f"{SPEAKER_IDS[0]}-{SPEAKER_IDS[-1]}"
_DEPTH = 3  # <parent>/<corpus>/S01/<file>, one more than needed from the corpus itself


def is_started(root: Path) -> bool:
    """Whether a folder has at least a part of the demo corpus; False for one that is absent or empty.

    Raises CorpusError for a folder with other files: nothing is generated among them.
    """
    if (root / MANIFEST).is_file():
        return True
    if not root.exists():
        return False
    others = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if others:
        raise CorpusError(
            f"{root}: found other files ({shorten_list(others, 3)}), expected an empty folder for the demo corpus, or "
            f"one with its {MANIFEST}; your own recordings are DATASET=folder"
        )
    return False


def make_demo(
    root: Path,
    options: Mapping[str, str] | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Generate the demo corpus in `root` unless it is complete; see `builder.demo.writer.make_demo`.

    Raises CorpusError also for a folder with other files.
    """
    clips = _chosen(options or {})
    is_started(root)
    from builder.demo import writer  # rendering needs libraries that scanning does not

    return writer.make_demo(root, clips=clips, workers=workers, progress=progress)


def _chosen(options: Mapping[str, str]) -> tuple[Utterance, ...]:
    """The clips of the corpus with these options. Raises CorpusError."""
    takes, speakers = options.get("takes", str(TAKES)), options.get("speakers", _SPEAKERS)
    if takes not in map(str, range(1, MAX_TAKES + 1)):
        raise CorpusError(f"demo: option takes is {takes[:80]!r}; valid are 1 to {MAX_TAKES}")
    match = re.fullmatch(r"S(\d\d)-S(\d\d)", speakers)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise CorpusError(
            f"demo: option speakers is {speakers[:80]!r}; valid are the first and the last, from S01-S01 to "
            f"S01-{speaker_id(MAX_SPEAKER)}, such as {_SPEAKERS}"
        )
    return list_utterances(int(takes), tuple(map(speaker_id, range(first, last + 1))))


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Every clip of the demo below `root`, which is the corpus folder or its parent."""
    known = {utterance.clip_id: utterance for utterance in _chosen(options)}
    media = [path for path in visible_files(root, _DEPTH) if is_media(path)]
    used = {path for path in media if path.stem in known and path.suffix == ".mp4"}
    if not used:
        raise CorpusNotFoundError(
            "found no clip of the demo corpus; expected S01/S01_happy_01.mp4 ...; make shards generates it"
        )
    sources = []
    for path in sorted(used):
        utterance = known[path.stem]
        clip = Clip(
            clip_id=utterance.clip_id,
            speaker=utterance.speaker,
            emotion=utterance.emotion,
            sentence=f"take {utterance.take}",
        )
        sources.append(ClipSource(clip=clip, video=path))
    return Scan(
        sources=tuple(sources),
        missing=tuple(sorted(known[clip_id].path for clip_id in known.keys() - {path.stem for path in used})),
        ignored=tuple(
            (path.relative_to(root).as_posix(), "not the name of a demo clip, or of other takes or speakers (OPTION=)")
            for path in media
            if path not in used
        ),
        expected_clips=len(known),
    )


CORPUS = Corpus(
    name="demo",
    title="Demo: eight made-up speakers, rendered from one photograph and a voice model",
    citation="Portrait of Eileen Collins, NASA; distributed with scikit-image (van der Walt et al. 2014, PeerJ 2:e453)",
    facts=CORPORA["demo"],
    scan=scan,
    options={"takes": (), "speakers": ()},
    how_to_get="no download needed: make shards generates it in data/demo",
    make=lambda root, options, progress: make_demo(root, options, progress=progress),
    is_started=is_started,
    shards_gb=0.1,
)
