"""The first cell of a notebook: what it finds, and what it says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from lib.config import REFERENCE, choose_profile, seed_of
from lib.data import places
from lib.grade import pack
from lib.notebook import Session, course, start
from lib.phantom import PHANTOM_FOLDER, is_phantom, write, write_phantom
from lib.utils import KitError
from tests.conftest import NAMES


@pytest.fixture
def kaggle_input(tmp_path, monkeypatch):
    """Kaggle's place of data sets, and nothing where the kit has its own."""
    monkeypatch.setattr(places, "KIT_PLACES", (tmp_path / "data" / "kaggle_3m",))
    monkeypatch.setattr(places, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")
    return tmp_path / "kaggle" / "input"


@pytest.mark.parametrize(
    "place",
    [
        "lgg-mri-segmentation/kaggle_3m",
        "datasets/mateuszbuda/lgg-mri-segmentation/kaggle_3m",
        "d/somebody/brains/kaggle_3m",
        "brains",
    ],
)
def test_data_is_found_wherever_kaggle_mounts_it(tiny_kaggle, kaggle_input, place, capsys):
    shutil.copytree(tiny_kaggle, kaggle_input / place)
    (kaggle_input / "other-data").mkdir(parents=True)
    session = start()
    assert session.source == kaggle_input / place
    assert list(session.load(session.config(REFERENCE)).patients) == sorted(NAMES)
    assert "nobody's brain" not in capsys.readouterr().out


def test_kaggles_archive_holds_everything_twice(tiny_kaggle, kaggle_input):
    folder = kaggle_input / "datasets" / "mateuszbuda" / "lgg-mri-segmentation"
    for place in ("kaggle_3m", "lgg-mri-segmentation/kaggle_3m"):
        shutil.copytree(tiny_kaggle, folder / place)
    assert start().source == folder / "kaggle_3m"


def test_on_kaggle_without_data_there_is_a_line_and_no_phantom(kaggle_input, capsys):
    kaggle_input.mkdir(parents=True)
    with pytest.raises(KitError, match="on Kaggle, add the data set mateuszbuda/"):
        start()
    assert "[FAIL] data: " in capsys.readouterr().out


def test_two_data_sets_on_kaggle_are_a_question(tiny_kaggle, kaggle_input):
    for place in ("a/kaggle_3m", "b/kaggle_3m"):
        shutil.copytree(tiny_kaggle, kaggle_input / place)
    with pytest.raises(KitError, match="2 folders hold patients"):
        start()
    assert start(data=kaggle_input / "b").source == kaggle_input / "b" / "kaggle_3m"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"profile": "huge"}, "[FAIL] profile: profile 'huge' is unknown; use one of smoke"),
        ({"data": "nowhere"}, "[FAIL] data: nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_used_is_a_line(tiny_kaggle, arguments, line, capsys):
    with pytest.raises(KitError):
        start(**{"data": tiny_kaggle, **arguments})
    assert line in capsys.readouterr().out


def test_only_the_phantom_has_a_test_set(tiny_kaggle, tmp_path, monkeypatch):
    config = replace(REFERENCE, image_size=32)
    assert start(data=tiny_kaggle).test_set(config) is None
    monkeypatch.setattr(write, "TEST_FOLDER", tmp_path / "test")
    few = Session(PHANTOM_FOLDER, tmp_path, choose_profile(False, "cpu", "smoke")).test_set(config)
    assert len(few.patients) == 4 and few.image_size == 32
    assert min(few.patients) == "PHANTOM_1001"


def test_the_phantom_has_its_test_set_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "TEST_FOLDER", tmp_path / "test")
    monkeypatch.setattr(course, "PHANTOM_FOLDER", tmp_path / "phantom")
    write_phantom(tmp_path / "phantom", patients=2, size=32)
    (tmp_path / "phantom" / ".ipynb_checkpoints").mkdir()  # Jupyter's, of no patient
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    session = start(data="phantom/../phantom", profile="smoke", out="~/out")
    assert session.out == tmp_path / "out"
    assert session.test_set(replace(REFERENCE, image_size=32)) is not None
    assert is_phantom(tmp_path / "phantom") and not is_phantom(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'\xef\xbb\xbflanguage = "zh-CN"\n', None),
        (b'language = ["en"]\n', "language must be one of"),
        (b"language = {}\n", "language must be one of"),
    ],
)
def test_a_course_as_an_editor_saves_it(tmp_path, content, problem):
    (tmp_path / "course.toml").write_bytes(content)
    if problem:
        with pytest.raises(KitError, match=rf"course\.toml: {problem}"):
            course.read_course(tmp_path / "course.toml")
    else:
        assert course.read_course(tmp_path / "course.toml").language == "zh-CN"


