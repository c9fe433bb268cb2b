"""What a sweep will cost, said before it starts: time, checkpoints, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib.config import MODELS, Config
from lib.dataset import BrainData
from lib.networks import Summary, build_model, summary
from lib.runtime import Machine, pick_device, pick_precision
from lib.runtime.cost import tensors_in
from lib.runtime.device import memory_format
from lib.sweep.table import duration


@dataclass(frozen=True)
class Cost:
    """What a sweep will cost; ``str()`` puts it into one line.

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
        before = (
            f", {self.runs - self.missing} of them finished before"
            if self.missing < self.runs
            else ""
        )
        if not self.seconds:
            return f"{self.runs} runs{before}; what they cost is not known beforehand"
        return (
            f"{self.runs} runs{before}; one after the other about {duration(self.seconds)} on this device, "
            f"{self.disk_bytes / 1e9:.2g} GB of checkpoints, up to {self.memory_bytes / 1e9:.2g} GB of memory"
        )


def sweep_cost(runs: int, missing: Sequence[Config], data: BrainData) -> Cost:
    """What it costs to train ``missing``, the unfinished ones of ``runs`` runs.

    Arithmetic and memory by ``lib.networks.summary``; time by three training steps of the cheapest
    run, here and now. Networks of one's own, which cannot be followed without computing them, count
    as that cheapest one.
    """
    summaries = {config: _summary(config) for config in missing}
    known = [config for config, found in summaries.items() if found]
    if not known:
        return Cost(runs, len(missing))
    cheapest = min(known, key=lambda config: summaries[config].gflops)
    try:
        seconds_per_gflop = _seconds_per_slice(cheapest) / summaries[cheapest].gflops
    except Exception:  # no such device here, or no memory left on it: a guess must not stop a sweep
        return Cost(runs, len(missing))
    costs = [(config, summaries[config] or summaries[cheapest]) for config in missing]
    slices = len(
        data.slices(tuple(data.patients))
    )  # to score one costs a third of learning from it: close enough
    return Cost(
        runs,
        len(missing),
        seconds=sum(config.epochs * slices * each.gflops for config, each in costs)
        * seconds_per_gflop,
        disk_bytes=sum(
            4 * 4 * each.parameters for _, each in costs
        ),  # the weights twice, and Adam's two moments
        memory_bytes=max(each.peak_bytes for _, each in costs),
    )


def _summary(config: Config) -> Summary | None:
    if config.model not in MODELS:
        return None
    try:
        return summary(config, -(-config.batch_size // config.accumulate))
    except (
        Exception
    ):  # it rests on parts of torch that may change, and a guess must not stop a sweep
        return None


def _seconds_per_slice(config: Config) -> float:
    """Time of a training step on this device, a slice: forward and backward of random images, the fastest of three."""
    device = pick_device(config.device)
    machine = Machine(device, pick_precision(device, config.precision))
    with torch.random.fork_rng():
        model = build_model(config).to(device, memory_format=memory_format(device)).train()
        images = torch.randn(
            min(config.batch_size, 8), config.in_channels, config.image_size, config.image_size
        )
    images, times = machine.to_device(images), []
    for _ in range(3):
        started = time.perf_counter()
        with machine.precision.autocast(device):
            outputs = model(images)
        torch.stack([output.float().mean() for output in tensors_in(outputs)]).sum().backward()
        next(model.parameters()).grad.sum().item()  # waits for the device
        times.append(time.perf_counter() - started)
    return min(times) / len(images)
