"""Read a TIFF so that its pixels have one meaning, whatever program wrote it.

A tag of the file may turn its numbers over (``white is zero``), make them places in a table of
colours, or say that the picture lies on its side. Such a tag is followed, or the file is refused
with the reason and a remedy. Which library decodes the file makes no difference.
"""

from __future__ import annotations

import logging
import math
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from lib.utils import KitError

MAX_BYTES = 64 * 2**20
"""Of the pixels of one picture: more is no slice of a head."""
_PHOTOMETRIC = tifffile.PHOTOMETRIC
_FOLLOWED = (
    _PHOTOMETRIC.MINISBLACK,
    _PHOTOMETRIC.MINISWHITE,
    _PHOTOMETRIC.PALETTE,
    _PHOTOMETRIC.RGB,
)
_ONE_CHANNEL = _FOLLOWED[:3]
_PLACES = (324, 273), (325, 279)  # tags for offsets, for bytes: of tiles, of strips
_PADDING = 3  # bytes that a program may add to pixels, up to a multiple of four
_UNCOMPRESSED = tifffile.COMPRESSION.NONE
_JPEG = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)
_pillow = threading.Lock()
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # the kit says it in one line


def read_picture(path: Path) -> np.ndarray:
    """Return one TIFF, ``(H, W)`` or ``(H, W, 3)`` uint8, 0 for black; booleans become 0 and 1.

    A picture in three equal colours is grey: ``(H, W)`` is returned only for what the file calls
    grey or a table of greys.

    Raises:
        KitError: no file, damaged, several pages, a thumbnail, more than 64 MiB, pixels that are
            no uint8, or a tag that the kit does not follow: another colour space, transparency,
            rotation.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise KitError(f"{path}: is no file; remove it, or copy the slice to this place")
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            problem = _problem(page, _count(file)) or _damage(file, page)
            if problem:
                raise KitError(f"{path}: {problem}")
            pixels = _decoded(path, page)
    except KitError:
        raise
    except Exception as error:  # damaged files raise almost anything
        if isinstance(error, OSError) and error.errno:
            raise KitError(
                f"{path}: cannot be read ({error.strerror}); restore it, or remove the patient"
            ) from None
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(
            f"{path}: cannot be read as TIFF ({reason}); copy the file again, or save it again as "
            f"TIFF"
        ) from None
    if pixels.dtype != np.uint8 and pixels.dtype != bool:
        raise KitError(
            f"{path}: pixels of type {pixels.dtype}, expected uint8 as in the Kaggle dataset; save "
            f"it with 8 bits"
        )
    return pixels.astype(np.uint8, copy=False)


def _problem(page: Any, pages: int) -> str | None:
    """Return what in a file's tags the kit does not follow, with a remedy."""
    if pages > 1:
        return f"has {pages} pages, and one of them is the slice; save each as a file of its own"
    if page.nbytes > MAX_BYTES:
        return f"{page.nbytes / 2**20:.0f} MiB of pixels are no slice of a head; remove it"
    if page.subfiletype != 0:
        return "a tag says that it is a thumbnail or a part of another picture; save that one alone"
    if any(_pixels(below) >= _pixels(page) for below in page.pages or ()):
        return "has another picture below it, as large as itself (SubIFD); save the slice alone"
    if "PhotometricInterpretation" not in page.tags:
        return "does not say whether 0 is black or white; save it again"
    colours = page.photometric
    if colours not in _FOLLOWED and not (
        colours == _PHOTOMETRIC.YCBCR and page.compression in _JPEG  # which decodes it to RGB
    ):
        name = getattr(colours, "name", colours)
        return f"its colours are stored as {name}; save images as RGB and masks as greyscale"
    if page.planarconfig not in (1, 2):
        return f"its colours are in an unknown order ({page.planarconfig}); save it again"
    if page.extrasamples:
        return "has a channel for transparency; save it without (flattened)"
    if page.samplesperpixel != (1 if colours in _ONE_CHANNEL else 3):
        return f"has {page.samplesperpixel} channels, which its tags do not name; save it again"
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value != 1:
        return "a tag says that it is to be turned before it is shown; save it upright"
    if page.predictor != 1 and page.compression == _UNCOMPRESSED:
        return "its tags ask for differences of pixels, without compression; save it again"
    return None


def _pixels(page: Any) -> int:
    return int(page.imagelength) * int(page.imagewidth)


def _count(file: tifffile.TiffFile) -> int:
    """Return how many pictures a file holds; one page may describe a whole stack."""
    page: Any = file.pages[0]
    if (page.is_imagej or page.is_shaped) and file.filehandle.size > 2 * page.nbytes:
        planes = math.prod(file.series[0].shape) // math.prod(page.shape)
        return max(len(file.pages), planes)
    return len(file.pages)


