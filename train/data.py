"""A folder of shards, a fold and a label scheme -> the clips of one side: where each lies and what class it is.

What is told here is checked before training: the folder is as promised, no subject is on two sides, and every emotion
has a class or is left out on purpose. Shards, here or at an address, are hashed before anything of them is decoded, in
the background where training can go on meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from manifests import index, labels
from manifests.download import download_file
from manifests.fetch import expected_files, mirror_index
from manifests.folds import FoldSides, Side, read_fold_file, resolve_scheme
from manifests.index import Dataset, Receipt, Shard, Statistics
from manifests.labels import LabelScheme
from manifests.stores import Store, is_remote, open_store
from manifests.verify import verify
from train.fusion import Strategy
from train.supply import Supply

#: `hashes` reads every byte of the shards used, once a process; `sizes` trusts local shards of the right size.
Check = Literal["hashes", "sizes"]

FACES = "faces.jpg"
_THREADS = 8
#: Files that were found to have a hash, each hashed once a process.
_VERIFIED: set[tuple[Path, str]] = set()


class DataError(ValueError):
    """Shards, a fold or labels cannot be used as asked; one line that says what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of finished shards, here or mirrored."""

    path: Path
    """Where the index lies, and where shards are read."""
    dataset: Dataset
    here: frozenset[str]
    """Names of the shards that can be read: all, but for a folder of which a part was fetched."""
    place: Store | None = None
    """Where shards are fetched from, for a remote folder."""
    source: str = ""
    """Where the rest of a part is to be had."""

    def lacks(self, sides: Sequence[Side]) -> list[str]:
        """Names of the shards of some sides that are not here."""
        return sorted({name for side in sides for name in side.shards} - self.here)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """n clips and where their members lie, in compact arrays: some 50 bytes a clip."""

    folder: Path
    shards: tuple[str, ...]
    """File names."""
    speakers: tuple[str, ...]
    """The subject of each shard."""
    members: tuple[str, ...]
    """Suffixes of the m members that are read: at most the faces and one spectrogram."""
    shard: npt.NDArray[np.int32]
    """[n] place in `shards`."""
    keys: npt.NDArray[np.bytes_]
    """[n] clip ids."""
    labels: npt.NDArray[np.int64]
    """[n] class indices."""
    places: npt.NDArray[np.int64]
    """[n, m, 2] offset and size of each member's bytes in its tar."""
    left_out: Mapping[str, int]
    """Raw emotion -> clips that the label scheme leaves out on purpose."""
    statistics: Statistics | None = None
    """Sums over all of `shards` of the spectrogram that is read; None where none is."""

    def __len__(self) -> int:
        return len(self.keys)


def open_folder(location: str | Path, cache_root: Path | None = None) -> Folder:
    """A folder by path or by address; every file that is to be in a local one is there, of its size.

    Raises DataError for a folder that is not as its index promises, ManifestError for an index that cannot be read,
    StoreError for a remote folder that cannot be fetched.
    """
    if is_remote(str(location)):
        return _open_remote(str(location), cache_root or default_root())
    path = Path(location)
    problems = verify(path)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}; build or fetch it again")
    dataset, fetched = index.load_dataset(path), index.load_fetched(path)
    here = frozenset(shard.name for shard in index.local_shards(path, dataset))
    return Folder(path=path, dataset=dataset, here=here, source=fetched.source if fetched else "")


def default_root() -> Path:
    """Where remote folders are kept: `multimae-der` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimae-der"


def _open_remote(address: str, root: Path) -> Folder:
    """What is said about the shards is fetched here, not the shards."""
    place = open_store(address)
    name = place.address.rpartition("/")[2]
    path = root / f"{name}-{hashlib.sha256(place.address.encode()).hexdigest()[:12]}"
    dataset = mirror_index(place, path)
    return Folder(path=path, dataset=dataset, here=frozenset(shard.name for shard in dataset.shards), place=place)


def fold_scheme(folder: Folder, name: str | None = None) -> str:
    """A fold scheme of a folder, the corpus's default if none is named. Raises FoldError for an unknown one."""
    return resolve_scheme(name, folder.dataset.fold_schemes, {shard.speaker for shard in folder.dataset.shards})


