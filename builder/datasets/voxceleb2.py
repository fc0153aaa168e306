"""VoxCeleb2: face tracks of celebrities; 1,092,009 clips of 5,994 speakers to train on, 36,273 of 118 others to test.

Any part of it, without labels. The sound is in the recordings; the folders `aac` of the audio release are not read::

    dev/mp4/idNNNNN/VIDEO/NNNNN.mp4     speaker, video on YouTube (11 characters), track in the video
    test/mp4/idNNNNN/VIDEO/NNNNN.mp4    224x224, 25 frames a second, AAC 16 kHz, 4 to 20 seconds

`mp4` may also be in the folder itself, as the archive of the test part unpacks. The clip id is the path,
`idNNNNN-VIDEO-NNNNN`. A few hundred recordings are damaged: the build drops them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from builder.datasets.base import ClipSource, Corpus, CorpusNotFoundError, Scan
from builder.datasets.checks import corpus_folder, is_media, visible_files
from manifests.corpora import CORPORA
from manifests.schema import Clip

_FOLDERS = ("dev/mp4", "test/mp4", "mp4")
_LAYOUT = "dev/mp4/idNNNNN/VIDEO/NNNNN.mp4 or test/mp4/..., VIDEO of 11 characters, any part of them"
_TRACK = re.compile(r"(?P<speaker>id\d{5})/(?P<video>[A-Za-z0-9_-]{11})/(?P<track>\d{5})\.mp4")
_DEPTH = 3


def scan(root: Path, options: Mapping[str, str]) -> Scan:
    """Every face track in the corpus folder, `root` or the only one in it."""
    del options  # the corpus has none
    folder = corpus_folder(root, lambda path: any((path / name).is_dir() for name in _FOLDERS), _LAYOUT)
    sources: list[ClipSource] = []
    ignored: list[tuple[str, str]] = []
    for part in _FOLDERS:
        start = len(str(folder / part)) + 1
        for path in visible_files(folder / part, _DEPTH):
            found = _TRACK.fullmatch(str(path)[start:])  # as text: there may be a million
            if found:
                clip_id = f"{found['speaker']}-{found['video']}-{found['track']}"
                clip = Clip(clip_id=clip_id, speaker=found["speaker"], emotion=None)
                sources.append(ClipSource(clip=clip, video=path))
            elif is_media(path):
                ignored.append((path.relative_to(folder).as_posix(), "not the name of a face track of VoxCeleb2"))
    if not sources:
        raise CorpusNotFoundError(f"found no face track of VoxCeleb2; expected {_LAYOUT}")
    return Scan(root=folder, sources=tuple(sources), ignored=tuple(ignored))


CORPUS = Corpus(
    name="voxceleb2",
    title="VoxCeleb2: face tracks of celebrities from interviews",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html",
    citation=(
        "Chung JS, Nagrani A, Zisserman A (2018) VoxCeleb2: Deep Speaker Recognition. Interspeech: 1086-1090. "
        "doi:10.21437/Interspeech.2018-1929"
    ),
    facts=CORPORA["voxceleb2"],
    scan=scan,
    how_to_get=(
        "the owners have closed the download; if you have a copy, or a part of one, set DATA= to its folder with "
        "dev/mp4 or test/mp4"
    ),
)
