"""Checks a shard folder against its index: lists every file that is missing, damaged or unexpected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import index
from manifests.files import LOCK_FILE, file_sha256, find_strange
from manifests.index import Dataset, ManifestError, Shard
from manifests.schema import SchemaError, member_names
from manifests.text import escape_unprintable, pluralize

UNFINISHED_BUILD = "an unfinished build"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One difference between a folder and its index."""

    file: str
    found: str
    expected: str

    def __str__(self) -> str:
        return escape_unprintable(f"{self.file}: found {self.found}, expected {self.expected}")


def verify(folder: Path, full: bool = False, on_file: Callable[[str], None] | None = None) -> list[Problem]:
    """Check a folder against its index; returns every problem.

    Quick: each listed file exists with its size, and there are no other files. Full: every hash, and each shard's
    members at the offsets in its receipt. Shards that a partial fetch left out may be missing, with their
    receipts. Hidden entries are no problem, see `hidden_entries`, unless they are links or devices: if there are any,
    hidden or not, they are the only problems that are returned, and no file is opened. `on_file` is called with each
    file's name before it is checked.

    Raises ManifestError if the index cannot be read.
    """
    if strange := find_strange(folder):
        return [Problem(file=name, found=kind, expected="a regular file or a folder") for name, kind in strange]
    dataset = index.load_dataset(folder)
    if not dataset.complete:
        return [Problem(file=index.DATASET_FILE, found=UNFINISHED_BUILD, expected="a finished one")]
    sums = index.load_checksums(folder)
    # Only the sums list receipts of shards without a clip, and Croissant metadata.
    extra = {name for name in sums if name.startswith(f"{index.RECEIPTS}/") or name == index.CROISSANT_FILE}
    expected = index.expected_names(dataset, {shard.receipt for shard in dataset.shards} | extra)
    problems = [
        Problem(file=name, found=f"a {kind} the index does not know", expected="nothing by that name")
        for name in sorted(_present_names(folder) - {*expected, *index.UNLISTED_FILES})
        for kind in ["folder" if (folder / name).is_dir() else "file"]
        if not name.startswith(".")
    ]
    if (folder / index.PENDING_WITHDRAWAL_FILE).exists():
        problems.append(
            Problem(file=index.PENDING_WITHDRAWAL_FILE, found="an unfinished withdrawal", expected="a finished one")
        )
    problems += _compare_sums(dataset, sums, expected)
    sizes = {shard.name: shard.bytes for shard in dataset.shards}
    shards = index.local_shards(folder, dataset)
    not_fetched = _find_not_fetched(folder, dataset, shards, expected)
    for name in (name for name in expected if name not in not_fetched):
        if on_file is not None:
            on_file(name)
        if problem := _check_file(folder / name, name, sizes.get(name), sums.get(name) if full else None):
            problems.append(problem)
    if full and not problems:
        suffixes = set(member_names(dataset.features))
        problems = [problem for shard in shards for problem in _check_members(folder, shard, suffixes)]
    return problems


def hidden_entries(folder: Path) -> list[str]:
    """Files and folders whose name begins with a dot, sorted: leftovers, or another program's; not the known ones."""
    named = (LOCK_FILE, index.PENDING_WITHDRAWAL_FILE)
    return sorted(name for name in _present_names(folder) if name.startswith(".") and name not in named)


def _present_names(folder: Path) -> set[str]:
    """Names of all files, and of folders that a shard folder does not have. Those are not searched."""
    top = {path.name: path for path in folder.iterdir()}
    ours = [top[name] for name in (index.RECEIPTS, index.FOLDS) if name in top and top[name].is_dir()]
    inside = {f"{sub.name}/{path.name}" for sub in ours for path in sub.iterdir()}
    return inside | top.keys() - {sub.name for sub in ours}


def _find_not_fetched(folder: Path, dataset: Dataset, shards: Sequence[Shard], expected: Iterable[str]) -> set[str]:
    """Missing shards and receipts that a partial fetch left out."""
    if len(shards) == len(dataset.shards):
        return set()
    wanted = {name for shard in shards for name in (shard.name, shard.receipt)}
    shard_files = (name for name in expected if name.endswith(".tar") or name.startswith(f"{index.RECEIPTS}/"))
    return {name for name in shard_files if name not in wanted and not (folder / name).exists()}


def _compare_sums(dataset: Dataset, sums: Mapping[str, str], expected: Sequence[str]) -> Iterator[Problem]:
    """The index and SHA256SUMS must list the same files, tars and receipts with the same hashes."""
    for name in sorted(sums.keys() ^ set(expected)):
        found, wanted = ("a line", "none") if name in sums else ("no line", "one")
        yield Problem(file=index.SUMS_FILE, found=f"{found} for {name}", expected=wanted)
    for shard in dataset.shards:
        for name, sha256 in ((shard.name, shard.sha256), (shard.receipt, shard.receipt_sha256)):
            if sums.get(name, sha256) != sha256:
                yield Problem(file=index.SUMS_FILE, found=f"{sums[name]} for {name}", expected=sha256)


def _check_file(path: Path, name: str, size: int | None, sha256: str | None) -> Problem | None:
    """Compare a file with its size and hash, unless they are None."""
    if path.is_symlink() or not path.is_file():
        return Problem(file=name, found="no regular file" if path.exists() else "nothing", expected="a file")
    found_bytes = path.stat().st_size
    if size is not None and found_bytes != size:
        return Problem(file=name, found=f"{found_bytes} bytes", expected=f"{size}")
    if size is None and found_bytes > index.max_bytes(name):
        return Problem(file=name, found=f"{found_bytes} bytes", expected=f"at most {index.max_bytes(name)}")
    if sha256 is not None:
        try:
            found = file_sha256(path)
        except OSError as error:
            found = str(error.strerror)
        if found != sha256:
            return Problem(file=name, found=f"SHA-256 {found}", expected=sha256)
    return None


def _check_members(folder: Path, shard: Shard, suffixes: set[str]) -> Iterator[Problem]:
    """Check that the receipt's offsets match the tar, and that every sample is complete."""
    try:
        receipt, members = index.load_receipt(folder / shard.receipt), index.member_byte_ranges(folder / shard.name)
    except (ManifestError, SchemaError) as error:
        yield Problem(file=shard.name, found=str(error), expected="a shard and its receipt")
        return
    if receipt.members != members:
        yield Problem(file=shard.receipt, found=f"other members than in {shard.name}", expected="the same")
    if len(members) != shard.samples:
        yield Problem(file=shard.name, found=pluralize(len(members), "sample"), expected=f"{shard.samples}")
    for key, places in members.items():
        if places.keys() != suffixes:
            expected = ", ".join(sorted(suffixes))
            yield Problem(file=shard.name, found=f"{key} with {', '.join(places)}", expected=expected)
