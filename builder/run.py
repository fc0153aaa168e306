"""A build, end to end: plan -> shards and receipts -> index, folds, dataset card, checksums."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.clip import ClipBuilder
from builder.config import BuildConfig, ConfigError, digest, identity
from builder.datasets import get_corpus, scan_corpus
from builder.datasets.base import Corpus, Scan
from builder.datasets.checks import resolve_options
from builder.engines import BuildContext, Engine, LocalPool
from builder.shards import ShardPlan, has_other_recordings, load_finished, plan_shards
from builder.worker import Limits, MakeBuilder
from manifests import index
from manifests.corpora import OWN
from manifests.files import BusyError, FolderError, exclusive_lock, remove_leftovers, shared_lock
from manifests.index import Dataset
from manifests.index_writer import mark_unfinished, write_index
from manifests.label_counts import LabelCounts
from manifests.progress import ProgressBar, log_line
from manifests.shard_writer import find_earlier_build, load_present
from manifests.text import pluralize
from manifests.withdraw import is_withdrawal_pending

#: Fraction of clips that may be dropped before a build counts as failed.
DROPS_ALLOWED = 0.02
#: Most missing files of a corpus's inventory that the index lists.
MISSING_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a build that one of several independently started processes does."""

    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank: found {self.rank} of {self.world_size}, expected 0 to world size - 1")


