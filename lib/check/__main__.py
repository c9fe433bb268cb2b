"""Check a custom network or loss: ``python -m lib.check my_module:MyLoss``."""

from __future__ import annotations

import sys

from lib.check.custom import check
from lib.runtime import CommandParser, run_command


def main() -> None:
    """Run the command line; exit 1 if a check fails."""
    parser = CommandParser(
        prog="python -m lib.check", description="Check a custom network or loss on random images."
    )
    parser.add_argument(
        "spec",
        metavar="module:Class",
        help="importable from here, as in Config.model or Config.loss",
    )
    results = check(parser.parse_args().spec)
    print("\n".join(map(str, results)))
    sys.exit(0 if all(result.passed for result in results) else 1)


if __name__ == "__main__":
    run_command(main)
