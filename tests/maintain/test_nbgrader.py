"""nbgrader takes the notebooks of the student edition: every question is one that it knows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.grade.released import questions
from lib.notebook.cells import ASKS
from lib.utils import PROJECT
from maintain.student import write_student_edition

pytest.importorskip("nbgrader")
NAME = "lgg"


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course with the student edition as its assignment, set up as the guide says."""
    folder = tmp_path_factory.mktemp("course")
    edition, _ = write_student_edition(folder / "student")
    (folder / "source" / NAME).mkdir(parents=True)
    for notebook in edition.glob("*.ipynb"):
        shutil.copy(notebook, folder / "source" / NAME)
    guide = (PROJECT / "docs" / "instructors.md").read_text(encoding="utf-8")
    config = re.search(r"```python\n(c = get_config\(\)\n.*?)```", guide, re.DOTALL)[1]
    (folder / "nbgrader_config.py").write_text(config)
    nbgrader(folder, "generate_assignment", NAME, "--create")
    return folder


def nbgrader(folder: Path, *arguments: str) -> None:
    here = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cells(file: Path) -> list[dict]:
    return json.loads(file.read_text(encoding="utf-8"))["cells"]


@pytest.mark.slow
def test_questions_and_code_stay_as_they_are(course):
    released = sorted((course / "release" / NAME).glob("*.ipynb"))
    assert len(released) == 4
    for file in released:
        before = [cell["source"] for cell in cells(course / "source" / NAME / file.name)]
        assert [cell["source"] for cell in cells(file)] == before


@pytest.mark.slow
def test_an_answer_is_to_be_marked_and_silence_earns_nothing(course):
    from nbgrader.api import Gradebook

    target = course / "submitted" / "ada" / NAME
    target.mkdir(parents=True)
    first = set()
    for file in sorted((course / "release" / NAME).glob("*.ipynb")):
        content = json.loads(file.read_text(encoding="utf-8"))
        asks = [cell for cell in content["cells"] if ASKS.search("".join(cell["source"]))]
        asks[0]["source"].append("\n\nIt helps.")
        first.add(asks[0]["id"])
        (target / file.name).write_text(json.dumps(content))
    nbgrader(course, "autograde", NAME, "--create")
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        notebooks = book.find_submission(NAME, "ada").notebooks
        grades = {one.name: one for notebook in notebooks for one in notebook.grades}
        marked = {name for name, one in grades.items() if one.needs_manual_grade}
        assert marked == first
        assert {one.auto_score for name, one in grades.items() if name not in first} == {0}
    assert {key.partition("-")[2] for key in questions()} <= set(grades)
