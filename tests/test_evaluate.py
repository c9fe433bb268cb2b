"""From probabilities to masks and scores: which component counts, flips, calibration."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import nn

from lib.config import Config
from lib.dataset import load_data
from lib.evaluate import (
    THRESHOLDS,
    calibrate,
    forward_batches,
    lesions,
    mean_logits,
    predict_volumes,
    score_cases,
    segmentation,
    validate,
)
from lib.loss import DiceLoss
from lib.metrics import dsc
from lib.predict import predict
from lib.runtime.device import prepare
from lib.utils import KitError
from tests.conftest import NAMES
from tests.test_predict import TINY, Bright

RULES = ("largest", "likeliest", "all")


class Pieces(nn.Module):
    """Is hardly sure of a large piece at the left, and sure of what shines on FLAIR."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = (x[:, 1:2] - 1.8) * 20
        logits[..., 8:-8, :5] = 0.1
        return logits


def test_the_rules_by_hand():
    p = np.zeros((1, 3, 7), np.float32)
    p[0, 0, :4] = 0.55  # four voxels, log-odds 0.2 each
    p[0, 2, :2] = 0.9  # two voxels, log-odds 2.2 each
    p[0, 2, 5] = 0.5  # not above the threshold
    kept = {rule: np.argwhere(segmentation(p, rule)).tolist() for rule in RULES}
    assert kept["largest"] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]
    assert kept["likeliest"] == [[0, 2, 0], [0, 2, 1]]
    assert kept["all"] == kept["largest"] + kept["likeliest"]
    assert np.argwhere(segmentation(p, "all", 0.6)).tolist() == kept["likeliest"]
    assert all(not segmentation(np.zeros((2, 3, 3)), rule).any() for rule in RULES)


def test_certainty_and_impossibility_have_finite_odds():
    p = np.zeros((1, 1, 7))
    p[0, 0, 0], p[0, 0, 2:4] = 1, 1  # log-odds would be infinite
    assert segmentation(p, "likeliest").ravel().tolist() == [False, False, True, True] + [False] * 3


@pytest.mark.parametrize("rule", RULES)
def test_validation_cases_and_prediction_keep_the_same_component(rule, tiny_kaggle):
    config = dataclasses.replace(TINY, component=rule)
    data, network = load_data(tiny_kaggle, 32), Pieces()
    machine = prepare([network], "cpu", "fp32")
    loss, mean = validate(network, config, DiceLoss(), data.slices(NAMES), machine, 4)
    rows = score_cases(network, config, data, NAMES, machine)
    assert mean == pytest.approx(np.mean([row["dsc"] for row in rows]), abs=1e-12)
    assert 0 < loss < 1
    trained = dataclasses.replace(Bright.trained(), network=network, config=config)
    cases = predict(trained, data, device="cpu").cases
    assert cases["tp"].tolist() == [row["tp"] for row in rows]
    assert cases["fp"].tolist() == [row["fp"] for row in rows]
    by_hand = {
        name: dsc(segmentation(volume, rule), data.slices((name,)).volume_masks()[0])
        for name, volume in predict_volumes(network, config, data, NAMES, machine)
    }
    assert [row["dsc"] for row in rows] == pytest.approx(list(by_hand.values()), abs=1e-12)


def test_the_likeliest_component_finds_what_a_larger_false_one_hides(tiny_kaggle):
    data, network = load_data(tiny_kaggle, 32), Pieces()
    scores = {}
    for rule in RULES:
        trained = dataclasses.replace(
            Bright.trained(), network=network, config=dataclasses.replace(TINY, component=rule)
        )
        scores[rule] = predict(trained, data, device="cpu").cases["dsc"].mean()
    assert scores["largest"] < 0.05 and scores["likeliest"] > 0.9
    assert scores["largest"] < scores["all"] < scores["likeliest"]


def test_nobody_to_validate_on(tiny_kaggle):
    data, network = load_data(tiny_kaggle, 32), Pieces()
    machine = prepare([network], "cpu", "fp32")
    outcome = validate(network, Config(), DiceLoss(), data.slices(()), machine, 4)
    assert all(math.isnan(value) for value in outcome)


def test_batches_come_in_the_order_of_the_slices(tiny_kaggle):
    data, network = load_data(tiny_kaggle, 32), Pieces()
    slices, machine = data.slices(NAMES[:2]), prepare([network], "cpu", "fp32")
    whole = next(iter(forward_batches(network, slices, machine, len(slices))))
    parts = list(forward_batches(network, slices, machine, 5))
    for one, several in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(several))


