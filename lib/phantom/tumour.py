"""A random tumour, and bright signal that is none. See `lib.phantom.anatomy`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.phantom.shapes import FLAIR, POST, Brain, Head, ellipsoid, inside, mirrored, paint


@dataclass(frozen=True)
class Tumour:
    """Hold the random traits of a tumour; lengths in mm, intensities relative to white matter."""

    centre: np.ndarray  # (3,)
    radii: np.ndarray  # (3,)
    roughness: float  # amplitude of the irregular outline, as a share of the radius
    border: float  # width of the soft edge
    flair: float
    t1: float
    cyst: float  # 0 = solid; up to about 0.7 of the radius
    enhancement: float  # extra post-contrast intensity, 0 = none


def draw_tumour(rng: np.random.Generator) -> Tumour:
    """Draw site, size and look of a tumour, most often in the frontal and temporal lobes."""
    sites = np.array(
        [
            (30, 40, 22),
            (34, 12, 32),
            (42, 0, -18),
            (36, -36, 26),
            (28, -58, 8),
            (36, 10, 4),
            (14, 30, 34),
        ]
    )
    centre = sites[rng.choice(len(sites), p=[0.25, 0.15, 0.2, 0.13, 0.07, 0.1, 0.1])] + rng.normal(
        0, 7, 3
    )
    centre[0] = np.abs(centre[0]) * rng.choice([-1, 1])
    radius = np.clip(np.exp(rng.normal(np.log(27), 0.31)), 10, 42)
    return Tumour(
        centre=centre.astype(np.float32),
        radii=(radius * np.exp(rng.normal((0.04, 0.04, -0.1), 0.2))).astype(np.float32),
        roughness=rng.uniform(0.15, 0.4),
        border=rng.uniform(3, 11),
        flair=1 + np.clip(np.exp(rng.normal(np.log(0.7), 0.38)), 0.42, 1.45),
        t1=rng.uniform(0.55, 1.02),
        cyst=rng.uniform(0.3, 0.7) if rng.random() < 0.3 else 0.0,
        enhancement=rng.uniform(0.3, 1.4) if rng.random() < 0.35 else 0.0,
    )


def mass_effect(p: np.ndarray, tumour: Tumour, strength: float) -> np.ndarray:
    """Return the points (3, N) before the tumour pushed everything away from its centre."""
    away = p - tumour.centre[:, None]
    near = np.exp(-0.5 * ((away / (1.1 * tumour.radii[:, None])) ** 2).sum(0))
    return p - np.float32(strength) * near * away


def tumour_distance(head: Head, p: np.ndarray, brain: Brain, tumour: Tumour) -> np.ndarray:
    """Return the signed distance (N,) to the tumour: a rough ellipsoid, cut at the midline."""
    size = float(tumour.radii.mean())
    d = ellipsoid(p, tumour.centre, tumour.radii)
    d += size * tumour.roughness * (head.noise(0.9 * size) + 0.65 * head.noise(0.35 * size))
    d += 2.5 * head.noise(7)
    d += 1.2 * np.clip(4 - brain.d_csf, 0, 4)  # grey matter resists
    d += 1.2 * np.maximum(-p[0] * np.sign(tumour.centre[0]) - 1, 0)
    d += 3 * np.maximum(3 - brain.d_cerebellum, 0) + 3 * np.maximum(2 - brain.d_stem, 0)
    return np.maximum(
        d, np.maximum(-brain.d_ventricle, brain.d_surface)
    )  # sulci are swollen shut: mask covers them


def paint_tumour(
    head: Head, image: np.ndarray, d: np.ndarray, tumour: Tumour, tissue: dict[str, np.ndarray]
) -> None:
    """Blend the tumour into `image` (3, N): bright on FLAIR, dark on T1, perhaps with a cyst."""
    size = float(tumour.radii.mean())
    texture = head.noise(9) + 0.7 * head.noise(20)
    share = inside(d - 0.25 * tumour.border, tumour.border)
    core = np.clip(-d / (0.5 * size), 0, 1)
    flair = 1 + (tumour.flair - 1) * (0.8 + 0.35 * core + 0.2 * texture) + 0.06 * texture
    t1 = tumour.t1 + (1 - tumour.t1) * (0.5 - core) - 0.07 * texture
    paint(image, share, np.stack([t1, flair, t1]).astype(np.float32))
    cavity = d + (1.15 - tumour.cyst) * size * 0.55 + 2.5 * texture
    if tumour.cyst:
        fluid = np.array([tissue["csf"][0], head.rng.uniform(0.15, 1.1), tissue["csf"][2]])
        paint(image, inside(cavity, 2 * head.pixel), fluid)
    if tumour.enhancement:
        rim = np.abs(cavity) - head.rng.uniform(1, 3)
        nodules = 0.9 - texture
        where = rim if tumour.cyst else np.maximum(3 * nodules, d + 0.25 * size)
        image[POST] += tumour.enhancement * inside(where, 2 * head.pixel)


def distractors(head: Head, image: np.ndarray, brain: Brain) -> None:
    """Draw bright FLAIR signal that is not tumour: caps, white-matter spots, flowing CSF, coil."""
    rng, p = head.rng, brain.p
    matter = inside(4 - brain.d_csf, 3)
    caps = np.exp(-np.maximum(brain.d_ventricle, 0) / rng.uniform(2, 5)) * (brain.d_ventricle > -1)
    image[FLAIR] += (
        rng.uniform(0, 0.5) * caps * matter * (0.5 + 0.5 * inside(30 - np.abs(p[1]), 20))
    )
    for _ in range(rng.poisson(4)):
        centre = np.array([rng.uniform(-45, 45), rng.uniform(-55, 50), rng.uniform(5, 50)])
        spot = inside(ellipsoid(p, centre, rng.uniform(1.5, 6, 3)), 2.5) * matter
        image[FLAIR] += rng.uniform(0.15, 0.8) * spot
    flow = rng.uniform(0, 0.5) * inside(p[2] + 10, 20) * np.clip(head.noise(15), 0, 2)
    fluid = np.maximum(brain.d_csf, -np.minimum(brain.d_cerebellum, brain.d_stem))
    image[FLAIR] += flow * inside(np.minimum(fluid, brain.d_ventricle), 2)
    temporal = ellipsoid(mirrored(p), (38, 4, -24), (24, 40, 20))
    near_coil = np.maximum(rng.normal(0, 0.12), 0) * inside(
        temporal, 25
    )  # both sides alike, unlike a tumour
    image[FLAIR] *= 1 + near_coil + rng.uniform(0.02, 0.08) * head.noise(14)
