"""Commands that open no recording, `corpus` and `features`: they work where no face model or decoder can be loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from builder import console
from builder.config import ConfigError
from builder.console import say
from builder.corpus.fetch import CONNECTIONS, Fetched, fetch, room
from builder.corpus.stock import State, Stock, corpus_root, take_stock
from builder.corpus.zenodo import with_checksums
from builder.datasets import DATASETS, corpus_named
from builder.datasets.base import Corpus, CorpusError, Home, Original
from manifests.files import FolderError, exclusive_lock
from manifests.folds import FoldError
from manifests.index import ManifestError
from manifests.schema import FEATURE_ROWS, SchemaError
from manifests.stores import Store, StoreError, open_store
from manifests.text import pluralize

#: Errors whose message is all a person needs.
EXPECTED = (ConfigError, CorpusError, FolderError, FoldError, ManifestError, StoreError, SchemaError)
#: Files of a kind that are named unless all are asked for.
_SHOWN = 10
#: The same of files that could not be had: most often all for one reason.
_EXAMPLES = 3


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; exit status 0 only if all is well, 1 if some of it is not, 2 if nothing could be done."""
    parser = console.Parser(prog="python -m builder", description="Fetch a corpus, or add spectrograms to its shards.")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    return console.run(parser, arguments, EXPECTED)


def add_commands(commands: Any) -> None:
    """Add these commands to a parser's."""
    _add_corpus(console.command(commands, "corpus", _corpus, "fetch a corpus's originals from their public home"))
    _add_features(console.command(commands, "features", _features, "make other spectrograms of shards' own sound"))


# --- corpus ----------------------------------------------------------------------------------------------------


