"""A process of its own for work on files of strangers: it may hang, run out of memory or die, and the rest goes on."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import psutil

from lib.runtime.device import resource
from lib.utils import KitError


class WorkerDied(RuntimeError):
    """Say that the work ended its process, or was stopped.

    Attributes:
        timed_out: it was stopped because it took too long.
    """

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Worker:
    """Calls one function in a child process, which is started once, and once more after each death.

    ``with Worker(prepare, root) as worker: worker.call(argument, seconds=60)``

    Args:
        prepare: called in the child; returns the function that does the work. Importable by name.
        arguments: of ``prepare``.
    """

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        self._start_with = prepare, arguments
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop(patience=5 if exc[0] is None else 0)

    def call(self, argument: Any, seconds: float) -> Any:
        """What the function returns for ``argument``; what takes longer than ``seconds`` is ended.

        Raises:
            WorkerDied: it took longer, or its process ended.
            KitError: ``prepare`` raised it.
        """
        if self._process is None:
            self._start()
        try:
            self._pipe.send(argument)
            if self._pipe.poll(seconds):
                return self._pipe.recv()
            died = WorkerDied(f"not done after {seconds:.0f} s", timed_out=True)
        except (EOFError, OSError):
            self._process.join(5)
            died = WorkerDied(f"its process ended (status {self._process.exitcode})")
        self._stop()
        raise died

    def _start(self) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # the same on every system; a forked CUDA does not work
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, *self._start_with), daemon=True
        )
        self._process.start()
        theirs.close()  # or the end of the child would not be noticed
        try:
            problem = self._pipe.recv()
        except EOFError:
            problem = "the process that grades cannot be started"
        if problem is not None:
            self._stop()
            raise KitError(problem)

    def _stop(self, patience: float = 0) -> None:
        """End the child: a closed pipe tells it to go, if there is time."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(patience)
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(
    pipe: Connection, prepare: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    """The child: answers calls until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends this one
    with suppress(EOFError, OSError):
        try:
            work = prepare(*arguments)
        except KitError as error:
            pipe.send(str(error))
            return
        pipe.send(None)
        while True:
            pipe.send(work(pipe.recv()))


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Within it this process may take ``size`` bytes more than it has; what asks for more gets a ``MemoryError``.

    On Linux only: elsewhere the system does not keep such a limit.
    """
    if resource is None or sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
