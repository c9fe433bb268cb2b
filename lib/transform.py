"""Preprocess volumes, with the way back, and augment slices.

Augmentation is drawn on the host by numpy, and applied on the device.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from lib.config import Config, Preprocessing
from lib.runtime import load_class, load_function
from lib.runtime.own_code import module_of
from lib.utils import KitError, see


@dataclass(frozen=True)
class Geometry:
    """Hold the place of a preprocessed volume in its file's grid, to bring a prediction back.

    Attributes:
        shape: slices, height and width of the files, voxels.
        box: ``(z0, z1, y0, y1, x0, x1)``, the part of the grid that was kept, half-open.
        pad: ``(top, left)``, zeros added before the box to make it square.
        size: edge of the network's slices, pixels.
    """

    shape: tuple[int, int, int]
    box: tuple[int, int, int, int, int, int]
    pad: tuple[int, int]
    size: int

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Geometry:
        """Return the Geometry of which ``to_dict`` returned ``values``."""
        return cls(
            tuple(values["shape"]), tuple(values["box"]), tuple(values["pad"]), values["size"]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return field name -> value, fit for JSON."""
        return dataclasses.asdict(self)

    def resize(self, slices: np.ndarray, order: int) -> np.ndarray:
        """Pad to square and resize, ``(..., h, w)`` of the box -> ``(..., size, size)`` float32.

        A spline resize is linear and acts on rows and columns separately: two matrix products.
        Padding adds only zeros, so its columns of the matrices are left out.
        """
        rows, columns = self._matrices(order)
        # BLAS wants contiguous slices
        resized: np.ndarray = rows @ slices.astype(np.float32, order="C") @ columns.T
        return resized

    def restore(self, slices: np.ndarray) -> np.ndarray:
        """Bring probabilities or a {0, 1} mask back to the file's grid.

        ``(S', size, size)`` -> ``(S, H, W)`` float32, zero outside the box. Linear interpolation;
        threshold the result at 0.5 for a mask.
        """
        z0, z1, y0, y1, x0, x1 = self.box
        edge = max(y1 - y0, x1 - x0)
        matrix = torch.from_numpy(resize_matrix(self.size, edge, 1, "nearest"))
        (top, left), volume = self.pad, np.zeros(self.shape, np.float32)
        rows, columns = matrix[top : top + y1 - y0], matrix[left : left + x1 - x0]
        # by torch: the threads of numpy would go on waiting for work, and slow the network down
        volume[z0:z1, y0:y1, x0:x1] = rows @ (
            torch.from_numpy(slices.astype(np.float32)) @ columns.T
        )
        return volume

    def _matrices(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        _, _, y0, y1, x0, x1 = self.box
        matrix = resize_matrix(max(y1 - y0, x1 - x0), self.size, order, "grid-constant")
        (top, left) = self.pad
        return matrix[:, top : top + y1 - y0], matrix[:, left : left + x1 - x0]


@lru_cache(maxsize=256)
def resize_matrix(old: int, new: int, order: int, mode: str) -> np.ndarray:
    """Return the matrix by which ``skimage.transform.resize`` changes one axis.

    ``(new, old)`` float32, read off the resized identity matrix.
    """
    matrix = ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode=mode, grid_mode=True)
    # The weights of a spline never reach 0; below the smallest normal float products are ten
    # times slower.
    return np.where(np.abs(matrix) < 1e-12, 0, matrix).astype(np.float32)


