"""Check a class: duplicate submissions, statistical ties, and the points of each student."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.grade.checkpoint import weights_hash
from lib.grade.checks import Finding
from lib.grade.rescore import Result
from lib.grade.rubric import Rubric
from lib.predict import PRETRAINED
from lib.runtime.checkpoint import read_checkpoint
from lib.stats import ALPHA, DIGITS

_SHARED = {
    "weights": "the same weights",
    "cases": "the same cases.csv",
    "masks": "the same errors, voxel for voxel",
}
"""Name in ``Result.prints`` -> what is shared, the most telling first."""
Findings = dict[int, list[Finding]]  # index of a result -> findings of the class about it


@dataclass(frozen=True)
class Standing:
    """Hold a result and what it earns.

    Attributes:
        status: ``verified``; ``review``: points are given, the instructor should look; ``held``: no
            points until the instructor has looked; else why nothing was computed, see ``Result``.
        points: for the DSC.
        rank: 1 for the best, equal for ties; None if no points are given.
    """

    result: Result
    status: str
    points: float = 0.0
    rank: int | None = None


def assess(
    results: Sequence[Result], rubric: Rubric, roster: Sequence[str] | None = None
) -> list[Standing]:
    """Return the standings of a class, by student, with findings about the class and points.

    Args:
        roster: ids of the students; each who submitted nothing gets a row.
    """
    results = [*results, *_missing(results, roster or ())]
    added: Findings = defaultdict(list)
    for found in (shared(results), shipped(results), unexpected(results, roster)):
        for index, finding in found:
            added[index].append(finding)
    standings, graded = [], []
    for index, result in enumerate(results):
        result = replace(result, findings=result.findings + added[index])
        if status(result) in ("verified", "review"):
            graded.append(result)
        else:
            standings.append(Standing(result, status(result)))
    for rank, leader, member in tied(graded):
        standings.append(Standing(member, status(member), rubric.points(leader.score), rank))
    return sorted(
        standings, key=lambda standing: (standing.result.student, standing.result.submission)
    )


def status(result: Result) -> str:
    """Return the gradebook's word for a result; see ``Standing``."""
    if result.status != "computed":
        return result.status
    if _has_fault(result):
        return "held"
    return "review" if any(finding.level == "review" for finding in result.findings) else "verified"


def tied(results: Iterable[Result]) -> Iterator[tuple[int, Result, Result]]:
    """Yield (rank, leader, member) from the best down.

    Members of a group cannot be told apart. The best leads the first group. Each next one belongs
    to it while all of them may be equally good, patient by patient (``range_p`` above 5 %); else it
    leads the next group. So points never rise as the DSC falls, and chance rarely splits equals,
    however many there are. Masks are scored on another grid: such a result is a group of its own.
    """
    group: list[Result] = []
    rank = 0
    ordered = sorted(results, key=lambda result: (-result.score, result.student, result.submission))
    for place, member in enumerate(ordered, 1):
        if group and _may_be_equal([*group, member]):
            group.append(member)
        else:
            group, rank = [member], place
        yield rank, group[0], member


def _may_be_equal(group: Sequence[Result]) -> bool:
    """Return whether the members may be equally good."""
    first = group[0]
    if any(
        member.grid != first.grid or member.cases.keys() != first.cases.keys() for member in group
    ):
        return False
    scores = [[member.cases[patient][1] for patient in first.cases] for member in group]
    return range_p(np.array(scores, float)) > ALPHA


def range_p(scores: np.ndarray) -> float:
    """Return the permutation p of members that are all equally good.

    Each patient's scores are dealt anew to the members, 999 times (fixed seed). The statistic is
    the largest mean minus the smallest, so that any number of members is one test. Tukey's for the
    analysis of variance does the same.

    Args:
        scores: ``(members, patients)``.
    """
    dealt = np.random.default_rng(0).permuted(
        np.broadcast_to(scores, (999, *np.shape(scores))), axis=1
    )
    ranges = np.ptp(dealt.mean(axis=2), axis=1)
    observed = np.ptp(np.mean(scores, axis=1))
    as_large = np.sum(np.round(ranges - observed, DIGITS) >= 0)
    return float((1 + as_large) / (1 + len(ranges)))


# --- findings about the class ---------------------------------------------------------------------


def shared(results: Sequence[Result]) -> Iterator[tuple[int, Finding]]:
    """Yield weights, tables or errors that more than one student submitted.

    Of several shared things between two students, the most telling is reported.
    """
    reported: set[tuple[int, int]] = set()
    for name, words in _SHARED.items():
        groups = defaultdict(list)
        for index, result in enumerate(results):
            if name in result.prints:
                groups[result.prints[name]].append(index)
        for group in groups.values():
            for index in group:
                others = [
                    other
                    for other in group
                    if results[other].student != results[index].student
                    and (index, other) not in reported
                ]
                reported.update((index, other) for other in others)
                if others:
                    yield (
                        index,
                        _shared_finding(
                            words, results[index], [results[other] for other in others]
                        ),
                    )


def _shared_finding(words: str, result: Result, others: list[Result]) -> Finding:
    """Return the finding about a result that shares something with others.

    The same recipe gives the same bytes on the same kind of device. If the recipes differ, the
    student whose submission has other faults copied; if none has, both are held for review.
    """
    same_recipe = all(other.run == result.run for other in others)
    is_owner = not _has_fault(result) and any(map(_has_fault, others))
    why = (
        "The recipe is the same too: on the same kind of device it gives the same bytes."
        if same_recipe
        else "The recipes differ: no training gives that."
    )
    return Finding(
        "review" if same_recipe or is_owner else "fault",
        words,
        f"Another student submitted {words}. {why}",
        f"{words} as {', '.join(dict.fromkeys(other.student for other in others))}",
    )


def _has_fault(result: Result) -> bool:
    """Return whether a finding is a fault."""
    return any(finding.level == "fault" for finding in result.findings)


def shipped(results: Sequence[Result], folder: Path = PRETRAINED) -> Iterator[tuple[int, Finding]]:
    """Yield submissions with the weights that come with the kit."""
    ours = {}
    for file in sorted(folder.rglob("*.pt")):
        content = read_checkpoint(file)
        weights = content.get("weights", content)
        ours[weights_hash(weights)] = file.name
        # a network that has loaded them saves them as float32
        widened = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        ours[weights_hash(widened)] = file.name
    for index, result in enumerate(results):
        name = ours.get(result.prints.get("weights", ""))
        if name:
            text = f"These weights come with the kit: {name}."
            yield index, Finding("fault", "weights of the kit", text)


def unexpected(
    results: Sequence[Result], roster: Sequence[str] | None
) -> Iterator[tuple[int, Finding]]:
    """Yield students who submitted twice, or who are not on the roster."""
    files = defaultdict(list)
    for result in results:
        files[result.student].append(result.submission)
    for index, result in enumerate(results):
        names = files[result.student]
        if len(names) > 1:
            text = f"{len(names)} submissions have this id."
            private = f"handed in twice: {', '.join(names)}"
            yield index, Finding("review", "handed in twice", text, private)
        if roster is not None and result.student not in roster:
            yield index, Finding("review", "not on the roster", "This id is not on the roster.")


def _missing(results: Sequence[Result], roster: Sequence[str]) -> list[Result]:
    """Return a result for each student of the roster who submitted nothing."""
    here = {result.student for result in results}
    return [Result("", student, "missing") for student in roster if student not in here]
