"""Draw the DSC of each patient as dots, a row per recipe, and how the recipes differ."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.logger import Run
from lib.plot.given import require_given, some_runs
from lib.plot.pixels import BLUE
from lib.plot.style import dsc_axis, legend_below, line_styles, side_by_side, styled
from lib.stats import paired_test
from lib.utils import KitError

MOST_PAIRED = 4  # rows between which patients are joined: with more, lines hide the dots
LONGEST_LINE, LINE = 28, 0.17  # of a recipe's label: characters; height in inches
BESIDE = 1.02  # right of the axis, where words begin


@styled
def dsc_strips(scores: Mapping[str, pd.Series]) -> Figure:
    """Draw the DSC of each patient, a row of dots per recipe, paired and compared with the first.

    A tick is the mean of a recipe, the dashed line that of the first. The bar is the 95 % CI of the
    mean difference to the first over the patients of both (``lib.stats.paired_test``); it knows
    nothing of seeds. Of few recipes the dots of a patient are joined.

    Args:
        scores: label -> patient -> DSC, without missing ones.

    Raises:
        KitError: nothing to draw, or other things than that.
    """
    require_given("dsc_strips", scores)
    if not scores:
        raise KitError("dsc_strips: no scores to draw; train some runs first")
    for label, values in scores.items():
        if not isinstance(values, pd.Series):
            raise KitError(
                f"dsc_strips: {label}: expected a pandas.Series of patient -> DSC, got a "
                f"{type(values).__name__}; give run.cases.set_index('patient')['dsc']"
            )
    figure, axis = plt.subplots(figsize=(10, 1.5 + _height(scores, 0.42)))
    draw_strips(axis, scores, [BLUE] * len(scores))
    axis.set_title("DSC of each patient at the best epoch")
    legend_below(figure, _handles(len(scores)), 3)
    return figure


@styled
def sweep_scores(runs: Mapping[str, Run | Sequence[Run]]) -> Figure:
    """Draw the validation DSC of a sweep's runs by epoch, and by patient at the best epoch.

    Args:
        runs: label -> run, or its runs with several seeds, of which the mean is drawn, up to the
            end of the shortest.

    Raises:
        KitError: nothing to draw, or no runs.
    """
    listed = some_runs("sweep_scores", runs, "history", "cases")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, max(3.4, 1.2 + _height(listed, 0.4))), width_ratios=(5, 4)
    )
    dsc_axis(left, "validation DSC per epoch")
    styles = line_styles(len(listed))
    for several, style in zip(listed.values(), styles, strict=True):
        history = side_by_side([run.history for run in several], "val_dsc").mean(axis=1)
        left.plot(history.index, history, marker=".", markersize=4, **style)
    scores = {label: _by_patient(several) for label, several in listed.items()}
    draw_strips(right, scores, [style["color"] for style in styles])
    right.set_title("per patient at the best epoch")
    lines = [Line2D([], [], label=label, **s) for label, s in zip(listed, styles, strict=True)]
    legend_below(figure, [*lines, *_handles(len(listed))], 4, handlelength=3)
    return figure


def draw_strips(axis: Axes, scores: Mapping[str, pd.Series], colours: Sequence[str]) -> None:
    """Draw the rows of ``dsc_strips`` on an axis, each in its colour, with words beside them."""
    rows = list(scores.values())
    first = rows[0]
    if len(rows) <= MOST_PAIRED:
        for place, (above, below) in enumerate(pairwise(rows)):
            _join(axis, place, above, below)
    for place, (values, colour) in enumerate(zip(rows, colours, strict=True)):
        axis.plot(values, np.full(len(values), place), "o", color=colour, markersize=6, alpha=0.5)
        mean = values.mean()
        axis.plot([mean] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2)
        words = f"{mean:.3f}"
        if place:
            words += f"   {_draw_difference(axis, place + 0.3, first, values)}"
        axis.text(BESIDE, place, words, transform=axis.get_yaxis_transform(), va="center")
    if len(rows) > 1:
        axis.axvline(first.mean(), color="black", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(rows)), _wrapped(scores))
    axis.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel="DSC")
    axis.grid(axis="y", visible=False)


def _wrapped(labels: Iterable[str]) -> list[str]:
    """Return labels in lines that leave room for the dots."""
    return [textwrap.fill(str(label), LONGEST_LINE) for label in labels]


def _height(labels: Iterable[str], row: float) -> float:
    """Return the height of all rows in inches.

    Args:
        row: the height of a row whose label has one line.
    """
    lines = [label.count("\n") for label in _wrapped(labels)]
    return len(lines) * (row + LINE * max(lines, default=0))


def _join(axis: Axes, place: int, above: pd.Series, below: pd.Series) -> None:
    """Join the dots of each patient in a row and the next."""
    both = above.index.intersection(below.index)
    ends = [[(above[name], place), (below[name], place + 1)] for name in both]
    axis.add_collection(LineCollection(ends, colors="grey", linewidths=0.7, alpha=0.5))


def _draw_difference(axis: Axes, height: float, first: pd.Series, values: pd.Series) -> str:
    """Draw the interval of the difference to the first recipe; return difference and interval."""
    differences = (values - first).dropna()
    if len(differences) < 2:
        return "no two patients in common"
    found = paired_test(differences)
    middle = first.mean()
    axis.plot([middle + found.low, middle + found.high], [height] * 2, color="black", linewidth=3)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _by_patient(runs: Sequence[Run]) -> pd.Series:
    """Return the DSC of each patient at the best epoch, the mean over runs with several seeds."""
    columns = [run.cases.set_index("patient")["dsc"] for run in runs]
    return pd.concat(columns, axis=1).mean(axis=1).dropna()


def _handles(rows: int) -> list[Line2D]:
    """Return the legend of what is drawn in so many rows."""
    tick = Line2D([], [], linestyle="", marker="|", color="black", markersize=14, label="mean")
    if rows == 1:
        return [tick]
    words = "95 % CI of the mean difference to the dashed line"
    return [tick, Line2D([], [], color="black", linewidth=3, label=words)]
