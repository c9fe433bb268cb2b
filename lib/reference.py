"""What the kit measures on patients: the parts of ``python -m lib.sweep reference``, and the scale that they run at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lib.config import LADDER, REFERENCE, Config
from lib.plans import PLANS, Overrides, Plan


class Scale(NamedTuple):
    """How large the experiments are.

    Attributes:
        changes: of every recipe.
        weights: further changes of the recipes whose weights are to be used.
    """

    changes: Overrides
    weights: Overrides = MappingProxyType({})


SCALES: dict[str, Scale] = {
    # one core, six to twelve minutes a run, an hour for weights: a narrow network, small slices, and a larger rate for
    # the few steps
    "cpu": Scale({"image_size": 128, "init_features": 16, "epochs": 6, "lr": 1e-3}, {"epochs": 48}),
    # the same for longer, a quarter of an hour a run: for the cross-validation. Its weights are those of "cpu"
    "cpu-long": Scale({"image_size": 128, "init_features": 16, "epochs": 20, "lr": 1e-3}, {"epochs": 48}),
    # as published
    "gpu": Scale({}),
}

WEIGHTS, LADDER_PLAN, CROSS_VALIDATION, BASELINE = "pretrained", "best ladder", "best cross-validation", "baseline"
FOLDS = 5
_BEST = list(LADDER.values())[-1]


class Part(NamedTuple):
    """A plan of the reference and how it is trained.

    Attributes:
        changes: what all its variants have in common.
        seeds: each variant is trained with each of them; with the base's own by default.
        folds: every variant is cross-validated on so many; 0: it is trained on the base's split.
    """

    plan: Plan
    changes: Overrides = MappingProxyType({})
    seeds: tuple[int, ...] = ()
    folds: int = 0


PARTS: Mapping[str, Part] = {part.plan.name: part for part in (
    Part(Plan(WEIGHTS, "Weights to use: trained on all patients, the epoch fixed beforehand",
              {"baseline": {}, "best": _BEST}), {"split": "all"}),
    Part(Plan(BASELINE, "The published recipe as shipped, and with fresh sampling", PLANS["sampling"].variants),
         seeds=(42, 43, 44)),
    Part(Plan(LADDER_PLAN, "What is each step of the best recipe worth?",
              {rung: changes for rung, changes in LADDER.items() if "tta" not in changes}, ladder=True)),
    Part(Plan(CROSS_VALIDATION, "Is the best recipe better, on all patients?", {"baseline": {}, "best": _BEST}),
         folds=FOLDS),
    *(Part(plan, {"sampling": "fresh"}) for name, plan in PLANS.items()
      if name not in ("sampling", "network_wide", "coursework", "everything")),
)}
"""Name of the plan -> part, the cheapest first; the single questions of ``train.ipynb``, many runs, come last."""


def base_of(part: Part, scale: str, changes: Overrides = MappingProxyType({})) -> Config:
    """The recipe that the variants of a part change, at a scale of ``SCALES``.

    Args:
        changes: come last, e.g. to try a part with fewer epochs.
    """
    further = SCALES[scale].weights if part.plan.name == WEIGHTS else {}
    return dataclasses.replace(REFERENCE, **{**SCALES[scale].changes, **part.changes, **further, **changes})
