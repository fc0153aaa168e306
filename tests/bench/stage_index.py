"""Planning, indexing, verifying and opening a fold of synthetic corpora. `make bench-index` takes a million clips."""

from __future__ import annotations

from tests.bench import scale
from tests.bench.figures import Figure, run_stage


def measure(clips: int) -> list[Figure]:
    """Figures for a tenth of the clips and for all of them."""
    return [figure for size in (clips // 10, clips) for cost in scale.measure(size) for figure in _figures(cost)]


def _figures(cost: scale.Cost) -> list[Figure]:
    return [
        Figure(name=cost.stage, value=cost.cpu_seconds, unit="s", at=cost.clips, of="clips", most=scale.MAX_SECONDS),
        Figure(name=cost.stage, value=cost.peak_bytes / 1e6, unit="MB", at=cost.clips, of="clips"),
    ]


if __name__ == "__main__":
    run_stage(measure, __doc__, clips=100_000)
