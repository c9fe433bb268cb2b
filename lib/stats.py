"""Did this change help? Paired, per patient: each patient is compared with itself, before and after the change.

The patients are the sample; runs of several seeds are averaged per patient first and never tested
against one another (three seeds cannot give a p below 0.25). So a verdict is about the weights that
were trained: no p here knows how far a mean moves from seed to seed. Simulated, a recipe against
three copies of itself on ten patients: a false "helps" in 2 % of sweeps, but where the seed alone
moves a run's mean DSC by 0.02 (SD), in 20 % if the differences spread by 0.05 over patients, in 9 %
if by 0.08, averaged over three seeds or not. Look at the spread over seeds before believing a
difference no larger than it.

``run.cases`` holds each run's best epoch on these very patients, so mean DSCs are a little too
good, on both sides.

How wide intervals are with as few patients as usual: El Jurdi, Varoquaux, Colliot 2023 (arXiv
2307.10926).
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

ALPHA = 0.05
DIGITS = 10  # differences are rounded to so many decimals: equal ones, and sums that are zero, then are exactly that
RESAMPLES = 2**14  # sign patterns of 14 patients: up to there the permutation test is exact
METRICS = {name: column.label for name, column in COLUMNS.items() if column.higher_is_better}
"""Columns of cases.csv in which more is better, and what a table calls them."""


class Scored(Protocol):
    """What can be compared: a ``Run``, a ``Prediction`` or a ``CrossValidation``, by its table of cases."""

    @property
    def cases(self) -> pd.DataFrame:
        """A row per patient."""

    @property
    def config(self) -> Config:
        """The recipe; image size and preprocessing say on which grid ``dsc`` was computed."""


Runs = Scored | Sequence[Scored]
"""A recipe's run, or its runs with several seeds."""


# --- one comparison -------------------------------------------------------------------------------


class Paired(NamedTuple):
    """One value after a change minus one before it, over patients."""

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
        """What this comparison says alone; one of several needs ``verdict`` with the p of ``holm``."""
        return verdict(self.mean, self.p)

    def __str__(self) -> str:
        return (
            f"{self.mean:+.3f} (95 % CI {self.low:+.3f} to {self.high:+.3f}), {p_in_words(self.p)} "
            f"(Wilcoxon {p_in_words(self.p_wilcoxon)}), {round(self.improved * self.n)} of {self.n} patients "
            f"improved: {self.verdict}"
        )


def p_in_words(p: float) -> str:
    """``p = 0.012``; never ``p = 0.000``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_in_cell(p: float) -> str:
    """The same for a column that is called p; empty for NaN, where nothing was compared."""
    return "" if math.isnan(p) else p_in_words(p).removeprefix("p ").removeprefix("= ")


def verdict(difference: float, p: float) -> str:
    """``helps`` or ``hurts`` where p is at most 0.05, by the sign of the mean difference; otherwise ``cannot tell``."""
    if p > ALPHA:
        return "cannot tell"
    return "helps" if difference > 0 else "hurts"


def paired(differences: Iterable[float]) -> Paired:
    """Mean difference with its BCa bootstrap 95 % CI, sign-flip and Wilcoxon p, share of patients improved.

    The order of the patients does not matter. Equal differences have an interval of no width; a
    single patient has no SD and no interval (NaN), and a p of 1. With ten patients the interval is
    too narrow (simulated: it covers the truth in 87 to 91 % of cases); the verdict goes by p.

    Args:
        differences: one number a patient, after minus before; ten decimals count.

    Raises:
        KitError: no patient, or a difference that is not a finite number.
    """
    values = np.asarray(list(differences), float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise KitError(
            f"differences: one finite number a patient is needed, got {values.tolist()}; leave out patients "
            "without masks"
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
    """Two-sided permutation p of a mean difference of 0: before and after might as well have been swapped, per patient.

    All 2^n swaps are tried for up to 14 patients, so p is exact and at least 2 / 2^n; 16,384 random
    ones (fixed seed, the observed one counted among them) for more. Assumes that, without an
    effect, differences lie evenly around 0. Takes two patients or more.
    """
    from scipy import stats  # here, because it takes longer to import than all else but torch

    values = np.asarray(differences, float)
    upwards = np.sort(
        values if values.sum() >= 0 else -values
    )  # one order: the same p for A against B and B against A
    result = stats.permutation_test(
        (upwards,),
        lambda x, axis: np.round(np.sum(x, axis=axis), DIGITS),
        vectorized=True,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def _wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided Wilcoxon signed-rank p; patients without a difference are left out, and without any other it is 1."""
    from scipy import stats

    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


# --- several comparisons --------------------------------------------------------------------------


