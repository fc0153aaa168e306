"""Run every bench in its own process and write one table, one JSON file and one plot: python -m tests.bench.

`--compare OLD.json NEW.json` compares two earlier runs instead. Run it from the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from builder.datasets.demo import make_demo
from manifests.files import FolderError
from manifests.index import DATASET_FILE
from tests.bench.figures import Figure, comparison, load, load_run, save_run, table
from tests.bench.plot import plot_growth

#: Stage -> module and its options, to which `--json FILE` is added. Any program that writes figures there is a stage.
STAGES: Mapping[str, tuple[str, ...]] = {
    "build": ("tests.bench.stage_build", "--dataset={dataset}", "--data={data}"),
    "load": ("tests.bench.stage_load", "--shards={shards}"),
    "load, sequences": ("tests.bench.stage_load", "--shards={sequences}"),
    "train": ("tests.bench.stage_train",),
    "pretrain": ("tests.bench.bench_pretrain", "--strategy=cfas", "--shards={sequences}"),
    "build, growing": ("tests.bench.stage_build_growth", "--data={demo}"),
    "load, growing": ("tests.bench.stage_load_growth",),
    "index, growing": ("tests.bench.stage_index",),
    "machines": ("tests.bench.stage_machines", "--data={demo}"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every stage was measured, whatever its figures; 1 if a stage failed, 2 for a user error."""
    args = _parser().parse_args(arguments)
    try:
        if args.compare:
            sys.stdout.write(comparison(*map(load_run, args.compare)))
            return 0
        _prepare(args)
    except (FolderError, OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return _run_stages(args)


def _run_stages(args: argparse.Namespace) -> int:
    """Run the stages, write their figures and print the table."""
    now = datetime.now(UTC)
    stages = {name: figures for name in args.stage if (figures := _run_stage(name, args)) is not None}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{now:%Y%m%d-%H%M%S}.json"
    save_run(stages, _environment(now), path)
    sys.stdout.write(f"\n{table(stages)}\n{path}\n")
    if any(figure.at is not None for figures in stages.values() for figure in figures):
        path.with_suffix(".png").write_bytes(plot_growth(stages))
        sys.stdout.write(f"{path.with_suffix('.png')}\n")
    return int(len(stages) < len(args.stage))


def _prepare(args: argparse.Namespace) -> None:
    """Make the demo corpus and its shards if they do not exist. Raises CalledProcessError if the build fails."""
    make_demo(args.demo)
    for out, frames in ((args.shards, "16"), (args.sequences, "all")):
        if not (out / DATASET_FILE).exists():
            where = [f"--data={args.demo}", f"--out={out}", f"--frames={frames}"]
            subprocess.run([sys.executable, "-m", "builder", "shards", "--dataset=demo", *where], check=True)


def _run_stage(stage: str, args: argparse.Namespace) -> list[Figure] | None:
    """Figures of a stage; None, after a line with the reason, if it fails."""
    sys.stdout.write(f"measuring: {stage}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures.json")
        command = [part.format_map(vars(args)) for part in STAGES[stage]]
        ended = subprocess.run(
            [sys.executable, "-m", *command, f"--json={path}"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if ended.returncode:
            reason = ended.stderr.strip().rpartition("\n")[2]
            sys.stderr.write(f"error: stage {stage} could not be measured: {reason}\n")
            return None
        return load(path)


def _environment(now: datetime) -> dict[str, str]:
    """Date, versions and processor of the run."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "version": version("multimae-der"),
        "python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--stage", nargs="+", default=list(STAGES), choices=STAGES, metavar="STAGE", help="run only these"
    )
    parser.add_argument("--dataset", default="demo", help="corpus of the build stage")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="recordings of the build stage")
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="the demo corpus, created if absent")
    parser.add_argument(
        "--shards",
        type=Path,
        default=Path("shards/demo"),
        help="shards of the load stage, built if absent",
    )
    parser.add_argument(
        "--sequences",
        type=Path,
        default=Path("shards/demo-sequences"),
        help="shards with every frame, of the stage after it, built if absent",
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for the JSON file and the plot")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="two JSON files of earlier runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
