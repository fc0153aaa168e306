"""Other spectrograms for finished shards, made of the shards' own sound: no recording is needed.

The stored sound is the very 16 bit samples that a build makes its spectrograms of, and each sample's json has the
times to their last bit. So the new tars are byte for byte those of a build from the recordings with that `FEATURE`, as
long as numpy, scipy and librosa are of the versions that the shards' index names. Imports no decoder and no face model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.built_clip import BuiltClip
from builder.config import BuildConfig, digest, identity, versions
from builder.datasets.base import ClipSource
from builder.engines import Engine, LocalPool, Work
from builder.shards import ShardPlan, find_earlier_build, load_whole
from builder.spectrograms import spectrograms
from builder.timeline import Timeline
from builder.worker import Limits
from manifests import index, schema
from manifests.files import FolderError, describe_os_error, exclusive_lock, remove_leftovers
from manifests.index import Dataset, ManifestError, Receipt, Statistics
from manifests.index_writer import mark_unfinished, write_index
from manifests.progress import ProgressBar
from manifests.records import from_json
from manifests.schema import Clip, SchemaError, Timing
from manifests.text import config_diff
from manifests.verify import verify

#: Packages whose version can change a bit of a spectrogram.
VERSIONED = ("librosa", "multimae-der", "numpy", "scipy")
#: Key in the identity of shards whose spectrograms were made of stored sound: of which, and by which versions.
MADE_FROM = "spectrograms_from"
#: A clip's spectrograms take milliseconds; one that takes this long hangs. Nothing is dropped, the command ends.
LIMITS = Limits(seconds=3600.0, drop_clips=False)


@dataclass(frozen=True, kw_only=True)
class FeaturesJob:
    """Which shards get which spectrograms, and where the new shards go."""

    shards: Path
    """Folder of finished shards; it is only read."""
    out: Path
    features: tuple[str, ...]
    """What each sample will have, in this order; those that it has already are kept as they are."""
    engine: Engine = field(default_factory=LocalPool)


@dataclass(frozen=True, kw_only=True)
class FeaturesSummary:
    """What was made."""

    dataset: Dataset
    skipped_schemes: Mapping[str, str]
    """Fold scheme -> why it does not fit what was made."""
    resumed: int
    """Shards that were finished already."""
    other_versions: tuple[str, ...]
    """`scipy: 1.17.0 -> 1.18.0` for packages that may make the new spectrograms differ in a last bit from a build's."""


def make_features(job: FeaturesJob) -> FeaturesSummary:
    """Write the shards of `job.shards` once more, with other spectrograms, and the index over them.

    Killed at any point, the same call continues where it was, and ends with the same bytes. Raises ConfigError for an
    unknown feature, FolderError for a folder that cannot be used, ManifestError for shards that are damaged,
    EngineError, OSError.
    """
    config = BuildConfig(dataset="any", features=job.features)  # refuses unknown features
    shards, out = job.shards.resolve(), job.out.resolve()
    if out.is_relative_to(shards) or shards.is_relative_to(out):
        raise FolderError(
            f"{job.out}: the new shards need a folder of their own, beside {job.shards}; choose it with TO="
        )
    source = _load_verified(job.shards)
    described = replace(source, identity=_describe_identity(source, job))
    plans = _plan_shards(job.shards, described.identity)
    with exclusive_lock(job.out, "TO="):
        earlier = find_earlier_build(job.out, described.identity, "TO=")
        remove_leftovers(job.out)
        done = {plan.name for plan in plans if load_whole(job.out, plan)}
        todo = [plan for plan in plans if plan.name not in done]
        if todo or not (earlier and earlier.complete):
            for name in (index.RECEIPTS, index.FOLDS):
                (job.out / name).mkdir(exist_ok=True)
            mark_unfinished(job.out, described)
        if todo:
            work = Work(
                config=config,
                root=job.shards,
                out=job.out,
                identity=digest(identity(config)),
                make_builder=StoredClipBuilder,
                limits=LIMITS,
            )
            clips = sum(len(plan.sources) for plan in todo)
            with ProgressBar(clips, f"making {' and '.join(job.features)}") as progress:
                job.engine.build(work, todo, lambda _: progress.step())
        written = write_index(job.out, described, [plan.name for plan in plans])
    changed = config_diff(source.identity.get("versions", {}), described.identity[MADE_FROM]["versions"])
    return FeaturesSummary(
        dataset=written.dataset,
        skipped_schemes=written.skipped_schemes,
        resumed=len(done),
        other_versions=tuple(line for line in changed if line.partition(":")[0] in VERSIONED),
    )


