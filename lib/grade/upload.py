"""Fill the table that goes back to Moodle, Canvas or Blackboard with the scores of a gradebook.

The table is the platform's own export, so that its columns and their order are what it wants back:
Moodle's grading worksheet, the gradebook of Canvas, the grade centre of Blackboard. Moodle reads
``Identifier``, ``Grade`` and ``Feedback comments``
(https://github.com/moodle/moodle, ``mod/assign/feedback/offline/importgradeslib.php``). Blackboard
knows a student by ``Username`` and a column by the number in its header
(https://help.blackboard.com/Learn/Instructor/Grade/Grading_Tasks/Work_Offline_With_Grade_Data).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from lib.grade.gradebook import (
    BY_HAND,
    COMMENT,
    COMPUTED,
    GRADEBOOK,
    POSSIBLE,
    amount,
    as_typed,
    marks_of,
    written_by_hand,
)
from lib.grade.people import ID_COLUMNS, plain, read_sheet, read_table
from lib.grade.submission import folded
from lib.runtime.own_files import OwnFiles
from lib.utils import KitError, say

FOLDER = "upload"
_CANVAS = re.compile(r".+ \(\d+\)")
_BLACKBOARD = re.compile(r".+\[Total Pts: ([\d.,]+).*\] ?\|\d+")
_BLACKBOARD_COMMENT = "Feedback to Learner"  # if comments are included in the export
_PARTICIPANT = re.compile(r"(.+) (\d+)")  # in Moodle's worksheet
_FOLDER = re.compile(r"(.+)_(\d+)_assignsubmission_")  # in Moodle's download
_DECIDED = ("verified", "review", "missing")  # status of a row whose points for the DSC are final
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
    submission stay, too, and so do those of students whose mark is not final, see ``_undecided``.
    These are named, and so is who has no row.

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
    undecided = {student: _undecided(cells, book[POSSIBLE]) for student, cells in book.items()}
    rows, filled = [sheet.rows[0]], set()
    for row in sheet.rows[1:]:
        student = _student(header, row, ids, book)
        if student in filled:
            raise KitError(
                f"{exported}: has two rows of {student}; remove the one that is somebody else's"
            )
        if student:
            filled.add(student)
            row = row if undecided[student] else _filled(row, target, book[student])
        rows.append(row)
    _say_what_to_look_at(exported.name, book, filled, undecided)
    written = grades / FOLDER / exported.name
    OwnFiles(written.parent).write({written: sheet._replace(rows=rows).to_bytes()})
    return written


def _undecided(cells: Cells, possible: Cells) -> str:
    """Return why the score of a row is not final; "" if it is.

    Somebody must decide on the points for the DSC where none were computed, and fill each column
    that has points possible. Who submitted nothing has no points for the DSC.
    """
    if cells["status"] not in _DECIDED and not cells.get(BY_HAND, "").strip():
        return f"is {cells['status']}, and nobody gave points for the DSC; fill {BY_HAND!r}"
    columns = [name for name in possible if name not in (*COMPUTED, BY_HAND, COMMENT)]
    empty = [name for name in columns if possible[name].strip() and not cells.get(name, "").strip()]
    return f"has no points yet for {', '.join(map(repr, empty))}; fill 0 for none" if empty else ""


def _say_what_to_look_at(
    name: str, book: Mapping[str, Cells], filled: Set[str], undecided: Mapping[str, str]
) -> None:
    """Name who has no row, and whose cell was left as it is."""
    for student, cells in book.items():
        if student == POSSIBLE:
            continue
        if student not in filled:
            say(f"{name}: has no row for {student}, who has {cells['score']} points")
        elif undecided[student]:
            say(f"{name}: nothing is filled in for {student}, who {undecided[student]}")


def _read_gradebook(file: Path) -> dict[str, dict[str, str]]:
    """Return student -> cells, of those who submitted or have marks, and the points possible.

    Raises:
        KitError: there is none; a student with two submissions; or marks that no score has yet.
    """
    if not file.is_file():
        raise KitError(f"{file}: is missing; grade first, or name the folder with --grades")
    header, *rows = read_table(file) or [[]]
    if not {"student", "submission", "status", "score"} <= set(header):
        raise KitError(f"{file}: lacks a column that grading writes; grade again")
    book: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        student = cells["student"].lstrip("'")
        _, _, marked = cells.get("marked", "").partition("/")
        if student != POSSIBLE and marked != marks_of(written_by_hand(cells)):
            raise KitError(
                f"{file}: what is written about {student} is newer than the scores; grade once more"
            )
        if cells["status"] == "withdrawn":
            if marked:
                say(f"{file}: what {student} has marks for is not among the submissions any more")
            continue
        if cells["status"] == "missing" and not marked:
            continue
        if student in book:
            raise KitError(
                f"{file}: {student} has two submissions; remove the one that does not count, and "
                f"grade again"
            )
        book[student] = cells
    if POSSIBLE not in book:
        raise KitError(f"{file}: has no row {POSSIBLE}; grade again")
    return book


def _is_id(name: str) -> bool:
    """Return whether a column of the export tells who somebody is."""
    return plain(name) in (*ID_COLUMNS, "identifier", "emailaddress")


def _target(
    file: Path, header: Sequence[str], rows: Sequence[Sequence[str]], column: str | None
) -> Target:
    """Return where the points go."""
    places = {name: place for place, name in enumerate(header)}
    if {"Identifier", "Grade"} <= set(header):
        maxima = {_cell(row, places.get("Maximum Grade")) for row in rows[1:]} - {""}
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
        maxima = {_cell(row, place) for row in rows[1:] if _cell(row, 0) == "Points Possible"}
        text = maxima.pop() if maxima else ""
    else:
        text = match[1] if (match := _BLACKBOARD.fullmatch(found[0])) else ""
    comment = None if is_canvas else places.get(_BLACKBOARD_COMMENT)
    return Target(place, comment, amount(str(file), found[0], text) if text.strip() else None)


def _cell(row: Sequence[str], place: int | None) -> str:
    """Return a cell without blanks around; "" if the row is shorter, or the place is None."""
    return row[place].strip() if place is not None and place < len(row) else ""


def _student(
    header: Sequence[str], row: Sequence[str], ids: Sequence[int], book: Mapping[str, Cells]
) -> str | None:
    """Return whose row it is, if they submitted something: by id, else by Moodle's folder."""
    students = [student for student in book if student != POSSIBLE]
    cells = [_cell(row, place) for place in ids]
    found = [student for cell in cells if (student := _spelt(cell, students))]
    if len(set(found)) > 1:
        raise KitError(
            f"the row of {' / '.join(filter(None, cells))} has the ids of {' and '.join(found)}; "
            f"remove the columns of ids that are not your roster's from the export"
        )
    if found:
        return found[0]
    person = dict(zip(header, row, strict=False))
    of_folder = [
        student for student in students if _is_folder_of(person, book[student]["submission"])
    ]
    return of_folder[0] if len(of_folder) == 1 else None


