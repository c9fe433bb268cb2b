"""Draw scores: patient by patient, differences with intervals, calibration."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lib.evaluate import Calibration
from lib.metrics import summarise
from lib.plot.given import require_given
from lib.plot.pixels import BLUE, ORANGE, SKY, VERMILION
from lib.plot.style import (
    TRAINED_ON,
    VERDICT_COLOURS,
    nothing_to_score,
    styled,
    were_trained_on,
    who_counts,
    with_score,
)
from lib.stats import p_in_words
from lib.utils import KitError

DSC = {"dsc": "DSC", "dsc_native": "DSC on the file's grid"}  # column of cases.csv -> in a title


@styled
def dsc_bars(cases: pd.DataFrame, column: str = "dsc") -> Figure:
    """Draw the DSC of each patient as sorted bars, with mean, its 95 % CI, and median.

    Args:
        cases: ``run.cases`` or ``prediction.cases``. Patients trained on are grey, and counted
            only if all are.
        column: ``dsc`` (published protocol) or ``dsc_native`` (file's own grid).

    Raises:
        KitError: another column, or no such table.
    """
    require_given("dsc_bars", cases)
    if column not in DSC:
        raise KitError(f"dsc_bars: column {column!r} is not one of {', '.join(DSC)}; choose one")
    scored = with_score(cases, column).sort_values(column)
    if scored.empty:
        return nothing_to_score()
    seen = were_trained_on(scored)
    counted, who = who_counts(seen)
    summary = summarise(scored.loc[counted, column])
    figure, axis = plt.subplots(figsize=(10, max(2.2, 0.24 * len(scored) + 0.9)))
    axis.barh(
        scored["patient"] + np.where(seen, " (trained on)", ""),
        scored[column],
        color=np.where(seen, TRAINED_ON, SKY),
    )
    axis.axvspan(summary.low, summary.high, color=BLUE, alpha=0.15, label="95 % CI of the mean")
    axis.axvline(summary.mean, color=BLUE, label=f"mean {summary.mean:.3f}")
    axis.axvline(
        summary.median, color=VERMILION, linestyle="--", label=f"median {summary.median:.3f}"
    )
    axis.set(title=f"{DSC[column]}, {who}, worst first", xlabel="DSC", xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def size_against_dsc(cases: pd.DataFrame) -> Figure:
    """Draw the tumour size of each patient against the DSC on the file's own grid.

    The three worst are named.

    Args:
        cases: ``run.cases`` or ``prediction.cases``; patients without tumour have no size and are
            left out. Patients trained on are grey, and named only if all are.
    """
    require_given("size_against_dsc", cases)
    scored = with_score(cases, "dsc_native")
    if not scored.empty:
        scored = scored.assign(size=scored["tp"] + scored["fn"]).query("size > 0")
    if scored.empty:
        return nothing_to_score()
    seen = were_trained_on(scored)
    counted, who = who_counts(seen)
    figure, axis = plt.subplots(figsize=(7.5, 4))
    for group, colour, label in ((seen, TRAINED_ON, "trained on"), (~seen, BLUE, "others")):
        if group.any():
            axis.scatter(
                "size", "dsc_native", data=scored[group], color=colour, alpha=0.8, label=label
            )
    if seen.any():
        axis.legend(loc="lower right")
    for row in scored[counted].nsmallest(3, "dsc_native").itertuples():
        axis.annotate(
            row.patient,
            (row.size, row.dsc_native),
            (0, -13),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    axis.set(
        xscale="log",
        xlabel="tumour size (voxels on the file's grid, logarithmic)",
        ylabel="DSC",
        ylim=(0, 1),
        title=f"tumour size and DSC, {who}, the worst by name",
    )
    axis.margins(x=0.15)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_locator(NullLocator())
    return figure


@styled
def forest(table: pd.DataFrame, ladder: bool = False) -> Figure:
    """Draw differences with their 95 % intervals, a row each, and their verdicts.

    Args:
        table: from ``lib.stats.compare_to_baseline``.
        ladder: it is from ``compare_ladder``: each row is compared with the step before it.
    """
    require_given("forest", table)
    other = "the step before" if ladder else "the baseline"
    figure, axis = plt.subplots(figsize=(10, 1.3 + 0.42 * len(table)))
    for place, row in enumerate(table.to_dict("records")):
        colour = VERDICT_COLOURS[row["verdict"]]
        axis.plot([row["CI low"], row["CI high"]], [place, place], color=colour, linewidth=2.5)
        axis.plot(row["difference"], place, "o", color=colour, markersize=8)
        words = f"{row['difference']:+.3f}   {p_in_words(row['p (Holm)'])}   {row['verdict']}"
        axis.text(
            1.02, place, words, transform=axis.get_yaxis_transform(), va="center", color=colour
        )
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(table)), table["label"])
    axis.set(
        ylim=(len(table) - 0.5, -0.5),
        xlabel=f"mean difference to {other}, over patients",
        title=f"differences with 95 % CI, {table['patients'].iloc[0]} patients "
        f"(p corrected by Holm)",
    )
    axis.grid(axis="y", visible=False)
    return figure


@styled
def calibration(result: Calibration) -> Figure:
    """Draw observed against predicted probability, and the DSC by threshold."""
    require_given("calibration", result)
    if not len(result.dsc):
        return nothing_to_score("patients with masks that the network was not trained on")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    left.plot(result.predicted, result.observed, marker="o", color=BLUE, label="network")
    for i, voxels in enumerate(result.voxels):
        left.text(
            (i + 0.5) / len(result.voxels),
            -0.07,
            _short(voxels),
            fontsize=8,
            color="dimgrey",
            ha="center",
        )
    left.set(
        title="probability and ground truth (small: voxels)",
        xlabel="predicted probability",
        ylabel="share that is tumour",
        xlim=(-0.03, 1.03),
        ylim=(-0.1, 1.05),
    )
    left.legend(loc="upper left")
    mean = result.dsc.mean(axis=0)
    best = int(mean.argmax())
    right.plot(result.thresholds, result.dsc.T, color=SKY, linewidth=0.8, alpha=0.7)
    right.plot(
        result.thresholds,
        mean,
        color=BLUE,
        linewidth=2.5,
        label=f"mean of {len(result.dsc)} patients (thin lines)",
    )
    right.plot(
        result.thresholds[best],
        mean[best],
        "o",
        color=VERMILION,
        label=f"best {mean[best]:.3f} at {result.thresholds[best]:.2f}",
    )
    right.axvline(0.5, color="grey", linestyle=":", label="as scored: 0.5")
    right.set(
        title="threshold and DSC (chosen on these patients, it flatters)",
        xlabel="threshold",
        ylabel="DSC",
        ylim=(0, 1),
    )
    right.legend(loc="lower right")
    return figure


def _short(count: int) -> str:
    """Return a count in at most four characters."""
    return (
        str(count)
        if count < 1000
        else f"{count / 1000:.0f}k"
        if count < 1_000_000
        else f"{count / 1e6:.1f}M"
    )


@styled
def lesion_sizes(lesions: pd.DataFrame) -> Figure:
    """Draw the size of each lesion against the share of it that the prediction covers.

    Args:
        lesions: ``prediction.lesions()``. What is invented is in a row of its own, below 0.
    """
    require_given("lesion_sizes", lesions)
    if lesions.empty:
        return nothing_to_score()
    figure, axis = plt.subplots(figsize=(7.5, 4))
    invented_at = -0.12
    for kind, colour, marker in (
        ("found", BLUE, "o"),
        ("missed", VERMILION, "o"),
        ("invented", ORANGE, "x"),
    ):
        group = lesions[lesions["kind"] == kind]
        height = invented_at if kind == "invented" else group["covered"]
        axis.scatter(
            group["voxels"],
            np.broadcast_to(height, len(group)),
            c=colour,
            marker=marker,
            alpha=0.5,  # many are missed whole, and lie on one line
            label=f"{len(group)} {kind}",
        )
    axis.axhline(invented_at / 2, color="dimgrey", linewidth=0.8)
    axis.set(
        xscale="log",
        xlabel="voxels of the lesion, on the file's grid",
        ylabel="share that is covered",
        ylim=(-0.2, 1.05),
        yticks=[invented_at, 0, 0.5, 1],
        yticklabels=["invented", "0", "0.5", "1"],
        title="lesions of all patients",
    )
    axis.legend()
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_locator(NullLocator())
    return figure
