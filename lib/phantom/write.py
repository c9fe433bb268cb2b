"""A procedural brain phantom with tumours, written in the Kaggle layout of the LGG dataset.

It is the data set that runs when no real one is there: heads from `lib.phantom.anatomy`, "scanned"
with three sequences and stored as 8-bit pictures.
"""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from lib.phantom.anatomy import SUBSLICES, draw_head
from lib.phantom.shapes import FLAIR, POST, PRE, smooth_noise
from lib.runtime.limits import cores
from lib.utils import PROJECT, KitError, build_folder, progress, remedy, write_json

VERSION = 2  # raise it whenever the same seed gives other pixels
PATIENTS, SEED, SIZE = 60, 0, 128
MIN_SIZE, MAX_SIZE = 32, 256
# In 3 of every 20 patients FLAIR replaces others; by turns and not by lot, so that a small
# data set has them too, among the patients to learn from and among those held out
MISSING_PERIOD, MISSING = 20, {2: (POST,), 9: (PRE, POST), 16: (PRE, POST)}
RECORD = "phantom.json"
PHANTOM_FOLDER = PROJECT / "data" / "phantom"
TEST_PATIENTS, TEST_FIRST = 200, 1000
TEST_FOLDER = PROJECT / "data" / "phantom-test"

# --- scanner


