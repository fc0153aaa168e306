"""Other spectrograms for finished shards, computed from the stored sound: no recording is needed.

The stored sound has the same 16 bit samples from which a build computes spectrograms, and each sample's json has the
exact times. The new tars are therefore identical to those of a build from the recordings with that `FEATURE`,
if the versions of numpy, scipy and librosa are those in the index. Imports no decoder and no face model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.clip_result import ClipResult
from builder.config import BuildConfig, digest, identity, versions
from builder.datasets.base import ClipSource
from builder.engines import BuildContext, Engine, LocalPool
from builder.shards import ShardPlan, find_earlier_build, load_intact
from builder.spectrograms import spectrograms
from builder.worker import Limits
from manifests import index, schema
from manifests.files import FolderError, describe_os_error, exclusive_lock, remove_leftovers
from manifests.index import Dataset, ManifestError, Receipt, SpectrogramSums, window_statistics
from manifests.index_writer import mark_unfinished, write_index
from manifests.kinds import PAIRS
from manifests.progress import ProgressBar
from manifests.records import from_json
from manifests.schema import Clip, SchemaError, Timing
from manifests.text import config_diff
from manifests.timeline import Timeline
from manifests.verify import verify

#: Packages whose version can change a spectrogram.
VERSIONED = ("librosa", "multimae-der", "numpy", "scipy")
#: Key in the identity of shards with spectrograms computed from stored sound: the source shards and the versions.
SPECTROGRAM_SOURCE = "spectrograms_from"
#: A clip's spectrograms take milliseconds; after this time the worker hangs. The command fails, no clip is dropped.
LIMITS = Limits(seconds=3600.0, drop_clips=False)


@dataclass(frozen=True, kw_only=True)
class FeaturesJob:
    """Source shards, spectrograms to compute, and the output folder."""

    shards: Path
    """Finished shard folder; it is only read."""
    out: Path
    features: tuple[str, ...]
    """Features of each new sample, in this order; those that exist already are copied."""
    engine: Engine = field(default_factory=LocalPool)


@dataclass(frozen=True, kw_only=True)
class FeaturesSummary:
    """Result of computing features."""

    dataset: Dataset
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit the speakers in the shards."""
    resumed: int
    """Number of shards that were already finished."""
    other_versions: tuple[str, ...]
    """`scipy: 1.17.0 -> 1.18.0` for packages that may change the last bits of the new spectrograms."""


def make_features(job: FeaturesJob) -> FeaturesSummary:
    """Write copies of the shards in `job.shards` with other spectrograms, and their index.

    If it is killed at any point, the same call resumes and produces the same bytes. Raises ConfigError for an
    unknown feature, FolderError for a folder that cannot be used, ManifestError for shards that are damaged,
    EngineError, OSError.
    """
    config = BuildConfig(dataset="any", features=job.features)  # raises for unknown features
    shards, out = job.shards.resolve(), job.out.resolve()
    if out.is_relative_to(shards) or shards.is_relative_to(out):
        raise FolderError(
            f"{job.out}: the new shards need a separate folder, outside of {job.shards}; choose it with TO="
        )
    source = _load_verified(job.shards)
    described = replace(source, identity=_describe_identity(source, job))
    plans = _plan_shards(job.shards, described.identity)
    with exclusive_lock(job.out, "TO="):
        earlier = find_earlier_build(job.out, described.dataset, described.identity, "TO=")
        remove_leftovers(job.out)
        done = {plan.name for plan in plans if load_intact(job.out, plan)}
        todo = [plan for plan in plans if plan.name not in done]
        if todo or not (earlier and earlier.complete):
            for name in (index.RECEIPTS, index.FOLDS):
                (job.out / name).mkdir(exist_ok=True)
            mark_unfinished(job.out, described)
        if todo:
            work = BuildContext(
                config=config,
                root=job.shards,
                out=job.out,
                identity=digest(identity(config)),
                make_builder=StoredClipBuilder,
                limits=LIMITS,
            )
            clips = sum(len(plan.sources) for plan in todo)
            with ProgressBar(clips, f"computing {' and '.join(job.features)}") as progress:
                job.engine.build(work, todo, lambda _: progress.step())
        written = write_index(job.out, described, [plan.name for plan in plans])
    changed = config_diff(source.identity.get("versions", {}), described.identity[SPECTROGRAM_SOURCE]["versions"])
    return FeaturesSummary(
        dataset=written.dataset,
        skipped_schemes=written.skipped_schemes,
        resumed=len(done),
        other_versions=tuple(line for line in changed if line.partition(":")[0] in VERSIONED),
    )


