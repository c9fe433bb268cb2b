"""Judge a change: did it help, and would it help again with other seeds?

Each patient is compared with itself, before and after. With two runs or more of a recipe, a verdict
is about the recipe: patients and seeds both vary. With one run each it is about these weights
alone. ``docs/statistics.md`` explains what is tested, what p means, and how often it errs.

Start with ``compare_to_baseline``; ``readable`` and ``resolution`` show its table, ``outcomes``
what the means hide. ``spread`` and ``power`` say before a sweep what it can find.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from lib.config import Config
from lib.metrics import COLUMNS, Counts, summarise
from lib.utils import KitError, as_list, see

ALPHA, POWER = 0.05, 0.8
NEGLIGIBLE = 0.02  # differences in DSC below it change nobody's choice of a recipe
MISSED = 0.1  # a patient with a DSC below it counts as missed
MOST_RUNS = 200  # of a recipe; where so many do not settle a question, patients are the limit
DIGITS = 10  # decimals kept of a difference: equal ones, and sums that cancel, are then exactly so
RESAMPLES = 2**14  # sign patterns of 14 patients: up to there the permutation test is exact
DRAWS = 4000  # sets of variances that stand for all, where power is computed
SMALLEST_VARIANCE = 1e-24  # of a mean difference; anything smaller is rounding
METRICS = {name: column.label for name, column in COLUMNS.items() if column.higher_is_better}
"""Columns of cases.csv in which more is better, and what a table calls them."""
AFTER_TRAINING: dict[str, Any] = {
    "ema": 0.0,
    "tta": False,
    "component": "largest",
    "metric": "none",
}
"""Fields of a recipe that change what is scored, not what is trained: field -> a common value."""
CANNOT_TELL, NO_DIFFERENCE = "cannot tell", f"no difference larger than {NEGLIGIBLE}"
VERDICTS = ("helps", "hurts", NO_DIFFERENCE, CANNOT_TELL)


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


# --- one comparison, one run each -----------------------------------------------------------------


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


def verdict(difference: float, p: float, p_equivalence: float = math.nan) -> str:
    """Return one of ``VERDICTS``.

    Up to a p of 0.05 the sign of the mean difference decides between ``helps`` and ``hurts``, also
    where it is small. Else it is ``no difference larger than 0.02`` up to a p of equivalence of
    0.05, and ``cannot tell`` beyond. A NaN for the latter leaves equivalence out.
    """
    if p <= ALPHA:
        return "helps" if difference > 0 else "hurts"
    return NO_DIFFERENCE if p_equivalence <= ALPHA else CANNOT_TELL


def paired_test(differences: Iterable[float]) -> Paired:
    """Test whether a mean difference over patients is 0, for one pair of networks.

    p does not know how far a mean moves from seed to seed; ``crossed_test`` does.
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


# --- one comparison, several runs ---------------------------------------------------------------


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


def crossed_test(before: np.ndarray, after: np.ndarray, shared: bool = False) -> Crossed:
    """Test whether two recipes differ, over patients and over seeds.

    Patients are crossed with recipes, runs are nested in them. The variance of the mean difference
    adds that between patients to that between runs, and subtracts what both contain: the scatter of
    single patients from run to run. It is no smaller than either. Degrees of freedom are
    Satterthwaite's; p and the interval come from the t distribution. Equivalence is two one-sided
    tests (TOST) against ``NEGLIGIBLE``.

    A recipe with one run has no variance between seeds: it is taken to be that of the other
    recipe. If both score the same trainings, e.g. with and without flips, the variance between runs
    is that of their differences. A single patient has no SD and no interval (NaN), and a p of 1.

    Sources: Clark 1973, Journal of Verbal Learning and Verbal Behavior 12, 335-359 (quasi-F);
    Satterthwaite 1946, Biometrics Bulletin 2, 110-114; Schuirmann 1987, Journal of Pharmacokinetics
    and Biopharmaceutics 15, 657-680 (TOST).

    Args:
        before, after: scores ``(runs, patients)``, the patients in the same order. One of them has
            two runs or more.
        shared: whether run i of both is one training, scored in two ways.

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

    varying = [after - before] if shared else [before, after]
    squares = [_mean_squares(scores) for scores in varying if len(scores) > 1]
    weights = _weights([len(scores) for scores in varying])
    variance, df = _error(float(differences.var(ddof=1)), squares, n, weights)
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
        spread=_spread([before, after], [each.half() for each in squares] if shared else squares),
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


class _MeanSquares(NamedTuple):
    """Hold the variance of the means of a recipe's runs, and of what is left (or draws of them)."""

    means: Any
    residual: Any

    def half(self) -> _MeanSquares:
        """Return half of both."""
        return _MeanSquares(self.means / 2, self.residual / 2)


