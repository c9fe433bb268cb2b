"""Read a rubric: the scale of the DSC, and the columns that the instructor fills."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lib.grade.student_work import is_finite
from lib.notebook.student import MAX_TEAM
from lib.utils import KitError

Levels = dict[str, tuple[tuple[float, str], ...]]  # name of a column -> (points, what earns them)

DEFAULT = Path(__file__).with_name("rubric.toml")
_DEFAULTS = {"largest_share": 0.4, "tolerance": 0.005, "largest_lift": 0.02}  # of the table dsc


@dataclass(frozen=True)
class Rubric:
    """Hold the points of an assignment.

    Attributes:
        scale: (DSC, points), rising: the baseline first, the target last.
        tolerance: how far a claimed DSC may be from the computed one.
        columns: name of a column that the instructor fills -> points possible.
        levels: name of such a column -> its (points, what earns them), rising; none if it has none.
        largest_lift: DSC that a tie may be worth.
        team: the most students that may submit together.
        is_placeholder: the scale is the kit's, not the instructor's.
    """

    scale: tuple[tuple[float, float], ...]
    tolerance: float
    columns: dict[str, float]
    largest_lift: float = 0.02
    team: int = 1
    is_placeholder: bool = False
    levels: Levels = field(default_factory=dict)

    @property
    def baseline(self) -> float:
        """Return the largest DSC that earns nothing."""
        return self.scale[0][0]

    @property
    def dsc_points(self) -> float:
        """Return the most that the DSC can earn."""
        return self.scale[-1][1]

    @property
    def total(self) -> float:
        """Return the most that can be earned."""
        return self.dsc_points + sum(self.columns.values())

    def points(self, dsc: float) -> float:
        """Return what a mean DSC earns, to a tenth of a point.

        It is linear between the steps of the scale, and constant outside.
        """
        scores, points = np.array(self.scale).T
        return round(float(np.interp(dsc, scores, points)), 1)

    def level(self, column: str, points: float) -> int | None:
        """Return the place of the highest level of a column that so many points reach, or None."""
        reached = [
            place for place, (least, _) in enumerate(self.levels.get(column, ())) if points >= least
        ]
        return reached[-1] if reached else None


def with_baseline(rubric: Rubric, dsc: float) -> Rubric:
    """Return a rubric whose scale begins at the DSC of a baseline.

    Raises:
        KitError: the scale's next step is no higher.
    """
    (_, nothing), *steps = rubric.scale
    if dsc >= steps[0][0]:
        raise KitError(
            f"rubric: the baseline has {dsc:.4f}, but the scale's next step is {steps[0][0]:g}; "
            f"raise the steps above it"
        )
    return replace(rubric, scale=((dsc, nothing), *steps), is_placeholder=False)


def load_rubric(file: str | Path = DEFAULT) -> Rubric:
    """Read a rubric; see ``lib/grade/rubric.toml``.

    Raises:
        KitError: the file is missing, is no TOML, or its numbers are no rubric.
    """
    file = Path(file)
    try:
        # editors on Windows may put a mark at the start
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise KitError(
            f"{file}: cannot be read ({error.strerror}); copy lib/grade/rubric.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{file}: is no TOML ({error}); copy lib/grade/rubric.toml") from None
    given = values.get("dsc", {})
    dsc = {**_DEFAULTS, **(given if isinstance(given, dict) else {"scale": None})}
    scale = dsc.get("scale", [])
    try:
        columns, levels = _columns(values.get("columns", {}))
        problem = _problem(values, dsc, scale)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise KitError(f"{file}: {problem}; see lib/grade/rubric.toml")
    rubric = Rubric(
        tuple((float(score), float(points)) for score, points in scale),
        float(dsc["tolerance"]),
        columns,
        float(dsc["largest_lift"]),
        values.get("team", 1),
        is_placeholder=file.resolve() == DEFAULT.resolve() or scale == _default_scale(),
        levels=levels,
    )
    if rubric.dsc_points > dsc["largest_share"] * rubric.total + 1e-9:
        raise KitError(
            f"{file}: the DSC is worth {rubric.dsc_points:g} of {rubric.total:g} points, more than "
            f"{dsc['largest_share']:.0%}; lower scale, add columns, or raise largest_share"
        )
    return rubric


def _default_scale() -> Any:
    """Return the scale of the kit's rubric, which is a placeholder wherever it is copied to."""
    return tomllib.loads(DEFAULT.read_text(encoding="utf-8"))["dsc"]["scale"]


def _problem(values: dict[str, Any], dsc: dict[str, Any], scale: Any) -> str | None:
    """Return what is wrong with the team or the numbers for the DSC, in words, or None."""
    unknown = [*(values.keys() - {"team", "dsc", "columns"}), *(dsc.keys() - {"scale", *_DEFAULTS})]
    if unknown:
        return f"{unknown[0]} is unknown"
    team = values.get("team", 1)
    if type(team) is not int or not 1 <= team <= MAX_TEAM:
        return f"team must be a whole number of students from 1 to {MAX_TEAM}"
    if not (
        isinstance(scale, list)
        and len(scale) > 1
        and all(
            isinstance(step, list) and len(step) == 2 and all(map(_is_amount, step))
            for step in scale
        )
    ):
        return "dsc.scale must be a list of two or more [DSC, points]"
    if scale[-1][0] > 1:
        return f"dsc.scale: a DSC is 1 at most, not {scale[-1][0]:g}; write 0.8 for 80 %"
    if any(b[0] <= a[0] or b[1] < a[1] for a, b in pairwise(scale)):
        return "dsc.scale must rise"
    if not all(_is_amount(dsc[name]) for name in _DEFAULTS):
        return f"dsc.{', dsc.'.join(_DEFAULTS)} must be numbers, not negative"
    return None


def _columns(table: Any) -> tuple[dict[str, float], Levels]:
    """Return name -> points possible, and name -> levels. Raises ValueError with what is wrong."""
    if not isinstance(table, dict):
        raise ValueError("columns must name points, not negative")
    points, levels = {}, {}
    for name, column in table.items():
        column = column if isinstance(column, dict) else {"points": column}
        if not name[:1].isalnum():
            raise ValueError("the name of a column must begin with a letter")
        if name != " ".join(name.split()):  # the gradebook would not find it again
            raise ValueError(
                f"columns: the name {name[:40]!r} has a blank at its end, two in a row or a line "
                f"break"
            )
        if unknown := column.keys() - {"points", "levels"}:
            raise ValueError(f"columns.{name}: {min(unknown)} is unknown")
        if not _is_amount(column.get("points")):
            raise ValueError("columns must name points, not negative")
        points[name] = float(column["points"])
        if "levels" in column:
            levels[name] = _levels(name, column["levels"], points[name])
    return points, levels


def _levels(name: str, listed: Any, most: float) -> tuple[tuple[float, str], ...]:
    """Return the levels of a column. Raises ValueError with what is wrong."""
    if not (
        isinstance(listed, list)
        and listed
        and all(isinstance(level, list) and len(level) == 2 for level in listed)
        and all(_is_amount(least) and isinstance(text, str) for least, text in listed)
    ):
        raise ValueError(f"columns.{name}: levels must be a list of [points, sentence]")
    amounts = [float(least) for least, _ in listed]
    if any(b <= a for a, b in pairwise(amounts)) or amounts[-1] > most:
        raise ValueError(f"columns.{name}: levels must rise, to {most:g} points at most")
    return tuple((float(least), text) for least, text in listed)


def _is_amount(value: Any) -> bool:
    """Return whether a value is a finite number that is not negative."""
    return is_finite(value) and value >= 0
