"""Read and check a patient's slices and masks, and write them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from lib.data.patients import Patient
from lib.data.pictures import read_picture
from lib.utils import KitError, write_atomic

_TOO_MUCH = 0.5  # of the head, or of the air: no tumour is that large
_SLIVER = 0.02  # of a picture: too small to be the head, or the air around it


def read_patient(patient: Patient) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Read and check all slices of a patient.

    Of the two values of a patient's masks the larger one is tumour, e.g. 255 of 0 and 255.

    Returns:
        volume ``(S, H, W, 3)`` uint8; mask ``(S, H, W)`` {0, 1} uint8, or None; remarks, a line
        each.

    Raises:
        KitError: a file that cannot be read, or of another shape or type than the first; masks of
            more than two values, or over most of the head or of the air.
    """
    volume, remarks = _stack(patient.images, channels=3), []
    gaps = list(itertools.islice(_gaps(patient.numbers), 6))
    if gaps:
        remarks.append(
            f"{patient.name}: slice numbers missing: {', '.join(map(str, gaps[:5]))}"
            + (" ..." if len(gaps) > 5 else "")
        )
    if not patient.masks:
        return volume, None, remarks
    folder = patient.masks[0].parent
    mask = _stack(patient.masks, channels=1)
    if mask.shape != volume.shape[:3]:
        raise KitError(
            f"{folder}: masks of {mask.shape[1:]} pixels, images of {volume.shape[1:3]}; they must "
            f"agree"
        )
    mask = _tumour(folder, mask)
    _require_plausible(patient, volume, mask)
    if not mask.any():
        remarks.append(f"{patient.name}: no tumour in any slice")
    elif _dark_share(volume, mask) > _TOO_MUCH:
        remarks.append(
            f"{patient.name}: most of the tumour is where the images are black; are the masks "
            f"those of these slices, and upright?"
        )
    return volume, mask, remarks


def _tumour(folder: Path, mask: np.ndarray) -> np.ndarray:
    """Return {0, 1} uint8: the larger of the two values that a patient's masks have.

    Raises:
        KitError: more than two values.
    """
    values = np.flatnonzero(sum(np.bincount(plane.ravel(), minlength=256) for plane in mask))
    if len(values) > 2:
        shown = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        raise KitError(
            f"{folder}: masks with {len(values)} values ({shown}), expected one for tumour and one "
            f"for the rest; save them with two, and without JPEG or smooth edges"
        )
    return (mask == values[-1]).astype(np.uint8) if values[-1] else mask


def _dark_share(volume: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a tumour that has less than a tenth of the largest intensity."""
    tumour = volume.reshape(-1, volume.shape[-1])[np.flatnonzero(mask)]
    return float((tumour.max(axis=1) < volume.max() / 10).mean())


def _gaps(numbers: tuple[int, ...]) -> Iterator[int]:
    """Yield the numbers that are missing between others; there may be very many."""
    for below, above in itertools.pairwise(numbers):
        yield from range(below + 1, above)


def _require_plausible(patient: Patient, volume: np.ndarray, mask: np.ndarray) -> None:
    """Raise ``KitError`` for masks that are inverted: over most of the head, or of the air."""
    shares = mask.mean(axis=(1, 2))
    if shares.max() > _TOO_MUCH and np.median(shares) < _TOO_MUCH:
        raise KitError(
            f"{patient.masks[shares.argmax()]}: covers {shares.max():.0%} of the picture, unlike "
            f"other masks of {patient.name}: it is inverted; save tumour brighter than the rest"
        )
    folder = patient.masks[0].parent
    head = volume.max(axis=3) > volume.max() / 10
    for where, voxels in (("head", head), ("air around it", ~head)):
        # a sliver of air in a picture that is cropped to the head may be inside a dark tumour
        if voxels.mean() > _SLIVER and mask[voxels].mean() > _TOO_MUCH:
            raise KitError(
                f"{folder}: the masks cover {mask[voxels].mean():.0%} of the {where}: they are "
                f"inverted, or outline something else; save tumour brighter than the rest"
            )


def _stack(paths: tuple[Path, ...], channels: int) -> np.ndarray:
    slices = [read_picture(path) for path in paths]
    for path, image in zip(paths, slices, strict=True):
        if image.ndim != (3 if channels > 1 else 2) or image.shape[2:] not in ((), (channels,)):
            wanted = "(H, W, 3), an RGB picture" if channels > 1 else "(H, W), a greyscale mask"
            raise KitError(f"{path}: shape {image.shape}, expected {wanted}")
        if image.shape != slices[0].shape:
            raise KitError(
                f"{path}: {image.shape} pixels, but {paths[0].name} has {slices[0].shape}; all "
                f"slices of a patient must agree"
            )
    return np.stack(slices)


def write_masks(folder: Path, patient: Patient, mask: np.ndarray) -> None:
    """Write ``(S, H, W)`` {0, 1} as ``<patient>/<patient>_<slice>_mask.tif``, 0 and 255."""
    for path, content in encode_masks(folder, patient, mask).items():
        write_atomic(path, content, durable=False)


def encode_masks(folder: Path, patient: Patient, mask: np.ndarray) -> dict[Path, bytes]:
    """Return place below ``folder`` -> content of the TIFF of each slice's mask; see above."""
    contents = {}
    for name, plane in zip(patient.mask_names, mask, strict=True):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, plane.astype(bool) * np.uint8(255))
        contents[folder / patient.name / name] = buffer.getvalue()
    return contents


def write_images(folder: Path, patient: Patient, volume: np.ndarray) -> None:
    """Write ``(S, H, W, 3)`` uint8 as ``<folder>/<patient>/<patient>_<slice>.tif``."""
    target = folder / patient.name
    target.mkdir(parents=True, exist_ok=True)
    for number, plane in zip(patient.numbers, volume, strict=True):
        tifffile.imwrite(target / f"{patient.name}_{number}.tif", plane, photometric="rgb")
