"""Inject every fault of the matrix and print the results: python -m tests.prove.

Tests report details by `record_property("seen", "...")`; for the others the number of passed checks is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from manifests.text import pluralize
from tests.prove.matrix import MATRIX, Case

TESTS = Path(__file__).parents[1]


@dataclass(eq=False)
class ResultCollector:
    """A pytest plugin that collects the result of each test."""

    reports: list[pytest.TestReport] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the call phase of each test, and failures of its other phases, which are printed at once."""
        if report.when == "call" or not report.passed:
            self.reports.append(report)
        if report.failed:
            sys.stdout.write(f"\nNOT as expected: {report.nodeid}\n{report.longreprtext}\n")
            sys.stdout.flush()

    def of(self, case: Case) -> list[pytest.TestReport]:
        """Reports of a case's tests, for all their parameters."""
        wanted = {f"tests/{test}" for test in case.tests}
        return [report for report in self.reports if report.nodeid.partition("[")[0] in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every case ended as expected, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    parser.add_argument("--case", nargs="+", metavar="NUMBER", help="only these cases, numbered as in the table")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table to this file, as Markdown")
    args = parser.parse_args(arguments)
    cases = [case for case in MATRIX if args.case is None or case.number in args.case]
    if not cases:
        parser.error(f"no such case; valid are {', '.join(case.number for case in MATRIX)}")
    collected = ResultCollector()
    tests = sorted({str(TESTS / test) for case in cases for test in case.tests})
    status = pytest.main([*tests, "-m", "", "-q", "--tb=short", "-p", "no:cacheprovider"], plugins=[collected])
    table = "".join(_rows(cases, collected))
    sys.stdout.write(f"\n{table}")
    if args.table:
        args.table.write_text(table, "utf-8")
    return int(status != pytest.ExitCode.OK)


def _rows(cases: Sequence[Case], collected: ResultCollector) -> Iterator[str]:
    yield "| case | fault | expected | seen |\n|---|---|---|---|\n"
    for case in cases:
        yield f"| {case.number} | {case.fault} | {case.expected} | {describe_reports(collected.of(case))} |\n"


def describe_reports(reports: Sequence[pytest.TestReport]) -> str:
    """Result of a case: failures first, then recorded details, the number of passed tests, and reasons for skips."""
    failed = [report.nodeid.rpartition("::")[2] for report in reports if report.failed]
    details = [str(value) for report in reports for name, value in report.user_properties if name == "seen"]
    passed = sum(report.passed for report in reports)
    skipped = sorted({_reason(report) for report in reports if report.skipped})
    parts = [
        *([f"**NOT as expected: {', '.join(failed)}**"] if failed else []),
        *details,
        f"{pluralize(passed, 'check')} as expected" if passed else "no check ran",
        *(f"not here: {reason}" for reason in skipped),
    ]
    return "; ".join(parts).replace("|", "\\|")


def _reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")


if __name__ == "__main__":
    sys.exit(main())