def test_a_student_has_a_seed_of_their_own(tiny_kaggle, monkeypatch, capsys):
    """The same in every notebook, however the id is given; without one the kit's."""
    seeds = {
        student: start(data=tiny_kaggle, student=student).config(REFERENCE).seed
        for student in (None, "ada", "bela")
    }
    assert seeds[None] == REFERENCE.seed and len(set(seeds.values())) == 3
    assert f"[OK] student ada: your seed is {seeds['ada']}" in capsys.readouterr().out
    monkeypatch.setenv("KIT_STUDENT", "ada")
    assert start(data=tiny_kaggle).config(REFERENCE).seed == seeds["ada"] == seed_of(" ada ")


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        (20231234, 'student 20231234: is no text; put it in quotes, "20231234"'),
        ("your-id", "student 'your-id': is a placeholder; put your own id in its place"),
        ("ada, bela", "student 'ada, bela': give your id, of letters, digits and . @ - _ only"),
        ("ada/bela", "student 'ada/bela': give your id"),
        ("张三 2023", "student '张三 2023': give your id"),
        ("+".join("abcdef"), "a team joins at most 5 ids by +"),
    ],
)
def test_an_id_that_nobody_can_submit_trains_nothing(tiny_kaggle, capsys, student, problem):
    """What pack would refuse, start refuses, in the same words."""
    with pytest.raises(KitError, match=re.escape(problem)) as refused:
        start(data=tiny_kaggle, student=student)
    assert f"[FAIL] student: {refused.value}" in capsys.readouterr().out
    with pytest.raises(KitError, match=re.escape(str(refused.value))):
        pack(student, tiny_kaggle)


def test_an_id_is_taken_without_blanks_around(tiny_kaggle):
    assert start(data=tiny_kaggle, student=" mu\u0308ller+bela ").student == "müller+bela"


def test_phantoms_are_no_patients_however_they_are_named(tmp_path, tiny_kaggle, capsys):
    root = write_phantom(tmp_path / "heads", patients=2, size=32)
    for given, patients in ((root, False), (root.parent, False), (tiny_kaggle, True)):
        start(data=given, out=tmp_path)
        assert ("nobody's brain" not in capsys.readouterr().out) == patients, given


def test_the_course_chooses_the_phantom(tmp_path, monkeypatch, capsys):
    """Other heads in a folder of their own; the test set is that of all classes."""
    monkeypatch.setattr(course, "FILE", tmp_path / "course.toml")
    monkeypatch.setattr(course, "PHANTOM_FOLDER", tmp_path / "phantom")
    monkeypatch.setattr(course, "write_phantom", partial(write_phantom, patients=3, size=32))
    first = start(data="phantom")
    (tmp_path / "course.toml").write_text("phantom_seed = 7\n")
    second = start(data="phantom")
    assert (first.source.name, second.source.name) == ("phantom", "phantom-7")
    images = [(each.source / "PHANTOM_0001" / "PHANTOM_0001_9.tif") for each in (first, second)]
    assert images[0].read_bytes() != images[1].read_bytes()
    (tmp_path / "course.toml").write_text('data = "phantom"\n')
    monkeypatch.setattr("lib.notebook.session.usual_places", lambda: [tmp_path / "kaggle_3m"])
    assert start().source.name == "phantom"  # although patients are there
    assert "cannot be submitted" not in capsys.readouterr().out
    (tmp_path / "course.toml").write_text('data = "kaggle"\n')
    start(data="phantom")
    assert "note: in this course patients count: what is" in capsys.readouterr().out
    (tmp_path / "course.toml").write_text("seed = 7\n")
    with pytest.raises(KitError, match="seed is unknown"):
        start(data="phantom")
    assert "[FAIL] course: " in capsys.readouterr().out


def test_a_gpu_that_torch_cannot_use_is_told(tmp_path, monkeypatch, capsys):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA T4'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("lib.notebook.session.pick_device", lambda: torch.device("cpu"))
    start(data=write_phantom(tmp_path / "heads", patients=1, size=32), out=tmp_path)
    said = "there is an NVIDIA GPU here, which this torch cannot use"
    assert (said in capsys.readouterr().out) == (sys.platform != "win32")
