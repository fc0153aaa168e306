"""A folder of shards, a fold and a label scheme -> the clips of each side: where each is stored, and its class.

Everything is checked before training: the folder matches its index, no speaker is on two sides of the fold, every
emotion has a class or is left out on purpose. Shards are hashed in the background, before they are decoded.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from manifests import index, labels
from manifests.download import ExpectedFile, cancellable_pool, download_file
from manifests.fetch import fetch_command, mirror_index
from manifests.folds import SIDES, SPLIT_SIDES, FoldFile, FoldSides, Side, load_fold_file, resolve_scheme
from manifests.index import Dataset, Receipt, ResolvedFold, Row, Shard, SpectrogramSums, window_statistics
from manifests.kinds import PAIRS
from manifests.label_counts import describe_sides
from manifests.labels import LabelScheme
from manifests.schema import UNLABELLED, decode_metadata, decode_spectrogram, spectrogram_shape
from manifests.splits import read_split
from manifests.stores import Store, is_remote, open_store
from manifests.tables import is_table
from manifests.usable import advise_folds, describe_unusable
from manifests.verify import verify
from train.data import DataError, UnusableFoldError
from train.data.prefetch import ShardPrefetcher
from train.fusion import Strategy, strategy_named

#: Class index of clips without a label, where they are read at all.
NO_CLASS = -1
#: `hashes` reads every byte of the shards that are used, once a process; `sizes` trusts local shards of the right size.
Check = Literal["hashes", "sizes"]

FACES = "faces.jpg"
_THREADS = 8
#: Files and the hash that was found of them: each is hashed once per process.
verified_files: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class ShardFolder:
    """A folder of finished shards, local or a mirror of a remote one."""

    path: Path
    """Where the index is, and where shards are read."""
    index: Dataset
    available: frozenset[str]
    """Names of the shards that can be read: all, unless only a part of a folder was fetched."""
    store: Store | None = None
    """Where shards are downloaded from, for a remote folder."""
    source: str = ""
    """Address of the complete folder, if only a part of it was fetched."""

    def missing(self, sides: Sequence[Side]) -> list[str]:
        """Names of the shards of some sides that are not available."""
        return sorted({name for side in sides for name in side.shards} - self.available)

    @property
    def speakers(self) -> dict[str, str]:
        """Shard name -> speaker."""
        return {shard.name: shard.speaker for shard in self.index.shards}

    def fetch_command(self, scheme: str, fold: str, split: str) -> str:
        """The command that fetches the shards of a split that are missing."""
        return fetch_command(self.source, self.path, ResolvedFold(scheme=scheme, fold=fold, sides=SPLIT_SIDES[split]))

    def shards(self, names: Sequence[str]) -> list[Shard]:
        """Entries of the index for some shards."""
        known = {shard.name: shard for shard in self.index.shards}
        return [known[name] for name in names]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipTable:
    """n clips and where their members are stored, in compact arrays: some 50 bytes a clip."""

    folder: Path
    shards: tuple[str, ...]
    """File names."""
    speakers: tuple[str, ...]
    """The speaker of each shard."""
    members: tuple[str, ...]
    """Suffixes of the m members that are read: at most the faces and one spectrogram."""
    shard: npt.NDArray[np.int32]
    """[n] index into `shards`."""
    keys: npt.NDArray[np.bytes_]
    """[n] clip ids."""
    labels: npt.NDArray[np.int64]
    """[n] class indices; NO_CLASS for all clips of a table without labels."""
    byte_ranges: npt.NDArray[np.int64]
    """[n, m, 2] offset and size of each member in its tar."""
    left_out: Mapping[str, int]
    """Raw emotion, or UNLABELLED -> clips that the label scheme leaves out on purpose."""
    missing: npt.NDArray[np.int8]
    """[n] what each clip has no part of: 0, or a code of `train.data.missing.WHOLLY`."""
    incomplete: int = 0
    """Clips that are left out because they have nothing of what is read."""
    statistics: SpectrogramSums | None = None
    """Sums over all of `shards` of the spectrogram that is read; None where none is."""

    def __len__(self) -> int:
        return len(self.keys)


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
        training = _concatenate(self.training, self.clips("validation"))
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


def open_folder(location: str | Path) -> ShardFolder:
    """A folder by path or by address; every file of a local one is present, with its size. A remote index is mirrored.

    Raises DataError for a folder that does not match its index, ManifestError for an index that cannot be read,
    StoreError for a remote folder that cannot be downloaded.
    """
    if is_remote(str(location)):
        store = open_store(str(location))
        name, digest = store.address.rpartition("/")[2], hashlib.sha256(store.address.encode()).hexdigest()
        path = default_cache() / f"{name}-{digest[:12]}"
        dataset = mirror_index(store, path)
        _check_kind(location, dataset)
        return ShardFolder(path, dataset, frozenset(shard.name for shard in dataset.shards), store=store)
    path = Path(location)
    if problems := verify(path):
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}; build or fetch it again")
    dataset, fetched = index.load_dataset(path), index.load_fetched(path)
    _check_kind(path, dataset)
    available = frozenset(shard.name for shard in index.local_shards(path, dataset))
    return ShardFolder(path, dataset, available, source=fetched.source if fetched else "")


def _check_kind(location: str | Path, dataset: Dataset) -> None:
    """Raise DataError for shards of a kind that is not trained on."""
    if not dataset.sample_kind.trainable:
        raise DataError(
            f"{location}: found shards of {dataset.kind}, expected {PAIRS}, which a build without FRAMES=all writes"
        )


def default_cache() -> Path:
    """Where remote folders are mirrored: `multimae-der` in the user's cache folder. Raises DataError without one."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimae-der"
    except RuntimeError as error:  # a user without an entry in the password file
        raise DataError("found no home folder, expected one for the cache; set XDG_CACHE_HOME to a folder") from error


