"""Initial weights of the convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from lib.utils import KitError


def _fans(conv: nn.Module) -> tuple[float, float]:
    """(inputs that reach an output, outputs that an input reaches) of a convolution or transposed convolution.

    torch's own count is wrong for transposed ones: it swaps the channels and forgets the stride.
    """
    area, stride = math.prod(conv.kernel_size), math.prod(conv.stride)
    into, out_of = (
        (area / stride, area) if isinstance(conv, nn.ConvTranspose2d) else (area, area / stride)
    )
    return conv.in_channels * into, conv.out_channels * out_of


def _xavier(conv: nn.Module) -> None:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / sum(_fans(conv))))


def _kaiming(conv: nn.Module) -> None:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / _fans(conv)[0]))


INITIALISERS: dict[str, Callable[[nn.Module], object]] = {
    "default": lambda conv: None,  # torch's, as published: kaiming_uniform with a = sqrt(5)
    "normal": lambda conv: nn.init.normal_(conv.weight, std=0.02),
    "xavier": _xavier,  # Glorot and Bengio 2010: std = sqrt(2 / (fan in + fan out))
    "kaiming": _kaiming,  # He et al. 2015 (arXiv:1502.01852): std = sqrt(2 / fan in), made for ReLU
    "orthogonal": lambda conv: nn.init.orthogonal_(
        conv.weight
    ),  # Saxe et al. 2014 (arXiv:1312.6120)
}


@torch.no_grad()
def initialise(network: nn.Module, name: str) -> None:
    """Draw the weights of all convolutions of a network anew from torch's random state and set their biases to 0.

    Normalisations start at scale 1 and shift 0 anyway. ``"default"`` leaves everything as it is.

    Raises:
        KitError: the name is not a key of ``INITIALISERS``.
    """
    if name not in INITIALISERS:
        raise KitError(f"initialiser {name!r} is unknown; use one of {', '.join(INITIALISERS)}")
    for conv in network.modules():
        if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and name != "default":
            INITIALISERS[name](conv)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
