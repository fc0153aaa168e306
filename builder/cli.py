"""Commands of `python -m builder`: their arguments, output and exit status.

Commands import decoders and face models when they run, so that `corpus` and `features` work where these cannot be
imported, and `--help` is fast.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from builder.config import TIMELINES, Align, BuildConfig, ConfigError, Crop, Decoder, Keep
from builder.corpus.command import limit_lines, run_corpus
from builder.corpus.fetch import CONNECTIONS
from builder.datasets import DATASETS, DEFAULT, get_corpus
from builder.naming import corpus_name, data_folder, shard_folder
from builder.worker import Limits, count_cores
from manifests.console import Parser, add_command, exit_on_interrupt, fail, folder_path, say
from manifests.corpora import OWN
from manifests.files import FolderError
from manifests.folds import FoldError, assign, fold_scheme, fold_schemes_for, load_fold_file
from manifests.index import FOLDS, RECEIPTS, Dataset, load_dataset, load_rows
from manifests.kinds import PAIRS
from manifests.label_counts import LabelCounts, count_labels, describe_classes, label_warnings
from manifests.labels import LABEL_SCHEMES, LabelScheme
from manifests.progress import ProgressBar
from manifests.schema import DROP_REASONS, FEATURE_ROWS, FLAGS
from manifests.tables import is_table
from manifests.text import pluralize
from manifests.usable import describe_usable

if TYPE_CHECKING:
    from builder.datasets.base import ClipSource
    from builder.engines import Engine
    from builder.run import BuildPlan, BuildSummary, Part

LOCAL, DASK = "local", "dask"
#: Most classes that are listed without ALL=1.
CLASSES_LISTED = 20
#: Dropped clips that are named where too many were.
EXAMPLES = 3


# --- arguments -------------------------------------------------------------------------------------------------


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="python -m builder", description="Turn a corpus into verified shards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cores = count_cores()
    shards = add_command(commands, "shards", run_shards, "build verified shards from a corpus folder")
    plan = add_command(commands, "plan", run_plan, "list what would be built, what is missing and what is defective")
    report = add_command(commands, "report", run_report, "make report.html from built shards")
    corpus = add_command(commands, "corpus", run_corpus, "download the published files of a corpus")
    features = add_command(commands, "features", run_features, "compute other spectrograms from the audio in shards")
    for command in (shards, plan, report, corpus):
        command.add_argument("--dataset", default=DEFAULT, help=f"one of {', '.join(DATASETS)} (default: {DEFAULT})")
        command.add_argument("--data", type=folder_path, help="corpus folder (default: data/DATASET, or data/NAME)")
    for command in (shards, plan, report):
        command.add_argument("--name", help=f"of a corpus of your own, --dataset {OWN} (default: that of its folder)")
        command.add_argument("--out", type=folder_path, help="shard folder (default: shards/DATASET, or shards/NAME)")
    for command in (shards, plan):
        _add_settings(command)
    for command in (shards, features):
        command.add_argument("--workers", type=positive_int, default=cores, help="processes (default: all cores)")
    shards.add_argument("--engine", choices=(LOCAL, DASK), default=LOCAL, help="where shards are built")
    shards.add_argument("--scheduler", default="", help="address of a Dask cluster (default: start one here)")
    shards.add_argument("--rank", type=int, help="which part of the shards this process builds, from 0")
    shards.add_argument("--world-size", type=int, help="number of processes that share the build, on one file system")
    shards.add_argument("--clip-seconds", type=positive_float, default=Limits().seconds, help="time limit for one clip")
    shards.add_argument("--prune", action="store_true", help="remove shards of speakers that left the corpus")
    shards.add_argument("--allow-drops", action="store_true", help="accept dropped clips and speakers without clips")
    plan.add_argument("--all", action="store_true", help="list every file")
    report.add_argument("--picture", type=Path, metavar="FILE", help="draw a few clips as one picture instead")
    corpus.add_argument("--from", dest="address", metavar="ADDRESS", help="mirror to use instead of the public server")
    corpus.add_argument("--check", action="store_true", help="only compare local files with the published ones")
    corpus.add_argument("--all", action="store_true", help="also files that are rarely needed; list every mismatch")
    corpus.add_argument("--replace", action="store_true", help="download again files whose checksums do not match")
    corpus.add_argument("--keep-archives", action="store_true", help="keep archives after they are unpacked")
    corpus.add_argument("--connections", type=positive_int, default=CONNECTIONS, help="concurrent downloads")
    features.add_argument("shards", type=folder_path, metavar="SHARDS", help="finished shard folder")
    features.add_argument("--feature", required=True, help=f"one or more of {', '.join(FEATURE_ROWS)}")
    features.add_argument("--out", type=folder_path, help="new shard folder (default: SHARDS-FEATURE)")
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    """Add the settings that determine the bytes; BuildConfig validates their values."""
    default = BuildConfig(dataset=DEFAULT)
    features = " ".join(default.features)
    command.add_argument("--feature", default=features, help=f"one or more of {', '.join(FEATURE_ROWS)}")
    command.add_argument("--timeline", default=default.timeline, help=f"one of {', '.join(TIMELINES)}")
    command.add_argument("--step", type=positive_int, default=default.step_frames, help="frames per step, if fixed")
    command.add_argument("--crop", default=default.crop, help=f"one of {', '.join(get_args(Crop))}")
    command.add_argument("--align", default=default.align, help=f"one of {', '.join(get_args(Align))}")
    command.add_argument("--decoder", default=default.decoder, help=f"one of {', '.join(get_args(Decoder))}")
    command.add_argument("--keep", default=default.keep, help=f"one of {', '.join(get_args(Keep))} (make: KEEP=)")
    command.add_argument("--frames", default=default.frames, help="16 per clip, or all: every frame (make: FRAMES=)")
    command.add_argument("--size", type=positive_int, default=default.size_px, help="side of a crop, with all frames")
    command.add_argument(
        "--rate", type=positive_float, help="frames a second, with all frames (default: all there are)"
    )
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="options of the corpus")
    command.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="what a column of a table is (make: COLUMNS=)",
    )


def positive_int(text: str) -> int:
    """Argument type: an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    """Argument type: a positive number."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive number")


def build_config(args: argparse.Namespace) -> BuildConfig:
    """The settings of a build. Raises ConfigError."""
    pairs = [_parse_option(option, args) for option in args.option]
    if args.column:
        pairs.append(("columns", "=", ",".join(args.column)))
    return BuildConfig(
        dataset=args.dataset,
        timeline=args.timeline,
        step_frames=args.step,
        features=tuple(args.feature.replace(",", " ").split()),
        crop=args.crop,
        align=args.align,
        decoder=args.decoder,
        keep=args.keep,
        frames=args.frames,
        size_px=args.size,
        rate_hz=args.rate,
        options={name: value for name, _, value in pairs},
    )


def _parse_option(option: str, args: argparse.Namespace) -> tuple[str, str, str]:
    """Name, '=' and value of an option of a corpus; a table below its folder is named relative to it."""
    name, sign, value = option.partition("=")
    if not sign and is_table(option):
        raise ConfigError(f"option: found {option!r}, expected csv={option} (make: OPTION=csv={option})")
    if name == "csv" and Path(value).is_absolute():  # the absolute path is of this machine only
        data = data_folder(args.dataset, args.name, args.data).absolute()
        with suppress(ValueError):  # elsewhere: refused as it is
            value = Path(value).relative_to(data).as_posix()
    return name, sign, value


def _corpus_name(args: argparse.Namespace) -> str:
    """Name of the corpus to build. Shards of one's own keep theirs, `folder` of older ones, unless one is given."""
    if args.dataset == OWN and args.out and not args.name and any(args.out.glob(f"{RECEIPTS}/*.json")):
        earlier = load_dataset(args.out)
        if earlier.identity["config"].get("dataset") == OWN:
            return earlier.dataset
    return corpus_name(args.dataset, args.name, data_folder(args.dataset, args.name, args.data))


