"""Static figures for notebooks and README. Each function returns a closed matplotlib figure: a cell that ends with it
shows it once, ``figure.savefig("name.svg")`` keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.dataset import BrainData
from lib.frames import BLUE, CHANNELS, FLAIR, GREEN, ORANGE, PREDICTION, PURPLE, SKY, TRUTH, VERMILION, brightest
from lib.logger import Run
from lib.metrics import counts, summarise
from lib.predict import Prediction

CYCLE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)

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
    """Worst, median and best patient: FLAIR at the slice with the most tumour, truth and prediction outlined."""
    ranked = [name for name in prediction.ranked() if prediction.data.truth(name) is not None]
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.9))
    for axis, (word, patient) in zip(axes, chosen.items(), strict=True):
        truth, mask = prediction.data.truth(patient), prediction.mask(patient)
        number = _largest_slice(truth)
        _show(axis, prediction.data.volume(patient)[..., FLAIR], number,
              f"{word}: {patient}\nDSC {counts(mask, truth).dsc:.3f}")
        _outline(axis, truth[number], TRUTH)
        _outline(axis, mask[number], PREDICTION)
    figure.legend(handles=[Line2D([], [], color=TRUTH, label="truth"), Line2D([], [], color=PREDICTION,
                                                                              label="prediction")],
                  loc="outside lower center", ncols=2, labelcolor="black", facecolor="lightgrey", frameon=True)
    return figure


def _largest_slice(mask: np.ndarray) -> int:
    """Index of the slice with the most tumour; the middle one when there is none."""
    areas = mask.sum(axis=(1, 2))
    return int(areas.argmax()) if areas.any() else len(mask) // 2


def _show(axis: Axes, volume: np.ndarray, number: int, title: str) -> None:
    axis.imshow(volume[number], vmin=0, vmax=brightest(volume))
    axis.set_title(title)
    axis.axis("off")


def _outline(axis: Axes, mask: np.ndarray, colour: str) -> None:
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)


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
    best = history.loc[history["val_dsc"].idxmax()]
    right.plot(history["epoch"], history["val_dsc"], marker=".", color=GREEN)
    right.plot(best["epoch"], best["val_dsc"], "o", color=VERMILION,
               label=f"best: {best['val_dsc']:.3f} at epoch {best['epoch']:.0f}")
    right.legend(loc="lower right")
    return figure


@styled
def compare(runs: Sequence[Run], labels: Sequence[str]) -> Figure:
    """Validation DSC per epoch of several runs, and the DSC of each patient at their best epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    _dsc_axis(left, "validation DSC per epoch")
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        left.plot(run.history["epoch"], run.history["val_dsc"], marker=".", label=label)
        right.plot(np.full(len(run.cases), i), run.cases["dsc"], "o", alpha=0.5)
        right.plot([i - 0.25, i + 0.25], [run.cases["dsc"].mean()] * 2, color="black", linewidth=2)
    left.legend(loc="lower right")
    right.set(title="per patient at the best epoch (line: mean)", ylabel="DSC", ylim=(0, 1))
    right.set_xticks(range(len(runs)), labels)
    return figure


def _dsc_axis(axis: Axes, title: str) -> None:
    axis.set(title=title, xlabel="epoch", ylabel="mean DSC over patients", ylim=(0, 1))
    axis.xaxis.get_major_locator().set_params(integer=True)


@styled
def dsc_bars(cases: pd.DataFrame, column: str = "dsc") -> Figure:
    """DSC of each patient as sorted bars, with mean, its 95 % confidence interval, and median.

    Args:
        cases: ``run.cases`` or ``prediction.cases``.
        column: ``dsc`` (published protocol) or ``dsc_native`` (file's own grid).
    """
    scored = cases.dropna(subset=[column]).sort_values(column)
    summary = summarise(scored[column])
    figure, axis = plt.subplots(figsize=(10, max(2.2, 0.24 * len(scored) + 0.9)))
    axis.barh(scored["patient"], scored[column], color=SKY)
    axis.axvspan(summary.low, summary.high, color=BLUE, alpha=0.15, label="95 % CI of the mean")
    axis.axvline(summary.mean, color=BLUE, label=f"mean {summary.mean:.3f}")
    axis.axvline(summary.median, color=VERMILION, linestyle="--", label=f"median {summary.median:.3f}")
    axis.set(title=f"{'DSC' if column == 'dsc' else 'DSC on the file grid'}, {summary.n} patients, worst first",
             xlabel="DSC", xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
