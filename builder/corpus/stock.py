"""What of a corpus is in a folder, held against what is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.datasets.base import CorpusError, Original
from builder.datasets.checks import is_pointer
from manifests.download import ExpectedFile
from manifests.index import SUMS_FILE, file_sha256, load_sums
from manifests.progress import ProgressBar

#: `unchecked`: there, with nothing to hold it against, since somebody else unpacked it. A git-lfs pointer is `absent`.
State = Literal["right", "unchecked", "wrong", "absent"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One file of a corpus."""

    original: Original
    """The published file that it is, or that holds it."""
    name: str
    """Relative to the corpus folder."""
    state: State
    detail: str = ""
    """Of what is wrong: what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What of the originals is in a folder."""

    findings: tuple[Finding, ...]

    def of(self, state: State) -> list[Finding]:
        """Files in that state."""
        return [finding for finding in self.findings if finding.state == state]

    def originals(self, *states: State) -> tuple[Original, ...]:
        """Originals of which some file is in one of these states, each once."""
        return tuple(dict.fromkeys(finding.original for finding in self.findings if finding.state in states))


def corpus_root(data: Path, originals: Sequence[Original]) -> Path:
    """The corpus's own folder: `data`, or the one folder in it that looks like it. Raises CorpusError for several."""
    tops = {name.partition("/")[0] for original in originals for name in original.files}
    if not data.is_dir() or _holds_any(data, tops):
        return data
    inside = sorted(path for path in data.iterdir() if path.is_dir() and _holds_any(path, tops))
    if len(inside) > 1:
        raise CorpusError(f"{data}: holds the corpus twice, in {inside[0].name} and {inside[1].name}; name one of them")
    return inside[0] if inside else data


def _holds_any(folder: Path, names: set[str]) -> bool:
    return any((folder / name).exists() for name in names)


def take_stock(root: Path, originals: Sequence[Original]) -> Stock:
    """Look at every file of the originals, and hash those that are there. Raises ManifestError for damaged sums."""
    here = {name for original in originals for name in original.files if _is_here(root / name)}
    findings: list[Finding] = []
    with ProgressBar(len(here), f"checking {root}", unit="file") as progress:
        for original in originals:
            sums = _sums(root, original)
            for name in original.files:
                if name not in here:
                    findings.append(Finding(original=original, name=name, state="absent"))
                    continue
                findings.append(_unpacked(root, original, name, sums) if original.holds else _whole(root, original))
                progress.step()
    return Stock(findings=tuple(findings))


def promise(original: Original) -> ExpectedFile:
    """What is published of an original."""
    return ExpectedFile(name=original.name, sha256=original.sha256, md5=original.md5, bytes=original.bytes)


def _is_here(path: Path) -> bool:
    return path.is_file() and not is_pointer(path)


def _whole(root: Path, original: Original) -> Finding:
    path = root / original.name
    size = path.stat().st_size
    if size != original.bytes:
        problem: str | None = f"found {size} bytes, expected {original.bytes}"
    else:
        problem = promise(original).find_mismatch(path)
    return Finding(original=original, name=original.name, state="wrong" if problem else "right", detail=problem or "")


def _sums(root: Path, original: Original) -> dict[str, str]:
    """Name -> SHA-256 of an archive's files, as written beside them when it was unpacked."""
    folders = {name.rpartition("/")[0] for name in original.holds}
    return {
        f"{folder}/{name}": sha256
        for folder in folders
        if (root / folder / SUMS_FILE).is_file()
        for name, sha256 in load_sums(root / folder).items()
    }


def _unpacked(root: Path, original: Original, name: str, sums: Mapping[str, str]) -> Finding:
    expected = sums.get(name)
    if expected is None:
        return Finding(original=original, name=name, state="unchecked")
    found = file_sha256(root / name)
    if found != expected:
        return Finding(
            original=original, name=name, state="wrong", detail=f"found SHA-256 {found}, expected {expected}"
        )
    return Finding(original=original, name=name, state="right")
