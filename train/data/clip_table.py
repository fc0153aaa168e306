"""Clips of one side of a fold, or of a whole folder: where the members of each are stored, and its class."""

from __future__ import annotations

import os
import reprlib
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests import index, labels
from manifests.download import ExpectedFile, cancellable_pool, download_file
from manifests.folds import Side
from manifests.index import Dataset, Receipt, Row, Shard, SpectrogramSums, window_statistics
from manifests.kinds import PAIRS, TOKENS
from manifests.labels import LabelScheme
from manifests.schema import CROP_PX, UNLABELLED, spectrogram_shape
from manifests.sequence import SIDES_PX
from manifests.several import clip_of
from manifests.tokens import AUDIO_MEMBER
from train.data import DataError
from train.data.kinds import READERS
from train.data.shard_folder import ShardFolder, load_receipt
from train.fusion import Strategy

#: Class index of clips without a label, where they are read at all.
NO_CLASS = -1

_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class ClipMembers:
    """What is read of each clip of a folder."""

    kind: str = PAIRS
    """Kind of the shards, as in `manifests.kinds`."""
    suffixes: tuple[str, ...] = ()
    """Of the m members that are read."""
    faces: int = 0
    """Faces of a clip, or of each window of it: 16, 8 or 0."""
    spectrogram: str = ""
    """`<feature>_<grid>`, stored or computed from the sound; "" for none."""
    side_px: int = CROP_PX
    """Side of a stored crop."""
    audio_codes: bool = False
    """Whether sound is read as codes, of shards of tokens."""

    @property
    def sound(self) -> bool:
        """Whether any sound is read."""
        return bool(self.spectrogram) or self.audio_codes


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipTable:
    """n clips and where their members are stored, in compact arrays: some 50 bytes a clip."""

    folder: Path
    shards: tuple[str, ...]
    """File names; of several corpora full paths."""
    speakers: tuple[str, ...]
    """The speaker of each shard, of several corpora with the corpus: `crema-d/1001`."""
    members: ClipMembers
    shard: npt.NDArray[np.int32]
    """[n] index into `shards`."""
    keys: npt.NDArray[np.bytes_]
    """[n] clip ids, each within its corpus."""
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

    def take(self, clips: npt.NDArray[np.int64]) -> ClipTable:
        """Some of the clips, by index; shards and their statistics stay."""
        names = ("shard", "keys", "labels", "byte_ranges", "missing")
        return replace(self, **{name: getattr(self, name)[clips] for name in names})

    def clip_id(self, clip: int) -> str:
        """Id of a clip, of several corpora with the corpus: `crema-d/1001_DFA_ANG_XX`."""
        return clip_of(self.speakers[self.shard[clip]], self.keys[clip].decode())

    @property
    def ids(self) -> tuple[str, ...]:
        """n clip ids, as of `clip_id`."""
        return tuple(map(self.clip_id, range(len(self))))

    @property
    def clip_speakers(self) -> tuple[str, ...]:
        """n speakers, one for each clip."""
        return tuple(self.speakers[shard] for shard in self.shard)


def members_for(dataset: Dataset, strategy: Strategy, feature: str) -> ClipMembers:
    """What a strategy reads of clips.

    Raises DataError for shards of another kind than it reads, a feature that was not built, or crops of no valid side.
    """
    if strategy.tokens != (dataset.kind == TOKENS):
        expected = "those of tokens" if strategy.tokens else "those of another kind, or a strategy that reads tokens"
        raise DataError(f"{dataset.dataset}: found shards of {dataset.kind}, expected {expected} for {strategy.name}")
    if strategy.tokens:
        suffixes = READERS[TOKENS].suffixes(strategy.faces, AUDIO_MEMBER if strategy.windows else "")
        return ClipMembers(kind=TOKENS, suffixes=suffixes, faces=strategy.faces, audio_codes=strategy.windows > 0)
    if feature not in dataset.features:
        built = ", ".join(dataset.features)
        raise DataError(f"{dataset.dataset}: found no feature {feature!r} in its shards; choose FEATURE= of {built}")
    side = dataset.identity["config"].get("size_px", CROP_PX)
    if side not in SIDES_PX:
        raise DataError(f"{dataset.dataset}: found crops of side {reprlib.repr(side)}, expected one of {SIDES_PX}")
    spectrogram = f"{feature}_{strategy.windows}" if strategy.windows else ""
    return ClipMembers(
        kind=dataset.kind,
        suffixes=READERS[dataset.kind].suffixes(strategy.faces, spectrogram),
        faces=strategy.faces,
        spectrogram=spectrogram,
        side_px=side,
    )


