"""Check a class: duplicate submissions, statistical ties, and the points of each student."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from lib.config import seeds_of
from lib.grade.checkpoint import weights_hash
from lib.grade.nearness import apart, near, near_weights, shapes, sketch
from lib.grade.platforms import is_late
from lib.grade.result import Finding, Result
from lib.grade.rubric import Rubric
from lib.grade.submission import as_listed, members
from lib.predict import PRETRAINED
from lib.runtime.checkpoint import read_checkpoint
from lib.stats import ALPHA
from lib.stats.verdicts import DIGITS
from lib.utils import fingerprint

_SHARED = {
    "time": "the same measured time",
    "weights": "the same weights",
    "cases": "the same cases.csv",
    "masks": "the same errors, voxel for voxel",
}
"""Name in ``Result.prints`` -> what is shared, the most telling first."""
_SAME_TIME = (
    "Another student submitted a run with the same measured time, to the microsecond: it is the "
    "same training."
)
_SAME_TABLES = (
    "Another student submitted a run with the same tables. The same recipe and seed give them on "
    "the same kind of device; an id of one's own gives another seed."
)
_NEAR = {
    "weights": "nearly the same weights",
    "shapes": "nearly the same kernels, in another order, size or direction",
    "predictions": "nearly the same DSC on every patient",
}
OFF_ROSTER = "not on the roster"
_FOREIGN = ("claim not reproduced", "patients not reproduced", "checkpoint of another run")
"""Faults that prove that the weights are not of the run: what is shared was copied by this one."""
MANY = 3
"""Students with the same weights and recipe, from which on one who says another has copied."""
_NOT_LEARNT = ("tta", "component", "metric", "checkpointing", "epochs", "patience")
"""Fields of a recipe with which the weights of the best epoch may be the same."""
GIVEN_OUT = 4, 0.5
"""Number and share of submissions with the same run, from which on the course gave it out."""
FEWEST_PATIENTS = 6
"""With fewer, nearly everybody ties: then the scale alone counts."""
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
    results = [
        replace(result, student=as_listed(result.student, roster or ())) for result in results
    ]
    results += _missing(results, roster or ())
    added: Findings = defaultdict(list)
    checks = (
        alike(results),
        same_runs(results),
        shipped(results),
        other_seeds(results),
        other_grids(results),
        unexpected(results, roster),
        large_teams(results, rubric.team),
    )
    for found in checks:
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
        standings.append(Standing(member, status(member), points(member, leader, rubric), rank))
    return sorted(
        standings, key=lambda standing: (standing.result.student, standing.result.submission)
    )


def of_members(standing: Standing) -> list[Standing]:
    """Return the standing of each member of a team."""
    return [
        replace(standing, result=replace(standing.result, student=member))
        for member in members(standing.result.student)
    ]


def status(result: Result) -> str:
    """Return the gradebook's word for a result; see ``Standing``."""
    if result.status != "computed":
        return result.status
    if _has_fault(result):
        return "held"
    return "review" if any(finding.level == "review" for finding in result.findings) else "verified"


def points(member: Result, leader: Result, rubric: Rubric) -> float:
    """Return what a member of a group earns: what its leader earns, within limits.

    A tie is worth ``rubric.largest_lift`` of DSC at most, so that a result depends on a
    classmate's by no more than that; and no more than the student's own lead over the baseline, so
    that who earns nothing by the scale is not lifted.
    """
    lift = min(rubric.largest_lift, max(0.0, member.score - rubric.baseline))
    return rubric.points(min(leader.score, member.score + lift))


def tied(results: Iterable[Result]) -> Iterator[tuple[int, Result, Result]]:
    """Yield (rank, leader, member) from the best down.

    Members of a group cannot be told apart. The best leads the first group. Each next one belongs
    to it while all of them may be equally good, patient by patient (``range_p`` above 5 %); else it
    leads the next group. So points never rise as the DSC falls, and chance rarely splits equals,
    however many there are. Results on different grids are never in one group, see ``scored_on``.
    With fewer than ``FEWEST_PATIENTS`` there are no groups.
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
    if len(first.cases) < FEWEST_PATIENTS or any(
        member.scored_on != first.scored_on or member.cases.keys() != first.cases.keys()
        for member in group
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


def alike(results: Sequence[Result]) -> Iterator[tuple[int, Finding]]:
    """Yield what students share who trained apart: equal weights, tables or errors, or near ones.

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
                    if apart(results[other], results[index]) and (index, other) not in reported
                ]
                reported.update((index, other) for other in others)
                if others:
                    yield index, _shared_finding(name, words, results[index], _of(results, others))
    neighbours: dict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    for one, other, name, distance in near(results):
        if (one, other) not in reported:
            neighbours[one, name].append((other, distance))
            neighbours[other, name].append((one, distance))
    for (index, name), found in neighbours.items():
        distance = min(distance for _, distance in found)
        near_to = _of(results, (other for other, _ in found))
        yield index, _near_finding(name, distance, near_to)


