"""Read a TIFF so that its pixels have one meaning, whatever program wrote it.

A tag of the file may turn its numbers over (``white is zero``), make them places in a table of
colours, or say that the picture lies on its side. Such a tag is followed, or the file is refused
with the reason and a remedy. Which library decodes the file makes no difference.
"""

from __future__ import annotations

import stat
import threading
import warnings
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
_JPEG = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)
_pillow = threading.Lock()


def read_picture(path: Path) -> np.ndarray:
    """Return one TIFF, ``(H, W)`` or ``(H, W, 3)`` uint8, 0 for black; booleans become 0 and 1.

    A picture in three equal colours is grey: ``(H, W)`` is returned only for what the file calls
    grey or a table of greys.

    Raises:
        KitError: no file, damaged, several pages, more than 64 MiB, pixels that are no uint8, or a
            tag that the kit does not follow: another colour space, transparency, rotation.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise KitError(f"{path}: is no file; remove it, or copy the slice to this place")
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            problem = _problem(page, len(file.pages))
            if problem:
                raise KitError(f"{path}: {problem}")
            try:
                pixels = page.asarray()
            except ValueError:  # compressed in a way that tifffile leaves to an extra package
                pixels = _by_pillow(path)
            else:
                pixels = _followed(pixels, page)
    except KitError:
        raise
    except OSError as error:
        raise KitError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # damaged files raise almost anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(f"{path}: cannot be read as TIFF ({reason}); copy the file again") from None
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
    if "PhotometricInterpretation" not in page.tags:
        return "does not say whether 0 is black or white; save it again"
    colours = page.photometric
    if colours not in _FOLLOWED and not (
        colours == _PHOTOMETRIC.YCBCR and page.compression in _JPEG  # which decodes it to RGB
    ):
        name = getattr(colours, "name", colours)
        return f"its colours are stored as {name}; save images as RGB and masks as greyscale"
    if page.extrasamples:
        return "has a channel for transparency; save it without (flattened)"
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value != 1:
        return "a tag says that it is to be turned before it is shown; save it upright"
    return None


def _followed(pixels: np.ndarray, page: Any) -> np.ndarray:
    """Return what the numbers of a page mean."""
    if page.axes == "SYX":  # a plane for each colour
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == _PHOTOMETRIC.MINISWHITE:
        if pixels.dtype == bool:
            return ~pixels
        if pixels.dtype == np.uint8:
            return np.uint8(2**page.bitspersample - 1) - pixels
    if page.photometric == _PHOTOMETRIC.PALETTE:
        table = np.asarray(page.colormap)
        colours = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        return _grey_if_it_is(np.moveaxis(colours[:, pixels.astype(int)], 0, -1))
    return pixels


def _grey_if_it_is(pixels: np.ndarray) -> np.ndarray:
    """Return ``(H, W)`` of a picture whose three colours are equal, any other as it is."""
    grey = pixels[..., 0]
    return grey if (pixels == grey[..., None]).all() else pixels


def _by_pillow(path: Path) -> np.ndarray:
    """Decode a picture by Pillow, which follows the tags by itself."""
    # one thread at a time: filters of warnings are shared by all
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged file is reported in our words
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            if opened.mode == "P":
                return _grey_if_it_is(np.asarray(opened.convert("RGB")))
            if opened.mode not in ("1", "L", "RGB"):
                raise KitError(
                    f"{path}: is stored as {opened.mode}; save images as 8-bit RGB and masks as "
                    f"8-bit greyscale"
                )
            return np.asarray(opened)
