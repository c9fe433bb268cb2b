"""How well a mask agrees with the truth: counts, DSC, IoU, HD95, and what to say about a group of patients.

All functions take {0, 1} (or bool) volumes ``(S, H, W)``. A patient without tumour makes ratios
0/0; the rules are: both empty -> DSC = IoU = 1 and HD95 = 0; exactly one empty -> DSC = IoU = 0 and
HD95 = the volume's diagonal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Counts(NamedTuple):
    """Voxels that are truly positive, falsely positive and falsely negative."""

    tp: int
    fp: int
    fn: int

    @property
    def dsc(self) -> float:
        """Dice similarity coefficient, 2 TP / (2 TP + FP + FN), in [0, 1]."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard), TP / (TP + FP + FN), in [0, 1]."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of the prediction that is tumour; 1 when nothing was predicted and nothing was there."""
        return _ratio(self.tp, self.tp + self.fp) if self.tp + self.fp or not self.fn else 0.0

    @property
    def recall(self) -> float:
        """Share of the tumour that was found; 1 when nothing was there and nothing was predicted."""
        return _ratio(self.tp, self.tp + self.fn) if self.tp + self.fn or not self.fp else 0.0


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def counts(pred: np.ndarray, true: np.ndarray) -> Counts:
    """Exact voxel counts of a predicted against a true mask.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != true.shape:
        raise ValueError(
            f"prediction of {pred.shape} voxels, truth of {true.shape}: they must agree"
        )
    pred, true = pred.astype(bool), true.astype(bool)
    tp = int(np.count_nonzero(pred & true))
    return Counts(tp, int(np.count_nonzero(pred)) - tp, int(np.count_nonzero(true)) - tp)


def dsc(pred: np.ndarray, true: np.ndarray) -> float:
    """Dice similarity coefficient of two volumes, in [0, 1].

    As they are: see ``largest_component``.
    """
    return counts(pred, true).dsc


def iou(pred: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two volumes, in [0, 1]."""
    return counts(pred, true).iou


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest face-connected component of a 3-D mask, bool; the first of equals; nothing for an empty mask.

    The published protocol scores this. It assumes that a patient has one tumour, and specks
    elsewhere are errors that cost nothing; of a tumour in two places only the larger part can be
    found.
    """
    labels, n = ndimage.label(mask)
    if n < 2:
        return mask.astype(bool)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def hd95(pred: np.ndarray, true: np.ndarray) -> float:
    """Hausdorff distance with 95th percentiles: the larger of the two directed ones, in voxels.

    Distances run between the surfaces (voxels with a face towards the outside). The files tell no
    voxel size, so a step between slices counts as much as one within them.
    """
    pred, true = pred.astype(bool), true.astype(bool)
    if not pred.any() or not true.any():
        return 0.0 if pred.any() == true.any() else float(np.linalg.norm(pred.shape))
    return max(float(np.percentile(distances, 95)) for distances in surface_distances(pred, true))


def surface_distances(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each surface voxel of ``pred`` to the surface of ``true``, and the other way round.

    Args:
        pred, true: bool volumes, neither of them empty.
    """
    box = _box(
        pred | true
    )  # outside of it there is no surface: the distance maps need not go there
    a, b = (_surface(mask[box]) for mask in (pred, true))
    return ndimage.distance_transform_edt(~b)[a], ndimage.distance_transform_edt(~a)[b]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty."""
    lines = (
        mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis))
        for axis in range(mask.ndim)
    )
    return tuple(slice(int(line.argmax()), len(line) - int(line[::-1].argmax())) for line in lines)


def _surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


class Summary(NamedTuple):
    """A group of patients in a line."""

    n: int
    mean: float
    median: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.n == 1:  # how others would differ is not known
            return f"{self.mean:.3f}, 1 patient"
        return (
            f"mean {self.mean:.3f} (95 % CI {self.low:.3f} to {self.high:.3f}), median {self.median:.3f}, "
            f"SD {self.sd:.3f}, {self.n} patients"
        )


def summarise(values: np.ndarray) -> Summary:
    """Mean, median, SD and the BCa bootstrap 95 % CI of the mean (9,999 resamples, fixed seed), one value a patient."""
    values = np.asarray(values, float)
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
