"""Preprocess a Kaggle folder once, in parallel, into files that are read slice by slice."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from threadpoolctl import threadpool_limits

from lib.data import files, pictures
from lib.data.cache_place import place_in_cache
from lib.data.patients import Patient, stat_key
from lib.runtime.fingerprints import source_fingerprint
from lib.runtime.limits import cores
from lib.transform import Geometry, preprocess, preprocess_mask, preprocessing_code
from lib.utils import KitError, build_folder, fingerprint, progress, remedy, say, see, write_json

MIN_PICTURE_SHARE = 0.01  # of the pixels of a slice that has a sign; they are no background
MIN_PICTURE_VALUES = 16  # that these pixels have
MIN_INNER_SHARE = 0.4  # of them with neighbours on all sides; captions have up to 0.27
INDEX, ARRAYS = "index.json", ("images.f16", "masks.u8", "truth.bits")
_VERSION = 7  # of the files below; changes of the preprocessing itself are seen from its source


@dataclass(frozen=True)
class CachedPatient:
    """Describe a patient in the cache.

    Attributes:
        rows: half-open range of the patient's slices in the arrays.
        truth: offset in bytes of the packed native mask, or -1 without masks.
        sha256: of the decoded pixels of images and masks.
        slices: the signs of the slices, in order: the first 12 hex digits of the SHA-256 of the
            pixels. A scan is known by them if a copy lacks some. Slices that are blank, constant,
            or have only a caption have none; see ``_has_sign``.
    """

    name: str
    rows: tuple[int, int]
    truth: int
    tumour_slices: int
    sha256: str
    slices: tuple[str, ...]
    geometry: Geometry

    @property
    def has_mask(self) -> bool:
        """Return whether the patient has masks."""
        return self.truth >= 0


class SliceFile:
    """Read rows of an array from a file, by their numbers: ``images[np.array([3, 4, 9])]``.

    A file that is cut while it is used is a KitError. A memory map would end the process.
    """

    def __init__(self, path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self._opened = self._open()

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be opened
            self._opened[1].close()

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:  # another process opens the file by itself
        return SliceFile, (self.path, self.dtype, self.shape)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return a new array ``(*rows.shape, *shape[1:])``.

        Args:
            rows: integers of any shape, from 0 up to, not including, ``len``.

        Raises:
            IndexError: no such row.
            KitError: the file was cut, or cannot be read.
        """
        rows = np.asarray(rows)
        numbers = rows.ravel()
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of {len(self)}")
        found = np.empty((numbers.size, *self.shape[1:]), self.dtype)
        if found.nbytes:
            row_bytes = found.nbytes // numbers.size
            content = memoryview(found).cast("B")  # type: ignore[arg-type]
            # rows that follow each other are one read
            ends = np.flatnonzero(np.diff(numbers, append=-1) != 1) + 1
            start = 0
            for end in ends.tolist():
                part = content[start * row_bytes : end * row_bytes]
                self._read(part, int(numbers[start]) * row_bytes)
                start = end
        return found.reshape(*rows.shape, *self.shape[1:])

    def _read(self, target: memoryview, offset: int) -> None:
        """Fill ``target`` with the bytes of the file from ``offset`` on."""
        if self._opened[0] != os.getpid():  # a copy of a process shares the place in the file
            self._opened = self._open()
        _, stream, lock = self._opened
        try:
            with lock:
                stream.seek(offset)
                while target and (count := stream.readinto(target)):
                    target = target[count:]
        except OSError as error:
            raise self._unreadable(error) from None
        if target:
            raise KitError(
                f"{self.path}: was cut or changed while it was used; run this again and it is "
                f"prepared anew"
            )

    def _open(self) -> tuple[int, FileIO, threading.Lock]:
        """Return the number of this process, the open file, and a lock for its threads."""
        try:
            return os.getpid(), FileIO(self.path), threading.Lock()
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> KitError:
        return KitError(
            f"{self.path}: cannot be read ({error.strerror or error}); run this again and it is "
            f"prepared anew"
        )


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
    images: SliceFile
    masks: SliceFile
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


