"""Read run folders as experiments: every attempt beside the one that it is compared with."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import REFERENCE
from lib.logger import TABLES, Place, Run, require_sound
from lib.metrics import Summary, summarise
from lib.report.format import without_folders
from lib.stats import Scored, compare_to_baseline
from lib.stats.verdicts import corrected
from lib.sweep import CrossValidation
from lib.utils import KitError, fingerprint


@dataclass(frozen=True)
class Attempt:
    """Hold one run folder, finished or not.

    Attributes:
        status: ``finished``, ``failed``, or ``unfinished``.
        epochs: number of epochs done.
        error: why it failed, one line.
        data: ``name`` and ``sha256`` of its data; empty if it failed before they were known, as are
            the next two.
        validation: names of the validation patients.
        versions: of Python and its packages.
    """

    run: Run
    status: str
    epochs: int
    error: str
    data: dict[str, Any]
    validation: list[str]
    versions: dict[str, str]

    @property
    def detail(self) -> str:
        """Return how far it came, or why no further; empty for a finished one."""
        return {
            "failed": self.error,
            "unfinished": f"epoch {self.epochs} of {self.run.config.epochs}",
        }.get(self.status, "")

    @property
    def words(self) -> str:
        """Return the status in words."""
        return self.status + {"failed": ": ", "unfinished": ", "}.get(self.status, "") + self.detail


def read_attempts(
    out: str | Path, runs: Sequence[Run] = ()
) -> tuple[list[Attempt], dict[str, str]]:
    """Read all run folders below ``out``.

    Runs on all patients are left out: they have no score.

    Args:
        runs: those of ``out`` that were read before.

    Returns:
        The attempts in the order of the CSVs (plans, config, run), and name -> why a folder cannot
        be read.

    Raises:
        KitError: there is no run folder at all.
    """
    folders = sorted(
        path
        for path in Path(out).glob("runs/*")
        if path.is_dir()
        and not path.name.startswith(".")
        and not {file.name for file in path.iterdir()} <= {".lock"}
    )  # else it was never begun
    if not folders:
        raise KitError(
            f"{Path(out) / 'runs'}: no runs to report on; train something first, or name another "
            f"folder"
        )
    known = {run.folder: run for run in runs}
    attempts, unreadable = [], {}
    for folder in folders:
        try:
            run = known.get(folder) or Run(folder)
            if run.info.get("split", {}).get("name") != "all":
                attempts.append(_read(run))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            unreadable[folder.name] = _reason(error)
    return sorted(
        attempts, key=lambda one: (one.run.info["plans"], _config_text(one.run), one.run.id)
    ), unreadable


def _read(run: Run) -> Attempt:
    """Read and check everything that a report needs of a run.

    A damaged folder raises almost anything.
    """
    info = run.info
    if not isinstance(info["plans"], list) or not run.tables <= TABLES.keys():
        raise ValueError("its plans are no list of names, or have no table")
    status = info["status"] if info["status"] in ("finished", "failed") else "unfinished"
    for place in info.get("places", []):
        _place(place)
    # asked for now, so that nothing turns out wrong later
    _ = run.config, float(info.get("seconds", 0))
    _ = [(one["device"], one["precision"]) for one in info.get("earlier", [])]
    epochs = len(_history(run))
    if status == "finished":
        _check_finished(run)
    return Attempt(
        run,
        status,
        epochs,
        " ".join(str(info.get("error") or "no reason given").split()),
        dict(info.get("data", {})),
        list(info.get("split", {}).get("validation", [])),
        dict(info.get("versions", {})),
    )


def _place(values: dict[str, Any]) -> Place:
    """Return a place of run.json. Raises TypeError or ValueError if it is damaged."""
    place = Place(**values)
    if not all(
        isinstance(value, kind)
        for value, kind in zip(place, (str, str, int, str, bool, str), strict=True)
    ):
        raise ValueError("a place in run.json needs plan, group, position and label")
    return place


def _check_finished(run: Run) -> None:
    """Raise what reading a damaged run raises, or ValueError if it makes no sense."""
    run.info["data"]["name"], run.info["data"]["sha256"]
    require_sound(run)
    scores = run.cases[["dsc", "dsc_native"]].astype(float)
    if (
        scores.empty
        or not run.cases["patient"].is_unique
        or not (scores.isna() | ((scores >= 0) & (scores <= 1))).to_numpy().all()
    ):
        raise ValueError("cases.csv does not hold a DSC for each patient")
    if not 1 <= run.info["best"]["epoch"] <= run.config.epochs:
        raise ValueError("its best epoch is none of its epochs")


def _history(run: Run) -> pd.DataFrame:
    """Return history.csv; without rows if a run has not got so far."""
    if run.info["status"] != "finished" and not (run.folder / "history.csv").is_file():
        return pd.DataFrame()
    return run.history[["epoch", "train loss", "val loss", "val_dsc"]].astype(float)


def _reason(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    text = " ".join(without_folders(str(error)).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _config_text(run: Run) -> str:
    """Return a config as text, to sort by."""
    return json.dumps(run.info["config"], sort_keys=True)


# --- experiments ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Hold a row of an experiment: its attempts, one or more for each seed.

    Attributes:
        changed: field of ``Config`` -> value, where it differs from the reference; on a ladder,
            from the step before.
    """

    label: str
    attempts: tuple[Attempt, ...]
    changed: dict[str, Any]

    @cached_property
    def runs(self) -> list[Run]:
        """Return the finished runs that count.

        If the code was changed, it is the one that was asked for last.
        """
        finished = [attempt for attempt in self.attempts if attempt.status == "finished"]
        latest = {
            (attempt.run.config.seed, *attempt.validation): attempt.run
            for attempt in sorted(finished, key=lambda one: one.run.asked)
        }
        return [attempt.run for attempt in finished if attempt.run in latest.values()]

    @cached_property
    def scored(self) -> list[Scored]:
        """Return what ``lib.stats`` compares, one for each seed.

        It is a run, or the runs of a cross-validation together.
        """
        seeds: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs:
            seeds[run.config.seed].append(run)
        return [
            runs[0] if len(runs) == 1 else CrossValidation(tuple(runs)) for runs in seeds.values()
        ]

    @cached_property
    def dsc(self) -> pd.Series:
        """Return patient -> DSC at the best epoch, averaged over seeds."""
        columns = [one.cases.set_index("patient")["dsc"] for one in self.scored]
        return pd.concat(columns, axis=1).mean(axis=1) if columns else pd.Series(dtype=float)

    @cached_property
    def summary(self) -> Summary | None:
        """Return the mean DSC over patients with its 95 % CI, or None."""
        scores = self.dsc.dropna().to_numpy()
        return summarise(scores) if len(scores) else None

    @property
    def mean(self) -> float:
        """Return the mean DSC; NaN without a finished run."""
        return self.summary.mean if self.summary else math.nan

    @property
    def outdated(self) -> int:
        """Return the number of finished runs that do not count, as the code was changed."""
        return sum(attempt.status == "finished" for attempt in self.attempts) - len(self.runs)


