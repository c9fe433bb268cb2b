"""Run command lines: errors in one line, and an option for each field of ``Config``."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lib.config import REFERENCE, Config
from lib.runtime.memory import memory_in_words
from lib.runtime.trial import raised
from lib.utils import LIB, KitError, remedy


class CommandParser(argparse.ArgumentParser):
    """An argument parser that answers a wrong option with one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Exit 2 with the message."""
        message = message if len(message) < 400 else f"{message[:200]} ..."
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


DATA_HELP = "Kaggle folder, a folder that holds it, archive.zip, or: phantom, kaggle"
RESUMES = "the same command goes on from the last finished epoch"


def run_command(
    main: Callable[[], None], interrupted: str = "nothing is kept of what was not finished"
) -> None:
    """Run the ``main`` of a command line, and turn errors into one line and an exit code.

    2: bad input, code of a user that ends Python, or a file that cannot be read or written. 130:
    the user has interrupted. 141: the reader of the output has enough.

    Args:
        interrupted: message for an interruption.
    """
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows may lack letters of a path
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with memory_in_words():
            main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has enough, as head -1 has
        _end(128 + 13)  # as if SIGPIPE had ended it
    except KitError as error:
        _end(2, f"error: {error}")
    except SystemExit as error:
        if _ended_itself(error, main):
            raise
        _end(2, f"error: code of yours ended Python: {raised(error)}; leave that out")
    except OSError as error:
        if error.errno is None:  # no trouble with a file
            raise
        place = error.filename or "a file or the output"
        _end(2, f"error: {place}: {error.strerror}; {remedy(error)}")
    except KeyboardInterrupt:
        _end(130, f"\ninterrupted: {interrupted}")


def _ended_itself(stop: SystemExit, main: Callable[[], None]) -> bool:
    """Return whether the kit has ended a command, rather than code that it ran for a user."""
    place = traceback.extract_tb(stop.__traceback__)[-1].filename
    ours = (main.__code__, argparse.ArgumentParser.exit.__code__)
    return LIB in Path(place).parents or place in {code.co_filename for code in ours}


def _end(code: int, line: str = "") -> NoReturn:
    """Print a last line and exit, also if nobody takes what was printed before."""
    try:
        sys.stdout.flush()
    except OSError:  # Python would complain of it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if line:
        print(line, file=sys.stderr)
    sys.exit(code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` an option for each field of ``Config``, e.g. ``--init-features``.

    Both - and _ are accepted.
    """
    group = parser.add_argument_group("hyper-parameters (fields of Config)")
    for spec in dataclasses.fields(Config):
        names = dict.fromkeys((f"--{spec.name.replace('_', '-')}", f"--{spec.name}"))
        kind: dict[str, Any] = {"type": type(spec.default)}
        if kind["type"] is bool:  # --guided alone means true
            kind = {"type": _true_or_false, "nargs": "?", "const": True, "metavar": "true|false"}
        group.add_argument(
            *names,
            dest=spec.name,
            default=argparse.SUPPRESS,
            **kind,
            help=f"{spec.metadata['help']}{_choices(spec)} (default: {spec.default})",
        )


def _choices(spec: dataclasses.Field[Any]) -> str:
    """Return the choices of a field, unless its help text contains them."""
    names = [name for name in spec.metadata["choices"] if name not in spec.metadata["help"]]
    return f": {', '.join(spec.metadata['choices'])}" if names else ""


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def from_arguments(arguments: argparse.Namespace, base: Config = REFERENCE) -> Config:
    """Return ``base`` with the fields that were given on the command line."""
    return dataclasses.replace(base, **changed_fields(arguments))


def changed_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return field -> value of those that were given on the command line."""
    names = {spec.name for spec in dataclasses.fields(Config)}
    return {name: value for name, value in vars(arguments).items() if name in names}
