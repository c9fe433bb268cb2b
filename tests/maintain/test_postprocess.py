"""Post-processing is chosen where it is not scored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib.dataset import load_data
from maintain import postprocess
from maintain.reference import cross_validated


def test_post_processing_is_chosen_where_it_is_not_scored():
    """Two folds of two patients: what is best on one is tried on the other."""

    def rows(fold, patient, **dsc):
        return [
            {"fold": fold, "patient": patient, "rule": rule, "threshold": 0.5, "dsc": value}
            for rule, value in dsc.items()
        ]

    table = pd.DataFrame(
        [
            *rows("1", "a", size=0.5, all=0.7, mass=0.1),
            *rows("1", "b", size=0.5, all=0.6, mass=0.1),
            *rows("2", "c", size=0.9, all=0.3, mass=0.2),
            *rows("2", "d", size=0.8, all=0.4, mass=0.2),
        ]
    )
    choice = postprocess.nested_choice(table).set_index("patient")
    assert choice["rule"].to_dict() == {"a": "size", "b": "size", "c": "all", "d": "all"}
    assert choice["dsc"].to_dict() == {"a": 0.5, "b": 0.5, "c": 0.3, "d": 0.4}
    assert choice["published"].to_dict() == {"a": 0.5, "b": 0.5, "c": 0.9, "d": 0.8}


def test_rules_of_post_processing():
    """Two pieces: three voxels that are barely seen, and two that are certain."""
    probabilities = np.zeros((1, 1, 8))
    probabilities[0, 0] = [0.6, 0.6, 0.6, 0, 0.95, 0.95, 0, 0]
    kept = {
        rule: keep(probabilities, 0.5).astype(int).tolist()[0][0]
        for rule, keep in postprocess.RULES.items()
    }
    assert kept == {
        "size": [1, 1, 1, 0, 0, 0, 0, 0],
        "mass": [0, 0, 0, 0, 1, 1, 0, 0],
        "all": [1, 1, 1, 0, 1, 1, 0, 0],
    }
    assert not postprocess.RULES["mass"](probabilities, 0.99).any()


def test_rules_are_scored_by_the_network_of_the_fold(reference):
    _, folds = cross_validated(reference)
    table = postprocess.score_rules(folds, load_data(reference / "kaggle_3m", 32))
    published = table.query("rule == 'size' and threshold == 0.5").set_index(["recipe", "patient"])[
        "dsc"
    ]
    for label, each in (
        ("baseline", folds["baseline"]),
        ("best, flips", folds["best"]),
    ):  # as they were trained
        for row in each.cases.itertuples():
            assert published[label, row.patient] == pytest.approx(row.dsc, abs=1e-7)
    assert set(published.index.get_level_values(0)) == {
        "baseline",
        "best",
        "baseline, flips",
        "best, flips",
        "all together, flips",
    }
    assert published["all together, flips"].size == 6
