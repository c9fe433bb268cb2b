"""Try the losses of the exercises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lib.check.exercise import compared, same, shown, unchanged, written
from lib.runtime.trial import Check

# two slices, the second without tumour: a mean over slices is another number than one of the batch
LOGITS = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]], [[[-1.5, 0.3], [-2.0, -4.0]]]])
TARGET = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
BATCH = (
    "sum over all pixels of all slices of the batch: on a slice without tumour any score is 0 / 0"
)
Formula = Callable[[Tensor, Tensor], Tensor]


def _dice(
    p: Tensor, t: Tensor, above: float = 1.0, below: float = 1.0, twice: float = 2.0
) -> Tensor:
    return (twice * (p * t).sum() + above) / (p.sum() + t.sum() + below)


def _tversky(p: Tensor, t: Tensor, fn: float = 0.7, fp: float = 0.3, smooth: float = 1.0) -> Tensor:
    tp = (p * t).sum()
    return (tp + smooth) / (tp + fn * (t.sum() - tp) + fp * (p.sum() - tp) + smooth)


def _of_inputs(loss: Formula) -> dict[str, Tensor]:
    """Return what mistakes in the inputs of a loss of probabilities give."""
    p = torch.sigmoid(LOGITS)
    return {
        "take the sigmoid of the logits first: the formula is about probabilities": loss(
            LOGITS, TARGET
        ),
        "take the sigmoid once: logits go in, and a second one squeezes all into 0.5 to 0.73": loss(
            torch.sigmoid(p), TARGET
        ),
        "take the probabilities as they are: a threshold has no gradient to learn from": loss(
            (p > 0.5).float(), TARGET
        ),
        BATCH: torch.stack([loss(*pair) for pair in zip(p, TARGET, strict=True)]).mean(),
        "logits come first, the ground truth second: yours takes them the other way round": loss(
            torch.sigmoid(TARGET), LOGITS
        ),
    }


def dice_loss(loss: Any) -> Iterator[Check]:
    """Try ``DiceLoss``."""
    p, t = torch.sigmoid(LOGITS), TARGET
    falls = "a loss falls as the overlap grows: take one minus the coefficient"
    mistakes = {
        falls: _dice(p, t),
        f"{falls} (yours is minus it: right to learn from, but not between 0 and 1)": -_dice(p, t),
        "count the overlap twice: both masks contain it": 1 - _dice(p, t, twice=1.0),
        "add 1 above and below the line: without tumour it would be 0 / 0": 1 - _dice(p, t, 0, 0),
        "add the 1 above the line, too: else a perfect mask costs something": 1 - _dice(p, t, 0),
        "add the 1 below the line, too: else the loss falls below 0": 1 - _dice(p, t, below=0.0),
        "divide by the sum of both masks: yours is the union, which makes it an IoU loss": 1
        - ((p * t).sum() + 1) / (p.sum() + t.sum() - (p * t).sum() + 1),
        "take sums, not means: beside a mean the 1 outweighs everything": 1
        - (2 * (p * t).mean() + 1) / (p.mean() + t.mean() + 1),
        **_of_inputs(lambda p, t: 1 - _dice(p, t)),
    }
    yield from _loss(loss, lambda p, t: 1 - _dice(p, t), mistakes)


def focal_tversky_loss(loss: Any) -> Iterator[Check]:
    """Try ``FocalTverskyLoss``."""
    p, t = torch.sigmoid(LOGITS), TARGET
    index = _tversky(p, t)
    mistakes = {
        "weigh false negatives by 0.7 and false positives by 0.3: missed tumour costs more": (
            1 - _tversky(p, t, 0.3, 0.7)
        )
        ** 0.75,
        "take the power 3/4, which is 1 / gamma: yours is gamma = 4/3 itself": (1 - index)
        ** (4 / 3),
        "take the power of 3/4: without it this is the Tversky loss": 1 - index,
        "take the power of one minus the index, not one minus the power": 1 - index**0.75,
        "a loss falls as the overlap grows: take one minus the index before the power": index**0.75,
        "add 1 above and below the line: without tumour it would be 0 / 0": (
            1 - _tversky(p, t, smooth=0.0)
        )
        ** 0.75,
        **_of_inputs(lambda p, t: (1 - _tversky(p, t)).clamp(min=0) ** 0.75),
    }
    yield from _loss(loss, lambda p, t: (1 - _tversky(p, t)) ** 0.75, mistakes)


def _loss(loss: Any, formula: Formula, mistakes: dict[str, Tensor]) -> Iterator[Check]:
    """Try a loss: its number on a small batch, its gradient, slices without tumour, its order."""
    module = loss()
    given = LOGITS.clone().requires_grad_()
    expected = formula(torch.sigmoid(given), TARGET)
    (expected_slope,) = torch.autograd.grad(expected, given)
    logits, target = LOGITS.clone().requires_grad_(), TARGET.clone()
    value = module(logits, target)
    yield written(value, "the loss of the batch")
    scalar = isinstance(value, Tensor) and value.ndim == 0
    of_slices = isinstance(value, Tensor) and value.numel() == len(LOGITS)
    yield Check(
        "is one number for the batch",
        scalar,
        f"you return {shown(value)}{f', one a slice; {BATCH}' if of_slices else ''}",
    )
    yield compared("has the right value", value, expected, mistakes, "see the formula")
    yield unchanged(TARGET, target)
    slope = None
    if value.requires_grad:  # true of a copy of the logits, too, which nothing leads back from
        (slope,) = torch.autograd.grad(value, logits, allow_unused=True)
    yield Check(
        "has a gradient",
        slope is not None and bool(slope.any()),
        "nothing leads back to the logits: keep to torch's operations, without detach, item, "
        "numpy or thresholds",
    )
    yield Check(
        "has the right gradient",
        same(slope, expected_slope),
        "a part of the formula leads back to the logits in another way than its value: leave out "
        "detach, no_grad and numpy",
    )
    nothing = module(torch.full_like(LOGITS, -30.0), torch.zeros_like(TARGET))
    yield Check(
        "is 0 where there is nothing to find and nothing was found",
        bool(nothing.abs() < 1e-3),
        f"it is {shown(nothing)}: most slices of a head have no tumour",
    )
    perfect, missed, inverted = (
        float(module(20 * (2 * answer - 1), TARGET))
        for answer in (TARGET, torch.zeros_like(TARGET), 1 - TARGET)
    )
    yield Check(
        "prefers a perfect mask to an empty one, and that to an inverted one",
        perfect < missed < inverted,
        f"they cost {perfect:.3f}, {missed:.3f} and {inverted:.3f}",
    )
