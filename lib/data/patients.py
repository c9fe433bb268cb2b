"""List the patients of a folder."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lib.data.archive import UNPACKED, remark_in
from lib.data.layout import (
    PICTURE,
    SEARCH_DEPTH,
    SLICE,
    folders_in,
    in_one_line,
    is_closed_system_folder,
    is_slice_name,
    is_slice_of,
    names_in,
    passed_over_in_words,
    person_of,
)
from lib.utils import KitError


@dataclass(frozen=True)
class Patient:
    """One patient's files, sorted by slice number; ``masks`` is empty when the patient has none."""

    name: str
    numbers: tuple[int, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Return the file name of each slice's mask: that of the image, and ``_mask.tif``."""
        return tuple(f"{image.stem}_mask.tif" for image in self.images)

    @property
    def person(self) -> str:
        """Return who it is: the name without the date of the visit, ``TCGA_CS_4941``."""
        return person_of(self.name)

    @property
    def institution(self) -> str:
        """Return the source of the images: ``CS`` of ``TCGA_CS_4941_...``, or the name up to _."""
        parts = self.name.split("_")
        return parts[1] if parts[0] == "TCGA" and len(parts) > 1 else parts[0]


def list_patients(root: Path) -> list[Patient]:
    """Return the patients of a Kaggle folder, sorted by name; files that are no slices are ignored.

    Raises:
        KitError: an image without its mask, a mask without its image, a slice number twice, or a
            slice of a patient of another name.
    """
    patients = [
        patient
        for folder in folders_in(root)
        if not is_closed_system_folder(folder) and (patient := _list_patient(folder)) is not None
    ]
    if not patients:
        raise KitError(f"{root}: no patient folders found")
    return patients


def _list_patient(folder: Path) -> Patient | None:
    found: dict[bool, dict[int, Path]] = {False: {}, True: {}}
    for name in sorted(names_in(folder)):
        match = SLICE.fullmatch(name)
        if not match or not is_slice_name(name):
            continue
        if not is_slice_of(folder.name, name):
            raise KitError(
                f"{folder}: {name} is a slice of another patient, or the folder was renamed or "
                f"copied; give it the name {match['stem']}, or remove it"
            )
        files, number = found[match["mask"] is not None], int(match["number"])
        if number in files:
            raise KitError(
                f"{folder}: slice {number} is there twice, {files[number].name} and {name}; "
                f"remove one"
            )
        files[number] = folder / name
    images, masks = found[False], found[True]
    if not images and not masks:
        return None
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in folder.name):
        raise KitError(
            f"{str(folder)!r}: its name has signs that are no text; give it another name"
        )
    odd = sorted(images.keys() ^ masks.keys())
    if odd and masks:
        here, missing = ("image", "mask") if odd[0] in images else ("mask", "image")
        raise KitError(
            f"{folder}: slice {odd[0]} has its {here} but no {missing} ({len(odd)} such slices); "
            f"restore the files, or remove the patient"
        )
    numbers = tuple(sorted(images))
    return Patient(
        folder.name,
        numbers,
        tuple(images[n] for n in numbers),
        tuple(masks[n] for n in numbers if masks),
    )


def passed_over(root: Path, patients: list[Patient]) -> list[str]:
    """Return remarks on what is passed over.

    These are the pictures in ``root``, and in its archive, that are no slices, and the folders that
    cannot be read.
    """
    taken = {path for patient in patients for path in (*patient.images, *patient.masks)}
    pictures, closed = _pictures(root, SEARCH_DEPTH)
    others = [path for path in pictures if path not in taken]
    remarks = [remark_in(root / UNPACKED)]
    if others:
        remarks.append(passed_over_in_words(len(others), others[0].relative_to(root).as_posix()))
    if closed:
        example = in_one_line(closed[0].relative_to(root).as_posix())
        remarks.append(
            f"folders passed over that cannot be read: {len(closed)}, e.g. {example}; if slices "
            f"are in them, give yourself the right to read them"
        )
    return [remark for remark in remarks if remark]


def _pictures(folder: Path, depth: int) -> tuple[list[Path], list[Path]]:
    """Return the pictures in a folder and in those within it, and folders that cannot be read."""
    try:
        children = sorted(folder.iterdir())
        folders = {child for child in children if child.is_dir()}
    except OSError:
        return [], [folder]
    pictures, closed = [], []
    for child in children:
        if child.name.startswith("."):
            continue
        if child in folders:
            if depth:
                within, closed_within = _pictures(child, depth - 1)
                pictures += within
                closed += closed_within
        elif PICTURE.fullmatch(child.name):
            pictures.append(child)
    return pictures, closed


def stat_key(patients: list[Patient]) -> list[tuple[str, int, int, int]]:
    """Return name, bytes and times of the last changes in ns of every file.

    The time of the content can be set back by programs, that of the file cannot.

    Raises:
        KitError: one of them is gone.
    """
    paths = (path for patient in patients for path in (*patient.images, *patient.masks))
    key = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:  # a link to what is gone
            raise KitError(
                f"{path}: cannot be read ({error.strerror}); restore it, or remove the patient"
            ) from None
        name = f"{path.parent.name}/{path.name}"
        key.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return key
