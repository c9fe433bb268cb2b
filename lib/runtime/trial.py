"""Try a network or a loss on random images: does it keep to what training needs?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.runtime.cost import tensors_in
from lib.utils import KitError

SLICES, SIZE = 4, 64  # edge in pixels: a network may halve it six times


class Check(NamedTuple):
    """Hold the outcome of a check, and the remedy if it fails; ``str()`` puts it into a line."""

    name: str
    passed: bool
    remedy: str

    def __str__(self) -> str:
        return f"[OK] {self.name}" if self.passed else f"[FAIL] {self.name}: {self.remedy}"


def require(spec: str, checks: Iterator[Check]) -> None:
    """Raise ``KitError`` with the remedy of the first check that fails."""
    for check in checks:
        if not check.passed:
            raise KitError(f"{spec}: {check.remedy}; try it with python -m lib.check {spec}")


def try_output(network: nn.Module, images: Tensor) -> Iterator[Check]:
    """Yield checks of what a network gives; they stop at one that fails.

    Args:
        images: ``(N, C, H, W)``.
    """
    wanted = (len(images), 1, *images.shape[2:])
    with torch.no_grad():
        output = network.eval()(images)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    yield Check(
        "keeps the shape of the slices",
        shape == wanted,
        f"expected logits of shape {wanted} for images of shape {tuple(images.shape)}, got {shape}",
    )
    if shape != wanted:
        return
    yield Check(
        "gives finite numbers", bool(output.isfinite().all()), "a logit is infinite or not a number"
    )
    with torch.no_grad():
        far = network(100 * images)
    # a head that starts at 0 is constant
    bounded = bool((output != output.flatten()[0]).any()) and all(
        values.min() >= 0 and values.max() <= 1 for values in (output, far)
    )
    yield Check(
        "gives logits",
        not bounded,
        "all numbers are between 0 and 1: leave out the sigmoid, the losses apply it",
    )


def try_gradients(network: nn.Module, images: Tensor) -> Iterator[Check]:
    """Yield whether every parameter is trained; weights and statistics change."""
    outputs = tensors_in(network.train()(images))
    torch.stack([values.float().square().sum() for values in outputs]).sum().backward()
    idle = [
        name
        for name, weight in network.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    yield Check(
        "every parameter gets a gradient",
        not idle,
        f"{', '.join(idle[:3])} is used nowhere in forward",
    )


def try_loss(loss: nn.Module) -> Iterator[Check]:
    """Yield checks of a loss of logits and masks; they stop at one that fails."""
    learnt = [name for name, weight in loss.named_parameters() if weight.requires_grad]
    yield Check(
        "has no weights of its own",
        not learnt,
        f"{', '.join(learnt[:3])} would not be trained: make it a buffer, or a part of the network",
    )
    if learnt:
        return
    target = (torch.rand(SLICES, 1, SIZE, SIZE) < 0.1).float()
    for name, masks in (("", target), (" on slices without tumour", torch.zeros_like(target))):
        logits = torch.randn(target.shape, requires_grad=True)
        value = loss(logits, masks)
        scalar = isinstance(value, Tensor) and value.ndim == 0
        yield Check(
            f"is a scalar{name}",
            scalar,
            f"return one number for the batch, got {_described(value)}",
        )
        if not scalar:
            return
        yield Check(
            f"is finite{name}",
            bool(value.isfinite()),
            f"it is {value.item()}: keep divisors away from 0",
        )
        if not value.requires_grad:
            yield Check(
                f"has a gradient{name}",
                False,
                "nothing leads back to the logits: keep to torch's operations, "
                "without detach, item, thresholds or argmax",
            )
            return
        [gradient] = torch.autograd.grad(value, logits, allow_unused=True)
        useful = (
            gradient is not None
            and bool(gradient.isfinite().all())
            and bool(name or gradient.any())
        )
        yield Check(
            f"has a gradient{name}",
            useful,
            "that for the logits is missing, 0 everywhere, or not finite",
        )
    perfect, inverted = (
        float(loss(20 * (2 * masks - 1), target)) for masks in (target, 1 - target)
    )
    yield Check(
        "prefers a perfect mask",
        perfect < inverted,
        f"a perfect mask costs {perfect:.3g} and an inverted one {inverted:.3g}: training makes "
        f"the loss small, so turn its sign",
    )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
