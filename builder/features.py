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
from builder.shards import ShardPlan
from builder.spectrograms import spectrograms
from builder.worker import Limits
from manifests import index, schema
from manifests.derived import derive, open_source, read_members
from manifests.files import describe_os_error
from manifests.index import Dataset, ManifestError, SpectrogramSums, window_statistics
from manifests.kinds import PAIRS
from manifests.progress import ProgressBar
from manifests.records import from_json
from manifests.schema import Clip, SchemaError, Timing
from manifests.shard_writer import ShardName
from manifests.text import config_diff
from manifests.timeline import Timeline

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
    source = _open_pairs(job)
    described = replace(source, identity=_describe_identity(source, job))
    work = BuildContext(
        config=config,
        root=job.shards,
        out=job.out,
        identity=digest(identity(config)),
        make_builder=StoredClipBuilder,
        limits=LIMITS,
    )

    def write(shards: Sequence[ShardName]) -> None:
        plans = [_plan_shard(job.shards, shard) for shard in shards]
        clips = sum(len(plan.sources) for plan in plans)
        with ProgressBar(clips, f"computing {' and '.join(job.features)}") as progress:
            job.engine.build(work, plans, lambda _: progress.step())

    written, resumed = derive(job.shards, job.out, described, write)
    changed = config_diff(source.identity.get("versions", {}), described.identity[SPECTROGRAM_SOURCE]["versions"])
    return FeaturesSummary(
        dataset=written.dataset,
        skipped_schemes=written.skipped_schemes,
        resumed=resumed,
        other_versions=tuple(line for line in changed if line.partition(":")[0] in VERSIONED),
    )


def _open_pairs(job: FeaturesJob) -> Dataset:
    """Load the index of the shards after verifying every file."""
    dataset = open_source(job.shards, job.out)
    if dataset.kind != PAIRS:
        raise ManifestError(
            f"{job.shards}: found shards of {dataset.kind}, which store no spectrograms, expected {PAIRS}; a build "
            "of sequences with another FEATURE= has the statistics of that feature"
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


def _plan_shard(shards: Path, shard: ShardName) -> ShardPlan:
    """All clips of a shard; the `video` of a source is the finished shard that contains the clip."""
    receipt = index.load_receipt(shards / index.receipt_name(shard.name))
    clips = (Clip(**{each.name: getattr(row, each.name) for each in fields(Clip)}) for row in receipt.rows)
    sources = tuple(ClipSource(clip=clip, video=shards / shard.name) for clip in clips)
    return ShardPlan(name=shard.name, speaker=shard.speaker, digest=shard.digest, sources=sources)


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
            members = read_members(source.video, receipt, source.clip.clip_id)
            members, statistics = replace_features(members, self._features)
        except SchemaError as error:
            raise ManifestError(f"{source.video}: {row.clip_id}: {error}") from error
        except OSError as error:
            raise ManifestError(describe_os_error(error)) from error
        return ClipResult(row=replace(row, shard=None), members=members, statistics=statistics)


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