def _data_folder(args: argparse.Namespace, options: Mapping[str, str]) -> Path:
    """Folder of the corpus; a generated corpus is created there first."""
    folder = data_folder(args.dataset, args.name, args.data)
    corpus = get_corpus(args.dataset)
    if corpus.make is not None:
        with ProgressBar(0, f"generating the {corpus.name} corpus") as progress:
            corpus.make(folder, options, progress.reach)
    return folder


def _out_folder(args: argparse.Namespace) -> Path:
    return shard_folder(args.dataset, args.name, args.data, args.out)


# --- shards ----------------------------------------------------------------------------------------------------


def run_shards(args: argparse.Namespace) -> int:
    """Build shards. Exit status 1 if too many clips were dropped or a speaker has no clips, unless accepted."""
    with exit_on_interrupt():
        from builder.run import BuildJob, PartSummary, build

        import_module("webdataset")  # writes the shards: if it is missing, fail before any work
    config, name, engine, part = build_config(args), _corpus_name(args), _engine(args), _part(args)
    summary = build(
        BuildJob(
            config=config,
            name=name,
            data=_data_folder(args, config.options),
            out=_out_folder(args),
            engine=engine,
            part=part,
            limits=Limits(seconds=args.clip_seconds),
            prune=args.prune,
        )
    )
    if isinstance(summary, PartSummary):
        say(f"part      {pluralize(summary.mine, 'shard')}, {summary.resumed} already built")
        say(
            f"shards    {summary.out}: {summary.present} of {summary.total} are finished; "
            "the last process to finish writes the index"
        )
        return 0
    for line in describe_summary(summary):
        say(line)
    from builder.report import write_report  # draws figures, needed only for a finished build

    say(f"report    {write_report(summary.out)}")
    failures = summary.failures()
    if failures and not args.allow_drops:
        for row in islice((row for row in load_rows(summary.out) if row.reason), EXAMPLES):
            say(f"example   {row.clip_id}: {row.reason}, {row.detail}")
        kept = "The shards are kept and can be used as they are; ALLOW_DROPS=1 only changes the exit status"
        return fail(f"{'; '.join(failures)}. {kept}", 1)
    return 0


