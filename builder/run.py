"""A build from end to end: plan -> shards and receipts -> index, folds, card, sums."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from builder.clip import BuiltClip
from builder.config import BuildConfig, differences, digest, identity
from builder.datasets import corpus_named, scan_corpus
from builder.datasets.base import Corpus, Scan
from builder.datasets.checks import chosen_options
from builder.engines import ClipPool, Limits
from builder.shards import ShardPlan, finished, plan_shards, write_shard
from manifests import index
from manifests.files import FolderError, remove_leftovers, sole_owner
from manifests.index import Dataset
from manifests.progress import Progress
from manifests.sharing.withdraw import under_way
from manifests.writing import Written, mark_unfinished, write_index

#: Share of clips that may be dropped before a build counts as failed.
DROPS_ALLOWED = 0.02
#: Absent files of a corpus's inventory that the index names.
MISSING_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to build, from where, to where, and how; only `config` decides the bytes."""

    config: BuildConfig
    data: Path
    """The corpus's folder."""
    out: Path
    """Folder of the shards."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    limits: Limits = field(default_factory=Limits)
    prune: bool = False
    """Remove finished shards of speakers that are no longer in the corpus."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build would do, before any work."""

    corpus: Corpus
    scan: Scan
    root: Path
    identity: Mapping[str, object]
    shards: tuple[ShardPlan, ...]
    withdrawn: tuple[str, ...] = ()
    """Speakers who were withdrawn from the output folder: their shards are not planned."""

    def without(self, withdrawn: tuple[str, ...]) -> Plan:
        """The same but for speakers who were withdrawn."""
        kept = tuple(shard for shard in self.shards if shard.speaker not in withdrawn)
        return replace(self, shards=kept, withdrawn=withdrawn)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a build did."""

    out: Path
    counts: Mapping[str, int]
    """Clips built, flagged, dropped."""
    reasons: Mapping[str, int]
    """Clips dropped, by reason."""
    empty_speakers: tuple[str, ...]
    """Speakers of whom nothing was built."""
    shards: int
    resumed: int
    """Of these, finished already."""
    missing: tuple[str, ...]
    """Files of the corpus's inventory that are absent."""
    fold_schemes: tuple[str, ...]
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit what was built."""
    withdrawn: tuple[str, ...] = ()
    """Speakers who were withdrawn from the folder, and so left out."""

    def failures(self) -> list[str]:
        """Why a person should look before using the shards; [] where all is well."""
        dropped, total = self.counts.get("dropped", 0), sum(self.counts.values())
        lines = []
        if dropped > DROPS_ALLOWED * total:
            lines.append(f"{dropped} of {total} clips dropped, more than {DROPS_ALLOWED:.0%}")
        if self.empty_speakers:
            lines.append(f"nothing was built of speaker {', '.join(self.empty_speakers)}")
        return lines


def plan(config: BuildConfig, data: Path) -> Plan:
    """Scan the corpus and lay out its shards. Raises CorpusError, ConfigError."""
    config = replace(config, options=chosen_options(corpus_named(config.dataset), config.options))
    scan = scan_corpus(config.dataset, data, config.options)
    root = scan.root or data.absolute()
    described = identity(config)
    shards = plan_shards(scan.sources, root, digest(described))
    return Plan(corpus=corpus_named(config.dataset), scan=scan, root=root, identity=described, shards=tuple(shards))


def build(job: Job) -> Summary:
    """Build all shards that are not there yet, then the index over all.

    Killed at any point, the same call goes on where it was, and ends with the same bytes. Raises CorpusError,
    FolderError, EngineError, OSError; nothing already built is lost.
    """
    planned = plan(job.config, job.data)
    with sole_owner(job.out):
        before = _earlier_build(job.out, planned)
        remove_leftovers(job.out)
        if before:
            planned = planned.without(before.withdrawn)
        done = _finished_shards(job.out, planned)
        todo = [shard for shard in planned.shards if shard.name not in done]
        strays = _strays(job.out, planned, job.prune)
        if todo or strays or not (before and before.complete):
            for name in (index.RECEIPTS, index.FOLDS):
                (job.out / name).mkdir(exist_ok=True)
            mark_unfinished(job.out, _described(planned))
        for path in strays:
            path.unlink(missing_ok=True)
        _build_shards(job, planned, todo)
        written = write_index(job.out, _described(planned), [shard.name for shard in planned.shards])
        return _summary(job.out, planned, written, done)


def _earlier_build(out: Path, planned: Plan) -> Dataset | None:
    """The build that a folder holds, if any. Refuses one of another configuration, and a folder of no build at all."""
    if under_way(out):
        raise FolderError(f"{out}: a withdrawal was begun here and not ended; run make withdraw again first")
    if not (out / index.DATASET_FILE).exists():
        others = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
        if others:
            raise FolderError(f"{others[0]}: no {index.DATASET_FILE} says that this is ours; choose an empty OUT=")
        return None
    before = index.load_dataset(out)
    changed = differences(before.identity, planned.identity)
    if changed:
        raise FolderError(
            f"{out}: was built differently ({'; '.join(changed)}); choose another OUT=, or delete the folder"
        )
    return before


def _strays(out: Path, planned: Plan, prune: bool) -> list[Path]:
    """Finished shards whose speakers or clips are gone from the corpus. Refuses tars that no receipt knows.

    They are removed only when asked: a corpus that is mounted or unpacked by half looks the same.
    """
    expected = {shard.name for shard in planned.shards}
    known = {f"{path.stem}.tar" for path in out.glob(f"{index.RECEIPTS}/*.json")}
    tars = {path.name for path in out.glob("*.tar")}
    if foreign := sorted(tars - known - expected):
        raise FolderError(f"{out / foreign[0]}: a tar that no build made; move it elsewhere, or choose another OUT=")
    gone = sorted((known | tars) - expected)
    if gone and not prune:
        raise FolderError(
            f"{out}: {len(gone)} finished shards are of speakers or clips that are no longer in the corpus "
            f"({', '.join(gone[:3])} ...); is all of it there? PRUNE=1 removes them"
        )
    return [out / name for shard in gone for name in (shard, index.receipt_name(shard))]


def _finished_shards(out: Path, planned: Plan) -> set[str]:
    """Shards that need no work."""
    begun = [shard for shard in planned.shards if (out / index.receipt_name(shard.name)).exists()]
    if not begun:
        return set()
    whole = set()
    with Progress(len(begun), "checking finished shards", unit="shard") as progress:
        for shard in begun:
            found = finished(out, shard) is not None
            if found:
                whole.add(shard.name)
            progress.step("whole" if found else "to build again")
    return whole


def _build_shards(job: Job, planned: Plan, todo: Sequence[ShardPlan]) -> None:
    """Build shard after shard, from one stream of clips that keeps every worker busy across their borders."""
    sources = [source for shard in todo for source in shard.sources]
    if not sources:
        return
    workers = min(job.workers, len(sources))
    with (
        ClipPool(job.config, planned.root, workers, job.limits) as pool,
        Progress(len(sources), f"building {job.config.dataset}") as progress,
        closing(_counted(pool.map(sources), progress)) as clips,
    ):
        for shard in todo:
            write_shard(job.out, shard, islice(clips, len(shard.sources)))


def _counted(clips: Iterable[BuiltClip], progress: Progress) -> Iterator[BuiltClip]:
    for clip in clips:
        progress.step(clip.row.status)
        yield clip


def _summary(out: Path, planned: Plan, written: Written, done: Container[str]) -> Summary:
    return Summary(
        out=out,
        counts=written.dataset.counts,
        reasons=written.reasons,
        empty_speakers=written.empty_speakers,
        shards=len(written.dataset.shards),
        resumed=sum(shard.name in done for shard in written.dataset.shards),
        missing=planned.scan.missing,
        fold_schemes=written.dataset.fold_schemes,
        skipped_schemes=written.skipped_schemes,
        withdrawn=planned.withdrawn,
    )


def _described(planned: Plan) -> Dataset:
    """All that is said of the shards but what they hold."""
    corpus = planned.corpus
    return Dataset(
        dataset=corpus.name,
        complete=False,
        identity=planned.identity,
        about={
            "title": corpus.title,
            "homepage": corpus.homepage,
            "licence": corpus.licence,
            "citation": corpus.citation,
            "redistributable": corpus.redistributable,
        },
        label_schemes=corpus.label_schemes,
        missing=len(planned.scan.missing),
        missing_names=tuple(planned.scan.missing[:MISSING_NAMED]),
        withdrawn=planned.withdrawn,
    )
