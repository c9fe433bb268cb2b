"""Static figures for notebooks and README. Each function returns a closed matplotlib figure: a cell that ends with it
shows it once, ``figure.savefig("name.svg")`` keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from lib.calibrate import Calibration
from lib.dataset import BrainData
from lib.frames import (
    BLUE,
    CHANNELS,
    FALSE_ALARM,
    FLAIR,
    GREEN,
    HIT,
    MISSED,
    ORANGE,
    PREDICTION,
    PURPLE,
    SKY,
    TRUTH,
    VERMILION,
    brightest,
    colour_table,
    kinds,
)
from lib.logger import Run
from lib.metrics import counts, summarise
from lib.predict import Prediction, predict
from lib.stats import METRICS, Scored, p_in_words
from lib.utils import KitError

CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
TRAINED_ON = "darkgrey"  # patients whose scores tell what the network remembers

_STYLE = {
    "figure.dpi": 100, "savefig.dpi": 100, "savefig.bbox": "tight", "figure.facecolor": "white", "font.size": 10,
    "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.axisbelow": True, "legend.frameon": False, "axes.prop_cycle": plt.cycler(color=CYCLE),
    "figure.constrained_layout.use": True, "image.cmap": "gray", "image.interpolation": "nearest",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the kit's style, and close the figure: Jupyter would show an open one a second time."""
    @wraps(draw)
    def wrapper(*args: object, **kwargs: object) -> Figure:
        with plt.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure
    return wrapper


# --- images -------------------------------------------------------------------------------------------------------


@styled
def patient_slices(data: BrainData, patient: str) -> Figure:
    """The three sequences of the slice with the most tumour, and FLAIR with the tumour outlined."""
    volume, truth = data.volume(patient), data.truth(patient)
    number = _largest_slice(truth)
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.9))
    for channel, axis in enumerate(axes[:3]):
        _show(axis, volume[..., channel], number, CHANNELS[channel])
    _show(axes[3], volume[..., FLAIR], number, "tumour on FLAIR")
    _outline(axes[3], truth[number], TRUTH)
    figure.suptitle(f"{patient}, slice {data.patients[patient].numbers[number]} of {len(volume)}", fontsize=11)
    return figure


@styled
def overlays(prediction: Prediction) -> Figure:
    """Worst, median and best patient at the slice with the most tumour: truth and prediction outlined, errors below.

    Of the patients that the network was not trained on, if there are any.
    """
    scored = _scored(prediction.cases, "dsc_native").sort_values(["dsc_native", "patient"])
    if scored.empty:
        return _nothing_to_score()
    seen = _trained_on(scored)
    counted, who = _counted(seen)
    ranked = list(scored.loc[counted, "patient"])
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    figure, axes = plt.subplots(2, 3, figsize=(10, 7.3))
    for (above, below), (word, patient) in zip(axes.T, chosen.items(), strict=True):
        truth, mask = prediction.data.truth(patient), prediction.mask(patient)
        flair, number = prediction.data.volume(patient)[..., FLAIR], _largest_slice(truth)
        whole = f"whole volume: DSC {counts(mask, truth).dsc:.3f} (file's grid)"
        _show(above, flair, number, f"{word}: {patient}\n{whole}\nslice {number + 1} of {len(mask)}")
        _outline(above, truth[number], TRUTH, 2.5)
        _outline(above, mask[number], PREDICTION)
        colours = colour_table("error", 0.6, (0, brightest(flair)))
        below.imshow(colours[kinds(truth[number], mask[number], flair[number].shape), flair[number]])
        below.axis("off")
        if patient in prediction.seen:
            above.set_title(f"{above.get_title()} (trained on)", color="dimgrey")
    if seen.any():
        figure.suptitle(who, fontsize=11)
    _legend_of_masks(figure)
    return figure


