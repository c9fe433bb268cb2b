"""Data sets of any size to measure on, made of a few phantoms."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile

from lib.phantom import PHANTOM_FOLDER, make_patient, write_phantom

DIFFERENT = 4


@contextmanager
def temporary() -> Iterator[Path]:
    """Make a folder that goes away, with a cache of its own.

    Nothing that was prepared before is found.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        before = os.environ.get("KIT_CACHE")
        os.environ["KIT_CACHE"] = str(Path(name) / "cache")
        try:
            yield Path(name)
        finally:
            os.environ.pop("KIT_CACHE")
            if before is not None:
                os.environ["KIT_CACHE"] = before


def some_phantoms(folder: Path, patients: int) -> Path:
    """The first patients of the kit's phantom in a folder of their own."""
    for source in sorted(write_phantom(PHANTOM_FOLDER).glob("PHANTOM_*"))[:patients]:
        shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
    return folder


@lru_cache(maxsize=DIFFERENT)
def _head(index: int, size: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """A phantom at full resolution; its slices repeated, as real patients have more of them."""
    volume, mask = make_patient(0, index, size)
    numbers = np.arange(slices) * len(volume) // slices
    return volume[numbers], mask[numbers]


def many_patients(folder: Path, patients: int, size: int = 256, slices: int = 36) -> Path:
    """As many slices as the LGG dataset has where ``patients`` is 110; four heads under many names.

    The files of the later ones are hard links: no further space, and no further reading from a cold
    disk.
    """
    for index in range(patients):
        name, source = f"PHANTOM_{index + 1:04d}", f"PHANTOM_{index % DIFFERENT + 1:04d}"
        if (folder / name).exists():
            continue
        (folder / name).mkdir(parents=True)
        if index < DIFFERENT:
            volume, mask = _head(index, size, slices)
            for number in range(slices):
                tifffile.imwrite(
                    folder / name / f"{name}_{number + 1}.tif", volume[number], photometric="rgb"
                )
                tifffile.imwrite(
                    folder / name / f"{name}_{number + 1}_mask.tif", mask[number] * np.uint8(255)
                )
        else:
            for file in sorted((folder / source).iterdir()):
                os.link(file, folder / name / file.name.replace(source, name))
    return folder