def open_cache(root: Path, patients: list[Patient], size: int, preprocessing: str) -> Cache:
    """Open the cache of these patients at this size; build it if it is missing or outdated.

    It is built under a lock and renamed: two processes build it once, and an interruption leaves
    no incomplete cache.

    Raises:
        KitError: a file that cannot be used; see ``lib.data.read_patient``.
    """
    place, series, key, folder = _place_of(root, patients, size, preprocessing)

    def build(partial: Path) -> None:
        if folder.exists():
            say(f"{folder}: the prepared slices are damaged; they are prepared anew")
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)  # a file in its place
        _remove_outdated(folder.parent, series, place)
        _build(partial, {"key": key, "root": place}, patients, size, preprocessing)

    try:
        build_folder(folder, lambda: _is_whole(folder, key), build)
        return _open(folder)
    except OSError as error:
        raise KitError(
            f"{folder.parent}: the cache cannot be written or read ({error.strerror or error}); "
            f"{remedy(error)}; KIT_CACHE names the folder"
        ) from None


def is_in_cache(root: Path, patients: list[Patient], size: int, preprocessing: str) -> bool:
    """Return whether ``open_cache`` would find these patients prepared at this size."""
    _, _, key, folder = _place_of(root, patients, size, preprocessing)
    return _is_whole(folder, key)


def _place_of(
    root: Path, patients: list[Patient], size: int, preprocessing: str
) -> tuple[str, str, str, Path]:
    """Return where the files are, how their caches are called, the key of this one, its folder."""
    place = str(root.resolve())  # equal names, sizes and dates elsewhere may be other pixels
    code = source_fingerprint(*preprocessing_code(preprocessing), pictures)
    key = fingerprint([_VERSION, code, place, stat_key(patients), size, preprocessing])
    series = f"{root.name[:40]}-{preprocessing.replace(':', '-')}-{size}"
    folder = place_in_cache(f"{series}-{key[:16]}", lambda place: _is_whole(place, key))
    return place, series, key, folder


_WHOLE: set[tuple[Any, ...]] = set()
"""Caches that this process has compared with their checksums: folder, sizes and dates of files."""


def _is_whole(folder: Path, key: str) -> bool:
    """Return whether the cache of this key is there, as it was written."""
    index = _read_index(folder)
    if index.pop("checksum", None) != fingerprint(index) or index.get("key") != key:
        return False
    try:
        stats = {name: (folder / name).stat() for name in (INDEX, *ARRAYS)}
        known = folder, *((stat.st_size, stat.st_mtime_ns) for stat in stats.values())
        if known not in _WHOLE:
            for name in ARRAYS:
                size, checksum = index["files"][name]
                if stats[name].st_size != size or _checksum(folder / name) != checksum:
                    return False
            _WHOLE.add(known)
    except OSError:
        return False
    return True


def _read_index(folder: Path) -> dict[str, Any]:
    """Return the index of a cache as it is in the file, empty if it is missing or unreadable."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return index if isinstance(index, dict) else {}


def _checksum(file: Path) -> int:
    """Return the CRC-32 of a file."""
    checksum = 0
    with open(file, "rb") as stream:
        while part := stream.read(2**24):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _open(folder: Path) -> Cache:
    index = json.loads((folder / INDEX).read_bytes())
    records = {
        r["name"]: CachedPatient(
            **{
                **r,
                "rows": tuple(r["rows"]),
                "slices": tuple(r["slices"]),
                "geometry": Geometry.from_dict(r["geometry"]),
            }
        )
        for r in index["patients"]
    }
    n, size = index["slices"], index["size"]
    images_file, masks_file, truth_file = (folder / name for name in ARRAYS)
    images = SliceFile(images_file, np.float16, (n, 3, size, size))
    masks = SliceFile(masks_file, np.uint8, (n, size, size))
    return Cache(records, index["remarks"], images, masks, np.fromfile(truth_file, np.uint8))


def _build(
    folder: Path, origin: dict[str, str], patients: list[Patient], size: int, preprocessing: str
) -> None:
    """Write the files of a cache; ``origin`` goes into its index."""
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
        **origin,
        "size": size,
        "slices": rows,
        "remarks": remarks,
        "patients": records,
        "files": files,
    }
    write_json(folder / INDEX, {**index, "checksum": fingerprint(index)})


class _Array:
    """Append arrays to a file, and keep count of its size and CRC-32."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.size, self.checksum = stream, 0, 0

    def append(self, array: np.ndarray | bytes) -> None:
        view = memoryview(array).cast("B")  # type: ignore[arg-type]
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
    volume, mask, remarks = files.read_patient(patient)
    try:
        images, geometry = preprocess(volume, size, preprocessing)
    except KitError:  # of a custom preprocessing
        raise
    except ValueError as error:
        raise KitError(f"{patient.images[0].parent}: {error}; remove this patient") from None
    geometry = _checked_place(preprocessing, geometry)
    _require_small(preprocessing, images)
    truth = b"" if mask is None else np.packbits(mask).tobytes()
    masks = (
        np.zeros(images[:, 0].shape, np.uint8) if mask is None else preprocess_mask(mask, geometry)
    )
    digest = hashlib.sha256(repr(volume.shape).encode() + volume.tobytes())
    digest.update(truth)
    record = {
        "tumour_slices": 0 if mask is None else int(mask.any(axis=(1, 2)).sum()),
        "sha256": digest.hexdigest(),
        "slices": [_slice_sign(plane) for plane in volume if _has_sign(plane)],
        "geometry": geometry.to_dict(),
    }
    return {
        "images": images.astype(np.float16),
        "masks": masks,
        "truth": truth,
        "record": record,
        "remarks": remarks,
    }


