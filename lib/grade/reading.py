"""Write what the instructor reads: a page for each submission, each question, and the class.

The pages are files without scripts or anything from elsewhere. They name all students: they are not
for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from lib.grade import curves
from lib.grade.feedback import LEVEL_WORDS, TEMPLATES, page_name
from lib.grade.gradebook import flags
from lib.grade.pooled import COUNTED, FEWEST, tried
from lib.grade.released import Question, questions
from lib.grade.result import LEVELS, Finding, Result
from lib.grade.standings import Standing
from lib.grade.student_work import Answer, Trained
from lib.grade.trouble import in_one_line
from lib.notebook.markdown import to_html
from lib.runtime.own_files import OwnFiles
from lib.stats import VERDICTS
from lib.utils import fingerprint, say

FOLDER = "read"
_CLASS, _QUESTIONS = "class.html", "questions.html"
_SIZE = {
    "width": curves.WIDTH,
    "height": curves.HEIGHT,
    "left": curves.LEFT,
    "right": curves.RIGHT,
    "bottom": curves.BOTTOM,
}


@dataclass(frozen=True)
class Page:
    """Hold what the pages need of a submission."""

    standing: Standing
    asked: Mapping[str, Question]

    @property
    def result(self) -> Result:
        """Return what grading found."""
        return self.standing.result

    @property
    def student(self) -> str:
        """Return the student's id."""
        return self.result.student

    @property
    def file(self) -> str:
        """Return the name of the page, the same in every grading."""
        return Path(page_name(self.standing)).name

    @property
    def flags(self) -> str:
        """Return the names of the findings."""
        return flags(self.standing)

    @cached_property
    def by_key(self) -> dict[str, Answer]:
        """Return the answers to questions."""
        answers = self.result.written.answers
        return {answer.key: answer for answer in answers if answer.key}

    @cached_property
    def own(self) -> list[Answer]:
        """Return the texts in cells of the student's own."""
        return [answer for answer in self.result.written.answers if not answer.key]

    @property
    def written_answers(self) -> int:
        """Return the number of questions below which something is written."""
        return sum(bool(answer.lines) for answer in self.by_key.values())

    @property
    def letters(self) -> int:
        """Return the length of all that is written."""
        return sum(answer.letters for answer in self.result.written.answers)

    @cached_property
    def plans(self) -> list[dict[str, Any]]:
        """Return the plans with their curves and verdicts, in the order of the runs."""
        written = self.result.written
        runs: dict[str, list[tuple[str, Trained]]] = {}
        for run in written.runs:
            for plan, label in run.places:
                runs.setdefault(plan, []).append((label, run))
        return [
            {
                "name": plan,
                "picture": curves.picture(listed),
                "verdicts": [verdict for verdict in written.verdicts if verdict.plan == plan],
            }
            for plan, listed in runs.items()
        ]


class Shown(NamedTuple):
    """Hold an answer as a page shows it."""

    file: str
    student: str
    anchor: str
    lines: list[str]
    is_cut: bool


class QuestionPage(NamedTuple):
    """Hold a question with the answers of all.

    Attributes:
        page: its file.
        silent: pages of those who wrote nothing.
    """

    name: str
    page: str
    question: Question
    answers: list[Shown]
    silent: list[Page]


def reading_name(standing: Standing) -> str:
    """Return the path of a page below the folder of the gradebook; "" without a submission."""
    return page_name(standing, FOLDER) if standing.result.submission else ""


