"""The Kaggle layout on disk: find it, unpack it, list it, check it, read it, write it."""

from __future__ import annotations

import io
import itertools
import lzma
import os
import re
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from lib.data.pictures import MAX_BYTES, read_picture
from lib.runtime.own_files import LIST
from lib.utils import (
    PROJECT,
    KitError,
    as_path,
    build_folder,
    fingerprint,
    remedy,
    see,
    this_user,
    write_atomic,
)

KAGGLE_DATASET = "mateuszbuda/lgg-mri-segmentation"
_PHANTOM = re.compile(r"phantom(?:-(\d+))?")  # folders of lib.phantom, below data
KIT_PLACES = (PROJECT / "data" / "archive.zip", PROJECT / "data" / "kaggle_3m")
"""The archive first: it is compared with the folder beside it."""
KAGGLE_INPUT = Path("/kaggle/input")
"""Where Kaggle's own notebooks find data sets, some folders deeper."""
_FLAGS = re.IGNORECASE | re.DOTALL  # a name may even have line ends
_SLICE = re.compile(r"(?P<stem>.+)_(?P<number>\d+)(?P<mask>_mask)?\.tiff?", _FLAGS)
_DAY = r"(19|20)\d\d[-._]?(0[1-9]|1[0-2])[-._]?(0[1-9]|[12]\d|3[01])"
_DATE = re.compile(rf"^{_DAY}[-._]|[-._]{_DAY}([-._]\d{{1,2}})?$")  # of a visit, and its number
_PICTURE = re.compile(r".+\.(tiff?|png|jpe?g|bmp|gif|dcm|nii|gz)", _FLAGS)
_PICTURE_OR_ZIP = re.compile(rf"{_PICTURE.pattern}|.+\.zip", _FLAGS)
_MAX_FILES, _MAX_BYTES = 50_000, 8 * 2**30  # the real archive: 15,718 files (each twice), 2 GiB
_SEARCH_DEPTH = 4
_SYSTEM_FOLDERS = frozenset(
    {"lost+found", "system volume information", "$recycle.bin", "recycler", "found.000"}
)
"""Folders that systems put on a disk, in lower case. Users may often not read them."""
_UNPACKED = ".unpacked"  # beside the patients: what the archive held, and a remark on it
_TOO_MUCH = 0.5  # of the head, or of the air: no tumour is that large
_NAMED = "slices are named <patient>/<patient>_<slice>.tif, their masks ..._<slice>_mask.tif"
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)  # the last two: a kind of compression that Python lacks, a password


SlicePlace = tuple[str, str]
"""Patient and file name of a slice."""


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


def person_of(name: str) -> str:
    """Return a patient's name without the date of the visit, ``P01`` of ``P01_2001-02-03_2``.

    What is left must have a digit, as ids do: ``scan_20010203`` is named by its date alone.
    """
    left = _DATE.sub("", name)
    return left if re.search(r"\d", left) else name


def cache_folder() -> Path:
    """Return the folder of caches: ``KIT_CACHE``, else ``data/cache``, else a temporary folder."""
    if os.environ.get("KIT_CACHE"):
        return Path(os.environ["KIT_CACHE"]).expanduser()
    return _own_cache()


def place_in_cache(name: str, ready: Callable[[Path], bool]) -> Path:
    """Return the place of that name among the caches: one that is ready, else one to build it in.

    A class may share a cache that its students cannot write. What it lacks goes into their own.
    """
    shared = cache_folder()
    closed = shared.is_dir() and not os.access(shared, os.W_OK)
    return _own_cache() / name if closed and not ready(shared / name) else shared / name


def _own_cache() -> Path:
    """Return the folder of caches of this kit, or of this user where the kit cannot be written."""
    folder = PROJECT / "data" / "cache"
    # with the user in its name: a class may share a computer, and its folder for temporary files
    temporary = Path(tempfile.gettempdir()) / f"brain-segmentation-cache-{this_user()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return temporary
    return folder if os.access(folder, os.W_OK) else temporary


# --- finding --------------------------------------------------------------------------------------