def _add_corpus(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dataset", default="demo", help=f"one of {', '.join(DATASETS)} (default: demo)")
    command.add_argument("--data", type=console.folder, help="the corpus's folder (default: data/DATASET)")
    command.add_argument("--from", dest="address", metavar="ADDRESS", help="a mirror, in place of the public home")
    command.add_argument("--check", action="store_true", help="only hold what is here against what is published")
    command.add_argument("--all", action="store_true", help="files too that are rarely needed; name every bad one")
    command.add_argument("--replace", action="store_true", help="fetch anew what is here but not as published")
    command.add_argument("--keep-archives", action="store_true", help="keep archives after they were unpacked")
    command.add_argument("--connections", type=console.positive, default=CONNECTIONS, help="files fetched at once")


def _corpus(options: argparse.Namespace) -> int:
    corpus = corpus_named(options.dataset)
    if corpus.home is None:
        return _say_how_to_get(corpus)
    originals = corpus.home.originals()
    root = corpus_root(options.data or Path("data") / corpus.name, originals)
    say(corpus.title)
    say(f"licence   {corpus.licence}; {corpus.homepage}")
    stock = take_stock(root, [each for each in originals if each.needed or options.all or (root / each.name).exists()])
    _say_stock(root, stock, named=("wrong", "absent") if options.check else ("wrong",), every=options.all)
    if options.check:
        failures = [f"{pluralize(len(absent), 'file')} absent"] if (absent := stock.of("absent")) else []
    else:
        lacking = stock.originals("absent", *(["wrong"] if options.replace else []))
        failures = _complete(corpus.home, root, lacking, options)
    if (wrong := stock.of("wrong")) and (options.check or not options.replace):
        failures.append(f"{pluralize(len(wrong), 'file')} not as published; REPLACE=1 fetches anew")
    if failures:
        return console.failed("; ".join(failures), 1)
    say(f"complete  {root}")
    return 0


def _say_how_to_get(corpus: Corpus) -> int:
    """One that is nowhere to be fetched; an error only where there is something to be had."""
    if corpus.homepage:
        raise CorpusError(f"{corpus.title}: cannot be fetched; {corpus.how_to_get}")
    say(f"{corpus.title}: {corpus.how_to_get}")
    return 0


def _say_stock(root: Path, stock: Stock, *, named: Sequence[State], every: bool) -> None:
    counts = [f"{len(stock.of(state))} {state}" for state in get_args(State) if stock.of(state) and state != "absent"]
    here, total = len(stock.findings) - len(stock.of("absent")), pluralize(len(stock.findings), "file")
    say(": ".join(filter(None, (f"here      {here} of {total} in {root}", ", ".join(counts)))))
    for state in named:
        found = stock.of(state)
        for each in found if every else found[:_SHOWN]:
            say(f"  {state}  {each.name}{each.detail and ': '}{each.detail}")
        if len(found) > _SHOWN and not every:
            say(f"  ... and {len(found) - _SHOWN} more (ALL=1 lists them)")


def _complete(home: Home, root: Path, originals: Sequence[Original], options: argparse.Namespace) -> list[str]:
    """Fetch what is lacking; what is amiss then, in a few words."""
    if not originals:
        return []
    address = (options.address or home.address).rstrip("/")
    place = open_store(f"{address}/{home.folder}")
    _say_size(place, root, originals, options)
    with exclusive_lock(root, "DATA=", tidy=True):
        if home.record is not None:
            originals = with_checksums(open_store(address), home.record, originals)
        done = fetch(place, root, originals, connections=options.connections, keep_archives=options.keep_archives)
    return _say_fetched(place, done, every=options.all)


def _say_size(place: Store, root: Path, originals: Sequence[Original], options: argparse.Namespace) -> None:
    """Say what is to come and whether there is room. Raises FolderError if not."""
    size = sum(original.bytes for original in originals)
    disk = room(root, originals, connections=options.connections, keep_archives=options.keep_archives)
    say(f"from      {place.address}")
    say(f"to fetch  {pluralize(len(originals), 'file')}, {size / 1e6:.1f} MB")
    say(f"disk      {disk.needed / 1e6:.1f} MB needed at most, {disk.free / 1e6:.1f} MB free")
    if disk.needed > disk.free:
        raise FolderError(f"{root}: there is not room enough; make some, or choose another folder with DATA=")


def _say_fetched(place: Store, done: Fetched, *, every: bool) -> list[str]:
    """Say what came, and what did not. Raises StoreError where nothing did."""
    reasons = set(done.failed.values())
    several = len(done.failed) + done.not_tried > 1
    if not done.files and several and len(reasons) == 1:  # it lies in the home, not in a file
        raise StoreError(f"{place.address}: {reasons.pop()}")
    say(f"fetched   {pluralize(done.files, 'file')}, {done.bytes / 1e6:.1f} MB, each as published")
    failed = sorted(done.failed.items())
    for name, why in failed if every else failed[:_EXAMPLES]:
        say(f"  failed  {name}: {why}")
    if len(failed) > _EXAMPLES and not every:
        say(f"  ... and {len(failed) - _EXAMPLES} more (ALL=1 lists them)")
    failures = [f"{pluralize(len(failed), 'file')} could not be had; the same command tries again"] if failed else []
    if done.not_tried:
        failures.append(f"{pluralize(done.not_tried, 'file')} not tried after so many in a row that could not be had")
    if failures and not done.files:
        raise StoreError("; ".join(failures))
    return failures


# --- features --------------------------------------------------------------------------------------------------


def _add_features(command: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0))
    command.add_argument("shards", type=console.folder, metavar="SHARDS", help="folder of finished shards")
    command.add_argument("--feature", required=True, help=f"one or more of {', '.join(FEATURE_ROWS)}")
    command.add_argument("--out", type=console.folder, help="folder of the new shards (default: SHARDS-FEATURE)")
    command.add_argument("--workers", type=console.positive, default=cores, help="processes (all cores)")


def _features(options: argparse.Namespace) -> int:
    from builder.features import Job, make_features  # loads webdataset: the other command does without

    chosen = tuple(options.feature.replace(",", " ").split())
    out = options.out or beside(options.shards, chosen)
    made = make_features(Job(shards=options.shards, out=out, features=chosen, workers=options.workers))
    for line in made.other_versions:
        say(f"note      {line}: what is new may differ from a build's in the last bits")
    counts = made.dataset.counts
    say(f"clips     {counts.get('built', 0) + counts.get('flagged', 0)}, each with {' and '.join(chosen)}")
    say(f"shards    {out} ({pluralize(len(made.dataset.shards), 'shard')}, {made.resumed} of them made before)")
    say_folds(made.dataset.fold_schemes, made.skipped_schemes)
    return 0


def say_folds(schemes: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Say which fold schemes fit what was built; `skipped` is why others do not, told where none does."""
    why_none = f"none fits what was built: {'; '.join(skipped.values())}"
    say(f"folds     {', '.join(schemes) or why_none}")


def beside(shards: Path, features: Sequence[str]) -> Path:
    """Where new shards go unless one says: `shards/crema-d` and logmel -> `shards/crema-d-logmel`."""
    return shards.with_name("-".join((shards.resolve().name, *features)))
