"""The student edition: nothing of the solution is in it, and it still runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from lib.check.exercises import EXERCISES as TRIES
from lib.notebook.cells import QUESTION, question_hash
from lib.notebook.course import Course, read_course
from lib.notebook.solutions import (
    ASIDE,
    BEGIN,
    CONTENT,
    END,
    END_OF_ASIDE,
    REGION,
    without_solutions,
)
from lib.utils import PROJECT, KitError
from maintain.student import PARTS, chosen_exercises, write_student_edition
from tests.notebook.test_solutions import SAMPLE
from tests.pages import dead_links

EXERCISES = f'''"""Exercises."""

import math


class Loss:
    """A loss."""

    def forward(self):
        {BEGIN}: return the loss
        return "the secret"
        {END}


def dsc():
    """Return the coefficient."""
    {BEGIN}: return the coefficient
    return "the secret"
    {END}
'''


@pytest.fixture
def source(tmp_path) -> Path:
    """A little kit with solutions in a module, a notebook and a Markdown file."""
    root = tmp_path / "kit"
    for name, text in {
        "lib/config.py": SAMPLE,
        "lib/notebook/solutions.py": "",
        "course.toml": 'exercises = ["dsc"]\n',
        "exercises.py": EXERCISES,
        "docs/instructors.md": "secret",
        "result/reference/numbers.csv": "secret",
        "README.md": f"# Kit\n<!-- {BEGIN} -->\nThe secret is out.\n<!-- {END} -->\nEnd\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    cells = [
        nbformat.v4.new_code_cell(
            "1", outputs=[nbformat.v4.new_output("stream", text="the secret")]
        ),
        nbformat.v4.new_code_cell(f"a = 1\n{BEGIN}\nsecret()\n{END}"),
        nbformat.v4.new_markdown_cell(f"Why?\n{BEGIN}: say it\nThe secret.\n{END}"),
        nbformat.v4.new_markdown_cell(f"{ASIDE}\nThe secret.\n{END_OF_ASIDE}"),
        nbformat.v4.new_code_cell(f"b = 1\n{ASIDE}\nsecret()\n{END_OF_ASIDE}"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "x.ipynb")
    return root


def test_nothing_of_the_solution_is_in_it(source, tmp_path):
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    folder, archive = write_student_edition(tmp_path / "student", source)
    assert sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ) == [
        ".written.json",
        "README.md",
        "course.toml",
        "exercises.py",
        "lib/config.py",
        "lib/notebook/solutions.py",
        "x.ipynb",
    ]
    assert (folder / "exercises.py").read_text() == (
        '"""Exercises."""\n\nimport math\n\n\ndef dsc():\n    """Return the coefficient."""\n'
        "    # YOUR TURN: return the coefficient\n"
    )
    assert not any(b"secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    first, second, third, fourth = nbformat.read(folder / "x.ipynb", as_version=4).cells
    assert (first.outputs, second.source, third.source, fourth.source) == (
        [],
        "a = 1\n# YOUR TURN",
        "Why?\n*Your turn*: say it",
        "b = 1",
    )
    assert "tags" not in fourth.metadata
    assert second.metadata["tags"] == third.metadata["tags"] == ["your-turn"]
    content = archive.read_bytes()
    with zipfile.ZipFile(archive) as bundle:
        assert not any(b"secret" in bundle.read(name) for name in bundle.namelist())
    assert (
        write_student_edition(tmp_path / "student", source)[1].read_bytes() == content
    )  # made anew, the same
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_a_cell_that_asks_for_an_answer_is_known_again(source, tmp_path):
    notebook = nbformat.read(source / "x.ipynb", as_version=4)
    question = "**Your analysis.** *(Double-click and write.)* Why?"
    notebook.cells.append(nbformat.v4.new_markdown_cell(question))
    nbformat.write(notebook, source / "x.ipynb")
    folder, _ = write_student_edition(tmp_path / "student", source)
    cells = nbformat.read(folder / "x.ipynb", as_version=4).cells
    assert [cell.metadata.get(QUESTION) for cell in cells] == [*[None] * 4, question_hash(question)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('exercises = ["sdc"]', "'sdc' is no exercise; there are Loss, dsc"),
        ("exercises = 3", "must be a list of names"),
        ("exercise = []", "exercise is unknown; there are exercises, rubric, data, phantom_seed"),
        ("rubric = 5", "rubric must be the name"),
        ('repository = "github.com/a/b"', "repository must be like https://github.com/OWNER"),
        ('language = "de"', "language must be one of 'en', 'zh-CN'"),
        ('data = "lgg"', "data must be one of '', 'kaggle', 'phantom'"),
        ("phantom_seed = 1.5", "phantom_seed must be a whole number from 0"),
        ("phantom_seed = -1", "phantom_seed must be a whole number from 0"),
        ("exercises = [", "cannot be read"),
        ('rubric = "no.toml"', "no.toml: cannot be read"),
    ],
)
def test_a_course_that_is_none(source, tmp_path, text, reason):
    (source / "course.toml").write_text(text)
    with pytest.raises(KitError, match=reason):
        write_student_edition(tmp_path / "student", source)
    assert not (tmp_path / "student").exists()


def test_a_rubric_that_is_public_goes_along(source, tmp_path):
    (source / "course.toml").write_text('rubric = "mine.toml"\n')
    rubric = "[dsc]\nscale = [[0.5, 0], [0.9, 40]]\n[columns]\nreport = 60\n"
    (source / "mine.toml").write_text(rubric)
    folder, _ = write_student_edition(tmp_path / "student", source)
    assert (folder / "rubric.toml").read_text() == rubric
    assert "def dsc" not in (folder / "exercises.py").read_text()


def test_the_edition_says_which_data_count_and_not_what_was_cut(source, tmp_path):
    (source / "course.toml").write_text('exercises = []\ndata = "phantom"\nphantom_seed = 7\n')
    folder, _ = write_student_edition(tmp_path / "student", source)
    assert read_course(folder / "course.toml") == Course(data="phantom", phantom_seed=7)
    assert read_course(folder / "no.toml") == Course()


def check_exercises(folder: Path, kit: Path) -> subprocess.CompletedProcess[str]:
    """Check the exercises.py of a folder with the command of a kit."""
    return subprocess.run(
        [sys.executable, "-m", "lib.check", "exercises"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(kit)},
        capture_output=True,
        text=True,
    )


def test_an_exercise_that_a_student_deletes_fails(tmp_path):
    folder, _ = write_student_edition(tmp_path / "student")
    names = read_course(PROJECT / "course.toml").exercises
    assert read_course(folder / "course.toml").exercises == names
    text = (folder / "exercises.py").read_text(encoding="utf-8")
    kept = chosen_exercises(text, names[1:]) + "\nfrom lib.metrics import dsc\n"
    (folder / "exercises.py").write_text(kept, encoding="utf-8")
    done = check_exercises(folder, kit=folder)
    assert done.returncode == 1
    assert f"[FAIL] {names[0]} is there: put it back into exercises.py" in done.stdout


def test_the_exercises_of_the_kits_own_edition(tmp_path):
    """Those of course.toml, each unwritten, and every one can be left out."""
    source = (PROJECT / "exercises.py").read_text(encoding="utf-8")
    for names in (read_course(PROJECT / "course.toml").exercises, tuple(TRIES), ()):
        text = without_solutions(chosen_exercises(source, names))
        (tmp_path / "exercises.py").write_text(text)
        done = check_exercises(tmp_path, kit=PROJECT)
        lines = done.stdout.splitlines()
        assert len(lines) == len(names) and all("is written: write it:" in one for one in lines)
        assert done.returncode == (1 if names else 2)


def test_a_folder_that_holds_something_else_stays(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("1")
    with pytest.raises(KitError, match="no student edition"):
        write_student_edition(tmp_path / "mine", source)


def test_neither_the_kit_nor_a_copy_of_it_is_replaced(source, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder in (source, source.parent):
        with pytest.raises(KitError, match="contains the kit itself"):
            write_student_edition(folder, source)
    with pytest.raises(KitError, match="is no student edition"):
        write_student_edition(copy, source)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_others_put_into_an_edition_stays(source, tmp_path):
    """Such as a repository of it, runs and data; what the kit has not any more goes."""
    edition, archive = write_student_edition(tmp_path / "course-2026.1", source)
    assert archive.name == "course-2026.1.zip"
    for name in (".git/HEAD", "result/runs/x/best.pt", "data/kaggle_3m/P/P_1.tif"):
        (edition / name).parent.mkdir(parents=True, exist_ok=True)
        (edition / name).write_text("theirs")
    (source / "lib" / "old.py").write_text("")
    write_student_edition(edition, source)
    assert (edition / "lib" / "old.py").is_file()
    (source / "lib" / "old.py").unlink()
    write_student_edition(edition, source)
    assert not (edition / "lib" / "old.py").exists()
    assert sum(file.read_bytes() == b"theirs" for file in edition.rglob("*") if file.is_file()) == 3
    (edition / "exercises.py").write_text("answer = 42")
    with pytest.raises(KitError, match=r"exercises\.py: is there and .* was edited since"):
        write_student_edition(edition, source)
    assert (edition / "exercises.py").read_text() == "answer = 42"


def test_a_zip_of_somebody_else_stays(source, tmp_path):
    with zipfile.ZipFile(tmp_path / "student.zip", "w") as bundle:
        bundle.writestr("thesis.txt", "years of work")
    with pytest.raises(KitError, match=r"student\.zip: is no zip of a student edition"):
        write_student_edition(tmp_path / "student", source)
    assert not (tmp_path / "student").exists()


def test_what_editors_hide_among_the_sources_is_no_part_of_it(source, tmp_path):
    (source / "lib" / ".ipynb_checkpoints").mkdir()
    (source / "lib" / ".ipynb_checkpoints" / "config-checkpoint.py").write_text(SAMPLE)
    (source / "lib" / ".#config.py").symlink_to("ada@laptop.4711")
    folder, archive = write_student_edition(tmp_path / "student", source)
    with zipfile.ZipFile(archive) as bundle:
        names = [*bundle.namelist(), *map(str, folder.rglob("*"))]
    assert not any("checkpoint" in name or "#" in name for name in names)


@pytest.mark.parametrize("name", ["config.py.orig", "exercises.py.bak", "train.py~"])
def test_a_file_that_may_hold_a_solution_is_named(source, tmp_path, name):
    (source / "lib" / name).write_text("### BEGIN SOLUTION\n42\n### END SOLUTION\n")
    with pytest.raises(KitError, match=f"{re.escape(name)}: may have solutions in it"):
        write_student_edition(tmp_path / "student", source)


def source_texts() -> list[str]:
    """The kit's text files that students get; of notebooks the cells."""
    texts = []
    for pattern in PARTS:
        for file in PROJECT.glob(pattern):
            if file.suffix == ".ipynb":
                texts += [
                    "".join(cell["source"])
                    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
                ]
            elif file.is_file() and file.suffix in (".py", ".md", ".toml", ".txt", ""):
                texts.append(file.read_text(encoding="utf-8"))
    return texts


