"""Write the zip of a submission with the same bytes each time; unpack it without trust."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, NoReturn

from lib.data.archive import DAMAGED_ZIP
from lib.grade.trouble import GraderError, in_one_line, of_the_computer
from lib.logger import BEST_CSV, TRAIN_CSV
from lib.utils import KitError, fingerprint, sha256, write_atomic

MAX_ENTRIES = 100_000  # of any kind: to look at their names takes seconds
MAX_FILES, MAX_BYTES, MAX_ZIP = 5_000, 2**30, 300 * 2**20  # of what is read
MAX_DEPTH, MAX_NAME = 12, 200
MAX_PART = 255  # bytes of the name of a file or folder: a Chinese letter takes three
MAX_RATIO, RATIO_FROM = 200, 2**20  # small files of zeros compress further than any bomb needs to
WORDS = (".ipynb", ".md")  # files in which a student writes: no score needs them
RESULT = "result"  # folder of a submission
_ENCRYPTED = 0x1  # bit in the flags of an entry
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip
_NO_NAME = re.compile(r'[\x00-\x1f\x7f:*?"<>|]')  # Windows refuses these
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LITTER = ("__MACOSX", "__pycache__", "node_modules", "site-packages")  # and what begins with a dot


def write_zip(target: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write files into a zip, atomically.

    The same content gives the same bytes, whatever the dates of the files.

    Args:
        files: name in the zip -> a file or its content.

    Raises:
        KitError: no space, or no right to write there.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.create_system = 3  # Unix, on every system
            entry.compress_type = (
                zipfile.ZIP_STORED if name.endswith(".pt") else zipfile.ZIP_DEFLATED
            )
            bundle.writestr(entry, content if isinstance(content, bytes) else content.read_bytes())
    write_atomic(target, packed.getbuffer())


class Member(NamedTuple):
    """A file of a submission that is not read yet.

    Attributes:
        parts: of its name, in the composed form of Unicode.
        packed: bytes that it takes in the zip.
        open: returns its content as a stream.
    """

    parts: tuple[str, ...]
    size: int
    packed: int
    open: Callable[[], IO[bytes]]

    @property
    def suffix(self) -> str:
        """Return how its name ends; see ``_suffix``."""
        return _suffix(self.parts)


def unpack(source: Path, folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Copy the files of a zip, or of a folder, below ``folder`` and nowhere else.

    Only files that end in one of ``suffixes`` are written, without the folders that contain all of
    them; files of the results alone are written into a folder ``RESULT``. If one name leads
    elsewhere, nothing is. If there are no results but one zip, that zip is unpacked; one level is
    enough.

    Returns:
        The names of files that were left out, because no file can have them on every system; and
        of notebooks and texts that occur twice or unpack to far more than they take.

    Raises:
        KitError: no zip, or a damaged one; a zip in a zip in a zip; a name that leads out of the
            folder, a link, the same name twice; or too large.
        GraderError: the computer cannot write it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_dir():
            return _extract(source.name, _in_folder(source), folder, suffixes)
        with open(source, "rb") as stream:
            return _extract_zip(source.name, stream, folder, suffixes)
    except KitError:
        raise
    except DAMAGED_ZIP as error:
        raise KitError(
            f"{source.name}: is no zip, or damaged ({in_one_line(error, 120)}); submit it again"
        ) from None
    except (OSError, ValueError) as error:
        if of_the_computer(error):
            raise GraderError(in_one_line(error)) from error
        raise KitError(
            f"{source.name}: cannot be unpacked ({in_one_line(error, 120)}); submit it again"
        ) from None


def _extract_zip(
    origin: str, stream: IO[bytes], folder: Path, suffixes: tuple[str, ...], is_inner: bool = False
) -> list[str]:
    """Copy the wanted files of a zip below ``folder``."""
    if stream.seek(0, os.SEEK_END) > MAX_ZIP:
        raise KitError(
            f"{origin}: larger than {MAX_ZIP >> 20} MiB; submit no data, and the weights of one run"
        )
    with zipfile.ZipFile(stream) as bundle:
        return _extract(origin, _in_zip(origin, bundle), folder, suffixes, is_inner)


def _extract(
    origin: str,
    members: Iterable[Member],
    folder: Path,
    suffixes: tuple[str, ...],
    is_inner: bool = False,
) -> list[str]:
    """Copy the wanted files below ``folder``, once all are checked; return the odd names."""
    members = list(members)
    inner = _inner_zip(origin, members, suffixes)
    if inner is not None and is_inner:
        raise KitError(
            f"{origin}: is in a zip, and has no results but a zip again, {inner.parts[-1][:60]!a}; "
            f"submit that one alone, as pack made it"
        )
    if inner is not None:
        _require_fair(origin, {PurePosixPath(*inner.parts): inner})
        with inner.open() as packed, tempfile.TemporaryFile(dir=folder) as stream:
            shutil.copyfileobj(packed, stream)
            return _extract_zip(
                f"{origin}/{inner.parts[-1]}", stream, folder, suffixes, is_inner=True
            )
    files, odd = _wanted(origin, members, suffixes)
    _require_fair(origin, files)
    for path, member in files.items():
        target = folder.joinpath(*path.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as content, open(target, "xb") as sink:
            shutil.copyfileobj(content, sink)
    return odd


def _inner_zip(origin: str, members: Iterable[Member], suffixes: tuple[str, ...]) -> Member | None:
    """Return the zip in a zip or folder without results, as platforms and clouds export them."""
    named = {member.parts[-1] for member in members if member.suffix in suffixes}
    if named & {BEST_CSV, TRAIN_CSV}:
        return None
    zips = [member for member in members if member.suffix == ".zip"]
    if len(zips) > 1:
        raise KitError(
            f"{origin}: has {len(zips)} zips and no results; submit one of them, or unpack it if "
            f"they are of several students"
        )
    return zips[0] if zips else None


def _wanted(
    origin: str, members: Iterable[Member], suffixes: tuple[str, ...]
) -> tuple[dict[PurePosixPath, Member], list[str]]:
    """Return the files that a grader reads by path, and the names that are left out.

    Those are names that no file can have, and files of ``WORDS`` that would refuse all the rest.

    Raises:
        KitError: the same name twice.
    """
    wanted = [member for member in members if member.suffix in suffixes]
    levels = zip(*(member.parts[:-1] for member in wanted), strict=False)
    depth = len(list(takewhile(lambda names: {*names} == {names[0]} != {RESULT}, levels)))
    around = (RESULT,) if _is_of_results([member.parts[depth:] for member in wanted]) else ()
    files: dict[PurePosixPath, Member] = {}
    odd: list[str] = []
    seen: set[str] = set()
    for member in wanted:
        # Windows cannot write a name with a blank at its end, which other systems can
        parts = (*around, *(part.strip() or part for part in member.parts[depth:]))
        path = PurePosixPath(*parts)
        if not _is_sane(path):
            odd.append("/".join(member.parts))
            continue
        if member.suffix in WORDS and (str(path).casefold() in seen or _is_bomb(member)):
            odd.append("/".join(member.parts))
            continue
        if str(path).casefold() in seen:
            raise KitError(
                f"{origin}: the name {str(path)!a} occurs twice, nothing was unpacked; submit one "
                f"of the two"
            )
        seen.add(str(path).casefold())
        files[path] = member
    return files, odd


def _is_of_results(names: Collection[tuple[str, ...]]) -> bool:
    """Return whether files are what the folder of results contains, without that folder."""
    here = {parts[0] for parts in names}
    return bool(here & {BEST_CSV, TRAIN_CSV}) and not any(RESULT in parts for parts in names)


def _in_zip(origin: str, bundle: zipfile.ZipFile) -> Iterator[Member]:
    """Yield the files of a zip.

    Raises:
        KitError: a name that leads out of the folder, a link, a device, a file that needs a
            password, or too many entries.
    """
    entries = bundle.infolist()
    if len(entries) > MAX_ENTRIES:
        raise KitError(f"{origin}: more than {MAX_ENTRIES} entries; submit what pack makes")
    for entry in entries:
        name = entry.orig_filename
        parts = _inside(origin, name)
        if any(map(is_litter, parts)):  # a folder .venv has links, and nobody reads them
            continue
        if entry.flag_bits & _ENCRYPTED:
            raise KitError(f"{origin}: has a password; submit it without")
        kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise KitError(f"{origin}: {name!a} is a link or a device; submit plain files")
        if parts and kind != stat.S_IFDIR and not name.endswith(("/", "\\")):
            yield Member(parts, entry.file_size, entry.compress_size, partial(bundle.open, entry))


def _in_folder(folder: Path) -> Iterator[Member]:
    """Yield the files below a folder.

    Raises:
        KitError: a name that leads out of the folder, a link, a device, or too many files.
    """
    for path in plain_files(folder):
        size = path.stat().st_size
        parts = _inside(folder.name, path.relative_to(folder).as_posix())
        yield Member(parts, size, size, partial(_open, path))


def plain_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, by name; litter is left out, and links are not followed.

    Raises:
        KitError: a link, a device, or too many files.
    """
    number = 0
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        for name in sorted([*folders, *(name for name in names if not is_litter(name))]):
            path = Path(place, name)
            mode, number = path.lstat().st_mode, number + 1
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise KitError(
                    f"{folder.name}: {path.relative_to(folder).as_posix()!a} is a link or a "
                    f"device; submit plain files"
                )
            if number > MAX_ENTRIES:
                raise KitError(
                    f"{folder.name}: more than {MAX_ENTRIES} files; submit what pack makes"
                )
            if stat.S_ISREG(mode):
                yield path


