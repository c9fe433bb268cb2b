"""Preprocess a Kaggle folder once, in parallel, into arrays that are mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from threadpoolctl import threadpool_limits

from lib.data import kaggle, pictures
from lib.data.kaggle import Patient
from lib.runtime.own_code import source_fingerprint
from lib.transform import PREPROCESSING, Geometry, preprocess, preprocess_mask
from lib.utils import PROJECT, KitError, build_folder, cores, fingerprint, progress, say, write_json

INDEX, ARRAYS = "index.json", ("images.f16", "masks.u8", "truth.bits")
_VERSION = 3  # of the files below; changes of the preprocessing itself are seen from its source


@dataclass(frozen=True)
class CachedPatient:
    """Describe a patient in the cache.

    Attributes:
        rows: half-open range of the patient's slices in the arrays.
        truth: offset in bytes of the packed native mask, or -1 without masks.
        sha256: of the decoded pixels of images and masks.
        images_sha256: of the images alone.
    """

    name: str
    rows: tuple[int, int]
    truth: int
    tumour_slices: int
    sha256: str
    images_sha256: str
    geometry: Geometry

    @property
    def has_mask(self) -> bool:
        """Return whether the patient has masks."""
        return self.truth >= 0


@dataclass(frozen=True)
class Cache:
    """Preprocessed slices of all patients, read-only.

    Attributes:
        images: ``(N, 3, size, size)`` float16, z-scored; rounding is at most 1 part in 2,048.
        masks: ``(N, size, size)`` {0, 1} uint8.
        truth: native masks as packed bits; see ``truth_mask``.
    """

    records: dict[str, CachedPatient]
    remarks: list[str]
    images: np.ndarray
    masks: np.ndarray
    truth: np.ndarray

    def truth_mask(self, name: str) -> np.ndarray | None:
        """Return the mask as in the files, ``(S, H, W)`` {0, 1} uint8; None without masks."""
        record = self.records[name]
        if not record.has_mask:
            return None
        shape = record.geometry.shape
        voxels = int(np.prod(shape))
        packed = self.truth[record.truth : record.truth + -(-voxels // 8)]
        return np.unpackbits(packed, count=voxels).reshape(shape)


def cache_folder() -> Path:
    """Return the folder of caches: ``KIT_CACHE``, else ``data/cache``, else a temporary folder."""
    if os.environ.get("KIT_CACHE"):
        return Path(os.environ["KIT_CACHE"])
    folder = PROJECT / "data" / "cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / "brain-segmentation-cache"
    if os.access(folder, os.W_OK):
        return folder
    return Path(tempfile.gettempdir()) / "brain-segmentation-cache"


def open_cache(root: Path, patients: list[Patient], size: int, preprocessing: str) -> Cache:
    """Open the cache of these patients at this size; build it if it is missing or outdated.

    It is built under a lock and renamed: two processes build it once, and an interruption leaves
    no incomplete cache.

    Raises:
        KitError: a file that cannot be used; see ``kaggle.read_patient``.
    """
    place = str(root.resolve())  # equal names, sizes and dates elsewhere may be other pixels
    code = source_fingerprint(*PREPROCESSING, pictures)
    key = fingerprint([_VERSION, code, place, kaggle.stat_key(patients), size, preprocessing])
    series = f"{root.name}-{preprocessing}-{size}"
    folder = cache_folder() / f"{series}-{key[:16]}"

    def build(partial: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted deletion left
        _remove_outdated(folder.parent, series, place)
        _build(partial, place, patients, size, preprocessing)

    try:
        build_folder(folder, lambda: _is_whole(folder), build)
    except OSError as error:
        raise KitError(
            f"{folder.parent}: the cache cannot be written ({error}); free some space, or name "
            f"another folder in KIT_CACHE"
        ) from None
    return _open(folder)


_WHOLE: set[tuple[str, int]] = set()
"""Folder and date of the caches that this process has compared with their checksums."""


def _is_whole(folder: Path) -> bool:
    """Return whether a cache is there, and as it was written; name one that is not."""
    if not folder.is_dir():
        return False
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        checksum, files = index.pop("checksum"), index["files"]
        known = str(folder), (folder / INDEX).stat().st_mtime_ns
        whole = all((folder / name).stat().st_size == files[name][0] for name in ARRAYS)
        if whole and known not in _WHOLE:
            whole = checksum == fingerprint(index) and all(
                _checksum(folder / name) == files[name][1] for name in ARRAYS
            )
            _WHOLE.update({known} if whole else ())
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        say(f"{folder}: the prepared slices are damaged; they are prepared anew")
    return whole


def _checksum(file: Path) -> int:
    """Return the CRC-32 of a file."""
    checksum = 0
    with open(file, "rb") as stream:
        while part := stream.read(2**24):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _open(folder: Path) -> Cache:
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    records = {
        r["name"]: CachedPatient(
            **{**r, "rows": tuple(r["rows"]), "geometry": Geometry.from_dict(r["geometry"])}
        )
        for r in index["patients"]
    }
    n, size = index["slices"], index["size"]
    images_file, masks_file, truth_file = (folder / name for name in ARRAYS)
    images = np.memmap(images_file, np.float16, "r", shape=(n, 3, size, size))
    masks = np.memmap(masks_file, np.uint8, "r", shape=(n, size, size))
    return Cache(records, index["remarks"], images, masks, np.fromfile(truth_file, np.uint8))


def _build(folder: Path, root: str, patients: list[Patient], size: int, preprocessing: str) -> None:
    records: list[dict[str, Any]] = []
    remarks: list[str] = []
    rows = 0
    with ExitStack() as stack:
        images, masks, truth = (
            _Array(stack.enter_context(open(folder / name, "wb"))) for name in ARRAYS
        )
        for patient, done in zip(
            patients, _prepare_all(patients, size, preprocessing), strict=True
        ):
            n = len(done["masks"])
            records.append(
                {
                    "name": patient.name,
                    "rows": (rows, rows + n),
                    "truth": truth.size if patient.masks else -1,
                    **done["record"],
                }
            )
            images.append(done["images"])
            masks.append(done["masks"])
            truth.append(done["truth"])
            remarks += done["remarks"]
            rows += n
        arrays = zip(ARRAYS, (images, masks, truth), strict=True)
        files = {name: array.finish() for name, array in arrays}
    index = {
        "root": root,
        "size": size,
        "slices": rows,
        "remarks": remarks,
        "patients": records,
        "files": files,
    }
    write_json(folder / INDEX, {**index, "checksum": fingerprint(index)})


class _Array:
    """Write a file of an array piece by piece, and know its size and CRC-32."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.size, self.checksum = stream, 0, 0

    def append(self, piece: np.ndarray | bytes) -> None:
        view = memoryview(piece).cast("B")  # type: ignore[arg-type]
        self.stream.write(view)
        self.size, self.checksum = self.size + len(view), zlib.crc32(view, self.checksum)

    def finish(self) -> list[int]:
        """Bring it to the disk, so that a power cut leaves all of the cache or none of it."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        return [self.size, self.checksum]


def _prepare_all(
    patients: list[Patient], size: int, preprocessing: str
) -> Iterator[dict[str, Any]]:
    """Yield prepared patients in order; only a few are prepared at a time, to save memory.

    Threads, not processes: numpy and zlib let other threads run, and nothing has to be copied.
    """
    workers = min(len(patients), cores())
    # one BLAS thread a worker: more of them than cores wait for each other in busy loops
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(workers) as pool,
        progress(total=len(patients), desc=f"preparing {size}x{size}", unit="patient") as bar,
    ):
        under_way: deque[Future[dict[str, Any]]] = deque()
        queue = iter(patients)
        try:
            for patient in queue:
                under_way.append(pool.submit(_prepare, patient, size, preprocessing))
                if len(under_way) > workers:
                    yield under_way.popleft().result()
                    bar.update()
            while under_way:
                yield under_way.popleft().result()
                bar.update()
        finally:
            for future in under_way:
                future.cancel()


def _prepare(patient: Patient, size: int, preprocessing: str) -> dict[str, Any]:
    volume, mask, remarks = kaggle.read_patient(patient)
    try:
        images, geometry = preprocess(volume, size, preprocessing)
    except ValueError as error:
        raise KitError(f"{patient.images[0].parent}: {error}; remove this patient") from None
    truth = b"" if mask is None else np.packbits(mask).tobytes()
    masks = (
        np.zeros(images[:, 0].shape, np.uint8) if mask is None else preprocess_mask(mask, geometry)
    )
    images_digest = hashlib.sha256(repr(volume.shape).encode() + volume.tobytes())
    digest = images_digest.copy()
    digest.update(truth)
    record = {
        "tumour_slices": 0 if mask is None else int(mask.any(axis=(1, 2)).sum()),
        "sha256": digest.hexdigest(),
        "images_sha256": images_digest.hexdigest(),
        "geometry": geometry.to_dict(),
    }
    return {
        "images": images.astype(np.float16),
        "masks": masks,
        "truth": truth,
        "record": record,
        "remarks": remarks,
    }


def _remove_outdated(caches: Path, series: str, root: str) -> None:
    """Delete caches of the same source and settings: the source has changed since."""
    for index in caches.glob(f"{series}-*/{INDEX}"):
        try:
            outdated = json.loads(index.read_text(encoding="utf-8"))["root"] == root
        except (OSError, ValueError, TypeError, KeyError):  # damaged: whoever opens it will see
            continue
        if outdated:
            shutil.rmtree(index.parent, ignore_errors=True)
