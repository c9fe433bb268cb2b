"""Read the scores of recipes, and refuse what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import pandas as pd

from lib.config import Config
from lib.metrics import COLUMNS
from lib.utils import KitError, as_list, see

METRICS = {name: column.label for name, column in COLUMNS.items() if column.higher_is_better}
"""Columns of cases.csv in which more is better, and what a table calls them."""
AFTER_TRAINING: dict[str, Any] = {
    "ema": 0.0,
    "tta": False,
    "component": "largest",
    "metric": "none",
}
"""Fields of a recipe that change what is scored, not what is trained: field -> a common value."""
PAIRS = 5  # of runs with the same seed, from which on they are compared, if there are no others
FURTHER = 8  # pairs from which on further runs of one recipe tell more than their slope costs


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


def require_runs(
    runs: object, what: str = "runs", needed: Sequence[str] = ("cases", "config")
) -> None:
    """Raise ``KitError`` unless it is label -> run, or runs with several seeds.

    Args:
        what: takes them, for the message.
        needed: the attributes of a run that are read.
    """
    expected = 'expected label -> run, e.g. {"baseline": run, ...} or sweep(...).runs'
    if not isinstance(runs, Mapping):
        raise KitError(f"{what}: {expected}, got a {type(runs).__name__}")
    for label, given in runs.items():
        for run in as_list(given):
            # without reading the files that a property of a run stands for
            known = {*dir(type(run)), *getattr(run, "__dict__", ())}
            if not known.issuperset(needed):
                raise KitError(f"{what}: {expected}, got a {type(run).__name__} for {label!r}")


def runs_of(label: str, runs: Runs) -> list[Scored]:
    """Return the runs of a recipe as a list. Raises KitError if there are none."""
    listed = as_list(runs)
    if not listed:
        raise KitError(f"{label}: no finished run to compare; train it first or leave it out")
    return listed


def scores_of(runs: Mapping[str, Runs], metric: str) -> dict[str, pd.DataFrame]:
    """Return label -> scores (patient, run), of runs that are comparable with the first."""
    if metric not in METRICS:
        raise KitError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    listed = {label: runs_of(label, given) for label, given in runs.items()}
    reference = next(iter(listed.values()))[0]
    return {
        label: _of_recipe(label, several, reference, metric) for label, several in listed.items()
    }


def _of_recipe(label: str, runs: list[Scored], reference: Scored, metric: str) -> pd.DataFrame:
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


class Matching(NamedTuple):
    """Hold which runs of two recipes are compared with one another.

    Attributes:
        pairs: places of runs with the same seed; none if all are compared with all.
        further: whether the runs without a partner count beside the pairs.
    """

    pairs: list[tuple[int, int]]
    further: bool = False


def seed_pairs(before: Runs, after: Runs) -> Matching:
    """Return the runs that are compared with one another, seed by seed.

    Runs with the same seed learn from the same slices, if these are drawn once, and begin with the
    same weights, if the networks are alike. What that does to the scores is in both and cancels.
    But n pairs leave n - 1 degrees of freedom, where n runs of each leave up to twice as many. So
    fewer pairs than ``pairs_from`` are not made, unless each is one training that is scored in two
    ways, or cut short by ``patience``.

    There are none unless each run of the recipe with fewer runs is in one of them. A single one of
    several does not count either: it would say nothing of other seeds.

    The runs of the other recipe that are left count from ``FURTHER`` pairs on, but not beside pairs
    of one training each: these are so alike that others tell nothing more.
    """
    runs, others = as_list(before), as_list(after)
    places, theirs = (
        {run.config.seed: place for place, run in enumerate(each)} for each in (runs, others)
    )
    pairs = [(place, theirs[seed]) for seed, place in places.items() if seed in theirs]
    fewer, more = sorted((len(runs), len(others)))
    twice = len(places) < len(runs) or len(theirs) < len(others)
    if twice or len(pairs) < fewer or (fewer == 1 and more > 1):
        return Matching([])
    same = all(_same_training(runs[i].config, others[j].config) for i, j in pairs)
    if len(pairs) < pairs_from(len(runs), len(others)) and not same:
        return Matching([])
    return Matching(pairs, further=len(pairs) >= FURTHER and not same)


def pairs_from(runs: int, others: int) -> int:
    """Return the number of pairs from which on two recipes with so many runs are compared in pairs.

    Where one has more runs than the other, pairs alone would give these up, as long as they do not
    count beside the pairs: with five against 40 that costs more than equal seeds save.
    """
    return PAIRS if runs == others else FURTHER


def _same_training(config: Config, other: Config) -> bool:
    """Return whether two recipes train the same, as far as both go, and differ in their scores."""
    follows_scores = config.lr_scheduler == "plateau" or "lr_scheduler" in config.custom
    if config == other or follows_scores:
        return False
    alike = {**AFTER_TRAINING, "patience": 0}
    return replace(config, **alike) == replace(other, **alike)
