"""Compare two recipes with several runs, over patients and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lib.stats.contrast import Contrast, contrast, error_of_mean, matched, mean_squares
from lib.stats.scored import FURTHER, Runs, require_runs, scores_of, seed_pairs
from lib.stats.verdicts import ALPHA, DIGITS, NEGLIGIBLE
from lib.utils import KitError, see


class Spread(NamedTuple):
    """Hold how far scores scatter, as standard deviations; ``spread`` estimates them.

    Attributes:
        seeds: of a recipe's runs, in what a seed does to all patients alike.
        patients: of the true differences of two recipes, over patients.
        residual: of what a seed does to a single patient.
        shared: of what a seed does to the runs of two recipes alike, beside ``seeds``. It cancels
            where runs are compared seed by seed.
    """

    seeds: float
    patients: float
    residual: float
    shared: float = 0.0

    def of_run(self, patients: int) -> float:
        """Return the SD of a run's mean over so many patients, beside what equal seeds share."""
        return math.hypot(self.seeds, self.residual / math.sqrt(patients))


UNKNOWN = Spread(math.nan, math.nan, math.nan, math.nan)


class Crossed(NamedTuple):
    """Hold the result of ``crossed_test``.

    Attributes:
        n: patients.
        mean, sd: of the patients' differences, averaged over runs.
        low, high: 95 % confidence interval of the mean.
        p: of a difference of 0.
        p_equivalence: of a difference of ``NEGLIGIBLE`` or more, up or down.
        improved: share of patients with a difference above 0.
        se, df: standard error of the mean, and its degrees of freedom, as in the interval.
        spread: between seeds and between patients.
        differences: of each patient, in the order of the scores.
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
    differences: np.ndarray


def crossed_test(before: np.ndarray, after: np.ndarray, paired: bool = False) -> Crossed:
    """Test whether two recipes differ, over patients and over seeds.

    Patients are crossed with recipes, runs are nested in them. The variance of the mean difference
    adds that between patients to that between runs, and subtracts what both contain: the scatter of
    single patients from run to run. It is no smaller than either. Degrees of freedom are
    Satterthwaite's; p and the interval come from the t distribution. Equivalence is two one-sided
    tests (TOST) against ``NEGLIGIBLE``.

    The variance between runs is that of each recipe's own, and if one recipe has more runs also the
    pooled one of both: p and the interval are of the more cautious of the two, see
    ``estimates_of``. A recipe with one run has no variance between seeds: it is taken to be that of
    the other recipe. If runs are compared seed by seed, the variance between runs is that of their
    differences. Further runs of one of the recipes say how good it is with other seeds: the means
    of the other recipe are regressed on those with the same seeds, and read off at the mean of all.
    A single patient has no SD and no interval (NaN), and a p of 1.

    Sources: Clark 1973, Journal of Verbal Learning and Verbal Behavior 12, 335-359 (quasi-F);
    Satterthwaite 1946, Biometrics Bulletin 2, 110-114; Schuirmann 1987, Journal of Pharmacokinetics
    and Biopharmaceutics 15, 657-680 (TOST); Cochran 1977, Sampling Techniques, 3rd ed., 12.6
    (regression in double sampling).

    Args:
        before, after: scores ``(runs, patients)``, the patients in the same order. One of them has
            two runs or more.
        paired: whether run i of both has the same seed, or is even one training; see ``seed_pairs``
            in ``scored.py``. From ``FURTHER`` such pairs on, one of the recipes may have further
            runs, behind these.

    Raises:
        KitError: another shape, one run each, further runs beside too few pairs, or a score that is
            not a finite number.
    """
    _require_crossed(before, after, paired)
    found, n = contrast(before, after, paired), before.shape[1]
    differences = found.differences
    mean, improved = float(np.round(differences.mean(), DIGITS)), float(np.mean(differences > 0))
    if n == 1:
        nan = math.nan
        spread = UNKNOWN
        return Crossed(1, mean, nan, nan, nan, 1.0, 1.0, improved, nan, nan, spread, differences)
    from scipy.stats import t

    patients = float(differences.var(ddof=1))
    estimates = [error_of_mean(patients, parts, n) for parts in found.estimates]
    variances, dfs = np.array(estimates).T
    errors = np.sqrt(variances)
    margins = t.isf(ALPHA / 2, dfs) * errors
    margin, widest = float(margins.max()), int(margins.argmax())
    return Crossed(
        n,
        mean,
        sd=float(differences.std(ddof=1)),
        low=mean - margin,
        high=mean + margin,
        p=float((2 * t.sf(abs(mean) / errors, dfs)).max()),
        # of the larger of two one-sided tests
        p_equivalence=float(t.sf((NEGLIGIBLE - abs(mean)) / errors, dfs).max()),
        improved=improved,
        se=float(errors[widest]),
        df=float(dfs[widest]),
        spread=_root(_variances(found)),
        differences=differences,
    )


def _require_crossed(before: np.ndarray, after: np.ndarray, paired: bool) -> None:
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
    if paired and len(before) != len(after) and min(len(before), len(after)) < FURTHER:
        raise KitError(
            f"crossed_test: scores of {shapes}; beside fewer than {FURTHER} pairs of runs further "
            f"ones tell nothing, leave them out"
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise KitError("crossed_test: a score is not a finite number; leave that patient out")


def _variances(found: Contrast) -> np.ndarray:
    """Return the squares of a ``Spread``, not yet cut off at 0, as a comparison estimates them.

    They are those of runs that vary equally in both recipes and give the difference the variance
    that it has, by the first estimate.
    """
    patient, own, shared = found.coefficients
    seeds = sum(part.seeds for part in found.estimates[0])
    single = sum(part.residual for part in found.estimates[0])
    residual = single / patient
    of_run = (seeds - shared * found.shared) / own
    patients = float(found.differences.var(ddof=1)) - single
    return np.array([of_run - residual / len(found.differences), patients, residual, found.shared])


def _root(variances: np.ndarray) -> Spread:
    """Return a spread; a variance that comes out below 0 is 0."""
    return Spread(*np.sqrt(variances.clip(min=0)).tolist())


def spread(runs: Mapping[str, Runs], metric: str = "dsc") -> Spread:
    """Estimate how far scores scatter between seeds and between patients.

    Variances are averaged over the comparisons of the first recipe with the others; one that comes
    out below 0 is 0. A single recipe tells neither how patients differ in what a change does to
    them nor what equal seeds share: ``patients`` and ``shared`` are 0 then, which makes a power too
    high, and too low.

    Args:
        runs: label -> runs; one recipe at least has two or more, better five.
        metric: a column of cases.csv, see ``METRICS``.

    Raises:
        KitError: no recipe with two runs, or a single patient; or see ``compare_to_baseline``.
    """
    require_runs(runs)
    recipes = [scores.to_numpy().T for scores in (scores_of(runs, metric) if runs else {}).values()]
    if max(map(len, recipes), default=0) < 2 or recipes[0].shape[1] < 2:
        raise KitError(
            "spread: two patients and two runs of a recipe are needed; train one with two seeds or "
            "more"
        )
    (reference, before), *others = zip(runs.values(), recipes, strict=True)
    if not others:
        means, residual = mean_squares(before)
        return _root(np.array([means - residual / before.shape[1], 0.0, residual, 0.0]))
    found = []
    for other, after in others:
        if len(before) + len(after) > 2:
            matching = seed_pairs(reference, other)
            found.append(contrast(*matched(before, after, matching), bool(matching.pairs)))
    return _root(np.mean([_variances(each) for each in found], axis=0))
