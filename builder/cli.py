"""Arguments of `python -m builder`, and what each command says and ends with."""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

from builder import console, light
from builder.config import TIMELINES, BuildConfig, ConfigError
from builder.console import failed, say
from builder.datasets import DATASETS
from builder.datasets.demo import make_demo
from builder.engines import DaskCluster, Engine, LocalPool
from builder.faces import Align
from builder.media import DECODERS
from builder.pool import EngineError, Limits
from builder.run import Job, Part, PartSummary, Plan, Summary, begun, build, plan
from manifests.progress import ProgressBar
from manifests.schema import COLUMNS, DROP_REASONS, FEATURE_ROWS, GRIDS
from manifests.text import pluralize

DEMO = "demo"
DASK = "dask"
ENGINES = ("local", DASK)
#: Picture, sound and json of a clip: 257 kB in clips of CREMA-D, 285 kB in the demo corpus.
CLIP_BYTES = 270_000
#: Errors whose message is all a person needs.
EXPECTED = (*light.EXPECTED, EngineError)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; exit status 0 only if all is well, 1 if what was built needs a look, 2 if nothing could be."""
    return console.run(_parser(), arguments, EXPECTED)


def _shards(options: argparse.Namespace) -> int:
    data = _data(options)
    job = Job(
        config=_config(options),
        data=data,
        out=options.out or Path("shards") / options.dataset,
        engine=_engine(options),
        part=_part(options),
        limits=Limits(seconds=options.clip_seconds),
        prune=options.prune,
    )
    summary = build(job)
    if isinstance(summary, PartSummary):
        _say_part(summary)
        return 0
    _say_summary(summary)
    say(f"report    {_write_report(summary.out)}")
    failures = summary.failures()
    if failures and not options.allow_drops:
        return failed(f"{'; '.join(failures)}. What was built is kept; ALLOW_DROPS=1 accepts it", 1)
    return 0


def _say_summary(summary: Summary) -> None:
    counts = Counter(summary.counts)
    say(f"built {counts['built']}   flagged {counts['flagged']}   dropped {counts['dropped']}")
    for reason, count in sorted(summary.reasons.items()):
        say(f"  dropped {count}: {reason}, {DROP_REASONS[reason]}")
    if summary.missing:
        first = ", ".join(summary.missing[:3])
        say(f"  absent from the inventory {len(summary.missing)}: {first} ...; make plan ALL=1 names all")
    for line in _left_out(summary.withdrawn):
        say(line)
    say(f"shards    {summary.out} ({pluralize(summary.shards, 'shard')}, {summary.resumed} of them built before)")
    light.say_folds(summary.fold_schemes, summary.skipped_schemes)


def _left_out(withdrawn: Sequence[str]) -> list[str]:
    return [f"  left out, since they were withdrawn from this folder: {', '.join(withdrawn)}"] if withdrawn else []


def _engine(options: argparse.Namespace) -> Engine:
    if options.engine == DASK:
        return DaskCluster(scheduler=options.scheduler, workers=options.workers)
    if options.scheduler:
        raise ConfigError(f"--scheduler (make: SCHEDULER=): is for --engine {DASK} (make: ENGINE={DASK}) alone")
    return LocalPool(workers=options.workers)


def _part(options: argparse.Namespace) -> Part | None:
    if options.rank is None and options.world_size is None:
        return None
    if options.rank is None or options.world_size is None:
        raise ConfigError("--rank and --world-size (make: RANK=, WORLD_SIZE=): found one of them, expected both")
    return Part(rank=options.rank, world_size=options.world_size)


def _say_part(summary: PartSummary) -> None:
    say(f"part      {pluralize(summary.mine, 'shard')}, {summary.resumed} of them built before")
    say(f"shards    {summary.out}: {summary.there} of {summary.total} are there; the last part to end writes the index")


def _plan(options: argparse.Namespace) -> int:
    out = options.out or Path("shards") / options.dataset
    planned, there = begun(plan(_config(options), _data(options)), out)
    for line in describe_plan(planned, out, there, every=options.all):
        say(line)
    return 0


def describe_plan(planned: Plan, out: Path, there: int, every: bool = False) -> list[str]:
    """What a build would do, what is absent and what is known to be defective; long lists are cut unless `every`.

    `there` is how many of its shards are in `out` already.
    """
    scan = planned.scan
    sources = [source for shard in planned.shards for source in shard.sources]
    speakers = {source.clip.speaker for source in sources}
    complete = f" of {scan.expected_clips} in the complete corpus" if scan.expected_clips else ""
    defects = [(s.clip.clip_id, s.known_defect) for s in sources if s.known_defect]
    flagged = [(s.clip.clip_id, ", ".join(s.known_flags)) for s in sources if s.known_flags]
    return [
        f"{planned.corpus.title}: {pluralize(len(sources), 'clip')}{complete}, {pluralize(len(speakers), 'speaker')}, "
        f"{pluralize(len(planned.shards), 'shard')}",
        *_left_out(planned.withdrawn),
        f"into      {out}: {there} of {pluralize(len(planned.shards), 'shard')} built before",
        f"size      about {math.ceil(_estimated_bytes(planned, len(sources)) / 1e6)} MB in all",
        *_listed("absent from the inventory", scan.missing, every),
        *_listed("known to be defective, will be dropped", [f"{clip}: {why}" for clip, why in defects], every),
        *_listed("known to be odd, will be flagged", [f"{clip}: {why}" for clip, why in flagged], every),
        *_listed("not taken", [f"{name}: {why}" for name, why in scan.ignored], every),
    ]


def _estimated_bytes(planned: Plan, clips: int) -> float:
    """Shards of clips of two to three seconds; longer ones have more sound, but as many frames and windows."""
    rows = sum(FEATURE_ROWS[feature] for feature in planned.config.features)
    return clips * (CLIP_BYTES + rows * COLUMNS * sum(GRIDS) * 2)  # spectrograms are float16


def _listed(title: str, items: Sequence[str], every: bool) -> list[str]:
    shown = items if every else items[:5]
    more = [f"  ... and {len(items) - len(shown)} more (ALL=1 lists them)"] if len(shown) < len(items) else []
    return [f"{title}: {len(items)}", *(f"  {item}" for item in shown), *more]


def _report(options: argparse.Namespace) -> int:
    from builder.report import write_picture

    folder = options.out or Path("shards") / options.dataset
    if options.picture:
        write_picture(folder, options.picture)
        say(f"picture   {options.picture}")
    else:
        say(f"report    {_write_report(folder)}")
    return 0


def _write_report(folder: Path) -> Path:
    from builder.report import write_report  # draws pictures: not needed by most commands

    return write_report(folder)


def _config(options: argparse.Namespace) -> BuildConfig:
    pairs = [option.partition("=") for option in options.option]
    return BuildConfig(
        dataset=options.dataset,
        timeline=options.timeline,
        step_frames=options.step,
        features=tuple(options.feature.replace(",", " ").split()),
        align=options.align,
        decoder=options.decoder,
        options={name: value for name, _, value in pairs},
    )


def _data(options: argparse.Namespace) -> Path:
    """The corpus's folder; the demo corpus is made in it first."""
    folder = options.data or Path("data") / options.dataset
    if options.dataset == DEMO:
        with ProgressBar(0, "making the demo corpus") as progress:
            make_demo(folder, progress=progress.reach)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(prog="python -m builder", description="Turn a corpus into verified shards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shards = _command(commands, "shards", _shards, "build verified shards from a corpus folder")
    dry = _command(commands, "plan", _plan, "say what would be built, what is absent and what is defective")
    for command in (shards, dry):
        _add_settings(command)
    shards.add_argument(
        "--workers", type=console.positive, default=len(os.sched_getaffinity(0)), help="processes (all cores)"
    )
    shards.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="where shards are built")
    shards.add_argument("--scheduler", default="", help="a Dask cluster's address; made on this machine if not given")
    shards.add_argument("--rank", type=int, help="which part this machine builds, from 0, of ...")
    shards.add_argument("--world-size", type=int, help="... so many, each started by itself, on one file system")
    shards.add_argument("--clip-seconds", type=_seconds, default=Limits().seconds, help="time limit for one clip")
    shards.add_argument("--prune", action="store_true", help="remove finished shards of speakers that are gone")
    shards.add_argument("--allow-drops", action="store_true", help="accept dropped clips and empty speakers")
    dry.add_argument("--all", action="store_true", help="list every file")
    report = _command(commands, "report", _report, "make report.html from built shards")
    report.add_argument("--picture", type=Path, metavar="FILE", help="instead, draw a few clips as one picture")
    light.add_commands(commands)
    return parser


def _command(commands: object, name: str, run: object, description: str) -> argparse.ArgumentParser:
    command = console.command(commands, name, run, description)
    command.add_argument("--dataset", default=DEMO, help=f"one of {', '.join(DATASETS)} (default: {DEMO})")
    command.add_argument("--data", type=console.folder, help="the corpus's folder (default: data/DATASET)")
    command.add_argument("--out", type=console.folder, help="folder of the shards (default: shards/DATASET)")
    return command


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--feature", default="mfcc", help=f"one or more of {', '.join(FEATURE_ROWS)}")
    command.add_argument("--timeline", default="uniform", help=f"one of {', '.join(TIMELINES)}")
    command.add_argument(
        "--step", type=console.positive, default=BuildConfig(dataset=DEMO).step_frames, help="for fixed"
    )
    command.add_argument("--align", default="frame", help=f"one of {', '.join(get_args(Align))}")
    command.add_argument("--decoder", default="pyav", help=f"one of {', '.join(DECODERS)}")
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="the corpus's own options")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds, more than 0")