def same_runs(results: Sequence[Result]) -> Iterator[tuple[int, Finding]]:
    """Yield what students share of the runs that they compare: one trained for another.

    What two graded runs share is the matter of ``alike``. A run that most of the class have was
    given out.
    """
    graded = [set(result.prints.items()) for result in results]
    have: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, result in enumerate(results):
        for shared in graded[index].union(*(run.items() for run in result.compared)):
            have[shared].append(index)
    number, share = GIVEN_OUT
    others: dict[int, set[int]] = defaultdict(set)
    names: dict[int, set[str]] = defaultdict(set)
    for shared, group in have.items():
        if len(group) >= number and len(group) > share * len(results):
            continue
        for index, other in permutations(group, 2):
            is_compared = shared not in graded[index] or shared not in graded[other]
            if is_compared and apart(results[index], results[other]):
                others[index].add(other)
                names[index].add(shared[0])
    for index, found in others.items():
        private = f"the same run as {_names(_of(results, sorted(found)))}"
        text = _SAME_TIME if "time" in names[index] else _SAME_TABLES
        yield index, Finding("review", "the same run", text, private)


def _of(results: Sequence[Result], indices: Iterable[int]) -> list[Result]:
    return [results[index] for index in indices]


def _names(results: Iterable[Result]) -> str:
    return ", ".join(dict.fromkeys(result.student for result in results))


def _shared_finding(name: str, words: str, result: Result, others: list[Result]) -> Finding:
    """Return the finding about a result that shares something with others.

    Who has a fault that proves foreign weights copied; if nobody has, all are held. But the same
    recipe gives the same bytes on the same kind of device, though never in the same time: then
    somebody looks, and at most of a group if single others of it say that theirs is another.
    """
    alike = sum(_trains_alike(result, other) for other in others)
    apart = Counter(_training(other) for other in others if not _trains_alike(result, other))
    most = max(apart.values(), default=0)
    same_recipe = name != "time" and alike == len(others)
    is_one_of_many = name != "time" and alike + 1 >= max(MANY, most + 1)
    is_owner = not _is_foreign(result) and any(map(_is_foreign, others))
    if name == "time":
        why = "No two trainings take the same time, to the microsecond."
    elif same_recipe:
        why = "The recipe is the same too: on the same kind of device it gives the same bytes."
    elif is_one_of_many:
        why = "Most of them have one recipe: on the same kind of device it gives the same bytes."
    else:
        why = "The recipes differ: no training gives that."
    return Finding(
        "review" if same_recipe or is_owner or is_one_of_many else "fault",
        words,
        f"Another student submitted {words}. {why}",
        f"{words} as {_names(others)}",
    )


def _training(result: Result) -> str:
    """Return what decides a run's weights: its recipe, but for what changes no training."""
    return fingerprint(
        {name: value for name, value in result.recipe.items() if name not in _NOT_LEARNT}
    )


def _trains_alike(result: Result, other: Result) -> bool:
    """Return whether two runs may honestly have the same weights."""
    if result.run == other.run:
        return True
    return bool(result.recipe) and _training(result) == _training(other)


def _near_finding(name: str, distance: float, others: list[Result]) -> Finding:
    """Return the finding about a result that is nearly that of others."""
    words = _NEAR[name]
    if name in ("weights", "shapes"):
        about = 1.4 if name == "weights" else 1.1
        apart = f"it is 0 for a copy, and about {about} for networks that were trained apart"
    else:
        apart = "networks that were trained apart differ by more, in one patient at least"
    return Finding(
        "review",
        words,
        f"Another student submitted {words} (distance {distance:.4f}); {apart}.",
        f"{words} as {_names(others)}",
    )


def _is_foreign(result: Result) -> bool:
    """Return whether a finding proves that the weights are not of the run."""
    return any(finding.level == "fault" and finding.name in _FOREIGN for finding in result.findings)


