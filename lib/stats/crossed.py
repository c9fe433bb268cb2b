"""Compare two recipes with several runs, over patients and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from lib.stats.scored import Runs, scores_of, seed_pairs
from lib.stats.verdicts import ALPHA, DIGITS, NEGLIGIBLE
from lib.utils import KitError, see

SMALLEST_VARIANCE = 1e-24  # of a mean difference; anything smaller is rounding


class Spread(NamedTuple):
    """Hold how far scores scatter, as standard deviations; ``spread`` estimates them.

    Attributes:
        seeds: of a recipe's runs, in what a seed does to all patients alike.
        patients: of the true differences of two recipes, over patients.
        residual: of what a seed does to a single patient.
    """

    seeds: float
    patients: float
    residual: float

    def of_run(self, patients: int) -> float:
        """Return the SD between seeds of a run's mean over so many patients."""
        return math.hypot(self.seeds, self.residual / math.sqrt(patients))


UNKNOWN = Spread(math.nan, math.nan, math.nan)


class Crossed(NamedTuple):
    """Hold the result of ``crossed_test``.

    Attributes:
        n: patients.
        mean, sd: of the patients' differences, averaged over runs.
        low, high: 95 % confidence interval of the mean.
        p: of a difference of 0.
        p_equivalence: of a difference of ``NEGLIGIBLE`` or more, up or down.
        improved: share of patients with a difference above 0.
        se, df: standard error of the mean, and its degrees of freedom.
        spread: between seeds and between patients.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float
    p_equivalence: float
    improved: float
    se: float
    df: float
    spread: Spread


def crossed_test(before: np.ndarray, after: np.ndarray, paired: bool = False) -> Crossed:
    """Test whether two recipes differ, over patients and over seeds.

    Patients are crossed with recipes, runs are nested in them. The variance of the mean difference
    adds that between patients to that between runs, and subtracts what both contain: the scatter of
    single patients from run to run. It is no smaller than either. Degrees of freedom are
    Satterthwaite's; p and the interval come from the t distribution. Equivalence is two one-sided
    tests (TOST) against ``NEGLIGIBLE``.

    A recipe with one run has no variance between seeds: it is taken to be that of the other
    recipe. If runs are compared seed by seed, the variance between runs is that of their
    differences. A single patient has no SD and no interval (NaN), and a p of 1.

    Sources: Clark 1973, Journal of Verbal Learning and Verbal Behavior 12, 335-359 (quasi-F);
    Satterthwaite 1946, Biometrics Bulletin 2, 110-114; Schuirmann 1987, Journal of Pharmacokinetics
    and Biopharmaceutics 15, 657-680 (TOST).

    Args:
        before, after: scores ``(runs, patients)``, the patients in the same order. One of them has
            two runs or more.
        paired: whether run i of both has the same seed, or is even one training; see ``seed_pairs``
            in ``scored.py``.

    Raises:
        KitError: another shape, one run each, or a score that is not a finite number.
    """
    _require_crossed(before, after)
    n = before.shape[1]
    differences = np.round(after.mean(axis=0) - before.mean(axis=0), DIGITS)
    mean, improved = float(np.round(differences.mean(), DIGITS)), float(np.mean(differences > 0))
    if n == 1:
        nan = math.nan
        return Crossed(1, mean, nan, nan, nan, 1.0, 1.0, improved, nan, nan, UNKNOWN)
    from scipy.stats import t

    varying = [after - before] if paired else [before, after]
    squares = [_mean_squares(scores) for scores in varying if len(scores) > 1]
    weights = weights_of([len(scores) for scores in varying])
    variance, df = error_of_mean(float(differences.var(ddof=1)), squares, n, weights)
    se = math.sqrt(variance)
    margin = float(t.isf(ALPHA / 2, df)) * se
    return Crossed(
        n,
        mean,
        sd=float(differences.std(ddof=1)),
        low=mean - margin,
        high=mean + margin,
        p=float(2 * t.sf(abs(mean) / se, df)),
        p_equivalence=float(t.sf((NEGLIGIBLE - abs(mean)) / se, df)),  # the larger of two
        improved=improved,
        se=se,
        df=float(df),
        # independent runs with half of the differences' variance would differ as much
        spread=_spread([before, after], [each.half() for each in squares] if paired else squares),
    )


def _require_crossed(before: np.ndarray, after: np.ndarray) -> None:
    """Raise KitError unless ``crossed_test`` can compare these scores."""
    shapes = f"{np.shape(before)} and {np.shape(after)}"
    if not (np.ndim(before) == np.ndim(after) == 2 and before.shape[1] == after.shape[1] > 0):
        raise KitError(
            f"crossed_test: scores of {shapes}; give (runs, patients), the same patients in both"
        )
    if len(before) + len(after) < 3 or not len(before) or not len(after):
        raise KitError(
            f"crossed_test: scores of {shapes}; one run each says nothing of other seeds, use "
            f"paired_test; {see('statistics', 'One run each')}"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise KitError("crossed_test: a score is not a finite number; leave that patient out")


class MeanSquares(NamedTuple):
    """Hold the variance of the means of a recipe's runs, and of what is left (or draws of them)."""

    means: Any
    residual: Any

    def half(self) -> MeanSquares:
        """Return half of both."""
        return MeanSquares(self.means / 2, self.residual / 2)


