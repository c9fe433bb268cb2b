"""Find the submissions in a folder, as Moodle, Canvas, Blackboard or GitHub Classroom fill it.

Moodle: a folder for each student and kind, ``Ada Byron_1234_assignsubmission_file`` (older ones end
with ``_``) beside ``..._onlinetext``; of a team the name and the number of its group. Canvas:
``byronada_LATE_12_345_ada.zip``, without names ``LATE_anon_x7Ab3_345_ada.zip``. Blackboard:
``gradebook_MRI_Task_ada_attempt_2026-11-28-12-30-00_ada.zip`` beside a text of the same attempt.
GitHub Classroom: a clone for each student.

No such platform was at hand. The names are those that Moodle and Canvas give in their code,
https://github.com/moodle/moodle (``mod/assign/classes/downloader.php``) and
https://github.com/instructure/canvas-lms (``lib/content_zipper.rb``), and that public scripts
expect of Blackboard.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lib.data.archive import DAMAGED_ZIP
from lib.grade.archive import MAX_ZIP, is_litter
from lib.grade.result import printable
from lib.grade.submission import MANIFEST
from lib.utils import KitError, say

MAX_DIRECTORY = 16 * 2**20  # bytes of the names in a zip; one that pack makes has some thousand
_END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".rar", ".7z")
_ATTEMPT = re.compile(r"(.+?_attempt_)(\d{4}(?:-\d\d){5})(?:_.*)?", re.DOTALL)
_ONLINE_TEXT = re.compile(r"(.+_assignsubmission_)onlinetext.*", re.DOTALL)
# who, late, user, file; the shortest, as students may name their files alike
_CANVAS = re.compile(r"(?:.+?_)??(LATE_)?(?:\d+|anon_[^_]+)_\d+_", re.DOTALL)

_CANVAS_NUMBERS = re.compile(r"(?<![^_])(?:\d+|anon_[^_]+)_\d+_$")
_MOODLE_FILE = re.compile(r".+_assignsubmission_[a-z]+_", re.DOTALL)
_MOODLE_NUMBER = re.compile(r"_\d+(?=_assignsubmission_)")


def list_submissions(folder: Path, out: Path | None = None) -> dict[str, Path]:
    """Return the submissions of a folder, name -> archive or folder.

    If a folder contains one zip that ``pack`` made, or nothing but one archive and texts, that
    counts. Archives that are no zip are listed, so that their row says what to do. Of several
    attempts of a student on Blackboard the last counts.

    Args:
        out: a folder in it that is none.

    Raises:
        KitError: there are none.
    """
    if not folder.is_dir():
        raise KitError(f"{folder}: no such folder; name the one with the submissions")
    if out and out.resolve() == folder.resolve():
        raise KitError(f"{out}: has the submissions; name another folder for what is written")
    entries = [
        path
        for path in sorted(folder.iterdir())
        if path.is_symlink() or not (out and out.resolve().is_relative_to(path.resolve()))
    ]
    found = [
        path
        for path in entries
        if not is_litter(path.name)
        and not path.is_symlink()
        and (path.is_dir() or (path.is_file() and _is_archive(path)))
    ]
    _say_what_is_left_out(folder, [path.name for path in entries if path not in found], found)
    if not found:
        raise KitError(f"{folder}: has no zip and no folder; put the submissions there")
    sources = [_archive_in(path) or path for path in _that_count(found)]
    return {_readable(path.relative_to(folder).as_posix()): path for path in sources}


def _say_what_is_left_out(folder: Path, names: Iterable[str], found: Iterable[Path]) -> None:
    """Name what is no submission and not beside one of the same student, such as a CSV or a link.

    Nor is what programs hide named. An archive always is.
    """
    begin = tuple(start for path in found for start in _beginnings(path.name))
    loose = [
        name
        for name in names
        if _may_be_archive(name) or not (is_litter(name) or name.startswith(begin))
    ]
    if loose:
        say(
            f"{folder}: {len(loose)} entries are no submission, and were not graded: "
            f"{', '.join(map(_readable, loose))}; ask for the zip that pack makes, and put "
            f"files in place of links"
        )


def _may_be_archive(name: str) -> bool:
    """Return whether something is called as an archive, hidden or not, but by macOS."""
    return name.lower().endswith(ARCHIVES) and not name.startswith("._")


def _beginnings(name: str) -> tuple[str, ...]:
    """Return how the names of all files of a submission begin, as platforms make them."""
    attempt, canvas = _ATTEMPT.fullmatch(name), _CANVAS.match(name)
    if attempt:
        return f"{attempt[1]}{attempt[2]}.", f"{attempt[1]}{attempt[2]}_"
    if canvas:  # without the number of the file, which is another for each
        return (re.sub(r"\d+_$", "", canvas[0]),)
    return (f"{name}.",)


def texts_with_ids(name: str) -> tuple[str, str]:
    """Return where the name of a submission may have an id, the better place first.

    That is what the student called the file, and then all of it but the numbers that the platform
    gives to people, groups and files.
    """
    folders, slash, file = name.rpartition("/")
    platforms = _CANVAS.match(file) or _MOODLE_FILE.match(file)
    sender, own = (platforms[0], file[platforms.end() :]) if platforms else ("", file)
    sender = _MOODLE_NUMBER.sub("", _CANVAS_NUMBERS.sub("", sender))
    return own, f"{_MOODLE_NUMBER.sub('', folders)}{slash}{sender}{own}"


def is_late(name: str) -> bool:
    """Return whether Canvas marked a submission as late in the name of its file."""
    found = _CANVAS.match(name)
    return bool(found and found[1])


def _that_count(found: Iterable[Path]) -> list[Path]:
    """Return the paths without online texts beside a file, and without earlier attempts."""
    paths = list(found)
    names = {path.name for path in paths}
    attempts = [match for name in names if (match := _ATTEMPT.fullmatch(name))]
    last = dict(sorted((each[1], each[2]) for each in attempts))  # who -> time of the last one
    kept = []
    for path in paths:
        online = _ONLINE_TEXT.fullmatch(path.name)
        if online and any(name.startswith(f"{online[1]}file") for name in names):
            continue
        attempt = _ATTEMPT.fullmatch(path.name)
        if attempt and attempt[2] != last[attempt[1]]:
            say(f"{_readable(path.name)}: the attempt of {last[attempt[1]]} is later, and counts")
        else:
            kept.append(path)
    return kept


def _archive_in(folder: Path) -> Path | None:
    """Return the archive that is the submission in a folder, or None if the folder itself is."""
    if not folder.is_dir():
        return None
    try:
        inside = [
            path
            for each in (folder, folder / "result")
            if each.is_dir() and not each.is_symlink()
            for path in sorted(each.iterdir())
            if _is_archive(path) and path.is_file() and not path.is_symlink()
        ]
    except PermissionError:
        return None  # its row says so
    packed = [path for path in inside if is_packed(path)]
    if len(packed) == 1:
        return packed[0]
    has_folders = any(path.is_dir() and not is_litter(path.name) for path in folder.iterdir())
    return inside[0] if len(inside) == 1 and not has_folders else None


def is_packed(file: Path) -> bool:
    """Return whether a file is a zip that ``pack`` made.

    It is asked outside the child process that reads submissions, so a large one is none.
    """
    try:
        if file.stat().st_size > MAX_ZIP or _bytes_of_names(file) > MAX_DIRECTORY:
            return False
        with zipfile.ZipFile(file) as bundle:
            return MANIFEST in bundle.namelist()
    except (*DAMAGED_ZIP, OSError, ValueError, OverflowError, struct.error):
        return False  # one that was never finished, damaged, or made to do harm


def _bytes_of_names(file: Path) -> int:
    """Return how many bytes the directory of a zip takes, as its end says; 0 if it is no zip."""
    size = _END_OF_DIRECTORY.size
    with open(file, "rb") as stream:
        stream.seek(-min(file.stat().st_size, size + 2**16), os.SEEK_END)
        end = stream.read()
    place = end.rfind(b"PK\5\6")
    if place < 0 or place + size > len(end):
        return 0
    return int(_END_OF_DIRECTORY.unpack_from(end, place)[5])


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() in ARCHIVES and not is_litter(path.name)


def _readable(name: str) -> str:
    """Return a name that can be printed, whatever its bytes on the disk are."""
    return printable(os.fsencode(name).decode("utf-8", errors="backslashreplace"))
