"""Clips per CPU second of several loaders on the same shards, and of bare decoding."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.bench import bench_load
from tests.bench.figures import Figure, run_stage


def measure(shards: Path, rounds: int, strategy: str) -> list[Figure]:
    """The rate of each loader, then the ratio of ours to each of the others."""
    torch.set_num_threads(1)
    arguments = [str(shards), "--others", "--rounds", str(rounds), "--strategy", strategy]
    rates = bench_load.rates_of(bench_load.parser().parse_args(arguments))
    ours = min(rate for name, rate in rates.items() if name.startswith("loader"))
    least = {"bare decoding": 0.9}
    return [
        *(Figure(name=name, value=rate, unit="clips / CPU s") for name, rate in rates.items()),
        *(
            Figure(name=f"slowest loader / {name}", value=ours / rate, unit="", least=least.get(name, 1.0))
            for name, rate in rates.items()
            if not name.startswith("loader")
        ),
    ]


if __name__ == "__main__":
    run_stage(measure, __doc__, shards=Path("shards/demo"), rounds=5, strategy="cfas")
