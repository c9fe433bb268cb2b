"""Show how far luck goes: the best of equal recipes, and verdicts where nothing differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.stats.compare import compare_scores
from lib.stats.scored import FURTHER, METRICS, Matching, Scored, pairs_from, scores_of
from lib.utils import KitError


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
    *,
    further: int = 0,
) -> FalseFindings:
    """Return how often sweeps of equal recipes find something, as ``compare_to_baseline`` would.

    Runs of one recipe are dealt out among a baseline and candidates, no run twice, again and again
    (fixed seed), as if those of all hands had equal seeds. No candidate is better, so every
    ``helps`` and ``hurts`` is false.

    Args:
        runs: of one recipe, with different seeds; 40 or more, as the share is about these runs.
        candidates: recipes that are compared with the baseline.
        seeds: runs of each.
        sweeps: how often the runs are dealt out. With 1,000, a share of 5 % has a standard error of
            0.7 points.
        metric: a column of cases.csv, see ``METRICS``.
        further: runs that the baseline has beside these.

    Raises:
        KitError: too few runs, or a number below 1; or see ``compare_to_baseline``.
    """
    needed = (candidates + 1) * seeds + further
    if min(candidates, seeds, sweeps, further + 1) < 1 or len(runs) < needed:
        raise KitError(
            f"false_findings: {len(runs)} runs, {candidates} candidates, {seeds} seeds, {further} "
            f"further, {sweeps} sweeps; give numbers from 1, further from 0, and {needed} runs or "
            f"more of one recipe"
        )
    [table] = scores_of({"all": runs}, metric).values()
    scores, rng, verdicts = table.to_numpy().T, np.random.default_rng(0), []
    labels = ["baseline", *(f"candidate {i + 1}" for i in range(candidates))]
    paired = seeds >= pairs_from(seeds + further, seeds)
    pairs = [(seed, seed) for seed in range(seeds)] if paired else []
    same = Matching(pairs, further=seeds >= FURTHER)
    for _ in range(sweeps):
        dealt = rng.permutation(len(runs))[:needed]
        split = np.split(scores[dealt], range(seeds + further, needed, seeds))
        hands = dict(zip(labels, split, strict=True))
        found = compare_scores(hands, dict.fromkeys(labels[1:], same), METRICS[metric])
        verdicts.append(set(found["verdict"]))
    return FalseFindings(
        helps=float(np.mean(["helps" in found for found in verdicts])),
        any=float(np.mean([bool(found & {"helps", "hurts"}) for found in verdicts])),
    )
