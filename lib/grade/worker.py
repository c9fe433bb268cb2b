"""Run untrusted work in a child process.

A hang, a crash or a memory error there does not stop the grader.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from lib.grade.trouble import GraderError, in_one_line
from lib.utils import KitError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


MAX_ANSWER = 32 * 2**20
"""Bytes of an answer: the changes in ``lib`` of a large submission are a fifth of it."""


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

    The process gets ready while the caller does something else, and is started again after each
    death. Arguments and answers are sent as JSON: a pickle from a child that a submission has taken
    over could run code here.

    ``with Worker(prepare, root) as worker: worker.call(argument, seconds=60)``

    Args:
        prepare: called in the child; returns the function that does the work. It can be imported by
            name.
        arguments: of ``prepare``.
    """

    def __init__(self, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        self._start_with = prepare, arguments
        self._child: tuple[BaseProcess, Connection] | None = None
        self._ready = False

    def __enter__(self) -> Worker:
        self._start()
        return self

    def __exit__(self, *exc: object) -> None:
        # one that nobody has called may still get ready, and need not
        self._stop(patience=5 if exc[0] is None and self._ready else 0)

    def call(self, argument: Any, seconds: float) -> Any:
        """Return what the function returns for ``argument``; both are JSON values.

        Args:
            seconds: the work is stopped if it takes longer.

        Raises:
            WorkerDied: it took longer, its process ended, or its answer is none.
            GraderError: the child cannot start, or the function raised it.
        """
        process, pipe = self._child or self._start()
        self._wait_until_ready(pipe)
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        # also if the child sends half an answer
        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            pipe.send_bytes(json.dumps(argument).encode())
            value, trouble = _decoded(pipe.recv_bytes(MAX_ANSWER))
        except (EOFError, OSError, ValueError, RecursionError):
            timed_out = late.is_set()
            timer.cancel()
            process.join(1)  # it may be about to end
            if timed_out:
                reason = f"not done after {seconds:.0f} s"
            elif process.exitcode is None:
                reason = "its process gave an answer that is none"
            else:
                reason = f"its process ended (status {process.exitcode})"
            self._stop()
            raise WorkerDied(reason, timed_out) from None
        finally:
            timer.cancel()
        if late.is_set():  # killed, but only after it had answered
            self._stop()
        if trouble is not None:
            raise GraderError(trouble)
        return value

    def _start(self) -> tuple[BaseProcess, Connection]:
        """Start the child, and do not wait until it is ready.

        Raises:
            GraderError: it cannot start.
        """
        # the same on every system; a forked CUDA does not work
        context = multiprocessing.get_context("spawn")
        self._ready = False
        try:
            pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, *self._start_with), daemon=True)
            process.start()
        except OSError as error:
            raise _cannot_start(error) from error
        theirs.close()  # else the end of the child would go unnoticed
        self._child = process, pipe
        return self._child

    def _wait_until_ready(self, pipe: Connection) -> None:
        """Wait for the end of ``prepare`` in a child that was started.

        Raises:
            GraderError: the child died, or ``prepare`` raised an error.
        """
        if self._ready:
            return
        try:
            _, trouble = _decoded(pipe.recv_bytes(MAX_ANSWER))
        except (EOFError, OSError, ValueError) as error:
            self._stop()
            raise _cannot_start(error) from error
        if trouble is not None:
            self._stop()
            raise GraderError(trouble)
        self._ready = True

    def _stop(self, patience: float = 0) -> None:
        """End the child: close its pipe, wait for ``patience`` seconds, then kill it."""
        if self._child is not None:
            process, pipe = self._child
            pipe.close()
            process.join(patience)
            process.kill()
            process.join()
            self._child = None


def _cannot_start(error: Exception) -> GraderError:
    """Return the error of a child that does not start."""
    return GraderError(
        f"the process that grades cannot be started ({in_one_line(error, 100)}); see what is said "
        f"above, close other programs"
    )


def _decoded(answer: bytes) -> tuple[Any, str | None]:
    """Return the value in an answer of the child, and the trouble that it met, or None.

    Raises:
        ValueError: it is no answer.
    """
    content = json.loads(answer)
    if not isinstance(content, dict) or content.keys() not in ({"value"}, {"trouble"}):
        raise ValueError("has neither a value nor trouble")
    trouble = content.get("trouble")
    return content.get("value"), None if trouble is None else " ".join(str(trouble)[:500].split())


def _serve(
    pipe: Connection, prepare: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    """Answer calls in the child until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the signal and ends this one

    def answer(**content: Any) -> None:
        pipe.send_bytes(json.dumps(content).encode())

    try:
        work = prepare(*arguments)
    except (KitError, OSError) as error:
        answer(trouble=in_one_line(error))
        return
    with suppress(EOFError, OSError):
        answer(value=None)
        while True:
            argument = json.loads(pipe.recv_bytes())
            try:
                value = work(argument)
            except GraderError as error:
                answer(trouble=str(error))
            else:
                answer(value=value)


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Limit the memory that this process may take beyond what it has.

    A request for more raises ``MemoryError``. The limit works on Linux only: other systems do not
    keep it.

    Args:
        size: in bytes; a hard limit of the system (``ulimit -v``) below it stays.
    """
    if resource is None or sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit, most = psutil.Process().memory_info().vms + size, before[1]
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
