"""Badges and the first cell by which notebooks open on Colab and Kaggle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lib.utils import PROJECT, KitError, visible_files
from maintain.answers import as_file
from maintain.online import with_badges, with_fetching
from maintain.student import write_student_edition

ADDRESS, OTHER = "https://github.com/ada/course", "https://github.com/emmy/kit-2"
PAGES = sorted(PROJECT.glob("README*.md"))


@pytest.fixture
def cell() -> str:
    """The code of the cell that fetches the kit."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import lib")])
    first, last = "".join(with_fetching(notebook, ADDRESS)["cells"][0]["source"]).split(
        "\n\nimport lib"
    )
    assert last == ""
    return first


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)
def test_each_notebook_has_its_badges(page):
    text = page.read_text(encoding="utf-8")
    new = with_badges(text, ADDRESS, tests=True)
    for file in visible_files(PROJECT, "*.ipynb"):
        place = f"ada/course/blob/main/{file.name})"
        assert f"(https://colab.research.google.com/github/{place}" in new
        assert f"(https://kaggle.com/kernels/welcome?src=https://github.com/{place}" in new
    assert f"git clone -q {ADDRESS} " in new
    assert new.count(f"{ADDRESS}/actions/workflows/ci.yml/badge.svg") == 1
    assert "workflows" not in with_badges(text, ADDRESS)


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.name)
def test_another_address_replaces_the_former(page):
    text = page.read_text(encoding="utf-8")
    once = with_badges(text, ADDRESS, tests=True)
    assert with_badges(once, ADDRESS, tests=True) == once
    moved = with_badges(once, OTHER, tests=True)
    assert moved == with_badges(text, OTHER, tests=True)
    assert ADDRESS not in moved
    plain = with_badges(once, "")
    assert ADDRESS not in plain
    assert "badge" not in plain
    assert with_badges(text, "") == text


def test_a_page_without_the_table_is_named():
    with pytest.raises(KitError, match="README: has no line like"):
        with_badges("# Kit\n", ADDRESS)


def test_the_first_cell_of_code_fetches_once():
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("one()", execution_count=1),
        nbformat.v4.new_code_cell("two()"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    new = nbformat.from_dict(with_fetching(with_fetching(notebook, OTHER), ADDRESS))
    first, second, third = new.cells
    assert (first, third) == (cells[0], cells[2])
    assert (second.id, second.execution_count) == (cells[1].id, 1)
    source = "".join(second.source)
    assert source.count("git clone") == source.count(ADDRESS) == 1
    assert OTHER not in source
    assert source.endswith("\n\none()")
    assert with_fetching(notebook, ADDRESS) == with_fetching(new, ADDRESS)
    assert "".join(with_fetching(new, "")["cells"][1]["source"]) == "one()"


@pytest.mark.parametrize("file", visible_files(PROJECT, "*.ipynb"), ids=lambda file: file.stem)
def test_the_first_cell_stays_short(file):
    notebook = with_fetching(json.loads(file.read_text(encoding="utf-8")), ADDRESS)
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert len(first["source"]) <= 15


@pytest.fixture
def source(tmp_path) -> Path:
    """A kit that is published: its pages, its notebooks, a module."""
    root = tmp_path / "kit"
    others = [PROJECT / name for name in ("lib/config.py", "data/README.md", "docs/README.md")]
    for file in (*PAGES, *visible_files(PROJECT, "*.ipynb"), *others):
        target = root / file.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text(encoding="utf-8")
        if file in PAGES:
            text = with_badges(text, OTHER, tests=True)
        if file.suffix == ".ipynb":
            text = as_file(with_fetching(json.loads(text), OTHER))
        target.write_text(text, encoding="utf-8")
    return root


def test_a_course_with_an_address_gives_an_edition_that_opens_online(source, tmp_path):
    (source / "course.toml").write_text(f'repository = "{ADDRESS}"\n', encoding="utf-8")
    folder, _ = write_student_edition(tmp_path / "student", source)
    for page in PAGES:
        text = (folder / page.name).read_text(encoding="utf-8")
        assert text.count("colab-badge.svg") == text.count("open-in-kaggle.svg") == 4
        assert "actions" not in text  # students get no workflow
    for file in folder.glob("*.ipynb"):
        code = [one for one in nbformat.read(file, as_version=4).cells if one.cell_type == "code"]
        assert [ADDRESS in one.source for one in code] == [True, *[False] * (len(code) - 1)]


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_an_edition_never_leads_to_the_kit_with_its_solutions(source, tmp_path, address):
    (source / "course.toml").write_text(f'repository = "{address}"\n', encoding="utf-8")
    folder, _ = write_student_edition(tmp_path / "student", source)
    for file in folder.rglob("*"):
        assert not file.is_file() or OTHER.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("where", ["colab", "kaggle", "elsewhere"])
def test_the_cell_fetches_the_kit_where_it_is_missing(cell, where, tmp_path):
    repository, place = tmp_path / "repository", tmp_path / "kit"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(repository)]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / "lib.py").write_text("")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "kit"], check=True)
    names = ("/content/kit", "/kaggle/working/kit")
    assert all(name in cell for name in names)
    for name in names:
        cell = cell.replace(name, str(place))
    module = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('colab')\n"
    script = tmp_path / "cell.ipy"
    twice = f"{cell}\n{cell}\nimport os; print('in', os.getcwd())\n"  # run again, nothing happens
    script.write_text(module + twice if where == "colab" else twice)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
        "IPYTHONDIR": str(tmp_path / "ipython"),
        **({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"} if where == "kaggle" else {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    if where == "elsewhere":
        assert lines == [f"in {tmp_path}"]
        assert not place.exists()
    else:
        assert (place / "lib.py").is_file()
        assert lines[-1] == f"in {place}"
        assert "fatal" not in done.stdout
