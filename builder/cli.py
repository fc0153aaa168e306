"""Commands of `python -m builder`: their arguments, what they print and the status they exit with.

Commands import decoders and face models when they run, so that `corpus` and `features` work where these cannot be
loaded, and `--help` is fast.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from builder.config import TIMELINES, Align, BuildConfig, ConfigError, Decoder
from builder.corpus.command import limit_lines, run_corpus
from builder.corpus.fetch import CONNECTIONS
from builder.datasets import DATASETS, DEFAULT, corpus_named
from builder.signals import exit_on_interrupt
from builder.worker import Limits
from manifests.console import Parser, add_command, fail, say
from manifests.progress import ProgressBar
from manifests.schema import COLUMNS, DROP_REASONS, FEATURE_ROWS, GRIDS
from manifests.text import pluralize

if TYPE_CHECKING:
    from builder.engines import Engine
    from builder.run import BuildPlan, BuildSummary, Part

LOCAL, DASK = "local", "dask"
#: Faces, sound and json of a clip: 257 kB in clips of CREMA-D, 285 kB in the demo corpus.
CLIP_BYTES = 270_000


# --- arguments -------------------------------------------------------------------------------------------------


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="python -m builder", description="Turn a corpus into verified shards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cores = len(os.sched_getaffinity(0))
    shards = add_command(commands, "shards", run_shards, "build verified shards from a corpus folder")
    plan = add_command(commands, "plan", run_plan, "list what would be built, what is absent and what is defective")
    report = add_command(commands, "report", run_report, "make report.html from built shards")
    corpus = add_command(commands, "corpus", run_corpus, "download a corpus's files from where they are published")
    features = add_command(commands, "features", run_features, "make other spectrograms of shards' own sound")
    for command in (shards, plan, report, corpus):
        command.add_argument("--dataset", default=DEFAULT, help=f"one of {', '.join(DATASETS)} (default: {DEFAULT})")
        command.add_argument("--data", type=folder_path, help="the corpus's folder (default: data/DATASET)")
    for command in (shards, plan, report):
        command.add_argument("--out", type=folder_path, help="folder of the shards (default: shards/DATASET)")
    for command in (shards, plan):
        _add_settings(command)
    for command in (shards, features):
        command.add_argument("--workers", type=positive_int, default=cores, help="processes (default: all cores)")
    shards.add_argument("--engine", choices=(LOCAL, DASK), default=LOCAL, help="where shards are built")
    shards.add_argument("--scheduler", default="", help="address of a Dask cluster (default: start one here)")
    shards.add_argument("--rank", type=int, help="which part this machine builds, from 0, of ...")
    shards.add_argument("--world-size", type=int, help="... so many, each started by itself, on one file system")
    shards.add_argument("--clip-seconds", type=seconds, default=Limits().seconds, help="time limit for one clip")
    shards.add_argument("--prune", action="store_true", help="remove finished shards of speakers that are gone")
    shards.add_argument("--allow-drops", action="store_true", help="accept dropped clips and empty speakers")
    plan.add_argument("--all", action="store_true", help="list every file")
    report.add_argument("--picture", type=Path, metavar="FILE", help="instead, draw a few clips as one picture")
    corpus.add_argument("--from", dest="address", metavar="ADDRESS", help="a mirror, in place of the public server")
    corpus.add_argument("--check", action="store_true", help="only compare the files here with what is published")
    corpus.add_argument("--all", action="store_true", help="also files that are rarely needed; list every bad one")
    corpus.add_argument("--replace", action="store_true", help="download again files that are not as published")
    corpus.add_argument("--keep-archives", action="store_true", help="keep archives after they are unpacked")
    corpus.add_argument("--connections", type=positive_int, default=CONNECTIONS, help="files downloaded at once")
    features.add_argument("shards", type=folder_path, metavar="SHARDS", help="folder of finished shards")
    features.add_argument("--feature", required=True, help=f"one or more of {', '.join(FEATURE_ROWS)}")
    features.add_argument("--out", type=folder_path, help="folder of the new shards (default: SHARDS-FEATURE)")
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    """Settings that decide the bytes; BuildConfig checks their values."""
    default = BuildConfig(dataset=DEFAULT)
    features = " ".join(default.features)
    command.add_argument("--feature", default=features, help=f"one or more of {', '.join(FEATURE_ROWS)}")
    command.add_argument("--timeline", default=default.timeline, help=f"one of {', '.join(TIMELINES)}")
    command.add_argument("--step", type=positive_int, default=default.step_frames, help="for fixed")
    command.add_argument("--align", default=default.align, help=f"one of {', '.join(get_args(Align))}")
    command.add_argument("--decoder", default=default.decoder, help=f"one of {', '.join(get_args(Decoder))}")
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="the corpus's own options")


def folder_path(text: str) -> Path:
    """Argument type: a path, `~` is the home folder."""
    return Path(text).expanduser()


def positive_int(text: str) -> int:
    """Argument type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Argument type: a duration, more than 0."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds, more than 0")


