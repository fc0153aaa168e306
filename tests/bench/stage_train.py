"""Clips per second of fine-tuning and of frozen features, ours and with transformers' encoder; and of input alone.

ViT-L on a GPU, `tiny` on a CPU. The encoders alternate, and the best round of each counts. `make bench-train` sweeps
batch sizes and compilation.
"""

from __future__ import annotations

import itertools

from tests.bench import bench_train
from tests.bench.bench_train import MODELS, PASSES, Way
from tests.bench.figures import Figure, run_stage
from train import cost
from train.config import device_for
from train.models.videomae import ENCODERS


def measure(device: str, batch: int, rounds: int, seconds: float) -> list[Figure]:
    """The rate of each encoder at each kind of work, and the ratio of ours to transformers'."""
    chosen = device_for(device)
    large = chosen.type == "cuda"
    encoder = ENCODERS["large" if large else "tiny"]
    rate = cost.measure_flops(chosen)
    best: dict[tuple[str, str], float] = dict.fromkeys(itertools.product(PASSES, MODELS), 0.0)
    for _, (work, model) in itertools.product(range(rounds), best):
        way = Way(work=work, model=model, compiled=large, batch=batch)
        found = bench_train.measured(way, encoder, "cfas", chosen, rate, seconds).clips_per_second
        best[work, model] = max(best[work, model], found or 0.0)
    rates = [Figure(name=f"{work}, {model}", value=found, unit="clips / s") for (work, model), found in best.items()]
    ratios = [
        Figure(name=f"{work}, ours / transformers", value=best[work, "ours"] / best[work, "transformers"], unit="")
        for work in PASSES
    ]
    inputs = [
        Figure(name=f"input, {name or 'no'} augmentation", value=found, unit="clips / s")
        for name, found in bench_train.input_rates(encoder, "cfas", chosen, batch, seconds).items()
    ]
    return [*rates, *ratios, *inputs]


if __name__ == "__main__":
    run_stage(measure, __doc__, device="auto", batch=16, rounds=3, seconds=2.0)
