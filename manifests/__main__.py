"""Command line for whoever gives or receives a folder of shards: python -m manifests COMMAND FOLDER ..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from manifests import folds, licensing
from manifests.errors import UserError
from manifests.fetch import THREADS, FetchError, FetchResult, FoldSelector, fetch
from manifests.files import FolderError, describe_os_error
from manifests.index import Dataset, Problem, load_dataset, local_shards, verify
from manifests.share import NotWholeError, ShareOptions, ShareResult, share
from manifests.stores import KINDS
from manifests.stores.destinations import Destination, ShareError, destination
from manifests.text import pluralize
from manifests.withdraw import is_withdrawal_pending, withdraw

_STATUSES = """
exit status: 0 if all is as it should be; 1 if files are bad or could not be had, each named in a line; 2 if the command
could not be carried out: wrong usage, or a folder or a place that cannot be used; 130 after Ctrl-C
"""


class _Parser(argparse.ArgumentParser):
    """Wrong usage is told in one line, like all else that goes wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help tells more\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status, as `_STATUSES` tells."""
    parser = _Parser(prog="python -m manifests", description=__doc__, epilog=_STATUSES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("verify", help="hold a folder of shards against its index")
    check.add_argument("folder", type=Path)
    check.add_argument("--quick", action="store_true", help="sizes only, no hashes")
    check.set_defaults(run=_verify)
    _add_share(commands.add_parser("share", help="copy a finished folder to where others read it"))
    _add_fetch(commands.add_parser("fetch", help="bring what a fold needs of a published folder, or all of it"))
    leave = commands.add_parser("withdraw", help="remove speakers from a finished folder")
    leave.add_argument("folder", type=Path)
    leave.add_argument("speaker", nargs="+", metavar="SPEAKER")
    leave.set_defaults(run=_withdraw)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on where this one was\n")
        return 130
    except (FolderError, UserError, ShareError, OSError) as error:
        sys.stderr.write(f"error: {describe_os_error(error) if isinstance(error, OSError) else error}\n")
        return 2


def _verify(options: argparse.Namespace) -> int:
    problems = verify(options.folder, full=not options.quick)
    if problems:
        return _bad(options.folder, problems)
    how = "every size" if options.quick else "every hash and member"
    sys.stdout.write(f"{_held(options.folder)} ({how})\n")
    return 0


def _held(folder: Path) -> str:
    """What a folder has, of all that was published."""
    every = load_dataset(folder).shards
    here = local_shards(folder, load_dataset(folder))
    samples, size = sum(shard.samples for shard in here), sum(shard.bytes for shard in here) / 1e6
    shards = pluralize(len(every), "shard")
    if len(here) == len(every):
        return f"whole: {pluralize(samples, 'sample')} in {shards}, {size:.1f} MB"
    all_samples = pluralize(sum(shard.samples for shard in every), "sample")
    return f"part: {samples} of {all_samples} in {len(here)} of {shards}, {size:.1f} MB"


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", help="corpus that is expected there")
    parser.add_argument("--fold", help="name or number of a fold; everything if not given")
    parser.add_argument("--fold-scheme", help="the corpus's default if not given")
    parser.add_argument(
        "--split", nargs="+", choices=folds.SPLITS, default=[], help="train brings the validation side, too"
    )
    parser.add_argument("--prune", action="store_true", help="remove here what was withdrawn or replaced there")
    parser.add_argument("--threads", type=int, default=THREADS, help="files brought at once")
    parser.set_defaults(run=_fetch)


def _fetch(options: argparse.Namespace) -> int:
    if not options.source:
        raise FetchError(
            "where to fetch from is missing; say FROM=folder|https://...|s3://...|hf://datasets/owner/name"
        )
    if options.fold is None and (options.split or options.fold_scheme):
        raise FetchError("found a split or a scheme, but no fold; name one with --fold (make: FOLD=)")
    wanted = options.fold and FoldSelector(fold=options.fold, scheme=options.fold_scheme, splits=tuple(options.split))
    told = {name: getattr(options, name) for name in ("dataset", "prune", "threads")}
    report = fetch(options.source, options.folder, wanted, **told)
    _say_bad(report.problems)
    _say_fetched(report)
    if report.problems:
        sys.stdout.write(f"{len(report.problems)} not fetched; the same command tries them again\n")
        return 1
    sys.stdout.write(f"{options.folder}: {_held(options.folder)}\n")
    return 0


def _say_fetched(report: FetchResult) -> None:
    moved = f"{pluralize(report.moved, 'shard')} moved, {report.moved_bytes / 1e6:.1f} MB"
    kept = f"{report.kept} of {pluralize(len(report.here), 'shard')} here before"
    sys.stdout.write(f"{moved if report.moved else 'nothing to move'}; {kept}\n")
    if report.removed:
        sys.stdout.write(f"removed here: {', '.join(report.removed)}\n")


def _bad(folder: Path, problems: Sequence[Problem]) -> int:
    """Name what is bad in a folder, and say what to do."""
    _say_bad(problems)
    if is_withdrawal_pending(folder):
        advice = "the same withdraw goes on"
    elif not load_dataset(folder).complete:
        advice = "the same make shards goes on"
    else:
        advice = "build or fetch it again"
    sys.stdout.write(f"{folder}: {advice}\n")
    return 1


def _say_bad(problems: Sequence[Problem | str]) -> None:
    for problem in problems:
        sys.stdout.write(f"BAD  {problem}\n")


def _add_share(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("destination", help="a folder, s3://bucket/path or hf://datasets/owner/name")
    parser.add_argument("--affirm", metavar="WORDS", help="that the receiver holds the licence, where it is needed")
    parser.add_argument(
        "--public", action="store_true", help="everybody may see it (a repository is private otherwise)"
    )
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help="leave out report.html, it shows faces"
    )
    parser.add_argument("--prune", action="store_true", help="remove there what is gone from the folder")
    parser.set_defaults(run=_share)


def _share(options: argparse.Namespace) -> int:
    there = destination(options.destination)
    _say_terms(load_dataset(options.folder))
    wish = ShareOptions(affirmed=options.affirm, public=options.public, report=options.report, prune=options.prune)
    try:
        shared = share(options.folder, there, wish)
    except NotWholeError as error:
        sys.stderr.write(f"error: {error}\n")
        return _bad(options.folder, error.problems)
    _say_shared(shared, there)
    return 0


def _say_terms(dataset: Dataset) -> None:
    licence = licensing.known_licence(dataset)
    asks = f" ({licence.conditions}; {licence.url})" if licence else ""
    sys.stdout.write(f"licence of the recordings: {licensing.about(dataset, 'licence') or 'not stated'}{asks}\n")
    sys.stdout.write(f"{licensing.PERSONAL_DATA} report.html shows faces too.\n")
    sys.stdout.flush()


def _say_shared(shared: ShareResult, there: Destination) -> None:
    what = (
        f"sent {shared.sent} of {pluralize(shared.files, 'file')} ({shared.sent_bytes / 1e6:.1f} MB)"
        if shared.sent
        else "nothing to send"
    )
    sys.stdout.write(f"{what}; all {shared.bytes / 1e6:.1f} MB are at {there.address}, every hash checked\n")
    if shared.removed:
        kept = f"; {there.keeps_history} still hold it" if there.keeps_history else ""
        sys.stdout.write(f"removed there: {', '.join(shared.removed)}{kept}\n")
    if shared.others:
        sys.stdout.write(f"left alone there, not ours: {', '.join(map(licensing.one_line, shared.others))}\n")


def _withdraw(options: argparse.Namespace) -> int:
    gone = withdraw(options.folder, options.speaker)
    who = ", ".join(gone.speakers)
    if not gone.shards:
        sys.stdout.write(f"{who}: withdrawn before; nothing of them is here\n")
        return 0
    what = f"{pluralize(gone.shards, 'shard')}, {pluralize(gone.clips, 'clip')}, {gone.bytes / 1e6:.1f} MB"
    sys.stdout.write(f"{who}: removed {what}\n")
    if gone.report_removed:
        sys.stdout.write("report.html showed faces and is gone; make report draws it anew\n")
    if gone.skipped_schemes:
        sys.stdout.write(f"fold schemes that no longer fit: {', '.join(gone.skipped_schemes)}\n")
    sys.stdout.write("copies that were handed on still hold them: make share DEST=... PRUNE=1 for each place\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
