"""The fault matrix names tests that exist, and its page shows every case."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prove.matrix import MATRIX

TESTS = Path(__file__).parent
PAGE = (TESTS / "prove" / "README.md").read_text("utf-8")


def test_every_named_test_exists() -> None:
    for test in {test for case in MATRIX for test in case.tests}:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (TESTS / file).read_text("utf-8"), re.MULTILINE), test


def test_every_case_has_a_number_of_its_own_and_a_test() -> None:
    assert len({case.number for case in MATRIX}) == len(MATRIX)
    assert all(case.tests for case in MATRIX)
    numbers = [number for case in MATRIX for number in case.number.split(", ") if number.isdecimal()]
    assert [int(number) for number in numbers] == list(range(1, 34))


def test_the_page_shows_every_case_in_the_words_of_the_matrix() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    head, *cases = [row for row in rows if len(row) == 4]
    assert head == ["case", "fault", "expected", "seen"]
    assert [tuple(row[:3]) for row in cases] == [(case.number, case.fault, case.expected) for case in MATRIX]
    assert all(re.search(r"\d+ checks? as expected", row[3]) for row in cases)


@pytest.mark.parametrize("arguments", [("--case", "3")], ids=str)
@pytest.mark.slow
def test_the_table_shows_the_results(arguments: tuple[str, ...], tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    command = [sys.executable, "-m", "tests.prove", *arguments, "--table", str(table)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, timeout=200)
    assert ended.returncode == 0, ended.stdout
    assert re.search(r"^\| 3 \| .* \| \d+ checks as expected \|$", table.read_text("utf-8"), re.MULTILINE)
