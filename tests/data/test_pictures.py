"""One picture, saved in the ways of other programs: the same pixels, or a clear refusal."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from lib.data import list_patients, read_patient
from lib.data.pictures import read_picture
from lib.utils import KitError
from tests.conftest import NAMES, brain, write_patient

NAME = NAMES[0]
VOLUME, MASK = brain(0)
GREY = MASK[3] * np.uint8(255)
RGB = VOLUME[3]


def by_pillow(mode="L", **options):
    def write(path, grey):
        Image.fromarray(grey).convert(mode).save(path, **options)

    return write


def palette(table, **options):
    """Write a picture whose background is entry 0 and whose tumour is entry 1 of a table."""

    def write(path, grey):
        picture = Image.fromarray((grey > 0).astype(np.uint8)).convert("P")
        picture.putpalette([*table[0], *table[1]] + [0] * 750)
        picture.save(path, **options)

    return write


def white_is_zero_by_pillow(**options):
    """Pillow turns the numbers over when it writes this tag, too."""
    return by_pillow(tiffinfo={262: 0}, **options)


MASKS = {
    "ImageJ, 8 bit": lambda p, a: tifffile.imwrite(p, a, imagej=True),
    "ImageJ, white is zero, 8 bit": lambda p, a: tifffile.imwrite(
        p, 255 - a, photometric="miniswhite"
    ),
    "white is zero, 1 bit": lambda p, a: tifffile.imwrite(p, a == 0, photometric="miniswhite"),
    "black is zero, 1 bit": lambda p, a: tifffile.imwrite(p, a > 0, photometric="minisblack"),
    "Pillow, 1 bit, white is zero": by_pillow("1", tiffinfo={262: 0}),
    "Pillow, 1 bit, white is zero, LZW": by_pillow("1", tiffinfo={262: 0}, compression="tiff_lzw"),
    "Pillow, white is zero": white_is_zero_by_pillow(),
    "Pillow, white is zero, LZW": white_is_zero_by_pillow(compression="tiff_lzw"),
    "Pillow, white is zero, deflate": white_is_zero_by_pillow(compression="tiff_adobe_deflate"),
    "fax": by_pillow("1", compression="group4"),
    "LZW with differences": by_pillow(compression="tiff_lzw", tiffinfo={317: 2}),
    "packbits": by_pillow(compression="packbits"),
    "deflate by tifffile": lambda p, a: tifffile.imwrite(p, a, compression="zlib", predictor=True),
    "in tiles": lambda p, a: tifffile.imwrite(p, a, tile=(16, 16)),
    "in strips": lambda p, a: tifffile.imwrite(p, a, rowsperstrip=3),
    "big-endian": lambda p, a: tifffile.imwrite(p, a, byteorder=">"),
    "BigTIFF": lambda p, a: tifffile.imwrite(p, a, bigtiff=True),
    "0 and 1": lambda p, a: tifffile.imwrite(p, a // 255),
    "1 and 2": lambda p, a: tifffile.imwrite(p, a // 255 + 1),
    "0 and 128": lambda p, a: tifffile.imwrite(p, a // 255 * 128),
    "254 and 255": lambda p, a: tifffile.imwrite(p, a // 255 + 254),
    "palette, black and white": palette([(0, 0, 0), (255, 255, 255)]),
    "palette, dark and light grey, LZW": palette([(9, 9, 9), (77, 77, 77)], compression="tiff_lzw"),
}
REFUSED_MASKS = {
    "black on white, no tag": (lambda p, a: tifffile.imwrite(p, 255 - a), "inverted"),
    "palette, tumour black": (palette([(255, 255, 255), (0, 0, 0)]), "inverted"),
    "palette, LZW, tumour black": (
        palette([(255, 255, 255), (0, 0, 0)], compression="tiff_lzw"),
        "inverted",
    ),
    "labelme's colours": (palette([(0, 0, 0), (128, 0, 0)]), "expected (H, W), a greyscale mask"),
    "JPEG": (by_pillow(compression="jpeg", quality=75), "values ("),
    "smooth edges": (
        lambda p, a: tifffile.imwrite(p, (a // 3 * 2 + np.roll(a, 1, 1) // 3).astype(np.uint8)),
        "masks with 4 values (0, 85, 170, 255), expected one for tumour",
    ),
    "three labels": (
        lambda p, a: tifffile.imwrite(p, a // 255 + (np.indices(a.shape)[0] == 0).astype("u1") * 3),
        "masks with 3 values (0, 1, 3)",
    ),
    "two pages": (
        lambda p, a: tifffile.imwrite(p, np.stack([a, a])),
        "has 2 pages, and one of them is the slice; save each as a file of its own",
    ),
    "a page appended": (
        lambda p, a: (tifffile.imwrite(p, a), tifffile.imwrite(p, 255 - a, append=True)),
        "has 2 pages",
    ),
    "two pages, LZW": (
        lambda p, a: Image.fromarray(255 - a).save(
            p, save_all=True, append_images=[Image.fromarray(a)], compression="tiff_lzw"
        ),
        "has 2 pages",
    ),
    "on its head": (by_pillow(tiffinfo={274: 3}), "turned before it is shown; save it upright"),
    "on its side, LZW": (by_pillow(tiffinfo={274: 6}, compression="tiff_lzw"), "save it upright"),
    "grey with transparency": (by_pillow("LA"), "a channel for transparency; save it without"),
    "CMYK": (by_pillow("CMYK"), "stored as SEPARATED; save images as RGB and masks as greyscale"),
    "16 bit": (lambda p, a: tifffile.imwrite(p, a.astype(np.uint16)), "save it with 8 bits"),
    "float": (lambda p, a: tifffile.imwrite(p, a.astype(np.float32)), "save it with 8 bits"),
    "signed": (lambda p, a: tifffile.imwrite(p, (a // 255).astype(np.int8)), "save it with 8 bits"),
}


def patient(folder, write_mask):
    """A patient whose masks are written by this function."""
    path = write_patient(folder, NAME, VOLUME, MASK)
    for number, plane in enumerate(MASK, 1):
        file = path / f"{NAME}_{number}_mask.tif"
        file.unlink()
        write_mask(file, plane * np.uint8(255))
    return list_patients(folder)[0]


@pytest.mark.parametrize("way", MASKS)
def test_a_mask_has_one_meaning(way, tmp_path):
    np.testing.assert_array_equal(read_patient(patient(tmp_path, MASKS[way]))[1], MASK)


@pytest.mark.parametrize("way", REFUSED_MASKS)
def test_a_mask_of_another_meaning_is_refused(way, tmp_path):
    write, words = REFUSED_MASKS[way]
    with pytest.raises(KitError) as caught:
        read_patient(patient(tmp_path, write))
    assert words in str(caught.value) and NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_of_everything_and_one_of_nothing(tmp_path):
    with pytest.raises(KitError, match=r"cover 100% of the head: they are inverted"):
        read_patient(patient(tmp_path / "all", lambda p, a: tifffile.imwrite(p, a | 255)))
    nothing = patient(tmp_path / "none", lambda p, a: tifffile.imwrite(p, a & 0))
    assert not read_patient(nothing)[1].any()


def test_a_mask_of_the_air_is_named(tmp_path):
    planes = iter(VOLUME.max(axis=3) == 0)
    masks = patient(tmp_path, lambda p, a: tifffile.imwrite(p, next(planes) * np.uint8(255)))
    with pytest.raises(KitError, match=r"of the air around it: they are inverted"):
        read_patient(masks)


IMAGES = {
    "uncompressed": lambda p, a: tifffile.imwrite(p, a, photometric="rgb"),
    "a plane for each colour": lambda p, a: tifffile.imwrite(
        p, np.moveaxis(a, -1, 0), photometric="rgb", planarconfig="separate"
    ),
    "LZW": by_pillow("RGB", compression="tiff_lzw"),
    "deflate": by_pillow("RGB", compression="tiff_adobe_deflate"),
    "in tiles": lambda p, a: tifffile.imwrite(p, a, tile=(16, 16), photometric="rgb"),
    "palette of 16 bits": lambda p, a: tifffile.imwrite(
        p, a[..., 0], photometric="palette", colormap=(np.indices((3, 256))[1] * 257).astype("u2")
    ),
}


@pytest.mark.parametrize("way", IMAGES)
def test_an_image_has_one_meaning(way, tmp_path):
    IMAGES[way](tmp_path / "a.tif", RGB)
    expected = RGB[..., 0] if "palette" in way else RGB
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p, a: tifffile.imwrite(p, a, photometric="ycbcr"), "stored as YCBCR"),
        (by_pillow("RGBA"), "transparency"),
        (by_pillow("LAB"), "stored as CIELAB"),
        (lambda p, a: tifffile.imwrite(p, a, photometric=34892), "stored as LINEAR_RAW"),
    ],
    ids=["YCbCr", "RGBA", "Lab", "raw"],
)
def test_an_image_of_other_colours_is_refused(write, words, tmp_path):
    write(tmp_path / "a.tif", RGB)
    with pytest.raises(KitError, match=words):
        read_picture(tmp_path / "a.tif")


def test_a_picture_that_does_not_say_what_is_black(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at = file.pages[0].tags["PhotometricInterpretation"].offset
    content[at : at + 2] = (65000).to_bytes(2, "little")  # a tag that nobody knows
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(KitError, match="does not say whether 0 is black or white"):
        read_picture(tmp_path / "a.tif")


def test_colours_of_a_jpeg_are_decoded(tmp_path):
    even = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    Image.fromarray(even).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    assert np.abs(read_picture(tmp_path / "a.tif").astype(int) - even).max() <= 3


def test_a_picture_that_is_too_large_is_not_unpacked(tmp_path):
    zeros = np.zeros((9_000, 9_000), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", zeros, compression="zlib", rowsperstrip=9_000)
    assert (tmp_path / "a.tif").stat().st_size < 2**20
    with pytest.raises(KitError, match="77 MiB of pixels are no slice of a head"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes among files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(KitError, match=r"a\.tif: is no file"):
        read_picture(tmp_path / "a.tif")
