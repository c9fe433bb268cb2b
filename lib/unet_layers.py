"""Building blocks shared by the networks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from lib.config import NORMALISATIONS
from lib.runtime import Recomputing
from lib.utils import KitError

EMPTY_LOGIT = -30.0
"""Logit of a pixel that is surely not tumour.

Its sigmoid is 1e-13, and it is finite in every number format.
"""


class Guided(NamedTuple):
    """Hold the output of a network with a classification-guided module, in train mode.

    Attributes:
        logits: of the masks, ``(N, 1, H, W)`` each, finest first.
        presence: logit of "this slice contains tumour", ``(N,)``.
    """

    logits: list[Tensor]
    presence: Tensor


ACTIVATIONS: dict[str, Any] = {
    act.__name__: act for act in (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish)
}


def make_activation(name: str) -> nn.Module:
    """Return the activation of that name, computed in place where torch allows it.

    Raises:
        KitError: the name is not a key of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise KitError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    if name == "GELU":
        return nn.GELU()
    activation: nn.Module = ACTIVATIONS[name](inplace=True)
    return activation


def make_normalisation(name: str, channels: int) -> nn.Module:
    """Return the normalisation of that name, with a learned scale and shift per channel.

    Groups (Wu and He 2018, arXiv:1803.08494) have 16 channels. If ``channels`` cannot be divided
    by 16, they have as many as its greatest common divisor with 16.

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


class Style(TypedDict):
    """Settings that all blocks of a network share, see ``DoubleConv``."""

    activation: str
    normalisation: str


class Concat(nn.Module):
    """Join feature maps of equal size along the channels."""

    def forward(self, *features: Tensor) -> Tensor:
        """Return ``(N, sum of the channels, H, W)``."""
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)


class DoubleConv(Recomputing):
    """Apply (3x3 convolution, normalisation, activation) twice, at the same size.

    ``entry`` makes one input of all features that the block is given, and the modules follow one
    after the other. Shapes: ``(N, in, H, W)`` in total -> ``(N, out, H, W)``.

    Args:
        in_channels, out_channels: of the features.
        activation: a key of ``ACTIVATIONS``.
        normalisation: one of ``NORMALISATIONS``.
        bias: of the convolutions. A normalisation by channel subtracts it again, so the baseline
            has none; the published U-Net++ and UNet 3+ have it all the same.
        entry: joins the features along their channels by default, as a skip connection needs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: str = "ReLU",
        normalisation: str = "batch",
        bias: bool = False,
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__(
            entry=entry or Concat(),
            conv1=nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias),
            norm1=make_normalisation(normalisation, out_channels),
            act1=make_activation(activation),
            conv2=nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=bias),
            norm2=make_normalisation(normalisation, out_channels),
            act2=make_activation(activation),
        )


class Down(DoubleConv):
    """Halve height and width by 2x2 max pooling, then apply ``DoubleConv``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: str = "ReLU",
        normalisation: str = "batch",
        bias: bool = False,
    ) -> None:
        pool = nn.MaxPool2d(kernel_size=2)
        super().__init__(in_channels, out_channels, activation, normalisation, bias, entry=pool)


class Upsample(nn.Module):
    """Enlarge features bilinearly by a whole factor.

    The result is that of ``F.interpolate(..., align_corners=False)``, computed as one matrix
    product per axis. The function of torch has no deterministic backward on CUDA. Its substitute
    under ``use_deterministic_algorithms`` keeps many times the memory. The weights are multiples
    of 1 / (2 factor), exact in bfloat16 for factors up to 16.

    Shapes:
        ``(N, C, H, W)`` -> ``(N, C, factor H, factor W)`` in channels_last.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the enlarged features of a batch."""
        n, c, h, w = x.shape
        rows = self._weights(h, x)
        columns = rows if h == w else self._weights(w, x)
        x = x.permute(0, 2, 3, 1).reshape(n, h, w * c)
        x = torch.bmm(rows.expand(n, -1, -1), x).view(n * len(rows), w, c)
        x = torch.bmm(columns.expand(len(x), -1, -1), x)
        return x.view(n, len(rows), len(columns), c).permute(0, 3, 1, 2)

    def _weights(self, size: int, like: Tensor) -> Tensor:
        """Return the share of each old pixel in each new one, ``(factor size, size)``."""
        old = torch.arange(size, device=like.device, dtype=torch.float32)
        new = torch.arange(0.5 / self.factor - 0.5, size - 0.5, 1 / self.factor, device=like.device)
        return (1 - (new.clamp(0, size - 1)[:, None] - old).abs()).clamp(min=0).to(like.dtype)


def require_divisible(x: Tensor, factor: int) -> None:
    """Check that height and width of ``(N, C, H, W)`` are multiples of ``factor``.

    Raises:
        KitError: they are not; the message names the size to pad to.
    """
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        up = [-(-edge // factor) * factor for edge in (height, width)]
        raise KitError(
            f"image of {height}x{width} pixels: this network halves it "
            f"{factor.bit_length() - 1} times, pad it to {up[0]}x{up[1]}"
        )
