"""Compare a mask with the ground truth: counts, DSC, IoU, HD95; summarise a group of patients.

All functions take volumes ``(S, H, W)`` of bool or integers, in which 0 is background and anything
else is tumour. Probabilities are no mask: choose a threshold first. A patient without tumour makes
ratios 0/0; the rules are: both empty -> DSC = IoU = 1 and HD95 = 0; exactly one empty -> DSC = IoU
= 0 and HD95 = the volume's diagonal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lib.utils import KitError


class Column(NamedTuple):
    """Describe a score of a patient, a column of cases.csv.

    Attributes:
        kind: int for counts of voxels, float otherwise.
        highest: largest value that can occur; the smallest is 0.
        label: name in tables and figures.
        higher_is_better: None for a count, which means nothing alone.
    """

    kind: type[int] | type[float]
    highest: float
    label: str
    higher_is_better: bool | None = None


COLUMNS = {
    "dsc": Column(float, 1, "DSC", True),
    "dsc_native": Column(float, 1, "DSC (native)", True),
    "tp": Column(int, 2**40, "true positives"),
    "fp": Column(int, 2**40, "false positives"),
    "fn": Column(int, 2**40, "false negatives"),
    "iou": Column(float, 1, "IoU", True),
    "precision": Column(float, 1, "precision", True),
    "recall": Column(float, 1, "recall", True),
    "hd95": Column(float, 1e6, "HD95", False),
}
"""The scores of a patient, in the order of cases.csv; ``lib.evaluate.case_row`` computes them.

``dsc`` is on the network's grid, as published: cropped to the head, without the first and the last
slice, resized. All others are on the file's grid, so ``dsc_native`` follows from the counts, and
``dsc`` does not.
"""


class Counts(NamedTuple):
    """Voxels that are truly positive, falsely positive and falsely negative."""

    tp: int
    fp: int
    fn: int

    @property
    def dsc(self) -> float:
        """Return the Dice similarity coefficient, 2 TP / (2 TP + FP + FN), in [0, 1]."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """Return intersection over union (Jaccard), TP / (TP + FP + FN), in [0, 1]."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Return the share of the prediction that is tumour; 1 when both masks are empty."""
        return _ratio(self.tp, self.tp + self.fp) if self.tp + self.fp or not self.fn else 0.0

    @property
    def recall(self) -> float:
        """Return the share of the tumour that was found; 1 when both masks are empty."""
        return _ratio(self.tp, self.tp + self.fn) if self.tp + self.fn or not self.fp else 0.0


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def binary(mask: np.ndarray) -> np.ndarray:
    """Return a mask as bool: what is not 0 is tumour.

    Raises:
        KitError: probabilities, logits or other numbers that are not 0 and 1, or 0 and 255.
    """
    found = np.asarray(mask)
    if found.dtype == bool or np.issubdtype(found.dtype, np.integer):
        return found.astype(bool)
    if not np.issubdtype(found.dtype, np.floating):
        raise KitError(f"mask: expected an array of 0 and 1, got {found.dtype}")
    if not any(np.isin(found, (0, tumour)).all() for tumour in (1, 255)):
        raise KitError(
            f"mask: expected 0 and 1, got {found.dtype} from {found.min():.3g} to "
            f"{found.max():.3g}; turn probabilities into a mask first, e.g. with "
            f"probabilities > 0.5"
        )
    return found.astype(bool)


