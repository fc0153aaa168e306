"""The corpora of a training: one folder of shards or several, and the folds that separate the speakers of each.

Speakers and clips of several corpora are named with their corpus, `crema-d/1001`, so that no two are taken for one. A
test across corpora has a single fold: it trains on all speakers of some corpora and tests all clips of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests import index
from manifests.common_labels import CorpusEmotions, common_schemes
from manifests.folds import SIDES, FoldError, FoldFile, describe_fold, resolve_fold
from manifests.joined_folds import CROSS_CORPUS, WHOLE, count_joined, group_folds, hold_out, join_folds, train_on_all
from manifests.labels import LabelScheme
from manifests.schema import CROP_PX, UNLABELLED
from manifests.several import corpus_of, join_names, qualify
from manifests.tables import is_table
from manifests.text import config_diff, pluralize, shorten_list
from manifests.usable import describe_unusable
from train.data import DataError
from train.data.clip_table import ClipTable, concatenate
from train.data.shard_folder import ShardFolder, open_folder, open_scheme

#: Where shards are: a path or an address, or a folder that is open already.
Location = str | Path | ShardFolder
#: Begins the name of the fold of a test across corpora, `test:ravdess`, which no fold of a scheme can have.
TEST_PREFIX = "test:"
#: Crop of builds that name none: aligned by the distance between the eyes in the picture, unlike `aligned`.
UNNAMED_CROP = "eyes (of an older version)"
#: Beginning of a recording's hash by which it is compared.
_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class CorpusFolds:
    """One corpus of a training, and how its speakers are separated."""

    folder: ShardFolder
    scheme: FoldFile
    """As the folder or a table has it."""
    scheme_setting: str
    """How a command names the scheme: by its name, or as a table."""
    file: FoldFile
    """The folds of the training: those of the scheme, or, of several corpora, as many for each, named by numbers."""
    sides: tuple[str, ...] = SIDES
    """Sides that a fold has of this corpus; a test across corpora tests others than it trains on."""

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.folder.index.dataset

    def emotions(self) -> set[str]:
        """Raw emotions of the clips of all folds, without that of clips without a label."""
        found = {each for fold in self.file.folds.values() for side in self.sides for each in fold[side].clips}
        return found - {UNLABELLED}

    @property
    def is_whole(self) -> bool:
        """Whether it is not divided by a scheme, but trained on, or tested, as a whole."""
        return self.scheme.name == CROSS_CORPUS

    def tested(self, fold: str) -> tuple[str, ...]:
        """Folds of the scheme whose test speakers a fold of `file` tests; () for a whole corpus."""
        if self.is_whole:
            return ()
        return (fold,) if self.file is self.scheme else group_folds(self.scheme, len(self.file.folds))[fold]

    def fetch_commands(self, fold: str, split: str) -> list[str]:
        """The commands that fetch what is missing of a split of a fold of `file`."""
        if self.is_whole:
            return [self.folder.fetch_command_of_all()]
        names = self.tested(fold) if split == "test" else self.tested(fold)[:1]  # whose training has all that is needed
        return [self.folder.fetch_command(self.scheme_setting, name, split) for name in names]


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """What is trained and tested on: one corpus, or several in the order of their names."""

    parts: tuple[CorpusFolds, ...]
    folds: tuple[str, ...]
    """Names of all folds."""

    @property
    def several(self) -> bool:
        """Whether names of speakers and clips say their corpus."""
        return len(self.parts) > 1

    @property
    def name(self) -> str:
        """The corpora that are trained on: `crema-d+ravdess`."""
        return join_names(part.name for part in self.parts if "train" in part.sides)

    @property
    def tests(self) -> tuple[str, ...]:
        """Corpora that are tested as a whole; () for a test on a fold."""
        return tuple(part.name for part in self.parts if "train" not in part.sides)

    @property
    def fold_scheme(self) -> str:
        """Name of the scheme, of several corpora those of all."""
        return CROSS_CORPUS if self.parts[0].is_whole else "+".join(part.scheme.name for part in self.parts)

    @property
    def features(self) -> tuple[str, ...]:
        """Spectrograms that all shards have."""
        first, *others = (part.folder.index.features for part in self.parts)
        return tuple(name for name in first if all(name in other for other in others))

    def resolve_fold(self, fold: str) -> str:
        """A fold by name, of a single corpus also by its speaker or its number. Raises FoldError."""
        speaker_name = str if self.several else self.parts[0].folder.index.speaker_name
        return resolve_fold(self.folds, fold, speaker_name)

    def describe_fold(self, fold: str) -> str:
        """A fold, of a single corpus with the name of the speaker that it tests."""
        return fold if self.several else describe_fold(fold, self.parts[0].folder.index.speaker_name)

    def within(self, fold: str) -> str:
        """Name of a fold in the files of the corpora. Raises DataError for an unknown one."""
        if fold not in self.folds:
            raise DataError(f"{self.fold_scheme}: unknown fold {fold!r}; valid are {', '.join(self.folds)}")
        return WHOLE if self.tests else fold

    def label_schemes(self, name: str | None) -> tuple[LabelScheme, ...]:
        """Of several corpora, the label scheme of each: their common classes. Raises LabelError, TableError."""
        emotions = [
            CorpusEmotions(
                dataset=part.name, label_schemes=part.folder.index.label_schemes, emotions=sorted(part.emotions())
            )
            for part in self.parts
        ]
        schemes = common_schemes(emotions, name)
        return tuple(schemes[part.name] for part in self.parts)

    def describe_unusable(self, fold: str, schemes: Sequence[LabelScheme], sides: Collection[str]) -> str:
        """Why a fold cannot be used: which corpus lacks clips with a class on which side; "" if it can."""
        for part, scheme in zip(self.parts, schemes, strict=True):
            wanted = [side for side in SIDES if side in part.sides and side in sides]
            emotions = scheme.mapping if scheme.classes else None
            if problem := describe_unusable(part.file, self.within(fold), emotions, wanted):
                return problem
        return ""


def open_corpora(
    locations: Sequence[Location],
    *,
    schemes: Sequence[str] = (),
    tests: Sequence[Location] = (),
    allow_shared_speakers: bool = False,
) -> Corpora:
    """Open the shards of one corpus, or of several that are trained on together.

    Args:
        locations: folders of shards, at least one.
        schemes: fold schemes, names or tables: none for the defaults, one for all, or one for each of the folders.
        tests: folders of shards of other corpora, all clips of which are tested in place of a fold.
        allow_shared_speakers: whether a table of folds may have speakers on several sides.

    Raises DataError for corpora that cannot be used together, and the errors of `open_folder` and `open_scheme`.
    """
    folders, tested = [[_open(location) for location in each] for each in (locations, tests)]
    if len(folders) == 1 and not tested and len(schemes) <= 1:
        return open_corpus(folders[0], schemes[0] if schemes else None, allow_shared_speakers=allow_shared_speakers)
    _check_together(folders, tested)
    if tested:
        if schemes:
            raise DataError(f"found fold scheme {shorten_list(schemes)}, expected none: a whole corpus is tested")
        return open_whole(folders, tested)
    if len(schemes) not in (0, 1, len(folders)):
        raise DataError(f"found {len(schemes)} fold schemes, expected one for each of {len(folders)} corpora, or one")
    chosen = schemes if len(schemes) == len(folders) else [*schemes] * len(folders) or [None] * len(folders)
    opened = []
    for folder, scheme in zip(folders, chosen, strict=True):
        try:
            file = open_scheme(folder, scheme, allow_shared_speakers=allow_shared_speakers)
        except FoldError as error:
            raise FoldError(f"{folder.index.dataset}: {error}", details=error.details) from error
        opened.append((folder, scheme, file))
    count = count_joined(file for _, _, file in opened)
    parts = [
        CorpusFolds(
            folder=folder,
            scheme=file,
            scheme_setting=str(scheme) if is_table(scheme) else file.name,
            file=join_folds(file, count, folder.speakers, index.load_rows(folder.path)),
        )
        for folder, scheme, file in opened
    ]
    parts = sorted(parts, key=lambda part: part.name)
    return Corpora(parts=tuple(parts), folds=tuple(str(number + 1) for number in range(count)))


def open_whole(locations: Sequence[Location], tests: Sequence[Location] = (), *, validation: bool = True) -> Corpora:
    """Corpora all of whose speakers are trained on, but for a fifth who validate; and others that are tested, if any.

    Without `validation` nobody validates. They have one fold, `whole`, or the one of a test across corpora. Raises
    what `open_corpora` does.
    """
    folders, tested = [[_open(location) for location in each] for each in (locations, tests)]
    _check_together(folders, tested)
    trained = [
        _whole(folder, partial(train_on_all, validation=validation), ("train", "validation")) for folder in folders
    ]
    parts = [*trained, *(_whole(folder, hold_out, ("test",)) for folder in tested)]
    parts = sorted(parts, key=lambda part: part.name)
    names = join_names(folder.index.dataset for folder in tested)
    return Corpora(parts=tuple(parts), folds=(f"{TEST_PREFIX}{names}" if tested else WHOLE,))


def open_corpus(folder: ShardFolder, scheme: str | None, *, allow_shared_speakers: bool = False) -> Corpora:
    """A single corpus, with the folds of a scheme. Raises what `open_scheme` does."""
    file = open_scheme(folder, scheme, allow_shared_speakers=allow_shared_speakers)
    setting = str(scheme) if is_table(scheme) else file.name
    part = CorpusFolds(folder=folder, scheme=file, scheme_setting=setting, file=file)
    return Corpora(parts=(part,), folds=tuple(file.folds))


def _open(location: Location) -> ShardFolder:
    return location if isinstance(location, ShardFolder) else open_folder(location)


def _whole(folder: ShardFolder, make: Callable[..., FoldFile], sides: tuple[str, ...]) -> CorpusFolds:
    """A corpus all of whose clips are on some sides of one fold."""
    try:
        file = make(folder.index.dataset, folder.speakers, index.load_rows(folder.path))
    except FoldError as error:
        raise FoldError(f"{folder.index.dataset}: {error}", details=error.details) from error
    return CorpusFolds(folder=folder, scheme=file, scheme_setting=file.name, file=file, sides=sides)


def _check_together(folders: Sequence[ShardFolder], tested: Sequence[ShardFolder]) -> None:
    """Raise DataError for folders of one corpus, and for shards that were built in different ways."""
    every = [*folders, *tested]
    twice = [name for name, count in Counter(folder.index.dataset for folder in every).items() if count > 1]
    if twice:
        where = " and ".join(str(folder.path) for folder in every if folder.index.dataset == twice[0])
        is_tested = twice[0] in {folder.index.dataset for folder in tested}
        advice = "; a corpus that is trained on has folds to test" if is_tested else ""
        raise DataError(f"found {twice[0]} twice ({where}), expected corpora of different names{advice}")
    first = every[0].index
    for other in (folder.index for folder in every[1:]):
        if other.kind != first.kind:
            differing = [f"kind: {first.kind} -> {other.kind}"]
        else:
            before, after = (each.identity["config"] for each in (first, other))
            size = "size_px"  # of sequences
            differing = config_diff(
                {**appearance(before), size: before.get(size)}, {**appearance(after), size: after.get(size)}
            )
        if differing:
            raise DataError(
                f"{first.dataset} and {other.dataset}: were built in different ways ({'; '.join(differing)}); build "
                "one of them with the settings of the other"
            )
        if not {*first.features} & {*other.features}:
            features = f"{', '.join(first.features)} and {', '.join(other.features)}"
            raise DataError(
                f"{first.dataset} and {other.dataset}: found no spectrogram that both have ({features}); compute one "
                "with make features FEATURE="
            )


def appearance(build: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a build that change what clips look like, which corpora that are used together have in common."""
    names = ["timeline", "align", *(["step_frames"] if build.get("timeline") == "fixed" else [])]
    sizes = {"size_px": build.get("size_px", CROP_PX), "rate_hz": build.get("rate_hz")}
    others = {name: value for name, value in sizes.items() if value not in (CROP_PX, None)}  # than those of pairs
    return {"crop": build.get("crop", UNNAMED_CROP), **{name: build.get(name) for name in names}, **others}


