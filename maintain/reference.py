"""Train what the kit measures on patients: in parts, at a scale; and find what is finished.

Command line: ``python -m maintain.reference --at cpu --data DIR --out DIR [--only PART ...]``
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lib.config import LADDER, REFERENCE, Config
from lib.dataset import BrainData, folds
from lib.logger import Run, require_sound
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import RESUMES, changed_fields
from lib.sweep import PLANS, CrossValidation, Plan
from lib.sweep.__main__ import add_sweep_arguments, end, executor_options, load
from lib.sweep.plans import Overrides
from lib.sweep.run import cost_of, outcome, train_tasks
from lib.sweep.task import Task, make_tasks
from lib.utils import PROJECT, KitError


class Scale(NamedTuple):
    """Hold how large the experiments are.

    Attributes:
        changes: of every recipe.
        weights: further changes of the recipes whose weights are to be used.
    """

    changes: Overrides
    weights: Overrides = MappingProxyType({})


SCALES: dict[str, Scale] = {
    # one core, six to twelve minutes a run, an hour for weights: a narrow network, small slices,
    # and a larger rate for the few steps
    "cpu": Scale({"image_size": 128, "init_features": 16, "epochs": 6, "lr": 1e-3}, {"epochs": 48}),
    # the same for longer, a quarter of an hour a run: for the cross-validation. Its weights are
    # those of "cpu"
    "cpu-long": Scale(
        {"image_size": 128, "init_features": 16, "epochs": 20, "lr": 1e-3}, {"epochs": 48}
    ),
    # full size, 20 epochs: a minute and a half a run on an H200. Weights are trained for 40
    "gpu-20": Scale({"epochs": 20}, {"epochs": 40}),
    # as published
    "gpu": Scale({}),
}

WEIGHTS, LADDER_PLAN, LADDER_FOLDS, CROSS_VALIDATION, BASELINE = (
    "pretrained",
    "best ladder",
    "ladder cross-validation",
    "best cross-validation",
    "baseline",
)
FOLDS = 5
_BEST = list(LADDER.values())[-1]
_TRAINED_STEPS = {step: changes for step, changes in LADDER.items() if "tta" not in changes}
FOLDER = PROJECT / "result" / "reference"
Measured = dict[str, list[Run]]  # label of a variant -> its runs, the reference first


class Part(NamedTuple):
    """Hold a plan of the reference and how it is trained.

    Attributes:
        changes: what all its variants have in common.
        seeds: each variant is trained with each of them; by default with the base's own.
        folds: every variant is cross-validated on so many; 0: it is trained on the base's split.
    """

    plan: Plan
    changes: Overrides = MappingProxyType({})
    seeds: tuple[int, ...] = ()
    folds: int = 0


PARTS: Mapping[str, Part] = {
    part.plan.name: part
    for part in (
        Part(
            Plan(
                WEIGHTS,
                "Weights to use: trained on all patients, the epoch fixed beforehand",
                {"baseline": {}, "best": _BEST},
            ),
            {"split": "all"},
        ),
        Part(
            Plan(
                BASELINE,
                "The published recipe as shipped, and with fresh sampling",
                PLANS["sampling"].variants,
            ),
            seeds=(42, 43, 44),
        ),
        Part(
            Plan(
                LADDER_PLAN,
                "What is each step of the best recipe worth?",
                _TRAINED_STEPS,
                ladder=True,
                table="best",
            )
        ),
        Part(
            Plan(
                CROSS_VALIDATION,
                "Is the best recipe better, on all patients?",
                {"baseline": {}, "best": _BEST},
                table="best",
            ),
            folds=FOLDS,
        ),
        Part(
            Plan(
                LADDER_FOLDS,
                "What is each step of the best recipe worth, on all patients?",
                _TRAINED_STEPS,
                ladder=True,
                table="best",
            ),
            folds=FOLDS,
        ),
        *(
            Part(plan, {"sampling": "fresh"})
            for name, plan in PLANS.items()
            if name not in ("sampling", "network_wide", "coursework", "everything")
        ),
    )
}
"""Name of the plan -> part, the cheapest first.