@dataclass(frozen=True, kw_only=True)
class BuildJob:
    """Input, output and execution settings of a build; only `config` determines the bytes."""

    config: BuildConfig
    name: str = ""
    """Of a corpus of one's own; empty for that of `config.dataset`."""
    data: Path
    """Corpus folder."""
    out: Path
    """Shard folder."""
    engine: Engine = field(default_factory=LocalPool)
    part: Part | None = None
    """None for the complete build."""
    limits: Limits = field(default_factory=Limits)
    prune: bool = False
    """Remove finished shards of speakers that are no longer in the corpus."""
    make_builder: MakeBuilder = ClipBuilder


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """The shards that a build will write."""

    config: BuildConfig
    """Including the corpus's default options."""
    corpus: Corpus
    scan: Scan
    root: Path
    identity: Mapping[str, object]
    shards: tuple[ShardPlan, ...]
    withdrawn: tuple[str, ...] = ()
    """Speakers who were withdrawn from the output folder: their shards are not planned."""

    def count_present(self, out: Path) -> int:
        """Count the shards that a folder has, without hashing them."""
        return sum(load_present(out, shard) is not None for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """Result of a build."""

    out: Path
    dataset: Dataset
    """The index over all shards."""
    reasons: Mapping[str, int]
    """Reason -> number of dropped clips."""
    incomplete: Mapping[str, int]
    """Flag of incomplete clips -> number of built clips that have it."""
    empty_speakers: tuple[str, ...]
    """Speakers without a single built clip."""
    resumed: int
    """Number of shards that were already finished."""
    missing: tuple[str, ...]
    """Files of the corpus's inventory that are missing."""
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit the built speakers."""
    labels: LabelCounts
    """Raw emotion -> speaker -> number of built clips."""

    def failures(self) -> list[str]:
        """Problems to review before using the shards; [] if there are none."""
        dropped, total = self.dataset.counts.get("dropped", 0), sum(self.dataset.counts.values())
        lines = []
        if dropped > DROPS_ALLOWED * total:
            lines.append(f"{dropped} of {pluralize(total, 'clip')} dropped, more than {DROPS_ALLOWED:.0%}")
        if self.empty_speakers:
            names = (self.dataset.speaker_name(speaker) for speaker in self.empty_speakers)
            lines.append(f"no clip was built of speaker {', '.join(names)}")
        return lines


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """Result of one part of a build while other parts are unfinished."""

    out: Path
    mine: int
    """Shards of this part."""
    resumed: int
    """Of these, already finished."""
    present: int
    total: int
    """Shards of the complete build."""


def plan_build(config: BuildConfig, data: Path, name: str = "") -> BuildPlan:
    """Scan the corpus and plan its shards; `name` is as in BuildJob. Raises CorpusError, ConfigError."""
    corpus = get_corpus(config.dataset)
    config = replace(config, options=resolve_options(corpus, config.options))
    scan = scan_corpus(config.dataset, data, config.options)
    root = scan.root or data.absolute()
    described = identity(config)
    shards = tuple(plan_shards(scan.sources, root, digest(described)))
    if name not in ("", corpus.name):  # not in the identity: renamed shards have the same bytes
        corpus = replace(corpus, name=name, title=name)
    return BuildPlan(config=config, corpus=corpus, scan=scan, root=root, identity=described, shards=shards)


def remaining_plan(plan: BuildPlan, out: Path) -> tuple[BuildPlan, Dataset | None]:
    """Remove speakers who were withdrawn from the output folder from a plan. Returns it with the folder's index.

    Raises FolderError for a folder with other files, another corpus, another build, or an unfinished withdrawal.
    """
    if is_withdrawal_pending(out):
        raise FolderError(f"{out}: contains an unfinished withdrawal; run the same make withdraw first")
    own = plan.config.dataset == OWN
    named = own and out == Path("shards") / plan.corpus.name  # another name is another folder only without OUT=
    setting = "NAME= or OUT=" if named else "OUT="
    earlier = find_earlier_build(out, plan.corpus.name, plan.identity, setting)
    if earlier and own and has_other_recordings(out, plan.shards):
        raise FolderError(
            f"{out}: has shards of another corpus {earlier.dataset}, which share no recording with {plan.root}; "
            f"choose another {setting}"
        )
    withdrawn = earlier.withdrawn if earlier else ()
    kept = tuple(shard for shard in plan.shards if shard.speaker not in withdrawn)
    return replace(plan, shards=kept, withdrawn=withdrawn), earlier


def build(job: BuildJob) -> BuildSummary | PartSummary:
    """Build all missing shards, then write the index; with `job.part`, the last part to finish writes the index.

    If it is killed at any point, the same call resumes and produces the same bytes. Raises CorpusError,
    FolderError, EngineError, OSError; finished shards are kept.
    """
    plan = plan_build(job.config, job.data, job.name)
    for note in plan.scan.notes:
        log_line(f"table     {note}")
    if job.part is None:
        with exclusive_lock(job.out):
            plan, earlier = remaining_plan(plan, job.out)
            remove_leftovers(job.out)
            done = _build_missing(job, plan, plan.shards, earlier)
            return _write_index(job, plan, done)
    with shared_lock(job.out):
        plan, earlier = remaining_plan(plan, job.out)
        mine = plan.shards[job.part.rank :: job.part.world_size]  # neighbours are often similar in length: spread them
        done = _build_missing(job, plan, mine, earlier)
    # The part that finishes last, when all shards are present, writes the index.
    with suppress(BusyError), exclusive_lock(job.out):
        if plan.count_present(job.out) == len(plan.shards):
            return _write_index(job, plan, done)
    present = plan.count_present(job.out)
    return PartSummary(out=job.out, mine=len(mine), resumed=len(done), present=present, total=len(plan.shards))


def _build_missing(
    job: BuildJob, plan: BuildPlan, shards: Sequence[ShardPlan], earlier: Dataset | None
) -> Collection[str]:
    """Build the shards that are not finished. Returns the names of those that were."""
    strays = _stray_files(job.out, plan, job.prune)
    done = _find_finished(job.out, shards)
    todo = [shard for shard in shards if shard.name not in done]
    if todo or strays or not (earlier and earlier.complete):
        for name in (index.RECEIPTS, index.FOLDS):
            (job.out / name).mkdir(exist_ok=True)
        mark_unfinished(job.out, describe_dataset(plan))
    if todo:
        work = BuildContext(
            config=plan.config,
            root=plan.root,
            out=job.out,
            identity=digest(plan.identity),
            make_builder=job.make_builder,
            limits=job.limits,
        )
        with ProgressBar(sum(len(shard.sources) for shard in todo), "building clips") as progress:
            job.engine.build(work, todo, lambda row: progress.step(row.status))
    return done


def _find_finished(out: Path, shards: Sequence[ShardPlan]) -> set[str]:
    """Names of the shards that are already finished."""
    started = [shard for shard in shards if (out / index.receipt_name(shard.name)).exists()]
    finished = set()
    if started:
        with ProgressBar(len(started), "checking finished shards", unit="shard") as progress:
            for shard in started:
                if load_finished(out, shard) is not None:
                    finished.add(shard.name)
                progress.step("finished" if shard.name in finished else "to rebuild")
    return finished


def _stray_files(out: Path, plan: BuildPlan, prune: bool) -> list[Path]:
    """Files of shards whose speakers or clips are no longer in the corpus. Raises FolderError for foreign tars.

    They are removed only with `prune`: a partly mounted or unpacked corpus looks the same.
    """
    expected = {shard.name for shard in plan.shards}
    known = {f"{path.stem}.tar" for path in out.glob(f"{index.RECEIPTS}/*.json")}
    tars = {path.name for path in out.glob("*.tar")}
    if foreign := sorted(tars - known - expected):
        raise FolderError(f"{out / foreign[0]}: a tar that was not written by a build; move it, or choose another OUT=")
    gone = sorted((known | tars) - expected)
    if gone and not prune:
        raise FolderError(
            f"{out}: {pluralize(len(gone), 'finished shard')} of speakers or clips that are no longer in the corpus "
            f"({', '.join(gone[:3])} ...); is the corpus complete? PRUNE=1 removes them"
        )
    return [out / name for shard in gone for name in (shard, index.receipt_name(shard))]


def _write_index(job: BuildJob, plan: BuildPlan, done: Container[str]) -> BuildSummary:
    """Write the index once all shards are present; remove temporary files and, with `prune`, stray shards."""
    remove_leftovers(job.out)
    for path in _stray_files(job.out, plan, job.prune):
        path.unlink(missing_ok=True)
    written = write_index(job.out, describe_dataset(plan), [shard.name for shard in plan.shards])
    return BuildSummary(
        out=job.out,
        dataset=written.dataset,
        reasons=written.reasons,
        incomplete=written.incomplete,
        empty_speakers=written.empty_speakers,
        resumed=sum(shard.name in done for shard in written.dataset.shards),
        missing=plan.scan.missing,
        skipped_schemes=written.skipped_schemes,
        labels=written.labels,
    )


def describe_dataset(plan: BuildPlan) -> Dataset:
    """Content of `dataset.json` except what is derived from the shards."""
    return Dataset(
        dataset=plan.corpus.name,
        complete=False,
        identity=plan.identity,
        kind=plan.config.kind,
        about=_about(plan),
        label_schemes=tuple(scheme.name for scheme in plan.corpus.facts.label_schemes),
        missing=len(plan.scan.missing),
        missing_names=tuple(plan.scan.missing[:MISSING_NAMED]),
        withdrawn=plan.withdrawn,
    )


def _about(plan: BuildPlan) -> dict[str, Any]:
    """Metadata of the corpus, and the names of the planned speakers whose ids are not their names."""
    planned = {shard.speaker for shard in plan.shards}
    names = {speaker: name for speaker, name in sorted(plan.scan.speaker_names.items()) if speaker in planned}
    return plan.corpus.about() | ({index.SPEAKER_NAMES: names} if names else {})