def _mean_squares(scores: np.ndarray) -> _MeanSquares:
    """Return the mean squares of scores ``(runs, patients)``, two or more of both."""
    means = scores.mean(axis=1, keepdims=True)
    residual = scores - means - scores.mean(axis=0) + scores.mean()
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    return _MeanSquares(float(means.var(ddof=1)), float((residual**2).sum() / freedom))


def _weights(runs: Sequence[int]) -> list[tuple[float, int]]:
    """Return (weight of its variance, degrees of freedom) of each recipe with several runs.

    A recipe with one run adds its weight to that of the other.

    Args:
        runs: of each recipe, or of their differences alone.
    """
    if min(runs) > 1:
        return [(1 / count, count - 1) for count in runs]
    return [(1 + 1 / max(runs), max(runs) - 1)]


def _error(
    patients: Any, squares: Sequence[_MeanSquares], n: int, weights: Sequence[tuple[float, int]]
) -> tuple[Any, Any]:
    """Return the variance of a mean difference, and its degrees of freedom.

    Args:
        patients: variance of the differences of ``n`` patients, or draws of it.
        squares: of each recipe with several runs.
        weights: of the same recipes, from ``_weights``.
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


def _spread(recipes: Sequence[np.ndarray], squares: Sequence[_MeanSquares]) -> Spread:
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


# --- several comparisons --------------------------------------------------------------------------


def holm(p_values: Iterable[float], at_most: int | None = None) -> np.ndarray:
    """Return p values corrected for their number by Holm's method, in the order given.

    The chance of any false finding among them then stays at 5 %. The smallest p is multiplied by
    their number m, the next by m - 1 and so on; none becomes smaller than one before it, none
    larger than 1. This holds however the comparisons depend on one another.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70. The limit of the factors:
    Shaffer 1986, Journal of the American Statistical Association 81, 826-831.

    Args:
        at_most: how many of the hypotheses can be true at once; no factor is larger. By default all
            can.

    Raises:
        KitError: a value outside [0, 1].
    """
    p = np.asarray(list(p_values), float)
    if not ((p >= 0) & (p <= 1)).all():
        raise KitError(f"p values: numbers from 0 to 1 are needed, got {p.tolist()}")
    order = np.argsort(p)
    factors = np.minimum(np.arange(len(p), 0, -1), len(p) if at_most is None else at_most)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of comparisons with Holm's correction and verdicts over all its rows.

    Each row has two hypotheses at most: that the difference is 0, and that it is ``NEGLIGIBLE`` or
    more. Not both can be true, so of all of them as many as there are rows can be. All are
    corrected together, with that limit. The chance of any false verdict in the table stays at 5 %.

    Args:
        table: has the columns ``difference``, ``p`` and ``p (equivalence)``, the last NaN where
            equivalence is not tested.
    """
    rows, tested = len(table), table["p (equivalence)"].notna().to_numpy()
    adjusted = holm([*table["p"], *table["p (equivalence)"][tested]], at_most=rows)
    equivalence = np.full(rows, math.nan)
    equivalence[tested] = adjusted[rows:]
    verdicts = [
        verdict(*row) for row in zip(table["difference"], adjusted[:rows], equivalence, strict=True)
    ]
    return table.assign(**{"p (Holm)": adjusted[:rows]}).assign(verdict=verdicts)