@styled
def disagreement(runs: Mapping[str, Run | Sequence[Run]], data: BrainData) -> Figure:
    """The first run of a sweep and the one whose DSC differs most from it, on the patient and slice where they differ
    most: both masks on FLAIR, truth outlined, and what each found, missed and falsely found.

    Args:
        runs: label -> run, or its runs with several seeds, of which the first is shown; the reference first.
        data: as these runs saw it.

    Raises:
        KitError: fewer than two runs.
    """
    if len(runs) < 2:
        raise KitError("disagreement: two runs at least are needed to compare; train some more first")
    firsts = {label: given if isinstance(given, Run) else given[0] for label, given in runs.items()}
    scores = pd.DataFrame({label: run.cases.set_index("patient")["dsc_native"] for label, run in firsts.items()})
    differences = scores.iloc[:, 1:].sub(scores.iloc[:, 0], axis=0)
    labels = [scores.columns[0], differences.mean().abs().idxmax()]
    patient = differences[labels[1]].abs().idxmax()
    masks = [predict(firsts[label].weights, data, patients=[patient]).mask(patient) for label in labels]
    truth = data.truth(patient)
    number = int((masks[0] != masks[1]).sum(axis=(1, 2)).argmax())
    flair = data.volume(patient)[..., FLAIR]
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
    colours = colour_table("error", 0.6, (0, brightest(flair)))
    for outlined, coloured, mask, label in zip(axes[::2], axes[1::2], masks, labels, strict=True):
        _show(outlined, flair, number, f"{label}: DSC {counts(mask, truth).dsc:.3f}")
        _outline(outlined, truth[number], TRUTH, 2.5)
        _outline(outlined, mask[number], PREDICTION)
        coloured.imshow(colours[kinds(truth[number], mask[number], flair[number].shape), flair[number]])
        coloured.axis("off")
    figure.suptitle(f"{patient}, slice {number + 1} of {len(flair)}: where the two differ most "
                    f"(DSC: whole volume, file's grid)", fontsize=11)
    _legend_of_masks(figure)
    return figure


def _legend_of_masks(figure: Figure) -> None:
    lines = [Line2D([], [], color=colour, label=label, linewidth=2)
             for label, colour in (("truth", TRUTH), ("prediction", PREDICTION))]
    areas = [Patch(facecolor=colour, label=label) for label, colour in
             (("found (TP)", HIT), ("missed (FN)", MISSED), ("false alarm (FP)", FALSE_ALARM))]
    figure.legend(handles=[*lines, *areas], loc="outside lower center", ncols=5, facecolor="lightgrey", frameon=True)


def _largest_slice(mask: np.ndarray) -> int:
    """Index of the slice with the most tumour; the middle one when there is none."""
    areas = mask.sum(axis=(1, 2))
    return int(areas.argmax()) if areas.any() else len(mask) // 2


def _show(axis: Axes, volume: np.ndarray, number: int, title: str) -> None:
    axis.imshow(volume[number], vmin=0, vmax=brightest(volume))
    axis.set_title(title)
    axis.axis("off")


def _outline(axis: Axes, mask: np.ndarray, colour: str, width: float = 1.2) -> None:
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=width)


# --- training -----------------------------------------------------------------------------------------------------


@styled
def curves(run: Run) -> Figure:
    """Training and validation loss, and validation DSC with the best epoch marked."""
    history = run.history
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    for name, style in (("train loss", "-"), ("val loss", "--")):
        left.plot(history["epoch"], history[name], style, marker=".", label=name.replace("val", "validation"))
    left.set(title=run.config.loss, xlabel="epoch", ylabel="loss")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend()
    _dsc_axis(right, "validation DSC per epoch")
    right.plot(history["epoch"], history["val_dsc"], marker=".", color=GREEN)
    scored = history.dropna(subset="val_dsc")
    if len(scored):  # split="all" leaves nobody to score
        best = scored.loc[scored["val_dsc"].idxmax()]
        right.plot(best["epoch"], best["val_dsc"], "o", color=VERMILION,
                   label=f"best: {best['val_dsc']:.3f} at epoch {best['epoch']:.0f}")
        right.legend(loc="lower right")
    return figure


