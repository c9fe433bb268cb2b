"""The report: every attempt, its numbers, figures and what the student makes of them, from the run folders alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.config import REFERENCE
from lib.dataset import BrainData
from lib.logger import Run
from lib.report.analysis import GENERAL, make_template, read_analysis
from lib.report.examples import Examples, mean_dsc
from lib.report.experiments import Attempt, Experiment, Recipe, experiments, read_attempts
from lib.report.figures import drawings, picture, slug
from lib.report.render import TEMPLATES
from lib.stats import resolution
from lib.utils import write_atomic

HTML, MARKDOWN, ANALYSIS, FIGURES = "report.html", "report.md", "analysis.md", "report"


def write_report(
    out: str | Path = "result",
    data: BrainData | str | Path | None = None,
    images: bool = True,
    target: str | Path | None = None,
    runs: Sequence[Run] = (),
) -> dict[str, Path]:
    """Write ``report.html``, one file that opens without a network, and ``report.md`` with its pictures in ``report/``.

    The student's words come from ``analysis.md`` beside them, which is made when it is not there
    and never changed. The same run folders, words and data give the same bytes.

    Args:
        out: folder of results.
        data: for examples of segmentations: from ``load_data``, or a folder for it. By default
            where the notebooks find it, if it holds the patients of a run.
        images: False leaves the examples out: of real patients, they may not be shared as numbers
        may.
        target: where to write it; by default ``out``.
        runs: those of ``out`` that were read before.

    Returns:
        File name -> path.

    Raises:
        KitError: no runs there, ``analysis.md`` is no UTF-8 text, or the data given cannot be read.
    """
    out = Path(out)
    attempts, unreadable = read_attempts(out, runs)
    plans = experiments(attempts)
    make_template(out / ANALYSIS, plans)
    words = read_analysis(out / ANALYSIS, plans)
    examples = Examples(data, images)
    with plt.rc_context({"text.parse_math": False}):  # a label may hold a dollar sign
        sections = [
            _section(number, plan, found, words.get(plan), examples)
            for number, (plan, found) in enumerate(plans.items(), 1)
        ]
    content = {
        "sections": sections,
        "general": words.get(GENERAL),
        "real": examples.real,
        "analysis": ANALYSIS,
        "attempts": [_attempt_row(attempt) for attempt in attempts],
        "unreadable": unreadable,
        "environments": _environments(attempts),
        "counts": _counts(attempts, unreadable),
    }
    return _write(Path(target or out), content) | {ANALYSIS: out / ANALYSIS}


def _write(out: Path, content: dict[str, Any]) -> dict[str, Path]:
    """Fill both templates; of the figures in the folder only those of this report stay."""
    figures = [
        figure
        for section in content["sections"]
        for part in section["parts"]
        for figure in part["figures"]
    ]
    for figure in figures:
        write_atomic(out / FIGURES / figure.file, figure.png)
    for file in (out / FIGURES).glob("*.png"):
        if file.name not in {figure.file for figure in figures}:
            file.unlink()
    paths = {name: out / name for name in (HTML, MARKDOWN)}
    for name, path in paths.items():
        text = TEMPLATES.get_template(f"{name}.jinja").render(content)
        write_atomic(path, text if name == HTML else re.sub(r"\n{3,}", "\n\n", text))
    return paths


def _section(
    number: int, plan: str, found: list[Experiment], words: str | None, examples: Examples
) -> dict[str, Any]:
    parts = [
        _part(
            f"{number:02}-{slug(plan)}" + (f"-{i}" if len(found) > 1 else ""), experiment, examples
        )
        for i, experiment in enumerate(found, 1)
    ]
    return {"id": f"plan-{number}", "plan": plan, "parts": parts, "words": words}


def _part(name: str, experiment: Experiment, examples: Examples) -> dict[str, Any]:
    """All that the templates say of one experiment."""
    finished = [recipe for recipe in experiment.recipes if recipe.summary]
    best = max(finished, key=lambda recipe: recipe.summary.mean, default=None)
    figures = [
        picture(f"{name}-{kind}.png", alt, caption, figure)
        for kind, alt, caption, figure in drawings(experiment, finished)
    ]
    example = examples.of(best) if best else "No run has finished."
    if isinstance(example, Figure):
        figures.append(
            picture(
                f"{name}-examples.png",
                "segmentations of the worst, the median and the best patient",
                f"The best run of this plan, {best.label}.",
                example,
            )
        )
    known = [attempt for recipe in experiment.recipes for attempt in recipe.attempts]
    first, table = (
        next((attempt for attempt in known if attempt.data), known[0]),
        experiment.verdicts,
    )
    return {
        "data": first.data.get("name", "data unknown"),
        "patients": len(best.dsc) if best else len(first.validation),
        "settings": known[0].run.config.to_dict(),
        "reference": experiment.reference,
        "ladder": experiment.ladder,
        "rows": [_row(experiment, recipe) for recipe in experiment.recipes],
        "best": best,
        "figures": figures,
        "note": example if isinstance(example, str) else None,
        "cases": _cases(finished),
        "resolution": None if table is None else resolution(table),
        "verdicts": Counter([] if table is None else table["verdict"]),
        "statuses": Counter(attempt.status for attempt in known),
    }


def _cases(finished: list[Recipe]) -> dict[str, Any]:
    """DSC of each patient, a row each, a column for each recipe; nothing where a recipe has no such patient."""
    table = pd.DataFrame({recipe.label: recipe.dsc for recipe in finished}).sort_index()
    rows = [
        (name, [None if pd.isna(value) else value for value in values])
        for name, values in zip(table.index, table.to_numpy(), strict=True)
    ]
    return {"labels": list(table.columns), "rows": rows}


def _row(experiment: Experiment, recipe: Recipe) -> dict[str, Any]:
    """A recipe's line in the table of its experiment."""
    table = experiment.verdicts
    found = [] if table is None else table[table["label"] == recipe.label].to_dict("records")
    several = len(recipe.attempts) > 1
    notes = [
        (one.status, f"seed {one.run.config.seed} {one.words}" if several else one.words)
        for one in recipe.attempts
        if one.status != "finished"
    ]
    if recipe.outdated:
        notes.append(
            ("", f"not counted: {recipe.outdated} earlier runs, as the code was changed after them")
        )
    return {
        "label": recipe.label,
        "changed": recipe.changed,
        "basis": _basis(recipe),
        "finished": len(recipe.runs),
        "notes": notes,
        "reference": recipe is experiment.reference,
        "reason": experiment.reasons.get(recipe.label),
        "epochs": _listed(attempt.run.config.epochs for attempt in recipe.attempts),
        "best_epoch": ", ".join(str(run.info["best"]["epoch"]) for run in recipe.runs),
        "summary": recipe.summary,
        "compared": found[0] if found else None,
    }


