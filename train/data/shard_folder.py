"""A folder of finished shards, local or remote: its index, its fold schemes, its receipts and shards.

The folder is compared with its index when it is opened. Shards are hashed in the background, before they are decoded.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from manifests import index
from manifests.download import ExpectedFile, download_file
from manifests.errors import module_command
from manifests.fetch import fetch_command, mirror_index
from manifests.folds import SPLIT_SIDES, FoldFile, FoldSides, Side, load_fold_file, resolve_scheme
from manifests.index import Dataset, Receipt, ResolvedFold, Shard
from manifests.splits import read_split
from manifests.stores import Store, is_remote, open_store
from manifests.tables import is_table
from manifests.verify import verify
from train.data import DataError
from train.data.prefetch import ShardPrefetcher

#: `hashes` reads every byte of the shards that are used, once a process; `sizes` trusts local shards of the right size.
Check = Literal["hashes", "sizes"]

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

    def fetch_command_of_all(self) -> str:
        """The command that fetches all shards that are missing."""
        return module_command("manifests", "fetch", self.source, str(self.path))

    @property
    def location(self) -> str:
        """Path, or the address of a remote folder, to open it again."""
        return self.store.address if self.store else str(self.path)

    def shards(self, names: Sequence[str]) -> list[Shard]:
        """Entries of the index for some shards."""
        known = {shard.name: shard for shard in self.index.shards}
        return [known[name] for name in names]


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
        return ShardFolder(path, dataset, frozenset(shard.name for shard in dataset.shards), store=store)
    path = Path(location)
    if problems := verify(path):
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}; build or fetch it again")
    dataset, fetched = index.load_dataset(path), index.load_fetched(path)
    available = frozenset(shard.name for shard in index.local_shards(path, dataset))
    return ShardFolder(path, dataset, available, source=fetched.source if fetched else "")


def default_cache() -> Path:
    """Where remote folders are mirrored: `multimae-der` in the user's cache folder. Raises DataError without one."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimae-der"
    except RuntimeError as error:  # a user without an entry in the password file
        raise DataError("found no home folder, expected one for the cache; set XDG_CACHE_HOME to a folder") from error


def find_folder(root: Path, dataset: str | None = None, setting: str = "DATASET= (--dataset)") -> Path:
    """The shards of a corpus in a folder of corpora, or those of its only corpus.

    Raises DataError, naming the setting that chooses the corpus.
    """
    if dataset and (root / dataset).is_dir():
        return root / dataset
    found = sorted(path.parent for path in root.glob(f"*/{index.DATASET_FILE}"))
    if not dataset and len(found) == 1:
        return found[0]
    advice = "found no shards of any corpus; `make shards` builds them, `make fetch` downloads them"
    if found:
        advice = f"found shards of {', '.join(path.name for path in found)}; choose with {setting}"
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


def fold_sides(folder: ShardFolder, fold: str, scheme: str | None = None) -> FoldSides:
    """`train`, `validation` and `test` of a fold. Raises what `open_scheme` does, and DataError for an unknown fold."""
    file = open_scheme(folder, scheme)
    if fold not in file.folds:
        raise DataError(f"{file.name}: unknown fold {fold!r}; valid are {', '.join(file.folds)}")
    return file.folds[fold]


def prefetch_shards(folder: ShardFolder, names: Sequence[str], check: Check = "hashes") -> ShardPrefetcher:
    """Prepare shards in the background: remote ones are downloaded and always hashed, local ones hashed on request.

    Waiting for one raises DataError or StoreError naming the shard that does not match the index.
    """
    return prefetch({shard.name: (folder, shard) for shard in folder.shards(names)}, check)


def prefetch(shards: Mapping[str, tuple[ShardFolder, Shard]], check: Check = "hashes") -> ShardPrefetcher:
    """The same for shards of any folders: `shards` is the name that one is waited for by -> its folder and entry."""

    def prepare(name: str, stop: threading.Event) -> None:
        folder, shard = shards[name]
        path = folder.path / shard.name
        if folder.store is None:
            _check_hash(path, shard.sha256)
        elif (path, shard.sha256) not in verified_files:
            download_file(folder.store, folder.path, ExpectedFile.tar_of(shard), stop)
            verified_files.add((path, shard.sha256))

    needed = [name for name, (folder, _) in shards.items() if folder.store is not None or check == "hashes"]
    return ShardPrefetcher(needed, prepare)


def load_receipt(folder: ShardFolder, shard: Shard, stop: threading.Event) -> Receipt:
    """Receipt of a shard, of a remote one downloaded. Raises DataError if it does not match the index."""
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
