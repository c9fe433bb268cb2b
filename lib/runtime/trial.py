"""Try a network or a loss on random images: does it keep to what training needs?"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn

from lib.runtime.cost import tensors_in
from lib.runtime.device import Machine, memory_format, pick_precision
from lib.runtime.memory import is_out_of_memory
from lib.utils import LIB, KitError

SLICES, SIZE = 4, 64  # edge in pixels: a network may halve it six times
# folders of code that only calls that of a user
OURS = {LIB / "runtime", LIB / "check", Path(importlib.__file__).parent}
P = ParamSpec("P")


class Check(NamedTuple):
    """Hold the outcome of a check, and the remedy if it fails; ``str()`` puts it into a line."""

    name: str
    passed: bool
    remedy: str
    error: BaseException | None = None  # that ended it

    def __str__(self) -> str:
        return f"[OK] {self.name}" if self.passed else f"[FAIL] {self.name}: {self.remedy}"


def require(spec: str, checks: Iterator[Check], advice: str = "") -> None:
    """Raise ``KitError`` with the remedy of the first check that fails.

    Args:
        advice: where to go on; by default to ``lib.check``, which knows networks and losses.
    """
    advice = advice or f"try it with python -m lib.check {spec}"
    for check in checks:
        if not check.passed:
            raise KitError(f"{spec}: {check.remedy}; {advice}") from check.error


def raised(error: BaseException) -> str:
    """Return what code of the user raised, and in which line of it."""
    text = " ".join(str(error).split())[:200]
    return f"it raised {type(error).__name__}: {text}{own_line(error)}"


def own_line(error: BaseException) -> str:
    """Return the innermost line of the user's code, e.g. " (line 3 of my_loss.py)", or ""."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py")
        and not OURS.intersection(Path(frame.filename).parents)
        and "site-packages" not in frame.filename
    ]
    return f" (line {own[-1].lineno} of {Path(own[-1].filename).name})" if own else ""


@contextmanager
def in_words(spec: str, passing: type[Exception] = KitError) -> Iterator[None]:
    """Raise ``KitError`` with one line for whatever custom code raises.

    Args:
        passing: errors that are left as they are.
    """
    try:
        yield
    except Exception as error:  # code of a user can be wrong in every way
        if isinstance(error, (KitError, passing)) or is_out_of_memory(error):
            raise
        raise KitError(f"{spec}: {raised(error)}") from error


def _ended_by_errors(checks: Callable[P, Iterator[Check]]) -> Callable[P, Iterator[Check]]:
    """Let checks end with one that fails where what they try raises an error."""

    @wraps(checks)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Iterator[Check]:
        try:
            yield from checks(*args, **kwargs)
        except (Exception, SystemExit) as error:  # code of a user can be wrong in every way
            if isinstance(error, KitError) or is_out_of_memory(error):
                raise
            yield Check("runs without an error", False, raised(error), error)

    return guarded


@_ended_by_errors
def try_network(
    network: nn.Module, images: Tensor, precision: str = "auto", outputs: bool = True
) -> Iterator[Check]:
    """Yield checks of a network; they stop at one that fails.

    It computes as in training on a CPU, in the same layout and number format, forward and backward.
    Weights stay; gradients and statistics change.

    Args:
        images: ``(N, C, H, W)``.
        precision: that of the recipe. A CPU has no fast fp16, and takes its own format instead.
        outputs: whether it may have several of them in training.
    """
    odd = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        yield Check(
            "keeps tensors alone",
            False,
            f"{', '.join(odd[:3])} in its state_dict is no tensor, and could not be kept: make it "
            f"a buffer",
        )
        return
    cpu = torch.device("cpu")
    machine = Machine(cpu, pick_precision(cpu, "auto" if precision == "fp16" else precision))
    network.to(memory_format=memory_format(cpu))  # type: ignore[call-overload]
    images = machine.to_device(images)
    wanted = (len(images), 1, *images.shape[2:])
    with torch.no_grad(), machine.precision.autocast(cpu):
        output, far = network.eval()(images), network(100 * images)
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
    # a head that starts at 0 is constant
    bounded = bool((output != output.flatten()[0]).any()) and all(
        values.min() >= 0 and values.max() <= 1 for values in (output, far)
    )
    yield Check(
        "gives logits",
        not bounded,
        "all numbers are between 0 and 1: leave out the sigmoid, the losses apply it",
    )
    with machine.precision.autocast(cpu):
        trained = network.train()(images)
    torch.stack([values.float().square().sum() for values in tensors_in(trained)]).sum().backward()
    if not outputs and not isinstance(trained, Tensor):
        yield Check(
            "has one output in training",
            False,
            f"its {type(trained).__name__} in training is for deep_supervision or guided: return "
            f"logits, or accept such an argument in the constructor and set it",
        )


def try_gradients(network: nn.Module) -> Iterator[Check]:
    """Yield whether every parameter has got a gradient from ``try_network``."""
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


@_ended_by_errors
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


@_ended_by_errors
def try_augmentation(augmentation: Any, images: Tensor) -> Iterator[Check]:
    """Yield checks of an augmentation: same shapes, finite numbers, masks from 0 to 1.

    Args:
        augmentation: see ``lib.transform.Augmentation``.
        images: ``(N, C, H, W)``.
    """
    masks = (torch.rand(len(images), 1, *images.shape[2:]) < 0.1).float()
    drawn = augmentation.draw(np.random.default_rng(0), len(images))
    result = augmentation.apply(images, masks, drawn)
    shapes = tuple(map(_described, result)) if isinstance(result, tuple) else _described(result)
    yield Check(
        "keeps the shapes",
        shapes == (_described(images), _described(masks)),
        f"apply must return images of shape {tuple(images.shape)} and masks of shape "
        f"{tuple(masks.shape)}, got {_listed(shapes)}",
    )
    if shapes == (_described(images), _described(masks)):
        yield Check(
            "gives finite numbers",
            all(bool(part.isfinite().all()) for part in result),
            "apply returned values that are infinite or not a number",
        )
        new = result[1]
        yield Check(
            "keeps masks between 0 and 1",
            bool(((new >= 0) & (new <= 1)).all()),
            f"apply returned masks from {new.min():g} to {new.max():g}, they must be from 0 to 1",
        )


def _listed(shapes: str | tuple[str, ...]) -> str:
    return shapes if isinstance(shapes, str) else " and ".join(shapes) or "nothing"


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
