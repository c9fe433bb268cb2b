"""Read what a student trained: all runs of the result CSVs, and the verdicts of their plans.

The tables are the student's claims. Only the graded run is computed again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lib.config import REFERENCE, Config, changes
from lib.grade.result import printable
from lib.grade.student_work import (
    MAX_PLACES,
    MAX_TRAINED,
    MAX_VERDICTS,
    Trained,
    Verdict,
    Written,
    is_finite,
)
from lib.grade.submission import Submission, listed, read_run, read_tables, unlisted
from lib.logger import FOLD, Place
from lib.stats import compare_to_baseline
from lib.stats.verdicts import corrected
from lib.utils import KitError, fingerprint

AS_PUBLISHED = "as published"
POINTS = 250  # of a curve: a picture shows no more
_MAX_TEXT, _MAX_PATIENTS = 300, 500
_ALONE = "alone"  # group of runs that no sweep started


class _Recipe(NamedTuple):
    """Hold the runs of one recipe in a plan, by seed."""

    place: Place
    runs: dict[int, Submission]

    @property
    def config(self) -> Config:
        """Return the recipe, with the published seed."""
        return _without_seed(next(iter(self.runs.values())).config)


def read_tried(root: Path, written: Written) -> None:
    """Add the runs of a submission, the verdicts of its plans, and remarks."""
    tables = read_tables(root)
    ids = listed(tables)
    if len(ids) > MAX_TRAINED:
        written.remarks.append(f"Of {len(ids)} runs the first {MAX_TRAINED} are shown.")
    plans: dict[tuple[str, str], list[tuple[Place, Submission]]] = defaultdict(list)
    for run_id in ids[:MAX_TRAINED]:
        try:
            run = read_run(root, "", tables, run_id)
        except KitError as error:
            problem = printable(str(error)[:_MAX_TEXT])
            written.runs.append(Trained(printable(run_id[:_MAX_TEXT]), [], problem=problem))
            continue
        places = list(_places(run))
        written.runs.append(_trained(run, places))
        for place in places:
            if not run.claim["split"].str.startswith(FOLD).any():  # of other patients each
                plans[place.plan, place.group].append((place, run))
    for name in unlisted(root, tables)[: MAX_TRAINED - len(written.runs)]:
        problem = "in no result CSV, so that it is part of no comparison"
        written.runs.append(Trained(printable(name[:_MAX_TEXT]), [], problem=problem))
    verdicts = (verdict for plan in plans.values() for verdict in _verdicts(plan))
    written.verdicts.extend(islice(verdicts, MAX_VERDICTS))


def _trained(run: Submission, places: list[Place]) -> Trained:
    """Return the row of a run in the table of all runs."""
    history, seconds = run.history, run.info.get("seconds")
    chosen = np.unique(np.linspace(0, len(history) - 1, min(len(history), POINTS)).astype(int))
    curve = history.iloc[chosen][["epoch", "val_dsc"]].astype(float)
    return Trained(
        printable(run.run_id),
        [[place.plan, place.label] for place in places],
        _in_words(run.config),
        float(history["val_dsc"].max()),
        float(history["val_dsc"].iloc[-1]),
        len(history),
        float(seconds) if is_finite(seconds) and seconds >= 0 else None,  # type: ignore[operator, arg-type]
        [[float(epoch), round(float(dsc), 6)] for epoch, dsc in curve.to_numpy()],
    )


def _in_words(config: Config) -> str:
    """Return what differs from the published recipe, in words."""
    return printable(changes(config)[:_MAX_TEXT]) or AS_PUBLISHED


def _without_seed(config: Config) -> Config:
    return replace(config, seed=REFERENCE.seed)


def _recipe(config: Config) -> dict[str, Any]:
    """Return the fields of a config that all students can have in common."""
    fields = config.to_dict()
    return {name: fields[name] for name in fields if name not in ("seed", "split", "device")}


# --- places in plans ------------------------------------------------------------------------------


def _places(run: Submission) -> Iterator[Place]:
    """Yield the places of a run in plans, at most ``MAX_PLACES``.

    A run that no sweep started has the place of its recipe.
    """
    listed = run.info.get("places")
    places = [_place(one) for one in listed[:MAX_PLACES]] if isinstance(listed, list) else []
    found = [place for place in places if place is not None]
    named = run.info.get("plans")
    plans = [plan for plan in named if isinstance(plan, str)] if isinstance(named, list) else []
    for plan in dict.fromkeys(_label(plan) for plan in plans[:MAX_PLACES]):
        if plan not in (place.plan for place in found):
            label = _in_words(_without_seed(run.config))
            found.append(Place(plan, _ALONE, label.count(",") + (label != AS_PUBLISHED), label))
    yield from found[:MAX_PLACES]


def _place(values: Any) -> Place | None:
    """Return a place of run.json, or None if it is damaged."""
    if not isinstance(values, dict):
        return None
    plan, group, label = (values.get(name) for name in ("plan", "group", "label"))
    position, ladder = values.get("position"), values.get("ladder", False)
    if (
        not all(isinstance(text, str) for text in (plan, group, label))
        or type(position) is not int
        or type(ladder) is not bool
    ):
        return None
    return Place(_label(plan), _label(group), position, _label(label), ladder)


def _label(text: Any) -> str:
    return printable(" ".join(str(text)[:_MAX_TEXT].split())) or "nameless"


# --- verdicts -------------------------------------------------------------------------------------


def _verdicts(plan: list[tuple[Place, Submission]]) -> Iterator[Verdict]:
    """Yield a verdict of each recipe of a plan but the first, corrected for their number.

    On a ladder a recipe is compared with the one before it, else with the first. Of several runs
    with the same seed the last counts.
    """
    recipes = _recipes(plan)
    rows: list[Verdict] = []
    tables: dict[int, pd.DataFrame] = {}
    before = recipes[0]
    for recipe in recipes[1:]:
        row, table = _compared(recipes[0], before, recipe)
        if table is not None:
            tables[len(rows)] = table
        rows.append(row)
        if recipe.place.ladder:
            before = recipe
    if tables:
        found = corrected(pd.concat(tables.values(), ignore_index=True))
        for index, values in zip(tables, found.to_dict("records"), strict=True):
            rows[index] = _filled(rows[index], values)
    yield from rows


def _recipes(plan: list[tuple[Place, Submission]]) -> list[_Recipe]:
    """Return the recipes of a plan in its order."""
    found: dict[tuple[int, str], _Recipe] = {}
    for place, run in plan:
        recipe = found.setdefault((place.position, place.label), _Recipe(place, {}))
        recipe.runs[run.config.seed] = run
    return [found[key] for key in sorted(found)]


def _compared(
    first: _Recipe, before: _Recipe, after: _Recipe
) -> tuple[Verdict, pd.DataFrame | None]:
    """Return a comparison without its numbers, and the table that has them.

    The table is None, and the comparison names the problem, if nothing can be compared.
    """
    base, config = _recipe(before.config), _recipe(after.config)
    changed = ", ".join(f"{name} {value}" for name, value in config.items() if value != base[name])
    grids = {(one.config.image_size, one.config.preprocessing) for one in (before, after)}
    runs = [*before.runs.values(), *after.runs.values()]
    row = Verdict(
        after.place.plan,
        after.place.label,
        before.place.label,
        _in_words(first.config),
        printable(changed[:_MAX_TEXT]),
        fingerprint(base)[:8],
        "dsc" if len(grids) == 1 else "dsc_native",
        fingerprint(sorted(runs[0].cases["patient"]))[:8],
        seeds=list(after.runs),
    )
    try:
        _require_small(runs)
        pair = {"before": [*before.runs.values()], "after": [*after.runs.values()]}
        return row, compare_to_baseline(pair, row.metric)
    except Exception as error:  # the tables of a stranger can be wrong in every way
        reason = str(error).removeprefix("after: ") if isinstance(error, KitError) else "unusable"
        return row._replace(problem=printable(f"cannot be compared: {reason}"[:_MAX_TEXT])), None


def _require_small(runs: list[Submission]) -> None:
    """Raise KitError for tables that would take too long, or that name a patient twice."""
    for run in runs:
        if len(run.cases) > _MAX_PATIENTS:
            raise KitError(f"cases.csv has more than {_MAX_PATIENTS} patients")
        if not run.cases["patient"].is_unique:
            raise KitError("cases.csv has a patient twice")


def _filled(row: Verdict, values: dict[str, Any]) -> Verdict:
    """Return a comparison with its numbers; what is not finite is None."""
    numbers = {name: float(value) if is_finite(value) else None for name, value in values.items()}
    return row._replace(
        patients=int(values["patients"]),
        difference=numbers["difference"],
        low=numbers["CI low"],
        high=numbers["CI high"],
        p=numbers["p (Holm)"],
        verdict=values["verdict"],
    )
