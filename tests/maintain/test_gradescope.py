"""The autograder runs where nothing of the kit is but its own zip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lib.grade.archive import write_zip
from lib.grade.rubric import load_rubric
from lib.utils import KitError
from maintain.gradescope import write_autograder
from tests.grade.demo import read_zip, rename


@pytest.fixture(scope="module")
def autograder(hand_ins, tmp_path_factory) -> Path:
    """The folder that Gradescope makes of the zip, without a submission."""
    root = tmp_path_factory.mktemp("autograder")
    rubric = root / "rubric.toml"
    rubric.write_text("team = 2\n" + (hand_ins / "rubric.toml").read_text())
    file = write_autograder(root / "autograder.zip", hand_ins / "data", rubric)
    with zipfile.ZipFile(file) as bundle:
        bundle.extractall(root / "source")
    return root


def run(root: Path, submission: Path) -> dict:
    """What the autograder writes about an unpacked submission."""
    target = root / "submission"
    if target.exists():
        target.rename(root / f"before-{submission.name}")
    target.mkdir()
    if submission.is_dir():
        submission.rename(target / "unpacked")
    else:
        with zipfile.ZipFile(submission) as bundle:
            bundle.extractall(target)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"AUTOGRADER": str(root), "PYTHON": sys.executable}
    environment["KIT_CACHE"] = str(root / "cache")
    command = ["bash", str(root / "source" / "run_autograder")]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((root / "results" / "results.json").read_text())


def test_a_zip_of_something_else_stays(hand_ins, tmp_path):
    file = tmp_path / "important.zip"
    write_zip(file, {"thesis.docx": b"years of work"})
    before = file.read_bytes()
    with pytest.raises(KitError, match=r"important\.zip: was not written by maintain\.gradescope"):
        write_autograder(file, hand_ins / "data")
    assert file.read_bytes() == before


@pytest.mark.slow
def test_an_honest_submission_and_one_that_lacks_files(autograder, hand_ins, tmp_path):
    found = run(autograder, hand_ins / "submissions" / "ada.zip")
    dsc = found["tests"][0]
    assert found["score"] == dsc["score"] > 0 and dsc["max_score"] == 40
    assert "status: verified" in dsc["output"] and found["stdout_visibility"] == "hidden"
    assert set(found) == {"score", "output", "stdout_visibility", "tests"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("forgot the rest")
    found = run(autograder, tmp_path / "mine")
    assert found["score"] == 0 and found["tests"][1]["status"] == "failed"
    assert "submit what pack makes" in found["tests"][1]["output"]


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_refused(autograder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "link.csv").symlink_to(tmp_path / "nowhere")
    found = run(autograder, tmp_path / "linked")
    assert found["score"] == 0 and "link.csv' is a link" in found["tests"][1]["output"]


@pytest.mark.slow
def test_a_team_has_one_result(autograder, hand_ins, tmp_path):
    ada = read_zip(hand_ins / "submissions" / "ada.zip")
    write_zip(tmp_path / "team.zip", rename(ada, "ada+bela"))
    found = run(autograder, tmp_path / "team.zip")
    assert found["score"] > 0 and "status: verified" in found["tests"][0]["output"]


def test_it_takes_the_rubric_along_and_refuses_what_is_none(autograder, hand_ins, tmp_path):
    rubric = autograder / "source" / "assignment" / "rubric.toml"
    assert load_rubric(rubric).dsc_points == 40
    with pytest.raises(KitError, match="name a zip"):
        write_autograder(tmp_path, hand_ins / "data")
    with pytest.raises(KitError, match="no such file"):
        write_autograder(tmp_path / "x.zip", tmp_path / "nowhere")
    assert not (tmp_path / "x.zip").exists()
