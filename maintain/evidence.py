"""Train and score every question of the notebooks on the phantom, with several seeds.

Command line: ``python -m maintain.evidence --out DIR [--only PLAN ...] [--workers N]``

Hours on two cores; interrupt it whenever you like, it goes on where it stopped. It takes the first
seeds of all questions, then the next; ``maintain.findings`` makes a page of the tables in
``result/reference/phantom``, where a run is once its round is trained and scored. Runs and scores
are in ``--out``. A run that the tables have is not trained again: after a change of the phantom or
the training, delete them first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, get_args

import pandas as pd
import torch

from lib.config import LADDER
from lib.dataset import BrainData, load_data
from lib.logger import Run, to_csv
from lib.phantom import PHANTOM_FOLDER, write_phantom, write_test_set
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import RESUMES
from lib.runtime.limits import cores
from lib.sweep import PLANS, Plan
from lib.sweep.measured import (
    BASE,
    CURVES,
    FOLDER,
    HITS,
    KEY,
    PREDICTED,
    SOLUTION,
    TRUTH,
    ScoredEpoch,
    recipe_of,
    score,
)
from lib.sweep.run import train_tasks
from lib.sweep.task import Task, make_tasks
from lib.utils import KitError, progress, write_atomic, write_json

FIRST_SEED, FEW, MANY = 42, 5, 20
ROUND = 4  # runs of each worker before they are scored, so that none waits long for the last one
TRAINED = replace(BASE, precision="fp32")  # on every computer, so that all runs can be compared
# variants that are there to fail: from the first seeds on they are far below the others
BAD = ("3e-5", "SGD 0.9, lr 1e-4", "SGD 0.99, lr 1e-4")
SCORES = "test-scores"  # folder of what was scored, beside the runs


class Part(NamedTuple):
    """Hold a plan and the number of its seeds, from 42."""

    plan: Plan
    seeds: int

    def tasks(self, data: BrainData, out: Path, most: int) -> list[Task]:
        """Return its runs, with so many seeds at most."""
        seeds = range(FIRST_SEED, FIRST_SEED + min(self.seeds, most))
        tasks = make_tasks(self.plan, TRAINED, data, out, seeds, scale="phantom")
        return [
            task
            for task in tasks
            if task.trial.label not in BAD or task.trial.config.seed < FIRST_SEED + FEW
        ]


BEST = Plan(
    "best recipe",
    "Is the best recipe better?",
    {"baseline": {}, "best": list(LADDER.values())[-1]},
    table="best",
)
STEPS = Plan(
    "best ladder", "What is each step of the best recipe worth?", LADDER, ladder=True, table="best"
)
OPTIONS = Plan(
    "other options",
    "What do the options do that no question of the notebooks is about?",
    {
        "as published": {},
        "prior of 0.02": {"prior": 0.02},
        "warm-up": {"warmup": 0.05},
        "gradients of at most 1": {"clip": 1.0},
        "instance normalisation": {"normalisation": "instance"},
        "kaiming initialiser": {"initialiser": "kaiming"},
        "more empty slices": {"background_weight": 1.0},
        "slices below and above": {"neighbours": 1},
    },
)
EARLY = Plan(
    "early stopping",
    "What does it cost to stop early?",
    {"24 epochs": {}, "patience 3": {"patience": 3}, "patience 6": {"patience": 6}},
)
# of one recipe, to see how often a difference is found where there is none
NULL = Plan("baseline", "How far do runs of one recipe differ?", {"baseline": {}})
SINGLE = ("network_wide", "coursework", "everything")  # not of train.ipynb, or repeats
PARTS: Mapping[str, Part] = {
    part.plan.name: part
    for part in (
        Part(BEST, MANY),
        Part(STEPS, MANY),
        *(Part(plan, MANY) for name, plan in PLANS.items() if name not in SINGLE),
        Part(OPTIONS, FEW),
        Part(EARLY, FEW),
        Part(NULL, 2 * MANY),
    )
}
"""Name of the plan -> part, in the order in which they are trained."""


# --- scores ---------------------------------------------------------------------------------------


def score_run(folder: Path, test_set: Path, file: Path) -> None:
    """Score a run on the test phantoms by its best and by its last epoch, and write the counts."""
    torch.set_num_threads(1)
    run = Run(folder)
    data = load_data(test_set, run.config.image_size, run.config.preprocessing)
    counts = {}
    for epoch in get_args(ScoredEpoch):
        cases = score(run, data, epoch).cases.set_index("patient")
        predicted = cases["tp"] + cases["fp"]
        counts[epoch] = {
            name: [int(cases["tp"][name]), int(predicted[name])] for name in cases.index
        }
    write_json(file, counts)


def score_all(runs: Sequence[Run], out: Path, workers: int) -> None:
    """Score the runs that have no scores yet, several at a time."""
    test_set = write_test_set()
    load_data(test_set, BASE.image_size)  # prepared once, before the processes need it
    todo = [run for run in runs if not _file(out, run).exists()]
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        progress(total=len(todo), desc="scoring", unit="run") as bar,
    ):
        jobs = [pool.submit(score_run, run.folder, test_set, _file(out, run)) for run in todo]
        for job in jobs:
            job.result()
            bar.update()


def _file(out: Path, run: Run) -> Path:
    """Return the file of a run's scores."""
    return out / SCORES / f"{run.id}.json"


# --- tables ---------------------------------------------------------------------------------------


Counts = dict[str, list[int]]  # patient -> true positives and predicted voxels
Key = tuple[str, int, str]  # recipe, seed, epoch
Curve = dict[str, float]  # epoch -> validation DSC


