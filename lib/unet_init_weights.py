"""Initial weights of the convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from lib.utils import LIB, KitError

Convolution = nn.Conv2d | nn.ConvTranspose2d


def _fans(conv: Convolution) -> tuple[float, float]:
    """Return how many inputs reach an output, and how many outputs an input reaches.

    The count of torch is wrong for transposed convolutions: it swaps the channels and ignores the
    stride.
    """
    area, stride = math.prod(conv.kernel_size), math.prod(conv.stride)
    if isinstance(conv, nn.ConvTranspose2d):
        return conv.in_channels * (area / stride), conv.out_channels * float(area)
    return conv.in_channels * float(area), conv.out_channels * (area / stride)


def _xavier(conv: Convolution) -> None:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / sum(_fans(conv))))


def _kaiming(conv: Convolution) -> None:
    nn.init.normal_(conv.weight, std=math.sqrt(2 / _fans(conv)[0]))


INITIALISERS: dict[str, Callable[[Convolution], object]] = {
    "default": lambda conv: None,  # torch's, as published: kaiming_uniform with a = sqrt(5)
    "normal": lambda conv: nn.init.normal_(conv.weight, std=0.02),
    "xavier": _xavier,  # Glorot and Bengio 2010: std = sqrt(2 / (fan in + fan out))
    "kaiming": _kaiming,  # He et al. 2015 (arXiv:1502.01852): std = sqrt(2 / fan in), made for ReLU
    # Saxe et al. 2014 (arXiv:1312.6120)
    "orthogonal": lambda conv: nn.init.orthogonal_(conv.weight),
}


@torch.no_grad()
def initialise(network: nn.Module, name: str) -> None:
    """Draw the weights of all convolutions of a network from torch's random state; set biases to 0.

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


@torch.no_grad()
def start_at(network: nn.Module, prior: float) -> None:
    """Let an untrained network see a share ``prior`` of tumour everywhere, in (0, 1).

    The bias of every convolution with one output channel becomes log(prior / (1 - prior)). At 0 the
    first prediction is one half, and where two pixels of a hundred are tumour a network spends its
    first epochs on leaving that. Source: Lin et al. 2017 (arXiv:1708.02002), section 4.1.

    Raises:
        KitError: no convolution has one output channel and a bias; or several of a network from
            outside the kit have: which of them give the output is not known.
    """
    biases = [
        conv.bias
        for conv in network.modules()
        if isinstance(conv, nn.Conv2d) and conv.out_channels == 1 and conv.bias is not None
    ]
    if not biases:
        raise KitError(
            f"{type(network).__name__}: prior sets the bias of a convolution with one output "
            f"channel, and it has none; set prior=0"
        )
    if len(biases) > 1 and type(network).__module__.partition(".")[0] != LIB.name:
        raise KitError(
            f"{type(network).__name__}: prior sets the bias of the output, and {len(biases)} "
            f"convolutions have one output channel; set prior=0, and the bias in its constructor"
        )
    for bias in biases:
        nn.init.constant_(bias, math.log(prior / (1 - prior)))
