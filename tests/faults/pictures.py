"""A. Pictures as other programs save them: one meaning, voxel for voxel, or a refusal."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from lib.data import list_patients, read_patient
from lib.data.pictures import read_picture
from lib.metrics import dsc
from tests.conftest import NAMES, brain, write_patient
from tests.faults import tiff
from tests.faults.things import data_in, trained
from tests.faults.tiff import Way, save
from tests.faults.tries import Try, kind

NAME = NAMES[0]
SLICES = 5
Writer = Callable[[Path, np.ndarray], object]  # of a mask (H, W) {0, 1}
_LEVELS = {
    8: ((0, 255), (0, 1), (1, 2), (0, 128), (254, 255), (7, 200), (0, 100)),
    4: ((0, 15), (0, 1), (3, 9)),
    2: ((0, 3), (1, 2)),
    1: ((0, 1),),
}
_COMPRESSIONS = (tiff.NONE, tiff.LZW, tiff.DEFLATE, tiff.OLD_DEFLATE, tiff.PACKBITS)


# --- patients -------------------------------------------------------------------------------------


def _size(t: Try) -> tuple[int, int]:
    return t.pick(((32, 32), (33, 31), (40, 48), (30, 50)))


def _patient(t: Try) -> tuple[np.ndarray, np.ndarray]:
    """Return images and masks {0, 1} of a patient of this try."""
    return brain(t.number(0, 1000), SLICES, *_size(t))


def _write(t: Try, write: Writer) -> tuple[Path, np.ndarray, np.ndarray]:
    """Write a patient whose masks a program writes; return the folder, images and masks."""
    volume, mask = _patient(t)
    folder = write_patient(t.folder / "data", NAME, volume, None)
    for number, plane in enumerate(mask, 1):
        write(folder / f"{NAME}_{number}_mask.tif", plane)
    return folder, volume, mask


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    (patient,) = list_patients(folder.parent)
    return read_patient(patient)


def _must_be_read(t: Try, write: Writer) -> None:
    folder, volume, mask = _write(t, write)
    read, found, _ = t.right(lambda: _read(folder))
    t.must(np.array_equal(read, volume), "other images")
    t.must(found is not None and np.array_equal(found, mask), "another mask")
    t.must(dsc(found, mask) == 1, "DSC below 1")


def _must_be_refused(t: Try, write: Writer, *words: str) -> None:
    folder, _, _ = _write(t, write)
    t.refuse(lambda: _read(folder), folder, *words)


# --- ways of saving -------------------------------------------------------------------------------


def _some_way(t: Try, bits: int = 8) -> Way:
    """Return some sound way of saving."""
    compression = t.pick(_COMPRESSIONS)
    tile = t.pick((0, 0, 16, 32))
    differences = bits == 8 and compression in _COMPRESSIONS[1:4] and t.chance(0.4)
    order = t.pick("<>")
    return Way(
        order=order,
        big=order == "<" and t.chance(0.3),  # Pillow reads no big-endian BigTIFF
        bits=bits,
        compression=compression,
        predictor=2 if differences else 1,
        rows=0 if tile else t.pick((0, 1, 3, 8, 1000, 2**32 - 1)),
        tile=tile,
        fill=2 if bits == 1 and compression == tiff.NONE and t.chance(0.3) else 1,
        tags_last=t.chance(0.5),
        backwards=t.chance(0.3),
        after=b"" if t.chance(0.8) else bytes(t.number(1, 99)),
        extra=_words(t),
    )


def _words(t: Try) -> tiff.Tags:
    """Return tags that change nothing: descriptions, resolution, the upright position."""
    words = t.pick(
        ("ImageJ=1.54f\nunit=pixel\n", "<?xml version='1.0'?><OME></OME>", '{"a": 1}', "GIMP", "ü")
    )
    return {
        270: (2, list(words.encode() + b"\0")),
        305: (2, list(b"a program\0")),
        296: (3, [2]),
        **({274: (3, [1])} if t.chance(0.5) else {}),
        **({254: (4, [0])} if t.chance(0.5) else {}),
        **(
            {37724: (2, list(b"Adobe Photoshop Document Data Block\0" + bytes(40)))}
            if t.chance(0.2)
            else {}
        ),
    }


def _table(t: Try, bits: int, dark: int, bright: int) -> tuple[tuple[int, int], tiff.Tags]:
    """Return two places of a table of greys, and the table, of 16 bits or of 8."""
    places = t.rng.choice(2**bits, 2, replace=False)
    greys = t.rng.integers(0, 256, 2**bits)
    greys[places] = dark, bright
    scale = 1 if t.chance(0.3) and greys.max() > 1 else 257
    return (int(places[0]), int(places[1])), {320: (3, [int(g) * scale for g in greys] * 3)}


@kind("A", 170)
def masks_as_any_program_saves_them(t: Try) -> None:
    """Bits, levels, white or black as zero, compression, strips, tiles, byte order, BigTIFF."""
    bits = t.pick((1, 2, 4, 8, 8, 8))
    way, levels = _some_way(t, bits), t.pick(_LEVELS[bits])
    if t.chance(0.4):
        way = replace(way, colours=tiff.WHITE_IS_ZERO)
        levels = tuple(2**bits - 1 - level for level in levels)
    _must_be_read(t, lambda path, mask: save(path, np.array(levels, np.uint8)[mask], way))


@kind("A", 60)
def masks_by_a_table_of_greys(t: Try) -> None:
    """The brighter grey is tumour, at whichever place of the table it is."""
    bits = t.pick((1, 2, 4, 8, 8))
    dark, bright = sorted(t.rng.choice(256, 2, replace=False).tolist())
    places, table = _table(t, bits, dark, bright)
    way = _some_way(t, bits)
    way = replace(way, colours=tiff.PALETTE, extra={**way.extra, **table})
    _must_be_read(t, lambda path, mask: save(path, np.array(places, np.uint8)[mask], way))


@kind("A", 30)
def masks_whose_table_is_inverted_or_coloured(t: Try) -> None:
    """Tumour darker than the rest, a colour for tumour, or the same grey for both."""
    bits = t.pick((1, 4, 8))
    dark, bright = sorted(t.rng.choice(256, 2, replace=False).tolist())
    what = t.pick(("inverted", "colour", "same"))
    if what == "same":
        dark = bright
    places, table = _table(t, bits, dark, bright)
    if what == "inverted":
        places = places[::-1]
    if what == "colour":
        table[320][1][places[1]] = 257 * ((bright + 100) % 256)  # its red
        table[320][1][2**bits] = 60_000  # so that it is a table of 16 bits
    way = replace(_some_way(t, bits), colours=tiff.PALETTE, extra=table)
    _must_be_refused(t, lambda path, mask: save(path, np.array(places, np.uint8)[mask], way))


def _tifffile(t: Try) -> Writer:
    """Return a way of tifffile, as ImageJ's, OME's and QuPath's files are written in Python."""
    options = t.pick(
        (
            {"imagej": True},
            {"ome": True},
            {"metadata": None},
            {"byteorder": ">"},
            {"bigtiff": True},
            {"rowsperstrip": 3},
            {"tile": (16, 16)},
            {"compression": "zlib"},
            {"compression": "zlib", "predictor": True},
            {"photometric": "minisblack", "software": "QuPath", "resolution": (72, 72)},
            {"description": "labels", "extratags": [(65000, 2, 3, "ab", True)]},
        )
    )
    turned, ones = t.chance(0.4), t.chance(0.3)
    subifds = 1 if "imagej" not in options and "ome" not in options and t.chance(0.2) else 0

    def write(path: Path, mask: np.ndarray) -> None:
        values = mask * np.uint8(1 if ones else 255)
        if turned:
            values = 255 - values
        with tifffile.TiffWriter(
            path,
            **{
                name: options[name]
                for name in ("imagej", "ome", "byteorder", "bigtiff")
                if name in options
            },
        ) as file:
            rest = {
                n: v
                for n, v in options.items()
                if n not in ("imagej", "ome", "byteorder", "bigtiff")
            }
            if turned:
                rest["photometric"] = "miniswhite"
            file.write(values, subifds=subifds or None, **rest)
            if subifds:
                file.write(values[::2, ::2], subfiletype=1)

    return write


