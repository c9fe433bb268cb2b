"""Take the mean difference of two recipes apart, and estimate how far it moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lib.stats.scored import Matching
from lib.stats.verdicts import DIGITS

SMALLEST_VARIANCE = 1e-24  # anything smaller is rounding


class Part(NamedTuple):
    """Hold what the mean of some runs adds to the variance of a difference (or draws of it).

    Attributes:
        seeds: variance between the means of these runs, as the difference has it.
        residual: the same of a single patient, beside what all patients of a run share.
        freedom: degrees of freedom of both, of ``residual`` for each patient but one.
    """

    seeds: Any
    residual: Any
    freedom: int


class Coefficients(NamedTuple):
    """Hold how often the variance of a difference contains that of a run.

    Attributes:
        patient: of what a run does to a single patient.
        own: of its mean, beside what runs with the same seed share.
        shared: of what they share.
    """

    patient: float
    own: float
    shared: float


class Contrast(NamedTuple):
    """Hold the difference of two recipes and its parts.

    Attributes:
        differences: of each patient, averaged over runs.
        estimates: of the variance of their mean, each by its parts; of two the more cautious
            counts.
        coefficients: what the variance contains.
        shared: variance of a run's mean that runs with the same seed share, as estimated; 0 if
            runs are not compared seed by seed.
    """

    differences: np.ndarray
    estimates: list[list[Part]]
    coefficients: Coefficients
    shared: float


def matched(
    before: np.ndarray, after: np.ndarray, matching: Matching
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores ``(runs, patients)`` in the order that ``contrast`` needs."""
    if not matching.pairs:
        return before, after
    first, second = (list(places) for places in zip(*matching.pairs, strict=True))
    rest = [
        np.delete(scores, places, axis=0) if matching.further else scores[:0]
        for scores, places in ((before, first), (after, second))
    ]
    return np.concatenate([before[first], rest[0]]), np.concatenate([after[second], rest[1]])


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
    several = [scores for scores in (before, after) if len(scores) > 1]
    weights = weights_of([len(before), len(after)])
    parts = [
        _part(scores, weight, weight, len(scores) - 1)
        for scores, weight in zip(several, weights, strict=True)
    ]
    total = sum(weights)
    coefficients = Coefficients(total, total, total)
    return Contrast(_differences(after, before), estimates_of(parts, weights), coefficients, 0.0)


def estimates_of(parts: list[Part], weights: Sequence[float]) -> list[list[Part]]:
    """Return the estimates of the variance between the runs of two groups.

    The first takes each recipe's variance from its own runs, as Welch's t test does. Where a few
    runs stand beside many it is often too small, as the few are alike by chance. The second pools
    both recipes, as Student's t test does; it is too small where the few vary more than the many.
    With equal numbers it is the same, and left out.

    Args:
        parts: of the first.
        weights: of the variance of each recipe, in the order of the parts.
    """
    if len({part.freedom for part in parts}) == 1:
        return [parts]
    freedom, total = sum(part.freedom for part in parts), sum(weights)
    seeds = residual = 0.0
    for part, weight in zip(parts, weights, strict=True):
        share = total / weight * part.freedom / freedom
        seeds, residual = seeds + share * part.seeds, residual + share * part.residual
    return [parts, [Part(seeds, residual, freedom)]]


def weights_of(runs: Sequence[int]) -> list[float]:
    """Return the weight of the variance of each recipe with several runs.

    A recipe with one run adds its weight to that of the other.
    """
    return [1 / count for count in runs] if min(runs) > 1 else [1 + 1 / max(runs)]


def _of_pairs(before: np.ndarray, after: np.ndarray) -> Contrast:
    """Return the difference of pairs of runs: what both share cancels."""
    count = len(before)
    part = _part(after - before, 1 / count, 1 / count, count - 1)
    covariance = np.cov(before.mean(axis=1), after.mean(axis=1))[0, 1]
    coefficients = Coefficients(2 / count, 2 / count, 0.0)
    return Contrast(
        _differences(after, before), [[part]], coefficients, max(float(covariance), 0.0)
    )


