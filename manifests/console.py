"""Command-line helpers of all three packages: argument parsing, error handling and exit status.

0    success
1    finished with problems, printed one per line
2    failed: invalid arguments, or a `UserError` in one line
130  interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from manifests.errors import UserError
from manifests.files import describe_os_error

ERROR = 2
INTERRUPTED = 130

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Reports invalid arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(ERROR, f"error: {message}; see {self.prog} --help\n")


def add_command(commands: Any, name: str, run: Command, description: str) -> Parser:
    """Add a subcommand to `parser.add_subparsers(...)`; `run` takes its options and returns the exit status."""
    parser: Parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, run the subcommand, and return the exit status.

    A `UserError` or `OSError` becomes one line, with its traceback under --debug; any other exception is a bug of the
    program and keeps its traceback.
    """
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{str(error) or 'interrupted; run the same command to continue'}\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, e.g. `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except (UserError, OSError) as error:
        if options.debug:
            raise
        return fail(describe_os_error(error) if isinstance(error, OSError) else str(error))


def say(line: str = "") -> None:
    """Print a line of a command's result to stdout."""
    sys.stdout.write(f"{line}\n")


def fail(message: str, status: int = ERROR) -> int:
    """Print an error line to stderr; returns `status`."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return status
