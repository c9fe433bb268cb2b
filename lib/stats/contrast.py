"""Take a mean difference of two recipes apart, and estimate how far it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lib.stats.scored import PAIRS
from lib.stats.verdicts import DIGITS

SMALLEST_VARIANCE = 1e-24  # of a mean difference; anything smaller is rounding


class MeanSquares(NamedTuple):
    """Hold the variance of the means of some runs, and of what is left (or draws of them)."""

    means: Any
    residual: Any

    def times(self, factor: float) -> MeanSquares:
        """Return a multiple of both."""
        return MeanSquares(self.means * factor, self.residual * factor)


class Part(NamedTuple):
    """Hold what a mean over runs adds to the variance of a difference.

    Attributes:
        squares: of these runs.
        weight: how often the difference contains them; 1 / n for n runs.
        freedom: degrees of freedom of ``squares``.
    """

    squares: MeanSquares
    weight: float
    freedom: int


class Coefficients(NamedTuple):
    """Hold how often the variance of a difference contains that of a run.

    Attributes:
        own: the part that runs with the same seed do not share.
        shared: the part that they share.
    """

    own: float
    shared: float


class Contrast(NamedTuple):
    """Hold the difference of two recipes and its parts.

    Attributes:
        differences: of each patient, averaged over runs.
        parts: of the variance of their mean.
        coefficients: what the variance contains.
        shared: variance of a run's mean that runs with the same seed share, as estimated; 0 if
            runs are not compared seed by seed.
    """

    differences: np.ndarray
    parts: list[Part]
    coefficients: Coefficients
    shared: float


def matched(
    before: np.ndarray, after: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores ``(runs, patients)`` in the order that ``contrast`` needs.

    Further runs are left out beside fewer than ``PAIRS`` pairs: so few do not tell how alike runs
    with the same seed are.

    Args:
        pairs: places of runs with the same seed; none if all are compared with all.
    """
    if not pairs:
        return before, after
    sides = []
    for scores, places in zip((before, after), zip(*pairs, strict=True), strict=True):
        rest = np.delete(scores, places, axis=0) if len(pairs) >= PAIRS else scores[:0]
        sides.append(np.concatenate([scores[list(places)], rest]))
    return sides[0], sides[1]


def contrast(before: np.ndarray, after: np.ndarray, paired: bool) -> Contrast:
    """Return the difference of two recipes, ``after`` minus ``before``.

    Args:
        before, after: scores ``(runs, patients)``.
        paired: the first runs of both have the same seeds, one by one; any further ones have others
            and are all of one recipe.
    """
    if not paired:
        return _of_groups(before, after)
    if len(before) == len(after):
        return _of_pairs(before, after)
    if len(before) > len(after):
        return _of_pairs_and_others(after, before)
    swapped = _of_pairs_and_others(before, after)
    return swapped._replace(differences=-swapped.differences)


def _of_groups(before: np.ndarray, after: np.ndarray) -> Contrast:
    """Return the difference of two groups of runs. A single run borrows the other's variance."""
    parts = [
        Part(mean_squares(scores), weight, len(scores) - 1)
        for scores, weight in zip(
            [each for each in (before, after) if len(each) > 1],
            weights_of([len(before), len(after)]),
            strict=True,
        )
    ]
    own = 1 / len(before) + 1 / len(after)
    return Contrast(_rounded(after, before), parts, Coefficients(own, own), 0.0)


def weights_of(runs: Sequence[int]) -> list[float]:
    """Return the weight of the variance of each recipe with several runs.

    A recipe with one run adds its weight to that of the other.
    """
    return [1 / count for count in runs] if min(runs) > 1 else [1 + 1 / max(runs)]


def _of_pairs(before: np.ndarray, after: np.ndarray) -> Contrast:
    """Return the difference of pairs of runs: what both share cancels."""
    count = len(before)
    part = Part(mean_squares(after - before), 1 / count, count - 1)
    shared = np.cov(before.mean(axis=1), after.mean(axis=1))[0, 1]
    return Contrast(
        _rounded(after, before), [part], Coefficients(2 / count, 0.0), max(float(shared), 0.0)
    )


