"""Are the probabilities right, and is one half the best place to cut them? Counted over all voxels of some patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from lib.dataset import BrainData
from lib.evaluate import predict_volumes
from lib.metrics import dsc, largest_component
from lib.runtime import deterministic
from lib.runtime.device import prepare

BINS = 10
THRESHOLDS = np.round(np.arange(0.05, 1, 0.05), 2)


class Calibration(NamedTuple):
    """Voxels by predicted probability, and what each threshold is worth.

    Attributes:
        voxels: how many fall into each of ten equally wide bins, ``(10,)``.
        predicted: their mean probability, NaN for an empty bin.
        observed: share of them that is tumour, NaN for an empty bin.
        thresholds: ``(T,)``.
        dsc: by patient and threshold, ``(P, T)``, of the largest component on the network's grid.
    """

    voxels: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    thresholds: np.ndarray
    dsc: np.ndarray


def calibrate(network: nn.Module, data: BrainData, patients: Sequence[str]) -> Calibration:
    """Probabilities of ``network``, from ``load_weights``, against the truth of patients that it has not seen.

    Patients without masks, and those that it was trained on, are left out; without any others, all is empty.
    Takes about a fifth of a second per patient and threshold at 256x256: components are searched each time.
    """
    machine = prepare([network], "auto", "auto")
    sums, scores = np.zeros((3, BINS)), []
    fair = tuple(name for name in patients if data.record(name).truth >= 0 and name not in network.trained_on)
    with deterministic():
        for name, probabilities in predict_volumes(network, data, fair, machine):
            truth = data.slices((name,)).volume_masks()[0]
            sums += _by_bin(probabilities, truth)
            scores.append([dsc(largest_component(probabilities > t), truth) for t in THRESHOLDS])
    voxels, predicted, observed = sums
    with np.errstate(invalid="ignore"):
        return Calibration(voxels.astype(int), predicted / voxels, observed / voxels, THRESHOLDS,
                           np.array(scores).reshape(-1, len(THRESHOLDS)))


def _by_bin(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Number of voxels, sum of probabilities and number of tumour voxels in each bin, ``(3, BINS)``."""
    p = probabilities.ravel()
    places = np.minimum((p * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(places, weights, BINS) for weights in (None, p, truth.ravel())])
