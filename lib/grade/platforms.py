"""Find the submissions in a folder, as Moodle, Canvas, Blackboard or GitHub Classroom fill it.

Moodle: a folder for each student and kind, ``Ada Byron_1234_assignsubmission_file_`` beside
``..._onlinetext_``. Canvas: ``byronada_LATE_12_345_ada.zip``. Blackboard:
``gradebook_MRI_Task_ada_attempt_2026-11-28-12-30-00_ada.zip`` beside a text of the same attempt.
GitHub Classroom: a clone for each student. (By their documentation and public scripts; no such
platform was at hand.)
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from lib.data.kaggle import DAMAGED_ZIP
from lib.grade.archive import is_litter
from lib.grade.result import printable
from lib.grade.submission import MANIFEST
from lib.utils import KitError, say

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".rar", ".7z")
_ATTEMPT = re.compile(r"(.+_attempt_)(\d{4}(?:-\d\d){5})(?:_.*)?", re.DOTALL)
_ONLINE_TEXT = re.compile(r"(.+_\d+_assignsubmission_)onlinetext.*", re.DOTALL)
_LATE = re.compile(r"[^_]+_LATE_\d+_\d+_")


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
    found = [
        path
        for path in sorted(folder.iterdir())
        if not is_litter(path.name)
        and not path.is_symlink()
        and (path.is_dir() or (path.is_file() and _is_archive(path)))
        and not (out and out.resolve().is_relative_to(path.resolve()))
    ]
    if not found:
        raise KitError(f"{folder}: has no zip and no folder; put the submissions there")
    sources = [_archive_in(path) or path for path in _that_count(found)]
    return {_readable(path.relative_to(folder).as_posix()): path for path in sources}


def is_late(name: str) -> bool:
    """Return whether Canvas marked a submission as late in the name of its file."""
    return bool(_LATE.match(name))


def _that_count(found: Iterable[Path]) -> list[Path]:
    """Return the paths without online texts beside a file, and without earlier attempts."""
    names = {path.name for path in found}
    kept: list[Path] = []
    last: dict[str, Path] = {}
    for path in found:
        online = _ONLINE_TEXT.fullmatch(path.name)
        attempt = _ATTEMPT.fullmatch(path.name)
        if online and any(name.startswith(f"{online[1]}file") for name in names):
            continue
        if not attempt:
            kept.append(path)
            continue
        before = last.get(attempt[1])  # sorted by name: what comes later was submitted later
        if before:
            say(f"{_readable(before.name)}: {_readable(path.name)} is a later attempt, and counts")
        last[attempt[1]] = path
    return sorted([*kept, *last.values()])


def _archive_in(folder: Path) -> Path | None:
    """Return the archive that is the submission in a folder, or None if the folder itself is."""
    if not folder.is_dir():
        return None
    inside = [
        path
        for each in (folder, folder / "result")
        if each.is_dir() and not each.is_symlink()
        for path in sorted(each.iterdir())
        if _is_archive(path) and path.is_file() and not path.is_symlink()
    ]
    packed = [path for path in inside if is_packed(path)]
    if len(packed) == 1:
        return packed[0]
    has_folders = any(path.is_dir() and not is_litter(path.name) for path in folder.iterdir())
    return inside[0] if len(inside) == 1 and not has_folders else None


def is_packed(file: Path) -> bool:
    """Return whether a file is a zip that ``pack`` made."""
    try:
        with zipfile.ZipFile(file) as bundle:
            return MANIFEST in bundle.namelist()
    except DAMAGED_ZIP:  # one that was never finished, or a download of it
        return False


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() in ARCHIVES and not is_litter(path.name)


def _readable(name: str) -> str:
    """Return a name that can be printed, whatever its bytes on the disk are."""
    return printable(os.fsencode(name).decode("utf-8", errors="backslashreplace"))