def _of_pairs_and_others(fewer: np.ndarray, more: np.ndarray) -> Contrast:
    """Return the difference of pairs of runs, and of further runs of ``more``: fewer minus more.

    The means of ``fewer`` are regressed on those of the runs with the same seeds, and read off at
    the mean of all runs of ``more``. The less alike they are, the less these pairs count.
    """
    pairs, others = len(fewer), len(more) - len(fewer)
    means = more[:pairs].mean(axis=1)
    (_, covariance), (_, variance) = np.cov(fewer.mean(axis=1), means)
    # the slope costs a degree of freedom, and its error grows with the distance from the pairs: a
    # little too much where it is cut off at 0 or 1
    slope = away = 0.0
    if variance > SMALLEST_VARIANCE:
        slope = float(np.clip(covariance / variance, 0, 1))
        away = float((means.mean() - more.mean()) ** 2 / ((pairs - 1) * variance))
    weight = weight_of_pairs(slope, pairs, others)
    left, share = fewer - weight * more[:pairs], 1 / pairs + away
    rest = (1 - weight) ** 2 / others
    parts = [
        _part(left, share * (pairs - 1) / (pairs - 2), 1 / pairs, pairs - 2),
        _part(more, rest, rest, len(more) - 1),
    ]
    differences = _differences(left, (1 - weight) * more[pairs:])
    coefficients = coefficients_of(weight, pairs, others, share)
    return Contrast(differences, [parts], coefficients, max(float(covariance), 0.0))


def weight_of_pairs(slope: float, pairs: int, others: int) -> float:
    """Return how much the runs with partners count, of a recipe with others beside; 1 is all.

    Source: Cochran 1977, Sampling Techniques, 3rd ed., 12.6 (regression in double sampling).

    Args:
        slope: of the means of the other recipe on those of this one, for equal seeds.
    """
    return (pairs + others * slope) / (pairs + others)


def coefficients_of(weight: float, pairs: int, others: int, share: float) -> Coefficients:
    """Return what the variance of a difference of pairs and others contains.

    Args:
        weight: from ``weight_of_pairs``.
        share: of the variance of the pairs' means: 1 / pairs, and the error of the slope.
    """
    both, rest = 1 + weight**2, (1 - weight) ** 2
    return Coefficients(
        both / pairs + rest / others, both * share + rest / others, rest * (share + 1 / others)
    )


def _differences(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the differences of patients, averaged over runs."""
    differences: np.ndarray = np.round(after.mean(axis=0) - before.mean(axis=0), DIGITS)
    return differences


def _part(scores: np.ndarray, of_means: float, of_residual: float, freedom: int) -> Part:
    """Return what the mean of runs adds, from the mean squares of their scores and weights."""
    means, residual = mean_squares(scores)
    return Part(of_means * means, of_residual * residual, freedom)


def mean_squares(scores: np.ndarray) -> tuple[float, float]:
    """Return the variance of the means of two or more runs, and the mean square of what is left.

    The latter is NaN for a single patient.

    Args:
        scores: ``(runs, patients)``.
    """
    means = scores.mean(axis=1, keepdims=True)
    residual = scores - means - scores.mean(axis=0) + scores.mean()
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    left = float((residual**2).sum()) / freedom if freedom else math.nan
    return float(means.var(ddof=1)), left


def error_of_mean(patients: Any, parts: Sequence[Part], n: int) -> tuple[Any, Any]:
    """Return the variance of a mean difference, and its degrees of freedom.

    Args:
        patients: variance of the differences of ``n`` patients, or draws of it.
        parts: of the variance between runs.
    """
    by_patients, by_seeds, in_both = patients / n, 0.0, 0.0
    uncertainty = by_patients**2 / (n - 1)
    for seeds, residual, freedom in parts:
        shared = residual / n
        by_seeds, in_both = by_seeds + seeds, in_both + shared
        uncertainty = uncertainty + (seeds**2 + shared**2 / (n - 1)) / freedom
    larger = np.maximum(by_patients, by_seeds)
    variance = np.maximum(np.maximum(by_patients + by_seeds - in_both, larger), SMALLEST_VARIANCE)
    return variance, variance**2 / np.maximum(uncertainty, SMALLEST_VARIANCE**2)
