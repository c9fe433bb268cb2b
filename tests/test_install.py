"""Installation: one command from a bare Python, and what it says where something is missing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lib.utils import PROJECT

USED_OTHERWISE = {
    "jupyter": "the metapackage that the course asks for",
    "jupyterlab": "make lab",
    "ipykernel": "runs the notebooks",
    "ipywidgets": "anywidget builds on it, and tqdm draws its bars with it",
    "import-linter": "lint-imports",
    "pytest-xdist": "pytest -n",
    "pytest-cov": "pytest --cov",
    "nbval": "tests.notebooks",
    "ruff": "make lint",
    "codespell": "make lint",
    "mypy": "make types",
}
# where the import has another name
MODULES = {"scikit-image": "skimage", "pillow": "PIL", "pyyaml": "yaml"}


@pytest.fixture
def kit(tmp_path):
    """A copy of install.py with nothing to install, and a function that runs it."""
    shutil.copy(PROJECT / "install.py", tmp_path)
    for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        (tmp_path / name).write_text("# none\n")
    return tmp_path


@pytest.fixture
def module(kit):
    """The copy, imported."""
    spec = importlib.util.spec_from_file_location("install_copy", kit / "install.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def requirements(name: str) -> list[str]:
    lines = (PROJECT / name).read_text(encoding="utf-8").splitlines()
    found = [line.partition("#")[0].strip() for line in lines]
    return [line for line in found if line]


def test_pyproject_has_the_same_dependencies():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == requirements("requirements.txt")
    extras = project["optional-dependencies"]
    assert extras["dev"] == requirements("requirements-dev.txt")
    assert set(extras) == {"dev", "ray", "tensorboard"}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_each_dependency_is_explained_pinned_and_used(name):
    pins = {re.split("==", line)[0].lower() for line in requirements("constraints.txt")}
    text = "\n".join(
        file.read_text(encoding="utf-8")
        for folder in ("lib", "maintain", "tests", "benchmarks")
        for file in (PROJECT / folder).rglob("*.py")
    )
    pages = [*PROJECT.glob("*.ipynb"), PROJECT / "docs" / "extending.md"]  # a test runs its code
    text += "".join(file.read_text(encoding="utf-8") for file in pages)
    for line in (PROJECT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        package = re.split(r"[>=]", line)[0]
        assert " # " in line, f"{package}: say why in its line"
        assert package.lower() in pins, f"{package}: has no tested version"
        if package not in USED_OTHERWISE:
            module = MODULES.get(package, package)
            assert re.search(rf"\b(import|from) {module}\b", text), f"{package}: is not used"


def test_the_wheel_has_the_files_that_lib_reads():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    read = {
        file
        for file in (PROJECT / "lib").rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert read == {file for pattern in patterns for file in (PROJECT / "lib").rglob(pattern)}


@pytest.mark.slow
def test_a_broken_environment_is_made_anew_and_a_good_one_kept(kit, module, monkeypatch, capfd):
    monkeypatch.setattr(module, "install_torch", lambda python: None)
    monkeypatch.setattr(sys, "argv", ["install.py", "--dev"])
    (kit / ".venv" / "bin").mkdir(parents=True)
    (kit / ".venv" / "bin" / "python").symlink_to(kit / "gone")
    (kit / ".venv" / "pyvenv.cfg").write_text("home = /gone\n")
    module.main()
    python = kit / ".venv" / "bin" / "python"
    assert module.works(python)
    (kit / ".venv" / "mark").write_text("1")
    module.main()
    assert (kit / ".venv" / "mark").exists()
    said = capfd.readouterr().out
    assert said.count("does not work; making it anew") == 1 and said.count("installed; this") == 2


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_installs_anew_where_the_environment_does_not_run(kit):
    shutil.copy(PROJECT / "Makefile", kit)
    (kit / ".venv" / "bin").mkdir(parents=True)
    python = kit / ".venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    (kit / ".venv" / "run").write_text("")
    command = ["make", "-n", "check"]
    runs = [subprocess.run(command, cwd=kit, capture_output=True, text=True, check=True)]
    python.unlink()
    python.symlink_to(kit / "gone")
    runs += [subprocess.run(command, cwd=kit, capture_output=True, text=True, check=True)]
    shutil.rmtree(kit / ".venv")
    runs += [subprocess.run(command, cwd=kit, capture_output=True, text=True, check=True)]
    assert ["install.py" in run.stdout for run in runs] == [False, True, True]
    assert [run.stderr for run in runs] == ["", "", ""]  # no line that looks like an error


@pytest.mark.parametrize(
    ("version", "line"), [((3, 10), "Python 3.11 to 3.14 is needed"), ((3, 15), "this is 3.15")]
)
def test_another_python_is_named_in_a_line(module, monkeypatch, version, line):
    monkeypatch.setattr(module.sys, "version_info", (*version, 0))
    monkeypatch.setattr(sys, "argv", ["install.py"])
    with pytest.raises(SystemExit, match=line):
        module.main()


def test_a_folder_of_somebody_else_stays(kit, module):
    (kit / ".venv").mkdir()
    (kit / ".venv" / "thesis.txt").write_text("1")
    with pytest.raises(SystemExit, match="is no environment of Python; move it away"):
        module.environment(kit / ".venv")
    assert (kit / ".venv" / "thesis.txt").exists()


def test_a_python_without_venv_gets_the_remedy_and_leaves_nothing(kit, module, monkeypatch):
    real = subprocess.run

    def without(command, **options):
        if command[-1] == "import ensurepip, venv":
            command = [sys.executable, "-c", "import no_such_module"]
        return real(command, **options)

    monkeypatch.setattr(module.subprocess, "run", without)
    with pytest.raises(SystemExit, match="sudo apt install python3-venv"):
        module.environment(kit / ".venv")
    assert not (kit / ".venv").exists()


@pytest.mark.parametrize(
    ("system", "devices", "reachable", "build"),
    [
        ("linux", "", True, "cpu"),
        ("win32", "", True, "cpu"),
        ("linux", "", False, None),
        ("darwin", "", True, None),
        ("linux", "580.95.05, 8.9\n", True, None),  # PyPI's is for CUDA 13.0
        ("win32", "581.57, 8.9\n", True, "cu130"),  # PyPI's has no CUDA
        ("linux", "550.54.15, 8.0\n", True, "cu126"),  # the driver is older than CUDA 13
        ("win32", "576.02, 6.1\n", True, "cu126"),
        ("linux", "590.10, 7.0\n", True, "cu126"),  # CUDA 13 has no kernels for Volta
        ("linux", "590.10, 6.1\n590.10, 12.0\n", True, None),
        ("linux", "470.223.02, 8.6\n", True, "cpu"),
        ("linux", "570.10, 12.0\n", True, "cpu"),  # Blackwell needs CUDA 13, or 12.8
        ("linux", "NVIDIA-SMI has failed\n", True, "cpu"),
    ],
)
def test_torch_is_the_build_for_driver_and_device(
    module, monkeypatch, capsys, system, devices, reachable, build
):
    calls = []
    monkeypatch.setattr(module.sys, "platform", system)
    monkeypatch.setattr(module.shutil, "which", lambda tool: tool if devices else None)
    monkeypatch.setattr(module, "is_reachable", lambda address: reachable)
    monkeypatch.setattr(module, "pip", lambda python, *arguments: calls.append(arguments))
    answer = subprocess.CompletedProcess([], 1, stdout=devices)
    monkeypatch.setattr(module.subprocess, "run", lambda command, **options: answer)
    module.install_torch(Path("python"))
    index = f"https://download.pytorch.org/whl/{build}"
    assert calls == ([("torch", "--extra-index-url", index)] if build else [])
    said = capsys.readouterr().out
    assert ("200 MB" in said) == (build == "cpu") and ("out of reach" in said) == (not reachable)
    too_old = build == "cpu" and devices[:1].isdigit()
    assert ("driver is too old" in said) == too_old


def test_an_index_out_of_reach_is_no_error(module, tmp_path):
    (tmp_path / "index.html").write_text("1")
    assert module.is_reachable((tmp_path / "index.html").as_uri())
    assert not module.is_reachable((tmp_path / "no.html").as_uri())
    assert not module.is_reachable("http://127.0.0.1:9/")