def find_folder(root: Path, dataset: str | None = None) -> Path:
    """The shards of a corpus in a folder of corpora, or those of its only corpus. Raises DataError."""
    if dataset and (root / dataset).is_dir():
        return root / dataset
    found = sorted(path.parent for path in root.glob(f"*/{index.DATASET_FILE}"))
    if not dataset and len(found) == 1:
        return found[0]
    advice = "found no shards of any corpus; `make shards` builds them, `make fetch` downloads them"
    if found:
        advice = f"found shards of {', '.join(path.name for path in found)}; choose with DATASET= (--dataset)"
    raise DataError(f"{root / dataset}: not found; {advice}" if dataset else f"{root}: {advice}")


def open_scheme(folder: ShardFolder, scheme: str | None = None, *, allow_shared_speakers: bool = False) -> FoldFile:
    """A fold scheme by name, or of a table of one's own, or the corpus's default one.

    Raises FoldError for an unknown scheme or one that leaks a speaker, TableError for a file that is not a table,
    DataError for a fold file that was changed.
    """
    if scheme is not None and is_table(scheme):
        rows = index.load_rows(folder.path)
        return read_split(
            Path(scheme), folder.index, folder.speakers, rows, allow_shared_speakers=allow_shared_speakers
        )
    name = resolve_scheme(scheme, folder.index.fold_schemes, set(folder.speakers.values()))
    file = f"{index.FOLDS}/{name}.json"
    path = folder.path / file
    found = load_fold_file(path, folder.speakers)
    _check_hash(path, index.load_checksums(folder.path).get(file, "no hash"))
    return found


def unusable_fold(
    problem: str, folder: ShardFolder, file: FoldFile, classes: LabelScheme, sides: Sequence[str]
) -> UnusableFoldError:
    """The error for a fold that lacks clips on one of some sides, with the folds of all schemes that can be used."""
    others = [open_scheme(folder, name) for name in folder.index.fold_schemes if name != file.name]
    return UnusableFoldError(f"{problem}; {advise_folds([file, *others], emotions_with_class(classes), sides)}")


def fold_sides(folder: ShardFolder, fold: str, scheme: str | None = None) -> FoldSides:
    """`train`, `validation` and `test` of a fold. Raises what `open_scheme` does, and DataError for an unknown fold."""
    file = open_scheme(folder, scheme)
    if fold not in file.folds:
        raise DataError(f"{file.name}: unknown fold {fold!r}; valid are {', '.join(file.folds)}")
    return file.folds[fold]


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


def members_for(dataset: Dataset, strategy: Strategy, feature: str) -> tuple[str, ...]:
    """Suffixes of the members that a strategy needs. Raises DataError for a feature that was not built."""
    if feature not in dataset.features:
        built = ", ".join(dataset.features)
        raise DataError(f"{dataset.dataset}: found no feature {feature!r} in its shards; choose FEATURE= of {built}")
    faces = (FACES,) if strategy.faces else ()
    return (*faces, f"{feature}_{strategy.windows}.npy") if strategy.windows else faces


