"""Folders of many shards that need little space: hard links to one tar, each with its own receipt.

The loader finds members by the offsets in the receipts, so the clips of every shard have their own ids although the
bytes are shared. The index is written as a build writes it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from manifests import index
from manifests.index import Receipt, Row
from manifests.index_writer import write_index
from tests.factories.shards import make_folder

EMOTIONS = ("fear", "joy")
#: Number of speakers; with more shards than that, speakers have several shards each.
SPEAKERS = 100


def make_shards(out: Path, shards: int, clips_each: int) -> Path:
    """A finished folder of `shards` shards (at least 3, since folds need three speakers)."""
    one = make_folder(
        out / "one", speakers=["anna", "ben", "cleo"], emotions=EMOTIONS, takes=clips_each // len(EMOTIONS)
    )
    described = index.load_dataset(one)
    first = index.load_receipt(one / described.shards[0].receipt)
    for name in (index.RECEIPTS, index.FOLDS):
        (out / name).mkdir()
    parts = -(-shards // SPEAKERS)
    receipts = [_for_speaker(first, f"S{number // parts:03d}", number % parts) for number in range(shards)]
    for receipt in receipts:
        os.link(one / first.shard, out / receipt.shard)
        (out / index.receipt_name(receipt.shard)).write_bytes(index.dump_receipt(receipt))
    shutil.rmtree(one)
    write_index(out, replace(described, shards=(), fold_schemes=()), [receipt.shard for receipt in receipts])
    return out


def _for_speaker(first: Receipt, speaker: str, part: int) -> Receipt:
    """The same receipt under another speaker's name."""
    shard = f"{speaker}-{part:03d}.tar"

    def named(clip_id: str) -> str:
        return clip_id.replace(first.speaker, f"{speaker}-{part:03d}", 1)

    def renamed(row: Row) -> Row:
        return replace(row, clip_id=named(row.clip_id), speaker=speaker, shard=shard)

    members = {named(clip_id): places for clip_id, places in first.members.items()}
    return replace(first, shard=shard, speaker=speaker, members=members, rows=tuple(map(renamed, first.rows)))