def _checked_place(preprocessing: str, geometry: Geometry) -> Geometry:
    """Return a place with numbers of Python; a custom preprocessing may have those of NumPy.

    Raises:
        KitError: it is no place in the file's grid.
    """
    shape, box, pad = (
        tuple(int(number) for number in numbers)
        for numbers in (geometry.shape, geometry.box, geometry.pad)
    )
    starts, ends = box[::2], box[1::2]
    inside = len(box) == 6 and all(
        0 <= start < end <= size for start, end, size in zip(starts, ends, shape, strict=True)
    )
    edges = [end - start for start, end in zip(starts[1:], ends[1:], strict=False)]
    if not inside or not (
        len(pad) == 2 and all(0 <= pad[i] <= max(edges) - edges[i] for i in range(2))
    ):
        raise KitError(
            f"{preprocessing}: returned {geometry}; box must be in shape and not empty, and pad at "
            f"most what makes it square; {see('extending', 'A preprocessing')}"
        )
    return Geometry.from_dict({"shape": shape, "box": box, "pad": pad, "size": int(geometry.size)})


def _require_small(preprocessing: str, images: np.ndarray) -> None:
    """Raise ``KitError`` for values that are infinite in the 16 bits that they are kept in."""
    largest = max(float(images.max()), -float(images.min()))
    if largest > float(np.finfo(np.float16).max):
        raise KitError(
            f"{preprocessing}: returned values of up to {largest:.3g}, which 16 bits cannot hold; "
            f"z-score them, or divide them; {see('extending', 'A preprocessing')}"
        )


def _has_sign(plane: np.ndarray) -> bool:
    """Return whether a slice ``(H, W, 3)`` cannot equal one of another head by chance.

    One channel at least has a picture on its background, which is its most frequent value. Black
    slices, padding of one grey and burnt-in captions are equal in scans of many heads.
    """
    return any(_has_picture(plane[..., channel]) for channel in range(plane.shape[-1]))


def _has_picture(channel: np.ndarray) -> bool:
    """Return whether a channel has an area of many values beside that of its background."""
    coarse = max(1, min(channel.shape) // 128)  # every pixel counts in small pictures only
    channel = channel[::coarse, ::coarse]
    counts = np.bincount(channel.ravel(), minlength=256)
    background = counts.argmax()
    counts[background] = 0
    pixels = counts.sum()
    if pixels < MIN_PICTURE_SHARE * channel.size:
        return False
    if np.count_nonzero(counts) < MIN_PICTURE_VALUES or counts.max() >= pixels / 2:
        return False
    # letters with smooth edges have many values, too, but they are lines, not areas
    return bool(_inner(channel != background).sum() >= MIN_INNER_SHARE * pixels)


def _inner(area: np.ndarray) -> np.ndarray:
    """Return the pixels ``(H, W)`` of an area whose eight neighbours are in it as well."""
    wide = np.pad(area, 1)
    rows = wide[:-2] & wide[1:-1] & wide[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


def _slice_sign(plane: np.ndarray) -> str:
    """Return the sign by which a slice is known again, 12 hex digits."""
    sign = hashlib.blake2b(repr(plane.shape).encode(), digest_size=6)
    sign.update(np.ascontiguousarray(plane).data)
    return sign.hexdigest()


def _remove_outdated(caches: Path, series: str, root: str) -> None:
    """Delete caches of the same source and settings: the source has changed since."""
    for index in caches.glob(f"{glob.escape(series)}-*/{INDEX}"):
        if _read_index(index.parent).get("root") == root:
            shutil.rmtree(index.parent, ignore_errors=True)
