"""Train every variant of a plan: ``sweep("loss", base, data) -> Sweep``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from lib.config import Config, require_config
from lib.dataset import BrainData, require_loaded
from lib.logger import Run, write_result_csvs
from lib.sweep.cost import Cost, sweep_cost
from lib.sweep.on_processes import begun_with_other_threads, default_workers, pays, run_on_processes
from lib.sweep.on_ray import run_on_ray
from lib.sweep.plans import Plan, find_plan
from lib.sweep.table import Row, SweepTable
from lib.sweep.task import Task, make_tasks, train_task
from lib.utils import KitError, as_path, in_notebook, progress, say

EXECUTORS = ("auto", "local", "processes", "ray")


class _Option(NamedTuple):
    """Hold which executors have an option, and the values that it takes."""

    executors: tuple[str, ...]
    kind: type[Integral] | type[Real]
    least: float
    values: str

    def takes(self, value: Any) -> bool:
        """Return whether it takes a value."""
        number = isinstance(value, self.kind) and not isinstance(value, bool)
        return number and self.least <= value < math.inf


_OPTIONS = {
    "workers": _Option(("processes", "auto"), Integral, 1, "a whole number, 1 or more"),
    "gpus": _Option(("ray",), Real, 0, "a number, 0 or more"),
    "cpus": _Option(("ray",), Real, 0.01, "a number, 0.01 or more"),
    "retries": _Option(("ray",), Integral, 0, "a whole number, 0 or more"),
}


@dataclass(frozen=True)
class Sweep:
    """Hold what became of a plan.

    Attributes:
        runs: label -> its finished runs, one a seed, the reference first; for
            ``lib.stats.compare_to_baseline`` and ``lib.plot``. Of variants that are one recipe it
            has the first, see ``Plan.repeats``.
        failures: label -> why it has no run, or not all.
    """

    plan: Plan
    runs: dict[str, list[Run]]
    failures: dict[str, str]


def sweep(
    plan: Plan | str,
    base: Config,
    data: BrainData,
    out: str | Path = "result",
    seeds: Sequence[int] = (),
    executor: str = "auto",
    only: Sequence[str] | None = None,
    **options: float,
) -> Sweep:
    """Train the variants of ``plan``, and say beforehand what that costs.

    You can interrupt or kill it: asked for again, it skips finished runs and goes on with the rest
    from their last checkpoints. A variant that fails is recorded with its error, does not stop the
    others and is tried again next time. Several processes may work on the same plan. Each run is
    trained by one of them, as long as they share the folder of results.

    Args:
        plan: a ``Plan``, or the name of one of ``lib.sweep.PLANS``.
        base: the recipe that the variants change.
        data: from ``load_data``; prepared anew for variants that need other images.
        out: folder of results.
        seeds: of each variant; that of ``base`` by default.
        executor: ``local``, one run after the other in this process; ``processes``, as many at once
            as there are cores, each in a process with one thread; ``ray``, see
            ``lib.sweep.on_ray``; or ``auto``: processes where they are faster, on a CPU, else
            local. Other numbers of threads round differently.
        only: labels of the variants to train beside the reference; by default all.
        options: of the executor; ``workers``, how many processes.

    Raises:
        KitError: an unknown plan, executor or label, or a variant that no ``Config`` allows;
            nothing has been trained then. Or the reference failed; the other runs are kept.
    """
    plan = find_plan(plan)
    require_loaded(data)
    require_config(base)
    tasks = make_tasks(plan, base, data, as_path(out, "out").absolute(), seeds)
    tasks = chosen(tasks, only)
    train_tasks(tasks, data, out, executor, **options)
    runs, failures = outcome(tasks)
    return Sweep(plan, runs, failures)


def chosen(tasks: list[Task], only: Sequence[str] | None) -> list[Task]:
    """Return the tasks of the reference and of some variants; of all for None.

    Raises:
        KitError: a label that no variant has.
    """
    known = list(dict.fromkeys(task.place.label for task in tasks))
    labels = chosen_labels(tasks[0].place.plan, known, only)
    return [task for task in tasks if task.place.label in labels]


def chosen_labels(plan: str, known: Sequence[str], only: Sequence[str] | None) -> set[str]:
    """Return the reference, the first of the known labels, and some others; all for None.

    Raises:
        KitError: a label that no variant has.
    """
    if only is None:
        return set(known)
    several = isinstance(only, Iterable) and not isinstance(only, str)
    labels = list(only) if several else []
    if not several or not all(label in known for label in labels):
        raise KitError(
            f"plan {plan}: only={only!r} is no list of its variants; give some of {known}"
        )
    return {known[0], *labels}


def train_tasks(
    tasks: list[Task], data: BrainData, out: str | Path, executor: str = "auto", **options: Any
) -> None:
    """Say what ``tasks`` will cost, train those that are missing, and update the CSVs.

    A table shows the state of the runs.

    Raises:
        KitError: an unknown executor, or an option that it does not have.
    """
    executor, at_once = _choose(executor, options, tasks, data)
    say(str(_cost(tasks, data, at_once)))
    table = SweepTable(
        [
            Row(label, task.trial.config.seed, task.trial.config.epochs, task.folder)
            for task, label in zip(tasks, _names(tasks), strict=True)
        ]
    )
    table.refresh()
    if executor == "ray":
        run_on_ray(tasks, data, Path(out).absolute(), table, **options)
    elif executor == "processes":
        run_on_processes(tasks, data, Path(out).absolute(), table, at_once)
    else:
        _run_here(tasks, data, Path(out).absolute(), table)
    table.refresh(last=True)
    write_result_csvs(out)


def _names(tasks: list[Task]) -> list[str]:
    """Return the variant of each run, with its fold if there are several."""
    folded = len({task.trial.config.split for task in tasks}) > 1
    return [
        f"{task.place.label}, {task.trial.config.split}" if folded else task.place.label
        for task in tasks
    ]


def cost_of(tasks: list[Task], data: BrainData, executor: str = "auto", **options: Any) -> Cost:
    """Estimate the cost of the tasks that are not finished. Raises KitError as ``train_tasks``."""
    return _cost(tasks, data, _choose(executor, options, tasks, data)[1])


def cost_beforehand(
    configs: Sequence[Config], slices: int, executor: str = "auto", **options: Any
) -> Cost:
    """Estimate the cost of runs on data that are not prepared yet, as if none were finished.

    Args:
        slices: of all patients, roughly.

    Raises:
        KitError: as ``train_tasks``.
    """
    _check(executor, options)
    _, at_once = _chosen_for(executor, options, configs, slices)
    return sweep_cost(len(configs), configs, slices, at_once)


def _cost(tasks: list[Task], data: BrainData, at_once: int) -> Cost:
    """Estimate the cost of the tasks that are not finished, so many of them at a time."""
    configs = [task.trial.config for task in _missing(tasks)]
    return sweep_cost(len(tasks), configs, _slices(data), at_once)


def _slices(data: BrainData) -> int:
    """Return how many slices all patients have."""
    return len(data.slices(tuple(data.patients)))


def _missing(tasks: list[Task]) -> list[Task]:
    """Return the tasks that are not finished."""
    return [task for task in tasks if task.status != "finished"]


def _choose(
    executor: str, options: dict[str, Any], tasks: list[Task], data: BrainData
) -> tuple[str, int]:
    """Return the executor that trains, not ``auto``, and how many runs it trains at once.

    For Ray the number is 1: it depends on the cluster.

    Raises:
        KitError: an unknown executor, or an option that it does not have.
    """
    _check(executor, options)
    missing = _missing(tasks)
    configs, begun = [task.trial.config for task in missing], map(begun_with_other_threads, missing)
    return _chosen_for(executor, options, configs, _slices(data), any(begun))


def _chosen_for(
    executor: str,
    options: dict[str, Any],
    missing: Sequence[Config],
    slices: int,
    begun: bool = False,
) -> tuple[str, int]:
    """Return the same for unfinished runs, of which a worker may have begun one."""
    if "workers" in options:
        return "processes", max(1, min(options["workers"], len(missing)))
    if executor == "auto":
        executor = "processes" if pays(missing, slices, begun) else "local"
    return executor, default_workers(missing, slices) if executor == "processes" else 1


def _check(executor: str, options: dict[str, Any]) -> None:
    """Raise ``KitError`` for an unknown executor, or an option that it does not have."""
    if executor not in EXECUTORS:
        raise KitError(f"executor {executor!r} is unknown; use one of {', '.join(EXECUTORS)}")
    for name, value in options.items():
        if name not in _OPTIONS:
            raise KitError(f"{name}: is no option of a sweep; use some of {', '.join(_OPTIONS)}")
        option = _OPTIONS[name]
        if executor not in option.executors:
            raise KitError(f"{name}: for executor {option.executors[0]} only; leave it out")
        if not option.takes(value):
            raise KitError(f"{name}: {value!r}; give {option.values}")


def _run_here(tasks: list[Task], data: BrainData, out: Path, table: SweepTable) -> None:
    """Train one run after the other.

    Those that another process trains come last: by then they may be finished.
    """
    waiting = list(tasks)
    # a notebook shows the table instead of the bar
    with progress(total=len(tasks), desc="sweep", unit="run", disable=in_notebook()) as bar:
        while waiting:
            task = next((task for task in waiting if not task.folder.busy()), None)
            if task is None:
                time.sleep(1)
            else:
                train_task(task, data, out, watch=lambda _: table.refresh())
                waiting.remove(task)
                bar.update()
            table.refresh()


def outcome(tasks: list[Task]) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Return label -> its finished runs, the reference first, and label -> why it failed.

    A run that is not as its training left it has failed.

    Raises:
        KitError: there is no reference to compare with.
    """
    runs: dict[str, list[Run]] = {}
    failures = {}
    for task in sorted(tasks, key=lambda task: task.place.position):
        label, folder = task.place.label, task.folder
        try:
            if folder.is_finished():
                runs.setdefault(label, []).append(Run(folder.path))
            else:
                failures[label] = folder.read().get("error") or "not finished"
        except KitError as error:  # it was changed after the training: nothing is computed from it
            failures[label] = f"{error}"
    reference = tasks[0].place
    if reference.label not in runs:
        raise KitError(
            f"plan {reference.plan}: {reference.label}, the reference of the others, failed "
            f"({failures[reference.label]}); they are kept, mend it and run this again"
        )
    return runs, failures
