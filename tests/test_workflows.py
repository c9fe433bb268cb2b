"""The workflows of a public host name steps that are here, and nothing that floats."""

from __future__ import annotations

import re

import pytest
import yaml

from lib.utils import PROJECT

FOLDER = PROJECT / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
ACTION = re.compile(r"[\w-]+/[\w-]+@v\d+")


@pytest.fixture(params=WORKFLOWS, ids=lambda file: file.stem)
def workflow(request) -> dict:
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_it_may_only_read_and_ends_by_itself(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML takes "on" for a truth value
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90 and job["steps"]


def test_each_step_is_an_action_of_a_version_or_a_command(workflow):
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert ACTION.fullmatch(step["uses"]), step["uses"]


def test_the_commands_are_here(workflow):
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w./-]+):(?!=)", makefile, re.MULTILINE))
    for step in steps(workflow):
        command = step.get("run", "")
        for target in re.findall(r"\bmake ([\w./-]+)", command):
            assert target in targets, target
        for script in re.findall(r"(?:^|python )([\w./-]+\.py|\.ci/\w+)", command):
            assert (PROJECT / script).is_file(), script
        for module in re.findall(r"-m (tests\.\w+|lib\.\w+|maintain\.\w+)", command):
            place = PROJECT / module.replace(".", "/")
            assert place.with_suffix(".py").is_file() or place.is_dir(), module
        for notebook in re.findall(r"\w+\.ipynb", command):
            assert (PROJECT / notebook).is_file(), notebook


def test_names_in_expressions_are_known(workflow):
    """``matrix.x`` is in the job's matrix; other contexts are the host's."""
    for name, job in workflow["jobs"].items():
        known = set(job.get("strategy", {}).get("matrix", {}))
        used = re.findall(r"\$\{\{\s*([\w.]+)\s*\}\}", str(job))
        for context, _, field in (one.partition(".") for one in used):
            assert context in ("matrix", "github"), f"{name}: {context}"
            assert context != "matrix" or field in known, f"{name}: {field}"


def test_oldest_and_newest_of_what_is_promised_are_tried():
    content = yaml.safe_load((FOLDER / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    matrix = content["jobs"]["systems"]["strategy"]["matrix"]
    promised = (PROJECT / "install.py").read_text(encoding="utf-8")
    found = re.search(r"OLDEST, NEWEST = \((\d+), (\d+)\), \((\d+), (\d+)\)", promised)
    assert matrix["python"] == [f"{found[1]}.{found[2]}", f"{found[3]}.{found[4]}"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    oldest = re.search(r"^torch>=([\d.]+)", (PROJECT / "requirements.txt").read_text(), re.M)[1]
    torches = content["jobs"]["torch"]["strategy"]["matrix"]["torch"]
    assert torches == [f"=={oldest}.0", f">={oldest}"]


def test_dependabot_looks_at_packages_and_actions():
    content = yaml.safe_load((FOLDER / "dependabot.yml").read_text(encoding="utf-8"))
    assert {one["package-ecosystem"] for one in content["updates"]} == {"pip", "github-actions"}
