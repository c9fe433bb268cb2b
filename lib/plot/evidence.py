"""Draw your runs among the reference runs of a question, with verdicts and their power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.plot.given import listed_runs
from lib.plot.pixels import ORANGE
from lib.plot.style import VERDICT_COLOURS, legend_below, styled, were_trained_on
from lib.stats import Runs, Scored, compare_to_baseline, detectable
from lib.stats.words import runs_in_words, span
from lib.utils import KitError

REFERENCE_RUN = "darkgrey"
YOUR_STYLE: Any = {
    "color": ORANGE,
    "markeredgecolor": "black",
    "markersize": 9,
    "clip_on": False,
    "zorder": 4,
}
LANES = (0, 1, -1, 2, -2)  # lines of dots in a recipe's row, the middle one first
DOT, YOUR_DOT = 0.016, 0.026  # width of a dot, as a share of the axis
BESIDE = 1.02  # right of the axis, where words begin


class _Row(NamedTuple):
    """Hold the mean DSC of each run of a recipe, and its comparison with the baseline, if any."""

    label: str
    theirs: np.ndarray
    yours: np.ndarray
    comparison: dict[str, Any] | None

    @property
    def mean(self) -> float:
        """Return the mean of the reference runs, as the comparison has it."""
        found = self.comparison
        return float(self.theirs.mean()) if found is None else found["mean DSC"]

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % CI of the recipe's mean, if the baseline's is known; NaN for none."""
        found = self.comparison
        if found is None:
            return math.nan, math.nan
        baseline = found["mean DSC"] - found["difference"]
        return baseline + found["CI low"], baseline + found["CI high"]

    @property
    def words(self) -> str:
        """Return mean, difference and verdict."""
        found = self.comparison
        mean = f"{self.mean:.3f}"
        if found is None:
            return mean
        return f"{mean}   {found['difference']:+.3f}   {found['verdict']}"

    @property
    def colour(self) -> str:
        """Return the colour of the verdict."""
        return VERDICT_COLOURS[self.comparison["verdict"]] if self.comparison else "black"


@styled
def among(mine: Mapping[str, Runs], reference: Mapping[str, Runs]) -> Figure:
    """Draw your runs among the reference runs of a question, a row per recipe.

    A dot is the mean DSC of a run over its patients. The dashed line is the mean of the baseline's
    reference runs; a tick is as far from it as the recipe differs, the bar is the 95 % CI of that.
    Mean, difference and verdict are written beside it, see ``lib.stats.compare_to_baseline``. Runs
    of yours that are far off are an arrow at the edge, with their mean.

    Args:
        mine: label -> your run, or runs with several seeds; may lack labels. If they were scored on
            other patients than the reference runs, or at another size, the title says so. Patients
            trained on do not count.
        reference: label -> run, or runs with several seeds, e.g. ``lib.sweep.evidence(plan)``. The
            first is the baseline.

    Raises:
        KitError: no reference run, a label that has none, or a run without scores; or see
            ``lib.stats.compare_to_baseline``.
    """
    theirs: dict[str, list[Scored]] = listed_runs("among", reference, "cases", "config")
    yours: dict[str, list[Scored]] = listed_runs("among", mine, "cases", "config")
    _require_known(yours, theirs)
    table = compare_to_baseline(reference) if len(theirs) > 1 else pd.DataFrame()
    rows = _rows(yours, theirs, table)
    limits = _limits(rows)
    figure, axis = plt.subplots(figsize=(10, 1.9 + 0.6 * len(rows)))
    for place, row in enumerate(rows):
        _draw_reference(axis, place, row, limits)
        _draw_yours(axis, place, row.yours, limits)
    axis.axvline(rows[0].theirs.mean(), color="black", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(rows)), [row.label for row in rows])
    axis.set(
        xlim=limits,
        ylim=(len(rows) - 0.45, -0.55),
        xlabel="mean DSC over patients",
        title="\n".join(_title(yours, theirs, table)),
    )
    axis.grid(axis="y", visible=False)
    legend_below(figure, _handles(rows), 4)
    return figure