def usual_places() -> list[Path]:
    """Return where the data set is, if it is where one would put it; in this folder, on Kaggle.

    Raises:
        KitError: this is Kaggle, and no patients are there, or in several places.
    """
    found = [place for place in KIT_PLACES if place.exists()]
    if found or not (KAGGLE_INPUT.is_dir() or "KAGGLE_KERNEL_RUN_TYPE" in os.environ):
        return found
    advice = (
        f"on Kaggle, add the data set {KAGGLE_DATASET} under Add Input, or take the phantom: "
        f"start(data='phantom'), or KIT_DATA=phantom in the environment"
    )
    if not KAGGLE_INPUT.is_dir() or not any(KAGGLE_INPUT.iterdir()):
        raise KitError(f"{KAGGLE_INPUT}: no data set is attached to this notebook; {advice}")
    try:
        return [find_root(KAGGLE_INPUT)]
    except KitError as error:
        raise KitError(f"{error}; {advice}") from None


def find_root(source: str | Path) -> Path:
    """Return the folder whose sub-folders are patients.

    Args:
        source: that folder, one that holds it (at most four levels up), Kaggle's ``archive.zip``,
            the word ``phantom`` (or ``phantom-SEED``) for that of the kit, or ``kaggle`` to
            download the dataset with kagglehub.

    Raises:
        KitError: nothing usable there.
    """
    if str(source) == "kaggle":
        source = _download()
    source = as_path(source, "data").expanduser()
    if not source.exists() and (match := _PHANTOM.fullmatch(str(source))):
        source = PROJECT / "data" / source
        if not source.is_dir():
            seed = f" --seed {match[1]}" if match[1] else ""
            raise KitError(
                f"{source}: is not made yet; make it: python -m lib.phantom {source}{seed}"
            )
    if not source.exists():
        raise KitError(
            f"{source}: no such file or folder; give the Kaggle folder (kaggle_3m) or Kaggle's "
            f"archive.zip, or the word phantom; "
            f"{see('data/README.md', 'The LGG segmentation dataset')}"
        )
    if source.is_file():
        return unpack(source)
    found = _distinct(_candidates(source))
    if found:
        _require_one(source, found)
        return found[0]
    if _looks_like_patient(source):
        raise KitError(f"{source}: this is one patient's folder; give the folder that holds it")
    some = itertools.islice(source.rglob("*"), 20_000)
    here = next((path for path in some if _PICTURE_OR_ZIP.fullmatch(path.name)), None)
    seen = f", there is e.g. {here.relative_to(source).as_posix()}" if here else ""
    raise KitError(
        f"{source}: no patient folders found; {_NAMED}{seen}; "
        f"{see('extending', 'A data set of your own')}"
    )


def _candidates(source: Path) -> Iterator[Path]:
    """Yield the folders of patients in ``source``, those nearest to it first."""
    level = [source]
    for _ in range(_SEARCH_DEPTH + 1):
        below = []
        for folder in level:
            children = _folders(folder)
            if any(_looks_like_patient(child) for child in children):
                if folder == source or not (folder / LIST).is_file():  # predicted masks
                    yield folder
            else:
                below += children
        level = below


def _distinct(found: Iterable[Path]) -> list[Path]:
    """Return each folder once, by its own name rather than by that of a link to it."""
    folders: dict[Path, Path] = {}
    for folder in found:
        place = folder.resolve()
        if place not in folders or (folders[place].name != place.name == folder.name):
            folders[place] = folder
    return list(folders.values())


def _require_one(source: Path, found: list[Path]) -> None:
    """Raise ``KitError`` unless all folders of patients are the first one again.

    Kaggle's archive has the patients twice, in a folder and in one within another.
    """
    if len(found) == 1:
        return
    depths = {len(folder.parts) for folder in found}
    if len(depths) == len(found) and len({_signs(folder) for folder in found}) == 1:
        return
    first, second = (folder.relative_to(source).as_posix() for folder in found[:2])
    raise KitError(
        f"{source}: {len(found)} folders hold patients, {first} and {second}"
        f"{' ...' if len(found) > 2 else ''}; give the one that is meant, with the masks beside "
        f"their images"
    )


