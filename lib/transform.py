"""Preprocessing of a volume, with its way back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import ndimage


@dataclass(frozen=True)
class Geometry:
    """Where a preprocessed volume lies in its file's grid: enough to bring a prediction back.

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
        """The inverse of ``to_dict``."""
        return cls(tuple(values["shape"]), tuple(values["box"]), tuple(values["pad"]), values["size"])

    def to_dict(self) -> dict[str, Any]:
        """Field name -> value, fit for JSON."""
        return dataclasses.asdict(self)

    def resize(self, slices: np.ndarray, order: int) -> np.ndarray:
        """Pad to square and resize, ``(..., h, w)`` of the box -> ``(..., size, size)`` float32.

        A spline resize is linear and acts on rows and columns separately: two matrix products. Padding adds only
        zeros, so its columns of the matrices are left out.
        """
        rows, columns = self._matrices(order)
        return rows @ slices.astype(np.float32, order="C") @ columns.T  # BLAS wants contiguous slices

    def restore(self, slices: np.ndarray) -> np.ndarray:
        """Bring probabilities or a {0, 1} mask back: ``(S', size, size)`` -> ``(S, H, W)`` float32, zero outside.

        Linear interpolation; threshold the result at 0.5 for a mask.
        """
        z0, z1, y0, y1, x0, x1 = self.box
        edge = max(y1 - y0, x1 - x0)
        matrix = torch.from_numpy(resize_matrix(self.size, edge, 1, "nearest"))
        (top, left), volume = self.pad, np.zeros(self.shape, np.float32)
        rows, columns = matrix[top:top + y1 - y0], matrix[left:left + x1 - x0]
        # numpy's threads would wait for more work for a while, and hold up the network on the next patient
        volume[z0:z1, y0:y1, x0:x1] = rows @ (torch.from_numpy(slices.astype(np.float32)) @ columns.T)
        return volume

    def _matrices(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        _, _, y0, y1, x0, x1 = self.box
        matrix = resize_matrix(max(y1 - y0, x1 - x0), self.size, order, "grid-constant")
        (top, left) = self.pad
        return matrix[:, top:top + y1 - y0], matrix[:, left:left + x1 - x0]


@lru_cache(maxsize=256)
def resize_matrix(old: int, new: int, order: int, mode: str) -> np.ndarray:
    """``(new, old)`` float32: what ``skimage.transform.resize`` does to one axis, read off the identity matrix."""
    matrix = ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode=mode, grid_mode=True)
    # a spline's weights decay for ever; below the smallest normal float they would slow products tenfold
    return np.where(np.abs(matrix) < 1e-12, 0, matrix).astype(np.float32)


def preprocess(volume: np.ndarray, size: int, mode: str = "reference") -> tuple[np.ndarray, Geometry]:
    """Crop, pad, resize and normalise a volume as the published code does, or keep its whole grid.

    ``reference``: drop the first and the last slice, zero below 10 % of the maximum, crop to the non-zero box, pad to
    square, resize with an order-2 spline, clip to the 10th and 99th percentile, z-score per channel. ``native``: the
    same without dropping and cropping.

    Args:
        volume: ``(S, H, W, C)`` uint8.
        size: edge of the result, pixels.
        mode: ``reference`` or ``native``.

    Returns:
        ``(S', C, size, size)`` float32 with mean 0 and SD 1 per channel, and where it lies in the file's grid.

    Raises:
        ValueError: nothing in the volume is brighter than the background.
    """
    # one or two slices: nothing would be left between the first and the last
    first, last = (1, len(volume) - 1) if mode == "reference" and len(volume) > 2 else (0, len(volume))
    kept = volume[first:last]
    kept = np.where(kept < kept.max() * 0.1, 0, kept).astype(np.uint8)
    if not kept.any():
        raise ValueError("all slices are black")
    box = _nonzero_box(kept) if mode == "reference" else (0, len(kept), 0, kept.shape[1], 0, kept.shape[2])
    z0, z1, y0, y1, x0, x1 = box
    height, width = y1 - y0, x1 - x0
    edge = max(height, width)
    geometry = Geometry(volume.shape[:3], (first + z0, first + z1, y0, y1, x0, x1),
                        ((edge - height) // 2, (edge - width) // 2), size)
    kept = kept[z0:z1, y0:y1, x0:x1].transpose(0, 3, 1, 2)
    resized = geometry.resize(kept, order=2)
    np.clip(resized, 0, kept.max(), out=resized)  # a spline overshoots at edges
    return _normalise(resized), geometry


def preprocess_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The mask on the network's grid, nearest neighbour: ``(S, H, W)`` -> ``(S', size, size)``, both {0, 1} uint8."""
    z0, z1, y0, y1, x0, x1 = geometry.box
    return (geometry.resize(mask[z0:z1, y0:y1, x0:x1], order=0) > 0.5).astype(np.uint8)


def _nonzero_box(volume: np.ndarray) -> tuple[int, ...]:
    """Smallest half-open box ``(z0, z1, y0, y1, x0, x1)`` around the non-zero voxels of ``(S, H, W, C)``."""
    occupied, box = volume.any(axis=3), []
    for axes in ((1, 2), (0, 2), (0, 1)):
        indices = np.flatnonzero(occupied.any(axis=axes))
        box += [int(indices[0]), int(indices[-1]) + 1]
    return tuple(box)


def _normalise(volume: np.ndarray) -> np.ndarray:
    """Clip to the volume's 10th and 99th percentile, then z-score per channel; works in place."""
    low, high = np.percentile(volume, (10, 99))
    np.clip(volume, low, high, out=volume)
    mean = volume.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = volume.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    volume -= mean.astype(np.float32)
    volume /= np.maximum(deviation, 1e-6).astype(np.float32)  # a constant channel becomes 0, not NaN
    return volume
