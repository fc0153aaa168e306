"""Builds as programs, as a terminal would start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.fakes import clip_builder
from tests.fakes.clip_builder import survivors, tagged

HERE = Path(__file__).parent
FAKE = ("-m", "tests.fakes.build_command")
REAL = ("-m", "builder")


def command(verb: str, data: Path, out: Path | None = None, *arguments: str) -> list[str]:
    where = ["--dataset", "folder", "--data", str(data), *(("--out", str(out)) if out else ())]
    return [verb, *where, *arguments]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes, what an interrupted build left too, but for the lock and the view."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in (".lock", "report.html")}


class Running:
    """A build in a session of its own, as a terminal would start it."""

    def __init__(self, program: Sequence[str], data: Path, out: Path, *arguments: str) -> None:
        self.tag = uuid.uuid4().hex
        environment = {**os.environ, clip_builder.TAG: self.tag, "PYTHONPATH": str(HERE.parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, *program, *command("shards", data, out, *arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(
        self, number: signal.Signals | None = None, *, group: bool = True, within_seconds: float = 100.0
    ) -> tuple[int, str, str]:
        """Send a signal, wait; exit status, output, errors. No process that it started may be left."""
        started = tagged(self.tag)
        if number is not None:
            (os.killpg if group else os.kill)(self.process.pid, number)
        out, err = self.process.communicate(timeout=within_seconds)
        assert survivors([*started, *tagged(self.tag)]) == []
        return self.process.returncode, out, err
