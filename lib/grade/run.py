"""Grade a folder of submissions: from its zips to a gradebook."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lib.data import find_root, list_patients
from lib.data.kaggle import stat_key
from lib.grade.archive import MAX_BYTES, plain_files
from lib.grade.feedback import page_name, write_leaderboard, write_page
from lib.grade.gradebook import GRADEBOOK, Book, flags, read_book, total, write_book
from lib.grade.one import failed, prepare
from lib.grade.people import read_table
from lib.grade.rescore import Result
from lib.grade.rubric import Rubric, load_rubric
from lib.grade.standings import Standing, assess
from lib.grade.submission import STUDENT
from lib.grade.worker import Worker, WorkerDied
from lib.runtime import pick_device
from lib.utils import PROJECT, KitError, fingerprint, progress, say, sha256, write_json

RESULTS = "results"  # folder of what was computed, below that of the gradebook
SECONDS = 600


def grade(
    submissions: str | Path,
    data: str | Path,
    out: str | Path,
    rubric: Rubric | None = None,
    roster: Sequence[str] | None = None,
    split: str = "auto",
    device: str = "auto",
    seconds: float = SECONDS,
) -> list[Standing]:
    """Grade every zip and folder of ``submissions``.

    ``gradebook.csv``, a page for each submission and ``leaderboard.html`` are written. A submission
    that was graded before, on the same data by the same code, is not computed again, so an
    interrupted grading goes on. What the instructor wrote into the gradebook stays.

    Args:
        data: the instructor's, as for ``load_data``.
        out: folder for what is written.
        roster: ids of the students.
        split: the assignment's, as in ``Config.split``.
        seconds: the longest that one submission may take.

    Raises:
        KitError: nothing to grade, unusable data, or a gradebook in which a cell for points is no
            number.
    """
    submissions, out, rubric = Path(submissions), Path(out), rubric or load_rubric()
    book = read_book(out / GRADEBOOK, rubric)
    found = list_submissions(submissions)
    key = [
        _code_hash(),
        stat_key(list_patients(find_root(data))),
        split,
        str(pick_device(device)),
        rubric.tolerance,
    ]
    results = []
    with (
        Worker(prepare, str(data), split, device, rubric.tolerance) as worker,
        progress(total=len(found), desc="grading", unit="submission") as bar,
    ):
        for name, source in found.items():
            results.append(_result(name, source, out / RESULTS, key, roster or (), worker, seconds))
            bar.update()
    standings = assess(results, rubric, roster)
    book = replace(book, ids=frozenset(standing.result.student for standing in standings))
    _write(out, standings, book, rubric)
    return standings


def list_submissions(folder: Path) -> dict[str, Path]:
    """Return the submissions of a folder, name -> zip or folder.

    If a folder contains nothing but a zip, the zip counts.

    Raises:
        KitError: there are none.
    """
    if not folder.is_dir():
        raise KitError(f"{folder}: no such folder; name the one with the submissions")
    found = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and not path.is_symlink()
        and (path.is_dir() or path.suffix.lower() == ".zip")
    ]
    if not found:
        raise KitError(f"{folder}: has no zip and no folder; put the submissions there")
    sources = [_only_zip(path) or path for path in found]
    return {path.relative_to(folder).as_posix(): path for path in sources}


def _only_zip(folder: Path) -> Path | None:
    """Return the zip in a folder that contains nothing else, as platforms export them."""
    inside = (
        [path for path in folder.iterdir() if not path.name.startswith(".")]
        if folder.is_dir()
        else []
    )
    lone = len(inside) == 1 and inside[0].suffix.lower() == ".zip" and inside[0].is_file()
    return inside[0] if lone and not inside[0].is_symlink() else None


def _code_hash() -> str:
    """Return a hash of everything that computes a result."""
    return fingerprint([sha256(file) for file in sorted((PROJECT / "lib").rglob("*.py"))])


# --- one submission -------------------------------------------------------------------------------


def _result(
    name: str,
    source: Path,
    cache: Path,
    key: list[Any],
    roster: Sequence[str],
    worker: Worker,
    seconds: float,
) -> Result:
    """Return the result of a submission: computed, or read if it was computed before."""
    student = student_of(name, roster)
    try:
        content = _content_hash(source)
    except (KitError, OSError) as error:
        return failed(name, student, "refused", str(error))
    file = cache / f"{fingerprint([key, name, student, content])[:24]}.json"
    if file.is_file():
        return Result.from_dict(json.loads(file.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as work:
        try:
            job = str(source), name, student, student in roster, work
            result = Result.from_dict(worker.call(job, seconds))
        except WorkerDied as error:
            say(f"{name}: {error}")
            status = "timed out" if error.timed_out else "failed"
            return failed(name, student, status, f"Grading was given up: {error}.")
    if result.status != "failed":  # else the next grading tries again
        write_json(file, asdict(result))
    return result


def student_of(name: str, roster: Sequence[str]) -> str:
    """Return the student's id for a submission that does not say it.

    It is the id of the roster that the name contains, else the name itself.
    """
    inside = [
        student
        for student in roster
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(student)}(?![A-Za-z0-9])", name)
    ]
    if len(inside) == 1:
        return inside[0]
    plain = re.sub(r"[^\w.@-]+", "_", name.removesuffix(".zip")).lstrip("_.@-")[:64]
    return plain or "nameless"


def _content_hash(source: Path) -> str:
    """Return a hash of all that is in a submission.

    Raises:
        KitError: it is too large, or contains links.
    """
    files = list(plain_files(source)) if source.is_dir() else [source]
    if sum(file.stat().st_size for file in files) > MAX_BYTES:
        raise KitError(f"{source.name}: larger than {MAX_BYTES >> 20} MiB; submit what pack makes")
    return fingerprint([(file.relative_to(source).as_posix(), sha256(file)) for file in files])


# --- output ---------------------------------------------------------------------------------------


def _write(out: Path, standings: Sequence[Standing], book: Book, rubric: Rubric) -> None:
    """Write gradebook, pages and leaderboard."""
    pages = {index: page_name(standing) for index, standing in enumerate(standings)}
    for standing in standings:
        written = book.of(standing)
        write_page(out, standing, written, total(standing, written, rubric), rubric)
    write_leaderboard(out, standings, rubric)
    write_book(out / GRADEBOOK, standings, book, rubric, pages)


ID_COLUMNS = ("student", "student id", "id", "username", "user name", "login", "login id")
"""Headers of the ids in a roster, the likeliest first; spreadsheets of an LMS name them so."""


def read_roster(file: Path) -> list[str]:
    """Return the ids of a roster: its column of that name, see ``ID_COLUMNS``, or its only column.

    Raises:
        KitError: it cannot be read, or has no ids.
    """
    rows = read_table(file)
    header = [name.strip().lower().replace("_", " ") for name in rows[0]] if rows else []
    named = [header.index(name) for name in ID_COLUMNS if name in header]
    if len(header) > 1 and not named:
        raise KitError(
            f"{file}: which of {len(header)} columns has the ids is not clear; name it student in "
            f"line 1"
        )
    column = named[0] if named else 0
    cells = [row[column].strip() for row in rows[bool(named) :] if len(row) > column]
    ids = [cell for cell in cells if cell]
    wrong = [student for student in ids if not STUDENT.fullmatch(student)]
    if wrong or not ids:
        problem = f"{wrong[0]!r} is no id" if wrong else "has no ids"
        raise KitError(f"{file}: {problem}; expected a column student")
    return list(dict.fromkeys(ids))


def summary(standings: Sequence[Standing]) -> str:
    """Return the gradebook in a few columns, to be printed."""
    rows = [("student", "status", "claimed", "verified", "points", "flags")]
    for standing in standings:
        result = standing.result
        claimed, verified = (
            "" if value is None else f"{value:.3f}" for value in (result.claimed, result.verified)
        )
        points = f"{standing.points:g}"
        row = (result.student, standing.status, claimed, verified, points, flags(standing))
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
