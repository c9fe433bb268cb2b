"""What the tests of the maintainers' tools share: a tiny reference, trained once."""

from __future__ import annotations

import shutil

import pytest

from lib.dataset import load_data
from lib.logger import Run
from lib.sweep.run import train_tasks
from lib.utils import build_folder
from maintain.reference import BASELINE, CROSS_VALIDATION, PARTS, SCALES, WEIGHTS, Scale, part_tasks
from tests.conftest import NAMES, brain, for_all_processes, write_patient

SMALL = Scale(
    {"image_size": 32, "init_features": 2, "epochs": 2, "batch_size": 4, "device": "cpu"},
    {"epochs": 3},
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny reference: weights, cross-validation and the baseline's seeds.

    It is built once for all processes; do not change what is in it.
    """

    def build(folder):
        for seed, name in enumerate(NAMES):
            write_patient(folder / "kaggle_3m", name, *brain(seed))
        data = load_data(folder / "kaggle_3m", 32)
        for name in (WEIGHTS, BASELINE, CROSS_VALIDATION):
            train_tasks(part_tasks(PARTS[name], data, folder, "cpu"), data, folder)

    target = for_all_processes(tmp_path_factory) / "reference"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(target.with_name("reference-cache")))
        patch.setenv("KIT_PROGRESS", "off")
        patch.setitem(SCALES, "cpu", SMALL)
        build_folder(target, target.is_dir, build)
    return target


@pytest.fixture
def reference(trained, monkeypatch):
    monkeypatch.setenv("KIT_CACHE", str(trained.with_name("reference-cache")))
    monkeypatch.setitem(SCALES, "cpu", SMALL)
    return trained


@pytest.fixture
def copied(reference, tmp_path):
    """The tables of the reference, to be damaged."""
    shutil.copytree(
        reference / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("*.pt", ".lock")
    )
    return tmp_path


def part_runs(folder, plan, label):
    """Its runs, whatever else is there."""
    return [
        run
        for run in map(Run, (folder / "runs").iterdir())
        if any((place["plan"], place["label"]) == (plan, label) for place in run.info["places"])
    ]
