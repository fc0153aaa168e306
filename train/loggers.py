"""TensorBoard and Weights & Biases: where the numbers of a training go, beside `log.jsonl`, if they are asked for.

They only write. Nothing that is trained depends on them.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from manifests.errors import UserError
from manifests.files import atomic_write, path_in_errors
from train.runs import RUN_CONFIG_FILE

TENSORBOARD = "tensorboard"
WANDB = "wandb"
_EVENTS = "events.out.tfevents.run"
_RUN_ID_FILE = "run-id.txt"
_PROJECT = "multimae-der"
#: Of a record in a file of events: a length of eight bytes and its checksum come before, a checksum after the data.
_HEADER_BYTES, _FOOTER_BYTES, _LENGTH_BYTES = 12, 4, 8


class LoggerError(UserError):
    """A logger that cannot be used: what was found and what to do."""


class Logger(Protocol):
    """Takes numbers of one training."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Name -> number, at an optimizer step. Raises OSError."""

    def close(self) -> None:
        """Write what remains."""


class TensorBoardLogger:
    """One file of events in a run's folder, which a resumed training continues."""

    def __init__(self, run: Path, part: str) -> None:
        """`part` is the subfolder, which TensorBoard shows as a run of its own, of a refit; "" for none."""
        events = import_module("tensorboard.compat.proto.event_pb2")
        summaries = import_module("tensorboard.compat.proto.summary_pb2")
        records = import_module("tensorboard.summary.writer.record_writer")
        self._event, self._session, self._summary = events.Event, events.SessionLog, summaries.Summary
        self._path = run / TENSORBOARD / part / _EVENTS
        self._path.parent.mkdir(parents=True, exist_ok=True)
        drop_partial_record(self._path)
        self._records = records.RecordWriter(self._path.open("ab"))
        self._resumed = self._path.stat().st_size > 0
        if not self._resumed:
            self._add(file_version="brain.Event:2")

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Append an event; the first one of a resumed training replaces those of the same and of later steps."""
        if self._resumed:
            self._add(step=step, session_log=self._session(status=self._session.START))
            self._resumed = False
        numbers = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary=self._summary(value=numbers))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _add(self, **fields: Any) -> None:
        with path_in_errors(self._path):
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._records.flush()


class WandbLogger:
    """One run of Weights & Biases, which a resumed training continues: its id is stored in the run's folder."""

    def __init__(self, run: Path, part: str) -> None:
        """Start it, or continue it; names of a refit's numbers begin with `part`. Raises LoggerError."""
        wandb = import_module(WANDB)
        path = run / WANDB / _RUN_ID_FILE
        if not path.is_file():
            atomic_write(path, f"{secrets.token_hex(8)}\n".encode())
        self._prefix = f"{part}/" if part else ""
        self._step = f"{self._prefix}optimizer_step"
        config = run / RUN_CONFIG_FILE
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or _PROJECT,
                id=path.read_text("utf-8").strip(),
                name="/".join(run.absolute().parts[-3:]),
                group="/".join(run.absolute().parts[-3:-1]),
                dir=str(run),
                config=json.loads(config.read_bytes()) if config.is_file() else None,
                resume="allow",
                settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
            )
        except wandb.Error as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LoggerError(
                f"logger {WANDB}: cannot be started ({reason}); run wandb login, or set WANDB_MODE=offline"
            ) from error
        self._run.define_metric(f"{self._prefix}*", step_metric=self._step)

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers; the axis of their plots is the optimizer step."""
        self._run.log({self._step: step, **{f"{self._prefix}{name}": value for name, value in values.items()}})

    def close(self) -> None:
        """Wait until all numbers are written."""
        self._run.finish()


#: Name -> how a logger is opened for the folder of a run and a part of the training.
LOGGERS: Mapping[str, Callable[[Path, str], Logger]] = {TENSORBOARD: TensorBoardLogger, WANDB: WandbLogger}
#: Modules that each needs, with an attribute: a folder of the same name can be imported, too, but has none.
_NEEDED = {
    TENSORBOARD: {
        "tensorboard.compat.proto.event_pb2": "Event",
        "tensorboard.compat.proto.summary_pb2": "Summary",
        "tensorboard.summary.writer.record_writer": "RecordWriter",
    },
    WANDB: {WANDB: "init"},
}


def check_loggers(names: Sequence[str]) -> None:
    """Raise LoggerError for a logger that is unknown or cannot be imported: before anything is trained."""
    for name in names:
        if name not in LOGGERS:
            raise LoggerError(f"unknown logger {name!r}; valid are {', '.join(LOGGERS)}")
        try:
            for module, attribute in _NEEDED[name].items():
                getattr(import_module(module), attribute)
        except Exception as error:  # whatever another library raises while it is imported
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise LoggerError(
                f"logger {name}: cannot be imported ({reason}); pip install --constraint constraints.txt '.[{name}]'"
            ) from error


def open_loggers(names: Sequence[str], run: Path, part: str = "") -> list[Logger]:
    """Loggers for a run's folder, of the training itself or of a `part` of it. Raises LoggerError."""
    check_loggers(names)
    return [LOGGERS[name](run, part) for name in dict.fromkeys(names)]


def drop_partial_record(path: Path) -> None:
    """Truncate a file of events to its last complete record; what a kill left behind would hide all that follows."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        size, end = path.stat().st_size, 0
        while end + _HEADER_BYTES <= size:
            file.seek(end)
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if end + _HEADER_BYTES + length + _FOOTER_BYTES > size:
                break
            end += _HEADER_BYTES + length + _FOOTER_BYTES
        file.truncate(end)