@styled
def sweep_scores(runs: Mapping[str, Run | Sequence[Run]]) -> Figure:
    """Validation DSC per epoch of the runs of a sweep, and the DSC of each patient at their best epochs.

    Args:
        runs: label -> run, or its runs with several seeds, of which the mean is drawn.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    _dsc_axis(left, "validation DSC per epoch")
    listed = {label: [given] if isinstance(given, Run) else list(given) for label, given in runs.items()}
    for place, (several, style) in enumerate(zip(listed.values(), _styles(len(listed)), strict=True)):
        history = pd.concat([run.history.set_index("epoch")["val_dsc"] for run in several], axis=1).mean(axis=1)
        cases = pd.concat([run.cases.set_index("patient")["dsc"] for run in several], axis=1).mean(axis=1)
        left.plot(history.index, history, marker=".", markersize=4, **style)
        right.plot(np.full(len(cases), place), cases, "o", color=style["color"], alpha=0.5)
        right.plot([place - 0.3, place + 0.3], [cases.mean()] * 2, color="black", linewidth=2)
    right.set(title="per patient at the best epoch (line: mean)", ylabel="DSC", ylim=(0, 1))
    right.set_xticks([])
    handles = [Line2D([], [], marker="o", markersize=5, label=label, **style)
               for label, style in zip(listed, _styles(len(listed)), strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), handlelength=3)
    return figure


@styled
def sweep_curves(runs: Mapping[str, Run | Sequence[Run]]) -> Figure:
    """Loss and validation DSC per epoch of a sweep; of several seeds their mean, and a band to the extremes.

    Args:
        runs: label -> run, or its runs with several seeds. Losses of different loss functions cannot be compared.

    Raises:
        KitError: nothing to draw.
    """
    if not runs:
        raise KitError("sweep_curves: no runs to draw; train some first")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    losses = set()
    for (label, given), style in zip(runs.items(), _styles(len(runs)), strict=True):
        several = [given] if isinstance(given, Run) else list(given)
        losses |= {run.config.loss for run in several}
        for axis, column in ((left, "val loss"), (right, "val_dsc")):
            table = pd.concat([run.history.set_index("epoch")[column] for run in several], axis=1)
            axis.plot(table.index, table.mean(axis=1), marker=".", markersize=4, label=label, **style)
            if len(several) > 1:
                axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=style["color"],
                                  alpha=0.2, lw=0)
    left.set(title="validation loss" + ("" if len(losses) == 1 else " (different losses: not comparable)"),
             xlabel="epoch", ylabel="loss")
    left.xaxis.get_major_locator().set_params(integer=True)
    _dsc_axis(right, "validation DSC")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(runs), 4))
    return figure


def _styles(count: int) -> list[dict[str, str]]:
    """A colour for each line, and another kind of line for each round of the colours."""
    lines = ("-", "--", ":", "-.")
    return [{"color": CYCLE[i % len(CYCLE)], "linestyle": lines[i // len(CYCLE) % len(lines)]} for i in range(count)]


def _scored(cases: pd.DataFrame, column: str) -> pd.DataFrame:
    """The patients that have a score: none where there are no masks."""
    return cases.dropna(subset=[column]) if column in cases else cases.iloc[:0].assign(**{column: []})


def _trained_on(cases: pd.DataFrame) -> pd.Series:
    """Was the network trained on the patient? By row; nowhere in the table of a run, which scores no such patients."""
    return cases["seen"] if "seen" in cases else pd.Series(False, cases.index)


def _counted(seen: pd.Series) -> tuple[pd.Series, str]:
    """Which patients count, by row, and what a title says of them.

    Those that the network was not trained on; where there are no others, all, and they tell what it remembers.
    """
    if seen.all():
        return seen, f"{len(seen)} patients trained on\n(what the network remembers)"
    return ~seen, f"{(~seen).sum()} patients" + (f" and {seen.sum()} trained on (not counted)" if seen.any() else "")


def _nothing_to_score(who: str = "patients with masks") -> Figure:
    """What stands in a figure's place where there is nobody to score: a notebook runs on."""
    figure = plt.figure(figsize=(10, 0.6))
    figure.text(0.5, 0.5, f"no {who}: nothing to show", ha="center", va="center")
    return figure


def _dsc_axis(axis: Axes, title: str) -> None:
    axis.set(title=title, xlabel="epoch", ylabel="mean DSC over patients", ylim=(0, 1))
    axis.xaxis.get_major_locator().set_params(integer=True)