def fold_sides(folder: Folder, fold: str, scheme: str | None = None) -> FoldSides:
    """`train`, `validation` and `test` of a fold; the corpus's default scheme if none is named.

    Raises DataError or FoldError, listing the valid ones, for an unknown fold or scheme; FoldError for one that leaks a
    subject.
    """
    name = fold_scheme(folder, scheme)
    file = f"{index.FOLDS}/{name}.json"
    data = (folder.path / file).read_bytes()
    speakers = {shard.name: shard.speaker for shard in folder.dataset.shards}
    folds = read_fold_file(data, speakers, str(folder.path / file)).folds
    if fold not in folds:
        raise DataError(f"{name}: unknown fold {fold!r}; valid are {', '.join(folds)}")
    _check_hash(folder.path / file, index.load_sums(folder.path).get(file, "no hash"))
    return folds[fold]


def choose_labels(dataset: Dataset, name: str | None, emotions: Sequence[str]) -> LabelScheme:
    """Label scheme by name, else the corpus's default, else every raw emotion a class of its own.

    Raises LabelError for an unknown scheme, DataError for one of another corpus.
    """
    if name is None and not dataset.label_schemes:
        return labels.identity_scheme(dataset.dataset, emotions)
    scheme = labels.label_scheme(name or dataset.label_schemes[0])
    if scheme.dataset != dataset.dataset:
        valid = ", ".join(labels.schemes_for(dataset.dataset)) or "none"
        raise DataError(f"label scheme {scheme.name} is for {scheme.dataset}, not {dataset.dataset}; valid are {valid}")
    return scheme


def supply(folder: Folder, names: Sequence[str], check: Check = "hashes") -> Supply:
    """Some shards on their way to being read: remote ones are fetched, and always hashed; local ones if asked.

    What waits for one raises DataError or StoreError naming a shard that is not as promised.
    """
    shards = {shard.name: shard for shard in shards_named(folder.dataset, names)}

    def ready(name: str, stop: threading.Event) -> None:
        if folder.place is not None:
            _bring(folder, shards[name], stop)
        else:
            _check_hash(folder.path / name, shards[name].sha256)

    return Supply(shards if folder.place is not None or check == "hashes" else (), ready)