def read_tables(folder: Path) -> dict[Key, Counts]:
    """Return what is in the tables; nothing if there are none."""
    found: dict[Key, Counts] = {}
    for each in (folder, folder / SOLUTION):
        if not (each / HITS).exists():
            continue
        hits, predicted = (pd.read_csv(each / name, index_col=KEY) for name in (HITS, PREDICTED))
        for key in hits.index:
            pairs = zip(hits.loc[key], predicted.loc[key], strict=True)
            counts = [[int(tp), int(voxels)] for tp, voxels in pairs]
            found[key[0], int(key[1]), key[2]] = dict(zip(hits, counts, strict=True))
    return found


def write_tables(runs: Sequence[Run], out: Path, folder: Path) -> None:
    """Add the scores of runs to the tables that ``lib.sweep.measured`` reads."""
    data = load_data(write_test_set(), BASE.image_size)
    truth = {
        name: int(data.slices((name,)).volume_masks()[0].sum()) for name in sorted(data.patients)
    }
    table = pd.DataFrame({"patient": list(truth), "voxels": list(truth.values())})
    write_atomic(folder / TRUTH, to_csv(table))
    plans = [part.plan for part in PARTS.values() if part.plan.table == "train"]
    open_ones = {recipe_of(config) for plan in plans for config in plan.configs(BASE).values()}
    rows = read_tables(folder) | dict(_rows(runs, out))
    for place, name in enumerate((HITS, PREDICTED)):
        counts = {
            key: {patient: found[patient][place] for patient in truth}
            for key, found in rows.items()
        }
        _write(name, KEY, counts, folder, open_ones)
    _write(CURVES, KEY[:2], _read_curves(folder) | dict(_new_curves(runs)), folder, open_ones)


def _write(
    name: str,
    keys: Sequence[str],
    rows: Mapping[tuple[str, ...], Mapping[str, float]],
    folder: Path,
    open_ones: set[str],
) -> None:
    """Write a table, in two files: of what students may see, and of the solution."""
    for target, seen in ((folder, True), (folder / SOLUTION, False)):
        chosen = {key: row for key, row in sorted(rows.items()) if (key[0] in open_ones) == seen}
        if chosen:
            target.mkdir(parents=True, exist_ok=True)
            index = pd.MultiIndex.from_tuples(chosen, names=keys)
            table = pd.DataFrame(list(chosen.values()), index).reset_index()
            write_atomic(target / name, to_csv(table))


def _read_curves(folder: Path) -> dict[tuple[str, int], Curve]:
    """Return the validation curves in the tables; nothing if there are none."""
    found: dict[tuple[str, int], Curve] = {}
    for each in (folder, folder / SOLUTION):
        if (each / CURVES).exists():
            for key, row in pd.read_csv(each / CURVES, index_col=KEY[:2]).iterrows():
                found[key[0], int(key[1])] = row.dropna().to_dict()
    return found


def _new_curves(runs: Sequence[Run]) -> Iterator[tuple[tuple[str, int], Curve]]:
    """Yield (recipe, seed) and the validation curve of each run."""
    for run in runs:
        curve = run.history.set_index("epoch")["val_dsc"].round(4).dropna()
        yield (recipe_of(run.config), run.config.seed), {str(at): dsc for at, dsc in curve.items()}


def _rows(runs: Sequence[Run], out: Path) -> Iterator[tuple[Key, Counts]]:
    """Yield (recipe, seed, epoch) and the counts of each run and epoch."""
    for run in runs:
        for epoch, counts in json.loads(_file(out, run).read_text(encoding="utf-8")).items():
            yield (recipe_of(run.config), run.config.seed, epoch), counts


# --- command line ---------------------------------------------------------------------------------


def main() -> None:
    """Run the command line."""
    parser = CommandParser(
        prog="python -m maintain.evidence",
        description=f"Train and score on the phantom: {', '.join(PARTS)}.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and scores")
    parser.add_argument("--only", nargs="+", metavar="PLAN", default=list(PARTS))
    parser.add_argument("--workers", type=int, default=cores(), help="runs at a time")
    arguments = parser.parse_args()
    if unknown := set(arguments.only).difference(PARTS):
        raise KitError(f"plan {min(unknown)!r} is not measured; use some of {', '.join(PARTS)}")
    data, out = load_data(write_phantom(PHANTOM_FOLDER), BASE.image_size), arguments.out.absolute()
    last = max(PARTS[name].seeds for name in arguments.only)
    for most in range(1, 1 + last):
        parts = [PARTS[name].tasks(data, out, most) for name in arguments.only]
        measured = {key[:2] for key in read_tables(FOLDER)}
        missing = {
            task.folder.path: task
            for tasks in parts
            for task in tasks
            if (recipe_of(task.trial.config), task.trial.config.seed) not in measured
        }
        if missing and (len(missing) >= ROUND * arguments.workers or most == last):
            print(f"\n{most} seeds of {', '.join(arguments.only)}", flush=True)
            train_tasks(list(missing.values()), data, out, "processes", workers=arguments.workers)
            runs = _finished(data, out)
            score_all(runs, out, arguments.workers)
            write_tables(runs, out, FOLDER)


def _finished(data: BrainData, out: Path) -> list[Run]:
    """Return the finished runs of all parts, each once."""
    tasks = [task for part in PARTS.values() for task in part.tasks(data, out, part.seeds)]
    folders = {task.folder.path for task in tasks if task.status == "finished"}
    return [Run(folder) for folder in sorted(folders)]


if __name__ == "__main__":
    run_command(main, RESUMES)
