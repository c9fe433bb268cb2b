"""Evaluate a network on patients: probabilities, DSC per patient, table of cases, calibration."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.config import Component, Config
from lib.dataset import BrainData, SliceDataset
from lib.metrics import (
    COLUMNS,
    Counts,
    binary_pair,
    counts,
    dsc,
    hd95,
    largest_component,
    likeliest_component,
)
from lib.runtime import Machine, deterministic, load_function, tune_allocator
from lib.runtime.device import prepare
from lib.utils import KitError, see

THRESHOLD = 0.5
BATCH_SIZE = 16  # of predictions; nothing but memory depends on it
CASE_COLUMNS = ("patient", "slices", *COLUMNS)
_FURTHER_COLUMNS = ("seen", "fold")  # of a prediction, and of a cross-validation


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights, and what to know before using it.

    Attributes:
        network: in eval mode, on the CPU unless it has been used since.
        config: how the network was built and trained, and how images are prepared for it.
        trained_on: names of the patients it was trained on; empty if not known.
        scans: of these patients, see ``BrainData.scans``; empty if not known.
    """

    network: nn.Module
    config: Config
    trained_on: tuple[str, ...]
    scans: tuple[str, ...] = ()

    def seen(self, data: BrainData) -> frozenset[str]:
        """Return the patients that it was trained on, whatever their names and dates here."""
        return data.known(self.trained_on, self.scans)

    def __str__(self) -> str:
        size, known = self.config.image_size, len(self.trained_on)
        return (
            f"{self.config.model}, {self.config.init_features} features, {size}x{size} pixels, "
            f"trained on {f'{known} patients' if known else 'patients that it does not name'}"
        )


