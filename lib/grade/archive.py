"""Write the zip of a submission with the same bytes each time; unpack it without trust."""

from __future__ import annotations

import os
import re
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from lib.data.kaggle import DAMAGED_ZIP
from lib.utils import KitError

MAX_FILES, MAX_BYTES, MAX_ZIP = 5_000, 2**30, 300 * 2**20
MAX_DEPTH, MAX_NAME = 12, 200
MAX_RATIO, RATIO_FROM = 200, 2**20  # small files of zeros compress further than any bomb needs to
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip
_NO_NAME = re.compile(r'[\x00-\x1f\x7f:*?"<>|]')  # Windows refuses these
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LITTER = ("__MACOSX", ".DS_Store", "__pycache__", ".ipynb_checkpoints")


def write_zip(target: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write files into a zip, atomically.

    The same content gives the same bytes, whatever the dates of the files.

    Args:
        files: name in the zip -> a file or its content.
    """
    partial = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(partial, "w") as bundle:
            for name, content in sorted(files.items()):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                entry.create_system = 3  # Unix, on every system
                entry.compress_type = (
                    zipfile.ZIP_STORED if name.endswith(".pt") else zipfile.ZIP_DEFLATED
                )
                bundle.writestr(
                    entry, content if isinstance(content, bytes) else content.read_bytes()
                )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def unpack(source: Path, folder: Path, suffixes: tuple[str, ...]) -> None:
    """Copy the files of a zip, or of a folder, below ``folder`` and nowhere else.

    Only files that end in one of ``suffixes`` are written. If one name leads elsewhere, nothing is.

    Raises:
        KitError: no zip, or a damaged one; a name that leads out of the folder, a link, the same
            name twice; or too large.
    """
    try:
        if source.is_dir():
            _copy_folder(source, folder, suffixes)
        elif source.stat().st_size > MAX_ZIP:
            raise KitError(
                f"{source.name}: larger than {MAX_ZIP >> 20} MiB; submit no data, and the weights "
                f"of one run"
            )
        else:
            with zipfile.ZipFile(source) as bundle:
                _extract(source.name, bundle, folder, suffixes)
    except DAMAGED_ZIP as error:
        raise KitError(
            f"{source.name}: is no zip, or damaged ({_brief(error)}); submit it again"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, KitError):
            raise
        raise KitError(
            f"{source.name}: cannot be unpacked ({_brief(error)}); submit it again"
        ) from None


def _brief(error: BaseException) -> str:
    """Return the text of an error in one short line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _extract(origin: str, bundle: zipfile.ZipFile, folder: Path, suffixes: tuple[str, ...]) -> None:
    """Copy the wanted files of a zip below ``folder``, once all entries are checked."""
    entries = [
        (_safe_path(origin, entry.orig_filename), entry)
        for entry in bundle.infolist()
        if not entry.is_dir()
    ]
    for path, entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG):
            raise KitError(f"{origin}: {path} is a link or a device; submit plain files")
        if entry.file_size > max(RATIO_FROM, MAX_RATIO * entry.compress_size):
            raise KitError(
                f"{origin}: {path} unpacks to {entry.file_size / 2**20:.0f} MiB, over {MAX_RATIO} "
                f"times its size; no submission does"
            )
    _require_fair(origin, [(path, entry.file_size) for path, entry in entries])
    for path, entry in entries:
        if _is_wanted(path, suffixes):
            target = folder.joinpath(*path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(entry) as stream, open(target, "xb") as sink:
                shutil.copyfileobj(stream, sink)


def _copy_folder(source: Path, folder: Path, suffixes: tuple[str, ...]) -> None:
    """Copy the wanted files of a folder below another, once all of them are checked."""
    found = [
        (_safe_path(source.name, path.relative_to(source).as_posix()), path)
        for path in plain_files(source)
    ]
    _require_fair(source.name, [(path, original.stat().st_size) for path, original in found])
    for path, original in found:
        if _is_wanted(path, suffixes):
            target = folder.joinpath(*path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, target)


def plain_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, by name; links are not followed.

    Raises:
        KitError: a link, a device, or too many files.
    """
    number = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = Path(place, name)
            mode, number = path.lstat().st_mode, number + 1
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise KitError(f"{folder.name}: {name} is a link or a device; submit plain files")
            if number > MAX_FILES:
                raise KitError(
                    f"{folder.name}: more than {MAX_FILES} files; submit what pack makes"
                )
            if stat.S_ISREG(mode):
                yield path


def _safe_path(origin: str, name: str) -> PurePosixPath:
    """Return a name as a path that stays below its folder on every system.

    Raises:
        KitError: it would not, or no file can have this name.
    """
    text = name.replace("\\", "/")  # some tools on Windows write it so
    parts = [part for part in text.split("/") if part != "."]
    shown = ascii(name[:60])
    if text.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", text):
        raise KitError(f"{origin}: the name {shown} leads out of its folder; nothing was unpacked")
    if (
        len(text) > MAX_NAME
        or len(parts) > MAX_DEPTH
        or _NO_NAME.search(text)
        or any(
            not part or part != part.strip() or part.endswith(".") or _DEVICE.fullmatch(part)
            for part in parts
        )
    ):
        raise KitError(
            f"{origin}: no file can have the name {shown} on every system; nothing was unpacked"
        )
    return PurePosixPath(*parts)


def _require_fair(origin: str, files: list[tuple[PurePosixPath, int]]) -> None:
    """Raise KitError for too many files or bytes, or for a name that occurs twice."""
    size = sum(size for _, size in files)
    if len(files) > MAX_FILES or size > MAX_BYTES:
        raise KitError(
            f"{origin}: {len(files)} files of {size / 2**20:.0f} MiB, more than {MAX_FILES} or "
            f"{MAX_BYTES >> 20} MiB; submit what pack makes"
        )
    seen: set[str] = set()
    for path, _ in files:
        name = unicodedata.normalize("NFC", str(path)).casefold()
        if name in seen:
            raise KitError(f"{origin}: the name {str(path)!a} occurs twice; nothing was unpacked")
        seen.add(name)


def _is_wanted(path: PurePosixPath, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file is one that a grader reads."""
    return path.suffix.lower() in suffixes and not any(part in _LITTER for part in path.parts)
