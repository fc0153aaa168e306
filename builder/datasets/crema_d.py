"""CREMA-D: 7,442 clips of 91 actors, each speaking one of twelve sentences in one of six emotions.

`VideoFlash/*.flv` have picture and sound; `AudioWAV/*.wav` (16 kHz mono) are used where a recording has no
sound. File names::

    ACTOR_SENTENCE_EMOTION_LEVEL
    ACTOR     1001..1091
    SENTENCE  DFA IEO IOM ITH ITS IWL IWW MTI TAI TIE TSI WSI
    EMOTION   ANG DIS FEA HAP NEU SAD, as acted
    LEVEL     XX unspecified, LO, MD, HI

The clip id is the name without suffix. `inventory/crema-d.csv` lists every clip, the hashes of its files
and the crowd's vote; `inventory/crema-d-defects.json` lists known defects and where they are documented.

Option `labels`: `acted`, the emotion in the name (as in the published counts), or `voted`, the crowd's vote
on picture and sound together; clips with a tied vote are then left out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, Remote, RemoteFile, Scan
from builder.datasets.checks import corpus_folder, is_media, visible_files
from manifests.corpora import CORPORA
from manifests.schema import Clip

LABELS = ("acted", "voted")

#: Lists of the published files and of their defects.
INVENTORY = Path(__file__).parent / "inventory"

#: The commit that the inventory lists. Its recordings are in Git LFS, which this address resolves.
_REPOSITORY = "media/CheyneyComputerScience/CREMA-D/1658cd342dff90010aa843eaeebd53610a08b1dc"
_VOTES = {"A": "ANG", "D": "DIS", "F": "FEA", "H": "HAP", "N": "NEU", "S": "SAD"}
_LAYOUT = "VideoFlash/*.flv and, as a fallback for the sound, AudioWAV/*.wav"


@dataclass(frozen=True, kw_only=True)
class InventoryRow:
    """A clip in the corpus's inventory; hashes and sizes are those of the published files."""

    clip: str
    flv_sha256: str
    flv_bytes: int
    wav_sha256: str
    wav_bytes: int
    vote: str
    """Letters of the emotions with the most votes on picture and sound together, joined by `:` if tied."""

    @property
    def acted(self) -> str:
        """Raw emotion that the actor was instructed to show."""
        return self.clip.split("_")[2]

    @property
    def voted(self) -> str | None:
        """Raw emotion that the crowd recognized; None if the vote is tied."""
        return _VOTES.get(self.vote)


@dataclass(frozen=True, kw_only=True)
class Defects:
    """Known defects of the published files."""

    source: str
    note: str
    unusable: Mapping[str, str]
    """Clip id -> reason."""
    flags: Mapping[str, tuple[str, ...]]
    """Clip id -> keys of `manifests.schema.FLAGS`."""
    older_wav_names: Mapping[str, str]
    """Name of a WAV in older copies of the corpus, without suffix -> clip id."""


def inventory() -> Mapping[str, InventoryRow]:
    """Clip id -> row, for the complete corpus."""
    return _read_inventory(INVENTORY / "crema-d.csv")


@cache
def _read_inventory(path: Path) -> Mapping[str, InventoryRow]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            InventoryRow(
                clip=row["clip"],
                flv_sha256=row["flv_sha256"],
                flv_bytes=int(row["flv_size"]),
                wav_sha256=row["wav_sha256"],
                wav_bytes=int(row["wav_size"]),
                vote=row["vote"],
            )
            for row in csv.DictReader(file)
        ]
    return {row.clip: row for row in rows}


def defects() -> Defects:
    """Known defects of the corpus."""
    data = json.loads((INVENTORY / "crema-d-defects.json").read_text(encoding="utf-8"))
    flags = {clip: tuple(names) for clip, names in data.pop("flags").items()}
    return Defects(flags=flags, **data)