def _of_pairs_and_others(fewer: np.ndarray, more: np.ndarray) -> Contrast:
    """Return the difference of pairs of runs, and of further runs of ``more``: fewer minus more.

    The means of ``fewer`` are regressed on those of the runs with the same seeds, and read off at
    the mean of all runs of ``more``. So these pairs count less the less they are alike.
    """
    pairs, count = len(fewer), len(more)
    others = count - pairs
    means = more[:pairs].mean(axis=1)
    covariance = np.cov(fewer.mean(axis=1), means)
    slope = float(np.clip(covariance[0, 1] / max(covariance[1, 1], SMALLEST_VARIANCE), 0, 1))
    weight = weight_of_pairs(slope, pairs, others)
    left = fewer - weight * more[:pairs]
    # a slope is estimated: a degree of freedom, and an error that grows away from the pairs
    away = (means.mean() - more.mean()) ** 2 / max(
        (pairs - 1) * covariance[1, 1], SMALLEST_VARIANCE
    )
    share = 1 / pairs + float(away)
    parts = [
        Part(mean_squares(left).times((pairs - 1) / (pairs - 2)), share, pairs - 2),
        Part(mean_squares(more).times((1 - weight) ** 2), 1 / others, count - 1),
    ]
    differences = _rounded(left, (1 - weight) * more[pairs:])
    shared = max(float(covariance[0, 1]), 0.0)
    return Contrast(differences, parts, coefficients_of(weight, share, others), shared)


def weight_of_pairs(slope: float, pairs: int, others: int) -> float:
    """Return how much the runs with partners count, of a recipe with others beside; 1 is all.

    Source: Cochran 1977, Sampling Techniques, 3rd ed., 12.6 (regression in double sampling).

    Args:
        slope: of the means of the other recipe on those of this one, for equal seeds.
    """
    return (pairs + others * slope) / (pairs + others)


def coefficients_of(weight: float, share: float, others: int) -> Coefficients:
    """Return what the variance of a difference of pairs and others contains.

    Args:
        weight: from ``weight_of_pairs``.
        share: of the variance of the pairs, 1 / n of n pairs and the error of the slope.
        others: how many.
    """
    rest = (1 - weight) ** 2
    return Coefficients((1 + weight**2) * share + rest / others, rest * (share + 1 / others))


def _rounded(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the differences of patients, averaged over runs."""
    differences: np.ndarray = np.round(after.mean(axis=0) - before.mean(axis=0), DIGITS)
    return differences


def mean_squares(scores: np.ndarray) -> MeanSquares:
    """Return the mean squares of scores ``(runs, patients)`` of two runs or more.

    What is left is NaN for a single patient.
    """
    means = scores.mean(axis=1, keepdims=True)
    residual = scores - means - scores.mean(axis=0) + scores.mean()
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    left = float((residual**2).sum()) / freedom if freedom else math.nan
    return MeanSquares(float(means.var(ddof=1)), left)


def error_of_mean(patients: Any, parts: Sequence[Part], n: int) -> tuple[Any, Any]:
    """Return the variance of a mean difference, and its degrees of freedom.

    Args:
        patients: variance of the differences of ``n`` patients, or draws of it.
        parts: of the variance between runs.
    """
    by_patients, by_seeds, in_both = patients / n, 0.0, 0.0
    uncertainty = by_patients**2 / (n - 1)
    for (means, residual), weight, freedom in parts:
        seeds, shared = weight * means, weight * residual / n
        by_seeds, in_both = by_seeds + seeds, in_both + shared
        uncertainty = uncertainty + (seeds**2 + shared**2 / (n - 1)) / freedom
    larger = np.maximum(by_patients, by_seeds)
    variance = np.maximum(np.maximum(by_patients + by_seeds - in_both, larger), SMALLEST_VARIANCE)
    return variance, variance**2 / np.maximum(uncertainty, SMALLEST_VARIANCE**2)
