"""Files for Docker, VS Code and conda: what they name is there. None of the three is run here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
import yaml

from lib.sweep import PLANS
from lib.sweep.__main__ import _parser
from lib.utils import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_the_container_installs_as_everybody_does():
    copied = [word for line in instructions("COPY") for word in shlex.split(line)[1:-1]]
    assert all((PROJECT / name).exists() for name in copied) and "install.py" in copied
    assert "python install.py" in instructions("RUN")
    assert instructions("USER") == ["student"], "nobody needs root"
    [command] = map(json.loads, instructions("CMD"))
    assert command[:3] == ["python", "-m", "jupyterlab"] and (PROJECT / command[-1]).is_file()
    [version] = re.findall(r"^FROM python:(3\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert version in ("3.11", "3.12", "3.13", "3.14")


def test_the_image_has_no_data_and_no_results_of_anybody():
    lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {"data/*", "result/*", ".venv", ".git"} <= {*lines}
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert all((PROJECT / name).exists() for name in kept)


def test_vs_code_uses_the_same_container():
    settings = json.loads((PROJECT / ".devcontainer" / "devcontainer.json").read_text())
    folder = PROJECT / ".devcontainer"
    assert (folder / settings["build"]["dockerfile"]).resolve() == PROJECT / "Dockerfile"
    [place] = instructions("WORKDIR")
    assert settings["workspaceFolder"] == place
    interpreter = settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == f"{place}/.venv/bin/python"


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_conda_installs_the_same_versions(name):
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))
    [packages] = [one["pip"] for one in environment["dependencies"] if isinstance(one, dict)]
    assert any(line.endswith(name) for line in packages) and (PROJECT / name).is_file()


def test_what_clusters_are_given_can_be_read():
    """Slurm's script by bash, Ray's job by a parser; the notes say what was run."""
    page = (PROJECT / "docs" / "researchers.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```sh\n(#!/bin/bash.*?)^```", page, re.MULTILINE | re.DOTALL)
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "") and "#SBATCH" in script
    [text] = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    spec = yaml.safe_load(text)["spec"]
    [worker] = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert worker["template"] == spec["rayClusterSpec"]["headGroupSpec"]["template"]
    for command in (script.splitlines()[-1], spec["entrypoint"]):
        python, _, module, plan, *options = shlex.split(command)
        assert (python, module) == ("python", "lib.sweep") and plan in PLANS
        assert {one for one in options if one.startswith("--")} <= sweep_options()


def sweep_options() -> set[str]:
    return {name for action in _parser()._actions for name in action.option_strings}
