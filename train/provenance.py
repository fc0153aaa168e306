"""What a classifier was trained on, and how: stored in its `config.json`, so that an export is self-contained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manifests.records import SchemaError, from_json
from manifests.text import config_diff
from train.data.transforms import NormalizationStats
from train.models.checkpoint_formats import WeightsError
from train.runs import Run


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a classifier was trained on, and how. It must be used in the same way: see `diff_build`."""

    run: Run
    normalization: NormalizationStats
    """Statistics of the training shards."""
    build: Mapping[str, Any]
    """Settings that the training shards were built with."""
    about: Mapping[str, Any]
    """Title, licence and citation of the corpus."""
    mapping: Mapping[str, str]
    """Raw emotion -> class."""
    seen_speakers: tuple[str, ...]
    """Speakers it was trained or its epoch was selected on."""

    @classmethod
    def from_json(cls, value: object, where: str) -> Provenance:
        """Raises WeightsError, beginning with `where`, for a classifier without provenance of this version."""
        try:
            return from_json(cls, value, where)
        except SchemaError as error:
            raise WeightsError(f"{error}; another version wrote it: train or export it again") from error

    def diff_build(self, build: Mapping[str, Any]) -> list[str]:
        """Settings that make clips of another build look different to the classifier, a line each."""
        names = ["timeline", "align", *(["step_frames"] if self.build.get("timeline") == "fixed" else [])]
        trained, given = ({name: settings.get(name) for name in names} for settings in (self.build, build))
        return config_diff(trained, given)