def preprocess(
    volume: np.ndarray, size: int, mode: str = "reference"
) -> tuple[np.ndarray, Geometry]:
    """Crop, pad, resize and normalise a volume as the published code does, or keep its whole grid.

    ``reference``: drop the first and the last slice, zero below 10 % of the maximum, crop to the
    non-zero box, pad to square, resize with an order-2 spline, clip to the 10th and 99th
    percentile, z-score per channel. ``native``: the same without dropping and cropping. A custom
    function, ``"module:function"``, is called with volume and size, and returns the same.

    Args:
        volume: ``(S, H, W, C)`` uint8.
        size: edge of the result, pixels.
        mode: see ``Config.preprocessing``.

    Returns:
        ``(S', C, size, size)`` float32 with mean 0 and SD 1 per channel, and its place in the
        file's grid.

    Raises:
        ValueError: nothing in the volume is brighter than the background.
    """
    if mode not in get_args(Preprocessing):
        return _require_prepared(mode, load_function(mode)(volume, size), volume, size)
    first, last = 0, len(volume)
    if mode == "reference" and len(volume) > 2:  # of two slices, none would be left
        first, last = 1, len(volume) - 1
    kept = volume[first:last]
    darkest = np.uint8(np.ceil(kept.max() * 0.1))  # bytes compare fastest with a byte
    kept = np.where(kept < darkest, np.uint8(0), kept)
    if not kept.any():
        inner = " but the first and the last, which are left out," if volume.any() else ""
        raise ValueError(f"all slices{inner} are black")
    z0, z1, y0, y1, x0, x1 = 0, len(kept), 0, kept.shape[1], 0, kept.shape[2]
    if mode == "reference":
        z0, z1, y0, y1, x0, x1 = _nonzero_box(kept)
    height, width = y1 - y0, x1 - x0
    edge = max(height, width)
    geometry = Geometry(
        volume.shape[:3],
        (first + z0, first + z1, y0, y1, x0, x1),
        ((edge - height) // 2, (edge - width) // 2),
        size,
    )
    kept = kept[z0:z1, y0:y1, x0:x1].transpose(0, 3, 1, 2)
    resized = geometry.resize(kept, order=2)
    np.clip(resized, 0, kept.max(), out=resized)  # a spline overshoots at edges
    return _normalise(resized), geometry


def preprocess_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Bring a mask to the network's grid, by nearest neighbour.

    ``(S, H, W)`` -> ``(S', size, size)``, both {0, 1} uint8.
    """
    z0, z1, y0, y1, x0, x1 = geometry.box
    return (geometry.resize(mask[z0:z1, y0:y1, x0:x1], order=0) > 0.5).astype(np.uint8)


def _require_prepared(
    mode: str, result: Any, volume: np.ndarray, size: int
) -> tuple[np.ndarray, Geometry]:
    """Return what a custom preprocessing returned.

    Raises:
        KitError: it is not slices and their place.
    """
    slices, geometry = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(slices, np.ndarray) or not isinstance(geometry, Geometry):
        raise KitError(
            f"{mode}: must return slices, an array, and their lib.transform.Geometry; "
            f"{see('extending', 'A preprocessing')}"
        )
    z0, z1, *_ = geometry.box
    wanted = (z1 - z0, volume.shape[3], size, size)
    if slices.shape != wanted or geometry.shape != volume.shape[:3] or geometry.size != size:
        raise KitError(
            f"{mode}: returned slices of shape {slices.shape} with {geometry}; for that box of a "
            f"volume of {volume.shape} they must have {wanted}; "
            f"{see('extending', 'A preprocessing')}"
        )
    if not np.isfinite(slices).all():
        raise KitError(
            f"{mode}: returned values that are infinite or not a number; "
            f"{see('extending', 'A preprocessing')}"
        )
    return slices.astype(np.float32), geometry


def _nonzero_box(volume: np.ndarray) -> tuple[int, ...]:
    """Return the smallest box around the non-zero voxels of ``(S, H, W, C)``.

    ``(z0, z1, y0, y1, x0, x1)``, half-open.
    """
    occupied, box = reduce(np.bitwise_or, np.moveaxis(volume, 3, 0)), []
    for axes in ((1, 2), (0, 2), (0, 1)):
        indices = np.flatnonzero(np.any(occupied, axis=axes))
        box += [int(indices[0]), int(indices[-1]) + 1]
    return tuple(box)


def _normalise(volume: np.ndarray) -> np.ndarray:
    """Clip to the volume's 10th and 99th percentile, then z-score per channel; works in place."""
    low, high = np.percentile(volume, (10, 99))
    np.clip(volume, low, high, out=volume)
    mean = volume.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = volume.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    volume -= mean.astype(np.float32)
    # a constant channel becomes 0, not NaN
    volume /= np.maximum(deviation, 1e-6).astype(np.float32)
    return volume


def preprocessing_code(mode: str) -> tuple[Any, ...]:
    """Return the code that prepares slices: an edit of it builds new caches."""
    ours = (
        Geometry,
        resize_matrix,
        preprocess,
        preprocess_mask,
        _require_prepared,
        _nonzero_box,
        _normalise,
    )
    return ours if mode in get_args(Preprocessing) else (*ours, module_of(mode))


# --- augmentation, where: zoom, rotation, flip ----------------------------------------------------


def draw_affine(
    rng: np.random.Generator, n: int, scale: float, rotation: float, flip: float
) -> np.ndarray:
    """Draw zoom, rotation and left-right flip of ``n`` slices as matrices ``(n, 2, 3)`` float32.

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
        padding: value outside the slice: ``zero``, or ``background``, the darkest value of each
            slice and channel (after z-scoring, black is not 0).
    """
    grid = _affine_grid(theta, images.shape[-1])
    if padding == "background":
        background = images.amin(dim=(2, 3), keepdim=True)
        images = F.grid_sample(images - background, grid, align_corners=False) + background
    else:
        images = F.grid_sample(images, grid, align_corners=False)
    return images, F.grid_sample(masks, grid, mode="nearest", align_corners=False)


def _affine_grid(theta: Tensor, size: int) -> Tensor:
    """Return ``F.affine_grid`` without aligned corners, ``(N, size, size, 2)``.

    Computed from rows and columns, in a tenth of the time.
    """
    at = (torch.arange(size, device=theta.device, dtype=theta.dtype) * 2 + 1) / size - 1
    rows = theta[:, :, 1:2] * at + theta[:, :, 2:]
    return torch.addcmul(rows[..., None], theta[:, :, 0, None, None], at).permute(0, 2, 3, 1)


# --- augmentation, how bright: noise, brightness, contrast, gamma ---------------------------------

INTENSITY = {
    "noise": (0.0, 0.1),
    "brightness": (0.75, 1.25),
    "contrast": (0.75, 1.25),
    "gamma": (0.7, 1.5),
}
"""Change of intensity -> range of its strength, drawn uniformly: an SD, two factors, an exponent.

The ranges are those of nnU-Net's code (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), which
applies them to 10, 15, 15 and 30 % of samples, and also blurs some.
"""

SEQUENCES = 3  # pre-contrast, FLAIR, post-contrast
_BACKGROUND_MARGIN = 1e-3  # above a channel's darkest value; interpolation rounds


def draw_intensity(
    rng: np.random.Generator, n: int, probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw changes of intensity for ``n`` slices.

    Args:
        probability: of each change, drawn separately for each slice.

    Returns:
        Strengths ``(n, 4, 3)`` float32, one per change of ``INTENSITY`` and sequence, NaN where a
        slice is not changed; and seeds of the noise, ``(n,)`` int64.
    """
    strengths = np.empty((n, len(INTENSITY), SEQUENCES), np.float32)
    for change, (low, high) in enumerate(INTENSITY.values()):
        strength = rng.uniform(low, high, (n, SEQUENCES))
        strengths[:, change] = np.where(rng.random((n, 1)) < probability, strength, np.nan)
    return strengths, rng.integers(2**63, size=n)


def change_intensity(images: Tensor, strengths: Tensor, seeds: Tensor) -> Tensor:
    """Apply noise, brightness, contrast and gamma, in this order.

    On a CPU, a slice's result does not depend on the others in its batch. The neighbours of a slice
    share its strengths. The darkest value of a channel is background: it stays one even value,
    without noise.

    Args:
        images: ``(N, C, H, W)`` float, z-scored, C a multiple of three.
        strengths: ``(N, 4, 3)``, see ``draw_intensity``.
        seeds: ``(N,)``, see ``draw_intensity``.

    Returns:
        Images of the same shape.
    """
    images = images.clone()
    strengths = strengths.tile(images.shape[1] // SEQUENCES)[..., None, None]
    for change, name in enumerate(INTENSITY):
        strength = strengths[:, change]
        chosen: Tensor | slice = slice(None)
        wanted = ~strength.isnan()
        if images.device.type == "cpu":  # asking a GPU would wait for it
            chosen = torch.nonzero(wanted[:, 0, 0, 0])[:, 0]
            if not len(chosen):
                continue
        before = images[chosen]
        changed = _CHANGES[name](before, strength[chosen], seeds[chosen])
        images[chosen] = torch.where(wanted[chosen], changed, before)
    return images


def _add_noise(images: Tensor, deviation: Tensor, seeds: Tensor) -> Tensor:
    """Add Gaussian noise of that SD.

    On a CPU each slice has its own stream of random numbers; on a GPU the batch takes them from
    that of the device.
    """
    if images.device.type == "cpu":
        noise = torch.empty(images.shape)
        for row, seed in zip(noise, seeds.tolist(), strict=True):
            row.normal_(generator=torch.Generator().manual_seed(seed))
    else:
        noise = torch.randn_like(images)
    head = images > images.amin(dim=(2, 3), keepdim=True) + _BACKGROUND_MARGIN
    return images + noise * deviation * head


def _brighten(images: Tensor, factor: Tensor, _: Tensor) -> Tensor:
    """Multiply all values by ``factor``."""
    return images * factor


def _change_contrast(images: Tensor, factor: Tensor, _: Tensor) -> Tensor:
    """Multiply the distances from the channel's mean by ``factor``, within the channel's range."""
    mean, low, high = images.mean(dim=(2, 3), keepdim=True), *_range(images)
    return torch.clamp((images - mean) * factor + mean, low, high)


def _change_gamma(images: Tensor, gamma: Tensor, _: Tensor) -> Tensor:
    """Raise the values of a channel, scaled to [0, 1], to a power; restore its mean and SD."""
    low, high = _range(images)
    curved = ((images - low) / (high - low).clamp(min=1e-6)).pow(gamma)
    deviation, mean = torch.std_mean(curved, dim=(2, 3), keepdim=True)
    old_deviation, old_mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
    return (curved - mean) / deviation.clamp(min=1e-6) * old_deviation + old_mean


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)


_CHANGES = {
    "noise": _add_noise,
    "brightness": _brighten,
    "contrast": _change_contrast,
    "gamma": _change_gamma,
}


# --- augmentation, which: a missing sequence ------------------------------------------------------

_PRESENT = (0, 1, 2)
_SUBSTITUTES = (
    (1, 1, 2),  # without pre-contrast
    (0, 1, 1),  # without post-contrast
    (1, 1, 1),  # without both
)


def draw_sources(rng: np.random.Generator, n: int, probability: float) -> np.ndarray:
    """Draw the sequence that each channel of ``n`` slices shows, ``(n, 3)`` int64.

    It is ``(0, 1, 2)`` where nothing is missing. The dataset substitutes FLAIR where a patient has
    no pre- or post-contrast sequence. Training with inputs that are missing at random: Neverova et
    al. 2016, ModDrop (arXiv:1501.00102).

    Args:
        probability: that something is missing: pre-contrast, post-contrast or both, equally often.
    """
    missing = rng.random((n, 1)) < probability
    substitutes = np.array(_SUBSTITUTES)[rng.integers(len(_SUBSTITUTES), size=n)]
    return np.where(missing, substitutes, _PRESENT)


def substitute(images: Tensor, sources: Tensor) -> Tensor:
    """Substitute missing sequences, see ``draw_sources``; a slice and its neighbours lack the same.

    Args:
        images: ``(N, C, H, W)``, C a multiple of three.
        sources: ``(N, 3)``.

    Returns:
        Images of the same shape.
    """
    # first channel of the slice and of each neighbour
    slices = torch.arange(0, images.shape[1], SEQUENCES, device=images.device)
    channels = (slices[:, None] + sources[:, None]).flatten(1)
    return images.gather(1, channels[:, :, None, None].expand_as(images))


# --- all of it ------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """Hold the drawn augmentation of samples, see ``draw_affine``, ``_intensity``, ``_sources``."""

    theta: Tensor  # (n, 2, 3)
    strengths: Tensor  # (n, 4, 3)
    seeds: Tensor  # (n,)
    sources: Tensor  # (n, 3)

    def of(self, samples: slice) -> Drawn:
        """Return the augmentation of these samples."""
        return Drawn(*(part[samples] for part in self))

    def to(self, device: torch.device) -> Drawn:
        """Return the same on a device."""
        return Drawn(*(part.to(device) for part in self))


class Augmentation:
    """Augment as a ``Config`` describes: ``draw`` on the host, ``apply`` on the device.

    A custom class derives from this one. What it draws at random follows from ``drawn.seeds``, so
    that an interrupted run goes on as it would have.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def draw(self, rng: np.random.Generator, n: int) -> Drawn:
        """Draw the augmentation of ``n`` samples."""
        config = self.config
        theta = draw_affine(rng, n, config.scale, config.rotation, config.flip)
        strengths, seeds = draw_intensity(rng, n, config.intensity)
        sources = draw_sources(rng, n, config.sequence_dropout)
        return Drawn(*(torch.from_numpy(part) for part in (theta, strengths, seeds, sources)))

    def apply(self, images: Tensor, masks: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: ``(N, C, H, W)`` float, z-scored.
            masks: ``(N, 1, H, W)`` {0, 1} float.
            drawn: of the N samples, on the device of the batch.

        Returns:
            Images and masks of the same shapes.
        """
        images, masks = warp(images, masks, drawn.theta, self.config.padding)
        if self.config.intensity:
            images = change_intensity(images, drawn.strengths, drawn.seeds)
        if self.config.sequence_dropout:
            images = substitute(images, drawn.sources)
        return images, masks


def build_augmentation(config: Config) -> Augmentation:
    """Return the augmentation of ``config``, the kit's or a custom one.

    Raises:
        KitError: there is no such class, or it does not derive from ``Augmentation``.
    """
    name = config.custom.get("augmentation")
    return (load_class(name, Augmentation) if name else Augmentation)(config)
