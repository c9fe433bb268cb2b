"""Cross-validation: each patient scored once, by a network that has not learnt from it."""

import dataclasses

import numpy as np
import pytest
import torch

from lib import train
from lib.config import LADDER, REFERENCE
from lib.dataset import load_data
from lib.evaluate import predict_volumes
from lib.predict import load_weights, predict
from lib.report.experiments import experiments, read_attempts
from lib.runtime import Machine, pick_precision
from lib.stats import compare_ladder, compare_to_baseline, readable
from lib.sweep import Plan, cross_validate, crossval
from lib.sweep.crossval import ensemble
from lib.utils import KitError
from tests.conftest import NAMES
from tests.test_train import TINY

ONE = dataclasses.replace(TINY, epochs=1)
PLAN = Plan("folds", "?", {"base": {}, "smaller rate": {"lr": 1e-3}})
ALONE = Plan("folds", "?", {"base": {}})
CPU = Machine(torch.device("cpu"), pick_precision(torch.device("cpu"), "fp32"))


@pytest.fixture
def data(tiny_kaggle):
    return load_data(tiny_kaggle, TINY.image_size)


@pytest.fixture
def folds_of_3(data, tmp_path):
    return cross_validate(ALONE, ONE, data, tmp_path, k=3)["base"]


def test_every_patient_is_scored_once_by_a_network_that_has_not_seen_it(folds_of_3, data):
    assert list(folds_of_3.cases["patient"]) == sorted(NAMES)
    assert [run.info["split"]["name"] for run in folds_of_3.runs] == [
        f"fold-{i}-of-3" for i in (1, 2, 3)
    ]
    for row in folds_of_3.cases.itertuples():
        run = folds_of_3.runs[int(row.fold.split("-")[1]) - 1]
        assert row.patient not in load_weights(run.weights).trained_on
        assert run.cases.set_index("patient").loc[row.patient, "dsc"] == row.dsc
    assert folds_of_3.dsc.mean == pytest.approx(folds_of_3.cases["dsc"].mean())
    assert "3 folds, DSC mean" in str(folds_of_3) and "6 patients" in str(folds_of_3)


def test_finished_folds_are_loaded_and_an_interrupted_one_goes_on(
    folds_of_3, data, tmp_path, monkeypatch
):
    training, begun = train.Training, []
    monkeypatch.setattr(train, "Training", lambda *args: begun.append(1) or training(*args))
    (folds_of_3.runs[1].folder / "run.json").unlink()
    again = cross_validate(ALONE, ONE, data, tmp_path, k=3)["base"]
    assert [run.id for run in again.runs] == [run.id for run in folds_of_3.runs]
    assert begun == [1]


def test_impossible_folds_are_refused_before_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(crossval, "train_tasks", None)
    for k in (1, 7):
        with pytest.raises(KitError, match=f"{k} folds of 6"):
            cross_validate(ALONE, ONE, data, tmp_path, k=k)


def test_a_variant_that_fails_on_a_fold_is_named(data, tmp_path):
    plan = Plan("folds", "?", {"base": {}, "raising": {"model": "tests.own:Raising"}})
    with pytest.raises(KitError, match=r"raising failed on a fold .*a student.s mistake"):
        cross_validate(plan, ONE, data, tmp_path, k=2)


def test_the_report_compares_them_over_all_patients(data, tmp_path):
    crossed = cross_validate(PLAN, ONE, data, tmp_path, k=3)
    [experiment] = experiments(read_attempts(tmp_path)[0])["folds"]
    assert [(recipe.label, len(recipe.runs)) for recipe in experiment.recipes] == [
        ("base", 3),
        ("smaller rate", 3),
    ]
    ours, theirs = (
        compare_to_baseline({name: crossed[name] for name in ("base", "smaller rate")}),
        experiment.verdicts,
    )
    assert theirs["patients"].tolist() == [6]
    assert theirs[ours.columns].equals(ours)


def test_cross_validations_are_compared_over_all_patients(folds_of_3, data, tmp_path):
    other = cross_validate(PLAN, ONE, data, tmp_path, k=3)["smaller rate"]
    row = compare_to_baseline({"base": folds_of_3, "smaller rate": other}).iloc[0]
    assert row["patients"] == 6
    assert row["difference"] == pytest.approx(other.dsc.mean - folds_of_3.dsc.mean, abs=1e-6)


