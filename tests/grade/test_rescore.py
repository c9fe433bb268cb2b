"""Masks of a custom network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lib.data import write_masks
from lib.dataset import load_data
from lib.grade import pack
from lib.metrics import dsc, largest_component
from lib.train import fit
from tests.grade.demo import RECIPE, edit_json, read_zip, run_of
from tests.grade.test_checks import found


def own_network(files, exam, masks) -> dict[str, bytes]:
    """The submission as one of a network that the kit does not know, with those masks."""
    run = run_of(files)
    config = {**json.loads(files[f"{run}/run.json"])["config"], "model": "nowhere:Net"}
    folder = exam.folder.parent / "masks"
    shutil.rmtree(folder, ignore_errors=True)
    for name, mask in masks.items():
        write_masks(folder, exam.data.patients[name], mask)
    return {
        **files,
        f"{run}/run.json": edit_json(files[f"{run}/run.json"], config=config),
        **{
            f"masks/{file.relative_to(folder).as_posix()}": file.read_bytes()
            for file in folder.rglob("*.tif")
        },
    }


def test_masks_are_scored_where_the_network_is_not_known(examine, exam, ada):
    truth = {name: exam.data.truth(name) for name in exam.split.validation}
    result = examine(own_network(ada, exam, truth))
    # of a tumour in two pieces only the larger can be found
    best = np.mean([dsc(largest_component(mask), mask) for mask in truth.values()])
    assert (result["grid"], result["probe"]) == ("file", None)
    assert result["verified"] == pytest.approx(best) and best > 0.99
    assert "rescored from masks" in found(result)
    # what nobody can compute again earns nothing until the instructor has looked
    assert {f.level for f in result["findings"] if f.name == "rescored from masks"} == {"fault"}
    result = examine(own_network(ada, exam, dict(list(truth.items())[:2])))
    assert result["status"] == "not verifiable" and "is missing" in result["findings"][-1].text
    wrong = {name: mask[:, ::2] for name, mask in truth.items()}
    assert "is no mask of 64x64" in examine(own_network(ada, exam, wrong))["findings"][-1].text


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"lr_scheduler": "tests.own:halved"}, "verified"),
        ({"component": "tests.own:half"}, "held"),
        ({"preprocessing": "tests.own:doubled"}, "held"),
        ({"metric": "tests.own:voxels"}, "verified"),
    ],
)
def test_custom_code_is_never_imported_by_the_grader(
    hand_ins, tmp_path, examine, monkeypatch, changes, status
):
    """Losses, schedules and the like are not needed for scoring; what is needed is held."""
    config = replace(RECIPE, epochs=1, **changes)
    data = load_data(hand_ins / "data", config.image_size, config.preprocessing)
    run = fit(config, data, tmp_path / "out", plan="best", table="best")
    receipt = pack("ada", tmp_path / "out", quick=True, data=hand_ins / "data")
    files = read_zip(receipt.file)
    assert any(name.startswith("masks/") for name in files) == (status == "held")
    assert "tests/own.py" not in files or b"def half" in files["tests/own.py"]

    imported = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    result = examine(files)
    assert result["run"] == run.id and result["status"] == "computed", result["findings"]
    assert found(result) == (["rescored from masks"] if status == "held" else [])
    assert result["verified"] is not None and imported == []
