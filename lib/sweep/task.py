"""Train one run of a sweep: its place, its training, and the record of its failure."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib import train
from lib.config import Config
from lib.dataset import BrainData, load_data, make_split
from lib.logger import Epoch, Place, RunFolder, Table, description, run_id
from lib.networks import build
from lib.runtime import code_fingerprint
from lib.sweep.plans import PLANS, Plan, Trial
from lib.train import fit
from lib.utils import EditedError, KitError, changing, fingerprint, say

LOG = "log.txt"  # output of a run of a sweep, in its folder
RETRIES = 3  # of a run whose worker died: out of memory, killed, machine lost


@dataclass(frozen=True)
class Task:
    """Hold one run of a sweep: all that a process needs to train it, and nothing large."""

    trial: Trial
    folder: RunFolder
    place: Place
    table: Table = "train"

    @property
    def status(self) -> str | None:
        """Return ``running``, ``finished``, ``failed``, or None if it was never begun."""
        return self.folder.read().get("status")

    def to_json(self) -> dict[str, Any]:
        """Return the task as a JSON value; ``Task.from_json`` returns the same task."""
        return {
            "label": self.trial.label,
            "config": self.trial.config.to_dict(),
            "out": str(self.folder.path.parent.parent),
            "run": self.folder.path.name,
            "place": self.place._asdict(),
            "table": self.table,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Task:
        """Return the task that ``to_json`` described."""
        return cls(
            Trial(value["label"], Config.from_dict(value["config"])),
            RunFolder(Path(value["out"]), value["run"]),
            Place(**value["place"]),
            value["table"],
        )


def make_tasks(
    plan: Plan,
    base: Config,
    data: BrainData,
    out: Path,
    seeds: Sequence[int] = (),
    splits: Sequence[str] = (),
    scale: str = "",
) -> list[Task]:
    """Return the runs of a plan, in the order in which they are trained.

    Variants that are one recipe are named, and trained under the first label.

    Args:
        out: absolute: workers run elsewhere.
        splits: train everything on each of these, ``fold-1-of-5`` and so on, instead of on that of
            ``base``.
        scale: noted with each run.

    Raises:
        KitError: a variant that no ``Config`` allows, or data that cannot be split so.
        EditedError: the code is not what was loaded.
    """
    settings = {
        name: value
        for name, value in base.identity().items()
        if name not in ("device", "seed", "split")
    }
    splits = splits or (base.split,)
    parts = [
        (split.train, split.validation) for split in (make_split(data, name) for name in splits)
    ]
    group = fingerprint([settings, data.fingerprint, parts])[:8] + _own_question(plan)
    repeats = plan.repeats(base)
    if repeats:
        pairs = ", ".join(f"{label!r} equals {first!r}" for label, first in repeats.items())
        say(f"plan {plan.name}: no recipe is trained twice: {pairs}")
    positions = {label: position for position, label in enumerate(plan.configs(base))}
    return [
        Task(
            trial,
            RunFolder(out, _id(trial.config, data)),
            Place(plan.name, group, positions[trial.label], trial.label, plan.ladder, scale),
            plan.table,
        )
        for split in splits
        for trial in plan.trials(replace(base, split=split), seeds)
    ]


def _own_question(plan: Plan) -> str:
    """Return a hash of the question of a plan, which keeps plans of the same name apart.

    It is empty for a shipped plan, as its name says which it is.
    """
    shipped = PLANS.get(plan.name)
    if shipped and shipped.question == plan.question:
        return ""
    return f"-{fingerprint([plan.question])[:4]}"


def _id(config: Config, data: BrainData) -> str:
    """Return the id of a run with the code and the data that this process has loaded."""
    return run_id(config, data, make_split(data, config.split), _code(config))


def require_same_code(task: Task, data: BrainData) -> None:
    """Raise ``EditedError`` unless this process loaded the code and data of a task.

    A process that starts later than the sweep loads what the files contain by then.
    """
    if _id(task.trial.config, data) != task.folder.path.name:
        raise EditedError(
            "code or data were edited after the sweep began, or a machine of the cluster has "
            "others; restart the kernel, or run the command again"
        )


def _code(config: Config) -> str:
    """Return the fingerprint of the code that a run uses.

    If its network or loss cannot be built, it is that of their names.
    """
    try:
        return code_fingerprint(config, *build(config), train.SOURCES)
    except EditedError:
        raise
    except (
        Exception,
        SystemExit,
    ):  # from a custom network or loss; ``fit`` raises it again, to be recorded
        return fingerprint(config.custom)


def train_task(
    task: Task, data: BrainData, out: Path, watch: Callable[[Epoch], None] | None = None
) -> None:
    """Train one run, or note in its folder why that is not possible.

    Its output goes to ``log.txt`` there.

    Raises:
        EditedError: the code is not what was loaded; nothing is recorded then.
    """
    config = task.trial.config
    note_place(task, data)
    with changing(task.folder.path / LOG):
        log = open(task.folder.path / LOG, "a", encoding="utf-8")  # noqa: SIM115 -- closed below
    with log:
        try:
            with redirect_stdout(log):
                fit(config, _prepared(data, config), out, task.place.plan, watch, task.table)
        except EditedError:
            raise
        except (Exception, SystemExit) as error:  # a custom network or loss may raise anything
            traceback.print_exc(file=log)
            record_failure(task, data, error)


def note_place(task: Task, data: BrainData) -> None:
    """Note in the run's folder which variant of the plan it is.

    An interrupted run has its place too.
    """
    with task.folder.lock():
        if not task.folder.read():
            task.folder.update(**_about(task, data))
        task.folder.add_place(task.place, task.table)


def record_failure(task: Task, data: BrainData, error: BaseException) -> None:
    """Note in the run's folder that it failed, and why, in one line."""
    reason = " ".join(f"{error}".split())[:300] or type(error).__name__
    if not isinstance(error, KitError):
        reason = f"{type(error).__name__}: {reason}"
    with task.folder.lock():
        if task.status != "finished":  # another process may have had more luck
            task.folder.update(**_about(task, data) | {"status": "failed", "error": reason})


def _about(task: Task, data: BrainData) -> dict[str, Any]:
    """Return what run.json says of a run before it starts."""
    config = task.trial.config
    return description(config, data, make_split(data, config.split), _code(config))


def _prepared(data: BrainData, config: Config) -> BrainData:
    """Return the data as ``config`` needs it."""
    if (data.image_size, data.preprocessing) == (config.image_size, config.preprocessing):
        return data
    return load_data(data.root, config.image_size, config.preprocessing)