def write_reading(out: Path, standings: Sequence[Standing]) -> None:
    """Write all pages; one that cannot be written is named, and the others are."""
    asked = questions()
    pages = [Page(standing, asked) for standing in standings if reading_name(standing)]
    asked_pages = _question_pages(pages, asked)
    names = {key: one.page for key, one in asked_pages.items()}
    listed = list(asked_pages.values())
    files = OwnFiles(out / FOLDER)
    for place, page in enumerate(pages):
        around = _around(pages, place)
        values = _of_student(page, names) | {"place": place + 1, "places": len(pages)}
        _write(files, page.file, "read_student", around | values)
    for place, one in enumerate(listed):
        _write(files, one.page, "read_question", _around(listed, place) | {"one": one})
    about = {"questions": listed, "students": len(pages)}
    _write(files, _QUESTIONS, "read_questions", about)
    plans = tried([page.standing for page in pages])
    missing = [standing for standing in standings if not reading_name(standing)]
    about = {"pages": pages, "missing": missing, "tried": plans.items(), "verdicts": VERDICTS}
    _write(files, _CLASS, "read_class", about | {"fewest": FEWEST, "counted": COUNTED})
    written = [_CLASS, _QUESTIONS, *(page.file for page in pages), *(one.page for one in listed)]
    files.remove_others(out / FOLDER / name for name in written)


def _write(files: OwnFiles, name: str, template: str, values: Mapping[str, Any]) -> None:
    """Write a page; say so if it cannot be written."""
    file = files.folder / name
    try:
        text = TEMPLATES.get_template(f"{template}.html.jinja").render(values, size=_SIZE)
        files.write({file: text.encode()})
    except (OSError, ValueError) as error:
        say(f"{file}: was not written ({in_one_line(error)})")


def _around(listed: Sequence[Any], place: int) -> dict[str, Any]:
    """Return what is before and after a place, or None."""
    return {
        "before": listed[place - 1] if place else None,
        "after": listed[place + 1] if place + 1 < len(listed) else None,
    }


# --- a student ------------------------------------------------------------------------------------


def _of_student(page: Page, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page of a submission shows.

    Args:
        names: key of a question -> its page.
    """
    nothing = Answer("", "", "", [])
    answers = [
        _answer(question.key, question.name, page.by_key.get(question.key, nothing), names)
        | {"text": question.text}
        for question in page.asked.values()
    ]
    findings: dict[str, list[Finding]] = {}
    for finding in sorted(page.result.findings, key=lambda one: LEVELS.index(one.level)):
        findings.setdefault(finding.name, []).append(finding)
    return {
        "standing": page.standing,
        "findings": findings,
        "result": page.result,
        "written": page.result.written,
        "feedback": page_name(page.standing),
        "levels": LEVEL_WORDS,
        "answers": answers,
        "own": page.own,
        "plans": page.plans,
    }


def _answer(key: str, name: str, answer: Answer, names: Mapping[str, str]) -> dict[str, Any]:
    """Return an answer as the page of its student shows it."""
    return {
        "name": name,
        "page": names[key],
        "anchor": _anchor(key),
        "lines": answer.lines,
        "is_cut": answer.is_cut,
    }


def _anchor(key: str) -> str:
    return f"answer-{fingerprint(key)[:8]}"


# --- a question -----------------------------------------------------------------------------------


def _question_pages(
    pages: Sequence[Page], asked: Mapping[str, Question]
) -> dict[str, QuestionPage]:
    """Return the questions of the notebooks, by key."""
    return {key: _question_page(key, question, pages) for key, question in asked.items()}


def _question_page(key: str, question: Question, pages: Sequence[Page]) -> QuestionPage:
    """Return a question with the answers of all."""
    wrote = [page for page in pages if key in page.by_key and page.by_key[key].lines]
    silent = [page for page in pages if page not in wrote]
    answers = [_shown(page, key) for page in wrote]
    return QuestionPage(question.name, _file_name(key), question, answers, silent)


def _shown(page: Page, key: str) -> Shown:
    """Return the answer of a student as the page of the question shows it."""
    answer = page.by_key[key]
    return Shown(page.file, page.student, _anchor(key), answer.lines, answer.is_cut)


def _file_name(key: str) -> str:
    """Return the file of a question."""
    return f"question-{key}.html"


def _duration(seconds: float | None) -> str:
    """Return a time in its largest unit; empty for None."""
    if seconds is None:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _as_html(text: str) -> Markup:
    """Return Markdown of the kit as HTML; what students wrote is shown as it is."""
    return Markup("\n".join(map(to_html, text.splitlines())))


TEMPLATES.filters |= {"duration": _duration, "markdown": _as_html}
