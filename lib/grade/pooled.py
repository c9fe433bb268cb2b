"""Pool a class: who tried what, and does it help with the seeds of all students together?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from lib.grade.standings import Standing
from lib.grade.student_work import Verdict
from lib.stats import ALPHA, VERDICTS
from lib.stats.verdicts import NEGLIGIBLE

FEWEST = 3  # students of whom an interval is computed
COUNTED = ("verified", "review")  # statuses of submissions whose tables are believed


class Question(NamedTuple):
    """Hold what must be equal for two students to have asked the same."""

    plan: str
    base: str
    scored_on: str
    label: str
    against: str
    changed: str
    before: str
    metric: str


class Interval(NamedTuple):
    """Hold a mean over students with its 95 % interval by Student's t."""

    students: int
    mean: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """Return what it tells."""
        if self.low > 0:
            return "helps on these patients, on average over seeds"
        if self.high < 0:
            return "hurts on these patients, on average over seeds"
        if max(-self.low, self.high) < NEGLIGIBLE:
            return f"no difference larger than {NEGLIGIBLE} on these patients"
        return "cannot be told from luck with the seed"


@dataclass(frozen=True)
class Tried:
    """Hold a variant of a plan as the class tried it.

    Attributes:
        patients: number of them; None if nobody could be compared.
        students: those who trained it.
        verdicts: one of ``VERDICTS`` -> students who found it by their own tables.
        observed: number of students whose trainings are different ones.
        equal: number of students with the seeds or the numbers of another; each pair counts once.
        pooled: None for fewer than ``FEWEST`` observations.
    """

    question: Question
    patients: int | None
    students: tuple[str, ...]
    verdicts: dict[str, tuple[str, ...]]
    observed: int
    equal: int
    pooled: Interval | None


def tried(standings: Sequence[Standing]) -> dict[Question, list[Tried]]:
    """Return what the class tried: what the variants of a plan share -> its rows.

    The most frequent plans and variants go first. Of two submissions of one student the last
    counts.
    """
    found: dict[Question, dict[str, tuple[Standing, Verdict]]] = defaultdict(dict)
    for standing in standings:
        for verdict in standing.result.written.verdicts:
            found[_question(verdict)][standing.result.student] = (standing, verdict)
    rows = [_tried(question, by_student) for question, by_student in found.items()]
    often = Counter(row.question.plan for row in rows for _ in row.students)
    plans: dict[Question, list[Tried]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: -len(row.students)):
        plans[_about(row.question)].append(row)
    return dict(
        sorted(plans.items(), key=lambda item: (-often[item[0].plan], item[0].plan, _size(item[1])))
    )


def _about(question: Question) -> Question:
    """Return what all variants of a plan share."""
    return question._replace(label="", against="", changed="", before="", metric="")


def _size(rows: list[Tried]) -> int:
    return -sum(len(row.students) for row in rows)


def _question(verdict: Verdict) -> Question:
    return Question(*(getattr(verdict, name) for name in Question._fields))


def _tried(question: Question, by_student: dict[str, tuple[Standing, Verdict]]) -> Tried:
    """Return the row of a variant."""
    verdicts = {
        name: tuple(
            student for student, (_, verdict) in by_student.items() if verdict.verdict == name
        )
        for name in VERDICTS
    }
    seen = [
        verdict
        for standing, verdict in by_student.values()
        if standing.status in COUNTED and verdict.difference is not None
    ]
    different = _independent(seen)
    patients = [verdict.patients for _, verdict in by_student.values() if verdict.patients]
    return Tried(
        question,
        patients[0] if patients else None,
        tuple(by_student),
        verdicts,
        len(different),
        len(seen) - len(different),
        interval(different),
    )


def _independent(verdicts: Iterable[Verdict]) -> list[float]:
    """Return the differences of trainings that no other student repeats.

    The same seeds are the same trainings, and so is the same difference to the last digit.
    """
    seeds: set[tuple[int, ...]] = set()
    found: list[float] = []
    for verdict in verdicts:
        own = tuple(sorted(verdict.seeds))
        if verdict.difference is None or own in seeds or verdict.difference in found:
            continue
        seeds.add(own)
        found.append(verdict.difference)
    return found


def interval(observations: Iterable[float]) -> Interval | None:
    """Return mean and Student's t interval, one observation a student; None for too few."""
    values = np.asarray(list(observations), float)
    if len(values) < FEWEST:
        return None
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1) * error)
    mean = float(values.mean())
    return Interval(len(values), mean, mean - half, mean + half)