def _basis(recipe: Recipe) -> str:
    """How many runs a mean rests on, where it is more than one: "3 seeds, averaged", "5 folds", or both."""
    seeds = len(recipe.scored)
    folds = len(recipe.runs) // seeds if seeds else 0
    parts = [f"{folds} folds"] * (folds > 1) + [f"{seeds} seeds, averaged"] * (seeds > 1)
    return ", ".join(parts)


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    """A run's line in the table of all runs."""
    run, published = attempt.run, REFERENCE.to_dict()
    changed = {
        name: value for name, value in run.config.to_dict().items() if value != published[name]
    }
    return {
        "id": run.id,
        "plans": ", ".join(run.info["plans"]),
        "status": attempt.status,
        "detail": attempt.detail,
        "changed": changed,
        "seed": run.config.seed,
        "dsc": mean_dsc(run) if attempt.status == "finished" else None,
        "seconds": run.info.get("seconds"),
        "device": run.info.get("device"),
        "precision": run.info.get("precision"),
    }


def _environments(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """Where the runs were computed: each set of versions and device once, with the number of runs and their time."""
    found: dict[tuple, dict[str, Any]] = {}
    for attempt in attempts:
        info = attempt.run.info
        about = {name: str(info[name]) for name in ("device", "precision") if name in info}
        about = {name: str(text) for name, text in attempt.versions.items()} | about
        if not about:  # it failed before it was begun
            continue
        one = found.setdefault(tuple(about.items()), {"about": about, "runs": 0, "seconds": 0.0})
        one["runs"] += 1
        one["seconds"] += float(info.get("seconds", 0))
    return list(found.values())


def _counts(attempts: list[Attempt], unreadable: Mapping[str, str]) -> dict[str, int]:
    """How many runs came to what."""
    counts = Counter(attempt.status for attempt in attempts) + Counter(unreadable=len(unreadable))
    return {
        name: counts[name]
        for name in ("finished", "unfinished", "failed", "unreadable")
        if counts[name]
    }