def holm(p_values: Iterable[float]) -> np.ndarray:
    """P values adjusted so that the chance of any false finding among them stays at 5 %, in the order given.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70. The smallest is multiplied by
    their number m, the next by m - 1 and so on; none gets below one before it, none above 1. Holds
    however the comparisons depend on one another, so for a common baseline too.

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


def compare(baseline: Runs, candidates: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """A section of a sweep: every candidate against the same baseline, a row each.

    Columns: ``label``, mean, ``difference`` to the baseline, its ``SD`` over patients, ``CI low``
    and ``CI high`` (95 %, of this comparison alone), ``p`` (sign flips), ``p (Holm)`` (over the
    section), ``p (Wilcoxon)``, ``improved`` (share of patients), ``patients``, ``seeds``,
    ``verdict`` (by Holm's p and the sign of the difference).

    Args:
        baseline: its run, or its runs with several seeds: as many as the candidates have, to be
        fair.
        candidates: label -> run or runs, the baseline not among them: each makes Holm's correction
        harsher.
        metric: a column of cases.csv, see ``METRICS``.

    Raises:
        KitError: nothing to compare, an unknown metric, runs that scored other patients than the
            baseline or on another grid, a patient without a score, or one that a network was
            trained on.
    """
    if metric not in METRICS:
        raise KitError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if not candidates:
        raise KitError("compare: no candidate to compare with the baseline")
    baseline = _listed("baseline", baseline)
    before = _scores("baseline", baseline, baseline[0], metric)
    runs = {label: _listed(label, given) for label, given in candidates.items()}
    scores = {label: _scores(label, listed, baseline[0], metric) for label, listed in runs.items()}
    results = {label: paired(after - before) for label, after in scores.items()}
    adjusted = holm(result.p for result in results.values())
    return pd.DataFrame(
        [
            {
                "label": label,
                f"mean {METRICS[metric]}": scores[label].mean(),
                "difference": result.mean,
                "SD": result.sd,
                "CI low": result.low,
                "CI high": result.high,
                "p": result.p,
                "p (Holm)": p,
                "p (Wilcoxon)": result.p_wilcoxon,
                "improved": result.improved,
                "patients": result.n,
                "seeds": len(runs[label]),
                "verdict": verdict(result.mean, p),
            }
            for (label, result), p in zip(results.items(), adjusted, strict=True)
        ]
    )


def _listed(label: str, runs: Runs) -> list[Scored]:
    listed = list(runs) if isinstance(runs, Sequence) else [runs]
    if not listed:
        raise KitError(f"{label}: no finished run to compare; train it first or leave it out")
    return listed


def _scores(label: str, runs: list[Scored], reference: Scored, metric: str) -> pd.Series:
    """Each patient's score, averaged over the runs, by patient.

    All must be comparable with ``reference``.
    """
    columns = []
    for run in runs:
        _check_comparable(label, run, reference, metric)
        columns.append(run.cases.set_index("patient")[metric])
    scores = pd.concat(columns, axis=1).mean(axis=1, skipna=False).sort_index()
    if scores.isna().any():
        raise KitError(
            f"{label}: no {metric} for {', '.join(scores.index[scores.isna()])}; are there masks?"
        )
    return scores


def _check_comparable(label: str, run: Scored, reference: Scored, metric: str) -> None:
    theirs, ours = set(run.cases["patient"]), set(reference.cases["patient"])
    if theirs != ours:
        differing = [
            f"{words} {', '.join(sorted(names))}"
            for words, names in (("it alone scored", theirs - ours), ("it lacks", ours - theirs))
            if names
        ]
        raise KitError(
            f"{label}: other patients than the baseline's ({'; '.join(differing)}); use the same split"
        )
    if "seen" in run.cases and run.cases["seen"].any():
        raise KitError(
            f"{label}: its network was trained on {run.cases['seen'].sum()} of the patients; predict only "
            f"those that lib.predict.unseen names"
        )
    grids = {(r.config.image_size, r.config.preprocessing) for r in (run, reference)}
    if metric == "dsc" and len(grids) > 1:
        raise KitError(
            f"{label}: scored on another grid than the baseline (image_size or preprocessing differ); "
            "compare with metric='dsc_native'"
        )


# --- what so few patients can show ----------------------------------------------------------------


def verdicts(runs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """``compare`` for reading: the first of ``runs`` is the baseline of the others; prints the ``resolution`` too.

    Args:
        runs: label -> run or runs with several seeds, e.g. ``sweep(...).runs``.

    Returns:
        A row per candidate: mean, difference with its interval, adjusted p as text, share of
        patients improved, verdict.
    """
    if not runs:
        raise KitError("verdicts: no finished run; train some first")
    (_, baseline), *candidates = runs.items()
    table = compare(baseline, dict(candidates), metric)
    print(resolution(table))
    hidden = ["SD", "p", "p (Wilcoxon)", "patients"]
    if (
        table["seeds"] == len(_listed("baseline", baseline))
    ).all():  # as it should be, so not worth a column
        hidden.append("seeds")
    return _for_reading(table.drop(columns=hidden))


def compare_rungs(rungs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Every rung against the one below it; p by Holm over the rungs.

    Args:
        rungs: label -> run or runs with several seeds, from the lowest rung to the highest.

    Returns:
        As from ``compare``, a row per rung but the lowest, and what it is ``compared with``.

    Raises:
        KitError: fewer than two rungs; or see ``compare``.
    """
    if len(rungs) < 2:
        raise KitError("ladder: two rungs at least are needed to compare; train some more first")
    steps = [
        compare(rungs[below], {label: rungs[label]}, metric) for below, label in pairwise(rungs)
    ]
    table = pd.concat(steps, ignore_index=True).assign(**{"compared with": list(rungs)[:-1]})
    table["p (Holm)"] = holm(table["p"])
    table["verdict"] = [
        verdict(*pair) for pair in zip(table["difference"], table["p (Holm)"], strict=True)
    ]
    return table


def ladder(rungs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """``compare_rungs`` for reading; prints the ``resolution`` too.

    Returns:
        A row per rung but the lowest: what it is ``compared with``, mean, ``difference`` to that
        with its interval, difference ``to the first`` rung, adjusted p, share of patients improved,
        verdict.
    """
    table = compare_rungs(rungs, metric)
    mean = f"mean {METRICS[metric]}"
    table["to the first"] = table[mean] - (table[mean] - table["difference"]).iloc[0]
    print(resolution(table))
    shown = [
        "compared with",
        mean,
        "difference",
        "CI low",
        "CI high",
        "to the first",
        "p (Holm)",
        "improved",
        "verdict",
    ]
    return _for_reading(table[["label", *shown]])


def _for_reading(table: pd.DataFrame) -> pd.DataFrame:
    return (
        table.round(3).assign(**{"p (Holm)": table["p (Holm)"].map(p_in_cell)}).set_index("label")
    )


def smallest_detectable(sd: float, n: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The smallest true mean difference that ``n`` patients would show with probability ``power``.

    By the noncentral t distribution of the paired t test (two-sided), at the largest p within
    ``alpha`` that the sign-flip test can give: its own power there is up to 5 points less with 8 to
    12 patients (simulated). Infinite where even n patients that all agree leave its p, 2 / 2^n,
    above ``alpha``: five or fewer at 5 %.

    Args:
        sd: standard deviation of the differences over patients.
        n: number of patients.
        power: in [0.1, 0.999].
        alpha: what p has to be at most; divide by the number of candidates for the strictest step
        of ``holm``.
    """
    step = 2.0 ** (
        1 - min(n, 50)
    )  # p comes in multiples of it; with more patients it no longer shows
    attainable = np.floor(alpha / step) * step
    if attainable == 0:
        return float("inf")
    from scipy import optimize, stats

    critical = stats.t.isf(attainable / 2, n - 1)

    def shortfall(shift: float) -> float:  # the other tail adds nothing that shows
        return stats.nct.sf(critical, n - 1, shift) - power

    return float(sd / np.sqrt(n) * optimize.brentq(shortfall, 0, 10 * critical))


def resolution(table: pd.DataFrame) -> str:
    """One line for under a table of ``compare``: the true difference that it had a power of 80 % to show.

    Takes the median spread of its candidates, and the strictest step of Holm's correction for their
    number.
    """
    n, sd, m = int(table["patients"].iloc[0]), float(table["SD"].median()), len(table)
    smallest = smallest_detectable(sd, n, alpha=ALPHA / m)
    candidates = "1 candidate" if m == 1 else f"{m} candidates"
    if np.isinf(smallest):
        return (
            f"{n} patients cannot show any difference, however large: the smallest p there is, "
            f"{2.0 ** (1 - n):.3g}, is not enough for {candidates}."
        )
    return (
        f"{n} patients, spread {sd:.3f}: a true difference of {smallest:.3f} would show four times in five, a "
        f"smaller one less often ({candidates})."
    )


def best_of_k(
    n: int = 10, sd: float = 0.05, recipes: Sequence[int] = (1, 2, 5, 10, 20)
) -> pd.DataFrame:
    """The luck of the winner: how much better the best of k equally good recipes looks on the same ``n`` patients.

    Simulated (4,000 sweeps, fixed seed): no recipe is better than the baseline, each patient's
    difference is noise. The best is picked by its mean difference, as one picks the top of a table;
    the best epoch of a run is picked so too.

    Args:
        n: patients.
        sd: spread of a recipe's differences to the baseline over patients.
        recipes: the numbers k of recipes to pick from.

    Returns:
        A row per k: ``recipes`` and the mean apparent gain of the best, with ``independent
        differences``, and with a ``common baseline`` whose own luck all differences share
        (correlation 1/2), as in a sweep.
    """
    rng = np.random.default_rng(0)
    luck = rng.normal(0, sd, (4000, max(recipes) + 1, n)).mean(
        axis=2
    )  # sweep, recipe (the last: baseline)
    best = np.maximum.accumulate(luck[:, :-1], axis=1)  # of the first k recipes, for all k at once
    common = (best - luck[:, -1:]) / np.sqrt(
        2
    )  # a difference of two has the spread of one times the root of two
    chosen = np.asarray(recipes) - 1
    return pd.DataFrame(
        {
            "recipes": recipes,
            "independent differences": best.mean(axis=0)[chosen],
            "common baseline": common.mean(axis=0)[chosen],
        }
    )
