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
    grid = _affine_grid(theta, images.shape[-1])
    if padding == "background":
        background = images.amin(dim=(2, 3), keepdim=True)
        images = F.grid_sample(images - background, grid, align_corners=False) + background
    else:
        images = F.grid_sample(images, grid, align_corners=False)
    return images, F.grid_sample(masks, grid, mode="nearest", align_corners=False)


def _affine_grid(theta: Tensor, size: int) -> Tensor:
    """``F.affine_grid`` without aligned corners, ``(N, size, size, 2)``, from rows and columns: a tenth of the time."""
    at = (torch.arange(size, device=theta.device, dtype=theta.dtype) * 2 + 1) / size - 1
    rows = theta[:, :, 1:2] * at + theta[:, :, 2:]
    return torch.addcmul(rows[..., None], theta[:, :, 0, None, None], at).permute(0, 2, 3, 1)


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


# --- which: a sequence that is missing ----------------------------------------------------------------------------

_PRESENT = (0, 1, 2)
_STAND_INS = ((1, 1, 2), (0, 1, 1), (1, 1, 1))  # without pre-contrast, without post-contrast, without both


def draw_sources(rng: np.random.Generator, n: int, probability: float) -> np.ndarray:
    """Which sequence each channel of ``n`` slices shows, ``(n, 3)`` int64: ``(0, 1, 2)`` where nothing is missing.

    The dataset puts FLAIR where a patient has no pre- or post-contrast sequence. Training with inputs that are missing
    at random: Neverova et al. 2016, ModDrop (arXiv:1501.00102).

    Args:
        probability: that something is missing: pre-contrast, post-contrast or both, equally often.
    """
    missing = rng.random((n, 1)) < probability
    return np.where(missing, np.array(_STAND_INS)[rng.integers(len(_STAND_INS), size=n)], _PRESENT)


def stand_in(images: Tensor, sources: np.ndarray) -> Tensor:
    """Apply ``draw_sources`` to a batch, in place; the neighbours of a slice miss what it misses.

    Args:
        images: ``(N, C, H, W)``, C a multiple of three.
        sources: ``(N, 3)``.

    Returns:
        ``images``.
    """
    rows = np.flatnonzero((sources != _PRESENT).any(1))
    if len(rows):
        slices = np.arange(0, images.shape[1], SEQUENCES)  # the slice and its neighbours: where their channels begin
        channels = (slices[:, None] + sources[rows, None]).reshape(len(rows), -1)
        rows, channels = (torch.from_numpy(index).to(images.device) for index in (rows, channels))
        images[rows] = images[rows[:, None], channels]
    return images