def _engine(args: argparse.Namespace) -> Engine:
    from builder.engines import DaskCluster, LocalPool

    if args.engine == DASK:
        return DaskCluster(scheduler=args.scheduler, workers=args.workers)
    if args.scheduler:
        raise ConfigError(f"--scheduler (make: SCHEDULER=): only valid with --engine {DASK} (make: ENGINE={DASK})")
    return LocalPool(workers=args.workers)


def _part(args: argparse.Namespace) -> Part | None:
    from builder.run import Part

    if args.rank is None and args.world_size is None:
        return None
    if args.rank is None or args.world_size is None:
        raise ConfigError("--rank and --world-size (make: RANK=, WORLD_SIZE=): found one of them, expected both")
    return Part(rank=args.rank, world_size=args.world_size)


def describe_summary(summary: BuildSummary) -> list[str]:
    """Describe the result of a build, one item per line."""
    counts = Counter(summary.dataset.counts)
    flagged = f" ({counts['flagged']} of them flagged)" if counts["flagged"] else ""
    lines = [f"built {counts['built'] + counts['flagged']}{flagged}   dropped {counts['dropped']}"]
    for reason, count in sorted(summary.reasons.items()):
        lines.append(f"  dropped {count}: {reason}, {DROP_REASONS[reason]}")
    for flag, count in summary.incomplete.items():
        lines.append(f"  kept {count}: {flag}, {FLAGS[flag]}")
    optional = _optional_files(summary.dataset.dataset) if summary.missing else set()
    if missing := [name for name in summary.missing if name not in optional]:
        first = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        lines.append(f"  missing from the corpus {len(missing)}: {first}; make plan ALL=1 lists all")
    lines += _describe_withdrawn(summary.dataset.withdrawn)
    shards = pluralize(len(summary.dataset.shards), "shard")
    lines.append(f"shards    {summary.out} ({shards}, {summary.resumed} of them built before)")
    lines.append(describe_folds(summary.out, summary.dataset, summary.skipped_schemes))
    scheme = LABEL_SCHEMES.get(next(iter(summary.dataset.label_schemes), ""))
    return [*lines, *describe_labels(summary.labels, scheme)]


