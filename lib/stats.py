"""Judge a change: did it help? Each patient is compared with itself, before and after.

The patients are the sample. Runs with several seeds are averaged per patient and never tested
against one another. So a p value is about the weights that were trained: it does not know how far a
mean moves from seed to seed. ``docs/statistics.md`` explains what is tested, what p means, and how
often it errs.

Start with ``compare_to_baseline``, then ``paired_test``. ``resolution`` says what a table could
have shown, and ``readable`` prepares it for a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from lib.config import Config
from lib.metrics import COLUMNS, summarise
from lib.utils import KitError

ALPHA, POWER = 0.05, 0.8
DIGITS = 10  # decimals kept of a difference: equal ones, and sums that cancel, are then exactly so
RESAMPLES = 2**14  # sign patterns of 14 patients: up to there the permutation test is exact
METRICS = {name: column.label for name, column in COLUMNS.items() if column.higher_is_better}
"""Columns of cases.csv in which more is better, and what a table calls them."""


class Scored(Protocol):
    """Describe what can be compared: a ``Run``, a ``Prediction`` or a ``CrossValidation``."""

    @property
    def cases(self) -> pd.DataFrame:
        """Return a row per patient."""

    @property
    def config(self) -> Config:
        """Return the recipe; image size and preprocessing set the grid of ``dsc``."""


Runs = Scored | Sequence[Scored]
"""A recipe's run, or its runs with several seeds."""


# --- one comparison -------------------------------------------------------------------------------


class Paired(NamedTuple):
    """Hold the result of ``paired_test``.

    Attributes:
        n: patients.
        mean, sd: of the differences.
        low, high: 95 % confidence interval of the mean.
        p: of the sign-flip test.
        p_wilcoxon: of the Wilcoxon signed-rank test.
        improved: share of patients with a difference above 0.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float
    p_wilcoxon: float
    improved: float

    @property
    def verdict(self) -> str:
        """Return the verdict of this comparison alone; for several, correct p first."""
        return verdict(self.mean, self.p)

    def __str__(self) -> str:
        return (
            f"{self.mean:+.3f} (95 % CI {self.low:+.3f} to {self.high:+.3f}), "
            f"{p_in_words(self.p)} (Wilcoxon {p_in_words(self.p_wilcoxon)}), "
            f"{round(self.improved * self.n)} of {self.n} patients improved: {self.verdict}"
        )


def p_in_words(p: float) -> str:
    """Return p as ``p = 0.012``, or as ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_in_cell(p: float) -> str:
    """Return p for a column of that name, e.g. ``0.012``; empty for NaN."""
    return "" if math.isnan(p) else p_in_words(p).removeprefix("p ").removeprefix("= ")


def verdict(difference: float, p: float) -> str:
    """Return ``helps``, ``hurts`` or ``cannot tell``.

    The last if p is above 0.05; else the sign of the mean difference decides.
    """
    if p > ALPHA:
        return "cannot tell"
    return "helps" if difference > 0 else "hurts"


