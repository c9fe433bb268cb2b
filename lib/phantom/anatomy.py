"""A random head with a tumour, in three dimensions: what the phantom's scanner will see.

A head is built from ellipsoids and random fields; nothing in it comes from a patient. Coordinates
are millimetres: x to the patient's left, y to the front, z up, origin in the middle of the
cerebrum. A *signed distance* (name `d_...`) is negative inside a structure. Intensities are
relative to white matter = 1, for three sequences (pre-contrast T1, FLAIR, post-contrast T1).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from lib.phantom.shapes import (
    FLAIR,
    Brain,
    Head,
    band_noise,
    ellipsoid,
    inside,
    mirrored,
    paint,
    smooth_noise,
    union,
)
from lib.phantom.tumour import distractors, draw_tumour, mass_effect, paint_tumour, tumour_distance

SUBSLICES = 3  # thin sections averaged into one thick slice (partial volume)


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Return the matrix (3, 3) from scanner to anatomical mm: rotation, size, shape of the head."""
    yaw, pitch, roll = np.deg2rad(rng.normal(0, (5, 7, 3)))
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return np.diag(1 / rng.normal(1, 0.04, 3)) @ about_z @ about_x @ about_y


def _grid(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Return the axes (z, y, x) of the scanner grid in mm, from the upper jaw to the vertex."""
    slices = int(rng.integers(14, 23))
    fov = float(np.clip(rng.normal(234, 22), 205, 300))
    low, high = rng.uniform(-104, -66), rng.uniform(84, 94)
    step = (high - low) / (slices * SUBSLICES)
    shift_y, shift_x = rng.normal(0, 4, 2)
    pixel = fov / size
    plane = (np.arange(size) - (size - 1) / 2) * pixel
    z = low + step * (np.arange(slices * SUBSLICES) + 0.5)
    return (
        z.astype(np.float32),
        (-plane + shift_y).astype(np.float32),
        (plane + shift_x).astype(np.float32),
    )


def _skin(p: np.ndarray) -> np.ndarray:
    """Signed distance (N,) to the skin: cranium, face, neck, nose and ears."""
    q = mirrored(p)
    d = union(ellipsoid(q, (0, 0, 0), (79, 99, 85)), ellipsoid(q, (0, 32, -58), (72, 66, 64)), 16)
    d = union(d, ellipsoid(q, (0, -24, -78), (66, 66, 68)), 14)
    d = union(d, ellipsoid(q, (0, 98, -56), (13, 20, 26)), 8)
    return union(d, ellipsoid(q, (72, -12, -42), (7, 11, 19)), 6)


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
    """Return the intensity (3,) of each tissue in (pre, FLAIR, post); white matter is about 1."""
    grey_t1, grey_flair = rng.uniform(0.8, 0.97), rng.uniform(0.97, 1.22)
    csf_t1, csf_flair = rng.uniform(0.15, 0.5), rng.uniform(0.08, 0.4)
    fat = rng.uniform(1.7, 3.0) * rng.uniform(0.8, 1.2, 3)
    muscle = rng.uniform(0.7, 1.1, 3)
    uptake = rng.uniform(1.4, 2.4)
    lift = rng.uniform(
        1.0, 1.1
    )  # blood in the capillaries brightens all brain a little after contrast
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


def _cavity(p: np.ndarray) -> np.ndarray:
    """Return the signed distance (N,) to the inside of the skull: vault, fossae and canal."""
    q = mirrored(p)
    vault = np.maximum(ellipsoid(q, (0, 0, 0), (67, 85, 71)), -16 - 0.1 * q[1] - q[2])
    d = union(vault, ellipsoid(q, (34, 8, -20), (30, 40, 27)), 8)
    d = union(d, ellipsoid(q, (0, -42, -32), (54, 38, 34)), 8)
    return union(d, ellipsoid(q, (0, -22, -60), (13, 13, 60)), 8)


def _face_texture(head: Head, image: np.ndarray, tissue: dict[str, np.ndarray]) -> None:
    """Muscle, fat planes, bone and air of face, skull base and neck."""
    texture = 0.8 * head.noise(7) + 0.7 * head.noise(16)
    below = inside(head.p[2] + 8, 20)  # the vault above has no such mixture
    streaks = 1 + 0.18 * head.noise(12) + 0.12 * head.noise(5)
    paint(image, np.ones_like(texture), tissue["fat"][:, None] * streaks)
    paint(image, inside(-2 - head.depth, 2.5), tissue["muscle"])  # skin
    paint(image, below * inside(head.depth + 7 + 2 * texture, 3), tissue["muscle"])
    paint(
        image, below * inside(0.85 - texture, 0.5) * inside(head.depth + 8, 4), tissue["fat"] * 0.7
    )
    paint(image, below * inside(texture + 0.65, 0.5) * inside(head.depth + 10, 4), tissue["bone"])


def _face_organs(head: Head, image: np.ndarray, tissue: dict[str, np.ndarray]) -> None:
    """Draw eyes, sinuses, mucosa, mastoid cells: bright and dark parts that are not tumour."""
    q, width = mirrored(head.p), head.pixel
    wrinkle = 3 * head.noise(7)
    paint(
        image, inside(ellipsoid(q, (64, 22, -18), (9, 28, 26)) + wrinkle, width), tissue["muscle"]
    )
    paint(image, inside(ellipsoid(q, (30, 56, -32), (18, 28, 16)), width), tissue["fat"])
    paint(
        image,
        inside(np.abs(ellipsoid(q, (28, 44, -32), (9, 26, 9))) - 1.2, width),
        tissue["muscle"],
    )
    eye = ellipsoid(q, (32, 72, -32), (12.5, 12.5, 12.5))
    paint(image, inside(eye, width), tissue["muscle"])
    paint(image, inside(eye + 1.8, width), tissue["csf"])
    sinuses = (((28, 62, -64), (14, 17, 15)), ((0, 56, -58), (15, 34, 20)),
               ((8, 30, -42), (10, 12, 10)),
               ((12, 86, -10), (14, 6, 10)), ((54, -22, -44), (13, 17, 15)))  # fmt: skip
    for centre, radii in sinuses:
        d = ellipsoid(q, centre, radii) + wrinkle
        paint(image, inside(d - 1.5, width), tissue["mucosa"])
        paint(image, inside(d, width) * inside(wrinkle - 3.5, 2), tissue["air"])


def _skull(
    head: Head, image: np.ndarray, tissue: dict[str, np.ndarray], d_cavity: np.ndarray
) -> None:
    """Draw the bone around the cavity, with fatty marrow inside, and the sinuses of the dura."""
    thickness = np.maximum(6.5 + 1.5 * head.noise(40), 3)
    paint(image, inside(d_cavity - thickness, head.pixel), tissue["bone"])
    marrow = np.abs(d_cavity - 0.5 * thickness) - 0.12 * thickness * (1 + head.noise(20))
    paint(image, inside(marrow, head.pixel) * 0.8, tissue["marrow"])


def _sulci(head: Head, p: np.ndarray, d_surface: np.ndarray, atrophy: float) -> np.ndarray:
    """Return the distance (N,) to the CSF of the sulci: the zero set of band-limited noise."""
    voxel = 2.5
    cube = band_noise(head.rng, 48, 21 / voxel)
    gradient = np.sqrt(sum(g * g for g in np.gradient(cube))) / voxel
    radius = np.sqrt(((p / np.array([67, 85, 71], np.float32)[:, None]) ** 2).sum(0))
    # nearly constant along a ray: a sulcus is a radial sheet
    at = p / (np.maximum(radius, 0.2) ** 0.7 * voxel)
    wave = ndimage.map_coordinates(cube, at, order=1, mode="grid-wrap")
    slope = ndimage.map_coordinates(gradient, at, order=1, mode="grid-wrap")
    reach = (13 + 6 * head.noise(25)) * np.clip(
        (radius - 0.45) / 0.35, 0, 1
    )  # none near the middle of the base
    below_floor = np.maximum(-d_surface - reach, 0)
    return (
        np.abs(wave) / (slope + 0.05) + below_floor - atrophy * (0.5 + 0.5 * np.exp(d_surface / 6))
    )


def _fissures(q: np.ndarray, atrophy: float) -> np.ndarray:
    """Return the distance (N,) to the CSF between the hemispheres, in fissures and cisterns."""
    midline = q[0] - 0.8 * atrophy
    callosum = ellipsoid(q, (0, -2, 4), (40, 42, 22))
    d = np.maximum(midline, -callosum)
    d = np.minimum(d, ellipsoid(q, (54, 10, -4), (20, 22, 1.5 + atrophy)))
    d = np.minimum(d, ellipsoid(q, (40, 6, 4), (1 + 0.7 * atrophy, 22, 13)))
    d = np.minimum(d, ellipsoid(q, (0, 4, -22), (14, 12, 9)))
    return np.minimum(d, ellipsoid(q, (0, -36, -6), (16, 7, 6)))


def _ventricles(q: np.ndarray, swell: float) -> np.ndarray:
    """Return the signed distance (N,) to the ventricles of `q` (3, N), x >= 0; `swell` widens."""
    x, y, z = q
    arch = np.stack(
        [x - 8 - 0.007 * (y - 8) ** 2, y, z - 20 + 0.007 * (y - 5) ** 2]
    )  # diverges and sinks at both ends
    d = ellipsoid(arch, (0, 0, 0), (3.6 * swell, 42, 5 * swell))
    parts = (
        ((8, 28, 12), (4.5, 9, 7)), ((24, -34, 8), (4.5, 13, 7)), ((31, -14, -16), (2.5, 18, 3)),
        ((0, -6, -2), (2.0, 13, 9)), ((0, -40, -37), (6, 4.5, 8)),
    )  # fmt: skip
    for centre, radii in parts:
        d = union(d, ellipsoid(q, centre, np.multiply(radii, swell)), 3)
    return d


def _brain_shape(head: Head, p: np.ndarray, d_cavity: np.ndarray) -> Brain:
    """Lay out CSF spaces, ventricles, cerebellum and stem for points `p` (3, N)."""
    rng = head.rng
    atrophy = (
        float(rng.gamma(3, 0.33)) + 0.35
    )  # mm of half sulcal width: young brains fill the skull, old ones shrink
    q = mirrored(p)
    d_surface = d_cavity + 1.0 + atrophy
    d_cerebellum = ellipsoid(q, (0, -46, -37), (48, 30, 26))
    d_stem = union(
        ellipsoid(q, (0, -22, -50), (11, 11, 46)), ellipsoid(q, (0, -14, -34), (17, 13, 14)), 6
    )
    d_csf = np.minimum(-d_surface, _sulci(head, p, d_surface, atrophy))
    d_csf = np.minimum(d_csf, _fissures(q, atrophy))
    behind = np.minimum(
        d_cerebellum - 2, d_stem - 1.5
    )  # tentorium and ambient cistern separate them from the cerebrum
    d_csf = np.minimum(d_csf, behind)
    return Brain(
        p,
        d_surface,
        d_csf,
        _ventricles(q, float(np.exp(rng.normal(-0.05, 0.3)))),
        d_cerebellum,
        d_stem,
    )


def _cerebellum(head: Head, brain: Brain, tissue: dict[str, np.ndarray]) -> np.ndarray:
    """Intensities (3, N) of a cerebellum: white core, fine grey leaves with CSF between them."""
    leaf = (
        np.sin(0.8 * brain.p[1] - 0.5 * np.abs(brain.p[0]) + 0.6 * brain.p[2] + 4 * head.noise(22))
        > 0.4
    )
    outer = 1 - inside(11 + brain.d_cerebellum + 5 * head.noise(12), 10)
    body = np.repeat(np.asarray(tissue["white"], np.float32)[:, None], brain.p.shape[1], axis=1)
    paint(body, outer, tissue["grey"])
    paint(body, outer * leaf * head.rng.uniform(0.1, 0.4), tissue["csf"])
    return body


def _grey_matter(head: Head, q: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Return the intensities (3, N) of the cortex: uneven on FLAIR, brighter in some regions."""
    limbic = ellipsoid(q, (39, 6, 4), (8, 26, 16))
    limbic = np.minimum(limbic, ellipsoid(q, (3, 30, 20), (10, 22, 24)))
    limbic = np.minimum(limbic, ellipsoid(q, (26, -14, -20), (9, 24, 9)))
    values = np.repeat(np.asarray(grey, np.float32)[:, None], q.shape[1], axis=1)
    values[FLAIR] *= (
        1
        + head.rng.uniform(0.03, 0.12) * head.noise(28)
        + head.rng.uniform(0, 0.3) * inside(limbic, 8)
    )
    return values


def _paint_brain(
    head: Head, image: np.ndarray, brain: Brain, tissue: dict[str, np.ndarray]
) -> None:
    """Blend fluid, matter, nuclei, cerebellum, stem and ventricles into `image` (3, N)."""
    q = mirrored(brain.p)
    width = max(head.pixel, 1.0)
    paint(image, np.ones(image.shape[1], np.float32), tissue["csf"])
    tissue_share = 1 - inside(brain.d_csf, width)
    cortex = inside(brain.d_csf - head.rng.uniform(2.8, 4.0), width)
    matter = np.repeat(np.asarray(tissue["white"], np.float32)[:, None], image.shape[1], axis=1)
    paint(matter, cortex, _grey_matter(head, q, tissue["grey"]))
    for centre, radii in (
        ((12, -11, 5), (9, 14, 9)),
        ((25, 4, 2), (7, 19, 10)),
        ((14, 18, 14), (5, 14, 9)),
    ):
        paint(matter, inside(ellipsoid(q, centre, radii), 2 * width), tissue["nuclei"])
    paint(image, tissue_share, matter)
    paint(image, inside(brain.d_cerebellum, width), _cerebellum(head, brain, tissue))
    paint(image, inside(brain.d_stem, width), tissue["white"])
    paint(image, inside(brain.d_ventricle, width), tissue["csf"])


def _vessels(
    head: Head, image: np.ndarray, brain: Brain, tissue: dict[str, np.ndarray], d_cavity: np.ndarray
) -> None:
    """Draw sinuses, choroid plexus and cortical veins: bright after contrast only."""
    p, width = brain.p, head.pixel
    q = mirrored(p)
    sagittal = np.maximum(np.abs(d_cavity + 2.5) - 2.5, np.abs(p[0]) - 4)
    sagittal = np.maximum(sagittal, 10 - p[2] - 0.3 * np.abs(p[1]))
    transverse = np.maximum(np.abs(d_cavity + 2) - 2.5, np.abs(p[2] + 16) - 3.5)
    transverse = np.maximum(transverse, p[1] + 20)
    falx = np.maximum(np.abs(p[0]) - 0.4, -ellipsoid(q, (0, -2, 4), (40, 46, 26)))
    paint(image, 0.9 * inside(np.minimum(sagittal, transverse), width), tissue["vessel"])
    paint(
        image,
        0.5 * inside(falx, width),
        np.array([tissue["csf"][0], tissue["csf"][1], tissue["vessel"][2] * 0.7]),
    )
    plexus = np.maximum(ellipsoid(q, (22, -34, 8), (4, 9, 5)), brain.d_ventricle)
    paint(
        image,
        inside(plexus, width),
        np.array([0.8, head.rng.uniform(0.6, 1.3), tissue["vessel"][2]]),
    )
    veins = np.maximum(
        np.maximum(np.abs(brain.d_csf) - 0.7, 2 - brain.d_cerebellum), 1.2 - head.noise(8)
    )
    paint(image, 0.7 * inside(veins, width), tissue["vessel"] * [1, 2, 1])


def draw_head(rng: np.random.Generator, size: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """A random head as thick slices, before any scanner has spoilt it.

    Returns `(4, S, size, size)` float32: the clean signal of the three sequences, and the share of
    each voxel that is tumour; and the coordinates along z (of the thin sections), y and x in mm.
    """
    head = _place_head(rng, size)
    tissue = _tissues(rng)
    d_cavity = _cavity(head.p)
    image = np.zeros((3, len(head.index)), np.float32)
    _face_texture(head, image, tissue)
    _face_organs(head, image, tissue)
    _skull(head, image, tissue, d_cavity)
    mask = _inside_skull(head, image, tissue, d_cavity)
    image *= inside(head.depth, head.pixel)
    return _to_slices(head, np.concatenate([image, mask[None]])), head.axes


def _inside_skull(
    head: Head, image: np.ndarray, tissue: dict[str, np.ndarray], d_cavity: np.ndarray
) -> np.ndarray:
    """Fill the cavity of `image` (3, N) with brain and tumour; return the mask (N,), 0 or 1."""
    chosen = np.flatnonzero(d_cavity < head.pixel)
    part = Head(
        head.rng, head.axes, head.index[chosen], head.p[:, chosen], head.depth[chosen], head.pixel
    )
    tumour = draw_tumour(head.rng)
    p = mass_effect(part.p, tumour, head.rng.uniform(0, 0.35))
    brain = _brain_shape(part, p, d_cavity[chosen])
    content = np.zeros((3, len(chosen)), np.float32)
    _paint_brain(part, content, brain, tissue)
    distractors(part, content, brain)
    _vessels(part, content, brain, tissue, d_cavity[chosen])
    d_tumour = tumour_distance(part, part.p, brain, tumour)
    paint_tumour(part, content, d_tumour, tumour, tissue)
    blended = image[:, chosen]
    paint(blended, inside(d_cavity[chosen], head.pixel), content)
    image[:, chosen] = blended
    mask = np.zeros(image.shape[1], np.float32)
    mask[chosen] = (
        d_tumour < 0.25 * tumour.border
    )  # drawn generously, as readers do: it takes in the soft edge
    return mask


def _to_slices(head: Head, image: np.ndarray) -> np.ndarray:
    """Scatter point values (C, N) to the grid and average thin sections: (C, S, H, W)."""
    z, height, width = head.shape
    grid = np.zeros((len(image), z * height * width), np.float32)
    grid[:, head.index] = image
    return grid.reshape(len(image), z // SUBSLICES, SUBSLICES, height, width).mean(2)
