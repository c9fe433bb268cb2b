"""Train the runs of a sweep side by side on a CPU, each in a worker process with one thread.

Small networks leave most of a second thread unused. As many runs at once as there are cores, each
with one thread, finish sooner than one after the other with all threads.

The workers are started by ``subprocess`` and run ``lib.sweep.worker``. They import nothing of the
script or notebook that started them: a script needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import torch

from lib.config import Config
from lib.data import cache_folder
from lib.dataset import BrainData
from lib.runtime import pick_device
from lib.runtime.device import device_name
from lib.runtime.limits import cores, free_host_memory
from lib.sweep.cost import sweep_work
from lib.sweep.table import SweepTable
from lib.sweep.task import RETRIES, Task, note_place, record_failure, train_task
from lib.utils import PROJECT, EditedError, KitError, in_notebook, progress

PROCESS_BYTES = 0.5e9  # of a worker that has imported torch, without the run
MEMORY_SHARE = 0.9  # of the available memory; the rest is for the convolution library
MIN_GFLOPS = 100  # of a sweep, some 8 s on two cores: twice as long as the workers need to start
_PERIOD = 0.5  # seconds between two looks at the runs
_PATIENCE = 5.0  # seconds that a worker has to end


# --- how many -------------------------------------------------------------------------------------


def pays(missing: Sequence[Config], slices: int, begun: bool = False) -> bool:
    """Return whether unfinished runs are trained sooner by several processes.

    There must be several cores, several runs on the CPU, memory for two of them, and enough work.

    Args:
        slices: of all patients.
        begun: a worker has begun one of them. It goes on in a worker in any case: with as many
            threads it ends with the same bytes.
    """
    if cores() == 1 or not all(map(_on_cpu, missing)):
        return False
    if begun:
        return True
    work = sweep_work(missing, slices)
    enough = work is None or sum(work.gflops) > MIN_GFLOPS
    return enough and default_workers(missing, slices) > 1


def _on_cpu(config: Config) -> bool:
    """Return whether a run is trained on the CPU."""
    try:
        return pick_device(config.device).type == "cpu"
    except KitError:  # no such device; the run says so
        return False


def begun_with_other_threads(task: Task) -> bool:
    """Return whether a run was begun with another number of threads than this process has."""
    return task.folder.read().get("device") not in (None, device_name(torch.device("cpu")))


def default_workers(missing: Sequence[Config], slices: int) -> int:
    """Return how many runs to train at once: one a core, fewer if memory is short."""
    work = sweep_work(missing, slices)
    each = PROCESS_BYTES + (work.memory_bytes if work else 0)
    fitting = int(MEMORY_SHARE * free_host_memory() / each)
    return max(1, min(cores(), len(missing), fitting))


# --- training -------------------------------------------------------------------------------------


def run_on_processes(
    tasks: Sequence[Task], data: BrainData, out: Path, table: SweepTable, workers: int
) -> None:
    """Train ``tasks`` in worker processes and wait for all of them.

    Those that another process trains come last: by then they may be finished. A run whose worker
    died goes on in another one from its last checkpoint, three times at most.

    Args:
        out: absolute.
        workers: how many workers, at most.

    Raises:
        EditedError: the code was edited while the sweep runs.
        KitError: no worker can start, or a run folder cannot be written.
    """
    waiting, deaths = list(tasks), Counter[Task]()
    with (
        _Workers(data, workers) as pool,
        progress(total=len(tasks), desc="sweep", unit="run", disable=in_notebook()) as bar,
    ):
        while waiting or pool.is_training():
            free = (task for task in waiting if not task.folder.busy())
            task = next(free, None) if pool.has_room() else None
            if task is not None:
                waiting.remove(task)
                if task.status == "finished":  # its place is noted
                    train_task(task, data, out)
                    bar.update()
                else:
                    pool.train(task)
            elif (end := pool.wait()) is not None:
                deaths[end.task] += end.death is not None
                if end.death is None or deaths[end.task] > RETRIES:
                    _record(end, data)
                    bar.update()
                else:
                    waiting.insert(0, end.task)
            table.refresh()


class _End(NamedTuple):
    """Hold the end of a worker's work on a run.

    Attributes:
        death: how the worker died; None if it has trained the run, or recorded why not.
    """

    task: Task
    death: str | None


def _record(end: _End, data: BrainData) -> None:
    """Record the failure of a run whose workers died."""
    if end.death is not None:
        note_place(end.task, data)
        reason = (
            f"its process died {RETRIES + 1} times ({end.death}); if memory is short, use fewer "
            f"workers"
        )
        record_failure(end.task, data, KitError(reason))


class _Workers:
    """Hold the workers of a sweep; on leaving the context none is left.

    Args:
        limit: how many, at most; each is started when there is a run for it.
    """

    def __init__(self, data: BrainData, limit: int) -> None:
        place = {"root": str(data.root.absolute())}
        size = {"image_size": data.image_size, "preprocessing": data.preprocessing}
        path = [entry for entry in sys.path if isinstance(entry, str)]
        self._setup = {"path": path, "data": place | size}
        self._limit = limit
        self._workers: list[_Worker] = []
        self._answers: SimpleQueue[tuple[_Worker, dict[str, str] | None]] = SimpleQueue()
        self._has_started = False  # any of them

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.end()

    def is_training(self) -> bool:
        """Return whether any worker trains."""
        return any(worker.task is not None for worker in self._workers)

    def has_room(self) -> bool:
        """Return whether a run can begin."""
        return len(self._workers) < self._limit or not all(
            worker.task is not None for worker in self._workers
        )

    def train(self, task: Task) -> None:
        """Let an idle worker, or a new one, train a run."""
        worker = next((worker for worker in self._workers if worker.task is None), None)
        if worker is None:
            worker = _Worker()
            self._workers.append(worker)
            worker.begin(self._setup, self._answers)
        worker.train(task)

    def wait(self) -> _End | None:
        """Wait until a run ends, for half a second at most.

        Raises:
            EditedError, KitError: a worker says that the sweep must stop; or the first one did not
                start.
        """
        try:
            worker, answer = self._answers.get(timeout=_PERIOD)
        except Empty:
            return None
        if answer is None:
            return self._remove(worker)
        if "edited" in answer:
            raise EditedError(answer["edited"])
        if "error" in answer:
            raise KitError(answer["error"])
        if "ready" in answer:
            self._has_started = True
            return None
        task, worker.task = worker.task, None
        return None if task is None else _End(task, None)

    def _remove(self, worker: _Worker) -> _End | None:
        """Remove a worker that died."""
        self._workers.remove(worker)
        death = worker.end()
        if not self._has_started:
            raise KitError(
                f"executor processes: a worker cannot start ({death}); use "
                f'executor="local" (--executor local)'
            )
        return None if worker.task is None else _End(worker.task, death)


class _Worker:
    """A worker process that trains one run after the other.

    Attributes:
        task: the run that it trains, if any.
    """

    def __init__(self) -> None:
        self.task: Task | None = None
        self._reader: threading.Thread | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in end
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lib.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(),
                encoding="utf-8",
                # a notebook on Windows would open a console for each
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._errors.close()
            raise KitError(
                f"executor processes: a worker cannot start ({error.strerror or error}); use "
                f'executor="local" (--executor local)'
            ) from error

    def begin(
        self, setup: dict[str, Any], answers: SimpleQueue[tuple[_Worker, dict[str, str] | None]]
    ) -> None:
        """Let it load the data.

        Args:
            setup: the search path of modules, and how to load the data.
            answers: gets (this, answer) for each answer, and (this, None) when there are no more.
        """
        self._reader = threading.Thread(target=self._receive, args=(answers,), daemon=True)
        self._reader.start()
        self._send(setup)

    def train(self, task: Task) -> None:
        """Let it train a run."""
        self.task = task
        self._send(task.to_json())

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message; if the worker is dead, its reader says so."""
        assert self._process.stdin is not None
        with suppress(OSError):
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def _receive(self, answers: SimpleQueue[tuple[_Worker, dict[str, str] | None]]) -> None:
        """Pass on its answers."""
        assert self._process.stdout is not None
        with self._process.stdout as lines, suppress(ValueError):  # half a line of a dead worker
            for line in lines:
                answers.put((self, json.loads(line)))
        answers.put((self, None))

    def terminate(self) -> None:
        """Ask it to end, and do not wait."""
        self._process.terminate()
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def end(self) -> str:
        """Wait for its end, or kill it; return how it ended, in words."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join(_PATIENCE)
        with self._errors as errors:
            size = errors.seek(0, os.SEEK_END)
            errors.seek(max(0, size - 10_000))
            last_lines = errors.read().decode(errors="replace").split("\n")
        written = [line.strip() for line in last_lines if line.strip()]
        return _how_it_ended(self._process.returncode, written[-1] if written else "")


def _environment() -> dict[str, str]:
    """Return the environment of a worker: it finds the kit and its cache, and has one thread."""
    search = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(search),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "KIT_PROGRESS": "off",
        "KIT_CACHE": str(cache_folder()),
    }


def _how_it_ended(status: int, last_words: str) -> str:
    """Return the exit status of a process in words, with the last line that it wrote."""
    how = f"status {status}" if status >= 0 else f"signal {-status}, {signal.strsignal(-status)}"
    return f"{how}: {last_words[:150]}" if last_words else how
