"""What weights descend from: where they began, and every training since, with its corpus, speakers and labels.

Each weights file that this project writes has its lineage in its metadata, so that it cannot be separated from it. A
test fold with a speaker of the lineage would measure memory: `prepare` refuses it.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast, get_args

from manifests.corpora import OWN, dataset_setting
from manifests.index import Row
from manifests.records import from_json

#: Whether the labels of a training were used: `unknown` where nothing says so.
Supervision = Literal["random", "self-supervised", "supervised", "unknown"]

#: Key of the lineage in the metadata of a safetensors file.
METADATA_KEY = "lineage"
#: Recordings that a lineage remembers of a training: all of corpora up to the size of VoxCeleb2, in 12 MB, and of
#: larger ones those with the smallest hashes, so that whoever is tested on any of these is found.
MAX_RECORDINGS = 1_200_000
_DIGITS = 10  # of each hash: two recordings of a million have the same ones with a probability of 1e-6


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One training of this project that weights descend from."""

    dataset: str
    speakers: tuple[str, ...]
    """Its training and validation speakers, sorted; these too where no epoch was selected by them."""
    labels: str | None
    """Label scheme; None if no labels were used."""
    strategy: str
    build: str
    """How clips looked, see `provenance.describe_appearance`."""
    licence: str
    """Of the recordings."""
    recordings: str = ""
    """`sketch_recordings` of all clips of these speakers."""
    corpora: int = 1
    """Corpora of the training, which is an ancestor for each of them, one after another."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Origin of weights and all trainings since."""

    origin: str = "random weights"
    """Random weights, or the published checkpoint and its data."""
    supervision: str = "random"
    """A `Supervision`, of the origin."""
    crop: str | None = None
    """Crop profile of the faces that the origin was trained on; None if it is unknown, or not of faces."""
    ancestors: tuple[Ancestor, ...] = ()
    """Oldest first."""

    def __post_init__(self) -> None:
        if self.supervision not in get_args(Supervision):
            raise ValueError(f"supervision: found {self.supervision!r}, expected {', '.join(get_args(Supervision))}")

    def speakers(self, dataset: str) -> frozenset[str]:
        """Speakers of a corpus that any training has seen.

        Different corpora of one's own may have one name, that of their folders: `known_speakers` tells them apart.
        """
        own = dataset_setting(dataset) == OWN
        same = (each for each in self.ancestors if each.dataset == dataset and not (own and each.recordings))
        return frozenset(name for each in same for name in each.speakers)

    def known_speakers(self, dataset: str, rows: Iterable[Row]) -> frozenset[str]:
        """Speakers of a corpus whom any training has seen: by name, or by a recording, whatever the corpus was called.

        `rows` are those of its index, which are only read if a training remembers its recordings. A corpus of one's own
        is the one of a training if both have the same name and a common recording: then names count. A recording of
        it tells nothing about its other speakers, unless it has none of these names, as after renaming them.
        """
        recordings = [_split_sketch(each.recordings) for each in self.ancestors]
        speakers = _speakers_of(frozenset().union(*recordings), rows)
        own, seen = dataset_setting(dataset) == OWN, set(self.speakers(dataset))
        for ancestor, remembered in zip(self.ancestors, recordings, strict=True):
            common = [names for recording, names in speakers.items() if recording in remembered]
            named = {*ancestor.speakers} if own and common and ancestor.dataset == dataset else set()
            seen |= named.union(*(names for names in common if named.isdisjoint(names)))
        return frozenset(seen)

    def after(self, ancestor: Ancestor) -> Lineage:
        """The lineage of what a training makes of these weights."""
        return replace(self, ancestors=(*self.ancestors, ancestor))

    @property
    def kind(self) -> Supervision:
        """Whether labels were used in any training so far."""
        if any(each.labels is not None for each in self.ancestors):
            return "supervised"
        if self.supervision == "random" and self.ancestors:
            return "self-supervised"
        return cast(Supervision, self.supervision)

    def __str__(self) -> str:
        """In words, such as "VideoMAE, self-supervised on Kinetics-400, then supervised on crema-d and ravdess"."""
        words, rest = [self.origin], self.ancestors
        while rest:
            count = max(rest[0].corpora, 1)
            training, rest = rest[:count], rest[count:]
            kind = "self-supervised" if training[0].labels is None else "supervised"
            words.append(f"{kind} on {' and '.join(each.dataset for each in training)}")
        return ", then ".join(dict.fromkeys(words))

    def dump(self) -> str:
        """JSON text, for `parse_lineage`."""
        return json.dumps(asdict(self), sort_keys=True)


def sketch_recordings(recordings: Iterable[str | None]) -> str:
    """The beginnings of SHA-256 hashes, sorted, in one text; of more than `MAX_RECORDINGS` the smallest ones."""
    return "".join(heapq.nsmallest(MAX_RECORDINGS, {recording[:_DIGITS] for recording in recordings if recording}))


def _split_sketch(sketch: str) -> frozenset[str]:
    """The beginnings of hashes in a text of `sketch_recordings`."""
    return frozenset(sketch[at : at + _DIGITS] for at in range(0, len(sketch), _DIGITS))


def _speakers_of(recordings: frozenset[str], rows: Iterable[Row]) -> dict[str, set[str]]:
    """Recording, of some, by the beginning of its hash -> its speakers; `rows` are not read without recordings."""
    speakers: dict[str, set[str]] = {}
    for row in rows if recordings else ():
        if row.sha256 and row.sha256[:_DIGITS] in recordings:
            speakers.setdefault(row.sha256[:_DIGITS], set()).add(row.speaker)
    return speakers


#: Of weights that nothing was trained into yet.
RANDOM = Lineage()


def parse_lineage(text: str, where: str) -> Lineage:
    """Lineage from JSON text. Raises SchemaError, beginning with `where`, for anything else, ValueError."""
    lineage: Lineage = from_json(Lineage, json.loads(text), where)
    return lineage
