"""Watch a training: ``fit(config, data, watch=LiveView())``.

The curves and the same few slices are drawn anew after an epoch, in one place.
"""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.evaluate import THRESHOLD
from lib.logger import Epoch
from lib.optim import is_done
from lib.plot.labels import label, translate
from lib.plot.pixels import BLUE, FLAIR, GREEN, PREDICTION, TRUTH, VERMILION, outline
from lib.plot.style import styled
from lib.utils import in_notebook

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

    from lib.dataset import SliceDataset

_SHARE = (
    0.03  # of the time between two pictures may go into drawing: short epochs are drawn less often
)
_SLICES = 5
_SCALE = 2  # slices are enlarged before lines are drawn
_DPI = 100


class LiveView:
    """Draw the curves so far, and FLAIR slices of validation patients with both masks outlined.

    In a notebook the picture is replaced in place, and the last one stays as an output of the cell.
    With ``KIT_PROGRESS=text`` only the last one is shown. There is none outside a notebook, nor
    with ``split="all"``, which leaves no patient to validate on. One object may watch several runs.
    """

    def __init__(self) -> None:
        self._slices: SliceDataset | None = None  # those of a run: each training has its own
        self._drawn = self._cost = 0.0

    def __call__(self, epoch: Epoch) -> None:
        """Draw, unless drawing would slow the training down; always after the last epoch."""
        if not in_notebook() or not len(epoch.slices):
            return
        if epoch.slices is not self._slices:
            self._begin(epoch)
        last = is_done(epoch.config, [row["val_dsc"] for row in epoch.history])
        live = os.environ.get("KIT_PROGRESS") != "text"
        if not last and not (live and (time.perf_counter() - self._drawn) * _SHARE >= self._cost):
            return
        started = time.perf_counter()
        self._show(self._draw(epoch))
        self._drawn = time.perf_counter()
        self._cost = self._drawn - started

    def _begin(self, epoch: Epoch) -> None:
        self._slices, self._drawn, self._cost = epoch.slices, 0.0, 0.0
        self._handle: DisplayHandle | None = None
        self._numbers = _telling_slices(epoch)
        images, truth = (part.cpu() for part in epoch.slices.batch(self._numbers))
        self._batch, self._truth = images, truth[:, 0].numpy().astype(np.uint8)
        self._grey = np.stack([_grey(image) for image in images[:, FLAIR].numpy()])
        self._canvas = _Canvas(epoch, len(self._numbers))

    def _draw(self, epoch: Epoch) -> bytes:
        with torch.inference_mode(), epoch.machine.precision.autocast(epoch.machine.device):
            logits = epoch.model(epoch.machine.to_device(self._batch))
        masks = (torch.sigmoid(logits.float())[:, 0] > THRESHOLD).cpu().numpy().astype(np.uint8)
        pictures = [
            _outlined(*planes) for planes in zip(self._grey, self._truth, masks, strict=True)
        ]
        return self._canvas.draw(epoch, pictures)

    def _show(self, png: bytes) -> None:
        from IPython.display import Image, display  # only notebooks have it

        # its size is said beforehand: the page does not jump while the next picture is decoded
        picture = Image(png, width=self._canvas.width, height=self._canvas.height)
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)


class _Canvas:
    """Keep one figure, laid out once; afterwards only its lines and pictures change."""

    def __init__(self, epoch: Epoch, count: int) -> None:
        self._figure = _empty_figure(epoch, count)
        (loss, score), self._pictures = (
            self._figure.axes[:2],
            [axis.images[0] for axis in self._figure.axes[2:]],
        )
        self._axes, self._lines = (loss, score), [*loss.lines, *score.lines]
        self.width, self.height = (int(inches * _DPI) for inches in self._figure.get_size_inches())

    def draw(self, epoch: Epoch, pictures: list[np.ndarray]) -> bytes:
        """Return the state after an epoch as a PNG."""
        numbers = [row["epoch"] for row in epoch.history]
        best = max(epoch.history, key=lambda row: row["val_dsc"])
        for line, name in zip(self._lines, ("train loss", "val loss", "val_dsc"), strict=False):
            line.set_data(numbers, [row[name] for row in epoch.history])
        self._lines[-1].set_data([best["epoch"]], [best["val_dsc"]])
        self._axes[0].relim()
        self._axes[0].autoscale_view(scalex=False)
        now = epoch.history[-1]
        titles = (
            f"{epoch.config.loss}: {now['train loss']:.3f} after epoch {numbers[-1]}",
            f"validation DSC {now['val_dsc']:.3f}, best {best['val_dsc']:.3f}",
        )
        for axis, title in zip(self._axes, titles, strict=True):
            axis.set_title(label(title))
        for axis_image, picture in zip(self._pictures, pictures, strict=True):
            axis_image.set_data(picture)
        stream = io.BytesIO()
        self._figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
        return stream.getvalue()


@styled
def _empty_figure(epoch: Epoch, count: int) -> Figure:
    figure = plt.figure(figsize=(10, 5.2))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2.3))[:, 0]
    loss, score = above.subplots(1, 2)
    loss.plot([], [], marker=".", color=BLUE, label="train loss")
    loss.plot([], [], "--", marker=".", color=VERMILION, label="validation loss")
    score.plot([], [], marker=".", color=GREEN)
    score.plot([], [], "o", color=VERMILION)
    loss.set(xlabel="epoch", ylabel="loss", title=" ")
    score.set(xlabel="epoch", ylabel="mean DSC over patients", ylim=(0, 1), title=" ")
    for axis in (loss, score):
        axis.set_xlim(0.5, epoch.config.epochs + 0.5)
        axis.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(loc="lower left")
    for axis in below.subplots(1, count, squeeze=False)[0]:
        axis.imshow(np.zeros((8, 8, 3), np.uint8))
        axis.axis("off")
    below.suptitle(
        "the same slices of validation patients, from the smallest tumour to the largest",
        fontsize=9,
    )
    below.legend(
        handles=[
            Line2D([], [], color=TRUTH, linewidth=3, label="ground truth"),
            Line2D([], [], color=PREDICTION, linewidth=2, label="prediction"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=True,
        facecolor="lightgrey",
    )
    translate(figure)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # laid out once: doing it again would cost as much as drawing
    return figure


def _telling_slices(epoch: Epoch) -> np.ndarray:
    """Return the slices to watch: of a few patients, the slice with the most tumour.

    The patients are spread evenly from the smallest tumour to the largest.
    """
    starts = np.cumsum([0, *epoch.slices.lengths[:-1]])
    largest = np.array(
        [
            start + epoch.slices.areas[start : start + length].argmax()
            for start, length in zip(starts, epoch.slices.lengths, strict=True)
        ]
    )
    by_size = largest[np.argsort(epoch.slices.areas[largest], kind="stable")]
    return by_size[np.unique(np.linspace(0, len(by_size) - 1, _SLICES).round().astype(int))]


def _grey(image: np.ndarray) -> np.ndarray:
    """Return ``(H, W)`` float as uint8: the darkest black, the 99.5th percentile white."""
    low, high = image.min(), np.percentile(image, 99.5)
    return (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def _outlined(grey: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an enlarged slice with both masks outlined, ``(H * scale, W * scale, 3)`` uint8."""
    grey, truth, mask = (
        plane.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1) for plane in (grey, truth, mask)
    )
    picture = np.repeat(grey[..., None], 3, axis=2)
    for plane, colour, width in ((truth, TRUTH, 2), (mask, PREDICTION, 1)):
        picture[outline(plane, width)] = np.array(to_rgb(colour)) * 255
    return picture
