"""Check what you wrote: ``python -m lib.check exercises``, or ``my_module:MyLoss``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from lib.check.custom import checks_of
from lib.check.exercises import EXERCISES, MODULE, check_exercises, load_exercises
from lib.runtime import CommandParser, run_command
from lib.runtime.trial import Check


def main() -> None:
    """Run the command line; exit 1 if a check fails."""
    parser = CommandParser(
        prog="python -m lib.check",
        description="Check exercises, a custom network or a custom loss on small inputs.",
    )
    parser.add_argument(
        "spec",
        metavar="WHAT",
        help=f"{MODULE}: all of them; {MODULE}:NAME: one of them ({', '.join(EXERCISES)}); "
        f"module:Class: a network or loss, as in Config.model or Config.loss",
    )
    passed = True
    for result in _results(parser.parse_args().spec):
        print(result, flush=True)  # at once: the code that is tried next may never end
        passed &= result.passed
    sys.exit(0 if passed else 1)


def _results(spec: str) -> Iterator[Check]:
    """Return the checks of exercises or of a class, each as it is done."""
    module, _, name = spec.partition(":")
    if module == MODULE and name in ("", *EXERCISES):
        sys.path.insert(0, str(Path.cwd()))  # -P and an installed command leave it out
        return check_exercises(load_exercises(), name)
    return checks_of(spec)


if __name__ == "__main__":
    run_command(main)
