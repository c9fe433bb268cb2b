"""One run of a sweep as a task: where it belongs, its training, and the record of its failure."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from lib import train
from lib.config import Config
from lib.dataset import BrainData, load_data, make_split
from lib.logger import RunFolder, code_fingerprint, description, run_id
from lib.plans import Plan, Trial
from lib.train import Epoch, fit
from lib.utils import KitError, fingerprint

LOG = "log.txt"  # what a run of a sweep says, in its folder


@dataclass(frozen=True)
class Task:
    """One run of a sweep: everything that a process needs to train it, and nothing that is large."""

    trial: Trial
    folder: RunFolder
    plan: str
    group: str
    position: int

    @property
    def status(self) -> str | None:
        """``running``, ``finished``, ``failed``, or None when it was never begun."""
        return self.folder.read().get("status")


def make_tasks(plan: Plan, base: Config, data: BrainData, out: Path, seeds: Sequence[int] = ()) -> list[Task]:
    """The runs of a plan, in the order in which they are trained."""
    split = make_split(data, base.split)
    settings = {name: value for name, value in base.to_dict().items() if name not in ("device", "seed", "split")}
    group = fingerprint([settings, data.fingerprint, split.train, split.validation])[:8]
    positions = {label: position for position, label in enumerate(plan.configs(base))}
    return [Task(trial, _folder(trial.config, data, out), plan.name, group, positions[trial.label])
            for trial in plan.trials(base, seeds)]


def _folder(config: Config, data: BrainData, out: Path) -> RunFolder:
    split = make_split(data, config.split)
    return RunFolder(out, run_id(config, data, split, _code(config)))


def _code(config: Config) -> str:
    """The fingerprint of the code that a run uses; of one that cannot even be built, that of its name."""
    try:
        return code_fingerprint(config, train)
    except Exception:  # whatever a network or loss of one's own raises: ``fit`` will raise it again, and it is recorded
        return fingerprint([config.model, config.loss])


def train_task(task: Task, data: BrainData, out: Path, watch: Callable[[Epoch], None] | None = None) -> None:
    """Train one run, or note in its folder why that is not possible. What it says goes to ``log.txt`` there."""
    config = task.trial.config
    try:
        with open(task.folder.path / LOG, "a", encoding="utf-8") as log, redirect_stdout(log):
            fit(config, _prepared(data, config), out, task.plan, watch)
    except Exception as error:  # a network or loss of one's own may raise anything
        with open(task.folder.path / LOG, "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        record_failure(task, data, error)
    note_place(task)


def note_place(task: Task) -> None:
    """Note in the run's folder which variant of the plan it is."""
    with task.folder.lock():
        task.folder.add_place(task.plan, task.group, task.position, task.trial.label)


def record_failure(task: Task, data: BrainData, error: Exception) -> None:
    """Note in the run's folder that it failed, and why, in one line."""
    config = task.trial.config
    reason = " ".join(f"{error}".split())[:300] or type(error).__name__
    if not isinstance(error, KitError):
        reason = f"{type(error).__name__}: {reason}"
    about = description(config, data, make_split(data, config.split), _code(config))
    with task.folder.lock():
        if task.status != "finished":  # another process may have had more luck
            task.folder.update(**about | {"status": "failed", "error": reason})


def _prepared(data: BrainData, config: Config) -> BrainData:
    """The data as ``config`` wants it."""
    if (data.image_size, data.preprocessing) == (config.image_size, config.preprocessing):
        return data
    return load_data(data.root, config.image_size, config.preprocessing)