@styled
def dsc_bars(cases: pd.DataFrame, column: str = "dsc") -> Figure:
    """DSC of each patient as sorted bars, with mean, its 95 % confidence interval, and median.

    Args:
        cases: ``run.cases`` or ``prediction.cases``; patients trained on are grey, and counted only if all are.
        column: ``dsc`` (published protocol) or ``dsc_native`` (file's own grid).
    """
    scored = _scored(cases, column).sort_values(column)
    if scored.empty:
        return _nothing_to_score()
    seen = _trained_on(scored)
    counted, who = _counted(seen)
    summary = summarise(scored.loc[counted, column])
    figure, axis = plt.subplots(figsize=(10, max(2.2, 0.24 * len(scored) + 0.9)))
    axis.barh(scored["patient"] + np.where(seen, " (trained on)", ""), scored[column],
              color=np.where(seen, TRAINED_ON, SKY))
    axis.axvspan(summary.low, summary.high, color=BLUE, alpha=0.15, label="95 % CI of the mean")
    axis.axvline(summary.mean, color=BLUE, label=f"mean {summary.mean:.3f}")
    axis.axvline(summary.median, color=VERMILION, linestyle="--", label=f"median {summary.median:.3f}")
    axis.set(title=f"{'DSC' if column == 'dsc' else 'DSC on the file grid'}, {who}, worst first",
             xlabel="DSC", xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def size_against_dsc(cases: pd.DataFrame) -> Figure:
    """Tumour size of each patient against its DSC on the file's own grid; the three worst by name.

    Args:
        cases: ``run.cases`` or ``prediction.cases``; patients without tumour have no size and are left out. Patients
            trained on are grey, and named only if all are.
    """
    scored = _scored(cases, "dsc_native")
    if not scored.empty:
        scored = scored.assign(size=scored["tp"] + scored["fn"]).query("size > 0")
    if scored.empty:
        return _nothing_to_score()
    seen = _trained_on(scored)
    counted, who = _counted(seen)
    figure, axis = plt.subplots(figsize=(7.5, 4))
    for group, colour, label in ((seen, TRAINED_ON, "trained on"), (~seen, BLUE, "others")):
        if group.any():
            axis.scatter("size", "dsc_native", data=scored[group], color=colour, alpha=0.8, label=label)
    if seen.any():
        axis.legend(loc="lower right")
    for row in scored[counted].nsmallest(3, "dsc_native").itertuples():
        axis.annotate(row.patient, (row.size, row.dsc_native), (0, -13), textcoords="offset points", fontsize=8,
                      ha="center")
    axis.set(xscale="log", xlabel="tumour size (voxels on the file's grid, logarithmic)", ylabel="DSC", ylim=(0, 1),
             title=f"tumour size and DSC, {who}, the worst by name")
    axis.margins(x=0.15)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_locator(NullLocator())
    return figure


# --- comparing ----------------------------------------------------------------------------------------------------


@styled
def slopes(before: Scored, after: Scored, labels: tuple[str, str] = ("before", "after"), metric: str = "dsc") -> Figure:
    """The same patients in two runs or predictions: a line each, and the mean.

    Args:
        before, after: patients that either network was trained on are grey, and counted only if all are.
        metric: column of ``cases``.

    Raises:
        KitError: the runs scored different patients.
    """
    tables = [run.cases.set_index("patient").sort_index() for run in (before, after)]
    scores = [table[metric] for table in tables]
    if list(scores[0].index) != list(scores[1].index):
        raise KitError("slopes: the runs scored different patients; use the same split")
    seen = _trained_on(tables[0]) | _trained_on(tables[1])
    counted, who = _counted(seen)
    up, means = scores[1] > scores[0], [score[counted].mean() for score in scores]
    colours = np.where(seen, TRAINED_ON, np.where(up, BLUE, VERMILION))
    figure, axis = plt.subplots(figsize=(6, 4.4))
    for colour, first, second in zip(colours, *scores, strict=True):
        axis.plot([0, 1], [first, second], marker="o", markersize=4, linewidth=1.2, color=colour)
    axis.plot([0, 1], means, marker="D", color="black", linewidth=3)
    legend = {f"mean {means[0]:.3f} to {means[1]:.3f}": "black"}
    if not seen.all():
        legend = {f"better ({up[~seen].sum()})": BLUE, f"not better ({(~up[~seen]).sum()})": VERMILION, **legend}
    if seen.any():
        legend[f"trained on ({seen.sum()})"] = TRAINED_ON
    axis.legend(handles=[Line2D([], [], color=colour, label=label, marker="o", markersize=4)
                         for label, colour in legend.items()], loc="upper left", bbox_to_anchor=(1, 1))
    axis.set(title=f"the same {who}", ylabel=METRICS.get(metric, metric), xlim=(-0.2, 1.2))
    axis.set_xticks([0, 1], labels)
    axis.grid(axis="x", visible=False)
    return figure


@styled
def forest(table: pd.DataFrame, ladder: bool = False) -> Figure:
    """Differences with their 95 % intervals, a row each, and what they allow to say.

    Args:
        table: from ``lib.stats.compare``.
        ladder: it is from ``compare_rungs``: each row is compared with the rung before it.
    """
    other = "the rung before" if ladder else "the baseline"
    colours = {"helps": BLUE, "hurts": VERMILION, "cannot tell": "grey"}
    figure, axis = plt.subplots(figsize=(10, 1.3 + 0.42 * len(table)))
    for place, row in enumerate(table.to_dict("records")):
        colour = colours[row["verdict"]]
        axis.plot([row["CI low"], row["CI high"]], [place, place], color=colour, linewidth=2.5)
        axis.plot(row["difference"], place, "o", color=colour, markersize=8)
        words = f"{row['difference']:+.3f}   {p_in_words(row['p (Holm)'])}   {row['verdict']}"
        axis.text(1.02, place, words, transform=axis.get_yaxis_transform(), va="center", color=colour)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(table)), table["label"])
    axis.set(ylim=(len(table) - 0.5, -0.5), xlabel=f"mean difference to {other}, over patients",
             title=f"differences with 95 % CI, {table['patients'].iloc[0]} patients (p: sign flips, Holm)")
    axis.grid(axis="y", visible=False)
    return figure


