"""Set the look of the figures, and what their titles say of patients trained on.

Each function with ``styled`` returns a closed matplotlib figure. A cell that ends with it shows it
once; ``figure.savefig("name.svg")`` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from lib.plot import labels
from lib.plot.pixels import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from lib.stats.verdicts import CANNOT_TELL, NO_DIFFERENCE

CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
VERDICT_COLOURS = {
    "helps": BLUE,
    "hurts": VERMILION,
    NO_DIFFERENCE: "black",
    CANNOT_TELL: "dimgrey",
}

TRAINED_ON = "darkgrey"  # patients whose scores tell what the network remembers

_STYLE: Any = {  # matplotlib lists all its keys in a type
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "savefig.bbox": "tight",
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=CYCLE),
    "figure.constrained_layout.use": True,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the kit's style, and close the figure.

    Jupyter would show an open figure a second time. Its labels are in the language of the course.
    """

    @wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with plt.rc_context(_STYLE | labels.font_settings()):
            figure = draw(*args, **kwargs)
            labels.translate(figure)
        plt.close(figure)
        return figure

    return wrapper


def line_styles(count: int) -> list[dict[str, Any]]:
    """Return a colour for each line, and another kind of line for each round of colours."""
    lines = ("-", "--", ":", "-.")
    return [
        {"color": CYCLE[i % len(CYCLE)], "linestyle": lines[i // len(CYCLE) % len(lines)]}
        for i in range(count)
    ]


def with_score(cases: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the patients that have a score: none if there are no masks."""
    return (
        cases.dropna(subset=[column]) if column in cases else cases.iloc[:0].assign(**{column: []})
    )


def were_trained_on(cases: pd.DataFrame) -> pd.Series:
    """Return, for each row, whether the network was trained on the patient.

    The table of a run scores no such patients.
    """
    return cases["seen"] if "seen" in cases else pd.Series(False, cases.index)


def who_counts(seen: pd.Series) -> tuple[pd.Series, str]:
    """Return which patients count, for each row, and what a title says of them.

    Patients that the network was not trained on count. If there are no others, all count, and
    their scores tell what the network remembers.
    """
    if seen.all():
        return seen, f"{len(seen)} patients trained on\n(what the network remembers)"
    count = (~seen).sum()
    if seen.any():
        return ~seen, f"{count} patients and {seen.sum()} trained on (not counted)"
    return ~seen, f"{count} patients"


def nothing_to_score(who: str = "patients with masks") -> Figure:
    """Return a sentence as a figure, for when there is nobody to score."""
    figure = plt.figure(figsize=(10, 0.6))
    figure.text(0.5, 0.5, f"no {who}: nothing to show", ha="center", va="center")
    return figure


def side_by_side(histories: Iterable[pd.DataFrame], column: str) -> pd.DataFrame:
    """Return a column of the histories of several runs, (epoch, run), up to the shortest run.

    Where early stopping has ended some of them, a mean over the others would be of other runs.
    """
    columns = [history.set_index("epoch")[column] for history in histories]
    return pd.concat(columns, axis=1).dropna()


def legend_below(
    figure: Figure, handles: Sequence[Artist], most: int, handlelength: float = 2
) -> None:
    """Draw a legend below the axes, in as many columns as fit into the figure.

    A legend of more rows than it has with ``most`` columns makes the figure higher.
    """

    def draw(columns: int) -> Legend:
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, handlelength=handlelength
        )
        for text in legend.get_texts():  # as wide as they will be
            text.set_text(labels.label(text.get_text()))
        return legend

    legend = draw(most)
    lowest = legend.get_window_extent().height
    for columns in range(most - 1, 0, -1):
        if legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
        legend = draw(columns)
    further = legend.get_window_extent().height - lowest
    figure.set_figheight(figure.get_figheight() + further / figure.dpi)


def dsc_axis(axis: Axes, title: str) -> None:
    """Label an axis of DSC per epoch."""
    axis.set(title=title, xlabel="epoch", ylabel="mean DSC over patients", ylim=(0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