def prefetch_shards(folder: ShardFolder, names: Sequence[str], check: Check = "hashes") -> ShardPrefetcher:
    """Prepare shards in the background: remote ones are downloaded and always hashed, local ones hashed on request.

    Waiting for one raises DataError or StoreError naming the shard that does not match the index.
    """
    shards = {shard.name: shard for shard in folder.shards(names)}

    def prepare(name: str, stop: threading.Event) -> None:
        path, sha256 = folder.path / name, shards[name].sha256
        if folder.store is None:
            _check_hash(path, sha256)
        elif (path, sha256) not in verified_files:
            download_file(folder.store, folder.path, ExpectedFile.tar_of(shards[name]), stop)
            verified_files.add((path, sha256))

    return ShardPrefetcher(shards if folder.store is not None or check == "hashes" else (), prepare)


def load_clips(folder: ShardFolder, side: Side, scheme: LabelScheme, members: tuple[str, ...]) -> ClipTable:
    """Clips of one side of a fold that have a class, by shard and id; of the shards only the receipts are read.

    With the scheme without classes, these are all clips, and their labels NO_CLASS. Raises DataError for an emotion
    that the scheme does not know, for shards that do not contain what the fold or the index lists, and for a side
    without clips.
    """
    known = scheme.mapping.keys() | scheme.left_out | {UNLABELLED}
    if scheme.classes and (unknown := sorted(side.clips.keys() - known)):
        found = ", ".join(f"{emotion!r} ({side.clips[emotion]} clips)" for emotion in unknown)
        raise DataError(f"label scheme {scheme.name}: found {found}; expected only {', '.join(scheme.mapping)}")
    classes = {emotion: scheme.class_index(emotion) if scheme.classes else NO_CLASS for emotion in side.clips}
    shards = folder.shards(side.shards)
    stop = threading.Event()
    with cancellable_pool(_THREADS, stop) as pool:
        parts = list(pool.map(lambda shard: _index_shard(folder, shard, side, classes, members, stop), shards))
    columns = zip(*parts, strict=True) if parts else ((),) * 7
    counts, incomplete, keys, class_indices, byte_ranges, missing, statistics = columns
    emotions = sum(counts, Counter[str]())
    sums = [each for each in statistics if each is not None]
    if emotions != side.clips:
        raise DataError(f"{folder.path}: found clips {dict(emotions)}, expected {side.clips} as the fold lists")
    if not sum(map(len, keys)):
        speakers = ", ".join(side.subjects) or "none that was built"
        raise DataError(f"{folder.path}: found no clip with a class; speakers are {speakers}")
    return ClipTable(
        folder=folder.path,
        shards=tuple(shard.name for shard in shards),
        speakers=tuple(shard.speaker for shard in shards),
        members=members,
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), list(map(len, keys))),
        keys=np.concatenate(keys),
        labels=np.concatenate(class_indices),
        byte_ranges=np.concatenate(byte_ranges),
        missing=np.concatenate(missing),
        incomplete=sum(incomplete),
        left_out={emotion: count for emotion, count in sorted(emotions.items()) if classes[emotion] is None},
        statistics=reduce(add, sums) if sums else None,
    )


def load_all_clips(
    folder: ShardFolder, members: tuple[str, ...], names: Sequence[str] | None = None
) -> tuple[ClipTable, tuple[str, ...]]:
    """Every clip of some shards, or of all, regardless of folds and label schemes; and the raw emotions.

    Of clips without a label the emotion is UNLABELLED. Labels are indices into the emotions. Raises DataError.
    """
    shards = folder.shards(names) if names is not None else folder.index.shards
    known = {shard.name for shard in shards}
    counts = Counter(row.raw_label for row in index.load_rows(folder.path) if row.shard in known)
    speakers = sorted({shard.speaker for shard in shards})
    side = Side(shards=tuple(sorted(known)), subjects=tuple(speakers), clips=dict(sorted(counts.items())))
    scheme = labels.identity_scheme(folder.index.dataset, counts)
    return load_clips(folder, side, scheme, members), scheme.classes


def _concatenate(first: ClipTable, second: ClipTable) -> ClipTable:
    """Clips of two sides, which have no shard in common."""
    known = [each.statistics for each in (first, second) if each.statistics is not None]  # a side may have no sound
    arrays = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("keys", "labels", "byte_ranges", "missing")
    }
    return replace(
        first,
        shards=(*first.shards, *second.shards),
        speakers=(*first.speakers, *second.speakers),
        shard=np.concatenate([first.shard, second.shard + np.int32(len(first.shards))]),
        incomplete=first.incomplete + second.incomplete,
        left_out=dict(Counter(first.left_out) + Counter(second.left_out)),
        statistics=reduce(add, known) if known else None,
        **arrays,
    )


#: Emotions of all clips of a side in a shard; number of clips with nothing of what is read; then keys, labels, byte
#: ranges, what is missing, and statistics as in `ClipTable`.
_ShardClips = tuple[
    Counter[str],
    int,
    npt.NDArray[np.bytes_],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.int8],
    SpectrogramSums | None,
]


