"""Command line for whoever receives a folder of shards: python -m manifests verify FOLDER."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from manifests.index import ManifestError, load_dataset, verify
from manifests.schema import SchemaError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if the folder is as its index promises, 1 with every bad file named if not, 2 without an index."""
    parser = argparse.ArgumentParser(prog="python -m manifests", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("verify", help="hold a folder of shards against its index")
    check.add_argument("folder", type=Path)
    check.add_argument("--quick", action="store_true", help="sizes only, no hashes")
    options = parser.parse_args(arguments)
    try:
        return _verify(options.folder, full=not options.quick)
    except (ManifestError, SchemaError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _verify(folder: Path, full: bool) -> int:
    problems = verify(folder, full=full)
    for problem in problems:
        sys.stdout.write(f"BAD  {problem}\n")
    if problems:
        return 1
    dataset = load_dataset(folder)
    size = sum(shard.bytes for shard in dataset.shards) / 1e6
    samples = sum(shard.samples for shard in dataset.shards)
    how = "every hash and member" if full else "every size"
    sys.stdout.write(f"whole: {samples} samples in {len(dataset.shards)} shards, {size:.1f} MB ({how})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