def _open(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _raise(error: OSError) -> NoReturn:
    raise error


def content_hash(source: Path, suffixes: tuple[str, ...]) -> str:
    """Return a hash of all that is read of a submission.

    Raises:
        KitError: it is too large, or contains links.
        OSError: it cannot be read.
    """
    if not source.is_dir():
        return sha256(source)
    files = {}
    for path in plain_files(source):
        parts = _inside(source.name, path.relative_to(source).as_posix())
        if _suffix(parts) in (*suffixes, ".zip"):
            files[parts] = path
    if sum(path.stat().st_size for path in files.values()) > MAX_BYTES:
        raise KitError(f"{source.name}: larger than {MAX_BYTES >> 20} MiB; submit what pack makes")
    return fingerprint([(parts, sha256(path)) for parts, path in files.items()])


def _suffix(parts: tuple[str, ...]) -> str:
    """Return how a name ends, in small letters; nothing for the litter of other programs."""
    return "" if any(map(is_litter, parts)) else PurePosixPath(parts[-1]).suffix.lower()


def is_litter(name: str) -> bool:
    """Return whether other programs leave files or folders of this name."""
    return name.startswith(".") or name in _LITTER


def _inside(origin: str, name: str) -> tuple[str, ...]:
    """Return the parts of a name that stays below its folder on every system.

    Raises:
        KitError: it does not.
    """
    text = composed(name.replace("\\", "/"))  # some tools on Windows write it so
    parts = text.split("/")
    if text.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:\S", text):
        raise KitError(
            f"{origin}: the name {name[:60]!a} leads out of its folder; submit what pack makes"
        )
    return tuple(part for part in parts if part not in ("", "."))


def composed(name: str) -> str:
    """Return a name in the composed form of Unicode: macOS may decompose its letters."""
    return unicodedata.normalize("NFC", name)


def _is_sane(path: PurePosixPath) -> bool:
    """Return whether a file can have this name on every system."""
    return (
        len(str(path)) <= MAX_NAME
        and all(len(part.encode()) <= MAX_PART for part in path.parts)
        and len(path.parts) <= MAX_DEPTH
        and not _NO_NAME.search(str(path))
        and not any(
            part != part.strip() or part.endswith(".") or _DEVICE.fullmatch(part)
            for part in path.parts
        )
    )


def _is_bomb(member: Member) -> bool:
    """Return whether a file is far larger than what it takes in the zip."""
    return member.size > max(RATIO_FROM, MAX_RATIO * member.packed)


def _require_fair(origin: str, files: Mapping[PurePosixPath, Member]) -> None:
    """Raise KitError for too many files or bytes, or for a file that is a bomb."""
    for path, member in files.items():
        if _is_bomb(member):
            raise KitError(
                f"{origin}: {str(path)!a} unpacks to {member.size / 2**20:.0f} MiB, over "
                f"{MAX_RATIO} times its size; submit what pack makes"
            )
    size = sum(member.size for member in files.values())
    if len(files) > MAX_FILES or size > MAX_BYTES:
        raise KitError(
            f"{origin}: {len(files)} files of {size / 2**20:.0f} MiB, more than {MAX_FILES} or "
            f"{MAX_BYTES >> 20} MiB; submit what pack makes"
        )
