"""Commands that messages name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from manifests.errors import module_command


def test_a_command_has_the_interpreter_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative where it is short, and quoted for a shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert module_command("manifests", "fetch", "a b") == ".venv/bin/python -m manifests fetch 'a b'"
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python")
    assert module_command("manifests") == "'/opt/my python/bin/python' -m manifests"
    monkeypatch.setattr(sys, "executable", "")
    assert module_command("manifests") == "python -m manifests"
