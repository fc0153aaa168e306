"""What the builder's commands share: how arguments are read, what is said where, how an error ends a command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from manifests.files import describe_os_error


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


def command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], description: str) -> Parser:
    """A command with what all have; `run` is called with its options."""
    parser: Parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, expected: tuple[type[Exception], ...]) -> int:
    """Run the command that the arguments choose (`options.run`); its exit status, or 2 where it could not be done.

    Of `expected` errors the message is all a person needs; --debug shows the traceback all the same.
    """
    options = parser.parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except expected as error:
        if options.debug:
            raise
        return failed(str(error), 2)
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except OSError as error:
        if options.debug:
            raise
        return failed(describe_os_error(error), 2)


def say(line: str = "") -> None:
    """A line for whoever runs the command."""
    sys.stdout.write(line + "\n")


def failed(message: str, status: int) -> int:
    """Say what went wrong; the status to end with."""
    sys.stderr.write(f"error: {message}\n")
    return status


def folder(text: str) -> Path:
    """Argument type: a path, `~` is the home folder."""
    return Path(text).expanduser()


def positive(text: str) -> int:
    """Argument type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1 on")
    return int(text)
