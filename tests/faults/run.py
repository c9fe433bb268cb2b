"""Run many tries, two processes at a time, and count what became of them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from lib.utils import progress
from tests.faults.tries import BAD, LETTERS, OUTCOMES, Kind, all_kinds, quiet_environment

START = 120  # seconds that a process may take to start
Job = tuple[str, int]  # name of the kind, number of the try


@dataclass
class Tally:
    """Count what became of the tries, by kind."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)

    def add(self, job: Job, outcome: str, why: str, seconds: float) -> None:
        """Count a try, and keep the reason if it is a bad one."""
        name, number = job
        self.counts.setdefault(name, Counter())[outcome] += 1
        self.seconds[name] += seconds
        if outcome in BAD:
            self.troubles.append(f"{outcome}: {name} {number}: {why}")


class Worker:
    """A process that tries one job after the other; it is replaced if it hangs or dies."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.job: Job | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, self.scratch))
        self.process.start()
        theirs.close()
        self.since, self.until = time.monotonic(), time.monotonic() + START

    def give(self, job: Job, seconds: float) -> None:
        """Let the process try a job."""
        self.job, self.since = job, time.monotonic()
        self.until = self.since + seconds
        self.pipe.send(job)

    def take(self) -> tuple[str, str]:
        """Return what became of the job; a process that died is replaced."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            self.replace()
            return "traceback", f"the process ended with {code}"

    def replace(self) -> None:
        """End the process and all that it started, and start another."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """End the process and all that it started."""
        self.pipe.close()
        if self.job is None:  # it waits for one, and ends without
            self.process.join(5)
        try:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.join()


def _serve(pipe: Connection, scratch: Path) -> None:
    """Try jobs until the pipe is closed."""
    os.setsid()  # a group of its own, to be ended as a whole
    kinds = all_kinds()
    own = Path(tempfile.mkdtemp(dir=scratch))
    tempfile.tempdir = str(own / "tmp")
    (own / "tmp").mkdir()
    with quiet_environment(own):
        while True:
            try:
                name, number = pipe.recv()
            except EOFError:
                return
            pipe.send(kinds[name].attempt(number, own / "tries", own / "common"))


def jobs(kinds: Sequence[Kind], share: float) -> list[Job]:
    """Return the tries of each kind: that share of them, and one at least."""
    counts = {kind: max(1, round(kind.count * share)) for kind in kinds}
    # spread over all, as the number of a try may say what it tries; and in turns, so that an
    # interrupted run has tried some of everything
    return [
        (kind.name, turn * kind.count // count)
        for turn in range(max(counts.values(), default=0))
        for kind, count in counts.items()
        if turn < count
    ]


def run(kinds: Sequence[Kind], todo: Sequence[Job], processes: int = 2) -> Tally:
    """Try all jobs, a few at a time."""
    by_name = {kind.name: kind for kind in kinds}
    tally, queue = Tally(), iter(todo)
    scratch = Path(tempfile.mkdtemp(prefix="kit-faults-"))
    workers = [Worker(scratch) for _ in range(min(processes, len(todo)))]
    try:
        with progress(total=len(todo), desc="faults", unit="try") as bar:
            for worker in workers:
                _next(worker, queue, by_name)
            for outcome, why, worker in _answers(workers):
                job, seconds = worker.job, time.monotonic() - worker.since
                assert job is not None
                tally.add(job, outcome, why, seconds)
                if outcome in BAD:
                    print(tally.troubles[-1], file=sys.stderr, flush=True)
                _next(worker, queue, by_name)
                bar.update()
    finally:
        for worker in workers:
            worker.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    return tally


def _next(worker: Worker, queue: Iterator[Job], kinds: dict[str, Kind]) -> None:
    job = next(queue, None)
    if job is None:
        worker.job = None
    else:
        worker.give(job, kinds[job[0]].seconds + START)


def _answers(workers: list[Worker]) -> Iterator[tuple[str, str, Worker]]:
    """Yield what became of jobs, as they end."""
    while busy := [worker for worker in workers if worker.job is not None]:
        ready = wait(
            [worker.pipe for worker in busy],
            max(0.0, min(worker.until for worker in busy) - time.monotonic()),
        )
        for worker in busy:
            if worker.pipe in ready:
                yield *worker.take(), worker
            elif time.monotonic() > worker.until:
                job, limit = worker.job, worker.until - worker.since
                worker.replace()
                worker.job = job
                yield "hang", f"not done after {limit:.0f} s", worker


def table(kinds: Sequence[Kind], tally: Tally) -> list[dict[str, object]]:
    """Return a row for each kind that was tried."""
    return [
        {
            "letter": kind.letter,
            "kind": kind.name.replace("_", " "),
            "tried": sum(tally.counts[kind.name].values()),
            **{outcome: tally.counts[kind.name][outcome] for outcome in OUTCOMES},
        }
        for kind in kinds
        if kind.name in tally.counts
    ]


def by_letter(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return the sums of each letter, and of all."""
    columns = ("tried", *OUTCOMES)
    letters = [letter for letter in LETTERS if any(row["letter"] == letter for row in rows)]
    groups = {letter: [row for row in rows if row["letter"] == letter] for letter in letters}
    groups["all"] = list(rows)
    return [
        {"letter": letter, **{name: sum(int(str(row[name])) for row in group) for name in columns}}
        for letter, group in groups.items()
    ]


def show(rows: Sequence[dict[str, object]]) -> str:
    """Return rows in columns."""
    names = list(rows[0])
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < names.index("tried") else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
