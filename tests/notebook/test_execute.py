"""Notebooks from the command line: folders in the environment, and files that are damaged."""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import pytest

from lib.notebook.execute import execute, note_time, save_figures
from lib.utils import PROJECT, KitError


@pytest.mark.parametrize("content", ["", "<<<<<<< HEAD\n{}", "\ufeff{}", '{"cells": 1}'])
def test_a_notebook_that_is_none_is_a_line(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content, encoding="utf-8")
    with pytest.raises(KitError, match=r"x\.ipynb: is no notebook .*; restore it"):
        execute(tmp_path / "x.ipynb", tmp_path / "y.ipynb")
    assert not (tmp_path / "y.ipynb").exists()


def test_an_answer_in_an_executed_copy_is_kept(tmp_path):
    """Students type into the copy with the outputs, and run the command again."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    copy = tmp_path / "notebooks" / "x.ipynb"
    execute(tmp_path / "x.ipynb", copy)
    edited = copy.read_text() + "my answer"
    copy.write_text(edited)
    execute(tmp_path / "x.ipynb", copy)
    assert (copy.parent / "x.ipynb.aside").read_text() == edited
    assert "my answer" not in copy.read_text()
    execute(copy, copy)  # in place
    assert len(list(copy.parent.glob("*.aside*"))) == 1


def test_a_picture_of_somebody_elses_is_kept(tmp_path):
    output = nbformat.v4.new_output("display_data", {"image/png": "AAAA"})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "x.ipynb")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x_1.png").write_bytes(b"mine")
    for _ in range(2):
        save_figures(tmp_path / "x.ipynb", tmp_path / "figures")
    assert (tmp_path / "figures" / "x_1.png").read_bytes() == bytes(3)
    assert [file.read_bytes() for file in tmp_path.glob("figures/*.aside*")] == [b"mine"]


@pytest.mark.parametrize("content", [None, "", "<<<<<<< HEAD", "[1]", '{"a": 1}'])
def test_times_that_cannot_be_read_begin_anew(tmp_path, content):
    file = tmp_path / "notebooks.json"
    if content is not None:
        file.write_text(content)
    note_time(file, tmp_path / "x.ipynb", 12.3)
    assert '"x": 12' in file.read_text()
    assert ('"a"' in file.read_text()) == (content == '{"a": 1}')


def test_folders_in_the_environment_are_those_of_whoever_asked(tmp_path):
    """The kernel works in the folder of the kit, whatever that of the command is."""
    code = "import os; print(os.environ['KIT_OUT'], os.environ['KIT_DATA'])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "lib.notebook", "x.ipynb"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "KIT_OUT": "out", "KIT_DATA": "phantom"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out'} phantom" in done.stdout
    assert (tmp_path / "out" / "notebooks" / "x.ipynb").is_file()
