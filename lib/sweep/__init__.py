"""Sweep plans: train every variant of a question, or cross-validate it, and lose nothing.

The door is ``sweep``, or ``python -m lib.sweep PLAN``; start to read at ``plans.py``, then
``run.py``.
"""

from lib.sweep.crossval import CrossValidation, cross_validate, ensemble
from lib.sweep.measured import evidence, on_test_set, score
from lib.sweep.plans import PLANS, Plan, grid, random_plan
from lib.sweep.run import Sweep, sweep

__all__ = [
    "PLANS",
    "CrossValidation",
    "Plan",
    "Sweep",
    "cross_validate",
    "ensemble",
    "evidence",
    "grid",
    "on_test_set",
    "random_plan",
    "score",
    "sweep",
]
