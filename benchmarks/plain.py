"""The published algorithms, written down plainly: what the kit is measured against.

Preprocessing, augmentation, sampling and training as in the code of the baseline: one volume or
slice at a time, with skimage, in float64, a DataLoader with workers, a network in float32 and
torch's default memory layout.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from skimage.exposure import rescale_intensity
from skimage.transform import rescale, resize, rotate
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


def preprocess(volume: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """``(S, H, W, 3)`` and ``(S, H, W)`` uint8 -> ``(S', size, size, 3)`` float64 and its mask."""
    volume, mask = volume[1:-1].copy(), mask[1:-1]
    volume[volume < 0.1 * volume.max()] = 0
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(volume.max(axis=-1)))
    volume, mask = volume[box], mask[box]
    spare = max(volume.shape[1:3]) - np.array(volume.shape[1:3])
    pad = [(0, 0), *((s // 2, s - s // 2) for s in spare)]
    volume, mask = np.pad(volume, [*pad, (0, 0)]), np.pad(mask, pad)
    slices = len(volume)
    mask = resize(
        mask,
        (slices, size, size),
        order=0,
        mode="constant",
        preserve_range=True,
        anti_aliasing=False,
    )
    volume = resize(volume, (slices, size, size, 3), order=2, mode="constant", anti_aliasing=False)
    volume = rescale_intensity(volume, in_range=tuple(np.percentile(volume, (10, 99))))
    return (volume - volume.mean(axis=(0, 1, 2))) / volume.std(axis=(0, 1, 2)), mask


def augment(
    image: np.ndarray, mask: np.ndarray, zoom: float, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Zoom and rotate one slice ``(H, W, 3)`` and its mask ``(H, W)`` about the centre."""
    size = len(image)
    out = []
    for picture, order in ((image, 1), (mask, 0)):
        channels = -1 if picture.ndim == 3 else None
        scaled = rescale(
            picture,
            zoom,
            order=order,
            mode="constant",
            channel_axis=channels,
            preserve_range=True,
            anti_aliasing=False,
        )
        spare = size - len(scaled)
        if spare >= 0:
            pad = [(spare // 2, spare - spare // 2)] * 2 + [(0, 0)] * (picture.ndim - 2)
            scaled = np.pad(scaled, pad)
        else:
            scaled = scaled[-spare // 2 :][:size, -spare // 2 :][:, :size]
        out.append(rotate(scaled, angle, order=order, preserve_range=True))
    return out[0], out[1]


class Slices(Dataset):
    """Hold prepared volumes in memory; an item is a slice.

    Args:
        drawn: an item is a random slice of a random patient, tumour preferred, and augmented; else
            the next in order.
    """

    def __init__(self, volumes: list[np.ndarray], masks: list[np.ndarray], drawn: bool) -> None:
        self.volumes, self.masks, self.drawn = volumes, masks, drawn
        areas = [mask.sum(axis=(1, 2)) for mask in masks]
        weights = [area + max(0.1 * area.mean(), 1e-9) for area in areas]
        self.chances = [weight / weight.sum() for weight in weights]
        self.places = [(p, s) for p, mask in enumerate(masks) for s in range(len(mask))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        patient, number = self.places[index]
        if self.drawn:
            rng = np.random.default_rng(index)
            patient = int(rng.integers(len(self.volumes)))
            number = int(rng.choice(len(self.masks[patient]), p=self.chances[patient]))
        image, mask = self.volumes[patient][number], self.masks[patient][number]
        if self.drawn:
            image, mask = augment(image, mask, rng.uniform(0.95, 1.05), rng.uniform(-15, 15))
            if rng.random() < 0.5:
                image, mask = np.fliplr(image), np.fliplr(mask)
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        return torch.from_numpy(channels_first), torch.from_numpy(
            np.ascontiguousarray(mask[None], np.float32)
        )


def train_step(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    masks: Tensor,
) -> Tensor:
    """One step; its loss."""
    optimizer.zero_grad()
    value = loss(model(images), masks)
    value.backward()
    optimizer.step()
    return value.detach()


def epoch(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: DataLoader,
    validation: DataLoader,
    device: torch.device,
) -> tuple[list[float], list[float]]:
    """Train on all training slices, then validate.

    Returns the losses of its batches and the DSC of its volumes.
    """
    model.train()
    for images, masks in train:
        train_step(model, loss, optimizer, images.to(device), masks.to(device))
    model.eval()
    losses, found = [], []
    with torch.no_grad():
        for images, masks in validation:
            logits = model(images.to(device))
            losses.append(loss(logits, masks.to(device)).item())
            found.append(torch.sigmoid(logits)[:, 0].cpu().numpy() > 0.5)
    volumes = np.split(
        np.concatenate(found), np.cumsum([len(mask) for mask in validation.dataset.masks])[:-1]
    )
    return losses, [
        dsc(_largest(mask), truth)
        for mask, truth in zip(volumes, validation.dataset.masks, strict=True)
    ]


def predict(
    model: nn.Module, images: np.ndarray, device: torch.device, batch_size: int
) -> np.ndarray:
    """Segment a patient, ``(S, 3, size, size)``.

    Returns the largest component of the mask, ``(S, size, size)``, found in the whole volume.
    """
    model.eval()
    with torch.no_grad():
        parts = [
            torch.sigmoid(model(torch.from_numpy(images[i : i + batch_size]).to(device)))
            .cpu()
            .numpy()
            for i in range(0, len(images), batch_size)
        ]
    return _largest(np.concatenate(parts)[:, 0] > 0.5)


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax() if count else mask


def dsc(pred: np.ndarray, true: np.ndarray) -> float:
    """Return the DSC of two masks of one shape."""
    both = pred.sum() + true.sum()
    return 2 * (pred & (true > 0)).sum() / both if both else 1.0
