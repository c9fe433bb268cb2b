"""Make the class of ``docs/teach-a-class.md``: ten students, of tiny runs on a phantom.

``python -m tests.grade.tutorial FOLDER`` writes what they hand in, ``--again`` what three of them
hand in once they were told, ``--marks`` what the instructor writes into the gradebook.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch

from lib.config import seed_of
from lib.dataset import load_data
from lib.grade import load_rubric, pack
from lib.grade.archive import write_zip
from lib.grade.gradebook import BY_HAND, COMMENT, GRADEBOOK
from lib.grade.rubric import Rubric
from lib.phantom import write_phantom
from lib.train import fit
from lib.utils import progress
from tests.grade.demo import (
    RECIPE,
    RUBRIC,
    Files,
    checkpoint,
    edit_json,
    edited_metric,
    inflated_csv,
    missing_files,
    read_zip,
    rename,
    run_of,
    sign,
)

STUDENTS = ("ada", "bela", "chen", "dora", "emil", "finn", "gus", "hana", "ines", "jon")
COPIER, OWNER = "emil", "ada"
MISSPELT = "hanna"  # hana's id, as she packed it
MARKS = {
    # student -> comparison, failures, report, comment
    "ada": (30, 20, 10, "Do not lend your zip to anybody."),
    "bela": (15, 20, 10, "A difference of 0.01 with one run each is not progress."),
    "chen": (30, 10, 10, ""),
    "dora": (15, 10, 5, "The CSV is not what your run gave: please see me."),
    "emil": (0, 0, 0, "As you told me, this is ada's network."),
    "finn": (15, 10, 10, "lib/metrics.py takes a square root: please see me."),
    "gus": (15, 10, 5, ""),
    "hana": (30, 10, 5, ""),
    "ines": (15, 20, 10, ""),
    "jon": (30, 20, 10, "You changed a protected file, but not what it computes: points by hand."),
}


def build(folder: Path) -> None:
    """Write data, submissions, roster and rubric; train what is not trained yet."""
    data = load_data(write_phantom(folder / "data", patients=16, size=64), RECIPE.image_size)
    trained = [student for student in STUDENTS if student != COPIER]
    for student in progress(trained, desc="training", unit="student"):
        out = folder / "results" / student
        with redirect_stdout(io.StringIO()):
            fit(replace(RECIPE, seed=seed_of(student)), data, out, plan="best", table="best")
            pack(student, out, quick=True)
    packed = {name: read_zip(folder / "results" / name / f"{name}.zip") for name in trained}
    submissions = folder / "submissions"
    shutil.rmtree(submissions, ignore_errors=True)
    for student in STUDENTS:
        name = MISSPELT if student == "hana" else student
        write_zip(submissions / f"{name}.zip", _handed_in(student, packed))
    whole = (submissions / "gus.zip").read_bytes()
    (submissions / "gus.zip").write_bytes(whole[: len(whole) // 2])
    (folder / "roster.csv").write_text("student\n" + "\n".join(STUDENTS) + "\n")
    (folder / "rubric.toml").write_text(RUBRIC)


def _handed_in(student: str, packed: dict[str, Files]) -> Files:
    """Return the files of a submission: of three dishonest students, and of three unlucky ones."""
    if student == COPIER:
        return altered(rename(packed[OWNER], COPIER))
    files = packed[student]
    if student == "dora":
        return inflated_csv(files, packed, Path())
    if student == "finn":
        return edited_metric(files, packed, Path())
    if student == "hana":
        return rename(files, MISSPELT)
    if student == "ines":
        return missing_files(files, packed, Path())
    if student == "jon":
        source = files["lib/evaluate.py"].decode()
        return {**files, "lib/evaluate.py": f"{source}\n\nprint('evaluate is here')\n".encode()}
    return files


def altered(files: Files) -> Files:
    """Return a submission with noise of 1 % on the weights, another measured time, signed anew."""
    run = run_of(files)
    content = torch.load(io.BytesIO(files[f"{run}/best.pt"]), weights_only=True)
    torch.manual_seed(0)
    weights = {
        name: tensor * (1 + 0.01 * torch.randn(tensor.shape)) if tensor.ndim > 1 else tensor
        for name, tensor in content["weights"].items()
    }
    info = edit_json(files[f"{run}/run.json"], seconds=12.345678)
    best = checkpoint({**content, "weights": weights})
    return sign({**files, f"{run}/best.pt": best, f"{run}/run.json": info})


def hand_in_again(folder: Path) -> None:
    """Write what gus, hana and ines hand in once they were told."""
    (folder / "submissions" / f"{MISSPELT}.zip").unlink(missing_ok=True)
    for student in ("gus", "hana", "ines"):
        source = folder / "results" / student / f"{student}.zip"
        shutil.copy(source, folder / "submissions" / f"{student}.zip")


def mark(file: Path, rubric: Rubric) -> None:
    """Fill the columns of the gradebook, as in a spreadsheet."""
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    for row in rows[1:]:
        *points, comment = MARKS[row["student"]]
        row |= dict(zip(rubric.columns, map(str, points), strict=True)) | {COMMENT: comment}
        if row["student"] == "jon":
            row[BY_HAND] = f"{rubric.points(float(row['verified DSC'])):g}"
        if row["student"] == COPIER:
            row[BY_HAND] = "0"
    with file.open("w", encoding="utf-8-sig", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.grade.tutorial")
    parser.add_argument("folder", type=Path)
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--again", action="store_true", help="gus, hana and ines hand in again")
    step.add_argument("--marks", action="store_true", help="fill the gradebook")
    arguments = parser.parse_args()
    if arguments.again:
        hand_in_again(arguments.folder)
    elif arguments.marks:
        rubric = load_rubric(arguments.folder / "rubric.toml")
        mark(arguments.folder / "grades" / GRADEBOOK, rubric)
    else:
        build(arguments.folder)


if __name__ == "__main__":
    main()
