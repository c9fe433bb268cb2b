"""Building blocks shared by the networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.utils import KitError

EMPTY_LOGIT = -30.0
"""Logit of a pixel that is surely not tumour: its sigmoid is 1e-13, and it is finite in every number format."""


class Guided(NamedTuple):
    """What a network with a classification-guided module returns in train mode.

    Attributes:
        logits: of the masks, ``(N, 1, H, W)`` each, finest first.
        presence: logit of "this slice holds tumour", ``(N,)``.
    """

    logits: list[Tensor]
    presence: Tensor


ACTIVATIONS = {act.__name__: act for act in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish)}


def make_activation(name: str) -> nn.Module:
    """The activation of that name, computed in place where torch allows it.

    Raises:
        KitError: the name is not a key of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise KitError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    return nn.GELU() if name == "GELU" else ACTIVATIONS[name](inplace=True)


class DoubleConv(nn.Module):
    """(3x3 convolution, batch normalisation, activation) twice: ``(N, in, H, W)`` -> ``(N, out, H, W)``."""

    def __init__(self, in_channels: int, out_channels: int, activation: str = "ReLU") -> None:
        super().__init__()
        # no bias: the normalisation that follows subtracts the mean and would cancel it
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch."""
        x = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(x)))


def require_divisible(x: Tensor, factor: int) -> None:
    """Raise ``KitError`` with the size to pad to unless height and width of ``(N, C, H, W)`` divide by ``factor``."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        up = [-(-edge // factor) * factor for edge in (height, width)]
        raise KitError(f"image of {height}x{width} pixels: this network halves it {factor.bit_length() - 1} times, "
                         f"pad it to {up[0]}x{up[1]}")


def concat(*features: Tensor) -> Tensor:
    """Join feature maps along the channels."""
    return torch.cat(features, dim=1)
