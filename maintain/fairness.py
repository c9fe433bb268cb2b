"""Simulate classes: what does a tie give, whom does chance hurt, and are copies found?

Command line: ``python -m maintain.fairness [--classes N]``. It writes
``result/reference/fairness.csv`` and ``lifts.csv``, and of them the tables in the instructors'
guide; without ``--classes`` only those.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lib.grade.nearness import near
from lib.grade.result import Result
from lib.grade.rubric import Rubric
from lib.grade.standings import points, tied
from lib.logger import to_csv
from lib.runtime import CommandParser, run_command
from lib.utils import progress, write_atomic
from maintain.nearness import GUIDE, TABLE
from maintain.results import markdown, with_block

COMMAND = "python -m maintain.fairness"
CLASSES, LIFTS = TABLE.with_name("fairness.csv"), TABLE.with_name("lifts.csv")
PATIENTS, SIZES = 10, (5, 20, 60)
KINDS = {"equal": 0.0, "mixed": 0.04, "copying": 0.04}  # SD of what students can do, in DSC
NOISE, MISSED, ALTERED = 0.05, 0.04, 0.005
"""SD of a patient's DSC between equal networks; share of patients missed; a copy's differences."""
RUBRIC = Rubric(((0.70, 0.0), (0.88, 40.0)), 0.005, {"report": 60.0})
BOUNDS = (0.0, 0.01, 0.02, 0.05, 1.0)
Row = dict[str, Any]


def draw_class(rng: np.random.Generator, size: int, kind: str) -> tuple[list[Result], set[int]]:
    """Return results of a class, and the indices of those who copied.

    A copier has an earlier student's network, altered a little; one in ten of a copying class.
    """
    base = rng.beta(6, 1.2, PATIENTS)
    skill = rng.normal(0, KINDS[kind], size)
    scores = base + skill[:, None, None] + rng.normal(0, NOISE, (size, 2, PATIENTS))
    missed = rng.random((size, 1, PATIENTS)) < MISSED
    scores = np.where(missed, rng.uniform(0, 0.15, scores.shape), scores).clip(0, 1)
    copiers = range(size - max(1, size // 10), size) if kind == "copying" else range(0)
    for index in copiers:
        original = scores[rng.integers(copiers[0])]
        scores[index] = original + rng.uniform(-ALTERED, ALTERED, original.shape)
    return [_result(f"s{i:02}", *each) for i, each in enumerate(scores.clip(0, 1))], set(copiers)


def _result(student: str, computed: np.ndarray, perturbed: np.ndarray) -> Result:
    pairs = zip(computed.tolist(), perturbed.tolist(), strict=True)
    cases = {f"P{i}": [one, one, other] for i, (one, other) in enumerate(pairs)}
    mean = float(computed.mean())
    return Result(f"{student}.zip", student, verified=mean, grid="network", cases=cases)


def simulate(classes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what happens in classes of each size and kind, and for each bound of a lift."""
    rows, lifts = [], []
    settings = [(size, kind) for size in SIZES for kind in KINDS]
    for size, kind in progress(settings, desc="classes"):
        rng = np.random.default_rng([size, list(KINDS).index(kind)])
        found = [_of_class(*draw_class(rng, size, kind)) for _ in range(classes)]
        about = pd.DataFrame([row for row, _ in found])
        pairs, alarms = about["honest pairs"].sum(), about["false alarms"].sum()
        copied = about["copiers"].sum()
        rows.append(
            {
                "class": f"{size} students, {kind}",
                "spread by scale": about["by scale"].mean(),
                "spread given": about["given"].mean(),
                "largest lift": about["lift"].max(),
                "honest pairs": pairs,
                "false alarms": alarms,
                "copiers": copied,
                "found": about["found"].sum(),
            }
        )
        if (size, kind) in ((20, "equal"), (20, "mixed")):
            for bound in BOUNDS:
                spreads = [earned[bound] for _, earned in found]
                lifts.append({"class": kind, "bound": bound, "spread": float(np.mean(spreads))})
    return pd.DataFrame(rows), pd.DataFrame(lifts)


def _of_class(results: list[Result], copiers: set[int]) -> tuple[Row, dict[float, float]]:
    """Return what happens in a class, and bound of a lift -> spread of the points."""
    groups = list(tied(results))
    own = {member.student: RUBRIC.points(member.score) for _, _, member in groups}
    earned = {
        bound: {
            member.student: points(member, leader, replace(RUBRIC, largest_lift=bound))
            for _, leader, member in groups
        }
        for bound in BOUNDS
    }
    given = earned[RUBRIC.largest_lift]
    close = {(one, other) for one, other, _, _ in near(results)}
    pairs = len(results) * (len(results) - 1) // 2
    honest = {pair for pair in close if not copiers & set(pair)}
    caught = {index for index in copiers if any(index in pair for pair in close)}
    copied = sum(len(results) - 1 - place for place in range(len(copiers)))
    row = {
        "by scale": _spread(own),
        "given": _spread(given),
        "lift": max(given[student] - own[student] for student in own),
        "honest pairs": pairs - copied,
        "false alarms": len(honest),
        "copiers": len(copiers),
        "found": len(caught),
    }
    return row, {bound: _spread(each) for bound, each in earned.items()}


def _spread(points_of: dict[str, float]) -> float:
    return max(points_of.values()) - min(points_of.values())


def made() -> str:
    """Return the tables of the guide."""
    classes, lifts = pd.read_csv(CLASSES), pd.read_csv(LIFTS)
    counts = ["honest pairs", "false alarms", "copiers", "found"]
    points = [name for name in classes if name not in ("class", *counts)]
    classes[points] = classes[points].map("{:.1f}".format)
    wide = lifts.pivot(index="bound", columns="class", values="spread").map("{:.1f}".format)
    wide.index = [f"lift of {bound:g}" if bound < 1 else "no bound" for bound in wide.index]
    wide.columns = [f"spread, {name}" for name in wide.columns]
    first = classes.astype(dict.fromkeys(counts, object)).set_index("class").rename_axis(None)
    return f"{markdown(first)}\n\n{markdown(wide)}"


def main() -> None:
    """Run the command line."""
    parser = CommandParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--classes", type=int, help="of each size and kind")
    if (number := parser.parse_args().classes) is not None:
        for file, table in zip((CLASSES, LIFTS), simulate(number), strict=True):
            write_atomic(file, to_csv(table))
    guide = GUIDE.read_text(encoding="utf-8")
    write_atomic(GUIDE, with_block(guide, made(), COMMAND))


if __name__ == "__main__":
    run_command(main)