def paired_test(differences: Iterable[float]) -> Paired:
    """Test whether a mean difference over patients is 0.

    The interval is a BCa bootstrap over patients. Equal differences have an interval of no width. A
    single patient has no SD and no interval (NaN), and a p of 1.

    Args:
        differences: one number a patient, after minus before; ten decimals count.

    Raises:
        KitError: no patient, or a difference that is not a finite number.
    """
    values = np.asarray(list(differences), float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise KitError(
            f"differences: one finite number a patient is needed, got {values.tolist()}; leave out "
            f"patients without masks"
        )
    values = np.sort(np.round(values, DIGITS)) + 0.0  # + 0.0 makes -0.0 a 0.0
    improved = float(np.mean(values > 0))
    if len(values) == 1:
        return Paired(1, float(values[0]), np.nan, np.nan, np.nan, 1.0, 1.0, improved)
    summary = summarise(values)
    return Paired(
        summary.n,
        summary.mean,
        summary.sd,
        summary.low,
        summary.high,
        sign_flip_p(values),
        _wilcoxon_p(values),
        improved,
    )


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided permutation p of a mean difference of 0.

    If the change did nothing, each difference could equally well have had the other sign. p is the
    share of all such sign flips whose mean is at least as far from 0.

    Up to 14 patients all 2^n flips are tried, so p is exact and at least 2 / 2^n. For more, 16,384
    random ones (fixed seed) stand for all, the observed one among them.

    Args:
        differences: of two patients or more.
    """
    from scipy.stats import permutation_test  # takes longer to import than all else but torch

    values = np.asarray(differences, float)
    # one order, so that A against B has the same p as B against A
    upwards = np.sort(values if values.sum() >= 0 else -values)
    result = permutation_test(
        (upwards,),
        lambda x, axis: np.round(np.sum(x, axis=axis), DIGITS),
        vectorized=True,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def _wilcoxon_p(differences: np.ndarray) -> float:
    """Return the two-sided Wilcoxon signed-rank p; 1 if all differences are 0."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


# --- several comparisons --------------------------------------------------------------------------


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Return p values corrected for their number by Holm's method, in the order given.

    The chance of any false finding among them then stays at 5 %. The smallest p is multiplied by
    their number m, the next by m - 1 and so on; none becomes smaller than one before it, none
    larger than 1. This holds however the comparisons depend on one another.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.

    Raises:
        KitError: a value outside [0, 1].
    """
    p = np.asarray(list(p_values), float)
    if not ((p >= 0) & (p <= 1)).all():
        raise KitError(f"p values: numbers from 0 to 1 are needed, got {p.tolist()}")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of comparisons with Holm's correction and verdicts over all its rows.

    Args:
        table: has the columns ``difference`` and ``p``.
    """
    adjusted = holm(table["p"])
    verdicts = [
        verdict(difference, p) for difference, p in zip(table["difference"], adjusted, strict=True)
    ]
    return table.assign(**{"p (Holm)": adjusted}).assign(verdict=verdicts)


def compare_to_baseline(runs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Compare every recipe with the first one.

    Args:
        runs: label -> run, or runs with several seeds, e.g. ``sweep(...).runs``. The first is the
            baseline; to be fair, it has as many seeds as the others. Each further recipe makes
            Holm's correction harsher.
        metric: a column of cases.csv, see ``METRICS``.

    Returns:
        A row per recipe but the first, with the columns ``label``, mean, ``difference`` to the
        baseline and its ``SD`` over patients. ``CI low`` and ``CI high`` are the 95 % interval of
        this comparison alone. ``p`` is by sign flips, ``p (Holm)`` is corrected over the table, and
        ``p (Wilcoxon)`` is a second opinion. ``improved`` is a share of patients. ``patients``,
        ``seeds`` and ``verdict`` follow, the last by Holm's p and the sign of the difference.

    Raises:
        KitError: nothing to compare, or an unknown metric; runs that scored other patients than the
            baseline, or on another grid; a patient without a score, or one that a network was
            trained on.
    """
    if metric not in METRICS:
        raise KitError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if len(runs) < 2:
        raise KitError(
            "compare: one run has nothing to be compared with; give two or more, the baseline "
            'first (in a Plan it is a variant without changes: {"baseline": {}, ...})'
        )
    listed = {label: _as_list(label, given) for label, given in runs.items()}
    baseline, *candidates = listed
    reference = listed[baseline][0]
    scores = {
        label: _mean_scores(label, several, reference, metric) for label, several in listed.items()
    }
    rows = []
    for label in candidates:
        result = paired_test(scores[label] - scores[baseline])
        rows.append(
            {
                "label": label,
                f"mean {METRICS[metric]}": scores[label].mean(),
                "difference": result.mean,
                "SD": result.sd,
                "CI low": result.low,
                "CI high": result.high,
                "p": result.p,
                "p (Holm)": result.p,  # corrected below
                "p (Wilcoxon)": result.p_wilcoxon,
                "improved": result.improved,
                "patients": result.n,
                "seeds": len(listed[label]),
            }
        )
    return corrected(pd.DataFrame(rows))


def compare_ladder(steps: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Compare every step of a ladder with the one below it.

    Args:
        steps: label -> run, or runs with several seeds, from the lowest step to the highest.
        metric: a column of cases.csv, see ``METRICS``.

    Returns:
        A row per step but the lowest, with the columns of ``compare_to_baseline``; p is corrected
        over the steps. Further columns say what it is ``compared with``, and its difference ``to
        the first`` step.

    Raises:
        KitError: fewer than two steps; or see ``compare_to_baseline``.
    """
    if len(steps) < 2:
        raise KitError("ladder: two steps at least are needed to compare; train some more first")
    tables = [
        compare_to_baseline({below: steps[below], label: steps[label]}, metric)
        for below, label in pairwise(steps)
    ]
    table = pd.concat(tables, ignore_index=True).assign(**{"compared with": list(steps)[:-1]})
    means = table[f"mean {METRICS[metric]}"]
    table["to the first"] = means - (means - table["difference"]).iloc[0]
    return corrected(table)


def _as_list(label: str, runs: Runs) -> list[Scored]:
    """Return the runs of a recipe as a list. Raises KitError if there are none."""
    listed = list(runs) if isinstance(runs, Sequence) else [runs]
    if not listed:
        raise KitError(f"{label}: no finished run to compare; train it first or leave it out")
    return listed


def _mean_scores(label: str, runs: list[Scored], reference: Scored, metric: str) -> pd.Series:
    """Return each patient's score, averaged over runs that are comparable with ``reference``."""
    columns = []
    for run in runs:
        _require_comparable(label, run, reference, metric)
        columns.append(run.cases.set_index("patient")[metric])
    scores = pd.concat(columns, axis=1).mean(axis=1, skipna=False).sort_index()
    if scores.isna().any():
        raise KitError(
            f"{label}: no {metric} for {', '.join(scores.index[scores.isna()])}; are there masks?"
        )
    return scores


def _require_comparable(label: str, run: Scored, reference: Scored, metric: str) -> None:
    """Raise KitError unless a run has the patients and the grid of ``reference``."""
    theirs, ours = set(run.cases["patient"]), set(reference.cases["patient"])
    if theirs != ours:
        differing = [
            f"{words} {', '.join(sorted(names))}"
            for words, names in (("it alone scored", theirs - ours), ("it lacks", ours - theirs))
            if names
        ]
        raise KitError(
            f"{label}: other patients than the baseline's ({'; '.join(differing)}); use the same "
            f"split"
        )
    if "seen" in run.cases and run.cases["seen"].any():
        raise KitError(
            f"{label}: its network was trained on {run.cases['seen'].sum()} of the patients; "
            f"predict only those that lib.predict.unseen names"
        )
    grids = {(r.config.image_size, r.config.preprocessing) for r in (run, reference)}
    if metric == "dsc" and len(grids) > 1:
        raise KitError(
            f"{label}: scored on another grid than the baseline (image_size or preprocessing "
            f"differ); compare with metric='dsc_native'"
        )


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a comparison that a reader needs, rounded, with labels as index.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.
    """
    mean = next(name for name in table if name.startswith("mean "))
    shown = ["label", "compared with", mean, "difference", "CI low", "CI high", "to the first"]
    shown += ["p (Holm)", "improved", "seeds", "verdict"]
    if (table["seeds"] == 1).all():
        shown.remove("seeds")
    p = table["p (Holm)"].map(p_in_cell)
    rounded = table[[name for name in shown if name in table]].round(3)
    return rounded.assign(**{"p (Holm)": p}).set_index("label")


# --- what so few patients can show ----------------------------------------------------------------


def smallest_detectable(sd: float, n: int, alpha: float = ALPHA) -> float:
    """Return the smallest true mean difference that ``n`` patients show with 80 % power.

    It comes from the noncentral t distribution of the paired t test (two-sided), at the largest p
    within ``alpha`` that the sign-flip test can give. It is infinite if n patients that all agree
    have a p, 2 / 2^n, above ``alpha``: five or fewer at 5 %.

    Args:
        sd: standard deviation of the differences over patients.
        n: number of patients.
        alpha: the largest p that counts; divide it by the number of candidates for the strictest
            step of ``holm``.
    """
    step = 2.0 ** (1 - min(n, 50))  # p is a multiple of it; beyond 50 patients it does not show
    attainable = np.floor(alpha / step) * step
    if attainable == 0:
        return float("inf")
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    critical = t.isf(attainable / 2, n - 1)

    def shortfall(shift: float) -> float:
        """Return the power at a shift, less what is wanted; the other tail adds nothing."""
        return float(nct.sf(critical, n - 1, shift) - POWER)

    return float(sd / np.sqrt(n) * brentq(shortfall, 0, 10 * critical))


def resolution(table: pd.DataFrame) -> str:
    """Return a line for under a comparison: the true difference found with 80 % power.

    It takes the median SD of the candidates, and the strictest step of Holm's correction for their
    number.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.
    """
    n, sd, count = int(table["patients"].iloc[0]), float(table["SD"].median()), len(table)
    smallest = smallest_detectable(sd, n, alpha=ALPHA / count)
    candidates = "1 candidate" if count == 1 else f"{count} candidates"
    if np.isinf(smallest):
        return (
            f"{n} patients cannot show any difference, however large: the smallest p there is, "
            f"{2.0 ** (1 - n):.3g}, is not enough for {candidates}."
        )
    return (
        f"{n} patients whose differences have an SD of {sd:.3f}, {candidates}. A true difference "
        f"of {smallest:.3f} would be found with 80 % power; smaller ones are usually missed."
    )


def best_of_k(
    n: int = 10, sd: float = 0.05, recipes: Sequence[int] = (1, 2, 5, 10, 20)
) -> pd.DataFrame:
    """Simulate how much better the best of k equally good recipes looks.

    In 4,000 sweeps (fixed seed) no recipe is better than the baseline: each patient's difference is
    noise. The best is chosen by its mean difference, as one chooses the top of a table. The best
    epoch of a run is chosen in the same way.

    Args:
        n: patients.
        sd: standard deviation of a recipe's differences to the baseline over patients.
        recipes: the numbers k of recipes to choose from.

    Returns:
        A row per k: ``recipes`` and the mean apparent gain of the best. ``independent differences``
        share nothing; with a ``common baseline``, as in a sweep, they share its luck (correlation
        1/2).
    """
    rng = np.random.default_rng(0)
    # (sweep, recipe), the last recipe is the baseline
    luck = rng.normal(0, sd, (4000, max(recipes) + 1, n)).mean(axis=2)
    best = np.maximum.accumulate(luck[:, :-1], axis=1)  # of the first k recipes, for all k at once
    # a difference of two has the SD of one times the root of two
    common = (best - luck[:, -1:]) / np.sqrt(2)
    chosen = np.asarray(recipes) - 1
    return pd.DataFrame(
        {
            "recipes": recipes,
            "independent differences": best.mean(axis=0)[chosen],
            "common baseline": common.mean(axis=0)[chosen],
        }
    )
