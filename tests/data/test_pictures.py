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
from tests.faults.tiff import Way, save

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
    "4 bits, white is zero": lambda p, a: save(p, 15 - a // 17, Way(bits=4, colours=0)),
    "2 bits, a table of greys": lambda p, a: save(
        p, a // 255 + 1, Way(bits=2, colours=3, extra={320: (3, [0, 9 * 257, 77 * 257, 0] * 3)})
    ),
    "a table of 8 bits": lambda p, a: save(
        p, a // 255, Way(colours=3, extra={320: (3, [9, 77, *[0] * 254] * 3)})
    ),
    "a table of 8 bits, LZW": lambda p, a: save(
        p, a // 255, Way(colours=3, compression=5, extra={320: (3, [9, 77, *[0] * 254] * 3)})
    ),
    "the last strip comes first": lambda p, a: save(p, a, Way(rows=5, backwards=True)),
    "the lowest bit is the first pixel": lambda p, a: save(p, a // 255, Way(bits=1, fill=2)),
    "bytes behind it": lambda p, a: save(p, a, Way(after=b"signed by me")),
    "a thumbnail in a directory below": lambda p, a: with_thumbnail(p, a),
    "palette, dark and light grey, LZW": palette([(9, 9, 9), (77, 77, 77)], compression="tiff_lzw"),
}


def with_thumbnail(path, grey):
    with tifffile.TiffWriter(path) as file:
        file.write(grey, subifds=1)
        file.write(grey[::2, ::2], subfiletype=1)


def imagej_stack(path, grey):
    """ImageJ describes a large stack by one page."""
    tifffile.imwrite(path, np.stack([grey * 0, grey]), metadata={"axes": "ZYX"}, truncate=True)


def two(path, first, below, subfiletype):
    with tifffile.TiffWriter(path) as file:
        file.write(first, subfiletype=subfiletype, subifds=1)
        file.write(below)


REFUSED_MASKS = {
    "a thumbnail, the picture below it": (lambda p, a: two(p, a * 0, a, 1), "it is a thumbnail"),
    "a picture below it, as large": (lambda p, a: two(p, a * 0, a, 0), "as large as itself"),
    "a wider one below it": (
        lambda p, a: two(p, a, np.hstack([a, a, a])[:-1], 0),
        "as large as itself",
    ),
    "marked as a part": (lambda p, a: tifffile.imwrite(p, a, subfiletype=2), "or a part"),
    "unsorted tags": (
        lambda p, a: save(p, a, Way(unsorted=True)),
        "its tags are not in the order of their numbers",
    ),
    "a stack in one page": (imagej_stack, "has 2 pages, and one of them is the slice"),
    "a table with the same grey for both": (
        lambda p, a: save(p, a // 255, Way(colours=3, extra={320: (3, [9 * 257] * 768)})),
        "shows different numbers as the same grey; save it as 8-bit greyscale",
    ),
    "a second channel without a name": (
        lambda p, a: save(p, np.dstack([a, a]), Way()),
        "has 2 channels, which its tags do not name; save it again",
    ),
    "differences without compression": (
        lambda p, a: save(p, a, Way(predictor=2)),
        "ask for differences of pixels, without compression; save it again",
    ),
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


def test_a_mask_of_the_whole_head_is_refused_where_the_head_is_small(tmp_path):
    volume = np.pad(VOLUME, ((0, 0), (60, 60), (60, 60), (0, 0)))
    head = (volume.max(axis=3) > 0).astype(np.uint8)
    assert head.mean() < 0.1
    write_patient(tmp_path, NAME, volume, head)
    with pytest.raises(KitError, match=r"cover 100% of the head: they are inverted"):
        read_patient(list_patients(tmp_path)[0])


def test_a_dark_tumour_in_a_picture_that_is_cropped_to_the_head_is_none_of_the_air(tmp_path):
    volume, mask = np.full((4, 32, 32, 3), 200, np.uint8), np.zeros((4, 32, 32), np.uint8)
    volume[1:3, 10:14, 10:14], mask[1:3, 10:14, 10:14] = 5, 1
    write_patient(tmp_path, NAME, volume, mask)
    np.testing.assert_array_equal(read_patient(list_patients(tmp_path)[0])[1], mask)


def test_one_inverted_mask_among_others_is_named(tmp_path):
    folder = patient(tmp_path, MASKS["ImageJ, 8 bit"]).masks[0].parent
    save(folder / f"{NAME}_4_mask.tif", GREY, Way(colours=0))  # the tag is wrong
    with pytest.raises(KitError, match=r"_4_mask\.tif: covers \d\d% of the picture, unlike other"):
        read_patient(list_patients(tmp_path)[0])


def test_a_tumour_beside_the_head_is_remarked_on(tmp_path):
    planes = iter(np.roll(MASK, 14, axis=2))
    masks = patient(tmp_path, lambda p, a: tifffile.imwrite(p, next(planes)))
    assert read_patient(masks)[2] == [
        f"{NAME}: most of the tumour is where the images are black; are the masks those of these "
        f"slices, and upright?"
    ]


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


def changed_tags(path, change):
    """Save a picture in four strips, and change the values of its tags; they are in any order."""
    save(path, GREY, Way(rows=8))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        for code in (273, 279):
            values, place = list(tags[code].value), tags[code].valueoffset
            change(code, values, len(content))
            content[place : place + 16] = np.array(values, "<u4").tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (273, lambda values, size: size),
        (273, lambda values, size: size - 9),
        (273, lambda values, size: 4),
        (273, lambda values, size: values[2]),
        (273, lambda values, size: 0),
        (279, lambda values, size: 0),
        (279, lambda values, size: values[1] - 1),
        (279, lambda values, size: values[1] + 64),
    ],
    ids=["beyond", "half beyond", "header", "another strip", "nowhere", "empty", "short", "long"],
)
def test_pixels_that_are_elsewhere(code, value, tmp_path):
    def change(here, values, size):
        if here == code:
            values[1] = value(values, size)

    changed_tags(tmp_path / "a.tif", change)
    with pytest.raises(KitError, match=r"a\.tif: is damaged \(its tags .*\); copy the file again"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize(("offset", "value"), [(2, 200), (4, 200)])
def test_a_tag_that_is_lost(offset, value, tmp_path, capfd):
    """Without the number of bits each pixel would be one; tifffile only logs it."""
    save(tmp_path / "a.tif", GREY, Way(compression=8))
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        content[file.pages[0].tags["BitsPerSample"].offset + offset] = value
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(KitError, match=r"is damaged \(some of its tags are lost\); copy the file"):
        read_picture(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("change", [b"\x89PNG\r\n\x1a\n", b"version https://git-lfs.github.com/"])
def test_another_file_of_this_name(change, tmp_path):
    (tmp_path / "a.tif").write_bytes(change)
    with pytest.raises(KitError, match=r"copy the file again, or save it again as TIFF$"):
        read_picture(tmp_path / "a.tif")
