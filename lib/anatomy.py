"""A random head with a tumour, in three dimensions: what the phantom's scanner will see.

A head is built from ellipsoids and random fields; nothing in it comes from a patient. Coordinates are millimetres: x to
the patient's left, y to the front, z up, origin in the middle of the cerebrum. A *signed distance* (name `d_...`) is
negative inside a structure. Intensities are relative to white matter = 1, for three sequences (pre-contrast T1, FLAIR,
post-contrast T1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SUBSLICES = 3  # thin sections averaged into one thick slice (partial volume)
PRE, FLAIR, POST = 0, 1, 2

# --- random fields


def _interpolate(knots: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Cubic B-spline along the first axis of `knots` (K, ...) at positions `u` (n,) in knot spacings: (n, ...)."""
    first = np.floor(u).astype(int)
    t = u - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * (t + t**2 - t**3), t**3], axis=1) / 6
    out = np.empty((len(u), *knots.shape[1:]), np.float32)
    for row, start, weight in zip(out, first, weights.astype(np.float32), strict=True):
        # no matrix product: BLAS threads would fight over the cores with the threads that make other patients
        np.einsum("k,k...->...", weight, knots[start : start + 4], out=row)
    return out


def smooth_noise(rng: np.random.Generator, axes: tuple[np.ndarray, ...], scale: float) -> np.ndarray:
    """Smooth random field on the grid of `axes` (mm), mean 0, about unit variance, features of `scale` mm."""
    positions = [np.abs(axis - axis[0]) / scale for axis in axes]
    field = rng.standard_normal([int(u[-1]) + 4 for u in positions], dtype=np.float32)
    for axis in reversed(range(len(axes))):  # the long first axis last, when its rows are whole slices
        field = np.moveaxis(_interpolate(np.moveaxis(field, axis, 0), positions[axis]), 0, axis)
    return np.ascontiguousarray(field) * np.float32((315 / 151) ** (len(axes) / 2))


def _band_noise(rng: np.random.Generator, size: int, wavelength: float) -> np.ndarray:
    """Periodic cube (size,)*3 of noise with one dominant wavelength (in voxels): its zero set looks like sulci."""
    frequency = np.fft.fftfreq(size)
    half = np.fft.rfftfreq(size)
    radius = np.sqrt(frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + half[None, None] ** 2)
    band = np.exp(-(((radius * wavelength - 1) / 0.3) ** 2))
    cube = np.fft.irfftn(np.fft.rfftn(rng.standard_normal((size,) * 3)) * band, s=(size,) * 3, axes=(0, 1, 2))
    return (cube / cube.std()).astype(np.float32)


# --- shapes


