"""Estimate what a sweep will cost before it starts: time, checkpoints, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib.config import MODELS, Config
from lib.dataset import BrainData
from lib.networks import Summary, build_model, summary
from lib.runtime.cost import tensors_in
from lib.runtime.device import prepare
from lib.sweep.table import duration


@dataclass(frozen=True)
class Cost:
    """Hold what a sweep will cost; ``str()`` puts it into one line.

    Attributes:
        runs: all of them.
        missing: those that are not finished.
        seconds: for what is missing, one run after the other on this device; a rough guess.
        disk_bytes: of the checkpoints of what is missing.
        memory_bytes: of the largest run.
    """

    runs: int
    missing: int
    seconds: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0

    def __str__(self) -> str:
        if not self.missing:
            return f"{self.runs} runs, all finished before"
        before = ""
        if self.missing < self.runs:
            before = f", {self.runs - self.missing} of them finished before"
        if not self.seconds:
            return f"{self.runs} runs{before}; their cost is not known beforehand"
        return (
            f"{self.runs} runs{before}; one after the other about {duration(self.seconds)} on this "
            f"device, {self.disk_bytes / 1e9:.2g} GB of checkpoints, up to "
            f"{self.memory_bytes / 1e9:.2g} GB of memory"
        )


def sweep_cost(runs: int, missing: Sequence[Config], data: BrainData) -> Cost:
    """Estimate the cost of training the unfinished ones of ``runs`` runs.

    Arithmetic and memory come from ``lib.networks.summary``, time from three training steps of the
    cheapest run, here and now. Custom networks cannot be traced without computing them; they count
    as that cheapest one.

    Args:
        missing: configs of the unfinished runs.
    """
    found = {config: _summary(config) for config in missing}
    summaries = {config: each for config, each in found.items() if each is not None}
    if not summaries:
        return Cost(runs, len(missing))
    cheapest = min(summaries, key=lambda config: summaries[config].gflops)
    try:
        seconds_per_gflop = _seconds_per_slice(cheapest) / summaries[cheapest].gflops
    except Exception:  # no such device, or no memory left on it: a guess must not stop a sweep
        return Cost(runs, len(missing))
    costs = [summaries.get(config, summaries[cheapest]) for config in missing]
    # all patients: to score a slice costs a third of training on it, which is close enough
    slices = len(data.slices(tuple(data.patients)))
    gflops = sum(
        config.epochs * slices * each.gflops for config, each in zip(missing, costs, strict=True)
    )
    return Cost(
        runs,
        len(missing),
        seconds=gflops * seconds_per_gflop,
        # float32: the weights twice, and Adam's two moments
        disk_bytes=sum(4 * 4 * each.parameters for each in costs),
        memory_bytes=max(each.peak_bytes for each in costs),
    )


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

    It is forward and backward of random images, the fastest of three.
    """
    with torch.random.fork_rng():
        model = build_model(config).train()
        images = torch.randn(
            min(config.batch_size, 8), config.in_channels, config.image_size, config.image_size
        )
    machine = prepare([model], config.device, config.precision)
    images, times = machine.to_device(images), []
    for _ in range(3):
        started = time.perf_counter()
        with machine.precision.autocast(machine.device):
            outputs = model(images)
        total = torch.stack([output.float().mean() for output in tensors_in(outputs)]).sum()
        total.backward()
        total.item()  # waits until the device has computed everything before
        times.append(time.perf_counter() - started)
    return min(times) / len(images)
