"""A build from end to end: plan -> shards and receipts -> index, folds, card, sums."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from builder.clip import BuiltClip
from builder.config import BuildConfig, differences, digest, identity
from builder.datasets import corpus_named, scan_corpus
from builder.datasets.base import Corpus, Scan
from builder.datasets.checks import chosen_options
from builder.engines import ClipPool, Limits
from builder.shards import ShardPlan, finished, plan_shards, write_shard
from manifests import folds, index
from manifests.card import dataset_card
from manifests.croissant import croissant
from manifests.files import FolderError, publish, remove_leftovers, sole_owner
from manifests.index import Dataset, Receipt, Row, Shard
from manifests.progress import Progress
from manifests.schema import dump_json

#: Share of clips that may be dropped before a build counts as failed.
DROPS_ALLOWED = 0.02


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


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a build did."""

    out: Path
    rows: tuple[Row, ...]
    shards: int
    resumed: int
    """Shards that were finished already."""
    missing: tuple[str, ...]
    """Files of the corpus's inventory that are absent."""
    fold_schemes: tuple[str, ...]
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit what was built."""

    @property
    def counts(self) -> Counter[str]:
        """Clips built, flagged, dropped."""
        return Counter(row.status for row in self.rows)

    @property
    def reasons(self) -> Counter[str]:
        """Clips dropped, by reason."""
        return Counter(row.reason for row in self.rows if row.reason)

    @property
    def empty_speakers(self) -> list[str]:
        """Speakers of whom nothing was built."""
        kept = {row.speaker for row in self.rows if row.shard}
        return sorted({row.speaker for row in self.rows} - kept)

    def failures(self) -> list[str]:
        """Why a person should look before using the shards; [] where all is well."""
        dropped, total = self.counts["dropped"], len(self.rows)
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
        complete = _refuse_other_build(job.out, planned)
        remove_leftovers(job.out)
        receipts = _finished_shards(job.out, planned)
        todo = [shard for shard in planned.shards if shard.name not in receipts]
        strays = _strays(job.out, planned, job.prune)
        if todo or strays or not complete:
            _mark_unfinished(job.out, planned)
        for path in strays:
            path.unlink(missing_ok=True)
        resumed = len(receipts)
        for receipt in _build_shards(job, planned, todo):
            receipts[receipt.shard] = receipt
        return _write_index(job.out, planned, [receipts[shard.name] for shard in planned.shards], resumed)


def _refuse_other_build(out: Path, planned: Plan) -> bool:
    """Refuse a folder of another configuration, or of no build at all; else say whether a finished build is in it."""
    if not (out / index.DATASET_FILE).exists():
        others = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
        if others:
            raise FolderError(f"{others[0]}: no {index.DATASET_FILE} says that this is ours; choose an empty OUT=")
        return False
    before = index.load_dataset(out)
    changed = differences(before.identity, planned.identity)
    if changed:
        raise FolderError(
            f"{out}: was built differently ({'; '.join(changed)}); choose another OUT=, or delete the folder"
        )
    return before.complete


def _mark_unfinished(out: Path, planned: Plan) -> None:
    """Say that a build is under way here, and by which configuration, before anything changes."""
    for name in (index.RECEIPTS, index.FOLDS):
        (out / name).mkdir(exist_ok=True)
    publish(out / index.DATASET_FILE, index.dump_dataset(_dataset(planned, complete=False)))


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


def _finished_shards(out: Path, planned: Plan) -> dict[str, Receipt]:
    """Receipts of shards that need no work."""
    begun = [shard for shard in planned.shards if (out / index.receipt_name(shard.name)).exists()]
    if not begun:
        return {}
    receipts = {}
    with Progress(len(begun), "checking finished shards", unit="shard") as progress:
        for shard in begun:
            receipt = finished(out, shard)
            if receipt is not None:
                receipts[shard.name] = receipt
            progress.step("whole" if receipt else "to build again")
    return receipts


def _build_shards(job: Job, planned: Plan, todo: Sequence[ShardPlan]) -> Iterator[Receipt]:
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
            yield write_shard(job.out, shard, islice(clips, len(shard.sources)))


def _counted(clips: Iterable[BuiltClip], progress: Progress) -> Iterator[BuiltClip]:
    for clip in clips:
        progress.step(clip.row.status)
        yield clip


def _write_index(out: Path, planned: Plan, receipts: Sequence[Receipt], resumed: int) -> Summary:
    """Everything that is said about the shards, the sums last."""
    rows = tuple(row for receipt in receipts for row in receipt.rows)
    kept = [receipt for receipt in receipts if receipt.sha256 is not None]
    sums = {receipt_name: index.file_sha256(out / receipt_name) for receipt_name in map(_receipt_name, receipts)}
    shards = tuple(_shard(receipt, sums[_receipt_name(receipt)]) for receipt in kept)
    schemes, skipped = _write_folds(out, planned, shards, rows)
    counts = Counter(row.status for row in rows)
    dataset = _dataset(planned, complete=True, shards=shards, fold_schemes=schemes, counts=dict(sorted(counts.items())))
    sums |= {shard.name: shard.sha256 for shard in shards}
    sums |= {f"{index.FOLDS}/{name}.json": index.file_sha256(out / index.FOLDS / f"{name}.json") for name in schemes}
    sums[index.CLIPS_FILE] = publish(out / index.CLIPS_FILE, index.dump_rows(rows))
    described = croissant(
        dataset, clips_bytes=(out / index.CLIPS_FILE).stat().st_size, clips_sha256=sums[index.CLIPS_FILE]
    )
    sums[index.CROISSANT_FILE] = publish(out / index.CROISSANT_FILE, described)
    sums["README.md"] = publish(out / "README.md", dataset_card(dataset, rows).encode())
    sums[index.DATASET_FILE] = publish(out / index.DATASET_FILE, index.dump_dataset(dataset))
    publish(out / index.SUMS_FILE, index.dump_sums(sums))
    return Summary(
        out=out,
        rows=rows,
        shards=len(shards),
        resumed=resumed,
        missing=planned.scan.missing,
        fold_schemes=schemes,
        skipped_schemes=skipped,
    )


def _receipt_name(receipt: Receipt) -> str:
    return index.receipt_name(receipt.shard)


def _shard(receipt: Receipt, receipt_sha256: str) -> Shard:
    assert receipt.sha256 is not None
    return Shard(
        name=receipt.shard,
        speaker=receipt.speaker,
        sha256=receipt.sha256,
        bytes=receipt.bytes,
        samples=len(receipt.members),
        receipt_sha256=receipt_sha256,
        statistics=receipt.statistics,
    )


def _dataset(
    planned: Plan,
    *,
    complete: bool,
    shards: tuple[Shard, ...] = (),
    fold_schemes: tuple[str, ...] = (),
    counts: Mapping[str, int] | None = None,
) -> Dataset:
    corpus = planned.corpus
    return Dataset(
        dataset=corpus.name,
        complete=complete,
        identity=planned.identity,
        about={
            "title": corpus.title,
            "homepage": corpus.homepage,
            "licence": corpus.licence,
            "citation": corpus.citation,
            "redistributable": corpus.redistributable,
        },
        label_schemes=corpus.label_schemes,
        fold_schemes=fold_schemes,
        counts=counts or {},
        shards=shards,
    )


def _write_folds(
    out: Path, planned: Plan, shards: Sequence[Shard], rows: Sequence[Row]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """`folds/<scheme>.json` for every scheme that fits what was built; the others with the reason."""
    for old in (out / index.FOLDS).glob("*.json"):
        old.unlink()
    speakers = {shard.name: shard.speaker for shard in shards}
    kept = [asdict(row) for row in rows if row.shard]
    written, skipped = [], {}
    for name in folds.schemes_for(planned.corpus.name):
        try:
            scheme = folds.fold_scheme(planned.corpus.name, name, speakers.values())
            assignment = folds.assign(scheme, speakers, kept)
        except folds.FoldError as error:
            skipped[name] = str(error)
        else:
            publish(out / index.FOLDS / f"{name}.json", (dump_json(assignment) + "\n").encode())
            written.append(name)
    return tuple(written), skipped
