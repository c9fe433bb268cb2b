"""Extract what a student wrote: answers in notebooks, and cells of their own.

It runs in the process that grades. Texts stay texts: nothing is rendered, imported or run.
"""

from __future__ import annotations

import ast
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from lib.grade.released import Released, headings, released, tidy
from lib.grade.result import printable
from lib.grade.student_work import (
    MAX_ANSWERS,
    MAX_LETTERS,
    MAX_REMARKS,
    MAX_WORDS,
    Answer,
    Written,
    nothing_written,
)
from lib.grade.submission import root_of
from lib.grade.tried import read_tried
from lib.grade.trouble import GraderError, in_one_line, of_the_computer, without_submission
from lib.notebook.cells import PLACEHOLDERS, Cell, question_hash, read_notebook
from lib.notebook.course import read_course
from lib.utils import KitError, visible_files

EXERCISES = "exercises.py"
_MAX_TITLE, _MAX_OWN_NOTEBOOKS = 120, 10
_SHORTEST_START = min(map(len, PLACEHOLDERS))  # letters of a released line that an answer continues


def read_written(folder: Path) -> Written:
    """Return what is to be read of an unpacked submission, whatever it contains.

    Anything in it that cannot be used is a remark, and never an error.

    Raises:
        GraderError: the computer or the instructor's notebooks cannot be used.
    """
    written = nothing_written()
    try:
        root = root_of(folder)
    except KitError as error:
        root = folder
        written.remarks.append(f"No runs: {error}.")
    parts: dict[str, Callable[[Path, Written], None]] = {
        "The notebooks": _read_notebooks,
        "The runs": read_tried,
        EXERCISES: _read_exercises,
    }
    for name, read in parts.items():
        try:
            read(root, written)
        except Exception as error:  # untrusted files can be wrong in every way
            if trouble := of_the_computer(error):
                raise GraderError(in_one_line(trouble)) from error
            reason = str(error) if isinstance(error, KitError) else type(error).__name__
            written.remarks.append(f"{name} cannot be read: {reason}.")
    return written._replace(
        answers=list(_within_limits(written.answers)),
        exercises=list(_within_limits(written.exercises)),
        remarks=[printable(remark[:500]) for remark in written.remarks[:MAX_REMARKS]],
    )


