"""A folder of shards, a fold and a label scheme -> everything that training and testing on the fold read.

Everything is checked before training: no speaker is on two sides of the fold, every side has clips, every emotion has
a class or is left out on purpose.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manifests import labels
from manifests.folds import SIDES, SPLIT_SIDES, FoldFile, FoldSides, Side
from manifests.index import Dataset
from manifests.label_counts import describe_sides
from manifests.labels import LabelScheme
from manifests.schema import UNLABELLED
from manifests.tables import is_table
from manifests.usable import advise_folds, describe_unusable
from train.data import DataError, UnusableFoldError
from train.data.clip_table import ClipTable, concatenate, load_clips, members_for
from train.data.prefetch import ShardPrefetcher
from train.data.shard_folder import Check, ShardFolder, open_folder, open_scheme, prefetch_shards
from train.fusion import Strategy, strategy_named


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """One fold of a folder of shards, with everything that training and testing on it read."""

    folder: ShardFolder
    label_scheme: LabelScheme
    fold_file: FoldFile
    """All folds of the scheme."""
    sides: FoldSides
    """`train`, `validation` and `test`."""
    members: tuple[str, ...]
    """Members of a clip that the strategy reads."""
    training: ClipTable
    prefetcher: ShardPrefetcher
    """Prepares the available shards of all sides."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.folder.index.dataset

    @property
    def fold_scheme(self) -> str:
        """Name of the scheme."""
        return self.fold_file.name

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of all folds of the scheme."""
        return tuple(self.fold_file.folds)

    @property
    def sha256(self) -> str:
        """Hash over all shards, whatever the fold."""
        hashes = sorted(shard.sha256 for shard in self.folder.index.shards)
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def describe_classes(self) -> list[str]:
        """A table of the classes with their clips on each side, one line each."""
        return describe_sides({name: self.sides[name].clips for name in SIDES}, self.label_scheme)

    def with_validation(self) -> FoldData:
        """The same with the validation clips among the training clips. Raises DataError."""
        train, validation = self.sides["train"], self.sides["validation"]
        if not validation.clips:
            return self
        listed = None if None in (train.clip_ids, validation.clip_ids) else {*train.clip_ids, *validation.clip_ids}
        both = Side(
            clip_ids=None if listed is None else tuple(sorted(listed)),
            shards=tuple(sorted({*train.shards, *validation.shards})),
            subjects=tuple(sorted({*train.subjects, *validation.subjects})),
            clips=dict(Counter(train.clips) + Counter(validation.clips)),
        )
        training = concatenate(self.training, self.clips("validation"))
        none = Side(shards=(), subjects=(), clips={})
        return replace(self, sides=replace(self.sides, train=both, validation=none), training=training)

    def clips(self, side: str) -> ClipTable:
        """Clips of `train`, `validation` or `test`. Raises DataError."""
        if side == "train":
            return self.training
        return load_clips(self.folder, self.sides[side], self.label_scheme, self.members)


def open_fold(
    location: str | Path | ShardFolder,
    fold: str,
    *,
    strategy: str | Strategy,
    feature: str = "mfcc",
    fold_scheme: str | None = None,
    label_scheme: str | None = None,
    allow_shared_speakers: bool = False,
    validation: bool = True,
    unlabelled: bool = False,
    check: Check = "hashes",
) -> FoldData:
    """Open a fold and check that it can be trained, validated and tested on; nothing is decoded.

    `location` may be a folder that is open already. Schemes are names, or tables of one's own; they default to the
    corpus's own. Without `validation` that side may be empty. With `unlabelled`, shards may have no labels, or
    `label_scheme` may be `none`, which uses every clip and no label. Raises UnusableFoldError for a fold without clips
    on a side, DataError, FoldError, FusionError, LabelError, ManifestError, StoreError or TableError.
    """
    folder = location if isinstance(location, ShardFolder) else open_folder(location)
    file = open_scheme(folder, fold_scheme, allow_shared_speakers=allow_shared_speakers)
    if fold not in file.folds:
        raise DataError(f"{file.name}: unknown fold {fold!r}; valid are {', '.join(file.folds)}")
    sides, scheme = file.folds[fold], fold_scheme if is_table(fold_scheme) else file.name
    strategy = strategy_named(strategy) if isinstance(strategy, str) else strategy
    members = members_for(folder.index, strategy, feature)
    needed = [sides[side] for side in SPLIT_SIDES["train"]]
    if missing := folder.missing(needed):
        total = sum(len(side.shards) for side in needed)
        raise DataError(
            f"{folder.path}: of {total} training and validation shards of fold {fold} found {total - len(missing)}; "
            f"fetch the rest: {folder.fetch_command(scheme, fold, 'train')}"
        )
    emotions = sorted({emotion for side in SIDES for emotion in sides[side].clips})
    classes = choose_labels(folder.index, label_scheme, emotions)
    if not unlabelled:
        require_labels(folder, classes)
    wanted = SIDES if validation else ("train", "test")
    if problem := describe_unusable(file, fold, emotions_with_class(classes), wanted):
        raise unusable_fold(problem, folder, file, classes, wanted)
    names = [name for side in SIDES for name in sides[side].shards if name in folder.available]
    return FoldData(
        folder=folder,
        label_scheme=classes,
        fold_file=file,
        sides=sides,
        members=members,
        training=load_clips(folder, sides["train"], classes, members),
        prefetcher=prefetch_shards(folder, names, check),
    )


def unusable_fold(
    problem: str, folder: ShardFolder, file: FoldFile, classes: LabelScheme, sides: Sequence[str]
) -> UnusableFoldError:
    """The error for a fold that lacks clips on one of some sides, with the folds of all schemes that can be used."""
    others = [open_scheme(folder, name) for name in folder.index.fold_schemes if name != file.name]
    return UnusableFoldError(f"{problem}; {advise_folds([file, *others], emotions_with_class(classes), sides)}")


def choose_labels(dataset: Dataset, name: str | None, emotions: Sequence[str]) -> LabelScheme:
    """Label scheme by name, or of a table, else the corpus's default, else one class for each raw emotion.

    Of `none`, and where no clip has a label, it is the scheme without classes. `emotions` has UNLABELLED for
    clips without a label, which no scheme has a class for.

    A corpus without schemes of its own can have one of another corpus, if it calls emotions alike. Raises LabelError
    for an unknown scheme or one that lacks emotions, TableError, DataError for a scheme of another corpus.
    """
    if name == labels.NO_LABELS or {*emotions} == {UNLABELLED}:
        return labels.unlabelled_scheme(dataset.dataset)
    emotions = [emotion for emotion in emotions if emotion != UNLABELLED]
    if name is not None and is_table(name):
        return labels.read_label_table(Path(name), dataset.dataset, emotions)
    if name is None and not dataset.label_schemes:
        return labels.identity_scheme(dataset.dataset, emotions)
    scheme = labels.label_scheme(name or dataset.label_schemes[0])
    if scheme.dataset != dataset.dataset and not labels.label_schemes_for(dataset.dataset):
        return labels.adapt_scheme(scheme, dataset.dataset, emotions)
    if scheme.dataset != dataset.dataset:
        valid = ", ".join(labels.label_schemes_for(dataset.dataset)) or "none"
        raise DataError(f"label scheme {scheme.name} is for {scheme.dataset}, not {dataset.dataset}; valid are {valid}")
    return scheme


def require_labels(folder: ShardFolder, scheme: LabelScheme) -> None:
    """Raise DataError for the scheme without classes, which a classifier cannot be trained with."""
    if not scheme.classes:
        raise DataError(
            f"{folder.path}: found no labels, expected some to train a classifier with; add a column emotion to the "
            "table of the recordings and build them again, or choose another corpus or LABELS="
        )


def emotions_with_class(scheme: LabelScheme) -> Collection[str] | None:
    """Raw emotions of the clips that are used; None for all."""
    return scheme.mapping if scheme.classes else None