def test_averaged_logits_stay_finite():
    extreme = torch.tensor([-90.0, -30.0, 0.0, 30.0, 90.0])
    assert torch.equal(mean_logits(extreme, extreme), extreme)
    mixed = mean_logits(extreme, -extreme)
    torch.testing.assert_close(mixed.sigmoid(), torch.full((5,), 0.5))
    one, other = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * 4
    torch.testing.assert_close(
        mean_logits(one, other).sigmoid(), (one.sigmoid() + other.sigmoid()) / 2
    )


def test_calibration_is_of_patients_that_are_new(tiny_kaggle):
    network, data = Bright.trained(NAMES[:4]), load_data(tiny_kaggle, 32)
    result = calibrate(network, data, NAMES)
    assert result.dsc.shape == (2, len(THRESHOLDS))
    assert result.voxels.sum() == len(data.slices(NAMES[4:])) * 32 * 32
    half = list(THRESHOLDS).index(0.5)
    rows = predict(network, data, patients=NAMES[4:], device="cpu").cases
    assert result.dsc[:, half] == pytest.approx(rows["dsc"].to_numpy(), abs=1e-12)


def test_calibration_refuses_data_that_do_not_fit(tiny_kaggle):
    network, data = Bright.trained(NAMES[:4]), load_data(tiny_kaggle, 32)
    with pytest.raises(KitError, match=r"the network was trained on .* at 32 pixels"):
        calibrate(network, load_data(tiny_kaggle, 64), NAMES)
    for patients, problem in ((["nobody"], "no patient nobody"), ([NAMES[5]] * 2, "twice")):
        with pytest.raises(KitError, match=problem):
            calibrate(network, data, patients)


def test_calibration_keeps_the_component_of_the_config(tiny_kaggle):
    data = load_data(tiny_kaggle, 32)
    one, other = (
        calibrate(
            dataclasses.replace(
                Bright.trained(), network=Pieces(), config=dataclasses.replace(TINY, component=rule)
            ),
            data,
            NAMES,
        ).dsc.mean()
        for rule in ("largest", "likeliest")
    )
    assert other > one


# --- lesions --------------------------------------------------------------------------------------


def test_lesions_by_hand():
    """Two lesions, one half covered and one missed; of two further components one touches none."""
    truth, mask = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
    truth[0:2, 1:3, 1:3] = 1  # 8 voxels through two slices
    truth[2, 6:8, 6] = 1  # 2
    mask[0, 1:3, 1:4] = 1  # 6, of which 4 in the first lesion
    mask[2, 0, 0] = 1
    mask[2, 5, 5] = 1  # shares an edge with the second lesion, no face and no voxel
    assert lesions(mask, truth) == [
        {"kind": "found", "voxels": 8, "covered": 0.5},
        {"kind": "missed", "voxels": 2, "covered": 0.0},
        {"kind": "invented", "voxels": 1, "covered": 0.0},
        {"kind": "invented", "voxels": 1, "covered": 0.0},
    ]
    assert lesions(truth, truth) == [
        {"kind": "found", "voxels": 8, "covered": 1.0},
        {"kind": "found", "voxels": 2, "covered": 1.0},
    ]
    empty = np.zeros_like(truth)
    assert lesions(empty, empty) == []
    assert lesions(mask * 255, truth * 255) == lesions(mask, truth)
    with pytest.raises(KitError, match="must agree"):
        lesions(mask, truth[1:])
    assert [row["kind"] for row in lesions(mask, empty)] == ["invented"] * 3
    assert [row["kind"] for row in lesions(empty, truth)] == ["missed"] * 2


@given(arrays(np.uint8, (2, 5, 5), elements=st.integers(0, 1)), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_as_many_lesions_as_scipy_finds(truth, shift):
    mask = np.roll(truth, shift, axis=2)
    found = pd.DataFrame(lesions(mask, truth), columns=["kind", "voxels", "covered"])
    of_truth = found[found["kind"] != "invented"]
    count = ndimage.label(truth)[1]
    assert len(of_truth) == count and of_truth["voxels"].sum() == truth.sum()
    assert np.isclose((of_truth["voxels"] * of_truth["covered"]).sum(), (mask & truth).sum())
