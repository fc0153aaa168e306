"""What a training tells while it runs: log.jsonl, a progress bar or plain lines, TensorBoard where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from manifests.files import atomic_write
from train.runs import LOG_FILE

Say = Callable[[str], None]


class Journal:
    """Of one run; `None` as the folder makes one that keeps nothing, for ranks that do not write."""

    def __init__(self, folder: Path | None, say: Say) -> None:
        """Go on with the log in a folder, without a last line that was never finished. `say` is told plain lines."""
        self._folder = folder
        self._say = say
        self._bar: tqdm[Any] | None = None
        self._board = _board(folder) if folder else None
        if folder:
            mend(folder / LOG_FILE)

    def begin(self, title: str, steps: int, done: int) -> None:
        """An epoch begins, or goes on after some of its steps."""
        if self._folder and sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", leave=False, dynamic_ncols=True)

    def step(self) -> None:
        """A step is done."""
        if self._bar:
            self._bar.update()

    def write(self, values: Mapping[str, Any], at: int) -> None:
        """A line of the log; its numbers go to TensorBoard, too, at optimizer step `at`."""
        if self._folder is None:
            return
        with (self._folder / LOG_FILE).open("ab") as file:
            file.write((json.dumps(values) + "\n").encode())
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, at)

    def end(self, message: str) -> None:
        """An epoch has ended: a line for people."""
        self.close_bar()
        if self._folder:
            self._say(message)

    def close_bar(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """No more to tell."""
        self.close_bar()
        if self._board:
            self._board.close()


def mend(log: Path) -> None:
    """Cut a log back to its last whole line."""
    if log.is_file():
        data = log.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            atomic_write(log, whole)


def _board(folder: Path) -> Any | None:
    """TensorBoard's writer, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # an optional extra
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
