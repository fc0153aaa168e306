"""What a classifier was trained on, and how: stored in its `config.json`, so that an export is self-contained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifests.records import SchemaError, from_json
from manifests.schema import CROP_PX, FEATURE_ROWS, spectrogram_shape
from manifests.several import corpus_of, join_names, name_within, qualify
from manifests.text import config_diff, shorten_list
from train.data.corpora import UNNAMED_CROP as UNNAMED_CROP
from train.data.corpora import appearance
from train.data.fold_data import FoldPart
from train.data.transforms import NormalizationStats
from train.fusion import strategy_named
from train.models.checkpoint_formats import WeightsError
from train.own_code import check_sha256, load_code, load_strategy
from train.runs import Run


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a classifier was trained on, and how. It must be used in the same way: see `diff_build`."""

    run: Run
    normalization: NormalizationStats
    """Statistics of the training shards."""
    build: Mapping[str, Any]
    """Settings that the training shards were built with: see `build_of`."""
    about: Mapping[str, Any]
    """Title, licence and citation of the corpus."""
    mapping: Mapping[str, str]
    """Raw emotion -> class; of several corpora `crema-d/HAP` -> class. See `mapping_of`."""
    test_flip: bool
    """Of the recipe, as the next two: the views that the test fold was evaluated by."""
    test_crops: int
    test_crop_side: float
    window_seconds: float = 0.0
    """Of the recipe, as the next: 0 and 1 for classifiers that are older, or of pairs."""
    test_windows: int = 1
    strategy_path: str = ""
    """Import path of a strategy of one's own, as the next; "" for a built-in one."""
    strategy_sha256: str = ""
    """Of its file."""
    tokenizer: str = ""
    """SHA-256 of the tokenizers whose codes it classifies; "" for a classifier of pictures."""

    @classmethod
    def from_json(cls, value: object, where: str) -> Provenance:
        """Raises WeightsError, beginning with `where`, for a classifier without provenance of this version."""
        try:
            return from_json(cls, value, where)
        except SchemaError as error:
            raise WeightsError(f"{error}; another version wrote it: train or export it again") from error

    def check(self, classes: Sequence[str], where: str) -> None:
        """Raise WeightsError, beginning with `where`, for values that do not fit a classifier of these classes."""
        protocol, features = self.run.protocol, self.build.get("features")
        strategy = strategy_named(self.run.strategy)
        windows = 0 if strategy.tokens else strategy.windows  # codes have no statistics
        rows = spectrogram_shape(f"{protocol.feature}_{windows}")[1] if windows else 0
        expected = [
            ("run.protocol.classes", protocol.classes, tuple(classes)),
            ("mapping", {*self.mapping.values()} - {*classes}, set()),
            ("build.features", isinstance(features, list) and {*map(str, features)} <= {*FEATURE_ROWS}, True),
            ("normalization.mean", len(self.normalization.mean), rows),
            ("normalization.std", len(self.normalization.std), rows),
            ("normalization.std", min(self.normalization.std, default=1.0) > 0, True),
        ]
        for name, found, wanted in expected:
            if found != wanted:
                raise WeightsError(
                    f"{where}.{name}: found {str(found)[:200]}, expected {str(wanted)[:200]} for classes "
                    f"{shorten_list(classes)} and {self.run.strategy}; train or export it again"
                )

    def load_strategy(self, path: str | None, where: str) -> None:
        """Make a strategy of the user's own known, from code that the user names.

        Raises WeightsError for code that is named for a run without any, or with another strategy, OwnCodeError for
        code that cannot be imported or has changed.
        """
        if path is not None and not self.strategy_path:
            raise WeightsError(f"{where}: found a built-in strategy, expected no --strategy {path}")
        if path is not None:
            check_sha256(load_code(path, "STRATEGY"), self.strategy_sha256, where)
            name = load_strategy(path).name
            if name != self.run.strategy:
                raise WeightsError(
                    f"{where}: was trained with {self.run.strategy}, found {name}; name {self.run.strategy}"
                )

    @property
    def sees_parts(self) -> bool:
        """Whether a test saw a part of a clip, or several, which takes shards with every frame."""
        return self.window_seconds > 0 or self.test_windows > 1

    def diff_build(self, build: Mapping[str, Any]) -> list[str]:
        """Settings that make clips of another build look different to the classifier, a line each.

        Whole clips of shards with every frame look as pairs of the timeline `uniform` do.
        """
        before, after = ({**appearance(each), "size_px": each.get("size_px", CROP_PX)} for each in (self.build, build))
        return config_diff(before, after)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Corpora with a class for their emotions: those of the training and, of a test across corpora, the tested."""
        several = [corpus_of(emotion) for emotion in self.mapping]
        return tuple(dict.fromkeys(several)) if self.run.reads_several else (self.run.dataset,)

    def mapping_of(self, corpus: str) -> dict[str, str]:
        """Raw emotion of one of its corpora -> class."""
        if not self.run.reads_several:
            return dict(self.mapping)
        return {name_within(raw): name for raw, name in self.mapping.items() if corpus_of(raw) == corpus}

    def diff_options(self, corpus: str, build: Mapping[str, Any]) -> list[str]:
        """Options of one of its corpora, such as which sound or labels, that make scores incomparable, a line each."""
        before = dict(self.build.get("options") or {})
        if self.run.reads_several:
            before = {name_within(name): value for name, value in before.items() if corpus_of(name) == corpus}
        return config_diff(before, dict(build.get("options") or {}))


def describe_build(build: Mapping[str, Any]) -> str:
    """Settings of a build that change what clips look like or which labels they have, such as "crop aligned"."""
    options = build.get("options")
    chosen = sorted(options.items()) if isinstance(options, Mapping) else ()
    return ", ".join([describe_appearance(build), *(f"{name} {value}" for name, value in chosen)])


def describe_appearance(build: Mapping[str, Any]) -> str:
    """Settings of a build that change what clips look like, such as "crop aligned, timeline uniform"."""
    return ", ".join(f"{name} {value}" for name, value in appearance(build).items())


def build_of(parts: Sequence[FoldPart]) -> dict[str, Any]:
    """Settings that the shards of a training, and of its test, were built with.

    Of several corpora those that they have in common: their spectrograms, and options as `crema-d/labels`.
    """
    first, *others = (part.folder.index.identity["config"] for part in parts)
    if not others:
        return first
    features = [name for name in first["features"] if all(name in other["features"] for other in others)]
    options = {
        qualify(part.name, name): value
        for part in parts
        for name, value in (part.folder.index.identity["config"].get("options") or {}).items()
    }
    return {**first, "dataset": join_names(part.name for part in parts), "features": features, "options": options}


def about_of(parts: Sequence[FoldPart]) -> dict[str, Any]:
    """Title, licence and citation of a corpus, or of several together."""
    first, *others = (part.folder.index.about for part in parts)
    if not others:
        return dict(first)
    return {
        name: between.join(dict.fromkeys(str(part.folder.index.about.get(name) or part.name) for part in parts))
        for name, between in (("title", " and "), ("licence", "; "), ("citation", "\n"))
    }
