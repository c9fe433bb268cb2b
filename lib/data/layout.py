"""Know the Kaggle layout: how slices, masks and patients are named, and what is not the user's."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from lib.utils import KitError

_FLAGS = re.IGNORECASE | re.DOTALL  # a name may even have line ends
SLICE = re.compile(r"(?P<stem>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", _FLAGS)
PICTURE = re.compile(r".+\.(tiff?|png|jpe?g|bmp|gif|dcm|nii|gz)", _FLAGS)
PICTURE_OR_ZIP = re.compile(rf"{PICTURE.pattern}|.+\.zip", _FLAGS)
_DAY = r"(19|20)\d\d[-._]?(0[1-9]|1[0-2])[-._]?(0[1-9]|[12]\d|3[01])"
_DATE = re.compile(rf"^{_DAY}[-._]|[-._]{_DAY}([-._]\d{{1,2}})?$")  # of a visit, and its number
NAMED = "slices are named <patient>/<patient>_<slice>.tif, their masks ..._<slice>_mask.tif"
SEARCH_DEPTH = 4  # folders within one another
_SYSTEM_FOLDERS = frozenset(
    {"lost+found", "system volume information", "$recycle.bin", "recycler", "found.000"}
)
"""Folders that systems put on a disk, in lower case. Users may often not read them."""
SlicePlace = tuple[str, str]
"""Patient and file name of a slice."""


def is_slice_name(name: str) -> bool:
    """Return whether a file name is that of a slice; macOS writes ``._P01_1.tif`` beside them."""
    return SLICE.fullmatch(name) is not None and not name.startswith(".")


def is_slice_of(patient: str, name: str) -> bool:
    """Return whether a file name is that of a slice of a patient, or of its mask."""
    match = SLICE.fullmatch(name)
    return match is not None and _composed(match["stem"]) == _composed(patient)


def _composed(name: str) -> str:
    """Return a name with each accent as part of its letter; macOS writes them apart."""
    return unicodedata.normalize("NFC", name)


def person_of(name: str) -> str:
    """Return a patient's name without the date of the visit, ``P01`` of ``P01_2001-02-03_2``.

    What is left must have a digit, as ids do: ``scan_20010203`` is named by its date alone.
    """
    left = _DATE.sub("", name)
    return left if re.search(r"\d", left) else name


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, but for hidden ones."""
    try:
        return sorted(
            child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
        )
    except PermissionError:  # such a folder is none of the user's data
        return []


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder. Raises KitError if it cannot be read."""
    try:
        return [child.name for child in folder.iterdir()]
    except OSError as error:
        raise KitError(
            f"{folder}: cannot be read ({error.strerror}); restore it, or remove it"
        ) from None


def looks_like_patient(folder: Path) -> bool:
    """Return whether a folder holds slices of its own name."""
    try:
        return any(is_slice_of(folder.name, child.name) for child in folder.iterdir())
    except PermissionError:
        return False


def is_closed_system_folder(folder: Path) -> bool:
    """Return whether a folder is the system's and cannot be read: it is no patient."""
    return folder.name.lower() in _SYSTEM_FOLDERS and not _is_readable(folder)


def _is_readable(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except OSError:
        return False
    return True


def passed_over_in_words(count: int, example: str) -> str:
    """Return a remark on pictures that are no slices."""
    return f"pictures passed over: {count}, e.g. {in_one_line(example)}; {NAMED}"


def in_one_line(name: str) -> str:
    """Return a name without signs that would break a line, as a remark is one."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", name)
