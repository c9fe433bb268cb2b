"""What was measured on the phantom is read back, and one's own run is scored in the same way."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib import stats
from lib.dataset import load_data
from lib.phantom import write_phantom
from lib.predict import predict
from lib.sweep import Plan, evidence
from lib.sweep.measured import (
    BASE,
    CURVES,
    HITS,
    KEY,
    PREDICTED,
    TRUTH,
    on_test_set,
    recipe_of,
    score,
)
from lib.train import fit
from lib.utils import KitError

PATIENTS = [f"PHANTOM_{number}" for number in range(1001, 1007)]
TUMOUR = np.array([100, 200, 300, 400, 500, 600])
PLAN = Plan("loss", "Which?", {"Dice": {}, "IoU": {"loss": "IOULoss"}})
SMALL = {"image_size": 32, "init_features": 2, "epochs": 2, "batch_size": 8, "ema": 0.9}


@pytest.fixture
def folder(tmp_path):
    """Tables of two recipes, three seeds each: IoU finds a tenth more of every tumour."""
    rng, rows = np.random.default_rng(0), []
    for label, share in (("Dice", 0.7), ("IoU", 0.8)):
        for seed in (42, 43, 44):
            for epoch, luck in (("best", 0.01), ("last", 0.0)):
                found = (TUMOUR * (share + luck + rng.normal(0, 0.01))).astype(int)
                rows.append(((recipe_of(PLAN.configs(BASE)[label]), seed, epoch), found))
    keys = pd.MultiIndex.from_tuples([key for key, _ in rows], names=KEY)
    hits = pd.DataFrame([found for _, found in rows], keys, PATIENTS)
    hits.to_csv(tmp_path / HITS)
    (hits + 50).to_csv(tmp_path / PREDICTED)
    pd.DataFrame({"patient": PATIENTS, "voxels": TUMOUR}).to_csv(tmp_path / TRUTH, index=False)
    return tmp_path


def test_runs_of_a_plan_come_back_with_their_counts(folder):
    found = evidence(PLAN, folder=folder)
    assert list(found) == ["Dice", "IoU"]
    assert [run.config.seed for run in found["IoU"]] == [42, 43, 44]
    assert found["IoU"][0].config == replace(BASE, loss="IOULoss", seed=42)
    cases = found["Dice"][0].cases
    assert (cases["tp"] + cases["fn"]).tolist() == TUMOUR.tolist()
    assert set(cases["fp"]) == {50}
    expected = 2 * cases["tp"] / (2 * cases["tp"] + cases["fp"] + cases["fn"])
    np.testing.assert_allclose(cases["dsc"], expected)
    last = evidence(PLAN, "last", folder)["Dice"][0].cases
    assert (last["tp"] != cases["tp"]).any()


def test_they_are_compared_like_runs(folder):
    table = stats.compare_to_baseline(evidence(PLAN, folder=folder)).set_index("label")
    assert table.loc["IoU", "verdict"] == "helps"
    assert table.loc["IoU", "seeds"] == 3


def test_each_variant_has_its_own_seeds(folder):
    hits, predicted = (pd.read_csv(folder / name, index_col=KEY) for name in (HITS, PREDICTED))
    lost = recipe_of(PLAN.configs(BASE)["IoU"]), 43, "best"
    for name, table in ((HITS, hits), (PREDICTED, predicted)):
        table.drop(index=[lost]).to_csv(folder / name)
    found = evidence(PLAN, folder=folder)
    assert [[run.config.seed for run in runs] for runs in found.values()] == [
        [42, 43, 44],
        [42, 44],
    ]


def test_validation_curves_come_along_where_they_were_kept(folder):
    dice, iou = (recipe_of(config) for config in PLAN.configs(BASE).values())
    rows = [(dice, 43, 0.1, 0.5, 0.4), (iou, 42, 0.2, 0.6, None)]
    pd.DataFrame(rows, columns=[*KEY[:2], "1", "2", "3"]).to_csv(folder / CURVES, index=False)
    found = evidence(PLAN, folder=folder)
    assert [len(run.history) for run in found["Dice"] + found["IoU"]] == [0, 3, 0, 2, 0, 0]
    assert found["Dice"][1].history.to_dict("list") == {
        "epoch": [1, 2, 3],
        "val_dsc": [0.1, 0.5, 0.4],
    }
    assert found["IoU"][0].history["epoch"].tolist() == [1, 2]  # a run that stopped early


def test_what_was_not_measured_is_said(folder, tmp_path):
    other = Plan("loss", "Which?", {"Dice": {}, "focal": {"loss": "FocalLoss"}})
    with pytest.raises(KitError, match="has no runs of plan loss, focal; only the plans of"):
        evidence(other, folder=folder)
    with pytest.raises(KitError, match="'first' is unknown; use best or last"):
        evidence(PLAN, "first", folder)
    with pytest.raises(KitError, match=r"nowhere: cannot be read .*; restore it"):
        evidence(PLAN, folder=tmp_path / "nowhere")


def test_tables_of_other_patients_are_refused(folder):
    table = pd.read_csv(folder / TRUTH)
    table.assign(patient=table["patient"].str.replace("PHANTOM", "P")).to_csv(
        folder / TRUTH, index=False
    )
    with pytest.raises(KitError, match="are of other patients"):
        evidence(PLAN, folder=folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on phantoms, and others that it has not seen."""
    base = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_CACHE", str(base / "cache"))
        patch.setenv("KIT_PROGRESS", "off")
        root = write_phantom(base / "phantom", 4, size=32)
        run = fit(replace(BASE, **SMALL, device="cpu"), load_data(root, 32), base / "out")
        return run, write_phantom(base / "test", 3, size=32, first=1000), root


def test_a_run_of_ones_own_is_scored_by_its_best_and_by_its_last_epoch(trained):
    run, test_set, _ = trained
    data = load_data(test_set, 32)
    best, last = score(run, data), score(run, data, "last")
    theirs = predict(run.weights, data).cases.sort_values("patient", ignore_index=True)
    assert best.cases["patient"].tolist() == theirs["patient"].tolist() == sorted(data.patients)
    np.testing.assert_allclose(best.cases["dsc"], theirs["dsc"])
    for case in last.cases.itertuples():
        truth = data.slices((case.patient,)).volume_masks()[0]
        assert case.tp + case.fn == truth.sum()
        assert case.dsc == pytest.approx(2 * case.tp / (2 * case.tp + case.fp + case.fn))


def test_the_runs_of_a_sweep_are_scored_once_each(trained, monkeypatch):
    run, test_set, _ = trained
    data = load_data(test_set, 32)
    first = on_test_set({"baseline": [run, run], "again": run}, data)
    assert [len(runs) for runs in first.values()] == [2, 1]
    pd.testing.assert_frame_equal(first["again"][0].cases, score(run, data).cases)
    monkeypatch.setattr("lib.sweep.measured.score", None)  # would be called
    assert on_test_set({"baseline": run}, data)["baseline"] == [first["again"][0]]
    assert on_test_set({"baseline": run}, None) == {"baseline": [run]}
    with pytest.raises(KitError, match="expected a run of fit or sweep, got a TestScores"):
        on_test_set(first, data)
    with pytest.raises(KitError, match=r"expected label -> run, .*got a list"):
        on_test_set([run], data)


def test_a_run_is_not_scored_on_what_it_has_seen(trained):
    run, _, root = trained
    with pytest.raises(KitError, match=r"was trained on 2 of these patients, e.g. PHANTOM_000"):
        score(run, load_data(root, 32))
    with pytest.raises(KitError, match="loaded as reference at 48"):
        score(run, load_data(root, 48))
