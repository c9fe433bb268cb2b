"""The tables of the instructors' guide, and the simulation behind them."""

import numpy as np
import pytest

from lib.utils import PROJECT
from maintain import fairness, nearness
from maintain.results import with_block


@pytest.mark.parametrize("page", [nearness, fairness])
def test_the_tables_of_the_guide_are_those_of_the_measurements(page):
    guide = (PROJECT / "docs" / "instructors.md").read_text(encoding="utf-8")
    assert with_block(guide, page.made(), page.COMMAND) == guide


def test_a_simulated_class():
    rng = np.random.default_rng(0)
    results, copiers = fairness.draw_class(rng, 20, "copying")
    assert (len(results), copiers) == (20, {18, 19})
    row, spreads = fairness._of_class(results, copiers)
    assert (row["found"], row["false alarms"]) == (2, 0)
    assert row["honest pairs"] == 20 * 19 // 2 - 19 - 18
    assert row["by scale"] == spreads[0.0] >= row["given"] >= spreads[1.0]
