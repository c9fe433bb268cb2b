"""Train the runs of a sweep as Ray tasks: on all cores, all GPUs, or a cluster.

``pip install "ray>=2.40"`` first. With ``RAY_ADDRESS`` in the environment the runs go to that
cluster, with a copy of ``lib`` and of the modules of custom code; otherwise Ray starts on this
machine. Every machine needs the data at the same path. It prepares them once a sweep, unless
``KIT_CACHE`` names a folder that all can write to.

If the machines share the results folder, each run is trained once, and one that loses its machine
goes on elsewhere from its last checkpoint. If they do not, a run begins anew on its next machine,
and its folder is copied back when it has finished. Two drivers at once would then train it twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lib.data import cache_folder
from lib.dataset import BrainData, load_data
from lib.logger import RunFolder
from lib.sweep.table import SweepTable
from lib.sweep.task import RETRIES, Task, note_place, record_failure, require_same_code, train_task
from lib.utils import LIB, EditedError, KitError, in_notebook, progress, see, write_atomic

_IDENTITY = ".identity"


def run_on_ray(
    tasks: list[Task],
    data: BrainData,
    out: Path,
    table: SweepTable,
    gpus: float | None = None,
    cpus: float = 1,
    retries: int = RETRIES,
) -> None:
    """Train ``tasks`` as Ray tasks and wait for all of them.

    Args:
        out: absolute.
        gpus: of a run; 0.5 lets two runs share one. By default it is 1 if the cluster has any. A
            run sees its GPU as ``cuda``, whatever its number.
        cpus: cores of a run; torch uses as many threads. Other numbers of threads may round
            differently.
        retries: how often a run whose worker died begins again, each time from its last checkpoint.

    Raises:
        KitError: Ray is not installed or cannot be reached, or no machine of it has what a run asks
            for.
    """
    ray = _connect(tasks)
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0)) if gpus is None else gpus
    _check_resources(ray, CPU=cpus, GPU=gpus)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(train_remotely)
    root, home = str(data.root.absolute()), _identity(out)
    waiting = {}
    for task in tasks:
        if task.status == "finished":
            note_place(task, data)
        else:
            waiting[remote.remote(task, root, out, home)] = task
    _collect(ray, waiting, data, table)


def _connect(tasks: list[Task]) -> Any:
    """Return the ``ray`` module, connected to a cluster.

    It is that of ``RAY_ADDRESS``, or one that Ray starts here.
    """
    try:
        import ray
    except ImportError:
        raise KitError(
            'executor ray: Ray is not installed; pip install "ray>=2.40", or use executor="local"'
        ) from None
    if ray.is_initialized():  # by the user
        return ray
    variables = {name: value for name, value in os.environ.items() if name.startswith("KIT_")} | {
        "KIT_PROGRESS": "off"
    }
    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, Any]
    if address:
        _require_open(address)
        where = {"runtime_env": {"env_vars": variables, "py_modules": _modules(tasks)}}
    else:
        where = {
            "address": "local",  # not a cluster that somebody left running here
            "runtime_env": {"env_vars": variables | {"KIT_CACHE": str(cache_folder())}},
            "include_dashboard": False,
        }
    try:
        with _without_warnings():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if _is_about_token(error):
            raise KitError(
                f"Ray: {address} does not take the token of this user, or none was sent; set "
                f"RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what ray get-auth-token prints on the "
                f"head of the cluster; {see('researchers', 'Clusters')}"
            ) from None
        raise _no_connection(address, " ".join(str(error).split())[:200]) from None
    return ray


def _no_connection(address: str | None, reason: str) -> KitError:
    """Return the error of a cluster that cannot be reached."""
    return KitError(
        f"Ray: no connection to {address or 'a cluster of its own'} ({reason}); check RAY_ADDRESS, "
        f'or use executor="local"; {see("researchers", "Clusters")}'
    )


def _require_open(address: str) -> None:
    """Raise KitError if nothing listens at ``host:port``: Ray would try for minutes.

    Of other kinds of addresses (``auto``, ``ray://...``) nothing is asked.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_connection(address, f"nothing answers there: {error}") from None


def _is_about_token(error: BaseException | None) -> bool:
    """Return whether a cluster refuses a token; only the cause of Ray's error says so."""
    while error:
        if "AuthenticationError" in f"{type(error).__name__}: {error}":
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep what Ray's C++ says off the screen: it repeats each second why it cannot connect."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _modules(tasks: list[Task]) -> list[str]:
    """Return what is sent to the cluster: ``lib``, and the modules or packages of custom code."""
    specs = {spec for task in tasks for spec in task.trial.config.custom.values()}
    names = {spec.partition(":")[0].partition(".")[0] for spec in specs} - {LIB.name}
    places = [_place(sys.modules[name]) for name in sorted(names) if name in sys.modules]
    return [str(LIB), *(str(place) for place in places if place and not _is_installed(place))]


def _place(module: ModuleType) -> Path | None:
    """Return a package's folder or a module's file, or None if it has neither."""
    folders = [*getattr(module, "__path__", [])]
    place = folders[0] if folders else module.__file__
    return Path(place) if place else None


def _is_installed(place: Path) -> bool:
    """Return whether pip installed a module: the cluster has its own."""
    return any(name in place.parts for name in ("site-packages", "dist-packages"))


def _check_resources(ray: Any, **wanted: float) -> None:
    """Raise KitError if no single machine has what a run asks for.

    The run would wait for ever.
    """
    for name, amount in wanted.items():
        most = max(
            (node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0
        )
        if amount > most:
            raise KitError(
                f"Ray: a run asks for {amount:g} {name}, no machine of the cluster has more than "
                f"{most:g}; {see('researchers', 'Clusters')}"
            )


def _identity(out: Path) -> str:
    """Return a name of this very results folder.

    A worker that reads the same name at the same path shares the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(out / _IDENTITY, "x", encoding="utf-8") as file:
        file.write(uuid.uuid4().hex)
    return (out / _IDENTITY).read_text(encoding="utf-8")


def _collect(ray: Any, waiting: dict[Any, Task], data: BrainData, table: SweepTable) -> None:
    """Wait for the runs, and record each as it ends."""
    try:
        with progress(total=len(waiting), desc="sweep", unit="run", disable=in_notebook()) as bar:
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=1)
                for reference in ready:
                    _take(ray, reference, waiting.pop(reference), data)
                    bar.update()
                table.refresh()
    finally:
        for reference in waiting:  # after an interruption runs stop, and go on next time
            ray.cancel(reference, force=True)


def _take(ray: Any, reference: Any, task: Task, data: BrainData) -> None:
    """Copy a run's files back, or record why there are none."""
    try:
        files = ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, EditedError):  # of no run, but of the whole sweep
            raise cause from None
        note_place(task, data)
        record_failure(task, data, cause)
        return
    if files:
        with task.folder.lock():
            before = task.folder.read()
            for name, content in files.items():
                write_atomic(task.folder.path / name, content)
            task.folder.update(
                **{
                    name: before[name]
                    for name in ("plans", "places", "tables", "asked")
                    if name in before
                }
            )
        note_place(task, data)


def train_remotely(task: Task, root: str, out: Path, home: str) -> dict[str, bytes]:
    """Train a run in a worker.

    Args:
        root: folder of the data.
        out: folder of results, absolute, as the driver names it.
        home: the content of ``.identity`` in it, if this is the driver's own folder.

    Returns:
        The files of the run's folder, if they have to be copied back, otherwise none.
    """
    # Ray sets the variable to the cores of the task, but torch may have been loaded before
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        torch.set_num_threads(int(threads))
    config = task.trial.config
    data = load_data(root, config.image_size, config.preprocessing)
    require_same_code(task, data)
    identity = out / _IDENTITY
    if identity.is_file() and identity.read_text(encoding="utf-8") == home:
        train_task(task, data, out)
        return {}
    away = Path(tempfile.gettempdir()) / f"kit-sweep-{home}"
    folder = RunFolder(away, task.folder.path.name)
    train_task(dataclasses.replace(task, folder=folder), data, away)
    files = {
        file.name: file.read_bytes()
        for file in sorted(folder.path.iterdir())
        if file.is_file() and not file.name.startswith(".")
    }
    shutil.rmtree(folder.path, ignore_errors=True)
    return files