def _signs(root: Path) -> frozenset[tuple[str, str, int, int]]:
    """Return patient, name and bytes of each slice, and a checksum of two of each patient.

    To read all of them would take minutes where Kaggle mounts the data set.
    """
    signs = set()
    for folder in _folders(root):
        names = sorted(name for name in _names(folder) if _is_slice_name(name))
        middle = names[len(names) // 2 - 1 : len(names) // 2 + 1]
        for name in names:
            file = folder / name
            size = file.stat().st_size if file.exists() else -1
            checksum = zlib.crc32(file.read_bytes()) if name in middle and file.is_file() else 0
            signs.add((folder.name, name, size, checksum))
    return frozenset(signs)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(
            child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
        )
    except PermissionError:  # such a folder is none of the user's data
        return []


def _looks_like_patient(folder: Path) -> bool:
    try:
        return any(_is_slice_of(folder.name, child.name) for child in folder.iterdir())
    except PermissionError:
        return False


def _is_slice_name(name: str) -> bool:
    """Return whether a file name is that of a slice; macOS writes ``._P01_1.tif`` beside them."""
    return _SLICE.fullmatch(name) is not None and not name.startswith(".")


def _is_slice_of(patient: str, name: str) -> bool:
    """Return whether a file name is that of a slice of a patient, or of its mask."""
    match = _SLICE.fullmatch(name)
    return match is not None and _composed(match["stem"]) == _composed(patient)


def _composed(name: str) -> str:
    """Return a name with each accent as part of its letter; macOS writes them apart."""
    return unicodedata.normalize("NFC", name)


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
        KitError: not a zip, damaged, without slices, with patients in several folders, or far
            larger than the dataset; or the folder is there already and holds other slices.
    """
    target = archive.parent / ("kaggle_3m" if archive.name == "archive.zip" else archive.stem)

    def extract(folder: Path) -> None:
        with zipfile.ZipFile(archive) as bundle:
            content, entries = _slice_entries(archive, bundle)
            for (patient, name), entry in entries.items():
                (folder / patient).mkdir(exist_ok=True)
                with bundle.open(entry) as source, open(folder / patient / name, "wb") as sink:
                    shutil.copyfileobj(source, sink)
            remark = _not_unpacked(archive, bundle)
            (folder / _UNPACKED).write_text(f"{content}\n{remark}", encoding="utf-8")

    with _in_words(archive):
        build_folder(target, lambda: target.is_dir() and any(_folders(target)), extract)
        _require_unpacked_from(archive, target)
    return target


def slices_in_archive(archive: Path) -> int:
    """Return how many slices ``unpack`` would find in a zip, masks not counted.

    Raises:
        KitError: as ``unpack``.
    """
    with _in_words(archive), zipfile.ZipFile(archive) as bundle:
        _, entries = _slice_entries(archive, bundle)
    return sum("_mask." not in name for _, name in entries)


@contextmanager
def _in_words(archive: Path) -> Iterator[None]:
    """Raise KitError instead of the errors of a zip that is damaged, or of the system."""
    try:
        yield
    except DAMAGED_ZIP as error:
        raise KitError(f"{archive}: cannot be unpacked ({error}); download it again") from None
    except OSError as error:
        trouble = "cannot be read" if _is_about(error, archive) else "cannot be unpacked here"
        raise KitError(
            f"{archive}: {trouble} ({error.strerror or error}); {remedy(error)}, or unpack it by "
            f"hand elsewhere"
        ) from None


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether a system's error names this file."""
    return error.filename is not None and os.fsdecode(error.filename) == str(path)


def _content(entries: Mapping[SlicePlace, zipfile.ZipInfo]) -> str:
    """Return the fingerprint of the slices of an archive, by names, sizes and checksums."""
    found = ((place, entry.file_size, entry.CRC) for place, entry in entries.items())
    return fingerprint(sorted(found))


def _parts(entry: zipfile.ZipInfo) -> list[str]:
    """Return the folders of an entry and its name; some programs write backslashes."""
    return re.split(r"[\\/]", entry.filename)


def _is_slice_entry(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry is a slice in the folder of its patient."""
    parts = _parts(entry)
    return len(parts) > 1 and _is_slice_of(parts[-2], parts[-1]) and _is_safe(parts[-2])


def _require_unpacked_from(archive: Path, target: Path) -> None:
    """Raise ``KitError`` unless a folder holds what an archive holds."""
    with zipfile.ZipFile(archive) as bundle:
        content, entries = _slice_entries(archive, bundle)
    here = _slices_in(target)
    odd = sorted(entries.keys() ^ here.keys())
    if not odd and not _is_as_unpacked(target / _UNPACKED, content, here.values()):
        odd = _compared(archive, target, content, entries, here)
    if odd:
        raise KitError(
            f"{target}: is not what {archive.name} holds ({len(odd)} slices differ, e.g. "
            f"{'/'.join(odd[0])}); move the folder away to unpack the archive, or name the folder "
            f"to use it as it is"
        )


def _slices_in(root: Path) -> dict[SlicePlace, Path]:
    """Return (patient, file name) -> path of each slice in the folders of a folder."""
    return {
        (folder.name, name): folder / name
        for folder in _folders(root)
        if not _is_closed_system_folder(folder)
        for name in _names(folder)
        if _is_slice_name(name) and (folder / name).is_file()
    }


def _compared(
    archive: Path,
    target: Path,
    content: str,
    entries: Mapping[SlicePlace, zipfile.ZipInfo],
    here: Mapping[SlicePlace, Path],
) -> list[SlicePlace]:
    """Return which slices of a folder differ from the entries of an archive, sorted.

    All files are read. If none differs, a mark in the folder of caches says so, with the dates of
    the slices; the folder itself is the user's.
    """
    place = fingerprint([str(path.resolve()) for path in (archive, target)])
    mark = cache_folder() / f"unpacked-{place[:16]}.txt"
    stats = {place: path.stat() for place, path in here.items()}
    dates = [(*place, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for place, s in stats.items()]
    state = fingerprint([content, sorted(dates)])
    with suppress(OSError):
        if mark.read_bytes() == state.encode():
            return []
    odd = sorted(place for place, path in here.items() if not _is_entry(path, entries[place]))
    if not odd:
        with suppress(KitError):  # the files are compared again the next time
            write_atomic(mark, state, durable=False)
    return odd


def _is_as_unpacked(mark: Path, content: str, slices: Collection[Path]) -> bool:
    """Return whether a mark is of this content, and no slice has changed since it was written."""
    if not mark.is_file() or mark.read_bytes().split(b"\n")[0] != content.encode():
        return False
    stats = [path.stat() for path in slices]
    latest = max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
    return latest < mark.stat().st_mtime_ns


def _is_entry(path: Path, entry: zipfile.ZipInfo) -> bool:
    """Return whether a file has the content of an entry of an archive."""
    return path.stat().st_size == entry.file_size and zlib.crc32(path.read_bytes()) == entry.CRC


def _remark_in(mark: Path) -> str:
    """Return the remark on what was passed over in the archive, empty if there is none."""
    text = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else ""
    return text.partition("\n")[2]


def _not_unpacked(archive: Path, bundle: zipfile.ZipFile) -> str:
    """Return a remark on the pictures of an archive that are no slices, empty if there are none."""
    names = [_parts(entry)[-1] for entry in bundle.infolist()]
    others = [
        entry.filename
        for entry, name in zip(bundle.infolist(), names, strict=True)
        if _PICTURE.fullmatch(name) and not name.startswith(".") and not _is_slice_entry(entry)
    ]
    return _passed_over(len(others), f"{archive.name}/{others[0]}") if others else ""


def _slice_entries(
    archive: Path, bundle: zipfile.ZipFile
) -> tuple[str, dict[SlicePlace, zipfile.ZipInfo]]:
    """Return the fingerprint of an archive's slices, and (patient, file name) -> entry.

    Kaggle's archive has the patients twice, in a folder and in one within another. Of the entries
    of one name the last counts, as in other programs.
    """
    holders: dict[tuple[str, ...], dict[SlicePlace, zipfile.ZipInfo]] = {}
    for entry in bundle.infolist():
        if _is_slice_entry(entry):
            *holder, patient, name = _parts(entry)
            holders.setdefault(tuple(holder), {})[patient, name] = entry
    if not holders:
        names = (entry.filename for entry in bundle.infolist())
        here = next((name for name in names if _PICTURE_OR_ZIP.fullmatch(name)), None)
        raise KitError(
            f"{archive}: no patients found; {_NAMED}{f', there is e.g. {here}' if here else ''}"
        )
    content, *others = {_content(entries) for entries in holders.values()}
    if others:
        first, second = ("/".join(holder) or "." for holder in itertools.islice(holders, 2))
        raise KitError(
            f"{archive}: {len(holders)} folders in it hold patients, {first} and {second}"
            f"{' ...' if len(holders) > 2 else ''}; unpack it by hand and give the folder that is "
            f"meant, with the masks beside their images"
        )
    entries = next(iter(holders.values()))
    size = sum(entry.file_size for entry in entries.values())
    largest = max(entry.file_size for entry in entries.values())
    if len(entries) > _MAX_FILES or size > _MAX_BYTES or largest > MAX_BYTES:
        raise KitError(
            f"{archive}: {len(entries)} slices of {size / 2**30:.1f} GiB, the largest of "
            f"{largest / 2**20:.0f} MiB, far more than the dataset; unpack it by hand if you trust "
            f"it"
        )
    return content, entries


_UNSAFE = re.compile(
    r'^\.|[<>:"|?*\x00-\x1f]|[. ]$'
    r"|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)",  # devices of Windows, with any ending
    re.IGNORECASE,
)


def _is_safe(folder: str) -> bool:
    """Return whether a folder of this name can be made, and inside of another, on any system."""
    return not _UNSAFE.search(folder) and folder == folder.strip()


# --- listing --------------------------------------------------------------------------------------


def list_patients(root: Path) -> list[Patient]:
    """Return the patients of a Kaggle folder, sorted by name; files that are no slices are ignored.

    Raises:
        KitError: an image without its mask, a mask without its image, a slice number twice, or a
            slice of a patient of another name.
    """
    patients = [
        patient
        for folder in _folders(root)
        if not _is_closed_system_folder(folder) and (patient := _list_patient(folder)) is not None
    ]
    if not patients:
        raise KitError(f"{root}: no patient folders found")
    return patients


def _list_patient(folder: Path) -> Patient | None:
    found: dict[bool, dict[int, Path]] = {False: {}, True: {}}
    for name in sorted(_names(folder)):
        match = _SLICE.fullmatch(name)
        if not match or not _is_slice_name(name):
            continue
        if not _is_slice_of(folder.name, name):
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


def _is_closed_system_folder(folder: Path) -> bool:
    """Return whether a folder is the system's and cannot be read: it is no patient."""
    return folder.name.lower() in _SYSTEM_FOLDERS and not _is_readable(folder)


def _is_readable(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except OSError:
        return False
    return True


def _names(folder: Path) -> list[str]:
    """Return the names in a folder. Raises KitError if it cannot be read."""
    try:
        return [child.name for child in folder.iterdir()]
    except OSError as error:
        raise KitError(
            f"{folder}: cannot be read ({error.strerror}); restore it, or remove it"
        ) from None


def passed_over(root: Path, patients: list[Patient]) -> list[str]:
    """Return remarks on what is passed over.

    These are the pictures in ``root``, and in its archive, that are no slices, and the folders that
    cannot be read.
    """
    taken = {path for patient in patients for path in (*patient.images, *patient.masks)}
    pictures, closed = _pictures(root, _SEARCH_DEPTH)
    others = [path for path in pictures if path not in taken]
    remarks = [_remark_in(root / _UNPACKED)]
    if others:
        remarks.append(_passed_over(len(others), others[0].relative_to(root).as_posix()))
    if closed:
        example = _in_one_line(closed[0].relative_to(root).as_posix())
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
        if _PICTURE.fullmatch(child.name):
            pictures.append(child)
        elif depth and child in folders:
            within, closed_within = _pictures(child, depth - 1)
            pictures += within
            closed += closed_within
    return pictures, closed


def _passed_over(count: int, example: str) -> str:
    return f"pictures passed over: {count}, e.g. {_in_one_line(example)}; {_NAMED}"


def _in_one_line(name: str) -> str:
    """Return a name without signs that would break a line, as a remark is one."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", name)


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


# --- reading --------------------------------------------------------------------------------------


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
    if mask.mean() < _TOO_MUCH / 5:  # of a picture a fifth at least is head, and a fifth is air
        return
    head = volume.max(axis=3) > volume.max() / 10
    for where, voxels in (("head", head), ("air around it", ~head)):
        if voxels.any() and mask[voxels].mean() > _TOO_MUCH:
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


# --- writing --------------------------------------------------------------------------------------


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
