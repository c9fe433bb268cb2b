"""Hold what grading found of one submission, in a form that can be kept and sent."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lib.grade.student_work import Answer, Trained, Verdict, Written, is_finite, nothing_written
from lib.notebook.student import TEAM

LEVELS = ("fault", "review", "note")
"""Of a finding, the gravest first."""
FAILURES = ("refused", "incomplete", "not verifiable", "timed out", "failed", "missing")
"""Statuses of a result without a score."""


class Finding(NamedTuple):
    """Hold something that a grader should know.

    Attributes:
        level: ``fault`` (no points until the instructor has looked), ``review`` (points are given,
            the instructor should look), ``note``.
        name: a few words, the same for all of its kind.
        text: a sentence for the student's page.
        private: a sentence for the instructor alone.
    """

    level: str
    name: str
    text: str
    private: str = ""


@dataclass
class Result:
    """Hold what grading found of one submission; ``dataclasses.asdict`` makes JSON of it.

    Attributes:
        submission: its file or folder name.
        student: their id; of a team all ids, joined by ``+``.
        status: ``computed``; else why no score could be computed: ``refused``, ``incomplete``,
            ``not verifiable``, ``timed out``, ``failed``, ``missing``.
        claimed, verified, low, high, probe: mean DSC over the validation patients as claimed and as
            computed, the 95 % CI of the latter, and that of the perturbed patients; or None.
        grid: ``network``, or ``file`` for masks that were submitted.
        cases: patient -> [claimed, computed, perturbed] DSC.
        prints: name -> hash of what no two students should share.
        compared, seeds: such hashes, and the seed, of each run that is not graded.
        sketch, shapes: of the weights, see ``lib.grade.nearness``; empty without weights.
        content: the first digits of a hash of what was submitted.
        recipe: fields of the config, for the student's page.
        diff: file of ``lib`` -> lines of a unified diff.
        written: what the student wrote and trained; it earns no points here.
    """

    submission: str
    student: str
    status: str = "computed"
    run: str = ""
    claimed: float | None = None
    verified: float | None = None
    low: float | None = None
    high: float | None = None
    probe: float | None = None
    grid: str = ""
    cases: dict[str, list[float | None]] = field(default_factory=dict)
    prints: dict[str, str] = field(default_factory=dict)
    compared: list[dict[str, str]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    sketch: list[float] = field(default_factory=list)
    shapes: list[float] = field(default_factory=list)
    content: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    written: Written = field(default_factory=nothing_written)

    @property
    def score(self) -> float:
        """Return the computed mean DSC. Raises ValueError if there is none."""
        if self.verified is None:
            raise ValueError(f"{self.submission}: no score was computed")
        return self.verified

    @property
    def scored_on(self) -> tuple[Any, ...]:
        """Return what decides the grid of its DSC: on another grid the same mask has another DSC.

        Masks are scored on the grid of the file, whatever the network saw.
        """
        if self.grid == "file":
            return (self.grid,)
        return self.grid, self.recipe.get("image_size"), self.recipe.get("preprocessing")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """Return the result of which ``dataclasses.asdict`` gave these values.

        Raises:
            ValueError: they are no result.
        """
        try:
            findings = [Finding(*finding) for finding in values["findings"]]
            written = Written.from_json(values["written"])
            result = cls(**{**values, "findings": findings, "written": written})
            sound = result._is_sound()
            is_text = encodable(result) == result
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"no result: {error}") from None
        if not is_text:
            raise ValueError("no result: a text cannot be printed as UTF-8")
        if not sound:
            raise ValueError("no result: a value is of another kind")
        return result

    def _is_sound(self) -> bool:
        """Return whether all values are of their kinds, as those from another process may not."""
        texts = [self.submission, self.student, self.status, self.run, self.grid, self.content]
        texts += [*self.cases, *self.recipe, *self.diff]
        prints = [pair for run in (self.prints, *self.compared) for pair in run.items()]
        texts += [text for pair in prints for text in pair]
        texts += [line for lines in self.diff.values() for line in lines]
        texts += [text for finding in self.findings for text in finding]
        numbers = [self.claimed, self.verified, self.low, self.high, self.probe]
        numbers += [number for scores in self.cases.values() for number in scores]
        numbers += [*self.sketch, *self.shapes, *self.seeds]
        return (
            all(isinstance(text, str) for text in texts)
            and all(number is None or is_finite(number) for number in numbers)
            and all(len(scores) == 3 and scores[1] is not None for scores in self.cases.values())
            and all(finding.level in LEVELS for finding in self.findings)
            and (is_finite(self.verified) if self.status == "computed" else self.status in FAILURES)
            and bool(TEAM.fullmatch(self.student))
            and self.written.is_sound()
        )


def printable(text: str) -> str:
    """Return a text that can be written as UTF-8, in one line and to any terminal.

    Lone surrogates of JSON and of names of files, and characters that move the cursor, become
    their escapes.
    """
    return "".join(
        letter
        if letter.isprintable() or letter == "\t" or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def encodable(result: Result) -> Result:
    """Return a result of which all texts are ``printable``: they are of strangers."""
    return Result(**{name: _encodable(value) for name, value in vars(result).items()})


def _encodable(value: Any) -> Any:
    """Return a JSON-like value of which all texts are ``printable``."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_encodable(name): _encodable(inner) for name, inner in value.items()}
    if isinstance(value, (Finding, Answer, Trained, Verdict, Written)):
        return type(value)(*map(_encodable, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_encodable, value))
    return value