def _spelt(cell: str, students: Sequence[str]) -> str | None:
    """Return the student of an id, as it is, else in another spelling, see ``folded``.

    Raises:
        KitError: it is another spelling of several ids.
    """
    if cell in students:
        return cell
    found = [student for student in students if folded(student) == folded(cell)]
    if len(found) > 1:
        raise KitError(
            f"the id {cell} of the export may be {' or '.join(found)}; write it there as the "
            f"gradebook does"
        )
    return found[0] if found else None


def _is_folder_of(person: Cells, submission: str) -> bool:
    """Return whether a submission is in the folder that Moodle makes for a person.

    The number alone does not tell: that of a team is its group's, and may be another person's. The
    name does, or that of all participants where the marking is blind.
    """
    folder = _FOLDER.match(submission)
    participant = _PARTICIPANT.fullmatch(person.get("Identifier", "").strip())
    if not folder or not participant or folder[2] != participant[2]:
        return False
    name = _words(person.get("Full name") or participant[1])
    return name <= _words(folder[1])  # older ones put a group before it


def _words(name: str) -> set[str]:
    """Return the words of a name, without what Moodle leaves out in the names of folders."""
    words = ("".join(filter(str.isalnum, word)) for word in re.split(r"[\s-]+", name.casefold()))
    return {word for word in words if word}


def _filled(row: Sequence[str], target: Target, cells: Cells) -> list[str]:
    """Return a row with points and comment."""
    width = 1 + max(target.points, target.comment or 0)
    new = [*row, *[""] * (width - len(row))]
    new[target.points] = cells["score"]
    if target.comment is not None:
        new[target.comment] = as_typed(cells.get(COMMENT, ""))
    return new
