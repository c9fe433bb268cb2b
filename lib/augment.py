"""Augmentation: drawn on the host by numpy, applied to a batch on the device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# --- where: zoom, rotation, flip ----------------------------------------------------------------------------------


def draw_affine(rng: np.random.Generator, n: int, scale: float, rotation: float, flip: float) -> np.ndarray:
    """Random zoom, rotation and left-right flip of ``n`` slices as matrices ``(n, 2, 3)`` float32.

    The matrices map output to input coordinates in [-1, 1], as ``affine_grid`` wants them.

    Args:
        scale: zoom uniform in 1 +- scale.
        rotation: angle uniform in +- rotation, degrees.
        flip: probability of a flip.
    """
    zoom = rng.uniform(1 - scale, 1 + scale, n)
    angle = np.deg2rad(rng.uniform(-rotation, rotation, n))
    mirror = np.where(rng.random(n) < flip, -1.0, 1.0)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = cos * mirror, -sin
    theta[:, 1, 0], theta[:, 1, 1] = sin * mirror, cos
    return theta


def warp(images: Tensor, masks: Tensor, theta: Tensor, padding: str) -> tuple[Tensor, Tensor]:
    """Apply ``draw_affine`` matrices to a batch: images bilinearly, masks by nearest neighbour.

    Args:
        images: ``(N, C, H, W)`` float, square slices.
        masks: ``(N, 1, H, W)`` {0, 1} float.
        theta: ``(N, 2, 3)``.
        padding: value of what comes in from outside: ``zero``, or ``background``, the darkest value of each slice and
            channel (after z-scoring, black is not 0).
    """
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if padding == "background":
        background = images.amin(dim=(2, 3), keepdim=True)
        images = F.grid_sample(images - background, grid, align_corners=False) + background
    else:
        images = F.grid_sample(images, grid, align_corners=False)
    return images, F.grid_sample(masks, grid, mode="nearest", align_corners=False)


# --- how bright: noise, brightness, contrast, gamma ---------------------------------------------------------------

INTENSITY = {"noise": (0.0, 0.1), "brightness": (0.75, 1.25), "contrast": (0.75, 1.25), "gamma": (0.7, 1.5)}
"""Change of intensity -> range of its strength, drawn uniformly: an SD, two factors, an exponent. The ranges are those
of nnU-Net's code (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), which applies them to 10, 15, 15 and 30 % of
samples, and blurs some besides."""

SEQUENCES = 3  # pre-contrast, FLAIR, post-contrast
_DRAWN = np.dtype([*((name, np.float32, SEQUENCES) for name in INTENSITY), ("seed", np.int64)])
_EVEN = 1e-3  # what lies so little above the darkest value is background; interpolation rounds


def draw_intensity(rng: np.random.Generator, n: int, probability: float) -> np.ndarray:
    """Random changes of intensity of ``n`` slices, ``(n,)`` records: a field of three strengths, one per sequence, for
    each change in ``INTENSITY``, NaN where the slice is spared it, and the ``seed`` of the slice's noise.

    Args:
        probability: that a slice undergoes a change; each is drawn for itself.
    """
    drawn = np.zeros(n, _DRAWN)
    for name, (low, high) in INTENSITY.items():
        strength = rng.uniform(low, high, (n, SEQUENCES))
        drawn[name] = np.where(rng.random((n, 1)) < probability, strength, np.nan)
    drawn["seed"] = rng.integers(2**63, size=n)
    return drawn


def change_intensity(images: Tensor, drawn: np.ndarray) -> Tensor:
    """Apply ``draw_intensity`` to a batch, in place: noise, brightness, contrast and gamma, in this order.

    A slice's result does not depend on the others in its batch. The neighbours of a slice share its strengths. What is
    darkest in a channel is background and stays one even, darkest value: it may move as a whole, but takes no noise.

    Args:
        images: ``(N, C, H, W)`` float, z-scored, C a multiple of three.
        drawn: ``(N,)`` records.

    Returns:
        ``images``.
    """
    for name, change in _CHANGES.items():
        rows = np.flatnonzero(~np.isnan(drawn[name][:, 0]))
        if len(rows):
            strength = torch.from_numpy(np.tile(drawn[name][rows], images.shape[1] // SEQUENCES)).to(images.device)
            images[rows] = change(images[rows], strength[:, :, None, None], drawn["seed"][rows])
    return images


def _add_noise(images: Tensor, deviation: Tensor, seeds: np.ndarray) -> Tensor:
    """Gaussian noise of that SD. Drawn on the CPU: the same on every device."""
    generators = (torch.Generator().manual_seed(int(seed)) for seed in seeds)
    noise = torch.stack([torch.randn(images.shape[1:], generator=generator) for generator in generators])
    head = images > images.amin(dim=(2, 3), keepdim=True) + _EVEN
    return images + noise.to(images.device) * deviation * head


def _brighten(images: Tensor, factor: Tensor, _: np.ndarray) -> Tensor:
    """All values times ``factor``."""
    return images * factor


def _stretch(images: Tensor, factor: Tensor, _: np.ndarray) -> Tensor:
    """Distances from the channel's mean times ``factor``, within the range that was there."""
    mean, low, high = images.mean(dim=(2, 3), keepdim=True), *_range(images)
    return torch.clamp((images - mean) * factor + mean, low, high)


def _bend(images: Tensor, gamma: Tensor, _: np.ndarray) -> Tensor:
    """A power of the values, the channel's range taken as 0 to 1; mean and SD of the channel are restored."""
    low, high = _range(images)
    bent = ((images - low) / (high - low).clamp(min=1e-6)).pow(gamma)
    (deviation, mean), (was, centre) = (torch.std_mean(x, dim=(2, 3), keepdim=True) for x in (bent, images))
    return (bent - mean) / deviation.clamp(min=1e-6) * was + centre


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)


_CHANGES = {"noise": _add_noise, "brightness": _brighten, "contrast": _stretch, "gamma": _bend}