def _index_shard(
    folder: ShardFolder,
    shard: Shard,
    side: Side,
    classes: Mapping[str, int | None],
    members: tuple[str, ...],
    stop: threading.Event,
) -> _ShardClips:
    receipt = _load_receipt(folder, shard, stop)
    built = [row for row in receipt.rows if row.shard]
    if {row.clip_id for row in built} != receipt.members.keys():
        raise DataError(f"{shard.name}: its receipt lists other clips than it has members of; build it again")
    on_side = [row for row in built if side.has(row)]
    labelled = [row for row in on_side if classes.get(row.raw_label) is not None]
    codes = {row.clip_id: 1 if "no_sound" in row.flags else 2 if "no_face" in row.flags else 0 for row in labelled}
    unusable = () if len(members) > 1 else (2,) if FACES in members else (1,)  # nothing of what is read
    used = [row for row in labelled if codes[row.clip_id] not in unusable]
    for row in used:
        found = receipt.members[row.clip_id]
        for suffix in members:
            if suffix not in found:
                known = ", ".join(found)
                raise DataError(f"{shard.name}: {row.clip_id} has no {suffix}, found {known}; build it again")
    ranges = [[receipt.members[row.clip_id][suffix] for suffix in members] for row in used]
    spectrogram = next((member.removesuffix(".npy") for member in members if member.endswith(".npy")), None)
    heard = any(codes[row.clip_id] != 1 for row in used)
    if spectrogram is not None and heard and spectrogram not in receipt.statistics:
        raise DataError(f"{shard.name}: its receipt has no statistics of {spectrogram}; build it again")
    keys = np.array([row.clip_id for row in used], dtype=np.bytes_)
    class_indices = np.array([classes[row.raw_label] for row in used], dtype=np.int64)
    byte_ranges = np.array(ranges, dtype=np.int64).reshape(-1, len(members), 2)
    statistics = receipt.statistics.get(spectrogram) if spectrogram is not None else None
    if statistics is not None and side.clip_ids is not None and len(on_side) < len(built):
        statistics = _sum_windows(folder, shard, receipt, used, spectrogram, stop)
    rows = spectrogram_shape(spectrogram)[1] if spectrogram is not None else 0
    if statistics is not None and {len(statistics.total), len(statistics.squares)} != {rows}:
        raise DataError(f"{shard.name}: its receipt has no statistics of {rows} rows of {spectrogram}; build it again")
    emotions = Counter(row.raw_label for row in on_side)
    missing = np.array([codes[row.clip_id] for row in used], dtype=np.int8)
    return emotions, len(labelled) - len(used), keys, class_indices, byte_ranges, missing, statistics


def _sum_windows(
    folder: ShardFolder, shard: Shard, receipt: Receipt, rows: Sequence[Row], spectrogram: str, stop: threading.Event
) -> SpectrogramSums | None:
    """Sums over some clips of a shard, which a side shares with others: the receipt's are of all. Reads the shard."""
    if folder.store is not None:
        download_file(folder.store, folder.path, ExpectedFile.tar_of(shard), stop)
    sums = []
    with (folder.path / shard.name).open("rb") as tar:
        for row in rows:
            metadata, windows = (
                os.pread(tar.fileno(), size, offset)
                for offset, size in (receipt.members[row.clip_id][name] for name in ("json", f"{spectrogram}.npy"))
            )
            present = decode_metadata(metadata).get("sound_present", {})
            sums += window_statistics({spectrogram: decode_spectrogram(windows, spectrogram)}, present).values()
    return reduce(add, sums) if sums else None


def _load_receipt(folder: ShardFolder, shard: Shard, stop: threading.Event) -> Receipt:
    path = folder.path / shard.receipt
    if folder.store is not None:
        download_file(folder.store, folder.path, ExpectedFile.receipt_of(shard), stop)
    _check_hash(path, shard.receipt_sha256)
    receipt = index.load_receipt(path)
    if (receipt.shard, receipt.sha256, receipt.bytes) != (shard.name, shard.sha256, shard.bytes):
        raise DataError(f"{path}: does not match the index's entry for {receipt.shard}; build it again")
    return receipt


def _check_hash(path: Path, expected: str) -> None:
    """Raise DataError unless a file has a hash, computed once per process."""
    if (path, expected) in verified_files:
        return
    found = index.file_sha256(path)
    if found != expected:
        raise DataError(f"{path}: found SHA-256 {found}, expected {expected}; build or fetch it again")
    verified_files.add((path, expected))
