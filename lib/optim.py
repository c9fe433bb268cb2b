"""Optimisers, learning-rate schedules and the moving average of weights, chosen by ``Config``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from lib.config import Config
from lib.runtime import load_class, load_function
from lib.runtime.trial import in_words
from lib.utils import KitError, see

RANGE = 1e5  # of the learning rates of a range test, the largest by the smallest
HORIZON = 10  # an average of weights reaches back over one in so many steps of the run


def build_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser that ``config`` describes.

    Weight decay is an L2 penalty, except in AdamW, where it is decoupled. A custom class is made
    with the parameters, ``lr`` and ``weight_decay``.

    Raises:
        KitError: there is no such class, or it cannot be made so.
    """
    parameters = list(parameters)
    if name := config.custom.get("optimizer"):
        return _custom_optimizer(name, parameters, lr=config.lr, weight_decay=config.weight_decay)
    fused = parameters[0].device.type in ("cpu", "cuda")  # all weights by one kernel
    if config.optimizer == "SGD":
        return torch.optim.SGD(
            parameters,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=fused,
        )
    kind = torch.optim.AdamW if config.optimizer == "AdamW" else torch.optim.Adam
    return kind(parameters, config.lr, weight_decay=config.weight_decay, fused=fused)


def _custom_optimizer(
    name: str, parameters: list[nn.Parameter], **options: float
) -> torch.optim.Optimizer:
    """Return a custom optimiser. Raises KitError if it cannot be made, or be stepped as here."""
    custom: Any = load_class(name, torch.optim.Optimizer)
    advice = see("extending", "A sampler, an optimiser, a schedule")
    try:
        with in_words(name, passing=TypeError):
            made: torch.optim.Optimizer = custom(parameters, **options)
    except TypeError as error:
        raise KitError(
            f"{name}: is made with the parameters, lr and weight_decay ({error}); accept these; "
            f"{advice}"
        ) from None
    try:
        inspect.signature(custom.step).bind(made)
    except TypeError:
        raise KitError(
            f"{name}: its step needs a closure, and is called without one here; use one that takes "
            f"gradients as they are; {advice}"
        ) from None
    return made


def learning_rate(config: Config, epoch: int, val_losses: Sequence[float] = ()) -> float:
    """Return the learning rate during ``epoch``, counted from 0.

    It depends on nothing else, so a resumed run needs no state.

    ``none``: constant. ``linear``: from lr in the first to lr / 10 in the last epoch. ``cosine``:
    half a cosine towards 0 (Loshchilov and Hutter, arXiv:1608.03983). ``poly``: lr (1 - epoch /
    epochs) ** 0.9 (Chen et al., arXiv:1606.00915). ``step``: lr_factor every lr_step epochs.
    ``plateau``: lr_factor each time that the validation loss has not fallen for lr_step epochs.
    ``range``: from lr / 100,000 in the first to lr in the last epoch, by equal factors, to see
    which rates the training bears (Smith, arXiv:1506.01186); draw it with
    ``lib.plot.rate_range``.
    During the first ``warmup`` epochs the rate climbs to lr in equal steps. Below 1, ``warmup`` and
    ``lr_step`` are shares of the run, rounded, at least one epoch. A custom function is called with
    the share of the run that is done, in [0, 1), and the losses; it returns what lr is multiplied
    by.

    Args:
        val_losses: validation loss of each epoch before this one, for ``plateau``.

    Raises:
        KitError: there is no such function, or it returns no number of at least 0.
    """
    warmup = _in_epochs(config.warmup, config) if config.warmup else 0
    lr_step = _in_epochs(config.lr_step, config)
    done, whole = epoch - warmup, config.epochs - warmup
    if done < 0:
        return config.lr * (epoch + 1) / (warmup + 1)
    share = done / whole
    if name := config.custom.get("lr_scheduler"):
        factor = load_function(name)(share, list(val_losses[warmup:epoch]))
        if not isinstance(factor, Real) or not 0 <= float(factor) < math.inf:
            raise KitError(
                f"{name}: returned {factor!r} at {share:.2f} of the run; return a factor of the "
                f"learning rate, at least 0; "
                f"{see('extending', 'A sampler, an optimiser, a schedule')}"
            )
        return config.lr * float(factor)  # a number of NumPy could not be read back as data
    plateaus = _plateaus(val_losses[warmup:epoch], lr_step)
    factors: dict[str, float] = {
        "none": 1.0,
        "linear": 1 - 0.9 * done / max(whole - 1, 1),
        "cosine": (1 + math.cos(math.pi * share)) / 2,
        "poly": (1 - share) ** 0.9,
        "step": config.lr_factor ** (done // lr_step),
        "plateau": config.lr_factor**plateaus,
        "range": RANGE ** (done / max(whole - 1, 1) - 1),
    }
    return config.lr * factors[config.lr_scheduler]


def is_done(config: Config, val_dsc: Sequence[float]) -> bool:
    """Return whether a run has all its epochs, or stops early.

    It stops once its best epoch, the first of equals, is ``patience`` epochs ago. The best epoch
    loses nothing by the epochs that a longer run would not have improved; the last one is then
    chosen by the validation patients, too.

    Args:
        val_dsc: validation DSC of each epoch so far.
    """
    done = len(val_dsc)
    if done >= config.epochs or not (done and config.patience):
        return done >= config.epochs
    best = max(range(done), key=lambda epoch: val_dsc[epoch])
    return done - 1 - best >= config.patience


def _in_epochs(length: float, config: Config) -> int:
    """Return a length in whole epochs, at least 1; below 1 it is a share of the run."""
    return max(1, round(length if length >= 1 else length * config.epochs))


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """Return how often the loss has reached no new minimum for ``patience`` epochs in a row."""
    best, waited, found = math.inf, 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            waited, found = 0, found + 1
    return found


class MovingAverage:
    """Exponential moving average of a network's weights and buffers, Polyak and Juditsky 1992.

    After step t of T the average is a + (1 - d) (w - a) with d = min(decay, 1 - 10 / T, (1 + t) /
    (10 + t)). An average of decay d reaches back over 1 / (1 - d) steps: by the second limit over a
    tenth of the run, however long that is. By the third the decay is warmed up: otherwise the
    random initial weights dominate the average for hundreds of steps.

    Args:
        model: on its device already.
        decay: below 1. With 0 there is no average: ``weights`` are those of the model.
        run: T, the steps of the whole run.
    """

    def __init__(self, model: nn.Module, decay: float, run: int) -> None:
        self.decay = min(decay, max(0.0, 1 - HORIZON / run))
        self.steps, self._model, self._average = 0, model, dict[str, Tensor]()
        if self.decay:
            weights = model.state_dict()
            self._average = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """Return the weights and buffers that are scored and kept."""
        # asked for each time: a network may put another tensor in the place of a buffer
        return self._average if self.decay else self._model.state_dict()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimiser step."""
        if not self.decay:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages, new_weights = [], []
        for name, new in model.state_dict().items():
            if new.is_floating_point():
                averages.append(self._average[name])
                new_weights.append(new)
            else:  # a count of batches
                self._average[name].copy_(new)
        torch._foreach_lerp_(averages, new_weights, 1 - decay)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give the network the averaged weights for a while."""
        if not self.decay:
            yield
            return
        current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self._average)
        try:
            yield
        finally:
            model.load_state_dict(current)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` needs to go on."""
        return {"steps": self.steps, "weights": self._average} if self.decay else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``."""
        self.steps = state["steps"]
        for name, tensor in state["weights"].items():
            self._average[name].copy_(tensor)