The single questions of ``train.ipynb``, many runs, come last."""


def base_of(part: Part, scale: str, changes: Overrides = MappingProxyType({})) -> Config:
    """Return the recipe that the variants of a part change, at a scale of ``SCALES``.

    Args:
        changes: come last, e.g. to try a part with fewer epochs.
    """
    further = SCALES[scale].weights if part.plan.name == WEIGHTS else {}
    return dataclasses.replace(
        REFERENCE, **{**SCALES[scale].changes, **part.changes, **further, **changes}
    )


def part_tasks(
    part: Part,
    data: BrainData,
    out: str | Path,
    scale: str,
    changes: Overrides = MappingProxyType({}),
) -> list[Task]:
    """Return the runs of a part of the reference.

    Args:
        scale, changes: see ``base_of``. Runs with changes do not count as measured at that scale.
    """
    splits = [split.name for split in folds(data, part.folds)] if part.folds else ()
    return make_tasks(
        part.plan,
        base_of(part, scale, changes),
        data,
        Path(out).absolute(),
        part.seeds,
        splits,
        "" if changes else scale,
    )


# --- what is finished -----------------------------------------------------------------------------


def measured(plan: str, scale: str, folder: Path = FOLDER) -> Measured:
    """Return the runs of a part by fold and seed, if all are finished.

    A run counts if it was made at this scale, for whatever part, and its settings are those that
    the part has today.

    Raises:
        KitError: a variant was trained twice on the same patients with the same seed, e.g. by other
            code.
    """
    part = PARTS[plan]
    base = base_of(part, scale)
    seeds = part.seeds or (base.seed,)
    splits = [f"fold-{i}-of-{part.folds}" for i in range(1, 1 + part.folds)] or [base.split]
    there = [
        run
        for run in _finished(scale, folder)
        if run.config.split in splits and run.config.seed in seeds
    ]
    found: Measured = {}
    for label, config in part.plan.configs(base).items():
        found[label] = runs = [run for run in there if _recipe(run.config) == _recipe(config)]
        if len({(run.config.split, run.config.seed) for run in runs}) < len(runs):
            raise KitError(
                f"{folder}: {plan}, {label} was trained more than once at scale {scale}; keep one "
                f"run of each fold and seed: {', '.join(run.id for run in runs)}"
            )
    complete = all(len(runs) == len(splits) * len(seeds) for runs in found.values())
    return found if complete else {}


def _recipe(config: Config) -> Config:
    """Return what the runs of a variant have in common, wherever they were trained."""
    return dataclasses.replace(
        config, split=REFERENCE.split, seed=REFERENCE.seed, device=REFERENCE.device
    )


def _finished(scale: str, folder: Path) -> list[Run]:
    """Return the finished runs of a scale, by fold and seed."""
    found = []
    for file in sorted(folder.glob("runs/*/run.json")):
        run = Run(file.parent)
        scales = {place.get("scale") for place in run.info.get("places", [])}
        if scale in scales and run.info["status"] == "finished":
            require_sound(run)
            found.append(run)
    return sorted(found, key=lambda run: (run.config.split, run.config.seed))


def cross_validated(folder: Path = FOLDER) -> tuple[str, dict[str, CrossValidation]]:
    """Return the largest scale with a cross-validation, and its recipes, the baseline first.

    Raises:
        KitError: there is none.
    """
    return list(cross_validations(folder).items())[-1]


def cross_validations(folder: Path = FOLDER) -> dict[str, dict[str, CrossValidation]]:
    """Return scale -> recipe -> its complete cross-validation, the smallest scale first.

    Raises:
        KitError: there is none.
    """
    found = {
        scale: {label: CrossValidation(tuple(several)) for label, several in runs.items()}
        for scale in SCALES
        if (runs := measured(CROSS_VALIDATION, scale, folder))
    }
    if not found:
        raise KitError(
            f"{folder}: no complete cross-validation there; python -m maintain.reference makes it"
        )
    return found


# --- command line ---------------------------------------------------------------------------------


def main() -> None:
    """Run the command line."""
    smallest = next(iter(SCALES))
    parser = CommandParser(
        prog="python -m maintain.reference",
        description=f"Train all that the kit measures on patients: {', '.join(PARTS)}.",
    )
    parser.add_argument(
        "--at", choices=list(SCALES), default=smallest, help=f"scale (default: {smallest})"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="PART", default=list(PARTS), help="these parts (default: all)"
    )
    add_sweep_arguments(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.only).difference(PARTS):
        raise KitError(
            f"part {min(unknown)!r} of the reference is unknown; use some of {', '.join(PARTS)}"
        )
    end(_train_parts([part for name, part in PARTS.items() if name in arguments.only], arguments))


def _train_parts(parts: list[Part], arguments: argparse.Namespace) -> dict[str, str]:
    """Train these parts, or only print what they would cost.

    Returns:
        Label -> why it failed.
    """
    changes = changed_fields(arguments)
    data = load(arguments, base_of(parts[0], arguments.at, changes))
    failures: dict[str, str] = {}
    for part in parts:
        print(f"\n{part.plan.name}: {part.plan.question}")
        tasks = part_tasks(part, data, arguments.out, arguments.at, changes)
        if arguments.dry_run:
            print(cost_of(tasks, data))
            continue
        train_tasks(tasks, data, arguments.out, arguments.executor, **executor_options(arguments))
        try:
            failures |= {
                f"{part.plan.name}, {label}": why for label, why in outcome(tasks)[1].items()
            }
        except KitError as error:  # there is no reference; the other parts do not depend on it
            failures[part.plan.name] = str(error)
    return failures


if __name__ == "__main__":
    run_command(main, RESUMES)
