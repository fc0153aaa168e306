"""A build from end to end: plan -> shards and receipts -> index, folds, card, sums."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.config import BuildConfig, ConfigError, differences, digest, identity
from builder.datasets import corpus_named, scan_corpus
from builder.datasets.base import Corpus, Scan
from builder.datasets.checks import chosen_options
from builder.engines import Engine, LocalPool, Work
from builder.pool import Limits
from builder.shards import ShardPlan, finished, is_there, plan_shards
from manifests import index
from manifests.files import BusyError, FolderError, exclusive_lock, remove_leftovers, shared_lock
from manifests.index import Dataset
from manifests.index_writer import WrittenIndex, mark_unfinished, write_index
from manifests.progress import ProgressBar
from manifests.text import pluralize
from manifests.withdraw import is_withdrawal_pending

#: Share of clips that may be dropped before a build counts as failed.
DROPS_ALLOWED = 0.02
#: Absent files of a corpus's inventory that the index names.
MISSING_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class Part:
    """The share of one machine in a build that several do together, each started by itself."""

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank: found {self.rank} of {self.world_size}, expected 0 to world size - 1")

    def of(self, shards: Sequence[ShardPlan]) -> Sequence[ShardPlan]:
        """Every `world_size`-th shard, so that neighbours, often alike in length, are spread."""
        return shards[self.rank :: self.world_size]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to build, from where, to where, and how; only `config` decides the bytes."""

    config: BuildConfig
    data: Path
    """The corpus's folder."""
    out: Path
    """Folder of the shards."""
    engine: Engine = field(default_factory=LocalPool)
    part: Part | None = None
    """None for all of it."""
    limits: Limits = field(default_factory=Limits)
    prune: bool = False
    """Remove finished shards of speakers that are no longer in the corpus."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build would do, before any work."""

    config: BuildConfig
    """With all of the corpus's options."""
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


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """What one of several machines did, if others have yet to do theirs."""

    out: Path
    mine: int
    """Shards of this part."""
    resumed: int
    """Of these, finished already."""
    there: int
    total: int
    """Shards of the whole build."""


def plan(config: BuildConfig, data: Path) -> Plan:
    """Scan the corpus and lay out its shards. Raises CorpusError, ConfigError."""
    config = replace(config, options=chosen_options(corpus_named(config.dataset), config.options))
    scan = scan_corpus(config.dataset, data, config.options)
    root = scan.root or data.absolute()
    described = identity(config)
    shards = plan_shards(scan.sources, root, digest(described))
    return Plan(
        config=config,
        corpus=corpus_named(config.dataset),
        scan=scan,
        root=root,
        identity=described,
        shards=tuple(shards),
    )


def begun(planned: Plan, out: Path) -> tuple[Plan, int]:
    """What of a plan is left to be made in a folder from which speakers may have been withdrawn.

    The plan without them, and how many of its shards seem to be there; nothing is hashed. Raises FolderError for a
    folder that a build would refuse.
    """
    before = _earlier_build(out, planned)
    planned = planned.without(before.withdrawn if before else ())
    return planned, sum(is_there(out, shard) for shard in planned.shards)


def build(job: Job) -> Summary | PartSummary:
    """Build all shards that are not there yet, then the index over all; of a part, the index once all parts are there.

    Killed at any point, the same call goes on where it was, and ends with the same bytes. Raises CorpusError,
    FolderError, EngineError, OSError; nothing already built is lost.
    """
    planned = plan(job.config, job.data)
    if job.part is not None:
        return _build_part(job, planned, job.part)
    with exclusive_lock(job.out):
        before = _earlier_build(job.out, planned)
        remove_leftovers(job.out)
        planned = planned.without(before.withdrawn if before else ())
        done = _build_missing(job, planned, planned.shards, before)
        return _finish(job, planned, done)


def _build_part(job: Job, planned: Plan, part: Part) -> Summary | PartSummary:
    """Whoever ends when nobody else is at work and all shards are there writes the index."""
    with shared_lock(job.out):
        before = _earlier_build(job.out, planned)
        planned = planned.without(before.withdrawn if before else ())
        mine = part.of(planned.shards)
        done = _build_missing(job, planned, mine, before)
    with suppress(BusyError), exclusive_lock(job.out):
        if all(is_there(job.out, shard) for shard in planned.shards):
            return _finish(job, planned, done)
    there = sum(is_there(job.out, shard) for shard in planned.shards)
    return PartSummary(out=job.out, mine=len(mine), resumed=len(done), there=there, total=len(planned.shards))


def _build_missing(job: Job, planned: Plan, shards: Sequence[ShardPlan], before: Dataset | None) -> Collection[str]:
    """Build those shards that are not finished yet; the others' names."""
    strays = _strays(job.out, planned, job.prune)
    done = _finished_shards(job.out, shards)
    todo = [shard for shard in shards if shard.name not in done]
    if todo or strays or not (before and before.complete):
        for name in (index.RECEIPTS, index.FOLDS):
            (job.out / name).mkdir(exist_ok=True)
        mark_unfinished(job.out, _described(planned))
    if todo:
        _build_shards(job, planned, todo)
    return done


def _build_shards(job: Job, planned: Plan, todo: Sequence[ShardPlan]) -> None:
    work = Work(
        config=planned.config,
        root=planned.root,
        out=job.out,
        identity=digest(planned.identity),
        limits=job.limits,
    )
    with ProgressBar(sum(len(shard.sources) for shard in todo), "building clips") as progress:
        job.engine.build(work, todo, lambda row: progress.step(row.status))


def _finish(job: Job, planned: Plan, done: Container[str]) -> Summary:
    """Everything that is said about the shards, once all are there; what workers left that died is removed."""
    remove_leftovers(job.out)
    for path in _strays(job.out, planned, job.prune):
        path.unlink(missing_ok=True)
    written = write_index(job.out, _described(planned), [shard.name for shard in planned.shards])
    return _summary(job.out, planned, written, done)


def _earlier_build(out: Path, planned: Plan) -> Dataset | None:
    """The build that a folder holds, if any. Refuses one of another configuration, and a folder of no build at all."""
    if is_withdrawal_pending(out):
        raise FolderError(f"{out}: a withdrawal was begun here and not ended; run make withdraw again first")
    ours = out / index.DATASET_FILE
    if not ours.exists():
        others = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
        if not others:
            return None
        if not ours.exists():  # another part may have begun meanwhile
            raise FolderError(f"{others[0]}: no {index.DATASET_FILE} says that this is ours; choose an empty OUT=")
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
            f"{out}: {pluralize(len(gone), 'finished shard')} of speakers or clips that are no longer in the corpus "
            f"({', '.join(gone[:3])} ...); is all of it there? PRUNE=1 removes them"
        )
    return [out / name for shard in gone for name in (shard, index.receipt_name(shard))]


def _finished_shards(out: Path, shards: Sequence[ShardPlan]) -> set[str]:
    """Shards that need no work."""
    begun = [shard for shard in shards if (out / index.receipt_name(shard.name)).exists()]
    if not begun:
        return set()
    whole = set()
    with ProgressBar(len(begun), "checking finished shards", unit="shard") as progress:
        for shard in begun:
            found = finished(out, shard) is not None
            if found:
                whole.add(shard.name)
            progress.step("whole" if found else "to build again")
    return whole


def _summary(out: Path, planned: Plan, written: WrittenIndex, done: Container[str]) -> Summary:
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
