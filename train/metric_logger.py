"""Progress of a training run: log.jsonl, a progress bar or plain lines, and loggers that are asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from manifests.files import atomic_write, path_in_errors
from train.loggers import open_loggers
from train.runs import LOG_FILE


class MetricLogger:
    """Logger of one run; with `None` as the folder, for ranks other than the main one, it writes no file."""

    def __init__(
        self, folder: Path | None, log: Callable[[str], None], loggers: Sequence[str] = (), part: str = ""
    ) -> None:
        """Append to the log in a folder, after dropping a partial last line. `log` prints a line for people.

        `loggers` are names in `train.loggers.LOGGERS`; `part` names a part of the training that they keep apart. Raises
        LoggerError.
        """
        self._folder = folder
        self._log = log
        self._bar = tqdm(disable=True)
        self._loggers = open_loggers(loggers, folder, part) if folder else []
        if folder:
            drop_partial_line(folder / LOG_FILE)

    def start_epoch(self, title: str, steps: int, done: int) -> None:
        """Show a progress bar that starts after the steps that are done."""
        hidden = not (self._folder and sys.stderr.isatty())
        look = {"desc": title, "unit": "step", "leave": False, "dynamic_ncols": True}
        self._bar = tqdm(total=steps, initial=done, disable=hidden, **look)

    def advance(self) -> None:
        """Count a step that is done."""
        self._bar.update()

    def write(self, values: Mapping[str, Any], step: int) -> None:
        """Append a line to the log; its numbers go to the loggers, too, at optimizer step `step`."""
        if self._folder is None:
            return
        path = self._folder / LOG_FILE
        with path_in_errors(path), path.open("ab") as file:
            file.write((json.dumps(values) + "\n").encode())
        for logger in self._loggers:
            logger.write(values, step)

    def end_epoch(self, message: str) -> None:
        """Remove the progress bar and print a summary."""
        self._bar.close()
        if self._folder:
            self._log(message)

    def close(self) -> None:
        """Release the bar and the loggers."""
        self._bar.close()
        for logger in self._loggers:
            logger.close()


def drop_partial_line(log: Path) -> None:
    """Truncate a log to its last complete line."""
    if log.is_file():
        data = log.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]
        if complete != data:
            atomic_write(log, complete)
