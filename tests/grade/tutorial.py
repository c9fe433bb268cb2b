"""Make the class of ``docs/teach-a-class.md``: ten students, of tiny runs on a phantom.

``python -m tests.grade.tutorial FOLDER`` writes what they hand in, ``--again`` what three of them
hand in once they were told, ``--marks`` what the instructor writes into the gradebook.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
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
from lib.sweep import sweep
from lib.train import fit
from lib.utils import PROJECT, progress
from tests.grade.demo import (
    RECIPE,
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
from tests.grade.work import answered, as_bytes, ids_that_ask, student_notebook

STUDENTS = ("ada", "bela", "chen", "dora", "emil", "finn", "gus", "hana", "ines", "jon")
COPIER, OWNER = "emil", "ada"
MISSPELT = "hanna"  # hana's id, as she packed it
BOTH_SAMPLINGS = ("ada", "bela", "chen", "hana", "ines", "jon")  # who compared two recipes
ASKED = {"prediction": "train-09", "analysis": "train-17", "failures": "inference-failures"}
_ADA = {
    "prediction": "Fresh samples: +0.03, as the network sees more slices. It may be noise.",
    "analysis": "I predicted +0.03. The interval contains 0, so with these patients I cannot tell. "
    "More patients or seeds would settle it; I kept both runs.",
    "failures": "The worst patient is one of two whose FLAIR is as dark as the brain around it. If "
    "that is the reason, the other one must be low too, and it is: 0.31.",
}
ANSWERS: dict[str, dict[str, str]] = {
    # student -> question -> answer
    "ada": _ADA,
    "emil": _ADA,  # word for word
    "bela": {
        "prediction": "Better.",
        "analysis": "Fresh samples won by 0.01, so it is progress.",
        "failures": "The two lowest patients have small tumours, and the network finds a bright "
        "vessel instead: the largest component is the wrong one. Small ones that are far from "
        "any vessel are found.",
    },
    "chen": {
        "analysis": "Cannot tell: the interval goes from below 0 to above it. I predicted a gain.",
        "failures": "PHANTOM_0003 has the lowest DSC.",
    },
    "dora": {"analysis": "DSC 0.646.", "failures": "PHANTOM_0003 and PHANTOM_0011 are low."},
    "finn": {"failures": "Low patients have low contrast."},
    "gus": {"analysis": "0.53 against 0.52.", "failures": "PHANTOM_0005 is the worst, I think."},
    "hana": {"analysis": "Both runs are kept. The difference is smaller than between patients."},
    "ines": {
        "prediction": "No difference larger than 0.02, in five epochs.",
        "analysis": "It is 0.03 better, so I was wrong.",
        "failures": "In three patients a part of the edge is missing where the slice is resized; "
        "in one the whole tumour, the smallest. At 64 pixels only the first should go.",
    },
    "jon": {
        "prediction": "+0.05.",
        "analysis": "Cannot tell, as the interval contains 0; my prediction is within it, which "
        "proves nothing.",
        "failures": "All patients below 0.3 lack a sequence. With sequence dropout they should "
        "gain more than the others; I did not have the time to try.",
    },
}
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
    torch.set_num_threads(1)  # networks of this size get slower by more
    data = load_data(write_phantom(folder / "data", patients=16, size=64), RECIPE.image_size)
    trained = [student for student in STUDENTS if student != COPIER]
    for student in progress(trained, desc="training", unit="student"):
        out = folder / "results" / student
        with redirect_stdout(io.StringIO()):
            recipe = replace(RECIPE, seed=seed_of(student))
            fit(recipe, data, out, plan="best", table="best")
            if student in BOTH_SAMPLINGS:
                sweep("sampling", recipe, data, out, executor="local")
            pack(student, out, quick=True)
    packed = {name: _packed(folder, name) for name in trained}
    submissions = folder / "submissions"
    shutil.rmtree(submissions, ignore_errors=True)
    for student in STUDENTS:
        name = MISSPELT if student == "hana" else student
        write_zip(submissions / f"{name}.zip", _handed_in(student, packed))
    whole = (submissions / "gus.zip").read_bytes()
    (submissions / "gus.zip").write_bytes(whole[: len(whole) // 2])
    (folder / "roster.csv").write_text("student\n" + "\n".join(STUDENTS) + "\n")
    (folder / "rubric.toml").write_text(_rubric(), encoding="utf-8")


def _rubric() -> str:
    """Return the kit's rubric with a scale for tiny networks, and short names."""
    text = (PROJECT / "lib" / "grade" / "rubric.toml").read_text(encoding="utf-8")
    text = re.sub(r"^scale = .*$", "scale = [[0.30, 0], [0.70, 40]]", text, flags=re.MULTILINE)
    return re.sub(r'\[columns\."(\w+) [^"]*"\]', r"[columns.\1]", text)


def _packed(folder: Path, student: str) -> Files:
    """Return what a student packed, with their answers in the notebooks."""
    files = read_zip(folder / "results" / student / f"{student}.zip")
    for name in ("train_default.ipynb", "train.ipynb", "train_best.ipynb", "inference.ipynb"):
        notebook = student_notebook(name)
        here = {
            ASKED[question]: answer
            for question, answer in ANSWERS.get(student, {}).items()
            if ASKED[question] in ids_that_ask(notebook)
        }
        files[name] = as_bytes(answered(notebook, here))
    return sign(files)


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
    """Return a submission with noise of 0.1 % on the weights and another time, signed anew."""
    run = run_of(files)
    content = torch.load(io.BytesIO(files[f"{run}/best.pt"]), weights_only=True)
    torch.manual_seed(0)
    weights = {
        name: tensor * (1 + 0.001 * torch.randn(tensor.shape)) if tensor.ndim > 1 else tensor
        for name, tensor in content["weights"].items()
    }
    info = edit_json(files[f"{run}/run.json"], seconds=12.345678)
    best = checkpoint({**content, "weights": weights})
    return sign({**files, f"{run}/best.pt": best, f"{run}/run.json": info})


def hand_in_again(folder: Path) -> None:
    """Write what gus, hana and ines hand in once they were told."""
    (folder / "submissions" / f"{MISSPELT}.zip").unlink(missing_ok=True)
    for student in ("gus", "hana", "ines"):
        write_zip(folder / "submissions" / f"{student}.zip", _packed(folder, student))


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
