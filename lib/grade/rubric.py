"""Read a rubric: the scale of the DSC, and the columns that the instructor fills."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lib.utils import KitError

DEFAULT = Path(__file__).with_name("rubric.toml")


@dataclass(frozen=True)
class Rubric:
    """Hold the points of an assignment.

    Attributes:
        scale: (DSC, points), rising: the baseline first, the target last.
        tolerance: how far a claimed DSC may be from the computed one.
        columns: name of a column that the instructor fills -> points possible.
    """

    scale: tuple[tuple[float, float], ...]
    tolerance: float
    columns: dict[str, float]

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


def load_rubric(file: str | Path = DEFAULT) -> Rubric:
    """Read a rubric; see ``lib/grade/rubric.toml``.

    Raises:
        KitError: the file is missing, is no TOML, or its numbers are no rubric.
    """
    file = Path(file)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise KitError(
            f"{file}: cannot be read ({error.strerror}); copy lib/grade/rubric.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{file}: is no TOML ({error}); copy lib/grade/rubric.toml") from None
    dsc = {"largest_share": 0.4, "tolerance": 0.005, **values.get("dsc", {})}
    scale, columns = dsc.get("scale", []), values.get("columns", {})
    problem = _problem(values, dsc, scale, columns)
    if problem:
        raise KitError(f"{file}: {problem}; see lib/grade/rubric.toml")
    rubric = Rubric(
        tuple((float(score), float(points)) for score, points in scale),
        float(dsc["tolerance"]),
        columns,
    )
    if rubric.dsc_points > dsc["largest_share"] * rubric.total + 1e-9:
        raise KitError(
            f"{file}: the DSC is worth {rubric.dsc_points:g} of {rubric.total:g} points, more than "
            f"{dsc['largest_share']:.0%}; lower scale, add columns, or raise largest_share"
        )
    return rubric


def _problem(values: dict[str, Any], dsc: dict[str, Any], scale: Any, columns: Any) -> str | None:
    """Return what is wrong with the numbers, in words, or None."""
    unknown = [
        *(values.keys() - {"dsc", "columns"}),
        *(dsc.keys() - {"scale", "largest_share", "tolerance"}),
    ]
    if unknown:
        return f"{unknown[0]} is unknown"
    if not (
        isinstance(scale, list)
        and len(scale) > 1
        and all(
            isinstance(step, list) and len(step) == 2 and all(map(_is_amount, step))
            for step in scale
        )
    ):
        return "dsc.scale must be a list of two or more [DSC, points]"
    if any(b[0] <= a[0] or b[1] < a[1] for a, b in pairwise(scale)):
        return "dsc.scale must rise"
    if not all(_is_amount(dsc[name]) for name in ("largest_share", "tolerance")):
        return "dsc.largest_share and dsc.tolerance must be numbers, not negative"
    if not isinstance(columns, dict) or not all(map(_is_amount, columns.values())):
        return "columns must name points, not negative"
    if not all(name[:1].isalnum() for name in columns):
        return "the name of a column must begin with a letter"
    return None


def _is_amount(value: Any) -> bool:
    """Return whether a value is a finite number that is not negative."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