def test_the_ensemble_of_a_cross_validation_is_the_cross_validation(folds_of_3, data):
    together = ensemble(iter(folds_of_3.runs), data, device="cpu")
    np.testing.assert_allclose(together.cases["dsc"], folds_of_3.cases["dsc"], atol=1e-6)
    assert together.seen == ()


def test_only_those_vote_who_have_not_learnt_from_the_patient(folds_of_3, data, tmp_path):
    pairs = cross_validate(ALONE, ONE, data, tmp_path, k=2)["base"].runs + folds_of_3.runs
    networks = [load_weights(run.weights) for run in pairs]
    seen = {}
    for name in NAMES:
        allowed = [network for network in networks if name not in network.trained_on]
        assert len(allowed) == 2, "one of each cross-validation"
        volumes = [
            next(predict_volumes(each.network, each.config, data, (name,), CPU, 16))[1]
            for each in allowed
        ]
        seen[name] = np.mean(volumes, axis=0)
    voters = {
        name: [network for network in networks if name not in network.trained_on] for name in NAMES
    }
    for name, probabilities in crossval._average(voters, data, CPU, 16):
        np.testing.assert_allclose(probabilities, seen[name], atol=1e-6)
    assert list(ensemble(pairs, data, NAMES[:2], device="cpu").cases["patient"]) == list(NAMES[:2])


def test_a_patient_whom_all_were_trained_on_is_named(folds_of_3, data, tmp_path):
    first, second, _ = folds_of_3.runs
    spoilt = sorted(set(first.info["split"]["train"]) & set(second.info["split"]["train"]))
    with pytest.raises(KitError, match=f"all 2 networks were trained on {spoilt[0]}"):
        ensemble([first, second], data, out=tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
    fine = [name for name in data.patients if name not in spoilt]
    assert len(
        ensemble([first, second], data, fine, tmp_path / "masks", device="cpu").cases
    ) == len(fine)
    assert (tmp_path / "masks" / "cases.csv").is_file()


def test_members_that_cannot_vote(folds_of_3, data, tiny_kaggle):
    with pytest.raises(KitError, match="no network"):
        ensemble([], data)
    unknown = dataclasses.replace(load_weights(folds_of_3.runs[0].weights), trained_on=())
    with pytest.raises(KitError, match="does not say"):
        ensemble([unknown, folds_of_3.runs[1]], data)
    with pytest.raises(KitError, match="32 pixels"):
        ensemble(folds_of_3.runs, load_data(tiny_kaggle, 64))
    with pytest.raises(KitError, match="nobody"):
        ensemble(folds_of_3.runs, data, ["nobody"])
    with pytest.raises(KitError, match=f"patients is '{NAMES[0]}'; give a list of names"):
        ensemble(folds_of_3.runs, data, NAMES[0])
    first, *others = (load_weights(run.weights) for run in folds_of_3.runs)
    everything = dataclasses.replace(first.config, component="all")
    with pytest.raises(KitError, match="networks with component all and largest"):
        ensemble([dataclasses.replace(first, config=everything), *others], data)
    unseen = folds_of_3.runs[0].unseen(data)
    assert len(ensemble(folds_of_3.runs[0], data, unseen, device="cpu").cases) == len(unseen)
    with pytest.raises(KitError, match="batch_size is 0; use a whole number, 1 or more"):
        ensemble(folds_of_3.runs, data, batch_size=0)


# --- the ladder of train_best.ipynb ---------------------------------------------------------------


@pytest.mark.slow
def test_every_rung_trains_and_the_last_needs_no_training(data, tmp_path, capsys):
    small = {
        "image_size": 32,
        "init_features": 2,
        "epochs": 1,
        "batch_size": 4,
        "split": "holdout:2",
        "device": "cpu",
    }
    *below, (top, changes) = LADDER.items()
    rungs = {
        label: train.fit(dataclasses.replace(REFERENCE, **(changes | small)), data, tmp_path)
        for label, changes in below
    }
    assert changes.items() - below[-1][1].items() == {("tta", True)}
    last = rungs[below[-1][0]]
    rungs[top] = predict(last.weights, data, patients=last.unseen(data), tta=True, device="cpu")
    table = readable(compare_ladder(rungs))
    assert list(table.index) == list(LADDER)[1:]
    assert table["to the first"].iloc[-1] == pytest.approx(
        rungs[top].cases["dsc"].mean() - rungs["as shipped"].cases["dsc"].mean(), abs=1e-3
    )