def remote_files() -> tuple[RemoteFile, ...]:
    """Every recording, and the separate WAVs, which only the few recordings without sound need."""
    rows = inventory().values()
    videos = [RemoteFile(name=f"VideoFlash/{row.clip}.flv", bytes=row.flv_bytes, sha256=row.flv_sha256) for row in rows]
    sounds = [
        RemoteFile(name=f"AudioWAV/{row.clip}.wav", bytes=row.wav_bytes, sha256=row.wav_sha256, needed=False)
        for row in rows
    ]
    return (*videos, *sounds)


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Clips of the inventory in the corpus folder, `root` or the only one in it."""
    folder = corpus_folder(root, lambda path: (path / "VideoFlash").is_dir(), _LAYOUT)
    known = inventory()
    voted = options.get("labels", LABELS[0]) == "voted"
    emotions = {clip: row.voted if voted else row.acted for clip, row in known.items()}
    labelled = {clip: emotion for clip, emotion in emotions.items() if emotion is not None}
    flaws = defects()
    wavs = [path for path in visible_files(folder / "AudioWAV", 1) if path.suffix.lower() == ".wav"]
    sounds = {flaws.older_wav_names.get(path.stem, path.stem): path for path in wavs}
    videos = [path for path in visible_files(folder / "VideoFlash", 1) if is_media(path)]
    used = {path for path in videos if path.stem in labelled and _is_flv(path)}
    ignored = [path for path in videos if path not in used]
    return Scan(
        root=folder,
        sources=tuple(_source(path, labelled[path.stem], sounds.get(path.stem), flaws) for path in sorted(used)),
        missing=_missing(folder, known, videos, sounds),
        ignored=tuple((path.relative_to(folder).as_posix(), _why_not(path, known)) for path in ignored),
        expected_clips=len(labelled),
    )


def _is_flv(path: Path) -> bool:
    return path.suffix.lower() == ".flv"


def _source(video: Path, emotion: str, sound: Path | None, flaws: Defects) -> ClipSource:
    actor, sentence, _, level = video.stem.split("_")
    return ClipSource(
        clip=Clip(clip_id=video.stem, speaker=actor, emotion=emotion, intensity=level, sentence=sentence),
        video=video,
        sound=sound,
        known_defect=flaws.unusable.get(video.stem),
        known_flags=flaws.flags.get(video.stem, ()),
    )


def _missing(
    folder: Path, known: Mapping[str, InventoryRow], videos: list[Path], sounds: Mapping[str, Path]
) -> tuple[str, ...]:
    """Files of the inventory that are missing; WAVs count only if their folder exists."""
    flvs = known.keys() - {path.stem for path in videos if _is_flv(path)}
    wavs = known.keys() - sounds.keys() if (folder / "AudioWAV").is_dir() else set()
    return tuple(sorted([f"VideoFlash/{clip}.flv" for clip in flvs] + [f"AudioWAV/{clip}.wav" for clip in wavs]))


def _why_not(path: Path, known: Mapping[str, InventoryRow]) -> str:
    if path.stem in known and _is_flv(path):
        return f"the crowd's vote is tied: {known[path.stem].vote}"
    return "not in the inventory of CREMA-D"


CORPUS = Corpus(
    name="crema-d",
    title="CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    citation=(
        "Cao H, Cooper DG, Keutmann MK, Gur RC, Nenkova A, Verma R (2014) CREMA-D: Crowd-sourced Emotional Multimodal "
        "Actors Dataset. IEEE Transactions on Affective Computing 5(4): 377-390. doi:10.1109/TAFFC.2014.2336244"
    ),
    facts=CORPORA["crema-d"],
    scan=scan,
    options={"labels": LABELS},
    remote=Remote(
        address="https://media.githubusercontent.com",
        folder=_REPOSITORY,
        files=remote_files,
        lfs_mirror="https://gitlab.com/cs-cooper-lab/crema-d-mirror.git",
    ),
    shards_gb=5.0,
)
