"""The committed notebooks: thin, executed, clean."""

import json
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("train_default", "train", "train_best", "inference")
SHELF = ("unet", "unet_2plus", "unet_3plus", "loss", "dataset", "transform", "utils", "logger")


@pytest.fixture(params=NAMES)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / f"{request.param}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_valid_and_small(notebook):
    nbformat.validate(notebook)
    assert len(json.dumps(notebook)) < 2_000_000  # nine sweeps, two pictures each


def test_cells_are_thin_and_explained(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*(def|class|async def|for|while) ", cell.source, re.MULTILINE), (
            cell.source
        )


def test_prose_precedes_code(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    assert all(before == "markdown" for before, kind in pairwise(kinds) if kind == "code")


def test_the_modules_of_the_assignment_are_imported_where_they_are_taught():
    sources = "\n".join(
        cell.source
        for name in NAMES
        for cell in code_cells(nbformat.read(ROOT / f"{name}.ipynb", as_version=4))
    )
    for module in SHELF:
        assert re.search(rf"^from lib\.{module} import ", sources, re.MULTILINE), module


def test_a_prediction_precedes_every_sweep_of_train():
    cells = nbformat.read(ROOT / "train.ipynb", as_version=4).cells
    sweeps = [place for place, cell in enumerate(cells) if "only=mine[" in cell.source]
    assert len(sweeps) == 9
    for place, end in pairwise([*sweeps, len(cells)]):
        assert cells[place - 1].source.startswith("**Your prediction.**")
        section = "".join(cell.source for cell in cells[place:end])
        assert "**Your analysis.**" in section and "**Exercise.**" in section


def test_has_assertions(notebook):
    assert any("assert " in cell.source for cell in code_cells(notebook))


def test_executed_in_order_without_errors_and_warnings(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output
        assert "Warning" not in json.dumps(output.get("text", ""))


def test_no_absolute_paths(notebook):
    text = json.dumps(
        [
            [
                cell.source,
                [o for o in cell.get("outputs", []) if "image/png" not in o.get("data", {})],
            ]
            for cell in notebook.cells
        ]
    )
    assert not re.search(r"(/home/|/root/|/tmp/|/Users/|[A-Z]:\\\\)", text)


def test_outputs_are_the_phantoms(notebook):
    text = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "TCGA_" not in text
    assert "embedded phantom" in text and "profile quick" in text
