"""MEAD: 48 actors of English sentences in eight emotions at three levels of intensity, filmed from seven sides.

Any part of it. For each actor, as the archives `video.tar` and `audio.tar` in the actors' folders unpack::

    M003/video/VIEW/EMOTION/level_N/NNN.mp4    1920x1080, 30 frames a second, usually with sound
    M003/audio/EMOTION/level_N/NNN.m4a         the same sound; used where a recording has none

    M003      actor; M man, W woman
    VIEW      front left_30 left_60 right_30 right_60 top down
    EMOTION   angry contempt disgusted fear happy neutral sad surprised
    level_N   intensity, level_1 to level_3; neutral has level_1 only
    NNN       sentence, for each emotion and level numbered anew

The clip id is `M003_VIEW_EMOTION_N_NNN`, whatever the views; `clips.jsonl` has the path. Option `views`: `front`, or
several, such as `front,left_30`, or `all`; the sides of one utterance are several clips of the same speaker.

Known gaps: the actors W014, W017 and W032 are incomplete, M041_sad_level_2 lacks the sound of 020 to 023, and
M022_surprised_level_3, W019_surprised_level_3, W033_sad_level_1 and W037_happy_level_3 are irregular. What is
missing is not listed, because no inventory of the corpus is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, CorpusError, CorpusNotFoundError, Scan
from builder.datasets.checks import corpus_folder, is_media, list_folders, visible_files
from manifests.corpora import CORPORA
from manifests.schema import Clip

VIEWS = ("front", "left_30", "left_60", "right_30", "right_60", "top", "down")
EMOTIONS = ("angry", "contempt", "disgusted", "fear", "happy", "neutral", "sad", "surprised")

_LAYOUT = "M003/video/front/angry/level_1/001.mp4 ... (unpack the archives video.tar of the actors)"
_RECORDING = re.compile(rf"({'|'.join(EMOTIONS)})/level_([123])/(\d{{3}})\.mp4")


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Recordings of the chosen views in the corpus folder, `root` or the only one in it."""
    views = _parse_views(options.get("views", VIEWS[0]))
    folder = corpus_folder(root, lambda path: bool(_list_actors(path)), _LAYOUT)
    sources: list[ClipSource] = []
    ignored: list[tuple[str, str]] = []
    for actor in _list_actors(folder):
        sounds = {path for path in visible_files(folder / actor / "audio", 3) if path.suffix == ".m4a"}
        for video in list_folders(folder / actor / "video"):
            if video.name not in views:  # its recordings are not listed: there may be hundreds of thousands
                why = "a view that OPTION=views= does not choose" if video.name in VIEWS else "not a view of MEAD"
                ignored.append((f"{actor}/video/{video.name}", why))
                continue
            for path in visible_files(video, 3):
                if found := _RECORDING.fullmatch("/".join(path.parts[-3:])):
                    sources.append(_source(folder / actor, video.name, path, found, sounds))
                elif is_media(path):
                    ignored.append((path.relative_to(folder).as_posix(), "not the name of a recording of MEAD"))
    if not sources:
        raise CorpusNotFoundError(f"found no recording of {', '.join(views)}; expected {_LAYOUT}")
    return Scan(root=folder, sources=tuple(sources), ignored=tuple(ignored))


def _source(actor: Path, view: str, video: Path, found: re.Match[str], sounds: set[Path]) -> ClipSource:
    emotion, level, sentence = found.groups()
    sound = actor / "audio" / emotion / f"level_{level}" / f"{sentence}.m4a"
    return ClipSource(
        clip=Clip(
            clip_id=f"{actor.name}_{view}_{emotion}_{level}_{sentence}",
            speaker=actor.name,
            emotion=emotion,
            intensity=f"level_{level}",
        ),
        video=video,
        sound=sound if sound in sounds else None,
    )


def _parse_views(text: str) -> tuple[str, ...]:
    """`front,top` -> views. Raises CorpusError."""
    names = VIEWS if text == "all" else tuple(dict.fromkeys(text.replace(",", " ").split()))
    if not names or not set(names) <= set(VIEWS):
        raise CorpusError(f"mead: option views is {text[:80]!r}; valid are: all, or some of {', '.join(VIEWS)}")
    return names


def _list_actors(folder: Path) -> list[str]:
    """Names of the actors' folders, sorted."""
    return sorted(path.parent.name for path in folder.glob("[MW][0-9][0-9][0-9]/video"))


CORPUS = Corpus(
    name="mead",
    title="MEAD: Multi-view Emotional Audio-visual Dataset",
    homepage="https://wywu.github.io/projects/MEAD/MEAD.html",
    citation=(
        "Wang K, Wu Q, Song L, Yang Z, Wu W, Qian C, He R, Qiao Y, Loy CC (2020) MEAD: A Large-scale Audio-visual "
        "Dataset for Emotional Talking-face Generation. ECCV 2020: 700-717. doi:10.1007/978-3-030-58589-1_42"
    ),
    facts=CORPORA["mead"],
    scan=scan,
    options={"views": ()},
    how_to_get=(
        "follow the link to the data on https://wywu.github.io/projects/MEAD/MEAD.html, unpack video.tar and audio.tar "
        "in the actors' folders, and set DATA= to the folder with M003 ... W040; any part will do"
    ),
    shards_gb=12.0,
)
