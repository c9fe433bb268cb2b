"""Every command of README, the students' and the researchers' page runs, at smoke size.

In a copy of the kit with six patients, one run and one submission.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from lib.phantom import write_phantom
from lib.utils import PROJECT
from tests.pages import SMALL, commands, run, small

PAGES = ("README.md", "docs/students.md", "docs/researchers.md")
NETWORK = "installs from the network: tests/test_install.py"
WINDOWS = "is for Windows"
COLAB = "is a cell of Colab or Kaggle"
DOCKER = "needs Docker: tests/test_places.py"
CHECKS = "is what runs these tests"
CLUSTER = "needs a cluster: tests/sweep/test_on_ray.py"
LONG = "takes minutes or a GPU: tests/test_benchmarks.py"
NOT_RUN = {
    "python": "names the interpreter of the pages",
    "py install.py": WINDOWS,
    r".venv\Scripts\python -m lib.notebook train_default.ipynb inference.ipynb": WINDOWS,
    r".venv\Scripts\python -m jupyterlab train_default.ipynb": WINDOWS,
    "make lab": "serves until it is stopped: tests/viewer/test_in_jupyterlab.py",
    "python3 install.py": NETWORK,
    "python install.py --dev": NETWORK,
    "pip install": NETWORK,
    "pip install .": NETWORK,
    "pip install -e .[dev]": NETWORK,
    'pip install "ray>=2.40"': NETWORK,
    "uv sync": NETWORK,
    "conda env create -f environment.yml": "needs conda: tests/test_places.py",
    "docker build -t kit .": DOCKER,
    "docker run --name kit -p 8888:8888 kit": DOCKER,
    "docker start -a kit": DOCKER,
    "!git clone -q <this repository> /content/kit": COLAB,
    "%cd /content/kit": COLAB,
    "!pip install -q anywidget mistune tifffile": COLAB,
    "make test": CHECKS,
    "make test-all": CHECKS,
    "ruff check .": CHECKS,
    "lint-imports": CHECKS,
    "mypy": CHECKS,
    "pytest": CHECKS,
    "python -m tests.notebooks train_default.ipynb train.ipynb train_best.ipynb inference.ipynb": (
        CHECKS
    ),
    "ray start --head": CLUSTER,
    "ray start --address=host:6379": CLUSTER,
    "ray get-auth-token": CLUSTER,
    "ray job submit": CLUSTER,
    "RAY_ADDRESS=host:6379 python -m lib.sweep loss --data /shared/kaggle_3m --out result "
    "--executor ray": CLUSTER,
    "python -m maintain.reference --at gpu --data data/kaggle_3m --out result/reference": LONG,
    "make bench": LONG,
    "make bench FULL=1": LONG,
    "python -m benchmarks.gpu": LONG,
}
FILLED_IN = {  # what a reader fills in, in this order
    r"[\[\]]": "",  # what may be left out is typed
    r"(pack --student ID)$": r"\1 --quick",  # as the runs here are small
    r"--data (FOLDER|DIR)": "--data data/kaggle_3m",
    r"--out DIR": "--out grades",
    r"SUBMISSIONS": "submissions",
    r"CSV": "roster.csv",
    r"<run_id>|\bRUN\b": "{run}",
    r"\bID\b": "ada",
    r"module:Class": "my_module:MyLoss",
    r"lib\.predict \.\.\.": "lib.predict --data data/kaggle_3m --out masks-2 "
    "--weights result/runs/{run}/best.pt",
    r"--patients 60": "--patients 6",
}
MODULE = """from torch import nn


class MyLoss(nn.Module):
    def forward(self, logits, target):
        return (logits.sigmoid() - target).square().mean()
"""


def typed() -> dict[str, str]:
    """Each command of the pages once -> the page that it is on."""
    found: dict[str, str] = {}
    for page in PAGES:
        for command in commands((PROJECT / page).read_text(encoding="utf-8")):
            found.setdefault(command, page)
    return found


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the kit with what the commands are about, and its run.

    Its ``.venv`` is that of the tests.
    """
    folder = tmp_path_factory.mktemp("home") / "kit"
    left_out = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "tests", "data", "runs", "cache", "prediction", "build"
    )
    shutil.copytree(PROJECT, folder, ignore=left_out)
    shutil.copytree(PROJECT / "lib" / "data", folder / "lib" / "data")
    for name in ("activate", "python"):
        file = folder / ".venv" / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n' if name == "python" else "")
        file.chmod(0o755)
    (folder / ".venv" / "run").touch()  # make has installed
    write_phantom(folder / "data" / "kaggle_3m", patients=6, size=40)
    (folder / "my_module.py").write_text(MODULE)
    (folder / "roster.csv").write_text("student\nada\n")
    prepared = (
        f"python -m lib.train --data data/kaggle_3m --out result {SMALL}",
        "python -m lib.grade pack --student ada --quick",
        "mkdir submissions && cp result/ada.zip submissions",
    )
    for command in prepared:
        done = run(command, folder, **variables(folder))
        assert done.returncode == 0, done.stderr
    [only] = (folder / "result" / "runs").iterdir()
    return folder, only.name


def variables(folder: Path) -> dict[str, str]:
    return {
        "HOME": str(folder.parent),
        "KIT_CACHE": str(folder / "cache"),
        "KIT_PROFILE": "smoke",
        "PYTHONPATH": "",
        "SLURM_CPUS_PER_TASK": "1",
    }


def filled_in(command: str, run_id: str) -> str:
    for pattern, words in FILLED_IN.items():
        command = re.sub(pattern, words, command)
    return command.replace("{run}", run_id)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a shell")
@pytest.mark.parametrize("command", [command for command in typed() if command not in NOT_RUN])
def test_a_command_runs(kit, command):
    folder, run_id = kit
    line = filled_in(small(command), run_id)
    done = run(line, folder, **variables(folder))
    assert done.returncode == 0, f"{typed()[command]}: {line}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


def test_what_is_not_run_is_still_on_a_page():
    assert NOT_RUN.keys() - typed().keys() == set()