def _has_fault(result: Result) -> bool:
    """Return whether a finding is a fault."""
    return any(finding.level == "fault" for finding in result.findings)


def shipped(results: Sequence[Result], folder: Path = PRETRAINED) -> Iterator[tuple[int, Finding]]:
    """Yield submissions with weights that come with the kit, or nearly with them."""
    ours = {}
    for file in sorted(folder.rglob("*.pt")):
        content = read_checkpoint(file)
        weights = content.get("weights", content)
        # a network that has loaded them saves them as float32
        widened = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
        hashes = {weights_hash(weights), weights_hash(widened)}
        drawn = Result(file.name, "", sketch=sketch(widened), shapes=shapes(widened))
        ours[file.name] = hashes, drawn
    for index, result in enumerate(results):
        for name, (hashes, drawn) in ours.items():
            if result.prints.get("weights", "") in hashes:
                text = f"These weights come with the kit: {name}."
                yield index, Finding("fault", "weights of the kit", text)
            elif near_weights(result, drawn):
                text = f"These are nearly the weights that come with the kit: {name}."
                yield index, Finding("review", "nearly weights of the kit", text)


def unexpected(
    results: Sequence[Result], roster: Sequence[str] | None
) -> Iterator[tuple[int, Finding]]:
    """Yield students who submitted twice or late, or who are not on the roster."""
    files = defaultdict(list)
    for result in results:
        for member in members(result.student):
            files[member].append(result.submission)
    for index, result in enumerate(results):
        if is_late(result.submission):
            yield index, Finding("note", "late", "The platform marked this submission as late.")
        for member in members(result.student):
            names = files[member]
            if len(names) > 1:
                text = f"{len(names)} submissions have the id {member}."
                private = f"submitted twice: {', '.join(names)}"
                yield index, Finding("review", "submitted twice", text, private)
            if roster is not None and member not in roster:
                text = f"The id {member} is not on the roster."
                yield index, Finding("review", OFF_ROSTER, text)


def large_teams(results: Sequence[Result], most: int) -> Iterator[tuple[int, Finding]]:
    """Yield submissions of more students than may submit together."""
    for index, result in enumerate(results):
        number = len(members(result.student))
        if number > most:
            text = f"{number} students submitted this together, but at most {most} may."
            private = f"a team of {number}, at most {most} by the rubric"
            yield index, Finding("review", "team too large", text, private)


def other_seeds(results: Sequence[Result]) -> Iterator[tuple[int, Finding]]:
    """Yield submissions of which a run has the seed that the id of somebody else gives."""
    owners = {seed: result for result in results for seed in seeds_of(result.student)}
    for index, result in enumerate(results):
        runs = dict.fromkeys(result.seeds, "A run of the comparison")
        runs[result.recipe.get("seed", -1)] = "The run"
        for seed, run in runs.items():
            owner = result if seed in seeds_of(result.student) else owners.get(seed, result)
            if apart(owner, result):
                text = f"{run} has a seed that belongs to another student's id."
                private = f"the seed of {owner.student}"
                yield index, Finding("review", "another's seed", text, private)


def other_grids(results: Sequence[Result]) -> Iterator[tuple[int, Finding]]:
    """Yield runs whose DSC is on another grid than that of most runs of the class.

    If no grid is the most frequent, that is every run.
    """
    grids = {
        index: result.scored_on for index, result in enumerate(results) if result.grid == "network"
    }
    first, *others = Counter(grids.values()).most_common(2) or [((), 0)]
    usual = None if others and others[0][1] == first[1] else first[0]
    for index, grid in grids.items():
        if grid != usual:
            usually = f", most of the class at {_grid_in_words(usual)}" if usual else ""
            text = (
                f"The DSC is on the network's grid, at {_grid_in_words(grid)}{usually}. Only "
                f"dsc_native of cases.csv can be compared across grids."
            )
            yield index, Finding("review", "another grid", text)


def _grid_in_words(grid: tuple[Any, ...]) -> str:
    """Return image size and preprocessing of ``Result.scored_on``."""
    _, image_size, preprocessing = grid
    return f"{image_size} pixels, preprocessing {preprocessing}"


def _missing(results: Sequence[Result], roster: Sequence[str]) -> list[Result]:
    """Return a result for each student of the roster who submitted nothing."""
    here = {member for result in results for member in members(result.student)}
    return [Result("", student, "missing") for student in roster if student not in here]
