"""Show what a mean hides: the median, all voxels together, the patients who were missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from lib.metrics import Counts
from lib.stats.scored import METRICS, Runs, Scored, require_runs, runs_of, scores_of
from lib.stats.verdicts import DIGITS
from lib.utils import KitError

MISSED = 0.1  # a patient with a DSC below it counts as missed


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
    require_runs(runs)
    if not runs:
        raise KitError("outcomes: no recipe; give label -> runs, e.g. sweep(...).runs")
    rows = {}
    for label, scores in scores_of(runs, metric).items():
        by_patient, by_run = scores.mean(axis=1), scores.mean(axis=0)
        rows[label] = {
            f"mean {METRICS[metric]}": by_patient.mean(),
            "median": by_patient.median(),
            "pooled DSC": np.mean([_pooled(label, run) for run in runs_of(label, runs[label])]),
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
