"""Score what needs no training: flips, two recipes together, other thresholds and components.

Command line: ``python -m maintain.postprocess --data DIR [--at cpu-long]``, after
``python -m maintain.reference`` has left the checkpoints of the cross-validation there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from lib.dataset import BrainData, load_data
from lib.evaluate import THRESHOLD, TrainedModel, predict_volumes
from lib.logger import to_csv
from lib.metrics import dsc, largest_component
from lib.predict import load_weights
from lib.runtime import CommandParser, Machine, deterministic, run_command
from lib.runtime.device import prepare
from lib.sweep import CrossValidation
from lib.utils import progress, write_atomic
from maintain.reference import FOLDER, SCALES, cross_validations

THRESHOLDS = tuple(np.round(np.arange(0.1, 1, 0.1), 1))


def heaviest_component(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Return the face-connected component with the largest sum of probabilities, bool.

    Args:
        threshold: voxels above it count.
    """
    mask = probabilities > threshold
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel(), probabilities.ravel())[1:]))


RULES: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "size": lambda probabilities, threshold: largest_component(probabilities > threshold),
    "mass": heaviest_component,
    "all": lambda probabilities, threshold: probabilities > threshold,
}
"""Rule -> mask of the components that it keeps: the largest (as published), heaviest, or all."""
PUBLISHED = ("size", THRESHOLD)
FLIPS, TOGETHER = "flips", "all together, flips"
POSTPROCESSING = "postprocessing-{}.csv"  # by scale


def score_rules(folds: Mapping[str, CrossValidation], data: BrainData) -> pd.DataFrame:
    """Score every patient by every rule and threshold, on the network's grid.

    The networks of the patient's fold predict: each recipe, each averaged over flips, and all of
    these together.

    Returns:
        A table with the columns ``recipe, fold, patient, rule, threshold, dsc``.
    """
    rows, total = [], sum(len(run.cases) for run in next(iter(folds.values())).runs)
    with deterministic(), progress(total=total, desc="rules", unit="patient") as bar:
        for runs in zip(*(each.runs for each in folds.values()), strict=True):
            networks = {
                label: load_weights(run.weights) for label, run in zip(folds, runs, strict=True)
            }
            machine = prepare([each.network for each in networks.values()], "auto", "auto")
            for patient in runs[0].cases["patient"]:
                truth = data.slices((patient,)).volume_masks()[0]
                rows += [
                    {
                        "recipe": recipe,
                        "fold": runs[0].info["split"]["name"],
                        "patient": patient,
                        "rule": rule,
                        "threshold": threshold,
                        "dsc": dsc(keep(probabilities, threshold), truth),
                    }
                    for recipe, probabilities in _predictions(
                        networks, data, patient, machine
                    ).items()
                    for rule, keep in RULES.items()
                    for threshold in THRESHOLDS
                ]
                bar.update()
    return pd.DataFrame(rows)


def _predictions(
    networks: Mapping[str, TrainedModel], data: BrainData, patient: str, machine: Machine
) -> dict[str, np.ndarray]:
    """Return recipe -> probabilities of a patient on the network's grid."""
    plain, flipped = (
        {
            label: next(
                predict_volumes(
                    each.network, replace(each.config, tta=tta), data, (patient,), machine
                )
            )[1]
            for label, each in networks.items()
        }
        for tta in (False, True)
    )
    return (
        plain
        | {f"{label}, {FLIPS}": each for label, each in flipped.items()}
        | {TOGETHER: np.mean(list(flipped.values()), axis=0)}
    )


def nested_choice(table: pd.DataFrame) -> pd.DataFrame:
    """Score the rule and threshold that are best on the other folds, fold by fold.

    Args:
        table: rows of ``score_rules`` of one recipe.

    Returns:
        A row per patient: ``fold, patient, rule, threshold, dsc``, and ``published``, its DSC as
        published.
    """
    scores = table.pivot(index=["fold", "patient"], columns=["rule", "threshold"], values="dsc")
    parts = []
    for fold, held_out in scores.groupby("fold"):
        means = scores.drop(fold, level="fold").mean()
        chosen = means.index[int(means.argmax())]
        rule, threshold = chosen
        columns = {
            "rule": rule,
            "threshold": threshold,
            "dsc": held_out[chosen],
            "published": held_out[PUBLISHED],
        }
        parts.append(pd.DataFrame(columns).reset_index())
    return pd.concat(parts, ignore_index=True)


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.postprocess", description="Score what needs no training."
    )
    parser.add_argument(
        "--data", required=True, help="Kaggle folder, a folder that contains it, or archive.zip"
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="of the reference (default: result/reference)"
    )
    parser.add_argument("--at", choices=list(SCALES), default="cpu-long", help="scale")
    arguments = parser.parse_args()
    folds = cross_validations(arguments.folder)[arguments.at]
    config = next(iter(folds.values())).config
    table = score_rules(folds, load_data(arguments.data, config.image_size, config.preprocessing))
    file = arguments.folder / POSTPROCESSING.format(arguments.at)
    write_atomic(file, to_csv(table))
    print(file)


if __name__ == "__main__":
    run_command(main)
