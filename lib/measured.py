"""The runs of the reference that are finished, by the part that they belong to."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from pathlib import Path

from lib.config import REFERENCE, Config
from lib.crossval import CrossValidation
from lib.logger import Run
from lib.reference import CROSS_VALIDATION, PARTS, SCALES, base_of
from lib.utils import PROJECT, KitError

FOLDER = PROJECT / "result" / "reference"
Measured = dict[str, list[Run]]  # label of a variant -> its runs, the reference first


def measured(plan: str, scale: str, folder: Path = FOLDER) -> Measured:
    """The runs of a part of the reference, by fold and seed; empty unless all of it is finished.

    A run counts if its settings are those that the part has today.

    Raises:
        KitError: a variant was trained twice on the same patients with the same seed, e.g. by other code.
    """
    part = PARTS[plan]
    configs = part.plan.configs(base_of(part, scale))
    found = {label: [run for run in runs if label in configs and _recipe(run.config) == _recipe(configs[label])]
             for label, runs in _by_label(plan, scale, folder).items()}
    for label, runs in found.items():
        if len({(run.info["split"]["name"], run.config.seed) for run in runs}) < len(runs):
            raise KitError(f"{folder}: {plan}, {label} was trained more than once at scale {scale}; keep one run of "
                           f"each fold and seed: {', '.join(run.id for run in runs)}")
    complete = all(len(found.get(label, ())) == (part.folds or len(part.seeds) or 1) for label in configs)
    return {label: found[label] for label in configs} if complete else {}


def _recipe(config: Config) -> Config:
    """What the runs of a variant have in common, wherever they were trained."""
    return dataclasses.replace(config, split=REFERENCE.split, seed=REFERENCE.seed, device=REFERENCE.device)


def _by_label(plan: str, scale: str, folder: Path) -> Measured:
    found: Measured = defaultdict(list)
    for file in sorted(folder.glob("runs/*/run.json")):
        info = json.loads(file.read_text(encoding="utf-8"))
        for place in info.get("places", []):
            if (place["plan"], place.get("scale"), info["status"]) == (plan, scale, "finished"):
                found[place["label"]].append(Run(file.parent))
    for runs in found.values():
        runs.sort(key=lambda run: (run.info["split"]["name"], run.config.seed))
    return found


def cross_validated(folder: Path = FOLDER) -> tuple[str, dict[str, CrossValidation]]:
    """The largest scale at which recipes were cross-validated, and these recipes, the baseline first.

    Raises:
        KitError: there is none.
    """
    for scale in reversed(SCALES):
        if runs := measured(CROSS_VALIDATION, scale, folder):
            return scale, {label: CrossValidation(tuple(several)) for label, several in runs.items()}
    raise KitError(f"{folder}: no complete cross-validation there; python -m lib.sweep reference makes it")
