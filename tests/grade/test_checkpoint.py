"""Checkpoints of submissions: what is refused, and how often a file is read."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from lib.grade.checkpoint import read_checked, weights_hash
from lib.utils import KitError
from tests.grade.demo import checkpoint, run_of


def content_of(files):
    return torch.load(io.BytesIO(files[f"{run_of(files)}/best.pt"]), weights_only=True)


def shared_storage(weights):
    """Every tensor a view of one number: claims much, holds nothing."""
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: {**c, "config": {**c["config"], "init_features": 512}}, "weights are not those"),
        (
            lambda c: {**c, "config": {**c["config"], "model": "os:system"}},
            "has no config and weights",
        ),
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
                "weights": {**c["weights"], "conv.bias": torch._neg_view(torch.ones(1))},
            },
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
        (lambda c: c["weights"], "has no config and weights"),
    ],
)
def test_checkpoints_that_are_refused(ada, tmp_path, edit, reason):
    (tmp_path / "best.pt").write_bytes(checkpoint(edit(content_of(ada))))
    with pytest.raises(KitError, match=reason) as caught:
        read_checked(tmp_path / "best.pt")
    assert "\n" not in str(caught.value)


def test_a_compressed_checkpoint_is_not_opened(ada, tmp_path):
    with (
        zipfile.ZipFile(io.BytesIO(ada[f"{run_of(ada)}/best.pt"])) as source,
        zipfile.ZipFile(tmp_path / "best.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(KitError, match="compressed"):
        read_checked(tmp_path / "best.pt")


def test_the_same_weights_in_another_file(ada):
    weights = content_of(ada)["weights"]
    again = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert weights_hash(again) == weights_hash(weights)
    again["conv.bias"] += 1e-6
    assert weights_hash(again) != weights_hash(weights)


def test_a_checkpoint_is_read_once(examine, ada, monkeypatch):
    read = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda file, **how: read.append(file) or load(file, **how))
    assert examine(ada)["status"] == "computed"
    assert [file.name for file in read] == ["best.pt"]
