"""Tables, comparisons and plots of `make bench`, and whether its stages run. Measured values are never asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import figures, plot, processes
from tests.bench.figures import Figure

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tests" / "bench" / "README.md").read_text("utf-8")
BENCH = (sys.executable, "-m", "tests.bench")

GROWING = [Figure(name="start", value=0.01 * at, unit="s", at=at, of="shards", most=5.0) for at in (10, 100, 1000)]
OLD = {"build": [Figure(name="ratio", value=1.5, unit="", most=1.35), Figure(name="gone", value=1.0, unit="s")]}
NEW = {"build": [Figure(name="ratio", value=1.2, unit="", most=1.35)], "load": GROWING}


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_figures_of_a_stage_and_of_a_run_come_back_from_json(tmp_path: Path) -> None:
    figures.save(GROWING, tmp_path / "stage.json")
    assert figures.load(tmp_path / "stage.json") == GROWING
    figures.save_run(NEW, {"date": "today"}, tmp_path / "run.json")
    assert figures.load_run(tmp_path / "run.json") == NEW
    assert json.loads((tmp_path / "run.json").read_bytes())["date"] == "today"


def test_the_table_shows_whether_each_target_is_reached() -> None:
    head, _, *rows = _rows(figures.table({**OLD, "load": GROWING}))
    assert head == ["stage", "figure", "value", "unit", "aim"]
    assert rows[:2] == [["build", "ratio", "1.5", "", "at most 1.35: NO"], ["build", "gone", "1", "s", ""]]
    assert [row[1] for row in rows[2:]] == ["start, 10 shards", "start, 100 shards", "start, 1,000 shards"]
    assert [row[4] for row in rows[2:]] == ["at most 5: yes", "at most 5: yes", "at most 5: NO"]


def test_the_page_shows_a_table_as_it_is_printed() -> None:
    """Every aim of the page follows from its row, so that no figure is updated without it."""
    head, _, *rows = _rows("\n".join(line for line in PAGE.splitlines() if line.count("|") == 6))
    assert head == ["stage", "figure", "value", "unit", "aim"]
    assert len(rows) > 20
    for _stage, name, value, unit, aim in rows:
        kind, _, bound = aim.partition(":")[0].rpartition(" ")
        limits = {"at least": "least", "at most": "most"}
        limit = {limits[kind]: float(bound)} if aim else {}
        figure = Figure(name=name, value=float(value.replace(",", "")), unit=unit, **limit)
        assert (figure.aim, figures.format_number(figure.value)) == (aim, value)


def test_two_runs_are_compared_figure_by_figure(tmp_path: Path) -> None:
    for name, stages in (("old", OLD), ("new", NEW)):
        figures.save_run(stages, {}, tmp_path / f"{name}.json")
    command = [*BENCH, "--compare", tmp_path / "old.json", tmp_path / "new.json"]
    rows = _rows(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    assert rows[0] == ["stage", "figure", "old", "new", "new / old", "unit"]
    assert ["build", "ratio", "1.5", "1.2", "0.80", ""] in rows
    assert ["build", "gone", "1", "", "", "s"] in rows
    assert ["load", "start, 10 shards", "", "0.1", "", "s"] in rows


def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    ended = subprocess.run([*BENCH, "--compare", other, other], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr == f"error: {other}: found no stages, expected JSON that make bench wrote\n"


def test_what_grows_is_drawn() -> None:
    assert plot.plot_growth(NEW).startswith(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="several sizes"):
        plot.plot_growth(OLD)


def _run_stage(tmp_path: Path, name: str, *options: str) -> list[Figure]:
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", f"tests.bench.{name}", f"--json={path}", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return figures.load(path)


@pytest.mark.slow
def test_start_up_is_measured_for_several_numbers_of_shards(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the loader is part of the trainer")
    found = _run_stage(tmp_path, "stage_load_growth", "--shards=300", "--clips=40", "--each=4", "--rounds=1")
    starts = {figure.at: figure.value for figure in found if figure.name == "start of an epoch"}
    assert starts.keys() == {3, 30, 300}
    assert min(starts.values()) > 0
    assert [figure.at for figure in found if figure.unit == "MB"] == [10, 40]


def test_memory_of_a_process_is_measured_apart_from_its_children() -> None:

    child = "b = bytearray(300_000_000); import time; time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    usage = processes.run_measured(["-c", parent])
    assert usage.output == "done\n"
    assert usage.peak_mb < 150 < 300 < usage.child_peak_mb
    with pytest.raises(subprocess.CalledProcessError):
        processes.run_measured(["-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_training_is_measured_beside_the_reference(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the reference encoder is in transformers")
    found = _run_stage(tmp_path, "stage_train", "--device=cpu", "--batch=2", "--rounds=1", "--seconds=0.01")
    of = {figure.name: figure.value for figure in found}
    for work in ("fine-tune", "features"):
        assert of[f"{work}, ours / transformers"] == pytest.approx(of[f"{work}, ours"] / of[f"{work}, transformers"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_stage_is_measured(tmp_path: Path) -> None:
    ended = subprocess.run([*BENCH, f"--out={tmp_path}"], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    (path,) = tmp_path.glob("*.json")
    assert all(found for found in figures.load_run(path).values())
    assert path.with_suffix(".png").is_file()
