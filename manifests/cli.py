"""Commands of `python -m manifests`: verify, share and fetch a folder of shards, add folds, withdraw speakers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from manifests import folds, licensing
from manifests.console import Parser, add_command, fail, folder_path, say
from manifests.fetch import THREADS, FetchError, FoldRequest, fetch
from manifests.folds import SIDES
from manifests.index import load_dataset, local_shards
from manifests.index_writer import add_split
from manifests.share import ShareError, ShareOptions, VerificationError, share
from manifests.stores import KINDS, WRITABLE_KINDS, open_writable_store
from manifests.text import one_line, pluralize
from manifests.verify import UNFINISHED_BUILD, Problem, hidden_entries, verify
from manifests.withdraw import is_withdrawal_pending, withdraw

_STATUSES = """
exit status: 0 on success; 1 if files are damaged or could not be fetched, listed one per line; 2 if the command could
not run: invalid arguments, or a folder or a store that cannot be used; 130 after Ctrl-C
"""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m manifests",
        description="Verify, share and fetch folders of shards, add folds, withdraw speakers.",
        epilog=_STATUSES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = add_command(commands, "verify", _verify, "check a shard folder against its index")
    command.add_argument("folder", type=folder_path)
    command.add_argument("--quick", action="store_true", help="sizes, folds and receipts only: no hashes, no samples")

    command = add_command(commands, "share", _share, "copy a finished shard folder to a store")
    command.add_argument("folder", type=folder_path)
    command.add_argument("destination", help=WRITABLE_KINDS)
    command.add_argument("--affirm", metavar="WORDS", help="affirms that the recipient has the licence, if required")
    command.add_argument("--public", action="store_true", help="make the copy public (default: private)")
    command.add_argument("--no-report", dest="report", action="store_false", help="omit report.html, which shows faces")
    command.add_argument("--prune", action="store_true", help="remove files that the folder no longer has")

    command = fetch = add_command(commands, "fetch", _fetch, "fetch the shards of a fold, or all shards, from a store")
    command.add_argument("source", help=KINDS)
    command.add_argument("folder", type=folder_path)
    command.add_argument("--dataset", help="expected corpus")
    command.add_argument(
        "--fold", help="name or number of a fold (default: all shards, or the only fold of the scheme)"
    )
    command.add_argument("--fold-scheme", help="fold scheme (default: the corpus's default)")
    command.add_argument("--split", nargs="+", choices=folds.SPLIT_SIDES, default=[], help="train includes validation")
    command.add_argument("--prune", action="store_true", help="remove local files that the source withdrew or replaced")
    command.add_argument("--threads", type=int, default=THREADS, help="concurrent downloads")

    command = add_command(commands, "folds", _add_split, "add the folds of a table to a finished folder")
    command.add_argument("folder", type=folder_path)
    command.add_argument("table", type=folder_path, metavar="split.csv")
    for each in (command, fetch):
        each.add_argument("--allow-shared-speakers", action="store_true", help="accept speakers on several sides")

    command = add_command(commands, "withdraw", _withdraw, "remove speakers from a finished folder")
    command.add_argument("folder", type=folder_path)
    command.add_argument("speaker", nargs="+", metavar="SPEAKER")
    return parser


def _verify(args: argparse.Namespace) -> int:
    problems = verify(args.folder, full=not args.quick)
    for name in hidden_entries(args.folder):
        say(f"note {name}: hidden, not in the index and never read")
    if problems:
        return _report_bad_folder(args.folder, problems)
    say(f"{_describe_content(args.folder)} ({'every size' if args.quick else 'every hash and sample'})")
    return 0


def _share(args: argparse.Namespace) -> int:
    if not args.destination:
        raise ShareError("no destination; set DEST=folder|s3://bucket/path|hf://datasets/owner/name")
    store = open_writable_store(args.destination)
    dataset = load_dataset(args.folder)
    licence = licensing.known_licence(dataset)
    conditions = f" ({licence.conditions}; {licence.url})" if licence else ""
    say(f"licence of the recordings: {licensing.about(dataset, 'licence') or 'not stated'}{conditions}")
    say(f"{licensing.PERSONAL_DATA} report.html shows faces too.")
    sys.stdout.flush()
    options = ShareOptions(affirmed=args.affirm, public=args.public, report=args.report, prune=args.prune)
    try:
        result = share(args.folder, store, options)
    except VerificationError as error:
        fail(str(error))
        return _report_bad_folder(args.folder, error.problems)
    files = f"{result.sent} of {pluralize(result.files, 'file')} ({result.sent_bytes / 1e6:.1f} MB)"
    sent = f"sent {files}" if result.sent else "no files to send"
    say(f"{sent}; all {result.bytes / 1e6:.1f} MB are at {store.address}, every hash checked")
    if result.removed:
        history = f"; {store.keeps_history} still contain them" if store.keeps_history else ""
        say(f"removed at the destination: {', '.join(result.removed)}{history}")
    if result.others:
        say(f"unknown files at the destination, not changed: {', '.join(map(one_line, result.others))}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    if not args.source:
        raise FetchError("no source; set FROM=folder|https://...|s3://...|hf://datasets/owner/name")
    selected = args.fold is not None or args.split or args.fold_scheme
    selector = selected and FoldRequest(
        fold=args.fold,
        scheme=args.fold_scheme,
        allow_shared_speakers=args.allow_shared_speakers,
        splits=tuple(args.split),
    )
    result = fetch(args.source, args.folder, selector, dataset=args.dataset, prune=args.prune, threads=args.threads)
    for problem in result.problems:
        say(f"BAD  {problem}")
    moved = f"{pluralize(result.moved, 'shard')} fetched, {result.moved_bytes / 1e6:.1f} MB"
    kept = f"{result.kept} of {pluralize(len(result.local), 'shard')} already present"
    say(f"{moved if result.moved else 'no files to fetch'}; {kept}")
    if result.removed:
        say(f"removed locally: {', '.join(result.removed)}")
    if result.problems:
        say(f"{len(result.problems)} not fetched; run the same command to retry")
        return 1
    say(f"{args.folder}: {_describe_content(args.folder)}")
    return 0


def _add_split(args: argparse.Namespace) -> int:
    file = add_split(args.folder, args.table, allow_shared_speakers=args.allow_shared_speakers)
    for fold, sides in file.folds.items():
        counts = ", ".join(f"{side} {sum(sides[side].clips.values())}" for side in SIDES)
        say(f"fold {fold}: clips of {counts}")
    say(f"{args.folder}: has the fold scheme {file.name}, which SCHEME= can name here and in shared copies")
    return 0


def _withdraw(args: argparse.Namespace) -> int:
    result = withdraw(args.folder, args.speaker)
    speakers = ", ".join(result.speakers)
    if not result.shards:
        say(f"{speakers}: already withdrawn; the folder has none of their shards")
        return 0
    removed = f"{pluralize(result.shards, 'shard')}, {pluralize(result.clips, 'clip')}, {result.bytes / 1e6:.1f} MB"
    say(f"{speakers}: removed {removed}")
    if result.report_removed:
        say("report.html showed faces and was removed; make report generates it again")
    if result.skipped_schemes:
        say(f"fold schemes that no longer fit: {', '.join(result.skipped_schemes)}")
    say("shared copies still contain them: make share DEST=... PRUNE=1 for each")
    return 0


def _describe_content(folder: Path) -> str:
    """Describe how many of the published shards a folder has."""
    dataset = load_dataset(folder)
    here = local_shards(folder, dataset)
    samples, size = sum(shard.samples for shard in here), sum(shard.bytes for shard in here) / 1e6
    shards = pluralize(len(dataset.shards), "shard")
    if len(here) == len(dataset.shards):
        return f"complete: {pluralize(samples, 'sample')} in {shards}, {size:.1f} MB"
    all_samples = pluralize(sum(shard.samples for shard in dataset.shards), "sample")
    return f"partial: {samples} of {all_samples} in {len(here)} of {shards}, {size:.1f} MB"


def _report_bad_folder(folder: Path, problems: Sequence[Problem]) -> int:
    """Print the problems of a folder and how to fix them; returns the exit status."""
    for problem in problems:
        say(f"BAD  {problem}")
    if is_withdrawal_pending(folder):
        say(f"{folder}: run the same make withdraw to finish it")
    elif [problem.found for problem in problems] == [UNFINISHED_BUILD]:
        say(f"{folder}: run the same make shards to finish it")
    else:
        say(f"{folder}: build or fetch it again")
    return 1
