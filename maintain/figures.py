"""Draw the pictures of README and notebooks, from phantoms: ``python -m maintain.figures img``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lib.config import Config
from lib.dataset import load_data
from lib.metrics import Counts, counts
from lib.phantom import PHANTOM_FOLDER, write_phantom
from lib.plot import patient_slices, styled
from lib.plot.pixels import BLUE, GREEN, VERMILION
from lib.runtime import CommandParser, run_command
from maintain.architecture import draw_network

PUBLISHED_NETWORKS = (
    Config(),
    Config(model="unet_2plus"),
    Config(model="unet_3plus", init_features=64),
)
"""The three networks in the widths of their papers' tables."""


def mri() -> Figure:
    """Draw the three sequences of a phantom and its tumour."""
    data = load_data(write_phantom(PHANTOM_FOLDER), image_size=128)
    return patient_slices(
        data, max(data.patients, key=lambda name: data.record(name).tumour_slices)
    )


@styled
def dice_coefficient() -> Figure:
    """Draw three predictions of the same disc, further and further away.

    They show what a Dice coefficient looks like.
    """
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1))
    y, x = np.mgrid[-180:181, -300:301]
    for axis, half in zip(axes, (8, 40, 96), strict=True):
        truth, pred = np.hypot(x + half, y) < 160, np.hypot(x - half, y) < 160
        axis.imshow(_errors(pred, truth))
        axis.axis("off")
        axis.set_title(_formula(counts(pred[None], truth[None])))
    legend = (
        ("true positive (TP)", GREEN),
        ("false negative (FN): missed", BLUE),
        ("false positive (FP): false alarm", VERMILION),
    )
    handles = [Patch(color=colour, label=text) for text, colour in legend]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _errors(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return an image of true positives, false negatives and false positives on white."""
    image = np.ones((*pred.shape, 3))
    for region, colour in (
        (pred & truth, GREEN),
        (truth & ~pred, BLUE),
        (pred & ~truth, VERMILION),
    ):
        image[region] = plt.matplotlib.colors.to_rgb(colour)
    return image


def _formula(c: Counts) -> str:
    """Return the Dice coefficient as a formula with its value."""
    return rf"DSC = $\frac{{2\,TP}}{{2\,TP + FP + FN}}$ = {c.dsc:.2f}"


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.figures", description="Draw the pictures of the README."
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {"mri": mri, "dice_coefficient": dice_coefficient}
    drawings |= {config.model: partial(draw_network, config) for config in PUBLISHED_NETWORKS}
    for name, draw in drawings.items():
        file = folder / f"{name}.png"
        draw().savefig(file, metadata={"Software": None})
        print(file)


if __name__ == "__main__":
    run_command(main)
