"""Hold what a student wrote and trained, in a form that can be kept and sent."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lib.stats import VERDICTS

MAX_ANSWERS, MAX_LETTERS, MAX_WORDS = 200, 20_000, 500_000
"""Of what a student wrote: answers, letters of one with its line breaks, and letters of all."""
MAX_TRAINED, MAX_POINTS, MAX_PLACES, MAX_EPOCH = 200, 1_000, 20, 100_000
"""Of what a student trained: runs, points of a curve, places of a run in plans, and epochs."""
MAX_VERDICTS, MAX_REMARKS = 400, 50


class Answer(NamedTuple):
    """Hold what a student wrote in one place.

    Attributes:
        source: the notebook, or ``exercises.py``.
        key: of the question, see ``Question``, or name of the exercise; "" for what is their own.
        title: of the question, or the heading above the cell; name of the exercise.
        lines: without line breaks; none if nothing is written.
        is_cut: it was longer.
        problem: why there are no lines, if there is more to say.
    """

    source: str
    key: str
    title: str
    lines: list[str]
    is_cut: bool = False
    problem: str = ""

    def is_sound(self) -> bool:
        """Return whether all values are of their kinds and not too large."""
        return (
            isinstance(self.lines, list)
            and _are_texts(self.source, self.key, self.title, self.problem, *self.lines)
            and type(self.is_cut) is bool
            and self.letters <= MAX_LETTERS
        )

    @property
    def letters(self) -> int:
        """Return its length with line breaks."""
        return sum(len(line) + 1 for line in self.lines)


class Trained(NamedTuple):
    """Hold a run of the result CSVs, as its files claim it.

    Attributes:
        places: [plan, label] of each plan that it is part of.
        changes: what differs from the published recipe, in words.
        best, last: DSC of these epochs.
        curve: [epoch, DSC] of some of its epochs.
        problem: a sentence if its files cannot be used.
    """

    run: str
    places: list[list[str]]
    changes: str = ""
    best: float | None = None
    last: float | None = None
    epochs: int | None = None
    seconds: float | None = None
    curve: list[list[float]] = []  # noqa: RUF012 -- never changed
    problem: str = ""

    def is_sound(self) -> bool:
        """Return whether all values are of their kinds and not too large."""
        numbers = (self.best, self.last, self.epochs, self.seconds)
        return (
            _are_texts(self.run, self.changes, self.problem)
            and all(number is None or is_finite(number) for number in numbers)
            and _is_table(self.places, MAX_PLACES)
            and all(_are_texts(*place) for place in self.places)
            and _is_table(self.curve, MAX_POINTS)
            and all(_is_point(*point) for point in self.curve)
        )


class Verdict(NamedTuple):
    """Hold what the grader finds by the tables that a student submitted: did a variant help?

    Attributes:
        against: label of the recipe that it is compared with.
        base: how the first recipe of the plan differs from the published one, in words.
        changed: how the variant differs from the recipe that it is compared with.
        before: hash of that recipe.
        metric: column of cases.csv, at the best epoch.
        scored_on: hash of the names of the patients.
        seeds: of the variant.
        difference, low, high, p: mean over patients, its 95 % CI, and p after Holm's correction.
        verdict: one of ``lib.stats.VERDICTS``; "" if there is none.
        problem: why there is none.
    """

    plan: str
    label: str
    against: str
    base: str = ""
    changed: str = ""
    before: str = ""
    metric: str = ""
    scored_on: str = ""
    patients: int | None = None
    seeds: list[int] = []  # noqa: RUF012 -- never changed
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    verdict: str = ""
    problem: str = ""

    def is_sound(self) -> bool:
        """Return whether all values are of their kinds and not too large."""
        recipes = (self.plan, self.label, self.against, self.base, self.changed, self.before)
        numbers = (self.patients, self.difference, self.low, self.high, self.p)
        return (
            _are_texts(*recipes, self.metric, self.scored_on, self.verdict, self.problem)
            and all(number is None or is_finite(number) for number in numbers)
            and isinstance(self.seeds, list)
            and len(self.seeds) <= MAX_TRAINED
            and all(type(seed) is int for seed in self.seeds)
            and self.verdict in (*VERDICTS, "")
            and (not self.verdict or is_finite(self.difference))
        )


class Written(NamedTuple):
    """Hold what a student wrote and trained, for the instructor to read.

    Attributes:
        exercises: the code of each that the course hands out, then the student's own in
            ``exercises.py``; without lines if it is not written.
        remarks: sentences about what could not be read.
    """

    answers: list[Answer]
    runs: list[Trained]
    verdicts: list[Verdict]
    exercises: list[Answer]
    remarks: list[str]

    @classmethod
    def from_json(cls, values: list[Any]) -> Written:
        """Return it from the lists that JSON makes of it. Raises TypeError for other shapes."""
        answers, runs, verdicts, exercises, remarks = values
        return cls(
            [Answer(*one) for one in answers],
            [Trained(*one) for one in runs],
            [Verdict(*one) for one in verdicts],
            [Answer(*one) for one in exercises],
            remarks,
        )

    def is_sound(self) -> bool:
        """Return whether all values are of their kinds and not too many."""
        return (
            max(len(self.answers), len(self.exercises)) <= MAX_ANSWERS
            and len(self.runs) <= MAX_TRAINED
            and len(self.verdicts) <= MAX_VERDICTS
            and isinstance(self.remarks, list)
            and len(self.remarks) <= MAX_REMARKS
            and _are_texts(*self.remarks)
            and all(answer.is_sound() for answer in (*self.answers, *self.exercises))
            and all(run.is_sound() for run in self.runs)
            and all(verdict.is_sound() for verdict in self.verdicts)
            and sum(answer.letters for answer in self.answers) <= MAX_WORDS
        )


def nothing_written(*remarks: str) -> Written:
    """Return what is known of a submission of which nothing was read."""
    return Written([], [], [], [], [*remarks])


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_table(rows: object, most: int) -> bool:
    """Return whether something is a list of at most so many pairs."""
    return (
        isinstance(rows, list)
        and len(rows) <= most
        and all(isinstance(row, list) and len(row) == 2 for row in rows)
    )


def _is_point(epoch: Any, dsc: Any) -> bool:
    """Return whether two values can be a point of a curve."""
    return is_finite(epoch) and 0 <= epoch <= MAX_EPOCH and is_finite(dsc) and 0 <= dsc <= 1


def is_finite(value: object) -> bool:
    """Return whether a value is a number that a float can hold, and neither NaN nor infinite."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # JSON and TOML have integers of any length
        return False
