"""Measure how near two submissions are: a copy that was altered a little is no longer equal.

Three things of a network tell: its weights, the shapes of its kernels, and the DSC of each patient.
Weights are hidden by channels in another order, or by mirrored kernels; the DSC by another bias.
Shapes stay. Hiding all of them takes a training of one's own. ``python -m maintain.nearness``
measures how far honest runs are apart, and how near copies are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

from lib.grade.result import Result
from lib.grade.submission import members

BUCKETS = 256
NEAR_WEIGHTS, NEAR_SHAPES, NEAR_DSC = 0.3, 0.5, 0.01
"""Largest distance of copies; ``docs/instructors.md`` has what was measured."""
QUANTILES, _FEWEST_CHANNELS = 16, 4
"""Of a layer's channels, by the shapes of their kernels; layers with fewer tell nothing."""
FEWEST = 6
"""Numbers that must tell something: networks that find nothing score 0 on every patient."""
TRIVIAL = 0.15
"""Mean DSC that tells nothing: marking everything gives twice the tumour's share of the head."""


def sketch(weights: Mapping[str, Tensor]) -> list[float]:
    """Return a sketch of the convolutions of a network, of ``BUCKETS`` numbers and length 1.

    Each weight is added to a bucket with a random sign, the same for every network (a count sketch,
    Charikar, Chen and Farach-Colton 2002). The distance between two sketches is nearly that of all
    weights. Each output channel counts the same, whatever its size: a normalisation behind it takes
    out any factor.

    Args:
        weights: a ``state_dict``.
    """
    total, channels = np.zeros(BUCKETS), 0
    for place, (_, tensor) in enumerate(sorted(weights.items())):
        if tensor.ndim < 2:
            continue
        rows = np.nan_to_num(tensor.detach().double().flatten(1).numpy())
        rows = _scaled(rows, np.abs(rows).max(axis=1))  # first, as a square may be too large
        rows = _scaled(rows, np.linalg.norm(rows, axis=1))
        total += _in_buckets(rows.ravel(), place)
        channels += len(rows)
    return [round(float(value), 6) for value in total / math.sqrt(max(channels, 1))]


def shapes(weights: Mapping[str, Tensor]) -> list[float]:
    """Return a sketch of the shapes of a network's kernels, of ``BUCKETS`` numbers.

    It is the same for channels in another order, for channels of another size or sign whose
    neighbours make up for it, and for a mirrored network. Each channel of a layer has a mean of
    each measure of ``_measures``, over the kernels that it enters or leaves. The sorted means are
    kept, as ``QUANTILES``: two networks that were trained apart differ in all of them by chance.

    Args:
        weights: a ``state_dict``.
    """
    rows = [
        _quantiles(values)
        for _, tensor in sorted(weights.items())
        if tensor.ndim == 4 and tensor[0, 0].numel() > 1
        for measured in _measures(np.nan_to_num(tensor.detach().double().numpy()))
        for values in (measured.mean(axis=1), measured.mean(axis=0))
        if len(values) >= _FEWEST_CHANNELS
    ]
    values = np.array(rows).ravel()
    return [
        round(float(value), 6) for value in _in_buckets(values, 0) / math.sqrt(max(len(values), 1))
    ]


def _measures(kernels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield measures of each kernel that neither its size and sign nor a mirror changes.

    They are the shares of its mean, of its corners, and of a bump in its middle.

    Args:
        kernels: ``(O, I, H, W)``.

    Returns:
        ``(O, I)`` each, from 0 to 1.
    """
    flat = kernels.reshape(-1, kernels[0, 0].size)
    flat = _scaled(flat, np.abs(flat).max(axis=1))  # first, as a square may be too large
    flat = _scaled(flat, np.linalg.norm(flat, axis=1))
    measures = [np.abs(flat.mean(axis=1)) * math.sqrt(flat.shape[1])]
    y, x = np.indices(kernels.shape[2:])
    away = ((y - y.mean()) ** 2 + (x - x.mean()) ** 2).ravel()
    bump = away - away.mean()
    if bump.any():  # a kernel of two by two has no middle
        measures += [flat**2 @ away / away.max(), np.abs(flat @ bump) / np.linalg.norm(bump)]
    for measured in measures:
        yield measured.reshape(kernels.shape[:2])


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Return quantiles of the channels of a layer, so scaled that those of two differ by about 1.

    Quantiles of more channels are surer by the root of their number.
    """
    spread = values.std()
    ordered = np.sort((values - values.mean()) / (spread if spread > 1e-12 else 1))
    wanted, given = ((np.arange(number) + 0.5) / number for number in (QUANTILES, len(ordered)))
    quantiles: np.ndarray = np.interp(wanted, given, ordered) * math.sqrt(len(ordered))
    return quantiles


def _in_buckets(values: np.ndarray, seed: int) -> np.ndarray:
    """Return the sums of buckets, to each of which values are added with random signs."""
    signs = np.random.default_rng(seed).integers(0, 2, values.size, dtype=np.int8) * 2 - 1
    signed = np.resize(values * signs, -(-values.size // BUCKETS) * BUCKETS)
    signed[values.size :] = 0
    sums: np.ndarray = signed.reshape(-1, BUCKETS).sum(axis=0)
    return sums


def _scaled(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    return rows / np.where(size > 0, size, 1)[:, None]


def weights_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the distance of two sketches.

    That of networks that have nothing in common is about 1.4, and of ``shapes`` about 1.1.
    """
    return float(np.linalg.norm(np.subtract(one, other)))


def dsc_distance(one: Result, other: Result) -> float:
    """Return the largest difference of a patient's DSC, as it is or perturbed.

    Infinite if fewer than ``FEWEST`` numbers tell something: both 0, or both 1, tells nothing; nor
    do networks that mark everything, which have the same small DSC on each patient.
    """
    if one.scored_on != other.scored_on:  # on another grid the same mask has another score
        return math.inf
    pairs = [
        pair
        for patient in one.cases.keys() & other.cases.keys()
        for pair in zip(one.cases[patient][1:], other.cases[patient][1:], strict=True)
        if None not in pair and pair not in ((0, 0), (1, 1))
    ]
    if len(pairs) < FEWEST or float(np.mean(np.array(pairs, float))) <= TRIVIAL:
        return math.inf
    return float(np.abs(np.subtract(*np.array(pairs, float).T)).max())


def apart(one: Result, other: Result) -> bool:
    """Return whether two submissions are of different people: a team shares what it has."""
    return not set(members(one.student)) & set(members(other.student))


def near(results: Sequence[Result]) -> Iterator[tuple[int, int, str, float]]:
    """Yield (index, index, what is near, distance) for each two students who are too near.

    What is near is ``weights``, ``shapes`` or ``predictions``, the first that is.
    """
    for one, other in combinations(range(len(results)), 2):
        first, second = results[one], results[other]
        if not apart(first, second):
            continue
        if found := near_weights(first, second):
            yield one, other, *found
        elif (distance := dsc_distance(first, second)) <= NEAR_DSC:
            yield one, other, "predictions", distance


def near_weights(one: Result, other: Result) -> tuple[str, float] | None:
    """Return which sketches of two networks are too near, and their distance; None if none is."""
    for name, first, second, limit in (
        ("weights", one.sketch, other.sketch, NEAR_WEIGHTS),
        ("shapes", one.shapes, other.shapes, NEAR_SHAPES),
    ):
        if first and second and (distance := weights_distance(first, second)) <= limit:
            return name, distance
    return None