def _load_verified(folder: Path) -> Dataset:
    """Load the index of a folder after verifying every file."""
    dataset = index.load_dataset(folder)
    if dataset.kind != PAIRS:
        raise ManifestError(
            f"{folder}: found shards of {dataset.kind}, which store no spectrograms, expected {PAIRS}; a build with "
            "FRAMES=all and another FEATURE= has the statistics of that feature"
        )
    with ProgressBar(len(dataset.shards), f"checking {folder}", unit="shard") as progress:
        problems = verify(folder, full=True, on_file=lambda name: name.endswith(".tar") and progress.step())
    if problems:
        raise ManifestError(
            f"{folder}: {problems[0]} ({len(problems)} problems in total, make verify lists them); restore it first"
        )
    return dataset


def _describe_identity(source: Dataset, job: FeaturesJob) -> dict[str, Any]:
    """Identity of a build with these features, plus the source of the spectrograms, which a build does not have."""
    return {
        **source.identity,
        "config": {**source.identity["config"], "features": list(job.features)},
        SPECTROGRAM_SOURCE: {
            "sound": "audio.flac of shards",
            "index_sha256": index.file_sha256(job.shards / index.DATASET_FILE),
            "versions": {name: version for name, version in versions().items() if name in VERSIONED},
        },
    }


def _plan_shards(shards: Path, build_identity: Mapping[str, Any]) -> list[ShardPlan]:
    """Plan all shards in order, including those without a built clip. A receipt's hash identifies a shard's content.

    The `video` of a source is the shard that contains the clip.
    """
    build = digest(build_identity)
    plans = []
    for name, sha256 in index.load_checksums(shards).items():
        if name.startswith(f"{index.RECEIPTS}/"):
            receipt = index.load_receipt(shards / name)
            clips = (Clip(**{each.name: getattr(row, each.name) for each in fields(Clip)}) for row in receipt.rows)
            sources = tuple(ClipSource(clip=clip, video=shards / receipt.shard) for clip in clips)
            content = digest({"build": build, "receipt": sha256})
            plans.append(ShardPlan(name=receipt.shard, speaker=receipt.speaker, sources=sources, digest=content))
    return sorted(plans, key=lambda plan: (plan.speaker, len(plan.name), plan.name))


class StoredClipBuilder:
    """Rebuilds clips of finished shards with other spectrograms. `root` is the folder of these shards."""

    def __init__(self, config: BuildConfig, root: Path) -> None:
        self._features = config.features
        self._root = root
        self._load_receipt = lru_cache(maxsize=2)(index.load_receipt)  # a shard's clips come one after another

    def build(self, source: ClipSource) -> ClipResult:
        """Build the same clip as from its recording. Raises ManifestError naming shard and clip."""
        receipt = self._load_receipt(self._root / index.receipt_name(source.video.name))
        row = next(row for row in receipt.rows if row.clip_id == source.clip.clip_id)
        if row.shard is None:
            return ClipResult(row=row, members=None, statistics={})
        try:
            members, statistics = replace_features(_read_members(source, receipt), self._features)
        except SchemaError as error:
            raise ManifestError(f"{source.video}: {row.clip_id}: {error}") from error
        except OSError as error:
            raise ManifestError(describe_os_error(error)) from error
        return ClipResult(row=replace(row, shard=None), members=members, statistics=statistics)


def _read_members(source: ClipSource, receipt: Receipt) -> dict[str, bytes]:
    places = receipt.members.get(source.clip.clip_id)
    if places is None:
        raise SchemaError("not in the shard, although its receipt has a row for it")
    members = {}
    with source.video.open("rb") as tar:
        for suffix, (offset, size) in places.items():
            tar.seek(offset)
            members[suffix] = tar.read(size)
    return members


def replace_features(
    members: Mapping[str, bytes], features: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, SpectrogramSums]]:
    """Replace the features of a sample. Returns its members in tar order, and the statistics of each spectrogram.

    A feature that the sample already has is copied. Raises SchemaError for members that cannot be decoded.
    """
    known = dict(members)
    meta = schema.decode_metadata(members["json"])
    if missing := [feature for feature in features if not members.keys() >= set(schema.feature_members((feature,)))]:
        timing = from_json(Timing, meta["timing"], "json.timing")
        timeline = Timeline(
            span_seconds=timing.span_seconds,
            instants_seconds=timing.instants_seconds,
            step_seconds=timing.step_seconds,
        )
        audio = schema.decode_audio(members["audio.flac"])
        windows = spectrograms(audio, timing.audio_start_seconds, timeline, missing)
        known |= {f"{name}.npy": schema.encode_spectrogram(each, name) for name, each in windows.items()}
    chosen = {name: known[name] for name in schema.member_names(tuple(features))}
    names = [name.removesuffix(".npy") for name in schema.feature_members(tuple(features))]
    windows = {name: schema.decode_spectrogram(chosen[f"{name}.npy"], name) for name in names}
    masked = meta["schema_version"] == schema.MASKED_SCHEMA_VERSION
    return chosen, window_statistics(windows, meta["sound_present"] if masked else {})
