"""Figures of the benches: JSON, a Markdown table, and a comparison of two runs. Pure, apart from files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    at: int | None = None
    """Size of the work, if the figure was measured for several sizes."""
    of: str = ""
    """Unit of `at`: clips, shards."""
    least: float | None = None
    """Lower limit of the target, if there is one."""
    most: float | None = None
    """Upper limit of the target, if there is one."""

    @property
    def label(self) -> str:
        """The name with the size."""
        return self.name if self.at is None else f"{self.name}, {self.at:,} {self.of}"

    @property
    def aim(self) -> str:
        """The target and whether it is reached, e.g. `at most 1.35: yes`; empty without a target."""
        bounds = {"at least": self.least, "at most": self.most}
        words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        met = (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)
        return words and f"{words}: {'yes' if met else 'NO'}"


Stages = Mapping[str, Sequence[Figure]]


def save(figures: Iterable[Figure], path: Path) -> None:
    """Write the figures of one stage as JSON, a list of objects."""
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n", "utf-8")


def load(path: Path) -> list[Figure]:
    """Read the figures of one stage."""
    return [Figure(**each) for each in json.loads(path.read_bytes())]


def save_run(stages: Stages, environment: Mapping[str, str], path: Path) -> None:
    """Write a whole run as JSON: date and versions, then the figures of each stage."""
    figures_by_stage = {stage: [asdict(figure) for figure in figures] for stage, figures in stages.items()}
    path.write_text(json.dumps({**environment, "stages": figures_by_stage}, indent=1) + "\n", "utf-8")


def load_run(path: Path) -> dict[str, list[Figure]]:
    """Read a whole run: figures by stage. Raises ValueError for any other file, OSError."""
    run = json.loads(path.read_bytes())
    if not isinstance(run, dict) or not isinstance(stages := run.get("stages"), dict):
        raise ValueError(f"{path}: found no stages, expected JSON that make bench wrote")
    return {stage: [Figure(**each) for each in figures] for stage, figures in stages.items()}


def table(stages: Stages) -> str:
    """Markdown table with one row per figure."""
    return _markdown(
        ("stage", "figure", "value", "unit", "aim"),
        [(stage, f.label, format_number(f.value), f.unit, f.aim) for stage, figures in stages.items() for f in figures],
    )


def comparison(old: Stages, new: Stages) -> str:
    """Markdown table with a row for each figure of either run, and the ratio of new to old."""
    before, after = _flat(old), _flat(new)
    rows = []
    for stage, label, unit in dict.fromkeys([*after, *before]):
        values = [run.get((stage, label, unit)) for run in (before, after)]
        ratio = f"{values[1] / values[0]:.2f}" if values[0] and values[1] is not None else ""
        rows.append((stage, label, *("" if value is None else format_number(value) for value in values), ratio, unit))
    return _markdown(("stage", "figure", "old", "new", "new / old", "unit"), rows)


def format_number(value: float) -> str:
    """Format with three significant digits and without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def run_stage(measure: Callable[..., list[Figure]], description: str | None, **defaults: Any) -> None:
    """Command line of a stage: an option for each default, the table on standard output, `--json FILE`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=" ")
    options = vars(parser.parse_args())
    path = options.pop("json")
    figures = measure(**options)
    print(table({"": figures}), end="")  # noqa: T201 - a command line
    if path:
        save(figures, path)


def _flat(stages: Stages) -> dict[tuple[str, str, str], float]:
    return {(stage, f.label, f.unit): f.value for stage, figures in stages.items() for f in figures}


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    top = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, rule))
    return "".join(f"| {line} |\n" for line in (*top, *lines))