def test_the_kits_own_edition(tmp_path):
    folder, archive = write_student_edition(tmp_path / "student")
    texts = source_texts()
    harmless = {line.strip() for text in texts for line in without_solutions(text).splitlines()}
    secret = {
        line.strip()
        for text in texts
        for region in REGION.finditer(f"{text}\n")
        for line in region[CONTENT].splitlines()
        # the short last line of a paragraph may well be somewhere else, too
        if len(line.strip()) > (24 if "*Model answer.*" in region[CONTENT] else 12)
    } - harmless
    files = [path for path in folder.rglob("*") if path.is_file()]
    shipped = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    assert [line for line in secret if line in shipped] == []
    measured = {path for path in files if path.parent == folder / "result/reference/phantom"}
    assert not [path for path in set(files) - measured if path.suffix in (".pt", ".csv", ".zip")]
    assert {path for path in files if path.is_relative_to(folder / "result")} == measured
    assert measured and not any("dropout" in path.read_text() for path in measured)
    assert not (folder / "tests").exists()
    assert archive.is_file()


def test_its_pages_speak_of_what_it_has(tmp_path):
    folder, _ = write_student_edition(tmp_path / "student")
    for name in ("Dockerfile", ".devcontainer/devcontainer.json", "environment.yml", "install.py"):
        assert (folder / name).is_file(), name
    pages = [*folder.glob("*.ipynb"), *folder.rglob("*.md")]
    elsewhere = re.compile(r"-m (maintain|tests|pytest)\b|instructors(\.zh-CN)?\.md|CONTRIBUTING")
    found = {
        f"{page.name}: {line.strip()}"
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if elsewhere.search(line)
    }
    assert {page.name: dead_links(page) for page in pages if dead_links(page)} == {}
    clone = "maintain.language zh-CN"  # it is said to be in a clone of the whole kit
    assert [line for line in found if clone not in line] == []


@pytest.mark.slow
def test_it_runs_top_to_bottom(tmp_path):
    folder, _ = write_student_edition(tmp_path / "student")
    environment = {**os.environ, "KIT_PROFILE": "smoke", "KIT_DATA": "phantom"}
    notebooks = [f"{name}.ipynb" for name in ("train_default", "train", "train_best", "inference")]
    done = subprocess.run(
        [sys.executable, "-m", "lib.notebook", *notebooks],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
