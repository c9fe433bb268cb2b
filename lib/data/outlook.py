"""Say what is known of a data set before it is downloaded, unpacked or prepared."""

from __future__ import annotations

from pathlib import Path

from lib.data.archive import slices_in_archive
from lib.data.cache import is_in_cache
from lib.data.patients import list_patients
from lib.data.places import find_root

KAGGLE_SLICES = 3929  # of the LGG dataset


def is_prepared(source: str | Path, image_size: int, preprocessing: str) -> bool:
    """Return whether ``load_data`` would only open what it prepared before.

    Raises:
        KitError: nothing usable there.
    """
    if _is_packed(source):
        return False
    folder = find_root(source)
    return is_in_cache(folder, list_patients(folder), image_size, preprocessing)


def count_slices(source: str | Path) -> int:
    """Return how many slices all patients have in the files.

    Raises:
        KitError: nothing usable there.
    """
    if str(source) == "kaggle":
        return KAGGLE_SLICES
    if _is_packed(source):
        return slices_in_archive(Path(source))
    return sum(len(patient.numbers) for patient in list_patients(find_root(source)))


def _is_packed(source: str | Path) -> bool:
    """Return whether the data would first have to be downloaded or unpacked."""
    return str(source) == "kaggle" or Path(source).is_file()