def check_recordings(folders: Sequence[ShardFolder]) -> None:
    """Raise DataError for recordings that two corpora have in common: their speakers could be on both sides.

    Reads the rows of all clips.
    """
    owners: dict[str, str] = {}
    for folder in folders:
        dataset = folder.index.dataset
        recordings = {row.sha256[:_DIGITS] for row in index.load_rows(folder.path) if row.sha256 and row.shard}
        if common := {owners[recording] for recording in recordings if recording in owners}:
            other = min(common)
            shared = pluralize(sum(owners.get(recording) == other for recording in recordings), "recording")
            raise DataError(
                f"{other} and {dataset}: found {shared} in both, expected different recordings: their speakers could "
                "be trained on and tested; choose one of these corpora"
            )
        owners |= dict.fromkeys(recordings, dataset)


def combine_clips(tables: Mapping[str, ClipTable]) -> ClipTable:
    """Clips of several corpora as one table; `tables` is corpus -> clips.

    Speakers and clip ids say their corpus, and shards are named by their full paths.
    """
    return reduce(concatenate, (_qualify(dataset, clips) for dataset, clips in tables.items()))


def _qualify(dataset: str, clips: ClipTable) -> ClipTable:
    return replace(
        clips,
        shards=tuple(shard_key(clips.folder, name) for name in clips.shards),
        speakers=tuple(qualify(dataset, speaker) for speaker in clips.speakers),
    )


def shard_key(folder: Path, name: str) -> str:
    """Name of a shard among those of several corpora: its full path."""
    return str((folder / name).absolute())


def corpus_shares(clips: ClipTable, weights: Mapping[str, float]) -> tuple[float, ...]:
    """Weight of each corpus, by its number in `corpus_indices`, 1 if it has none; () without any weights.

    Raises DataError for an unknown corpus.
    """
    if not weights:
        return ()
    names = list(dict.fromkeys(corpus_of(speaker) for speaker in clips.speakers))
    if unknown := sorted(weights.keys() - {*names}):
        raise DataError(f"corpus_weights: found {unknown[0]}, expected one of {shorten_list(names)}")
    return tuple(weights.get(name, 1.0) for name in names)


def corpus_indices(clips: ClipTable) -> npt.NDArray[np.int64]:
    """[n] which corpus each clip is of, a number from 0; all 0 for clips of a single one."""
    of_shards = [corpus_of(speaker) for speaker in clips.speakers]
    numbers = {corpus: number for number, corpus in enumerate(dict.fromkeys(of_shards))}
    return np.array([numbers[corpus] for corpus in of_shards], dtype=np.int64)[clips.shard]
