"""What a trained classifier must be used with: kept in its `config.json`, so that an export needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from manifests.records import SchemaError, from_json
from manifests.schema import dump_json
from train.data.transforms import NormalizationStats
from train.models.checkpoint_formats import WeightsError
from train.runs import Run

#: Settings of a build that change what a clip looks like to a classifier.
_LOOKS = ("timeline", "step_frames", "align")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a classifier comes from."""

    run: Run
    standardisation: NormalizationStats
    """Of the training shards."""
    build: Mapping[str, Any]
    """Settings that the training shards were built with."""
    about: Mapping[str, Any]
    """Title, licence and citation of the corpus."""
    mapping: Mapping[str, str]
    """Raw emotion -> class."""
    seen: tuple[str, ...]
    """Speakers it was trained on or chosen by."""

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which `from_json` makes the same again."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_json(cls, value: object, where: str) -> Provenance:
        """Raises WeightsError, beginning with `where`, for a classifier that does not tell."""
        try:
            told: Provenance = from_json(cls, value, where)
        except SchemaError as error:
            raise WeightsError(f"{error}; it was made by another version: train or export it again") from error
        return told

    def differences(self, build: Mapping[str, Any]) -> list[str]:
        """How clips of another build look different to the classifier, a line each."""
        step = self.build.get("timeline") == "fixed"
        names = [name for name in _LOOKS if name != "step_frames" or step]
        return [
            f"{name} {build.get(name)!r}, trained with {self.build.get(name)!r}"
            for name in names
            if dump_json(build.get(name)) != dump_json(self.build.get(name))
        ]
