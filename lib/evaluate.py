"""A network and patients -> probabilities, DSC per patient, and the table of cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.dataset import BrainData, SliceDataset
from lib.metrics import counts, dsc, hd95, largest_component
from lib.runtime import Machine

THRESHOLD = 0.5
BATCH_SIZE = 16  # of predictions; nothing but memory depends on it
CASE_COLUMNS = ("patient", "slices", "dsc", "dsc_native", "tp", "fp", "fn", "iou", "precision", "recall", "hd95")


def forward_batches(model: nn.Module, slices: SliceDataset, machine: Machine, batch_size: int,
                    tta: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and masks, ``(N, 1, H, W)`` float32 on the device, batch by batch in the order of the slices.

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
    """Logits of the mean of two predictions' probabilities; finite where both are."""
    present, absent = (torch.logaddexp(F.logsigmoid(sign * one), F.logsigmoid(sign * other)) for sign in (1, -1))
    return present - absent


def predict_volumes(model: nn.Module, data: BrainData, patients: tuple[str, ...], machine: Machine,
                    batch_size: int = BATCH_SIZE, tta: bool | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """(patient, probabilities ``(S', size, size)`` float32 on the network's grid), one patient at a time.

    Args:
        model: from ``build_model`` or ``load_weights``: its ``config`` says how many neighbours it sees.
        tta: average over a left-right flip; by default as its ``config`` says.
    """
    tta = model.config.tta if tta is None else tta
    for patient in patients:
        slices = data.slices((patient,), model.config.neighbours)
        with machine.precision.autocast(machine.device):  # around all batches, so that weights are converted once
            logits = [logits for logits, _ in forward_batches(model, slices, machine, batch_size, tta)]
        yield patient, torch.sigmoid(torch.cat(logits)[:, 0]).cpu().numpy()


def validate(model: nn.Module, loss: nn.Module, slices: SliceDataset, machine: Machine,
             batch_size: int) -> tuple[float, float]:
    """(mean loss over batches, mean DSC of the largest component over patients) on the network's grid.

    Predictions are made as for the table of cases, flips included: the epoch is chosen by what is scored. Without
    slices both are NaN.
    """
    if not len(slices):
        return math.nan, math.nan
    losses, masks = [], []
    for logits, truth in forward_batches(model, slices, machine, batch_size, model.config.tta):
        losses.append(loss(logits, truth))
        masks.append(torch.sigmoid(logits[:, 0]) > THRESHOLD)
    predicted = np.split(torch.cat(masks).cpu().numpy(), np.cumsum(slices.lengths)[:-1])
    scores = [dsc(largest_component(mask), truth)
              for mask, truth in zip(predicted, slices.volume_masks(), strict=True)]
    return torch.stack(losses).mean().item(), float(np.mean(scores))


def native_mask(data: BrainData, patient: str, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities on the network's grid -> largest component of the mask on the file's grid, ``(S, H, W)`` uint8."""
    restored = data.record(patient).geometry.restore(probabilities)
    return largest_component(restored > THRESHOLD).astype(np.uint8)


def case_row(data: BrainData, patient: str, probabilities: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """A row of cases.csv; only ``patient`` and ``slices`` for a patient without masks.

    Args:
        probabilities: ``(S', size, size)``, on the network's grid.
        mask: ``(S, H, W)``, see ``native_mask``.
    """
    row: dict[str, Any] = {"patient": patient, "slices": len(mask)}
    truth = data.truth(patient)
    if truth is None:
        return row
    network_truth = data.slices((patient,)).volume_masks()[0]
    native = counts(mask, truth)
    return row | {
        "dsc": dsc(largest_component(probabilities > THRESHOLD), network_truth), "dsc_native": native.dsc,
        **native._asdict(), "iou": native.iou, "precision": native.precision, "recall": native.recall,
        "hd95": hd95(mask, truth),
    }
