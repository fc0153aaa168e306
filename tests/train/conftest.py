"""The trainer's tests need torch and a reference encoder, which `make test-train` installs and `make test` does not."""

from __future__ import annotations

from importlib.util import find_spec

ABSENT = [name for name in ("torch", "transformers") if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if ABSENT else []


def pytest_report_header() -> str | None:
    """Say why nothing of the trainer is tested."""
    return f"trainer: not tested, {' and '.join(ABSENT)} not installed; run make test-train" if ABSENT else None
