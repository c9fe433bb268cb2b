"""Draw loss and DSC over the epochs of a run, or of the runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.logger import Run
from lib.plot.given import require_given, some_runs
from lib.plot.pixels import GREEN, VERMILION
from lib.plot.style import dsc_axis, legend_below, line_styles, side_by_side, styled
from lib.utils import KitError


@styled
def curves(run: Run) -> Figure:
    """Draw training and validation loss, and validation DSC with the best epoch marked.

    Raises:
        KitError: it is no run.
    """
    require_given("curves", run)
    history = run.history
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    _draw_losses(left, run, "epoch")
    left.set_xlabel("epoch")
    left.xaxis.get_major_locator().set_params(integer=True)
    dsc_axis(right, "validation DSC per epoch")
    right.plot(history["epoch"], history["val_dsc"], marker=".", color=GREEN)
    scored = history.dropna(subset="val_dsc")
    if len(scored):  # split="all" leaves nobody to score
        best = scored.loc[scored["val_dsc"].idxmax()]
        right.plot(
            best["epoch"],
            best["val_dsc"],
            "o",
            color=VERMILION,
            label=f"best: {best['val_dsc']:.3f} at epoch {best['epoch']:.0f}",
        )
        right.legend(loc="lower right")
    return figure


@styled
def rate_range(run: Run) -> Figure:
    """Draw loss and validation DSC against the learning rate of each epoch, in a range test.

    Choose a rate below the one where the loss begins to jump or to climb. The network of one rate
    has learnt with the smaller ones before, so the picture shows what a rate *breaks*, not how good
    a run with it alone would be.

    Args:
        run: with ``lr_scheduler="range"``.

    Raises:
        KitError: it has another schedule, or is no run.
    """
    require_given("rate_range", run)
    if run.config.lr_scheduler != "range":
        raise KitError(
            f"rate_range: schedule {run.config.lr_scheduler} is no range test; train with "
            f'lr_scheduler="range"'
        )
    history = run.history
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    _draw_losses(left, run, "lr")
    dsc_axis(right, "validation DSC")
    right.plot(history["lr"], history["val_dsc"], marker=".", color=GREEN)
    for axis in (left, right):
        axis.set(xscale="log", xlabel="learning rate")
    return figure


def _draw_losses(axis: Axes, run: Run, column: str) -> None:
    """Draw training and validation loss against a column of the history."""
    for name, style in (("train loss", "-"), ("val loss", "--")):
        label = name.replace("val", "validation")
        axis.plot(run.history[column], run.history[name], style, marker=".", label=label)
    axis.set(title=run.config.loss, ylabel="loss")
    axis.legend()


@styled
def sweep_curves(runs: Mapping[str, Run | Sequence[Run]]) -> Figure:
    """Draw loss and validation DSC of a sweep's runs by epoch.

    With several seeds a line is their mean, and a band reaches to the extremes.

    Args:
        runs: label -> run, or its runs with several seeds. Losses of different loss functions
            cannot be compared.

    Raises:
        KitError: nothing to draw, or no runs.
    """
    listed = some_runs("sweep_curves", runs, "history", "config")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    losses = set()
    for (label, several), style in zip(listed.items(), line_styles(len(runs)), strict=True):
        losses |= {run.config.loss for run in several}
        for axis, column in ((left, "val loss"), (right, "val_dsc")):
            table = side_by_side([run.history for run in several], column)
            axis.plot(
                table.index, table.mean(axis=1), marker=".", markersize=4, label=label, **style
            )
            if len(several) > 1:
                axis.fill_between(
                    table.index,
                    table.min(axis=1),
                    table.max(axis=1),
                    color=style["color"],
                    alpha=0.2,
                    lw=0,
                )
    title = "validation loss"
    if len(losses) > 1:
        title = "validation loss (different losses: not comparable)"
    left.set(title=title, xlabel="epoch", ylabel="loss")
    left.xaxis.get_major_locator().set_params(integer=True)
    dsc_axis(right, "validation DSC")
    legend_below(figure, right.get_legend_handles_labels()[0], 4)
    return figure


class WithHistory(Protocol):
    """Describe what has a curve: a ``Run``."""

    @property
    def history(self) -> pd.DataFrame:
        """Return a row per epoch, with the columns ``epoch`` and ``val_dsc``."""


@styled
def seeds_curves(runs: Mapping[str, WithHistory | Sequence[WithHistory]]) -> Figure:
    """Draw the validation DSC of many seeds by epoch: thin lines, and thick medians over them.

    The median ends with the shortest run of a recipe. A run whose curve was not kept is left out.

    Args:
        runs: label -> run, or its runs with several seeds; two recipes can be told apart best.

    Raises:
        KitError: nothing to draw, no runs, or a recipe whose runs have no validation DSC.
    """
    listed = some_runs("seeds_curves", runs, "history")
    tables = {label: _scores_by_epoch(label, several) for label, several in listed.items()}
    figure, axis = plt.subplots(figsize=(8, 4.2))
    dsc_axis(axis, "validation DSC of each seed (thick: their median)")
    for (label, table), style in zip(tables.items(), line_styles(len(tables)), strict=True):
        axis.plot(table.index, table, alpha=0.3, linewidth=0.8, zorder=1, **style)
        median = table.dropna().median(axis=1)
        count = "1 seed" if table.shape[1] == 1 else f"{table.shape[1]} seeds"
        words = f"{label}: {count}, {median.iloc[-1]:.3f} at the end"
        axis.plot(median.index, median, linewidth=3, label=words, **style)
    legend_below(figure, axis.get_legend_handles_labels()[0], 2)
    return figure


def _scores_by_epoch(label: str, several: Sequence[WithHistory]) -> pd.DataFrame:
    """Return the validation DSC (epoch, run). Raises KitError if no epoch has it of all runs."""
    histories = [run.history for run in several if len(run.history)]
    columns = [history.set_index("epoch")["val_dsc"] for history in histories]
    table = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    if table.dropna().empty:
        raise KitError(
            f"seeds_curves: {label} has no run with a validation DSC; train it with validation "
            f"patients, or leave it out"
        )
    return table
