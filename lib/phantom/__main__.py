"""Write the brain phantom: ``python -m lib.phantom DIR [--patients N --seed S --size PIXELS]``."""

from __future__ import annotations

from pathlib import Path

from lib.phantom.write import PATIENTS, SEED, SIZE, write_phantom
from lib.runtime import CommandParser, run_command


def main() -> None:
    """The command line."""
    parser = CommandParser(prog="python -m lib.phantom", description="Write the brain phantom.")
    parser.add_argument(
        "root",
        metavar="DIR",
        type=Path,
        help="folder to write to; new, empty, or this very phantom",
    )
    default = "(default: %(default)s)"
    parser.add_argument("--patients", type=int, default=PATIENTS, metavar="N", help=default)
    parser.add_argument("--seed", type=int, default=SEED, help=default)
    parser.add_argument("--size", type=int, default=SIZE, help=f"pixels per side {default}")
    parser.add_argument("--first", type=int, default=0, help="patients of the seed before these")
    options = parser.parse_args()
    root = write_phantom(options.root, options.patients, options.seed, options.size, options.first)
    print(f"{options.patients} phantom patients: {root}")


if __name__ == "__main__":
    run_command(main)
