"""Checkpoints of strangers, and masks of a custom network."""

from __future__ import annotations

import io
import json
import shutil
import zipfile

import pytest
import torch

from lib.data import write_masks
from lib.grade.rescore import load_network, weights_hash
from lib.utils import KitError
from tests.grade.demo import checkpoint, edit_json, run_of
from tests.grade.test_checks import found


def content_of(files):
    return torch.load(io.BytesIO(files[f"{run_of(files)}/best.pt"]), weights_only=True)


def shared_storage(weights):
    """Every tensor a view of one number: claims much, holds nothing."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda c: {**c, "config": {**c["config"], "init_features": 10**6}},
            "weights are not those",
        ),
        (lambda c: {**c, "config": {**c["config"], "model": "os:system"}}, "no config and weights"),
        (lambda c: {**c, "config": {**c["config"], "lr": float("nan")}}, "describes no network"),
        (lambda c: {**c, "weights": shared_storage(c["weights"])}, "no plain tensor"),
        (lambda c: {**c, "weights": {**c["weights"], "conv.bias": [1.0]}}, "no plain tensor"),
        (
            lambda c: {**c, "weights": {**c["weights"], "conv.bias": torch.ones(1).to_sparse()}},
            "no plain tensor",
        ),
        (
            lambda c: {
                **c,
                "weights": {name: t for name, t in c["weights"].items() if name != "conv.bias"},
            },
            "not those",
        ),
        (lambda c: {**c, "trained_on": 7}, "which patients"),
        (lambda c: c["weights"], "no config and weights"),
    ],
)
def test_checkpoints_that_are_refused(ada, tmp_path, edit, reason):
    (tmp_path / "best.pt").write_bytes(checkpoint(edit(content_of(ada))))
    with pytest.raises(KitError, match=reason) as caught:
        load_network(tmp_path / "best.pt")
    assert "\n" not in str(caught.value)


def test_a_compressed_checkpoint_is_not_opened(ada, tmp_path):
    with (
        zipfile.ZipFile(io.BytesIO(ada[f"{run_of(ada)}/best.pt"])) as source,
        zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(KitError, match="compressed"):
        load_network(tmp_path / "best.pt")


def test_the_same_weights_in_another_file(ada):
    weights = content_of(ada)["weights"]
    again = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert weights_hash(again) == weights_hash(weights)
    again["conv.bias"] += 1e-6
    assert weights_hash(again) != weights_hash(weights)


def own_network(files, exam, masks) -> dict[str, bytes]:
    """The hand-in as one of a network that the kit does not know, with those masks."""
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
    assert (result["grid"], result["verified"], result["probe"]) == ("file", 1.0, None)
    assert "rescored from masks" in found(result) and "claim not reproduced" in found(result)
    result = examine(own_network(ada, exam, dict(list(truth.items())[:2])))
    assert result["status"] == "not verifiable" and "is missing" in result["findings"][-1].text
    wrong = {name: mask[:, ::2] for name, mask in truth.items()}
    assert "is no mask of 64x64" in examine(own_network(ada, exam, wrong))["findings"][-1].text