def _ellipsoid(p: np.ndarray, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Approximate signed distance (N,) in mm of points `p` (3, N) to an ellipsoid."""
    squared = slope = np.float32(0)
    for x, middle, radius in zip(p, centre, radii, strict=True):
        u = ((x - float(middle)) / float(radius)) ** 2
        squared = squared + u
        slope = slope + u / float(radius) ** 2
    return (squared - np.sqrt(squared)) / (np.sqrt(slope) + 1e-6)


def _mirrored(p: np.ndarray) -> np.ndarray:
    """Points (3, N) with |x|: a structure drawn on one side appears on both."""
    return np.stack([np.abs(p[0]), p[1], p[2]])


def _union(a: np.ndarray, b: np.ndarray, blend: float = 4.0) -> np.ndarray:
    """Union of two signed distances with a crease rounded over `blend` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return b + (a - b) * h - blend * h * (1 - h)


def _inside(distance: np.ndarray, width: float) -> np.ndarray:
    """Membership in [0, 1] of a signed distance whose border is `width` mm wide."""
    return np.clip(0.5 - distance / width, 0, 1)


def _paint(image: np.ndarray, alpha: np.ndarray, values: np.ndarray) -> None:
    """Blend tissue `values` (3,) or (3, N) over `image` (3, N) in place; `alpha` (N,) is the tissue's share."""
    values = np.asarray(values, np.float32)
    image += alpha * ((values[:, None] if values.ndim == 1 else values) - image)


# --- a patient


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


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Matrix (3, 3) that takes scanner millimetres to anatomical ones: rotation, size and shape of the head."""
    yaw, pitch, roll = np.deg2rad(rng.normal(0, (5, 7, 3)))
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return np.diag(1 / rng.normal(1, 0.04, 3)) @ about_z @ about_x @ about_y


def _grid(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Axes (z, y, x) of the scanner grid in mm; the slices cover the head from the upper jaw to the vertex."""
    slices = int(rng.integers(14, 23))
    fov = float(np.clip(rng.normal(234, 22), 205, 300))
    low, high = rng.uniform(-104, -66), rng.uniform(84, 94)
    step = (high - low) / (slices * SUBSLICES)
    shift_y, shift_x = rng.normal(0, 4, 2)
    pixel = fov / size
    plane = (np.arange(size) - (size - 1) / 2) * pixel
    z = low + step * (np.arange(slices * SUBSLICES) + 0.5)
    return z.astype(np.float32), (-plane + shift_y).astype(np.float32), (plane + shift_x).astype(np.float32)


def _skin(p: np.ndarray) -> np.ndarray:
    """Signed distance (N,) to the skin: cranium, face, neck, nose and ears."""
    q = _mirrored(p)
    d = _union(_ellipsoid(q, (0, 0, 0), (79, 99, 85)), _ellipsoid(q, (0, 32, -58), (72, 66, 64)), 16)
    d = _union(d, _ellipsoid(q, (0, -24, -78), (66, 66, 68)), 14)
    d = _union(d, _ellipsoid(q, (0, 98, -56), (13, 20, 26)), 8)
    return _union(d, _ellipsoid(q, (72, -12, -42), (7, 11, 19)), 6)


def _place_head(rng: np.random.Generator, size: int) -> Head:
    """Put a head of random pose and shape on a scanner grid; points outside it are dropped."""
    axes = _grid(rng, size)
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    pose = _pose(rng).astype(np.float32)
    p = np.stack([(row[0] * x + row[1] * y + row[2] * z).ravel() for row in pose])
    for axis in range(3):
        p[axis] += 3.0 * smooth_noise(rng, axes, 60).ravel()
    depth = _skin(p)
    index = np.flatnonzero(depth < 2)
    return Head(rng, axes, index, p[:, index], depth[index], float(axes[2][1] - axes[2][0]))


def _tissues(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Intensity (3,) of each tissue in (pre, FLAIR, post), with this scanner's contrast; white matter is about 1."""
    grey_t1, grey_flair = rng.uniform(0.8, 0.97), rng.uniform(0.97, 1.22)
    csf_t1, csf_flair = rng.uniform(0.15, 0.5), rng.uniform(0.08, 0.4)
    fat = rng.uniform(1.7, 3.0) * rng.uniform(0.8, 1.2, 3)
    muscle = rng.uniform(0.7, 1.1, 3)
    uptake = rng.uniform(1.4, 2.4)
    lift = rng.uniform(1.0, 1.1)  # blood in the capillaries brightens all brain a little after contrast
    return {
        "white": np.array([1.0, 1.0, lift]),
        "grey": np.array([grey_t1, grey_flair, grey_t1 * lift * rng.uniform(1.0, 1.1)]),
        "nuclei": np.array([(1 + grey_t1) / 2, (1 + grey_flair) / 2, (1 + grey_t1) / 2 * lift]),
        "csf": np.array([csf_t1, csf_flair, csf_t1 * rng.uniform(0.8, 1.2)]),
        "bone": np.array([0.12, 0.12, 0.14]),
        "marrow": fat * rng.uniform(0.2, 0.6),
        "fat": fat,
        "muscle": muscle * [1, 0.9, 1.15],
        "mucosa": np.array([0.9, 1.5, uptake]),
        "air": np.array([0.04, 0.04, 0.04]),
        "vessel": np.array([rng.uniform(0.3, 1.0), 0.3, uptake]),
    }


# --- outside the brain


def _cavity(p: np.ndarray) -> np.ndarray:
    """Signed distance (N,) to the inside of the skull: cerebral vault, temporal fossae, posterior fossa, canal."""
    q = _mirrored(p)
    vault = np.maximum(_ellipsoid(q, (0, 0, 0), (67, 85, 71)), -16 - 0.1 * q[1] - q[2])
    d = _union(vault, _ellipsoid(q, (34, 8, -20), (30, 40, 27)), 8)
    d = _union(d, _ellipsoid(q, (0, -42, -32), (54, 38, 34)), 8)
    return _union(d, _ellipsoid(q, (0, -22, -60), (13, 13, 60)), 8)


def _face_texture(head: Head, image: np.ndarray, tissue: dict[str, np.ndarray]) -> None:
    """Muscle, fat planes, bone and air of face, skull base and neck."""
    texture = 0.8 * head.noise(7) + 0.7 * head.noise(16)
    below = _inside(head.p[2] + 8, 20)  # the vault above has no such mixture
    streaks = 1 + 0.18 * head.noise(12) + 0.12 * head.noise(5)
    _paint(image, np.ones_like(texture), tissue["fat"][:, None] * streaks)
    _paint(image, _inside(-2 - head.depth, 2.5), tissue["muscle"])  # skin
    _paint(image, below * _inside(head.depth + 7 + 2 * texture, 3), tissue["muscle"])
    _paint(image, below * _inside(0.85 - texture, 0.5) * _inside(head.depth + 8, 4), tissue["fat"] * 0.7)
    _paint(image, below * _inside(texture + 0.65, 0.5) * _inside(head.depth + 10, 4), tissue["bone"])


def _face_organs(head: Head, image: np.ndarray, tissue: dict[str, np.ndarray]) -> None:
    """Eyes, sinuses, mucosa, mastoid cells: the bright and dark things near the brain that are not tumour."""
    q, width = _mirrored(head.p), head.pixel
    wrinkle = 3 * head.noise(7)
    _paint(image, _inside(_ellipsoid(q, (64, 22, -18), (9, 28, 26)) + wrinkle, width), tissue["muscle"])
    _paint(image, _inside(_ellipsoid(q, (30, 56, -32), (18, 28, 16)), width), tissue["fat"])
    _paint(image, _inside(np.abs(_ellipsoid(q, (28, 44, -32), (9, 26, 9))) - 1.2, width), tissue["muscle"])
    eye = _ellipsoid(q, (32, 72, -32), (12.5, 12.5, 12.5))
    _paint(image, _inside(eye, width), tissue["muscle"])
    _paint(image, _inside(eye + 1.8, width), tissue["csf"])
    sinuses = (((28, 62, -64), (14, 17, 15)), ((0, 56, -58), (15, 34, 20)), ((8, 30, -42), (10, 12, 10)),
               ((12, 86, -10), (14, 6, 10)), ((54, -22, -44), (13, 17, 15)))  # fmt: skip
    for centre, radii in sinuses:
        d = _ellipsoid(q, centre, radii) + wrinkle
        _paint(image, _inside(d - 1.5, width), tissue["mucosa"])
        _paint(image, _inside(d, width) * _inside(wrinkle - 3.5, 2), tissue["air"])


def _skull(head: Head, image: np.ndarray, tissue: dict[str, np.ndarray], d_cavity: np.ndarray) -> None:
    """The bone around the cavity, with fatty marrow in its middle, and the venous sinuses of the dura."""
    thickness = np.maximum(6.5 + 1.5 * head.noise(40), 3)
    _paint(image, _inside(d_cavity - thickness, head.pixel), tissue["bone"])
    marrow = np.abs(d_cavity - 0.5 * thickness) - 0.12 * thickness * (1 + head.noise(20))
    _paint(image, _inside(marrow, head.pixel) * 0.8, tissue["marrow"])


# --- brain


@dataclass
class Brain:
    """Signed distances (N,) that later steps (lesions, artefacts) need, at the brain's points `p` (3, N)."""

    p: np.ndarray  # (3, N), already moved by the tumour's mass effect
    d_surface: np.ndarray  # to the outer surface of the brain
    d_csf: np.ndarray  # to the nearest sulcus, fissure, cistern or the surface (negative in CSF)
    d_ventricle: np.ndarray
    d_cerebellum: np.ndarray
    d_stem: np.ndarray


def _sulci(head: Head, p: np.ndarray, d_surface: np.ndarray, atrophy: float) -> np.ndarray:
    """Distance (N,) to the CSF of the sulci: sheets that go inwards from the zero set of band-limited noise."""
    voxel = 2.5
    cube = _band_noise(head.rng, 48, 21 / voxel)
    gradient = np.sqrt(sum(g * g for g in np.gradient(cube))) / voxel
    radius = np.sqrt(((p / np.float32([67, 85, 71])[:, None]) ** 2).sum(0))
    at = p / (np.maximum(radius, 0.2) ** 0.7 * voxel)  # nearly constant along a ray: a sulcus is a radial sheet
    wave = ndimage.map_coordinates(cube, at, order=1, mode="grid-wrap")
    slope = ndimage.map_coordinates(gradient, at, order=1, mode="grid-wrap")
    reach = (13 + 6 * head.noise(25)) * np.clip((radius - 0.45) / 0.35, 0, 1)  # none near the middle of the base
    below_floor = np.maximum(-d_surface - reach, 0)
    return np.abs(wave) / (slope + 0.05) + below_floor - atrophy * (0.5 + 0.5 * np.exp(d_surface / 6))


def _fissures(q: np.ndarray, atrophy: float) -> np.ndarray:
    """Distance (N,) to the CSF between the hemispheres, in the Sylvian fissures and in the basal cisterns."""
    midline = q[0] - 0.8 * atrophy
    callosum = _ellipsoid(q, (0, -2, 4), (40, 42, 22))
    d = np.maximum(midline, -callosum)
    d = np.minimum(d, _ellipsoid(q, (54, 10, -4), (20, 22, 1.5 + atrophy)))
    d = np.minimum(d, _ellipsoid(q, (40, 6, 4), (1 + 0.7 * atrophy, 22, 13)))
    d = np.minimum(d, _ellipsoid(q, (0, 4, -22), (14, 12, 9)))
    return np.minimum(d, _ellipsoid(q, (0, -36, -6), (16, 7, 6)))


def _ventricles(q: np.ndarray, swell: float) -> np.ndarray:
    """Signed distance (N,) to the ventricles of points `q` (3, N) with x >= 0; `swell` widens them."""
    x, y, z = q
    arch = np.stack([x - 8 - 0.007 * (y - 8) ** 2, y, z - 20 + 0.007 * (y - 5) ** 2])  # diverges and sinks at both ends
    d = _ellipsoid(arch, (0, 0, 0), (3.6 * swell, 42, 5 * swell))
    parts = (
        ((8, 28, 12), (4.5, 9, 7)), ((24, -34, 8), (4.5, 13, 7)), ((31, -14, -16), (2.5, 18, 3)),
        ((0, -6, -2), (2.0, 13, 9)), ((0, -40, -37), (6, 4.5, 8)),
    )  # fmt: skip
    for centre, radii in parts:
        d = _union(d, _ellipsoid(q, centre, np.multiply(radii, swell)), 3)
    return d


def _brain_shape(head: Head, p: np.ndarray, d_cavity: np.ndarray) -> Brain:
    """Lay out CSF spaces, ventricles, cerebellum and stem for points `p` (3, N)."""
    rng = head.rng
    atrophy = float(rng.gamma(3, 0.33)) + 0.35  # mm of half sulcal width: young brains fill the skull, old ones shrink
    q = _mirrored(p)
    d_surface = d_cavity + 1.0 + atrophy
    d_cerebellum = _ellipsoid(q, (0, -46, -37), (48, 30, 26))
    d_stem = _union(_ellipsoid(q, (0, -22, -50), (11, 11, 46)), _ellipsoid(q, (0, -14, -34), (17, 13, 14)), 6)
    d_csf = np.minimum(-d_surface, _sulci(head, p, d_surface, atrophy))
    d_csf = np.minimum(d_csf, _fissures(q, atrophy))
    behind = np.minimum(d_cerebellum - 2, d_stem - 1.5)  # tentorium and ambient cistern separate them from the cerebrum
    d_csf = np.minimum(d_csf, behind)
    return Brain(p, d_surface, d_csf, _ventricles(q, float(np.exp(rng.normal(-0.05, 0.3)))), d_cerebellum, d_stem)


def _cerebellum(head: Head, brain: Brain, tissue: dict[str, np.ndarray]) -> np.ndarray:
    """Intensities (3, N) of a cerebellum: white core, fine grey leaves with CSF between them."""
    leaf = np.sin(0.8 * brain.p[1] - 0.5 * np.abs(brain.p[0]) + 0.6 * brain.p[2] + 4 * head.noise(22)) > 0.4
    outer = 1 - _inside(11 + brain.d_cerebellum + 5 * head.noise(12), 10)
    body = np.repeat(np.float32(tissue["white"])[:, None], brain.p.shape[1], axis=1)
    _paint(body, outer, tissue["grey"])
    _paint(body, outer * leaf * head.rng.uniform(0.1, 0.4), tissue["csf"])
    return body


def _grey_matter(head: Head, q: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Intensities (3, N) of the cortex: uneven on FLAIR, and brighter in insula, cingulum and hippocampus."""
    limbic = _ellipsoid(q, (39, 6, 4), (8, 26, 16))
    limbic = np.minimum(limbic, _ellipsoid(q, (3, 30, 20), (10, 22, 24)))
    limbic = np.minimum(limbic, _ellipsoid(q, (26, -14, -20), (9, 24, 9)))
    values = np.repeat(np.float32(grey)[:, None], q.shape[1], axis=1)
    values[FLAIR] *= 1 + head.rng.uniform(0.03, 0.12) * head.noise(28) + head.rng.uniform(0, 0.3) * _inside(limbic, 8)
    return values


def _paint_brain(head: Head, image: np.ndarray, brain: Brain, tissue: dict[str, np.ndarray]) -> None:
    """Blend CSF, white and grey matter, nuclei, cerebellum, stem and ventricles into `image` (3, N)."""
    q = _mirrored(brain.p)
    width = max(head.pixel, 1.0)
    _paint(image, np.ones(image.shape[1], np.float32), tissue["csf"])
    tissue_share = 1 - _inside(brain.d_csf, width)
    cortex = _inside(brain.d_csf - head.rng.uniform(2.8, 4.0), width)
    matter = np.repeat(np.float32(tissue["white"])[:, None], image.shape[1], axis=1)
    _paint(matter, cortex, _grey_matter(head, q, tissue["grey"]))
    for centre, radii in (((12, -11, 5), (9, 14, 9)), ((25, 4, 2), (7, 19, 10)), ((14, 18, 14), (5, 14, 9))):
        _paint(matter, _inside(_ellipsoid(q, centre, radii), 2 * width), tissue["nuclei"])
    _paint(image, tissue_share, matter)
    _paint(image, _inside(brain.d_cerebellum, width), _cerebellum(head, brain, tissue))
    _paint(image, _inside(brain.d_stem, width), tissue["white"])
    _paint(image, _inside(brain.d_ventricle, width), tissue["csf"])


def _vessels(head: Head, image: np.ndarray, brain: Brain, tissue: dict[str, np.ndarray], d_cavity: np.ndarray) -> None:
    """Sagittal and transverse sinus, choroid plexus and cortical veins: bright after contrast only."""
    p, width = brain.p, head.pixel
    q = _mirrored(p)
    sagittal = np.maximum(np.abs(d_cavity + 2.5) - 2.5, np.abs(p[0]) - 4)
    sagittal = np.maximum(sagittal, 10 - p[2] - 0.3 * np.abs(p[1]))
    transverse = np.maximum(np.abs(d_cavity + 2) - 2.5, np.abs(p[2] + 16) - 3.5)
    transverse = np.maximum(transverse, p[1] + 20)
    falx = np.maximum(np.abs(p[0]) - 0.4, -_ellipsoid(q, (0, -2, 4), (40, 46, 26)))
    _paint(image, 0.9 * _inside(np.minimum(sagittal, transverse), width), tissue["vessel"])
    _paint(image, 0.5 * _inside(falx, width), np.array([tissue["csf"][0], tissue["csf"][1], tissue["vessel"][2] * 0.7]))
    plexus = np.maximum(_ellipsoid(q, (22, -34, 8), (4, 9, 5)), brain.d_ventricle)
    _paint(image, _inside(plexus, width), np.array([0.8, head.rng.uniform(0.6, 1.3), tissue["vessel"][2]]))
    veins = np.maximum(np.maximum(np.abs(brain.d_csf) - 0.7, 2 - brain.d_cerebellum), 1.2 - head.noise(8))
    _paint(image, 0.7 * _inside(veins, width), tissue["vessel"] * [1, 2, 1])


# --- lesions


@dataclass(frozen=True)
class Tumour:
    """What is drawn at random for one tumour; lengths in mm, intensities relative to white matter."""

    centre: np.ndarray  # (3,)
    radii: np.ndarray  # (3,)
    roughness: float  # amplitude of the irregular outline, as a share of the radius
    border: float  # width of the soft edge
    flair: float
    t1: float
    cyst: float  # 0 = solid; up to about 0.7 of the radius
    enhancement: float  # extra post-contrast intensity, 0 = none


def _draw_tumour(rng: np.random.Generator) -> Tumour:
    """Site, size and look of a tumour; frontal and temporal sites are the most frequent, as in patients."""
    sites = np.array([(30, 40, 22), (34, 12, 32), (42, 0, -18), (36, -36, 26), (28, -58, 8), (36, 10, 4), (14, 30, 34)])
    centre = sites[rng.choice(len(sites), p=[0.25, 0.15, 0.2, 0.13, 0.07, 0.1, 0.1])] + rng.normal(0, 7, 3)
    centre[0] = np.abs(centre[0]) * rng.choice([-1, 1])
    radius = np.clip(np.exp(rng.normal(np.log(27), 0.28)), 11, 42)
    return Tumour(
        centre=centre.astype(np.float32),
        radii=(radius * np.exp(rng.normal((0.04, 0.04, -0.1), 0.2))).astype(np.float32),
        roughness=rng.uniform(0.15, 0.4),
        border=rng.uniform(2, 8),
        flair=1 + np.clip(np.exp(rng.normal(np.log(0.68), 0.45)), 0.35, 1.4),
        t1=rng.uniform(0.5, 1.0),
        cyst=rng.uniform(0.3, 0.7) if rng.random() < 0.3 else 0.0,
        enhancement=rng.uniform(0.3, 1.4) if rng.random() < 0.35 else 0.0,
    )


def _mass_effect(p: np.ndarray, tumour: Tumour, strength: float) -> np.ndarray:
    """Points (3, N) seen from the undeformed brain: the tumour has pushed everything away from its centre."""
    away = p - tumour.centre[:, None]
    near = np.exp(-0.5 * ((away / (1.1 * tumour.radii[:, None])) ** 2).sum(0))
    return p - np.float32(strength) * near * away


def _tumour_distance(head: Head, p: np.ndarray, brain: Brain, tumour: Tumour) -> np.ndarray:
    """Signed distance (N,) to the tumour: a rough ellipsoid that spreads in white matter, stops at the midline."""
    size = float(tumour.radii.mean())
    d = _ellipsoid(p, tumour.centre, tumour.radii)
    d += size * tumour.roughness * (head.noise(0.9 * size) + 0.65 * head.noise(0.35 * size))
    d += 2.5 * head.noise(7)
    d += 1.2 * np.clip(4 - brain.d_csf, 0, 4)  # grey matter resists
    d += 1.2 * np.maximum(-p[0] * np.sign(tumour.centre[0]) - 1, 0)
    d += 3 * np.maximum(3 - brain.d_cerebellum, 0) + 3 * np.maximum(2 - brain.d_stem, 0)
    return np.maximum(d, np.maximum(-brain.d_ventricle, brain.d_surface))  # sulci are swollen shut: mask covers them


def _paint_tumour(head: Head, image: np.ndarray, d: np.ndarray, tumour: Tumour, tissue: dict[str, np.ndarray]) -> None:
    """Blend the tumour into `image` (3, N): bright on FLAIR, dark on T1, perhaps a cyst and contrast uptake."""
    size = float(tumour.radii.mean())
    texture = head.noise(9) + 0.7 * head.noise(20)
    share = _inside(d - 0.25 * tumour.border, tumour.border)
    core = np.clip(-d / (0.5 * size), 0, 1)
    flair = 1 + (tumour.flair - 1) * (0.8 + 0.35 * core + 0.2 * texture) + 0.06 * texture
    t1 = tumour.t1 + (1 - tumour.t1) * (0.5 - core) - 0.07 * texture
    _paint(image, share, np.stack([t1, flair, t1]).astype(np.float32))
    cavity = d + (1.15 - tumour.cyst) * size * 0.55 + 2.5 * texture
    if tumour.cyst:
        fluid = np.array([tissue["csf"][0], head.rng.uniform(0.15, 1.1), tissue["csf"][2]])
        _paint(image, _inside(cavity, 2 * head.pixel), fluid)
    if tumour.enhancement:
        rim = np.abs(cavity) - head.rng.uniform(1, 3)
        nodules = 0.9 - texture
        where = rim if tumour.cyst else np.maximum(3 * nodules, d + 0.25 * size)
        image[POST] += tumour.enhancement * _inside(where, 2 * head.pixel)


def _distractors(head: Head, image: np.ndarray, brain: Brain) -> None:
    """Bright FLAIR signal that is not tumour: periventricular caps, white-matter spots, flowing CSF, coil."""
    rng, p = head.rng, brain.p
    matter = _inside(4 - brain.d_csf, 3)
    caps = np.exp(-np.maximum(brain.d_ventricle, 0) / rng.uniform(2, 5)) * (brain.d_ventricle > -1)
    image[FLAIR] += rng.uniform(0, 0.4) * caps * matter * (0.5 + 0.5 * _inside(30 - np.abs(p[1]), 20))
    for _ in range(rng.poisson(3)):
        centre = np.array([rng.uniform(-45, 45), rng.uniform(-55, 50), rng.uniform(5, 50)])
        spot = _inside(_ellipsoid(p, centre, rng.uniform(1.5, 5, 3)), 2.5) * matter
        image[FLAIR] += rng.uniform(0.15, 0.6) * spot
    flow = rng.uniform(0, 0.5) * _inside(p[2] + 10, 20) * np.clip(head.noise(15), 0, 2)
    fluid = np.maximum(brain.d_csf, -np.minimum(brain.d_cerebellum, brain.d_stem))
    image[FLAIR] += flow * _inside(np.minimum(fluid, brain.d_ventricle), 2)
    temporal = _ellipsoid(_mirrored(p), (38, 4, -24), (24, 40, 20))
    near_coil = np.maximum(rng.normal(0, 0.12), 0) * _inside(temporal, 25)  # both sides alike, unlike a tumour
    image[FLAIR] *= 1 + near_coil + rng.uniform(0.02, 0.08) * head.noise(14)


# --- the whole


def draw_head(rng: np.random.Generator, size: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """A random head as thick slices, before any scanner has spoilt it.

    Returns `(4, S, size, size)` float32: the clean signal of the three sequences, and the share of each voxel that is
    tumour; and the coordinates along z (of the thin sections), y and x in mm.
    """
    head = _place_head(rng, size)
    tissue = _tissues(rng)
    d_cavity = _cavity(head.p)
    image = np.zeros((3, len(head.index)), np.float32)
    _face_texture(head, image, tissue)
    _face_organs(head, image, tissue)
    _skull(head, image, tissue, d_cavity)
    mask = _inside_skull(head, image, tissue, d_cavity)
    image *= _inside(head.depth, head.pixel)
    return _to_slices(head, np.concatenate([image, mask[None]])), head.axes


def _inside_skull(head: Head, image: np.ndarray, tissue: dict[str, np.ndarray], d_cavity: np.ndarray) -> np.ndarray:
    """Fill the cavity of `image` (3, N) with a brain and its tumour; returns 1 where the mask is, else 0 (N,)."""
    chosen = np.flatnonzero(d_cavity < head.pixel)
    part = Head(head.rng, head.axes, head.index[chosen], head.p[:, chosen], head.depth[chosen], head.pixel)
    tumour = _draw_tumour(head.rng)
    p = _mass_effect(part.p, tumour, head.rng.uniform(0, 0.35))
    brain = _brain_shape(part, p, d_cavity[chosen])
    content = np.zeros((3, len(chosen)), np.float32)
    _paint_brain(part, content, brain, tissue)
    _distractors(part, content, brain)
    _vessels(part, content, brain, tissue, d_cavity[chosen])
    d_tumour = _tumour_distance(part, part.p, brain, tumour)
    _paint_tumour(part, content, d_tumour, tumour, tissue)
    blended = image[:, chosen]
    _paint(blended, _inside(d_cavity[chosen], head.pixel), content)
    image[:, chosen] = blended
    mask = np.zeros(image.shape[1], np.float32)
    mask[chosen] = d_tumour < 0.25 * tumour.border  # drawn generously, as readers do: it takes in the soft edge
    return mask


def _to_slices(head: Head, image: np.ndarray) -> np.ndarray:
    """Scatter point values (C, N) to the grid and average thin sections: (C, S, H, W)."""
    z, height, width = head.shape
    grid = np.zeros((len(image), z * height * width), np.float32)
    grid[:, head.index] = image
    return grid.reshape(len(image), z // SUBSLICES, SUBSLICES, height, width).mean(2)
