"""Shards that are made of finished ones, shard by shard, without the recordings: other features, or codes.

New shards have the names, speakers and clips of the old ones, and an index of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests import index
from manifests.files import FolderError, exclusive_lock, remove_leftovers
from manifests.index import Dataset, ManifestError, Receipt
from manifests.index_writer import WrittenIndex, mark_unfinished, write_index
from manifests.progress import ProgressBar
from manifests.schema import digest
from manifests.shard_writer import ShardName, find_earlier_build, load_intact
from manifests.verify import verify


def open_source(folder: Path, out: Path) -> Dataset:
    """Index of finished shards, after every file was verified. Raises FolderError for an `out` in it, ManifestError."""
    shards, new = folder.resolve(), out.resolve()
    if new.is_relative_to(shards) or shards.is_relative_to(new):
        raise FolderError(f"{out}: the new shards need a separate folder, outside of {folder}; choose it with TO=")
    dataset = index.load_dataset(folder)
    with ProgressBar(len(dataset.shards), f"checking {folder}", unit="shard") as progress:

        def count(name: str) -> None:
            if name.endswith(".tar"):
                progress.step()

        problems = verify(folder, full=True, on_file=count)
    if problems:
        raise ManifestError(
            f"{folder}: {problems[0]} ({len(problems)} problems in total, make verify lists them); restore it first"
        )
    return dataset


def derive(
    folder: Path, out: Path, description: Dataset, write: Callable[[Sequence[ShardName]], None]
) -> tuple[WrittenIndex, int]:
    """Write shards of those in `folder`, and their index; and how many of them were finished before.

    `description` has all fields of the new index but shards, counts and folds; `write` writes some of the shards. If it
    is killed at any point, the same call resumes and gives the same bytes. Raises FolderError for a folder that cannot
    be used, BusyError, ManifestError, OSError, and what `write` does.
    """
    plans = plan_derived(folder, description.identity)
    with exclusive_lock(out, "TO="):
        earlier = find_earlier_build(out, description.dataset, description.identity, "TO=")
        remove_leftovers(out)
        todo = [plan for plan in plans if not load_intact(out, plan)]
        if todo or not (earlier and earlier.complete):
            for name in (index.RECEIPTS, index.FOLDS):
                (out / name).mkdir(exist_ok=True)
            mark_unfinished(out, description)
        if todo:
            write(todo)
        return write_index(out, description, [plan.name for plan in plans]), len(plans) - len(todo)


def plan_derived(folder: Path, identity: Mapping[str, Any]) -> list[ShardName]:
    """All shards of a finished folder in order, including those without a built clip, for a build of this identity."""
    build = digest(identity)
    plans = []
    for name, sha256 in index.load_checksums(folder).items():
        if name.startswith(f"{index.RECEIPTS}/"):
            receipt = index.load_receipt(folder / name)
            content = digest({"build": build, "receipt": sha256})
            plans.append(ShardName(name=receipt.shard, speaker=receipt.speaker, digest=content))
    return sorted(plans, key=lambda plan: (plan.speaker, len(plan.name), plan.name))


def read_members(tar: Path, receipt: Receipt, clip_id: str) -> dict[str, bytes]:
    """Members of a clip of a shard by suffix. Raises ManifestError for a clip that is not in it, OSError."""
    places = receipt.members.get(clip_id)
    if places is None:
        raise ManifestError(f"{tar}: {clip_id}: not in the shard, although its receipt has a row for it")
    members = {}
    with tar.open("rb") as file:
        for suffix, (offset, size) in places.items():
            file.seek(offset)
            members[suffix] = file.read(size)
    return members
