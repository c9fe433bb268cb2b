"""Figures: each is drawn, closed, titled, and can be written as a vector."""

import io
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib import plot
from lib.calibrate import BINS, THRESHOLDS, Calibration, _by_bin
from lib.config import Config
from lib.dataset import load_data
from lib.logger import Run
from lib.stats import compare
from lib.utils import KitError
from tests.test_viewer import prediction


def run(seed=0, loss="DiceLoss", epochs=5, patients=8):
    """A run folder without a folder."""
    rng = np.random.default_rng(seed)
    made = Run.__new__(Run)
    history = pd.DataFrame({"epoch": range(1, epochs + 1), "lr": 1e-3, "train loss": rng.random(epochs),
                            "val loss": rng.random(epochs), "val_dsc": rng.random(epochs)})
    tp, fp, fn = rng.integers(1, 900, (3, patients))
    cases = pd.DataFrame({"patient": [f"PHANTOM_{i:04}" for i in range(patients)], "slices": 18,
                          "dsc": 2 * tp / (2 * tp + fp + fn), "dsc_native": 2 * tp / (2 * tp + fp + fn),
                          "tp": tp, "fp": fp, "fn": fn})
    made.__dict__.update(folder=SimpleNamespace(name="run"), history=history, cases=cases, config=Config(loss=loss),
                         info={"config": {}})
    return made


def some_calibration():
    rng = np.random.default_rng(0)
    sums = _by_bin(rng.random(10_000).astype(np.float32), rng.random(10_000) > 0.5)
    return Calibration(sums[0].astype(int), sums[1] / sums[0], sums[2] / sums[0], THRESHOLDS,
                       rng.random((6, len(THRESHOLDS))))


def drawings(folder):
    """Name -> figure of every kind."""
    data = load_data(folder, 32)
    several = {"Dice": [run(0), run(1)], "IoU": run(2, "IOULoss")}
    return {
        "patient_slices": plot.patient_slices(data, next(iter(data.patients))),
        "overlays": plot.overlays(prediction(data, 2)), "curves": plot.curves(run()),
        "compare": plot.compare({"a": run(0), "b": [run(1), run(2)]}), "dsc_bars": plot.dsc_bars(run().cases),
        "sweep_curves": plot.sweep_curves(several), "size_against_dsc": plot.size_against_dsc(run().cases),
        "slopes": plot.slopes(run(0), run(1), ("Dice", "IoU")),
        "forest": plot.forest(compare(run(0), {"a": run(1), "b": run(2)})),
        "dsc_strips": plot.dsc_strips({"Dice": run(0).cases["dsc"], "IoU": run(1).cases["dsc"]}),
        "calibration": plot.calibration(some_calibration()),
    }


def test_every_figure_is_titled_closed_and_a_vector(tiny_kaggle):
    for name, figure in drawings(tiny_kaggle).items():
        assert not plt.get_fignums(), name
        assert any(axis.get_title() for axis in figure.axes), name
        assert all(axis.get_xlabel() or not axis.axison or axis.get_ylabel() for axis in figure.axes), name
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        assert "<svg" in stream.getvalue(), name


def test_one_epoch_and_one_patient_can_be_drawn():
    plot.curves(run(epochs=1))
    plot.dsc_bars(run(patients=1).cases)
    plot.dsc_strips({"only": run(patients=1).cases["dsc"]})
    plot.slopes(run(0, patients=1), run(1, patients=1))
    plot.sweep_curves({"only": run(epochs=1)})
    plot.size_against_dsc(run(patients=1).cases)


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(KitError, match="no runs"):
        plot.sweep_curves({})
    with pytest.raises(KitError, match="different patients"):
        plot.slopes(run(patients=3), run(patients=4))


def test_patients_without_masks_leave_a_sentence():
    cases = pd.DataFrame({"patient": ["a"], "slices": [3]})
    empty = Calibration(np.zeros(10, int), np.full(10, np.nan), np.full(10, np.nan), np.array([0.5]), np.zeros(0))
    for figure in (plot.size_against_dsc(cases), plot.dsc_bars(cases), plot.dsc_bars(cases, "dsc_native"),
                   plot.calibration(empty)):
        assert "no masks" in figure.texts[0].get_text()


def test_bins_count_every_voxel():
    p = np.array([0, 0.05, 0.1, 0.95, 1], np.float32)
    voxels, predicted, tumour = _by_bin(p, np.array([0, 0, 1, 1, 1]))
    assert voxels.tolist() == [2, 1, *[0] * (BINS - 3), 2] and tumour.sum() == 3
    assert predicted[0] == pytest.approx(0.05) and predicted[-1] == pytest.approx(1.95)