def _pillow(t: Try) -> Writer:
    """Return a way of Pillow, which labelme and many scripts use; it is libtiff inside."""
    one_bit = t.chance(0.4)
    compressions: list[str | None] = [
        None,
        "tiff_lzw",
        "tiff_adobe_deflate",
        "packbits",
        "zstd",
        "lzma",
    ]
    if one_bit:
        compressions += ["group3", "group4", "tiff_ccitt"]
    compression = t.pick(compressions)
    tags = {}
    if t.chance(0.4):
        tags[262] = 0
    if compression in ("tiff_lzw", "tiff_adobe_deflate") and not one_bit and t.chance(0.3):
        tags[317] = 2

    def write(path: Path, mask: np.ndarray) -> None:
        picture = Image.fromarray(mask * np.uint8(255))
        picture = picture.convert("1") if one_bit else picture
        picture.save(path, compression=compression, tiffinfo=tags, dpi=(72, 72))

    return write


def _simple_itk(t: Try) -> Writer:
    """Return a way of ITK, in which ITK-SNAP and 3D Slicer save; of Pillow if it is not there."""
    try:
        import SimpleITK
    except ImportError:
        return _pillow(t)
    level, compressed = t.pick((1, 255)), t.chance(0.5)
    return lambda path, mask: SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(mask * np.uint8(level)), str(path), useCompression=compressed
    )


