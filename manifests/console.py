"""Command-line helpers of all three packages: argument parsing, error handling and exit status.

0    success
1    finished with problems, printed one per line
2    failed: invalid arguments, or a `UserError` in one line
130  interrupted
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from manifests.errors import UserError, interpreter
from manifests.files import describe_os_error
from manifests.text import escape_lines, one_line

ERROR = 2
INTERRUPTED = 130

#: Held while a line is written to stderr.
OUTPUT_LOCK = threading.RLock()

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Reports invalid arguments in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(fail(f"{message}; see {self.prog.replace('python -m', f'{interpreter()} -m', 1)} --help"))


def add_command(commands: Any, name: str, run: Command, description: str) -> Parser:
    """Add a subcommand to `parser.add_subparsers(...)`; `run` takes its options and returns the exit status."""
    parser: Parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def folder_path(text: str) -> Path:
    """Argument type: a path; `~` is the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a path: its home folder is unknown") from error


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Exit immediately on Ctrl-C: most native modules turn a KeyboardInterrupt during import into other errors.

    Use it around imports only, before anything is written. A signal that was ignored stays ignored.
    """

    def exit_process(*_: object) -> NoReturn:
        _write_error("interrupted before anything was started")
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, exit_process)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, run the subcommand, and return the exit status.

    A `UserError` or `OSError` becomes one line, after its details, with its traceback under --debug; any other
    exception is a bug of the program and keeps its traceback. If stdout or stderr is closed or cannot be written, the
    status is not 0.
    """
    if sys.stdout is None or sys.stderr is None:  # files that are opened next would take its place
        return fail("stdout or stderr is closed; redirect it to a file, or to /dev/null")
    if isinstance(sys.stdout, TextIOWrapper):  # names may have characters that the terminal's encoding does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        sys.stderr.flush()
        return status
    except KeyboardInterrupt as error:
        _write_error(str(error) or "interrupted; run the same command to continue")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, e.g. `head`, has closed it
        _discard_output()
        return ERROR
    except (UserError, OSError) as error:
        if options.debug:
            raise
        for line in error.details if isinstance(error, UserError) else ():
            _write_error(f"  {line}")
        return fail(describe_os_error(error) if isinstance(error, OSError) else str(error))


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run a command line and end the process with its status; after Ctrl-C at once, even if threads still wait."""
    status = main()
    if status == INTERRUPTED:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def say(line: str = "") -> None:
    """Print a line of a command's result to stdout; untrusted words cannot control the terminal."""
    sys.stdout.write(f"{escape_lines(line)}\n")


def fail(message: str, status: int = ERROR) -> int:
    """Print an error line to stderr, if it can be written; returns `status`."""
    _write_error(f"error: {one_line(message)}")
    return status


def _write_error(line: str) -> None:
    try:
        if sys.stderr is not None:
            with OUTPUT_LOCK:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard_output()


def _discard_output() -> None:
    """Send what is left of both streams nowhere: the interpreter would fail to write it when it exits."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