def build_config(args: argparse.Namespace) -> BuildConfig:
    """The settings of a build. Raises ConfigError."""
    pairs = [option.partition("=") for option in args.option]
    return BuildConfig(
        dataset=args.dataset,
        timeline=args.timeline,
        step_frames=args.step,
        features=tuple(args.feature.replace(",", " ").split()),
        align=args.align,
        decoder=args.decoder,
        options={name: value for name, _, value in pairs},
    )


def _data_folder(args: argparse.Namespace) -> Path:
    """The corpus's folder; a corpus that is generated is made in it first."""
    folder: Path = args.data or Path("data") / args.dataset
    corpus = corpus_named(args.dataset)
    if corpus.make is not None:
        with ProgressBar(0, f"making the {corpus.name} corpus") as progress:
            corpus.make(folder, progress.reach)
    return folder


def _out_folder(args: argparse.Namespace) -> Path:
    return args.out or Path("shards") / args.dataset


# --- shards ----------------------------------------------------------------------------------------------------


def run_shards(args: argparse.Namespace) -> int:
    """Exit status 1 if clips were dropped or a speaker is empty, unless that is accepted."""
    with exit_on_interrupt():
        from builder.run import BuildJob, PartSummary, build
    config, engine, part = build_config(args), _engine(args), _part(args)
    summary = build(
        BuildJob(
            config=config,
            data=_data_folder(args),
            out=_out_folder(args),
            engine=engine,
            part=part,
            limits=Limits(seconds=args.clip_seconds),
            prune=args.prune,
        )
    )
    if isinstance(summary, PartSummary):
        say(f"part      {pluralize(summary.mine, 'shard')}, {summary.resumed} of them built before")
        say(
            f"shards    {summary.out}: {summary.present} of {summary.total} are finished; "
            "the last part to end writes the index"
        )
        return 0
    for line in describe_summary(summary):
        say(line)
    from builder.report import write_report  # draws figures, which only a finished build needs

    say(f"report    {write_report(summary.out)}")
    failures = summary.failures()
    if failures and not args.allow_drops:
        return fail(f"{'; '.join(failures)}. What was built is kept; ALLOW_DROPS=1 accepts it", 1)
    return 0


def _engine(args: argparse.Namespace) -> Engine:
    from builder.engines import DaskCluster, LocalPool

    if args.engine == DASK:
        return DaskCluster(scheduler=args.scheduler, workers=args.workers)
    if args.scheduler:
        raise ConfigError(f"--scheduler (make: SCHEDULER=): is for --engine {DASK} (make: ENGINE={DASK}) alone")
    return LocalPool(workers=args.workers)


def _part(args: argparse.Namespace) -> Part | None:
    from builder.run import Part

    if args.rank is None and args.world_size is None:
        return None
    if args.rank is None or args.world_size is None:
        raise ConfigError("--rank and --world-size (make: RANK=, WORLD_SIZE=): found one of them, expected both")
    return Part(rank=args.rank, world_size=args.world_size)


