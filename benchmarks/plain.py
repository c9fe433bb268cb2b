"""The published algorithms, written down plainly: what the kit is measured against.

Preprocessing and augmentation as in the code of the baseline: one volume or slice at a time, with skimage, in float64.
"""

import numpy as np
import torch
from skimage.exposure import rescale_intensity
from skimage.transform import rescale, resize, rotate


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
    mask = resize(mask, (slices, size, size), order=0, mode="constant", preserve_range=True, anti_aliasing=False)
    volume = resize(volume, (slices, size, size, 3), order=2, mode="constant", anti_aliasing=False)
    volume = rescale_intensity(volume, in_range=tuple(np.percentile(volume, (10, 99))))
    return (volume - volume.mean(axis=(0, 1, 2))) / volume.std(axis=(0, 1, 2)), mask


def augment(image: np.ndarray, mask: np.ndarray, zoom: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Zoom and rotate one slice ``(H, W, 3)`` and its mask ``(H, W)`` about the centre."""
    size = len(image)
    out = []
    for picture, order in ((image, 1), (mask, 0)):
        channels = -1 if picture.ndim == 3 else None
        scaled = rescale(picture, zoom, order=order, mode="constant", channel_axis=channels, preserve_range=True,
                         anti_aliasing=False)
        spare = size - len(scaled)
        if spare >= 0:
            pad = [(spare // 2, spare - spare // 2)] * 2 + [(0, 0)] * (picture.ndim - 2)
            scaled = np.pad(scaled, pad)
        else:
            scaled = scaled[-spare // 2:][:size, -spare // 2:][:, :size]
        out.append(rotate(scaled, angle, order=order, preserve_range=True))
    return out[0], out[1]


def train_step(model: torch.nn.Module, loss: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor,
               masks: torch.Tensor) -> None:
    """One step in float32 and torch's default memory layout."""
    optimizer.zero_grad()
    loss(model(images), masks).backward()
    optimizer.step()
