"""Random fields and signed distances: what a head is made of. See `lib.phantom.anatomy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRE, FLAIR, POST = 0, 1, 2


def _interpolate(knots: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return the cubic B-spline of `knots` (K, ...) at `u` (n,), in knot spacings: (n, ...)."""
    first = np.floor(u).astype(int)
    t = u - first
    weights = (
        np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * (t + t**2 - t**3), t**3], axis=1)
        / 6
    )
    out = np.empty((len(u), *knots.shape[1:]), np.float32)
    for row, start, weight in zip(out, first, weights.astype(np.float32), strict=True):
        # no matrix product: BLAS threads would fight over the cores with the threads that make
        # other patients
        np.einsum("k,k...->...", weight, knots[start : start + 4], out=row)
    return out


def smooth_noise(
    rng: np.random.Generator, axes: tuple[np.ndarray, ...], scale: float
) -> np.ndarray:
    """Return a smooth random field, mean 0, about unit variance, with features of `scale` mm."""
    positions = [np.abs(axis - axis[0]) / scale for axis in axes]
    field = rng.standard_normal([int(u[-1]) + 4 for u in positions], dtype=np.float32)
    for axis in reversed(
        range(len(axes))
    ):  # the long first axis last, when its rows are whole slices
        field = np.moveaxis(_interpolate(np.moveaxis(field, axis, 0), positions[axis]), 0, axis)
    return np.ascontiguousarray(field) * np.float32((315 / 151) ** (len(axes) / 2))


def band_noise(rng: np.random.Generator, size: int, wavelength: float) -> np.ndarray:
    """Return a periodic cube (size,)*3 of noise with one dominant wavelength (in voxels)."""
    frequency = np.fft.fftfreq(size)
    half = np.fft.rfftfreq(size)
    radius = np.sqrt(
        frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + half[None, None] ** 2
    )
    band = np.exp(-(((radius * wavelength - 1) / 0.3) ** 2))
    cube = np.fft.irfftn(
        np.fft.rfftn(rng.standard_normal((size,) * 3)) * band, s=(size,) * 3, axes=(0, 1, 2)
    )
    return (cube / cube.std()).astype(np.float32)


def ellipsoid(
    p: np.ndarray, centre: Sequence[float] | np.ndarray, radii: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Approximate signed distance (N,) in mm of points `p` (3, N) to an ellipsoid."""
    squared = slope = np.float32(0)
    for x, middle, radius in zip(p, centre, radii, strict=True):
        u = ((x - float(middle)) / float(radius)) ** 2
        squared = squared + u
        slope = slope + u / float(radius) ** 2
    return (squared - np.sqrt(squared)) / (np.sqrt(slope) + 1e-6)


def mirrored(p: np.ndarray) -> np.ndarray:
    """Points (3, N) with |x|: a structure drawn on one side appears on both."""
    return np.stack([np.abs(p[0]), p[1], p[2]])


def union(a: np.ndarray, b: np.ndarray, blend: float = 4.0) -> np.ndarray:
    """Union of two signed distances with a crease rounded over `blend` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return b + (a - b) * h - blend * h * (1 - h)


def inside(distance: np.ndarray, width: float) -> np.ndarray:
    """Membership in [0, 1] of a signed distance whose border is `width` mm wide."""
    return np.clip(0.5 - distance / width, 0, 1)


def paint(image: np.ndarray, alpha: np.ndarray, values: np.ndarray) -> None:
    """Blend `values` (3,) or (3, N) into `image` (3, N), in place, by the shares `alpha` (N,)."""
    values = np.asarray(values, np.float32)
    image += alpha * ((values[:, None] if values.ndim == 1 else values) - image)


@dataclass
class Head:
    """Sampled points of one head, and what the anatomy needs to know about them."""

    rng: np.random.Generator
    axes: tuple[np.ndarray, ...]  # scanner grid in mm: (z, y, x), z finer than the slices
    index: np.ndarray  # (N,) flat positions of the points inside the head
    p: np.ndarray  # (3, N) anatomical x, y, z in mm
    depth: np.ndarray  # (N,) signed distance to the skin
    pixel: float  # in-plane resolution in mm: the width of every tissue border

    @property
    def shape(self) -> tuple[int, ...]:
        """Thin sections, rows and columns of the grid."""
        return tuple(len(axis) for axis in self.axes)

    def noise(self, scale: float) -> np.ndarray:
        """Smooth noise (N,) at the head's points."""
        return smooth_noise(self.rng, self.axes, scale).ravel()[self.index]


@dataclass
class Brain:
    """Hold the signed distances (N,) that later steps need, at the brain's points `p` (3, N)."""

    p: np.ndarray  # (3, N), already moved by the tumour's mass effect
    d_surface: np.ndarray  # to the outer surface of the brain
    d_csf: np.ndarray  # to the nearest sulcus, fissure, cistern or the surface (negative in CSF)
    d_ventricle: np.ndarray
    d_cerebellum: np.ndarray
    d_stem: np.ndarray
