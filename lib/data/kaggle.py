"""The Kaggle layout on disk: find it, unpack it, list it, check it, read it, write it."""

from __future__ import annotations

import lzma
import re
import shutil
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from lib.utils import PROJECT, KitError, build_folder

KAGGLE_DATASET = "mateuszbuda/lgg-mri-segmentation"
KAGGLE_FOLDERS = (
    PROJECT / "data" / "kaggle_3m",
    PROJECT / "data" / "archive.zip",
    Path("/kaggle/input/lgg-mri-segmentation"),
)  # the last: where Kaggle's own notebooks find it
_SLICE = re.compile(r"(?P<stem>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", re.IGNORECASE)
_MAX_FILES, _MAX_BYTES = 50_000, 8 * 2**30  # the real archive: 15,718 files (each twice), 2 GiB
_SEARCH_DEPTH = 4
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)  # the last two: a kind of compression that Python lacks, a password
_pillow = threading.Lock()


@dataclass(frozen=True)
class Patient:
    """One patient's files, sorted by slice number; ``masks`` is empty when the patient has none."""

    name: str
    numbers: tuple[int, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def institution(self) -> str:
        """Return the source of the images: ``CS`` of ``TCGA_CS_4941_...``, or the name up to _."""
        parts = self.name.split("_")
        return parts[1] if parts[0] == "TCGA" and len(parts) > 1 else parts[0]


# --- finding --------------------------------------------------------------------------------------


def find_root(source: str | Path) -> Path:
    """Return the folder whose sub-folders are patients.

    Args:
        source: that folder, one that holds it (at most four levels up), Kaggle's ``archive.zip``,
            or the word ``kaggle`` to download the dataset with kagglehub.

    Raises:
        KitError: nothing usable there.
    """
    if str(source) == "kaggle":
        source = _download()
    source = Path(source).expanduser()
    if not source.exists():
        raise KitError(
            f"{source}: no such file or folder; give the Kaggle folder (kaggle_3m) or Kaggle's "
            f"archive.zip"
        )
    if source.is_file():
        return unpack(source)
    level = [source]
    for _ in range(_SEARCH_DEPTH + 1):
        for folder in level:
            if any(_looks_like_patient(child) for child in _folders(folder)):
                return folder
        level = [child for folder in level for child in _folders(folder)]
    if _looks_like_patient(source):
        raise KitError(f"{source}: this is one patient's folder; give the folder that holds it")
    raise KitError(
        f"{source}: no patient folders found; expected <patient>/<patient>_<slice>.tif with "
        f"..._mask.tif"
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def _looks_like_patient(folder: Path) -> bool:
    return any(
        match and match["stem"] == folder.name for match in map(_SLICE.fullmatch, _names(folder))
    )


def _names(folder: Path) -> list[str]:
    return [child.name for child in folder.iterdir()]


def _download() -> Path:
    try:
        import kagglehub
    except ImportError:
        raise KitError("kagglehub is not installed; run: pip install kagglehub") from None
    try:
        return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except Exception as error:  # network, credentials, quota: kagglehub raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KitError(
            f"download of {KAGGLE_DATASET} failed ({reason}); get archive.zip by hand, see "
            f"data/README.md"
        ) from None


def unpack(archive: Path) -> Path:
    """Unpack the slices of a zip beside it, once.

    ``archive.zip`` goes into ``kaggle_3m``, others into a folder of their name. Only entries named
    ``<patient>/<patient>_<slice>.tif`` are read, and only those two names decide where they go: an
    absolute path, ``..`` or a link in the archive cannot lead outside.

    Raises:
        KitError: not a zip, damaged, without slices, or far larger than the dataset.
    """
    target = archive.parent / ("kaggle_3m" if archive.name == "archive.zip" else archive.stem)

    def extract(folder: Path) -> None:
        with zipfile.ZipFile(archive) as bundle:
            for (patient, name), entry in _slice_entries(archive, bundle).items():
                (folder / patient).mkdir(exist_ok=True)
                with bundle.open(entry) as source, open(folder / patient / name, "wb") as sink:
                    shutil.copyfileobj(source, sink)

    try:
        build_folder(target, lambda: target.is_dir() and any(_folders(target)), extract)
    except DAMAGED_ZIP as error:
        raise KitError(f"{archive}: cannot be unpacked ({error}); download it again") from None
    except OSError as error:
        raise KitError(
            f"{archive}: cannot be unpacked here ({error}); unpack it by hand elsewhere"
        ) from None
    return target


def _slice_entries(
    archive: Path, bundle: zipfile.ZipFile
) -> dict[tuple[str, str], zipfile.ZipInfo]:
    """Return (patient, file name) -> entry; of Kaggle's two copies the first is taken."""
    entries: dict[tuple[str, str], zipfile.ZipInfo] = {}
    for entry in bundle.infolist():
        parts = re.split(r"[\\/]", entry.filename)
        match = _SLICE.fullmatch(parts[-1])
        if (
            match
            and len(parts) > 1
            and parts[-2] == match["stem"]
            and re.fullmatch(r"\w[\w.-]*", parts[-2])
        ):
            entries.setdefault((parts[-2], parts[-1]), entry)
    if not entries:
        raise KitError(
            f"{archive}: holds no <patient>/<patient>_<slice>.tif; expected Kaggle's archive.zip "
            f"of "
            f"{KAGGLE_DATASET}"
        )
    size = sum(entry.file_size for entry in entries.values())
    if len(entries) > _MAX_FILES or size > _MAX_BYTES:
        raise KitError(
            f"{archive}: {len(entries)} slices of {size / 2**30:.1f} GiB, far more than the "
            f"dataset; "
            f"unpack it by hand if you trust it"
        )
    return entries


# --- listing --------------------------------------------------------------------------------------


def list_patients(root: Path) -> list[Patient]:
    """Return the patients of a Kaggle folder, sorted by name; files that are no slices are ignored.

    Raises:
        KitError: an image without its mask, a mask without its image, a slice number twice, or a
            slice of a patient of another name.
    """
    patients = [
        patient for folder in _folders(root) if (patient := _list_patient(folder)) is not None
    ]
    if not patients:
        raise KitError(f"{root}: no patient folders found")
    return patients


def _list_patient(folder: Path) -> Patient | None:
    found: dict[bool, dict[int, Path]] = {False: {}, True: {}}
    for name in sorted(_names(folder)):
        match = _SLICE.fullmatch(name)
        if not match or name.startswith("."):
            continue
        if match["stem"] != folder.name:
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


def stat_key(patients: list[Patient]) -> list[tuple[str, int, int]]:
    """Return name, bytes and modification time in ns of every file, to notice changed files."""
    stats = (
        (path, path.stat()) for patient in patients for path in (*patient.images, *patient.masks)
    )
    return [
        (f"{path.parent.name}/{path.name}", stat.st_size, stat.st_mtime_ns) for path, stat in stats
    ]


# --- reading --------------------------------------------------------------------------------------


def read_patient(patient: Patient) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Read and check all slices of a patient.

    Returns:
        volume ``(S, H, W, 3)`` uint8; mask ``(S, H, W)`` {0, 1} uint8, or None; remarks, a line
        each.

    Raises:
        KitError: a file that cannot be read, or of another shape or type than the first.
    """
    volume = _stack(patient.images, channels=3)
    if not patient.masks:
        return volume, None, []
    mask = _stack(patient.masks, channels=1)
    if mask.shape != volume.shape[:3]:
        raise KitError(
            f"{patient.masks[0].parent}: masks of {mask.shape[1:]} pixels, images of "
            f"{volume.shape[1:3]}; they must agree"
        )
    remarks = []
    if not np.isin(np.unique(mask), (0, 1, 255)).all():
        remarks.append(
            f"{patient.name}: mask has values other than 0 and 255; everything above 0 counts as "
            f"tumour"
        )
    mask = (mask > 0).astype(np.uint8)
    if not mask.any():
        remarks.append(f"{patient.name}: no tumour in any slice")
    gaps = set(range(patient.numbers[0], patient.numbers[-1] + 1)).difference(patient.numbers)
    if gaps:
        remarks.append(
            f"{patient.name}: slice numbers missing: {', '.join(map(str, sorted(gaps)[:5]))}"
            + (" ..." if len(gaps) > 5 else "")
        )
    return volume, mask, remarks


def _stack(paths: tuple[Path, ...], channels: int) -> np.ndarray:
    slices = [_read(path) for path in paths]
    for path, image in zip(paths, slices, strict=True):
        if image.ndim != (3 if channels > 1 else 2) or image.shape[2:] not in ((), (channels,)):
            raise KitError(
                f"{path}: shape {image.shape}, expected (H, W{', 3' if channels == 3 else ''})"
            )
        if image.shape != slices[0].shape:
            raise KitError(
                f"{path}: {image.shape} pixels, but {paths[0].name} has {slices[0].shape}; all "
                f"slices of a patient must agree"
            )
    return np.stack(slices)


def _read(path: Path) -> np.ndarray:
    """One TIFF as uint8; booleans become 0 and 1."""
    try:
        try:
            image = tifffile.imread(path)
        except ValueError:  # compressed in a way that tifffile leaves to an extra package
            # one thread at a time: filters of warnings are shared by all
            with _pillow, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a damaged file is reported below, in our words
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as opened:
                    image = np.asarray(opened)
    except Exception as error:  # damaged files raise almost anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise KitError(f"{path}: cannot be read as TIFF ({reason}); copy the file again") from None
    if image.dtype != np.uint8 and image.dtype != bool:
        raise KitError(
            f"{path}: pixels of type {image.dtype}, expected uint8 as in the Kaggle dataset"
        )
    return image.astype(np.uint8, copy=False)


def twins(digests: dict[str, str]) -> list[str]:
    """Return a remark for each group of patients with identical images.

    They would leak across a split.

    Args:
        digests: name -> digest of the images.
    """
    counts = Counter(digests.values())
    groups = {
        digest: [name for name, d in digests.items() if d == digest]
        for digest, n in counts.items()
        if n > 1
    }
    return [
        f"{' = '.join(names)}: the same images under {len(names)} names; remove all but one"
        for names in groups.values()
    ]


# --- writing --------------------------------------------------------------------------------------


def write_masks(folder: Path, patient: Patient, mask: np.ndarray) -> None:
    """Write ``(S, H, W)`` {0, 1} as ``<patient>/<patient>_<slice>_mask.tif``, 0 and 255."""
    target = folder / patient.name
    target.mkdir(parents=True, exist_ok=True)
    for number, plane in zip(patient.numbers, mask, strict=True):
        tifffile.imwrite(
            target / f"{patient.name}_{number}_mask.tif", plane.astype(bool) * np.uint8(255)
        )


def write_images(folder: Path, patient: Patient, volume: np.ndarray) -> None:
    """Write ``(S, H, W, 3)`` uint8 as ``<folder>/<patient>/<patient>_<slice>.tif``."""
    target = folder / patient.name
    target.mkdir(parents=True, exist_ok=True)
    for number, plane in zip(patient.numbers, volume, strict=True):
        tifffile.imwrite(target / f"{patient.name}_{number}.tif", plane, photometric="rgb")