def describe_labels(labels: LabelCounts, scheme: LabelScheme | None, *, show_all: bool = False) -> list[str]:
    """Describe the classes of a label scheme, and what a person should look at."""
    return [
        *describe_classes(labels, scheme, None if show_all else CLASSES_LISTED),
        *(f"warning   {line}" for line in label_warnings(labels, scheme)),
    ]


def _describe_withdrawn(withdrawn: Sequence[str]) -> list[str]:
    return [f"  left out because withdrawn from this folder: {', '.join(withdrawn)}"] if withdrawn else []


def describe_folds(out: Path, dataset: Dataset, skipped: Mapping[str, str]) -> str:
    """Describe the fold schemes that fit the built speakers, and which of their folds can be used, or why none fits."""
    speakers = {shard.name: shard.speaker for shard in dataset.shards}
    files = [load_fold_file(out / FOLDS / f"{name}.json", speakers) for name in dataset.fold_schemes]
    fitting = ", ".join(map(describe_usable, files))
    reasons = "; ".join(skipped.values())
    return f"folds     {fitting or f'none fits the built speakers: {reasons}'}"


def plan_folds(plan: BuildPlan) -> str:
    """Describe the fold schemes of a plan as `describe_folds` does, as if all clips were built."""
    shards = {shard.name: shard.speaker for shard in plan.shards}
    files, problems = [], []
    for name in fold_schemes_for(plan.corpus.name, shards.values()):
        try:
            scheme = fold_scheme(plan.corpus.name, name, shards.values())
            files.append(assign(scheme, shards, (vars(s.clip) for shard in plan.shards for s in shard.sources)))
        except FoldError as error:
            problems.append(str(error))
    reasons = "; ".join(problems)
    return f"folds     {', '.join(map(describe_usable, files)) or f'none fits: {reasons}'}"


# --- plan ------------------------------------------------------------------------------------------------------


def run_plan(args: argparse.Namespace) -> int:
    """Print what a build would do, also if it needs another folder."""
    with exit_on_interrupt():
        from builder.run import plan_build, remaining_plan
    config, name, out = build_config(args), _corpus_name(args), _out_folder(args)
    data, corpus = data_folder(args.dataset, args.name, args.data), get_corpus(args.dataset)
    if corpus.is_started is not None and not corpus.is_started(data):
        say(f"{corpus.title}: not in {data} yet; make shards generates it there first, without a download")
        return 0
    plan = plan_build(config, data, name)
    try:
        plan, _ = remaining_plan(plan, out)
        place = f"{out}: {plan.count_present(out)} of {pluralize(len(plan.shards), 'shard')} already built"
    except FolderError as error:  # where make shards would refuse to build
        place = str(error)
    for line in describe_plan(plan, place, show_all=args.all):
        say(line)
    return 0


def describe_plan(plan: BuildPlan, place: str, *, show_all: bool = False) -> list[str]:
    """Describe what a build would do and where, missing files and known defects; long lists are cut by default."""
    scan = plan.scan
    sources = [source for shard in plan.shards for source in shard.sources]
    speakers = {source.clip.speaker for source in sources}
    labels = count_labels((source.clip.emotion, source.clip.speaker) for source in sources)
    complete = f" of {scan.expected_clips} in the complete corpus" if scan.expected_clips else ""
    optional = _optional_files(plan.config.dataset)
    lists: dict[str, Sequence[str]] = {
        "missing from the corpus": [name for name in scan.missing if name not in optional],
        "known defects, will be dropped": [
            f"{source.clip.clip_id}: {source.known_defect}" for source in sources if source.known_defect
        ],
        "known oddities, will be flagged": [
            f"{source.clip.clip_id}: {', '.join(source.known_flags)}" for source in sources if source.known_flags
        ],
        "ignored": [f"{name}: {why}" for name, why in scan.ignored],
    }
    if unneeded := [name for name in scan.missing if name in optional]:
        lists["missing, but not needed (make corpus ALL=1)"] = unneeded
    lines = [
        f"{plan.corpus.title}: {pluralize(len(sources), 'clip')}{complete}, {pluralize(len(speakers), 'speaker')}, "
        f"{pluralize(len(plan.shards), 'shard')}",
        *_describe_withdrawn(plan.withdrawn),
        f"into      {place}",
        *_describe_cost(plan, sources),
        *(f"table     {note}" for note in scan.notes),
        *describe_labels(labels, next(iter(plan.corpus.facts.label_schemes), None), show_all=show_all),
        plan_folds(plan),
    ]
    for title, items in lists.items():
        lines += [f"{title}: {len(items)}", *limit_lines([f"  {item}" for item in items], 5, show_all=show_all)]
    return lines


