"""Write the zip of an autograder for Gradescope: the kit, your data and your rubric.

Command line: ``python -m maintain.gradescope ZIP --data DIR [--rubric FILE] [--split SPLIT]``. Your
data go along, so the zip is yours alone. Gradescope was not at hand: the zip is tried in a bare
folder, its ``setup.sh`` was not run there.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from lib.data import find_root
from lib.data.archive import DAMAGED_ZIP
from lib.grade.archive import write_zip
from lib.grade.gradescope import ASSIGNMENT, SETTINGS
from lib.grade.rubric import DEFAULT, load_rubric
from lib.grade.test_set import prepare_exam
from lib.runtime import CommandParser, run_command
from lib.utils import PROJECT, KitError, visible_files

KIT = ("lib/**/*", "*.ipynb", "exercises.py", "result/pretrained/**/*.pt", "requirements.txt")
SETUP = """#!/usr/bin/env bash
# Install Python and the kit's packages; torch without CUDA, as there is no GPU.
set -euo pipefail
apt-get update -qq && apt-get install -y -qq python3-pip
python3 -m pip install -q uv
uv venv -q --python 3.12 /autograder/venv
uv pip install -q --python /autograder/venv/bin/python \\
  --index-url https://download.pytorch.org/whl/cpu torch
uv pip install -q --python /autograder/venv/bin/python -r /autograder/source/requirements.txt
"""
RUN = """#!/usr/bin/env bash
# Grade the submission. The two variables are for a trial elsewhere.
set -euo pipefail
root=${AUTOGRADER:-/autograder}
cd "$root/source"
exec "${PYTHON:-$root/venv/bin/python}" -m lib.grade.gradescope "$root"
"""


def write_autograder(
    target: Path, data: str | Path, rubric: Path = DEFAULT, split: str = "auto"
) -> Path:
    """Write the zip, and return it.

    Raises:
        KitError: unusable data or rubric, or a file that is no autograder is there.
    """
    if target.suffix != ".zip":
        raise KitError(f"{target}: name a zip")
    if target.exists() and not _is_autograder(target):
        raise KitError(f"{target}: was not written by maintain.gradescope; move it away")
    load_rubric(rubric)  # raises KitError if it is none
    prepare_exam(data, split)  # the same for data and split
    root = find_root(data)
    files: dict[str, Path | bytes] = {
        file.relative_to(PROJECT).as_posix(): file
        for pattern in KIT
        for file in visible_files(PROJECT, pattern)
    }
    files |= {
        f"{ASSIGNMENT}/data/{file.relative_to(root).as_posix()}": file
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
    files |= {
        f"{ASSIGNMENT}/rubric.toml": rubric,
        f"{ASSIGNMENT}/{SETTINGS}": json.dumps({"split": split}).encode(),
        "setup.sh": SETUP.encode(),
        "run_autograder": RUN.encode(),
    }
    write_zip(target, files)
    return target


def _is_autograder(file: Path) -> bool:
    """Return whether a file is a zip that this module wrote."""
    try:
        with zipfile.ZipFile(file) as bundle:
            return {"run_autograder", f"{ASSIGNMENT}/{SETTINGS}"} <= set(bundle.namelist())
    except (*DAMAGED_ZIP, OSError, ValueError):
        return False


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.gradescope", description="Write an autograder for Gradescope."
    )
    parser.add_argument("zip", type=Path, help="file to write")
    parser.add_argument("--data", required=True, help="the assignment's")
    parser.add_argument("--rubric", type=Path, default=DEFAULT)
    parser.add_argument("--split", default="auto", help="as in Config (default: auto)")
    chosen = parser.parse_args()
    file = write_autograder(chosen.zip, chosen.data, chosen.rubric, chosen.split)
    print(f"{file}: {file.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    run_command(main)
