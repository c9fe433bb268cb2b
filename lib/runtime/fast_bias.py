"""A faster gradient for the bias of transposed convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def use_fast_bias_gradient(network: nn.Module) -> None:
    """Let the transposed convolutions of a network compute the gradient of their bias here.

    On a CPU torch leaves it to a loop of oneDNN that takes twice as long as the rest of the
    backward pass. Weights and outputs stay the same, and so do the names in the state dict.
    """
    for module in network.modules():
        if type(module) is nn.ConvTranspose2d and module.bias is not None:
            module.__class__ = ConvTranspose2d


class ConvTranspose2d(nn.ConvTranspose2d):
    """The transposed convolution of torch, with a faster gradient of the bias."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the enlarged features of a batch."""
        if output_size is not None or self.padding_mode != "zeros" or x.device.type != "cpu":
            return super().forward(x, output_size)
        bias, padding = self.bias, self.padding
        assert bias is not None and not isinstance(padding, str)
        x = F.conv_transpose2d(
            x,
            self.weight,
            bias.detach(),
            self.stride,
            padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )
        features: Tensor = _BiasGradient.apply(x, bias)
        return features


class _BiasGradient(torch.autograd.Function):
    """Pass on features that contain a bias; its gradient is the sum of theirs over all pixels.

    They are passed on as changed in place: autograd forbids to change a view, and whatever comes
    next may be an activation in place.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, bias: Tensor) -> Tensor:
        ctx.mark_dirty(features)
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        channels = gradient.ndim - 3  # of a batch, or of a single slice
        others = [each for each in range(gradient.ndim) if each != channels]
        return gradient, gradient.sum(others, dtype=torch.float32)
