"""Collect what the report says: a ``Page``, which the templates fill in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib.config import REFERENCE
from lib.logger import Run
from lib.metrics import Summary
from lib.report.analysis import GENERAL
from lib.report.examples import Examples, mean_dsc
from lib.report.experiments import Attempt, Experiment, Recipe
from lib.report.figures import Picture, drawings, picture, slug
from lib.report.format import listed
from lib.stats import resolution


@dataclass(frozen=True)
class Row:
    """Hold a recipe's line in the table of its experiment.

    Attributes:
        changed: field of ``Config`` -> value, where it differs from what it is compared with.
        basis: how many runs the mean is of, if more than one.
        finished: number of finished runs that count.
        notes: (status, text) of each run that has not finished, and of runs that do not count.
        reference: the others are compared with this one.
        reason: why there is no verdict.
        epochs, best_epoch: of the runs, as text.
        compared: row of ``Experiment.verdicts``.
    """

    label: str
    changed: dict[str, Any]
    basis: str
    finished: int
    notes: list[tuple[str, str]]
    reference: bool
    reason: str | None
    epochs: str
    best_epoch: str
    summary: Summary | None
    compared: dict[str, Any] | None


@dataclass(frozen=True)
class CaseTable:
    """Hold the DSC of each patient: a row each, a column for each recipe."""

    labels: list[str]
    rows: list[tuple[str, list[float | None]]]


@dataclass(frozen=True)
class Part:
    """Hold all that is said of one experiment.

    Attributes:
        data: name of the data.
        patients: number of validation patients.
        settings: all settings of the first recipe.
        ladder: each recipe is compared with the one before it.
        best: the recipe with the highest DSC.
        note: why there are no examples of segmentations.
        resolution: the true difference that could have been found, and how many more runs would
            settle the rest.
        verdicts, statuses: how many of each there are.
    """

    data: str
    patients: int
    settings: dict[str, Any]
    reference: Recipe | None
    ladder: bool
    rows: list[Row]
    best: Recipe | None
    figures: list[Picture]
    note: str | None
    cases: CaseTable
    resolution: str | None
    verdicts: Mapping[str, int]
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class Section:
    """Hold a plan: its experiments, and the student's words about it."""

    id: str
    plan: str
    parts: list[Part]
    words: str | None


@dataclass(frozen=True)
class AttemptLine:
    """Hold a run's line in the table of all runs."""

    id: str
    plans: str
    status: str
    detail: str
    changed: dict[str, Any]
    dsc: float | None
    seconds: float | None


@dataclass
class Environment:
    """Hold versions and device of some runs, their number, and their time."""

    about: dict[str, str]
    runs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Page:
    """Hold the whole report.

    Attributes:
        general: the student's words about no plan in particular.
        real: there are images of real patients.
        unreadable: name of a run folder -> why it cannot be read.
        counts: status -> number of runs.
    """

    sections: list[Section]
    general: str | None
    real: bool
    attempts: list[AttemptLine]
    unreadable: dict[str, str]
    environments: list[Environment]
    counts: dict[str, int]

    @property
    def figures(self) -> list[Picture]:
        """Return all figures."""
        parts = [part for section in self.sections for part in section.parts]
        return [figure for part in parts for figure in part.figures]


def make_page(
    plans: Mapping[str, list[Experiment]],
    attempts: list[Attempt],
    unreadable: dict[str, str],
    words: Mapping[str, str],
    examples: Examples,
) -> Page:
    """Collect a page.

    Args:
        plans: plan -> its experiments.
        words: plan -> what the student wrote about it.
    """
    sections = [
        _section(number, plan, found, words.get(plan), examples)
        for number, (plan, found) in enumerate(plans.items(), 1)
    ]
    return Page(
        sections,
        words.get(GENERAL),
        examples.real,  # known once all sections are made
        [_attempt_line(attempt) for attempt in attempts],
        unreadable,
        _environments(attempts),
        _counts(attempts, unreadable),
    )


def _section(
    number: int, plan: str, found: list[Experiment], words: str | None, examples: Examples
) -> Section:
    """Collect what is said of a plan."""
    name = f"{number:02}-{slug(plan)}"
    if len(found) == 1:
        parts = [_part(name, found[0], examples)]
    else:
        parts = [_part(f"{name}-{i}", each, examples) for i, each in enumerate(found, 1)]
    return Section(f"plan-{number}", plan, parts, words)


