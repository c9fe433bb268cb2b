"""The runs of a sweep as Ray tasks: on all cores of a laptop, all GPUs of a machine, or a cluster.

``pip install "ray>=2.40"`` first. With ``RAY_ADDRESS`` in the environment the runs go to that cluster, otherwise Ray
starts on this machine. Every machine needs the data at the same path. Where they share the results folder, a run that
loses its machine goes on elsewhere from its last checkpoint; where they do not, its folder is brought home when it has
finished.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import torch

from lib.cache import cache_folder
from lib.dataset import BrainData, load_data
from lib.logger import RunFolder
from lib.sweep_table import SweepTable
from lib.sweep_task import Task, note_place, record_failure, train_task
from lib.utils import PROJECT, KitError, progress, write_atomic

RETRIES = 3  # of a run whose worker died: out of memory, killed, machine lost
_EXCLUDED = [".git", ".venv", "data", "result", "img", "tests", "*.ipynb"]  # not needed to train


def run_on_ray(tasks: list[Task], data: BrainData, out: Path, table: SweepTable, gpus: float | None = None,
               cpus: float = 1, retries: int = RETRIES) -> None:
    """Train ``tasks`` as Ray tasks and wait for all of them.

    Args:
        gpus: of a run; 0.5 lets two runs share one. By default 1 where the cluster has any.
        cpus: cores of a run; torch uses as many threads. Other numbers of threads may round differently.
        retries: how often a run whose worker died is begun again, each time from its last checkpoint.

    Raises:
        KitError: Ray is not installed, or the cluster has not what a run asks for.
    """
    ray = _connect()
    there = ray.cluster_resources()
    gpus = min(1.0, there.get("GPU", 0)) if gpus is None else gpus
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0):
            raise KitError(f"Ray: a run asks for {wanted:g} {name}, the cluster has {there.get(name, 0):g}")
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(train_remotely)
    root, out = str(data.root.absolute()), out.absolute()
    home = _identity(out)
    waiting = {}
    for task in tasks:
        if task.status == "finished":
            note_place(task)
        else:
            waiting[remote.remote(task, root, out, home)] = task
    _collect(ray, waiting, data, table)


def _connect() -> Any:
    """The ``ray`` module, connected to the cluster of ``RAY_ADDRESS`` or to one that it starts here."""
    try:
        import ray
    except ImportError:
        raise KitError('executor ray: Ray is not installed; pip install "ray>=2.40", or use executor="local"') from None
    if not ray.is_initialized():
        variables = {name: value for name, value in os.environ.items() if name.startswith("KIT_")}
        variables |= {"KIT_PROGRESS": "off", "KIT_CACHE": str(cache_folder())}
        quiet = {"log_to_driver": False, "logging_level": "error"}
        if "RAY_ADDRESS" in os.environ:  # the other machines get a copy of the code
            ray.init(**quiet, runtime_env={"env_vars": variables, "working_dir": str(PROJECT), "excludes": _EXCLUDED})
        else:
            ray.init(**quiet, include_dashboard=False, runtime_env={"env_vars": variables})
    return ray


def _identity(out: Path) -> str:
    """A name of this very results folder: a worker that reads the same one at the same path shares it."""
    file = out / ".identity"
    if not file.is_file():
        write_atomic(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8")


def _collect(ray: Any, waiting: dict[Any, Task], data: BrainData, table: SweepTable) -> None:
    """Take in results as they come."""
    try:
        with progress(total=len(waiting), desc="sweep", unit="run") as bar:
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=1)
                for reference in ready:
                    _take(ray, reference, waiting.pop(reference), data)
                    bar.update()
                table.refresh()
    finally:
        for reference in waiting:  # interrupted: what has begun stops, and goes on next time
            ray.cancel(reference, force=True)


def _take(ray: Any, reference: Any, task: Task, data: BrainData) -> None:
    """Bring a run's files home, or record why there are none."""
    try:
        files = ray.get(reference)
    except ray.exceptions.RayError as error:
        record_failure(task, data, getattr(error, "cause", None) or error)
        note_place(task)
        return
    for name, content in files.items():
        write_atomic(task.folder.path / name, content)


def train_remotely(task: Task, root: str, out: Path, home: str) -> dict[str, bytes]:
    """What a worker does. Returns the files of the run's folder if they have to be brought home, otherwise none.

    Args:
        root: folder of the data.
        out: folder of results, as the driver names it.
        home: what ``.identity`` in it says if this is the driver's own folder.
    """
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():  # Ray sets it to the cores of the task; torch may be loaded
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = task.trial.config
    data = load_data(root, config.image_size, config.preprocessing)
    if out.is_dir() and _identity(out) == home:
        train_task(task, data, out)
        return {}
    away = Path(tempfile.gettempdir()) / f"kit-sweep-{home}"
    folder = RunFolder(away, task.folder.path.name)
    train_task(dataclasses.replace(task, folder=folder), data, away)
    return {file.name: file.read_bytes() for file in sorted(folder.path.iterdir())
            if file.is_file() and not file.name.startswith(".")}