def _require_known(yours: Mapping[str, Any], theirs: Mapping[str, list[Scored]]) -> None:
    """Raise KitError unless there are reference runs, of each label of ``yours``."""
    empty = [label for label, runs in theirs.items() if not runs]
    if empty or not theirs:
        raise KitError(
            f"among: no reference runs of {', '.join(empty) or 'any recipe'} to show; give e.g. "
            f"lib.sweep.evidence(plan)"
        )
    unknown = [label for label in yours if label not in theirs]
    if unknown:
        raise KitError(
            f"among: no reference runs of {', '.join(unknown)}; call your runs by the labels "
            f"{', '.join(theirs)}"
        )


def _rows(
    yours: Mapping[str, list[Scored]], theirs: Mapping[str, list[Scored]], table: pd.DataFrame
) -> list[_Row]:
    """Return a row per recipe."""
    comparisons = {row["label"]: row for row in table.to_dict("records")}
    return [
        _Row(
            label,
            _means(label, runs),
            _means(f"your {label}", yours.get(label, [])),
            comparisons.get(label),
        )
        for label, runs in theirs.items()
    ]


def _means(label: str, runs: Sequence[Scored]) -> np.ndarray:
    """Return the mean DSC of each run. Raises KitError for one without scores."""
    means = [_counted(run)["dsc"].mean() if "dsc" in run.cases else math.nan for run in runs]
    if np.isnan(means).any():
        raise KitError(
            f"{label}: a run has no DSC; score it on patients with masks that it was not trained on"
        )
    return np.array(means)


def _counted(run: Scored) -> pd.DataFrame:
    """Return the patients that the run was not trained on."""
    return run.cases[~were_trained_on(run.cases)]


def _limits(rows: Sequence[_Row]) -> tuple[float, float]:
    """Return the limits of the axis.

    All reference runs and intervals are within. Runs of yours widen it by half at most on each
    side: those of the profile ``smoke`` would squeeze all others into a corner.
    """
    theirs = np.concatenate([[*row.theirs, *row.interval] for row in rows])
    yours = np.concatenate([row.yours for row in rows])
    low, high = np.nanmin(theirs), np.nanmax(theirs)
    span = max(high - low, 0.01)
    low = max(min([low, *yours]), low - span / 2)
    high = min(max([high, *yours]), high + span / 2)
    margin = 0.05 * (high - low) + 0.002
    return float(low - margin), float(high + margin)


def _draw_reference(axis: Axes, place: int, row: _Row, limits: tuple[float, float]) -> None:
    """Draw the reference runs of a recipe, their mean with its interval, and the verdict."""
    heights = place - 0.1 + _lanes(row.theirs, limits, DOT)
    axis.plot(row.theirs, heights, "o", color=REFERENCE_RUN, markersize=6)
    if row.comparison is not None:
        axis.plot(row.interval, [place + 0.3] * 2, color=row.colour, linewidth=3)
    axis.plot([row.mean] * 2, [place - 0.35, place + 0.38], color=row.colour, linewidth=2)
    transform = axis.get_yaxis_transform()
    axis.text(BESIDE, place, row.words, transform=transform, va="center", color=row.colour)


def _draw_yours(axis: Axes, place: int, means: np.ndarray, limits: tuple[float, float]) -> None:
    """Draw your runs of a recipe: diamonds, or an arrow for those beyond the limits."""
    low, high = limits
    inside = means[(means >= low) & (means <= high)]
    if len(inside):  # after an empty line the constrained layout shrinks at every drawing
        axis.plot(inside, place - 0.1 + _lanes(inside, limits, YOUR_DOT), "D", **YOUR_STYLE)
    _draw_arrow(axis, place - 0.1, "<", low, means[means < low])
    _draw_arrow(axis, place - 0.1, ">", high, means[means > high])


