"""The reference: its parts, the command that trains them, and what is found of them again."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lib.config import BEST, REFERENCE
from lib.dataset import load_data
from lib.logger import BEST_CSV, TRAIN_CSV
from lib.predict import KIT_WEIGHTS, PRETRAINED, default_weights, load_weights, unseen, weights
from lib.sweep.__main__ import main as sweep_command
from lib.sweep.run import train_tasks
from lib.train import fit
from lib.utils import KitError
from maintain.reference import (
    CROSS_VALIDATION,
    LADDER_FOLDS,
    PARTS,
    SCALES,
    WEIGHTS,
    Part,
    base_of,
    cross_validated,
    measured,
    part_tasks,
)
from maintain.reference import main as reference_command
from tests.maintain.conftest import SMALL
from tests.runtime.test_cli import command
from tests.test_train import TINY

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("scale", SCALES)
def test_parts_are_the_published_recipe_and_the_best_at_that_scale(scale):
    for name, part in PARTS.items():
        base, size = (
            base_of(part, scale),
            SCALES[scale].changes | (SCALES[scale].weights if name == WEIGHTS else {}),
        )
        assert base == dataclasses.replace(REFERENCE, **{**size, **part.changes})
    assert list(PARTS[WEIGHTS].plan.configs(base_of(PARTS[WEIGHTS], scale))) == ["baseline", "best"]
    configs = PARTS[CROSS_VALIDATION].plan.configs(base_of(PARTS[CROSS_VALIDATION], scale))
    size = {name: value for name, value in SCALES[scale].changes.items() if name != "lr"}
    assert configs["best"] == dataclasses.replace(BEST, **size)
    assert base_of(PARTS[WEIGHTS], scale).split == "all"


def test_every_row_says_its_scale(reference):
    table = pd.read_csv(reference / BEST_CSV)
    assert set(table["measured at"]) == {"cpu"}
    assert set(pd.read_csv(reference / TRAIN_CSV)["measured at"]) == {"cpu"}
    assert table["split"].nunique() == PARTS[CROSS_VALIDATION].folds


def test_the_command_finds_what_is_trained(reference, monkeypatch, capfd):
    """Only the parts asked for, and nothing twice."""
    before = {file: file.stat().st_mtime_ns for file in reference.glob("runs/*/best.pt")}
    status, out, err = command(
        reference_command,
        monkeypatch,
        capfd,
        "--only",
        CROSS_VALIDATION,
        "--data",
        str(reference / "kaggle_3m"),
        "--out",
        str(reference),
    )
    assert status == 0, err
    assert CROSS_VALIDATION in out and WEIGHTS not in out
    assert {file: file.stat().st_mtime_ns for file in reference.glob("runs/*/best.pt")} == before


def test_a_run_counts_for_every_part_that_asks_for_it(copied, monkeypatch):
    """The ladder's lowest step is the baseline, cross-validated for another part already."""
    steps = dataclasses.replace(PARTS[LADDER_FOLDS].plan, variants={"as shipped": {}})
    monkeypatch.setitem(PARTS, LADDER_FOLDS, Part(steps, folds=5))
    found = measured(LADDER_FOLDS, "cpu", copied)
    baseline = measured(CROSS_VALIDATION, "cpu", copied)["baseline"]
    assert [run.id for run in found["as shipped"]] == [run.id for run in baseline]
    assert len(baseline) == 5 and not measured(LADDER_FOLDS, "gpu", copied)


def test_weights_of_two_scales_are_one_run(copied, reference, monkeypatch):
    """The longer scale changes the cross-validation only: both count the same weights."""
    monkeypatch.setitem(SCALES, "cpu-long", SMALL._replace(changes=SMALL.changes | {"epochs": 4}))
    data = load_data(reference / "kaggle_3m", 32)
    train_tasks(part_tasks(PARTS[WEIGHTS], data, copied, "cpu-long"), data, copied)
    both = [measured(WEIGHTS, scale, copied) for scale in ("cpu", "cpu-long")]
    assert [run.id for [run] in both[0].values()] == [run.id for [run] in both[1].values()] != []


def test_runs_with_other_settings_do_not_count(reference, tmp_path):
    data = load_data(reference / "kaggle_3m", 32)
    train_tasks(part_tasks(PARTS[WEIGHTS], data, tmp_path, "cpu", {"epochs": 1}), data, tmp_path)
    assert measured(WEIGHTS, "cpu", tmp_path) == {}


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(reference_command, ["--seeds", "1"]), (sweep_command, ["loss", "--at", "gpu"])],
)
def test_options_that_do_not_apply_are_named(main, arguments, monkeypatch, capfd):
    status, _, err = command(main, monkeypatch, capfd, *arguments, "--data", "nowhere")
    assert status == 2 and f"unrecognized arguments: {' '.join(arguments[-2:])}" in err


def test_an_unknown_part_is_named(tiny_kaggle, monkeypatch, capfd):
    status, _, err = command(
        reference_command, monkeypatch, capfd, "--only", "all", "--data", str(tiny_kaggle)
    )
    assert (
        status == 2
        and "part 'all' of the reference is unknown; use some of pretrained, baseline" in err
    )


def test_runs_of_a_recipe_that_has_changed_since_do_not_count(copied, monkeypatch):
    assert measured(WEIGHTS, "cpu", copied)
    monkeypatch.setitem(SCALES, "cpu", SMALL._replace(weights={"epochs": 4}))
    assert measured(WEIGHTS, "cpu", copied) == {}
    assert measured(CROSS_VALIDATION, "cpu", copied)


def test_own_weights_come_before_those_of_the_kit(tiny_kaggle, tmp_path, monkeypatch):
    data = load_data(tiny_kaggle, TINY.image_size)
    assert default_weights(tmp_path, data) == default_weights(tmp_path) == KIT_WEIGHTS
    run = fit(TINY, data, tmp_path)
    assert default_weights(tmp_path, data) == default_weights(tmp_path) == run.weights
    shutil.copytree(run.folder, tmp_path / "phantoms" / "runs" / "one")
    info = run.info | {"data": run.info["data"] | {"name": "phantom-7", "phantom": True}}
    (tmp_path / "phantoms" / "runs" / "one" / "run.json").write_text(json.dumps(info))
    assert default_weights(tmp_path / "phantoms") == KIT_WEIGHTS, (
        "patients are not segmented by what saw phantoms"
    )
    monkeypatch.setattr(weights, "KIT_WEIGHTS", tmp_path / "best.pt")
    with pytest.raises(
        KitError, match=r"no finished run on patients; train one first, .*--weights"
    ):
        default_weights(tmp_path / "phantoms")
    assert unseen(load_weights(run.weights), data) == run.unseen(data)


# --- what is committed ----------------------------------------------------------------------------


def test_the_default_is_the_recipe_that_did_better():
    _, folds = cross_validated()
    assert PRETRAINED / f"{max(folds, key=lambda label: folds[label].dsc.mean)}.pt" == KIT_WEIGHTS
