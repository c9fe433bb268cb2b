"""Compare recipes with a baseline, or the steps of a ladder with one another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from lib.stats.contrast import matched
from lib.stats.crossed import UNKNOWN, Crossed, crossed_test
from lib.stats.outcome import carried_by
from lib.stats.paired import Paired, paired_test
from lib.stats.scored import METRICS, Matching, Runs, require_runs, scores_of, seed_pairs
from lib.stats.verdicts import corrected
from lib.utils import KitError


def compare_to_baseline(runs: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Compare every recipe with the first one.

    With two runs or more of one of them it is ``crossed_test``, with one run each ``paired_test``.
    Runs with the same seed are compared with one another, see ``seed_pairs``. Where there are
    enough of them further runs of one of the two recipes count as well, see ``crossed_test``.

    Args:
        runs: label -> run, or runs with several seeds, e.g. ``sweep(...).runs``. The first is the
            baseline; to be fair, it has no fewer seeds than the others. Each further recipe makes
            Holm's correction harsher.
        metric: a column of cases.csv, see ``METRICS``.

    Returns:
        A row per recipe but the first, with the columns ``label``, mean, ``difference`` to the
        baseline and its ``SD`` over patients. The mean is that of all of the baseline's runs plus
        the difference; where both recipes have the same seeds it is that of the recipe's runs.
        ``CI low`` and ``CI high`` are the 95 % interval of this comparison alone. ``p`` is of a
        difference of 0, ``p (equivalence)`` of one of 0.02 or more; see ``corrected`` for ``p
        (Holm)`` and ``verdict``. ``improved`` is a share of patients; ``half of it from`` is
        ``carried_by``. ``patients``, ``seeds`` and ``baseline seeds`` are numbers; ``paired`` says
        whether runs are compared seed by seed. ``seed SD``, ``patient SD``, ``residual SD`` and
        ``shared SD`` are a ``Spread``.
        ``p (Wilcoxon)`` is a second opinion. With one run each, that is all that is known of
        seeds: the spread and ``p (equivalence)`` are NaN, as is ``p (Wilcoxon)`` with several.

    Raises:
        KitError: nothing to compare, or an unknown metric; runs that scored other patients than the
            baseline, or on another grid; a patient without a score, or one that a network was
            trained on.
    """
    require_runs(runs)
    if len(runs) < 2:
        raise KitError(
            "compare: one run has nothing to be compared with; give two or more, the baseline "
            'first (in a Plan it is a variant without changes: {"baseline": {}, ...})'
        )
    scores = {label: table.to_numpy().T for label, table in scores_of(runs, metric).items()}
    (_, reference), *candidates = runs.items()
    matchings = {label: seed_pairs(reference, each) for label, each in candidates}
    return compare_scores(scores, matchings, METRICS[metric])


def compare_scores(
    scores: Mapping[str, np.ndarray], matchings: Mapping[str, Matching], metric: str
) -> pd.DataFrame:
    """Return the table of ``compare_to_baseline`` for scores.

    Args:
        scores: label -> scores ``(runs, patients)``, the baseline first.
        matchings: label of a candidate -> its runs and the baseline's that are compared with one
            another.
        metric: what the scores are called.
    """
    (_, baseline), *candidates = scores.items()
    rows = []
    for label, after in candidates:
        paired = bool(matchings[label].pairs)
        cells = _comparison(*matched(baseline, after, matchings[label]), paired)
        mean = {f"mean {metric}": baseline.mean() + cells["difference"]}
        rows.append({"label": label} | mean | cells)
    return corrected(pd.DataFrame(rows))


def _comparison(before: np.ndarray, after: np.ndarray, paired: bool) -> dict[str, float]:
    """Return the cells of a comparison of matched scores, before any correction."""
    if max(len(before), len(after)) > 1:
        crossed = crossed_test(before, after, paired)
        result: Paired | Crossed = crossed
        equivalence, wilcoxon, spread = crossed.p_equivalence, math.nan, crossed.spread
        differences = crossed.differences
    else:
        differences = after[0] - before[0]
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
        "paired": paired,
        "seed SD": spread.seeds,
        "patient SD": spread.patients,
        "residual SD": spread.residual,
        "shared SD": spread.shared,
    }


def compare_ladder(steps: Mapping[str, Runs], metric: str = "dsc") -> pd.DataFrame:
    """Compare every step of a ladder with the one below it.

    Args:
        steps: label -> run, or runs with several seeds, from the lowest step to the highest.
        metric: a column of cases.csv, see ``METRICS``.

    Returns:
        A row per step but the lowest, with the columns of ``compare_to_baseline``; p is corrected
        over the steps. Further columns say what it is ``compared with``, and its difference ``to
        the first`` step, the sum of the differences up to it. The mean is that of the first step
        plus this sum.

    Raises:
        KitError: fewer than two steps; or see ``compare_to_baseline``.
    """
    require_runs(steps)
    if len(steps) < 2:
        raise KitError("ladder: two steps at least are needed to compare; train some more first")
    tables = [
        compare_to_baseline({below: steps[below], label: steps[label]}, metric)
        for below, label in pairwise(steps)
    ]
    table = pd.concat(tables, ignore_index=True).assign(**{"compared with": list(steps)[:-1]})
    mean = f"mean {METRICS[metric]}"
    first = table[mean].iloc[0] - table["difference"].iloc[0]
    table["to the first"] = table["difference"].cumsum()
    return corrected(table.assign(**{mean: first + table["to the first"]}))
