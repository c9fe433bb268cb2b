"""A training step as the kit computes it, and where its time goes."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from benchmarks.measure import Row, in_turns, seconds
from lib.config import Config
from lib.dataset import BrainData, Sampler, SliceDataset
from lib.loss import build_objective
from lib.networks import build_model, summary
from lib.optim import MovingAverage, build_optimizer
from lib.runtime import Machine, deterministic, pick_device, pick_precision, tune_allocator
from lib.runtime.device import memory_format
from lib.transform import Augmentation, Drawn

FULL_WIDTH = {
    "unet": Config(),
    "unet_2plus": Config(model="unet_2plus", init_features=64, deep_supervision=True),
    "unet_3plus": Config(model="unet_3plus", init_features=64, deep_supervision=True, guided=True),
}
"""The three networks as published."""


class Step:
    """Hold network, loss and optimiser of ``config``.

    Called with a batch, it learns from it as ``lib.train`` does.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device | None = None,
        precision: str = "auto",
        compiled: bool = False,
    ) -> None:
        self.config, self.device = config, device or pick_device()
        tune_allocator(self.device)
        self.machine = Machine(self.device, pick_precision(self.device, precision))
        torch.manual_seed(0)
        self.model = (
            build_model(config).to(self.device, memory_format=memory_format(self.device)).train()
        )
        self.forward: nn.Module = torch.compile(self.model) if compiled else self.model
        self.loss = build_objective(config).to(self.device)
        self.optimizer = build_optimizer(config, self.model.parameters())
        self.scaler = self.machine.precision.grad_scaler(self.device)
        self.average = MovingAverage(self.model, config.ema, 10_000) if config.ema else None

    def __call__(self, images: Tensor, masks: Tensor) -> None:
        """Learn from a batch."""
        self.backward(images, masks)
        self.update()

    def whole(self, images: Tensor, masks: Tensor) -> None:
        """Learn from a batch, and wait until it is done: for a clock."""
        self(images, masks)
        self.wait()

    def backward(self, images: Tensor, masks: Tensor) -> None:
        """Gradients of a batch ``(N, 3, H, W)``, ``(N, 1, H, W)`` on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            output = self.forward(self.machine.to_device(images))
        self.scaler.scale(self.loss(output, masks)).backward()

    def update(self) -> None:
        """Change the weights."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)

    def infer(self, images: Tensor) -> Tensor:
        """Logits, in eval mode."""
        self.forward.eval()
        with torch.inference_mode(), self._autocast():
            return self.forward(self.machine.to_device(images))

    def _autocast(self) -> AbstractContextManager:
        return self.machine.precision.autocast(self.device)

    def wait(self) -> None:
        """Until a GPU has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_batch(batch_size: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise with a tenth of tumour: the arithmetic does not care."""
    images = torch.randn(batch_size, 3, size, size, device=device)
    return images, (torch.rand(batch_size, 1, size, size, device=device) > 0.9).float()


PARTS = ("gathering", "augmentation", "network and loss", "optimiser")


def peak_gflops(device: torch.device, precision: str, edge: int = 2048) -> float:
    """GFLOP/s of a large matrix product in this number format: what the device reaches at best."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a = torch.randn(edge, edge, device=device).to(dtype)

    def product() -> None:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    product()
    return 2e-9 * edge**3 / min(seconds(product) for _ in range(10))


def shares(
    config: Config,
    data: BrainData,
    steps: int,
    device: torch.device | None = None,
    precision: str = "auto",
) -> Row:
    """Measure where a training step's time goes, as medians.

    And how near its arithmetic (three forward passes) comes to a large matrix product in the same
    number format.
    """
    step, slices = Step(config, device, precision), data.slices(tuple(data.patients))
    sampler = Sampler(slices, replace(config, sampling="fresh"))
    if step.device.type != "cpu":  # as training does
        slices.move_to(step.device)
    with deterministic():
        times = [_timed(step, config, slices, *sampler.draw(number)) for number in range(steps + 1)]
    median = np.median(times[1:], axis=0)
    percent = (100 * median / median.sum()).round(1).tolist()
    reached = 3 * config.batch_size * summary(config).gflops / median.sum()
    peak = peak_gflops(step.device, step.machine.precision.name)
    recipe = "best recipe" if config.intensity else "baseline"
    return {
        "step": f"{recipe}, {config.model} {config.init_features}, {config.batch_size} slices of "
        f"{config.image_size}",
        "precision": step.machine.precision.name,
        "ms": round(1e3 * float(median.sum()), 1),
        **{f"{name}, %": share for name, share in zip(PARTS, percent, strict=True)},
        "data path, %": round(percent[0] + percent[1], 1),
        "GFLOP/s": round(reached),
        "of a matrix product, %": round(100 * reached / peak),
    }


def _timed(
    step: Step, config: Config, slices: SliceDataset, indices: np.ndarray, drawn: Drawn
) -> np.ndarray:
    first = slice(config.batch_size)
    marks = [time.perf_counter()]

    def mark() -> None:
        step.wait()
        marks.append(time.perf_counter())

    images, masks = (part.to(step.device) for part in slices.batch(indices[first]))
    drawn = drawn.of(first).to(step.device)
    mark()
    batch = Augmentation(config).apply(images, masks, drawn)
    mark()
    step.backward(*batch)
    mark()
    step.update()
    mark()
    return np.diff(marks)


def compiled(config: Config, rounds: int, device: torch.device | None = None) -> Row:
    """Measure whether ``torch.compile`` pays for itself.

    Its time without a cache, what it saves a step, and after how many steps it is even.
    """
    plain, fast = Step(config, device), Step(config, device, compiled=True)
    batch = random_batch(config.batch_size, config.image_size, plain.device)
    try:
        with inductor.patch(force_disable_caches=True):
            start_up = seconds(lambda: fast.whole(*batch))
    except Exception as error:  # it needs a compiler, and may fail in many ways
        return {"left out": f"torch.compile fails here: {type(error).__name__}"}
    slow_step, fast_step = in_turns(
        lambda: plain.whole(*batch), lambda: fast.whole(*batch), rounds=rounds
    )
    saved = slow_step - fast_step
    even = round((start_up - fast_step) / saved) if saved > 0 else "never"
    return {
        "step": f"{config.model} {config.init_features}, {config.batch_size} slices of "
        f"{config.image_size}",
        "precision": plain.machine.precision.name,
        "compiling, s": round(start_up - fast_step, 1),
        "step, ms": round(1e3 * slow_step, 1),
        "compiled, ms": round(1e3 * fast_step, 1),
        "even after steps": even,
    }
