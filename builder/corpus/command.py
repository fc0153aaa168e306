"""The `corpus` command: compares a folder with the published files of a corpus, and downloads what is missing."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from builder.corpus.check import CorpusCheck, State, check_corpus, corpus_root
from builder.corpus.fetch import MAX_FAILURES, CorpusDownload, fetch_corpus, needed_bytes
from builder.corpus.sources import MirroredStore, open_source
from builder.corpus.zenodo import with_checksums
from builder.datasets import get_corpus
from builder.datasets.base import CorpusError, Remote, RemoteFile
from manifests.console import fail, say
from manifests.files import FolderError, exclusive_lock
from manifests.stores import StoreError, open_store
from manifests.text import pluralize

#: Most files in one state that are listed without ALL=1.
_LISTED = 10
#: Most failed files that are listed: usually all fail for the same reason.
_EXAMPLES = 3


def run_corpus(args: argparse.Namespace) -> int:
    """Check and download a corpus. Exit status 0 only if every file is present and none is mismatched."""
    corpus = get_corpus(args.dataset)
    if corpus.remote is None:
        if corpus.homepage:  # published elsewhere
            raise CorpusError(f"{corpus.title}: cannot be downloaded; {corpus.how_to_get}")
        say(f"{corpus.title}: {corpus.how_to_get}")
        return 0
    files = corpus.remote.files()
    root = corpus_root(args.data or Path("data") / corpus.name, files)
    say(corpus.title)
    say(f"licence   {corpus.about()['licence']}; {corpus.homepage}")
    check = check_corpus(root, [file for file in files if file.needed or args.all or (root / file.name).exists()])
    states: tuple[State, ...] = ("mismatched", "missing") if args.check else ("mismatched",)
    for line in describe_check(root, check, listed=states, show_all=args.all):
        say(line)
    if args.check:
        failures = [f"{pluralize(len(missing), 'file')} missing"] if (missing := check.of("missing")) else []
    else:
        wanted = check.remotes("missing", *(["mismatched"] if args.replace else []))
        failures = _download(corpus.remote, root, wanted, args) if wanted else []
    if (mismatched := check.of("mismatched")) and (args.check or not args.replace):
        failures.append(f"{pluralize(len(mismatched), 'file')} mismatched; REPLACE=1 downloads again")
    if failures:
        return fail("; ".join(failures), 1)
    say(f"complete  {root}")
    return 0


def describe_check(root: Path, check: CorpusCheck, *, listed: Sequence[State], show_all: bool) -> list[str]:
    """Describe how many files are in each state, and list those in the `listed` states."""
    counts = [f"{len(check.of(state))} {state}" for state in get_args(State) if check.of(state) and state != "missing"]
    total = len(check.findings)
    present = f"present   {total - len(check.of('missing'))} of {pluralize(total, 'file')} in {root}"
    lines = [": ".join(filter(None, (present, ", ".join(counts))))]
    for state in listed:
        found = [f"  {state}  {each.name}{each.detail and ': '}{each.detail}" for each in check.of(state)]
        lines += limit_lines(found, _LISTED, show_all=show_all)
    return lines


def _download(remote: Remote, root: Path, files: Sequence[RemoteFile], args: argparse.Namespace) -> list[str]:
    """Download files. Returns short descriptions of failures. Raises StoreError if no file could be downloaded."""
    store = open_source(remote, args.address, files)
    needed = needed_bytes(root, files, connections=args.connections, keep_archives=args.keep_archives)
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    say(f"from      {store.address}")
    say(f"to fetch  {pluralize(len(files), 'file')}, {sum(file.bytes for file in files) / 1e6:.1f} MB")
    say(f"disk      {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")
    if needed > free:
        raise FolderError(f"{root}: not enough disk space; free some space, or choose another folder with DATA=")
    with exclusive_lock(root, "DATA=", cleanup=True):
        if remote.record is not None:
            address = (args.address or remote.address).rstrip("/")
            files = with_checksums(open_store(address), remote.record, files)
        done = fetch_corpus(store, root, files, connections=args.connections, keep_archives=args.keep_archives)
    if isinstance(store, MirroredStore) and store.refusal:
        say(f"mirror    {store.mirror.address}, because of {store.refusal} of {store.primary.address}")
    reasons = set(done.failed.values())
    if (
        not done.files and len(done.failed) + done.not_tried > 1 and len(reasons) == 1
    ):  # the server's fault, not a file's
        raise StoreError(f"{store.address}: {reasons.pop()}")
    for line in describe_download(done, show_all=args.all):
        say(line)
    failures = []
    if done.failed:
        failures.append(f"{pluralize(len(done.failed), 'file')} failed; run the same command to try again")
    if done.not_tried:
        failures.append(f"{pluralize(done.not_tried, 'file')} not tried after {MAX_FAILURES} failures in a row")
    if failures and not done.files:
        raise StoreError("; ".join(failures))
    return failures


def describe_download(done: CorpusDownload, *, show_all: bool) -> list[str]:
    """Describe how much was downloaded, and why files failed."""
    lines = [f"fetched   {pluralize(done.files, 'file')}, {done.bytes / 1e6:.1f} MB, each verified"]
    failed = [f"  failed  {name}: {why}" for name, why in sorted(done.failed.items())]
    return [*lines, *limit_lines(failed, _EXAMPLES, show_all=show_all)]


def limit_lines(lines: Sequence[str], most: int, *, show_all: bool) -> list[str]:
    """The first lines of a long list and the number of the others, or all lines with `show_all` (ALL=1)."""
    if show_all or len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"  ... and {len(lines) - most} more (ALL=1 lists them)"]
