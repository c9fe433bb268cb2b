"""U-Net++: nested U-Nets that share one encoder.

Zhou et al. 2018 (arXiv:1807.10165) and 2020 (arXiv:1912.05074). The node X^{i,j} of the papers'
figure stands at level i, resolution 1 / 2^i, as the j-th from the left; column 0 is the encoder.
Here X^{1,2} is ``nodes["x12"]``.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from lib.runtime import set_recompute
from lib.unet_init_weights import initialise
from lib.unet_layers import DoubleConv, UpConv, Upsample, concat, require_divisible
from lib.utils import KitError

UPSAMPLINGS = ("bilinear", "transposed")


class UNet2Plus(nn.Module):
    """The nested network: X^{i,j} takes all earlier nodes of its level and the enlarged X^{i+1,j-1}.

    Args:
        in_channels: sequences per slice (pre-contrast, FLAIR, post-contrast).
        init_features: channels of level 0; they double at each level below.
        activation: a key of ``lib.unet_layers.ACTIVATIONS``.
        normalisation: one of ``lib.unet_layers.NORMALISATIONS``.
        initialiser: a key of ``lib.unet_init_weights.INITIALISERS``.
        checkpointing: keep less for backward and compute it again there; same results, less memory,
        more time.
        deep_supervision: a head on each of X^{0,1} ... X^{0,depth}, all of full resolution, and a
        loss on each.
        upsampling: bilinear (9.2 M parameters at 32 features), or transposed convolutions as in the
        authors' code.
        depth: L of the papers, 1 to 4: how often the encoder halves the image. L1 is a part of L2,
        and so on.

    Shapes:
        ``(N, in_channels, H, W)`` -> logits ``(N, 1, H, W)`` of X^{0,depth}; in train mode with
        deep supervision the list of all heads' logits, finest first: X^{0,depth} ... X^{0,1}. H and
        W divisible by 2^depth.

    Raises:
        KitError: an unknown name, or a depth that is not 1 to 4.
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
        upsampling: str = "bilinear",
        depth: int = 4,
    ) -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise KitError(
                f"upsampling {upsampling!r} is unknown; use one of {', '.join(UPSAMPLINGS)}"
            )
        _check_depth(depth, 4)
        self.depth, self.deep_supervision = depth, deep_supervision
        bilinear = upsampling == "bilinear"  # it keeps the channels of the level below
        f = [init_features * 2**i for i in range(depth + 1)]
        block = partial(DoubleConv, activation=activation, normalisation=normalisation, bias=True)
        self.nodes, self.ups = nn.ModuleDict(), nn.ModuleDict()
        for j in range(depth + 1):
            for i in range(depth + 1 - j):
                if j == 0:
                    self.nodes[f"x{i}{j}"] = block(f[i - 1] if i else in_channels, f[i])
                else:
                    self.ups[f"x{i}{j}"] = Upsample(2) if bilinear else UpConv(f[i + 1], f[i])
                    self.nodes[f"x{i}{j}"] = block(
                        j * f[i] + (f[i + 1] if bilinear else f[i]), f[i]
                    )
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.heads = nn.ModuleDict(
            {
                f"x0{j}": nn.Conv2d(f[0], 1, kernel_size=1)
                for j in range(1 if deep_supervision else depth, depth + 1)
            }
        )
        initialise(self, initialiser)
        set_recompute(self, checkpointing)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits of a batch."""
        require_divisible(image, 2**self.depth)
        x: dict[tuple[int, int], Tensor] = {}
        for j in range(self.depth + 1):
            for i in range(self.depth + 1 - j):
                node = self.nodes[f"x{i}{j}"]
                if (i, j) == (0, 0):
                    x[i, j] = node(image)
                elif j == 0:
                    x[i, j] = node(x[i - 1, 0], join=self.pool)
                else:
                    x[i, j] = node(
                        *(x[i, k] for k in range(j)),
                        x[i + 1, j - 1],
                        join=partial(self._join, self.ups[f"x{i}{j}"]),
                    )
        if self.training and self.deep_supervision:
            return [self.heads[f"x0{j}"](x[0, j]) for j in range(self.depth, 0, -1)]
        return self.heads[f"x0{self.depth}"](x[0, self.depth])

    @staticmethod
    def _join(up: nn.Module, *features: Tensor) -> Tensor:
        """The nodes of a level, and the one below enlarged by ``up``."""
        *same_level, below = features
        return concat(*same_level, up(below))

    def prune(self, level: int) -> UNet2Plus:
        """Make it the smaller network L1 ... L4, for faster inference: drop what X^{0,level} does not need.

        Returns:
            The network itself. It gives one output, in train mode too.

        Raises:
            KitError: there is no such level, or no head at it because it was built without deep
            supervision.
        """
        _check_depth(level, self.depth)
        if f"x0{level}" not in self.heads:
            raise KitError(
                f"pruning to L{level} needs a head that was trained there; train with deep_supervision=True"
            )
        for modules in (self.nodes, self.ups):
            for name in [name for name in modules if int(name[1]) + int(name[2]) > level]:
                del modules[name]
        for name in [name for name in self.heads if name != f"x0{level}"]:
            del self.heads[name]
        self.depth, self.deep_supervision = level, False
        return self


def _check_depth(level: int, deepest: int) -> None:
    if level not in range(1, deepest + 1):
        raise KitError(f"level {level!r} of U-Net++: there are 1 to {deepest}")
