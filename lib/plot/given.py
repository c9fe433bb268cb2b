"""Check what a figure is given, so that an error says what to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from lib.evaluate import Calibration
from lib.logger import Run
from lib.predict import Prediction
from lib.stats import Spread
from lib.stats.scored import require_runs
from lib.utils import KitError, as_list

_ONE_RUN = "one run, e.g. of fit; sweep_curves({label: run}) draws several"
_CASES = "run.cases or prediction.cases"
_RUNS = 'label -> run, e.g. {"Dice": run}, or .runs of what sweep returns'


class Expected(NamedTuple):
    """Hold what a figure draws.

    Attributes:
        kind: of its first argument.
        remedy: where a student finds one.
        column: that a table has.
    """

    kind: type
    remedy: str
    column: str = ""


EXPECTED = {
    "among": Expected(Mapping, _RUNS),
    "calibration": Expected(Calibration, "what lib.evaluate.calibrate returns"),
    "curves": Expected(Run, _ONE_RUN),
    "disagreement": Expected(Mapping, "what lib.predict.most_different returns"),
    "dsc_bars": Expected(pd.DataFrame, _CASES, "patient"),
    "dsc_strips": Expected(Mapping, "label -> patient -> DSC, of each label a pandas.Series"),
    "forest": Expected(pd.DataFrame, "a table of lib.stats.compare_to_baseline", "verdict"),
    "lesion_sizes": Expected(pd.DataFrame, "prediction.lesions()", "kind"),
    "overlays": Expected(Prediction, "what lib.predict.predict returns"),
    "power_curve": Expected(Spread, "what lib.stats.spread returns"),
    "rate_range": Expected(Run, _ONE_RUN),
    "seeds_curves": Expected(Mapping, _RUNS),
    "size_against_dsc": Expected(pd.DataFrame, _CASES, "patient"),
    "sliding_mask": Expected(Mapping, 'label -> loss, e.g. {"Dice": DiceLoss()}'),
    "sweep_curves": Expected(Mapping, _RUNS),
    "sweep_scores": Expected(Mapping, _RUNS),
    "waterfall": Expected(pd.DataFrame, "a table of lib.stats.compare_ladder"),
}
"""Figure -> what it draws."""


def require_given(figure: str, given: object) -> None:
    """Raise ``KitError`` unless a figure is given what it draws, see ``EXPECTED``."""
    kind, remedy, column = EXPECTED[figure]
    if not isinstance(given, kind):
        raise KitError(
            f"{figure}: expected a {kind.__name__}, got a {type(given).__name__}; give {remedy}"
        )
    if isinstance(given, pd.DataFrame) and column and column not in given:
        raise KitError(f"{figure}: the table has no column {column!r}; give {remedy}")


def listed_runs(figure: str, given: Any, *needed: str) -> dict[str, list[Any]]:
    """Return label -> runs as a list.

    Args:
        given: label -> run, or its runs with several seeds.
        figure: its name, for the messages.
        needed: the attributes of a run that the figure draws.

    Raises:
        KitError: it is no such mapping.
    """
    require_given(figure, given)
    require_runs(given, figure, needed)
    return {str(label): as_list(runs) for label, runs in given.items()}


def some_runs(figure: str, given: Any, *needed: str) -> dict[str, list[Any]]:
    """Return the same as ``listed_runs``, of which there must be some of each label.

    Raises:
        KitError: there are none; or see ``listed_runs``.
    """
    listed = listed_runs(figure, given, *needed)
    empty = [label for label, runs in listed.items() if not runs]
    if empty or not listed:
        of = f" of {', '.join(empty)}" if empty else ""
        raise KitError(f"{figure}: no runs{of} to draw; train some first, or leave them out")
    return listed
