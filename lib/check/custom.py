"""Check a custom network or loss on random images, within a second."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lib.check.exercise import Check
from lib.config import Config
from lib.loss import build_loss
from lib.networks import build_model
from lib.runtime import load_class, seed_everything
from lib.runtime.cost import tensors_in

_SLICES, _SIZE = 4, 64  # edge in pixels: a network may halve it six times


def check(spec: str) -> list[Check]:
    """Check a custom network or loss, given as ``"module:Class"``.

    Importing it runs that module's code. A class whose ``forward`` takes one argument is a
    network, any other a loss. The checks stop at one that fails if those after it could not be
    run. Torch's random state stays as it is.

    Raises:
        KitError: no such class, or its constructor needs an argument that the kit does not pass.
    """
    cls = load_class(spec)
    with torch.random.fork_rng(devices=[]):
        seed_everything(0)
        if len(_needed(cls)) == 1:
            return list(_check_network(build_model(Config(model=spec))))
        return list(_check_loss(build_loss(spec)))


def _needed(cls: type[nn.Module]) -> list[str]:
    """Return the arguments that ``forward`` needs, without ``self``."""
    _, *parameters = inspect.signature(cls.forward).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def _check_network(network: nn.Module) -> Iterator[Check]:
    images = torch.randn(_SLICES, 3, _SIZE, _SIZE)
    wanted = (_SLICES, 1, _SIZE, _SIZE)
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
    bounded = all(values.min() >= 0 and values.max() <= 1 for values in (output, far))
    yield Check(
        "gives logits",
        not bounded,
        "all numbers are between 0 and 1: leave out the sigmoid, the losses apply it",
    )
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


def _check_loss(loss: nn.Module) -> Iterator[Check]:
    target = (torch.rand(_SLICES, 1, _SIZE, _SIZE) < 0.1).float()
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


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