def _within_limits(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Yield answers in printable lines, cut where they exceed the limits."""
    left = MAX_WORDS
    for answer in islice(answers, MAX_ANSWERS):
        lines = _trimmed(answer.lines)
        room, kept, is_cut = min(MAX_LETTERS, left), [], False
        for line in lines:
            shown = printable(line[:MAX_LETTERS])
            is_cut = len(shown) >= room
            if is_cut:
                kept += [shown[: room - 1]] if room > 1 else []
                break
            kept.append(shown)
            room -= len(shown) + 1
        found = answer._replace(
            source=printable(answer.source[:_MAX_TITLE]),
            key=printable(answer.key[:_MAX_TITLE]),
            title=printable(answer.title[:_MAX_TITLE]),
            lines=kept,
            is_cut=is_cut,
            problem=printable(answer.problem[:_MAX_TITLE]),
        )
        left -= found.letters
        yield found


def _trimmed(lines: list[str]) -> list[str]:
    """Return lines without empty ones at both ends; only as many as can be kept."""
    first = next((place for place, line in enumerate(lines) if line.strip()), len(lines))
    kept = [line[: MAX_LETTERS + 1] for line in lines[first : first + MAX_LETTERS + 1]]
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


# --- exercises ------------------------------------------------------------------------------------


def _read_exercises(root: Path, written: Written) -> None:
    """Add the code of the exercises."""
    with without_submission():
        asked = read_course().exercises
    written.exercises.extend(exercises_of(root / EXERCISES, asked))


def exercises_of(file: Path, asked: Sequence[str]) -> list[Answer]:
    """Return what ``exercises.py`` has of each exercise, then classes and functions of their own.

    An exercise that is imported, or gone, has no lines but a problem.

    Args:
        asked: the exercises of the course; if there are none, all that the file has.

    Raises:
        OSError: it cannot be read.
        SyntaxError: it is no Python.
    """
    if not file.is_file():
        return [Answer(EXERCISES, name, name, [], problem="no exercises.py") for name in asked]
    found, taken = exercises_in(file), _taken(file)
    named = asked or tuple(found)
    answers = []
    for name in dict.fromkeys([*named, *found]):
        problem = "" if name in found else taken.get(name, taken.get("*", "is gone"))
        key = name if name in named else ""
        answers.append(Answer(EXERCISES, key, name, found.get(name, []), problem=problem))
    return answers


def _taken(file: Path) -> dict[str, str]:
    """Return name -> the statement that imports or assigns it; ``*`` is any name."""
    found = {}
    for node in ast.parse(file.read_bytes()).body:
        names = []
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names = [one.id for one in node.targets if isinstance(one, ast.Name)]
        for name in names:
            found[name] = f"not written here, but taken: {ast.unparse(node)}"
    return found


def exercises_in(file: Path) -> dict[str, list[str]]:
    """Return name -> lines of each class and function of ``exercises.py``; none if not written.

    Its encoding and the ends of its lines are those that Python sees.

    Raises:
        SyntaxError: it is no Python.
    """
    tree = ast.parse(file.read_bytes())
    with tokenize.open(file) as stream:
        lines = stream.read().split("\n")
    return {
        name: [] if _is_open(node) else lines[node.lineno - 1 : node.end_lineno]
        for node in tree.body
        if (name := _defined(node)) and not name.startswith("_")
    }


def _defined(node: ast.stmt) -> str:
    """Return the name of the class or function that a statement defines; "" for any other."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return node.name
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Lambda):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return target.id if isinstance(target, ast.Name) else ""
    return ""


def _is_open(node: ast.stmt) -> bool:
    """Return whether an exercise does nothing, as it was handed out.

    Of a class that is its ``forward``, if it has one: other methods may be the student's own.
    """
    body = node.body if isinstance(node, ast.ClassDef) else []
    methods: list[ast.stmt] = [part for part in body if isinstance(part, ast.FunctionDef)]
    asked = [one for one in methods if _defined(one) == "forward"] or methods or [node]
    return any(
        all(
            isinstance(line, ast.Pass)
            or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            for line in getattr(part, "body", [part])
        )
        for part in asked
    )


# --- notebooks ------------------------------------------------------------------------------------


def _read_notebooks(root: Path, written: Written) -> None:
    """Add the answers of the released notebooks, and cells of the student's own."""
    with without_submission():
        given_out = released()
    others = [file for file in visible_files(root, "*.ipynb") if file.name not in given_out]
    others = others[:_MAX_OWN_NOTEBOOKS]
    for name, notebook in given_out.items():
        copies = (root / name, root / "result" / "notebooks" / name)
        file = next((copy for copy in copies if copy.is_file()), None)
        counts = {one: _answered(one, notebook) for one in ([file] if file else []) + others}
        copy = max(counts, key=lambda one: counts[one], default=None)
        if copy and copy != file and counts[copy]:
            written.remarks.append(
                f"{name}: more is answered in {copy.name}, which is read instead."
            )
            others.remove(copy)
            file = copy
        if file is None:
            if notebook.questions:
                written.remarks.append(f"{name} is not in the submission, or was left out.")
            continue
        _read_one(file, notebook, written)
    for file in others:
        _read_one(file, Released(file.name, {}, {}, {}, {}, {}), written)


def _answered(file: Path, notebook: Released) -> int:
    """Return how many questions of a released notebook a file answers; it may be a copy of it."""
    try:
        walk = _walked(file, notebook)
    except KitError:
        return 0
    return sum(any(line.strip() for line in lines) for lines in walk.answers.values())


def _walked(file: Path, notebook: Released) -> _Walk:
    """Go through the cells of a notebook. Raises KitError if it cannot be read."""
    walk = _Walk(notebook)
    for cell in read_notebook(file):
        walk.visit(cell)
    return walk


