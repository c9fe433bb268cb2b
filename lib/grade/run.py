"""Grade a folder of submissions: from its zips to a gradebook."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any

from lib.grade.archive import composed, content_hash
from lib.grade.checks import METRIC_EDITED, OTHER_DATA, WRONG_SPLIT, protected_in
from lib.grade.feedback import FOLDER as FEEDBACK
from lib.grade.feedback import page_name, write_leaderboard, write_page
from lib.grade.gradebook import (
    GRADEBOOK,
    Book,
    columns_lost,
    flags,
    graded_now,
    read_book,
    total,
    with_outdated,
    write_book,
)
from lib.grade.one import failed, prepare
from lib.grade.people import ID_COLUMNS, plain, read_table
from lib.grade.platforms import list_submissions, texts_with_ids
from lib.grade.reading import reading_name, write_reading
from lib.grade.released import released_hash
from lib.grade.result import Result
from lib.grade.rubric import Rubric, load_rubric, with_baseline
from lib.grade.standings import Standing, assess, of_members
from lib.grade.submission import READ
from lib.grade.test_set import Exam, prepare_exam
from lib.grade.trouble import GraderError, in_one_line, without_submission
from lib.grade.worker import Worker, WorkerDied
from lib.logger import Run, require_sound
from lib.notebook.course import read_course
from lib.notebook.student import STUDENT, TEAM
from lib.runtime import pick_device
from lib.runtime.own_files import OwnFiles
from lib.utils import LIB, KitError, fingerprint, progress, say, sha256, visible_files, write_json

RESULTS = "results"  # folder of what was computed, below that of the gradebook
SECONDS = 600
DIGITS = 12  # of a hash of what was submitted
FEWEST = 2  # one alone may well have a fault of its own
_OF_MOST = {
    OTHER_DATA: "is --data that of your class? Of a phantom, course.toml has the seed",
    WRONG_SPLIT: "is it that of your assignment (--data, --split)?",
}
"""Finding -> what the instructor may have mistaken if most of the class have it."""


def grade(
    submissions: str | Path,
    data: str | Path,
    out: str | Path,
    rubric: Rubric | None = None,
    roster: Sequence[str] | None = None,
    split: str = "auto",
    device: str = "auto",
    seconds: float = SECONDS,
    baseline: str | Path | None = None,
) -> list[Standing]:
    """Grade every zip and folder of ``submissions``.

    ``gradebook.csv``, a page for each submission and ``leaderboard.html`` are written, and pages
    for the instructor to read in ``read``. A submission that was graded before, on the same data by
    the same code, is not computed again, so an interrupted grading goes on. What the instructor
    wrote into the gradebook stays. Remarks on the data are printed first.

    Args:
        data: the instructor's, as for ``load_data``.
        out: folder for what is written.
        roster: ids of the students.
        split: the assignment's, as in ``Config.split``.
        seconds: the longest that one submission may take.
        baseline: folder of a run of yours, on the assignment's patients; its DSC earns nothing.

    Raises:
        KitError: nothing to grade, a baseline of other patients, seconds that are no time, or a
            gradebook in which a cell for points is no number.
        GraderError: unusable data, or trouble of this computer; results so far are kept.
    """
    submissions, out, rubric = Path(submissions), Path(out), rubric or load_rubric()
    if not 0 < seconds <= TIMEOUT_MAX:  # nor NaN
        raise KitError(f"seconds {seconds:g}: is no time to grade in; give a number above 0")
    read_book(out / GRADEBOOK, rubric)  # what is wrong in it is said before hours of computing
    found = list_submissions(submissions, out)
    with Worker(prepare, str(data), split, device, rubric.tolerance) as worker:
        exam = prepare_exam(data, split)  # meanwhile the child starts, and does the same
        if baseline is not None:
            rubric = with_baseline(rubric, _dsc_of(Path(baseline), exam))
        elif rubric.is_placeholder:
            say(
                f"note: the scale of the kit is a placeholder: {rubric.baseline:g} earns nothing, "
                f"{rubric.scale[-1][0]:g} all {rubric.dsc_points:g} points. Copy "
                f"lib/grade/rubric.toml for a scale of your own (--rubric), or name a run of the "
                f"baseline on your data (--baseline)."
            )
        key = [
            _code_hash(),
            released_hash(),
            read_course().exercises,
            exam.data.fingerprint,  # of the pixels: dates and rights of the files change nothing
            split,
            str(pick_device(device)),
            rubric.tolerance,
        ]
        say(exam.data.report())
        results = _results(found, out / RESULTS, key, roster or (), worker, seconds)
    for words in _mistaken(results):
        say(f"note: {words}")
    teams = assess(results, rubric, roster)
    standings = sorted(
        (member for team in teams for member in of_members(team)),
        key=lambda standing: (standing.result.student, standing.result.submission),
    )
    # read again: the instructor may have written into it meanwhile
    book = graded_now(read_book(out / GRADEBOOK, rubric), standings)
    standings = with_outdated(standings, book)
    if lost := columns_lost(book):
        say(
            f"{out / GRADEBOOK}: the rubric has no column {', '.join(lost)} any more, whose points "
            f"do not count now; if you renamed it there, rename it in line 1, too"
        )
    for student, submission in book.without(standings):
        say(
            f"{out / GRADEBOOK}: what is written about {student or submission!r} is of nobody who "
            f"is graded; it stays in a row of its own, or correct its student"
        )
    _write(out, teams, standings, book, rubric)
    return standings


def _mistaken(results: Sequence[Result]) -> Iterator[str]:
    """Yield what may be the instructor's mistake.

    That is a finding of most submissions, or the same edit of a protected file in several.
    """
    computed = [result for result in results if result.status == "computed"]
    for name, words in _OF_MOST.items():
        number = sum(name in {one.name for one in result.findings} for result in computed)
        if number >= FEWEST and 2 * number > len(computed):
            yield f"{number} of {len(computed)} submissions have the finding {name!r}: {words}"
    edits = defaultdict(list)
    for result in computed:
        edit = protected_in(result.diff)
        edits[fingerprint(edit)].append(edit)
    for alike in edits.values():
        if alike[0] and len(alike) >= FEWEST:
            yield (
                f"{len(alike)} submissions have the finding {METRIC_EDITED!r} for the same edit of "
                f"lib/{', lib/'.join(alike[0])}: did they get another version of the kit? Then "
                f"grade with that one"
            )


def _dsc_of(folder: Path, exam: Exam) -> float:
    """Return the mean DSC of a finished run.

    Raises:
        KitError: there is none, it is not as its training left it, or it has other patients.
    """
    run = Run(folder)
    if not (folder / "run.json").is_file() or run.info.get("status") != "finished":
        raise KitError(f"{folder}: is no folder of a finished run; name one below result/runs")
    require_sound(run)
    if set(run.info["split"]["validation"]) != set(exam.split.validation):
        raise KitError(
            f"{folder}: is scored on other patients than the assignment's; train the baseline on "
            f"the data that you grade with"
        )
    return run.dsc.mean


def _code_hash() -> str:
    """Return a hash of everything that computes a result."""
    return fingerprint([sha256(file) for file in visible_files(LIB, "**/*.py")])


# --- one submission -------------------------------------------------------------------------------


def _results(
    found: Mapping[str, Path],
    cache: Path,
    key: list[Any],
    roster: Sequence[str],
    worker: Worker,
    seconds: float,
) -> list[Result]:
    """Return the results of submissions, name -> source; see ``_result``."""
    results = []
    try:
        with (
            progress(total=len(found), desc="grading", unit="submission") as bar,
            without_submission(),
        ):
            for name, source in found.items():
                results.append(_result(name, source, cache, key, roster, worker, seconds))
                bar.update()
    except GraderError as error:
        raise GraderError(f"{error}, then run it again: what was graded is kept") from error
    return results


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
        content = content_hash(source, READ)
    except KitError as error:
        return failed(name, student, "refused", str(error))
    except PermissionError as error:
        return failed(name, student, "failed", f"It could not be read here: {in_one_line(error)}.")
    known = student in roster
    file = cache / f"{fingerprint([key, name, student, known, content])[:24]}.json"
    result = _kept(file)
    if result is None:
        result = _computed((str(source), name, student, known), worker, seconds)
        result.content = content[:DIGITS]
        if result.status not in ("failed", "timed out"):  # else the next grading tries again
            values = asdict(result)
            write_json(file, {"sha256": fingerprint(values), "result": values})
    return result


def _kept(file: Path) -> Result | None:
    """Return a result that was computed before; None without one, or if it was changed since."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["sha256"] != fingerprint(content["result"]):
            raise ValueError("its hash is another")
        return Result.from_dict(content["result"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        say(f"{file}: is not as it was written; that submission is graded anew")
        return None


def _computed(job: tuple[str, str, str, bool], worker: Worker, seconds: float) -> Result:
    """Return the result of a submission from the child, which is tried twice if it dies.

    Other programs may have taken the memory, or the system may have ended it.
    """
    _, name, student, _ = job
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as work:
            try:
                return _believed(worker.call((*job, work), seconds), name)
            except WorkerDied as error:
                died = error
        say(f"{name}: {died}")
        if died.timed_out:
            break
    status = "timed out" if died.timed_out else "failed"
    return failed(name, student, status, f"Grading was given up: {died}.")


def _believed(values: Any, name: str) -> Result:
    """Return the result in an answer of the child. Raises WorkerDied if it is none."""
    try:
        result = Result.from_dict(values)
    except ValueError as error:
        raise WorkerDied(f"its answer is {error}") from None
    if result.submission != name:
        raise WorkerDied("its answer is of another submission")
    return result


def student_of(name: str, roster: Sequence[str]) -> str:
    """Return the student's id for a submission that does not say it.

    It is the id of the roster that the name contains, or the ids of a team joined by +, else the
    name itself. An id that is part of a longer one there is not meant: ada in ada-b.
    """
    name = composed(name)
    found = [_id_in(text, roster) for text in texts_with_ids(name)]
    plain = re.sub(r"[^\w.@-]+", "_", name.removesuffix(".zip")).lstrip("_.@-")[:64]
    return next(filter(None, found), plain or "nameless")


def _id_in(name: str, roster: Sequence[str]) -> str | None:
    """Return the only id of the roster in a text, or those of a team joined by +, or None."""
    matches = [
        match
        for student in roster
        for match in re.finditer(rf"(?<![A-Za-z0-9]){re.escape(student)}(?![A-Za-z0-9])", name)
    ]
    inside: list[str] = []
    end = 0
    for match in sorted(matches, key=lambda match: (match.start(), -match.end())):
        if match.end() > end:  # else the one before contains it
            inside.append(match[0])
            end = match.end()
    inside = list(dict.fromkeys(inside))
    together = "+".join(inside)
    if len(inside) == 1 or (inside and together in name and TEAM.fullmatch(together)):
        return together
    return None


# --- output ---------------------------------------------------------------------------------------


def _write(
    out: Path, teams: Sequence[Standing], standings: Sequence[Standing], book: Book, rubric: Rubric
) -> None:
    """Write gradebook, leaderboard and pages, the gradebook first: it has all points.

    Args:
        teams: a standing for each submission.
        standings: a standing for each student.
    """
    pages = {index: page_name(standing) for index, standing in enumerate(standings)}
    of_submission = {team.result.submission: reading_name(team) for team in teams}
    to_read = {
        index: of_submission[standing.result.submission] for index, standing in enumerate(standings)
    }
    write_book(out / GRADEBOOK, standings, book, rubric, pages, to_read)
    write_leaderboard(out, standings, book, rubric)
    feedback = OwnFiles(out / FEEDBACK)
    for standing in standings:
        written = book.of(standing)
        try:
            write_page(out, standing, written, total(standing, written, rubric), rubric, feedback)
        except (OSError, ValueError) as error:  # of one student, and no other's
            say(f"{standing.result.submission}: its page was not written ({in_one_line(error)})")
    feedback.remove_others(out / page for page in pages.values())
    write_reading(out, teams)


def read_roster(file: Path) -> list[str]:
    """Return the ids of a roster: its column of that name, see ``ID_COLUMNS``, or its only column.

    Of several such columns, the first that has ids only: an LMS may write names below ``Student``.
    The column that is taken is printed, and so is each row that has no id in it.

    Raises:
        KitError: it cannot be read, or has no ids.
    """
    rows = read_table(file)
    header = [plain(name) for name in rows[0]] if rows else []
    width = max((place for place, name in enumerate(header, 1) if name), default=1)
    named = [header.index(name) for name in ID_COLUMNS if name in header]
    if width > 1 and not named:
        raise KitError(
            f"{file}: which of {width} columns has the ids is not clear; name it student in line 1"
        )
    people = rows[bool(named) :]
    found = {column: _cells(people, column) for column in named or [0]}
    if not named and _begins_with_a_header(found[0]):
        del found[0][0]
    for column, cells in found.items():
        ids = [cell for cell in cells if cell]
        if ids and all(map(STUDENT.fullmatch, ids)):
            if width > 1:
                _say_what_is_taken(file, rows[0][column].strip(), people, cells)
            return list(dict.fromkeys(ids))
    first = next(iter(found.values()))
    wrong = [student for student in first if student and not STUDENT.fullmatch(student)]
    problem = f"{wrong[0]!r} is no id" if wrong else "has no ids"
    raise KitError(f"{file}: {problem}; expected a column student")


def _say_what_is_taken(
    file: Path, name: str, people: Sequence[Sequence[str]], cells: Sequence[str]
) -> None:
    """Print which column of a roster has the ids, and who has none there."""
    say(f"{file}: the ids are those of the column {name!r}")
    for row, cell in zip(people, cells, strict=True):
        if not cell:
            person = ", ".join(filter(None, map(str.strip, row)))
            say(f"{file}: {person[:80]!r} has no id in that column, and is not on the roster")


def _begins_with_a_header(ids: Sequence[str]) -> bool:
    """Return whether a column of numbers begins with a word, whatever the language."""
    return len(ids) > 1 and ids[0].isalpha() and all(map(str.isdecimal, ids[1:]))


def _cells(rows: Sequence[Sequence[str]], column: int) -> list[str]:
    """Return the cell of each row in a column, without blanks around; "" if it is shorter."""
    return [composed(row[column].strip()) if len(row) > column else "" for row in rows]


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
