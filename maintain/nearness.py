"""Measure how far honest runs are apart, and how near copies are that were altered.

Command line: ``python -m maintain.nearness [RESULTS]``. It reads the runs of ``maintain.evidence``
in that folder and the tables in ``result/reference/phantom``, and writes
``result/reference/nearness.csv``. Of that it makes the table in the instructors' guide, without a
folder only that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lib.dataset import BrainData, load_data
from lib.evaluate import score_cases
from lib.grade.nearness import (
    FEWEST,
    NEAR_DSC,
    NEAR_SHAPES,
    NEAR_WEIGHTS,
    shapes,
    sketch,
    weights_distance,
)
from lib.logger import Run, finished_runs, to_csv
from lib.loss import DiceLoss
from lib.metrics import Counts
from lib.phantom import PHANTOM_FOLDER
from lib.predict import load_weights
from lib.runtime import CommandParser, deterministic, run_command
from lib.runtime.device import prepare
from lib.stats.scored import AFTER_TRAINING
from lib.sweep.measured import BASE, FOLDER
from lib.utils import PROJECT, progress, write_atomic
from maintain.evidence import read_tables
from maintain.results import markdown, with_block

TABLE = PROJECT / "result" / "reference" / "nearness.csv"
GUIDE = PROJECT / "docs" / "instructors.md"
COMMAND = "python -m maintain.nearness"
PATIENTS, DRAWS = (5, 10, 30), 200  # patients of an assignment; how often they are drawn for a pair
COPIED = 3  # runs of which copies are made
SKETCHES = {"weights": (sketch, NEAR_WEIGHTS), "shapes": (shapes, NEAR_SHAPES)}
Row = dict[str, Any]


def summary(group: str, what: str, distances: Sequence[float], limit: float) -> Row:
    """Return a row of the table: how far apart are the members of pairs?"""
    return {
        "group": group,
        "what": what,
        "pairs": len(distances),
        "smallest": min(distances),
        "median": float(np.median(distances)),
        "largest": max(distances),
        "near": sum(distance <= limit for distance in distances),
    }


# --- honest runs ----------------------------------------------------------------------------------


def between_weights(runs: Sequence[Run]) -> Iterator[Row]:
    """Yield the distances of weights and shapes: same training, same seed, neither."""
    for name, (draw, limit) in SKETCHES.items():
        drawn = {run.id: draw(load_weights(run.weights).network.state_dict()) for run in runs}
        groups: dict[str, list[float]] = {}
        for one, other in combinations(runs, 2):
            distance = weights_distance(drawn[one.id], drawn[other.id])
            groups.setdefault(f"{name}, {_relation(one, other)}", []).append(distance)
        for kind, distances in sorted(groups.items()):
            yield summary("honest", kind, distances, limit)


def _relation(one: Run, other: Run) -> str:
    """Return what two runs have in common."""
    if replace(one.config, **AFTER_TRAINING) == replace(other.config, **AFTER_TRAINING):
        return "one training scored in two ways"
    return "two recipes of one seed" if one.config.seed == other.config.seed else "two seeds"


def between_scores(folder: Path = FOLDER) -> Iterator[Row]:
    """Yield the differences of DSC between runs of two seeds, for several numbers of patients."""
    truth = pd.read_csv(folder / "tumour_voxels.csv", index_col="patient")["voxels"]
    scores: dict[tuple[str, int], np.ndarray] = {}
    for (recipe, seed, epoch), counts in read_tables(folder).items():
        if epoch == "best":
            found = [counts[name] for name in truth.index]
            dsc = [
                Counts(tp, predicted - tp, int(voxels) - tp).dsc
                for (tp, predicted), voxels in zip(found, truth, strict=True)
            ]
            scores[recipe, seed] = np.array(dsc)
    pairs = [pair for pair in combinations(scores, 2) if pair[0][1] != pair[1][1]]
    rng = np.random.default_rng(0)
    for number in PATIENTS:
        distances = []
        for one, other in pairs:
            first, second = scores[one], scores[other]
            tells = ~((first == second) & np.isin(first, (0, 1)))
            for _ in range(DRAWS):
                drawn = rng.choice(len(first), number, replace=False)
                # a grader has as many perturbed ones, which these tables lack
                if tells[drawn].sum() >= min(FEWEST, number):
                    distances.append(float(np.abs(first - second)[drawn].max()))
        yield summary("honest", f"DSC of {number} patients, two seeds", distances, NEAR_DSC)


# --- copies ---------------------------------------------------------------------------------------


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[nn.Module], None]:
    """Return what changes every convolution of a network."""

    def alter(network: nn.Module) -> None:
        with torch.no_grad():
            for tensor in network.parameters():
                if tensor.ndim > 1:
                    tensor.copy_(change(tensor))

    return alter


def _noise(share: float) -> Callable[[nn.Module], None]:
    return _each(lambda tensor: tensor * (1 + share * torch.randn(tensor.shape)))


def _last_bias(network: nn.Module) -> None:
    """Move the bias of the output."""
    *_, bias = (tensor for tensor in network.parameters() if tensor.shape == (1,))
    with torch.no_grad():
        bias += 0.03


def _double(network: nn.Module) -> None:
    """Double every convolution that a normalisation follows."""
    with torch.no_grad():
        for module, behind in pairwise(network.modules()):
            if isinstance(module, nn.Conv2d) and isinstance(behind, nn.BatchNorm2d):
                module.weight *= 2
                behind.running_mean *= 2
                behind.running_var *= 4


def _mirror(network: nn.Module) -> None:
    """Mirror every kernel: the network finds as much as before, in mirrored images."""
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim == 4:
                tensor.copy_(tensor.flip(3))


def _trained(data: BrainData, patients: Sequence[str], steps: int) -> Callable[[nn.Module], None]:
    """Return what trains a network further, on the slices of patients in any order."""

    def alter(network: nn.Module) -> None:
        slices, loss = data.slices(tuple(patients)), DiceLoss()
        optimiser = torch.optim.Adam(network.parameters(), BASE.lr)
        rng = np.random.default_rng(0)
        network.train()
        for _ in range(steps):
            images, masks = slices.batch(rng.choice(len(slices), BASE.batch_size, replace=False))
            optimiser.zero_grad()
            loss(network(images), masks).backward()
            optimiser.step()
        network.eval()

    return alter


def copies(runs: Sequence[Run], data: BrainData) -> Iterator[Row]:
    """Yield how near altered copies are to their originals: weights, and DSC of ten patients."""
    ways: Mapping[str, Callable[[nn.Module], None]] = {
        "noise of 0.1 %": _noise(0.001),
        "noise of 1 %": _noise(0.01),
        "noise of 5 %": _noise(0.05),
        "last bias + 0.03": _last_bias,
        "convolutions doubled before a normalisation": _double,
        "kernels mirrored": _mirror,
        "ten further steps": _trained(data, runs[0].info["split"]["train"], 10),
        "an epoch of further training": _trained(data, runs[0].info["split"]["train"], 40),
    }
    for way, alter in progress(ways.items(), desc="copies"):
        scores: list[float] = []
        distances: dict[str, list[float]] = {name: [] for name in SKETCHES}
        for run in runs:
            torch.manual_seed(run.config.seed)
            trained = load_weights(run.weights)
            altered = copy.deepcopy(trained.network)
            alter(altered)
            for name, (draw, _) in SKETCHES.items():
                pair = [draw(network.state_dict()) for network in (trained.network, altered)]
                distances[name].append(weights_distance(*pair))
            before, after = (_dsc(network, run, data) for network in (trained.network, altered))
            scores.append(float(np.abs(before - after).max()))
        for name, (_, limit) in SKETCHES.items():
            yield summary("copy", f"{name}, {way}", distances[name], limit)
        yield summary("copy", f"DSC of 10 patients, {way}", scores, NEAR_DSC)


def _dsc(network: nn.Module, run: Run, data: BrainData) -> np.ndarray:
    """Return the DSC of the first ten validation patients."""
    patients = run.info["split"]["validation"][:10]
    with deterministic():
        machine = prepare([network], "cpu", "fp32")
        rows = score_cases(network, run.config, data, patients, machine)
    return np.array([row["dsc"] for row in rows])


# --- output ---------------------------------------------------------------------------------------


def made() -> str:
    """Return the table of the guide."""
    table = pd.read_csv(TABLE)
    counted = table.astype({"pairs": object, "near": object})  # whole numbers stay whole
    return markdown(counted.set_index("what").drop(columns="group").rename_axis(None))


def main() -> None:
    """Run the command line."""
    parser = CommandParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="?", type=Path)
    if (results := parser.parse_args().results) is not None:
        data = load_data(PHANTOM_FOLDER, BASE.image_size)
        runs = [run for run in finished_runs(results) if run.config.model == BASE.model]
        originals = [run for run in runs if run.config.seed < 42 + COPIED][:COPIED]
        rows = [*between_weights(runs), *between_scores(), *copies(originals, data)]
        write_atomic(TABLE, to_csv(pd.DataFrame(rows)))
    guide = GUIDE.read_text(encoding="utf-8")
    write_atomic(GUIDE, with_block(guide, made(), COMMAND))


if __name__ == "__main__":
    run_command(main)
