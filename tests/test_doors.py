"""The doors: every import and command that is documented, and what opening one loads."""

import ast
import importlib
import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from lib.utils import PROJECT

SHELF = (
    "unet_layers unet_init_weights unet unet_2plus unet_3plus networks loss transform dataset "
    "metrics optim config train evaluate utils"
)
PACKAGES = "runtime data logger predict stats phantom sweep plot viewer report notebook check grade"
NAMES = """
from lib.config import Config, REFERENCE, BEST
from lib.networks import build_model, summary
from lib.loss import DiceLoss, IOULoss, FocalTverskyLoss, build_loss
from lib.dataset import load_data, folds
from lib.train import fit
from lib.predict import predict, load_weights
from lib.metrics import dsc
from lib.viewer import browse
from lib.sweep import sweep, Sweep, Plan, PLANS, grid, random_plan, cross_validate, CrossValidation
from lib.sweep import ensemble, evidence, on_test_set, score
from lib.plot import curves, LiveView, styled
from lib.grade import grade, pack, load_rubric
from lib.notebook import start, Session
from lib.report import write_report
from lib.phantom import write_phantom, make_patient, PHANTOM_FOLDER
from lib.check import check
from lib.evaluate import calibrate
from lib.data import find_root, list_patients, read_patient, Patient
from lib.data import open_cache, Cache, cache_folder, write_masks
from lib.runtime import pick_device, Machine, deterministic, Recomputing
from lib.runtime import load_class, code_fingerprint, run_command
"""
"""What notebooks, scripts and other people's code rely on."""
COMMANDS = (
    "lib.train",
    "lib.sweep",
    "lib.predict",
    "lib.grade",
    "lib.grade pack",
    "lib.phantom",
    "lib.report",
    "lib.notebook",
    "lib.check",
    "maintain.reference",
    "maintain.results",
    "maintain.postprocess",
    "maintain.pretrained",
    "maintain.figures",
    "maintain.student",
)
PAGES = [
    *PROJECT.glob("*.md"),
    *PROJECT.glob("docs/*.md"),
    *PROJECT.glob("data/*.md"),
    *PROJECT.glob("result/*/*.md"),
    *PROJECT.glob("*.ipynb"),
    PROJECT / "Makefile",
]


def test_the_shelf_and_the_packages():
    assert {file.stem for file in (PROJECT / "lib").glob("*.py")} == {"__init__", *SHELF.split()}
    assert {file.parent.name for file in (PROJECT / "lib").glob("*/__init__.py")} == set(
        PACKAGES.split()
    )


def imports_of(text: str) -> list[tuple[str, str]]:
    """(module, name) of every import from the kit."""
    found = re.findall(r"from ((?:lib|maintain)[\w.]*) import ([\w, ]+)", text)
    return [
        (module, name.split(" as ")[0].strip())
        for module, names in found
        for name in names.split(",")
    ]


@pytest.mark.parametrize(("module", "name"), imports_of(NAMES))
def test_what_others_rely_on(module, name):
    found = getattr(importlib.import_module(module), name)
    assert type(found) is not type(importlib), f"{module}.{name} is a module"


def text_of(page: Path) -> str:
    if page.suffix == ".ipynb":
        return "\n".join(
            "".join(cell["source"])
            for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]
        )
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_what_pages_and_notebooks_tell_is_there(page):
    text = text_of(page)
    for module, name in imports_of(text):
        if not hasattr(importlib.import_module(module), name):
            assert importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"
    for module in re.findall(
        r"(?:python|\$\(PY\)) -m ((?:lib|maintain|tests|benchmarks)[\w.]*)", text
    ):
        spec = importlib.util.find_spec(module.rstrip("."))
        assert spec and (
            spec.submodule_search_locations is None
            or importlib.util.find_spec(f"{module}.__main__")
        )
    for name in re.findall(r"`((?:lib|maintain)\.[\w.]+)`", text):
        module, _, attribute = name.rpartition(".")
        assert (
            importlib.util.find_spec(name)
            if module in ("lib", "maintain")
            else hasattr(importlib.import_module(module), attribute)
            or importlib.util.find_spec(name)
        ), name
    for name in re.findall(r"`((?:lib|maintain|tests|benchmarks)/[\w/]+\.\w+)`", text):
        assert (PROJECT / name).exists(), name


@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # a command's module has been imported by other tests
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command, monkeypatch, capsys):
    module, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert stop.value.code == 0
    assert f"usage: python -m {command}" in capsys.readouterr().out


@pytest.mark.parametrize("package", PACKAGES.split())
def test_a_face_says_what_is_behind_it_and_no_more(package):
    source = (PROJECT / "lib" / package / "__init__.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    words, *statements = tree.body
    assert len(ast.get_docstring(tree)) > 100 and "door" in ast.get_docstring(tree)
    assert all(isinstance(statement, ast.ImportFrom) for statement in statements[:-1])
    named = [alias.name for statement in statements[:-1] for alias in statement.names]
    assert sorted(named) == sorted(ast.literal_eval(statements[-1].value)), "__all__"
    code = [line for line in source.splitlines()[words.end_lineno :] if line]
    assert len(code) < 20


DOORS = {  # opened in this order, in one process; what each may not have loaded by then
    "lib.phantom": "matplotlib pandas",
    "lib.train": "matplotlib IPython",
    "lib.sweep": "matplotlib IPython ray",
    "lib.grade": "matplotlib IPython",
    "lib.notebook": "matplotlib nbformat",
    "lib.plot": "IPython",
}


def test_a_door_loads_nothing_heavy_that_it_does_not_need():
    code = f"""
import importlib, sys
for module, heavy in {DOORS}.items():
    importlib.import_module(module)
    print(*(f"{{module}}: {{name}}" for name in heavy.split() if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == [""] * (len(DOORS) + 1)