def _imageio(t: Try) -> Writer:
    """Return a way of imageio and scikit-image."""
    import imageio.v3

    return lambda path, mask: imageio.v3.imwrite(path, mask * np.uint8(255))


@kind("A", 120)
def masks_by_libraries(t: Try) -> None:
    """tifffile, Pillow with libtiff, ITK, imageio."""
    library = t.pick((_tifffile, _tifffile, _pillow, _pillow, _simple_itk, _imageio))
    _must_be_read(t, library(t))


# --- what is no mask ------------------------------------------------------------------------------


def _soft(mask: np.ndarray) -> np.ndarray:
    wide = np.pad(mask.astype(float), 1, mode="edge")
    return (wide[1:-1, :-2] + 2 * wide[1:-1, 1:-1] + wide[1:-1, 2:]) / 4


def _labelled(mask: np.ndarray) -> np.ndarray:
    return mask * np.uint8(255) - mask * (np.indices(mask.shape)[1] % 2 * 100).astype(np.uint8)


def _alpha(mask: np.ndarray) -> np.ndarray:
    return np.stack([mask * np.uint8(255), np.full_like(mask, 255)], 2)


def _stack_of_imagej(path: Path, mask: np.ndarray) -> None:
    """Describe two pictures by one page, as ImageJ does with large stacks."""
    both = np.stack([mask * 0, mask]) * np.uint8(255)
    tifffile.imwrite(path, both, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(path.with_suffix(".one"), both, metadata={"axes": "ZYX"}, truncate=True)
    path.with_suffix(".one").replace(path)


def _two(path: Path, first: np.ndarray, below: np.ndarray, subfiletype: int) -> None:
    """Write a picture, and another one in a SubIFD of it."""
    with tifffile.TiffWriter(path) as file:
        file.write(first, subfiletype=subfiletype, subifds=1)
        file.write(below)


_NO_MASKS: dict[str, Writer] = {
    "16 bits": lambda p, m: tifffile.imwrite(p, m.astype(np.uint16) * 65535),
    "16 bits, big-endian": lambda p, m: save(p, m.astype(np.uint16), Way(">", bits=16)),
    "32 bits": lambda p, m: tifffile.imwrite(p, m.astype(np.uint32)),
    "signed": lambda p, m: tifffile.imwrite(p, m.astype(np.int8)),
    "floats": lambda p, m: tifffile.imwrite(p, m.astype(np.float32)),
    "doubles": lambda p, m: tifffile.imwrite(p, m.astype(np.float64), compression="zlib"),
    "soft edges": lambda p, m: tifffile.imwrite(p, (_soft(m) * 255).astype(np.uint8)),
    "soft edges, white is zero": lambda p, m: tifffile.imwrite(
        p, 255 - (_soft(m) * 255).astype(np.uint8), photometric="miniswhite"
    ),
    "three values": lambda p, m: tifffile.imwrite(p, _labelled(m)),
    "JPEG": lambda p, m: Image.fromarray(m * np.uint8(255)).save(p, compression="jpeg"),
    "inverted": lambda p, m: tifffile.imwrite(p, (1 - m) * np.uint8(255)),
    "inverted, 1 bit, fax": lambda p, m: (
        Image.fromarray((1 - m) * np.uint8(255)).convert("1").save(p, compression="group4")
    ),
    "inverted, 0 and 1": lambda p, m: tifffile.imwrite(p, 1 - m),
    "inverted twice": lambda p, m: tifffile.imwrite(p, m * np.uint8(255), photometric="miniswhite"),
    "all tumour": lambda p, m: tifffile.imwrite(p, m | 1),
    "two pages": lambda p, m: tifffile.imwrite(p, np.stack([m, m]), photometric="minisblack"),
    "two pages, the first is empty": lambda p, m: tifffile.imwrite(
        p, np.stack([m * 0, m]) * np.uint8(255), photometric="minisblack"
    ),
    "a page appended": lambda p, m: (tifffile.imwrite(p, m), tifffile.imwrite(p, m, append=True)),
    "pages by Pillow, LZW": lambda p, m: Image.fromarray(m * 0).save(
        p, save_all=True, append_images=[Image.fromarray(m)], compression="tiff_lzw"
    ),
    "a stack of ImageJ": _stack_of_imagej,
    "transparency": lambda p, m: save(p, _alpha(m), Way(extra={338: (3, [2])})),
    "transparency by Pillow": lambda p, m: Image.fromarray(_alpha(m), "LA").save(p),
    "a second channel without a name": lambda p, m: save(p, _alpha(m), Way()),
    "RGB": lambda p, m: tifffile.imwrite(p, np.dstack([m * np.uint8(255)] * 3), photometric="rgb"),
    "red": lambda p, m: tifffile.imwrite(
        p, np.dstack([m * np.uint8(255), m * 0, m * 0]), photometric="rgb"
    ),
    "RGBA": lambda p, m: Image.fromarray(m * np.uint8(255)).convert("RGBA").save(p),
    "CMYK": lambda p, m: Image.fromarray(m * np.uint8(255)).convert("CMYK").save(p),
    "Lab": lambda p, m: save(p, np.dstack([m * np.uint8(255)] * 3), Way(colours=tiff.LAB)),
    "YCbCr": lambda p, m: save(p, np.dstack([m * np.uint8(255)] * 3), Way(colours=tiff.YCBCR)),
    "a mask for transparency": lambda p, m: save(p, m * np.uint8(255), Way(colours=4)),
    "upside down": lambda p, m: save(p, m[::-1] * np.uint8(255), Way(extra={274: (3, [4])})),
    "on its side": lambda p, m: save(p, m.T * np.uint8(255), Way(extra={274: (3, [6])})),
    "mirrored, LZW": lambda p, m: save(
        p, m[:, ::-1] * np.uint8(255), Way(compression=tiff.LZW, extra={274: (3, [2])})
    ),
    "differences without compression": lambda p, m: save(p, m * np.uint8(255), Way(predictor=2)),
    "a thumbnail, the picture below it": lambda p, m: _two(p, m * 0, m * np.uint8(255), 1),
    "an empty picture, the mask below it": lambda p, m: _two(p, m * 0, m * np.uint8(255), 0),
    "a wider picture below it": lambda p, m: _two(
        p, m * np.uint8(255), np.hstack([m, m, m])[:-1], 0
    ),
    "marked as a thumbnail": lambda p, m: tifffile.imwrite(p, m * np.uint8(255), subfiletype=1),
    "marked as a part": lambda p, m: tifffile.imwrite(p, m * np.uint8(255), subfiletype=2),
    "unsorted tags": lambda p, m: save(p, m * np.uint8(255), Way(unsorted=True)),
    "a compression that nobody knows": lambda p, m: save(p, m, Way(compression=34999)),
}


@kind("A", 105)
def pictures_that_are_no_masks(t: Try) -> None:
    """Each of them is refused, with its path and what to do."""
    _must_be_refused(t, _NO_MASKS[t.pick(sorted(_NO_MASKS))])


def _other_file(t: Try, mask: np.ndarray) -> bytes:
    """Return the content of a file that is no TIFF."""
    form = t.pick(("PNG", "JPEG", "GIF", "BMP", "words"))
    if form == "words":
        return t.pick(
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 66000\n",
                b"<!DOCTYPE html><html>Sign in</html>",
                b"PK\x03\x04" + bytes(200),
                bytes(128) + b"DICM" + bytes(200),
                b"",
                bytes(3000),
                b"II*\0",
                b"MM\0*" + b"\xff" * 40,
            )
        )
    stream = io.BytesIO()
    Image.fromarray(mask * np.uint8(255)).save(stream, form)
    return stream.getvalue()


