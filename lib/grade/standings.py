"""What only a whole class shows: who handed in the same as somebody else, and whose scores cannot be told apart."""

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
from lib.predict import PRETRAINED, read_checkpoint
from lib.stats import ALPHA, DIGITS

_SHARED = {
    "weights": "the same weights",
    "cases": "the same cases.csv",
    "masks": "the same errors, voxel for voxel",
}
Findings = dict[int, list[Finding]]  # index of a result -> what the class shows of it


@dataclass(frozen=True)
class Standing:
    """A result with what it earns.

    Attributes:
        status: ``verified``; ``review``: points stand, a human should look; ``held``: none until a
            human has looked; else the reason why nothing could be computed, see ``Result``.
        points: for the DSC.
        rank: 1 for the best, equal for ties; None where no points are given.
    """

    result: Result
    status: str
    points: float = 0.0
    rank: int | None = None


def assess(
    results: Sequence[Result], rubric: Rubric, roster: Sequence[str] | None = None
) -> list[Standing]:
    """Add what the class shows, give points; sorted by student.

    Args:
        roster: ids of the students; who is on it and handed in nothing gets a row.
    """
    results = [*results, *_missing(results, roster or ())]
    added: Findings = defaultdict(list)
    for found in (shared(results), shipped(results), unexpected(results, roster)):
        for index, finding in found:
            added[index].append(finding)
    results = [
        replace(result, findings=result.findings + added[i]) for i, result in enumerate(results)
    ]
    standings = [Standing(result, status(result)) for result in results]
    graded = [standing for standing in standings if standing.status in ("verified", "review")]
    earned = {
        id(member): (rubric.points(leader.verified), rank)
        for rank, leader, member in tied([standing.result for standing in graded])
    }
    standings = [
        replace(standing, points=points, rank=rank)
        for standing in standings
        for points, rank in [earned.get(id(standing.result), (0.0, None))]
    ]
    return sorted(
        standings, key=lambda standing: (standing.result.student, standing.result.submission)
    )


def status(result: Result) -> str:
    """The gradebook's word for a result; see ``Standing``."""
    if result.status != "computed":
        return result.status
    if _has_fault(result):
        return "held"
    return "review" if any(finding.level == "review" for finding in result.findings) else "verified"


def tied(results: Iterable[Result]) -> Iterator[tuple[int, Result, Result]]:
    """(rank, leader, member) from the best down: members of a group cannot be told apart.

    The best leads the first group. Each next one belongs to it while all of them together, patient
    by patient, may be equally good (``range_p`` above 5 %), else it leads the next. So points never
    rise as the DSC falls, and however many there are, chance rarely splits those who are equal.
    Masks are scored on another grid: such a result is a group of its own.
    """
    group: list[Result] = []
    rank = 0
    ordered = sorted(
        results, key=lambda result: (-result.verified, result.student, result.submission)
    )
    for place, member in enumerate(ordered, 1):
        if group and _equal([*group, member]):
            group.append(member)
        else:
            group, rank = [member], place
        yield rank, group[0], member


def _equal(group: Sequence[Result]) -> bool:
    """Whether the members may be equally good."""
    patients = list(group[0].cases)
    if any(
        member.grid != group[0].grid or member.cases.keys() != group[0].cases.keys()
        for member in group
    ):
        return False
    return (
        range_p(np.array([[member.cases[name][1] for name in patients] for member in group]))
        > ALPHA
    )


# --- what the class shows -------------------------------------------------------------------------


def shared(results: Sequence[Result]) -> Iterator[tuple[int, Finding]]:
    """Weights, tables or errors that more than one student handed in; of several the most telling."""
    told: set[tuple[int, int]] = set()
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
                    and (index, other) not in told
                ]
                told.update((index, other) for other in others)
                if others:
                    yield (
                        index,
                        _copied(words, results[index], [results[other] for other in others]),
                    )


def _copied(words: str, result: Result, others: list[Result]) -> Finding:
    """One recipe gives the same bytes on the same kind of machine; two cannot. Who copied then is he whose hand-in
    has other faults, and if none has, nobody gets points before a human has looked.
    """
    same_run = all(other.run == result.run for other in others)
    owner = not _has_fault(result) and any(map(_has_fault, others))
    why = (
        "The recipe is the same too: on the same kind of machine it gives the same bytes."
        if same_run
        else "The recipes differ: no training gives that."
    )
    return Finding(
        "review" if same_run or owner else "fault",
        words,
        f"Another student handed in {words}. {why}",
        f"{words} as {', '.join(dict.fromkeys(other.student for other in others))}",
    )


def _has_fault(result: Result) -> bool:
    return any(finding.level == "fault" for finding in result.findings)


def shipped(results: Sequence[Result], folder: Path = PRETRAINED) -> Iterator[tuple[int, Finding]]:
    """Weights that come with the kit."""
    ours = {}
    for file in sorted(folder.rglob("*.pt")):
        content = read_checkpoint(file)
        weights = content.get("weights", content)
        ours[weights_hash(weights)] = file.name
        widened = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        ours[weights_hash(widened)] = file.name  # as a network that has loaded them saves them
    for index, result in enumerate(results):
        if name := ours.get(result.prints.get("weights", "")):
            yield (
                index,
                Finding("fault", "weights of the kit", f"These weights come with the kit: {name}."),
            )


def unexpected(
    results: Sequence[Result], roster: Sequence[str] | None
) -> Iterator[tuple[int, Finding]]:
    """Students who handed in twice, or who are not on the roster."""
    files = defaultdict(list)
    for result in results:
        files[result.student].append(result.submission)
    for index, result in enumerate(results):
        if len(files[result.student]) > 1:
            yield (
                index,
                Finding(
                    "review",
                    "handed in twice",
                    f"{len(files[result.student])} hand-ins bear this id.",
                    f"handed in twice: {', '.join(files[result.student])}",
                ),
            )
        if roster is not None and result.student not in roster:
            yield index, Finding("review", "not on the roster", "This id is not on the roster.")


def _missing(results: Sequence[Result], roster: Sequence[str]) -> list[Result]:
    here = {result.student for result in results}
    return [Result("", student, "missing") for student in roster if student not in here]


def range_p(scores: np.ndarray) -> float:
    """Permutation p of members that are all equally good: might their means lie so far apart by chance?

    Each patient's scores are dealt anew to the members, 999 times (fixed seed). The statistic is
    the largest mean less the smallest, so any number of members is one test, as in Tukey's for the
    analysis of variance.

    Args:
        scores: ``(members, patients)``.
    """
    dealt = np.random.default_rng(0).permuted(
        np.broadcast_to(scores, (999, *np.shape(scores))), axis=1
    )
    ranges = np.ptp(dealt.mean(axis=2), axis=1)
    return (1 + np.sum(np.round(ranges - np.ptp(np.mean(scores, axis=1)), DIGITS) >= 0)) / (
        1 + len(ranges)
    )
