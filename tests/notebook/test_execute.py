"""Notebooks from the command line: folders in the environment, and files that are damaged."""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import pytest

from lib.notebook.execute import execute, note_time
from lib.utils import PROJECT, KitError


@pytest.mark.parametrize("content", ["", "<<<<<<< HEAD\n{}", "\ufeff{}", '{"cells": 1}'])
def test_a_notebook_that_is_none_is_a_line(tmp_path, content):
    (tmp_path / "x.ipynb").write_text(content, encoding="utf-8")
    with pytest.raises(KitError, match=r"x\.ipynb: is no notebook .*; restore it"):
        execute(tmp_path / "x.ipynb", tmp_path / "y.ipynb")
    assert not (tmp_path / "y.ipynb").exists()


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
