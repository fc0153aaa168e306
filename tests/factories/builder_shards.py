"""Complete shard folders, made without any recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from builder import run
from builder.clip_result import ClipResult, drop_clip, planned_row
from builder.config import BuildConfig
from builder.datasets import get_corpus
from builder.datasets.base import ClipSource, Scan
from builder.shards import ShardPlan, write_shard
from manifests import sequence, tokens
from manifests.index import (
    Row,
    SpectrogramSums,
    dump_checksums,
    dump_dataset,
    file_sha256,
    load_checksums,
    load_dataset,
)
from manifests.index_writer import write_index
from manifests.kinds import PAIRS, SEQUENCES, TOKENS
from manifests.schema import Clip, encode
from tests.factories.samples import sample, sequence_sample, token_sample

#: Members of a clip, its flags, and the sums of its spectrograms.
MadeClip = tuple[Mapping[str, bytes], tuple[str, ...], Mapping[str, SpectrogramSums]]
MakeClip = Callable[[Clip], MadeClip]

SPEAKERS = ("anna", "ben", "cleo")
EMOTIONS = ("fear", "joy")
#: Everything of this speaker is dropped, so that there is a receipt without a tar.
DROPPED_SPEAKER = "zoe"


def shard_folder(
    out: Path,
    features: Sequence[str] = ("mfcc",),
    speakers: Sequence[str] = SPEAKERS,
    *,
    drops: bool = True,
    kind: str = PAIRS,
    settings: Mapping[str, Any] | None = None,
    make: MakeClip | None = None,
) -> Path:
    """A finished build of two clips of each speaker and, with `drops`, one speaker of whom nothing could be built.

    `settings` are more of those that the shards were built with. `make` makes other clips than those of
    `tests.factories.samples`.
    """
    names = [*speakers, *([DROPPED_SPEAKER] if drops else [])]
    plans = [_plan(name) for name in names]
    config = {"dataset": "folder", "features": list(features), **(settings or {})}
    make = make or partial(_make, features=features, kind=kind)
    planned = run.BuildPlan(
        config=BuildConfig(dataset="folder", frames="all" if kind == SEQUENCES else "16"),
        corpus=get_corpus("folder"),
        scan=Scan(sources=tuple(source for plan in plans for source in plan.sources)),
        root=Path("/recordings"),
        identity={"schema_version": 1, "config": config, "versions": {}},
        shards=tuple(plans),
    )
    for name in (".", "receipts", "folds"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for plan in plans:
        write_shard(out, plan, [_clip(source, make) for source in plan.sources])
    write_index(out, replace(run.describe_dataset(planned), kind=kind), [plan.name for plan in plans])
    return out


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON object in a file."""
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def resign(folder: Path) -> None:
    """Make the index agree with whatever tars and receipts hold now, as whoever tampers with them would."""
    dataset = load_dataset(folder)
    shards = [
        replace(
            shard,
            sha256=file_sha256(folder / shard.name),
            bytes=(folder / shard.name).stat().st_size,
            receipt_sha256=file_sha256(folder / shard.receipt),
        )
        for shard in dataset.shards
    ]
    (folder / "dataset.json").write_bytes(dump_dataset(replace(dataset, shards=tuple(shards))))
    (folder / "SHA256SUMS").write_bytes(
        dump_checksums({name: file_sha256(folder / name) for name in load_checksums(folder)})
    )


def _plan(speaker: str) -> ShardPlan:
    clips = [Clip(clip_id=f"{speaker}-{emotion}", speaker=speaker, emotion=emotion) for emotion in EMOTIONS]
    sources = tuple(ClipSource(clip=clip, video=Path("/recordings") / f"{clip.clip_id}.mp4") for clip in clips)
    return ShardPlan(name=f"{speaker}-000.tar", speaker=speaker, sources=sources, digest="d" * 64)


def _clip(source: ClipSource, make: MakeClip) -> ClipResult:
    row = planned_row(source, Path("/recordings"))
    if row.speaker == DROPPED_SPEAKER:
        return drop_clip(row, "no_face", "found a face in 0 of 16 frames, expected at least 8")
    members, flags, statistics = make(source.clip)
    row = Row(**{**vars(row), "status": "flagged", "flags": flags, "faces_found": 15, "sha256": "0" * 64})
    return ClipResult(row=row, members=members, statistics=statistics)


def _make(clip: Clip, features: Sequence[str], kind: str) -> MadeClip:
    made = sample(clip, features)
    statistics = {name: SpectrogramSums.of(windows) for name, windows in made.spectrograms.items()}
    encoded = {
        PAIRS: lambda: encode(made),
        SEQUENCES: lambda: sequence.encode(sequence_sample(clip)),
        TOKENS: lambda: tokens.encode(token_sample(clip)),
    }
    return encoded[kind](), made.flags, statistics
