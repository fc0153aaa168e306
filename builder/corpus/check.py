"""Compares the files in a folder with the published files of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.datasets.base import CorpusNotFoundError, RemoteFile
from builder.datasets.checks import corpus_folder, is_pointer
from manifests.download import ExpectedFile
from manifests.index import SUMS_FILE, file_sha256, load_checksums
from manifests.progress import ProgressBar

#: `unchecked`: present without a known checksum, because the user unpacked it. A git-lfs pointer counts as `missing`.
State = Literal["verified", "unchecked", "mismatched", "missing"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One file of a corpus."""

    remote: RemoteFile
    """The published file, or the archive that contains the file."""
    name: str
    """Relative to the corpus folder."""
    state: State
    detail: str = ""
    """For a mismatched file: what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class CorpusCheck:
    """The state of each file of a corpus in a folder."""

    findings: tuple[Finding, ...]

    def of(self, state: State) -> list[Finding]:
        """Files in a state."""
        return [finding for finding in self.findings if finding.state == state]

    def remotes(self, *states: State) -> tuple[RemoteFile, ...]:
        """Published files with any file in one of these states, without duplicates."""
        return tuple(dict.fromkeys(finding.remote for finding in self.findings if finding.state in states))


def corpus_root(data: Path, remotes: Sequence[RemoteFile]) -> Path:
    """Corpus folder: `data`, or the only folder in it that has the corpus. Raises CorpusError if several have it."""
    tops = {name.partition("/")[0] for remote in remotes for name in remote.files}
    if not data.is_dir():
        return data
    try:
        return corpus_folder(data, lambda folder: any((folder / top).exists() for top in tops), "its files")
    except CorpusNotFoundError:
        return data


def check_corpus(root: Path, remotes: Sequence[RemoteFile]) -> CorpusCheck:
    """Find every file, and hash those that are present. Raises ManifestError for a damaged `SHA256SUMS`.

    Files of an archive are compared with the sums that were written beside them when it was unpacked.
    """
    names = [name for remote in remotes for name in remote.files]
    present = {name for name in names if (root / name).is_file() and not is_pointer(root / name)}
    findings: list[Finding] = []
    with ProgressBar(len(present), f"checking {root}", unit="file") as progress:
        for remote in remotes:
            folders = {
                name.rpartition("/")[0] for name in remote.members if (root / name).with_name(SUMS_FILE).is_file()
            }
            checksums = {
                f"{folder}/{name}": each for folder in folders for name, each in load_checksums(root / folder).items()
            }
            for name in remote.files:
                state: State = "missing"
                detail = ""
                if name in present:
                    state, detail = _check_file(root / name, remote, checksums.get(name))
                    progress.step()
                findings.append(Finding(remote=remote, name=name, state=state, detail=detail))
    return CorpusCheck(findings=tuple(findings))


def expected_file(remote: RemoteFile) -> ExpectedFile:
    """Size and checksum of a published file."""
    return ExpectedFile(name=remote.name, sha256=remote.sha256, md5=remote.md5, bytes=remote.bytes)


def _check_file(path: Path, remote: RemoteFile, unpacked_sha256: str | None) -> tuple[State, str]:
    if remote.members and unpacked_sha256 is None:
        return "unchecked", ""
    size = path.stat().st_size
    problem: str | None = f"found {size} bytes, expected {remote.bytes}"
    if remote.members:
        found = file_sha256(path)
        problem = None if found == unpacked_sha256 else f"found SHA-256 {found}, expected {unpacked_sha256}"
    elif size == remote.bytes:
        problem = expected_file(remote).find_mismatch(path)
    return ("mismatched", problem) if problem else ("verified", "")
