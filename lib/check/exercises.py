"""Check the exercises of the assignment."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

from lib.check import on_losses, on_networks, on_volumes
from lib.check.exercise import Try, attempt
from lib.notebook.course import read_course
from lib.runtime.trial import Check
from lib.utils import KitError

MODULE = "exercises"
EXERCISES: dict[str, Try] = {
    "DiceLoss": on_losses.dice_loss,
    "FocalTverskyLoss": on_losses.focal_tversky_loss,
    "dsc": on_volumes.dsc,
    "largest_component": on_volumes.largest_component,
    "DecoderStep": on_networks.decoder_step,
    "nested_node": on_networks.nested_node,
    "flip_average": on_networks.flip_average,
    "cosine": on_networks.cosine,
    "mirror": on_volumes.mirror,
    "split_by_patient": on_volumes.split_by_patient,
}
"""Name in ``exercises.py`` -> what tries it."""


def check_exercises(module: ModuleType, only: str = "") -> Iterator[Check]:
    """Yield the checks of each exercise that a module has, each up to the first that fails.

    One that the course hands out and that the module lacks fails, too, and so does one that the
    module takes from elsewhere: ``lib`` has some of them.

    Args:
        only: name of one exercise.

    Raises:
        KitError: it has no exercise, or not that one.
    """
    names = [name for name in EXERCISES if hasattr(module, name) and only in ("", name)]
    if not names:
        raise KitError(
            f"{module.__name__}: has no {only or 'exercise'}; there are {', '.join(EXERCISES)}"
        )
    handed_out = () if only else read_course().exercises
    for name, tries in EXERCISES.items():
        if name in names:
            yield from _checked(module, name, tries)
        elif name in handed_out:
            remedy = f"put it back into {module.__name__}.py, as it was handed out"
            yield Check(f"{name} is there", False, remedy)


def _checked(module: ModuleType, name: str, tries: Try) -> Iterator[Check]:
    """Yield the checks of one exercise, if its code is in the module."""
    answer = getattr(module, name)
    home = getattr(answer, "__module__", None)
    if home == module.__name__:
        yield from attempt(name, answer, tries)
    else:
        source = f"it comes from {home or 'elsewhere'}"
        remedy = f"{source}; write it in {module.__name__}.py yourself"
        yield Check(f"{name} is your own", False, remedy)


def load_exercises() -> ModuleType:
    """Import ``exercises.py`` of the current folder. Raises KitError if it cannot be."""
    try:
        return importlib.import_module(MODULE)
    except (Exception, SystemExit) as error:  # a student's file can be wrong in every way
        text = " ".join(str(error).split())[:200]
        raise KitError(
            f"{MODULE}.py: cannot be imported ({type(error).__name__}: {text}); correct that first"
        ) from None
