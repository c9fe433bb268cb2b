"""Run untrusted work in a child process.

A hang, a crash or a memory error there does not stop the grader.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from lib.utils import KitError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class WorkerDied(RuntimeError):
    """Say that the work ended its process, or was stopped.

    Attributes:
        timed_out: it was stopped because it took too long.
    """

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class Worker:
    """Call one function in a child process.

    The process is started at the first call, and again after each death.

    ``with Worker(prepare, root) as worker: worker.call(argument, seconds=60)``

    Args:
        prepare: called in the child; returns the function that does the work. It can be imported by
            name.
        arguments: of ``prepare``.
    """

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        self._start_with = prepare, arguments
        self._child: tuple[BaseProcess, Connection] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop(patience=5 if exc[0] is None else 0)

    def call(self, argument: Any, seconds: float) -> Any:
        """Return what the function returns for ``argument``.

        Args:
            seconds: the work is stopped if it takes longer.

        Raises:
            WorkerDied: it took longer, or its process ended.
            KitError: ``prepare`` raised it.
        """
        process, pipe = self._child or self._start()
        try:
            pipe.send(argument)
            if pipe.poll(seconds):
                return pipe.recv()
            died = WorkerDied(f"not done after {seconds:.0f} s", timed_out=True)
        except (EOFError, OSError):
            process.join(5)
            died = WorkerDied(f"its process ended (status {process.exitcode})")
        self._stop()
        raise died

    def _start(self) -> tuple[BaseProcess, Connection]:
        """Start the child and wait until it is ready.

        Raises:
            KitError: it cannot start, or ``prepare`` raised it.
        """
        # the same on every system; a forked CUDA does not work
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._start_with), daemon=True)
        self._child = process, pipe
        process.start()
        theirs.close()  # else the end of the child would go unnoticed
        try:
            problem = pipe.recv()
        except EOFError:
            problem = "the process that grades cannot be started"
        if problem is not None:
            self._stop()
            raise KitError(problem)
        return self._child

    def _stop(self, patience: float = 0) -> None:
        """End the child: close its pipe, wait for ``patience`` seconds, then kill it."""
        if self._child is not None:
            process, pipe = self._child
            pipe.close()
            process.join(patience)
            process.kill()
            process.join()
            self._child = None


def _serve(
    pipe: Connection, prepare: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    """Answer calls in the child until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the signal and ends this one
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
    """Limit the memory that this process may take beyond what it has.

    A request for more raises ``MemoryError``. The limit works on Linux only: other systems do not
    keep it.

    Args:
        size: in bytes.
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
