"""Fill the table that goes back to Moodle, Canvas or Blackboard with the scores of a gradebook.

The table is the platform's own export, so that its columns and their order are what it wants back:
Moodle's grading worksheet, the gradebook of Canvas, the grade centre of Blackboard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.grade.gradebook import COMMENT, GRADEBOOK, POSSIBLE, amount
from lib.grade.people import ID_COLUMNS, read_sheet, read_table
from lib.utils import KitError, say, write_atomic

FOLDER = "upload"
_CANVAS = re.compile(r".+ \(\d+\)")
_BLACKBOARD = re.compile(r".+\[Total Pts: ([\d.,]+).*\] ?\|\d+")
_PARTICIPANT = re.compile(r"Participant (\d+)")  # in Moodle's worksheet
_FOLDER = re.compile(r".+_(\d+)_assignsubmission_")  # in Moodle's download
Cells = Mapping[str, str]


class Target(NamedTuple):
    """Hold where points go in an exported table.

    Attributes:
        points, comment: columns; ``comment`` is None if there is none.
        most: points that the platform gives at most; None if the table does not say.
    """

    points: int
    comment: int | None
    most: float | None


def fill_table(exported: Path, grades: Path, column: str | None = None) -> Path:
    """Write the export of a platform with scores and comments, and return the file.

    It is written below ``grades``; the export stays as it is. Cells of students without a
    submission stay, too. Who has no row is named.

    Args:
        grades: folder of the gradebook.
        column: header of the assignment's column, or its beginning; needed if there are several.

    Raises:
        KitError: the table is of no known platform, has several assignments and none is named, or
            gives other points than the rubric.
    """
    book = _read_gradebook(grades / GRADEBOOK)
    sheet = read_sheet(exported)
    header = [name.strip() for name in sheet.rows[0]] if sheet.rows else []
    target = _target(exported, header, sheet.rows, column)
    possible = amount(GRADEBOOK, "score", book[POSSIBLE]["score"])
    if target.most not in (None, possible):
        raise KitError(
            f"{exported}: the platform gives {target.most:g} points, the rubric {possible:g}; "
            f"make them equal there or here"
        )
    ids = [place for place, name in enumerate(header) if _is_id(name)]
    rows, filled = [sheet.rows[0]], set()
    for row in sheet.rows[1:]:
        student = _student(row, ids, book)
        if student:
            filled.add(student)
            row = _filled(row, target, book[student])
        rows.append(row)
    for student, cells in book.items():
        if student not in filled and student != POSSIBLE:
            say(f"{exported.name}: has no row for {student}, who has {cells['score']} points")
    written = grades / FOLDER / exported.name
    write_atomic(written, sheet._replace(rows=rows).to_bytes())
    return written


def _read_gradebook(file: Path) -> dict[str, dict[str, str]]:
    """Return student -> cells, of those who submitted something, and the points possible."""
    if not file.is_file():
        raise KitError(f"{file}: is missing; grade first, or name the folder with --grades")
    header, *rows = read_table(file)
    book: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        student = cells["student"].lstrip("'")
        if cells["status"] in ("missing", "withdrawn"):
            continue
        if student in book:
            raise KitError(
                f"{file}: {student} has two submissions; remove the one that does not count, and "
                f"grade again"
            )
        book[student] = cells
    return book


def _is_id(name: str) -> bool:
    """Return whether a column of the export tells who somebody is."""
    return name.lower().replace("_", " ") in (*ID_COLUMNS, "identifier", "email address")


def _target(
    file: Path, header: Sequence[str], rows: Sequence[Sequence[str]], column: str | None
) -> Target:
    """Return where the points go."""
    places = {name: place for place, name in enumerate(header)}
    if {"Identifier", "Grade"} <= set(header):
        maxima = {row[places["Maximum Grade"]] for row in rows[1:]} - {""}
        most = amount(str(file), "Maximum Grade", maxima.pop()) if len(maxima) == 1 else None
        return Target(places["Grade"], places.get("Feedback comments"), most)
    is_canvas = {"Student", "ID"} <= set(header)
    pattern = _CANVAS if is_canvas else _BLACKBOARD
    if not is_canvas and "Username" not in header:
        raise KitError(
            f"{file}: is no table that Moodle, Canvas or Blackboard exports; export it there again"
        )
    found = [name for name in header if pattern.fullmatch(name) and name.startswith(column or "")]
    if len(found) != 1:
        names = ", ".join(found or [name for name in header if pattern.fullmatch(name)]) or "none"
        raise KitError(f"{file}: which column is the assignment's? Name it (--column): {names}")
    place = places[found[0]]
    if is_canvas:
        maxima = {row[place] for row in rows[1:] if row[0].strip() == "Points Possible"}
        text = maxima.pop() if maxima else ""
    else:
        text = match[1] if (match := _BLACKBOARD.fullmatch(found[0])) else ""
    return Target(place, None, amount(str(file), found[0], text) if text.strip() else None)


def _student(row: Sequence[str], ids: Sequence[int], book: Mapping[str, Cells]) -> str | None:
    """Return whose row it is, if they submitted something."""
    names = {student.casefold(): student for student in book}
    folders = {
        found[1]: student
        for student, cells in book.items()
        if (found := _FOLDER.match(cells["submission"]))
    }
    for place in ids:
        cell = row[place].strip() if place < len(row) else ""
        participant = _PARTICIPANT.fullmatch(cell)
        student = folders.get(participant[1]) if participant else names.get(cell.casefold())
        if student and student != POSSIBLE:
            return student
    return None


def _filled(row: Sequence[str], target: Target, cells: Cells) -> list[str]:
    """Return a row with points and comment."""
    new = list(row)
    new[target.points] = cells["score"]
    if target.comment is not None:
        new[target.comment] = cells.get(COMMENT, "").lstrip("'")
    return new
