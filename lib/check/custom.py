"""Check a custom network or loss on random images, within a second."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch
from torch import nn

from lib.config import Config
from lib.loss import build_loss
from lib.networks import build_model
from lib.runtime import seed_everything
from lib.runtime.own_code import load_custom
from lib.runtime.trial import SIZE, SLICES, Check, try_gradients, try_loss, try_network
from lib.utils import KitError


def check(spec: str) -> list[Check]:
    """Check a custom network or loss, given as ``"module:Class"``.

    Importing it runs that module's code. A class whose ``forward`` takes one argument is a
    network, any other a loss. The checks stop at one that fails if those after it could not be
    run. Torch's random state stays as it is.

    Raises:
        KitError: no such class, or its constructor needs an argument that the kit does not pass.
    """
    return list(checks_of(spec))


def checks_of(spec: str) -> Iterator[Check]:
    """Yield the checks of ``check``, each as it is done."""
    cls = load_custom(spec)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise KitError(
            f"{spec}: is no class derived from torch.nn.Module, as networks and losses are; "
            f"whatever else a field of Config names is tried as its run begins"
        )
    with torch.random.fork_rng(devices=[]):
        seed_everything(0)
        if len(_needed(cls)) > 1:
            yield from try_loss(build_loss(spec))
            return
        network, images = build_model(Config(model=spec)), torch.randn(SLICES, 3, SIZE, SIZE)
        passed = True
        for found in try_network(network, images):
            yield found
            passed &= found.passed
        if passed:
            yield from try_gradients(network)


def _needed(cls: type[nn.Module]) -> list[str]:
    """Return the arguments that ``forward`` needs, without ``self``."""
    _, *parameters = inspect.signature(cls.forward).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
