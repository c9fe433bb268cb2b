"""Cross-validation: every patient scored once, by a network that has not seen it; and the networks together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from lib.config import Config
from lib.dataset import BrainData, folds
from lib.evaluate import Machine, predict_volumes
from lib.logger import Run
from lib.metrics import Summary, summarise
from lib.predict import Prediction, check_patients, load_weights, prepare, segment
from lib.train import Epoch, fit
from lib.utils import KitError


@dataclass(frozen=True)
class CrossValidation:
    """The runs of all folds. ``lib.stats`` compares it like one run, over all patients.

    Each run's best epoch was chosen on the fold that it is scored on, so the DSC is a little too good.
    """

    config: Config
    runs: tuple[Run, ...]

    @cached_property
    def cases(self) -> pd.DataFrame:
        """A row per patient by name: its ``fold``, counted from 1, and what the run of that fold scored."""
        tables = [run.cases.assign(fold=number) for number, run in enumerate(self.runs, 1)]
        return pd.concat(tables).sort_values("patient", ignore_index=True)

    @cached_property
    def dsc(self) -> Summary:
        """Mean DSC over all patients, with its spread."""
        return summarise(self.cases["dsc"])

    def __str__(self) -> str:
        means = ", ".join(f"{run.dsc.mean:.3f}" for run in self.runs)
        return f"{len(self.runs)} folds, DSC {self.dsc}; fold by fold {means}"


def cross_validate(config: Config, data: BrainData, out: str | Path = "result", k: int = 5,
                   plan: str = "cross-validation", watch: Callable[[Epoch], None] | None = None) -> CrossValidation:
    """``fit`` once per fold of ``lib.dataset.folds``: finished folds are loaded, an interrupted one goes on.

    Args:
        config: its ``split`` is replaced by ``fold-1-of-k`` and so on.
        data, out, plan, watch: see ``lib.train.fit``.

    Raises:
        KitError: k below 2 or more than there are patients; or see ``fit``.
    """
    names = [split.name for split in folds(data, k)]
    return CrossValidation(config, tuple(fit(replace(config, split=name), data, out, plan, watch) for name in names))


def ensemble(members: Sequence[Run | nn.Module], data: BrainData, patients: Sequence[str] | None = None,
             out: str | Path | None = None, device: str = "auto", precision: str = "auto",
             batch_size: int = 16) -> Prediction:
    """Average the probabilities of several networks; for each patient only of those that have not learnt from it.

    So for the patients of a cross-validation one network is left, and all of them vote on patients that none has seen.

    Args:
        members: runs, or networks from ``load_weights``; their recipes may differ, the images they read must not.
        data, patients, out: see ``lib.predict.predict``.

    Raises:
        KitError: no members; one that does not say what it was trained on, or reads other images; a patient whom all of
            them were trained on; or see ``predict``.
    """
    networks = [member if isinstance(member, nn.Module) else load_weights(member.weights) for member in members]
    if not networks:
        raise KitError("ensemble: no network; train some first")
    if not all(network.trained_on for network in networks):
        raise KitError("ensemble: a network does not say which patients it was trained on; use best.pt of a run")
    for network in networks:
        names = check_patients(data, network.config, patients)
    voters = {name: [network for network in networks if name not in network.trained_on] for name in names}
    spoilt = [name for name in names if not voters[name]]
    if spoilt:
        raise KitError(f"ensemble: all {len(networks)} networks were trained on {spoilt[0]}, none can score it; leave "
                       f"out {len(spoilt)} such patients, or add a network")
    volumes = _average(voters, data, prepare(networks, device, precision), batch_size)
    return segment(volumes, data, networks[0].config, names, (), out)


def _average(voters: dict[str, list[nn.Module]], data: BrainData, machine: Machine,
             batch_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """(patient, mean probabilities of its networks on their grid)."""
    for name, networks in voters.items():
        volumes = (next(predict_volumes(network, data, (name,), machine, batch_size)) for network in networks)
        yield name, np.mean([probabilities for _, probabilities in volumes], axis=0)