def forward_batches(
    model: nn.Module, slices: SliceDataset, machine: Machine, batch_size: int, tta: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and masks batch by batch, in the order of the slices.

    ``(N, 1, H, W)`` float32 each, on the device.

    Args:
        tta: average over a left-right flip, see ``Config.tta``.
    """
    model.eval()
    for start in range(0, len(slices), batch_size):
        indices = np.arange(start, min(start + batch_size, len(slices)))
        images, masks = (machine.to_device(part) for part in slices.batch(indices))
        with torch.inference_mode(), machine.precision.autocast(machine.device):
            logits = torch.cat([_logits(model, part, tta) for part in machine.at_once(images)])
        yield logits, masks


def _logits(model: nn.Module, images: Tensor, tta: bool) -> Tensor:
    logits = model(images).float()
    return mean_logits(logits, model(images.flip(3)).float().flip(3)) if tta else logits


def mean_logits(one: Tensor, other: Tensor) -> Tensor:
    """Return the logits of the mean of two probabilities; finite where both logits are."""
    present, absent = (
        torch.logaddexp(F.logsigmoid(sign * one), F.logsigmoid(sign * other)) for sign in (1, -1)
    )
    return present - absent


def predict_volumes(
    network: nn.Module,
    config: Config,
    data: BrainData,
    patients: Sequence[str],
    machine: Machine,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each patient's name and probabilities, one patient at a time.

    The probabilities are ``(S', size, size)`` float32 on the network's grid.

    Args:
        network: on the device of ``machine``.
        config: of the network; ``neighbours`` and ``tta`` count.
    """
    for patient in patients:
        slices = data.slices((patient,), config.neighbours)
        # around all batches, so that weights are converted once
        with machine.precision.autocast(machine.device):
            batches = forward_batches(network, slices, machine, batch_size, config.tta)
            logits = [logits for logits, _ in batches]
        volume = torch.sigmoid(torch.cat(logits)[:, 0]).cpu().numpy()
        _require_numbers(patient, volume)
        yield patient, volume


def _require_numbers(patient: str, probabilities: np.ndarray) -> None:
    """Raise ``KitError`` if the network's output has values that are not a number."""
    if np.isnan(probabilities).any():
        raise KitError(
            f"{patient}: the network's output is not a number in places; use precision=fp32, or "
            f"train it with a lower lr"
        )


def segmentation(
    probabilities: np.ndarray, component: Component | str, threshold: float = THRESHOLD
) -> np.ndarray:
    """Return the mask of a patient: what is above the threshold, and of that what a rule keeps.

    A custom rule, ``"module:function"``, is called with mask and probabilities; it returns a mask.

    Args:
        probabilities: ``(S, H, W)``.
        component: see ``Config.component``.

    Returns:
        bool, ``(S, H, W)``.

    Raises:
        KitError: a custom rule that is not there, or returns no mask.
    """
    mask = probabilities > threshold
    if component not in get_args(Component):
        kept = np.asarray(load_function(component)(mask.copy(), probabilities.copy()))
        if kept.shape != mask.shape or not np.isin(kept, (0, 1)).all():
            raise KitError(
                f"{component}: must return a mask of {mask.shape}, of 0 and 1, got {kept.dtype} of "
                f"{kept.shape}; "
                f"{see('extending', 'A post-processing, and a metric')}"
            )
        return kept.astype(bool)
    if component == "largest":
        return largest_component(mask)
    if component == "likeliest":
        return likeliest_component(mask, probabilities)
    return mask


def seconds_per_slice(trained: TrainedModel, machine: Machine) -> float:
    """Measure how long the network takes here, on four blank slices, after four to warm up.

    Args:
        trained: its network is on the device of ``machine``.
    """
    config = trained.config
    shape = (4, config.in_channels, config.image_size, config.image_size)
    images, started = machine.to_device(torch.zeros(shape)), 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.inference_mode(), machine.precision.autocast(machine.device):
            _logits(trained.network, images, config.tta).sum().item()  # waits for a GPU
    return (time.perf_counter() - started) / len(images)


def validate(
    network: nn.Module,
    config: Config,
    loss: nn.Module,
    slices: SliceDataset,
    machine: Machine,
    batch_size: int,
) -> tuple[float, float]:
    """Return the mean loss over batches and the mean DSC over patients, on the network's grid.

    Predictions are made as for the table of cases, with flips and components as ``config`` says:
    the best epoch is chosen by the score that is reported. Without slices both are NaN.
    """
    if not len(slices):
        return math.nan, math.nan
    losses, probabilities = [], []
    for logits, truth in forward_batches(network, slices, machine, batch_size, config.tta):
        losses.append(loss(logits, truth))
        probabilities.append(torch.sigmoid(logits[:, 0]))
    volumes = np.split(torch.cat(probabilities).cpu().numpy(), np.cumsum(slices.lengths)[:-1])
    for patient, volume in zip(slices.patients, volumes, strict=True):
        _require_numbers(patient, volume)
    scores = [
        dsc(segmentation(volume, config.component), truth)
        for volume, truth in zip(volumes, slices.volume_masks(), strict=True)
    ]
    return torch.stack(losses).mean().item(), float(np.mean(scores))


def predicted_mask(
    data: BrainData, patient: str, probabilities: np.ndarray, component: str
) -> np.ndarray:
    """Return the ``segmentation`` on the file's grid, ``(S, H, W)`` uint8.

    Args:
        probabilities: ``(S', size, size)``, on the network's grid.
    """
    restored = data.record(patient).geometry.restore(probabilities)
    return segmentation(restored, component).astype(np.uint8)


def case_row(
    config: Config, data: BrainData, patient: str, probabilities: np.ndarray, mask: np.ndarray
) -> dict[str, Any]:
    """Return a row of cases.csv; only ``patient`` and ``slices`` for a patient without masks.

    Args:
        config: of the network; ``component`` and ``metric`` count.
        probabilities: ``(S', size, size)``, on the network's grid.
        mask: ``(S, H, W)``, the ``predicted_mask`` with the same rule.
    """
    row: dict[str, Any] = {"patient": patient, "slices": len(mask)}
    truth = data.truth(patient)
    if truth is None:
        return row
    network_truth = data.slices((patient,)).volume_masks()[0]
    native = counts(mask, truth)
    scores = {
        "dsc": dsc(segmentation(probabilities, config.component), network_truth),
        **native._asdict(),
        **native_scores(native),
        "hd95": hd95(mask, truth),
    }
    row |= {name: scores[name] for name in COLUMNS}
    if name := config.custom.get("metric"):
        row[metric_column(name)] = custom_score(name, mask.astype(bool), truth.astype(bool))
    return row


def metric_column(metric: str) -> str:
    """Return the column of a custom metric: the name of its function.

    Raises:
        KitError: a table of cases has a column of that name already.
    """
    column = metric.partition(":")[2]
    if column in (*CASE_COLUMNS, *_FURTHER_COLUMNS):
        raise KitError(f"{metric}: tables of cases have a column {column}; give it another name")
    return column


def custom_score(metric: str, mask: np.ndarray, truth: np.ndarray) -> float:
    """Return what a custom metric gives for a predicted and a true mask, ``(S, H, W)`` bool.

    Raises:
        KitError: there is no such function, or it returns no number.
    """
    score = load_function(metric)(mask, truth)
    if not isinstance(score, Real):
        raise KitError(
            f"{metric}: must return a number, got a {type(score).__name__}; "
            f"{see('extending', 'A post-processing, and a metric')}"
        )
    return float(score)


def try_custom(config: Config) -> None:
    """Try a custom post-processing and metric on small volumes, before hours are spent.

    Raises:
        KitError: see ``segmentation``, ``metric_column`` and ``custom_score``.
    """
    probabilities = np.random.default_rng(0).random((3, 16, 16), np.float32)
    truth = np.zeros((3, 16, 16), bool)
    truth[1, 4:8, 4:8] = True
    for volume in (probabilities, np.zeros_like(probabilities)):
        mask = segmentation(volume, config.component)
        if name := config.custom.get("metric"):
            metric_column(name)
            custom_score(name, mask, truth)


def native_scores(native: Counts) -> dict[str, float]:
    """Return the columns of cases.csv that follow from the voxel counts on the file's grid."""
    return {
        "dsc_native": native.dsc,
        "iou": native.iou,
        "precision": native.precision,
        "recall": native.recall,
    }


def score_cases(
    network: nn.Module,
    config: Config,
    data: BrainData,
    patients: Sequence[str],
    machine: Machine,
    batch_size: int = BATCH_SIZE,
) -> list[dict[str, Any]]:
    """Return a row of cases.csv for each patient, see ``case_row``.

    Args:
        batch_size: slices computed at once.
    """
    volumes = predict_volumes(network, config, data, patients, machine, batch_size)
    return [
        case_row(
            config, data, patient, volume, predicted_mask(data, patient, volume, config.component)
        )
        for patient, volume in volumes
    ]


def check_patients(
    data: BrainData, config: Config, patients: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names asked for, or all, of data that a network of ``config`` can read.

    Raises:
        KitError: data prepared for another image size, no such patient, or one twice.
    """
    if (data.image_size, data.preprocessing) != (config.image_size, config.preprocessing):
        raise KitError(
            f"the network was trained on {config.preprocessing} at {config.image_size} pixels, "
            f"the data was loaded as {data.preprocessing} at {data.image_size}; load it with the "
            f"network's values"
        )
    names = tuple(data.patients) if patients is None else data.named(patients)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise KitError(f"patient {twice[0]} is asked for twice; name each once: a mean counts each")
    return names


# --- lesions --------------------------------------------------------------------------------------


def lesions(mask: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Compare lesion by lesion: which are found, which are missed, and what is invented.

    A lesion is a connected component of the ground truth, of voxels that share faces. It is found
    if the prediction covers a voxel of it. A component of the prediction without a voxel in common
    with any lesion is invented.

    Args:
        mask, truth: ``(S, H, W)`` {0, 1}.

    Returns:
        For each a row with its ``kind`` (found, missed, invented), ``voxels``, and the share of
        them that is ``covered`` by the other mask, in [0, 1].

    Raises:
        KitError: the shapes differ, or one is no mask.
    """
    from skimage import measure  # here, because training does not need it

    rows = []
    mask, truth = binary_pair(mask, truth)
    for ours, other, if_covered, if_not in (
        (truth, mask, "found", "missed"),
        (mask, truth, "", "invented"),
    ):
        labels = measure.label(ours, connectivity=1)  # type: ignore[no-untyped-call]
        table = measure.regionprops_table(  # type: ignore[no-untyped-call]
            labels, other.astype(float), ("area", "intensity_mean")
        )
        for voxels, covered in zip(table["area"], table["intensity_mean"], strict=True):
            if kind := if_covered if covered > 0 else if_not:
                rows.append({"kind": kind, "voxels": int(voxels), "covered": float(covered)})
    return rows


# --- calibration ----------------------------------------------------------------------------------

BINS = 10
THRESHOLDS = np.round(np.arange(0.05, 1, 0.05), 2)


class Calibration(NamedTuple):
    """Hold counts of voxels by predicted probability, and the DSC at each threshold.

    Attributes:
        voxels: number in each of ten equally wide bins, ``(10,)``.
        predicted: their mean probability, NaN for an empty bin.
        observed: share of them that is tumour, NaN for an empty bin.
        thresholds: ``(T,)``.
        dsc: by patient and threshold, ``(P, T)``, on the network's grid.
    """

    voxels: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    thresholds: np.ndarray
    dsc: np.ndarray


def calibrate(trained: TrainedModel, data: BrainData, patients: Sequence[str]) -> Calibration:
    """Compare predicted probabilities with the ground truth of patients new to the network.

    Patients without masks, and those that it was trained on, are left out; without any others, all
    is empty. It takes about a fifth of a second per patient and threshold at 256x256, as
    components are searched each time.

    Args:
        trained: from ``lib.predict.load_weights``.

    Raises:
        KitError: see ``check_patients``.
    """
    names = check_patients(data, trained.config, patients)
    machine = prepare([trained.network], "auto", "auto")
    tune_allocator(machine.device)
    sums, scores = np.zeros((3, BINS)), []
    seen = trained.seen(data)
    fair = tuple(name for name in names if data.has_mask(name) and name not in seen)
    with deterministic():
        volumes = predict_volumes(trained.network, trained.config, data, fair, machine)
        for name, probabilities in volumes:
            truth = data.slices((name,)).volume_masks()[0]
            sums += _by_bin(probabilities, truth)
            masks = (segmentation(probabilities, trained.config.component, t) for t in THRESHOLDS)
            scores.append([dsc(mask, truth) for mask in masks])
    voxels, predicted, observed = sums
    with np.errstate(invalid="ignore"):
        return Calibration(
            voxels.astype(int),
            predicted / voxels,
            observed / voxels,
            THRESHOLDS,
            np.array(scores).reshape(-1, len(THRESHOLDS)),
        )


def _by_bin(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return voxels, sum of probabilities and tumour voxels of each bin, ``(3, BINS)``."""
    p = probabilities.ravel()
    places = np.minimum((p * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(places, weights, BINS) for weights in (None, p, truth.ravel())])
