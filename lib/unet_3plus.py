"""UNet 3+: every decoder level sees every scale.

Huang et al. 2020 (arXiv:2004.08790). Levels count from 0 (full resolution) to 4 (bottleneck, 1/16),
so that X_En^{i} and X_De^{i} of the paper, which counts from 1, are ``encoder[i - 1]`` and
``decoder[i - 1]`` here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.runtime import Recomputing, set_recompute
from lib.unet_init_weights import initialise
from lib.unet_layers import (
    EMPTY_LOGIT,
    DoubleConv,
    Guided,
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
            The published network has 64. It is also what each of the five branches of a decoder
            level gives, so that the level has five times as many channels: 64 and 320 as published,
            32 and 160 at 32 features.
        activation: a key of ``lib.unet_layers.ACTIVATIONS``.
        normalisation: one of ``lib.unet_layers.NORMALISATIONS``.
        initialiser: a key of ``lib.unet_init_weights.INITIALISERS``.
        checkpointing: keep less for backward and compute it again there; same results, less memory,
        more time.
        deep_supervision: a head on each decoder level and on the bottleneck, enlarged to the
        image's size.
        guided: classification-guided module, see ``Presence``. In train mode nothing is gated here:
            that is the loss's part, which knows the true class.

    Shapes:
        ``(N, in_channels, H, W)`` -> logits ``(N, 1, H, W)``; H and W divisible by 16. In train
        mode with deep supervision a list of five, finest first; guided, ``Guided(list, presence)``.
        In eval mode guided, slices whose presence is not positive hold ``EMPTY_LOGIT`` everywhere.
    """

    def __init__(
        self,
        in_channels: int = 3,
        init_features: int = 32,
        activation: str = "ReLU",
        normalisation: str = "batch",
        initialiser: str = "default",
        checkpointing: bool = False,
        deep_supervision: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        width, bottom = init_features, SCALES - 1
        encoded = [width * 2**level for level in range(SCALES)]
        decoded = [SCALES * width] * bottom + [
            encoded[bottom]
        ]  # the bottleneck is the lowest decoder level too
        style = {"activation": activation, "normalisation": normalisation}
        self.encoder = nn.ModuleList(
            DoubleConv(inputs, outputs, **style, bias=True)
            for inputs, outputs in zip([in_channels, *encoded], encoded, strict=False)
        )
        # level i takes the encoder's maps down to its own, and the decoder's from below
        self.decoder = nn.ModuleList(
            FullScale(i, encoded[: i + 1] + decoded[i + 1 :], width, **style) for i in range(bottom)
        )
        self.heads = nn.ModuleList(
            Head(channels, 2**i)
            for i, channels in enumerate(decoded if deep_supervision else decoded[:1])
        )
        self.presence = Presence(decoded[bottom]) if guided else None
        self.pool = nn.MaxPool2d(kernel_size=2)
        initialise(self, initialiser)
        set_recompute(self, checkpointing)

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | Guided:
        """Logits of a batch."""
        require_divisible(x, 2 ** (SCALES - 1))
        features = [self.encoder[0](x)]
        for block in self.encoder[1:]:
            features.append(block(features[-1], join=self.pool))
        presence = self.presence(features[-1]) if self.presence else None
        for i in reversed(range(SCALES - 1)):
            features[i] = self.decoder[i](
                features
            )  # from now on level i stands for its decoded features
        heads = self.heads if self.training else self.heads[:1]
        logits = [head(level) for head, level in zip(heads, features, strict=False)]
        if not self.training:
            return logits[0] if presence is None else self._gated(logits[0], presence)
        if presence is not None:
            return Guided(logits, presence)
        return logits if self.deep_supervision else logits[0]

    @staticmethod
    def _gated(logits: Tensor, presence: Tensor) -> Tensor:
        """The logits, with slices without tumour made empty; a presence that is not a number counts as none."""
        absent = ~(presence > 0)
        return logits.masked_fill(absent[:, None, None, None], EMPTY_LOGIT)


class FullScale(Recomputing):
    """One decoder level: a branch from every scale, joined and fused.

    The published code normalises and activates each branch before they are joined, here the joined
    ones: statistics are per channel (or per group of 16, which no branch shares when its width
    divides by 16), so the outcome is the same, and the branches need not be kept twice.

    Args:
        level: its own, 0 to 3.
        in_channels: of the five feature maps, level 0 first.
        width: channels that each branch gives.
    """

    def __init__(
        self, level: int, in_channels: list[int], width: int, activation: str, normalisation: str
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            Branch(channels, width, k - level) for k, channels in enumerate(in_channels)
        )
        fused = width * len(in_channels)
        self.norm1 = make_normalisation(normalisation, fused)
        self.conv = nn.Conv2d(fused, fused, kernel_size=3, padding=1)
        self.norm2 = make_normalisation(normalisation, fused)
        # without normalisation the activation would overwrite what a step has to start from again
        self.activation = make_activation(activation, inplace=normalisation != "none")

    def forward(self, features: list[Tensor]) -> Tensor:
        """Five feature maps -> ``(N, 5 width, H / 2^level, W / 2^level)``."""
        x = torch.cat(
            [branch(scale) for branch, scale in zip(self.branches, features, strict=True)], dim=1
        )
        x = self.step(lambda x: self.conv(self.activation(self.norm1(x))), x)
        return self.step(lambda x: self.activation(self.norm2(x)), x)


class Branch(Recomputing):
    """Resize a feature map to another level, then a 3x3 convolution.

    With checkpointing the resized features exist for a part of the batch at a time, one step each.
    The widest has 1,024 channels at full size, which for 16 slices of 256x256 in bfloat16 would be
    2 GiB, and its gradient as much.

    Args:
        levels_up: how many levels the result is above the source: 2 enlarges four times, -2 pools.
    """

    part_size = 2**26  # numbers that resized features may consist of: 128 MiB in bfloat16

    def __init__(self, in_channels: int, out_channels: int, levels_up: int) -> None:
        super().__init__()
        self.scale = 2.0**levels_up
        if levels_up > 0:
            self.resize: nn.Module | None = Upsample(2**levels_up)
        else:
            self.resize = nn.MaxPool2d(kernel_size=2**-levels_up) if levels_up else None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in, H, W)`` -> ``(N, out, 2^levels_up H, 2^levels_up W)``."""
        if self.resize is None:
            return self.conv(x)
        if not self.recompute:
            return self.conv(self.resize(x))
        parts = x.split(max(1, self.part_size // int(x[0].numel() * self.scale**2)))
        done = [self.step(lambda part: self.conv(self.resize(part)), part) for part in parts]
        return torch.cat(done) if len(done) > 1 else done[0]


class Head(nn.Module):
    """A 3x3 convolution to one channel, enlarged to the image's size: ``(N, C, H / f, W / f)`` -> ``(N, 1, H, W)``."""

    def __init__(self, in_channels: int, factor: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 1, kernel_size=3, padding=1)
        self.up = Upsample(factor) if factor > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        x = self.conv(x)
        return self.up(x) if self.up else x


class Presence(nn.Module):
    """Classification-guided module: does the slice hold tumour? Dropout, 1x1 convolution, global maximum.

    Published with two classes, of which the larger wins. Their difference is the logit of the
    softmax over both, so a binary cross-entropy on it is the cross-entropy of the two classes, and
    its sign is their argmax. The logit is what is returned and thus what can be trained; an argmax
    passes no gradient on.

    Shapes:
        bottleneck ``(N, C, h, w)`` -> ``(N,)``.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.conv = nn.Conv2d(in_channels, 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logit of presence."""
        absent, present = self.conv(self.dropout(x)).amax(dim=(2, 3)).unbind(dim=1)
        return present - absent