def binary_pair(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a predicted and a true mask as bool. Raises KitError if the shapes differ."""
    pred, true = binary(pred), binary(true)
    if pred.shape != true.shape:
        raise KitError(
            f"prediction of {pred.shape} voxels, ground truth of {true.shape}: they must agree"
        )
    return pred, true


def counts(pred: np.ndarray, true: np.ndarray) -> Counts:
    """Count the voxels of a prediction that are right, wrong and missed.

    Raises:
        KitError: the shapes differ, or one is no mask.
    """
    pred, true = binary_pair(pred, true)
    tp = int(np.count_nonzero(pred & true))
    return Counts(tp, int(np.count_nonzero(pred)) - tp, int(np.count_nonzero(true)) - tp)


def dsc(pred: np.ndarray, true: np.ndarray) -> float:
    """Return the Dice similarity coefficient of two volumes, in [0, 1].

    All connected components count; see ``largest_component``.
    """
    return counts(pred, true).dsc


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest face-connected component of a 3-D mask, bool.

    It is the first of equals, and empty for an empty mask. The published protocol scores this. It
    assumes that a patient has one tumour: specks elsewhere cost nothing, and of a tumour in two
    places only the larger part can be found.
    """
    mask = binary(mask)
    labels, n = ndimage.label(mask)
    if n < 2:
        return mask
    largest: np.ndarray = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return largest


def likeliest_component(mask: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the face-connected component of a 3-D mask with the largest sum of log-odds, bool.

    It is the first of equals, and empty for an empty mask. A large piece of which the network is
    hardly sure loses against a smaller one of which it is.

    Args:
        probabilities: of the shape of ``mask``, in [0, 1]; log-odds are limited to +-13.8.

    Raises:
        KitError: another shape, or no mask.
    """
    mask = binary(mask)
    if probabilities.shape != mask.shape:
        raise KitError(
            f"probabilities of {probabilities.shape} voxels, mask of {mask.shape}: they must agree"
        )
    labels, n = ndimage.label(mask)
    if n < 2:
        return mask
    p = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    sums = np.bincount(labels.ravel(), np.log(p / (1 - p)).ravel())
    likeliest: np.ndarray = labels == 1 + int(np.argmax(sums[1:]))
    return likeliest


def hd95(pred: np.ndarray, true: np.ndarray) -> float:
    """Return the Hausdorff distance with 95th percentiles, in voxels.

    It is the larger of the two directed ones. Distances run between the surfaces (voxels with a
    face towards the outside). The files contain no voxel size, so a step between slices counts as
    much as one within them.

    Raises:
        KitError: the shapes differ, or one is no mask.
    """
    pred, true = binary_pair(pred, true)
    if not pred.any() or not true.any():
        both_empty = pred.any() == true.any()
        return 0.0 if both_empty else float(np.linalg.norm(pred.shape))
    return max(float(np.percentile(distances, 95)) for distances in surface_distances(pred, true))


def surface_distances(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances from each surface to the other, of all its voxels.

    First from ``pred`` to ``true``, then the other way round.

    Args:
        pred, true: bool volumes, neither of them empty.
    """
    box = _box(pred | true)  # there is no surface outside, so no distance map is needed there
    a, b = (_surface(mask[box]) for mask in (pred, true))
    return ndimage.distance_transform_edt(~b)[a], ndimage.distance_transform_edt(~a)[b]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        line = np.flatnonzero(np.asarray(mask.any(axis=others)))
        box.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    surface: np.ndarray = mask & ~ndimage.binary_erosion(mask)
    return surface


class Summary(NamedTuple):
    """Summarise the scores of a group of patients; ``str()`` puts it into one line."""

    n: int
    mean: float
    median: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.n == 0:
            return "no patients"
        if self.n == 1:  # how others would differ is not known
            return f"{self.mean:.3f}, 1 patient"
        return (
            f"mean {self.mean:.3f} (95 % CI {self.low:.3f} to {self.high:.3f}), "
            f"median {self.median:.3f}, SD {self.sd:.3f}, {self.n} patients"
        )


def summarise(values: np.ndarray) -> Summary:
    """Return mean, median, SD and the 95 % CI of the mean of one value per patient.

    The interval is a BCa bootstrap: 9,999 resamples, fixed seed. Of no values all is NaN.
    """
    values = np.asarray(values, float)
    if not len(values):
        return Summary(0, *[math.nan] * 5)
    mean, median = float(values.mean()), float(np.median(values))
    if len(values) < 2 or np.ptp(values) < 1e-9:  # nothing to resample
        return Summary(len(values), mean, median, 0.0, mean, mean)
    from scipy import stats  # here, because it takes longer to import than all else but torch

    interval = stats.bootstrap(
        (values,), np.mean, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    return Summary(
        len(values),
        mean,
        median,
        float(values.std(ddof=1)),
        float(interval.low),
        float(interval.high),
    )