def _part(name: str, experiment: Experiment, examples: Examples) -> Part:
    """Collect what is said of an experiment, whose figures have files that start with ``name``."""
    finished = [recipe for recipe in experiment.recipes if recipe.summary]
    best = max(finished, key=lambda recipe: recipe.mean, default=None)
    figures = [
        picture(f"{name}-{kind}.png", alt, caption, figure)
        for kind, alt, caption, figure in drawings(experiment, finished)
    ]
    note = None
    example = examples.of(best) if best else "No run has finished."
    if isinstance(example, str):
        note = example
    elif best:
        figures.append(_example_picture(name, best, example))
    known = [attempt for recipe in experiment.recipes for attempt in recipe.attempts]
    first = next((attempt for attempt in known if attempt.data), known[0])
    table = experiment.verdicts
    return Part(
        data=first.data.get("name", "data unknown"),
        patients=len(best.dsc) if best else len(first.validation),
        settings=known[0].run.config.to_dict(),
        reference=experiment.reference,
        ladder=experiment.ladder,
        rows=[_row(experiment, recipe) for recipe in experiment.recipes],
        best=best,
        figures=figures,
        note=note,
        cases=_case_table(finished),
        resolution=None if table is None else resolution(table),
        verdicts=Counter([] if table is None else table["verdict"]),
        statuses=Counter(attempt.status for attempt in known),
    )


def _example_picture(name: str, best: Recipe, figure: Figure) -> Picture:
    """Return the picture of a recipe's segmentations."""
    return picture(
        f"{name}-examples.png",
        "segmentations of the worst, the median and the best patient",
        f"The best run of this plan, {best.label}.",
        figure,
    )


def _case_table(finished: list[Recipe]) -> CaseTable:
    """Return the DSC of each patient; None if a recipe has no such patient."""
    table = pd.DataFrame({recipe.label: recipe.dsc for recipe in finished}).sort_index()
    rows = [
        (str(name), [None if pd.isna(value) else value for value in values])
        for name, values in zip(table.index, table.to_numpy(), strict=True)
    ]
    return CaseTable(list(table.columns), rows)


def _row(experiment: Experiment, recipe: Recipe) -> Row:
    """Return a recipe's line in the table of its experiment."""
    table = experiment.verdicts
    compared: list[dict[str, Any]] = []
    if table is not None:
        compared = table[table["label"] == recipe.label].to_dict("records")
    several = len(recipe.attempts) > 1
    notes = [
        (one.status, f"seed {one.run.config.seed} {one.words}" if several else one.words)
        for one in recipe.attempts
        if one.status != "finished"
    ]
    if recipe.outdated:
        text = f"not counted: {recipe.outdated} earlier runs, as the code was changed after them"
        notes.append(("", text))
    return Row(
        label=recipe.label,
        changed=recipe.changed,
        basis=_basis(recipe),
        finished=len(recipe.runs),
        notes=notes,
        reference=recipe is experiment.reference,
        reason=experiment.reasons.get(recipe.label),
        epochs=listed(attempt.run.config.epochs for attempt in recipe.attempts),
        best_epoch=", ".join(str(run.info["best"]["epoch"]) for run in recipe.runs),
        summary=recipe.summary,
        compared=compared[0] if compared else None,
    )


def _basis(recipe: Recipe) -> str:
    """Return how many runs a mean is of, if more than one.

    It is "3 seeds, averaged", "5 folds", or both.
    """
    seeds = len(recipe.scored)
    folds = len(recipe.runs) // seeds if seeds else 0
    parts = []
    if folds > 1:
        parts.append(f"{folds} folds")
    if seeds > 1:
        parts.append(f"{seeds} seeds, averaged")
    return ", ".join(parts)


def _attempt_line(attempt: Attempt) -> AttemptLine:
    """Return a run's line in the table of all runs."""
    run, published = attempt.run, REFERENCE.to_dict()
    return AttemptLine(
        id=run.id,
        plans=", ".join(run.info["plans"]),
        status=attempt.status,
        detail=attempt.detail,
        changed={
            name: value for name, value in run.config.to_dict().items() if value != published[name]
        },
        dsc=mean_dsc(run) if attempt.status == "finished" else None,
        seconds=run.info.get("seconds"),
    )


def _environments(attempts: list[Attempt]) -> list[Environment]:
    """Return each set of versions and device once, with its runs and their time."""
    found: dict[tuple[tuple[str, str], ...], Environment] = {}
    for attempt in attempts:
        about = {name: str(text) for name, text in attempt.versions.items()} | _devices(attempt.run)
        if not about:  # the run failed before it was begun
            continue
        one = found.setdefault(tuple(about.items()), Environment(about))
        one.runs += 1
        one.seconds += float(attempt.run.info.get("seconds", 0))
    return list(found.values())


def _devices(run: Run) -> dict[str, str]:
    """Return device and precision of a run, and those before, if it went on elsewhere."""
    about: dict[str, str] = {
        name: str(run.info[name]) for name in ("device", "precision") if name in run.info
    }
    earlier = [f"{one['device']}, {one['precision']}" for one in run.info.get("earlier", [])]
    if earlier:
        about["earlier"] = "; ".join(earlier)
    return about


def _counts(attempts: list[Attempt], unreadable: Mapping[str, str]) -> dict[str, int]:
    """Return status -> number of runs."""
    counts = Counter(attempt.status for attempt in attempts) + Counter(unreadable=len(unreadable))
    return {
        name: counts[name]
        for name in ("finished", "unfinished", "failed", "unreadable")
        if counts[name]
    }