@kind("A", 30)
def other_files_called_tif(t: Try) -> None:
    """PNG, JPEG, pointers of Git LFS, a page of a server, zeros: named, and not read."""
    volume, mask = _patient(t)
    folder = write_patient(t.folder / "data", NAME, volume, mask)
    number, what = t.number(1, SLICES + 1), t.pick(("", "_mask"))
    file = folder / f"{NAME}_{number}{what}.tif"
    file.write_bytes(_other_file(t, mask[number - 1]))
    t.refuse(lambda: _read(folder), file)


# --- images ---------------------------------------------------------------------------------------


@kind("A", 90)
def images_as_any_program_saves_them(t: Try) -> None:
    """RGB in one plane or three, compression, strips, tiles, byte order, tables of colours."""
    image = brain(t.number(0, 1000), 3, *_size(t))[0][1]
    way, path = _some_way(t), t.folder / "a.tif"
    if t.chance(0.25):
        palette, places = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
        palette, places = palette[-256:], np.maximum(places - max(0, len(palette) - 256), 0)
        table = np.zeros((3, 256), int)
        table[:, : len(palette)] = palette.T.astype(int) * 257
        way = replace(
            way, colours=tiff.PALETTE, predictor=1, extra={320: (3, table.reshape(-1).tolist())}
        )
        image = palette[places].reshape(image.shape)
        save(path, places.reshape(image.shape[:2]).astype(np.uint8), way)
    else:
        save(path, image, replace(way, colours=tiff.RGB, separate=t.chance(0.3)))
    found = t.right(lambda: read_picture(path))
    t.must(np.array_equal(found, image), "other pixels")


