"""From a configuration to all that a training needs, checked before anything is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from manifests import folds, index
from manifests.fetch import fetch_command
from manifests.folds import FoldSides, read_fold_file
from manifests.index import FoldSelection
from manifests.labels import LabelScheme
from train import data
from train.config import TrainConfig
from train.data import Check, Clips, Folder
from train.fusion import Strategy, strategy_named
from train.imaging import Imaging, Standardisation
from train.models.videomae import ENCODERS, Classifier, EncoderConfig
from train.models.weights import Weights, load_weights, start_from
from train.supply import Supply

SIDES = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A fold of a folder of shards, every shard of it as promised."""

    folder: Folder
    strategy: Strategy
    scheme: LabelScheme
    fold_scheme: str
    folds: tuple[str, ...]
    """All folds of the scheme."""
    sides: FoldSides
    members: tuple[str, ...]
    """What the strategy reads of a clip."""
    training: Clips
    """Clips of the training side."""
    supply: Supply
    """Shards of the sides that are here, on their way to being read."""

    @property
    def name(self) -> str:
        """The corpus's."""
        return self.folder.dataset.dataset

    @property
    def sha256(self) -> str:
        """Of all shards, whatever the fold."""
        shards = self.folder.dataset.shards
        return hashlib.sha256("".join(sorted(shard.sha256 for shard in shards)).encode()).hexdigest()

    @property
    def has_test(self) -> bool:
        """Whether the test side is here; of a folder that was fetched in part it may not be."""
        return not self.folder.lacks([self.sides["test"]])

    @property
    def standardisation(self) -> Standardisation:
        """Of the training shards."""
        sums = self.training.statistics
        return Standardisation.of(sums) if sums else Standardisation(mean=(), std=())

    def clips(self, side: str) -> Clips:
        """Clips of `train`, `validation` or `test`. Raises DataError."""
        if side == "train":
            return self.training
        return data.load_clips(self.folder, self.sides[side], self.scheme, self.members)


def open_corpus(config: TrainConfig) -> Corpus:
    """See to it that what is needed of the fold is there, and not against its labels; nothing is decoded.

    Raises DataError, FoldError, LabelError, ManifestError or StoreError for what cannot be trained on.
    """
    folder = data.open_folder(config.shards)
    sides = data.fold_sides(folder, config.fold, config.fold_scheme)
    emotions = sorted({emotion for side in SIDES for emotion in sides[side].clips})
    strategy = strategy_named(config.strategy)
    members = data.members_for(folder.dataset, strategy, config.feature)
    _check_here(folder, sides, config)
    scheme = data.choose_labels(folder.dataset, config.label_scheme, emotions)
    needed = [name for side in SIDES for name in sides[side].shards if name in folder.here]
    return Corpus(
        folder=folder,
        strategy=strategy,
        scheme=scheme,
        fold_scheme=data.fold_scheme(folder, config.fold_scheme),
        folds=fold_names(folder, config.fold_scheme),
        sides=sides,
        members=members,
        training=data.load_clips(folder, sides["train"], scheme, members),
        supply=data.supply(folder, needed, cast(Check, config.check)),
    )


def fetch_line(folder: Folder, config: TrainConfig, split: str) -> str:
    """The command that brings what is not here of a fold."""
    scheme = data.fold_scheme(folder, config.fold_scheme)
    return fetch_command(
        folder.source, folder.path, FoldSelection(scheme=scheme, fold=config.fold, sides=folds.SPLITS[split])
    )


def _check_here(folder: Folder, sides: FoldSides, config: TrainConfig) -> None:
    """Raise DataError unless the fold can be trained on."""
    wanted = [sides[side] for side in folds.SPLITS["train"]]
    absent = folder.lacks(wanted)
    if absent:
        of = sum(len(side.shards) for side in wanted)
        raise data.DataError(
            f"{folder.path}: of {of} training and validation shards of fold {config.fold} found {of - len(absent)}; "
            f"fetch the rest: {fetch_line(folder, config, 'train')}"
        )


def fold_names(folder: Folder, scheme: str | None = None) -> tuple[str, ...]:
    """All folds of a scheme, the corpus's default if none is named. Raises FoldError for an unknown one."""
    name = data.fold_scheme(folder, scheme)
    path = folder.path / index.FOLDS / f"{name}.json"
    speakers = {shard.name: shard.speaker for shard in folder.dataset.shards}
    return tuple(read_fold_file(path.read_bytes(), speakers, str(path)).folds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """A classifier before training, and what is known of its weights."""

    model: Classifier
    licence: str


def make_classifier(config: TrainConfig, classes: int) -> Start:
    """A classifier on the CPU, from weights or at random; the same for the same seed. Raises WeightsError."""
    recipe, wanted = config.recipe, ENCODERS[config.encoder]
    weights = load_weights(config.weights, wanted) if config.weights else None
    encoder = weights.config if weights else wanted
    torch.manual_seed(config.seed)
    model = Classifier(encoder, classes, drop_rate=recipe.drop_path, checkpointing=recipe.checkpointing)
    if weights:
        start_from(model, weights)
    if recipe.frozen:
        model.freeze_encoder()
    return Start(model=model, licence=_licence(weights))


def make_imaging(config: TrainConfig, corpus: Corpus, encoder: EncoderConfig) -> Imaging:
    """How this run's batches become input."""
    return Imaging(
        strategy=corpus.strategy,
        classes=len(corpus.scheme.classes),
        feature=config.feature,
        standardisation=corpus.standardisation,
        input_range=encoder.input_range,
        augmentation=config.recipe.augmentation,
        seed=config.seed,
    )


def only_folder(root: Path) -> Path:
    """The only corpus built in a folder of corpora. Raises DataError that lists what is there where there is no one."""
    found = _corpora(root)
    if len(found) != 1:
        raise data.DataError(f"{root}: {_told(found)}")
    return found[0]


def corpus_folder(root: Path, name: str) -> Path:
    """A corpus by name in a folder of corpora. Raises DataError that lists what is there where it is not."""
    if not (root / name).is_dir():
        raise data.DataError(f"{root / name}: not there; {_told(_corpora(root))}")
    return root / name


def _corpora(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob(f"*/{index.DATASET_FILE}"))


def _told(found: Sequence[Path]) -> str:
    """What is to be done about what was found."""
    if not found:
        return "found no shards of any corpus; make shards builds them, make fetch brings them"
    return f"found shards of {', '.join(path.name for path in found)}; choose by DATASET= (--dataset)"


def _licence(weights: Weights | None) -> str:
    return weights.licence if weights else "this project's own"
