"""Grade one submission as an autograder of Gradescope does: ``results.json`` from a folder.

``python -m lib.grade.gradescope ROOT`` runs in the zip that ``maintain.gradescope`` makes. Below
``ROOT`` are ``submission``, ``source`` with the kit and ``assignment``, and ``results``. The fields
are those of https://gradescope-autograders.readthedocs.io/en/latest/specs/. What only a whole class
shows, such as copies, is for ``python -m lib.grade``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lib.grade.rubric import DEFAULT, Rubric, load_rubric
from lib.grade.run import grade
from lib.grade.standings import Standing
from lib.runtime import run_command
from lib.utils import write_json

ASSIGNMENT, SETTINGS = "assignment", "settings.json"


def grade_folder(root: Path) -> None:
    """Grade ``<root>/submission`` and write ``<root>/results/results.json``."""
    assignment = root / "source" / ASSIGNMENT
    settings = json.loads((assignment / SETTINGS).read_text(encoding="utf-8"))
    rubric_file = assignment / "rubric.toml"
    rubric = load_rubric(rubric_file if rubric_file.is_file() else DEFAULT)
    with tempfile.TemporaryDirectory() as folder:
        # links stay links, which the grader refuses: they may lead anywhere, or nowhere
        shutil.copytree(root / "submission", Path(folder, "in", "submission"), symlinks=True)
        standing, *_ = grade(  # one for each member of a team, all alike
            Path(folder, "in"),
            assignment / "data",
            Path(folder, "out"),
            rubric,
            split=settings["split"],
            device="cpu",
        )
    write_json(root / "results" / "results.json", results(standing, rubric))


def results(standing: Standing, rubric: Rubric) -> dict[str, Any]:
    """Return what Gradescope shows: the points for the DSC, and each finding."""
    result = standing.result
    scores = {"claimed": result.claimed, "computed again": result.verified}
    lines = [f"{name}: {value:.4f}" for name, value in scores.items() if value is not None]
    tests = [
        {
            "name": "DSC, computed again from the weights",
            "score": standing.points,
            "max_score": rubric.dsc_points,
            "output": "\n".join([f"status: {standing.status}", *lines]),
            "visibility": "visible",
        }
    ]
    tests += [
        {
            "name": finding.name,
            "score": 0,
            "max_score": 0,
            "status": "passed" if finding.level == "note" else "failed",
            "output": finding.text,
            "visibility": "visible",
        }
        for finding in result.findings
    ]
    return {
        "score": standing.points,
        "output": f"{rubric.total - rubric.dsc_points:g} further points are given by hand.",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.grade.gradescope")
    parser.add_argument("root", type=Path, help="folder with submission, source and results")
    grade_folder(parser.parse_args().root)


if __name__ == "__main__":
    run_command(main)
