"""Measure how near two submissions are: a copy that was altered a little is no longer equal.

Two things of a network tell: its weights, and the DSC of each patient. Either may be hidden, by
channels in another order or by further training; hiding both takes a training of one's own.
``python -m maintain.nearness`` measures how far honest runs are apart, and how near copies are.
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
NEAR_WEIGHTS, NEAR_DSC = 0.2, 0.01
"""Largest distance of copies; ``docs/instructors.md`` has what was measured."""
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
        signs = np.random.default_rng(place).integers(0, 2, rows.size, dtype=np.int8) * 2 - 1
        signed = np.resize(rows.ravel() * signs, -(-rows.size // BUCKETS) * BUCKETS)
        signed[rows.size :] = 0
        total += signed.reshape(-1, BUCKETS).sum(axis=0)
        channels += len(rows)
    return [round(float(value), 6) for value in total / math.sqrt(max(channels, 1))]


def _scaled(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    return rows / np.where(size > 0, size, 1)[:, None]


def weights_distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the distance of two sketches; about 1.4 for networks that have nothing in common."""
    return float(np.linalg.norm(np.subtract(one, other)))


def dsc_distance(one: Result, other: Result) -> float:
    """Return the largest difference of a patient's DSC, as it is or perturbed.

    Infinite if fewer than ``FEWEST`` numbers tell something: both 0, or both 1, tells nothing; nor
    do networks that mark everything, which have the same small DSC on each patient.
    """
    if one.grid != other.grid:  # on another grid the same mask has another score
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

    What is near is ``weights`` or ``predictions``; weights come first.
    """
    for one, other in combinations(range(len(results)), 2):
        first, second = results[one], results[other]
        if not apart(first, second):
            continue
        if first.sketch and second.sketch:
            distance = weights_distance(first.sketch, second.sketch)
            if distance <= NEAR_WEIGHTS:
                yield one, other, "weights", distance
                continue
        distance = dsc_distance(first, second)
        if distance <= NEAR_DSC:
            yield one, other, "predictions", distance