def _describe_cost(plan: BuildPlan, sources: Sequence[ClipSource]) -> list[str]:
    """Estimated size of the shards, and the CPU time that they take."""
    from builder.estimate import estimate_clip

    clip = estimate_clip(sources, plan.config)
    frames = "" if plan.config.kind == PAIRS else f", {clip.frames:.0f} frames a clip"
    basis = f"estimated from {pluralize(clip.opened, 'recording')}"
    if not clip.opened:
        tried = pluralize(clip.tried, "recording")
        basis = f"estimated for usual clips of {clip.frames:.0f} frames: found none that can be opened of {tried}"
    elif clip.opened < clip.tried:
        basis += f" ({clip.tried - clip.opened} more cannot be opened)"
    return [
        f"size      about {_describe_bytes(len(sources) * clip.bytes)} in total{frames}",
        f"time      about {_describe_minutes(len(sources) * clip.core_seconds / 60)} of one core, {basis}",
    ]


def _describe_bytes(size: float) -> str:
    return f"{math.ceil(size / 1e6)} MB" if size < 1e10 else f"{math.ceil(size / 1e9)} GB"


def _describe_minutes(minutes: float) -> str:
    return pluralize(math.ceil(minutes), "minute") if minutes < 120 else f"{math.ceil(minutes / 60)} hours"


def _optional_files(dataset: str) -> set[str]:
    """Published files of a corpus that a build does without, such as sound that recordings have themselves."""
    corpus = DATASETS.get(dataset)
    remotes = corpus.remote.files() if corpus and corpus.remote else ()
    return {name for remote in remotes if not remote.needed for name in remote.files}


# --- report and features ---------------------------------------------------------------------------------------


def run_report(args: argparse.Namespace) -> int:
    """Write report.html, or one picture, from built shards."""
    with exit_on_interrupt():
        from builder.report import write_picture, write_report
    if args.picture:
        write_picture(_out_folder(args), args.picture)
    say(f"picture   {args.picture}" if args.picture else f"report    {write_report(_out_folder(args))}")
    return 0


def run_features(args: argparse.Namespace) -> int:
    """Write shards with other spectrograms, by default next to the old ones: `shards/crema-d-logmel`."""
    with exit_on_interrupt():
        from builder.engines import LocalPool
        from builder.features import FeaturesJob, make_features

        import_module("webdataset")  # writes the shards: if it is missing, fail before any work
    features = tuple(args.feature.replace(",", " ").split())
    out = args.out or args.shards.with_name("-".join((args.shards.resolve().name, *features)))
    engine = LocalPool(workers=args.workers)
    summary = make_features(FeaturesJob(shards=args.shards, out=out, features=features, engine=engine))
    for line in summary.other_versions:
        say(f"note      {line}: new spectrograms may differ from a build's in the last bits")
    counts = summary.dataset.counts
    say(f"clips     {counts.get('built', 0) + counts.get('flagged', 0)}, each with {' and '.join(features)}")
    say(f"shards    {out} ({pluralize(len(summary.dataset.shards), 'shard')}, {summary.resumed} already built)")
    say(describe_folds(out, summary.dataset, summary.skipped_schemes))
    return 0