_NO_IMAGES: dict[str, Callable[[Path, np.ndarray], object]] = {
    "uncompressed YCbCr": lambda p, a: save(p, a, Way(colours=tiff.YCBCR)),
    "YCbCr, LZW": lambda p, a: save(p, a, Way(colours=tiff.YCBCR, compression=tiff.LZW)),
    "Lab": lambda p, a: save(p, a, Way(colours=tiff.LAB)),
    "CMYK": lambda p, a: Image.fromarray(a).convert("CMYK").save(p),
    "transparency": lambda p, a: Image.fromarray(a).convert("RGBA").save(p),
    "a channel without a name": lambda p, a: save(
        p, np.dstack([a, a[..., :1]]), Way(colours=tiff.RGB)
    ),
    "grey with three channels": lambda p, a: save(p, a, Way()),
    "white is zero, three channels": lambda p, a: save(p, a, Way(colours=tiff.WHITE_IS_ZERO)),
    "16 bits": lambda p, a: tifffile.imwrite(p, a.astype(np.uint16) * 257, photometric="rgb"),
    "floats": lambda p, a: tifffile.imwrite(p, a / np.float32(255), photometric="rgb"),
    "upside down": lambda p, a: save(p, a, Way(colours=tiff.RGB, extra={274: (3, [3])})),
    "upside down, LZW": lambda p, a: save(
        p, a, Way(colours=tiff.RGB, compression=tiff.LZW, extra={274: (3, [3])})
    ),
    "two pages": lambda p, a: tifffile.imwrite(p, np.stack([a, a]), photometric="rgb"),
    "a mask and an image": lambda p, a: (
        tifffile.imwrite(p, a, photometric="rgb"),
        tifffile.imwrite(p, a[..., 0], append=True),
    ),
    "differences without compression": lambda p, a: save(p, a, Way(colours=tiff.RGB, predictor=2)),
}


@kind("A", 30)
def pictures_that_are_no_images(t: Try) -> None:
    """Other colours, transparency, several pages, other types: refused."""
    path = t.folder / "a.tif"
    _NO_IMAGES[t.pick(sorted(_NO_IMAGES))](path, brain(t.number(0, 1000), 3)[0][1])
    t.refuse(lambda: read_picture(path), path)


# --- damage ---------------------------------------------------------------------------------------


def _saved(t: Try, path: Path, numbers: np.ndarray) -> None:
    """Save a mask or an image in some sound way that can tell damage."""
    if numbers.ndim == 2 and t.chance(0.3):
        _tifffile_plain(t, path, numbers)
        return
    way = replace(_some_way(t), compression=t.pick((tiff.NONE, tiff.NONE, tiff.DEFLATE)))
    way = replace(way, predictor=1, colours=tiff.RGB if numbers.ndim == 3 else way.colours)
    save(path, numbers, way)


def _tifffile_plain(t: Try, path: Path, numbers: np.ndarray) -> None:
    tifffile.imwrite(path, numbers, rowsperstrip=t.pick((None, 8)), metadata=None)