def load_clips(folder: Folder, side: Side, scheme: LabelScheme, members: tuple[str, ...]) -> Clips:
    """Clips of one side of a fold that have a class, by shard and id; of the shards only the receipts are read.

    Raises DataError for an emotion that the scheme does not know, for shards that do not hold what the fold or the
    index promises, and for a side without clips.
    """
    _check_known(scheme, side.clips)
    classes = {emotion: scheme.class_index(emotion) for emotion in side.clips}
    shards = shards_named(folder.dataset, side.shards)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda shard: _part(_receipt(folder, shard), classes, members), shards))
    found = Counter[str]()
    for part in parts:
        found.update(part.emotions)
    sums = [part.statistics for part in parts if part.statistics]
    if found != side.clips:
        raise DataError(f"{folder.path}: found clips {dict(found)}, expected {side.clips} as the fold promises")
    if not sum(len(part.keys) for part in parts):
        who = ", ".join(side.subjects) or "none that was built"
        raise DataError(f"{folder.path}: found no clip with a class; subjects are {who}")
    return Clips(
        folder=folder.path,
        shards=tuple(shard.name for shard in shards),
        speakers=tuple(shard.speaker for shard in shards),
        members=members,
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.keys) for part in parts]),
        keys=np.concatenate([part.keys for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        places=np.concatenate([part.places for part in parts]),
        left_out={emotion: count for emotion, count in sorted(found.items()) if classes[emotion] is None},
        statistics=reduce(add, sums) if sums else None,
    )


def all_clips(
    folder: Folder, members: tuple[str, ...], names: Sequence[str] | None = None
) -> tuple[Clips, tuple[str, ...]]:
    """Every clip of some shards, of all if none are named, whatever folds and label schemes say, and what labels mean.

    Labels are places in the raw emotions that are returned. Raises DataError.
    """
    shards = shards_named(folder.dataset, names) if names is not None else folder.dataset.shards
    known = {shard.name for shard in shards}
    counts = Counter(row.emotion for row in index.load_rows(folder.path) if row.shard in known)
    side = Side(
        shards=tuple(sorted(known)),
        subjects=tuple(sorted({shard.speaker for shard in shards})),
        clips=dict(sorted(counts.items())),
    )
    scheme = labels.identity_scheme(folder.dataset.dataset, counts)
    return load_clips(folder, side, scheme, members), scheme.classes


def shards_named(dataset: Dataset, names: Sequence[str]) -> list[Shard]:
    """What the index promises of some shards."""
    known = {shard.name: shard for shard in dataset.shards}
    return [known[name] for name in names]


def members_for(dataset: Dataset, strategy: Strategy, feature: str) -> tuple[str, ...]:
    """Suffixes of the members that a strategy needs. Raises DataError for a feature that was not built."""
    _check_feature(dataset, feature)
    faces = (FACES,) if strategy.faces else ()
    return (*faces, f"{feature}_{strategy.windows}.npy") if strategy.windows else faces


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """What one shard adds to `Clips`."""

    emotions: Counter[str]
    keys: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    statistics: Statistics | None


def _part(receipt: Receipt, classes: Mapping[str, int | None], members: tuple[str, ...]) -> _Part:
    built = [row for row in receipt.rows if row.shard]
    if {row.clip_id for row in built} != receipt.members.keys():
        raise DataError(f"{receipt.shard}: its receipt tells of other clips than it has places for; build it again")
    used = [row for row in built if classes.get(row.emotion) is not None]
    places = [_places(receipt, row.clip_id, members) for row in used]
    return _Part(
        emotions=Counter(row.emotion for row in built),
        keys=np.array([row.clip_id for row in used], dtype=np.bytes_),
        labels=np.array([classes[row.emotion] for row in used], dtype=np.int64),
        places=np.array(places, dtype=np.int64).reshape(-1, len(members), 2),
        statistics=_statistics(receipt, members),
    )


def _statistics(receipt: Receipt, members: tuple[str, ...]) -> Statistics | None:
    names = [member.removesuffix(".npy") for member in members if member.endswith(".npy")]
    missing = [name for name in names if name not in receipt.statistics]
    if missing:
        raise DataError(f"{receipt.shard}: its receipt has no statistics of {missing[0]}; build it again")
    return receipt.statistics[names[0]] if names else None


def _places(receipt: Receipt, key: str, members: tuple[str, ...]) -> list[tuple[int, int]]:
    places = receipt.members[key]
    missing = [suffix for suffix in members if suffix not in places]
    if missing:
        raise DataError(f"{receipt.shard}: {key} has no {missing[0]}, found {', '.join(places)}; build it again")
    return [places[suffix] for suffix in members]


def _receipt(folder: Folder, shard: Shard) -> Receipt:
    path = folder.path / shard.receipt
    if folder.place is not None:
        download_file(folder.place, folder.path, expected_files(shard)[0])
    _check_hash(path, shard.receipt_sha256)
    receipt = index.load_receipt(path)
    if (receipt.shard, receipt.sha256, receipt.bytes) != (shard.name, shard.sha256, shard.bytes):
        raise DataError(f"{path}: is the receipt of another {receipt.shard} than the index has; build it again")
    return receipt


def _check_known(scheme: LabelScheme, emotions: Mapping[str, int]) -> None:
    known = scheme.mapping.keys() | scheme.left_out
    unknown = {emotion: count for emotion, count in sorted(emotions.items()) if emotion not in known}
    if unknown:
        found = ", ".join(f"{emotion!r} ({count} clips)" for emotion, count in unknown.items())
        raise DataError(f"label scheme {scheme.name}: found {found}; expected only {', '.join(scheme.mapping)}")


def _check_feature(dataset: Dataset, feature: str) -> None:
    if feature not in dataset.features:
        built = ", ".join(dataset.features)
        raise DataError(f"{dataset.dataset}: found no feature {feature!r} in its shards; choose FEATURE= of {built}")


def _check_hash(path: Path, expected: str) -> None:
    """Raise DataError unless a file has a hash, computed once a process."""
    if (path, expected) in _VERIFIED:
        return
    found = index.file_sha256(path)
    if found != expected:
        raise DataError(f"{path}: found SHA-256 {found}, expected {expected}; build or fetch it again")
    _VERIFIED.add((path, expected))


def _bring(folder: Folder, shard: Shard, stop: threading.Event) -> None:
    """Fetch a shard, unless it is known to be here."""
    place, path = folder.place, folder.path / shard.name
    if place is not None and (path, shard.sha256) not in _VERIFIED:
        download_file(place, folder.path, expected_files(shard)[1], stop)
        _VERIFIED.add((path, shard.sha256))
