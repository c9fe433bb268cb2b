"""Turn slices into small PNGs, by a table of colours in which numpy looks up each pixel.

Whoever shows the picture enlarges it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageColor

# Okabe and Ito's palette: told apart with any kind of colour vision
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
TRUTH, PREDICTION, AGREED = YELLOW, VERMILION, ORANGE
HIT, FALSE_ALARM, MISSED = GREEN, VERMILION, SKY  # true positive, false positive, false negative
CHANNELS = ("pre-contrast", "FLAIR", "post-contrast")
FLAIR = 1
OPACITY = 0.4

_GREYS = 62  # a palette has 256 places: so many greys in four kinds of pixel, and the two lines
_LINES = 4 * _GREYS
_TO_GREY = ((np.arange(256) * (_GREYS - 1) + 127) // 255).astype(np.uint8)


def brightest(volume: np.ndarray) -> int:
    """Return the intensity to show as white: the 99.5th percentile of the foreground.

    Args:
        volume: ``(S, H, W)`` uint8; every fourth row and column are counted, which is fast and
            makes no difference.
    """
    some = volume[:, ::4, ::4].ravel()
    histogram = np.bincount(some, minlength=256)
    histogram[: int(0.1 * some.max()) + 1] = 0
    return max(1, int(np.searchsorted(histogram.cumsum(), 0.995 * histogram.sum())))


def kinds(truth: np.ndarray | None, mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return the kind of each pixel: 0 neither, 1 ground truth only, 2 prediction only, 3 both.

    Args:
        truth, mask: {0, 1} uint8; one that is None is empty.
        shape: of the result, uint8.
    """
    found = np.zeros(shape, np.uint8)
    if truth is not None:
        found |= truth
    if mask is not None:
        found |= mask << 1
    return found


def colour_table(
    overlay: str, opacity: float = OPACITY, window: tuple[float, float] = (0, 255)
) -> np.ndarray:
    """Return the colour of a pixel by its kind and intensity, ``(4, 256, 3)`` uint8.

    ``browser.js`` computes the same table.

    Args:
        overlay: ``fill``, ``both`` or ``error``; any other colours no pixel.
        opacity: of the colour, in [0, 1].
        window: intensities shown as black and as white.
    """
    low, high = window
    grey = np.floor(np.clip((np.arange(256) - low) * 255 / max(high - low, 1), 0, 255) + 0.5)
    table = np.repeat(np.broadcast_to(grey[:, None], (1, 256, 3)), 4, axis=0)
    fills = {"fill": (TRUTH, PREDICTION, AGREED), "error": (MISSED, FALSE_ALARM, HIT)}
    for kind, colour in enumerate(fills.get("fill" if overlay == "both" else overlay, ()), 1):
        table[kind] = np.floor(
            table[kind] * (1 - opacity) + np.array(ImageColor.getrgb(colour)) * opacity + 0.5
        )
    return table.astype(np.uint8)


def outline(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """Return the pixels of a mask ``(H, W)`` within ``width`` of its edge, bool.

    The frame of the image counts as an edge.
    """
    edge = np.zeros(mask.shape, bool)
    if not mask.any():
        return edge
    # the box around the mask, which is often small
    box = tuple(slice(*(np.flatnonzero(mask.any(axis=axis))[[0, -1]] + (0, 1))) for axis in (1, 0))
    inside = np.pad(mask[box].astype(bool), 1)
    for _ in range(width):
        shrunk = np.zeros_like(inside)
        shrunk[1:-1, 1:-1] = (
            inside[1:-1, 1:-1]
            & inside[:-2, 1:-1]
            & inside[2:, 1:-1]
            & inside[1:-1, :-2]
            & inside[1:-1, 2:]
        )
        inside = shrunk
    edge[box] = mask[box].astype(bool) & ~inside[1:-1, 1:-1]
    return edge


def render(
    image: np.ndarray,
    truth: np.ndarray | None,
    mask: np.ndarray | None,
    window: tuple[float, float] = (0, 255),
    scale: int = 1,
) -> bytes:
    """Return one slice as an indexed PNG of 62 greys, the masks outlined.

    Args:
        image: ``(H, W)`` uint8.
        truth, mask: ``(H, W)`` {0, 1} uint8, or None.
        window: intensities shown as black and as white.
        scale: pixels of the picture along an edge of one of ``image``; lines are drawn after
            enlarging.
    """
    found = kinds(truth, mask, image.shape)
    index = _enlarged(np.take(_TO_GREY, image) + found * np.uint8(_GREYS), scale)
    # the ground truth has the wider line: where both run together it still shows
    for line, (bit, width) in enumerate(((1, scale), (2, (scale + 1) // 2))):
        index[outline(_enlarged(found & bit, scale), width)] = _LINES + line
    greys = np.arange(_GREYS) * 255 // (_GREYS - 1)
    lines = [ImageColor.getrgb(TRUTH), ImageColor.getrgb(PREDICTION)]
    palette = np.concatenate([colour_table("off", window=window)[:, greys].reshape(-1, 3), lines])
    return _indexed_png(index, palette.astype(np.uint8))


def _enlarged(plane: np.ndarray, scale: int) -> np.ndarray:
    return plane if scale == 1 else plane.repeat(scale, axis=0).repeat(scale, axis=1)


def grey_png(image: np.ndarray) -> bytes:
    """Return ``(H, W)`` uint8 as an indexed PNG with exactly these intensities; fast to make."""
    return _indexed_png(image, np.arange(256, dtype=np.uint8).repeat(3))


def grey_webp(image: np.ndarray) -> bytes:
    """Return the same as a lossless WebP: a third smaller, 30 times as slow; for files."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(
        stream, format="webp", lossless=True, quality=50
    )
    return stream.getvalue()


def _indexed_png(index: np.ndarray, palette: np.ndarray) -> bytes:
    # indexed, because Pillow then tries no filters: twice as fast as a grey PNG, five times as fast
    # as RGB
    picture = Image.fromarray(np.ascontiguousarray(index))
    picture.putpalette(palette.tobytes())
    stream = io.BytesIO()
    picture.save(stream, format="png", compress_level=1)
    return stream.getvalue()
