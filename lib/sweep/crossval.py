"""Cross-validation: every patient scored once, by a network that has not seen it; and the networks together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import Config
from lib.dataset import BrainData, folds
from lib.evaluate import BATCH_SIZE, TrainedModel, predict_volumes
from lib.logger import Run
from lib.metrics import Summary, summarise
from lib.predict import Prediction, check_patients, load_weights, segment
from lib.runtime import Machine, tune_allocator
from lib.runtime.device import prepare
from lib.sweep.plans import Plan
from lib.sweep.run import outcome, train_tasks
from lib.sweep.task import make_tasks
from lib.utils import KitError


@dataclass(frozen=True)
class CrossValidation:
    """The runs of all folds of a recipe. ``lib.stats`` compares it like one run, over all patients.

    Each run's best epoch was chosen on the fold that it is scored on, so the DSC is a little too
    good.
    """

    runs: tuple[Run, ...]

    @property
    def config(self) -> Config:
        """The recipe, with the split of the first fold."""
        return self.runs[0].config

    @cached_property
    def cases(self) -> pd.DataFrame:
        """A row per patient by name: its ``fold``, as the split is named, and what the run of that fold scored."""
        tables = [run.cases.assign(fold=run.info["split"]["name"]) for run in self.runs]
        return pd.concat(tables).sort_values("patient", ignore_index=True)

    @cached_property
    def dsc(self) -> Summary:
        """Mean DSC over all patients, with its spread."""
        return summarise(self.cases["dsc"])

    def __str__(self) -> str:
        means = ", ".join(f"{run.dsc.mean:.3f}" for run in self.runs)
        return f"{len(self.runs)} folds, DSC {self.dsc}; fold by fold {means}"


def cross_validate(
    plan: Plan,
    base: Config,
    data: BrainData,
    out: str | Path = "result",
    k: int = 5,
    executor: str = "local",
    **options: float,
) -> dict[str, CrossValidation]:
    """Train every variant of ``plan`` on each fold of ``lib.dataset.folds``; as ``lib.sweep.sweep``, nothing is lost.

    Returns:
        Label -> its folds, the reference first; for ``lib.stats.verdicts``.

    Raises:
        KitError: k below 2 or more than there are patients; a variant that failed on a fold; or see
        ``sweep``.
    """
    splits = [split.name for split in folds(data, k)]
    tasks = make_tasks(plan, base, data, Path(out).absolute(), splits=splits)
    train_tasks(tasks, data, out, executor, **options)
    runs, failures = outcome(tasks)
    if failures:
        label, why = next(iter(failures.items()))
        raise KitError(
            f"plan {plan.name}: {label} failed on a fold ({why}); the others are kept, mend it and run this "
            f"again"
        )
    return {label: CrossValidation(tuple(several)) for label, several in runs.items()}


def ensemble(
    members: Sequence[Run | TrainedModel],
    data: BrainData,
    patients: Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> Prediction:
    """Average the probabilities of several networks; for each patient only of those that have not learnt from it.

    So for the patients of a cross-validation one network is left, and all of them vote on patients
    that none has seen.

    Args:
        members: runs, or networks from ``load_weights``; their recipes may differ, the images they
        read must not.
        data, patients, out: see ``lib.predict.predict``.

    Raises:
        KitError: no members; one that does not say what it was trained on, or reads other images; a
            patient whom all of them were trained on; or see ``predict``.
    """
    networks = [
        member if isinstance(member, TrainedModel) else load_weights(member.weights)
        for member in members
    ]
    if not networks:
        raise KitError("ensemble: no network; train some first")
    if not all(network.trained_on for network in networks):
        raise KitError(
            "ensemble: a network does not say which patients it was trained on; use best.pt of a run"
        )
    for network in networks:
        names = check_patients(data, network.config, patients)
    voters = {
        name: [network for network in networks if name not in network.trained_on] for name in names
    }
    spoilt = [name for name in names if not voters[name]]
    if spoilt:
        raise KitError(
            f"ensemble: all {len(networks)} networks were trained on {spoilt[0]}, none can score it; leave "
            f"out {len(spoilt)} such patients, or add a network"
        )
    machine = prepare([trained.network for trained in networks], device, precision)
    tune_allocator(machine.device)
    volumes = _average(voters, data, machine, batch_size)
    return segment(volumes, data, networks[0].config, names, (), out)


def _average(
    voters: dict[str, list[TrainedModel]], data: BrainData, machine: Machine, batch_size: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(patient, mean probabilities of its networks on their grid)."""
    for name, networks in voters.items():
        volumes = (
            next(
                predict_volumes(trained.network, trained.config, data, (name,), machine, batch_size)
            )
            for trained in networks
        )
        yield name, np.mean([probabilities for _, probabilities in volumes], axis=0)
