"""U-Net++: nested U-Nets that share one encoder.

Zhou et al. 2018 (arXiv:1807.10165) and 2020 (arXiv:1912.05074). The node X^{i,j} of the papers'
figure is at level i, resolution 1 / 2^i, as the j-th from the left; column 0 is the encoder.
Here X^{1,2} is ``nodes["x12"]``.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from lib.unet_layers import Concat, DoubleConv, Down, Style, Upsample, require_divisible
from lib.utils import KitError

DEPTH = 4  # L of the papers: how often the encoder halves the image


class UNet2Plus(nn.Module):
    """The nested network: X^{i,j} takes all earlier nodes of its level and X^{i+1,j-1}, enlarged.

    It has 9.2 M parameters at 32 features. Features are enlarged bilinearly.

    Args:
        in_channels: sequences per slice (pre-contrast, FLAIR, post-contrast).
        init_features: channels of level 0; they double at each level below.
        activation: a key of ``lib.unet_layers.ACTIVATIONS``.
        normalisation: one of ``lib.unet_layers.NORMALISATIONS``.
        deep_supervision: a head on each of X^{0,1} ... X^{0,4}, all of full resolution, and a
            loss on each.

    Shapes:
        ``(N, in_channels, H, W)`` -> logits ``(N, 1, H, W)`` of X^{0,4}; H and W divisible by 16.
        In train mode with deep supervision the list of all heads' logits, finest first:
        X^{0,4} ... X^{0,1}.
    """

    def __init__(
        self,
        in_channels: int = 3,
        init_features: int = 32,
        activation: str = "ReLU",
        normalisation: str = "batch",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.deep_supervision = DEPTH, deep_supervision
        f = [init_features * 2**i for i in range(DEPTH + 1)]
        style = Style(activation=activation, normalisation=normalisation)
        double_conv = partial(DoubleConv, **style, bias=True)
        down = partial(Down, **style, bias=True)
        self.nodes = nn.ModuleDict({"x00": double_conv(in_channels, f[0])})
        for i in range(1, DEPTH + 1):
            self.nodes[f"x{i}0"] = down(f[i - 1], f[i])
        for j in range(1, DEPTH + 1):
            for i in range(DEPTH + 1 - j):
                self.nodes[f"x{i}{j}"] = double_conv(j * f[i] + f[i + 1], f[i], entry=JoinBelow())
        self.heads = nn.ModuleDict()
        for j in range(1 if deep_supervision else DEPTH, DEPTH + 1):
            self.heads[f"x0{j}"] = nn.Conv2d(f[0], 1, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Return the logits of a batch."""
        require_divisible(image, 2**self.depth)
        x: dict[tuple[int, int], Tensor] = {(0, 0): self.nodes["x00"](image)}
        for i in range(1, self.depth + 1):
            x[i, 0] = self.nodes[f"x{i}0"](x[i - 1, 0])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                same_level = [x[i, k] for k in range(j)]
                x[i, j] = self.nodes[f"x{i}{j}"](*same_level, x[i + 1, j - 1])
        if self.training and self.deep_supervision:
            return [self.heads[f"x0{j}"](x[0, j]) for j in range(self.depth, 0, -1)]
        finest: Tensor = self.heads[f"x0{self.depth}"](x[0, self.depth])
        return finest

    def prune(self, level: int) -> UNet2Plus:
        """Drop the nodes that X^{0,level} does not need, for faster inference.

        Returns:
            The network itself, now L1 ... L4 of the papers. It has one output, in train mode too.

        Raises:
            KitError: there is no such level, or no head at it because the network was built
                without deep supervision.
        """
        if level not in range(1, self.depth + 1):
            raise KitError(f"level {level!r} of U-Net++: there are 1 to {self.depth}")
        if f"x0{level}" not in self.heads:
            raise KitError(
                f"pruning to L{level} needs a head that was trained there; train with "
                f"deep_supervision=True"
            )
        for name in [name for name in self.nodes if int(name[1]) + int(name[2]) > level]:
            del self.nodes[name]
        for name in [name for name in self.heads if name != f"x0{level}"]:
            del self.heads[name]
        self.depth, self.deep_supervision = level, False
        return self


class JoinBelow(nn.Module):
    """Enlarge the last of several features, the one of the level below, and join all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.concat = Upsample(2), Concat()

    def forward(self, *features: Tensor) -> Tensor:
        """Return ``(N, sum of the channels, H, W)``."""
        *same_level, below = features
        joined: Tensor = self.concat(*same_level, self.up(below))
        return joined
