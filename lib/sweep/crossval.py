"""Cross-validate: score every patient once, by a network that has not seen it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import Config, require_config
from lib.dataset import BrainData, folds, require_loaded
from lib.evaluate import BATCH_SIZE, TrainedModel, check_patients, predict_volumes
from lib.logger import Run
from lib.metrics import Summary, summarise
from lib.predict import Prediction, require_batch_size, segment, trained_model
from lib.runtime import Machine, tune_allocator
from lib.runtime.device import prepare
from lib.sweep.plans import Plan, find_plan
from lib.sweep.run import outcome, train_tasks
from lib.sweep.task import make_tasks
from lib.utils import KitError, as_path


@dataclass(frozen=True)
class CrossValidation:
    """Hold the runs of all folds of a recipe.

    ``lib.stats`` compares it like one run, over all patients. Each run's best epoch was chosen on
    the fold that it is scored on, so the DSC is a little too good.
    """

    runs: tuple[Run, ...]

    @property
    def config(self) -> Config:
        """Return the recipe, with the split of the first fold."""
        return self.runs[0].config

    @cached_property
    def cases(self) -> pd.DataFrame:
        """Return a row per patient, by name.

        It has the ``fold``, by the name of its split, and the scores of the run of that fold.
        """
        tables = [run.cases.assign(fold=run.info["split"]["name"]) for run in self.runs]
        return pd.concat(tables).sort_values("patient", ignore_index=True)

    @cached_property
    def dsc(self) -> Summary:
        """Return the mean DSC over all patients, with its spread."""
        return summarise(self.cases["dsc"].to_numpy())

    def __str__(self) -> str:
        means = ", ".join(f"{run.dsc.mean:.3f}" for run in self.runs)
        return f"{len(self.runs)} folds, DSC {self.dsc}; fold by fold {means}"


def cross_validate(
    plan: Plan | str,
    base: Config,
    data: BrainData,
    out: str | Path = "result",
    k: int = 5,
    executor: str = "auto",
    **options: float,
) -> dict[str, CrossValidation]:
    """Train every variant of ``plan`` on each fold of ``lib.dataset.folds``.

    As with ``lib.sweep.sweep``, nothing is lost.

    Returns:
        Label -> its folds, the reference first; for ``lib.stats.compare_to_baseline``.

    Raises:
        KitError: k is below 2 or above the number of patients; a variant failed on a fold; or see
            ``sweep``.
    """
    plan = find_plan(plan)
    require_loaded(data)
    require_config(base)
    splits = [split.name for split in folds(data, k)]
    tasks = make_tasks(plan, base, data, as_path(out, "out").absolute(), splits=splits)
    train_tasks(tasks, data, out, executor, **options)
    runs, failures = outcome(tasks)
    if failures:
        label, why = next(iter(failures.items()))
        raise KitError(
            f"plan {plan.name}: {label} failed on a fold ({why}); the others are kept, mend it and "
            f"run this again"
        )
    return {label: CrossValidation(tuple(several)) for label, several in runs.items()}


def ensemble(
    members: Run | TrainedModel | Iterable[Run | TrainedModel],
    data: BrainData,
    patients: Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> Prediction:
    """Average the probabilities of several networks that were not trained on a patient.

    For the patients of a cross-validation one network is left. All of them vote on patients that
    none has seen.

    Args:
        members: runs, or networks from ``load_weights``. Their recipes may differ, but they must
            read the same images, and keep the same ``component`` of a mask.
        data, patients, out, batch_size: see ``lib.predict.predict``.

    Raises:
        KitError: no members; a network that does not say what it was trained on, reads other
            images, or keeps another component; a patient on whom all of them were trained; or see
            ``predict``.
    """
    require_batch_size(batch_size)
    several = [members] if isinstance(members, (Run, TrainedModel)) else members
    networks = [trained_model(member) for member in several]
    if not networks:
        raise KitError("ensemble: no network; train some first")
    if not all(network.trained_on for network in networks):
        raise KitError(
            "ensemble: a network does not say its training patients; use best.pt of a run"
        )
    names = check_patients(data, networks[0].config, patients)
    components = sorted({str(network.config.component) for network in networks})
    if len(components) > 1:
        raise KitError(
            f"ensemble: networks with component {' and '.join(components)}; their mean has one "
            f"mask: use networks that keep the same"
        )
    for network in networks[1:]:
        check_patients(data, network.config, names)
    seen = [(network, network.seen(data)) for network in networks]
    voters = {name: [network for network, those in seen if name not in those] for name in names}
    spoilt = [name for name in names if not voters[name]]
    if spoilt:
        raise KitError(
            f"ensemble: all {len(networks)} networks were trained on {spoilt[0]}, none can score "
            f"it; leave out {len(spoilt)} such patients, or add a network"
        )
    machine = prepare([trained.network for trained in networks], device, precision)
    tune_allocator(machine.device)
    volumes = _average(voters, data, machine, batch_size)
    return segment(volumes, data, networks[0].config, names, (), out)


def _average(
    voters: dict[str, list[TrainedModel]], data: BrainData, machine: Machine, batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (patient, mean probabilities of its networks on their grid)."""
    for name, networks in voters.items():
        volumes = (
            next(
                predict_volumes(trained.network, trained.config, data, (name,), machine, batch_size)
            )
            for trained in networks
        )
        yield name, np.mean([probabilities for _, probabilities in volumes], axis=0)