def compare_to_baseline(runs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Compare every recipe with the first one.

    With two runs or more of one of them it is ``crossed_test``, with one run each ``paired_test``.
    Recipes that differ in ``AFTER_TRAINING`` only share their trainings, seed by seed; then the
    seeds that both have are compared.

    Args:
        runs: label -> run, or runs with several seeds, e.g. ``sweep(...).runs``. The first is the
            baseline; to be fair, it has as many seeds as the others. Each further recipe makes
            Holm's correction harsher.
        metric: a column of cases.csv, see ``METRICS``.

    Returns:
        A row per recipe but the first, with the columns ``label``, mean, ``difference`` to the
        baseline and its ``SD`` over patients. ``CI low`` and ``CI high`` are the 95 % interval of
        this comparison alone. ``p`` is of a difference of 0, ``p (equivalence)`` of one of 0.02 or
        more; see ``corrected`` for ``p (Holm)`` and ``verdict``. ``improved`` is a share of
        patients; ``half of it from`` is ``carried_by``. ``patients``, ``seeds`` and ``baseline
        seeds`` are numbers; ``shared`` says whether their runs are the same trainings. ``seed SD``,
        ``patient SD`` and ``residual SD`` are a ``Spread``.
        ``p (Wilcoxon)`` is a second opinion. With one run each, that is all that is known of
        seeds: the spread and ``p (equivalence)`` are NaN, as is ``p (Wilcoxon)`` with several.

    Raises:
        KitError: nothing to compare, or an unknown metric; runs that scored other patients than the
            baseline, or on another grid; a patient without a score, or one that a network was
            trained on.
    """
    if len(runs) < 2:
        raise KitError(
            "compare: one run has nothing to be compared with; give two or more, the baseline "
            'first (in a Plan it is a variant without changes: {"baseline": {}, ...})'
        )
    scores = {label: table.to_numpy().T for label, table in _scores(runs, metric).items()}
    (reference, before), *candidates = scores.items()
    rows = []
    for label, after in candidates:
        pairs = _same_trainings(runs[reference], runs[label])
        these = [before[[i for i, _ in pairs]], after[[j for _, j in pairs]]]
        compared = these if pairs else [before, after]
        row = {"label": label, f"mean {METRICS[metric]}": compared[1].mean()}
        rows.append(row | _comparison(compared[0], compared[1], bool(pairs)))
    return corrected(pd.DataFrame(rows))


def _same_trainings(before: Runs, after: Runs) -> list[tuple[int, int]]:
    """Return the places of runs that are one training, scored in two ways.

    There are none unless each run of the recipe with fewer runs is one of them. A single one of
    several does not count either: it would say nothing of other seeds.
    """
    runs, others = as_list(before), as_list(after)
    pairs = [
        (i, j)
        for i, run in enumerate(runs)
        for j, other in enumerate(others)
        if _same_training(run.config, other.config)
    ]
    fewer, more = sorted((len(runs), len(others)))
    return pairs if len(pairs) == fewer and (fewer > 1 or more == 1) else []


def _same_training(config: Config, other: Config) -> bool:
    """Return whether two recipes train the same and differ in what they score."""
    if config == other or config.lr_scheduler == "plateau":  # which follows the scores
        return False
    return replace(config, **AFTER_TRAINING) == replace(other, **AFTER_TRAINING)


def _comparison(before: np.ndarray, after: np.ndarray, shared: bool) -> dict[str, float]:
    """Return the cells of a comparison of scores ``(runs, patients)``, before any correction."""
    differences = after.mean(axis=0) - before.mean(axis=0)
    if max(len(before), len(after)) > 1:
        crossed = crossed_test(before, after, shared)
        result: Paired | Crossed = crossed
        equivalence, wilcoxon, spread = crossed.p_equivalence, math.nan, crossed.spread
    else:
        alone = paired_test(differences)
        result, equivalence, wilcoxon = alone, math.nan, alone.p_wilcoxon
        spread = UNKNOWN
    return {
        "difference": result.mean,
        "SD": result.sd,
        "CI low": result.low,
        "CI high": result.high,
        "p": result.p,
        "p (Holm)": result.p,  # ``corrected`` replaces it
        "p (equivalence)": equivalence,
        "p (Wilcoxon)": wilcoxon,
        "improved": result.improved,
        "half of it from": carried_by(differences),
        "patients": result.n,
        "seeds": len(after),
        "baseline seeds": len(before),
        "shared": shared,
        "seed SD": spread.seeds,
        "patient SD": spread.patients,
        "residual SD": spread.residual,
    }


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


def _runs_of(label: str, runs: Runs) -> list[Scored]:
    """Return the runs of a recipe as a list. Raises KitError if there are none."""
    listed = as_list(runs)
    if not listed:
        raise KitError(f"{label}: no finished run to compare; train it first or leave it out")
    return listed


def _scores(runs: Mapping[str, Runs], metric: str) -> dict[str, pd.DataFrame]:
    """Return label -> scores (patient, run), of runs that are comparable with the first."""
    if metric not in METRICS:
        raise KitError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    listed = {label: _runs_of(label, given) for label, given in runs.items()}
    reference = next(iter(listed.values()))[0]
    return {
        label: _scores_of(label, several, reference, metric) for label, several in listed.items()
    }


def _scores_of(label: str, runs: list[Scored], reference: Scored, metric: str) -> pd.DataFrame:
    """Return the scores (patient, run) of a recipe, patients by name."""
    for run in runs:
        _require_comparable(label, run, reference, metric)
    columns = [pd.Series(run.cases[metric].to_numpy(float), run.cases["patient"]) for run in runs]
    scores = pd.concat(columns, axis=1).sort_index()
    missing = scores.index[scores.isna().any(axis=1)]
    if len(missing):
        raise KitError(f"{label}: no {metric} for {', '.join(missing)}; are there masks?")
    _require_different(label, runs, scores)
    return scores


def _require_different(label: str, runs: list[Scored], scores: pd.DataFrame) -> None:
    """Raise KitError for a training that is there twice: it would say that seeds do not matter."""
    known = set()
    for run, (_, column) in zip(runs, scores.items(), strict=True):
        training = run.config, column.to_numpy().tobytes()
        if training in known:
            raise KitError(
                f"{label}: the run with seed {run.config.seed} is there twice; give each training "
                f"once; {see('statistics', 'What is compared')}"
            )
        known.add(training)


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
            f"split; {see('statistics', 'What is compared')}"
        )
    other = _patients_with_other_masks(run, reference)
    if other:
        raise KitError(
            f"{label}: scored on other data than the baseline ({', '.join(other[:3])} has other "
            f"masks); compare runs on the same data; {see('statistics', 'What is compared')}"
        )
    if "seen" in run.cases and run.cases["seen"].any():
        raise KitError(
            f"{label}: its network was trained on {run.cases['seen'].sum()} of the patients; "
            f"predict only those that lib.predict.unseen names; "
            f"{see('statistics', 'What is compared')}"
        )
    grids = {(r.config.image_size, r.config.preprocessing) for r in (run, reference)}
    if metric == "dsc" and len(grids) > 1:
        raise KitError(
            f"{label}: scored on another grid than the baseline (image_size or preprocessing "
            f"differ); compare with metric='dsc_native'; "
            f"{see('statistics', 'What is compared')}"
        )


def _patients_with_other_masks(run: Scored, reference: Scored) -> list[str]:
    """Return the patients whose tumours have not as many voxels in both, by name.

    Phantoms of all seeds have the same names, and masks may have been corrected.
    """
    if not {"tp", "fn"} <= set(run.cases) & set(reference.cases):
        return []
    voxels = [
        (each.cases["tp"] + each.cases["fn"]).set_axis(each.cases["patient"]).sort_index()
        for each in (run, reference)
    ]
    known = voxels[0].notna() & voxels[1].notna()
    return list(voxels[0].index[known & (voxels[0] != voxels[1])])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a comparison that a reader needs, rounded, with labels as index.

    With several runs, ``80 % power from`` is ``detectable``, and ``more runs`` says what would
    settle a ``cannot tell``, see ``more_runs``.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.
    """
    mean = next(name for name in table if name.startswith("mean "))
    shown = ["label", "compared with", mean, "difference", "CI low", "CI high", "to the first"]
    shown += ["p (Holm)", "improved", "half of it from", "seeds", "verdict"]
    if (table["seeds"] == 1).all():
        shown.remove("seeds")
    p = table["p (Holm)"].map(p_in_cell)
    rounded = table[[name for name in shown if name in table]].round(3).assign(**{"p (Holm)": p})
    if table["seed SD"].notna().any():
        rounded["80 % power from"] = detectable(table).round(3)
        rounded["more runs"] = more_runs(table).map(_more_in_cell)
    return rounded.set_index("label")


def _more_in_cell(count: float) -> str:
    """Return a number of further runs for a column of that name."""
    if math.isnan(count) or not count:
        return ""
    return "more patients" if math.isinf(count) else f"{count:.0f} each"


# --- beside the mean ------------------------------------------------------------------------------


def carried_by(differences: Iterable[float]) -> int:
    """Return the smallest number of patients who carry half of a mean difference.

    They are those with the largest differences in its direction. 2 of 30 is a rescue of two
    patients, 12 of 30 a change for most. It is 0 for a mean difference of 0.

    Args:
        differences: one number a patient, after minus before.
    """
    values = np.round(np.asarray(list(differences), float), DIGITS)
    total = np.round(values.sum(), DIGITS)
    if total == 0:
        return 0
    largest_first = np.sort(values * np.sign(total))[::-1]
    return int(np.argmax(largest_first.cumsum() >= abs(total) / 2 - 10.0**-DIGITS)) + 1


def outcomes(runs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Return what the mean of each recipe hides, a row per recipe.

    Args:
        runs: label -> run, or runs with several seeds, e.g. ``sweep(...).runs``.
        metric: a column of cases.csv, see ``METRICS``.

    Returns:
        The columns mean and ``median`` over patients, of scores averaged over runs. ``pooled DSC``
        is 2 TP / (2 TP + FP + FN) of all patients' voxels on the file's grid, averaged over runs:
        large tumours count more. ``missed`` is the number of patients with a score below 0.1,
        averaged over runs. ``SD between seeds`` is that of a run's mean, NaN for one run.
        ``patients`` and ``runs`` are numbers.

    Raises:
        KitError: no run; cases without the columns tp, fp and fn; or see ``compare_to_baseline``.
    """
    if not runs:
        raise KitError("outcomes: no recipe; give label -> runs, e.g. sweep(...).runs")
    rows = {}
    for label, scores in _scores(runs, metric).items():
        by_patient, by_run = scores.mean(axis=1), scores.mean(axis=0)
        rows[label] = {
            f"mean {METRICS[metric]}": by_patient.mean(),
            "median": by_patient.median(),
            "pooled DSC": np.mean([_pooled(label, run) for run in _runs_of(label, runs[label])]),
            "missed": (scores < MISSED).sum(axis=0).mean(),
            "SD between seeds": by_run.std(),
            "patients": len(scores),
            "runs": len(by_run),
        }
    return pd.DataFrame(list(rows.values()), index=pd.Index(rows, name="label"))


def _pooled(label: str, run: Scored) -> float:
    """Return the DSC of all patients' voxels together; 1 without any."""
    missing = [name for name in ("tp", "fp", "fn") if name not in run.cases]
    if missing:
        raise KitError(
            f"{label}: cases without the counts {', '.join(missing)}; read a run or a prediction "
            f"with masks"
        )
    tp, fp, fn = (int(run.cases[name].sum()) for name in ("tp", "fp", "fn"))
    return Counts(tp, fp, fn).dsc


# --- before a sweep: what can it find? ------------------------------------------------------------


def spread(runs: Mapping[str, Runs], metric: str = "dsc") -> Spread:
    """Estimate how far scores scatter between seeds and between patients.

    Variances are averaged over the recipes; one that comes out below 0 is 0. ``patients`` is that
    of all pairs of recipes. A single recipe does not tell how patients differ in what a change does
    to them: it is 0 then, and a power computed with it is an upper limit.

    Args:
        runs: label -> runs; one recipe at least has two or more, better five.
        metric: a column of cases.csv, see ``METRICS``.

    Raises:
        KitError: no recipe with two runs, or a single patient; or see ``compare_to_baseline``.
    """
    recipes = [scores.to_numpy().T for scores in (_scores(runs, metric) if runs else {}).values()]
    if max(map(len, recipes), default=0) < 2 or recipes[0].shape[1] < 2:
        raise KitError(
            "spread: two patients and two runs of a recipe are needed; train one with two seeds or "
            "more"
        )
    return _spread(recipes, [_mean_squares(scores) for scores in recipes if len(scores) > 1])


def power(
    spread: Spread, seeds: int, patients: int, difference: float, candidates: int = 1
) -> float:
    """Return the chance that a comparison says ``helps`` or ``hurts``.

    It is that of ``crossed_test`` at the strictest step of Holm's correction, for scores of normal
    distribution. The wrong one of the two words is next to impossible for differences that matter.

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
    return _Design(spread, (seeds, seeds), patients, candidates).finds(difference)


def smallest_difference(spread: Spread, seeds: int, patients: int, candidates: int = 1) -> float:
    """Return the smallest true difference that ``power`` finds with a chance of 80 %.

    Args:
        spread, seeds, patients, candidates: see ``power``.

    Raises:
        KitError: a number out of range.
    """
    _require_plan(spread, seeds, patients, candidates)
    return _Design(spread, (seeds, seeds), patients, candidates).smallest()


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
    return _runs_needed(spread, patients, difference, candidates, range(2, MOST_RUNS + 1))


def detectable(table: pd.DataFrame) -> pd.Series:
    """Return the smallest true difference that each row of a comparison finds with 80 % power.

    It comes from the row's own spread and numbers of runs, at the strictest step of Holm's
    correction.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.

    Returns:
        A mean difference a row. NaN for one run each, as their spread is not known.
    """
    return pd.Series(
        [_detectable(row, len(table)) for row in table.to_dict("records")], table.index, float
    )


def _spread_of(row: Mapping[str, Any]) -> Spread:
    """Return the spread that a row of a comparison has measured."""
    return Spread(row["seed SD"], row["patient SD"], row["residual SD"])


def _detectable(row: Mapping[str, Any], candidates: int) -> float:
    """Return the smallest true difference that a row finds with 80 % power."""
    if math.isnan(row["seed SD"]):
        return math.nan
    spread = _spread_of(row)
    runs = row["baseline seeds"], row["seeds"]
    return _Design(spread, runs, row["patients"], candidates, row["shared"]).smallest()


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
    spread = _spread_of(row)
    have = row["baseline seeds"], row["seeds"]
    more = range(max(min(have) + 1, 2), MOST_RUNS + 1)
    patients, difference, shared = row["patients"], row["difference"], row["shared"]
    needed = _runs_needed(spread, patients, difference, candidates, more, have, shared)
    return math.inf if needed is None else float(needed - min(have))


def _runs_needed(
    spread: Spread,
    patients: int,
    difference: float,
    candidates: int,
    numbers: range,
    have: tuple[int, int] = (0, 0),
    shared: bool = False,
) -> int | None:
    """Return the first number of runs that settles a question, or None.

    Args:
        have: runs of each recipe that are there already.
    """

    def settles(number: int) -> float:
        runs = max(have[0], number), max(have[1], number)
        return _Design(spread, runs, patients, candidates, shared).settles(difference)

    place = bisect_left(numbers, POWER, key=settles)
    return numbers[place] if place < len(numbers) else None


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


class _Design:
    """Know the verdicts of a planned comparison, over 4,000 draws of its variances.

    A draw scales the true variances by chi-squared variables. ``_error`` turns it into a standard
    error, as in ``crossed_test``. Given that, the mean difference is normal.

    Args:
        runs: of each recipe.
        shared: their runs are the same trainings. Only the differences of these vary then, by
            twice the variance of a run.
    """

    def __init__(
        self,
        spread: Spread,
        runs: tuple[int, int],
        patients: int,
        candidates: int,
        shared: bool = False,
    ) -> None:
        from scipy.stats import t

        rng = np.random.default_rng(0)

        def drawn(variance: float, df: int) -> np.ndarray:
            return variance * rng.chisquare(df, DRAWS) / df

        weights, times = _weights(runs[:1] if shared else runs), 2 if shared else 1
        share = times * sum(weight for weight, _ in weights)
        by_patient = spread.patients**2 + share * spread.residual**2
        by_run, residual = times * spread.of_run(patients) ** 2, times * spread.residual**2
        squares = [
            _MeanSquares(drawn(by_run, df), drawn(residual, df * (patients - 1)))
            for _, df in weights
        ]
        variance, df = _error(drawn(by_patient, patients - 1), squares, patients, weights)
        error = np.sqrt(variance)
        self.found_from = t.isf(ALPHA / candidates / 2, df) * error  # a mean difference
        self.equal_up_to = NEGLIGIBLE - t.isf(ALPHA / candidates, df) * error
        truth = by_patient / patients + share * spread.seeds**2
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
        """Return the smallest difference that is found with 80 % power."""
        from scipy.optimize import brentq

        enough = float(np.quantile(self.found_from, 0.95)) + 3 * self.sd
        return float(brentq(lambda size: self.finds(size) - POWER, 0, enough))

    def _within(self, limit: np.ndarray, difference: float) -> float:
        """Return the chance of a mean difference between -limit and limit."""
        from scipy.special import ndtr

        upper, lower = (ndtr((end - difference) / self.sd) for end in (limit, -limit))
        return float(np.mean(upper - lower))


# --- after a sweep: what could it show? -----------------------------------------------------------


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

    It is that of each row, see ``detectable``, and so at the strictest step of Holm's correction.
    It also says how many more runs would settle each ``cannot tell``.

    Args:
        table: from ``compare_to_baseline`` or ``compare_ladder``.
    """
    known = table[table["seed SD"].notna()]
    if known.empty:
        return _resolution_of_weights(table)
    patients = int(table["patients"].iloc[0])
    moves = [_spread_of(row).of_run(patients) for row in known.to_dict("records")]
    sentences = [
        f"{patients} patients, {runs_in_words(known)}, {candidates_in_words(len(table))}.",
        f"The mean of a run moves from seed to seed by an SD of {span(moves)}.",
        f"A true difference of {_detectable_in_words(table)} would be found with 80 % power; "
        f"smaller ones are usually missed.",
        *_what_would_settle(table),
    ]
    if table["seed SD"].isna().any():
        labels = ", ".join(table["label"][table["seed SD"].isna()])
        sentences.append(f"{labels}: {ONE_RUN}")
    return " ".join(sentences)


def runs_in_words(table: pd.DataFrame) -> str:
    """Return how many runs the baseline and the candidates of a comparison have."""
    before, after = (span(table[name], "d") for name in ("baseline seeds", "seeds"))
    return f"{before} runs of each recipe" if before == after else f"{before} against {after} runs"


def _detectable_in_words(table: pd.DataFrame) -> str:
    """Return the range of ``detectable``: of several candidates each may have its own."""
    sizes = span(detectable(table).dropna())
    return f"{sizes}, by candidate," if " to " in sizes else sizes


def span(values: Iterable[float], form: str = ".3f") -> str:
    """Return the range of numbers in words: ``5``, or ``5 to 20``."""
    return " to ".join(dict.fromkeys(format(end(values), form) for end in (min, max)))


ONE_RUN = "one run each, so p is about these weights, not about the recipe."


def _what_would_settle(table: pd.DataFrame) -> list[str]:
    """Return sentences on the rows that cannot be told: how many more runs they need."""
    needed = dict(zip(table["label"], more_runs(table), strict=True))
    finite = [f"{label} {count:.0f}" for label, count in needed.items() if 0 < count < math.inf]
    beyond = [label for label, count in needed.items() if count == math.inf]
    sentences = []
    if finite:
        sentences.append(
            f"If the differences stay as they are, these would be settled by so many more runs of "
            f"each recipe: {', '.join(finite)}."
        )
    if beyond:
        sentences.append(
            f"More runs alone would not settle {', '.join(beyond)}: more patients are needed."
        )
    return sentences


def _resolution_of_weights(table: pd.DataFrame) -> str:
    """Return the line under a comparison of one run each."""
    n, sd, count = int(table["patients"].iloc[0]), float(table["SD"].median()), len(table)
    smallest = smallest_detectable(sd, n, alpha=ALPHA / count)
    if np.isinf(smallest):
        return (
            f"{n} patients cannot show any difference, however large: the smallest p there is, "
            f"{2.0 ** (1 - n):.3g}, is not enough for {candidates_in_words(count)}."
        )
    return (
        f"{n} patients whose differences have an SD of {sd:.3f}, {candidates_in_words(count)}. A "
        f"true difference of {smallest:.3f} would be found with 80 % power; smaller ones are "
        f"usually missed. {ONE_RUN.capitalize()}"
    )


def candidates_in_words(count: int) -> str:
    """Return a number of candidates in words."""
    return "1 candidate" if count == 1 else f"{count} candidates"


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


# --- does it keep its word? -----------------------------------------------------------------------


class FalseFindings(NamedTuple):
    """Hold the share of null sweeps with a false verdict.

    Attributes:
        helps: sweeps with a false ``helps`` for any candidate.
        any: sweeps with a false ``helps`` or ``hurts`` for any candidate.
    """

    helps: float
    any: float


def false_findings(
    runs: Sequence[Scored],
    candidates: int = 3,
    seeds: int = 5,
    sweeps: int = 1000,
    metric: str = "dsc",
) -> FalseFindings:
    """Return how often sweeps of equal recipes find something, by ``compare_to_baseline``.

    Runs of one recipe are dealt out among a baseline and candidates, no run twice, again and again
    (fixed seed). No candidate is better, so every ``helps`` and ``hurts`` is false.

    Args:
        runs: of one recipe, with different seeds; 40 or more, as the share is about these runs.
        candidates: recipes that are compared with the baseline.
        seeds: runs of each.
        sweeps: how often the runs are dealt out. With 1,000, a share of 5 % has a standard error of
            0.7 points.
        metric: a column of cases.csv, see ``METRICS``.

    Raises:
        KitError: too few runs, or a number below 1; or see ``compare_to_baseline``.
    """
    needed = (candidates + 1) * seeds
    if min(candidates, seeds, sweeps) < 1 or len(runs) < needed:
        raise KitError(
            f"false_findings: {len(runs)} runs, {candidates} candidates, {seeds} seeds, {sweeps} "
            f"sweeps; give numbers from 1, and {needed} runs or more of one recipe"
        )
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(sweeps):
        dealt = rng.permutation(len(runs))[:needed].reshape(candidates + 1, seeds)
        recipes = {f"recipe {i}": [runs[run] for run in hand] for i, hand in enumerate(dealt)}
        verdicts.append(set(compare_to_baseline(recipes, metric)["verdict"]))
    return FalseFindings(
        helps=float(np.mean(["helps" in found for found in verdicts])),
        any=float(np.mean([bool(found & {"helps", "hurts"}) for found in verdicts])),
    )