def _damaged_patient(t: Try) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Return the folder of a patient, one of its files, and what images and masks were."""
    volume, mask = _patient(t)
    folder = write_patient(t.folder / "data", NAME, volume, mask)
    number = t.number(1, SLICES + 1)
    file = folder / f"{NAME}_{number}{t.pick(('', '_mask', '_mask'))}.tif"
    is_mask = file.stem.endswith("_mask")
    _saved(t, file, mask[number - 1] * np.uint8(255) if is_mask else volume[number - 1])
    return folder, file, volume, mask


def _same_or_refused(t: Try, folder: Path, volume: np.ndarray, mask: np.ndarray) -> None:
    t.right_or_refuse(
        lambda: _read(folder),
        lambda found: np.array_equal(found[0], volume) and np.array_equal(found[1], mask),
        folder,
    )


def _places_of_pixels(file: Path) -> list[tuple[int, int]]:
    with tifffile.TiffFile(file) as opened:
        page = opened.pages[0]
        return list(zip(page.dataoffsets, page.databytecounts, strict=True))


def _words_of(file: Path) -> np.ndarray:
    """Return the places of a file that hold no pixels: header, tags and their values."""
    free = np.ones(file.stat().st_size, bool)
    for start, count in _places_of_pixels(file):
        free[start : start + count] = False
    return np.flatnonzero(free)


@kind("A", 150)
def a_flipped_bit_in_header_or_tags(t: Try) -> None:
    """The picture stays the same one, or is refused."""
    folder, file, volume, mask = _damaged_patient(t)
    content = bytearray(file.read_bytes())
    content[t.pick(_words_of(file))] ^= 1 << t.number(0, 8)
    file.write_bytes(content)
    _same_or_refused(t, folder, volume, mask)


@kind("A", 40)
def noise_in_header_or_tags(t: Try) -> None:
    """A few bytes are others, or zero."""
    folder, file, volume, mask = _damaged_patient(t)
    content = bytearray(file.read_bytes())
    places = _words_of(file)
    start, count = t.number(0, len(places)), t.number(1, 16)
    for place in places[start : start + count]:
        content[place] = 0 if count % 2 else t.number(0, 256)
    file.write_bytes(content)
    _same_or_refused(t, folder, volume, mask)


@kind("A", 40)
def pictures_that_are_cut(t: Try) -> None:
    """Each is refused: some of its pixels, or its tags, are gone."""
    folder, file, _, _ = _damaged_patient(t)
    content = file.read_bytes()
    last = max(start + count for start, count in _places_of_pixels(file))
    file.write_bytes(content[: t.number(0, last)])
    t.refuse(lambda: _read(folder), file)


@kind("A", 30)
def damaged_compressed_pixels(t: Try) -> None:
    """Deflate has a checksum: a flipped bit or zeros in the pixels are noticed."""
    folder, file, volume, mask = _damaged_patient(t)
    save(
        file,
        tifffile.imread(file),
        Way(
            t.pick("<>"),
            colours=tiff.BLACK_IS_ZERO if file.stem.endswith("_mask") else tiff.RGB,
            compression=tiff.DEFLATE,
            rows=t.pick((0, 8)),
            tags_last=t.chance(0.5),
        ),
    )
    content = bytearray(file.read_bytes())
    start, count = t.pick(_places_of_pixels(file))
    place = start + t.number(0, count)
    if t.chance(0.5):
        content[place] ^= 1 << t.number(0, 8)
    else:
        content[place : start + count] = bytes(start + count - place)
    file.write_bytes(content)
    _same_or_refused(t, folder, volume, mask)


@kind("A", 40)
def strips_that_are_elsewhere(t: Try) -> None:
    """Beyond the end, in the header or the tags, over each other, empty, too short: refused."""
    volume, mask = _patient(t)
    folder = write_patient(t.folder / "data", NAME, volume, mask)
    number = t.number(1, SLICES + 1)
    file = folder / f"{NAME}_{number}_mask.tif"
    way = Way(t.pick("<>"), rows=8, tags_last=t.chance(0.5))
    save(file, mask[number - 1] * np.uint8(255), way)
    with tifffile.TiffFile(file) as opened:
        tags = opened.pages[0].tags
        offsets, counts = (list(tags[code].value) for code in (273, 279))
        places = [tags[code].valueoffset for code in (273, 279)]
    which, size = t.number(0, len(offsets)), file.stat().st_size
    what = t.pick(("beyond", "header", "tags", "over", "empty", "short", "gone"))
    offsets[which] = {
        "beyond": size - t.number(0, counts[which]),
        "header": t.number(1, 8),
        "tags": places[0],
        "over": offsets[which - 1],
        "gone": 0,
    }.get(what, offsets[which])
    counts[which] = {"empty": 0, "short": counts[which] - t.number(1, 9)}.get(what, counts[which])
    content = bytearray(file.read_bytes())
    for place, numbers in zip(places, (offsets, counts), strict=True):
        packed = np.array(numbers, f"{way.order}u4").tobytes()
        content[place : place + len(packed)] = packed
    file.write_bytes(content)
    t.refuse(lambda: _read(folder), file)


# --- what a mask can be ---------------------------------------------------------------------------


@kind("A", 40)
def masks_that_are_no_tumour(t: Try) -> None:
    """Over the head, over the air, or one slice inverted among others: refused."""
    volume, mask = _patient(t)
    if t.chance(0.5):  # a small head in a large picture
        border = ((0, 0), (40, 40), (40, 40), (0, 0))
        volume, mask = np.pad(volume, border), np.pad(mask, border[:3])
    head = (volume.max(axis=3) > 0).astype(np.uint8)
    what = t.pick(("head", "air", "inverted", "one inverted", "one full"))
    drawn = {"head": head, "air": 1 - head, "inverted": 1 - mask}.get(what, mask.copy())
    number = t.number(0, SLICES)
    if what == "one inverted":
        drawn[number] = 1 - drawn[number]
    if what == "one full":
        drawn[number] = 1
    folder = write_patient(t.folder / "data", NAME, volume, drawn)
    t.refuse(lambda: _read(folder), folder)


@kind("A", 30)
def masks_that_are_tumour(t: Try) -> None:
    """None at all, one voxel, a third of the head, at the edge of the picture: as they are."""
    volume, mask = _patient(t)
    head = volume.max(axis=3) > 0
    what = t.pick(("none", "voxel", "third", "edge", "scattered"))
    if what == "third":
        columns = np.flatnonzero(head.any(axis=(0, 1)))
        mask = head & (np.indices(head.shape)[2] < columns[len(columns) // 3])
    elif what != "edge":
        mask = mask * 0
    if what == "voxel":
        mask[t.number(0, SLICES), t.number(0, mask.shape[1]), t.number(0, mask.shape[2])] = 1
    if what == "edge":
        mask[:, :2] = 1
    if what == "scattered":
        mask = t.rng.random(mask.shape) < 0.2
    folder = write_patient(t.folder / "data", NAME, volume, mask.astype(np.uint8))
    _, found, remarks = t.right(lambda: _read(folder))
    t.must(np.array_equal(found, mask), "another mask")
    if what == "edge":
        t.must(any("where the images are black" in remark for remark in remarks), "no remark")


@kind("A", 8, seconds=120)
def remarks_reach_who_is_scored(t: Try) -> None:
    """What is odd about the data is printed where its score is."""
    folder = t.copied(trained)
    data = folder / "data"
    what = t.pick(("gap", "passed over", "no tumour", "twice"))
    if what == "gap":
        for name in ("_3.tif", "_3_mask.tif"):
            (data / NAME / f"{NAME}{name}").unlink()
        words = f"{NAME}: slice numbers missing: 3"
    elif what == "passed over":
        (data / NAME / f"{NAME}-7.tif").touch()
        words = f"pictures passed over: 1, e.g. {NAME}/{NAME}-7.tif"
    elif what == "no tumour":
        for file in (data / NAME).glob("*_mask.tif"):
            tifffile.imwrite(file, np.zeros((32, 32), np.uint8))
        words = f"{NAME}: no tumour in any slice"
    else:
        write_patient(data, "TCGA_ZZ_1_19990101", *brain(0))
        words = f"{NAME} = TCGA_ZZ_1_19990101"
    t.must(words in data_in(folder).report(), f"not in the report: {words}")
    weights = next((folder / "out" / "runs").glob("*/best.pt"))
    answer = t.command(
        "lib.predict", "--weights", weights, "--data", data, "--out", t.folder / "masks",
        "--device", "cpu",
    )  # fmt: skip
    t.must(answer.code == 0 and words in answer.out, f"not printed: {words}: {answer.out}")
