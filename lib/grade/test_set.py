"""Prepare what submissions are scored on: the validation patients of the instructor's data."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from lib.data import Patient, place_in_cache, read_patient, write_images, write_masks
from lib.dataset import BrainData, Split, load_data, make_split
from lib.grade.trouble import GraderError, without_submission
from lib.utils import KitError, build_folder, fingerprint, sha256, write_json

_SMALL = 32  # pixels of the copy for the split and the fingerprint; nothing is scored on it
_VERSION = 2  # of ``perturb`` and of the files in the folders
_LIST = "files.json"  # of the copies, with their hashes


@dataclass(frozen=True)
class Exam:
    """Hold the patients that count, and the folder of their copies.

    Attributes:
        data: all patients at 32 pixels, for the fingerprint of the pixels, which no size changes.
        split: the one that submissions must have used.
        folder: contains the validation patients twice, below ``clean`` and below ``perturbed``, in
            the Kaggle layout.
    """

    data: BrainData
    split: Split
    folder: Path

    def load(self, image_size: int, preprocessing: str, perturbed: bool = False) -> BrainData:
        """Return the validation patients, prepared for a network.

        Raises:
            GraderError: they cannot be read.
        """
        folder = self.folder / ("perturbed" if perturbed else "clean")
        with without_submission():
            return _load(folder, image_size, preprocessing)

    @cached_property
    def voxels(self) -> dict[str, tuple[int, int]]:
        """Return validation patient -> slices, and tumour voxels on the file's grid."""
        masks = {name: self.truth(name) for name in self.split.validation}
        return {name: (len(mask), int(mask.sum())) for name, mask in masks.items()}

    def truth(self, name: str) -> np.ndarray:
        """Return a patient's ground truth on the file's grid, ``(S, H, W)`` {0, 1}.

        Raises:
            GraderError: the patient has no masks, or they cannot be read.
        """
        with without_submission():
            mask = self.data.truth(name)
        if mask is None:
            raise GraderError(f"{self.data.root}: {name} has no masks; scoring needs them")
        return mask


def prepare_exam(root: str | Path, split: str = "auto") -> Exam:
    """Find the data, split it, and copy the validation patients.

    The copies are made once, and found again later.

    Args:
        root: as for ``load_data``.
        split: as in ``Config.split``.

    Raises:
        GraderError: there is nothing usable, it cannot be split so, or there is no space.
    """
    with without_submission():
        return _prepare_exam(root, split)


def _prepare_exam(root: str | Path, split: str) -> Exam:
    data = load_data(root, _SMALL)
    chosen = make_split(data, split)
    if not chosen.validation:
        raise KitError(f"split {split!r}: leaves nobody to score; name another (--split)")
    key = fingerprint([_VERSION, data.fingerprint, chosen.validation])
    folder = place_in_cache(f"exam-{key[:16]}", _is_whole)

    def build(partial: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what was damaged
        for name in chosen.validation:
            _copy(partial, data.patients[name])
        files = sorted(file for file in partial.rglob("*") if file.is_file())
        hashes = {file.relative_to(partial).as_posix(): sha256(file) for file in files}
        write_json(partial / _LIST, hashes)

    build_folder(folder, lambda: _is_whole(folder), build)
    return Exam(data, chosen, folder)


def _is_whole(folder: Path) -> bool:
    """Return whether the copies are there, and as they were written."""
    try:
        hashes = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        return all(sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


@lru_cache(maxsize=8)
def _load(folder: Path, image_size: int, preprocessing: str) -> BrainData:
    """Read a folder once for each size and preprocessing."""
    return load_data(folder, image_size, preprocessing)


def _copy(folder: Path, patient: Patient) -> None:
    """Copy a patient's files into ``clean``, and the perturbed ones into ``perturbed``."""
    clean = folder / "clean" / patient.name
    clean.mkdir(parents=True)
    for file in (*patient.images, *patient.masks):
        shutil.copyfile(file, clean / file.name)
    volume, mask, _ = read_patient(patient)
    if mask is None:
        raise KitError(f"{patient.images[0].parent}: has no masks; scoring needs them")
    rng = np.random.default_rng(int(sha256(patient.name.encode())[:16], 16))
    volume, mask = perturb(volume, mask, rng)
    write_images(folder / "perturbed", patient, volume)
    write_masks(folder / "perturbed", patient, mask)


def perturb(
    volume: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Perturb a patient, as another scanner might.

    One in two is mirrored. All are shifted by at most 5 % of each edge, with black coming in. Gamma
    is from 0.8 to 1.25. The noise has an SD of 2 % of the brightest voxel; it falls on the head
    alone, so that a background of zeros stays one.

    Args:
        volume: ``(S, H, W, 3)`` uint8.
        mask: ``(S, H, W)`` {0, 1} uint8.

    Returns:
        Both, of the same shapes and types.
    """
    if rng.random() < 0.5:
        volume, mask = volume[:, :, ::-1], mask[:, :, ::-1]
    height, width = mask.shape[1:]
    down, right = (int(rng.integers(-(edge // 20), edge // 20 + 1)) for edge in (height, width))
    volume, mask = _shift(volume, down, right), _shift(mask, down, right)
    top = max(1, int(volume.max()))
    bright = top * (volume / top) ** rng.uniform(0.8, 1.25) + rng.normal(
        0, 0.02 * top, volume.shape
    )
    return np.where(volume > 0, np.clip(np.rint(bright), 1, 255), 0).astype(np.uint8), mask


def _shift(volume: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return a volume with rows and columns moved, zeros in their place."""
    moved = np.zeros_like(volume)
    height, width = volume.shape[1:3]
    rows, columns = (
        (slice(max(0, by), edge + min(0, by)), slice(max(0, -by), edge + min(0, -by)))
        for by, edge in ((down, height), (right, width))
    )
    moved[:, rows[0], columns[0]] = volume[:, rows[1], columns[1]]
    return moved