def _scan(rng: np.random.Generator, clean: np.ndarray, axes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Degrade a clean volume (S, H, W): bias, blur, ghost, slice gain, noise, gamma."""
    z = axes[0].reshape(-1, SUBSLICES).mean(1)
    volume = clean * np.exp(rng.uniform(0.04, 0.18) * smooth_noise(rng, (z, axes[1], axes[2]), 110))
    blur = rng.uniform(0.1, 0.6) * len(axes[2]) / 128
    volume = ndimage.gaussian_filter(volume, (0, blur, blur))
    if rng.random() < 0.3:  # periodic motion repeats the head along the phase-encoding direction
        volume += rng.uniform(0.01, 0.04) * np.roll(
            volume, len(axes[1]) // int(rng.integers(3, 7)), axis=1
        )
    volume *= np.exp(
        0.03 * rng.standard_normal((len(z), 1, 1), dtype=np.float32)
    )  # slices are excited one by one
    if rng.random() < 0.1:  # this sequence was planned shorter than the others
        volume[: int(rng.integers(1, 4))] = 0
    sigma = rng.uniform(0.015, 0.08)
    volume = volume + sigma * rng.standard_normal(volume.shape, dtype=np.float32)
    quadrature = sigma * rng.standard_normal(volume.shape, dtype=np.float32)
    return np.sqrt(volume**2 + quadrature**2) ** rng.uniform(0.9, 1.15)


def _quantise(rng: np.random.Generator, volume: np.ndarray) -> np.ndarray:
    """Map (S, H, W) to uint8; a few very bright voxels set the maximum, so the head is dark."""
    white = np.clip(np.exp(rng.normal(np.log(0.5), 0.26)), 0.24, 0.95) * 255
    return np.clip(volume * (white / np.percentile(volume, 99)), 0, 255).astype(np.uint8)


def missing_sequences(seed: int, index: int) -> tuple[int, ...]:
    """Return the channels that FLAIR replaces: () for 85 % of patients, else `POST` or both T1."""
    return MISSING.get((index + 7 * seed) % MISSING_PERIOD, ())


def make_patient(seed: int, index: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One phantom patient; the same arguments give the same bytes, however many others are made.

    Args:
        seed: of the whole set, from 0.
        index: of the patient, from 0.
        size: pixels per side of the 205 to 300 mm wide picture.

    Returns:
        volume `(S, size, size, 3)` uint8 with channels (pre-contrast, FLAIR, post-contrast), and
        tumour mask `(S, size, size)` uint8 {0, 1}. S is 14 to 22; slice 0 is the lowest.
    """
    rng = np.random.default_rng([seed, index])
    slices, axes = draw_head(rng, size)
    volume = np.stack([_quantise(rng, _scan(rng, clean, axes)) for clean in slices[:3]], axis=-1)
    for absent in missing_sequences(seed, index):
        volume[..., absent] = volume[..., FLAIR]
    return volume, (slices[3] > 0.5).astype(np.uint8)


# --- files


def patient_name(index: int) -> str:
    """Folder name of patient `index`, counted from 0."""
    return f"PHANTOM_{index + 1:04d}"


def patient_index(name: str) -> int:
    """Return the index of the patient in a folder of this name, as ``patient_name`` wrote it."""
    return int(name.rpartition("_")[2]) - 1


def _write_patient(root: Path, seed: int, size: int, index: int) -> None:
    """Write the slices and masks of one patient below `root`."""
    volume, mask = make_patient(seed, index, size)
    name = patient_name(index)
    folder = root / name
    folder.mkdir()
    for number, (picture, truth) in enumerate(zip(volume, mask, strict=True), start=1):
        _save(picture, folder / f"{name}_{number}.tif")
        _save(truth * np.uint8(255), folder / f"{name}_{number}_mask.tif")


def _save(picture: np.ndarray, path: Path) -> None:
    """Write a picture as TIFF; Pillow itself does not notice that a disk took half of a file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="TIFF")
    path.write_bytes(buffer.getvalue())


def _checked_request(**numbers: int) -> dict[str, int]:
    """Return the numbers of a phantom as Python's own; raise KitError if they make none."""
    for name, value in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise KitError(f"{name} is {value!r}; give a whole number")
    numbers = {name: int(value) for name, value in numbers.items()}  # of NumPy
    patients, size = numbers["patients"], numbers["size"]
    if not 1 <= patients <= 9999:
        raise KitError(f"patients is {patients}; ask for 1 to 9999")
    for name in ("seed", "first"):
        if numbers[name] < 0:
            raise KitError(f"{name} is {numbers[name]}; use 0 or a positive whole number")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise KitError(f"size is {size}; use {MIN_SIZE} to {MAX_SIZE} pixels")
    return numbers


def _already_there(root: Path, record: dict[str, int]) -> bool:
    """Return whether `root` holds this phantom; raise KitError if it holds anything else."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise KitError(f"{root} is a file; name a folder")
    if not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise KitError(f"{root} is not empty and holds no phantom; name another folder") from None
    if found != record:
        raise KitError(f"{root} holds another phantom ({found}); remove it or name another folder")
    gone = [
        patient_name(index)
        for index in range(record["first"], record["first"] + record["patients"])
        if not (root / patient_name(index)).is_dir()
    ]
    if gone:
        raise KitError(
            f"{root} lacks {len(gone)} patients ({gone[0]} first); remove it or name another folder"
        )
    return True


def _write_all(folder: Path, indices: range, seed: int, size: int) -> None:
    """Write the patients of these numbers below `folder`.

    Threads, not processes: NumPy does most of the work outside the interpreter lock, and threads
    need no `__main__` guard in a student's script, on Windows or elsewhere.
    """
    pool = ThreadPoolExecutor(min(cores(), 8))
    try:
        done = pool.map(partial(_write_patient, folder, seed, size), indices)
        for _ in progress(done, total=len(indices), desc="phantom", unit="patient"):
            pass
    finally:
        pool.shutdown(
            cancel_futures=True
        )  # after Ctrl-C: finish the patients in work, start no others


def write_phantom(
    root: str | Path, patients: int = PATIENTS, seed: int = SEED, size: int = SIZE, first: int = 0
) -> Path:
    """Write phantom patients in the Kaggle layout, unless they are there; return `root`.

    Files: `<root>/PHANTOM_0001/PHANTOM_0001_<slice>.tif`, (size, size, 3) uint8, and
    `..._<slice>_mask.tif`, (size, size) uint8 0/255; slices count from 1. `phantom.json` records
    the parameters.

    Args:
        patients: their number.
        seed: of the whole set.
        size: pixels per side.
        first: how many patients of this seed come before these; their numbers count on.

    Raises:
        KitError: numbers out of range, or a folder that holds something else.
    """
    root = Path(root)
    numbers = _checked_request(seed=seed, patients=patients, size=size, first=first)
    record = {"version": VERSION, **numbers}
    indices = range(numbers["first"], numbers["first"] + numbers["patients"])

    def build(folder: Path) -> None:
        _write_all(folder, indices, numbers["seed"], numbers["size"])
        write_json(folder / RECORD, record)

    try:
        build_folder(root, lambda: _already_there(root, record), build)
    except OSError as error:
        raise KitError(
            f"{root}: cannot be written ({error.strerror or error}); {remedy(error)}"
        ) from None
    return root


def is_phantom(root: Path) -> bool:
    """Return whether all patients of a folder are phantoms, by their names."""
    folders = (path for path in root.iterdir() if path.is_dir())
    names = [path.name for path in folders if any(path.glob("*.tif"))]  # others hold no patient
    return bool(names) and all(name.startswith("PHANTOM_") for name in names)


def write_test_set(few: bool = False) -> Path:
    """Write the test set of the phantom, unless it is there; return its folder.

    200 further patients of the same seed. None of them is ever trained or chosen on.

    Args:
        few: only the first four, in a folder of their own: to try things out.
    """
    if few:
        return write_phantom(TEST_FOLDER.with_name(f"{TEST_FOLDER.name}-few"), 4, first=TEST_FIRST)
    return write_phantom(TEST_FOLDER, TEST_PATIENTS, first=TEST_FIRST)
