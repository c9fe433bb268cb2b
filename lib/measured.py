"""The runs of the reference that are finished, by the part that they belong to."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from lib.crossval import CrossValidation
from lib.logger import Run, finished_runs
from lib.reference import CROSS_VALIDATION, PARTS
from lib.utils import PROJECT

FOLDER = PROJECT / "result" / "reference"
Measured = dict[str, list[Run]]  # label of a variant -> its runs, the reference first


def measured(plan: str, scale: str, folder: Path = FOLDER) -> Measured:
    """The finished runs of a part of the reference; of variants that are complete, all with the same folds or seeds."""
    found: dict[tuple[int, str], list[Run]] = defaultdict(list)
    for run in finished_runs(folder):
        for place in run.info["places"]:
            if (place["plan"], place.get("scale")) == (plan, scale):
                found[place["position"], place["label"]].append(run)
    expected = PARTS[plan].folds or len(PARTS[plan].seeds) or 1
    return {label: sorted(runs, key=lambda run: (run.info["split"]["name"], run.config.seed))
            for (_, label), runs in sorted(found.items()) if len(runs) == expected}


def cross_validated(scale: str, folder: Path = FOLDER) -> dict[str, CrossValidation]:
    """The recipes that were cross-validated, the baseline first."""
    return {label: CrossValidation(tuple(runs)) for label, runs in measured(CROSS_VALIDATION, scale, folder).items()}