@dataclass(frozen=True)
class Experiment:
    """Hold the recipes of a plan with the same data, the same base and the same question.

    Attributes:
        reference: the first of them; None if it was never started.
        ladder: each recipe is compared with the one before it, instead of with the reference.
    """

    plan: str
    recipes: tuple[Recipe, ...]
    reference: Recipe | None
    ladder: bool

    @cached_property
    def verdicts(self) -> pd.DataFrame | None:
        """Return the table of ``lib.stats.compare_to_baseline`` with a column ``against``.

        It is None if nothing can be compared.
        """
        return self._comparison[0]

    @cached_property
    def reasons(self) -> dict[str, str]:
        """Return label -> why a finished recipe has no verdict."""
        return self._comparison[1]

    @cached_property
    def _comparison(self) -> tuple[pd.DataFrame | None, dict[str, str]]:
        """Return the table of verdicts, and the reasons where there is none."""
        tables, reasons, before = [], {}, self.reference
        for recipe in self.recipes:
            if recipe is before or not recipe.runs:
                continue
            if before is None or not before.runs:
                reasons[recipe.label] = "what it should be compared with has not finished"
            else:
                try:
                    pair = {before.label: before.scored, recipe.label: recipe.scored}
                    tables.append(compare_to_baseline(pair).assign(against=before.label))
                except KitError as error:
                    reasons[recipe.label] = str(error).removeprefix(f"{recipe.label}: ")
            if self.ladder:
                before = recipe
        return (corrected(pd.concat(tables, ignore_index=True)) if tables else None), reasons