def _read_one(file: Path, notebook: Released, written: Written) -> None:
    """Add what a notebook contains; a remark if it cannot be read."""
    try:
        walk = _walked(file, notebook)
    except KitError as error:
        written.remarks.append(f"{error}.")
        return
    written.answers.extend(
        Answer(notebook.name, question.key, question.title, walk.answers[place])
        for place, question in notebook.questions.items()
    )
    written.answers.extend(walk.own)
    gone = [
        question.section
        for place, question in notebook.questions.items()
        if place not in walk.found
    ]
    if gone:
        written.remarks.append(
            f"{notebook.name} lacks {len(gone)} cells that ask, below: {', '.join(gone)[:300]}."
        )


@dataclass
class _Walk:
    """Go through the cells of a student's notebook, from the first to the last.

    Attributes:
        answers: id of a released cell that asks -> lines of the answer.
        own: cells with text that answer no question.
        found: ids of released cells that were met.
        last: id of the last of them.
        section: the last heading.
    """

    notebook: Released
    answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    own: list[Answer] = field(default_factory=list)
    found: set[str] = field(default_factory=set)
    last: str = ""
    section: str = ""

    def visit(self, cell: Cell) -> None:
        """Find which released cell this was, and keep what is new in it.

        Cells of the student's own right below a question belong to its answer, also code: words
        may be its comments. Code elsewhere is left out.
        """
        # a key pressed by chance makes raw text or code of a cell
        if cell.kind == "raw" or self.notebook.kinds.get(cell.id) == "markdown":
            cell = cell._replace(kind="markdown")
        place = self._released_as(cell)
        if place:
            self.found.add(place)
            self.last = place
        is_answer = (place or self.last) in self.notebook.questions
        if cell.kind != "markdown" and (place or not is_answer):
            return
        lines = [] if self._is_as_given_out(cell) else self._new_lines(cell, place)
        if is_answer:
            answer = self.answers[place or self.last]
            answer.extend(["", *lines] if answer and lines else lines)
        elif any(line.strip() for line in lines):
            self.own.append(Answer(self.notebook.name, "", self.section, lines))
        if cell.kind == "markdown":
            self.section = (headings(cell.text) or [self.section])[-1]

    def _released_as(self, cell: Cell) -> str:
        """Return the id of the released cell that a cell was, each once; "" for a new cell."""
        known = self.notebook
        candidates = [cell.id if known.kinds.get(cell.id) == cell.kind else ""]
        if cell.kind == "markdown":
            candidates.append(known.hashes.get(cell.asked, ""))
        if cell.kind == "markdown" or not cell.id:  # code of one's own may begin as a copy
            lines = (line.strip() for line in cell.text.splitlines())
            telling = (known.telling.get(line, "") for line in lines)
            candidates.append(
                next((name for name in telling if known.kinds.get(name) == cell.kind), "")
            )
        return next((name for name in candidates if name and name not in self.found), "")

    def _is_as_given_out(self, cell: Cell) -> bool:
        """Return whether a cell, or a copy of it, is as it was released in any edition."""
        return tidy(cell.text) in self.notebook.all_texts or (
            bool(cell.asked) and cell.asked == question_hash(cell.text)
        )

    def _new_lines(self, cell: Cell, place: str) -> list[str]:
        """Return the lines of a cell that the released one does not have.

        Of a line that goes on where a released one ends, only what was added is returned.
        """
        known = [
            line.strip()
            for text in self.notebook.texts.get(place, ())
            for line in text.splitlines()
        ]
        starts = sorted({line for line in known if len(line) >= _SHORTEST_START}, key=len)
        found = []
        for line in cell.text.splitlines():
            if line.strip() and line.strip() in known:
                continue
            start = next((one for one in reversed(starts) if line.strip().startswith(one)), "")
            found.append(line.strip()[len(start) :].lstrip() if start else line.rstrip())
        return found
