"""Folders of shards, a fold and label schemes -> everything that training and testing on the fold read.

Everything is checked before training: no speaker is on two sides of the fold, every side has clips, every emotion has
a class or is left out on purpose. Of several corpora each is a part of the fold, with its own speakers and labels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from manifests import labels
from manifests.coverage import fold_coverage
from manifests.folds import SIDES, SPLIT_SIDES, FoldSides, Side
from manifests.index import Dataset, load_rows
from manifests.label_counts import describe_sides, tabulate_sides, warn_of_sides
from manifests.labels import LabelScheme
from manifests.schema import UNLABELLED
from manifests.several import qualify
from manifests.tables import is_table
from manifests.text import pluralize, shorten_list
from manifests.usable import advise_folds
from train.data import DataError, UnusableFoldError
from train.data.clip_table import ClipMembers, ClipTable, concatenate, load_clips, members_for
from train.data.corpora import (
    Corpora,
    CorpusFolds,
    Location,
    check_recordings,
    combine_clips,
    open_corpora,
    shard_key,
)
from train.data.prefetch import ShardPrefetcher
from train.data.shard_folder import Check, ShardFolder, open_scheme, prefetch, prefetch_shards
from train.fusion import Strategy, strategy_named


@dataclass(frozen=True, kw_only=True)
class FoldPart:
    """What a fold has of one corpus."""

    corpus: CorpusFolds
    label_scheme: LabelScheme
    """Of several corpora all have the same classes."""
    sides: FoldSides
    """`train`, `validation` and `test`; sides that the fold does not take of this corpus have no clips."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.corpus.name

    @property
    def folder(self) -> ShardFolder:
        """Its shards."""
        return self.corpus.folder

    @property
    def trained(self) -> frozenset[str]:
        """Training and validation speakers, whether or not these select the epoch."""
        return frozenset((*self.sides["train"].subjects, *self.sides["validation"].subjects))

    def left_out(self) -> dict[str, int]:
        """Raw emotion, or UNLABELLED -> clips of all sides that have no class."""
        counts = sum((Counter(self.sides[side].clips) for side in SIDES), Counter[str]())
        classes = self.label_scheme.mapping if self.label_scheme.classes else counts
        return {emotion: count for emotion, count in sorted(counts.items()) if emotion not in classes}

    def load(self, side: str, members: ClipMembers) -> ClipTable:
        """Clips of a side. Raises DataError."""
        return load_clips(self.folder, self.sides[side], self.label_scheme, members)

    def count_corpus_clips(self, fold: str) -> int:
        """Clips with a class that the corpus has on the test side, with those that were dropped."""
        emotions = emotions_with_class(self.label_scheme)
        if self.corpus.is_whole:
            rows = load_rows(self.folder.path) if "test" in self.corpus.sides else ()
            return sum(emotions is None or row.emotion in emotions for row in rows)
        scheme, folds = self.corpus.scheme, self.corpus.tested(fold)
        return sum(fold_coverage(self.folder.path, scheme, each, emotions)["test"].expected for each in folds)

    def with_validation(self) -> FoldPart:
        """The same with the validation clips among the training clips."""
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
        none = Side(shards=(), subjects=(), clips={})
        return replace(self, sides=replace(self.sides, train=both, validation=none))


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """One fold of a folder of shards, or of several, with everything that training and testing on it read."""

    corpora: Corpora
    fold: str
    parts: tuple[FoldPart, ...]
    """What it has of each of the corpora, in their order."""
    members: ClipMembers
    """What the strategy reads of a clip."""
    training: ClipTable
    prefetcher: ShardPrefetcher
    """Prepares the available shards of all sides."""

    @property
    def name(self) -> str:
        """Name of the corpus that is trained on, or of several together."""
        return self.corpora.name

    @property
    def folder(self) -> ShardFolder:
        """Shards of the corpus; of several, of the first that is trained on."""
        return self.trained_parts[0].folder

    @property
    def trained_parts(self) -> tuple[FoldPart, ...]:
        """Parts that have training clips."""
        return tuple(part for part in self.parts if "train" in part.corpus.sides)

    @property
    def label_scheme(self) -> LabelScheme:
        """Name and classes of the labels; of several corpora the mapping is that of the first: see `mapping`."""
        return self.parts[0].label_scheme

    @property
    def mapping(self) -> dict[str, str]:
        """Raw emotion -> class, of several corpora `crema-d/HAP` -> class."""
        if not self.corpora.several:
            return dict(self.label_scheme.mapping)
        return {
            qualify(part.name, emotion): name
            for part in self.parts
            for emotion, name in part.label_scheme.mapping.items()
        }

    @property
    def fold_scheme(self) -> str:
        """Name of the scheme."""
        return self.corpora.fold_scheme

    @property
    def folds(self) -> tuple[str, ...]:
        """Names of all folds of the scheme."""
        return self.corpora.folds

    @property
    def shared_speakers(self) -> bool:
        """Whether speakers are on several sides of a fold of the scheme."""
        return any(sides.shared_speakers for part in self.parts for sides in part.corpus.file.folds.values())

    @property
    def shard_hashes(self) -> dict[str, str]:
        """Shard, as clips name it -> SHA-256, of all shards, whatever the fold."""
        return {
            shard_key(part.folder.path, shard.name) if self.corpora.several else shard.name: shard.sha256
            for part in self.parts
            for shard in part.folder.index.shards
        }

    @property
    def sha256(self) -> str:
        """Hash over all shards, whatever the fold."""
        return hashlib.sha256("".join(sorted(self.shard_hashes.values())).encode()).hexdigest()

    def count(self, side: str) -> int:
        """Clips of a side, with those that have no class."""
        return sum(sum(part.sides[side].clips.values()) for part in self.parts)

    def has_speakers(self, side: str, seen: Mapping[str, Collection[str]]) -> bool:
        """Whether one of some speakers is on a side; `seen` is corpus -> speakers."""
        return any({*seen[part.name]} & {*part.sides[side].subjects} for part in self.parts)

    def count_corpus_clips(self) -> int:
        """Clips with a class that the corpora have on the test side, with those that were dropped."""
        return sum(part.count_corpus_clips(self.corpora.within(self.fold)) for part in self.parts)

    def fetch_commands(self, side: str) -> list[str]:
        """The commands that fetch shards of `validation` or `test` that are not available; [] if all are."""
        within = self.corpora.within(self.fold)
        lacking = [part for part in self.parts if part.folder.missing([part.sides[side]])]
        return [command for part in lacking for command in part.corpus.fetch_commands(within, side)]

    def describe_classes(self) -> list[str]:
        """A table of the classes with their clips on each side, of each corpus, and what it leaves out."""
        tables = [
            ({side: part.sides[side].clips for side in SIDES if side in part.corpus.sides}, part.label_scheme)
            for part in self.parts
        ]
        if not self.corpora.several:
            return describe_sides(*tables[0])
        lines = []
        for part, (sides, scheme) in zip(self.parts, tables, strict=True):
            left_out = [f"{emotion or 'no label'} ({pluralize(n, 'clip')})" for emotion, n in part.left_out().items()]
            said = f"  without a common class: {', '.join(left_out)}" if left_out else "  all emotions have a class"
            lines += [*tabulate_sides(sides, scheme, part.name), said]
        return [*lines, *warn_of_sides([part.sides for part in self.parts], [scheme for _, scheme in tables])]

    def with_validation(self) -> FoldData:
        """The same with the validation clips among the training clips. Raises DataError."""
        if not any(part.sides["validation"].clips for part in self.parts):
            return self
        parts = tuple(part.with_validation() for part in self.parts)
        return replace(self, parts=parts, training=concatenate(self.training, self.clips("validation")))

    def with_training_share(self, share: float, seed: int) -> FoldData:
        """The same with a share of the training clips of each class, at least one, drawn by (seed, clip)."""
        training, chosen = self.training, []
        for label in np.unique(training.labels):
            clips = np.flatnonzero(training.labels == label)
            drawn = [hashlib.sha256(f"share {seed} {training.clip_id(clip)}".encode()).digest() for clip in clips]
            order = sorted(range(len(clips)), key=drawn.__getitem__)
            chosen.append(clips[order[: max(1, round(share * len(clips)))]])
        return replace(self, training=training.take(np.sort(np.concatenate(chosen))))

    def clips(self, side: str) -> ClipTable:
        """Clips of `train`, `validation` or `test`. Raises DataError."""
        return self.training if side == "train" else _load_side(self.parts, side, self.members)


