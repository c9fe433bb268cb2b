"""docs/extending.md: its blocks are one module, and each of its commands runs, at smoke size."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from lib.config import Config
from lib.dataset import load_data
from lib.logger import all_runs
from lib.phantom import write_phantom
from lib.predict import load_weights, predict
from lib.utils import PROJECT, KitError
from tests.pages import blocks, run, small

PAGE = (PROJECT / "docs" / "extending.md").read_text(encoding="utf-8")
COMMANDS = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
TINY = Config(image_size=32, init_features=2, epochs=2, batch_size=8, lr=1e-3)
WANDB = importlib.util.find_spec("wandb")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder outside the kit with the module of the page, and a phantom."""
    folder = tmp_path_factory.mktemp("of a researcher")
    code = [block for block in blocks(PAGE, "python") if WANDB or "import wandb" not in block]
    (folder / "my_module.py").write_text("\n\n".join(code), encoding="utf-8")
    write_phantom(folder / "data" / "phantom", patients=6, size=40)
    return folder


@pytest.fixture(scope="module")
def own(folder):
    """The module, imported; the folder is the working one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("KIT_CACHE", str(folder / "cache"))
        yield __import__("my_module")


@pytest.fixture(scope="module")
def data(own, folder):
    return load_data(folder / "data" / "phantom", TINY.image_size)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs_outside_the_kits_folder(folder, command):
    done = run(small(command), folder)
    assert done.returncode == 0, done.stderr
    words = command.split()
    if "lib.train" in words:
        own = {word for word in words if word.startswith("my_module:")}
        runs = [one for one in all_runs(folder / "result") if own & {*one.config.custom.values()}]
        assert runs or "--out" in words


def test_custom_weights_are_used_once_they_are_trusted(own, data, tmp_path):
    custom = {"model": "Plain", "component": "filled", "metric": "volume_error"}
    config = replace(TINY, **{field: f"my_module:{name}" for field, name in custom.items()})
    run = own.fit(config, data, tmp_path)
    cases = run.cases.set_index("patient")
    assert {"dsc", "volume_error"} < {*cases}
    with pytest.raises(KitError, match=r"--trust my_module:Plain\)"):
        load_weights(run.weights, "my_module:filled")
    found = predict(run, data, patients=run.unseen(data)).cases.set_index("patient")
    pd.testing.assert_series_equal(found["volume_error"], cases["volume_error"])


def test_a_search_ends_poor_trials(own, data, tmp_path):
    study = own.search(TINY, data, str(tmp_path), 3)
    assert len(study.trials) == 3 and 0 <= study.best_value <= 1


@pytest.mark.skipif(not WANDB, reason="brings twenty packages: run where it is installed")
def test_a_log_has_each_epoch(own, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = own.fit(TINY, data, tmp_path, watch=own.log_to_wandb)
    summary = dict(own.wandb.run.summary)
    own.wandb.finish()
    assert summary["val_dsc"] == pytest.approx(run.history["val_dsc"].iloc[-1], abs=1e-6)


def test_a_data_set_from_nifti(own, tmp_path):
    rng = np.random.default_rng(0)
    scans, masks = {}, {}
    for name in ("ANN", "BOB", "CYD"):
        volume = rng.random((40, 44, 6)) * 900 + 100
        mask = np.zeros(volume.shape, np.int16)
        mask[10:20, 12:25, 2:4] = 3
        for kind, content in (("scan", volume), ("mask", mask)):
            nibabel.save(
                nibabel.Nifti1Image(content, np.eye(4)), tmp_path / f"{name}-{kind}.nii.gz"
            )
        scans[name] = [str(tmp_path / f"{name}-scan.nii.gz")] * 3
        masks[name] = str(tmp_path / f"{name}-mask.nii.gz")
    own.from_nifti(scans, masks, str(tmp_path / "set"))
    found = load_data(tmp_path / "set", 32, "native")
    assert [*found.patients] == ["ANN", "BOB", "CYD"]
    assert found.truth("ANN").sum() == 10 * 13 * 2 and found.truth("ANN").shape == (6, 40, 44)
