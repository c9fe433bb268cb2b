"""Submit or grade from the command line.

``python -m lib.grade pack --student ID``, ``python -m lib.grade SUBMISSIONS --data DIR --out DIR``,
or ``python -m lib.grade table EXPORT --grades DIR``
"""

from __future__ import annotations

import sys
from pathlib import Path

from lib.grade.gradebook import GRADEBOOK
from lib.grade.pack import commit, pack
from lib.grade.rubric import DEFAULT, load_rubric
from lib.grade.run import SECONDS, grade, read_roster, summary
from lib.grade.upload import fill_table
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import DATA_HELP


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["pack"]:
        _main_pack(sys.argv[2:])
    elif sys.argv[1:2] == ["table"]:
        _main_table(sys.argv[2:])
    else:
        _main_grade()


def _main_pack(arguments: list[str]) -> None:
    """Run the command that packs a submission."""
    parser = CommandParser(
        prog="python -m lib.grade pack", description="Make the zip that you submit."
    )
    parser.add_argument("--student", required=True, help="your id; of a team ada+bela")
    parser.add_argument("--out", default="result", help="folder of results (default: result)")
    parser.add_argument(
        "--run",
        help="run to be graded (default: the best of train_best.ipynb, else of train.ipynb)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="also accept a run of the profile quick, or on phantoms",
    )
    parser.add_argument("--data", help="the assignment's; a custom network needs it, for its masks")
    parser.add_argument(
        "--commit", action="store_true", help="commit the zip to the git repository around it"
    )
    chosen = parser.parse_args(arguments)
    receipt = pack(chosen.student, chosen.out, chosen.run, chosen.quick, chosen.data)
    print(receipt)
    if chosen.commit and receipt.file:
        print(commit(receipt.file))


def _main_table(arguments: list[str]) -> None:
    """Run the command that fills the table for a platform."""
    parser = CommandParser(
        prog="python -m lib.grade table",
        description="Fill the export of Moodle, Canvas or Blackboard with the scores.",
    )
    parser.add_argument("export", type=Path, help="table as the platform exports it")
    parser.add_argument("--grades", type=Path, required=True, help="folder of gradebook.csv")
    parser.add_argument("--column", help="header of the assignment, or its beginning")
    chosen = parser.parse_args(arguments)
    print(fill_table(chosen.export, chosen.grades, chosen.column))


def _main_grade() -> None:
    """Run the command that grades a folder of submissions."""
    parser = CommandParser(
        prog="python -m lib.grade",
        description="Grade a folder of submissions.",
        epilog="To submit: python -m lib.grade pack --help; to give points back to a platform: "
        "python -m lib.grade table --help",
    )
    parser.add_argument("submissions", help="folder of zips and folders")
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--out", required=True, help="folder for gradebook.csv, pages and leaderboard.html"
    )
    parser.add_argument("--roster", type=Path, help="CSV with a column student")
    parser.add_argument(
        "--rubric", type=Path, default=DEFAULT, help="default: lib/grade/rubric.toml"
    )
    parser.add_argument(
        "--split", default="auto", help="the assignment's, as in Config (default: auto)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"per submission (default: {SECONDS})"
    )
    parser.add_argument(
        "--baseline", type=Path, help="folder of a run of yours whose DSC earns nothing"
    )
    chosen = parser.parse_args()
    roster = None if chosen.roster is None else read_roster(chosen.roster)
    standings = grade(
        chosen.submissions,
        chosen.data,
        chosen.out,
        load_rubric(chosen.rubric),
        roster,
        chosen.split,
        chosen.device,
        chosen.seconds,
        chosen.baseline,
    )
    print(f"{summary(standings)}\n\n{Path(chosen.out) / GRADEBOOK}")


if __name__ == "__main__":
    run_command(main)
