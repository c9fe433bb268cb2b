"""Compare two networks, one run each, over patients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lib.metrics import summarise
from lib.stats.verdicts import ALPHA, DIGITS, POWER, p_in_words, verdict
from lib.utils import KitError

RESAMPLES = 2**14  # sign patterns of 14 patients: up to there the permutation test is exact


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
