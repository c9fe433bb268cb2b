"""Building blocks shared by the networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.runtime import Recomputing
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


ACTIVATIONS = {
    act.__name__: act for act in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish)
}
NORMALISATIONS = ("batch", "instance", "group", "none")


def make_activation(name: str, inplace: bool = True) -> nn.Module:
    """The activation of that name, computed in place where torch allows it.

    Raises:
        KitError: the name is not a key of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise KitError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    return nn.GELU() if name == "GELU" else ACTIVATIONS[name](inplace=inplace)


def make_normalisation(name: str, channels: int) -> nn.Module:
    """The normalisation of that name, with a learned scale and shift per channel.

    Groups (Wu and He 2018, arXiv:1803.08494) have 16 channels, or the largest divisor of 16 that
    ``channels`` allows.

    Raises:
        KitError: the name is not one of ``NORMALISATIONS``.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if name == "group":
        return nn.GroupNorm(channels // math.gcd(channels, 16), channels)
    if name == "none":
        return nn.Identity()
    raise KitError(f"normalisation {name!r} is unknown; use one of {', '.join(NORMALISATIONS)}")


def concat(*features: Tensor) -> Tensor:
    """Join feature maps along the channels."""
    return features[0] if len(features) == 1 else torch.cat(features, dim=1)


class DoubleConv(Recomputing):
    """(3x3 convolution, normalisation, activation) twice: ``(N, in, H, W)`` -> ``(N, out, H, W)``.

    Args:
        in_channels, out_channels: of the features.
        activation: a key of ``ACTIVATIONS``.
        normalisation: one of ``NORMALISATIONS``.
        bias: of the convolutions. A normalisation by channel subtracts it again, so the baseline
            has none; the published U-Net++ and UNet 3+ have it all the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: str = "ReLU",
        normalisation: str = "batch",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)
        self.norm1 = make_normalisation(normalisation, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=bias)
        self.norm2 = make_normalisation(normalisation, out_channels)
        # without normalisation the activation would overwrite what a step has to start from again
        self.activation = make_activation(activation, inplace=normalisation != "none")

    def forward(self, *features: Tensor, join: Callable[..., Tensor] = concat) -> Tensor:
        """Features of a batch.

        Args:
            features: what ``join`` makes the input of; pooled or enlarged there, they need not be
            kept in that form.
            join: takes the features, gives ``(N, in, H, W)``.
        """
        x = self.step(lambda *inputs: self.conv1(join(*inputs)), *features)
        x = self.step(lambda x: self.conv2(self.activation(self.norm1(x))), x)
        return self.step(lambda x: self.activation(self.norm2(x)), x)


class UpConv(nn.ConvTranspose2d):
    """2x2 transposed convolution with stride 2, each pixel to four: ``(N, in, H, W)`` -> ``(N, out, 2 H, 2 W)``.

    Weights and results are those of torch's, only the gradient of the bias is computed here. On a
    CPU torch leaves it to a loop of oneDNN that takes twice as long as the rest of the backward
    pass.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarged features of a batch."""
        x = F.conv_transpose2d(x, self.weight, self.bias.detach(), self.stride)
        return _BiasGradient.apply(x, self.bias)


class _BiasGradient(torch.autograd.Function):
    """Features that hold a bias already, unchanged: it gets the sum of their gradients over all pixels."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.sum((0, 2, 3), dtype=torch.float32)


class Upsample(nn.Module):
    """Bilinear enlargement by a whole factor, as ``F.interpolate(..., align_corners=False)`` computes it.

    Written as one matrix product per axis: torch's own has no deterministic backward on CUDA, and
    its substitute under ``use_deterministic_algorithms`` keeps many times the memory. The weights
    are multiples of 1 / (2 factor), exact in bfloat16 for factors up to 16.

    Shapes:
        ``(N, C, H, W)`` -> ``(N, C, factor H, factor W)`` in channels_last.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Enlarged features of a batch."""
        n, c, h, w = x.shape
        rows = self._weights(h, x)
        columns = rows if h == w else self._weights(w, x)
        x = x.permute(0, 2, 3, 1).reshape(n, h, w * c)
        x = torch.bmm(rows.expand(n, -1, -1), x).view(n * len(rows), w, c)
        x = torch.bmm(columns.expand(len(x), -1, -1), x)
        return x.view(n, len(rows), len(columns), c).permute(0, 3, 1, 2)

    def _weights(self, size: int, like: Tensor) -> Tensor:
        """``(factor size, size)``: the share of each old pixel in each new one, whose centre lies between two."""
        old = torch.arange(size, device=like.device, dtype=torch.float32)
        new = torch.arange(0.5 / self.factor - 0.5, size - 0.5, 1 / self.factor, device=like.device)
        return (1 - (new.clamp(0, size - 1)[:, None] - old).abs()).clamp(min=0).to(like.dtype)


def require_divisible(x: Tensor, factor: int) -> None:
    """Raise ``KitError`` with the size to pad to unless height and width of ``(N, C, H, W)`` divide by ``factor``."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        up = [-(-edge // factor) * factor for edge in (height, width)]
        raise KitError(
            f"image of {height}x{width} pixels: this network halves it {factor.bit_length() - 1} times, "
            f"pad it to {up[0]}x{up[1]}"
        )
