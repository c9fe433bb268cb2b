"""Say what a sweep can find before it runs, and what would settle it afterwards."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.stats.contrast import (
    SMALLEST_VARIANCE,
    Coefficients,
    Part,
    coefficients_of,
    error_of_mean,
    estimates_of,
    weight_of_pairs,
    weights_of,
)
from lib.stats.crossed import Spread
from lib.stats.scored import FURTHER, PAIRS, pairs_from
from lib.stats.verdicts import ALPHA, CANNOT_TELL, NEGLIGIBLE, POWER
from lib.utils import KitError, see

MOST_RUNS = 200  # of a recipe; where so many do not settle a question, patients are the limit
DRAWS = 4000  # sets of variances that stand for all, where power is computed


def power(
    spread: Spread, seeds: int, patients: int, difference: float, candidates: int = 1
) -> float:
    """Return the chance that a comparison says ``helps`` or ``hurts``.

    It is that of ``crossed_test`` at the strictest step of Holm's correction, for scores of normal
    distribution. From ``PAIRS`` seeds on, both recipes have the same ones and are compared seed by
    seed. The wrong one of the two words is next to impossible for differences that matter.

    Args:
        spread: from ``spread``.
        seeds: runs of each of the two recipes, 2 or more.
        patients: 2 or more.
        difference: the true mean difference; 0 gives the chance of a false finding.
        candidates: how many recipes are compared with the baseline.

    Raises:
        KitError: a number out of range.
    """
    _require_plan(spread, seeds, patients, candidates)
    return _planned(spread, seeds, patients, candidates).finds(difference)


def smallest_difference(spread: Spread, seeds: int, patients: int, candidates: int = 1) -> float:
    """Return the smallest true difference that ``power`` finds with a chance of 80 %.

    Args:
        spread, seeds, patients, candidates: see ``power``.

    Returns:
        A difference from 0 to 1; infinity if no difference, however large, is found so often.

    Raises:
        KitError: a number out of range.
    """
    _require_plan(spread, seeds, patients, candidates)
    return _planned(spread, seeds, patients, candidates).smallest()


def _planned(spread: Spread, seeds: int, patients: int, candidates: int) -> Design:
    """Return the comparison of two recipes with the same seeds."""
    return Design(spread, (seeds, seeds), patients, candidates, paired=seeds >= PAIRS)


def seeds_needed(
    spread: Spread, patients: int, difference: float, candidates: int = 1
) -> int | None:
    """Return the smallest number of runs of each recipe that settles a question.

    Settled means a chance of 80 % of a right verdict: ``helps`` or ``hurts``, or for a true
    difference below 0.02 also ``no difference larger than 0.02``.

    Args:
        spread, patients, difference, candidates: see ``power``.

    Returns:
        A number from 2 to 200. None if 200 runs are not enough; then patients are the limit.

    Raises:
        KitError: a number out of range.
    """
    _require_plan(spread, 2, patients, candidates)
    return _runs_needed(spread, patients, difference, candidates, 2)


def detectable(table: pd.DataFrame) -> pd.Series:
    """Return the smallest true difference that each row of a comparison finds with 80 % power.

    It comes from the row's own spread and numbers of runs, at the strictest step of Holm's
    correction.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.

    Returns:
        A mean difference a row; infinity if none, however large, is found so often. NaN for one
        run each, as their spread is not known.
    """
    return pd.Series(
        [_detectable(row, len(table)) for row in table.to_dict("records")], table.index, float
    )


def _detectable(row: Mapping[str, Any], candidates: int) -> float:
    """Return the smallest true difference that a row finds with 80 % power."""
    if math.isnan(row["seed SD"]):
        return math.nan
    spread = spread_of(row)
    runs = row["baseline seeds"], row["seeds"]
    return Design(spread, runs, row["patients"], candidates, row["paired"]).smallest()


def spread_of(row: Mapping[str, Any]) -> Spread:
    """Return the spread that a row of a comparison has measured."""
    return Spread(row["seed SD"], row["patient SD"], row["residual SD"], row["shared SD"])


def more_runs(table: pd.DataFrame) -> pd.Series:
    """Return how many more runs of both recipes would settle each row of a comparison.

    Settled as in ``seeds_needed``, if the true difference is the one in the table. Of two recipes
    with different numbers of runs these are of the one with fewer; the other needs some once it is
    behind.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.

    Returns:
        0 for a row with a verdict, and infinity if 200 runs of each are not enough. It is NaN for
        one run each, as their spread is not known.
    """
    return pd.Series([_more(row, len(table)) for row in table.to_dict("records")], table.index)


def _more(row: Mapping[str, Any], candidates: int) -> float:
    """Return how many more runs a row needs."""
    if row["verdict"] != CANNOT_TELL:
        return 0.0
    if math.isnan(row["seed SD"]):
        return math.nan
    spread = spread_of(row)
    have = row["baseline seeds"], row["seeds"]
    first = max(min(have) + 1, 2)
    patients, difference = row["patients"], row["difference"]
    if row["paired"]:
        paired_from = 2
    elif min(have) >= pairs_from(*have):  # they have other seeds
        paired_from = MOST_RUNS + 1
    else:
        paired_from = max(PAIRS, min(FURTHER, max(have)))
    needed = _runs_needed(spread, patients, difference, candidates, first, have, paired_from)
    return math.inf if needed is None else float(needed - min(have))


def _runs_needed(
    spread: Spread,
    patients: int,
    difference: float,
    candidates: int,
    first: int,
    have: tuple[int, int] = (0, 0),
    paired_from: int = PAIRS,
) -> int | None:
    """Return the first number of runs that settles a question, or None.

    Args:
        first: the smallest number.
        have: runs of each recipe that are there already.
        paired_from: the smallest number that is compared seed by seed.
    """

    def settles(number: int) -> float:
        runs = max(have[0], number), max(have[1], number)
        paired = number >= paired_from
        return Design(spread, runs, patients, candidates, paired).settles(difference)

    # pairs cost degrees of freedom: more runs find more on either side of the limit, not across it
    limit = min(max(first, paired_from), MOST_RUNS + 1)
    for numbers in (range(first, limit), range(limit, MOST_RUNS + 1)):
        place = bisect_left(numbers, POWER, key=settles)
        if place < len(numbers):
            return numbers[place]
    return None


def _require_plan(spread: Spread, seeds: int, patients: int, candidates: int) -> None:
    """Raise KitError unless these numbers describe a sweep."""
    if not all(math.isfinite(sd) and sd >= 0 for sd in spread):
        raise KitError(f"power: {spread} has an SD that is no number from 0; see lib.stats.spread")
    if seeds < 2 or patients < 2 or candidates < 1:
        raise KitError(
            f"power: {seeds} seeds, {patients} patients, {candidates} candidates; at least 2, 2 "
            f"and 1 are needed, as one run each says nothing of other seeds; "
            f"{see('statistics', 'Before a sweep: what can it find?')}"
        )


class Design:
    """Know the verdicts of a planned comparison, over 4,000 draws of its variances.

    A draw scales the true variances by chi-squared variables. ``error_of_mean`` turns it into a
    standard error, as in ``crossed_test``. Given that, the mean difference is normal.

    Args:
        runs: of each recipe.
        paired: runs are compared seed by seed.
    """

    def __init__(
        self,
        spread: Spread,
        runs: tuple[int, int],
        patients: int,
        candidates: int,
        paired: bool = False,
    ) -> None:
        from scipy.stats import t

        rng = np.random.default_rng(0)

        def drawn(variance: float, df: int) -> np.ndarray:
            return variance * rng.chisquare(df, DRAWS) / df

        planned = _pairs_and_others if paired else _groups
        parts, coefficients = planned(spread, runs, patients)
        by_patient = spread.patients**2 + coefficients.patient * spread.residual**2
        estimated = [
            Part(drawn(seeds, freedom), drawn(residual, freedom * (patients - 1)), freedom)
            for seeds, residual, freedom in parts
        ]
        single = drawn(by_patient, patients - 1)
        estimates = [estimated] if paired else estimates_of(estimated, weights_of(runs))
        self.found_from, self.equal_up_to = np.zeros(DRAWS), np.full(DRAWS, np.inf)  # differences
        for estimate in estimates:
            variance, df = error_of_mean(single, estimate, patients)
            error = np.sqrt(variance)
            found_from = t.isf(ALPHA / candidates / 2, df) * error
            equal_up_to = NEGLIGIBLE - t.isf(ALPHA / candidates, df) * error
            self.found_from = np.maximum(self.found_from, found_from)
            self.equal_up_to = np.minimum(self.equal_up_to, equal_up_to)
        by_seeds = coefficients.own * spread.of_run(patients) ** 2
        by_seeds += coefficients.shared * spread.shared**2
        truth = spread.patients**2 / patients + by_seeds
        self.sd = math.sqrt(max(truth, SMALLEST_VARIANCE))  # of the mean difference

    def finds(self, difference: float) -> float:
        """Return the chance of ``helps`` or ``hurts``."""
        return 1 - self._within(self.found_from, difference)

    def settles(self, difference: float) -> float:
        """Return the chance of a right verdict, see ``seeds_needed``."""
        if abs(difference) >= NEGLIGIBLE:
            return self.finds(difference)
        limit = np.minimum(self.found_from, self.equal_up_to).clip(0)
        return self.finds(difference) + self._within(limit, difference)

    def smallest(self) -> float:
        """Return the smallest difference that is found with 80 % power, infinity if there is none.

        Scores are from 0 to 1, and so no difference is larger than 1.
        """
        from scipy.optimize import brentq

        if self.finds(1.0) < POWER:
            return math.inf
        return float(brentq(lambda size: self.finds(size) - POWER, 0.0, 1.0))

    def _within(self, limit: np.ndarray, difference: float) -> float:
        """Return the chance of a mean difference between -limit and limit."""
        from scipy.special import ndtr

        upper, lower = (ndtr((end - difference) / self.sd) for end in (limit, -limit))
        return float(np.mean(upper - lower))


Planned = tuple[list[Part], Coefficients]


def _groups(spread: Spread, runs: tuple[int, int], patients: int) -> Planned:
    """Return the true variances of a difference of two groups of runs."""
    means, residual = spread.of_run(patients) ** 2 + spread.shared**2, spread.residual**2
    several = [count for count in runs if count > 1]
    weights = weights_of(runs)
    parts = [
        Part(weight * means, weight * residual, count - 1)
        for weight, count in zip(weights, several, strict=True)
    ]
    total = sum(weights)
    return parts, Coefficients(total, total, total)


def _pairs_and_others(spread: Spread, runs: tuple[int, int], patients: int) -> Planned:
    """Return the true variances of a difference of pairs of runs, and of any others."""
    of_run, shared, residual = spread.of_run(patients) ** 2, spread.shared**2, spread.residual**2
    pairs, count = sorted(runs)
    others = count - pairs if pairs >= FURTHER else 0
    if not others:
        part = Part(2 / pairs * of_run, 2 / pairs * residual, pairs - 1)
        return [part], Coefficients(2 / pairs, 2 / pairs, 0.0)
    slope = shared / max(of_run + shared, SMALLEST_VARIANCE)
    weight = weight_of_pairs(slope, pairs, others)
    both, rest = 1 + weight**2, (1 - weight) ** 2
    # with the expected error of a slope, where the pairs' mean is not that of all
    share = (1 + others / (count * (pairs - 3))) / pairs
    parts = [
        Part(share * (both * of_run + rest * shared), both / pairs * residual, pairs - 2),
        Part(rest / others * (of_run + shared), rest / others * residual, count - 1),
    ]
    return parts, coefficients_of(weight, pairs, others, share)