def _draw_arrow(axis: Axes, height: float, marker: str, edge: float, means: np.ndarray) -> None:
    """Draw an arrow at an edge, and the mean of the runs beyond it; nothing without such runs."""
    if not len(means):
        return
    axis.plot(edge, height, marker, **YOUR_STYLE)
    mean = f"{means.mean():.3f}"
    words = f"{mean}, {len(means)} runs" if len(means) > 1 else mean
    side, align = (9, "left") if marker == "<" else (-9, "right")
    axis.annotate(
        words, (edge, height), (side, 0), textcoords="offset points", ha=align, va="center"
    )


def _lanes(values: np.ndarray, limits: tuple[float, float], dot: float) -> np.ndarray:
    """Return how far to move each dot up or down, so that few overlap; 0 where there is room."""
    width = dot * (limits[1] - limits[0])
    ends = dict.fromkeys(LANES, -math.inf)  # of the last dot of each lane
    shifts = np.zeros(len(values))
    for i in np.argsort(values, kind="stable"):
        free = (lane for lane in LANES if values[i] >= ends[lane])
        lane = next(free, min(LANES, key=lambda lane: ends[lane]))
        ends[lane] = values[i] + width
        shifts[i] = 0.11 * lane
    return shifts


def _title(
    yours: Mapping[str, list[Scored]], theirs: Mapping[str, list[Scored]], table: pd.DataFrame
) -> list[str]:
    """Return the lines of the title: patients, power, and how your runs differ in their scoring."""
    reference = next(iter(theirs.values()))[0]
    own = [run for runs in yours.values() for run in runs]
    patients = len(reference.cases)
    lines = [f"{'your runs among the ' if own else ''}reference runs, {patients} patients"]
    if len(table):
        lines.append(_power_in_words(table))
    differences = sorted({text for run in own for text in _differs(run, reference)})
    if differences:
        lines.append(f"your runs: {', '.join(differences)}; compare the means only")
    return lines


def _power_in_words(table: pd.DataFrame) -> str:
    """Return which true difference the comparison finds with 80 % power."""
    if table["patients"].iloc[0] < 2:
        return "one patient cannot show a difference"
    known = table[table["seed SD"].notna()]
    if known.empty:
        return "a recipe with one run: its verdict is about those weights, not about other seeds"
    smallest = detectable(known)
    found = smallest[np.isfinite(smallest)]
    if found.empty:
        return f"{runs_in_words(known)} find no difference, however large, with 80 % power"
    sizes = span(found) if len(found) == len(smallest) else f"{found.min():.3f} or more"
    return f"{runs_in_words(known)} find a true difference of {sizes} with 80 % power"


def _differs(run: Scored, reference: Scored) -> list[str]:
    """Return in words how a run was scored otherwise than the reference."""
    own, theirs = set(_counted(run)["patient"]), set(reference.cases["patient"])
    size, expected = run.config.image_size, reference.config.image_size
    words = []
    if own < theirs:
        words.append(f"{len(own)} of these patients")
    elif own != theirs:
        words.append(f"{len(own)} other patients")
    if size != expected:
        words.append(f"slices of {size}x{size} instead of {expected}x{expected}")
    return words


def _handles(rows: Sequence[_Row]) -> list[Line2D]:
    """Return the legend of what is drawn."""
    tick: Any = {"linestyle": "", "color": "black", "markersize": 14, "markeredgewidth": 2}
    # one that is compared counts the further runs of the baseline, too
    mean = "their mean, as in the table" if len(rows) > 1 else "their mean"
    handles = [
        Line2D([], [], linestyle="", marker="o", color=REFERENCE_RUN, label="a reference run"),
        Line2D([], [], marker="|", label=mean, **tick),
    ]
    if len(rows) > 1:
        interval = "95 % CI of the difference to the dashed line"
        handles.append(Line2D([], [], color="black", linewidth=3, label=interval))
    if any(len(row.yours) for row in rows):
        handles.append(Line2D([], [], linestyle="", marker="D", label="your run", **YOUR_STYLE))
    return handles
