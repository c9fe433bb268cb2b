"""Draw what the steps of a ladder add, and which differences a sweep can find."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib.plot.given import require_given
from lib.plot.pixels import SKY
from lib.plot.style import VERDICT_COLOURS, line_styles, styled
from lib.stats import Spread, power, smallest_difference
from lib.stats.verdicts import POWER
from lib.stats.words import candidates_in_words
from lib.utils import KitError

BESIDE = 1.02  # right of the axis, where words begin
HEIGHT = 0.55  # of a bar, as a share of its row
POINTS = 41  # of a power curve


@styled
def waterfall(table: pd.DataFrame) -> Figure:
    """Draw a ladder as a waterfall: where it starts, what each step adds, where it ends.

    The bar of a step begins at the mean of the step before. Its colour is that of the verdict, its
    whisker the 95 % CI of the difference.

    Args:
        table: from ``lib.stats.compare_ladder``.

    Raises:
        KitError: no step, or a table of another kind.
    """
    require_given("waterfall", table)
    if "compared with" not in table or table.empty:
        raise KitError("waterfall: no steps to show; give a table of lib.stats.compare_ladder")
    name = next(column for column in table if column.startswith("mean "))
    table = table.assign(start=table[name] - table["difference"], end=table[name])
    first, top = table["start"].iloc[0], table["end"].iloc[-1]
    left, right = _limits(table)
    figure, axis = plt.subplots(figsize=(10, 1.3 + 0.45 * (len(table) + 2)))
    for place, row in enumerate(table.to_dict("records"), 1):
        _draw_step(axis, place, row)
    gain = f"{top:.3f}   {top - first:+.3f} to the first"
    for place, mean, words in ((0, first, f"{first:.3f}"), (len(table) + 1, top, gain)):
        axis.barh(place, mean - left, HEIGHT, left, color=SKY)
        _write(axis, place, words, "black")
    for place, mean in enumerate([first, *table["end"]]):
        edges = [place + HEIGHT / 2, place + 1 - HEIGHT / 2]
        axis.plot([mean, mean], edges, color="black", linewidth=1)
    labels = [table["compared with"].iloc[0], *("+ " + table["label"]), "all steps"]
    axis.set_yticks(range(len(labels)), labels)
    axis.set(
        xlim=(left, right),
        ylim=(len(labels) - 0.5, -0.5),
        xlabel=f"{name} over patients (the axis does not begin at 0)",
        title=f"what each step adds, with 95 % CI, {table['patients'].iloc[0]} patients "
        f"(verdicts corrected by Holm)",
    )
    axis.grid(axis="y", visible=False)
    return figure


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Return the limits of an axis with all means and intervals, and room for the first bar."""
    start = table["start"]
    values = pd.concat([start, table["end"], start + table["CI low"], start + table["CI high"]])
    low, high = values.min(), values.max()
    span = max(high - low, 0.01)
    return low - 0.15 * span, high + 0.05 * span


def _draw_step(axis: Axes, place: int, row: Mapping[str, Any]) -> None:
    """Draw the bar of a step, its whisker, and its difference and verdict in words."""
    colour, start = VERDICT_COLOURS[row["verdict"]], row["start"]
    face, edge = to_rgba(colour, 0.4), to_rgba(colour)
    axis.barh(place, row["difference"], HEIGHT, start, color=[face], edgecolor=[edge])
    ends = [start + row["CI low"], start + row["CI high"]]
    if np.isfinite(ends).all():  # a single patient has no interval
        axis.plot(ends, [place, place], "|-", color="black", linewidth=1.5, markersize=9)
    _write(axis, place, f"{row['difference']:+.3f}   {row['verdict']}", colour)


def _write(axis: Axes, place: int, words: str, colour: str) -> None:
    """Write words beside a row, right of the axis."""
    transform = axis.get_yaxis_transform()
    axis.text(BESIDE, place, words, transform=transform, va="center", color=colour)


@styled
def power_curve(
    spread: Spread,
    seeds: int | Iterable[int],
    patients: int,
    candidates: int = 1,
    seen: float | None = None,
) -> Figure:
    """Draw the chance of a verdict against the true difference, before a sweep or after it.

    A dot is the smallest difference that is found with 80 % power.

    Args:
        spread: from ``lib.stats.spread``.
        seeds: runs of each recipe, or several such numbers, a curve each.
        patients, candidates: see ``lib.stats.power``.
        seen: a difference that was measured, to be marked.

    Raises:
        KitError: no number of runs, or one below 2; or another number out of range.
    """
    require_given("power_curve", spread)
    numbers = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if not numbers or (seen is not None and not math.isfinite(seen)):
        raise KitError(
            f"power_curve: runs {numbers}, seen {seen}; give a number of runs of each recipe, e.g. "
            f"(3, 5, 10), and a finite difference or none"
        )
    smallest = [smallest_difference(spread, runs, patients, candidates) for runs in numbers]
    # two runs find so little that their curve would squeeze the others: it may leave the axis
    end = max(min(1.3 * max(smallest), 4 * min(smallest), 1.0), 1.1 * abs(seen or 0))
    figure, axis = plt.subplots(figsize=(10, 4))
    differences = np.linspace(0, end, POINTS)
    for runs, found, style in zip(numbers, smallest, line_styles(len(numbers)), strict=True):
        chances = [power(spread, runs, patients, x, candidates) for x in differences]
        if math.isfinite(found):
            label = f"{runs} runs of each: 80 % from {found:.3f}"
            axis.plot(found, POWER, "o", color=style["color"], markersize=8)
        else:
            label = f"{runs} runs of each: never 80 %"
        axis.plot(differences, chances, label=label, **style)
    if seen is not None:
        words = f"difference seen: {seen:+.3f}"
        axis.axvline(abs(seen), color="dimgrey", linestyle="--", label=words)
    axis.set_xlim(0, end)
    _label_power(axis, patients, candidates)
    return figure


def _label_power(axis: Axes, patients: int, candidates: int) -> None:
    """Label the axes of power against a difference, and draw the line at 80 %."""
    axis.axhline(POWER, color="black", linestyle=":", linewidth=1)
    axis.set(
        title=f"what a sweep can find, {patients} patients, {candidates_in_words(candidates)}",
        xlabel="true difference in mean DSC, up or down",
        ylabel="chance of finding it (power)",
        ylim=(0, 1.02),
    )
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