def _mean_squares(scores: np.ndarray) -> MeanSquares:
    """Return the mean squares of scores ``(runs, patients)``, two or more of both."""
    means = scores.mean(axis=1, keepdims=True)
    residual = scores - means - scores.mean(axis=0) + scores.mean()
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    return MeanSquares(float(means.var(ddof=1)), float((residual**2).sum() / freedom))


def weights_of(runs: Sequence[int]) -> list[tuple[float, int]]:
    """Return (weight of its variance, degrees of freedom) of each recipe with several runs.

    A recipe with one run adds its weight to that of the other.

    Args:
        runs: of each recipe, or of their differences alone.
    """
    if min(runs) > 1:
        return [(1 / count, count - 1) for count in runs]
    return [(1 + 1 / max(runs), max(runs) - 1)]


def error_of_mean(
    patients: Any, squares: Sequence[MeanSquares], n: int, weights: Sequence[tuple[float, int]]
) -> tuple[Any, Any]:
    """Return the variance of a mean difference, and its degrees of freedom.

    Args:
        patients: variance of the differences of ``n`` patients, or draws of it.
        squares: of each recipe with several runs.
        weights: of the same recipes, from ``weights_of``.
    """
    by_patients, by_seeds, in_both = patients / n, 0.0, 0.0
    uncertainty = by_patients**2 / (n - 1)
    for (weight, freedom), (means, residual) in zip(weights, squares, strict=True):
        seeds, shared = weight * means, weight * residual / n
        by_seeds, in_both = by_seeds + seeds, in_both + shared
        uncertainty = uncertainty + (seeds**2 + shared**2 / (n - 1)) / freedom
    larger = np.maximum(by_patients, by_seeds)
    variance = np.maximum(np.maximum(by_patients + by_seeds - in_both, larger), SMALLEST_VARIANCE)
    return variance, variance**2 / np.maximum(uncertainty, SMALLEST_VARIANCE**2)


def _spread(recipes: Sequence[np.ndarray], squares: Sequence[MeanSquares]) -> Spread:
    """Return the spread of scores ``(runs, patients)`` of each recipe, and of their runs."""
    residual = float(np.mean([each.residual for each in squares]))
    means = float(np.mean([each.means for each in squares]))
    patients = [
        (a.mean(axis=0) - b.mean(axis=0)).var(ddof=1) - residual * (1 / len(a) + 1 / len(b))
        for a, b in combinations(recipes, 2)
    ]
    variances = (
        means - residual / recipes[0].shape[1],
        float(np.mean(patients)) if patients else 0.0,
        residual,
    )
    return Spread(*(math.sqrt(max(variance, 0.0)) for variance in variances))


def spread(runs: Mapping[str, Runs], metric: str = "dsc") -> Spread:
    """Estimate how far scores scatter between seeds and between patients.

    Variances are averaged over the recipes; one that comes out below 0 is 0. ``patients`` is that
    of all pairs of recipes. Where each recipe is compared with the first seed by seed, ``seeds``
    and ``residual`` leave out what equal seeds share. A single recipe tells neither: ``patients``
    is 0 then, which makes a power too high, and what equal seeds share makes it too low.

    Args:
        runs: label -> runs; one recipe at least has two or more, better five.
        metric: a column of cases.csv, see ``METRICS``.

    Raises:
        KitError: no recipe with two runs, or a single patient; or see ``compare_to_baseline``.
    """
    recipes = [scores.to_numpy().T for scores in (scores_of(runs, metric) if runs else {}).values()]
    if max(map(len, recipes), default=0) < 2 or recipes[0].shape[1] < 2:
        raise KitError(
            "spread: two patients and two runs of a recipe are needed; train one with two seeds or "
            "more"
        )
    (reference, before), *others = zip(runs.values(), recipes, strict=True)
    pairs = [seed_pairs(reference, each) for each, _ in others]
    if others and all(len(each) > 1 for each in pairs):
        squares = [
            _mean_squares(after[[j for _, j in each]] - before[[i for i, _ in each]]).half()
            for each, (_, after) in zip(pairs, others, strict=True)
        ]
    else:
        squares = [_mean_squares(scores) for scores in recipes if len(scores) > 1]
    return _spread(recipes, squares)
