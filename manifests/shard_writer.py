"""Writes shards, whatever their samples are: first a deterministic tar, then its receipt; and finds finished ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifests import index
from manifests.files import FolderError, atomic_write, atomic_writer, check_regular, find_files
from manifests.index import Dataset, ManifestError, Receipt, Row, SpectrogramSums, file_sha256, receipt_name
from manifests.text import config_diff


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """The members of a clip that was built, or the reason in the row of one that was dropped."""

    row: Row
    members: Mapping[str, bytes] | None
    """Member suffix -> bytes in tar order; None for a dropped clip."""
    statistics: Mapping[str, SpectrogramSums]
    """Spectrogram name -> sums of its values; {} for a dropped clip."""


@dataclass(frozen=True, kw_only=True)
class ShardName:
    """A shard before it is written."""

    name: str
    """`<speaker>-<part>.tar`."""
    speaker: str
    digest: str
    """SHA-256 of its planned content and of the build's identity; a receipt must have the same one."""


def write_shard(
    folder: Path, shard: ShardName, clips: Iterable[ClipResult], statistics: Mapping[str, SpectrogramSums] = {}
) -> Receipt:
    """Write the tar of the built clips, then the receipt of all. `clips` may be lazy.

    `statistics` are those of the shard, if they are known and clips have none.
    """
    from webdataset.writer import TarWriter  # imports torch where it is installed: workers do without

    path = folder / shard.name
    rows: list[Row] = []
    sums = dict(statistics)
    built = False
    # Fixed times and owners: same samples, same bytes. A float time would need an extra header.
    with atomic_writer(path) as file, TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
        for clip in clips:
            if clip.members is None:
                rows.append(clip.row)
                continue
            built = True
            rows.append(replace(clip.row, shard=shard.name))
            tar.write({"__key__": clip.row.clip_id, **clip.members})
            sums |= {name: sums[name] + each if name in sums else each for name, each in clip.statistics.items()}
    if not built:
        path.unlink()
    receipt = Receipt(
        shard=shard.name,
        speaker=shard.speaker,
        plan=shard.digest,
        sha256=file.sha256 if built else None,
        bytes=file.bytes if built else 0,
        members=index.member_byte_ranges(path) if built else {},
        rows=tuple(rows),
        statistics=sums,
    )
    atomic_write(folder / receipt_name(shard.name), index.dump_receipt(receipt))
    return receipt


def load_intact(folder: Path, shard: ShardName) -> Receipt | None:
    """Load the receipt of a shard; None unless it has this digest and its tar is intact. Recordings are not read."""
    receipt = load_present(folder, shard)
    if receipt is None or (receipt.sha256 and file_sha256(folder / shard.name) != receipt.sha256):
        return None
    return receipt


def load_present(folder: Path, shard: ShardName) -> Receipt | None:
    """The same, but of the tar only the size is checked."""
    path, tar = folder / receipt_name(shard.name), folder / shard.name
    if not path.is_file():
        return None
    try:
        receipt = index.load_receipt(path)
    except ManifestError:
        return None  # damaged or foreign: rebuild the shard
    complete = tar.is_file() and tar.stat().st_size == receipt.bytes if receipt.sha256 else not tar.exists()
    return receipt if complete and receipt.plan == shard.digest else None


def find_earlier_build(folder: Path, corpus: str, identity: Mapping[str, Any], setting: str = "OUT=") -> Dataset | None:
    """Index of the build in a folder; None for a folder without files.

    Raises FolderError for other files, for links and devices, and for a build of another corpus or with another
    identity; `setting` is named in the error message.
    """
    index_file = folder / index.DATASET_FILE
    if not index_file.exists():  # before links: those among other files are none of ours to remove
        others = sorted(folder / name for name, _ in find_files(folder) if not Path(name).name.startswith("."))
        if others and not index_file.exists():  # another part of the same build may have started in the meantime
            raise FolderError(
                f"{others[0]}: not written by a build: found no {index.DATASET_FILE}; choose an empty folder with "
                f"{setting.rpartition(' ')[2]}"
            )
        check_regular(folder)
        if not others:
            return None
    check_regular(folder)
    earlier = index.load_dataset(folder)
    if earlier.dataset != corpus:
        raise FolderError(f"{folder}: has shards of {earlier.dataset}, not of {corpus}; choose another {setting}")
    if changed := config_diff(earlier.identity, identity):
        raise FolderError(f"{folder}: was built differently ({'; '.join(changed)}); choose another {setting}")
    return earlier
