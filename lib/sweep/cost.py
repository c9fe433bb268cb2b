"""Estimate what a sweep will cost before it starts: time, checkpoints, memory."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lib.config import MODELS, Config
from lib.networks import Summary, build_model, summary
from lib.runtime.cost import tensors_in
from lib.runtime.device import prepare
from lib.sweep.table import duration

LEAST_STEPS, MOST_STEPS, LEAST_SECONDS = 3, 50, 0.4  # that are timed


@dataclass(frozen=True)
class Cost:
    """Hold what a sweep will cost; ``str()`` puts it into one line.

    Attributes:
        runs: all of them.
        missing: those that are not finished.
        seconds: for what is missing, on this device; a rough guess.
        disk_bytes: of the checkpoints of what is missing.
        memory_bytes: of the largest run.
        at_once: runs that are trained at the same time.
    """

    runs: int
    missing: int
    seconds: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0
    at_once: int = 1

    def __str__(self) -> str:
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        if not self.missing:
            return f"{runs}, all finished before" if self.runs > 1 else f"{runs}, finished before"
        before = ""
        if self.missing < self.runs:
            before = f", {self.runs - self.missing} of them finished before"
        if not self.seconds:
            return f"{runs}{before}; their cost is not known beforehand"
        time_needed = f"about {duration(self.seconds)} on this device"
        if self.at_once > 1:
            time_needed += f", {self.at_once} at a time"
        elif self.missing > 1:
            time_needed = f"one after the other {time_needed}"
        return (
            f"{runs}{before}; {time_needed}, {self.disk_bytes / 1e9:.2g} GB of "
            f"checkpoints, up to {self.at_once * self.memory_bytes / 1e9:.2g} GB of memory"
        )


class Work(NamedTuple):
    """Hold the arithmetic, disk space and memory of runs, found without computing them.

    Attributes:
        gflops: of the forward passes of each run.
        disk_bytes: of all checkpoints.
        memory_bytes: of a training step of the largest run.
        cheapest: the run with the least arithmetic per slice.
        slice_gflops: of its forward pass of one slice.
    """

    gflops: list[float]
    disk_bytes: float
    memory_bytes: float
    cheapest: Config
    slice_gflops: float


def sweep_work(missing: Sequence[Config], slices: int) -> Work | None:
    """Return the work of unfinished runs, or None if it cannot be known.

    Arithmetic and memory come from ``lib.networks.summary``. Custom networks cannot be traced
    without computing them; they count as the cheapest run.

    Args:
        missing: configs of the unfinished runs.
        slices: of all patients: to score a slice costs a third of training on it, which is close
            enough.
    """
    found = {config: _summary(config) for config in missing}
    summaries = {config: each for config, each in found.items() if each is not None}
    if not summaries:
        return None
    cheapest = min(summaries, key=lambda config: summaries[config].gflops)
    costs = [summaries.get(config, summaries[cheapest]) for config in missing]
    return Work(
        gflops=[
            config.epochs * slices * each.gflops
            for config, each in zip(missing, costs, strict=True)
        ],
        # float32: the weights twice, and Adam's two moments
        disk_bytes=sum(4 * 4 * each.parameters for each in costs),
        memory_bytes=max(each.peak_bytes for each in costs),
        cheapest=cheapest,
        slice_gflops=summaries[cheapest].gflops,
    )


def sweep_cost(runs: int, missing: Sequence[Config], slices: int, at_once: int = 1) -> Cost:
    """Estimate the cost of training the unfinished ones of ``runs`` runs.

    Time comes from some training steps of the cheapest run, here and now.

    Args:
        missing: configs of the unfinished runs.
        slices: of all patients.
        at_once: runs that are trained at the same time, each with one thread.
    """
    work = sweep_work(missing, slices)
    if work is None:
        return Cost(runs, len(missing))
    try:
        with _threads(1 if at_once > 1 else torch.get_num_threads()):
            seconds_per_gflop = _seconds_per_slice(work.cheapest) / work.slice_gflops
    except Exception:  # no such device, or no memory left on it: a guess must not stop a sweep
        return Cost(runs, len(missing))
    return Cost(
        runs,
        len(missing),
        seconds=_side_by_side(work.gflops, at_once) * seconds_per_gflop,
        disk_bytes=work.disk_bytes,
        memory_bytes=work.memory_bytes,
        at_once=at_once,
    )


def _side_by_side(durations: Sequence[float], at_once: int) -> float:
    """Return when the last of some runs ends, if the next one begins wherever one ends."""
    ends = [0.0] * at_once
    for each in durations:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let torch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _summary(config: Config) -> Summary | None:
    """Return the summary of one of the kit's networks, or None."""
    if config.model not in MODELS:
        return None
    try:
        return summary(config, -(-config.batch_size // config.accumulate))
    except Exception:  # it uses parts of torch that may change; a guess must not stop a sweep
        return None


def _seconds_per_slice(config: Config) -> float:
    """Return the time of a training step on this device, for each slice.

    It is forward and backward of random images: the fastest of several, since while another program
    holds a core for a moment, threads that wait for each other take many times as long.
    """
    with torch.random.fork_rng():
        model = build_model(config).train()
        images = torch.randn(
            min(config.batch_size, 8), config.in_channels, config.image_size, config.image_size
        )
    machine = prepare([model], config.device, config.precision)
    images = machine.to_device(images)
    times: list[float] = []
    while len(times) < LEAST_STEPS or (sum(times) < LEAST_SECONDS and len(times) < MOST_STEPS):
        started = time.perf_counter()
        with machine.precision.autocast(machine.device):
            outputs = model(images)
        total = torch.stack([output.float().mean() for output in tensors_in(outputs)]).sum()
        total.backward()
        total.item()  # waits until the device has computed everything before
        times.append(time.perf_counter() - started)
    return min(times) / len(images)
