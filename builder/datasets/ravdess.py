"""RAVDESS, the speech videos with sound: 1,440 clips, 24 actors.

One folder `Actor_NN` per actor, as the archives `Video_Speech_Actor_NN.zip` unpack. File names::

    MM-CC-EE-II-SS-RR-AA.mp4
    MM  modality    01 picture and sound, 02 picture only, 03 sound only; only 01 is used
    CC  channel     01 speech, 02 song; only 01 is used
    EE  emotion     01 neutral, 02 calm, 03 happy, 04 sad, 05 angry, 06 fearful, 07 disgust, 08 surprised
    II  intensity   01 normal, 02 strong; neutral is never strong
    SS  statement   01 "Kids are talking by the door", 02 "Dogs are sitting by the door"
    RR  repetition  01, 02
    AA  actor       01..24; odd ones are male

This makes 60 clips per actor: 4 neutral and 8 of each other emotion. The clip id is the name without suffix.
`inventory/ravdess.csv` lists the archives; their checksums are in the Zenodo record.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, CorpusNotFoundError, Remote, RemoteFile, Scan
from builder.datasets.checks import is_media, visible_files
from manifests.corpora import CORPORA
from manifests.schema import Clip

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
REPETITIONS = ("01", "02")
ACTORS = tuple(f"{number:02d}" for number in range(1, 25))

#: List of the published archives.
INVENTORY = Path(__file__).parent / "inventory"

_RECORD = "records/1188976"
_LAYOUT = "Actor_01 ... Actor_24 with 01-01-*.mp4 (unpack the archives Video_Speech_Actor_NN.zip)"
_DEPTH = 4  # <parent>/<corpus>/Video_Speech_Actor_NN/Actor_NN/<file>, one more than needed from the corpus itself


def inventory() -> dict[str, Clip]:
    """Clip id -> clip, for every name the grammar allows: the complete corpus."""
    clips = {}
    for code in product(EMOTIONS, INTENSITIES, STATEMENTS, REPETITIONS, ACTORS):
        emotion, intensity, statement, _, actor = code
        if (emotion, intensity) != ("01", "02"):
            clip_id = "-".join(("01", "01", *code))
            clips[clip_id] = Clip(
                clip_id=clip_id,
                speaker=actor,
                emotion=EMOTIONS[emotion],
                intensity=INTENSITIES[intensity],
                sentence=STATEMENTS[statement],
            )
    return clips


def remote_files() -> tuple[RemoteFile, ...]:
    """The archives of the speech videos, one per actor. Half of their files have no sound and are ignored."""
    with (INVENTORY / "ravdess.csv").open(encoding="utf-8", newline="") as file:
        sizes = {row["archive"]: int(row["size"]) for row in csv.DictReader(file)}
    known = inventory()
    return tuple(
        RemoteFile(
            name=f"Video_Speech_Actor_{actor}.zip",
            bytes=sizes[f"Video_Speech_Actor_{actor}.zip"],
            members=tuple(_path(clip_id) for clip_id in known if clip_id.endswith(f"-{actor}")),
        )
        for actor in ACTORS
    )


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Every speech video with sound below `root`, which is the corpus folder or its parent."""
    del options  # the corpus has none
    known = inventory()
    media = [path for path in visible_files(root, _DEPTH) if is_media(path)]
    used = {path for path in media if path.stem in known and path.suffix.lower() == ".mp4"}
    if not used:
        raise CorpusNotFoundError(f"found no speech video of RAVDESS; expected {_LAYOUT}")
    absent = known.keys() - {path.stem for path in used}
    return Scan(
        sources=tuple(ClipSource(clip=known[path.stem], video=path) for path in sorted(used)),
        missing=tuple(sorted(map(_path, absent))),
        ignored=tuple((path.relative_to(root).as_posix(), _why_not(path)) for path in media if path not in used),
        expected_clips=len(known),
    )


def _path(clip_id: str) -> str:
    return f"Actor_{clip_id[-2:]}/{clip_id}.mp4"


def _why_not(path: Path) -> str:
    match path.stem.split("-"):
        case ["02", _, _, _, _, _, _]:
            return "picture only"
        case ["03", _, _, _, _, _, _]:
            return "sound only"
        case ["01", "02", _, _, _, _, _]:
            return "song, not speech"
    return "not the name of a RAVDESS speech video"


CORPUS = Corpus(
    name="ravdess",
    title="RAVDESS: Ryerson Audio-Visual Database of Emotional Speech and Song (speech)",
    homepage="https://zenodo.org/records/1188976",
    citation=(
        "Livingstone SR, Russo FA (2018) The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS): "
        "A dynamic, multimodal set of facial and vocal expressions in North American English. "
        "PLoS ONE 13(5): e0196391. doi:10.1371/journal.pone.0196391"
    ),
    facts=CORPORA["ravdess"],
    scan=scan,
    remote=Remote(address="https://zenodo.org", folder=f"{_RECORD}/files", record=f"api/{_RECORD}", files=remote_files),
    shards_gb=2.0,
)
