"""Pictures of what a module does: augmented slices, and losses of a mask that slides away."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import nn

from lib.dataset import BrainData, require_loaded
from lib.plot.given import require_given
from lib.plot.pixels import AGREED, FLAIR, PREDICTION, TRUTH
from lib.plot.style import styled
from lib.transform import Augmentation
from lib.utils import require_called

TIMES = 8  # augmented slices
SIZE, RADIUS = 64, 12  # pixels; of the sliding mask
PLACES = {TRUTH: "ground truth", PREDICTION: "prediction", AGREED: "both"}
CONFIDENT = 6.0  # logit of a pixel that is predicted to be tumour


@styled
def augmented_slices(data: BrainData, patient: str, augmentation: Augmentation) -> Figure:
    """Draw the slice with the most tumour, and eight random augmentations of it.

    FLAIR is shown as the network sees it, with the outline of the mask that moves along.
    """
    require_loaded(data)
    slices = data.slices((patient,))
    images, masks = slices.batch(np.repeat(slices.areas.argmax(), TIMES))
    drawn = augmentation.draw(np.random.default_rng(0), TIMES)
    changed, moved = augmentation.apply(images.clone(), masks.clone(), drawn)
    pictures = torch.cat([images[:1], changed])[:, FLAIR].numpy()
    outlines = torch.cat([masks[:1], moved])[:, 0].numpy()
    figure, axes = plt.subplots(1, TIMES + 1, figsize=(10, 1.6))
    low, high = images[0, FLAIR].min().item(), images[0, FLAIR].max().item()
    for axis, picture, outline in zip(axes, pictures, outlines, strict=True):
        axis.imshow(picture, vmin=low, vmax=high)
        axis.contour(outline, [0.5], colors=TRUTH, linewidths=1)
        axis.axis("off")
    axes[0].set_title("as it is", fontsize=9)
    axes[1].set_title("augmented", fontsize=9)
    return figure


@styled
def sliding_mask(losses: Mapping[str, nn.Module]) -> Figure:
    """Draw each loss of a predicted disc that slides off the true one.

    Args:
        losses: label -> loss, called with logits and {0, 1} masks, ``(1, 1, H, W)``.
    """
    require_given("sliding_mask", losses)
    for label, loss in losses.items():
        require_called(loss, f"sliding_mask: {label}")
    truth = _disc(0)
    shifts = range(2 * RADIUS + 9)
    figure, (picture, curve) = plt.subplots(1, 2, figsize=(8, 2.6), width_ratios=(1, 2.4))
    where = (truth + 2 * _disc(RADIUS))[0, 0].int().numpy()  # 3 where both are
    picture.imshow(ListedColormap(["black", *PLACES])(where))
    discs = [Patch(facecolor=colour, label=label) for colour, label in PLACES.items()]
    figure.legend(handles=discs, loc="outside lower left", ncols=3, fontsize=9)
    picture.set_title(f"shifted by {RADIUS} pixels", fontsize=10)
    picture.axis("off")
    for label, loss in losses.items():
        values = [loss((2 * _disc(shift) - 1) * CONFIDENT, truth).item() for shift in shifts]
        curve.plot(shifts, values, label=label)
    curve.axvline(2 * RADIUS, color="grey", linewidth=1, linestyle=":")
    curve.set(xlabel="shift in pixels (dotted: no overlap any more)", ylabel="loss")
    curve.legend()
    return figure


def _disc(shift: int) -> torch.Tensor:
    """Return a disc of 1 on 0, shifted to the right by so many pixels, ``(1, 1, SIZE, SIZE)``."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    inside = (y - SIZE // 2) ** 2 + (x - SIZE // 4 - shift) ** 2 <= RADIUS**2
    return inside[None, None].float()
