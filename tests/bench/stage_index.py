"""Planning, indexing, verifying and opening folds of synthetic corpora. `make bench-index` takes a million clips.

Of sequences without labels it takes a tenth of the clips, and reads some of them with the loader.
"""

from __future__ import annotations

from itertools import chain

from tests.bench import scale
from tests.bench.figures import Figure, run_stage


def measure(clips: int) -> list[Figure]:
    """Figures of pairs for a tenth of the clips and for all of them, of sequences for a tenth."""
    costs = chain(scale.measure(clips // 10), scale.measure(clips), scale.measure_sequences(clips // 10))
    return [figure for cost in costs for figure in _figures(cost)]


def _figures(cost: scale.Cost) -> list[Figure]:
    figures = [
        Figure(name=cost.stage, value=cost.cpu_seconds, unit="s", at=cost.clips, of="clips", most=scale.MAX_SECONDS),
        Figure(name=cost.stage, value=cost.peak_bytes / 1e6, unit="MB", at=cost.clips, of="clips"),
    ]
    if cost.grown_bytes is not None:
        grown, most = (size / 1e6 for size in (cost.grown_bytes, scale.MOST_GROWN_BYTES))
        name = f"{cost.stage}, growth"
        figures.append(Figure(name=name, value=grown, unit="MB", at=cost.clips, of="clips", most=most))
    return figures


if __name__ == "__main__":
    run_stage(measure, __doc__, clips=100_000)
