"""Unpack Kaggle's archive, safely and once."""

from __future__ import annotations

import itertools
import lzma
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lib.data.cache_place import cache_folder
from lib.data.layout import (
    NAMED,
    PICTURE,
    PICTURE_OR_ZIP,
    SlicePlace,
    folders_in,
    is_closed_system_folder,
    is_slice_name,
    is_slice_of,
    names_in,
    passed_over_in_words,
)
from lib.data.pictures import MAX_BYTES
from lib.utils import KitError, build_folder, fingerprint, remedy, write_atomic

UNPACKED = ".unpacked"  # beside the patients: what the archive held, and a remark on it
_MAX_FILES, _MAX_BYTES = 50_000, 8 * 2**30  # the real archive: 15,718 files (each twice), 2 GiB
_UNSAFE = re.compile(
    r'^\.|[<>:"|?*\x00-\x1f]|[. ]$'
    r"|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)",  # devices of Windows, with any ending
    re.IGNORECASE,
)
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)  # the last two: a kind of compression that Python lacks, a password


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
    if target == archive:  # a name without an ending
        raise KitError(f"{archive}: its folder would have the same name; rename it to archive.zip")

    def extract(folder: Path) -> None:
        with zipfile.ZipFile(archive) as bundle:
            content, entries = _slice_entries(archive, bundle)
            for (patient, name), entry in entries.items():
                (folder / patient).mkdir(exist_ok=True)
                with bundle.open(entry) as source, open(folder / patient / name, "wb") as sink:
                    shutil.copyfileobj(source, sink)
            remark = _not_unpacked(archive, bundle)
            (folder / UNPACKED).write_text(f"{content}\n{remark}", encoding="utf-8")

    with _in_words(archive):
        build_folder(target, lambda: target.is_dir() and any(folders_in(target)), extract)
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


def _require_unpacked_from(archive: Path, target: Path) -> None:
    """Raise ``KitError`` unless a folder holds what an archive holds."""
    with zipfile.ZipFile(archive) as bundle:
        content, entries = _slice_entries(archive, bundle)
    here = _slices_in(target)
    odd = sorted(entries.keys() ^ here.keys())
    if not odd and not _is_as_unpacked(target / UNPACKED, content, here.values()):
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
        for folder in folders_in(root)
        if not is_closed_system_folder(folder)
        for name in names_in(folder)
        if is_slice_name(name) and (folder / name).is_file()
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


def remark_in(mark: Path) -> str:
    """Return the remark on what was passed over in the archive, empty if there is none."""
    text = mark.read_text(encoding="utf-8", errors="replace") if mark.is_file() else ""
    return text.partition("\n")[2]


def _not_unpacked(archive: Path, bundle: zipfile.ZipFile) -> str:
    """Return a remark on the pictures of an archive that are no slices, empty if there are none."""
    names = [_parts(entry)[-1] for entry in bundle.infolist()]
    others = [
        entry.filename
        for entry, name in zip(bundle.infolist(), names, strict=True)
        if PICTURE.fullmatch(name) and not name.startswith(".") and not _is_slice_entry(entry)
    ]
    return passed_over_in_words(len(others), f"{archive.name}/{others[0]}") if others else ""


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
        here = next((name for name in names if PICTURE_OR_ZIP.fullmatch(name)), None)
        raise KitError(
            f"{archive}: no patients found; {NAMED}{f', there is e.g. {here}' if here else ''}"
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
    return len(parts) > 1 and is_slice_of(parts[-2], parts[-1]) and _is_safe(parts[-2])


def _is_safe(folder: str) -> bool:
    """Return whether a folder of this name can be made, and inside of another, on any system."""
    return not _UNSAFE.search(folder) and folder == folder.strip()
