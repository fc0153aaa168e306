"""Measure every stage, each in a process of its own, into one table, one JSON and one picture: python tests/bench.

`--compare OLD.json NEW.json` sets two such runs side by side instead.
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
from tests.bench.plot import picture

HERE = Path(__file__).parent
#: Stage -> what is given to Python, to which `--json FILE` is added. Anything that writes figures there is a stage.
STAGES: Mapping[str, tuple[str, ...]] = {
    "build": (f"{HERE / 'stage_build.py'}", "--dataset={dataset}", "--data={data}"),
    "load": (f"{HERE / 'stage_load.py'}", "--shards={shards}"),
    "train": (f"{HERE / 'stage_train.py'}",),
    "build, growing": (f"{HERE / 'stage_build_growth.py'}", "--data={demo}"),
    "load, growing": (f"{HERE / 'stage_load_growth.py'}",),
    "index, growing": (f"{HERE / 'stage_index.py'}",),
    "machines": (f"{HERE / 'stage_machines.py'}", "--data={demo}"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every stage could be measured, whatever the figures are; 1 if one could not, 2 if none could."""
    options = _parser().parse_args(arguments)
    try:
        if options.compare:
            sys.stdout.write(comparison(*map(load_run, options.compare)))
            return 0
        _prepare(options)
    except (FolderError, OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    """Write and print what the stages say."""
    now = datetime.now(UTC)
    stages = {name: figures for name in options.stage if (figures := _measured(name, options)) is not None}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{now:%Y%m%d-%H%M%S}.json"
    save_run(stages, _about(now), path)
    sys.stdout.write(f"\n{table(stages)}\n{path}\n")
    if any(figure.at is not None for figures in stages.values() for figure in figures):
        path.with_suffix(".png").write_bytes(picture(stages))
        sys.stdout.write(f"{path.with_suffix('.png')}\n")
    return int(len(stages) < len(options.stage))


def _prepare(options: argparse.Namespace) -> None:
    """Make what is measured on, where it is not there yet. Raises CalledProcessError, after the build's own words."""
    make_demo(options.demo)
    if not (options.shards / DATASET_FILE).exists():
        where = [f"--data={options.demo}", f"--out={options.shards}"]
        subprocess.run([sys.executable, "-m", "builder", "shards", "--dataset=demo", *where], check=True)


def _measured(stage: str, options: argparse.Namespace) -> list[Figure] | None:
    """A stage's figures; None, after its last words, if it fails."""
    sys.stdout.write(f"measuring: {stage}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures.json")
        command = [part.format_map(vars(options)) for part in STAGES[stage]]
        ended = subprocess.run(
            [sys.executable, *command, f"--json={path}"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if ended.returncode:
            why = ended.stderr.strip().rpartition("\n")[2]
            sys.stderr.write(f"error: stage {stage} could not be measured: {why}\n")
            return None
        return load(path)


def _about(now: datetime) -> dict[str, str]:
    """When, what and where."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "version": version("multimae-der"),
        "python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES, metavar="STAGE", help="only these")
    parser.add_argument("--dataset", default="demo", help="corpus whose clips are built one by one")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="its folder")
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="the demo corpus, made if absent")
    parser.add_argument(
        "--shards", type=Path, default=Path("shards/demo"), help="what is loaded, built of the demo if absent"
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), help="where JSON and picture are written")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="two JSON files of earlier runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
