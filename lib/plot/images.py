"""Draw slices of patients: the sequences, masks outlined, errors coloured."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lib.dataset import BrainData, require_loaded
from lib.metrics import counts
from lib.plot.given import require_given
from lib.plot.pixels import (
    CHANNELS,
    FALSE_ALARM,
    FLAIR,
    HIT,
    MISSED,
    PREDICTION,
    TRUTH,
    brightest,
    colour_table,
    kinds,
)
from lib.plot.style import nothing_to_score, styled, were_trained_on, who_counts, with_score
from lib.predict import Prediction
from lib.utils import KitError

# of what is shown around a head: below AIR times white is air, SOME of a row must be brighter, and
# MARGIN is added, as a share of the edge
AIR, SOME, MARGIN = 0.2, 0.05, 0.02
LONGEST_LINE = 36  # of the title of a slice, in characters


@styled
def patient_slices(data: BrainData, patient: str) -> Figure:
    """Draw the three sequences of the slice with the most tumour, and its outline on FLAIR."""
    require_loaded(data)
    volume, truth = data.volume(patient), _ground_truth(data, patient)
    number = _largest_slice(truth)
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.9))
    for channel, axis in enumerate(axes[:3]):
        _show(axis, volume[..., channel], number, CHANNELS[channel])
    _show(axes[3], volume[..., FLAIR], number, "tumour on FLAIR")
    _outline(axes[3], truth[number], TRUTH)
    zoom(axes, volume[..., FLAIR])
    figure.suptitle(
        f"{patient}, slice {data.patients[patient].numbers[number]} of {len(volume)}", fontsize=11
    )
    return figure


@styled
def overlays(prediction: Prediction) -> Figure:
    """Draw the worst, the median and the best patient at the slice with the most tumour.

    Ground truth and prediction are outlined; below, the errors are coloured. Only patients that the
    network was not trained on are drawn, if there are any.
    """
    require_given("overlays", prediction)
    scored = with_score(prediction.cases, "dsc_native").sort_values(["dsc_native", "patient"])
    if scored.empty:
        return nothing_to_score()
    seen = were_trained_on(scored)
    counted, who = who_counts(seen)
    ranked = list(scored.loc[counted, "patient"])
    chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    figure, axes = plt.subplots(2, 3, figsize=(10, 7.3))
    for (above, below), (word, patient) in zip(axes.T, chosen.items(), strict=True):
        truth = _ground_truth(prediction.data, patient)
        mask = prediction.mask(patient)
        flair, number = prediction.data.volume(patient)[..., FLAIR], _largest_slice(truth)
        whole = f"whole volume: DSC {counts(mask, truth).dsc:.3f} (file's grid)"
        _show(
            above, flair, number, f"{word}: {patient}\n{whole}\nslice {number + 1} of {len(mask)}"
        )
        _outline(above, truth[number], TRUTH, 2.5)
        _outline(above, mask[number], PREDICTION)
        colours = colour_table("error", 0.6, (0, brightest(flair)))
        below.imshow(
            colours[kinds(truth[number], mask[number], flair[number].shape), flair[number]]
        )
        below.axis("off")
        zoom((above, below), flair)
        if patient in prediction.seen:
            above.set_title(f"{above.get_title()} (trained on)", color="dimgrey")
    if seen.any():
        figure.suptitle(who, fontsize=11)
    _legend_of_masks(figure)
    return figure


@styled
def disagreement(predictions: Mapping[str, Prediction]) -> Figure:
    """Draw two predictions of a patient on the slice where they differ most.

    It may be one without tumour, where one of them has a false alarm; then the title says so.
    Both masks are outlined on FLAIR; beside it is what each found, missed and falsely found.

    Args:
        predictions: label -> prediction of the same patient, see ``lib.predict.most_different``.
            Without two of them there is nothing to compare; a sentence says so.

    Raises:
        KitError: more than two, or of other patients; or the patient has no masks.
    """
    require_given("disagreement", predictions)
    if len(predictions) < 2:
        return nothing_to_score("second run to compare with")
    for label, prediction in predictions.items():
        if not isinstance(prediction, Prediction):
            raise KitError(
                f"disagreement: {label}: expected a prediction, got a "
                f"{type(prediction).__name__}; give what lib.predict.most_different returns"
            )
    first, second, *others = predictions.values()
    names = [list(one.cases["patient"]) for one in (first, second, *others)]
    if others or names[0] != names[1] or len(names[0]) != 1:
        raise KitError(
            "disagreement: expected two predictions, both of one and the same patient; give what "
            "lib.predict.most_different returns"
        )
    [patient] = first.cases["patient"]
    masks = [prediction.mask(patient) for prediction in predictions.values()]
    truth = _ground_truth(first.data, patient)
    flair = first.data.volume(patient)[..., FLAIR]
    number = int((masks[0] != masks[1]).sum(axis=(1, 2)).argmax())
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.1))
    colours = colour_table("error", 0.6, (0, brightest(flair)))
    for outlined, coloured, mask, label in zip(
        axes[::2], axes[1::2], masks, predictions, strict=True
    ):
        above = f"{label}: DSC {counts(mask, truth).dsc:.3f}"
        _show(outlined, flair, number, textwrap.fill(above, LONGEST_LINE))
        _outline(outlined, truth[number], TRUTH, 2.5)
        _outline(outlined, mask[number], PREDICTION)
        errors = kinds(truth[number], mask[number], flair[number].shape)
        coloured.imshow(colours[errors, flair[number]])
        coloured.axis("off")
    zoom(axes, flair)
    title = [
        f"{patient}, slice {number + 1} of {len(flair)}: where the two differ most "
        f"(DSC: whole volume, file's grid)"
    ]
    if not truth[number].any():
        title.append("there is no tumour in this slice")
    figure.suptitle("\n".join(title), fontsize=11)
    _legend_of_masks(figure)
    return figure


def _ground_truth(data: BrainData, patient: str) -> np.ndarray:
    """Return the mask of a patient, ``(S, H, W)`` {0, 1} uint8; raise ``KitError`` without one."""
    truth = data.truth(patient)
    if truth is None:
        raise KitError(f"{patient}: has no masks to draw; choose a patient that has")
    return truth


def _legend_of_masks(figure: Figure) -> None:
    lines = [
        Line2D([], [], color=colour, label=label, linewidth=2)
        for label, colour in (("ground truth", TRUTH), ("prediction", PREDICTION))
    ]
    areas = [
        Patch(facecolor=colour, label=label)
        for label, colour in (
            ("found (TP)", HIT),
            ("missed (FN)", MISSED),
            ("false alarm (FP)", FALSE_ALARM),
        )
    ]
    figure.legend(
        handles=[*lines, *areas],
        loc="outside lower center",
        ncols=5,
        facecolor="lightgrey",
        frameon=True,
    )


def _largest_slice(mask: np.ndarray) -> int:
    """Return the index of the slice with the most tumour; the middle one if there is none."""
    areas = mask.sum(axis=(1, 2))
    return int(areas.argmax()) if areas.any() else len(mask) // 2


def _show(axis: Axes, volume: np.ndarray, number: int, title: str) -> None:
    axis.imshow(volume[number], vmin=0, vmax=brightest(volume))
    axis.set_title(title)
    axis.axis("off")


def zoom(axes: Iterable[Axes], volume: np.ndarray) -> None:
    """Show the square around the head only: no air, and all axes alike.

    Args:
        volume: ``(S, H, W)`` uint8. Rows and columns count that have a share of bright pixels in
            some slice, so noise in the air does not.
    """
    bright = volume > AIR * brightest(volume)
    rows, columns = (np.flatnonzero(bright.mean(axis=other).max(axis=0) > SOME) for other in (2, 1))
    if not len(rows) or not len(columns):
        return
    centre = (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2
    half = max(np.ptp(rows), np.ptp(columns)) / 2 + MARGIN * max(volume.shape[1:])
    (top, left), (bottom, right) = (
        [max(-0.5, c - half) for c in centre],
        [min(size - 0.5, c + half) for c, size in zip(centre, volume.shape[1:], strict=True)],
    )
    for axis in axes:
        axis.set(xlim=(left, right), ylim=(bottom, top))


def _outline(axis: Axes, mask: np.ndarray, colour: str, width: float = 1.2) -> None:
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=width)
