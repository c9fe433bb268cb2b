"""Fixtures for the tests of grading: the demo, graded once, and a function that grades."""

from __future__ import annotations

import shutil

import pytest
import torch

from lib.grade import grade, load_rubric
from lib.grade.archive import write_zip
from lib.grade.one import grade_one
from lib.grade.run import read_roster
from lib.grade.test_set import prepare_exam
from tests.grade.demo import read_zip

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def graded(hand_ins, tmp_path_factory):
    """(folder of the gradebook, standings) of the demo."""
    out = tmp_path_factory.mktemp("grades")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(out / "cache"))
        patch.setenv("KIT_PROGRESS", "text")
        roster = read_roster(hand_ins / "roster.csv")
        rubric = load_rubric(hand_ins / "rubric.toml")
        standings = grade(hand_ins / "submissions", hand_ins / "data", out, rubric, roster)
    return out, standings


@pytest.fixture(scope="session")
def exam(hand_ins, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(tmp_path_factory.mktemp("exam")))
        prepared = prepare_exam(hand_ins / "data")
        prepared.load(32, "reference"), prepared.load(32, "reference", perturbed=True)
    return prepared


@pytest.fixture
def examine(exam, tmp_path):
    """A function that grades one submission, given as files, in this process."""

    def one(files: dict[str, bytes], name: str = "x.zip", tolerance: float = 1e-6) -> dict:
        write_zip(tmp_path / name, files)
        work = tmp_path / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return grade_one((str(tmp_path / name), name, "x", False, str(work)), exam, CPU, tolerance)

    return one


@pytest.fixture(scope="session")
def ada(hand_ins):
    """The files of an honest submission."""
    return read_zip(hand_ins / "submissions" / "ada.zip")