def load_clips(folder: ShardFolder, side: Side, scheme: LabelScheme, members: ClipMembers) -> ClipTable:
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
    folder: ShardFolder, members: ClipMembers, names: Sequence[str] | None = None
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


def concatenate(first: ClipTable, second: ClipTable) -> ClipTable:
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
    members: ClipMembers,
    stop: threading.Event,
) -> _ShardClips:
    receipt = load_receipt(folder, shard, stop)
    built = [row for row in receipt.rows if row.shard]
    if {row.clip_id for row in built} != receipt.members.keys():
        raise DataError(f"{shard.name}: its receipt lists other clips than it has members of; build it again")
    on_side = [row for row in built if side.has(row)]
    labelled = [row for row in on_side if classes.get(row.raw_label) is not None]
    codes = {row.clip_id: 1 if "no_sound" in row.flags else 2 if "no_face" in row.flags else 0 for row in labelled}
    # Clips with nothing of what is read.
    unusable = () if members.faces and members.sound else (2,) if members.faces else (1,)
    used = [row for row in labelled if codes[row.clip_id] not in unusable]
    for row in used:
        found = receipt.members[row.clip_id]
        for suffix in members.suffixes:
            if suffix not in found:
                known = ", ".join(found)
                raise DataError(f"{shard.name}: {row.clip_id} has no {suffix}, found {known}; build it again")
    ranges = [[receipt.members[row.clip_id][suffix] for suffix in members.suffixes] for row in used]
    spectrogram = members.spectrogram
    heard = any(codes[row.clip_id] != 1 for row in used)
    if spectrogram and heard and spectrogram not in receipt.statistics:
        raise DataError(f"{shard.name}: its receipt has no statistics of {spectrogram}; build it again")
    keys = np.array([row.clip_id for row in used], dtype=np.bytes_)
    class_indices = np.array([classes[row.raw_label] for row in used], dtype=np.int64)
    byte_ranges = np.array(ranges, dtype=np.int64).reshape(-1, len(members.suffixes), 2)
    statistics = receipt.statistics.get(spectrogram)
    if statistics is not None and side.clip_ids is not None and len(on_side) < len(built):
        statistics = _sum_windows(folder, shard, receipt, used, members, stop)
    rows = spectrogram_shape(spectrogram)[1] if spectrogram else 0
    if statistics is not None and {len(statistics.total), len(statistics.squares)} != {rows}:
        raise DataError(f"{shard.name}: its receipt has no statistics of {rows} rows of {spectrogram}; build it again")
    emotions = Counter(row.raw_label for row in on_side)
    missing = np.array([codes[row.clip_id] for row in used], dtype=np.int8)
    return emotions, len(labelled) - len(used), keys, class_indices, byte_ranges, missing, statistics


def _sum_windows(
    folder: ShardFolder,
    shard: Shard,
    receipt: Receipt,
    rows: Sequence[Row],
    members: ClipMembers,
    stop: threading.Event,
) -> SpectrogramSums | None:
    """Sums over some clips of a shard, which a side shares with others: the receipt's are of all. Reads the shard."""
    if folder.store is not None:
        download_file(folder.store, folder.path, ExpectedFile.tar_of(shard), stop)
    reader, sums = READERS[members.kind], []
    with (folder.path / shard.name).open("rb") as tar:
        for row in rows:
            places = receipt.members[row.clip_id]

            def read(suffix: str, places: Mapping[str, tuple[int, int]] = places) -> bytes:
                offset, size = places[suffix]
                return os.pread(tar.fileno(), size, offset)

            windows, present = reader.clip_windows(read, members.spectrogram)
            sums += window_statistics({members.spectrogram: windows}, present).values()
    return reduce(add, sums) if sums else None
