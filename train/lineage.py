"""What weights descend from: where they began, and every training since, with its corpus, speakers and labels.

Each weights file that this project writes has its lineage in its metadata, so that it cannot be separated from it. A
test fold with a speaker of the lineage would measure memory: `prepare` refuses it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

from manifests.records import from_json

#: Whether the labels of a training were used: `unknown` where nothing says so.
Supervision = Literal["random", "self-supervised", "supervised", "unknown"]

#: Key of the lineage in the metadata of a safetensors file.
METADATA_KEY = "lineage"


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One training of this project that weights descend from."""

    dataset: str
    speakers: tuple[str, ...]
    """Speakers it was trained, or its epoch was selected, on; sorted."""
    labels: str | None
    """Label scheme; None if no labels were used."""
    strategy: str
    build: str
    """How clips looked, see `provenance.describe_build`."""
    licence: str
    """Of the recordings."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Origin of weights and all trainings since."""

    origin: str = "random weights"
    """Random weights, or the published checkpoint and its data."""
    supervision: str = "random"
    """A `Supervision`, of the origin."""
    ancestors: tuple[Ancestor, ...] = ()
    """Oldest first."""

    def __post_init__(self) -> None:
        if self.supervision not in get_args(Supervision):
            raise ValueError(f"supervision: found {self.supervision!r}, expected {', '.join(get_args(Supervision))}")

    def speakers(self, dataset: str) -> frozenset[str]:
        """Speakers of a corpus that any training has seen."""
        return frozenset(name for each in self.ancestors if each.dataset == dataset for name in each.speakers)

    def after(self, ancestor: Ancestor) -> Lineage:
        """The lineage of what a training makes of these weights."""
        return Lineage(origin=self.origin, supervision=self.supervision, ancestors=(*self.ancestors, ancestor))

    @property
    def kind(self) -> Supervision:
        """Whether labels were used in any training so far."""
        if any(each.labels is not None for each in self.ancestors):
            return "supervised"
        if self.supervision == "random" and self.ancestors:
            return "self-supervised"
        return cast(Supervision, self.supervision)

    def __str__(self) -> str:
        """In words, such as "VideoMAE, self-supervised on Kinetics-400, then supervised on ravdess"."""
        trainings = [
            f"{'self-supervised' if each.labels is None else 'supervised'} on {each.dataset}" for each in self.ancestors
        ]
        return ", then ".join(dict.fromkeys([self.origin, *trainings]))

    def dump(self) -> str:
        """JSON text, for `parse_lineage`."""
        return json.dumps(asdict(self), sort_keys=True)


#: Of weights that nothing was trained into yet.
RANDOM = Lineage()


def parse_lineage(text: str, where: str) -> Lineage:
    """Lineage from JSON text. Raises SchemaError, beginning with `where`, for anything else, ValueError."""
    lineage: Lineage = from_json(Lineage, json.loads(text), where)
    return lineage
