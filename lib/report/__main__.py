"""Write the report of all runs from the command line.

``python -m lib.report --out result [--data DIR] [--no-images]``
"""

from __future__ import annotations

from lib.report.write import write_report
from lib.runtime import CommandParser, run_command
from lib.utils import short_path


def main() -> None:
    """Run the command line."""
    parser = CommandParser(prog="python -m lib.report", description="Write the report of all runs.")
    parser.add_argument("--out", default="result", help="folder of results (default: result)")
    parser.add_argument(
        "--data",
        help="folder of the images, for examples of segmentations (default: where notebooks "
        "find them)",
    )
    parser.add_argument(
        "--no-images", action="store_true", help="leave the examples out, e.g. of real patients"
    )
    arguments = parser.parse_args()
    for name, path in write_report(arguments.out, arguments.data, not arguments.no_images).items():
        print(f"{name}: {short_path(path)}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_command(main)
