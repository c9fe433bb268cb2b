"""UNet 3+: every decoder level sees every scale.

Huang et al. 2020 (arXiv:2004.08790). Levels count from 0 (full resolution) to 4 (bottleneck, 1/16),
so that X_En^{i} and X_De^{i} of the paper, which counts from 1, are ``encoder[i - 1]`` and
``decoder[i - 1]`` here.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.runtime import Recomputing
from lib.unet_layers import (
    EMPTY_LOGIT,
    DoubleConv,
    Down,
    Guided,
    Style,
    Upsample,
    make_activation,
    make_normalisation,
    require_divisible,
)

SCALES = 5


class UNet3Plus(nn.Module):
    """Encoder, and a decoder with full-scale skip connections.

    Args:
        in_channels: sequences per slice (pre-contrast, FLAIR, post-contrast).
        init_features: channels of the first level; they double at each of the four levels below.
            Each of the five branches of a decoder level has as many, so that the level has five
            times as many channels: 64 and 320 as published, 32 and 160 at 32 features.
        activation: a key of ``lib.unet_layers.ACTIVATIONS``.
        normalisation: one of ``lib.unet_layers.NORMALISATIONS``.
        deep_supervision: a head on each decoder level and on the bottleneck, enlarged to the
            size of the image.
        guided: classification-guided module, see ``Presence``. In train mode nothing is gated
            here: the loss does it, which knows the true class.

    Shapes:
        ``(N, in_channels, H, W)`` -> logits ``(N, 1, H, W)``; H and W divisible by 16. In train
        mode with deep supervision a list of five, finest first; guided, ``Guided(list, presence)``.
        In eval mode guided, the logits of a slice without tumour (its presence is not positive)
        are ``EMPTY_LOGIT`` everywhere.
    """

    def __init__(
        self,
        in_channels: int = 3,
        init_features: int = 32,
        activation: str = "ReLU",
        normalisation: str = "batch",
        deep_supervision: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        width, bottom = init_features, SCALES - 1
        encoded = [width * 2**level for level in range(SCALES)]
        # the bottleneck is the lowest decoder level too
        decoded = [SCALES * width] * bottom + [encoded[bottom]]
        style = Style(activation=activation, normalisation=normalisation)
        self.encoder = nn.ModuleList([DoubleConv(in_channels, width, **style, bias=True)])
        for above, below in pairwise(encoded):
            self.encoder.append(Down(above, below, **style, bias=True))
        # level i takes the encoder's maps down to its own, and the decoder's from below
        self.decoder = nn.ModuleList(
            FullScale(i, encoded[: i + 1] + decoded[i + 1 :], width, **style) for i in range(bottom)
        )
        supervised = decoded if deep_supervision else decoded[:1]
        self.heads = nn.ModuleList(Head(channels, 2**i) for i, channels in enumerate(supervised))
        self.presence = Presence(decoded[bottom]) if guided else None

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | Guided:
        """Return the logits of a batch."""
        require_divisible(x, 2 ** (SCALES - 1))
        features = []
        for block in self.encoder:
            x = block(x)
            features.append(x)
        presence = self.presence(x) if self.presence else None
        for i in reversed(range(SCALES - 1)):
            features[i] = self.decoder[i](*features)  # from now on the decoded features of level i
        heads = self.heads if self.training else self.heads[:1]
        logits = [head(level) for head, level in zip(heads, features, strict=False)]
        if not self.training:
            return logits[0] if presence is None else self._gated(logits[0], presence)
        if presence is not None:
            return Guided(logits, presence)
        return logits if self.deep_supervision else logits[0]

    @staticmethod
    def _gated(logits: Tensor, presence: Tensor) -> Tensor:
        """Return the logits, those of slices without tumour set to ``EMPTY_LOGIT``."""
        absent = ~(presence > 0)  # true for NaN too
        return logits.masked_fill(absent[:, None, None, None], EMPTY_LOGIT)


class FullScale(Recomputing):
    """One decoder level: a branch from every scale, joined and fused.

    Five feature maps -> ``(N, 5 width, H / 2^level, W / 2^level)``. The published code normalises
    and activates each branch before they are joined, this one the joined branches. Statistics are
    per channel, or per group of 16, which no branch shares if its width is a multiple of 16. So
    the outcome is the same.

    Args:
        level: its own, 0 to 3.
        in_channels: of the five feature maps, level 0 first.
        width: channels of each branch.
        activation: a key of ``lib.unet_layers.ACTIVATIONS``.
        normalisation: one of ``lib.unet_layers.NORMALISATIONS``.
    """

    def __init__(
        self, level: int, in_channels: list[int], width: int, activation: str, normalisation: str
    ) -> None:
        fused = width * len(in_channels)
        super().__init__(
            branches=Branches(
                Branch(channels, width, k - level) for k, channels in enumerate(in_channels)
            ),
            norm1=make_normalisation(normalisation, fused),
            act1=make_activation(activation),
            conv=nn.Conv2d(fused, fused, kernel_size=3, padding=1),
            norm2=make_normalisation(normalisation, fused),
            act2=make_activation(activation),
        )


class Branches(nn.ModuleList):
    """A branch for each scale; their outputs are joined along the channels."""

    def forward(self, *features: Tensor) -> Tensor:
        """Return ``(N, sum of the channels, H, W)`` for the feature maps of all scales."""
        resized = [branch(scale) for branch, scale in zip(self, features, strict=True)]
        return torch.cat(resized, dim=1)


class Branch(Recomputing):
    """Resize a feature map to another level, then apply a 3x3 convolution.

    ``(N, in, H, W)`` -> ``(N, out, 2^levels_up H, 2^levels_up W)``.

    Args:
        in_channels, out_channels: of the features.
        levels_up: how many levels the result is above the source: 2 enlarges four times, -2 pools.
    """

    def __init__(self, in_channels: int, out_channels: int, levels_up: int) -> None:
        if levels_up > 0:
            resize: nn.Module = Upsample(2**levels_up)
        elif levels_up < 0:
            resize = nn.MaxPool2d(kernel_size=2**-levels_up)
        else:
            resize = nn.Identity()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        super().__init__(resize=resize, conv=conv)


class Head(nn.Module):
    """Apply a 3x3 convolution to one channel, and enlarge the result to the size of the image.

    ``(N, C, H / factor, W / factor)`` -> ``(N, 1, H, W)``.
    """

    def __init__(self, in_channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1)
        self.up = Upsample(factor) if factor > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        x = self.conv(x)
        if self.up is not None:
            x = self.up(x)
        return x


class Presence(nn.Module):
    """Classify slices as with or without tumour: dropout, 1x1 convolution, global maximum.

    Published with two classes, of which the larger wins. Their difference is the logit of the
    softmax over both: a binary cross-entropy on it is the cross-entropy of the two classes, and
    its sign is their argmax. The logit is returned, as an argmax passes no gradient on.

    Shapes:
        bottleneck ``(N, C, h, w)`` -> ``(N,)``.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.conv = nn.Conv2d(in_channels, 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logit of presence."""
        classes: Tensor = self.conv(self.dropout(x)).amax(dim=(2, 3))
        absent, present = classes.unbind(dim=1)
        return present - absent
