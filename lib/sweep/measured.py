"""Read what was measured on the phantom: every question of the notebooks, with several seeds.

``python -m maintain.evidence`` made the tables in ``result/reference/phantom``. Each run was scored
on the 200 test phantoms, which no run has learnt from and no epoch was chosen on: by its best epoch
in validation, and by its last. The tables have the validation DSC of every epoch, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from lib.config import PROFILES, REFERENCE, Config
from lib.dataset import BrainData, require_prepared
from lib.evaluate import TrainedModel, predict_volumes, segmentation
from lib.logger import Run
from lib.metrics import Counts, counts
from lib.predict import trained_model
from lib.runtime import deterministic
from lib.runtime.checkpoint import read_checkpoint
from lib.runtime.device import prepare
from lib.stats import Scored
from lib.stats.scored import require_runs
from lib.sweep.plans import Plan, find_plan
from lib.utils import PROJECT, KitError, as_list

BASE = replace(REFERENCE, **PROFILES["quick"])
"""The recipe that the variants of every plan changed."""
FOLDER = PROJECT / "result" / "reference" / "phantom"
TRUTH, HITS, PREDICTED = "tumour_voxels.csv", "true_positives.csv", "predicted_voxels.csv"
CURVES = "validation_dsc.csv"
SOLUTION = "best"  # folder of the steps of the best recipe, which the student edition lacks
KEY = ["recipe", "seed", "epoch"]
ScoredEpoch = Literal["best", "last"]
_NOT_RECIPE = ("seed", "split", "device", "precision")


@dataclass(frozen=True)
class TestScores:
    """Hold the scores of one run on the test phantoms; ``lib.stats`` compares it like a run.

    Attributes:
        config: its recipe and seed.
        epoch: ``best`` in validation, or ``last``.
        cases: a row per patient, with ``dsc``, ``tp``, ``fp`` and ``fn`` on the network's grid.
        history: a row per epoch, with ``epoch`` and ``val_dsc``, the mean over the patients of
            validation; empty where it was not kept.
    """

    __test__ = False  # pytest would take it for a class of tests

    config: Config
    epoch: ScoredEpoch
    cases: pd.DataFrame
    history: pd.DataFrame


def recipe_of(config: Config) -> str:
    """Return what the runs of a recipe have in common, as a key of the tables."""
    identity = {name: v for name, v in config.identity().items() if name not in _NOT_RECIPE}
    return json.dumps(identity, sort_keys=True)


def evidence(
    plan: Plan | str, epoch: ScoredEpoch = "best", folder: Path = FOLDER
) -> dict[str, list[TestScores]]:
    """Return the measured runs of a plan: label -> one a seed, the reference first.

    Each has all of its seeds, so their numbers may differ.

    Args:
        epoch: whose weights were scored: of the ``best`` in validation, or of the ``last``.

    Raises:
        KitError: no such epoch, or a variant that was not measured.
    """
    plan = find_plan(plan)
    return {
        label: _runs_of(config, _checked(epoch), folder, f"plan {plan.name}, {label}")
        for label, config in plan.configs(BASE).items()
    }


def score(run: Run, data: BrainData, epoch: ScoredEpoch = "best") -> TestScores:
    """Score a run of one's own on further patients, as those of the tables were.

    Args:
        data: patients that it was not trained on, e.g. ``session.test_set(run.config)``.

    Raises:
        KitError: no such epoch; data of another size; a patient that it was trained on, or without
            masks; a checkpoint that is gone or damaged.
    """
    require_prepared(data, run.config)
    trained = trained_model(run)
    seen = trained.seen(data)
    unfit = [name for name in data.patients if name in seen or not data.has_mask(name)]
    if unfit:
        raise KitError(
            f"{run.id}: was trained on {len(unfit)} of these patients, e.g. {unfit[0]}, or they "
            f"have no masks; score it on others"
        )
    if _checked(epoch) == "last":
        state = read_checkpoint(run.folder / "last.pt")
        # averaged, if the run averages: so the last epoch was scored
        trained.network.load_state_dict((state["average"] or state)["weights"])
    history = run.history[["epoch", "val_dsc"]]
    return TestScores(run.config, epoch, _scored(trained, data), history)


def on_test_set(
    runs: Mapping[str, Run | Sequence[Run]], data: BrainData | None, epoch: ScoredEpoch = "best"
) -> dict[str, list[Scored]]:
    """Score the runs of a sweep on further patients, for ``lib.plot.among`` and ``lib.stats``.

    A run is scored once, as long as this process lives: the baseline is in every sweep.

    Args:
        data: see ``score``; None if none can be spared. Then the runs themselves are returned, with
            the scores of their best epoch in validation.

    Raises:
        KitError: see ``score``.
    """
    require_runs(runs)
    if data is None:
        return {label: list[Scored](as_list(given)) for label, given in runs.items()}
    return {
        label: [_once(run, data, epoch) for run in as_list(given)] for label, given in runs.items()
    }


_SCORED: dict[tuple[str, ...], TestScores] = {}


def _once(run: Run, data: BrainData, epoch: ScoredEpoch) -> TestScores:
    """Return the scores of a run, computed if they are not known yet."""
    if not isinstance(run, Run):
        raise KitError(f"score: expected a run of fit or sweep, got a {type(run).__name__}")
    key = (str(run.folder.absolute()), json.dumps(run.info.get("sha256")), data.fingerprint, epoch)
    if key not in _SCORED:
        _SCORED[key] = score(run, data, epoch)
    return _SCORED[key]


def _checked(epoch: str) -> ScoredEpoch:
    """Return the epoch. Raises KitError if there is no such."""
    if epoch not in get_args(ScoredEpoch):
        raise KitError(f"epoch {epoch!r} is unknown; use best or last")
    return cast(ScoredEpoch, epoch)


def _scored(trained: TrainedModel, data: BrainData) -> pd.DataFrame:
    """Return a row per patient: DSC and counts, on the network's grid.

    ``lib.evaluate.score_cases`` would also bring every mask to the file's grid, for scores that the
    tables do not have; that takes several times as long.
    """
    config = trained.config
    machine = prepare([trained.network], config.device, config.precision)
    names, found = sorted(data.patients), []
    with deterministic():
        for name, volume in predict_volumes(trained.network, config, data, names, machine):
            truth = data.slices((name,)).volume_masks()[0]
            found.append(counts(segmentation(volume, config.component), truth))
    return _cases(names, found)


def _runs_of(config: Config, epoch: ScoredEpoch, folder: Path, what: str) -> list[TestScores]:
    """Return the measured runs of a recipe, one a seed. Raises KitError if there are none."""
    truth, hits, predicted = _tables(folder)
    recipe = recipe_of(config)
    chosen = [key for key in hits.index if (key[0], key[2]) == (recipe, epoch)]
    if not chosen:
        raise KitError(
            f"{folder}: has no runs of {what}; only the plans of train.ipynb and train_best.ipynb "
            f"were measured, on the profile quick"
        )
    names, tumour, curves = list(truth.index), truth.to_numpy(), _curves(folder)
    found = []
    for key in sorted(chosen, key=lambda key: key[1]):
        counted = _counted(tumour, hits.loc[key].to_numpy(), predicted.loc[key].to_numpy())
        history = _history(curves, *key[:2])
        one = replace(config, seed=int(key[1]))
        found.append(TestScores(one, epoch, _cases(names, counted), history))
    return found


def _history(curves: pd.DataFrame, recipe: str, seed: int) -> pd.DataFrame:
    """Return epoch and validation DSC of a run; no rows if they were not kept."""
    if (recipe, seed) not in curves.index:
        return pd.DataFrame({"epoch": [], "val_dsc": []})
    row = curves.loc[(recipe, seed)].dropna()
    return pd.DataFrame({"epoch": row.index.astype(int), "val_dsc": row.to_numpy()})


def _counted(tumour: np.ndarray, tp: np.ndarray, predicted: np.ndarray) -> list[Counts]:
    """Return the counts of each patient, from voxels of tumour, found, and predicted."""
    return [Counts(*map(int, each)) for each in zip(tp, predicted - tp, tumour - tp, strict=True)]


def _cases(names: list[str], found: list[Counts]) -> pd.DataFrame:
    """Return a row per patient: DSC and counts of voxels."""
    dsc = [each.dsc for each in found]
    return pd.DataFrame(found, columns=Counts._fields).assign(patient=names, dsc=dsc)[
        ["patient", "dsc", *Counts._fields]
    ]


@lru_cache(maxsize=4)
def _tables(folder: Path) -> tuple[pd.Series, pd.DataFrame, pd.DataFrame]:
    """Return tumour voxels by patient, and true positives and predicted voxels of each run.

    Raises:
        KitError: the tables are not there, or do not fit together.
    """
    try:
        truth = pd.read_csv(folder / TRUTH, index_col="patient")["voxels"]
        folders = [each for each in (folder, folder / SOLUTION) if each.is_dir()]
        hits, predicted = (
            pd.concat([pd.read_csv(each / name, index_col=KEY) for each in folders])
            for name in (HITS, PREDICTED)
        )
    except (OSError, ValueError, KeyError) as error:
        raise KitError(
            f"{folder}: cannot be read ({' '.join(str(error).split())[:100]}); restore it from the "
            f"repository"
        ) from None
    if list(hits) != list(truth.index) or list(predicted) != list(truth.index):
        raise KitError(f"{folder}: the tables are of other patients; restore them")
    return truth, hits, predicted


@lru_cache(maxsize=4)
def _curves(folder: Path) -> pd.DataFrame:
    """Return the validation DSC (recipe and seed, epoch) of the runs that it was kept of."""
    files = [each / CURVES for each in (folder, folder / SOLUTION)]
    tables = [pd.read_csv(file, index_col=KEY[:2]) for file in files if file.exists()]
    return pd.concat(tables) if tables else pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []]))
