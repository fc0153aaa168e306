"""Checks a shard folder against its index: lists every file that is missing, damaged or unexpected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import index
from manifests.files import file_sha256
from manifests.index import Dataset, ManifestError, Shard
from manifests.schema import SchemaError, member_names
from manifests.text import escape_unprintable, pluralize


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
    receipts. `on_file` is called with each file's name before it is checked.

    Raises ManifestError if the index cannot be read.
    """
    dataset = index.load_dataset(folder)
    if not dataset.complete:
        return [Problem(file=index.DATASET_FILE, found="an unfinished build", expected="a finished one")]
    sums = index.load_checksums(folder)
    # Only the sums list receipts of shards without a clip, and Croissant metadata.
    extra = {name for name in sums if name.startswith(f"{index.RECEIPTS}/") or name == index.CROISSANT_FILE}
    expected = index.expected_names(dataset, {shard.receipt for shard in dataset.shards} | extra)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    problems = [
        Problem(file=name, found="a file the index does not know", expected="nothing by that name")
        for name in sorted(present - {*expected, *index.UNLISTED_FILES})
        if not name.startswith(".")
    ]
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
    if size is not None and path.stat().st_size != size:
        return Problem(file=name, found=f"{path.stat().st_size} bytes", expected=f"{size}")
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