def experiments(attempts: Iterable[Attempt]) -> dict[str, list[Experiment]]:
    """Return plan -> its experiments, one for each base that it was tried on.

    Plans of the same name with other questions are experiments of their own.

    Plans are sorted by name, those of the best CSV last. Runs without a place in a plan, started by
    ``fit`` alone, make an experiment for each set of patients: their labels are the settings that
    differ, and the one with the fewest changes of the published recipe is the reference.
    """
    groups: dict[tuple[str, str], dict[Place, list[Attempt]]] = defaultdict(
        lambda: defaultdict(list)
    )
    alone: dict[tuple[str, str], dict[str, list[Attempt]]] = defaultdict(lambda: defaultdict(list))
    best: set[str] = set()
    for attempt in attempts:
        info = attempt.run.info
        best |= {plan for plan, table in info["tables"].items() if table == "best"}
        places = [_place(place) for place in info.get("places", [])]
        for place in places:
            groups[place.plan, place.group][place].append(attempt)
        patients = fingerprint([attempt.data.get("sha256"), attempt.validation])
        same = fingerprint([_settings(attempt.run), info.get("code")])  # but for the seed
        for plan in set(info["plans"]).difference(place.plan for place in places):
            alone[plan, f"without places, {patients}"][same].append(attempt)
    for key, recipes in alone.items():
        by_changes = sorted(recipes.values(), key=lambda same: len(_changed_fields(same[0].run)))
        groups[key] = {Place(*key, position, ""): same for position, same in enumerate(by_changes)}
    found: dict[str, list[Experiment]] = defaultdict(list)
    for plan, group in sorted(groups, key=lambda key: (key[0] in best, key)):
        found[plan].append(_experiment(plan, groups[plan, group]))
    return dict(found)


def _experiment(plan: str, rows: dict[Place, list[Attempt]]) -> Experiment:
    """Return the experiment of the runs at each place of a plan.

    Where the plan was changed, two variants may claim a position: the one asked for last goes
    first.
    """
    last_first = sorted(
        rows.items(), key=lambda row: max(one.run.asked for one in row[1]), reverse=True
    )
    ordered = sorted(last_first, key=lambda row: row[0].position)
    settings = [_settings(attempts[0].run) for _, attempts in ordered]
    ladder = ordered[0][0].ladder
    varied = [
        name for name in settings[0] if any(one[name] != settings[0][name] for one in settings)
    ]
    recipes: dict[str, Recipe] = {}
    for i, (place, attempts) in enumerate(ordered):
        own, base = settings[i], settings[max(i - 1, 0) if ladder else 0]
        label = (
            place.label
            or ", ".join(f"{name}={own[name]}" for name in varied)
            or f"{own['model']}, {own['loss']}"
        )
        if label in recipes:  # other code under the same settings
            label = f"{label} ({attempts[0].run.id[-10:]})"
        changed = {name: own[name] for name in varied if own[name] != base[name]}
        recipes[label] = Recipe(label, tuple(attempts), changed)
    in_order = tuple(recipes.values())
    return Experiment(plan, in_order, in_order[0] if ordered[0][0].position == 0 else None, ladder)


def _changed_fields(run: Run) -> list[str]:
    """Return the settings in which a run differs from the published recipe."""
    published = REFERENCE.to_dict()
    return [name for name, value in _settings(run).items() if value != published[name]]


def _settings(run: Run) -> dict[str, Any]:
    """Return the fields of ``Config`` that make a recipe."""
    return {
        name: value
        for name, value in run.config.to_dict().items()
        if name not in ("seed", "device", "split")
    }