def _load_side(parts: Sequence[FoldPart], side: str, members: ClipMembers) -> ClipTable:
    """Clips of a side of all corpora that have it; of several, one may lack the validation. Raises DataError."""
    if len(parts) == 1:
        return parts[0].load(side, members)
    having = [part for part in parts if part.sides[side].clips]
    return combine_clips({part.name: part.load(side, members) for part in having})


def open_fold(
    location: Location | Corpora,
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

    `location` may be a folder that is open already, or several corpora, which have their fold schemes. Schemes are
    names, or tables of one's own; they default to the corpus's own. Without `validation` that side may be empty. With
    `unlabelled`, shards may have no labels, or `label_scheme` may be `none`, which uses every clip and no label. Raises
    UnusableFoldError for a fold without clips on a side, DataError, FoldError, FusionError, LabelError, ManifestError,
    StoreError or TableError.
    """
    schemes = () if fold_scheme is None else (fold_scheme,)
    corpora = location
    if not isinstance(corpora, Corpora):
        corpora = open_corpora([location], schemes=schemes, allow_shared_speakers=allow_shared_speakers)
    within = corpora.within(fold)
    strategy = strategy_named(strategy) if isinstance(strategy, str) else strategy
    members, *_ = [members_for(part.folder.index, strategy, feature) for part in corpora.parts]
    for part in corpora.parts:
        _check_available(part, within, fold)
    schemes = choose_label_schemes(corpora, label_scheme, fold)
    if not unlabelled:
        for part, scheme in zip(corpora.parts, schemes, strict=True):
            require_labels(part.folder, scheme)
    wanted = SIDES if validation else ("train", "test")
    if problem := corpora.describe_unusable(fold, schemes, wanted):
        raise unusable_fold(problem, corpora, schemes, wanted)
    if corpora.several:
        check_recordings([part.folder for part in corpora.parts])
    parts = tuple(
        FoldPart(corpus=part, label_scheme=scheme, sides=part.file.folds[within])
        for part, scheme in zip(corpora.parts, schemes, strict=True)
    )
    return FoldData(
        corpora=corpora,
        fold=fold,
        parts=parts,
        members=members,
        training=_load_side(parts, "train", members),
        prefetcher=_prefetch(parts, check),
    )


def _check_available(part: CorpusFolds, within: str, fold: str) -> None:
    """Raise DataError for training and validation shards that were not fetched."""
    needed = [part.file.folds[within][side] for side in SPLIT_SIDES["train"]]
    if missing := part.folder.missing(needed):
        total, of_fold = sum(len(side.shards) for side in needed), "" if part.is_whole else f" of fold {fold}"
        raise DataError(
            f"{part.folder.path}: of {total} training and validation shards{of_fold} found "
            f"{total - len(missing)}; fetch the rest: {part.fetch_commands(within, 'train')[0]}"
        )


def choose_label_schemes(corpora: Corpora, name: str | None, fold: str | None = None) -> tuple[LabelScheme, ...]:
    """The label scheme of each corpus, see `choose_labels`; of several their common classes.

    Of a single corpus it is for the emotions of a fold, or of all folds. Raises LabelError, TableError, DataError.
    """
    if corpora.several:
        return corpora.label_schemes(name)
    (part,) = corpora.parts
    folds = part.file.folds.values() if fold is None else [part.file.folds[fold]]
    emotions = sorted({emotion for sides in folds for side in SIDES for emotion in sides[side].clips})
    return (choose_labels(part.folder.index, name, emotions),)


def _prefetch(parts: Sequence[FoldPart], check: Check) -> ShardPrefetcher:
    """Prepares the available shards of all sides."""
    if len(parts) == 1:
        (part,) = parts
        return prefetch_shards(part.folder, _available(part), check)
    return prefetch(
        {
            shard_key(part.folder.path, shard.name): (part.folder, shard)
            for part in parts
            for shard in part.folder.shards(_available(part))
        },
        check,
    )


def _available(part: FoldPart) -> list[str]:
    return [name for side in SIDES for name in part.sides[side].shards if name in part.folder.available]


def unusable_fold(
    problem: str, corpora: Corpora, classes: Sequence[LabelScheme], sides: Sequence[str]
) -> UnusableFoldError:
    """The error for a fold that lacks clips on one of some sides, with the folds of all schemes that can be used."""
    if corpora.parts[0].is_whole:
        without = corpora.describe_unusable(corpora.folds[0], classes, ("train", "test"))
        advice = "" if without else ", or FIXED_EPOCHS=1 (--fixed-epochs), which takes no validation"
        return UnusableFoldError(f"{problem}; choose other corpora, or classes with LABELS= (--label-scheme){advice}")
    if corpora.several:
        usable = [fold for fold in corpora.folds if not corpora.describe_unusable(fold, classes, sides)]
        advice = f"folds that can be used: FOLD={usable[0]}" if usable else "no fold of these schemes can be used"
        more = f" (or {shorten_list(usable[1:])})" if usable[1:] else ""
        return UnusableFoldError(f"{problem}; {advice}{more}")
    folder, file = corpora.parts[0].folder, corpora.parts[0].file
    others = [open_scheme(folder, name) for name in folder.index.fold_schemes if name != file.name]
    return UnusableFoldError(f"{problem}; {advise_folds([file, *others], emotions_with_class(classes[0]), sides)}")


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
