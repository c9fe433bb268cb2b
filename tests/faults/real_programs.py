"""A and D. Files by the programs themselves, where they are installed: ImageMagick, LibreOffice.

``apt-get install imagemagick libreoffice-calc``
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data import list_patients, read_patient
from lib.grade.run import read_roster
from tests.conftest import NAMES, brain, write_patient
from tests.faults.tries import Try, kind

# options of ImageMagick -> whether a mask stays one
SOUND = (
    (),
    ("-type", "bilevel"),
    ("-monochrome",),
    ("-depth", "1"),
    ("-depth", "4"),
    ("-type", "palette", "-colors", "2"),
    ("-compress", "none"),
    ("-compress", "lzw"),
    ("-compress", "zip"),
    ("-compress", "rle"),
    ("-type", "bilevel", "-compress", "fax"),
    ("-type", "bilevel", "-compress", "group4"),
    ("-define", "tiff:endian=msb"),
    ("-define", "tiff:fill-order=lsb", "-type", "bilevel"),
    ("-define", "tiff:rows-per-strip=7"),
    ("-define", "tiff:tile-geometry=16x16"),
    ("-density", "300", "-units", "PixelsPerInch", "-set", "comment", "mine"),
)
UNSOUND = (
    ("-depth", "16"),
    ("-alpha", "on"),
    ("-type", "truecolor"),
    ("-blur", "0x2"),
    ("-compress", "jpeg", "-quality", "60"),
    ("-negate",),
    ("-define", "quantum:polarity=min-is-white"),  # which sets the tag and leaves the numbers
    ("-colorspace", "CMYK"),
    ("-rotate", "90", "-crop", "20x32+0+0", "+repage"),
    ("(", "+clone", ")"),  # a second page
)


def _by_image_magick(t: Try, options: tuple[str, ...]) -> tuple[Path, np.ndarray]:
    """Save the masks of a patient anew; return its folder, and the mask that it had."""
    volume, mask = brain(t.number(0, 1000), slices=2)
    folder = write_patient(t.folder / "root", NAMES[0], volume, mask)
    for file, plane in zip(sorted(folder.glob("*_mask.tif")), mask, strict=True):
        source = t.folder / "plane.png"
        Image.fromarray(plane * np.uint8(255)).save(source)
        subprocess.run(["convert", source, *options, f"tiff:{file}"], check=True)
    return folder.parent, mask


def _is_installed(program: str, name: str) -> bool:
    """Return whether a program is there, and is what it is called: others have the same command."""
    if not shutil.which(program):
        return False
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    return done.returncode == 0 and name in done.stdout


if _is_installed("convert", "ImageMagick"):

    @kind("A", 51)
    def masks_by_image_magick(t: Try) -> None:
        """However ImageMagick saves a mask, it is the same mask."""
        root, mask = _by_image_magick(t, SOUND[t.index % len(SOUND)])
        found = t.right(lambda: read_patient(list_patients(root)[0])[1])
        t.must(np.array_equal(found, mask), f"{SOUND[t.index % len(SOUND)]}: another mask")

    @kind("A", 30)
    def pictures_by_image_magick_that_are_no_masks(t: Try) -> None:
        options = UNSOUND[t.index % len(UNSOUND)]
        root, mask = _by_image_magick(t, options)
        found = t.right_or_refuse(
            lambda: read_patient(list_patients(root)[0])[1],
            lambda found: np.array_equal(found, mask),
            root,
        )
        t.must(found is None, f"{options}: was read")


def _through_calc(table: Path, kind_of: str, *options: str) -> Path:
    """Open a table in LibreOffice Calc and save it again."""
    profile = table.parent / "profile"
    command = ["soffice", f"-env:UserInstallation=file://{profile}", "--headless", *options]
    command += ["--convert-to", kind_of, "--outdir", str(table.parent / "saved"), str(table)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return next((table.parent / "saved").iterdir())


SEPARATORS = {"comma": 44, "semicolon": 59, "tab": 9}
CHARACTERS = {"UTF-8": 76, "Windows": 1, "UTF-16": 65535}

if _is_installed("soffice", "LibreOffice"):

    @kind("D", 9, seconds=180)
    def a_roster_through_libreoffice(t: Try) -> None:
        """Ids come back, whatever separator and encoding Calc was told to save."""
        separator = list(SEPARATORS)[t.index % 3]
        characters = list(CHARACTERS)[t.index // 3 % 3]
        ids = ["ada", "müller", "b.ela@uni.de", f"s{t.number(1000, 9999)}"]
        table = t.folder / "roster.csv"
        table.write_text("student,name\n" + "".join(f"{who},Ännchen {who}\n" for who in ids))
        saved = _through_calc(
            table,
            f"csv:Text - txt - csv (StarCalc):{SEPARATORS[separator]},34,{CHARACTERS[characters]}",
            "--infilter=CSV:44,34,76",
        )
        found = t.right_or_refuse(lambda: read_roster(saved), lambda found: found == ids, saved)
        t.must(found is not None or characters == "UTF-16", f"{separator}, {characters}: refused")