def _load_verified(folder: Path) -> Dataset:
    """The index of a folder, after every byte of it was checked."""
    dataset = index.load_dataset(folder)
    with ProgressBar(len(dataset.shards), f"checking {folder}", unit="shard") as progress:
        problems = verify(folder, full=True, on_file=lambda name: name.endswith(".tar") and progress.step())
    if problems:
        raise ManifestError(
            f"{folder}: {problems[0]} ({len(problems)} bad in all, make verify names them); restore it first"
        )
    return dataset


def _describe_identity(source: Dataset, job: FeaturesJob) -> dict[str, Any]:
    """The identity of a build with these features, and what a build does not have: where the spectrograms came from."""
    return {
        **source.identity,
        "config": {**source.identity["config"], "features": list(job.features)},
        MADE_FROM: {
            "sound": "audio.flac of shards",
            "index_sha256": index.file_sha256(job.shards / index.DATASET_FILE),
            "versions": {name: version for name, version in versions().items() if name in VERSIONED},
        },
    }


def _plan_shards(shards: Path, made_by: Mapping[str, Any]) -> list[ShardPlan]:
    """All shards in their order, those without a built clip too. A receipt's hash stands for everything in a shard.

    The recording of a source is the shard that has the clip.
    """
    build = digest(made_by)
    plans = []
    for name, sha256 in index.load_sums(shards).items():
        if name.startswith(f"{index.RECEIPTS}/"):
            receipt = index.load_receipt(shards / name)
            clips = (Clip(**{each.name: getattr(row, each.name) for each in fields(Clip)}) for row in receipt.rows)
            sources = tuple(ClipSource(clip=clip, video=shards / receipt.shard) for clip in clips)
            content = digest({"build": build, "receipt": sha256})
            plans.append(ShardPlan(name=receipt.shard, speaker=receipt.speaker, sources=sources, digest=content))
    return sorted(plans, key=lambda plan: (plan.speaker, len(plan.name), plan.name))


class StoredClipBuilder:
    """Builds clips of finished shards again, with other spectrograms. `root` is the folder of these shards."""

    def __init__(self, config: BuildConfig, root: Path) -> None:
        self._features = config.features
        self._root = root
        self._load_receipt = lru_cache(maxsize=2)(index.load_receipt)  # a shard's clips come one after another

    def build(self, source: ClipSource) -> BuiltClip:
        """What a build from the recording would make of the clip. Raises ManifestError naming shard and clip."""
        receipt = self._load_receipt(self._root / index.receipt_name(source.video.name))
        row = next(row for row in receipt.rows if row.clip_id == source.clip.clip_id)
        if row.shard is None:
            return BuiltClip(row=row, members=None, statistics={})
        try:
            members, statistics = replace_features(_read_members(source, receipt), self._features)
        except SchemaError as error:
            raise ManifestError(f"{source.video}: {row.clip_id}: {error}") from error
        except OSError as error:
            raise ManifestError(describe_os_error(error)) from error
        return BuiltClip(row=replace(row, shard=None), members=members, statistics=statistics)


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
) -> tuple[dict[str, bytes], dict[str, Statistics]]:
    """A sample's members with these features in place of its own, in tar order, and the sums over each spectrogram.

    A feature that the sample has already stays as it is. Raises SchemaError for members that cannot be decoded.
    """
    known = dict(members)
    if missing := [feature for feature in features if not members.keys() >= set(schema.feature_members((feature,)))]:
        timing = from_json(Timing, schema.decode_metadata(members["json"])["timing"], "json.timing")
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
    return chosen, {name: Statistics.of(schema.decode_spectrogram(chosen[f"{name}.npy"], name)) for name in names}