@styled
def dsc_strips(scores: Mapping[str, pd.Series]) -> Figure:
    """DSC of each patient, a row of dots for each recipe, with its mean and the mean's 95 % CI.

    Args:
        scores: label -> patient -> DSC, without missing ones.
    """
    figure, axis = plt.subplots(figsize=(10, 1.3 + 0.42 * len(scores)))
    for place, values in enumerate(scores.values()):
        summary = summarise(values)
        axis.plot(values, np.full(len(values), place), "o", color=SKY, markersize=7, alpha=0.7)
        axis.plot([summary.low, summary.high], [place, place], color=BLUE, linewidth=2.5)
        axis.plot(summary.mean, place, "|", color=VERMILION, markersize=18, markeredgewidth=3)
        axis.text(1.02, place, f"mean {summary.mean:.3f}", transform=axis.get_yaxis_transform(), va="center")
    axis.set_yticks(range(len(scores)), list(scores))
    axis.set(ylim=(len(scores) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel="DSC",
             title="DSC of each patient at the best epoch (bar: mean, line: its 95 % CI)")
    axis.grid(axis="y", visible=False)
    return figure


@styled
def calibration(result: Calibration) -> Figure:
    """Are probabilities right (left), and what does another threshold than one half give (right)?"""
    if not len(result.dsc):
        return _nothing_to_score("patients with masks that the network was not trained on")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    left.plot(result.predicted, result.observed, marker="o", color=BLUE, label="network")
    for i, voxels in enumerate(result.voxels):
        left.text((i + 0.5) / len(result.voxels), -0.07, _short(voxels), fontsize=8, color="dimgrey", ha="center")
    left.set(title="probability and truth (small: voxels)", xlabel="predicted probability",
             ylabel="share that is tumour", xlim=(-0.03, 1.03), ylim=(-0.1, 1.05))
    left.legend(loc="upper left")
    mean = result.dsc.mean(axis=0)
    best = int(mean.argmax())
    right.plot(result.thresholds, result.dsc.T, color=SKY, linewidth=0.8, alpha=0.7)
    right.plot(result.thresholds, mean, color=BLUE, linewidth=2.5,
               label=f"mean of {len(result.dsc)} patients (thin lines)")
    right.plot(result.thresholds[best], mean[best], "o", color=VERMILION,
               label=f"best {mean[best]:.3f} at {result.thresholds[best]:.2f}")
    right.axvline(0.5, color="grey", linestyle=":", label="as scored: 0.5")
    right.set(title="threshold and DSC (chosen on these patients, it flatters)", xlabel="threshold", ylabel="DSC",
              ylim=(0, 1))
    right.legend(loc="lower right")
    return figure


def _short(count: int) -> str:
    """A count in at most four characters."""
    return str(count) if count < 1000 else f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