def _damage(file: tifffile.TiffFile, page: Any) -> str | None:
    """Return what contradicts itself in what a file says about the place of its pixels.

    Decoders guess then, or take zeros for what is missing: the picture would be another one.
    """
    codes = [tag.code for tag in page.tags]
    if len(codes) != _written_tags(file, page):
        return "is damaged (some of its tags are lost); copy the file again, or save it again"
    if codes != sorted(codes):
        return (
            "its tags are not in the order of their numbers, as TIFF asks for; copy the file "
            "again, or save it again"
        )
    offsets, counts = (
        page.tags.valueof(tile) or page.tags.valueof(strip) for tile, strip in _PLACES
    )
    expected = math.prod(page.chunked)
    if not offsets or not counts or {len(offsets), len(counts)} != {expected}:
        what = f"{len(offsets or ())} places of pixels in its tags, expected {expected}"
    elif page.compression == _UNCOMPRESSED and not all(
        least <= count <= most for count, (least, most) in zip(counts, _sizes(page), strict=True)
    ):
        what = "its tags give the pixels too few or too many bytes"
    elif _overlap(file, page, list(zip(offsets, counts, strict=True))):
        what = "its tags look for pixels beyond the end, or where something else is"
    else:
        return None
    return f"is damaged ({what}); copy the file again, or save it again"


def _written_tags(file: tifffile.TiffFile, page: Any) -> int:
    """Return how many tags a page has, as the file says."""
    file.filehandle.seek(page.offset)
    (written,) = struct.unpack(file.tiff.tagnoformat, file.filehandle.read(file.tiff.tagnosize))
    return int(written)


def _sizes(page: Any) -> Iterator[tuple[int, int]]:
    """Yield the fewest and the most bytes that each strip or tile can have, uncompressed."""
    tiled = page.is_tiled
    width, rows = (
        (page.tilewidth, page.tilelength) if tiled else (page.imagewidth, page.rowsperstrip)
    )
    rows = rows if tiled else min(rows, page.imagelength)
    channels = page.samplesperpixel if page.planarconfig == 1 else 1
    row = -(-width * channels * page.bitspersample // 8)
    in_a_plane = -(-page.imagelength // rows)
    for number in range(math.prod(page.chunked)):
        left = page.imagelength - number % in_a_plane * rows
        least = rows if tiled else min(rows, left)
        yield least * row, rows * row + _PADDING


def _overlap(file: tifffile.TiffFile, page: Any, pixels: list[tuple[int, int]]) -> bool:
    """Return whether pixels are outside of the file, or over each other, its header or its tags."""
    tiff = file.tiff
    tags = tiff.tagnosize + len(page.tags) * tiff.tagsize + tiff.offsetsize
    others = [(0, 4 + tiff.offsetsize), (page.offset, tags)]
    others += [
        (tag.valueoffset, tag.valuebytecount)
        for tag in page.tags
        if tag.valuebytecount > tiff.offsetsize
    ]
    places = [(*place, True) for place in pixels] + [(*place, False) for place in others]
    end_of_pixels = end_of_others = 0
    for start, count, is_pixels in sorted(places):
        if is_pixels:
            if count < 1 or start < max(end_of_pixels, end_of_others):
                return True
            end_of_pixels = start + count
        else:
            if start < end_of_pixels:
                return True
            end_of_others = max(end_of_others, start + count)
    return end_of_pixels > file.filehandle.size


def _decoded(path: Path, page: Any) -> np.ndarray:
    """Return the picture of a page, ``(H, W)`` or ``(H, W, 3)``."""
    try:
        pixels = page.asarray()
    except tifffile.TiffFileError:
        raise
    except (ValueError, NotImplementedError, ImportError):  # tifffile wants an extra package
        pixels = _by_pillow(path)
        return _coloured(path, pixels, page) if page.photometric == _PHOTOMETRIC.PALETTE else pixels
    return _followed(path, pixels, page)


def _followed(path: Path, pixels: np.ndarray, page: Any) -> np.ndarray:
    """Return what the numbers of a page mean."""
    if page.axes == "SYX":  # a plane for each colour
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == _PHOTOMETRIC.MINISWHITE:
        if pixels.dtype == bool:
            return ~pixels
        if pixels.dtype == np.uint8:
            return np.uint8(2**page.bitspersample - 1) - pixels
    return _coloured(path, pixels, page) if page.photometric == _PHOTOMETRIC.PALETTE else pixels


def _coloured(path: Path, places: np.ndarray, page: Any) -> np.ndarray:
    """Return the colours at places of a page's table, ``(H, W)`` if all are grey.

    Raises:
        KitError: two numbers that are in use are the same grey.
    """
    table = np.asarray(page.colormap)
    table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    numbers = np.unique(places).astype(int)
    used = table[:, numbers]
    if (used != used[0]).any():
        return np.moveaxis(table[:, places.astype(int)], 0, -1)
    if len(np.unique(used[0])) < len(numbers):
        raise KitError(
            f"{path}: its table of colours shows different numbers as the same grey; save it as "
            f"8-bit greyscale"
        )
    return table[0, places.astype(int)]


def _by_pillow(path: Path) -> np.ndarray:
    """Decode a picture by Pillow, which follows all tags but the table of colours by itself."""
    # one thread at a time: filters of warnings are shared by all
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged file is reported in our words
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            if opened.mode not in ("1", "L", "P", "RGB"):
                raise KitError(
                    f"{path}: is stored as {opened.mode}; save images as 8-bit RGB and masks as "
                    f"8-bit greyscale"
                )
            return np.asarray(opened)
