"""The exercises of the assignment, from ten minutes to an hour each; write what is missing.

``python -m lib.check exercises`` (``make check``) tries them on small inputs, and says what is
expected and why it matters. A loss of yours can be trained at once: ``{"loss":
"exercises:DiceLoss"}`` in a plan. ``lib`` does not use this file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn


class DiceLoss(nn.Module):
    """One minus the soft Dice coefficient of a batch (about 15 minutes).

    With probabilities p (the sigmoid of the logits), ground truth t and sums over all pixels of all
    slices of the batch: 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits, target: ``(N, 1, H, W)``; the target is 0 or 1.
        """
        ### BEGIN SOLUTION: return the loss of the batch, a scalar
        probability = torch.sigmoid(logits)
        overlap = (probability * target).sum()
        return 1 - (2 * overlap + 1) / (probability.sum() + target.sum() + 1)
        ### END SOLUTION


class FocalTverskyLoss(nn.Module):
    """The loss of Abraham and Khan 2018 (arXiv:1810.07842), equation 4 (about 20 minutes).

    With TP = sum(p t), FN = sum((1 - p) t) and FP = sum(p (1 - t)) over the whole batch the Tversky
    index is (TP + 1) / (TP + 0.7 FN + 0.3 FP + 1); the loss is (1 - index) to the power of 3/4.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar; arguments as for ``DiceLoss``."""
        ### BEGIN SOLUTION: return the loss of the batch, a scalar
        probability = torch.sigmoid(logits)
        tp = (probability * target).sum()
        fn = ((1 - probability) * target).sum()
        fp = (probability * (1 - target)).sum()
        index = (tp + 1) / (tp + 0.7 * fn + 0.3 * fp + 1)
        return (1 - index) ** 0.75
        ### END SOLUTION


def dsc(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice similarity coefficient of two volumes, in [0, 1] (about 10 minutes).

    It is 2 TP / (2 TP + FP + FN), counted over all slices together. If both volumes are empty it is
    1, if only one of them is, 0.

    Args:
        predicted, truth: ``(S, H, W)``, bool.
    """
    ### BEGIN SOLUTION: return the coefficient, a float
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0
    ### END SOLUTION


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a volume, bool (about 20 minutes).

    Voxels are connected if they share a face, also from slice to slice. An empty mask stays empty.
    ``scipy.ndimage.label`` numbers the components.

    Args:
        mask: ``(S, H, W)``, bool.
    """
    ### BEGIN SOLUTION: return the mask of one component, of the shape of mask
    labels, number = ndimage.label(mask)
    if not number:
        return mask.copy()
    sizes = np.bincount(labels.ravel())
    return labels == 1 + int(sizes[1:].argmax())
    ### END SOLUTION


class DecoderStep(nn.Module):
    """One step of U-Net's decoder (about 30 minutes).

    Enlarge ``x`` twofold (``nn.ConvTranspose2d``, kernel and stride 2, to ``out_channels``),
    concatenate the skip connection, and apply two 3x3 convolutions to ``out_channels``, each with
    batch normalisation and ReLU behind it.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        ### BEGIN SOLUTION: make the layers: self.up, and the two convolutions
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        layers: list[nn.Module] = []
        for channels in (out_channels + skip_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, kernel_size=3, padding=1),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
        self.convolve = nn.Sequential(*layers)
        ### END SOLUTION

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return ``(N, out_channels, 2 H, 2 W)``.

        Args:
            x: from the level below, ``(N, in_channels, H, W)``.
            skip: from the encoder, ``(N, skip_channels, 2 H, 2 W)``.
        """
        ### BEGIN SOLUTION: return the features after the second convolution
        return self.convolve(torch.cat([self.up(x), skip], dim=1))
        ### END SOLUTION


def nested_node(
    convolve: Callable[[Tensor], Tensor],
    upsample: Callable[[Tensor], Tensor],
    earlier: Sequence[Tensor],
    below: Tensor,
) -> Tensor:
    """Return the node X^{i,j} of U-Net++ (about 20 minutes), arXiv:1807.10165, equation 1.

    X^{i,j} = H([X^{i,0}, ..., X^{i,j-1}, U(X^{i+1,j-1})]): all earlier nodes of its level, in their
    order, and behind them the node below, enlarged.

    Args:
        convolve, upsample: H and U.
        earlier: X^{i,0} to X^{i,j-1}, each ``(N, C, H, W)``.
        below: X^{i+1,j-1}, ``(N, C', H / 2, W / 2)``.
    """
    ### BEGIN SOLUTION: return the node, after H
    return convolve(torch.cat([*earlier, upsample(below)], dim=1))
    ### END SOLUTION


def flip_average(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return probabilities averaged over a slice and its mirror image (about 20 minutes).

    The mirror image is flipped left to right; its probabilities are flipped back before they are
    averaged with those of the slice as it is.

    Args:
        network: images -> logits ``(N, 1, H, W)``.
        images: ``(N, C, H, W)``.
    """
    ### BEGIN SOLUTION: return the averaged probabilities, (N, 1, H, W)
    plain = torch.sigmoid(network(images))
    mirrored = torch.sigmoid(network(images.flip(-1))).flip(-1)
    return (plain + mirrored) / 2
    ### END SOLUTION


def cosine(epoch: int, epochs: int, lr: float) -> float:
    """Return the learning rate of an epoch: half a cosine, from ``lr`` towards 0 (10 minutes).

    It is lr (1 + cos(pi epoch / epochs)) / 2, Loshchilov and Hutter 2016 (arXiv:1608.03983), with
    epochs counted from 0.
    """
    ### BEGIN SOLUTION: return the learning rate, a float
    return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
    ### END SOLUTION


def mirror(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return slices and masks, each mirrored left to right with probability 1/2 (20 minutes).

    A slice and its mask are mirrored together, each slice by a draw of its own. What was passed in
    stays as it is.

    Args:
        images: ``(N, C, H, W)``.
        masks: ``(N, 1, H, W)``.
        rng: draws all random numbers.
    """
    ### BEGIN SOLUTION: return the slices and their masks
    chosen = rng.random(len(images)) < 0.5
    images, masks = images.copy(), masks.copy()
    images[chosen] = images[chosen, ..., ::-1]
    masks[chosen] = masks[chosen, ..., ::-1]
    return images, masks
    ### END SOLUTION


def split_by_patient(
    patient_of: Sequence[str], validation: int, seed: int
) -> tuple[list[int], list[int]]:
    """Return the slices to train on and those to validate on (about 30 minutes).

    ``validation`` patients are drawn, and all of their slices go to validation. The same seed gives
    the same patients, whatever the order of the slices.

    Args:
        patient_of: the patient of each slice; many slices have the same.

    Returns:
        Indices of slices, ascending, each in one of the two lists.
    """
    ### BEGIN SOLUTION: return the slices to train on, and those to validate on
    patients = sorted(set(patient_of))
    chosen = set(np.random.default_rng(seed).choice(patients, validation, replace=False).tolist())
    learn = [index for index, patient in enumerate(patient_of) if patient not in chosen]
    return learn, [index for index, patient in enumerate(patient_of) if patient in chosen]
    ### END SOLUTION