def describe_summary(summary: BuildSummary) -> list[str]:
    """What a build did, line by line."""
    counts = Counter(summary.dataset.counts)
    lines = [f"built {counts['built']}   flagged {counts['flagged']}   dropped {counts['dropped']}"]
    for reason, count in sorted(summary.reasons.items()):
        lines.append(f"  dropped {count}: {reason}, {DROP_REASONS[reason]}")
    if summary.missing:
        first = ", ".join(summary.missing[:3])
        lines.append(f"  absent from the inventory {len(summary.missing)}: {first} ...; make plan ALL=1 lists all")
    lines += _describe_withdrawn(summary.dataset.withdrawn)
    shards = pluralize(len(summary.dataset.shards), "shard")
    lines.append(f"shards    {summary.out} ({shards}, {summary.resumed} of them built before)")
    return [*lines, describe_folds(summary.dataset.fold_schemes, summary.skipped_schemes)]


def _describe_withdrawn(withdrawn: Sequence[str]) -> list[str]:
    return [f"  left out, since they were withdrawn from this folder: {', '.join(withdrawn)}"] if withdrawn else []


def describe_folds(schemes: Sequence[str], skipped: Mapping[str, str]) -> str:
    """The fold schemes that fit what was built, or, if none does, why not."""
    fitting = ", ".join(schemes) or f"none fits what was built: {'; '.join(skipped.values())}"
    return f"folds     {fitting}"


# --- plan ------------------------------------------------------------------------------------------------------


def run_plan(args: argparse.Namespace) -> int:
    """Print what a build would do."""
    with exit_on_interrupt():
        from builder.run import plan_build, remaining_plan
    config, out = build_config(args), _out_folder(args)
    plan, _ = remaining_plan(plan_build(config, _data_folder(args)), out)
    for line in describe_plan(plan, out, every=args.all):
        say(line)
    return 0


def describe_plan(plan: BuildPlan, out: Path, every: bool = False) -> list[str]:
    """What a build would do, what is absent and what is known to be defective; long lists are cut unless `every`."""
    scan = plan.scan
    sources = [source for shard in plan.shards for source in shard.sources]
    speakers = {source.clip.speaker for source in sources}
    complete = f" of {scan.expected_clips} in the complete corpus" if scan.expected_clips else ""
    # Clips of two to three seconds; longer ones have more sound, but as many frames and windows, which are float16.
    rows = sum(FEATURE_ROWS[feature] for feature in plan.config.features)
    estimated_bytes = len(sources) * (CLIP_BYTES + rows * COLUMNS * sum(GRIDS) * 2)
    lists = {
        "absent from the inventory": scan.missing,
        "known to be defective, will be dropped": [
            f"{source.clip.clip_id}: {source.known_defect}" for source in sources if source.known_defect
        ],
        "known to be odd, will be flagged": [
            f"{source.clip.clip_id}: {', '.join(source.known_flags)}" for source in sources if source.known_flags
        ],
        "not used": [f"{name}: {why}" for name, why in scan.ignored],
    }
    lines = [
        f"{plan.corpus.title}: {pluralize(len(sources), 'clip')}{complete}, {pluralize(len(speakers), 'speaker')}, "
        f"{pluralize(len(plan.shards), 'shard')}",
        *_describe_withdrawn(plan.withdrawn),
        f"into      {out}: {plan.count_present(out)} of {pluralize(len(plan.shards), 'shard')} built before",
        f"size      about {math.ceil(estimated_bytes / 1e6)} MB in all",
    ]
    for title, items in lists.items():
        lines += [f"{title}: {len(items)}", *limit_lines([f"  {item}" for item in items], 5, every=every)]
    return lines


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
    """Write shards with other spectrograms, by default beside the old ones: `shards/crema-d-logmel`."""
    with exit_on_interrupt():
        from builder.engines import LocalPool
        from builder.features import FeaturesJob, make_features
    features = tuple(args.feature.replace(",", " ").split())
    out = args.out or args.shards.with_name("-".join((args.shards.resolve().name, *features)))
    engine = LocalPool(workers=args.workers)
    summary = make_features(FeaturesJob(shards=args.shards, out=out, features=features, engine=engine))
    for line in summary.other_versions:
        say(f"note      {line}: what is new may differ from a build's in the last bits")
    counts = summary.dataset.counts
    say(f"clips     {counts.get('built', 0) + counts.get('flagged', 0)}, each with {' and '.join(features)}")
    say(f"shards    {out} ({pluralize(len(summary.dataset.shards), 'shard')}, {summary.resumed} of them made before)")
    say(describe_folds(summary.dataset.fold_schemes, summary.skipped_schemes))
    return 0
