"""What a stage of the bench hands over: figures, as JSON, as a table, and beside those of another version. Pure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that was measured."""

    name: str
    value: float
    unit: str
    at: int | None = None
    """Size of the work, where the same was measured for several."""
    of: str = ""
    """What `at` counts: clips, shards."""
    least: float | None = None
    """What is asked for, where something is."""
    most: float | None = None

    @property
    def label(self) -> str:
        """The name with the size."""
        return self.name if self.at is None else f"{self.name}, {self.at:,} {self.of}"

    @property
    def aim(self) -> str:
        """What is asked for, and whether it is so."""
        bounds = {"at least": self.least, "at most": self.most}
        words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        met = (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)
        return words and f"{words}: {'yes' if met else 'NO'}"


Stages = Mapping[str, Sequence[Figure]]


def save(figures: Iterable[Figure], path: Path) -> None:
    """Figures of one stage -> JSON, a list of objects."""
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n", "utf-8")


def load(path: Path) -> list[Figure]:
    """JSON of one stage -> its figures."""
    return [Figure(**each) for each in json.loads(path.read_bytes())]


def save_run(stages: Stages, about: Mapping[str, str], path: Path) -> None:
    """A whole run -> JSON: what it is about, then each stage's figures."""
    told = {stage: [asdict(figure) for figure in figures] for stage, figures in stages.items()}
    path.write_text(json.dumps({**about, "stages": told}, indent=1) + "\n", "utf-8")


def load_run(path: Path) -> dict[str, list[Figure]]:
    """JSON of a whole run -> figures by stage. Raises ValueError for any other file, OSError."""
    told = json.loads(path.read_bytes())
    if not isinstance(told, dict) or not isinstance(stages := told.get("stages"), dict):
        raise ValueError(f"{path}: found no stages, expected JSON that make bench wrote")
    return {stage: [Figure(**each) for each in figures] for stage, figures in stages.items()}


def table(stages: Stages) -> str:
    """Markdown, a row a figure."""
    return _markdown(
        ("stage", "figure", "value", "unit", "aim"),
        [(stage, f.label, number(f.value), f.unit, f.aim) for stage, figures in stages.items() for f in figures],
    )


def comparison(old: Stages, new: Stages) -> str:
    """Markdown, a row for each figure of either run, and what the new one is of the old."""
    before, after = _flat(old), _flat(new)
    rows = []
    for stage, label, unit in dict.fromkeys([*after, *before]):
        values = [run.get((stage, label, unit)) for run in (before, after)]
        ratio = f"{values[1] / values[0]:.2f}" if values[0] and values[1] is not None else ""
        rows.append((stage, label, *("" if value is None else number(value) for value in values), ratio, unit))
    return _markdown(("stage", "figure", "old", "new", "new / old", "unit"), rows)


def number(value: float) -> str:
    """Three digits that mean something, no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def run_stage(measure: Callable[..., list[Figure]], about: str | None, **defaults: Any) -> None:
    """The command line of a stage: its defaults as options, the table on standard output, `--json FILE`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
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
