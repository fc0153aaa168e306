"""Checks a shard folder against its index: lists every file that is missing, damaged or unexpected."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests import index
from manifests.files import LOCK_FILE, file_sha256, find_irregular, open_regular
from manifests.folds import SIDES, FoldError, FoldFile, load_fold_file
from manifests.index import Dataset, ManifestError, Receipt, Shard
from manifests.schema import SchemaError, feature_members
from manifests.text import escape_unprintable

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

    Quick: each listed file exists with its size, and there are no other files; fold files and receipts are valid, and
    agree with the index. Full: also every hash, each row of `clips.jsonl`, each shard's members at the offsets in its
    receipt, and every sample is decoded. Shards that a partial fetch left out may be missing, with their receipts.
    Hidden entries are no problem, see `hidden_entries`, unless they are links or devices: if there are any, hidden or
    not, they are the only problems that are returned, and no file is opened. `on_file` is called with each file's name
    before it is checked.

    Raises ManifestError if the index cannot be read.
    """
    if strange := find_irregular(folder):
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
    shards = index.local_shards(folder, dataset)
    sizes = {shard.name: shard.bytes for shard in dataset.shards}
    not_fetched = _find_not_fetched(folder, dataset, shards, expected)
    content, intact, wrong = _Content(folder, dataset), set[str](), list[Problem]()
    # Tars last: their samples are compared with the receipts.
    for name in sorted((name for name in expected if name not in not_fetched), key=sizes.__contains__):
        if on_file is not None:
            on_file(name)
        problem = _check_file(folder / name, name, sizes.get(name), sums.get(name) if full else None)
        if problem is None:
            try:
                content.check(name, intact, full=full)
                intact.add(name)
            except (FoldError, ManifestError, SchemaError) as error:
                found = str(error).replace(f"{folder}/", "")
                problem = Problem(file=name, found=f"invalid content ({found})", expected="that of a finished build")
        wrong += [problem] if problem else []
    return problems + sorted(wrong, key=lambda problem: problem.file)


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


class _Content:
    """Checks what files contain, after their sizes and hashes."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self._folder = folder
        self._dataset = dataset
        self._tars = {shard.name: shard for shard in dataset.shards}
        self._receipts = {shard.receipt: shard for shard in dataset.shards}
        self._clips: dict[str, Counter[str]] | None = None
        """Shard -> raw emotion -> clips, once `clips.jsonl` was read."""

    def check(self, name: str, intact: Collection[str], *, full: bool) -> None:
        """Raise FoldError, ManifestError or SchemaError if no command accepts a file; `intact` are those before it."""
        if name.startswith(f"{index.FOLDS}/"):
            self._check_folds(load_fold_file(self._folder / name, {s.name: s.speaker for s in self._dataset.shards}))
        elif name.startswith(f"{index.RECEIPTS}/"):
            self._check_receipt(index.load_receipt(self._folder / name), name)
        elif full and name == index.CLIPS_FILE:
            self._clips = self._count_clips()
        elif full and name in self._tars:
            receipt = self._tars[name].receipt
            self._check_samples(name, index.load_receipt(self._folder / receipt) if receipt in intact else None)

    def _count_clips(self) -> dict[str, Counter[str]]:
        clips = {name: Counter[str]() for name in self._tars}
        for row in index.load_rows(self._folder):
            if row.shard is not None:
                if row.shard not in self._tars or self._tars[row.shard].speaker != row.speaker:
                    raise ManifestError(f"found {row.clip_id} in {row.shard}, expected a shard of {row.speaker}")
                clips[row.shard][row.raw_label] += 1
        return clips

    def _check_folds(self, file: FoldFile) -> None:
        if (counts := self._clips) is None:
            return
        for fold, sides in file.folds.items():
            for side in SIDES:
                clips = sum((counts[name] for name in sides[side].shards), Counter[str]())
                if sides[side].partial:
                    chosen = {*sides[side].shards}
                    rows = (row for row in index.load_rows(self._folder) if row.shard in chosen)
                    clips = Counter(row.raw_label for row in rows if sides[side].has(row))
                if clips != sides[side].clips:
                    found = f"found clips {dict(sides[side].clips)}, expected {dict(clips)}"
                    raise FoldError(f"folds.{fold}.{side}: {found} as in {index.CLIPS_FILE}")

    def _check_receipt(self, receipt: Receipt, name: str) -> None:
        shard = self._receipts.get(name)
        if shard is None:  # every clip was dropped
            if index.receipt_name(receipt.shard) != name or receipt.sha256 is not None or receipt.members:
                raise ManifestError(f"found a receipt of {receipt.shard}, expected one without a clip")
            return
        wanted = (shard.name, shard.speaker, shard.sha256, shard.bytes, shard.samples)
        found = (receipt.shard, receipt.speaker, receipt.sha256, receipt.bytes, len(receipt.members))
        if found != wanted:
            raise ManifestError(f"found {found}, expected {wanted} as in {index.DATASET_FILE}")
        rows = [row for row in receipt.rows if row.shard is not None]
        if {row.clip_id for row in rows} != receipt.members.keys():
            raise ManifestError("found rows of other clips than members, expected the same")
        spectrograms = {suffix.removesuffix(".npy") for suffix in feature_members(self._dataset.features)}
        heard = any("no_sound" not in row.flags for row in rows)
        if heard and not spectrograms <= receipt.statistics.keys():
            listed = ", ".join(receipt.statistics) or "nothing"
            raise ManifestError(f"found statistics of {listed}, expected {', '.join(sorted(spectrograms))}")
        if self._clips is not None and self._clips[shard.name] != Counter(row.raw_label for row in rows):
            raise ManifestError(f"found other clips than in {index.CLIPS_FILE}, expected the same")

    def _check_samples(self, name: str, receipt: Receipt | None) -> None:
        """Check that every sample is complete and can be decoded, and that a tar is as its receipt, if there is one."""
        members = index.member_byte_ranges(self._folder / name)
        if receipt is not None and receipt.members != members:
            raise SchemaError(f"found other members than in {index.receipt_name(name)}, expected the same")
        suffixes, speaker = self._dataset.members, self._tars[name].speaker
        emotions = {row.clip_id: row.emotion for row in receipt.rows} if receipt is not None else {}
        with open_regular(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW) as tar:
            for key, places in members.items():
                if places.keys() != set(suffixes):
                    raise SchemaError(f"found {key} with {', '.join(places)}, expected {', '.join(suffixes)}")
                try:
                    data = {part: os.pread(tar.fileno(), size, at) for part, (at, size) in places.items()}
                    clip = self._dataset.sample_kind.check(data)
                except SchemaError as error:
                    raise SchemaError(f"{key}: {error}") from error
                wanted = (key, speaker, emotions.get(key, clip.emotion))
                if (found := (clip.clip_id, clip.speaker, clip.emotion)) != wanted:
                    raise SchemaError(f"{key}.json: found clip, speaker and emotion {found}, expected {wanted}")
